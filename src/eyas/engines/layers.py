"""What is inside: one row a layer, of an ONNX graph or of what a runtime has made of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import onnx
from onnx import TensorProto, helper

from eyas.graph.surgery import dims_of, edges_read

WORDS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. precision: type of its first output, "fp16" and so on. weight_bytes: constants that it alone or first
    reads. output_bytes: of all outputs, 0 where a shape is unknown. fused: the graph's nodes that it is made of.
    """

    name: str
    kind: str
    precision: str
    shape: tuple[int, ...] | None = None
    weight_bytes: int = 0
    output_bytes: int = 0
    fused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. weights: all constants. peak: the most that is alive at once between layers, run in the graph's order and
    without any fusion: an upper bound for a runtime that reuses memory. unknown: layers whose size is not known.
    """

    weights: int
    peak: int
    unknown: int


def graph_layers(model: onnx.ModelProto, batch: int = 1) -> tuple[list[Layer], Memory]:
    """Rows of an ONNX graph with its free batch set to `batch`, and what it needs."""
    values, sizes = _values(model, batch)
    constants = {t.name: _tensor_bytes(t) for t in model.graph.initializer}
    unread = dict(constants)
    rows = []
    for node in model.graph.node:
        edge = next((e for e in node.output if e), "")
        element, shape = values.get(edge, (0, None))
        rows.append(
            Layer(
                name=node.name or edge,
                kind=node.op_type,
                precision=_word(element),
                shape=shape,
                weight_bytes=sum(unread.pop(e, 0) for e in node.input),
                output_bytes=sum(sizes.get(e, 0) for e in node.output),
            )
        )
    unknown = sum(r.output_bytes == 0 for r in rows)
    return rows, Memory(sum(constants.values()), _peak(model.graph, sizes), unknown)


def by_precision(rows: Iterable[Layer]) -> dict[str, int]:
    """Precision → number of layers, most frequent first."""
    found: dict[str, int] = {}
    for row in rows:
        found[row.precision] = found.get(row.precision, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def by_kind(rows: Iterable[Layer]) -> dict[str, int]:
    """Operator → number of layers, most frequent first."""
    found: dict[str, int] = {}
    for row in rows:
        found[row.kind] = found.get(row.kind, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _values(model: onnx.ModelProto, batch: int) -> tuple[dict[str, tuple[int, tuple[int, ...] | None]], dict[str, int]]:
    """Edge → (element type, shape or None); edge → bytes where the shape is known."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value <= 0:
            dims[0].Clear()
            dims[0].dim_value = batch
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    values: dict[str, tuple[int, tuple[int, ...] | None]] = {}
    sizes: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        element = value.type.tensor_type.elem_type
        shape = dims_of(value) if value.type.tensor_type.HasField("shape") else ("?",)
        known = tuple(d for d in shape if isinstance(d, int))
        whole = len(known) == len(shape)
        values[value.name] = (element, known if whole else None)
        if whole and element:
            sizes[value.name] = prod(known) * _width(element)
    return values, sizes


def _peak(graph: onnx.GraphProto, sizes: dict[str, int]) -> int:
    """Edges live from the node that writes them to the last that reads them; outputs to the end."""
    last: dict[str, int] = {}
    for i, node in enumerate(graph.node):
        last |= dict.fromkeys(edges_read([node]), i)
    last |= {o.name: len(graph.node) for o in graph.output}
    alive = {i.name: sizes.get(i.name, 0) for i in graph.input}
    peak = sum(alive.values())
    for i, node in enumerate(graph.node):
        alive |= {e: sizes.get(e, 0) for e in node.output if e}
        peak = max(peak, sum(alive.values()))
        alive = {e: size for e, size in alive.items() if last.get(e, -1) > i}
    return peak


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    return int(prod(tensor.dims)) * _width(tensor.data_type)


def _width(element: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(element).itemsize)


def _word(element: int) -> str:
    name = TensorProto.DataType.Name(element).lower() if element else "unknown"
    return WORDS.get(name, name)
