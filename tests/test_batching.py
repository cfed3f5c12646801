"""eyas.batching: who waits for whom, what runs together, and that every future ends as its caller was promised."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from test_batching_stress import storm

from eyas import trace
from eyas.batching import Batcher, Pending, QueueSpec
from eyas.errors import BusyError, DeadlineError, EyasError, OptionError
from eyas.pending import is_out_of_memory
from eyas.types import Image

LONG = 60.0  # a time that no test waits out
Open = Callable[..., Batcher[Any, Any]]


class Fake:
    """Stages on numbers to 255: `place` writes one into its place, `run` reads from there what came of each.

    load, place, run: called with the item or items before that; what `run` gives, if anything, is the outcome.
    ready: which items the caller's thread may prepare.
    """

    def __init__(self, load: Any = None, place: Any = None, run: Any = None, ready: Any = None) -> None:
        self._load, self._place, self._run, self._ready = load, place, run, ready
        self.loaded: list[Any] = []
        self.calls: list[list[Any]] = []  # the items of every call of `run`
        self.engines: list[int] = []
        self.memories: list[Image] = []

    def ready(self, item: Any) -> bool:
        return bool(self._ready and self._ready(item))

    def load(self, item: Any) -> Any:
        if self._load:
            self._load(item)
        self.loaded.append(item)
        return item

    def memory(self, batch: int) -> Image:
        self.memories.append(np.zeros((batch, 2, 3), np.uint8))
        return self.memories[-1]

    def place(self, loaded: Any, memory: Image, place: int) -> Any:
        if self._place:
            self._place(loaded)
        memory[place] = loaded
        return loaded

    def run(
        self, engine: int, memory: Image, places: Sequence[int], items: Sequence[Any], placed: Sequence[Any]
    ) -> Sequence[Any]:
        self.engines.append(engine)
        self.calls.append(list(items))
        assert any(memory is m for m in self.memories)
        assert list(places) == sorted(set(places))
        assert len(places) == len(items)
        assert list(items) == list(placed)
        outcome = self._run(items) if self._run else None
        return outcome if outcome is not None else [int(memory[place].min()) for place in places]


class Gate:
    """Holds the first call until it is opened."""

    def __init__(self) -> None:
        self._inside, self._open = threading.Event(), threading.Event()

    def __call__(self, _: Any) -> None:
        self._inside.set()
        assert self._open.wait(20), "nobody opened the gate"

    def wait(self) -> None:
        """Until somebody is held."""
        assert self._inside.wait(20)

    def open(self) -> None:
        self._open.set()


def failing(bad: dict[Any, BaseException]) -> Callable[[Any], None]:
    """Raises what belongs to the item, or to the first of several for which there is something."""

    def check(what: Any) -> None:
        for item in what if isinstance(what, list) else [what]:
            if item in bad:
                raise bad[item]

    return check


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def in_thread(work: Callable[[], Any]) -> Pending[Any]:
    """What `work` gives or raises on a thread of its own."""
    outcome: Pending[Any] = Pending()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="caller", daemon=True).start()
    return outcome


def results(futures: Sequence[Pending[Any]]) -> list[Any]:
    return [f.result(20) for f in futures]


@pytest.fixture
def open_batcher() -> Iterator[Open]:
    """open_batcher(stages, **options) → a batcher, closed at the end; no thread may be left."""
    opened: list[Batcher[Any, Any]] = []

    def opening(stages: Any = None, **options: Any) -> Batcher[Any, Any]:
        opened.append(Batcher(stages or Fake(), name="batcher", **options))
        return opened[-1]

    yield opening
    for batcher in opened:
        batcher.close(drain=False)
    until(lambda: not any(t.name.startswith("batcher") for t in threading.enumerate()))


# Order


def test_requests_of_equal_priority_go_in_order(open_batcher: Open) -> None:
    stages = Fake()
    batcher = open_batcher(stages)
    assert results([batcher.submit(i) for i in range(100)]) == list(range(100))
    assert [item for call in stages.calls for item in call] == list(range(100))


def test_higher_priorities_go_first_and_equal_ones_in_order(open_batcher: Open) -> None:
    gate = Gate()
    stages = Fake(load=gate)
    batcher = open_batcher(stages)
    first = batcher.submit(0)
    gate.wait()
    futures = [batcher.submit(i, priority=p) for i, p in enumerate([0, 2, -1, 2, 0, float("inf"), 0.5], start=1)]
    gate.open()
    results([first, *futures])
    assert stages.loaded == [0, 6, 2, 4, 7, 1, 5, 3]


def test_every_number_of_engines_is_used_side_by_side(open_batcher: Open) -> None:
    together = threading.Barrier(3)

    def meet(items: Any) -> None:
        together.wait(20)

    stages = Fake(run=meet)
    batcher = open_batcher(stages, engines=(2, 1))
    results([batcher.submit(i) for i in range(3)])
    assert sorted(stages.engines) == [0, 0, 1]


# When a batch leaves


class Held:
    """Holds every call of `run` until it is let go, one by one; `begun` holds the items of each."""

    def __init__(self) -> None:
        self.begun: list[list[Any]] = []
        self._go = threading.Semaphore(0)

    def __call__(self, items: list[Any]) -> None:
        self.begun.append(items)
        assert self._go.acquire(timeout=20), "nobody let it go"

    def let_go(self, calls: int = 1) -> None:
        self._go.release(calls)


def test_overlapping_calls_are_of_full_batches(open_batcher: Open) -> None:
    held = Held()
    stages = Fake(run=held)
    batcher = open_batcher(stages, batch=4, engines=(2,), overlapping=True)
    futures = [batcher.submit(0)]
    until(lambda: held.begun == [[0]])  # nothing else runs: it need not be full
    futures += [batcher.submit(i) for i in (1, 2, 3)]
    until(lambda: len(stages.loaded) == 4)
    time.sleep(0.05)
    assert held.begun == [[0]]
    futures.append(batcher.submit(4))
    until(lambda: len(held.begun) == 2)
    assert held.begun[1] == [1, 2, 3, 4]
    futures.append(batcher.submit(5))
    held.let_go(2)
    until(lambda: len(held.begun) == 3)  # the rest leaves when nothing runs any more
    held.let_go()
    assert results(futures) == list(range(6))


def test_a_partial_batch_goes_to_the_engine_that_idles(open_batcher: Open) -> None:
    held = Held()
    stages = Fake(run=held)
    batcher = open_batcher(stages, batch=4, engines=(2, 2), overlapping=True)
    futures = [batcher.submit(0)]
    until(lambda: len(held.begun) == 1)
    futures.append(batcher.submit(1))
    until(lambda: len(held.begun) == 2)
    assert sorted(stages.engines) == [0, 1]
    held.let_go(2)
    assert results(futures) == [0, 1]


def test_overlapping_engines_end_when_a_partial_batch_is_left(open_batcher: Open) -> None:
    held = Held()
    batcher = open_batcher(Fake(run=held), batch=4, engines=(3,), overlapping=True)
    futures = [batcher.submit(0)]
    until(lambda: len(held.begun) == 1)
    futures += [batcher.submit(1), batcher.submit(2)]
    closed = in_thread(batcher.close)
    held.let_go(2)
    closed.result(20)
    assert results(futures) == [0, 1, 2]


# Who prepares


def test_ready_requests_are_prepared_by_who_submits_them(open_batcher: Open) -> None:
    threads: list[threading.Thread] = []
    stages = Fake(load=lambda item: threads.append(threading.current_thread()), ready=lambda item: True)
    batcher = open_batcher(stages, batch=2, preparers=4)
    assert results([batcher.submit(0)]) == [0]
    assert threads == [threading.current_thread()]


def test_ready_requests_that_find_no_room_take_one_preparer(open_batcher: Open) -> None:
    held = Held()
    threads: dict[int, str] = {}

    def note(item: int) -> None:
        threads[item] = threading.current_thread().name

    stages = Fake(load=note, run=held, ready=lambda item: True)
    batcher = open_batcher(stages, batch=2, preparers=8)
    futures = [batcher.submit(0)]
    until(lambda: held.begun == [[0]])
    futures += [batcher.submit(i) for i in range(1, 40)]  # two fit into the open batch
    held.let_go(40)
    assert results(futures) == list(range(40))
    helped = {name for name in threads.values() if name.startswith("batcher prepare")}
    assert len(helped) == 1


def test_slow_requests_behind_ready_ones_have_preparers_of_their_own(open_batcher: Open) -> None:
    together = threading.Barrier(3)
    stages = Fake(load=lambda item: together.wait(20) if item >= 10 else None, ready=lambda item: item < 10, run=Held())
    stages._run.let_go(100)
    batcher = open_batcher(stages, batch=1, preparers=4)
    futures = [batcher.submit(i) for i in (0, 1, 2, 10, 3, 11, 4, 12)]
    assert results(futures) == [0, 1, 2, 10, 3, 11, 4, 12]  # 10, 11 and 12 wait for one another


# Lingering


def test_a_full_batch_does_not_linger(open_batcher: Open) -> None:
    stages = Fake()
    batcher = open_batcher(stages, batch=4, queue=QueueSpec(linger_s=LONG))
    assert results([batcher.submit(i) for i in range(8)]) == list(range(8))
    assert stages.calls == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_partial_batch_leaves_when_it_has_lingered(open_batcher: Open) -> None:
    stages = Fake()
    batcher = open_batcher(stages, batch=4, queue=QueueSpec(linger_s=0.3))
    results([batcher.submit(i) for i in range(3)])
    assert stages.calls == [[0, 1, 2]]


def test_a_request_that_does_not_linger_takes_its_batch_along(open_batcher: Open) -> None:
    stages = Fake()
    batcher = open_batcher(stages, batch=4, queue=QueueSpec(linger_s=LONG))
    results([batcher.submit(0), batcher.submit(1, linger_s=0.0)])
    assert stages.calls == [[0, 1]]


@pytest.mark.parametrize("usual", [1, 2, 3])
def test_a_batch_of_the_usual_size_leaves_when_nothing_waits(open_batcher: Open, usual: int) -> None:
    gate = Gate()
    stages = Fake(load=gate)
    batcher = open_batcher(stages, batch=8, usual=usual, queue=QueueSpec(linger_s=LONG))
    futures = [batcher.submit(i) for i in range(3)]
    gate.open()
    results(futures)
    assert sum(len(call) for call in stages.calls) == 3


def test_hurry_sends_off_what_lingers_and_what_is_still_being_prepared(open_batcher: Open) -> None:
    gate = Gate()
    batcher = open_batcher(Fake(load=gate), batch=8, queue=QueueSpec(linger_s=LONG))
    early = batcher.submit(1)
    gate.wait()
    batcher.hurry()
    gate.open()
    assert early.result(20) == 1
    lingers = batcher.submit(2)
    assert not lingers.done()
    batcher.hurry()
    assert lingers.result(20) == 2


def test_a_greedy_batch_is_what_came_while_the_engine_was_busy(open_batcher: Open) -> None:
    gate = Gate()
    stages = Fake(run=gate)
    batcher = open_batcher(stages, batch=8)
    first = batcher.submit(0)
    gate.wait()
    futures = [batcher.submit(i) for i in range(1, 6)]
    until(lambda: len(stages.loaded) == 6)
    gate.open()
    results([first, *futures])
    assert stages.calls == [[0], [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("options", [{}, {"queue": QueueSpec(linger_s=0.05)}, {"usual": 2}])
def test_a_batch_leaves_although_its_places_were_filled_at_the_same_time(
    open_batcher: Open, options: dict[str, Any]
) -> None:
    """Whoever fills the last place wakes the engine, even where the one before had set the time."""
    both = threading.Barrier(2)
    batcher = open_batcher(Fake(place=lambda item: both.wait(20)), batch=8, preparers=2, **options)
    assert results([batcher.submit(i) for i in range(2)]) == [0, 1]


@pytest.mark.parametrize("options", [{}, {"queue": QueueSpec(linger_s=0.02)}, {"usual": 2}])
def test_a_batch_leaves_when_its_slowest_place_is_filled(open_batcher: Open, options: dict[str, Any]) -> None:
    """The engine's thread has looked in vain by then, and waits for no certain time."""
    gate, loaded = Gate(), threading.Event()

    def place(item: Any) -> None:
        if item == 0:
            gate(item)
        else:
            loaded.set()

    stages = Fake(place=place)
    batcher = open_batcher(stages, batch=8, preparers=2, **options)
    slow = batcher.submit(0)
    gate.wait()
    quick = batcher.submit(1)
    assert loaded.wait(20)
    time.sleep(0.05)
    gate.open()
    assert results([slow, quick]) == [0, 1]
    assert stages.calls == [[0, 1]]


