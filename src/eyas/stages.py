"""What a model does for a picture, stage by stage: load, letterbox, engine, results. `eyas.batching` says when.

    Job ─► load: Frame ─► place: letterbox into a batch's memory ─► run: engine, then outputs ─► result

These are the stages on the host; `eyas.cuda.stages` has those of an engine on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eyas import trace
from eyas.backends import Engine, Feeds
from eyas.graph.head import HeadSpec
from eyas.graph.surgery import IMAGES, THRESHOLDS
from eyas.letterbox import Letterbox, prepare
from eyas.outputs import Outputs, is_full, results_of
from eyas.results import Prediction, Result
from eyas.source import Picture
from eyas.types import Frame, Image, ModelCard, host_image

log = logging.getLogger("eyas")
Outcome = Prediction | Result | BaseException


@dataclass(frozen=True, slots=True)
class Job:
    """One picture for one model. whole: the outcome is a Prediction, with the frame; else the result alone."""

    picture: Picture
    conf: float
    iou: float
    whole: bool

    def __str__(self) -> str:
        return self.picture.source_id


class Placed(NamedTuple):
    """A frame that is in a batch's memory, and how it got there."""

    frame: Frame
    box: Letterbox


class HostStages:
    """The stages of one model on its engines; safe from several threads, as its engines are."""

    overlapping = False  # calls of one engine run side by side

    def __init__(self, card: ModelCard, head: HeadSpec, inputs: Sequence[str], engines: Sequence[Engine]) -> None:
        """inputs: the names of the deploy graph's."""
        self.card, self.inputs, self.engines = card, tuple(inputs), tuple(engines)
        self._outcomes = Outcomes(card, head)

    def memory(self, batch: int) -> Image:
        """The engine's input for a batch of so many, uint8 [batch, H, W, 3]."""
        return np.empty((batch, *self.card.input_size, 3), np.uint8)

    def ready(self, job: Job) -> bool:
        """Never: even a small picture's letterbox is work for a thread of its own."""
        return False

    def load(self, job: Job) -> Frame:
        """Read and decode."""
        return job.picture.load()

    def place(self, frame: Frame, memory: Image, place: int) -> Placed:
        """Letterbox into a place."""
        return Placed(frame, prepare(host_image(frame), self.card, memory[place]))

    def run(
        self, engine: int, memory: Image, places: Sequence[int], jobs: Sequence[Job], placed: Sequence[Placed]
    ) -> list[Outcome]:
        """One call of the engine, then each picture's result, or what went wrong with it."""
        begin, record = trace.clock(), trace.current
        first, last = places[0], places[-1]
        images = memory[first : last + 1] if last - first < len(places) else memory[list(places)]
        limits = np.array([(job.conf, job.iou) for job in jobs], np.float32)
        feeds: Feeds = {IMAGES: images, THRESHOLDS: limits}
        outputs = self.engines[engine].infer({name: feeds[name] for name in self.inputs})
        if record:
            record.add("engine", begin, pictures=len(jobs))
        return self._outcomes.of(outputs, jobs, placed)


class Outcomes:
    """From an engine's outputs to each job's outcome."""

    def __init__(self, card: ModelCard, head: HeadSpec) -> None:
        self.card, self.head = card, head
        self._said_full = False

    def of(self, outputs: Outputs, jobs: Sequence[Job], placed: Sequence[tuple[Frame, Letterbox]]) -> list[Outcome]:
        """A result each, or the exception that came instead."""
        begin, record = trace.clock(), trace.current
        if is_full(outputs, [job.conf for job in jobs]):
            self._say_full()
        results = results_of(self.card, self.head, outputs, [box for _, box in placed], [job.iou for job in jobs])
        outcomes: list[Outcome] = [
            Prediction(job.picture.source_id, frame, result)
            if job.whole and not isinstance(result, Exception)
            else result
            for job, (frame, _), result in zip(jobs, placed, results, strict=True)
        ]
        if record:
            record.add("results", begin, pictures=len(jobs))
        return outcomes

    def _say_full(self) -> None:
        """Once a model. Evaluation takes every class of every cell down to scores that mean nothing: no news there."""
        if not self._said_full and not self.head.multi_label:
            self._said_full = True
            log.warning(
                "a picture has more than %d candidates; the weakest were left out: raise --max-det or --conf",
                self.head.max_candidates,
            )
