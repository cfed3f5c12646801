"""D701 to D703: what int8 does badly. Notes only: in floating point nothing is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from eyas.doctor.rule import Rule
from eyas.doctor.subject import Subject, name_of

Found = Iterator[tuple[str, str]]

_DELICATE = frozenset({"Softmax", "LogSoftmax", "Exp", "Log", "LayerNormalization", "InstanceNormalization", "Pow"})
_SPREAD = 1000  # largest channel's range over the middle one's, from which one scale for all cannot serve


def _delicate(s: Subject) -> Found:
    used = Counter(n.op_type for n in s.graph.node if n.op_type in _DELICATE and n.output[0] in s.moving)
    for op, count in used.items():
        yield name_of(next(n for n in s.graph.node if n.op_type == op)), f"{count} × {op}"


def _quantised(s: Subject) -> Found:
    found = [n for n in s.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if found:
        yield name_of(found[0]), f"{len(found)} nodes quantise or dequantise"


def _uneven(s: Subject) -> Found:
    for node in s.graph.node:
        weight = s.value(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or weight.shape[0] < 8:
            continue
        ranges = np.abs(weight.astype(np.float32)).reshape(weight.shape[0], -1).max(1)
        middle = float(np.median(ranges))
        if middle > 0 and ranges.max() > _SPREAD * middle:
            yield name_of(node), f"one channel's weights reach {ranges.max():.3g}, the middle one's {middle:.3g}"


RULES = (
    Rule(
        "D701",
        "operators that quantise badly",
        "note",
        "Their results span orders of magnitude, which 8 bits do not hold.",
        "Keep them in higher precision when you quantise; ReLU, SiLU, HardSwish and Mish are fine.",
        _delicate,
    ),
    Rule(
        "D702",
        "already quantised",
        "note",
        "Quantising it again would round twice.",
        "Quantise the network in floating point instead.",
        _quantised,
    ),
    Rule(
        "D703",
        "channels of very different range",
        "note",
        "With one scale for all channels, int8 leaves the small ones nothing.",
        "Quantise weights per channel.",
        _uneven,
    ),
)
