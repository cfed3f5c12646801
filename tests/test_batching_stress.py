"""eyas.batching under a storm of callers: random delays, failures, cancellations, deadlines, priorities and rules."""

from __future__ import annotations

import concurrent.futures
import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from eyas.batching import Batcher, Pending, QueueSpec
from eyas.errors import BusyError, DeadlineError
from eyas.types import Image

LONGEST_S = 100  # the watchdog: pytest-timeout prints where every thread stands
FAILURES = ("load", "place", "run", "returned")


@dataclass(eq=False)
class Wish:
    """One request of a storm, and what was asked of it."""

    source: int
    number: int
    fails_in: str
    error: BaseException
    options: dict[str, Any]
    ready: bool = False
    cancelled: bool = False
    refused: BaseException | None = None
    future: Pending[int] | None = None
    callbacks: list[Any] = field(default_factory=list)

    @property
    def pattern(self) -> int:
        return (self.source * 31 + self.number) % 256


class Weather:
    """Stages that dawdle and fail, and check that nobody writes where they read."""

    def __init__(self, seed: int) -> None:
        self.rng = dice(seed)
        self.seen: list[Wish] = []  # in the order in which engines met them first
        self.torn = 0
        self._met: set[Wish] = set()

    def ready(self, wish: Wish) -> bool:
        return wish.ready

    def load(self, wish: Wish) -> Wish:
        self.dawdle()
        self.fail(wish, "load")
        return wish

    def memory(self, batch: int) -> Image:
        return np.zeros((batch, 2), np.uint8)

    def place(self, wish: Wish, memory: Image, place: int) -> int:
        memory[place] = wish.pattern
        self.dawdle()
        self.fail(wish, "place")
        return wish.pattern

    def run(
        self, engine: int, memory: Image, places: Sequence[int], wishes: Sequence[Wish], placed: Sequence[int]
    ) -> list[Any]:
        for wish in wishes:
            if wish not in self._met:
                self._met.add(wish)
                self.seen.append(wish)
        before = memory.copy()
        self.dawdle()
        for wish in wishes:
            self.fail(wish, "run")
        self.torn += int((memory != before).any() or list(placed) != [w.pattern for w in wishes])
        seen = memory[places].max(axis=1).tolist()
        return [w.error if w.fails_in == "returned" else value for w, value in zip(wishes, seen, strict=True)]

    def dawdle(self) -> None:
        if self.rng.random() < 0.02:
            time.sleep(self.rng.random() * 0.001)

    def fail(self, wish: Wish, stage: str) -> None:
        if wish.fails_in == stage:
            raise wish.error


def dice(*seed: int) -> random.Random:
    """Python's generator: it draws from lists of anything."""
    return random.Random(str(seed))  # noqa: S311


def wishes_of(source: int, count: int, rng: random.Random, ready: float = 0.0) -> list[Wish]:
    """ready: the share of those that are."""
    wishes = []
    for number in range(count):
        fails_in = rng.choice(FAILURES) if rng.random() < 0.04 else ""
        error: BaseException = rng.choice([ValueError, RuntimeError, SystemExit])(f"{source} {number}")
        options: dict[str, Any] = {}
        if rng.random() < 0.1:
            options["priority"] = rng.choice([-1, 1, 2.5])
        if rng.random() < 0.05:
            options["timeout_s"] = rng.choice([0.0, 0.002, 0.02])
        if rng.random() < 0.3:
            options["linger_s"] = rng.choice([0.0, 0.0005, 0.002])
        if rng.random() < 0.1:
            options["full"] = rng.choice(["fail", "drop-oldest"])
        wishes.append(Wish(source, number, fails_in, error, options, ready > 0 and rng.random() < ready))
    return wishes


def submit_all(batcher: Batcher[Wish, int], wishes: Sequence[Wish], rng: random.Random) -> None:
    """One caller: submits, dawdles, and cancels at once or later."""
    for wish in wishes:
        try:
            wish.future = batcher.submit(wish, **wish.options)
        except (BusyError, DeadlineError) as error:
            wish.refused = error
            continue
        wish.future.add_done_callback(wish.callbacks.append)
        if rng.random() < 0.03:
            time.sleep(rng.random() * 0.002)
        if rng.random() < 0.05:
            other = wishes[rng.randrange(wish.number + 1)]
            if other.future and other.future.cancel():
                other.cancelled = True
        if rng.random() < 0.01:
            batcher.hurry()


