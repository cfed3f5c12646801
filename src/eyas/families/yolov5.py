"""YOLOv5 and its relatives v3, v4 and v7: three anchors a cell, objectness times class score.

Decoded: one [B, 3 · cells, 5 + C] of centre, extent (pixels), objectness, class scores, all final; raw maps beside
it are left out. Raw: one map a stride, [B, 3, h, w, 5 + C] or [B, 3 · (5 + C), h, w], decoded with σ the sigmoid as

    xy = (2σ(t) − ½ + cell) · stride      wh = (2σ(t))² · anchor     (YOLOv5 since 5.0, YOLOv7: `Detect.forward`)
    xy = (σ(t) + cell) · stride           wh = exp(t) · anchor       (Redmon and Farhadi, "YOLOv3", 2018, §2.1)

The second where the card's params say "decode": "v3", as YOLOv3 and v4 need: shapes do not tell. Maps that end with
a sigmoid have σ(t) in place of t already (params "logits": false). Anchors are in input pixels, three a stride, from
the params or those of YOLOv5's COCO checkpoints. Input: RGB / 255, centred letterbox, padding 114.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eyas.errors import CardError, problem
from eyas.families import RGB_UNIT, Guess, cells_at, check_outputs, corners, grid
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard

# Strides → width and height of three anchors each, in pixels, as the checkpoints yolov5s and yolov5s6 hold them.
ANCHORS = {
    (8, 16, 32): (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    ),
    (8, 16, 32, 64): (
        ((19, 27), (44, 40), (38, 94)),
        ((96, 68), (86, 152), (180, 137)),
        ((140, 301), (303, 264), (238, 542)),
        ((436, 615), (739, 380), (925, 792)),
    ),
}


def recognise(facts: Facts) -> list[Guess]:
    """One decoded output with three rows a cell, or one raw map a stride."""
    for strides, anchors in ANCHORS.items():
        params: dict[str, Any] = {"strides": list(strides)}
        if decoded := decoded_output(facts, strides):
            return [Guess(int(facts.outputs[decoded][2]) - 5, RGB_UNIT, iou=0.45, params=params)]
        if levels := _levels(facts, strides):
            params |= {"anchors": [[list(a) for a in level] for level in anchors], "decode": "v5"}
            params["logits"] = any(facts.makers.get(name) != "Sigmoid" for name in levels)
            return [Guess(_width(facts.outputs[levels[0]]) - 5, RGB_UNIT, iou=0.45, params=params)]
    return []


def decoded_output(facts: Facts, strides: tuple[int, ...]) -> str | None:
    """The name of the decoded output, if there is one and the others are raw maps."""
    flat = [n for n, s in facts.outputs.items() if len(s) == 3 and s[1] == 3 * cells_at(facts.size, strides)]
    others = [s for n, s in facts.outputs.items() if n not in flat]
    if len(flat) != 1 or not all(len(s) == 5 and s[1] == 3 for s in others):
        return None
    width = facts.outputs[flat[0]][2]
    return flat[0] if isinstance(width, int) and width > 5 else None


def _levels(facts: Facts, strides: tuple[int, ...]) -> list[str]:
    """The raw map of each stride, told by its grid; empty if they do not fit."""
    names: list[str] = []
    for s in strides:
        cells = (-(-facts.size[0] // s), -(-facts.size[1] // s))
        names += [n for n, shape in facts.outputs.items() if _width(shape) > 5 and _cells(shape) == cells]
    widths = {_width(facts.outputs[n]) for n in names}
    return names if len(set(names)) == len(names) == len(strides) == len(facts.outputs) and len(widths) == 1 else []


def _cells(shape: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The rows and columns of a raw map."""
    return shape[2:4]


def _width(shape: tuple[int | str, ...]) -> int:
    """5 + C of a raw map, 0 where it is none."""
    if len(shape) == 5 and shape[1] == 3 and isinstance(shape[4], int):
        return shape[4]
    if len(shape) == 4 and isinstance(shape[1], int) and shape[1] % 3 == 0:
        return shape[1] // 3
    return 0


