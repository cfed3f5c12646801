"""YOLOv6: one output [B, N, 5 + C] of centre, extent (pixels), an objectness that is always 1, class scores.

The shape is YOLOX's; but YOLOv6 decodes in the graph by arithmetic on distances, where raw YOLOX has none and
decoded YOLOX has an Exp (Li et al., "YOLOv6", 2022; `effidehead.py`). Input: RGB / 255, centred letterbox, 114.
"""

from __future__ import annotations

from eyas.families import RGB_UNIT, Guess, cells_at, check_outputs, corners
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import ARITHMETIC, Facts
from eyas.types import ModelCard

STRIDES = ((8, 16, 32), (8, 16, 32, 64))


def recognise(facts: Facts) -> list[Guess]:
    """One output [B, N, 5 + C] with one row a cell, decoded without Exp."""
    shapes = list(facts.outputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 3 or "Exp" in facts.tail or not facts.tail & ARITHMETIC:
        return []
    _, count, width = shapes[0]
    if not isinstance(width, int) or width < 6 or count not in [cells_at(facts.size, s) for s in STRIDES]:
        return []
    return [Guess(width - 5, RGB_UNIT, iou=0.65)]


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Score = objectness · class score; boxes as they are."""
    classes = len(card.names)
    ((name, shape),) = facts.outputs.items() if len(facts.outputs) == 1 else (("", ()),)
    counts = [cells_at(card.input_size, s) for s in STRIDES]
    fits = len(shape) == 3 and shape[2] == 5 + classes and shape[1] in counts
    check_outputs(card, fits, facts, f"one output [B, {counts[0]}, {5 + classes}]")
    raw = g.cast(name)

    def pick(index: str) -> Rows:
        rows = g.take(raw, index, 5 + classes, 1)
        return Rows(g.slice(rows, 5, 5 + classes, 2), corners(g, g.slice(rows, 0, 4, 2)))

    objectness = g.over_axes("Squeeze", g.slice(raw, 4, 5, 2), [2])
    return Cells(g.slice(raw, 5, 5 + classes, 2), 2, int(shape[1]), classes, pick, objectness)
