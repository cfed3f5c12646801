"""DETR's descendants: RT-DETR, D-FINE, DEIM, RF-DETR. A fixed set of queries, no grid, no NMS.

Two outputs, boxes [B, Q, 4] and class scores [B, Q, C]; or both in one, [B, Q, 4 + C] (Ultralytics' RT-DETR). Boxes
are centre and extent as a share of the input's width and height; scores are final where they end with a sigmoid or
are in one output with the boxes, else logits (Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", 2023).
Input: RGB / 255, stretched; RF-DETR, told by its outputs' names, also wants ImageNet's mean and deviation. Two
outputs after a softmax over classes and "no object", as the first DETR needs, are not of this family.
"""

from __future__ import annotations

from typing import NamedTuple

from eyas.families import IMAGENET, RGB_UNIT, Guess, check_outputs, corners, on_grid
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard

MOST = 1000  # queries: more, or as many as a grid has, are grid cells


class Queries(NamedTuple):
    """Output names of boxes and scores, the same where they are one; how many there are, of how many classes."""

    boxes: str
    scores: str
    queries: int
    classes: int


def recognise(facts: Facts) -> list[Guess]:
    """Boxes and scores of at most a thousand queries."""
    found = _queries(facts)
    if found is None:
        return []
    logits = found.boxes != found.scores and facts.makers.get(found.scores) != "Sigmoid"
    normalise = IMAGENET if set(facts.outputs) == {"dets", "labels"} else RGB_UNIT
    return [Guess(found.classes, normalise, "stretch", params={"logits": logits})]


def _queries(facts: Facts) -> Queries | None:
    """What the outputs are, None if they do not fit. One output is a transformer's only where there is a softmax."""
    shapes = {n: s for n, s in facts.outputs.items() if len(s) == 3 and all(isinstance(d, int) for d in s[1:])}
    if len(shapes) != len(facts.outputs) or any(on_grid(facts, d) for s in shapes.values() for d in s[1:]):
        return None
    sizes = {n: (int(s[1]), int(s[2])) for n, s in shapes.items()}
    if len({count for count, _ in sizes.values()}) != 1 or max(count for count, _ in sizes.values()) > MOST:
        return None
    if len(sizes) == 1:
        ((name, (count, width)),) = sizes.items()
        transformer = width <= MOST and {"Softmax", "MatMul"} <= facts.ops
        return Queries(name, name, count, width - 4) if transformer and width > 4 and width != 6 else None
    boxes = [n for n, (_, width) in sizes.items() if width == 4]
    if len(boxes) > 1:  # four classes: only the name can tell
        boxes = [n for n in boxes if "box" in n or "det" in n]
    scores = [n for n in sizes if n not in boxes]
    if len(boxes) != 1 or len(scores) != 1 or facts.makers.get(scores[0]) == "Softmax":
        return None
    return Queries(boxes[0], scores[0], *sizes[scores[0]])


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Boxes as in the module's head, scaled to the input."""
    found, classes = _queries(facts), len(card.names)
    fits = found is not None and found.classes == classes
    expected = f"boxes [B, Q, 4] and scores [B, Q, {classes}], or one output [B, Q, {4 + classes}]"
    check_outputs(card, fits, facts, expected)
    boxes, scores, count, _ = found or Queries("", "", 0, 0)
    merged = boxes == scores
    all_boxes = all_scores = g.cast(scores)
    if not merged:
        all_boxes = g.cast(boxes)
    height, width = card.input_size

    def pick(index: str) -> Rows:
        if merged:  # taken whole, then cut: OpenVINO 2026.4 fails where one edge is cut, then gathered
            rows = g.take(all_boxes, index, 4 + classes, 1)
            box, chosen = g.slice(rows, 0, 4, 2), g.slice(rows, 4, 4 + classes, 2)
        else:
            box, chosen = g.take(all_boxes, index, 4, 1), g.take(all_scores, index, classes, 1)
        return Rows(chosen, corners(g, g.op("Mul", box, g.const([width, height, width, height]))))

    scored = g.slice(all_scores, 4, 4 + classes, 2) if merged else all_scores
    logits = bool(card.params.get("logits", not merged))
    return Cells(scored, 2, count, classes, pick, logits=logits, suppress="never")
