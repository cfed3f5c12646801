"""READ FIRST: from pictures to results. `eyas.loading` opens a `Model`; the run flow, in order:

    sources ─► Picture ─► submit ─► load (decode) ─► letterbox into a batch ─► engine ─► outputs ─► result
                          queue     └─ preparer threads ─────────────────┘    └─ engine threads ────────┘

Whoever calls `submit` holds a future at once; `predict` waits for one, `stream` keeps enough of them going to keep the
engine busy and gives the results in order. The stages are in `eyas.stages`, the threads in `eyas.batching`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from os import PathLike
from types import TracebackType
from typing import Any, Literal, cast, get_args, overload

import numpy as np

from eyas import trace
from eyas.backends import Engine, choose
from eyas.batching import CLOSED, Batcher
from eyas.cpu import cores
from eyas.engines.build import Recipe
from eyas.engines.cache import open_cached
from eyas.errors import EyasError, OptionError, SourceError, problem
from eyas.graph.head import HeadSpec
from eyas.imagefile import MAX_PIXELS
from eyas.pending import Full, Pending, QueueSpec, is_seconds
from eyas.pulses import listed, without_pulses
from eyas.results import Prediction, Result
from eyas.source import Picture, is_single, only_picture
from eyas.stages import HostStages, Job
from eyas.types import BuildSpec, Frame, Image, ModelCard

log = logging.getLogger("eyas")
CONFIDENCE = 0.25
PREPARERS = min(16, cores())
BULK_LINGER_S = 0.02  # how long `stream` lets a batch wait to be full: more pictures are on their way
Precision = Literal["auto", "fp32", "fp16", "bf16"]
Hint = Literal["latency", "throughput"]
_NUMBERS = (float, int, np.floating, np.integer)
_FULL = (None, *get_args(Full))
Single = str | PathLike[str] | bytes | Image | Frame


@dataclass(frozen=True, slots=True)
class _Lane:
    """One way of use: the engines that were compiled for it, and the threads that feed them."""

    engines: tuple[Engine, ...]
    stages: Any
    batcher: Batcher[Job, Any]

    @property
    def ahead(self) -> int:
        """How many pictures under way keep every thread busy."""
        batches = sum(e.parallel for e in self.engines) + 1
        return batches * self.batcher.most + max(batches * self.batcher.most, PREPARERS)

    def close(self, drain: bool) -> None:
        self.batcher.close(drain)
        for engine in self.engines:
            engine.close()


class Model:
    """A network on a backend. Safe to use from several threads; a context manager that ends its threads and frees its
    engines. It belongs to the process that loaded it."""

    def __init__(
        self,
        card: ModelCard,
        graph: Any,
        head: HeadSpec,
        spec: BuildSpec,
        backend: str | None,
        hint: Hint | None,
        digest: str = "",
        engine: Engine | None = None,
        queue: QueueSpec | None = None,
    ) -> None:
        """Use `load`. graph: a deploy graph of `card` and `head`; its engines are built on first use.

        digest: fingerprint of the network. engine: one that is ready, for the way of use that `hint` names.
        """
        self.card, self.digest = card, digest
        self.backend, self._backend = choose(backend)
        self._graph, self._head, self._spec, self._hint = graph, head, spec, hint
        self._spare = [engine] if engine else []
        self._queue = queue or QueueSpec()
        self._lanes: dict[Hint, _Lane] = {}
        self._lock = threading.Lock()
        self._closed = False
        # A model that nobody closes is closed when it is collected, or at the end of the program.
        weakref.finalize(self, _close_all, self._lanes, self._spare, False)

    def engine(self, hint: Hint = "latency") -> Engine:
        """The first engine for one way of use, compiled on first call."""
        return self._lane(hint).engines[0]

    def stages(self, hint: Hint = "latency") -> Any:
        """What is done for a picture, on the engines for one way of use: `HostStages`, or `DeviceStages` on a GPU."""
        return self._lane(hint).stages

    def _lane(self, hint: Hint) -> _Lane:
        hint = self._hint or hint
        if not self._closed and (lane := self._lanes.get(hint)):
            return lane
        with self._lock:  # while an engine compiles
            if self._closed:
                raise EyasError(CLOSED)
            if hint not in self._lanes:
                self._lanes[hint] = self._open_lane(hint)
            return self._lanes[hint]

    def _open_lane(self, hint: Hint) -> _Lane:
        """One engine for each device that was named, and the threads."""
        engines: list[Engine] = []
        try:
            for device in (self._spec.device or "").split(","):
                rest = {k: v for k, v in self._spec.options.items() if k != "decode"}  # which no engine needs to know
                spec = replace(self._spec, hint=hint, device=device.strip() or None, options=rest)
                recipe = Recipe(self.backend, self._backend, self._graph, self._head, spec, digest=self.digest)
                engines.append(self._spare.pop() if self._spare else open_cached(recipe))
                log.info("engine for %s: %s", hint, engines[-1].description)
            stages = self._stages(engines)
        except BaseException:
            for engine in engines:
                engine.close()
            raise
        batcher: Batcher[Job, Any] = Batcher(
            stages,
            batch=min([self._spec.batch[2], *(getattr(e, "largest", 4096) for e in engines)]),
            usual=self._spec.batch[1],
            engines=[engine.parallel for engine in engines],
            overlapping=stages.overlapping,
            preparers=PREPARERS,
            queue=self._queue,
            name=f"eyas {self.card.family} {hint}",
        )
        return _Lane(tuple(engines), stages, batcher)

    def _stages(self, engines: Sequence[Engine]) -> Any:
        """Those of the host, or those of a GPU whose lanes can be had."""
        if all(hasattr(engine, "lanes") for engine in engines):
            from eyas.cuda.stages import DeviceStages  # nothing of CUDA before it is asked for

            return DeviceStages(self.card, self._head, cast(Any, engines), self._spec.options)
        if "decode" in self._spec.options:
            from eyas.cuda.codec import open_decoder

            open_decoder(self._spec.options, None)  # refuses what there is no GPU for
        return HostStages(self.card, self._head, [i.name for i in self._graph.graph.input], engines)

    def submit(
        self,
        source: Single,
        *,
        conf: float = CONFIDENCE,
        iou: float | None = None,
        priority: float = 0.0,
        timeout_s: float | None = None,
        full: Full | None = None,
    ) -> Pending[Result]:
        """Queue one picture and return at once: a future of what `predict` would return or raise. Thread-safe.

        Requests of all callers run together in batches (`load(…, batch=)`, `QueueSpec`). source, conf, iou: see
        `predict`; an array is borrowed until the future is done. priority: higher ones go first. timeout_s: fail with
        DeadlineError unless an engine has begun by then. full: what happens where the queue is full, unless as its
        `QueueSpec` says; "block", the default there, waits. Coroutines `await` the future. Raises BusyError where the
        queue is full and the rule is "fail".
        """
        if not isinstance(priority, (int, float)) or priority != priority:
            raise OptionError(problem("the priority is wrong", got=repr(priority), expected="a number", remedy=""))
        if full not in _FULL:
            raise OptionError(problem("full is wrong", got=repr(full), expected=" | ".join(_FULL[1:]), remedy=""))
        if timeout_s is not None and not is_seconds(timeout_s):
            expected = "None, or seconds from 0 to 3600"
            raise OptionError(problem("timeout_s is wrong", got=repr(timeout_s), expected=expected, remedy=""))
        job = Job(_one(source, "submit"), *self.thresholds(conf, iou), whole=False)
        batcher = self._lane("throughput").batcher
        future: Pending[Result] = batcher.submit(job, priority=priority, timeout_s=timeout_s, full=full)
        future.keeps = self  # a model that only its futures remember is not closed before them
        return future

    @overload
    def predict(  # type: ignore[overload-overlap] # str and bytes are iterables too, but one picture here
        self, source: Single, *, conf: float = ..., iou: float | None = ...
    ) -> Result: ...

    @overload
    def predict(self, source: Iterable[Single], *, conf: float = ..., iou: float | None = ...) -> Iterator[Result]: ...

    def predict(
        self, source: Single | Iterable[Single], *, conf: float = CONFIDENCE, iou: float | None = None
    ) -> Result | Iterator[Result]:
        """What the model says of one picture, or lazily of many: one result each, in order.

        A result is `Detections`, `Classification` or `Embedding`, by the card's task.

        source: a path, encoded bytes, a uint8 BGR array [H, W, 3], a Frame; or an iterable of these, in which a
        path may also be a folder or a glob. conf: keep what scores above it (0…1). iou: NMS threshold (0…1), None
        for the model's own. Raises ImageError at a picture that cannot be read; `stream` reports it and goes on.
        """
        if is_single(source) or isinstance(source, (str, PathLike)):
            return self._predict_one(_one(source, "predict"), conf, iou)
        found = self._stream(listed(source, MAX_PIXELS), *self.thresholds(conf, iou), whole=False)
        return _each(without_pulses(found))

    def stream(
        self,
        sources: Single | Iterable[Single],
        *,
        conf: float = CONFIDENCE,
        iou: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Generator[Prediction, None, None]:
        """Frame and result of every picture, in order; a picture that cannot be read carries its error.

        sources: as for `predict`, also one folder or glob. max_pixels: larger pictures are refused.
        """
        return self.stream_pictures(listed(sources, max_pixels), conf=conf, iou=iou)

    def stream_pictures(
        self, items: Iterable[Picture | None], *, conf: float = CONFIDENCE, iou: float | None = None
    ) -> Generator[Prediction, None, None]:
        """`stream` over pictures that are already listed (`eyas.source.pictures`). None among them: see `pulses`."""
        return without_pulses(self.pulses(items, conf=conf, iou=iou))

    def pulses(
        self, items: Iterable[Picture | None], *, conf: float = CONFIDENCE, iou: float | None = None
    ) -> Generator[Prediction | None, None, None]:
        """`stream_pictures` for sources that may pause, where None says that nothing new has come so far: what is done
        is handed over then, and after it None for those that follow."""
        return self._stream(items, *self.thresholds(conf, iou))

    def _stream(
        self, items: Iterable[Picture | None], conf: float, iou: float, whole: bool = True
    ) -> Generator[Any, None, None]:
        """See `pulses`. whole=False: results alone, and a Prediction with its error for what cannot be read."""
        lane = self._lane("throughput")
        going: deque[tuple[str, Pending[Any]]] = deque()
        try:
            for picture in trace.each("source", items):
                if picture is None:
                    while going and going[0][1].done():
                        yield _prediction(*going.popleft())
                    yield None
                    continue
                job = Job(picture, conf, iou, whole)
                going.append((picture.source_id, lane.batcher.submit(job, linger_s=BULK_LINGER_S, full="block")))
                if going[0][1].done() or len(going) >= lane.ahead:  # one at most: the caller may take its time with it
                    yield _prediction(*going.popleft())
            lane.batcher.hurry()
            while going:
                yield _prediction(*going.popleft())
        finally:
            for _, future in going:
                future.cancel()

    def _predict_one(self, picture: Picture, conf: float, iou: float | None) -> Result:
        job = Job(picture, *self.thresholds(conf, iou), whole=False)
        return cast("Result", self._lane("latency").batcher.call(job))

    def track(
        self,
        source: Any,
        *,
        tracker: str | None = "deepsort",
        conf: float | None = None,
        iou: float | None = None,
        reid: Model | None = None,
        tracker_options: dict[str, Any] | None = None,
        **video: Any,
    ) -> Generator[Prediction, None, None]:
        """Follow objects through a video: each frame with its `Detections`, which `tracker_id` numbers.

        source: a path, an address, a camera's number, a list of these, or an opened `eyas.video.VideoSource` or
        `VideoSources`, which stays open. video: settings of `eyas.video.open_video`. Others: see
        `eyas.tracking.follow.follow`. Raises OptionError at once; SourceError at the first frame.
        """
        from eyas.tracking.follow import track  # neither trackers nor video before they are asked for

        return track(
            self, source, video, tracker=tracker, conf=conf, iou=iou, reid=reid, tracker_options=tracker_options
        )

    def thresholds(self, conf: float, iou: float | None = None) -> tuple[float, float]:
        """Both, checked; the card's iou where none is given. Raises OptionError."""
        iou = self.card.iou if iou is None else iou
        for name, value in (("conf", conf), ("iou", iou)):
            if not isinstance(value, _NUMBERS) or not 0 <= value <= 1:
                raise OptionError(problem(f"{name} is out of range", got=value, expected="a number 0 to 1", remedy=""))
        return float(conf), float(iou)

    def close(self, *, drain: bool = True) -> None:
        """End the threads and free the engines; what was submitted is finished first, or cancelled (drain=False).

        Afterwards a stream that goes on raises EyasError. Not to be called from a future's callback.
        """
        with self._lock:
            self._closed = True
        _close_all(self._lanes, self._spare, drain)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def __reduce__(self) -> Any:
        remedy = "Send the model's name or path instead, and call eyas.load in each process."
        raise TypeError(problem("a model cannot be sent to another process", got=self, expected="", remedy=remedy))