def test_all_that_wait_for_a_place_get_one_when_a_batch_is_free(open_batcher: Open) -> None:
    gate = Gate()
    stages = Fake(run=gate)
    batcher = open_batcher(stages, batch=3, preparers=3, queue=QueueSpec(linger_s=LONG))
    first = batcher.submit(0, linger_s=0.0)
    gate.wait()
    futures = [batcher.submit(i) for i in range(1, 7)]
    until(lambda: len(stages.loaded) == 7)
    time.sleep(0.02)
    gate.open()
    assert results([first, *futures]) == [*range(7)]
    assert [len(call) for call in stages.calls] == [1, 3, 3]


# Deadlines


def test_a_late_request_is_dropped_before_it_is_loaded(open_batcher: Open) -> None:
    gate = Gate()
    stages = Fake(load=gate)
    batcher = open_batcher(stages)
    first = batcher.submit(0)
    gate.wait()
    late, fine = batcher.submit(1, timeout_s=0.0), batcher.submit(2, timeout_s=LONG)
    gate.open()
    with pytest.raises(DeadlineError, match=r"the request came too late: got .* ms after its deadline"):
        late.result(20)
    assert results([first, fine]) == [0, 2]
    assert stages.loaded == [0, 2]


def test_a_request_that_becomes_late_in_the_open_batch_is_dropped_from_it(open_batcher: Open) -> None:
    gate = Gate()
    stages = Fake(run=gate)
    batcher = open_batcher(stages, batch=4)
    first = batcher.submit(0)
    gate.wait()
    end = time.monotonic() + 0.1
    mates = [batcher.submit(1), batcher.submit(2, timeout_s=0.1), batcher.submit(3)]
    until(lambda: len(stages.loaded) == 4 and time.monotonic() > end)
    gate.open()
    assert isinstance(mates[1].exception(20), DeadlineError)
    assert results([first, mates[0], mates[2]]) == [0, 1, 3]
    assert stages.calls == [[0], [1, 3]]


