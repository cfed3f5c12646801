"""SCRFD: faces with a score, four distances and, in most of its networks, five key points.

Of each stride one output of scores [B, n, 1] (already 0…1), one of distances [B, n, 4] and one of points [B, n, 10],
in any order: they are told by their shapes. Strides 8, 16, 32 have two anchors a cell (rows 2 · cell and 2 · cell + 1),
strides 8 to 128 have one. Batches of one may lack the first axis, as InsightFace exports it. With the cell's corner
c = i · stride, the box is c minus and plus the distances · stride, a point is c + offset · stride (Guo et al., "Sample
and Computation Redistribution for Efficient Face Detection", 2021; InsightFace's `distance2bbox`, `distance2kps`).

The points are, as the viewer sees them: left eye, right eye, nose, left and right corner of the mouth.
Input: RGB, (x − 127.5) / 128, top-left letterbox, padding 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eyas.families import Guess, cells_at, check_outputs, grid
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard, Normalise, Task

POINTS = 5
ANCHORS = {(8, 16, 32): 2, (8, 16, 32, 64, 128): 1}  # strides → rows a cell
NORMALISE = Normalise("rgb", (127.5, 127.5, 127.5), (1 / 128, 1 / 128, 1 / 128))


class Levels(NamedTuple):
    """Output names, finest stride first; points may be empty."""

    strides: tuple[int, ...]
    anchors: int
    scores: list[str]
    boxes: list[str]
    points: list[str]


def recognise(facts: Facts) -> list[Guess]:
    """Two or three outputs a stride, told by their widths and by how many rows they have."""
    found = _levels(facts)
    if found is None:
        return []
    task: Task = "pose" if found.points else "detect"
    return [Guess(1, NORMALISE, "letterbox-topleft", 0, 0.4, task=task, names=("face",))]


def _levels(facts: Facts) -> Levels | None:
    """What the outputs are; None if they do not fit."""
    for strides, anchors in ANCHORS.items():
        scores, boxes, points = (at_strides(facts, strides, anchors, width) for width in (1, 4, 2 * POINTS))
        if scores and boxes and len(scores) + len(boxes) + len(points) == len(facts.outputs):
            return Levels(strides, anchors, scores, boxes, points)
    return None


def at_strides(facts: Facts, strides: tuple[int, ...], anchors: int, width: int, each: int = 1) -> list[str]:
    """Names of the outputs [B, anchors · cells, width], `each` of them a stride, finest stride first.

    Empty if they do not fit. Where two strides have as many cells (of very small inputs), the graph's order decides.
    """
    counts = [anchors * cells_at(facts.size, (s,)) for s in strides for _ in range(each)]
    rows = {n: s[-2] for n, s in facts.outputs.items() if s[-1:] == (width,) and _batched(facts, s)}
    names = sorted((n for n in rows if rows[n] in counts), key=lambda n: -int(rows[n]))
    return names if [rows[n] for n in names] == counts else []


def _batched(facts: Facts, shape: tuple[int | str, ...]) -> bool:
    """Whether a shape is [B, rows, width], or [rows, width] of a single picture."""
    return len(shape) == 3 or (len(shape) == 2 and facts.batch == 1)


def joined(g: Builder, facts: Facts, names: list[str]) -> str:
    """The outputs of all strides as one edge [B, N, width], float32."""
    single = [len(facts.outputs[n]) == 2 for n in names]
    edges = [g.over_axes("Unsqueeze", n, [0]) if alone else n for n, alone in zip(names, single, strict=True)]
    return g.op("Concat", *[g.cast(e) for e in edges], axis=1)


def key_points(g: Builder, offsets: str, origin: str, step: str) -> str:
    """x, y and the score 1 of each point, [B, K, 15]: origin + offset · step.

    offsets: [B, K, 10]; origin: [B, K, 2] and step: [B, K, 1], in pixels.
    """
    pairs = g.op("Reshape", offsets, g.const([0, 0, POINTS, 2], "int64"))
    moved = g.op("Mul", pairs, g.over_axes("Unsqueeze", step, [2]))
    xy = g.op("Add", moved, g.over_axes("Unsqueeze", origin, [2]))
    scored = g.op("Pad", xy, g.const([0, 0, 0, 0, 0, 0, 0, 1], "int64"), g.const(1.0))
    return g.op("Reshape", scored, g.const([0, 0, 3 * POINTS], "int64"))


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Scores as they are; boxes and points as in the module's head."""
    found = _levels(facts)
    fits = found is not None and len(card.names) == 1
    expected = "a score, four distances and maybe ten offsets a row: three strides, two rows a cell; or five, one"
    check_outputs(card, fits, facts, expected)
    strides, anchors, *names = found or Levels((), 1, [], [], [])
    scores, boxes, points = (joined(g, facts, kind) if kind else "" for kind in names)
    corner, step = (np.repeat(values, anchors, axis=0) for values in grid(card.input_size, strides, 0.0))

    def pick(index: str) -> Rows:
        origin, scale = (g.op("Gather", g.const(values), index) for values in (corner, step))
        distance = g.op("Mul", g.take(boxes, index, 4, 1), scale)
        low, high = g.slice(distance, 0, 2, 2), g.slice(distance, 2, 4, 2)
        xyxy = g.op("Concat", g.op("Sub", origin, low), g.op("Add", origin, high), axis=2)
        extras = key_points(g, g.take(points, index, 2 * POINTS, 1), origin, scale) if points else None
        return Rows(g.take(scores, index, 1, 1), xyxy, extras)

    return Cells(scores, 2, len(corner), 1, pick, extras=3 * POINTS if points else 0)
