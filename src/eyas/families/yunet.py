"""YuNet: faces with two factors of a score, a box and five key points, one row a cell of strides 8, 16, 32.

Of each stride four outputs: cls [B, n, 1] and obj [B, n, 1] (both 0…1), bbox [B, n, 4], kps [B, n, 10], told by their
shapes; cls and obj go into a product, so which is which does not matter. With the cell's corner c = i · stride,

    score = √(cls · obj)    centre = c + bbox₀₁ · stride    extent = exp(bbox₂₃) · stride    point = c + kps · stride

(Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023; OpenCV's `FaceDetectorYN`, OpenCV Zoo's
face_detection_yunet_2023mar).

The points are, as the viewer sees them: left eye, right eye, nose, left and right corner of the mouth.
Input: BGR 0…255, top-left letterbox, padding 0.
"""

from __future__ import annotations

from typing import NamedTuple

from eyas.families import Guess, check_outputs, corners, grid
from eyas.families.scrfd import POINTS, at_strides, joined, key_points
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard, Normalise

STRIDES = (8, 16, 32)


class Levels(NamedTuple):
    """Output names, finest stride first; factors: two a stride."""

    factors: list[str]
    boxes: list[str]
    points: list[str]


def recognise(facts: Facts) -> list[Guess]:
    """Four outputs a stride."""
    if _levels(facts) is None:
        return []
    return [Guess(1, Normalise("bgr"), "letterbox-topleft", 0, 0.3, task="pose", names=("face",))]


def _levels(facts: Facts) -> Levels | None:
    """What the outputs are; None if they do not fit."""
    kinds = [at_strides(facts, STRIDES, 1, *kind) for kind in ((1, 2), (4,), (2 * POINTS,))]
    return Levels(*kinds) if all(kinds) and sum(map(len, kinds)) == len(facts.outputs) else None


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """As in the module's head; each factor is first brought into 0…1, as OpenCV does."""
    found = _levels(facts)
    fits = found is not None and len(card.names) == 1
    check_outputs(card, fits, facts, "twice [B, n, 1], [B, n, 4] and [B, n, 10] for strides 8, 16, 32, and one class")
    factors, *rest = found or Levels([], [], [])
    boxes, points = (joined(g, facts, kind) for kind in rest)
    halves = [joined(g, facts, factors[i::2]) for i in (0, 1)]
    halves = [g.op("Clip", half, g.const(0.0), g.const(1.0)) for half in halves]
    scores = g.op("Sqrt", g.op("Mul", *halves))
    corner, step = grid(card.input_size, STRIDES, 0.0)

    def pick(index: str) -> Rows:
        origin, scale = (g.op("Gather", g.const(values), index) for values in (corner, step))
        rows = g.take(boxes, index, 4, 1)
        centre = g.op("Add", origin, g.op("Mul", g.slice(rows, 0, 2, 2), scale))
        extent = g.op("Mul", g.op("Exp", g.slice(rows, 2, 4, 2)), scale)
        extras = key_points(g, g.take(points, index, 2 * POINTS, 1), origin, scale)
        return Rows(g.take(scores, index, 1, 1), corners(g, g.op("Concat", centre, extent, axis=2)), extras)

    return Cells(scores, 2, len(corner), 1, pick, extras=3 * POINTS)
