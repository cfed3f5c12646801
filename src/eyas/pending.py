"""How requests wait, what is done for them, and one of them: what it asks for, the future that its caller holds.

`eyas.batching` says when all this happens.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args

from eyas import trace
from eyas.errors import BusyError, DeadlineError, EyasError, OptionError, problem

log = logging.getLogger("eyas")
Full = Literal["block", "fail", "drop-oldest"]
T = TypeVar("T")
Item = TypeVar("Item", contravariant=True)
Out = TypeVar("Out", covariant=True)
OUT_OF_MEMORY = ("out of memory", "outofmemory", "failed to allocate", "bad_alloc", "cudaerrormemoryallocation")


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """How requests wait for a model.

    capacity: the most that wait, not counting those already being prepared. full: what happens to one more: "block"
    (submit waits for room), "fail" (submit raises BusyError), "drop-oldest" (the request that has waited longest among
    the least important fails with BusyError; for live sources). linger_s: how long a batch that is not full waits for
    more; 0 is greedy: what is there runs as soon as the engine is free.
    """

    capacity: int = 256
    full: Full = "block"
    linger_s: float = 0.0

    def __post_init__(self) -> None:
        wrong = {
            "capacity": None if isinstance(self.capacity, int) and self.capacity >= 1 else "a whole number from 1",
            "full": None if self.full in get_args(Full) else " | ".join(get_args(Full)),
            "linger_s": None if is_seconds(self.linger_s) else "a number of seconds, 0 to 3600",
        }
        for name, expected in wrong.items():
            if expected:
                got = repr(getattr(self, name))
                raise OptionError(problem(f"the queue's {name} is wrong", got=got, expected=expected, remedy=""))


def is_seconds(value: object) -> bool:
    """Whether it is a length of time that a program could mean, in seconds."""
    return isinstance(value, (int, float)) and 0 <= value <= 3600


class Pending(Future[T]):
    """A result to come. Wait with `result(timeout)`, or `await` it in a coroutine; `cancel` works until it runs.

    Callbacks run on the model's threads: they must be short and must not wait for another result of the same model.
    """

    keeps: object = None  # what must live as long as the future

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self).__await__()


class Stages(Protocol[Item, Out]):
    """What is done for a request. All of them are called from several threads at once."""

    def ready(self, item: Item) -> bool:
        """Whether load and place take so little that the caller's thread does them rather than a preparer's."""

    def load(self, item: Item) -> Any:
        """Fetch and decode. An exception fails this request alone."""

    def memory(self, batch: int) -> Any:
        """What a batch of so many requests needs; made once for each batch that may be under way."""

    def place(self, loaded: Any, memory: Any, place: int) -> Any:
        """Write into place number `place` of a batch's memory, and return what `run` must know of it."""

    def run(
        self, engine: int, memory: Any, places: Sequence[int], items: Sequence[Item], placed: Sequence[Any]
    ) -> Sequence[Out | BaseException]:
        """What came out for each item. places: where they lie, rising. Nothing in `memory` may be written over.

        engine: the number of the engine to take.
        An exception that is raised is tried again with half of them, down to one, so that it fails alone.
        """


