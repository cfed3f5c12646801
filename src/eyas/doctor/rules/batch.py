"""D201 to D203: a batch that is fixed, in the input or in a Reshape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from math import prod

import numpy as np
import onnx

from eyas.doctor.edit import constant, release
from eyas.doctor.rule import Rule
from eyas.doctor.subject import Shape, Subject, attribute, name_of

Found = Iterator[tuple[str, str]]


def _free_batch() -> Callable[[onnx.ModelProto], bool] | None:
    """The repair of D201, where this eyas has it. The one place that knows `eyas.graph.batch`."""
    if find_spec("eyas.graph.batch") is None:
        return None

    def repair(model: onnx.ModelProto) -> bool:
        """The batch axis gets a name and every Reshape follows; see `eyas.graph.batch.free_batch`."""
        from importlib import import_module

        free = import_module("eyas.graph.batch").free_batch(model)
        if free is not model:
            model.CopyFrom(free)
        return True

    return repair


def _fixed(s: Subject) -> Found:
    if s.picture is not None and isinstance(s.batch, int):
        yield s.picture.name, f"the batch is fixed to {s.batch}"


def _reshapes(s: Subject) -> Iterator[tuple[onnx.NodeProto, Shape, list[int]]]:
    """Every Reshape of something with a free batch whose constant target has a number in the batch's place."""
    if not isinstance(s.batch, str):
        return
    for node in s.graph.node:
        if node.op_type != "Reshape" or attribute(node, "allowzero", 0):
            continue
        target, dims = s.value(node.input[1]), s.shapes.get(node.input[0], ())
        if target is not None and target.size > 1 and dims and dims[0] == s.batch and target[0] >= 1:
            yield node, dims, [int(v) for v in target]


def _baked(s: Subject) -> Found:
    for node, _, target in _reshapes(s):
        if -1 not in target:
            yield name_of(node), f"reshapes to {target}: the batch is always {target[0]}"


def _swallowed(s: Subject) -> Found:
    for node, _, target in _reshapes(s):
        if -1 in target:
            yield name_of(node), f"reshapes to {target}: the −1 swallows all pictures but {target[0]}"


def free_reshapes(model: onnx.ModelProto) -> bool:
    """Reshape([B, …], [n, a, b]) or with one of a, b as −1 becomes Reshape([B, …], [−1, a, b]), all but B computed.

    A picture's R = ∏ of the other axes fill a · b, so a −1 among them stands for R over the others' product; 0 stands
    for the input's own axis. For n pictures the old target and the new one are the same shape.
    """
    changed = False
    for _ in range(len(model.graph.node)):  # one at a time: the shapes behind it depend on it
        s = Subject(model)
        found = next(((n, t) for n, dims, target in _reshapes(s) if (t := _target(dims, target))), None)
        if found is None:
            return changed
        node, target = found
        old = node.input[1]
        node.input[1] = constant(model.graph, np.array(target, np.int64), f"{node.output[0]}/shape")
        release(model.graph, [old])
        del model.graph.value_info[:]
        changed = True
    return changed


def _target(dims: Shape, target: list[int]) -> list[int] | None:
    """The target with −1 for the batch, None where a picture does not fill it."""
    own = [d for d in dims[1:] if isinstance(d, int)]
    if len(own) < len(dims) - 1 or any(v == 0 and i >= len(dims) for i, v in enumerate(target)):
        return None
    rest = [int(dims[i]) if v == 0 else v for i, v in enumerate(target)][1:]
    known = prod(v for v in rest if v != -1)
    if rest.count(-1) > 1 or known == 0 or prod(own) % known:
        return None
    rest = [prod(own) // known if v == -1 else v for v in rest]
    return [-1, *rest] if prod(rest) == prod(own) else None


RULES = (
    Rule(
        "D201",
        "the batch is fixed",
        "warning",
        "Pictures go one by one where a GPU wants many at once; or empty ones fill the batch up.",
        "Export with dynamic_axes on the batch alone; --fix frees it where the graph allows.",
        _fixed,
        _free_batch(),
        tolerance=1e-5,
    ),
    Rule(
        "D202",
        "a number in the batch's place of a Reshape",
        "error",
        "Every other batch fails there, though the input says that it may be free.",
        "In view and reshape put −1 on the batch axis and compute the others; --fix does.",
        _baked,
        free_reshapes,
    ),
    Rule(
        "D203",
        "−1 outside the batch axis of a Reshape, a number on it",
        "error",
        "The −1 takes in the other pictures: their results end up in the first one's, and no error says so.",
        "In view and reshape put −1 on the batch axis and compute the others; --fix does.",
        _swallowed,
        free_reshapes,
    ),
)
