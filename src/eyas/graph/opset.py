"""Networks of an older opset than the decodes are written for: converted, with the results they had.

onnx.version_converter rewrites the operators. Two things that it leaves undone are done here:

1. `Upsample` and the first `Resize` (opset 10) sample at x_in = x_out / scale, rounded down. Opset 11 made another
   rule the default, so this one has to be said.
2. PyTorch's exporter of those days computes a Resize's scales as target / shape, in floating point. Shape inference
   does not follow that, so the sizes of all that comes behind are unknown. Such scales become constants.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from eyas.errors import ModelError, problem
from eyas.graph.builder import MIN_OPSET, opset_of
from eyas.graph.surgery import dims_of, edges_read, inputs_of, takes_channels_last

TARGET = 17  # from 15 on, shape inference follows the arithmetic of shapes; 18 changes the reductions once more
SAMPLING = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}  # opset 10's
FAILURES = (  # which of them depends on what does not fit
    version_converter.ConvertError,
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,
)
log = logging.getLogger("eyas")


def raise_opset(model: onnx.ModelProto, what: str, size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """The network at opset 17 if it is older than 11, else itself.

    what: its name in messages. size: (height, width), for a network whose input size is free.
    Raises ModelError where an operator cannot be converted.
    """
    was = opset_of(model)
    if was >= MIN_OPSET:
        return model
    try:
        converted = version_converter.convert_version(model, TARGET)
        for node in converted.graph.node:
            if node.op_type == "Resize":
                node.attribute.extend(helper.make_attribute(key, value) for key, value in SAMPLING.items())
        onnx.checker.check_model(converted)
    except FAILURES as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rpartition("failed: ")[2]
        raise ModelError(
            problem(
                f"{what} is too old and cannot be converted",
                got=f"opset {was} ({reason[:160]})",
                expected=f"opset {MIN_OPSET} or newer, or one that onnx.version_converter converts",
                remedy="Export it again with a newer opset.",
            )
        ) from error
    _fix_scales(converted, size)
    log.info("%s: converted from opset %d to %d (onnx.version_converter)", what, was, TARGET)
    return converted


def _fix_scales(model: onnx.ModelProto, size: tuple[int, int] | None) -> None:
    """Make the computed scales of every Resize constant, in place, where they follow from the input's size.

    In the graph's order: the next one's scales may come from the shape of this one's output.
    """
    graph = model.graph
    fixed = {t.name for t in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    for node in graph.node:
        if node.op_type == "Resize" and len(node.input) > 2 and node.input[2] not in fixed | {""}:
            scales = _value_of(model, node.input[2], size)
            if scales is None:
                return
            node.input[2] = f"{node.output[0]}/scales"
            graph.initializer.append(numpy_helper.from_array(scales, node.input[2]))


def _value_of(model: onnx.ModelProto, edge: str, size: tuple[int, int] | None) -> NDArray[np.float32] | None:
    """What an edge holds for one picture, if that follows from weights and shapes alone; else None."""
    from onnx.reference import ReferenceEvaluator  # only here: its import takes a while

    part = _for_one_picture(model, size)
    inferred = onnx.shape_inference.infer_shapes(part, data_prop=True).graph
    dims = {v.name: dims_of(v) for v in (*inferred.value_info, *inferred.input)}
    wanted: set[str] = {edge}
    nodes: list[onnx.NodeProto] = []
    shapes: dict[str, NDArray[np.int64]] = {}
    for node in reversed(part.graph.node):  # whatever reads an edge comes behind what writes it
        if wanted.isdisjoint(node.output):
            continue
        shape = dims.get(node.input[0], ("?",)) if node.op_type == "Shape" else ()
        if any(isinstance(d, str) for d in shape) or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Shape":
            shapes[node.output[0]] = np.array(shape, np.int64)
        else:
            nodes.insert(0, node)
            wanted |= edges_read([node])
    if wanted & {i.name for i in inputs_of(part.graph)}:
        return None
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, value.shape) for name, value in shapes.items()]
    outputs = [helper.make_tensor_value_info(edge, TensorProto.FLOAT, None)]
    weights = [t for t in part.graph.initializer if t.name in wanted]
    found = helper.make_model(
        helper.make_graph(nodes, "scales", inputs, outputs, weights), opset_imports=part.opset_import
    )
    values: Any = ReferenceEvaluator(found).run(None, shapes)
    return np.asarray(values[0], np.float32)


def _for_one_picture(model: onnx.ModelProto, size: tuple[int, int] | None) -> onnx.ModelProto:
    """A copy whose input has a batch of one where it was free, and the size where that was."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in inputs_of(copy.graph):
        dims, given = dims_of(value), size or ("height", "width")
        usual = (1, *given, 3) if takes_channels_last(value) else (1, 3, *given)
        if len(dims) == 4:
            dims = tuple(d if isinstance(d, int) else u for d, u in zip(dims, usual, strict=True))
        value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dims))
    return copy
