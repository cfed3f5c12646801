"""NanoDet v1, g, m and Plus: class scores (already 0…1) and, for each box side, a distribution over distances.

Each side's distance is the expectation of a softmax over reg_max + 1 bins, times the stride; the box is the cell's
point minus and plus the distances (Li et al., "Generalized Focal Loss", 2020, eq. 3; NanoDet's `distance2bbox`).
The outputs are one [B, N, C + 4 · (reg_max + 1)], or for every stride a pair of [B, n, C] and
[B, n, 4 · (reg_max + 1)]. Strides 8, 16, 32 (Plus: and 64). The point is (i + ½) · stride, in Plus i · stride.

Input: BGR with ImageNet's mean and deviation. Upstream trains with stretched pictures; a centred letterbox with
padding 0 scores a little higher on COCO for both g and m, so it is the default and "stretch" a card's choice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eyas.errors import CardError, problem
from eyas.families import Guess, cells_at, check_outputs, grid
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard, Normalise

NORMALISE = Normalise("bgr", (103.53, 116.28, 123.675), (1 / 57.375, 1 / 57.12, 1 / 58.395))
SHIFTS = {(8, 16, 32): 0.5, (8, 16, 32, 64): 0.0}  # strides → where in its cell the point lies
BINS = (8, 11)  # reg_max + 1: 7 in m and Plus, 10 in g


def recognise(facts: Facts) -> list[Guess]:
    """One merged output or a pair a stride; the cell count tells the strides; the width may fit either bin count."""
    guesses = []
    for strides, shift in SHIFTS.items():
        for bins in BINS:
            if (classes := _classes(facts, strides, bins)) is not None:
                params = {"strides": list(strides), "bins": bins, "shift": shift}
                guesses.append(Guess(classes, NORMALISE, "letterbox", 0, 0.6, params))
    return guesses


def _classes(facts: Facts, strides: tuple[int, ...], bins: int) -> int | None:
    """The class count if the outputs fit these strides and bins, else None."""
    shapes = list(facts.outputs.values())
    if len(shapes) == 1 and len(shapes[0]) == 3:
        _, count, width = shapes[0]
        fits = count == cells_at(facts.size, strides) and isinstance(width, int) and width > 4 * bins
        return int(width) - 4 * bins if fits else None
    pairs = _pairs(facts, strides, bins)
    widths = {facts.outputs[scores][2] for scores, _ in pairs}
    return int(widths.pop()) if len(pairs) == len(strides) and len(widths) == 1 else None


def _pairs(facts: Facts, strides: tuple[int, ...], bins: int) -> list[tuple[str, str]]:
    """(scores, distances) output names for each stride, matched by cell count and width."""
    if len(facts.outputs) != 2 * len(strides):
        return []
    pairs = []
    for s in strides:
        count = cells_at(facts.size, (s,))
        level = [n for n, shape in facts.outputs.items() if len(shape) == 3 and shape[1] == count]
        boxes = [n for n in level if facts.outputs[n][2] == 4 * bins]
        if len(boxes) > 1:  # as many classes as distance bins: only the name can tell
            boxes = [n for n in boxes if "cls" not in n]
        scores = [n for n in level if n not in boxes]
        if len(boxes) == 1 and len(scores) == 1:
            pairs.append((scores[0], boxes[0]))
    return pairs


def _params(card: ModelCard) -> tuple[tuple[int, ...], int, float]:
    """Strides, bins and shift of a card. Raises CardError where they are missing or no numbers over 0."""
    params: dict[str, Any] = {"strides": None, "bins": None, "shift": None} | dict(card.params)
    strides, bins, shift = params["strides"], params["bins"], params["shift"]
    numbers = [*strides, bins] if isinstance(strides, (list, tuple)) and strides else [None]
    if not all(isinstance(n, int) and n > 0 for n in numbers) or not isinstance(shift, (int, float)):
        raise CardError(
            problem(
                "the card's params do not fit nanodet",
                got=dict(card.params),
                expected="strides such as [8, 16, 32], bins such as 8, shift such as 0.5",
                remedy="Leave params out of the card: the network's shapes tell them.",
            )
        )
    return tuple(strides), bins, float(shift)


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Scores as they are; boxes as in the module's head."""
    strides, bins, shift = _params(card)
    classes, count = len(card.names), cells_at(card.input_size, strides)
    expected = f"[B, {count}, {classes + 4 * bins}], or pairs [B, n, {classes}] and [B, n, {4 * bins}] a stride"
    check_outputs(card, _classes(facts, strides, bins) == classes, facts, expected)
    if len(facts.outputs) == 1:
        raw = g.cast(next(iter(facts.outputs)))
        all_scores = g.slice(raw, 0, classes, 2)
    else:
        pairs = _pairs(facts, strides, bins)
        all_scores = g.op("Concat", *[g.cast(scores) for scores, _ in pairs], axis=1)
        raw = g.op("Concat", all_scores, g.op("Concat", *[g.cast(box) for _, box in pairs], axis=1), axis=2)
    points, steps = grid(card.input_size, strides, shift)

    def pick(index: str) -> Rows:
        rows = g.take(raw, index, classes + 4 * bins, 1)
        sides = g.slice(rows, classes, classes + 4 * bins, 2)
        sides = g.op("Softmax", g.op("Reshape", sides, g.const([0, 0, 4, bins], "int64")), axis=3)
        sides = g.op("Mul", sides, g.const(np.arange(bins)))
        distance = g.over_axes("ReduceSum", sides, [3], keepdims=0)
        distance = g.op("Mul", distance, g.op("Gather", g.const(steps), index))
        point = g.op("Gather", g.const(points), index)
        low, high = g.slice(distance, 0, 2, 2), g.slice(distance, 2, 4, 2)
        xyxy = g.op("Concat", g.op("Sub", point, low), g.op("Add", point, high), axis=2)
        return Rows(g.slice(rows, 0, classes, 2), xyxy)

    return Cells(all_scores, 2, count, classes, pick)
