"""Who reads an edge last: what can be freed then, and what an activation may overwrite."""

from __future__ import annotations

from collections.abc import Sequence

from eyas.torch_ops.node import Op
from eyas.torch_ops.pointwise import INPLACE
from eyas.torch_ops.table import FRESH, SAME_NUMBERS, VIEWS


class Lives:
    """Of a list of operators, with views counted as what they are views of.

    dead: by operator, the edges that nobody reads after it. positive: edges with indices that are known to be ≥ 0.
    """

    def __init__(self, ops: Sequence[Op], outputs: Sequence[str], positive: set[str]) -> None:
        """positive: constants that are."""
        self.positive = set(positive)
        self._ops = ops
        self._made = {edge: op for op in ops for edge in op.outputs}
        self._root: dict[str, str] = {}
        self._last: dict[str, int] = {}  # of an edge and all that are views of it, the last reader
        last: dict[str, int] = {}
        for i, op in enumerate(ops):
            for edge in op.outputs:
                source = op.inputs[0] if op.kind in VIEWS and op.inputs else edge
                self._root[edge] = self._root.get(source, source)
                last[edge] = i
            for edge in op.inputs:
                self._last[self._root.get(edge, edge)] = last[edge] = i
            self._count_positive(op)
        self._held = {self._root.get(edge, edge) for edge in outputs}
        self.dead: list[tuple[str, ...]] = [()] * len(ops)
        for edge, i in last.items():
            if edge and edge not in outputs:
                self.dead[i] = (*self.dead[i], edge)

    def _count_positive(self, op: Op) -> None:
        if op.kind in ("ArgMax", "ArgMin"):
            self.positive.add(op.outputs[0])
        elif op.kind == "TopK":
            self.positive.update(op.outputs[1:])
        elif op.kind in SAME_NUMBERS and op.inputs[0] in self.positive:
            self.positive.update(op.outputs)

    def inplace(self, i: int) -> bool:
        """Whether operator i may overwrite its first input: memory of its own, and nobody reads it or a view later."""
        op = self._ops[i]
        if op.kind not in INPLACE:
            return False
        edge = op.inputs[0]
        source = self._made.get(edge)
        if source is None or source.kind not in FRESH or self._root[edge] in self._held:
            return False
        return self._last[self._root[edge]] == i and op.inputs.count(edge) == 1
