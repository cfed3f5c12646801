"""Whether two networks give the same, by running both on ONNX Runtime on random pictures.

Three draws: a batch of 1, of 2 and of 3 where the repaired network's batch is free. Pictures are random bytes,
normalised as the family that the network looks like wants it; where none does, values of 0…1 and of a normal
distribution take turns. The runtime's own optimisation is off, so that a rewrite that is exact compares as exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from eyas.doctor.subject import Subject
from eyas.extras import need
from eyas.graph.surgery import dims_of, inputs_of
from eyas.ops import expanded
from eyas.types import Normalise

Arrays = dict[str, NDArray[Any]]
_UNITS = (1, 2, 4, 8, 16, 32, 3, 6)  # batches at which a network that says it takes any is tried
_SIDES = (64, 224, 320, 640)  # of pictures, where height and width are free


class Unequal(Exception):
    """Two networks give different results, or one of them none."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared: how many pictures, in which batches; the largest difference; what would have been allowed."""

    pictures: int
    batches: tuple[int, ...]
    largest: float
    tolerance: float


class Reference:
    """A network whose results count; they are computed once and kept. Raises Unequal where it cannot run here."""

    def __init__(self, model: onnx.ModelProto, normalise: Normalise | None = None) -> None:
        self._inputs = inputs_of(model.graph)
        try:
            self._run = _session(model)
        except _runtime_errors() as error:
            raise Unequal(f"ONNX Runtime refuses the network itself: {str(error)[:200]}") from error
        self._names = [o.name for o in model.graph.output]
        self._normalise = normalise
        self._kept: dict[tuple[int, int, bool], Arrays] = {}
        self.unit, self.side = self._smallest()

    def _smallest(self) -> tuple[int, int]:
        """The batch, and the side where that is free, at which the network runs."""
        reason = ""
        fixed = next((d for i in self._inputs for d in dims_of(i)[:1] if len(dims_of(i)) == 4), "?")
        for side in _SIDES:
            self.side = side
            for unit in [fixed] if isinstance(fixed, int) else _UNITS:
                try:
                    self._run(self.feeds(0, unit))
                    return unit, side
                except Exception as error:  # ONNX Runtime's errors have no common base
                    reason = reason or str(error)  # the first one's: later batches fail for other reasons
        raise Unequal(f"the network itself fails on ONNX Runtime: {reason[:200]}")

    def feeds(self, seed: int, batch: int) -> Arrays:
        """Random inputs, the same for the same seed and batch."""
        rng = np.random.default_rng([seed, batch])
        return {i.name: self._random(i, rng, seed, batch) for i in self._inputs}

    def _random(self, value: onnx.ValueInfoProto, rng: np.random.Generator, seed: int, batch: int) -> Any:
        dims = dims_of(value)
        shape = [d if isinstance(d, int) else self.side if a and len(dims) == 4 else 1 for a, d in enumerate(dims)]
        if dims:
            shape[0] = batch if len(dims) == 4 or isinstance(dims[0], str) else shape[0]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
            return rng.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)
        if self._normalise is None or len(shape) != 4:
            return (rng.normal(0, 1.2, shape) if seed % 2 else rng.random(shape)).astype(dtype)
        axis = (1, 1, 1, 3) if shape[3] == 3 and shape[1] != 3 else (1, 3, 1, 1)
        mean, scale = (np.reshape(v, axis) for v in (self._normalise.mean, self._normalise.scale))
        return ((rng.integers(0, 256, shape) - mean) * scale).astype(dtype)

    def results(self, seed: int, batch: int, in_units: bool) -> Arrays:
        """What the network gives; in_units: computed in its smallest batch, and put together along the first axis."""
        key = (seed, batch, in_units)
        if key not in self._kept:
            feeds = self.feeds(seed, batch)
            steps = range(0, batch, self.unit if in_units else batch)
            parts = [self._run(_rows(feeds, start, self.unit if in_units else batch, batch)) for start in steps]
            joined = {n: np.concatenate([p[n] for p in parts]) if in_units else parts[0][n] for n in self._names}
            self._kept[key] = {n: a[:batch] if in_units else a for n, a in joined.items()}
        return self._kept[key]

    def compare(self, model: onnx.ModelProto, tolerance: float, draws: int = 3) -> Proof:
        """Raises Unequal unless |new − old| ≤ tolerance · (1 + |old|) for every value of every output."""
        try:
            run, inputs = _session(model), inputs_of(model.graph)
        except _runtime_errors() as error:
            raise Unequal(f"ONNX Runtime refuses the result: {str(error)[:200]}") from error
        fixed = any(len(dims_of(i)) == 4 and isinstance(dims_of(i)[0], int) for i in inputs)
        batches = [self.unit] * draws if fixed else ([1, 2, 3] if self.unit == 1 else [self.unit, 1, 2 * self.unit])
        largest = 0.0
        types = {i.name: helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in inputs}
        for seed, batch in enumerate(batches[:draws]):
            feeds = {n: a.astype(types[n]) for n, a in self.feeds(seed, batch).items() if n in types}
            try:
                got = dict(zip(self._names, run(feeds).values(), strict=True))
            except _runtime_errors() as error:
                raise Unequal(f"the result fails on a batch of {batch}: {str(error)[:200]}") from error
            largest = max(largest, _difference(self._wanted(seed, batch, got), got, tolerance))
        return Proof(sum(batches[:draws]), tuple(batches[:draws]), largest, tolerance)

    def _wanted(self, seed: int, batch: int, got: Arrays) -> Arrays:
        """The old results for a batch: of one run if that gives the new ones' shapes, else picture by picture."""
        if batch % self.unit == 0:
            try:
                whole = self.results(seed, batch, in_units=False)
                if all(whole[n].shape == got[n].shape for n in self._names):
                    return whole
            except _runtime_errors():
                pass
        return self.results(seed, batch, in_units=True)


def _rows(feeds: Arrays, start: int, count: int, batch: int) -> Arrays:
    """Some pictures of a batch, the last one again where they run out."""
    rows = np.minimum(np.arange(start, start + count), batch - 1)
    return {n: a[rows] if a.ndim and len(a) == batch else a for n, a in feeds.items()}


def _difference(old: Arrays, new: Arrays, tolerance: float) -> float:
    """The largest |new − old|. Raises Unequal where it is too large, or shapes differ. NaN equals NaN."""
    largest = 0.0
    for name, wanted in old.items():
        got = new[name]
        if wanted.shape != got.shape:
            raise Unequal(f"output {name} is {list(got.shape)}, was {list(wanted.shape)}")
        a, b = wanted.astype(np.float64), got.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore", over="ignore"):
            off = np.where(same, 0, np.abs(a - b))
            allowed = tolerance * (1 + np.where(np.isfinite(a), np.abs(a), 0))
        if not (off <= allowed).all():
            raise Unequal(f"output {name} differs by {np.nanmax(off):.3g}")
        largest = max(largest, float(off.max(initial=0)))
    return largest


def normalise_of(subject: Subject) -> Normalise | None:
    """How the family that the network looks like wants its pictures."""
    return subject.guesses[0].normalise if subject.guesses else None


def _session(model: onnx.ModelProto) -> Any:
    """A function from inputs to outputs by name, on the CPU."""
    ort = need("onnxruntime", "ort")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    data = expanded(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own types have no common base but Exception."""
    state = need("onnxruntime.capi.onnxruntime_pybind11_state", "ort")
    kinds = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException", "InvalidProtobuf")
    return (*(getattr(state, kind) for kind in kinds), RuntimeError, ValueError)