def test_a_request_does_not_linger_until_it_is_too_late(open_batcher: Open) -> None:
    batcher = open_batcher(batch=4, queue=QueueSpec(linger_s=LONG))
    assert batcher.submit(7, timeout_s=2.0).result(20) == 7


def test_a_submit_that_waits_for_room_gives_up_at_its_deadline(open_batcher: Open) -> None:
    gate = Gate()
    batcher = open_batcher(Fake(load=gate), queue=QueueSpec(capacity=1))
    batcher.submit(0)
    gate.wait()
    batcher.submit(1)
    with pytest.raises(DeadlineError):
        batcher.submit(2, timeout_s=0.05)
    gate.open()


# Cancelling


def test_a_request_that_was_cancelled_while_it_waited_is_not_loaded(open_batcher: Open) -> None:
    gate = Gate()
    stages = Fake(load=gate)
    batcher = open_batcher(stages)
    futures = [batcher.submit(i) for i in range(3)]
    gate.wait()
    assert futures[1].cancel()
    gate.open()
    assert results([futures[0], futures[2]]) == [0, 2]
    assert stages.loaded == [0, 2]


@pytest.mark.parametrize("gone", [{0}, {3}, {1, 2}, {0, 2}, {0, 1, 2, 3}])
def test_one_that_was_cancelled_in_the_open_batch_leaves_its_mates_in_their_places(
    open_batcher: Open, gone: set[int]
) -> None:
    gate = Gate()
    stages = Fake(run=gate)
    batcher = open_batcher(stages, batch=4)
    first = batcher.submit(200)
    gate.wait()
    futures = [batcher.submit(i) for i in range(4)]
    until(lambda: len(stages.loaded) == 5)
    assert all(futures[i].cancel() for i in gone)
    gate.open()
    stay = [i for i in range(4) if i not in gone]
    assert results([first, *(futures[i] for i in stay)]) == [200, *stay]
    assert batcher.submit(9).result(20) == 9
    assert [call for call in stages.calls if call != [9]] == [[200], *([stay] if stay else [])]


