"""What is measured, and in which order: every case once a round, and where two are compared, both before the next.

    warm-up (thrown away) ─► capacity (which rates the open loop takes) ─► rounds: case by case, A and B in turn

The order of A and B changes from round to round, so that a drift of the machine's speed favours neither.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from eyas.backends import Engine, Feeds
from eyas.batching import QueueSpec
from eyas.bench.inputs import Inputs
from eyas.bench.load import Load, closed, open_loop, poisson
from eyas.graph.head import HeadSpec
from eyas.graph.surgery import IMAGES, THRESHOLDS
from eyas.imagefile import read_image
from eyas.letterbox import prepare
from eyas.outputs import result_of
from eyas.predictor import Model

QUEUE = QueueSpec(capacity=256, full="fail")  # an overloaded model refuses requests, which are counted
OPEN = 4  # times as long as the others: an open loop begins with an empty queue, which takes time to fill
FEEDS = 8  # different pictures that an engine alone is given in turn
Part = Literal["engine", "stage", "closed", "open"]


class Case(NamedTuple):
    """One thing to measure.

    part "engine": what "latency" (one caller, the engine compiled for it) or "throughput" (as many as it takes side by
    side). "stage": what "decode", "letterbox", "results" or "predict" (all of them), one picture at a time. "closed":
    what "files" or "arrays", from so many callers. "open": "files" at `rate` pictures a second. batch: of the engine.
    """

    part: Part
    what: str
    batch: int
    callers: int = 1
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """batches: engines' batch sizes, rising. concurrency: numbers of callers. rates: pictures/s, or shares of the
    capacity where `shares`. seconds: of a measurement; warmup_s: of one that is thrown away. seed: of the arrivals."""

    batches: tuple[int, ...] = (1, 2, 4, 8)
    concurrency: tuple[int, ...] = (1, 2, 4, 8)
    rates: tuple[float, ...] = (0.5, 0.7, 0.9)
    shares: bool = True
    rounds: int = 5
    seconds: float = 1.0
    warmup_s: float = 0.2
    conf: float = 0.25
    seed: int = 0

    def closed_cases(self) -> list[Case]:
        """Without those with fewer callers than places in a batch, which smaller batches show as well."""
        pairs = [(b, c) for b in self.batches for c in self.concurrency if b <= c or b == self.batches[0]]
        return [Case("closed", what, b, c) for what in ("files", "arrays") for b, c in pairs]

    def cases(self) -> list[Case]:
        """All but the open loop's, whose rates are not known yet."""
        engine = [Case("engine", what, b) for b in self.batches for what in ("latency", "throughput")]
        stages = [Case("stage", what, self.batches[0]) for what in ("decode", "letterbox", "results", "predict")]
        return engine + stages + self.closed_cases()

    def seconds_a_side(self) -> float:
        """About how long it takes for each of the models that are compared."""
        cases = len(self.cases())
        measured = len(self.batches) + self.rounds * (cases + OPEN * len(self.rates))
        return cases * self.warmup_s + measured * self.seconds


@dataclass(frozen=True, slots=True)
class Side:
    """One of the models that are compared. models: by batch size, loaded alike; head: what they were asked for."""

    title: str
    models: Mapping[int, Model]
    head: HeadSpec = field(default_factory=HeadSpec)

    @property
    def first(self) -> Model:
        """The model of the smallest batch."""
        return self.models[min(self.models)]


@dataclass(frozen=True, slots=True)
class Measured:
    """loads[case][side]: a load a round. capacity: images/s in a closed loop, of the batch that the open loop takes."""

    plan: Plan
    loads: dict[Case, list[list[Load]]]
    capacity: float


def measure(sides: Sequence[Side], inputs: Inputs, plan: Plan, watch: Callable[[int, int], None]) -> Measured:
    """Warm up, find the capacity, measure. watch: is told how many of how many measurements are done."""
    cases = plan.cases()
    for model in (model for side in sides for model in side.models.values()):
        model.submit(inputs.files[0], conf=plan.conf).result()  # what cannot work at all is raised, not counted
    runs = {case: [_runner(side, case, inputs, plan) for side in sides] for case in cases}
    total = len(sides) * (len(cases) + plan.rounds * (len(cases) + len(plan.rates)))
    done = iter(range(1, total + 1))
    for case in cases:
        for run in runs[case]:
            run(plan.warmup_s)
            watch(next(done), total)
    batch, capacity = _capacity(runs, plan)
    rates = [rate * capacity if plan.shares else rate for rate in plan.rates]
    opened = [Case("open", "files", batch, rate=rate) for rate in rates]
    loads: dict[Case, list[list[Load]]] = {case: [[] for _ in sides] for case in cases + opened}
    for i in range(plan.rounds):
        gc.collect()
        for case, into in loads.items():
            for k in _order(len(sides), i):
                into[k].append(runs[case][k](plan.seconds) if case in runs else _open(sides[k], case, inputs, plan, i))
                watch(next(done), total)
    return Measured(plan, loads, capacity)


