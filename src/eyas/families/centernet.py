"""CenterNet: an object is a peak of a heat map (Zhou et al., "Objects as Points", 2019, §3 and §4).

Three outputs at stride 4: heat [B, C, h, w], size [B, 2, h, w] (width, height) and offset [B, 2, h, w] of the centre,
both in cells. A peak is a value that equals the largest of the 3 × 3 around it; with cell (x, y) of a peak,

    centre = ((x, y) + offset) · 4        extent = size · 4

The heat is final where it ends with a sigmoid (mmdetection), else logits (the official code). Outputs are told apart
by their channels; size and offset by their names (wh or size; reg or off), else by the order of the official code:
heat, size, offset. Peaks need no NMS. Input: BGR, the official code's mean and deviation, centred letterbox, 0.
"""

from __future__ import annotations

from typing import NamedTuple

from eyas.families import Guess, check_outputs, corners, grid
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard, Normalise

STRIDE = 4
MEAN, DEVIATION = (0.408, 0.447, 0.470), (0.289, 0.274, 0.278)  # blue, green, red, of 0…1
NORMALISE = Normalise(
    "bgr",
    (255 * MEAN[0], 255 * MEAN[1], 255 * MEAN[2]),
    (1 / (255 * DEVIATION[0]), 1 / (255 * DEVIATION[1]), 1 / (255 * DEVIATION[2])),
)
NOTHING = -1e4  # the logit of a cell that is no peak: its sigmoid is 0 in float32


class Maps(NamedTuple):
    """The outputs' names."""

    heat: str
    size: str
    offset: str


def recognise(facts: Facts) -> list[Guess]:
    """Three maps at stride 4."""
    maps = _maps(facts)
    if maps is None:
        return []
    params = {"logits": facts.makers.get(maps.heat) != "Sigmoid"}
    return [Guess(int(facts.outputs[maps.heat][1]), NORMALISE, "letterbox", 0, params=params)]


def _maps(facts: Facts) -> Maps | None:
    """Which output is which; None where they are others."""
    cells = tuple(-(-side // STRIDE) for side in facts.size)
    shapes = facts.outputs
    if len(shapes) != 3 or any(len(s) != 4 or s[2:] != cells or not isinstance(s[1], int) for s in shapes.values()):
        return None
    pairs = [name for name, shape in shapes.items() if shape[1] == 2]
    if len(pairs) == 3:  # two classes: only the name can tell, or the order
        heat = next((n for n in pairs if _named(n, "hm", "heat")), pairs[0])
        pairs.remove(heat)
    if len(pairs) != 2:
        return None
    (heat,) = (n for n in shapes if n not in pairs)
    if _named(pairs[0], "reg", "off") or _named(pairs[1], "wh", "size"):
        pairs.reverse()
    return Maps(heat, *pairs)


def _named(name: str, *words: str) -> bool:
    return any(word in name.lower() for word in words)


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Peaks as scores; boxes as in the module's head, for the chosen peaks only."""
    found, classes = _maps(facts), len(card.names)
    fits = found is not None and facts.outputs[found.heat][1] == classes
    check_outputs(card, fits, facts, f"heat [B, {classes}, h, w], size and offset [B, 2, h, w] at stride {STRIDE}")
    maps = found or Maps("", "", "")
    points, _ = grid(card.input_size, (STRIDE,), 0.0)
    logits = bool(card.params.get("logits", facts.makers.get(maps.heat) != "Sigmoid"))
    heat = g.cast(maps.heat)
    around = g.op("MaxPool", heat, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
    peaks = g.op("Where", g.op("Equal", heat, around), heat, g.const(NOTHING if logits else 0.0))

    def flat(edge: str, channels: int) -> str:
        return g.op("Reshape", edge, g.const([0, channels, len(points)], "int64"))

    scores = flat(peaks, classes)
    size, offset = (flat(g.cast(edge), 2) for edge in (maps.size, maps.offset))

    def pick(index: str) -> Rows:
        extent, shift = (
            g.op("Mul", g.op("Transpose", g.take(edge, index, 2, 2), perm=[0, 2, 1]), g.const(float(STRIDE)))
            for edge in (size, offset)
        )
        centre = g.op("Add", g.op("Gather", g.const(points), index), shift)
        box = g.op("Concat", centre, extent, axis=2)
        return Rows(g.take(scores, index, classes, 2), corners(g, box))

    return Cells(scores, 1, len(points), classes, pick, logits=logits, suppress="never")