def test_a_request_that_runs_cannot_be_cancelled(open_batcher: Open) -> None:
    gate = Gate()
    batcher = open_batcher(Fake(run=gate))
    future = batcher.submit(5)
    gate.wait()
    assert future.running()
    assert not future.cancel()
    gate.open()
    assert future.result(20) == 5


@pytest.mark.parametrize("stage", ["load", "place", "run"])
def test_who_waits_for_several_hears_of_one_that_was_cancelled(open_batcher: Open, stage: str) -> None:
    """`concurrent.futures.wait` and `as_completed` are told by the executor, not by `cancel`."""
    gate = Gate()
    stages = Fake(**{stage: gate})
    batcher = open_batcher(stages, batch=4)
    futures = [batcher.submit(i) for i in range(4)]
    gate.wait()
    futures[-1].cancel()
    waiting = in_thread(lambda: concurrent.futures.wait(futures, 20))
    gate.open()
    assert waiting.result(30).not_done == set()


@pytest.mark.parametrize("stage", ["load", "place"])
def test_who_waits_for_several_hears_of_one_that_was_cancelled_and_then_failed(open_batcher: Open, stage: str) -> None:
    gate = Gate()

    def fail(item: Any) -> None:
        gate(item)
        raise ValueError(item)

    future = open_batcher(Fake(**{stage: fail})).submit(0)
    gate.wait()
    assert future.cancel()
    waiting = in_thread(lambda: concurrent.futures.wait([future], 20))
    gate.open()
    assert waiting.result(30).done == {future}


def test_who_waits_for_several_hears_of_one_that_was_cancelled_and_made_room(open_batcher: Open) -> None:
    gate = Gate()
    batcher = open_batcher(Fake(load=gate), queue=QueueSpec(capacity=1))
    batcher.submit(0)
    gate.wait()
    gone = batcher.submit(1)
    gone.cancel()
    last = batcher.submit(2)  # takes its room
    assert concurrent.futures.wait([gone], 20).done == {gone}
    gate.open()
    assert last.result(20) == 2


# Room


@pytest.fixture
def full_queue(open_batcher: Open) -> Callable[..., tuple[Batcher[Any, Any], Gate, Fake]]:
    """full_queue(queue) → a batcher whose one preparer is held with item 0, so that all others wait."""

    def opening(queue: QueueSpec) -> tuple[Batcher[Any, Any], Gate, Fake]:
        gate = Gate()
        stages = Fake(load=gate)
        batcher = open_batcher(stages, queue=queue)
        batcher.submit(0)
        gate.wait()
        return batcher, gate, stages

    return opening


def test_submit_fails_at_a_full_queue(full_queue: Any) -> None:
    batcher, gate, stages = full_queue(QueueSpec(2, "fail"))
    waiting = [batcher.submit(1), batcher.submit(2)]
    with pytest.raises(BusyError, match="the queue is full: got 2 waiting already"):
        batcher.submit(3)
    gate.open()
    assert results(waiting) == [1, 2]
    assert stages.loaded == [0, 1, 2]