def _order(sides: int, i: int) -> Iterator[int]:
    """A B, then B A, and so on."""
    return iter(range(sides)) if i % 2 == 0 else reversed(range(sides))


def _capacity(runs: dict[Case, list[Callable[[float], Load]]], plan: Plan) -> tuple[int, float]:
    """Which batch answers most from files in a closed loop with the most callers, and how many pictures a second.

    It is the first side's: both get the same requests at the same times.
    """
    most = max(plan.concurrency)
    found = {c.batch: runs[c][0](plan.seconds).images_s for c in plan.closed_cases() if c[1::2] == ("files", most)}
    best = max(found, key=lambda batch: found[batch])
    return best, found[best]


def _open(side: Side, case: Case, inputs: Inputs, plan: Plan, i: int) -> Load:
    """Round i of an open loop; the same arrivals for both sides, others in every round."""
    rate = case.rate or 1.0
    model, count = side.models[case.batch], max(1, round(rate * OPEN * plan.seconds))
    due_s = poisson(rate, count, np.random.default_rng([plan.seed, i]))
    return open_loop(lambda n: model.submit(inputs.files[n % len(inputs)], conf=plan.conf), due_s)


def _runner(side: Side, case: Case, inputs: Inputs, plan: Plan) -> Callable[[float], Load]:
    """seconds → the load of one measurement; everything that need not be measured is done before."""
    model = side.models[case.batch]
    if case.part == "engine":
        engine = model.engine("latency" if case.what == "latency" else "throughput")
        callers = 1 if case.what == "latency" else engine.parallel
        call = _engine_call(model, engine, inputs, case.batch, plan)
        return lambda seconds: closed(call, callers, seconds, case.batch)
    call = _stage_call(side, case, inputs, plan) if case.part == "stage" else _request_call(model, case, inputs, plan)
    return lambda seconds: closed(call, case.callers, seconds)


def _request_call(model: Model, case: Case, inputs: Inputs, plan: Plan) -> Callable[[int], Any]:
    sources: Sequence[Any] = inputs.files if case.what == "files" else inputs.images
    return lambda i: model.submit(sources[i % len(sources)], conf=plan.conf).result()


def _engine_call(model: Model, engine: Engine, inputs: Inputs, batch: int, plan: Plan) -> Callable[[int], Any]:
    feeds = [_feeds(model, inputs, range(k * batch, (k + 1) * batch), plan) for k in range(max(1, FEEDS // batch))]
    return lambda i: engine.infer(feeds[i % len(feeds)])


def _feeds(model: Model, inputs: Inputs, numbers: Sequence[int], plan: Plan) -> Feeds:
    """What an engine is given for the pictures of these numbers."""
    card = model.card
    images = np.empty((len(numbers), *card.input_size, 3), np.uint8)
    for place, i in enumerate(numbers):
        prepare(inputs.images[i % len(inputs)], card, images[place])
    if card.task in ("classify", "embed"):  # their graphs have no thresholds
        return {IMAGES: images}
    return {IMAGES: images, THRESHOLDS: np.array([(plan.conf, card.iou)] * len(numbers), np.float32)}


def _stage_call(side: Side, case: Case, inputs: Inputs, plan: Plan) -> Callable[[int], Any]:
    model, count = side.first, len(inputs)
    card = model.card
    if case.what == "decode":
        return lambda i: read_image(inputs.files[i % count], "picture")
    if case.what == "letterbox":
        canvas = np.empty((*card.input_size, 3), np.uint8)
        return lambda i: prepare(inputs.images[i % count], card, canvas)
    if case.what == "predict":
        return lambda i: model.predict(inputs.files[i % count], conf=plan.conf)
    canvas = np.empty((*card.input_size, 3), np.uint8)
    few = range(min(count, FEEDS))
    boxes = [prepare(inputs.images[i], card, canvas) for i in few]
    outputs = [model.engine().infer(_feeds(model, inputs, [i], plan)) for i in few]
    return lambda i: result_of(card, side.head, outputs[i % len(few)], 0, boxes[i % len(few)], card.iou)
