"""The architecture's rows, walked once: every tool that makes a network of them supplies `Ops` and does nothing else.

Modules (Ultralytics YOLOv5 v6.0 to v7.0, as published), with c the channels of the input:

    Conv        convolution padded by k // 2 (the first, of 6 × 6, by 2), then SiLU: x · σ(x)
    C3          cv3(concat(blocks(cv1(x)), cv2(x))), each of half the channels; a block is x + cv2(cv1(x)), 1 × 1 and
                3 × 3; in the neck without the "x +"
    SPPF        cv2(concat(y, p(y), p(p(y)), p(p(p(y))))) with y = cv1(x) of c / 2 channels, p the 5 × 5 maximum
    Detect      a 1 × 1 convolution a stride, to 3 anchors · (5 + classes) channels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eyas.errors import OptionError, problem
from eyas.wts.arch import Arch, Row

ANCHORS_A_CELL = 3


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution: its name in PyTorch ("model.0", "model.24.m.1"), its shape, and whether SiLU follows.

    Padded alike on all sides. Where `active`, PyTorch calls its weights NAME.conv.weight, else NAME.weight.
    """

    name: str
    inside: int
    outside: int
    kernel: int
    stride: int = 1
    active: bool = True

    @property
    def pad(self) -> int:
        """Half the kernel; the first convolution, whose kernel is even, one less."""
        return (self.kernel - 1) // 2

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the weights: [out, in, k, k]."""
        return self.outside, self.inside, self.kernel, self.kernel

    @property
    def stem(self) -> str:
        """What its weights' names begin with."""
        return f"{self.name}.conv" if self.active else self.name


class Ops(Protocol):
    """What a maker of networks must be able to do. Edges are whatever it likes; here all are [B, C, h, w]."""

    def conv(self, x: Any, conv: Conv) -> Any:
        """The convolution, and SiLU where it is active."""

    def add(self, a: Any, b: Any) -> Any:
        """a + b."""

    def concat(self, edges: Sequence[Any]) -> Any:
        """Joined over the channels."""

    def pool(self, x: Any, kernel: int) -> Any:
        """The maximum of kernel × kernel, stride 1, padded by kernel // 2."""

    def upsample(self, x: Any) -> Any:
        """Each pixel four times."""


def forward(ops: Ops, arch: Arch, classes: int, images: Any) -> list[Any]:
    """The raw maps [B, 3 · (5 + classes), H / s, W / s], one a stride s. images: the edge [B, 3, H, W]."""
    edges: list[Any] = []
    widths: list[int] = []
    for index, row in enumerate(arch.rows):
        sources = [index - 1 if s < 0 else s for s in ((row[0],) if isinstance(row[0], int) else row[0])]
        xs = [edges[s] if s >= 0 else images for s in sources]
        inside = [widths[s] if s >= 0 else 3 for s in sources]
        name = f"model.{index}"
        if row[2] == "Detect":
            outside = ANCHORS_A_CELL * (5 + classes)
            heads = [Conv(f"{name}.m.{i}", c, outside, 1, active=False) for i, c in enumerate(inside)]
            return [ops.conv(x, head) for x, head in zip(xs, heads, strict=True)]
        if row[2] == "Concat":
            edges.append(ops.concat(xs))
            widths.append(sum(inside))
        elif row[2] == "Upsample":
            edges.append(ops.upsample(xs[0]))
            widths.append(inside[0])
        else:
            widths.append(arch.channels(row[3][0]))
            edges.append(_module(ops, arch, row, xs[0], name, inside[0], widths[-1]))
    raise AssertionError("rows end with Detect")


def _module(ops: Ops, arch: Arch, row: Row, x: Any, name: str, inside: int, outside: int) -> Any:
    args = row[3]
    if row[2] == "Conv":
        return ops.conv(x, Conv(name, inside, outside, args[1], args[2]))
    if row[2] == "SPPF":
        levels = [ops.conv(x, Conv(f"{name}.cv1", inside, inside // 2, 1))]
        for _ in range(3):
            levels.append(ops.pool(levels[-1], args[1]))
        return ops.conv(ops.concat(levels), Conv(f"{name}.cv2", inside // 2 * 4, outside, 1))
    half = outside // 2
    y = ops.conv(x, Conv(f"{name}.cv1", inside, half, 1))
    for i in range(arch.repeats(row[1])):
        inner = ops.conv(y, Conv(f"{name}.m.{i}.cv1", half, half, 1))
        inner = ops.conv(inner, Conv(f"{name}.m.{i}.cv2", half, half, 3))
        y = ops.add(y, inner) if args[1] else inner
    side = ops.conv(x, Conv(f"{name}.cv2", inside, half, 1))
    return ops.conv(ops.concat([y, side]), Conv(f"{name}.cv3", 2 * half, outside, 1))


class _Recorder:
    """Ops that only write down the convolutions."""

    def __init__(self) -> None:
        self.seen: list[Conv] = []

    def conv(self, x: Any, conv: Conv) -> Any:
        self.seen.append(conv)

    def add(self, a: Any, b: Any) -> Any: ...

    def concat(self, edges: Sequence[Any]) -> Any: ...

    def pool(self, x: Any, kernel: int) -> Any: ...

    def upsample(self, x: Any) -> Any: ...


def convolutions(arch: Arch, classes: int) -> list[Conv]:
    """Every convolution, in the order in which the network runs."""
    recorder = _Recorder()
    forward(recorder, arch, classes, None)
    return recorder.seen


def check_size(arch: Arch, size: tuple[int, int]) -> None:
    """Raise OptionError unless height and width are multiples of the largest stride."""
    step = max(arch.strides)
    if min(size) < 1 or size[0] % step or size[1] % step:
        raise OptionError(
            problem(
                f"the input size does not suit {arch.name}",
                got=f"{size[0]} × {size[1]} (height × width)",
                expected=f"multiples of {step}",
                remedy="1280 is usual for P6, 640 for P5 (--imgsz).",
            )
        )