def test_the_oldest_of_the_least_important_is_dropped(full_queue: Any) -> None:
    batcher, gate, _ = full_queue(QueueSpec(4, "drop-oldest"))
    waiting = {i: batcher.submit(i, priority=p) for i, p in [(1, 5), (2, 1), (3, 0), (4, 0)]}
    for i, dropped in [(5, 3), (6, 4), (7, 2)]:
        waiting[i] = batcher.submit(i, priority=2)
        with pytest.raises(BusyError, match="a newer request took the place of this one"):
            waiting.pop(dropped).result(0)
    gate.open()
    assert results(list(waiting.values())) == list(waiting)


def test_no_request_pushes_out_one_that_matters_more(full_queue: Any) -> None:
    batcher, gate, _ = full_queue(QueueSpec(1, "drop-oldest"))
    alarm = batcher.submit(1, priority=1)
    with pytest.raises(BusyError, match="the queue is full"):
        batcher.submit(2)
    gate.open()
    assert alarm.result(20) == 1


def test_a_request_may_have_a_rule_of_its_own(full_queue: Any) -> None:
    """Only those that came under "drop-oldest" may be dropped."""
    batcher, gate, _ = full_queue(QueueSpec(2, "block"))
    patient, live = batcher.submit(1), batcher.submit(2, full="drop-oldest")
    with pytest.raises(BusyError):
        batcher.submit(3, full="fail")
    newer = batcher.submit(4, full="drop-oldest")
    assert isinstance(live.exception(0), BusyError)
    newer.cancel()
    gate.open()
    assert patient.result(20) == 1


def test_where_nothing_may_be_dropped_submit_fails(full_queue: Any) -> None:
    batcher, gate, _ = full_queue(QueueSpec(1, "block"))
    batcher.submit(1)
    with pytest.raises(BusyError):
        batcher.submit(2, full="drop-oldest")
    gate.open()


@pytest.mark.parametrize("release", ["room", "cancel", "close"])
def test_a_submit_that_waits_is_released(full_queue: Any, release: str) -> None:
    batcher, gate, _ = full_queue(QueueSpec(1))
    waiting = batcher.submit(1)
    blocked = in_thread(lambda: batcher.submit(2))
    time.sleep(0.02)
    assert not blocked.done()
    if release == "cancel":
        waiting.cancel()
        assert isinstance(blocked.result(20), Pending)
    closing = in_thread(batcher.close) if release == "close" else None
    if closing:
        with pytest.raises(EyasError, match="the model is closed"):
            blocked.result(20)
    gate.open()
    if release == "room":
        assert blocked.result(20).result(20) == 2
    if closing:
        closing.result(20)


def test_many_blocked_submits_all_get_through(open_batcher: Open) -> None:
    batcher = open_batcher(batch=4, preparers=2, queue=QueueSpec(capacity=3))
    callers = [in_thread(lambda i=i: [batcher.submit(i).result(20) for _ in range(20)]) for i in range(16)]
    assert results(callers) == [[i] * 20 for i in range(16)]


def test_a_callback_that_would_wait_for_room_gets_an_error(full_queue: Any) -> None:
    """It runs on the thread that makes the room."""
    batcher, gate, _ = full_queue(QueueSpec(1))
    told: Pending[Any] = Pending()

    def fill(_: Any) -> None:
        try:
            batcher.submit(2)
            batcher.submit(3)
        except BusyError as error:
            told.set_result(error)

    batcher.submit(1, timeout_s=0.0).add_done_callback(fill)
    gate.open()
    assert isinstance(told.result(20), BusyError)


# Errors


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kind", [ValueError, EyasError, SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("stage", ["load", "place", "run"])
def test_the_caller_gets_the_very_exception_and_the_threads_live_on(
    open_batcher: Open, stage: str, kind: type[BaseException], batch: int
) -> None:
    errors: dict[Any, BaseException] = {i: kind(f"{stage} {i}") for i in (1, 2, 3)}
    batcher = open_batcher(Fake(**{stage: failing(errors)}), batch=batch)
    futures = [batcher.submit(i) for i in range(6)]
    assert [futures[i].result(20) for i in (0, 4, 5)] == [0, 4, 5]
    assert all(futures[i].exception(20) is errors[i] for i in errors)


@pytest.mark.parametrize("bad", [{0}, {7}, {2, 3}, {0, 3, 6}])
@pytest.mark.parametrize("stage", ["load", "place"])
def test_the_mates_of_one_that_fails_are_as_without_it(open_batcher: Open, stage: str, bad: set[int]) -> None:
    errors: dict[Any, BaseException] = {i: ValueError(i) for i in bad}
    stages = Fake(**{stage: failing(errors)})
    batcher = open_batcher(stages, batch=8, queue=QueueSpec(linger_s=LONG))
    futures = [batcher.submit(i) for i in range(8)]
    until(lambda: stage == "place" or len(stages.loaded) == 8 - len(bad))
    batcher.hurry()
    assert [f.exception(20) or f.result() for f in futures] == [errors.get(i, i) for i in range(8)]
    assert stages.calls == [[i for i in range(8) if i not in bad]]