def _close_all(lanes: dict[Hint, _Lane], spare: list[Engine], drain: bool) -> None:
    """Close every lane, and an engine that was never used."""
    while spare:
        spare.pop().close()
    while lanes:
        lanes.popitem()[1].close(drain)


def _one(source: Any, verb: str) -> Picture:
    """The one picture that a source names. Raises SourceError for a folder, a glob or a list."""
    if not is_single(source):
        raise SourceError(
            problem(
                f"{verb} takes one picture",
                got=f"the folder or glob {source}" if isinstance(source, (str, PathLike)) else type(source).__name__,
                expected="a file, bytes, an array or a Frame",
                remedy=f"predict([{str(source)!r}]) goes through it, one result at a time.",
            )
        )
    return only_picture(source)


def _each(outcomes: Generator[Any, None, None]) -> Iterator[Result]:
    with closing(outcomes):  # at an error too, before it is handled
        for outcome in outcomes:
            if isinstance(outcome, Prediction):  # one that could not be read
                raise cast(SourceError, outcome.error)
            yield outcome


def _prediction(source_id: str, future: Pending[Any]) -> Any:
    """What became of a picture; one that could not be read carries its error, anything else is raised."""
    try:
        return future.result()
    except SourceError as error:
        return Prediction(source_id, error=error)
