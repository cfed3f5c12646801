"""The end of deploy graphs that describe the picture as a whole: class probabilities, or a unit vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import TensorProto

from eyas.graph.builder import Builder
from eyas.graph.surgery import Output
from eyas.types import Task


@dataclass(frozen=True, slots=True)
class Scores:
    """One score a class: edge [B, classes] float32, in 0…1, or logits that a softmax turns into that."""

    edge: str
    classes: int
    logits: bool
    task: ClassVar[Task] = "classify"


@dataclass(frozen=True, slots=True)
class Vector:
    """What the picture looks like: edge [B, size] float32, of any length."""

    edge: str
    size: int
    task: ClassVar[Task] = "embed"


def append_scores(g: Builder, scores: Scores) -> list[Output]:
    """`probabilities`, float32 [B, C]."""
    edge = g.op("Softmax", scores.edge, axis=1) if scores.logits else scores.edge
    return [Output("probabilities", edge, TensorProto.FLOAT, (scores.classes,))]


def append_vector(g: Builder, vector: Vector) -> list[Output]:
    """`embedding`, float32 [B, D]: v / |v|, and 0 where v is 0. Products and sums, no MatMul: see `eyas.graph.head`.

    v is first divided by its largest |value|, so that no square leaves float32's range.
    """
    largest = g.over_axes("ReduceMax", g.op("Abs", vector.edge), [1], keepdims=1)
    scaled = g.op("Div", vector.edge, g.op("Max", largest, g.const(1e-30)))
    length = g.op("Sqrt", g.over_axes("ReduceSum", g.op("Mul", scaled, scaled), [1], keepdims=1))
    unit = g.op("Div", scaled, g.op("Max", length, g.const(1e-30)))
    return [Output("embedding", unit, TensorProto.FLOAT, (vector.size,))]
