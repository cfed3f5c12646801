"""D401 to D405: numbers that are none, or too large, too small or too wide for where they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from eyas.doctor.rule import Rule
from eyas.doctor.subject import Subject

Found = Iterator[tuple[str, str]]

LARGEST = 65504.0  # of fp16
SMALLEST = 2.0**-25  # what is below it becomes 0 in fp16
_SHARE = 0.1  # of a weight's values that may vanish unsaid
_TABLE = 1024  # elements from which an index table counts
_INDEX = {"Gather": 1, "GatherElements": 1}  # operators that take int32 indices, and which input


def _floats(s: Subject) -> Iterator[tuple[str, NDArray[Any]]]:
    """Weights of more than one value; a single −inf or 1e9 is a mask's or a Clip's."""
    for name, tensor in s.constants.items():
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
            array = numpy_helper.to_array(tensor)
            if array.size > 1:
                yield name, array


def _not_finite(s: Subject) -> Found:
    for name, array in _floats(s):
        bad = int(array.size - np.isfinite(array).sum())
        if bad:
            yield name, f"{bad} of {array.size} values are NaN or infinite"


def _too_large(s: Subject) -> Found:
    for name, array in _floats(s):
        worst = float(np.abs(array[np.isfinite(array)]).max(initial=0))
        if worst > LARGEST:
            yield name, f"the largest value is {worst:.6g}"


def _too_small(s: Subject) -> Found:
    lost = {n: int(((np.abs(a) < SMALLEST) & (a != 0)).sum()) for n, a in _floats(s) if a.dtype != np.float16}
    many = {name: count for name, count in lost.items() if count > _SHARE * np.prod(s.constants[name].dims)}
    if many:
        worst = max(many, key=lambda name: many[name])
        yield worst, f"{many[worst]} of its values become 0, {sum(many.values())} in {len(many)} weights together"


def _tables(s: Subject) -> Iterator[tuple[str, NDArray[Any]]]:
    """Large int64 weights that are read as indices only, by operators that take int32, and fit it."""
    for name, tensor in s.weights.items():
        if tensor.data_type != TensorProto.INT64 or name in s.outputs:
            continue
        array = numpy_helper.to_array(tensor)
        readers = s.readers.get(name, [])
        plain = all(n.op_type in _INDEX and list(n.input).index(name) == _INDEX[n.op_type] for n in readers)
        if array.size >= _TABLE and readers and plain and np.abs(array).max() < 2**31:
            yield name, array


def _wide(s: Subject) -> Found:
    for name, array in _tables(s):
        yield name, f"{array.size} indices up to {array.max()} are int64"


def narrow_tables(model: onnx.ModelProto) -> bool:
    """Index tables of Gather and GatherElements as int32, which both take. The numbers are the same."""
    s, changed = Subject(model), False
    for name, array in _tables(s):
        s.weights[name].CopyFrom(numpy_helper.from_array(array.astype(np.int32), name))
        changed = True
    return changed


def _double(s: Subject) -> Found:
    wide = [name for name, kind in s.types.items() if kind == TensorProto.DOUBLE]
    if wide:
        yield wide[0], f"{len(wide)} edges are float64"


RULES = (
    Rule(
        "D401",
        "weights that are NaN or infinite",
        "error",
        "They spread to every result.",
        "Training diverged, or the file is damaged: take an earlier checkpoint.",
        _not_finite,
    ),
    Rule(
        "D402",
        "weights beyond the range of fp16",
        "warning",
        "Above 65504 they become infinite where the network runs in fp16.",
        "Run it in fp32 or bf16, or keep that layer in fp32.",
        _too_large,
    ),
    Rule(
        "D403",
        "weights that vanish in fp16",
        "note",
        "Below 3e-8 they become 0 where the network runs in fp16.",
        "Harmless if they are few; else keep that layer in fp32.",
        _too_small,
    ),
    Rule(
        "D404",
        "int64 indices where int32 does",
        "note",
        "They take twice the memory; engines that have no int64 convert them at every call, or warn.",
        "--fix stores them as int32.",
        _wide,
        narrow_tables,
    ),
    Rule(
        "D405",
        "float64 in the graph",
        "warning",
        "GPU engines refuse it or convert it; a CPU takes twice the time.",
        "Call model.float() before export; look for NumPy scalars in the code.",
        _double,
    ),
)
