"""Classifiers: ResNet and every other network with one score a class.

Output [B, C] (or [B, C, 1, 1]): probabilities where a Softmax or Sigmoid made them, else logits; a card's params may
say otherwise ({"logits": false}). Input, as torchvision's and timm's
ImageNet models want it: RGB with ImageNet's mean and deviation, 224 of 256 pixels cut from the middle. Ultralytics'
classifiers (which say so in their metadata): RGB / 255, the whole shorter side.
"""

from __future__ import annotations

from eyas.families import IMAGENET, RGB_UNIT, Guess, check_outputs
from eyas.families.arcface import LENGTHS, SIDE
from eyas.graph.builder import Builder
from eyas.graph.network import Facts
from eyas.graph.vector import Scores
from eyas.imagenet import IMAGENET1000
from eyas.types import ModelCard

CROP = 0.875  # 224 of 256


def recognise(facts: Facts) -> list[Guess]:
    """One score a class; a vector that another family knows by its size is left to that."""
    shapes = list(facts.outputs.values())
    classes = _classes(shapes[0]) if len(shapes) == 1 else 0
    height, width = facts.size
    vector = height in (2 * width, 3 * width) or (facts.size == (SIDE, SIDE) and classes in LENGTHS)
    names = IMAGENET1000 if classes == len(IMAGENET1000) else None
    params = {"logits": _logits(facts)}
    if classes and facts.metadata.get("task") == "classify":
        return [Guess(classes, RGB_UNIT, "crop", 0, params=params, task="classify", names=names)]
    if not classes or vector:
        return []
    return [Guess(classes, IMAGENET, "crop", 0, params=params, task="classify", crop=CROP, names=names)]


def _logits(facts: Facts) -> bool:
    """Whether the only output still needs a softmax."""
    return {"Softmax", "Sigmoid"}.isdisjoint(facts.makers.values())


def _classes(shape: tuple[int | str, ...]) -> int:
    """C of [B, C] or [B, C, 1, 1], 0 where it is neither."""
    flat = len(shape) == 2 or shape[2:] == (1, 1)
    return shape[1] if flat and isinstance(shape[1], int) and shape[1] > 1 else 0


def decode(g: Builder, card: ModelCard, facts: Facts) -> Scores:
    """Scores as they are."""
    classes = len(card.names)
    (name, shape), *more = facts.outputs.items()
    check_outputs(card, not more and _classes(shape) == classes, facts, f"one output [B, {classes}]")
    edge = g.cast(name)
    if len(shape) == 4:
        edge = g.op("Reshape", edge, g.const([0, classes], "int64"))
    return Scores(edge, classes, logits=bool(card.params.get("logits", _logits(facts))))