def check(wish: Wish) -> None:
    """That it ended in exactly one state, and in one that it may end in."""
    timed = "timeout_s" in wish.options
    if wish.refused:
        rule = wish.options.get("full")
        assert (isinstance(wish.refused, BusyError) and rule) or (isinstance(wish.refused, DeadlineError) and timed)
        return
    assert wish.future is not None
    assert wish.callbacks == [wish.future]
    assert wish.future.done()
    assert wish.future.cancelled() == wish.cancelled
    if wish.cancelled:
        return
    error = wish.future.exception(0)
    if error is None:
        assert not wish.fails_in
        assert wish.future.result(0) == wish.pattern
    elif isinstance(error, DeadlineError):
        assert timed
    elif isinstance(error, BusyError):
        assert wish.options.get("full") == "drop-oldest"
    else:
        assert wish.fails_in
        assert error is wish.error


def storm(
    seed: int,
    threads: int,
    requests: int,
    preparers: int = 1,
    engines: tuple[int, ...] = (1,),
    batch: int = 4,
    overlapping: bool = False,
    ready: float = 0.0,
) -> None:
    """Let it rage, then check every request, and the order where one preparer feeds one engine."""
    rng = dice(seed)
    weather = Weather(seed)
    batcher: Batcher[Wish, int] = Batcher(
        weather,
        batch=batch,
        usual=rng.choice([None, 2]),
        preparers=preparers,
        engines=engines,
        overlapping=overlapping,
        queue=QueueSpec(capacity=rng.choice([1, 8, 64]), linger_s=rng.choice([0.0, 0.001])),
        name="storm",
    )
    wishes = [wishes_of(source, requests, rng, ready) for source in range(threads)]
    callers = [
        threading.Thread(target=submit_all, args=(batcher, mine, dice(seed, i)), daemon=True)
        for i, mine in enumerate(wishes)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(LONGEST_S)
    everything = list(itertools.chain(*wishes))
    futures = [wish.future for wish in everything if wish.future]
    assert concurrent.futures.wait(futures, LONGEST_S).not_done == set()
    batcher.close()
    assert not any(t.name.startswith("storm") for t in threading.enumerate())
    for wish in everything:
        check(wish)
    assert weather.torn == 0
    assert sum(not w.refused and not w.cancelled for w in everything) > len(everything) / 2
    if preparers == sum(engines) == 1 and not ready:
        streams: dict[Any, list[int]] = defaultdict(list)
        for wish in weather.seen:
            streams[wish.source, wish.options.get("priority", 0)].append(wish.number)
        assert all(numbers == sorted(numbers) for numbers in streams.values())


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("seed", range(18))
def test_many_storms(seed: int) -> None:
    shapes: list[tuple[int, tuple[int, ...], int]] = [(1, (1,), 4), (2, (1,), 1), (3, (2, 1), 8)]
    preparers, engines, batch = shapes[seed % 3]
    storm(seed, threads=64, requests=100, preparers=preparers, engines=engines, batch=batch)


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("seed", range(9))
def test_storms_on_gpus(seed: int) -> None:
    """Lanes that overlap, and frames that are ready, some of them or all."""
    shapes: list[tuple[int, tuple[int, ...], int]] = [(1, (2,), 4), (4, (3,), 8), (3, (2, 2), 3)]
    preparers, engines, batch = shapes[seed % 3]
    settings: dict[str, Any] = {"overlapping": True, "ready": (0.0, 0.5, 1.0)[seed // 3]}
    storm(2_000 + seed, threads=64, requests=100, preparers=preparers, engines=engines, batch=batch, **settings)


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize(("preparers", "engines"), [(1, (1,)), (3, (2, 1))])
def test_a_great_storm(preparers: int, engines: tuple[int, ...]) -> None:
    storm(1_000 + preparers, threads=64, requests=1_000, preparers=preparers, engines=engines)