class Request:
    """What one call of submit asks for. Who holds it last settles its future, once."""

    __slots__ = (
        "batch", "deadline", "full", "future", "item", "linger_s", "number", "placed", "priority", "ready", "submitted"
    )  # fmt: skip

    def __init__(
        self, item: Any, ready: bool, priority: float, deadline: float | None, linger_s: float, full: Full
    ) -> None:
        self.item, self.ready, self.priority, self.deadline = item, ready, priority, deadline
        self.linger_s, self.full = linger_s, full
        self.future: Pending[Any] = Pending()
        self.submitted = trace.clock()
        self.number = -1  # its place in the order of all requests
        self.batch: Batch | None = None  # the one that it has a place in, until that is filled
        self.placed: Any = None  # what `place` gave, or the exception that came instead

    def cancelled(self) -> bool:
        """Whether it was cancelled; who waits for several (`concurrent.futures.wait`) hears of it only now. Drop it."""
        return self.future.cancelled() and not self.future.set_running_or_notify_cancel()

    def cancel(self) -> None:
        """Cancel it unless it runs, whatever a callback raises then."""
        try:
            self.future.cancel()
        except BaseException:
            log.exception("a callback of a cancelled result failed")

    def late(self) -> DeadlineError | None:
        """What is wrong with one whose time is over."""
        late_s = 0.0 if self.deadline is None else time.monotonic() - self.deadline
        if late_s <= 0:
            return None
        got, remedy = f"{late_s * 1e3:.0f} ms after its deadline", "Allow more time, or send fewer requests."
        message = problem("the request came too late", got=got, expected="a free engine before it", remedy=remedy)
        return DeadlineError(message)


class Batch:
    """One batch's memory and who has a place in it; `eyas.batching` says who may touch it."""

    __slots__ = ("filled", "leave_at", "memory", "requests")

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.clear()

    def clear(self) -> None:
        """For the next requests."""
        self.requests: list[Request] = []  # one for each place that was given out
        self.filled: set[Request] = set()  # those whose places have been filled
        self.leave_at = float("inf")


def settle(future: Pending[Any], outcome: Any) -> None:
    """Give the future its result or exception. Never raises: its callbacks are no concern of the thread."""
    try:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:  # it was cancelled in the meantime, or has failed already
        if future.cancelled():
            future.set_running_or_notify_cancel()
    except BaseException:  # SystemExit from a callback, for one; a mere Exception is logged by Future itself
        log.exception("a callback of a result failed")


def check_process(pid: int) -> None:
    """Raise EyasError in another process than the one that has this number."""
    if os.getpid() != pid:
        what, got = "this process was forked from the one that runs the model", "a model whose threads stayed there"
        remedy = "Call eyas.load in each process."
        raise EyasError(problem(what, got=got, expected="a model of its own", remedy=remedy))


def outcomes_of(
    run: Callable[..., Sequence[Any]],
    places: Sequence[int],
    requests: Sequence[Request],
    most: Callable[[], int],
    learn: Callable[[BaseException, int], None],
) -> Sequence[Any]:
    """What came out for each request; what fails together is tried apart.

    run: `Stages.run` of one engine and memory. most: of a call, as things are. learn: is told of an error, and how many
    it concerns.
    """
    count = len(requests)
    if not count:
        return []
    if count <= most():
        try:
            items = [r.item for r in requests]
            outcomes = run(places, items, [r.placed for r in requests])
            return [outcome for _, outcome in zip(items, outcomes, strict=True)]
        except BaseException as error:
            if count == 1:
                return [error]
            learn(error, count)
    half = (count + 1) // 2
    parts = (places[:half], requests[:half]), (places[half:], requests[half:])
    return [outcome for part in parts for outcome in outcomes_of(run, *part, most, learn)]


def droppable(queue: Sequence[tuple[float, int, Request]], new: Request) -> tuple[float, int, Request]:
    """The entry of a full queue that makes room for a new request: of the least priority, the oldest. Raises BusyError.

    queue: (−priority, number, request) of each.
    """
    may = [e for e in queue if new.full == e[2].full == "drop-oldest" and e[2].priority <= new.priority]
    if not may:
        raise busy("the queue is full", len(queue))
    return min(may, key=lambda entry: (-entry[0], entry[1]))


def busy(what: str, capacity: int) -> BusyError:
    """The error of a request for which the queue has no room."""
    remedy = "Send fewer requests, allow more to wait (QueueSpec.capacity), or let submit wait (full='block')."
    return BusyError(problem(what, got=f"{capacity} waiting already", expected="fewer", remedy=remedy))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a runtime's exception says that memory is used up; each has its own type and words for it."""
    text = "".join(traceback.format_exception_only(error)).lower()  # also of one that cannot be printed
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)
