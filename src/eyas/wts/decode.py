"""YOLOv5's decode as arithmetic alone, for networks that are to give final rows instead of raw maps.

`eyas.families.yolov5` decodes only the rows that top-K chose; this decodes all, as the original's Detect layer does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eyas.wts.walk import ANCHORS_A_CELL
from eyas.wts.weights import Weights

Table = NDArray[np.float32]


class DecodeOps(Protocol):
    """What a maker of networks must be able to do for the decode."""

    def const(self, value: Table) -> Any:
        """A constant edge."""

    def add(self, a: Any, b: Any) -> Any:
        """a + b, broadcast."""

    def mul(self, a: Any, b: Any) -> Any:
        """a · b, broadcast."""

    def sigmoid(self, x: Any) -> Any:
        """1 / (1 + e⁻ˣ)."""

    def by_anchor(self, raw: Any, width: int, cells: int) -> Any:
        """[B, 3 · width, h, w] → float32 [B, 3, cells, width], with cells = h · w."""

    def by_row(self, x: Any, rows: int, width: int) -> Any:
        """[B, 3, cells, width] → [B, rows, width], with rows = 3 · cells."""

    def concat(self, edges: Sequence[Any], axis: int = 1) -> Any:
        """Joined over an axis."""


def decode(ops: DecodeOps, weights: Weights, size: tuple[int, int], maps: Sequence[Any]) -> Any:
    """The raw maps as rows [B, N, 5 + classes]: centre, extent (pixels), objectness, class scores. size: (H, W)."""
    width, levels = 5 + weights.classes, []
    for raw, stride, anchors in zip(maps, weights.arch.strides, weights.anchors, strict=True):
        cells = (size[0] // stride) * (size[1] // stride)
        squared, linear, fixed = (ops.const(t) for t in tables(stride, anchors, weights.classes, size))
        sigma = ops.sigmoid(ops.by_anchor(raw, width, cells))
        rows = ops.add(ops.mul(ops.add(ops.mul(sigma, squared), linear), sigma), fixed)
        levels.append(ops.by_row(rows, ANCHORS_A_CELL * cells, width))
    return ops.concat(levels, axis=1)


def tables(stride: int, anchors: Table, classes: int, size: tuple[int, int]) -> tuple[Table, Table, Table]:
    """(a, b, c) such that a · σ² + b · σ + c is the final row of a raw map's sigmoid σ [B, 3, h · w, 5 + classes].

    anchors: [3, 2] in pixels. Each column of YOLOv5's decode is a polynomial of degree two at most in its σ:
    xy = (2σ − ½ + cell) · s, wh = (2σ)² · anchor, the scores σ itself. So no column has to be cut out.
    Shapes [1, 3, 1, 5 + classes], [1, 1, 1, 5 + classes], [1, 1, h · w, 5 + classes].
    """
    rows, columns = size[0] // stride, size[1] // stride
    squared = np.zeros((1, ANCHORS_A_CELL, 1, 5 + classes), np.float32)
    squared[0, :, 0, 2:4] = 4 * anchors
    linear = np.ones((1, 1, 1, 5 + classes), np.float32)
    linear[..., :2], linear[..., 2:4] = 2 * stride, 0
    fixed = np.zeros((1, 1, rows * columns, 5 + classes), np.float32)
    fixed[0, 0, :, 0] = (np.tile(np.arange(columns), rows) - 0.5) * stride
    fixed[0, 0, :, 1] = (np.repeat(np.arange(rows), columns) - 0.5) * stride
    return squared, linear, fixed
