"""Rewrites that leave a network's results as they are: each states its pattern, its maths and its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from eyas.graph.builder import Builder
from eyas.graph.surgery import PRODUCTS, edges_read, feeding_products


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
    instead: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        plain = node.op_type == "Conv" and len(node.input) == 2 and node.input[0] in softmaxes
        if not plain or node.input[1] not in weights:
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        if weight.ndim != 4 or weight.shape[0] != 1 or weight.shape[2:] != (1, 1) or _moves_pixels(node):
            continue
        scaled = g.op("Mul", node.input[0], g.const(weight, weight.dtype.name))
        g.over_axes("ReduceSum", scaled, [1], keepdims=1, out=node.output[0])
        instead[node.output[0]] = g.take_nodes()
    graph.initializer.extend(g.initializers)
    _replace(graph, instead)
    return len(instead)


def widen_last_products(model: onnx.ModelProto) -> int:
    """Put LeakyRelu(alpha = 1), which is x ↦ x, behind every last convolution or product. Returns how many.

    Pattern: a Conv or matrix product (with its bias, where that is an Add of its own) on which no other one depends.
    OpenVINO rounds such a layer's results to bf16 although all that follows is fp32; fused with an activation, it
    writes fp32. A slope of 1 is an activation to the compiler and nothing to the numbers.

    Results that only a Sigmoid or a Softmax reads are left alone: rounding x to 8 bits moves σ(x) by at most
    max|x · σ'(x)| · 2⁻⁹ < 0.0005, and writing fp32 costs time. It matters where they *are* coordinates.
    """
    graph = model.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for edge in node.input:
            readers.setdefault(edge, []).append(node)
    inner = feeding_products(graph)
    last = []
    for node in graph.node:
        if node.op_type in PRODUCTS and node.output[0] not in inner:
            after = readers.get(node.output[0], [])
            end = after[0] if len(after) == 1 and after[0].op_type == "Add" else node
            if not _only_squashed(end.output[0], readers):
                last.append(end)
    instead = {}
    for node in last:
        edge, narrow = node.output[0], f"{node.output[0]}/narrow"
        product = onnx.NodeProto()
        product.CopyFrom(node)
        product.output[0] = narrow
        instead[edge] = [product, helper.make_node("LeakyRelu", [narrow], [edge], f"{edge}/wide", alpha=1.0)]
    _replace(graph, instead)
    return len(instead)


# Operators that hand on values as they are; and those behind which rounding no longer matters.
_MOVERS = frozenset(
    {"Cast", "Identity", "Reshape", "Transpose", "Concat", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten"}
    | {"Gather", "GatherElements", "ReduceMax"}
)
_SQUASHERS = frozenset({"Sigmoid", "Softmax", "ArgMax"})


def _only_squashed(edge: str, readers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """Whether all that is computed from the edge, but for moving and choosing values, squashes or compares them."""
    todo, seen = [edge], {edge}
    while todo:
        for node in readers.get(todo.pop(), [onnx.NodeProto(op_type="(output)")]):
            if node.op_type in _MOVERS:
                fresh = set(node.output) - seen
                seen |= fresh
                todo.extend(fresh)
            elif node.op_type not in _SQUASHERS:
                return False
    return True


def split_convolutions(model: onnx.ModelProto) -> int:
    """Conv → Split(channels) becomes one Conv for each part, with its share of the weights. Returns how many.

    Pattern: a Conv of one group with constant weights whose only reader splits its channels, as detection heads do
    that compute scores and boxes at once. Each output channel depends on its own weights alone, so the results are
    the same; a Split of channels is a copy, and with channels innermost a slow one (an eighth of NanoDet-g's time).
    """
    graph = model.graph
    weights = {t.name: t for t in graph.initializer}
    readers = Counter(edge for node in graph.node for edge in edges_read([node]))
    readers.update(o.name for o in graph.output)
    convolutions = {n.output[0]: n for n in graph.node if n.op_type == "Conv" and readers[n.output[0]] == 1}
    instead: dict[str, list[onnx.NodeProto]] = {}
    for split in graph.node:
        conv = convolutions.get(split.input[0]) if split.op_type == "Split" else None
        attributes = {a.name: helper.get_attribute_value(a) for a in (*split.attribute, *(conv or split).attribute)}
        if conv is None or attributes.get("axis", 0) != 1 or attributes.get("group", 1) != 1:
            continue
        if not all(edge in weights and readers[edge] == 1 for edge in conv.input[1:]):
            continue
        arrays = [numpy_helper.to_array(weights[edge]) for edge in conv.input[1:]]
        sizes = attributes.get("split") or _constant(weights, split.input[1:])
        if sizes is None or sum(sizes) != len(arrays[0]):
            continue
        parts = []
        bounds = np.cumsum([0, *sizes])
        for i, edge in enumerate(split.output):
            part = onnx.NodeProto()
            part.CopyFrom(conv)
            part.name = part.output[0] = edge
            for k, array in enumerate(arrays):
                part.input[1 + k] = f"{conv.input[1 + k]}/part{i}"
                share = np.ascontiguousarray(array[bounds[i] : bounds[i + 1]])
                graph.initializer.append(numpy_helper.from_array(share, part.input[1 + k]))
            parts.append(part)
        instead |= {conv.output[0]: [], split.output[0]: parts}
    _replace(graph, instead)
    return len(instead) // 2


def _constant(weights: Mapping[str, onnx.TensorProto], edges: Sequence[str]) -> list[int] | None:
    """The whole numbers on the first edge if it is a constant."""
    return numpy_helper.to_array(weights[edges[0]]).tolist() if edges and edges[0] in weights else None


def _moves_pixels(conv: onnx.NodeProto) -> bool:
    """Whether a 1 × 1 convolution strides, pads or groups."""
    attributes = {a.name: list(a.ints) or [a.i] for a in conv.attribute if a.name in ("strides", "pads", "group")}
    neutral = {"strides": {1}, "pads": {0}, "group": {1}}
    return any(not set(values) <= neutral[name] for name, values in attributes.items())


def _replace(graph: onnx.GraphProto, instead: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Put other nodes in the place of those whose first output is named."""
    nodes = [new for node in graph.node for new in instead.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(nodes)
