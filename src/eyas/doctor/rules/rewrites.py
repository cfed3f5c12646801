"""D306 to D309: layers that could be fewer, or belong to training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from eyas.doctor.edit import constant, release, replace, reread
from eyas.doctor.rule import Rule
from eyas.doctor.subject import Subject, attribute, name_of

Found = Iterator[tuple[str, str]]


def _foldable(s: Subject) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Conv and the BatchNormalization that alone reads it, all their weights constant and the Conv's not shared."""
    for norm in s.graph.node:
        conv = s.makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or _trains(s, norm) or s.count(norm.input[0]) != 1:
            continue
        if all(s.value(edge) is not None for edge in (*conv.input[1:], *norm.input[1:]) if edge):
            yield conv, norm


def _norms(s: Subject) -> Found:
    for conv, norm in _foldable(s):
        yield name_of(norm), f"stands behind the convolution {name_of(conv)}"


def fold_norms(model: onnx.ModelProto) -> bool:
    """Conv(x; W, b) → BatchNormalization(s, β, μ, σ²) becomes Conv(x; W', b') with, for each output channel,

        f = s / √(σ² + ε),   W' = f · W,   b' = f · (b − μ) + β

    since f · (W·x + b − μ) + β = (f · W)·x + f · (b − μ) + β. Computed in float64; equal but for rounding.
    """
    graph, s = model.graph, Subject(model)
    used: set[str] = set()
    instead: dict[str, list[onnx.NodeProto]] = {}
    for conv, norm in _foldable(s):
        scale, shift, mean, variance = (np.asarray(s.value(edge), np.float64) for edge in norm.input[1:5])
        weight = s.value(conv.input[1])
        assert weight is not None  # noqa: S101 (`_foldable` has looked)
        bias = s.value(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else None
        factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        folded = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        moved = factor * ((0 if bias is None else bias) - mean) + shift
        names = (f"{conv.input[1]}/folded", f"{norm.output[0]}/bias")
        edges = [constant(graph, a.astype(weight.dtype), n) for a, n in zip((folded, moved), names, strict=True)]
        new = onnx.NodeProto()
        new.CopyFrom(conv)
        del new.input[1:]
        new.input.extend(edges)
        new.output[0] = norm.output[0]
        instead |= {conv.output[0]: [], norm.output[0]: [new]}
        used |= {*conv.input[1:], *norm.input[1:]}
    replace(graph, instead)
    release(graph, used)
    return bool(instead)


def _trains(s: Subject, node: onnx.NodeProto) -> bool:
    """Whether a Dropout or BatchNormalization computes as in training: drops at random, or normalises by the batch."""
    if node.op_type == "BatchNormalization":
        return bool(attribute(node, "training_mode", 0)) or sum(map(bool, node.output)) > 1
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    mode = s.value(node.input[2])
    return mode is None or bool(mode)


def _training(s: Subject) -> Found:
    for node in s.graph.node:
        if _trains(s, node):
            yield name_of(node), f"{node.op_type} in training mode"


def _idle(s: Subject) -> Iterator[onnx.NodeProto]:
    """Dropouts that drop nothing and Identities between two nodes."""
    for node in s.graph.node:
        alone = len(node.output) == 1 or not s.count(node.output[1])
        between = not s.deployed and node.output[0] not in s.outputs and s.count(node.output[0]) > 0
        drops = node.op_type == "Dropout" and alone and not _trains(s, node)
        if drops or (node.op_type == "Identity" and between):
            yield node


def _dropouts(s: Subject) -> Found:
    return ((name_of(n), "Dropout is left in") for n in _idle(s) if n.op_type == "Dropout")


def _identities(s: Subject) -> Found:
    return ((name_of(n), "Identity does nothing") for n in _idle(s) if n.op_type == "Identity")


def bypass(model: onnx.ModelProto) -> bool:
    """Dropout (not in training) and Identity are x ↦ x: their readers read x. Before an output, Identity remains."""
    graph, s = model.graph, Subject(model)
    source: dict[str, str] = {}
    for node in _idle(s):  # in the graph's order, so that what it reads is known to the end
        source[node.output[0]] = source.get(node.input[0], node.input[0])
    for edge, x in source.items():
        if edge not in s.outputs:
            reread(graph, edge, x)
    last = {e: [helper.make_node("Identity", [x], [e], name_of(s.makers[e]))] for e, x in source.items()}
    replace(graph, {edge: last[edge] if edge in s.outputs else [] for edge in source})
    return bool(source)


RULES = (
    Rule(
        "D306",
        "BatchNormalization behind a convolution",
        "warning",
        "It can be part of the convolution's weights; left apart, it costs a pass over memory and spoils int8.",
        "Export in eval() mode; --fix folds it.",
        _norms,
        fold_norms,
        tolerance=1e-4,
    ),
    Rule(
        "D307",
        "Dropout is left in",
        "warning",
        "It does nothing, but ends fusion.",
        "Export in eval() mode; --fix removes it.",
        _dropouts,
        bypass,
    ),
    Rule(
        "D308",
        "a layer in training mode",
        "error",
        "Results depend on chance, or on the other pictures of the batch.",
        "Call model.eval() and export again.",
        _training,
    ),
    Rule(
        "D309",
        "Identity between two nodes",
        "warning",
        "It does nothing, but hides patterns that engines fuse.",
        "--fix removes it.",
        _identities,
        bypass,
    ),
)
