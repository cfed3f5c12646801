"""D103 to D109: what makes a file no network at all; asked first, before anything is computed from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from eyas.doctor.reading import LIMIT, external, tensors
from eyas.doctor.rule import Rule
from eyas.doctor.subject import Subject, name_of
from eyas.graph.surgery import edges_read

Found = Iterator[tuple[str, str]]
# Elements a byte of types below 8 bits; older versions of onnx lack some.
_NARROW = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}
_SUB_BYTE = {getattr(TensorProto, name): n for name, n in _NARROW.items() if hasattr(TensorProto, name)}
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def _order(graph: onnx.GraphProto) -> tuple[list[int], list[int]]:
    """Places of the nodes in an order in which each edge is written before it is read, as near to theirs as can be;
    and places of those for which there is none.
    """
    written = {edge for node in graph.node for edge in node.output}
    waiting = [(i, (edges_read([node]) & written) - _inner(node)) for i, node in enumerate(graph.node)]
    done: set[str] = set()
    order: list[int] = []
    while waiting:
        later = []
        for i, needs in waiting:
            if needs <= done:
                order.append(i)
                done.update(graph.node[i].output)
            else:
                later.append((i, needs))
        if len(later) == len(waiting):
            break
        waiting = later
    return order, [i for i, _ in waiting]


def _inner(node: onnx.NodeProto) -> set[str]:
    """Edges that a node's inner graphs write themselves."""
    graphs = [g for a in node.attribute for g in (a.g, *a.graphs)]
    own = {edge for g in graphs for inner in g.node for edge in (*inner.output, *_inner(inner))}
    return own | {v.name for g in graphs for v in (*g.input, *g.initializer)}


def _cyclic(s: Subject) -> Found:
    _, stuck = _order(s.graph)
    if stuck:
        names = ", ".join(name_of(s.graph.node[i]) for i in stuck[:4]) + (" …" if len(stuck) > 4 else "")
        yield name_of(s.graph.node[stuck[0]]), f"{len(stuck)} nodes wait for each other, or for such: {names}"


def _unsorted(s: Subject) -> Found:
    order, stuck = _order(s.graph)
    moved = [i for place, i in enumerate(order) if place != i]
    if moved and not stuck:
        yield name_of(s.graph.node[moved[0]]), f"{len(moved)} nodes are not where they belong"


def sort_nodes(model: onnx.ModelProto) -> bool:
    """The same nodes in an order in which every edge is written before it is read. No number changes."""
    order, stuck = _order(model.graph)
    if stuck:
        return False
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in order)
    return True


def _edges(s: Subject) -> Found:
    sources = {v.name for v in (*s.graph.input, *s.graph.initializer)}
    sources |= {t.values.name for t in s.graph.sparse_initializer}
    counts = Counter(edge for node in s.graph.node for edge in node.output if edge)
    for edge, count in counts.items():
        if count > 1 or edge in sources:
            yield edge, "the edge is written more than once"
    for node in s.graph.node:
        if not any(node.output):
            yield name_of(node), f"{node.op_type} writes nothing"
        for edge in sorted(edges_read([node]) - _inner(node) - sources - counts.keys() - {""}):
            yield name_of(node), f"it reads {edge!r}, which nothing writes"
    for output in s.graph.output:
        if output.name not in sources | counts.keys():
            yield output.name, "nothing writes this output"


