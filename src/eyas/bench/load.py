"""Two kinds of load on anything that can be called, and what became of every request.

Closed: so many callers, each of which asks again when it has its answer, so that a slow answer also delays the next
question. Open: requests come when they come, as from many users who know nothing of one another.

A closed loop cannot show how long requests wait behind a slow one, because it then sends none ("coordinated
omission": Gil Tene, "How NOT to Measure Latency", 2013). The open loop's latency therefore counts from the moment at
which a request was due, not from when it could be sent.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eyas.errors import BusyError

clock = time.perf_counter
LATE_S = 0.005  # how often Python lets another thread run (`sys.getswitchinterval`): later than that is not punctual
SURE = 0.01  # a quantile is given where the chance that no sample reached it is smaller


@dataclass(frozen=True, slots=True)
class Load:
    """What became of one load.

    latency_ms: float64 [n], of each request that was answered. seconds: from the first to the last moment that counts.
    pictures: answered. cpu_s: of the whole process meanwhile. sent: requests that count. failed: those with an error,
    by its type, not counting those that were refused (BusyError). late: sent over LATE_S after they were due.
    """

    latency_ms: NDArray[np.float64]
    seconds: float
    pictures: int
    cpu_s: float
    sent: int
    failed: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    late: int = 0

    @property
    def images_s(self) -> float:
        """Throughput: answered pictures a second."""
        return self.pictures / self.seconds

    @property
    def cpu_ms(self) -> float | None:
        """CPU milliseconds a picture, None where none was answered."""
        return self.cpu_s / self.pictures * 1e3 if self.pictures else None


def quantile(samples: NDArray[np.float64], share: float) -> float | None:
    """The quantile, or None where there are too few samples for it.

    All n samples lie below the true quantile with probability shareⁿ; that must be under SURE. So p50 takes 7
    samples, p90 44, p99 459 and p99.9 4,603.
    """
    enough = len(samples) > 0 and len(samples) * math.log(share) < math.log(SURE)
    return float(np.quantile(samples, share)) if enough else None


class _Answer(NamedTuple):
    begin: float
    end: float
    cpu: float  # the process's, at the end
    error: BaseException | None


def closed(call: Callable[[int], Any], callers: int, seconds: float, pictures: int = 1) -> Load:
    """`callers` threads that call again and again with rising numbers, for `seconds` after each has had one answer.

    pictures: that one call answers. At least one call counts, however long it takes. Throughput is counted from one
    answer to another, so that neither the filling nor the emptying of the pipeline changes it.
    """
    answers: list[list[_Answer]] = [[] for _ in range(callers)]
    stop = threading.Event()
    first = threading.Semaphore(0)
    again = threading.Semaphore(0)  # as many as there are answers after each caller's first

    def ask(mine: list[_Answer], number: int) -> None:
        for i in itertools.count(number, callers):
            begin, error = clock(), None
            try:
                call(i)
            except Exception as caught:  # it is counted and reported, and must not end the load
                error = caught
            mine.append(_Answer(begin, clock(), time.process_time(), error))
            (first if len(mine) == 1 else again).release()
            if stop.is_set():
                return

    threads = [threading.Thread(target=ask, args=(mine, i), daemon=True) for i, mine in enumerate(answers)]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            first.acquire()
        start = max((mine[0] for mine in answers), key=lambda answer: answer.end)
        time.sleep(max(0.0, start.end + seconds - clock()))
        while not any(mine[-1].end > start.end for mine in answers):
            again.acquire()
    finally:
        stop.set()
    for thread in threads:
        thread.join()
    after = sorted((a for mine in answers for a in mine if a.end > start.end), key=lambda answer: answer.end)
    counted = [a for a in after if a.end <= start.end + seconds] or after[:1]
    good = [a for a in counted if a.error is None]
    return Load(
        latency_ms=np.array([(a.end - a.begin) * 1e3 for a in good]),
        seconds=counted[-1].end - start.end,
        pictures=len(good) * pictures,
        cpu_s=counted[-1].cpu - start.cpu,
        sent=len(counted),
        failed=Counter(type(a.error).__name__ for a in counted if a.error and not isinstance(a.error, BusyError)),
        refused=sum(isinstance(a.error, BusyError) for a in counted),
    )


def poisson(rate: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """When `count` requests are due, in seconds from the start: independent, with exponential gaps.

    Stretched so that exactly `count` come in count / rate seconds, which makes them a Poisson process of which that
    count is known (Ross, "Introduction to Probability Models", on conditional arrival times): every round offers the
    same load.
    """
    times = rng.exponential(1.0, count + 1).cumsum()
    due_s: NDArray[np.float64] = times[:count] / times[count] * (count / rate)
    return due_s


def open_loop(submit: Callable[[int], Future[Any]], due_s: NDArray[np.float64]) -> Load:
    """Send request i at due_s[i] seconds whatever became of the others, and wait for all.

    Latency counts from when a request was due. Throughput: answered pictures until the last answer.
    """
    ends = np.full(len(due_s), np.nan)
    answered = threading.Semaphore(0)

    def record(i: int, _: Future[Any]) -> None:
        ends[i] = clock()
        answered.release()

    going: list[tuple[int, Future[Any]]] = []
    failed: Counter[str] = Counter()
    refused = late = 0
    cpu, start = time.process_time(), clock()
    for i, due in enumerate(due_s.tolist()):
        time.sleep(max(0.0, start + due - clock()))
        late += clock() - start - due > LATE_S
        try:
            going.append((i, submit(i)))
        except BusyError:
            refused += 1
        except Exception as error:  # counted, as above
            failed[type(error).__name__] += 1
        else:
            going[-1][1].add_done_callback(partial(record, i))
    for _ in going:
        answered.acquire()
    seconds, cpu = clock() - start, time.process_time() - cpu
    good = []
    for i, future in going:
        wrong = future.exception()
        if wrong is None:
            good.append(i)
        elif isinstance(wrong, BusyError):
            refused += 1
        else:
            failed[type(wrong).__name__] += 1
    latency_ms = (ends[good] - start - due_s[good]) * 1e3
    return Load(latency_ms, seconds, len(good), cpu, len(due_s), failed, refused, late)
