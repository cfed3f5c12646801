"""Rules of the walk (`eyas.graph.replay`) for operators that compute: element by element, over axes, over pixels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import onnx
from onnx import helper, shape_inference

from eyas.graph.replay.axes import (
    Atom,
    Axis,
    Layout,
    axis_of,
    batch_at,
    changes,
    has_batch,
    leads,
    new,
    new_shape,
    old,
    old_shape,
)
from eyas.graph.replay.walk import Walk, rule, single_row

_SAME_ROW = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"})  # of one value: itself


@rule(
    *("Abs", "Acos", "Asin", "Atan", "BitwiseNot", "Cast", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal"),
    *("Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tan"),
    *("Tanh", "ThresholdedRelu"),
)
def _unary(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    return [walk.layout(node.input[0])]


@rule("Dropout")
def _dropout(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    if len(node.input) > 2 and node.input[2] and walk.value(node.input[2]).any():
        raise ValueError("it is in training mode")
    return [walk.layout(node.input[0])]


@rule("QuantizeLinear", "DequantizeLinear")
def _quantise(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    axis = x[attributes.get("axis", 1) % len(x)] if len(walk.statics.shape(node.input[1])) else ()
    if attributes.get("block_size") or has_batch(axis) or changes(axis):
        raise ValueError("its scales are one for each value of an axis that changes")
    return [x]


@rule(
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip", "Div", "Equal", "Greater"),
    *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum"),
    *("Where", "Xor"),
)
def elementwise(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    """Broadcasting, counted from the last axis. The images of all inputs must lie along the same axis."""
    shapes = {i: walk.statics.shape(e) for i, e in enumerate(node.input) if e and e not in walk.layouts}
    moving = [walk.layouts[e] for e in node.input if e in walk.layouts]
    rank = max([*map(len, moving), *map(len, shapes.values())])
    result = [_widest([m[p - rank] for m in moving if rank - p <= len(m)]) for p in range(rank)]
    places = {None if (k := batch_at(m)) is None else k + rank - len(m) for m in moving}
    if len(places) > 1:
        raise ValueError("the images of its inputs lie along different axes")
    for i, shape in shapes.items():
        over = result[rank - len(shape) :]
        value = walk.statics.value(node.input[i]) if _concerns(over, shape) else None
        for q, (extent, axis) in enumerate(zip(shape, over, strict=True)):
            if extent == 1:
                continue
            if has_batch(axis) and (len(axis) > 1 or value is None or extent != old(axis)):
                raise ValueError(f"a constant {list(shape)} spans the batch")
            if has_batch(axis):
                assert value is not None  # noqa: S101 - as tested above
                value = single_row(value, q)
            elif old(axis) == 1:
                if walk.purpose.resizes and extent in walk.sizes:
                    raise ValueError(f"a constant {list(shape)} may depend on the input's size")
                result[rank - len(shape) + q] = axis_of(extent)
        if value is None:
            if walk.purpose.resizes and (prod(shape) <= 8 or walk.statics.derived(node.input[i])):
                walk.check(node.input[i], tuple(result))
            continue
        if any(changes(a) and not has_batch(a) and d > 1 for a, d in zip(over, shape, strict=True)):
            value = walk.purpose.remake(value, tuple(a if d > 1 else () for a, d in zip(over, shape, strict=True)))
        node.input[i] = walk.const(value, value.dtype.name)
    return [tuple(result)]


def _concerns(over: Sequence[Axis], shape: Sequence[int]) -> bool:
    """Whether a constant has several values along an axis that changes."""
    return any(d > 1 and (changes(a) or has_batch(a)) for a, d in zip(over, shape, strict=True))


def _widest(axes: Sequence[Axis]) -> Axis:
    """The axis that the others broadcast to. Raises ValueError if they do not fit."""
    if not axes:
        return ()
    best = max(axes, key=lambda a: (has_batch(a), old(a), len(a), max([len(b.parts) for b in a], default=0)))
    for axis in axes:
        alike = (old(axis), new(axis), has_batch(axis)) == (old(best), new(best), has_batch(best))
        if not alike and (old(axis) != 1 or new(axis) != 1 or has_batch(axis)):
            raise ValueError("its inputs no longer fit each other")
    return best


@rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    axis = attributes.get("axis", -1 if walk.opset >= 13 else 1) % len(x)
    over = x[axis : axis + 1] if walk.opset >= 13 else x[axis:]  # before 13, everything from the axis on
    if any(map(has_batch, over)):
        raise ValueError("it runs over the images of a batch")
    return [x]


@rule("LayerNormalization")
def _layer_norm(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    if any(has_batch(a) or changes(a) for a in x[attributes.get("axis", -1) % len(x) :]):
        raise ValueError("it runs over axes that change")
    return [x]


@rule("CumSum")
def _cumsum(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    if has_batch(x[int(walk.value(node.input[1])) % len(x)]):
        raise ValueError("it runs over the images of a batch")
    return [x]


@rule(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare"),
)
def reduce(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    """A reduction over an axis of one image leaves it as it is: written for many, that axis goes from the list."""
    x = walk.layout(node.input[0])
    axes = walk.axes(node, attributes, len(x))
    if not axes:
        axes = [] if attributes.get("noop_with_empty_axes") else list(range(len(x)))
    images = batch_at(x)
    keep = attributes.get("keepdims", 1)
    if images is not None and images in axes:
        if not keep or walk.purpose.images != 1 or len(x[images]) > 1:
            raise ValueError("it runs over the images of a batch")
        axes.remove(images)
        if not axes and node.op_type not in _SAME_ROW:
            raise ValueError("it runs over the images of a batch alone")
        _set_axes(walk, node, axes)
    if keep:
        return [tuple(() if i in axes else axis for i, axis in enumerate(x))]
    return [tuple(axis for i, axis in enumerate(x) if i not in axes)]


def _set_axes(walk: Walk, node: onnx.NodeProto, axes: list[int]) -> None:
    if not axes:
        node.op_type = "Identity"
        del node.attribute[:], node.input[1:]
        return
    kept = [a for a in node.attribute if a.name not in ("axes", "noop_with_empty_axes")]
    del node.attribute[:], node.input[1:]
    node.attribute.extend(kept)
    if walk.opset >= (13 if node.op_type == "ReduceSum" else 18):
        node.input.append(walk.const(axes))
    else:
        node.attribute.append(helper.make_attribute("axes", axes))


@rule("ArgMax", "ArgMin")
def _arg(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    axis = attributes.get("axis", 0) % len(x)
    if has_batch(x[axis]):
        raise ValueError("it runs over the images of a batch")
    return [(*x[:axis], *([()] if attributes.get("keepdims", 1) else []), *x[axis + 1 :])]


@rule("TopK")
def _top_k(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    axis, k = attributes.get("axis", -1) % len(x), int(walk.value(node.input[1]).ravel()[0])
    if has_batch(x[axis]):
        raise ValueError("it runs over the images of a batch")
    if changes(x[axis]) and (k >= new(x[axis]) or k == old(x[axis])):
        raise ValueError(f"its k = {k} depends on the input's size")
    return [(*x[:axis], axis_of(k), *x[axis + 1 :])] * 2


@rule("MatMul")
def _matmul(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    a, b = (_operand(walk, edge) for edge in node.input)
    if min(len(a), len(b)) < 2:
        raise ValueError("one of its operands is a vector")
    _contract(a[-1], b[-2])
    rank = max(len(a), len(b)) - 2
    places = {k - len(m) for m in (a, b) if (k := batch_at(m)) is not None}
    if len(places) > 1 or (places == {-1} and batch_at(a) is not None):
        raise ValueError("the images of its operands lie along different axes")
    lead = [_widest([m[p - rank - 2] for m in (a, b) if rank - p <= len(m) - 2]) for p in range(rank)]
    for m, edge in zip((a, b), node.input, strict=True):
        for p, axis in enumerate(m[:-2], rank + 2 - len(m)):
            if edge not in walk.layouts and old(axis) > 1 and (has_batch(lead[p]) or changes(lead[p])):
                raise ValueError("a constant operand spans an axis that changes")
    return [(*lead, a[-2], b[-1])]


def _operand(walk: Walk, edge: str) -> Layout:
    return walk.layouts[edge] if edge in walk.layouts else tuple(map(axis_of, walk.statics.shape(edge)))


def _contract(a: Axis, b: Axis) -> None:
    if has_batch(a) or has_batch(b):
        raise ValueError("it sums over the images of a batch")
    if (old(a), new(a)) != (old(b), new(b)):
        raise ValueError(f"its weights are tied to the input's size: it sums over {old(a)} values that become {new(a)}")


@rule("Gemm")
def _gemm(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    a, b = (_operand(walk, edge) for edge in node.input[:2])
    a = a[::-1] if attributes.get("transA") else a
    b = b[::-1] if attributes.get("transB") else b
    _contract(a[1], b[0])
    if node.input[1] in walk.layouts and (has_batch(a[0]) or has_batch(b[1])):
        raise ValueError("it multiplies images with images")
    result = (a[0], b[1])
    if len(node.input) > 2 and node.input[2]:
        c = _operand(walk, node.input[2])
        for axis, mine in zip(c[::-1], result[::-1], strict=False):
            if old(axis) > 1 and (has_batch(axis), new(axis)) != (has_batch(mine), new(mine)):
                raise ValueError("what it adds spans an axis that changes")
        place, mine_at = batch_at(c), batch_at(result)
        if place is not None and (mine_at is None or place - len(c) != mine_at - 2):
            raise ValueError("what it adds carries the images along another axis")
    return [result]


@rule("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LRN")
def _normalisation(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    """[B, C, …] → the same: each image by itself, by definition (BatchNormalization: by stored figures)."""
    x = walk.layout(node.input[0])
    if any(edge in walk.layouts for edge in node.input[1:]) or not leads(x) or changes(x[1]):
        raise ValueError("it does not work on one [batch, channels, …] tensor with constant weights")
    return [x]


@rule(
    *("AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"),
    *("LpPool", "MaxPool", "SpaceToDepth"),
)
def spatial(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    """[B, C, …]: images apart by definition; extents as ONNX infers them, in either world."""
    x = walk.layout(node.input[0])
    if any(edge in walk.layouts for edge in node.input[1:]) or not leads(x):
        raise ValueError("it does not work on one [batch, channels, …] tensor with constant weights")
    if new(x[1]) != old(x[1]):
        raise ValueError("its channels depend on the input's size")
    _refuse_tied_pool(node, attributes, x)
    was, becomes = (_inferred(walk, node, shape) for shape in (old_shape(x), new_shape(x)))
    found: list[Axis] = [x[0]]
    for i, (o, n) in enumerate(zip(was[1:], becomes[1:], strict=True), 1):
        role = x[i][0].role if len(x[i]) == 1 else ""
        if (o, n) == (old(x[i]), new(x[i])):
            found.append(x[i])
        elif o == n and (o == 1 or not role):
            found.append(axis_of(o))
        elif o > 1:
            found.append((Atom(o, n, role),))
        else:
            raise ValueError(f"its window is tied to the input's size: {o} cells become {n}")
    return [tuple(found)]


def _refuse_tied_pool(node: onnx.NodeProto, attributes: dict[str, Any], x: Layout) -> None:
    """A pool without overlap over a large part of the map was written for that map (adaptive pooling)."""
    kernel = attributes.get("kernel_shape", [])
    if node.op_type in ("AveragePool", "MaxPool", "LpPool"):
        for side, stride, axis in zip(kernel, attributes.get("strides", [1] * len(kernel)), x[2:], strict=True):
            if changes(axis) and side > 1 and (side >= old(axis) or side == stride >= 4):
                if node.op_type == "MaxPool" and stride == 1 and any(attributes.get("pads", [])):
                    continue
                raise ValueError(f"its window of {side} is tied to the input's size")


def _inferred(walk: Walk, node: onnx.NodeProto, shape: Sequence[int]) -> tuple[int, ...]:
    if any(d < 1 for d in shape):
        raise ValueError("nothing is left of the picture")
    shapes = {node.input[0]: shape} | {e: walk.statics.shape(e) for e in node.input[1:] if e}
    types = {edge: helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, s) for edge, s in shapes.items()}
    schema = onnx.defs.get_schema(node.op_type, walk.opset, "")
    found = shape_inference.infer_node_outputs(
        schema, node, types, opset_imports=walk.model.opset_import, ir_version=walk.model.ir_version
    )
    dims = found[node.output[0]].tensor_type.shape.dim if node.output[0] in found else []
    if len(dims) != len(shape) or any(not d.HasField("dim_value") or d.dim_value < 1 for d in dims):
        raise ValueError("the shape of its result cannot be worked out")
    return tuple(d.dim_value for d in dims)
