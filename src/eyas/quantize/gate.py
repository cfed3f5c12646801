"""The accuracy gate: which layers must stay in float so that the model is no worse than asked.

1. Each layer is quantised alone, and the noise at the network's ends (`Reference.noise`) is its sensitivity. That
   takes a few forward passes a layer, where one more measurement of AP takes one for every labelled picture.
2. The k most sensitive layers stay in float: k = 0, 1, 2, 4, … until the model is good enough, then by bisection
   between the last two. The noises of layers add up nearly independently, so the order of step 1 is close to the best.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx

from eyas.quantize.compare import Reference, sqnr_db

Build = Callable[[Collection[str]], onnx.ModelProto]  # names of the layers that stay in float → the network
NamesWatch = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What quantising one layer alone does to the ends. noise: see `Reference.noise`; sqnr_db: the same in decibels."""

    layer: str
    op: str
    noise: float

    @property
    def sqnr_db(self) -> float:
        """10 · log₁₀(1 / noise)."""
        return sqnr_db(self.noise)


@dataclass(frozen=True, slots=True)
class Trial:
    """One measured choice. kept: how many of the most sensitive layers stayed in float; score and drop: 0…1."""

    kept: int
    score: float
    drop: float


def plain_names(names: Sequence[str]) -> Iterable[str]:
    """No progress bar."""
    return names


def sensitivities(
    build: Build,
    layers: Sequence[tuple[str, str]],
    reference: Reference,
    watch: NamesWatch = plain_names,
) -> tuple[Sensitivity, ...]:
    """Of every layer (name, operator), the most sensitive first."""
    names = [name for name, _ in layers]
    ops = dict(layers)
    found = [Sensitivity(n, ops[n], reference.noise(build([x for x in names if x != n]))) for n in watch(names)]
    return tuple(sorted(found, key=lambda s: -s.noise))


def search(judge: Callable[[int], float], count: int, score: float, max_drop: float) -> tuple[int | None, list[Trial]]:
    """The smallest k found with which the drop is at most `max_drop`, None if there is none; and what was tried.

    judge: k → the score of the model with its k most sensitive layers in float. count: of layers; at least one is
    quantised. score: of the fp32 model.
    """
    trials: list[Trial] = []

    def good(k: int) -> bool:
        got = judge(k)
        trials.append(Trial(k, got, score - got))
        return score - got <= max_drop

    bad, k = -1, 0
    while not good(k):
        if k == count - 1:
            return None, trials
        bad, k = k, min(max(1, 2 * k), count - 1)
    while k - bad > 1 + k // 16:  # nearer than a sixteenth is within the noise of any measure
        middle = (k + bad + 1) // 2
        if good(middle):
            k = middle
        else:
            bad = middle
    return k, trials
