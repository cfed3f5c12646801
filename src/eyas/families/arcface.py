"""ArcFace, MobileFaceNet and other face embeddings: one vector a face of 112 × 112 pixels.

Output [B, D], of any length; the direction is what counts. Input: RGB, (x − 127.5) / 127.5, the face aligned by its
five points (`eyas.faces.align`). Deng et al., "ArcFace", 2019, §3.1; insightface's `arcface_onnx.py`.
"""

from __future__ import annotations

from eyas.families import Guess, check_outputs
from eyas.graph.builder import Builder
from eyas.graph.network import Facts
from eyas.graph.vector import Vector
from eyas.types import ModelCard, Normalise

SIDE = 112
LENGTHS = (128, 256, 512)
UNIT = (1 / 127.5,) * 3


def recognise(facts: Facts) -> list[Guess]:
    """One vector of a usual length from a picture of 112 × 112."""
    shapes = list(facts.outputs.values())
    if facts.size != (SIDE, SIDE) or len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] not in LENGTHS:
        return []
    normalise = Normalise("rgb", (127.5, 127.5, 127.5), UNIT)
    return [Guess(None, normalise, "stretch", pad_value=0, task="embed", names=())]


def decode(g: Builder, card: ModelCard, facts: Facts) -> Vector:
    """The vector as it is; the deploy graph makes its length 1."""
    (name, shape), *more = facts.outputs.items()
    check_outputs(card, not more and len(shape) == 2 and isinstance(shape[1], int), facts, "one output [B, D]")
    return Vector(g.cast(name), int(shape[1]))
