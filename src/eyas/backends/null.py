"""No runtime at all: one box a picture, computed from its pixels, for tests and for measuring everything else.

The box covers the whole input; its confidence is the mean of the middle pixel / 255, its class 0. Other outputs than
a detector's are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.backends import Feeds, Fitness
from eyas.graph.surgery import IMAGES, THRESHOLDS, dims_of
from eyas.types import BuildSpec


def missing() -> str | None:
    """Always here."""
    return None


def version() -> str:
    """Numpy's, the only library it uses."""
    return np.__version__


def fitness() -> Fitness:
    """Never chosen unasked."""
    return Fitness(0, "finds nothing: for tests and for measuring what surrounds an engine")


def compile(model: onnx.ModelProto, spec: BuildSpec) -> bytes:
    """The graph as it is."""
    return bytes(model.SerializeToString(deterministic=True))


def load_engine(plan: bytes, spec: BuildSpec) -> NullEngine:
    """The graph again."""
    return open_engine(onnx.load_from_string(plan), spec)


def device_key(spec: BuildSpec) -> str:
    """It runs anywhere."""
    return "any"


def open_engine(model: onnx.ModelProto, spec: BuildSpec) -> NullEngine:
    """Read nothing but its outputs' shapes from the graph."""
    shapes = {o.name: tuple(int(d) for d in dims_of(o)[1:]) for o in model.graph.output}
    dtypes = {o.name: onnx.helper.tensor_dtype_to_np_dtype(o.type.tensor_type.elem_type) for o in model.graph.output}
    return NullEngine({name: (shape, dtypes[name]) for name, shape in shapes.items()})


class NullEngine:
    """See the module's head."""

    parallel = 1
    description = f"null (numpy {np.__version__})"

    def __init__(self, outputs: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        self._outputs = outputs

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """One row where the confidence passes its threshold."""
        images = feeds[IMAGES]
        batch, height, width, _ = images.shape
        found = {name: np.zeros((batch, *shape), dtype) for name, (shape, dtype) in self._outputs.items()}
        if THRESHOLDS in feeds:
            score = images[:, height // 2, width // 2].mean(axis=-1, dtype=np.float32) / np.float32(255)
            found["detections"][:, 0, 2:5] = np.stack([np.full(batch, width), np.full(batch, height), score], axis=1)
            found["count"][:] = score > feeds[THRESHOLDS][:, 0]
            found["converged"][:] = True
        return found

    def close(self) -> None:
        """Nothing is held."""
