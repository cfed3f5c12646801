"""What a track looked like: its last embeddings, and how far a detection is from the closest of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eyas.errors import OptionError, problem

Floats = NDArray[np.float64]


class Gallery:
    """The last `budget` embeddings of one track; float32 [D] of unit length. Those that are not finite are left out."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._rows: NDArray[np.float32] | None = None
        self._added = 0

    def add(self, embedding: NDArray[np.float32]) -> None:
        """One more; the oldest goes once the budget is full."""
        if not np.isfinite(embedding).all():
            return
        if self._rows is None:  # memory that is not touched costs nothing yet
            self._rows = np.empty((self._budget, len(embedding)), np.float32)
        self._rows[self._added % self._budget] = embedding
        self._added += 1

    @property
    def rows(self) -> NDArray[np.float32] | None:
        """The embeddings, in no order: float32 [n, D], a view; None where there is none yet."""
        return None if self._rows is None else self._rows[: min(self._added, self._budget)]


def cosine_distances(galleries: Sequence[Gallery], embedding: NDArray[np.float32]) -> Floats:
    """1 − cosine to the closest of each gallery: embeddings float32 [M, D] → float64 [N, M]; NaN where one is missing.

    Raises OptionError where the embeddings are not as long as those of the galleries.
    """
    out = np.full((len(galleries), len(embedding)), np.nan)
    turned = embedding.T
    for i, gallery in enumerate(galleries):
        rows = gallery.rows
        if rows is None:
            continue
        if rows.shape[1] != len(turned):
            raise OptionError(
                problem(
                    "the embeddings are not of one network",
                    got=f"{len(turned)} values, after {rows.shape[1]}",
                    expected="vectors of the same length in every frame",
                    remedy="Call reset() when the network changes.",
                )
            )
        out[i] = 1 - (rows @ turned).max(axis=0)
    return out
