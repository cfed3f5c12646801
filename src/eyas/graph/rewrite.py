"""Rewrites that leave a network's results as they are: each states its pattern, its maths and its reason."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from eyas.graph.builder import Builder


def unfold_expectation(model: onnx.ModelProto) -> int:
    """Softmax → Conv(1 × 1, one output channel, no bias) becomes Softmax → Mul → ReduceSum. Returns how many.

    Pattern: the "DFL" layer of YOLOv8 and later, which writes an expectation Σ_c w[c] · p[b, c, y, x] as a
    convolution. The sum is the same; but OpenVINO runs everything up to the last convolution in bf16, so as a
    convolution it rounds the box sides to 8 bits, up to 2 px off at stride 32.
    """
    graph = model.graph
    weights = {t.name: t for t in graph.initializer}
    softmaxes = {n.output[0] for n in graph.node if n.op_type == "Softmax"}
    g = Builder(model, "expectation")
    done = 0
    for node in list(graph.node):
        plain = node.op_type == "Conv" and len(node.input) == 2 and node.input[0] in softmaxes
        if not plain or node.input[1] not in weights:
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        if weight.ndim != 4 or weight.shape[0] != 1 or weight.shape[2:] != (1, 1) or _moves_pixels(node):
            continue
        scaled = g.op("Mul", node.input[0], g.const(weight, weight.dtype.name))
        g.over_axes("ReduceSum", scaled, [1], keepdims=1, out=node.output[0])
        _replace(graph, node, g.take_nodes())
        done += 1
    graph.initializer.extend(g.initializers)
    return done


def _moves_pixels(conv: onnx.NodeProto) -> bool:
    """Whether a 1 × 1 convolution strides, pads or groups."""
    attributes = {a.name: list(a.ints) or [a.i] for a in conv.attribute if a.name in ("strides", "pads", "group")}
    neutral = {"strides": {1}, "pads": {0}, "group": {1}}
    return any(not set(values) <= neutral[name] for name, values in attributes.items())


def _replace(graph: onnx.GraphProto, old: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
    at = next(i for i, node in enumerate(graph.node) if node is old or node.output[:] == old.output[:])
    nodes = list(graph.node)
    nodes[at : at + 1] = new
    del graph.node[:]
    graph.node.extend(nodes)
