"""Take the NMS off a deploy graph again, for engines that do it with a kernel of their own on the candidates."""

from __future__ import annotations

import json
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

from eyas.graph.head import CANDIDATES, ORDER
from eyas.graph.surgery import dims_of, edges_read

MOST = 512  # rows an image that the kernel takes
KEY = "eyas-head"  # the head's settings among the graph's metadata


class OpenEnd(NamedTuple):
    """What the kernel must know. rows, width: candidates an image, columns each. agnostic: see `HeadSpec`."""

    rows: int
    width: int
    agnostic: bool


def open_end(model: onnx.ModelProto) -> OpenEnd | None:
    """End the graph, in place, at its candidates; None, and nothing changed, where it has no NMS of ours.

    The outputs detections [B, K, W], count and converged give way to `CANDIDATES` float32 [B, K, W], which holds rows
    in any order, and `ORDER` float32 [B, K], by which ties go. Other outputs stay.
    """
    graph = model.graph
    made = {edge for node in graph.node for edge in node.output}
    facts = {p.key: p.value for p in model.metadata_props}
    table = next((o for o in graph.output if o.name == "detections"), None)
    if table is None or KEY not in facts or not {CANDIDATES, ORDER} <= made:
        return None
    batch, rows, width = dims_of(table)
    if not isinstance(rows, int) or not isinstance(width, int) or rows > MOST:
        return None
    others = [o for o in graph.output if o.name not in ("detections", "count", "converged")]
    ends = [
        helper.make_tensor_value_info(CANDIDATES, TensorProto.FLOAT, [batch, rows, width]),
        helper.make_tensor_value_info(ORDER, TensorProto.FLOAT, [batch, rows]),
    ]
    del graph.output[:]
    graph.output.extend([*ends, *others])
    _drop_unread(graph)
    return OpenEnd(rows, width, bool(json.loads(facts[KEY])["agnostic"]))


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Nodes and weights that lead to no output."""
    wanted = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= edges_read([node])
    del graph.node[:]
    graph.node.extend(reversed(kept))
    weights = [t for t in graph.initializer if t.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(weights)
