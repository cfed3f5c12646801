"""What a deploy graph needs before TensorRT takes it. Each change leaves the results as they are, but for rounding.

1. TensorRT casts and reshapes uint8 but computes nothing on it, a transposition included. The stem transposes the
   picture, then casts it; here the cast goes first. Both orders give the same numbers.
2. fp16 and bf16 are casts in the graph (`eyas.graph.precision`): strongly typed networks take precision from nowhere
   else. The head behind the last product stays in fp32.
3. TensorRT-RTX has no fp32 matrix product for Turing (SM75), but has convolutions: Gemm(x) with a constant matrix is
   written as a 1 × 1 convolution over one pixel, the same sums.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from eyas.errors import ModelError
from eyas.graph.surgery import dims_of
from eyas.types import BuildSpec

log = logging.getLogger("eyas")
NARROW_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def prepare(model: onnx.ModelProto, spec: BuildSpec, *, turing: bool = False) -> tuple[onnx.ModelProto, str]:
    """A changed copy, and the precision of its network: "fp32", "fp16", "bf16" or "int8".

    turing: whether it is to run on SM75. Raises ModelError where the precision cannot be had.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    cast_before_transposing(copy.graph)
    if turing:
        write_gemm_as_convolution(copy)
    return copy, narrow(copy, spec)


def narrow(model: onnx.ModelProto, spec: BuildSpec) -> str:
    """Write `spec.precision` into the graph, in place; "auto" is fp16 where nobody has chosen before."""
    had = precision_in(model)
    if spec.precision == "fp32" or (spec.precision == "auto" and had != "fp32"):
        return had
    if had == spec.precision:
        return had
    from eyas.graph.precision import to_narrow

    wanted = "bf16" if spec.precision == "bf16" else "fp16"
    try:
        to_narrow(model, wanted)  # type: ignore[arg-type]
    except ModelError as error:
        if spec.precision != "auto":
            raise
        log.info("built in fp32: %s", error)
        return had
    return wanted


def precision_in(model: onnx.ModelProto) -> str:
    """What the graph already says: "int8" with QuantizeLinear, "fp16" or "bf16" with weights of that type."""
    if any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node):
        return "int8"
    types = {t.data_type for t in model.graph.initializer}
    return "fp16" if TensorProto.FLOAT16 in types else "bf16" if TensorProto.BFLOAT16 in types else "fp32"


def cast_before_transposing(graph: onnx.GraphProto) -> int:
    """Transpose(uint8) → Cast becomes Cast → Transpose, in place; returns how often."""
    small = {i.name for i in graph.input if i.type.tensor_type.elem_type == TensorProto.UINT8}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for edge in node.input:
            readers.setdefault(edge, []).append(node)
    outputs = {o.name for o in graph.output}
    done = 0
    for node in graph.node:
        follow = readers.get(node.output[0], []) if node.output else []
        if node.op_type != "Transpose" or node.input[0] not in small or node.output[0] in outputs:
            continue
        if len(follow) != 1 or follow[0].op_type != "Cast":
            continue
        cast, perm = follow[0], helper.get_node_attr_value(node, "perm")
        to, source, end = helper.get_node_attr_value(cast, "to"), node.input[0], cast.output[0]
        names, early = (node.name, cast.name), f"{end}/early"
        node.CopyFrom(helper.make_node("Cast", [source], [early], names[1], to=to))
        cast.CopyFrom(helper.make_node("Transpose", [early], [end], names[0], perm=perm))
        done += 1
    return done


def write_gemm_as_convolution(model: onnx.ModelProto) -> int:
    """fp32 Gemm with a constant matrix → Reshape, Conv 1 × 1, Reshape, in place; returns how often.

    y = α x Wᵀ + β b, with x [B, C] and W [N, C]: as a convolution, the weights are α W [N, C, 1, 1], the bias β b.
    """
    graph = model.graph
    weights = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    nodes: list[onnx.NodeProto] = []
    done = 0
    for node in graph.node:
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        constants = [weights.get(edge) for edge in node.input[1:] if edge]
        if node.op_type != "Gemm" or settings.get("transA") or not constants or None in constants:
            nodes.append(node)
            continue
        matrix, *bias = [numpy_helper.to_array(t) for t in constants if t is not None]
        matrix = matrix if settings.get("transB") else matrix.T
        count, depth = matrix.shape
        if bias and bias[0].size not in (1, count):
            nodes.append(node)
            continue
        base = f"{node.output[0]}/as_conv"
        kernel = (settings.get("alpha", 1.0) * matrix).astype(np.float32).reshape(count, depth, 1, 1)
        offset = np.broadcast_to(settings.get("beta", 1.0) * (bias[0].ravel() if bias else 0), count)
        stored = {
            f"{base}/kernel": np.ascontiguousarray(kernel),
            f"{base}/bias": np.ascontiguousarray(offset, np.float32),
            f"{base}/pixel": np.array([-1, depth, 1, 1], np.int64),
            f"{base}/row": np.array([-1, count], np.int64),
        }
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
        kernel_, bias_, pixel, row = stored
        nodes += [
            helper.make_node("Reshape", [node.input[0], pixel], [f"{base}/in"], f"{base}/in"),
            helper.make_node("Conv", [f"{base}/in", kernel_, bias_], [f"{base}/out"], node.name, kernel_shape=[1, 1]),
            helper.make_node("Reshape", [f"{base}/out", row], [node.output[0]], f"{base}/out"),
        ]
        done += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return done


def batch_of(model: onnx.ModelProto) -> int | None:
    """The batch that the graph is fixed to, None where it is free."""
    batch = dims_of(model.graph.input[0])[0]
    return batch if isinstance(batch, int) else None
