"""D310: `x[..., i:j] = y` before export, which becomes ScatterND with a table of every index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from eyas.doctor.edit import constant, release, replace
from eyas.doctor.rule import Rule
from eyas.doctor.subject import Shape, Subject, attribute, name_of


def _scatters(s: Subject) -> Iterator[tuple[str, str]]:
    for node in s.graph.node:
        if node.op_type in ("ScatterND", "ScatterElements", "Scatter") and node.output[0] in s.moving:
            yield name_of(node), f"{node.op_type} writes into {list(s.shapes.get(node.input[0], ('?',)))}"


def _block(table: NDArray[Any], dims: Shape) -> tuple[int, int, int] | None:
    """(axis, start, stop) where the table's rows, in order, are the indices of x[:, …, start:stop, …, :], else None."""
    rank = len(dims)
    if table.shape[-1] != rank or not all(isinstance(d, int) for d in dims):
        return None
    rows = table.reshape(-1, rank)
    if not rows.size or (rows < 0).any():
        return None
    low, high = rows.min(0), rows.max(0) + 1
    cut = [a for a in range(rank) if (low[a], high[a]) != (0, dims[a])]
    whole = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
    if len(cut) != 1 or not np.array_equal(whole.reshape(-1, rank), rows):
        return None
    return cut[0], int(low[cut[0]]), int(high[cut[0]])


def unscatter(model: onnx.ModelProto) -> bool:
    """ScatterND(x, I, y), I all indices of x[…, i:j, …] on one axis, becomes Concat(x[…, :i, …], y, x[…, j:, …]).

    Both put y in the place of that block and leave the rest: copies, so the results stay bit by bit.
    """
    graph, s = model.graph, Subject(model)
    instead: dict[str, list[onnx.NodeProto]] = {}
    for node in s.graph.node:
        table = s.value(node.input[1]) if node.op_type == "ScatterND" else None
        dims = s.shapes.get(node.input[0], ())
        found = _block(table, dims) if table is not None and attribute(node, "reduction", b"none") == b"none" else None
        if found is None:
            continue
        axis, start, stop = found
        edge, shape = node.output[0], [int(d) for d in dims]
        shape[axis] = stop - start
        middle = f"{edge}/new"
        target = constant(graph, np.array(shape, np.int64), f"{middle}/shape")
        nodes, parts = [helper.make_node("Reshape", [node.input[2], target], [middle], middle)], [middle]
        for place, low, high in ((0, 0, start), (2, stop, int(dims[axis]))):
            if low < high:
                part = f"{edge}/kept{place}"
                bounds = [constant(graph, np.array([v], np.int64), f"{part}/bound") for v in (low, high, axis)]
                nodes.append(helper.make_node("Slice", [node.input[0], *bounds], [part], part))
                parts.insert(place, part)
        nodes.append(helper.make_node("Concat", parts, [edge], node.name, axis=axis))
        instead[edge] = nodes
    tables = [node.input[1] for node in graph.node if node.output[0] in instead]
    replace(graph, instead)
    release(graph, tables)
    return bool(instead)


RULES = (
    Rule(
        "D310",
        "slices are assigned in place",
        "warning",
        "ScatterND with a table of indices is slow, fixes the batch, and fails to build on some engines.",
        "Concatenate the parts instead of assigning x[..., i:j] = y; --fix does where the indices are constant.",
        _scatters,
        unscatter,
    ),
)
