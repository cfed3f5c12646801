"""Small changes to a graph, in place, that every repair is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from eyas.graph.surgery import edges_read


def fresh(graph: onnx.GraphProto, stem: str) -> str:
    """A name that no edge of the graph has."""
    taken = edges_read(graph.node) | {edge for node in graph.node for edge in node.output}
    taken |= {v.name for v in (*graph.input, *graph.output, *graph.initializer)}
    name, i = stem, 1
    while name in taken:
        name, i = f"{stem}_{i}", i + 1
    return name


def constant(graph: onnx.GraphProto, value: NDArray[Any], stem: str) -> str:
    """Store a weight under a fresh name; returns that name."""
    name = fresh(graph, stem)
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def reread(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Have every node that reads `old` read `new`, in inner graphs too."""
    for node in graph.node:
        node.input[:] = [new if edge == old else edge for edge in node.input]
        for held in node.attribute:
            for inner in [*([held.g] if held.HasField("g") else []), *held.graphs]:
                reread(inner, old, new)
                for output in inner.output:
                    output.name = new if output.name == old else output.name


def release(graph: onnx.GraphProto, edges: Iterable[str]) -> None:
    """Drop those of the weights that nothing reads any more."""
    unread = set(edges) - edges_read(graph.node) - {o.name for o in graph.output}
    for tensor in [t for t in graph.initializer if t.name in unread]:
        graph.initializer.remove(tensor)
    for value in [v for v in graph.input if v.name in unread]:
        graph.input.remove(value)


def replace(graph: onnx.GraphProto, instead: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Put other nodes in the place of those whose first output is named."""
    nodes = [new for n in graph.node for new in instead.get(n.output[0] if n.output else "", [n])]
    del graph.node[:]
    graph.node.extend(nodes)


def dead(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes whose results reach no output, in the graph's order."""
    wanted = {o.name for o in graph.output}
    kept: set[int] = set()
    makers = {edge: (i, node) for i, node in enumerate(graph.node) for edge in node.output if edge}
    todo = [makers[edge] for edge in wanted if edge in makers]
    while todo:
        i, node = todo.pop()
        if i not in kept:
            kept.add(i)
            todo.extend(makers[edge] for edge in edges_read([node]) if edge in makers)
    return [node for i, node in enumerate(graph.node) if i not in kept]


def sweep(graph: onnx.GraphProto) -> None:
    """Drop dead nodes, then weights that nothing reads, and what was said of the shapes of edges that are gone."""
    for node in dead(graph):
        graph.node.remove(node)
    read = edges_read(graph.node) | {o.name for o in graph.output}
    gone = {t.name for t in graph.initializer if t.name not in read}
    for group in (graph.initializer, graph.input):
        kept = [item for item in group if item.name not in gone]
        if len(kept) < len(group):
            del group[:]
            group.extend(kept)
    written = {edge for node in graph.node for edge in node.output}
    said = [v for v in graph.value_info if v.name in written]
    del graph.value_info[:]
    graph.value_info.extend(said)
