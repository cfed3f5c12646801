"""What happened when, and on which thread: spans, kept in memory while a `tracing` block runs, then written.

The file is in Chrome's trace event format, which https://ui.perfetto.dev opens; `eyas trace` reads it too. Code that
can be traced asks for `trace.current` and does nothing more where that is None, which is all that tracing costs when
it is off.

Span names, in the order in which a picture meets them: source, queued, decode, place, letterbox, engine, results,
sink. "queued" and "place" are waiting, all others are work.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from eyas.cpu import cores
from eyas.errors import OptionError, problem
from eyas.files import make_folder, write_atomically

T = TypeVar("T")
END = object()
clock = time.perf_counter_ns  # what a span's times are taken from


class Span(NamedTuple):
    """Something that took time. Times are `clock`'s nanoseconds; facts: what else the picture of it shall say."""

    name: str
    lane: str
    start: int
    end: int
    facts: dict[str, Any]


class Trace:
    """All spans of one `tracing` block. `add` may be called from any thread."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.waits: list[Span] = []  # these overlap within a lane: many pictures wait at the same time
        self.start, self.cpu = clock(), time.process_time_ns()

    def add(self, name: str, start: int, end: int | None = None, lane: str | None = None, **facts: Any) -> None:
        """A span from `start` to `end` (now), on this thread unless a lane is named."""
        now = clock() if end is None else end
        self.spans.append(Span(name, lane or threading.current_thread().name, start, now, facts))

    def wait(self, name: str, start: int, **facts: Any) -> None:
        """Something that has waited from `start` until now, beside others."""
        self.waits.append(Span(name, name, start, clock(), facts))

    def events(self) -> dict[str, Any]:
        """The trace in Chrome's format ("Trace Event Format"): times in microseconds from the trace's start."""
        spans, waits = list(self.spans), list(self.waits)  # threads may still add what they were at
        lanes = {lane: i + 1 for i, lane in enumerate(sorted({s.lane for s in spans}))}
        pid = os.getpid()
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": lane}}
            for lane, tid in lanes.items()
        ]
        for s in spans:
            times = {"ts": self._us(s.start), "dur": (s.end - s.start) / 1e3}
            events.append({"ph": "X", "name": s.name, "pid": pid, "tid": lanes[s.lane], **times, "args": s.facts})
        for i, s in enumerate(waits):
            both = {"cat": "wait", "name": s.name, "id": i, "pid": pid, "tid": 0}
            events.append({"ph": "b", "ts": self._us(s.start), "args": s.facts, **both})
            events.append({"ph": "e", "ts": self._us(s.end), **both})
        about = {
            "seconds": (clock() - self.start) / 1e9,
            "cpu_seconds": (time.process_time_ns() - self.cpu) / 1e9,
            "cores": cores(),
        }
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}

    def _us(self, ns: int) -> float:
        return (ns - self.start) / 1e3


current: Trace | None = None


def span(name: str, **facts: Any) -> AbstractContextManager[None]:
    """Record the block, if anything is being recorded as it begins."""
    return _NOTHING if current is None else _span(current, name, facts)


@contextmanager
def _span(record: Trace, name: str, facts: dict[str, Any]) -> Iterator[None]:
    begin = clock()
    try:
        yield
    finally:
        record.add(name, begin, **facts)


_NOTHING = nullcontext()


def each(name: str, items: Iterable[T]) -> Iterator[T]:
    """The items, with a span for the time that each took to come."""
    rest = iter(items)
    while True:
        with span(name):
            item = next(rest, END)
        if item is END:
            return
        yield item  # type: ignore[misc] # it is not END


@contextmanager
def tracing(path: str | os.PathLike[str] | None = None) -> Generator[Trace, None, None]:
    """Record what every model of this process does meanwhile, and write it to `path` (.json) at the end, error or not.

    Raises OptionError where a trace is being recorded already, SinkError where the file cannot be written.
    """
    global current
    if current is not None:
        what, expected = "a trace is being recorded already", "one at a time"
        raise OptionError(problem(what, got="a second one", expected=expected, remedy="End the first one before."))
    if path is not None:
        make_folder(Path(path).parent)
    current = trace = Trace()
    try:
        yield trace
    finally:
        current = None
        if path is not None:
            write_atomically(Path(path), json.dumps(trace.events()).encode())
