"""Which detection belongs to which track: candidate pairs, and those of them that cost least together.

Of N tracks and M detections few pairs are possible, so they are kept as a list: row, column, cost.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eyas.extras import need

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Pairs(NamedTuple):
    """Candidates: row (track) and column (detection) int [K], cost float64 [K]."""

    row: Ints
    column: Ints
    cost: Floats

    def where(self, which: NDArray[np.bool_] | Ints) -> Pairs:
        """Some of them."""
        return Pairs(self.row[which], self.column[which], self.cost[which])


def pairs_below(cost: Floats, highest: float) -> Pairs:
    """The entries of float64 [N, M] up to `highest`; NaN is not."""
    row, column = np.nonzero(cost <= highest)
    return Pairs(row, column, cost[row, column])


def iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes x1, y1, x2, y2, each with each: [N, 4], [M, 4] → float64 [N, M].

    0 where neither box has an area.
    """
    return iou_of_pairs(a[:, None], b)


def iou_of_pairs(a: Floats, b: Floats) -> Floats:
    """The same of boxes [..., 4] that broadcast: float64 [...]."""
    both = _overlap(a[..., 0], a[..., 2], b[..., 0], b[..., 2])
    both *= _overlap(a[..., 1], a[..., 3], b[..., 1], b[..., 3])
    area_a, area_b = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b))
    union = area_a + area_b
    union -= both
    return np.divide(both, union, out=both, where=union > 0)


def _overlap(low_a: Floats, high_a: Floats, low_b: Floats, high_b: Floats) -> Floats:
    length = np.minimum(high_a, high_b)
    length -= np.maximum(low_a, low_b)
    return np.maximum(length, 0, out=length)


def assign(pairs: Pairs, highest: float) -> Ints:
    """Which pairs to take, so that each row and column occurs once and the sum of costs is least.

    A row that goes without costs a little more than `highest`, which no pair's cost may exceed. Pairs that compete
    with no other are settled at once and the Hungarian method (SciPy's linear_sum_assignment) sees the others alone;
    that changes no result, as the least sum over independent groups is the sum of their least.
    """
    row, column, cost = pairs
    alone = (np.bincount(row)[row] == 1) & (np.bincount(column)[column] == 1) if len(row) else np.zeros(0, bool)
    chosen = np.flatnonzero(alone)
    rest = np.flatnonzero(~alone)
    if not len(rest):
        return chosen
    rows, i = np.unique(row[rest], return_inverse=True)
    columns, j = np.unique(column[rest], return_inverse=True)
    gain = np.zeros((len(rows), len(columns)))
    gain[i, j] = highest + _MARGIN - cost[rest]
    index = np.full(gain.shape, -1, np.intp)
    index[i, j] = rest
    taken = index[need("scipy.optimize", "track").linear_sum_assignment(gain, maximize=True)]
    return np.concatenate([chosen, taken[taken >= 0]])


_MARGIN = 1e-5  # so that a pair at `highest` is better than none