def _params(card: ModelCard) -> tuple[tuple[int, ...], str, bool]:
    """Strides, decode and logits of a card. Raises CardError where its params are missing or make no sense."""
    strides, anchors = card.params.get("strides"), card.params.get("anchors")
    ok = isinstance(strides, (list, tuple)) and tuple(strides) in ANCHORS
    ok = ok and card.params.get("decode", "v5") in ("v5", "v3")
    try:
        pixels = np.asarray(anchors if anchors is not None else [[[1, 1]] * 3] * len(strides or ()), np.float32)
        ok = ok and pixels.shape == (len(strides or ()), 3, 2) and bool((pixels > 0).all())
    except (ValueError, TypeError):
        ok = False
    if not ok or strides is None:
        raise CardError(
            problem(
                "the card's params do not fit yolov5",
                got=dict(card.params),
                expected="strides [8, 16, 32] or [8, 16, 32, 64], decode v5 or v3, three [width, height] a stride",
                remedy="Leave out what is not to differ from the default: the network's shapes tell the rest.",
            )
        )
    return tuple(strides), str(card.params.get("decode", "v5")), bool(card.params.get("logits", True))


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Score = objectness · class score; boxes as in the module's head."""
    strides, rule, logits = _params(card)
    width, count = 5 + len(card.names), 3 * cells_at(card.input_size, strides)
    decoded, levels = decoded_output(facts, strides), _levels(facts, strides)
    found = facts.outputs[decoded][2] if decoded else _width(facts.outputs[levels[0]]) if levels else 0
    expected = f"one output [B, {count}, {width}], or one map a stride with 3 · {width} channels"
    check_outputs(card, found == width, facts, expected)
    if decoded:
        rows = g.cast(decoded)
    else:
        rows = g.op("Concat", *[_flat(g, name, facts.outputs[name], width) for name in levels], axis=1)
    objectness = g.over_axes("Squeeze", g.slice(rows, 4, 5, 2), [2])

    def pick(index: str) -> Rows:
        chosen = g.take(rows, index, width, 1)
        box = g.slice(chosen, 0, 4, 2)
        if not decoded:
            box = _box(g, _priors(card, strides), box, index, rule, logits)
        return Rows(g.slice(chosen, 5, width, 2), corners(g, box))

    return Cells(g.slice(rows, 5, width, 2), 2, count, width - 5, pick, objectness, logits=logits and not decoded)


def _flat(g: Builder, name: str, shape: tuple[int | str, ...], width: int) -> str:
    """A raw map as [B, 3 · h · w, width]: anchor by anchor, row by row."""
    x, (rows, columns) = g.cast(name), (int(n) for n in _cells(shape))
    if len(shape) == 4:
        x = g.op("Reshape", x, g.const([0, 3, width, rows * columns], "int64"))
        x = g.op("Transpose", x, perm=[0, 1, 3, 2])
    return g.op("Reshape", x, g.const([0, 3 * rows * columns, width], "int64"))


def _priors(card: ModelCard, strides: tuple[int, ...]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Of every row: its cell's corner [N, 2], its stride [N, 1], its anchor [N, 2], in pixels."""
    points, steps, anchors = [], [], []
    for stride, level in zip(strides, card.params.get("anchors", ANCHORS[strides]), strict=True):
        cell, step = grid(card.input_size, (stride,), 0.0)
        for anchor in level:
            points.append(cell)
            steps.append(step)
            anchors.append(np.broadcast_to(np.asarray(anchor, np.float32), cell.shape))
    return [np.concatenate(parts) for parts in (points, steps, anchors)]


def _box(g: Builder, priors: list[Any], raw: str, index: str, rule: str, logits: bool) -> str:
    """Raw boxes [B, K, 4] of the chosen rows as centre and extent in pixels."""
    point, step, anchor = (g.op("Gather", g.const(values), index) for values in priors)
    squashed = g.op("Sigmoid", raw) if logits else raw
    centre = g.slice(squashed, 0, 2, 2)
    if rule == "v3":
        extent = g.op("Exp", g.slice(raw, 2, 4, 2))
    else:
        centre = g.op("Sub", g.op("Mul", centre, g.const(2.0)), g.const(0.5))
        side = g.op("Mul", g.slice(squashed, 2, 4, 2), g.const(2.0))
        extent = g.op("Mul", side, side)
    centre = g.op("Add", g.op("Mul", centre, step), point)
    return g.op("Concat", centre, g.op("Mul", extent, anchor), axis=2)