def test_one_poisonous_item_costs_a_halving_and_fails_alone(open_batcher: Open) -> None:
    poison = ValueError("poison")
    stages = Fake(run=failing({5: poison}))
    batcher = open_batcher(stages, batch=8, queue=QueueSpec(linger_s=LONG))
    futures = [batcher.submit(i) for i in range(8)]
    assert [f.exception(20) or f.result() for f in futures] == [0, 1, 2, 3, 4, poison, 6, 7]
    assert stages.calls == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]
    assert results([batcher.submit(i) for i in range(10, 18)]) == [*range(10, 18)]
    assert stages.calls[-1] == [*range(10, 18)]  # nothing was learnt from it


def test_an_exception_that_run_returns_is_one_items(open_batcher: Open) -> None:
    error = SystemExit(3)
    stages = Fake(run=lambda items: [error if i == 2 else i for i in items])
    batcher = open_batcher(stages, batch=4, queue=QueueSpec(linger_s=LONG))
    futures = [batcher.submit(i) for i in range(4)]
    assert [f.exception(20) or f.result() for f in futures] == [0, 1, error, 3]
    assert len(stages.calls) == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_run_with_too_few_or_too_many_outcomes_is_an_error(open_batcher: Open, count: int) -> None:
    batcher = open_batcher(Fake(run=lambda items: [0] * (count if items[0] == 1 else 1)), batch=1)
    if count == 1:
        assert batcher.submit(1).result(20) == 0
    else:
        assert isinstance(batcher.submit(1).exception(20), ValueError)
    assert batcher.submit(2).result(20) == 0


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_that_cannot_be_printed_harms_nobody(open_batcher: Open) -> None:
    error = Unprintable()
    batcher = open_batcher(Fake(run=failing({1: error})), batch=2, queue=QueueSpec(linger_s=LONG))
    futures = [batcher.submit(i) for i in range(2)]
    assert futures[0].result(20) == 0
    assert futures[1].exception(20) is error


class Nameless:
    def __str__(self) -> str:
        raise RuntimeError("no name")


def test_an_item_without_a_name_harms_nobody_while_a_trace_is_recorded(open_batcher: Open) -> None:
    batcher = open_batcher()
    with trace.tracing():
        assert isinstance(batcher.submit(Nameless()).exception(20), RuntimeError)
        assert batcher.submit(1).result(20) == 1


# Memory


def limited(pictures: int) -> Callable[[Any], None]:
    def run(items: Any) -> None:
        if len(items) > pictures:
            raise RuntimeError("CUDA error: out of memory")

    return run


def test_batches_stay_smaller_than_one_for_which_there_was_no_memory(
    open_batcher: Open, caplog: pytest.LogCaptureFixture
) -> None:
    stages = Fake(run=limited(2))
    batcher = open_batcher(stages, batch=8, queue=QueueSpec(linger_s=LONG))
    assert results([batcher.submit(i) for i in range(8)]) == [*range(8)]
    assert stages.calls == [[*range(8)], [0, 1, 2, 3], [0, 1], [2, 3], [4, 5], [6, 7]]
    assert batcher.most == 2
    assert [r.args and r.args[0] for r in caplog.records] == [8, 4]
    stages.calls.clear()
    assert results([batcher.submit(i) for i in range(8)]) == [*range(8)]
    assert [len(call) for call in stages.calls] == [2] * 4


def test_a_batch_that_was_open_when_memory_ran_out_is_run_in_parts(open_batcher: Open) -> None:
    gate = Gate()
    memory = limited(2)

    def run(items: Any) -> None:
        gate(items)
        memory(items)

    stages = Fake(run=run)
    batcher = open_batcher(stages, batch=4, queue=QueueSpec(linger_s=LONG))
    futures = [batcher.submit(i) for i in range(4)]
    gate.wait()
    futures += [batcher.submit(i) for i in range(4, 7)]
    until(lambda: len(stages.loaded) == 7)
    gate.open()
    batcher.hurry()
    assert results(futures) == [*range(7)]
    assert max(len(call) for call in stages.calls[1:]) == 2


