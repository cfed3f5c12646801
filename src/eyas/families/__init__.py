"""What a family module defines. One file each; `eyas.registry` finds them; an example is `yolov8.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from eyas import registry
from eyas.errors import CardError, problem
from eyas.graph.builder import Builder
from eyas.graph.head import Cells
from eyas.graph.network import Facts
from eyas.graph.vector import Scores, Vector
from eyas.types import ModelCard, Normalise, Resize, Task

RGB_UNIT = Normalise("rgb", scale=(1 / 255, 1 / 255, 1 / 255))  # what most of the YOLOs and DETR's heirs want
# ImageNet's mean and deviation, as torchvision's models have it: .485 .456 .406 and .229 .224 .225 of 0…1.
IMAGENET = Normalise("rgb", (123.675, 116.28, 103.53), (1 / 58.395, 1 / 57.12, 1 / 57.375))


@dataclass(frozen=True, slots=True)
class Guess:
    """What a family takes a network for: the parts of a card that it alone can know.

    classes: how many the outputs have; None where they do not tell (then as many as there are names, or COCO's 80).
    iou: the family's usual NMS threshold. task, crop: see `eyas.types.ModelCard`. names: where the family knows them.
    """

    classes: int | None
    normalise: Normalise
    resize: Resize = "letterbox"
    pad_value: int = 114
    iou: float = 0.7
    params: Mapping[str, Any] = field(default_factory=dict)
    task: Task = "detect"
    crop: float = 1.0
    names: tuple[str, ...] | None = None


class Family(Protocol):
    """A module with these functions."""

    def recognise(self, facts: Facts) -> list[Guess]:
        """What this network could be if it were of this family; empty where its shapes rule that out."""

    def decode(self, g: Builder, card: ModelCard, facts: Facts) -> Cells | Scores | Vector:
        """Append what turns the network's outputs (edges named as in `facts.outputs`) into scored cells, into one score
        a class, or into one vector."""


def family(name: str) -> Family:
    """One family by name. Raises OptionError if unknown."""
    return cast(Family, registry.get("families", name))


def cells_at(size: tuple[int, int], strides: tuple[int, ...]) -> int:
    """How many cells the grids of these strides have for an input (height, width)."""
    return sum(-(-size[0] // s) * -(-size[1] // s) for s in strides)


def grid(size: tuple[int, int], strides: tuple[int, ...], shift: float) -> tuple[NDArray[np.float32], ...]:
    """Cell positions, finest grid first, row by row: (i + shift) · stride as x, y float32 [N, 2], and stride [N, 1]."""
    points, steps = [], []
    for s in strides:
        ys, xs = np.mgrid[: -(-size[0] // s), : -(-size[1] // s)]
        points.append((np.stack([xs.ravel(), ys.ravel()], 1) + shift) * s)
        steps.append(np.full((xs.size, 1), s))
    return np.concatenate(points).astype(np.float32), np.concatenate(steps).astype(np.float32)


def on_grid(facts: Facts, count: int | str) -> bool:
    """Whether `count` is how many rows a usual grid has: strides 8 to 32 or 64, one or three rows a cell."""
    cells = [cells_at(facts.size, strides) for strides in ((8, 16, 32), (8, 16, 32, 64))]
    return count in {rows * n for rows in (1, 3) for n in cells}


def corners(g: Builder, box: str) -> str:
    """Boxes [B, K, 4] as x1 y1 x2 y2 from centre x, centre y, width, height: centre ∓ extent / 2."""
    centre, half = g.slice(box, 0, 2, 2), g.op("Mul", g.slice(box, 2, 4, 2), g.const(0.5))
    return g.op("Concat", g.op("Sub", centre, half), g.op("Add", centre, half), axis=2)


def check_outputs(card: ModelCard, ok: bool, facts: Facts, expected: str) -> None:
    """Raise CardError where a card's claims and the graph's shapes contradict each other."""
    if not ok:
        raise CardError(
            problem(
                f"the card says {card.family} with {len(card.names)} classes, but the graph does not fit",
                got=facts.describe(),
                expected=expected,
                remedy="Correct --family, --names or the card (`eyas info MODEL`).",
            )
        )
