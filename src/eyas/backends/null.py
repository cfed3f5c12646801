"""No runtime at all: one box a picture, computed from its pixels, for tests and for measuring everything else.

The box covers the whole input; its confidence is the mean of the middle pixel / 255, its class 0.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.backends import Fitness, Outputs
from eyas.graph.surgery import dims_of
from eyas.types import BuildSpec, Image


def missing() -> str | None:
    """Always here."""
    return None


def version() -> str:
    """Numpy's, the only library it uses."""
    return np.__version__


def fitness() -> Fitness:
    """Never chosen unasked."""
    return Fitness(0, "finds nothing: for tests and for measuring what surrounds an engine")


def open_engine(model: onnx.ModelProto, spec: BuildSpec) -> NullEngine:
    """Read nothing but the number of rows from the graph."""
    return NullEngine(int(dims_of(model.graph.output[0])[1]))


class NullEngine:
    """See the module's head."""

    parallel = 1
    description = f"null (numpy {np.__version__})"

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def infer(self, images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        """One row where the confidence passes its threshold."""
        batch, height, width, _ = images.shape
        detections = np.zeros((batch, self._rows, 6), np.float32)
        score = images[:, height // 2, width // 2].mean(axis=-1, dtype=np.float32) / np.float32(255)
        detections[:, 0, 2:5] = np.stack([np.full(batch, width), np.full(batch, height), score], axis=1)
        count = (score > thresholds[:, 0]).astype(np.int32)
        return Outputs(detections, count, np.ones(batch, np.bool_))

    def close(self) -> None:
        """Nothing is held."""
