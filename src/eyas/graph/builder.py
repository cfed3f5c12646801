"""Append ONNX operators to a graph without naming every edge: `g.op("Mul", a, b)` returns the new edge.

Operators whose signature changed between opsets (axes as attribute or as input) are written for the opset
of the model at hand, so one decode serves every export from opset 11 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from eyas.errors import ModelError, problem

MIN_OPSET = 11
PREFIX = "eyas/"

# The first opset in which the operator takes its axes as an input instead of an attribute (ONNX changelog).
_AXES_ARE_INPUT_FROM = {"ReduceSum": 13, "Squeeze": 13, "Unsqueeze": 13, "ReduceMax": 18}


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set that the model imports."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


class Builder:
    """Collects nodes and constants for `model`; whoever made it puts them into the graph.

    part: a word that keeps its edge names apart from those of other builders on the same model.
    """

    def __init__(self, model: onnx.ModelProto, part: str) -> None:
        self.model = model
        self._part = part
        self.opset = opset_of(model)
        if self.opset < MIN_OPSET:
            raise ModelError(
                problem(
                    "the model's operators are too old",
                    got=f"opset {self.opset}",
                    expected=f"opset {MIN_OPSET} or newer",
                    remedy="Export it again with a newer opset, or convert it with onnx.version_converter.",
                )
            )
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def name(self, stem: str) -> str:
        """A fresh edge name in our own namespace."""
        self._count += 1
        return f"{PREFIX}{self._part}/{stem}_{self._count}"

    def take_nodes(self) -> list[onnx.NodeProto]:
        """The nodes collected so far, which are forgotten here."""
        nodes, self.nodes = self.nodes, []
        return nodes

    def const(self, value: NDArray[Any] | float | Sequence[float], dtype: str = "float32") -> str:
        """A constant edge; equal constants are stored once."""
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        array = array.reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.name("const")
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def op(self, op_type: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append one node with one output and return that edge (named `out` if given)."""
        return self.ops(op_type, *inputs, outs=[out or self.name(op_type)], **attributes)[0]

    def ops(self, op_type: str, *inputs: str, outs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Append one node with several named outputs and return them."""
        node = helper.make_node(op_type, list(inputs), list(outs), name=outs[0], **attributes)
        self.nodes.append(node)
        return outs

    def over_axes(self, op_type: str, x: str, axes: Sequence[int], **attributes: Any) -> str:
        """A reduction, Squeeze or Unsqueeze over `axes`, written for this model's opset."""
        if self.opset >= _AXES_ARE_INPUT_FROM[op_type]:
            return self.op(op_type, x, self.const(list(axes), "int64"), **attributes)
        return self.op(op_type, x, axes=list(axes), **attributes)

    def slice(self, x: str, start: int, stop: int, axis: int) -> str:
        """`x[start:stop]` along `axis`."""
        bounds = [self.const([v], "int64") for v in (start, stop, axis)]
        return self.op("Slice", x, *bounds)

    def take(self, x: str, index: str, width: int, axis: int) -> str:
        """The chosen cells of `x`, for each image its own.

        axis 1: x [B, N, width], index [B, K] → [B, K, width]; axis 2: x [B, width, N] → [B, width, K].
        """
        unsqueezed = self.over_axes("Unsqueeze", index, [3 - axis])
        ones = np.ones((1, width, 1) if axis == 2 else (1, 1, width))
        return self.op("GatherElements", x, self.op("Mul", unsqueezed, self.const(ones, "int64")), axis=axis)

    def cast(self, x: str, to: int = TensorProto.FLOAT) -> str:
        """`x` as another element type."""
        return self.op("Cast", x, to=to)
