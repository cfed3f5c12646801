"""D311 to D313: what nothing uses, and what is there twice."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from eyas.doctor.edit import dead, sweep
from eyas.doctor.rule import Rule
from eyas.doctor.subject import Subject, name_of
from eyas.graph.surgery import edges_read

Found = Iterator[tuple[str, str]]
_SMALL = 4096  # bytes: below it a copy costs nothing


def _dead(s: Subject) -> Found:
    for node in dead(s.graph):
        yield name_of(node), f"nothing uses the result of {node.op_type}"


def _unread(s: Subject) -> Found:
    read = edges_read(s.graph.node) | s.outputs
    for name, tensor in s.weights.items():
        if name not in read:
            yield name, f"nothing reads this weight of shape {list(tensor.dims)}"


def clean(model: onnx.ModelProto) -> bool:
    """Nodes from which no output follows, and weights that no node reads, are dropped. No output depends on them."""
    sweep(model.graph)
    return True


def _twice(s: Subject) -> Found:
    seen: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    for name, tensor in s.weights.items():
        if len(tensor.raw_data) >= _SMALL:
            key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
            if key in seen:
                yield name, f"the same {len(tensor.raw_data)} bytes as {seen[key]}"
            seen.setdefault(key, name)


RULES = (
    Rule(
        "D311",
        "dead nodes",
        "warning",
        "They take space and build time, and some engines run them.",
        "--fix drops them.",
        _dead,
        clean,
    ),
    Rule(
        "D312",
        "weights that nothing reads",
        "warning",
        "They make the file larger and are sent to the device.",
        "--fix drops them.",
        _unread,
        clean,
    ),
    Rule(
        "D313",
        "a weight is there twice",
        "note",
        "The file is larger than it need be.",
        "Tie the weights before export if they are meant to be one.",
        _twice,
    ),
)