def test_no_memory_for_a_single_one_reaches_its_caller(open_batcher: Open) -> None:
    error = MemoryError()
    batcher = open_batcher(Fake(run=failing({1: error})), batch=2)
    futures = [batcher.submit(i) for i in range(3)]
    assert [f.exception(20) or f.result() for f in futures] == [0, error, 2]
    assert batcher.most >= 1


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("Failed to allocate memory for requested buffer"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("x"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError(), False),
        (Unprintable(), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it


def test_the_memory_of_batches_is_made_once(open_batcher: Open) -> None:
    stages = Fake()
    batcher = open_batcher(stages, batch=4, engines=(2, 1), preparers=3)
    for _ in range(20):
        results([batcher.submit(i) for i in range(30)])
    assert [len(memory) for memory in stages.memories] == [4] * 4  # one for each call that may run, and one to fill


def test_nothing_writes_into_a_batch_that_an_engine_reads(open_batcher: Open) -> None:
    changed = []

    class Slow(Fake):
        def run(
            self, engine: int, memory: Image, places: Sequence[int], items: Sequence[Any], placed: Sequence[Any]
        ) -> Sequence[Any]:
            before = memory.copy()
            time.sleep(0.002)
            if not (memory == before).all() or memory[places, 0, 0].tolist() != list(items):
                changed.append(items)
            return super().run(engine, memory, places, items, placed)

    batcher = open_batcher(Slow(), batch=4, engines=(2,), preparers=3)
    wanted = [i % 256 for i in range(400)]
    assert results([batcher.submit(i) for i in wanted]) == wanted
    assert changed == []


class Thing:
    """Something that can be referred to weakly."""


@pytest.mark.parametrize("stage", ["", "load", "place", "run"])
def test_nothing_of_a_finished_request_is_kept(open_batcher: Open, stage: str) -> None:
    class Things:
        def ready(self, item: Thing) -> bool:
            return False

        def load(self, item: Thing) -> Thing:
            return self.made("load")

        def memory(self, batch: int) -> None:
            return None

        def place(self, loaded: Thing, memory: None, place: int) -> Thing:
            return self.made("place")

        def run(
            self, engine: int, memory: None, places: Sequence[int], items: Sequence[Thing], placed: Sequence[Thing]
        ) -> list[Thing]:
            return [self.made("run") for _ in items]

        def made(self, name: str) -> Thing:
            if name == stage:
                raise ValueError(name)
            thing = Thing()
            references.append(weakref.ref(thing))
            return thing

    references: list[weakref.ref[Any]] = []
    batcher = open_batcher(Things(), batch=2, preparers=2, engines=(2,))
    for _ in range(6):
        item = Thing()
        future = batcher.submit(item)
        references += [weakref.ref(item), weakref.ref(future)]
        future.exception(20)
    del item, future

    def gone() -> bool:
        gc.collect()
        return all(reference() is None for reference in references)

    until(gone)


# Callbacks


@pytest.mark.parametrize("stage", ["load", "run"])
def test_a_callback_may_submit_again(open_batcher: Open, stage: str) -> None:
    batcher = open_batcher(Fake(**{stage: failing({0: ValueError()})}))
    last: Pending[Any] = Pending()

    def again(done: Any, left: int = 20) -> None:
        future = batcher.submit(left)
        future.add_done_callback(lambda f: again(f, left - 1) if left else last.set_result(left))

    batcher.submit(0).add_done_callback(again)
    assert last.result(20) == 0


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("stage", ["load", "run"])
def test_a_callback_may_close(open_batcher: Open, stage: str, drain: bool) -> None:
    gate = Gate()

    def held(what: Any) -> None:
        gate(what)
        failing({0: ValueError()})(what)

    batcher = open_batcher(Fake(**{stage: held}), queue=QueueSpec(capacity=40))
    futures = [batcher.submit(i) for i in range(20)]
    gate.wait()
    futures[0].add_done_callback(lambda _: batcher.close(drain))
    gate.open()
    batcher.close()
    assert all(f.done() for f in futures)
    assert not drain or results(futures[1:]) == [*range(1, 20)]


@pytest.mark.parametrize("stage", ["load", "run", "cancel"])
def test_a_callback_that_wants_to_exit_ends_no_thread(
    open_batcher: Open, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    batcher = open_batcher(Fake(load=gate, **({stage: failing({0: ValueError()})} if stage == "run" else {})))
    future = batcher.submit(0)
    gate.wait()
    waiting = batcher.submit(1)

    def leave(_: Any) -> None:
        raise SystemExit

    (waiting if stage == "cancel" else future).add_done_callback(leave)
    if stage == "cancel":
        closing = in_thread(lambda: batcher.close(drain=False))
        until(waiting.done)
        gate.open()
        closing.result(20)
    else:
        gate.open()
        assert waiting.result(20) == 1
    assert any("a callback of a" in r.message for r in caplog.records)


# Closing


def test_close_finishes_what_waits(open_batcher: Open) -> None:
    stages = Fake()
    batcher = open_batcher(stages, batch=4, preparers=2, queue=QueueSpec(linger_s=LONG))
    futures = [batcher.submit(i) for i in range(30)]
    batcher.close()
    assert [f.result(0) for f in futures] == [*range(30)]


@pytest.mark.parametrize("preparers", [1, 3])
def test_close_without_draining_cancels_all_that_does_not_run(open_batcher: Open, preparers: int) -> None:
    """In the queue, in a preparer's hands, in the open batch and in one that is full."""
    gate = Gate()
    stages = Fake(run=gate)
    batcher = open_batcher(stages, batch=2, preparers=preparers)
    first = batcher.submit(0)
    gate.wait()
    futures = [batcher.submit(i) for i in range(1, 20)]
    until(lambda: len(stages.loaded) == 3 + preparers)  # one runs, two have a place, the others wait for one
    closing = in_thread(lambda: batcher.close(drain=False))
    until(lambda: futures[-1].cancelled())
    gate.open()
    closing.result(20)
    assert first.result(0) == 0
    assert all(f.cancelled() for f in futures)
    assert stages.calls == [[0]]


def test_close_twice_and_from_several_threads(open_batcher: Open) -> None:
    batcher = open_batcher(batch=4)
    futures = [batcher.submit(i) for i in range(50)]
    results([in_thread(batcher.close) for _ in range(8)])
    batcher.close()
    batcher.close(drain=False)
    assert [f.result(0) for f in futures] == [*range(50)]


def test_a_second_close_may_cancel_what_the_first_would_finish(open_batcher: Open) -> None:
    gate = Gate()
    batcher = open_batcher(Fake(load=gate))
    futures = [batcher.submit(i) for i in range(5)]
    gate.wait()
    patient = in_thread(batcher.close)
    impatient = in_thread(lambda: batcher.close(drain=False))
    until(lambda: futures[-1].cancelled())
    gate.open()
    results([patient, impatient])
    assert all(f.done() for f in futures)


def test_close_while_submitters_wait_for_room(full_queue: Any) -> None:
    batcher, gate, _ = full_queue(QueueSpec(1))
    waiting = batcher.submit(1)
    blocked = [in_thread(lambda: batcher.submit(2)) for _ in range(8)]
    time.sleep(0.02)
    closing = in_thread(batcher.close)
    assert all(isinstance(b.exception(20), EyasError) for b in blocked)
    gate.open()
    closing.result(20)
    assert waiting.result(0) == 1


def test_no_request_after_close(open_batcher: Open) -> None:
    batcher = open_batcher()
    batcher.close()
    with pytest.raises(EyasError, match="the model is closed"):
        batcher.submit(1)
    batcher.hurry()


def test_close_in_one_of_its_threads_that_holds_the_lock(open_batcher: Open) -> None:
    """As the garbage collector does with a model that was lost in a cycle of references."""

    def collect(_: Any) -> None:
        with batcher._lock:
            batcher.close(drain=False)

    batcher = open_batcher(Fake(load=collect))
    future = batcher.submit(1)
    until(future.done)
    assert future.cancelled()


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork itself, where there are threads
from eyas.batching import Batcher
from eyas.errors import EyasError

class Stages:
    def ready(self, item): return False
    def load(self, item): return item
    def memory(self, batch): return None
    def place(self, loaded, memory, place): return loaded
    def run(self, engine, memory, places, items, placed): return items

batcher = Batcher(Stages())
assert batcher.submit(1).result(20) == 1
child = os.fork()
if not child:
    for work in (lambda: batcher.submit(2), batcher.hurry):
        try:
            work()
        except EyasError as error:
            assert "forked" in str(error), error
        else:
            os._exit(3)
    batcher.close()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert batcher.submit(2).result(20) == 2
batcher.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_and_ends() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)


# Coroutines


def test_coroutines_await_their_results(open_batcher: Open) -> None:
    batcher = open_batcher(Fake(run=failing({7: ValueError("seven")})), batch=4, preparers=2)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(wait(i % 200) for i in range(500)), return_exceptions=True)

    async def wait(i: int) -> Any:
        return await batcher.submit(i)

    found = asyncio.run(all_of_them())
    assert [v if not isinstance(v, ValueError) else 7 for v in found] == [i % 200 for i in range(500)]
    assert sum(isinstance(v, ValueError) for v in found) == 3


def test_cancelling_a_task_cancels_what_it_awaits(full_queue: Any) -> None:
    batcher, gate, stages = full_queue(QueueSpec())
    waiting = batcher.submit(1)

    async def wait() -> Any:
        return await waiting

    async def cancelled() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert waiting.cancelled()
    gate.open()
    assert batcher.submit(2).result(20) == 2
    assert stages.loaded == [0, 2]


def test_a_task_may_give_up_on_what_runs(open_batcher: Open) -> None:
    """Its loop is gone when the result comes, which bothers nobody."""
    gate = Gate()
    batcher = open_batcher(Fake(run=gate))
    running = batcher.submit(1)
    gate.wait()

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_await(running), 0.02)

    asyncio.run(wait())
    assert running.running()
    gate.open()
    assert running.result(20) == 1


async def _await(future: Pending[Any]) -> Any:
    return await future


# The queue's settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("capacity", 0),
        ("capacity", 2.5),
        ("full", "wait"),
        ("full", None),
        ("linger_s", -0.1),
        ("linger_s", float("nan")),
        ("linger_s", float("inf")),
        ("linger_s", "1"),
    ],
)
def test_a_wrong_setting_of_the_queue_is_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"the queue's {name} is wrong: got"):
        QueueSpec(**{name: value})


# Everything at once; the long version is in test_batching_stress.py


@pytest.mark.parametrize("preparers", [1, 2])
def test_a_short_storm(preparers: int) -> None:
    storm(seed=preparers, threads=8, requests=100, preparers=preparers, engines=(1,) if preparers == 1 else (2, 1))
