"""What the rules look at: one model and what follows from it, computed once, when first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from eyas import registry
from eyas.errors import EyasError
from eyas.families import Family, Guess
from eyas.graph.builder import opset_of
from eyas.graph.network import Facts, facts_of
from eyas.graph.surgery import IMAGES, OUTPUTS, dims_of, edges_read, inputs_of, takes_channels_last

Shape = tuple[int | str, ...]


class Subject:
    """A model under examination. Nothing here changes it.

    path: the file it came from, None for a model in memory. backend: what it is meant for, None for any.
    """

    def __init__(self, model: onnx.ModelProto, path: Path | None = None, backend: str | None = None) -> None:
        self.model, self.path, self.backend = model, path, backend
        self.graph: onnx.GraphProto = model.graph

    @cached_property
    def opset(self) -> int:
        """The version of the default operator set."""
        return opset_of(self.model)

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        """Every node, those of inner graphs (If, Loop) and of the model's own functions included."""
        return [*_nodes(self.graph), *(n for f in self.model.functions for n in f.node)]

    @cached_property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The graph's real inputs, without the weights that old exports list among them."""
        return inputs_of(self.graph)

    @cached_property
    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {o.name for o in self.graph.output}

    @cached_property
    def weights(self) -> dict[str, onnx.TensorProto]:
        """Initialisers by name."""
        return {t.name: t for t in self.graph.initializer}

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        """Edge → the node that writes it."""
        return {edge: node for node in self.graph.node for edge in node.output if edge}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Edge → the nodes of the main graph that read it, be it in an inner graph of theirs."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for edge in edges_read([node]):
                found.setdefault(edge, []).append(node)
        return found

    def count(self, edge: str) -> int:
        """How often an edge is read, as an output of the graph too."""
        return len(self.readers.get(edge, [])) + (edge in self.outputs)

    def value(self, edge: str) -> NDArray[Any] | None:
        """The constant on an edge: a weight, or what a Constant node holds; None for anything else."""
        if edge in self.weights:
            return numpy_helper.to_array(self.weights[edge])
        node = self.makers.get(edge)
        if node is None or node.op_type != "Constant" or not node.attribute:
            return None
        held = helper.get_attribute_value(node.attribute[0])
        if isinstance(held, onnx.TensorProto):
            return numpy_helper.to_array(held)
        if node.attribute[0].name in ("value_int", "value_ints", "value_float", "value_floats"):
            return np.asarray(held, np.int64 if "int" in node.attribute[0].name else np.float32)
        return None

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Every stored tensor by the name of its edge: weights and Constant nodes."""
        found = dict(self.weights)
        for node in self.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                found[node.output[0]] = node.attribute[0].t
        return found

    @cached_property
    def _inferred(self) -> dict[str, onnx.ValueInfoProto]:
        try:
            graph = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        except Exception:  # which exception depends on what does not fit; what is declared must do
            graph = self.graph
        return {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Edge → its shape where one is known; a name, or "?", for an axis that is not fixed."""
        known = {k: dims_of(v) for k, v in self._inferred.items() if v.type.tensor_type.HasField("shape")}
        return known | {name: tuple(tensor.dims) for name, tensor in self.constants.items()}

    @cached_property
    def types(self) -> dict[str, int]:
        """Edge → element type where it is known."""
        known = {k: v.type.tensor_type.elem_type for k, v in self._inferred.items()}
        return known | {name: tensor.data_type for name, tensor in self.constants.items()}

    @cached_property
    def picture(self) -> onnx.ValueInfoProto | None:
        """The one input with four axes; None where there is none, or more."""
        found = [i for i in self.inputs if len(dims_of(i)) == 4]
        return found[0] if len(found) == 1 else None

    @cached_property
    def batch(self) -> int | str | None:
        """The picture input's first axis: a number where it is fixed, a name where it is free."""
        return dims_of(self.picture)[0] if self.picture is not None else None

    @cached_property
    def size(self) -> tuple[int | str, int | str] | None:
        """(height, width) of the picture input, with names where they are free."""
        if self.picture is None:
            return None
        dims = dims_of(self.picture)
        return (dims[1], dims[2]) if takes_channels_last(self.picture) else (dims[2], dims[3])

    @cached_property
    def moving(self) -> set[str]:
        """Edges that depend on the values of the inputs, not on their shapes alone. Needs a sorted graph."""
        moving = {i.name for i in self.inputs}
        for node in self.graph.node:
            if node.op_type not in ("Shape", "Size") and not moving.isdisjoint(edges_read([node])):
                moving.update(node.output)
        return moving

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The file's own key–value pairs."""
        return {p.key: p.value for p in self.model.metadata_props}

    @cached_property
    def deployed(self) -> bool:
        """Whether this is a deploy graph of eyas' own: its edges, uint8 pictures in."""
        names = {i.name: i.type.tensor_type.elem_type for i in self.inputs}
        return names.get(IMAGES) == TensorProto.UINT8 and self.outputs <= set(OUTPUTS)

    @cached_property
    def facts(self) -> Facts | None:
        """What cards rest on; None where the network does not take one picture of a fixed size."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        try:
            return facts_of(copy)
        except (EyasError, ValueError, KeyError, IndexError, RuntimeError):
            return None

    @cached_property
    def guesses(self) -> list[Guess]:
        """What the families take the network for."""
        if self.facts is None:
            return []
        return [g for path in registry.names("families").values() for g in _recognise(path, self.facts)]


def _recognise(path: str, facts: Facts) -> list[Guess]:
    try:
        return cast(Family, import_module(path)).recognise(facts)
    except (EyasError, ImportError, ValueError, TypeError, KeyError, IndexError):  # not a network it has thought of
        return []


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def name_of(node: onnx.NodeProto) -> str:
    """What a person can find a node by: its name, or its operator and first output."""
    return node.name or f"{node.op_type} → {node.output[0] if node.output else '?'}"


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
