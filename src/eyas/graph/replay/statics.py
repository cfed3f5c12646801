"""The values of edges that depend on no value of the picture: weights, constants, and arithmetic on shapes.

Where the input's shape is known, so is every Shape behind it, and with it the target of every Reshape, however long
the chain (Shape → Gather → Unsqueeze → Concat …) through which an exporter computes it. Values are worked out on
demand, one operator at a time, by ONNX's own reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

MOST_ELEMENTS = 2**26
_SAME_SHAPE = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})
_MAKERS = {"ConstantOfShape": 0, "Expand": 1, "RandomNormal": None, "RandomUniform": None}


class Unknown(Exception):
    """A value that cannot be worked out, with the reason."""


class Statics:
    """Values by edge. shape_of: gives the shape of an edge that does depend on the picture."""

    def __init__(self, model: onnx.ModelProto, shape_of: Callable[[str], tuple[int, ...]]) -> None:
        self._weights = {t.name: t for t in model.graph.initializer}
        self._opsets = model.opset_import
        self._shape_of = shape_of
        self._makers: dict[str, onnx.NodeProto] = {}
        self._values: dict[str, NDArray[Any]] = {}
        self._derived: set[str] = set()

    def __contains__(self, edge: str) -> bool:
        return edge in self._weights or edge in self._makers

    def add(self, node: onnx.NodeProto) -> None:
        """Take note of a node all of whose inputs are static, or that reads a shape."""
        self._makers.update((edge, node) for edge in node.output)
        if node.op_type in ("Shape", "Size") or not self._derived.isdisjoint(node.input):
            self._derived.update(node.output)

    def derived(self, edge: str) -> bool:
        """Whether the value comes from the shape of some tensor."""
        return edge in self._derived

    def shape(self, edge: str) -> tuple[int, ...]:
        """The shape of a static edge, without its value where that is stored."""
        while edge in self._makers and self._makers[edge].op_type in _SAME_SHAPE:
            edge = self._makers[edge].input[0]
        if edge in self._weights:
            return tuple(self._weights[edge].dims)
        return tuple(self.value(edge).shape)

    def value(self, edge: str) -> NDArray[Any]:
        """What the edge holds. Raises Unknown."""
        if edge not in self._values:
            if edge in self._weights:
                self._values[edge] = numpy_helper.to_array(self._weights[edge])
            else:
                self._work_out(edge)
        return self._values[edge]

    def _work_out(self, edge: str) -> None:
        """The nodes behind an edge, deepest first; a loop, because chains can be longer than Python's stack."""
        todo = [edge]
        while todo:
            node = self._makers.get(todo[-1])
            if todo[-1] in self._values or todo[-1] in self._weights:
                todo.pop()
                continue
            if node is None:
                raise Unknown(f"nothing gives {todo[-1]}")
            missing = [] if node.op_type in ("Shape", "Size") else [e for e in node.input if e and not self._known(e)]
            if missing:
                todo.extend(missing)
                continue
            self._values.update(zip(node.output, self._run(node), strict=False))
            if todo[-1] not in self._values:
                raise Unknown(f"{node.op_type} does not give {todo[-1]}")

    def _known(self, edge: str) -> bool:
        return edge in self._values or edge in self._weights

    def _run(self, node: onnx.NodeProto) -> Iterable[NDArray[Any]]:
        if node.op_type in ("Shape", "Size"):
            shape = self.shape(node.input[0]) if node.input[0] in self else self._shape_of(node.input[0])
            bounds = {a.name: a.i for a in node.attribute}
            part = shape[bounds.get("start", 0) : bounds.get("end", len(shape))]
            return [np.array(part if node.op_type == "Shape" else prod(shape), np.int64)]
        feeds = {edge: self.value(edge) for edge in node.input if edge}
        if node.op_type in _MAKERS:
            place = _MAKERS[node.op_type]
            if place is None or prod(feeds[node.input[place]].ravel().tolist()) > MOST_ELEMENTS:
                raise Unknown(f"{node.op_type} {node.output[0]} is random or too large")
        from onnx.reference import ReferenceEvaluator  # only here: its import takes a while

        inputs = [
            helper.make_tensor_value_info(e, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for e, v in feeds.items()
        ]
        outputs = [helper.make_tensor_value_info(e, onnx.TensorProto.UNDEFINED, None) for e in node.output if e]
        graph = helper.make_graph([node], "one", inputs, outputs)
        try:
            values: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets)).run(None, feeds)
        except Exception as error:
            raise Unknown(f"{node.op_type} {node.output[0]} cannot be worked out ({error})") from error
        return [np.asarray(v) for v in values]
