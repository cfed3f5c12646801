"""What the queue, the threads and the futures cost for each request, in microseconds of wall clock and of CPU.

    python benchmarks/batching_overhead.py --out benchmarks/results/batching_overhead.json

One caller keeps a bounded number of requests going, as `Model.stream` does, and takes the results in order.
(a) `bare`: the Batcher with stages that do nothing: everything it costs.
(b) `model`: `Model.submit` of a small frame with the null backend, less the same stages called one after another
    on one thread in the same round (`inline`). What is left is the cost of submit and of the Batcher; where stages of
    two threads run side by side it may be less than (a), or less than nothing.
`calls` is the mean number of requests in a call of `run`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import eyas
from eyas.batching import Batcher, Pending
from eyas.source import pictures
from eyas.stages import Job

cv2.setNumThreads(1)  # as the command line does for many pictures
CORES = len(os.sched_getaffinity(0))
BATCHES = (1, 8, 32)
SIDE = 64  # of the frame and of the input, so that there is little to do but copy it
Row = dict[str, float]


class Idle:
    """Stages that do nothing."""

    def __init__(self) -> None:
        self.runs = 0

    def ready(self, item: int) -> bool:
        return False

    def load(self, item: int) -> int:
        return item

    def memory(self, batch: int) -> None:
        pass

    def place(self, loaded: int, memory: None, place: int) -> None:
        pass

    def run(
        self, engine: int, memory: None, places: Sequence[int], items: Sequence[int], placed: Sequence[None]
    ) -> Sequence[int]:
        self.runs += 1
        return items


def ahead(batch: int) -> int:
    """How many requests `Model.stream` keeps going on one engine."""
    return 4 * batch


def keep_going(submit: Callable[[], Pending[Any]], count: int, window: int) -> None:
    going: deque[Pending[Any]] = deque()
    for _ in range(count):
        going.append(submit())
        while going and (going[0].done() or len(going) >= window):
            going.popleft().result()
    while going:
        going.popleft().result()


def us_each(work: Callable[[], None], count: int) -> tuple[float, float]:
    """Microseconds an item: wall clock, and CPU of the whole process."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - start) / count * 1e6, (time.process_time() - cpu) / count * 1e6


def bare(batch: int, preparers: int, count: int) -> Row:
    stages = Idle()
    batcher: Batcher[int, int] = Batcher(stages, batch=batch, preparers=preparers)
    keep_going(lambda: batcher.submit(1), 200, ahead(batch))  # warm-up
    stages.runs = 0
    wall, cpu = us_each(lambda: keep_going(lambda: batcher.submit(1), count, ahead(batch)), count)
    batcher.close()
    return {"wall_us": wall, "cpu_us": cpu, "calls": count / stages.runs}


def inline(model: eyas.Model, frame: np.ndarray, batch: int, count: int) -> tuple[float, float]:
    """The model's own stages, one after another on this thread."""
    stages = model._lane("throughput").batcher._stages
    (picture,) = pictures(frame)
    jobs = [Job(picture, 0.25, 0.6, whole=False)] * batch
    memory, places = stages.memory(batch), range(batch)

    def work() -> None:
        for _ in range(count // batch):
            placed = [stages.place(stages.load(job), memory, place) for job, place in zip(jobs, places, strict=True)]
            stages.run(0, memory, places, jobs, placed)

    work()  # warm-up
    return us_each(work, count // batch * batch)


def submitted(model: eyas.Model, frame: np.ndarray, batch: int, count: int) -> Row:
    """`Model.submit`, and what it takes beyond the same work done inline in the same minute."""
    keep_going(lambda: model.submit(frame), 200, ahead(batch))
    wall, cpu = us_each(lambda: keep_going(lambda: model.submit(frame), count, ahead(batch)), count)
    alone_wall, alone_cpu = inline(model, frame, batch, count)
    row = {"wall_us": wall, "cpu_us": cpu, "inline_wall_us": alone_wall, "inline_cpu_us": alone_cpu}
    return row | {"over_wall_us": wall - alone_wall, "over_cpu_us": cpu - alone_cpu}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=4_000, help="requests a round")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    args = p.parse_args()

    start_load = os.getloadavg()[0]
    frame = np.full((SIDE, SIDE, 3), 99, np.uint8)
    models = {batch: eyas.load("nanodet", backend="null", batch=batch, imgsz=SIDE) for batch in BATCHES}
    works: dict[str, Callable[[], Row]] = {}
    for batch in BATCHES:
        for preparers in dict.fromkeys((1, CORES)):
            name = f"bare, batch {batch}, {preparers} preparer{'s' * (preparers > 1)}"
            works[name] = lambda batch=batch, preparers=preparers: bare(batch, preparers, args.count)
        works[f"model, batch {batch}"] = lambda batch=batch: submitted(models[batch], frame, batch, args.count)
    rounds: list[dict[str, Row]] = []
    for i in range(args.rounds):
        rounds.append({name: work() for name, work in works.items()})
        print(f"round {i + 1} of {args.rounds}", flush=True)
    medians = {name: {k: statistics.median(r[name][k] for r in rounds) for k in rounds[0][name]} for name in works}
    print(f"\nmicroseconds a request, medians of {args.rounds}, {CORES} cores")
    for name, row in medians.items():
        print(f"  {name:28}" + "  ".join(f"{k} {v:6.1f}" for k, v in row.items()))
    for model in models.values():
        model.close()
    if args.out:
        facts = {"python": platform.python_version(), "numpy": np.__version__, "eyas": eyas.__version__}
        facts |= {"opencv": cv2.__version__, "cores": CORES, "machine": platform.machine(), "requests": args.count}
        facts["load_average"] = [start_load, os.getloadavg()[0]]  # others on the machine lengthen the wall clock
        args.out.write_text(json.dumps(facts | {"medians": medians, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
