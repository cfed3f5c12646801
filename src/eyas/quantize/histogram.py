"""Ranges from a stream of values, in constant memory: a histogram that widens as it must, and what is read off it.

Bins lie at whole multiples of 2ᵏ. Where a value falls outside, neighbours merge in pairs and k grows by one; so the
counts depend on the values alone, not on their order, and counting can stop and go on. One histogram serves every
method, so that changing the method needs no second pass over the pictures.

Methods, all of them thresholds t ≤ max|x| on |x| (a side that no value reaches stays as short as it is):

- minmax: t = max|x|.
- percentile: the smallest t under which 99.99% of the values lie.
- entropy: the t whose clipped distribution, cut to 128 levels, has the least Kullback–Leibler divergence from the
  unclipped one (S. Migacz, "8-bit Inference with TensorRT", GTC 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
HALF = 2048  # bins on each side of zero
PERCENTILE = 0.9999
SAMPLES = 65_536  # values a picture and edge that are counted; least and largest are taken of all
LEVELS = 128
STEPS = 256  # thresholds that entropy tries


@dataclass
class Histogram:
    """Counts of one edge's values. counts: int64 [2 · HALF], bin i holds [(i − HALF) · 2ᵏ, (i − HALF + 1) · 2ᵏ).

    exponent: k, None until a value other than 0 was seen. low, high: of all finite values. odd: NaN and infinities.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * HALF, np.int64))
    exponent: int | None = None
    low: float = math.inf
    high: float = -math.inf
    odd: int = 0

    @property
    def largest(self) -> float:
        """The largest |value|; 0 where none was seen, NaN where one was not finite."""
        return math.nan if self.odd else max(-self.low, self.high, 0.0)

    def add(self, values: NDArray[Any]) -> None:
        """Count values of any shape; of many, an evenly spaced choice."""
        x = values.reshape(-1)
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        if not math.isfinite(low + high):
            finite = np.isfinite(x)
            self.odd += int(x.size - finite.sum())
            return self.add(x[finite])
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        # An odd step: an even one would meet the same columns of every row.
        x = x[:: (x.size // SAMPLES) | 1] if x.size > SAMPLES else x
        scale = 0.0 if self.exponent is None else math.ldexp(1.0, -self.exponent)
        place = np.floor(x.astype(np.float64) * scale).astype(np.int64) + HALF
        self.counts += np.bincount(place, minlength=2 * HALF)

    def _widen(self, largest: float) -> None:
        """Make room for ±largest."""
        if largest == 0:
            return
        need = math.frexp(largest)[1] - int(math.log2(HALF))  # largest < 2ᵉ = 2^need · HALF
        if self.exponent is None:
            self.exponent = need
        while need > self.exponent:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(pairs, HALF // 2)
            self.exponent += 1
        if largest == math.ldexp(HALF, self.exponent):  # −largest fits, +largest is the first beyond
            self._widen(largest * 2)

    def limits(self, method: Method) -> tuple[float, float] | None:
        """(low, high) of the range to quantise; None where every value was 0 or one was not finite."""
        if self.exponent is None or self.odd:
            return None
        width = math.ldexp(1.0, self.exponent)
        sizes = self.counts[HALF:] + self.counts[HALF - 1 :: -1]  # of |x|, bin by bin
        threshold = self.largest
        if method == "percentile":
            share = np.cumsum(sizes) / sizes.sum()
            threshold = (int(np.searchsorted(share, PERCENTILE)) + 1) * width
        elif method == "entropy":
            threshold = _least_divergence(sizes[: math.ceil(self.largest / width)]) * width
        threshold = min(threshold, self.largest)
        return max(self.low, -threshold), min(self.high, threshold)


def _least_divergence(sizes: NDArray[np.int64]) -> int:
    """How many of the bins to keep. sizes: counts of |x|, from 0 to the largest."""
    best, kept = math.inf, len(sizes)
    for stop in range(len(sizes), LEVELS - 1, -max(1, len(sizes) // STEPS)):
        inside = sizes[:stop].astype(np.float64)
        level = np.arange(stop) * LEVELS // stop
        filled = np.bincount(level, inside > 0, LEVELS)
        mean = np.bincount(level, inside, LEVELS) / np.maximum(filled, 1)
        coarse = np.where(inside > 0, mean[level], 0)
        inside[-1] += sizes[stop:].sum()  # what is clipped ends up at the threshold
        if not coarse.any():
            continue
        p, q = inside / inside.sum(), coarse / coarse.sum()
        seen = p > 0
        divergence = float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-9))).sum())
        if divergence < best:
            best, kept = divergence, stop
    return kept
