"""YOLOv8's and v11's networks for oriented boxes.

One output [B, 4 + C + 1, N]: centre x, centre y, width, height in input pixels, C class scores in 0…1, and the angle
in radians by which the box is turned about its centre, from x towards y. N cells of the strides 8, 16, 32. The shape
is that of `yolov8` with one class more: the metadata's task tells, or that the graph takes a cosine and a sine, which
only rotated boxes need. The exact NMS of turned boxes is left to the host; its authors approximate the overlap by
that of two normal distributions. Input: as `yolov8`. Format: docs.ultralytics.com, "Oriented Bounding Boxes".
"""

from __future__ import annotations

from eyas.families import RGB_UNIT, Guess, cells_at, check_outputs, corners
from eyas.families.yolov8 import STRIDES, columns
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard


def recognise(facts: Facts) -> list[Guess]:
    """One output as `yolov8` has it, and a sign that boxes are turned."""
    turned = facts.metadata.get("task") == "obb" or {"Cos", "Sin"} <= facts.ops
    found = columns(facts) if turned and len(facts.outputs) == 1 else {}
    return [Guess(width - 5, RGB_UNIT, task="obb") for width in found.values() if width > 5]


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """The boxes before they are turned, as in `yolov8`; the angle as it is."""
    classes, count = len(card.names), cells_at(card.input_size, STRIDES)
    fits = list(columns(facts).values()) == [5 + classes] and len(facts.outputs) == 1
    check_outputs(card, fits, facts, f"one output [B, 4 + {classes} + 1, {count}]")
    raw = g.cast(next(iter(facts.outputs)))

    def pick(index: str) -> Rows:
        rows = g.take(raw, index, 5 + classes, 2)  # taken whole, then cut: see `eyas.families.detr`
        box, angle = (
            g.op("Transpose", g.slice(rows, *part, 1), perm=[0, 2, 1]) for part in ((0, 4), (4 + classes, 5 + classes))
        )
        return Rows(g.slice(rows, 4, 4 + classes, 1), corners(g, box), angle)

    return Cells(g.slice(raw, 4, 4 + classes, 1), 1, count, classes, pick, suppress="host", extras=1)
