"""Many callers, one engine: requests become batches, and every caller holds a future.

    submit ─► queue ─► load ─► a place in the open batch ─► run ─► future
             bounded  └── preparer threads ───────────┘    └─ one thread for each call that may run at once

What load, place and run do is the caller's affair (`eyas.pending.Stages`; for a model, `eyas.stages`). Here is only
the order of things: who waits for whom, which requests run together, and who may touch which memory.

A batch's memory is allocated once and goes round: free → open (preparers write, each into a place
of its own) → leaving (nobody writes) → running (the engine reads) → free. A place is given out under the lock; the
batch runs only when every place that was given out has been filled; and it is free again only when `run` has returned,
so that nothing can still read what the next preparer overwrites.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic

from eyas import pending, trace
from eyas.errors import EyasError
from eyas.pending import Batch, Full, Item, Out, Pending, QueueSpec, Request, Stages

__all__ = ["CLOSED", "Batcher", "Pending", "QueueSpec", "Stages"]
log = logging.getLogger("eyas")
CLOSED = "the model is closed: load it again, or keep it open (`with eyas.load(…) as model`)"
CANCELLED_SEEN_S = 0.05  # a full queue is searched this often for requests that were cancelled


class Batcher(Generic[Item, Out]):
    """The threads and the queue. Thread-safe; `close` ends the threads."""

    def __init__(
        self,
        stages: Stages[Item, Out],
        *,
        batch: int = 1,
        usual: int | None = None,
        engines: Sequence[int] = (1,),
        overlapping: bool = False,
        preparers: int = 1,
        queue: QueueSpec | None = None,
        name: str = "eyas",
    ) -> None:
        """batch: the most requests a call. usual: a batch of so many leaves without lingering where nothing else waits.
        engines: for each engine, how many calls it runs side by side. overlapping: they only fill each other's gaps, as
        on one GPU: while one runs, no batch joins it that could still become fuller.
        """
        self._stages, self._queue = stages, queue or QueueSpec()
        self.most, self._usual, self._pid = batch, usual or batch, os.getpid()
        self._lock = threading.RLock()  # the garbage collector may close a lost model in a thread that holds it
        self._work, self._room, self._space, self._leave = (threading.Condition(self._lock) for _ in range(4))
        self._heap: list[tuple[float, int, Request]] = []  # by falling priority, then in order
        self._count = itertools.count()
        self._hurried = -1  # requests up to this number do not linger
        self._searched = 0.0  # when the heap was last searched for requests that were cancelled
        self._preparing = preparers  # threads
        self._callers: set[object] = set()  # those that prepare on their own threads, by what they work on
        self._pumping = False  # a preparer goes from one ready request to the next
        self._overlapping, self._running = overlapping, [0] * len(engines)
        # One that fills while the others run. Where they overlap, another: what is ready then finds room at once.
        self._free = [Batch(stages.memory(batch)) for _ in range(sum(engines) + 1 + overlapping)]
        self._open: Batch | None = None
        self._leaving: deque[Batch] = deque()  # every place given out; some may still be being filled
        self._closing = self._abandoning = False  # abandoning: what does not run yet is cancelled
        runners = [engine for engine, calls in enumerate(engines) for _ in range(calls)]
        tasks: list[tuple[str, Callable[[], None]]] = [(f"prepare {i + 1}", self._prepare) for i in range(preparers)]
        tasks += [(f"engine {i + 1}", partial(self._serve, engine)) for i, engine in enumerate(runners)]
        self._threads = [threading.Thread(target=task, name=f"{name} {what}", daemon=True) for what, task in tasks]
        for thread in self._threads:
            thread.start()

    # The caller's side

    def submit(
        self,
        item: Item,
        *,
        priority: float = 0.0,
        timeout_s: float | None = None,
        linger_s: float | None = None,
        full: Full | None = None,
    ) -> Pending[Out]:
        """Queue a request. Higher priorities go first, equal ones in order; linger_s, full: the queue's unless given.

        timeout_s: fail with DeadlineError where no engine has begun on it by then; it lingers for half of that at most.
        Raises BusyError where the queue is full and the rule is "fail", where the rule is "drop-oldest" and all that
        wait may not be dropped or matter more, and where a callback would have to wait for room; DeadlineError where
        it waited for room until its deadline; EyasError on a closed batcher, or in a process forked from its own.
        """
        pending.check_process(self._pid)
        linger_s = self._queue.linger_s if linger_s is None else linger_s
        deadline = None
        if timeout_s is not None:
            deadline, linger_s = time.monotonic() + timeout_s, min(linger_s, timeout_s / 2)
        ready = self._stages.ready(item)
        request = Request(item, ready, priority, deadline, linger_s, full or self._queue.full)
        if ready and threading.current_thread() not in self._threads and self._bring_here(request):
            return request.future
        with self._lock:
            dropped = self._make_room(request) if len(self._heap) >= self._queue.capacity else None
            if self._closing:
                raise EyasError(CLOSED)
            request.number = next(self._count)
            heapq.heappush(self._heap, (-priority, request.number, request))
            if not (ready and self._pumping):  # so short a work is not worth a second thread
                self._work.notify()
            self._pumping |= ready
        if dropped:
            error = pending.busy("a newer request took the place of this one", self._queue.capacity)
            pending.settle(dropped.future, error)
        return request.future

    def call(self, item: Item) -> Out:
        """What `submit(item).result()` gives, on the caller's own thread where nothing else is under way: sooner."""
        pending.check_process(self._pid)
        me, batch = object(), None
        try:
            with self._lock:
                if not (self._heap or self._open or self._leaving or self._closing) and len(self._free) > 1:
                    self._callers.add(me)
                    batch = self._free[-1]
                    del self._free[-1]
            if batch is not None:
                with trace.span("decode"):
                    loaded = self._stages.load(item)
                with trace.span("letterbox"):
                    placed = self._stages.place(loaded, batch.memory, 0)
                (outcome,) = self._stages.run(0, batch.memory, [0], [item], [placed])
        finally:
            try:
                self._give_back(me, batch)
            finally:
                self._give_back(me, batch)
        if batch is None:
            future = self.submit(item, linger_s=0.0, full="block")
            try:
                return future.result()
            finally:
                future.cancel()  # where the waiting was interrupted; a finished one does not mind
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _bring_here(self, request: Request) -> bool:
        """Prepare it on the caller's thread if there is room at once; whether there was.

        There Ctrl-C may raise after any call: between a step and its note is none, and letting go can be done twice.
        """
        try:
            with self._lock:
                if self._heap or self._closing or not (self._open or self._free):
                    return False
                request.number = next(self._count)
                self._callers.add(request)
            self._bring(request)
        except KeyboardInterrupt:
            request.cancel()  # nobody will hold its future
            with self._lock:
                if request.batch:
                    self._placed(request.batch, request)
                self._leave.notify_all()
            raise
        except BaseException as error:
            pending.settle(request.future, error)
        finally:
            try:
                self._give_back(request)
            finally:
                self._give_back(request)
        return True

    def _give_back(self, me: object, batch: Batch | None = None) -> None:
        """A caller has ended, and needs the batch no more."""
        if me in self._callers:
            with self._lock:
                if batch is not None and batch not in self._free:
                    self._space.notify_all()  # who waits goes on once the lock is free
                    self._free.append(batch)
                if self._closing:
                    self._leave.notify_all()
                self._callers.discard(me)

    def hurry(self) -> None:
        """Nothing more comes soon: what has been submitted so far does not linger."""
        pending.check_process(self._pid)
        with self._lock:
            self._hurried = next(self._count)
            if self._open:
                self._open.leave_at = 0.0
            self._leave.notify()

    def close(self, drain: bool = True) -> None:
        """Refuse new requests, finish those that wait (or cancel them), end the threads.

        From a callback it only says so: the threads end when they have finished.
        """
        if os.getpid() != self._pid:
            return  # the threads did not come along
        with self._lock:
            self._closing, self._abandoning = True, self._abandoning or not drain
            batches = [*self._leaving, *([self._open] if self._open else [])]
            waiting = [] if drain else [*(r for *_, r in self._heap), *(r for b in batches for r in b.requests)]
            self.hurry()
            for condition in (self._work, self._room, self._space, self._leave):
                condition.notify_all()
        for request in waiting:
            request.cancel()
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()
            with self._lock:
                while self._callers:
                    self._leave.wait()

    def _make_room(self, new: Request) -> Request | None:
        """Wait until the queue has room for a request, or drop another by its rule, and return that. Holds the lock."""
        while not self._closing and len(self._heap) >= self._queue.capacity:
            if time.monotonic() - self._searched >= CANCELLED_SEEN_S:
                self._heap = [entry for entry in self._heap if not entry[2].cancelled()]
                heapq.heapify(self._heap)
                self._searched = time.monotonic()
            elif error := new.late():
                raise error
            elif new.full == "block" and threading.current_thread() not in self._threads:
                self._room.wait(CANCELLED_SEEN_S)
            else:
                oldest = pending.droppable(self._heap, new)
                self._heap.remove(oldest)
                heapq.heapify(self._heap)
                return oldest[2]
        return None

    # Preparer threads

    def _prepare(self) -> None:
        while request := self._next_request():
            try:
                self._bring(request)
            except BaseException as error:  # the threads outlive whatever it brings
                pending.settle(request.future, error)
            del request  # no result is kept alive while there is nothing to do
        with self._lock:
            self._preparing -= 1
            self._leave.notify_all()

    def _next_request(self) -> Request | None:
        """The most urgent request, when there is one; None at the end."""
        with self._lock:
            while not self._heap:
                if self._closing:
                    return None
                self._pumping = False
                self._work.wait()
            request = heapq.heappop(self._heap)[2]
            if self._pumping and not request.ready:  # it may take its time
                self._work.notify()
            if len(self._heap) == self._queue.capacity * 3 // 4:  # who waits for room then adds several at a time
                self._room.notify(self._queue.capacity - len(self._heap))
            return request

    def _bring(self, request: Request) -> None:
        """Load a request's item and write it into a place of a batch. What goes wrong before that is raised."""
        begin, record = trace.clock(), trace.current
        name = str(request.item) if record else ""
        if record:
            record.wait("queued", request.submitted, picture=name)
        if request.cancelled():
            return
        if error := request.late():
            raise error
        loaded = self._stages.load(request.item)
        if record:
            record.add("decode", begin, picture=name)
            begin = trace.clock()
        batch, place = self._take_place(request)
        try:
            if record:
                record.add("place", begin)
                begin = trace.clock()
            request.placed = self._stages.place(loaded, batch.memory, place)
            if record:
                record.add("letterbox", begin, picture=name)
        except BaseException as error:
            request.placed = error
            if isinstance(error, KeyboardInterrupt) and request in self._callers:
                raise
        self._placed(batch, request)

    def _take_place(self, request: Request) -> tuple[Batch, int]:
        """A place in the open batch, for the preparer alone to write to; waits for one."""
        with self._lock:
            self._shut()  # where Ctrl-C came between the last request's place and this
            while not self._open and not self._free:
                self._space.wait()
            if not self._open:
                self._open = self._free[-1]
                del self._free[-1]
            batch, place = self._open, len(self._open.requests)
            request.batch = batch
            batch.requests.append(request)
            self._shut()
            return batch, place

    def _shut(self) -> None:
        """An open batch that is full leaves. Holds the lock."""
        if self._open and len(self._open.requests) >= self.most:
            full, self._open = self._open, None
            self._leaving.append(full)

    def _placed(self, batch: Batch, request: Request) -> None:
        """One more place is filled; wake an engine's thread if that is news for it."""
        with self._lock:
            request.batch = None
            batch.filled.add(request)
            linger_s = 0.0 if request.number <= self._hurried else request.linger_s
            leave_at = time.monotonic() + linger_s if linger_s else 0.0
            sooner = leave_at < batch.leave_at
            batch.leave_at = min(batch.leave_at, leave_at)
            joins = batch is self._open and self._overlapping and 0 not in self._running
            if (sooner or self._may_leave(batch)) and not joins:
                self._tell()

    def _tell(self) -> None:
        """Wake an engine's thread that may take what there is. Holds the lock."""
        self._leave.notify(len(self._threads) if self._overlapping else 1)

    def _may_leave(self, batch: Batch) -> bool:
        """Whether all of its places that were given out are filled, and it waits for no more. Holds the lock."""
        if len(batch.filled) < len(batch.requests):
            return False
        usual = len(batch.filled) >= self._usual and not self._heap
        return usual or batch is not self._open or batch.leave_at <= time.monotonic()

    # Engine threads

    def _serve(self, engine: int) -> None:
        while batch := self._next_batch(engine):
            self._run(engine, batch)
            with self._lock:
                self._running[engine] -= 1
                batch.clear()
                self._free.append(batch)
                self._space.notify(self.most)

    def _next_batch(self, engine: int) -> Batch | None:
        """The next batch that may run, when there is one; None at the end."""
        with self._lock:
            while True:
                for full in self._leaving:
                    if self._may_leave(full):
                        self._leaving.remove(full)
                        self._running[engine] += 1
                        self._tell()  # another thread minds the open batch's time
                        return full
                wait_s = None
                joins = self._overlapping and self._running[engine]
                if (batch := self._open) and not joins:
                    if self._may_leave(batch):
                        self._open = None
                        self._running[engine] += 1
                        return batch
                    wait_s = min(batch.leave_at - time.monotonic(), threading.TIMEOUT_MAX)
                if self._closing and not (self._preparing or self._callers or self._open or self._leaving):
                    self._leave.notify_all()
                    return None
                self._leave.wait(wait_s if wait_s and wait_s > 0 else None)

    def _run(self, engine: int, batch: Batch) -> None:
        """Run what is still wanted of a batch, and settle its futures."""
        going, places = list[Request](), list[int]()
        for place, request in enumerate(batch.requests):
            if self._abandoning:
                request.cancel()  # one that was being prepared then
            error = request.placed if isinstance(request.placed, BaseException) else request.late()
            if error is not None:
                pending.settle(request.future, error)
            elif request.future.set_running_or_notify_cancel():
                going.append(request)
                places.append(place)
        run = partial(self._stages.run, engine, batch.memory)
        outcomes = pending.outcomes_of(run, places, going, lambda: self.most, self._learn)
        for request, outcome in zip(going, outcomes, strict=True):
            pending.settle(request.future, outcome)

    def _learn(self, error: BaseException, count: int) -> None:
        """Keep batches smaller than one for which there was no memory."""
        if pending.is_out_of_memory(error) and self.most > count // 2:
            with self._lock:
                self.most = max(1, count // 2)
                self._usual = min(self._usual, self.most)
            log.warning("no memory for %d pictures at once (%s); from now on at most %d", count, error, self.most)
