"""YOLOv8's and v11's pose networks: a box and P key points for every object.

One output [B, 4 + C + D · P, N]: centre x, centre y, width, height in input pixels, C class scores in 0…1, then of
each point x, y in input pixels and, where D is 3, a score in 0…1 (1 where D is 2). N cells of the strides 8, 16, 32.
P and D are the exporter's metadata key `kpt_shape`, else the card's params, else COCO's 17 and 3 with the one class
person: shapes do not tell. Input and boxes: as `yolov8`. Format: docs.ultralytics.com, "Pose Estimation".
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

from eyas.errors import CardError, problem
from eyas.families import RGB_UNIT, Guess, cells_at, check_outputs, corners
from eyas.families.yolov8 import STRIDES, columns
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard

COCO = (17, 3)  # points, and numbers a point


def recognise(facts: Facts) -> list[Guess]:
    """One output wide enough for the points that the metadata states; without them, as wide as COCO's."""
    found = columns(facts) if len(facts.outputs) == 1 else {}
    if not found:
        return []
    said = facts.metadata.get("kpt_shape")
    points, numbers = _shape_of(said) if said is not None else COCO
    classes = next(iter(found.values())) - 4 - points * numbers
    if classes < 1 or (said is None and classes > 1):
        return []
    params = {"kpt_shape": [points, numbers]}
    return [Guess(classes, RGB_UNIT, params=params, task="pose", names=("person",) if said is None else None)]


def _shape_of(said: Any) -> tuple[int, int]:
    """Points and numbers a point, from a list or its text. Raises CardError where it is neither."""
    value = said
    if isinstance(said, str):
        try:
            value = ast.literal_eval(said)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = None
    pair = value if isinstance(value, (list, tuple)) and [type(n) for n in value] == [int, int] else (0, 0)
    if pair[0] < 1 or pair[1] not in (2, 3):
        raise CardError(
            problem(
                "the key points' shape (kpt_shape) cannot be read",
                got=repr(said)[:60],
                expected="how many points, and 2 (x, y) or 3 (x, y, score) numbers each, such as [17, 3]",
                remedy="Mend the card's params or the model's metadata.",
            )
        )
    return pair[0], pair[1]


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Boxes as in `yolov8`; points as they are."""
    points, numbers = _shape_of(card.params.get("kpt_shape", COCO))
    classes, count = len(card.names), cells_at(card.input_size, STRIDES)
    width = 4 + classes + points * numbers
    expected = f"one output [B, {width}, {count}] with {points} key points of {numbers} numbers"
    check_outputs(card, list(columns(facts).values()) == [width] and len(facts.outputs) == 1, facts, expected)
    raw = g.cast(next(iter(facts.outputs)))

    def pick(index: str) -> Rows:
        rows = g.take(raw, index, width, 2)  # taken whole, then cut: see `eyas.families.detr`
        box, keypoints = (
            g.op("Transpose", g.slice(rows, *part, 1), perm=[0, 2, 1]) for part in ((0, 4), (4 + classes, width))
        )
        extras = keypoints if numbers == 3 else _scored(g, keypoints, points)
        return Rows(g.slice(rows, 4, 4 + classes, 1), corners(g, box), extras)

    return Cells(g.slice(raw, 4, 4 + classes, 1), 1, count, classes, pick, extras=3 * points)


def _scored(g: Builder, xy: str, points: int) -> str:
    """[B, K, 2 · P] → [B, K, 3 · P]: a 1 behind each point. It is appended once, then gathered to every place."""
    one = g.op("Pad", xy, g.const([0, 0, 0, 0, 0, 1], "int64"), g.const(1.0))
    order = [[2 * p, 2 * p + 1, 2 * points] for p in range(points)]
    return g.op("Gather", one, g.const(np.ravel(order), "int64"), axis=2)
