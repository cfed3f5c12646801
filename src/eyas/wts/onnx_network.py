"""The ONNX network of some YOLOv5 weights, written operator by operator from the same rows as TensorRT's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from eyas.card import METADATA_KEY
from eyas.errors import CardError, problem
from eyas.graph.builder import Builder
from eyas.wts.decode import Table, decode
from eyas.wts.walk import Conv, check_size, forward
from eyas.wts.weights import Weights

OPSET = 17
IR_VERSION = 8


def to_onnx(
    weights: Weights,
    *,
    size: tuple[int, int] = (640, 640),
    batch: int | str = "batch",
    decoded: bool = False,
    names: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """Input `images` float32 [batch, 3, H, W], RGB / 255; a card in the metadata, so that no flags are needed.

    Outputs `output0` … float32: the raw maps [batch, 3 · (5 + C), h, w], of which eyas decodes the rows it keeps; or,
    decoded, one [batch, N, 5 + C] of centre, extent (pixels), objectness, class scores. size: (height, width); batch:
    a number, or a name for any. names: of the classes, in order. Raises OptionError, CardError.
    """
    check_size(weights.arch, size)
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="eyas", opset_import=[helper.make_opsetid("", OPSET)])
    ops = _Ops(model, weights)
    edges = forward(ops, weights.arch, weights.classes, "images")
    width = 5 + weights.classes
    shapes: list[list[int]] = [[3 * width, size[0] // s, size[1] // s] for s in weights.arch.strides]
    if decoded:
        edges, shapes = [decode(ops, weights, size, edges)], [[sum(3 * h * w for _, h, w in shapes), width]]
    outputs = []
    for i, (edge, shape) in enumerate(zip(edges, shapes, strict=True)):
        outputs.append(helper.make_tensor_value_info(f"output{i}", TensorProto.FLOAT, [batch, *shape]))
        ops.g.op("Identity", edge, out=f"output{i}")
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *size])
    graph = helper.make_graph(ops.g.nodes, weights.arch.name, [images], outputs, ops.g.initializers)
    model.graph.CopyFrom(graph)
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(_card(weights, names)))
    return model


def _card(weights: Weights, names: Sequence[str] | None) -> dict[str, Any]:
    """What eyas cannot see: the family, the anchors, the names."""
    if names is not None and len(names) != weights.classes:
        raise CardError(
            problem(
                "the number of class names is wrong",
                got=f"{len(names)} names",
                expected=f"{weights.classes}, as the weights have classes",
                remedy="Give one name per class with --names FILE.",
            )
        )
    params = {"strides": list(weights.arch.strides), "anchors": weights.anchors.tolist(), "decode": "v5"}
    return {"family": "yolov5", "params": params} | ({"names": list(names)} if names is not None else {})


class _Ops:
    """See `eyas.wts.walk.Ops` and `eyas.wts.decode.DecodeOps`; edges are names."""

    def __init__(self, model: onnx.ModelProto, weights: Weights) -> None:
        self.g = Builder(model, "wts")
        self._weights = weights

    def conv(self, x: str, conv: Conv) -> str:
        names = [f"{conv.stem}.{part}" for part in ("weight", "bias")]
        for name, array in zip(names, self._weights.convs[conv.name], strict=True):
            self.g.initializers.append(numpy_helper.from_array(array, name))
        sides: dict[str, Any] = {"kernel_shape": [conv.kernel] * 2, "strides": [conv.stride] * 2}
        y = self.g.op("Conv", x, *names, pads=[conv.pad] * 4, **sides)
        return self.mul(y, self.sigmoid(y)) if conv.active else y

    def pool(self, x: str, kernel: int) -> str:
        return self.g.op("MaxPool", x, kernel_shape=[kernel] * 2, strides=[1, 1], pads=[kernel // 2] * 4)

    def upsample(self, x: str) -> str:
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.g.op("Resize", x, "", self.g.const([1.0, 1.0, 2.0, 2.0]), **modes)

    def concat(self, edges: Sequence[str], axis: int = 1) -> str:
        return self.g.op("Concat", *edges, axis=axis)

    def const(self, value: Table) -> str:
        return self.g.const(value)

    def add(self, a: str, b: str) -> str:
        return self.g.op("Add", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.g.op("Mul", a, b)

    def sigmoid(self, x: str) -> str:
        return self.g.op("Sigmoid", x)

    def by_anchor(self, raw: str, width: int, cells: int) -> str:
        flat = self.g.op("Reshape", raw, self.g.const([0, 3, width, cells], "int64"))
        return self.g.op("Transpose", flat, perm=[0, 1, 3, 2])

    def by_row(self, x: str, rows: int, width: int) -> str:
        return self.g.op("Reshape", x, self.g.const([0, rows, width], "int64"))
