"""Rewrites of the operator list that save passes over memory. Each leaves results as they are, but for rounding.

x · Sigmoid(x), x · HardSigmoid(x)  → Silu(x), HardSwish(x)
Cast(Cast(x)), x 8-bit              → one Cast
Cast(x) ∘ constant, x 8-bit         → x ∘ constant: torch converts on the way
index · ones                        → ExpandLike, a view (`Builder.take` writes it so)
Conv → activation                   → Conv with the attribute `activation`, an Op
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnx import TensorProto

from eyas.torch_ops.node import Op, Tensor
from eyas.torch_ops.table import SAME_NUMBERS

ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Silu", "Sigmoid", "HardSwish", "Clip"})
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
EXACT = (*FLOATS, TensorProto.INT32, TensorProto.INT64)  # types that hold every 8-bit number


def fuse(ops: Sequence[Op], known: Mapping[str, Tensor], bytes_: set[str], outputs: Sequence[str]) -> list[Op]:
    """known: constants by edge. bytes_: inputs of the graph that are uint8. outputs: edges that must remain."""
    found = _ones(_casts(_gates(ops, outputs), known, bytes_, outputs), known)
    return _activations(found, known, outputs)


def _made(ops: Sequence[Op]) -> dict[str, Op]:
    return {edge: op for op in ops for edge in op.outputs}


def _readers(ops: Sequence[Op], outputs: Sequence[str]) -> Counter[str]:
    readers = Counter(edge for op in ops for edge in op.inputs)
    readers.update(outputs)
    return readers


def _pairs(op: Op) -> Iterator[tuple[str, str]]:
    """Both ways to read a product of two."""
    if op.kind == "Mul":
        yield op.inputs[0], op.inputs[1]
        yield op.inputs[1], op.inputs[0]


def _gates(ops: Sequence[Op], outputs: Sequence[str]) -> list[Op]:
    made, readers = _made(ops), _readers(ops, outputs)
    gone: set[str] = set()

    def changed(op: Op) -> Op:
        for x, gate in _pairs(op):
            source = made.get(gate)
            if source and source.inputs == (x,) and readers[gate] == 1 and (kind := _gate(source)):
                gone.add(gate)
                return Op(kind, op.name, (x,), op.outputs)
        return op

    rest = [changed(op) for op in ops]
    return [op for op in rest if gone.isdisjoint(op.outputs)]


def _gate(op: Op) -> str | None:
    if op.kind == "Sigmoid":
        return "Silu"
    alpha, beta = op.attributes.get("alpha", 0.2), op.attributes.get("beta", 0.5)
    usual = op.kind == "HardSigmoid" and math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5
    return "HardSwish" if usual else None


def _casts(ops: Sequence[Op], known: Mapping[str, Tensor], bytes_: set[str], outputs: Sequence[str]) -> list[Op]:
    narrow, sources = set(bytes_), dict[str, tuple[str, int]]()
    rest: list[Op] = []
    for op in ops:
        if op.kind == "Cast" and op.inputs[0] in sources:
            op = replace(op, inputs=(sources[op.inputs[0]][0],))
        if op.kind in ("Add", "Sub", "Mul"):
            op = _uncast(op, sources, known)
        if op.kind in SAME_NUMBERS and op.inputs[0] in narrow:
            narrow.update(op.outputs)
        if op.kind == "Cast" and op.inputs[0] in narrow and op.attributes["to"] in EXACT:
            sources[op.outputs[0]] = (op.inputs[0], op.attributes["to"])
        rest.append(op)
    readers = _readers(rest, outputs)
    return [op for op in rest if op.kind != "Cast" or readers[op.outputs[0]]]


def _uncast(op: Op, sources: Mapping[str, tuple[str, int]], known: Mapping[str, Tensor]) -> Op:
    """The constant has axes, so that torch takes its type for the result; `tensors` keeps it a tensor."""
    a, b = op.inputs
    for x, other in ((a, b), (b, a)):
        constant = known.get(other)
        if x in sources and sources[x][1] in FLOATS and constant is not None and constant.dim():
            inputs = (sources[x][0], b) if x == a else (a, sources[x][0])
            return replace(op, inputs=inputs, attributes={"tensors": True})
    return op


def _ones(ops: Sequence[Op], known: Mapping[str, Tensor]) -> list[Op]:
    def changed(op: Op) -> Op:
        for x, other in _pairs(op):
            ones = known.get(other)
            if ones is not None and not ones.is_floating_point() and x not in known and bool((ones == 1).all()):
                return Op("ExpandLike", op.name, (x, other), op.outputs)
        return op

    return [changed(op) for op in ops]


def _activations(ops: Sequence[Op], known: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Op]:
    """Only where nobody else reads the convolution, and bounds are known."""
    made, readers = _made(ops), _readers(ops, outputs)
    behind: dict[str, Op] = {}
    for op in ops:
        if op.kind not in ACTIVATIONS or any(edge and edge not in known for edge in op.inputs[1:]):
            continue
        source = made.get(op.inputs[0])
        if source and source.kind == "Conv" and readers[op.inputs[0]] == 1:
            bounds = {n: known[e].item() for n, e in zip(("min", "max"), op.inputs[1:], strict=False) if e}
            behind[source.outputs[0]] = replace(op, inputs=op.inputs[:1], attributes={**op.attributes, **bounds})
    gone = {op.outputs[0] for op in behind.values()}
    rest = []
    for op in ops:
        if activation := behind.get(op.outputs[0]):
            op = replace(op, outputs=activation.outputs, attributes={**op.attributes, "activation": activation})
        elif op.outputs[0] in gone:
            continue
        rest.append(op)
    return rest
