"""YOLOv5's and v7's segmentation networks: a box and a mask for every object, three anchors a cell.

Two outputs: [B, 3 · cells, 5 + C + M] of centre, extent (pixels), objectness, C class scores (all final) and M mask
coefficients; and prototypes [B, M, H / 4, W / 4]. Raw maps beside them are left out. Masks: as `yolov8_seg`. Cells and
input: as `yolov5`. Format: the release notes of YOLOv5 7.0.
"""

from __future__ import annotations

from dataclasses import replace

from eyas.families import RGB_UNIT, Guess, check_outputs, corners
from eyas.families.yolov5 import ANCHORS, decoded_output
from eyas.families.yolov8_seg import SHRINK, prototypes
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard


def recognise(facts: Facts) -> list[Guess]:
    """A decoded output, wider than the prototypes are many."""
    found = _outputs(facts)
    return [Guess(found[1], RGB_UNIT, iou=0.45, task="segment")] if found else []


def _outputs(facts: Facts) -> tuple[str, int, str, int] | None:
    """The output of boxes, its classes, that of prototypes, how many they are; None if they do not fit."""
    maps = prototypes(facts)
    if len(maps) != 1:
        return None
    ((edge, many),) = maps.items()
    others = replace(facts, outputs={n: s for n, s in facts.outputs.items() if n != edge})
    for strides in ANCHORS:
        name = decoded_output(others, strides)
        if name and int(facts.outputs[name][2]) > 5 + many:
            return name, int(facts.outputs[name][2]) - 5 - many, edge, many
    return None


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Score = objectness · class score; boxes, coefficients and prototypes as they are."""
    found, classes = _outputs(facts), len(card.names)
    expected = f"[B, 3 · cells, 5 + {classes} + M] and prototypes [B, M, H / {SHRINK}, W / {SHRINK}]"
    check_outputs(card, found is not None and found[1] == classes, facts, expected)
    name, _, edge, many = found or ("", 0, "", 0)
    raw, width, end = g.cast(name), 5 + classes + many, 5 + classes

    def pick(index: str) -> Rows:
        rows = g.take(raw, index, width, 1)
        return Rows(g.slice(rows, 5, end, 2), corners(g, g.slice(rows, 0, 4, 2)), g.slice(rows, end, width, 2))

    objectness = g.over_axes("Squeeze", g.slice(raw, 4, 5, 2), [2])
    size = int(facts.outputs[edge][2]), int(facts.outputs[edge][3])
    scores, count = g.slice(raw, 5, end, 2), int(facts.outputs[name][1])
    return Cells(scores, 2, count, classes, pick, objectness, extras=many, prototypes=(g.cast(edge), size))
