"""YOLOX: one output [B, N, 5 + C]: box, objectness, class scores (both already 0…1), strides 8, 16, 32.

Raw boxes are decoded as xy = (p + cell) · stride, wh = exp(p) · stride (Ge et al., "YOLOX", 2021; the released
demo's `demo_postprocess`); an export that decodes by itself ends with an Exp operator and gives pixels at once.
Input: BGR 0…255, top-left letterbox, padding 114. Releases before 0.1.1 want RGB / 255 with ImageNet's mean and
deviation: say so in the card.
"""

from __future__ import annotations

from eyas.families import Guess, cells_at, check_outputs, corners, grid
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import ARITHMETIC, Facts
from eyas.types import ModelCard, Normalise

STRIDES = (8, 16, 32)


def recognise(facts: Facts) -> list[Guess]:
    """One output [B, N, 5 + C] with one row a cell; arithmetic at the end without an Exp is YOLOv6's."""
    shapes = list(facts.outputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 3:
        return []
    _, count, width = shapes[0]
    if not isinstance(width, int) or width < 6 or count != cells_at(facts.size, STRIDES):
        return []
    decoded = "Exp" in facts.tail
    if facts.tail & ARITHMETIC and not decoded:
        return []
    params = {"decoded": decoded}
    return [Guess(width - 5, Normalise("bgr"), "letterbox-topleft", iou=0.65, params=params)]


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Score = objectness · class score; boxes as in the module's head."""
    classes = len(card.names)
    count = cells_at(card.input_size, STRIDES)
    ((name, shape),) = facts.outputs.items() if len(facts.outputs) == 1 else (("", ()),)
    check_outputs(card, shape[1:] == (count, 5 + classes), facts, f"one output [B, {count}, {5 + classes}]")
    raw = g.cast(name)
    points, strides = grid(card.input_size, STRIDES, 0.0)

    def pick(index: str) -> Rows:
        rows = g.take(raw, index, 5 + classes, 1)
        box = g.slice(rows, 0, 4, 2)
        if not card.params.get("decoded", False):
            centre, extent = g.slice(box, 0, 2, 2), g.slice(box, 2, 4, 2)
            stride = g.op("Gather", g.const(strides), index)
            centre = g.op("Add", g.op("Mul", centre, stride), g.op("Gather", g.const(points), index))
            box = g.op("Concat", centre, g.op("Mul", g.op("Exp", extent), stride), axis=2)
        return Rows(g.slice(rows, 5, 5 + classes, 2), corners(g, box))

    objectness = g.over_axes("Squeeze", g.slice(raw, 4, 5, 2), [2])
    return Cells(g.slice(raw, 5, 5 + classes, 2), 2, count, classes, pick, objectness)
