"""RetinaFace: faces with a score and five key points, relative to priors as in SSD.

Three outputs, told by their widths: loc [B, N, 4], conf [B, N, 2] (no face, face; a softmax or its logits), landms
[B, N, 10]. Strides 8, 16, 32; each cell has two square priors around its middle, of sides 16 and 32, 64 and 128, 256
and 512 pixels, one after the other. With a prior's centre c and side m, variances 0.1 and 0.2,

    centre = c + loc₀₁ · 0.1 m      extent = m · exp(0.2 loc₂₃)      point = c + landm · 0.1 m

(Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019; Liu et al., "SSD", 2016, eq. 2;
Pytorch_Retinaface's `cfg_mnet` and `cfg_re50`). Of logits, softmax(conf)₁ = σ(conf₁ − conf₀).

The points are, as the viewer sees them: left eye, right eye, nose, left and right corner of the mouth.
Input: BGR − (104, 117, 123), centred letterbox. Padding 114 is then next to 0, what convolutions pad with; 0 finds the
same faces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eyas.families import Guess, cells_at, check_outputs, corners, grid
from eyas.families.scrfd import POINTS, key_points
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard, Normalise

SIDES = {8: (16, 32), 16: (64, 128), 32: (256, 512)}  # stride → sides of a cell's priors, in pixels
VARIANCES = 0.1, 0.2
WIDTHS = {4: "loc", 2: "conf", 2 * POINTS: "landms"}


def recognise(facts: Facts) -> list[Guess]:
    """Three outputs of those widths, with two rows a cell."""
    found = _outputs(facts)
    if not found:
        return []
    params = {"logits": facts.makers.get(found["conf"]) != "Softmax"}
    normalise = Normalise("bgr", (104.0, 117.0, 123.0))
    return [Guess(1, normalise, "letterbox", 114, 0.4, params, task="pose", names=("face",))]


def _outputs(facts: Facts) -> dict[str, str]:
    """What each output is → its name; empty if they do not fit."""
    count = 2 * cells_at(facts.size, tuple(SIDES))
    shapes = {n: s[1:] for n, s in facts.outputs.items() if len(s) == 3}
    found = {kind: n for width, kind in WIDTHS.items() for n in shapes if shapes[n] == (count, width)}
    return found if len(found) == len(WIDTHS) == len(facts.outputs) else {}


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Score = conf₁, of logits the softmax; boxes and points as in the module's head."""
    count = 2 * cells_at(card.input_size, tuple(SIDES))
    found = _outputs(facts)
    expected = f"loc [B, {count}, 4], conf [B, {count}, 2], landms [B, {count}, 10], and one class"
    check_outputs(card, bool(found) and len(card.names) == 1, facts, expected)
    loc, conf, landms = (g.cast(found[kind]) for kind in WIDTHS.values())
    centre, side = _priors(card.input_size)
    logits = bool(card.params.get("logits", False))
    scores = g.slice(conf, 1, 2, 2)
    if logits:
        scores = g.op("Sub", scores, g.slice(conf, 0, 1, 2))

    def pick(index: str) -> Rows:
        origin, extent = (g.op("Gather", g.const(values), index) for values in (centre, side))
        rows, near = g.take(loc, index, 4, 1), g.op("Mul", extent, g.const(VARIANCES[0]))
        middle = g.op("Add", origin, g.op("Mul", g.slice(rows, 0, 2, 2), near))
        sides = g.op("Mul", extent, g.op("Exp", g.op("Mul", g.slice(rows, 2, 4, 2), g.const(VARIANCES[1]))))
        xyxy = corners(g, g.op("Concat", middle, sides, axis=2))
        return Rows(g.take(scores, index, 1, 1), xyxy, key_points(g, g.take(landms, index, 10, 1), origin, near))

    return Cells(scores, 2, count, 1, pick, logits=logits, extras=3 * POINTS)


def _priors(size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of every row: its prior's centre [N, 2] and side [N, 1], in pixels."""
    cells = [(grid(size, (stride,), 0.5)[0], sides) for stride, sides in SIDES.items()]
    centres = [np.repeat(points, len(sides), axis=0) for points, sides in cells]
    extents = [np.tile(sides, len(points))[:, None] for points, sides in cells]
    return np.concatenate(centres), np.concatenate(extents).astype(np.float32)