def _bytes(tensor: onnx.TensorProto) -> int:
    """How many bytes a tensor's shape and type call for; −1 for a type or shape that does not exist."""
    try:
        item = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        return -1
    if any(d < 0 for d in tensor.dims):
        return -1
    return -(-int(prod(tensor.dims)) * int(item) // _SUB_BYTE.get(tensor.data_type, 1))


def _oversized(s: Subject) -> Found:
    sizes = {t.name: _bytes(t) for t in tensors(s.graph)}
    total = sum(max(n, 0) for n in sizes.values())
    if total > LIMIT:
        largest = max(sizes, key=lambda name: sizes[name])
        yield largest, f"the weights take {total / 1e9:.1f} GB, {sizes[largest] / 1e9:.1f} GB of them here"


def _incomplete(s: Subject) -> Found:
    for tensor in tensors(s.graph):
        wanted = _bytes(tensor)
        if wanted < 0:
            yield tensor.name, f"type {tensor.data_type}, shape {list(tensor.dims)}: there is no such tensor"
        elif uses_external_data(tensor):
            continue  # D106 looks at these
        elif any(len(getattr(tensor, field)) for field in _FIELDS):
            try:
                numpy_helper.to_array(tensor)
            except (ValueError, TypeError) as error:
                yield tensor.name, f"its numbers do not fit: {error}"
        elif len(tensor.raw_data) != wanted:
            yield tensor.name, f"{len(tensor.raw_data)} bytes for shape {list(tensor.dims)}, which takes {wanted}"


def _placed(s: Subject) -> tuple[list[tuple[str, str]], list[str]]:
    """What is wrong with external weights, and the files in which the others are."""
    bad, good = [], []
    folder = s.path.parent.resolve() if s.path else None
    for tensor in external(s.model):
        where = {e.key: e.value for e in tensor.external_data}
        file = (folder or Path()) / where.get("location", "")
        if folder is None:
            bad.append((tensor.name, "the data are in another file, and the model comes from none"))
        elif not file.resolve().is_relative_to(folder):
            bad.append((tensor.name, f"the data are outside the model's folder, in {where.get('location')}"))
        elif not file.is_file():
            bad.append((tensor.name, f"there is no file {where.get('location')} beside the model"))
        elif file.stat().st_size < int(where.get("offset", 0)) + max(_bytes(tensor), int(where.get("length", 0))):
            bad.append((tensor.name, f"{where['location']} is too short for the data"))
        else:
            good.append(where["location"])
    return bad, sorted(set(good))


def _inside(s: Subject) -> Found:
    _, files = _placed(s)
    for file in files:
        yield file, "weights are in a file of their own beside the model"


def merge_weights(model: onnx.ModelProto) -> bool:
    """External weights in the file itself. `repair` has read them by then, so nothing is left to do."""
    return not external(model)


RULES = (
    Rule(
        "D103",
        "the graph has a cycle",
        "error",
        "There is no order in which its nodes could run.",
        "Export it again; a tool that rewrote the graph has broken it.",
        _cyclic,
        first=True,
    ),
    Rule(
        "D104",
        "the nodes are not in order",
        "error",
        "ONNX asks for every edge to be written before it is read; onnx.checker and most parsers refuse it.",
        "--fix sorts them.",
        _unsorted,
        sort_nodes,
        first=True,
    ),
    Rule(
        "D105",
        "weights in a file of their own",
        "note",
        "Both files must always travel together.",
        "Fine as it is; what --fix writes is one file.",
        _inside,
        merge_weights,
        first=True,
    ),
    Rule(
        "D106",
        "external weights missing, cut off or outside the folder",
        "error",
        "It cannot be loaded; and a path that leads elsewhere could read any file here.",
        "Put the data file that was exported with the model beside it.",
        lambda s: _placed(s)[0],
        first=True,
    ),
    Rule(
        "D107",
        "more than 2 GB of weights",
        "error",
        "Protobuf holds no more than 2 GB, and nothing was loaded to find this out.",
        "Export a smaller network, or in fp16.",
        _oversized,
        first=True,
    ),
    Rule(
        "D108",
        "a weight's data do not fit its shape",
        "error",
        "The file is cut off or was changed by hand; runtimes refuse it.",
        "Copy or export it again.",
        _incomplete,
        first=True,
    ),
    Rule(
        "D109",
        "an edge without a writer, or with two",
        "error",
        "The graph is not complete: no runtime can run it.",
        "Export it again; a tool that cut the graph has broken it.",
        _edges,
        first=True,
    ),
)
