"""Convolutions and pools: windows that move over an image. Uneven padding is put on first; the rest is torch's."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.torch_ops.node import Node, Op, Run, Tensor
from eyas.torch_ops.pointwise import POINTWISE


class Windows:
    """A node's window along each spatial axis. begin, end: padding, `auto_pad` worked out; rest: of `ceil_mode`."""

    def __init__(self, n: Node, kernel: tuple[int, ...]) -> None:
        self.kernel, self.rank = kernel, len(kernel)
        self.sizes = n.shape()[2:]
        ones = [1] * self.rank
        self.stride = list(n.get("strides", ones))
        self.dilation = list(n.get("dilations", ones))
        self.span = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilation, strict=True)]
        pads = list(n.get("pads", [0] * 2 * self.rank))
        auto = n.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out = [-(-size // s) for size, s in zip(self.sizes, self.stride, strict=True)]
            rows = zip(out, self.stride, self.span, self.sizes, strict=True)
            whole = [max(0, (o - 1) * s + k - size) for o, s, k, size in rows]
            small, large = [w // 2 for w in whole], [w - w // 2 for w in whole]
            pads = small + large if auto == "SAME_UPPER" else large + small
        elif auto == "VALID":
            pads = [0] * 2 * self.rank
        self.begin, self.end = pads[: self.rank], pads[self.rank :]
        self.rest = [0] * self.rank
        if n.get("ceil_mode", 0):
            self.rest = [self._rest(i) for i in range(self.rank)]

    def _rest(self, i: int) -> int:
        """What a last window that begins within image or padding before it sticks out by."""
        length = self.sizes[i] + self.begin[i] + self.end[i]
        steps = -(-(length - self.span[i]) // self.stride[i])
        if steps * self.stride[i] >= self.sizes[i] + self.begin[i]:
            steps -= 1
        out: int = max(0, steps * self.stride[i] + self.span[i] - length)
        return out

    @property
    def even(self) -> bool:
        """Whether torch can pad by itself."""
        return self.begin == self.end and not any(self.rest)

    @property
    def flat(self) -> list[int]:
        """As torch.nn.functional.pad wants it."""
        rows = zip(self.begin, self.end, self.rest, strict=True)
        return [v for begin, end, rest in reversed(list(rows)) for v in (begin, end + rest)]

    def counts(self, include_pad: bool) -> NDArray[np.float32]:
        """How many elements each window's mean is over: of the image, or of image and padding; not what it rests on."""
        each = []
        for i in range(self.rank):
            before = 0 if include_pad else self.begin[i]
            length = self.sizes[i] + (self.begin[i] + self.end[i] if include_pad else 0)
            whole = self.sizes[i] + self.begin[i] + self.end[i] + self.rest[i]
            starts = np.arange(0, whole - self.span[i] + 1, self.stride[i])
            taps = starts[:, None] + np.arange(self.kernel[i]) * self.dilation[i] - before
            each.append(((taps >= 0) & (taps < length)).sum(axis=1))
        grid: NDArray[np.float32] = np.asarray(prod(np.ix_(*each)), np.float32)
        return grid


def conv(n: Node) -> Run:
    """Known weights are uploaded channels-last. What follows the products (bias, activation): see `Node`."""
    w = Windows(n, n.shape(1)[2:])
    f = getattr(n.F, f"conv{w.rank}d")
    if n.known(1) and w.rank == 2:
        n.layouts[1] = "channels_last"
    settings: dict[str, Any] = {"stride": w.stride, "dilation": w.dilation, "groups": n.get("group", 1)}
    settings["padding"] = w.begin if w.even else 0
    uneven = None if w.even else w.flat

    def products(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return f(x if uneven is None else n.F.pad(x, uneven), weight, bias, **settings)

    activation: Op | None = n.get("activation")
    finish = n.epilogue(activation) if w.rank == 2 and (n.known(2) or (activation and not n.has(2))) else None
    if finish is not None:
        if n.has(2):
            n.layouts[2] = "float32"
        return lambda x, weight, bias=None: finish(products(x, weight, None), bias)
    if activation is not None:
        act = POINTWISE[activation.kind](Node(n.torch, activation, n.opset, n.inputs[:1], inplace=True))
        return lambda x, weight, bias=None: act(products(x, weight, bias))
    return lambda x, weight, bias=None: products(x, weight, bias)


def conv_transpose(n: Node) -> Run:
    """Padding is what is cut off: even, by torch; else afterwards."""
    sizes, kernel = n.shape()[2:], n.shape(1)[2:]
    rank = len(kernel)
    ones, zeros = [1] * rank, [0] * rank
    stride, dilation = list(n.get("strides", ones)), list(n.get("dilations", ones))
    extra, pads = list(n.get("output_padding", zeros)), list(n.get("pads", zeros * 2))
    rows = zip(sizes, stride, kernel, dilation, extra, strict=True)
    full = [(size - 1) * s + (k - 1) * d + 1 + e for size, s, k, d, e in rows]
    auto, wanted = n.get("auto_pad", "NOTSET"), n.get("output_shape")
    if auto.startswith("SAME") and wanted is None:
        wanted = [size * s for size, s in zip(sizes, stride, strict=True)]
    if wanted is not None:
        whole = [max(0, have - want) for have, want in zip(full, wanted[-rank:], strict=True)]
        small, large = [w // 2 for w in whole], [w - w // 2 for w in whole]
        pads = small + large if auto == "SAME_UPPER" else large + small
    begin, end = pads[:rank], pads[rank:]
    f, settings = getattr(n.F, f"conv_transpose{rank}d"), {"stride": stride, "dilation": dilation}
    settings["groups"] = n.get("group", 1)
    if n.known(1) and rank == 2:
        n.layouts[1] = "channels_last"
    if begin == end:
        return lambda x, w, b=None: f(x, w, b, padding=begin, output_padding=extra, **settings)
    key = (..., *(slice(b, have - e) for b, e, have in zip(begin, end, full, strict=True)))
    return lambda x, w, b=None: f(x, w, b, output_padding=extra, **settings)[key]


def max_pool(n: Node) -> Run:
    """What is padded never wins."""
    if len(n.op.outputs) > 1 and n.op.outputs[1]:
        raise n.refuse("its second output")
    w = Windows(n, tuple(n.get("kernel_shape")))
    f = getattr(n.F, f"max_pool{w.rank}d")
    settings = {"stride": w.stride, "dilation": w.dilation}
    if w.even and all(2 * p <= k for p, k in zip(w.begin, w.kernel, strict=True)):
        return lambda x: f(x, w.kernel, padding=w.begin, **settings)
    dtype = n.inputs[0].dtype
    least = -float("inf") if dtype.is_floating_point else n.torch.iinfo(dtype).min
    return lambda x: f(n.F.pad(x, w.flat, value=least), w.kernel, **settings)


def average_pool(n: Node) -> Run:
    """The mean of what lies in the image, or, with `count_include_pad`, in its padding too."""
    w = Windows(n, tuple(n.get("kernel_shape")))
    include = bool(n.get("count_include_pad", 0))
    f, plain = getattr(n.F, f"avg_pool{w.rank}d"), all(d == 1 for d in w.dilation)
    if not plain:
        raise n.refuse(f"dilations {w.dilation}")
    if w.even and all(2 * p <= k for p, k in zip(w.begin, w.kernel, strict=True)):
        return lambda x: f(x, w.kernel, stride=w.stride, padding=w.begin, count_include_pad=include)
    at = n.attach(n.torch.from_numpy(prod(w.kernel) / w.counts(include)).to(n.inputs[0].dtype))
    return lambda *args: f(n.F.pad(args[0], w.flat), w.kernel, stride=w.stride) * args[at]


def over_image(name: str) -> Callable[[Node], Run]:
    """A reduction over all spatial axes, which stay with length one."""

    def bind(n: Node) -> Run:
        axes = tuple(range(2, len(n.shape())))
        f = getattr(n.torch, name)
        return lambda x: f(x, axes, keepdim=True)

    return bind


WINDOWS: dict[str, Callable[[Node], Run]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": over_image("mean"),
    "GlobalMaxPool": over_image("amax"),
}
