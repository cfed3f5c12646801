"""Networks that have done everything: one output [B, K, 6] of x1, y1, x2, y2 (pixels), score, class id.

YOLOv10 and other heads without NMS (Wang et al., "YOLOv10", 2024), and exports with NMS inside. Nothing is
suppressed again. The number of classes is not in the shapes: it is COCO's 80 unless names say otherwise; a row whose
class has no name is dropped.
Input: RGB / 255, centred letterbox, 114.
"""

from __future__ import annotations

import numpy as np

from eyas.families import RGB_UNIT, Guess, check_outputs, on_grid
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard

MOST = 1000  # rows: more, or as many as a grid has, are those of a family with one class


def recognise(facts: Facts) -> list[Guess]:
    """One output [B, K, 6] with few rows. None: any number of classes."""
    shapes = list(facts.outputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][2] != 6:
        return []
    count = shapes[0][1]
    if not isinstance(count, int) or count > MOST or on_grid(facts, count):
        return []
    return [Guess(None, RGB_UNIT)]


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Rows as they are. The class scores are one-hot: the score at the row's class, 0 elsewhere."""
    ((name, shape),) = facts.outputs.items() if len(facts.outputs) == 1 else (("", ()),)
    fits = len(shape) == 3 and shape[2] == 6 and isinstance(shape[1], int)
    check_outputs(card, fits, facts, "one output [B, K, 6]")
    raw, classes = g.cast(name), len(card.names)

    def one_hot(rows: str) -> str:
        same = g.op("Equal", g.slice(rows, 5, 6, 2), g.const(np.arange(classes).reshape(1, 1, -1)))
        return g.op("Mul", g.cast(same), g.slice(rows, 4, 5, 2))

    def pick(index: str) -> Rows:
        rows = g.take(raw, index, 6, 1)
        return Rows(one_hot(rows), g.slice(rows, 0, 4, 2))

    return Cells(one_hot(raw), 2, int(shape[1]), classes, pick, suppress="never")
