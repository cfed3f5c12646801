"""What an operator module defines: an operator that ONNX lacks. One file each; `eyas.registry` finds them ("ops").

A network may hold such a node as `DOMAIN::NAME`. Where a backend brings no plug-in for it, `expand_custom` writes it as
plain ONNX operators, so that it runs everywhere; TensorRT runs its CUDA kernel (`eyas.ops._trt_plugin`). In PyTorch it
is `symbol(name)`, which `eyas.export` hands on as one node. An example is `hswish.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, cast

import onnx
from onnx import helper

from eyas import registry
from eyas.errors import ModelError, problem
from eyas.graph.builder import PREFIX, Builder
from eyas.graph.surgery import edges_read

Key = tuple[str, str]  # (domain, operator)


class Operator(Protocol):
    """A module with these constants and functions: one output, inputs of one element type (float32 or float16).

    DOMAIN, NAME: of the ONNX node; its version is 1. ATTRIBUTES: name → what holds where the node does not say, each a
    float. CUDA: source with the entry points `<name>_fp32` and `<name>_fp16` in small letters, which take a pointer to
    each input, one to the output, the output's number of elements (unsigned long long), and the attributes in order
    (float).
    """

    DOMAIN: str
    NAME: str
    ATTRIBUTES: Mapping[str, float]
    CUDA: str

    def __hash__(self) -> int:
        """Modules are themselves; kernels are kept by operator."""

    def formula(self, xp: Any, *inputs: Any, **attributes: float) -> Any:
        """The operator on arrays; xp is numpy or torch. What everything else is compared with, and torch's kernel."""

    def shape(self, *inputs: Sequence[Any]) -> Sequence[Any]:
        """The output's shape: each axis one of an input's, as it is (it may be a symbol), or a whole number."""

    def expand(self, g: Builder, node: onnx.NodeProto, **attributes: float) -> str:
        """Append plain ONNX operators, of every opset from 11 on, that compute the node; returns the result's edge."""


def operator(name: str) -> Operator:
    """One operator by its module's name. Raises OptionError if unknown."""
    return cast(Operator, registry.get("ops", name))


def operators() -> dict[Key, Operator]:
    """Every operator by its domain and name, as a node has them."""
    found = [operator(name) for name in registry.names("ops")]
    return {(op.DOMAIN, op.NAME): op for op in found}


def symbol(name: str) -> Any:
    """The operator as a function on torch tensors, which can be trained and exported. Raises EyasError without torch.

    It takes the inputs of `formula`, then its attributes, by name or in order.
    """
    from eyas.ops._torch import symbol_of

    return symbol_of(operator(name))


def inputs_of(op: Operator) -> list[str]:
    """The names of the operator's inputs, in order."""
    return [name for name in list(inspect.signature(op.formula).parameters)[1:] if name not in op.ATTRIBUTES]


def attributes_of(op: Operator, node: onnx.NodeProto) -> dict[str, float]:
    """The node's attributes, those that it does not state as well. Raises ModelError where it has none of that name."""
    said = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.name.startswith("plugin_")}
    if wrong := [n for n, v in said.items() if n not in op.ATTRIBUTES or not isinstance(v, (int, float))]:
        raise ModelError(
            problem(
                f"the node {node.name or node.output[0]} has an attribute that {op.NAME} does not know",
                got=", ".join(f"{name} = {said[name]!r}" for name in wrong),
                expected=", ".join(f"{n}: a number" for n in op.ATTRIBUTES) or "no attributes",
                remedy="Another package may mean another operator by that name; rename one of them.",
            )
        )
    return {name: float(said.get(name, default)) for name, default in op.ATTRIBUTES.items()}


def expand_custom(model: onnx.ModelProto, keep: Collection[Key] = ()) -> int:
    """Write the operators of `eyas.ops` as plain ONNX, in place, those of inner graphs too. Returns how many.

    keep: (domain, operator) of those that the backend brings a plug-in for. A function of the model's own by the same
    name is left as it is: it says itself what it computes. The results are the operators' up to rounding.
    """
    left = {(f.domain, f.name) for f in model.functions} | set(keep)
    used = {(n.domain, n.op_type) for n in _all_nodes(model.graph) if n.domain not in ("", "ai.onnx")} - left
    known = {key: op for key, op in operators().items() if key in used} if used else {}
    if not known:
        return 0
    g = Builder(model, _fresh_part(model.graph))
    count = _expand(model.graph, g, known)
    model.graph.initializer.extend(g.initializers)
    domains = {n.domain for n in _all_nodes(model.graph)} | {n.domain for f in model.functions for n in f.node}
    for unused in [o for o in model.opset_import if o.domain in {d for d, _ in known} - domains]:
        model.opset_import.remove(unused)
    return count


def expanded(model: onnx.ModelProto, keep: Collection[Key] = ()) -> onnx.ModelProto:
    """The model itself where nothing is to be expanded, else a copy that is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy if expand_custom(copy, keep) else model


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [g for n in graph.node for a in n.attribute for g in _graphs(a)]
    return [*graph.node, *(n for g in inner for n in _all_nodes(g))]


def _graphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _fresh_part(graph: onnx.GraphProto) -> str:
    """A word for the builder under which no edge is named yet."""
    taken = {t.name for t in graph.initializer} | edges_read(graph.node)
    taken |= {edge for node in _all_nodes(graph) for edge in node.output}
    part = "ops"
    while any(edge.startswith(f"{PREFIX}{part}/") for edge in taken):
        part += "_"
    return part


def _expand(graph: onnx.GraphProto, g: Builder, known: Mapping[Key, Operator]) -> int:
    count, nodes = 0, []
    for node in graph.node:
        count += sum(_expand(inner, g, known) for a in node.attribute for inner in _graphs(a))
        op = known.get((node.domain, node.op_type))
        if op is None:
            nodes.append(node)
            continue
        edge = op.expand(g, node, **attributes_of(op, node))
        g.op("Identity", edge, out=node.output[0])
        nodes.extend(_without_copy(g.take_nodes()))
        count += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def _without_copy(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes but for the Identity at their end, whose name goes to the one that makes the value, if one does."""
    *rest, last = nodes
    maker = next((n for n in rest if last.input[0] in n.output), None)
    if maker is None:
        return nodes
    old, new = last.input[0], last.output[0]
    for node in rest:
        for edges in (node.input, node.output):
            edges[:] = [new if edge == old else edge for edge in edges]
    return rest
