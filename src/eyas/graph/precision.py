"""fp16 and bf16 as rewrites of a network: casts in the graph, as runtimes with strongly typed networks want it.

A node runs in the narrow type if its operator is in `NARROW`, a convolution or matrix product depends on it (or, in
fp16, it is one), and nobody asked to keep it. Its fp32 inputs are cast, its outputs are cast back for whoever stays
in fp32, and so are the network's outputs. So the decode behind the last product never sees a rounded coordinate.

bf16 has 8 significant bits: the last products stay in fp32 there, since their results can be pixels. fp16 has 11 bits
(relative error 2⁻¹²), but ends at 65,504: nodes whose weights or measured values come near that stay in fp32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from eyas.errors import ModelError, problem
from eyas.graph.surgery import PRODUCTS, edges_read, feeding_products

Narrow = Literal["fp16", "bf16"]
ELEMENTS: Mapping[Narrow, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
OPSETS: Mapping[Narrow, int] = {"fp16": 11, "bf16": 22}  # bf16 convolutions and pools exist since opset 22
LARGEST = 65504.0 / 4  # fp16's range, and a reserve of two bits for pictures that were not measured

# Operators that compute the same in every floating type and that ONNX Runtime, OpenVINO and TensorRT have in fp16.
NARROW = PRODUCTS | frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "DepthToSpace", "Div", "Elu", "Flatten", "Gelu"}
    | {"GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MaxPool", "Mish", "Mul", "Neg"}
    | {"PRelu", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "SpaceToDepth", "Split", "Squeeze", "Sub"}
    | {"Tanh", "Transpose", "Unsqueeze"}
)
_FIRST_ALONE = frozenset({"Resize"})  # the other inputs (region, scales) are fp32 in every version of the operator


def to_narrow(
    model: onnx.ModelProto,
    precision: Narrow,
    *,
    keep: Iterable[str] = (),
    largest: Mapping[str, float] | None = None,
) -> list[str]:
    """Rewrite `model` in place; returns the names (first outputs) of the nodes that could run narrow but stay in fp32.

    keep: nodes to leave in fp32, by first output. largest: edge → the largest |value| that was measured on it.
    Inputs and outputs keep their types. Raises ModelError where the opset is too old for the type, or where nothing
    can be converted.
    """
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < OPSETS[precision]:
        raise ModelError(
            problem(
                f"the model's operators do not know {precision}",
                got=f"opset {opset}",
                expected=f"opset {OPSETS[precision]} or newer",
                remedy="Convert it with onnx.version_converter, or export it again.",
            )
        )
    constants_to_weights(model.graph)
    floats = float_edges(model)
    weights = {t.name: t for t in model.graph.initializer}
    able = _able(model.graph, precision, floats)
    kept = able & (set(keep) | (_overflowing(model.graph, weights, largest or {}) if precision == "fp16" else set()))
    chosen = able - kept
    if not chosen:
        raise ModelError(
            problem(
                f"nothing in the network can run in {precision}",
                got=", ".join(sorted({n.op_type for n in model.graph.node})[:8]),
                expected="an fp32 network with convolutions or matrix products",
                remedy="It may be narrow already: `eyas info` shows what it is.",
            )
        )
    _rewrite(model.graph, chosen, ELEMENTS[precision], floats, weights)
    return sorted(kept)


def narrowable(model: onnx.ModelProto, precision: Narrow) -> tuple[tuple[str, str], ...]:
    """(first output, operator) of the nodes that `to_narrow` would rewrite if nobody asked to keep any."""
    able = _able(model.graph, precision, float_edges(model))
    return tuple((n.output[0], n.op_type) for n in model.graph.node if n.output[0] in able)


def float_edges(model: onnx.ModelProto) -> set[str]:
    """Every fp32 edge of the graph, weights included."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}


def constants_to_weights(graph: onnx.GraphProto) -> None:
    """Constant nodes that hold a tensor become initialisers, so that passes see one kind of weight."""
    rest = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            graph.initializer.add().CopyFrom(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
        else:
            rest.append(node)
    del graph.node[:]
    graph.node.extend(rest)


def _able(graph: onnx.GraphProto, precision: Narrow, floats: set[str]) -> set[str]:
    """First outputs of the nodes that may run narrow."""
    inner = feeding_products(graph)
    if precision == "fp16":
        inner |= {n.output[0] for n in graph.node if n.op_type in PRODUCTS}
    return {n.output[0] for n in graph.node if n.op_type in NARROW and n.output[0] in inner and n.output[0] in floats}


def _overflowing(
    graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto], largest: Mapping[str, float]
) -> set[str]:
    """Nodes that read or write what fp16 cannot hold: a weight beyond its range, or an edge measured near its end."""
    wide = {edge for edge, value in largest.items() if not value <= LARGEST}  # NaN too
    for name, tensor in weights.items():
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if values.size and not np.abs(values).max() <= LARGEST * 4:
                wide.add(name)
    return {n.output[0] for n in graph.node if not wide.isdisjoint([*n.input, *n.output])}


def _rewrite(
    graph: onnx.GraphProto,
    chosen: set[str],
    element: int,
    floats: set[str],
    weights: Mapping[str, onnx.TensorProto],
) -> None:
    outputs = {o.name for o in graph.output}
    wide_reads = edges_read(n for n in graph.node if n.output[0] not in chosen) | outputs
    wide_reads |= {e for n in graph.node if n.op_type in _FIRST_ALONE for e in n.input[1:]}
    narrow: dict[str, str] = {}  # fp32 edge → its narrow twin
    nodes: list[onnx.NodeProto] = []

    def twin(edge: str) -> str:
        """The narrow twin of an fp32 edge, made where it is first read."""
        if edge not in narrow:
            narrow[edge] = f"{edge}/narrow"
            if edge in weights:
                stored = _stored(weights[edge], element, narrow[edge])
                graph.initializer.append(stored)
            else:
                nodes.append(helper.make_node("Cast", [edge], [narrow[edge]], narrow[edge], to=element))
        return narrow[edge]

    for node in graph.node:
        if node.output[0] not in chosen:
            nodes.append(node)
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        count = 1 if node.op_type in _FIRST_ALONE else len(node.input)
        copy.input[:count] = [twin(e) if e in floats else e for e in node.input[:count]]
        for i, edge in enumerate(node.output):
            if edge in floats:
                narrow[edge] = copy.output[i] = f"{edge}/narrow"
        nodes.append(copy)
        wanted = [e for e in node.output if e in floats and e in wide_reads]
        nodes.extend(helper.make_node("Cast", [narrow[e]], [e], f"{e}/wide", to=TensorProto.FLOAT) for e in wanted)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    read = edges_read(nodes) | outputs
    left = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(left)


def _stored(tensor: onnx.TensorProto, element: int, name: str) -> onnx.TensorProto:
    """The weight in the narrow type, rounded to nearest, ties to even. What fp16 cannot hold is kept out before."""
    values = numpy_helper.to_array(tensor).astype(np.float32)
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(element)), name)
