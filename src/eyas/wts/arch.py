"""YOLOv5's architecture as data: the rows of releases 6.0 to 7.0, five sizes, with three strides (P5) or four (P6).

Sources: the published model descriptions of YOLOv5 v6.0 to v7.0 (depth and width multiples, rows), whose numbers of
parameters the tests hold these rows against. A row is (from, number, module, args):

    from    the row whose output it reads: -1 the one before, others by index; several for Concat and Detect
    number  how often the module's inner block is repeated, times the depth multiple, rounded, at least once
    args    Conv: channels, kernel, stride · C3: channels, whether its blocks add their input · SPPF: channels, pool

Channels are times the width multiple, rounded up to a multiple of 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from eyas.errors import OptionError, problem

Row = tuple[int | tuple[int, ...], int, str, tuple[int, ...]]

_STEM: tuple[Row, ...] = (
    (-1, 1, "Conv", (64, 6, 2)),  # padded by 2, as k // 2 - 1
    (-1, 1, "Conv", (128, 3, 2)),
    (-1, 3, "C3", (128, 1)),
    (-1, 1, "Conv", (256, 3, 2)),
    (-1, 6, "C3", (256, 1)),
    (-1, 1, "Conv", (512, 3, 2)),
    (-1, 9, "C3", (512, 1)),
)
P5: tuple[Row, ...] = (
    *_STEM,
    (-1, 1, "Conv", (1024, 3, 2)),
    (-1, 3, "C3", (1024, 1)),
    (-1, 1, "SPPF", (1024, 5)),
    (-1, 1, "Conv", (512, 1, 1)),  # 10: from here down to stride 8 …
    (-1, 1, "Upsample", (2,)),
    ((-1, 6), 1, "Concat", ()),
    (-1, 3, "C3", (512, 0)),
    (-1, 1, "Conv", (256, 1, 1)),
    (-1, 1, "Upsample", (2,)),
    ((-1, 4), 1, "Concat", ()),
    (-1, 3, "C3", (256, 0)),
    (-1, 1, "Conv", (256, 3, 2)),  # 18: … and up again
    ((-1, 14), 1, "Concat", ()),
    (-1, 3, "C3", (512, 0)),
    (-1, 1, "Conv", (512, 3, 2)),
    ((-1, 10), 1, "Concat", ()),
    (-1, 3, "C3", (1024, 0)),
    ((17, 20, 23), 1, "Detect", ()),
)
P6: tuple[Row, ...] = (
    *_STEM,
    (-1, 1, "Conv", (768, 3, 2)),
    (-1, 3, "C3", (768, 1)),
    (-1, 1, "Conv", (1024, 3, 2)),
    (-1, 3, "C3", (1024, 1)),
    (-1, 1, "SPPF", (1024, 5)),
    (-1, 1, "Conv", (768, 1, 1)),  # 12
    (-1, 1, "Upsample", (2,)),
    ((-1, 8), 1, "Concat", ()),
    (-1, 3, "C3", (768, 0)),
    (-1, 1, "Conv", (512, 1, 1)),
    (-1, 1, "Upsample", (2,)),
    ((-1, 6), 1, "Concat", ()),
    (-1, 3, "C3", (512, 0)),
    (-1, 1, "Conv", (256, 1, 1)),
    (-1, 1, "Upsample", (2,)),
    ((-1, 4), 1, "Concat", ()),
    (-1, 3, "C3", (256, 0)),
    (-1, 1, "Conv", (256, 3, 2)),  # 24
    ((-1, 20), 1, "Concat", ()),
    (-1, 3, "C3", (512, 0)),
    (-1, 1, "Conv", (512, 3, 2)),
    ((-1, 16), 1, "Concat", ()),
    (-1, 3, "C3", (768, 0)),
    (-1, 1, "Conv", (768, 3, 2)),
    ((-1, 12), 1, "Concat", ()),
    (-1, 3, "C3", (1024, 0)),
    ((23, 26, 29, 32), 1, "Detect", ()),
)
ROWS: dict[tuple[int, ...], tuple[Row, ...]] = {(8, 16, 32): P5, (8, 16, 32, 64): P6}

# Size → depth and width multiple.
MULTIPLES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}


@dataclass(frozen=True, slots=True)
class Arch:
    """One network of the family. depth, width: the multiples gd and gw; strides: three (P5) or four (P6)."""

    name: str
    depth: float
    width: float
    strides: tuple[int, ...] = (8, 16, 32)
    rows: tuple[Row, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (0 < self.depth <= 4 and 0 < self.width <= 4):
            raise OptionError(
                problem(
                    "the multiples make no network",
                    got=f"depth (--gd) {self.depth}, width (--gw) {self.width}",
                    expected="each above 0 and up to 4, as in the model's .yaml: 0.33 and 0.5 make yolov5s",
                    remedy="",
                )
            )
        object.__setattr__(self, "rows", ROWS[self.strides])

    @property
    def head(self) -> int:
        """The index of the Detect row."""
        return len(self.rows) - 1

    def channels(self, published: int) -> int:
        """A row's channels at this width: a multiple of 8."""
        return math.ceil(published * self.width / 8) * 8

    def repeats(self, published: int) -> int:
        """A row's repeats at this depth; halves to the even number, as Python's `round` in the original does."""
        return max(round(published * self.depth), 1) if published > 1 else published

    def describe(self) -> str:
        """For messages: "yolov5s (--gd 0.33 --gw 0.5, strides 8 16 32)"."""
        strides = " ".join(map(str, self.strides))
        return f"{self.name} (--gd {self.depth:g} --gw {self.width:g}, strides {strides})"


ARCHES: dict[str, Arch] = {
    f"yolov5{size}{suffix}": Arch(f"yolov5{size}{suffix}", depth, width, strides)
    for suffix, strides in (("", (8, 16, 32)), ("6", (8, 16, 32, 64)))
    for size, (depth, width) in MULTIPLES.items()
}


def architecture(name: str, depth: float | None = None, width: float | None = None) -> Arch:
    """An architecture by name, of another depth (--gd) or width (--gw) where given. Raises OptionError.

    For custom multiples the name says the strides: any P5 name, or any P6 name (such as yolov5s6).
    """
    if name not in ARCHES:
        raise OptionError(
            problem("there is no such architecture", got=name, expected=" | ".join(ARCHES), remedy="Check --arch.")
        )
    found = ARCHES[name]
    depth, width = found.depth if depth is None else depth, found.width if width is None else width
    if (depth, width) == (found.depth, found.width):
        return found
    return Arch(f"custom {'P6' if len(found.strides) == 4 else 'P5'}", depth, width, found.strides)
