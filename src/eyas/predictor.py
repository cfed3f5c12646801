"""READ FIRST: from a model's name to results. `load` compiles; `Model.stream` is the run flow, in order:

    sources ─► Picture ─► load (decode) ─► letterbox into a slot ─► engine ─► outputs ─► result
               in order   └────────────── one job, on one of a few threads ─────────────────┘

A job does everything for one group of pictures; as many jobs run side by side as the engine has streams, and one
more, so that a picture is being decoded while others are on the device. Results come out in order.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from eyas.backends import Engine, Feeds, choose
from eyas.build import deploy_graph, open_network
from eyas.card import class_ids
from eyas.engines.build import Recipe
from eyas.engines.cache import open_cached
from eyas.engines.open import is_engine, open_file
from eyas.errors import EyasError, OptionError, SourceError, problem
from eyas.graph.head import HeadSpec
from eyas.graph.surgery import IMAGES, THRESHOLDS
from eyas.imagefile import MAX_PIXELS
from eyas.letterbox import Letterbox, prepare
from eyas.outputs import Outputs, is_full, result_of
from eyas.results import Prediction, Result
from eyas.source import Picture, is_single, pictures
from eyas.types import BuildSpec, Frame, Image, ModelCard

log = logging.getLogger("eyas")
CONFIDENCE = 0.25
Precision = Literal["auto", "fp32", "fp16", "bf16"]
Hint = Literal["latency", "throughput"]
Single = str | PathLike[str] | bytes | Image | Frame


def load(
    model: str | PathLike[str] = "nanodet",
    *,
    backend: str | None = None,
    precision: Precision = "auto",
    device: str | None = None,
    batch: int = 1,
    hint: Hint | None = None,
    options: dict[str, Any] | None = None,
    family: str | None = None,
    names: Sequence[str] | None = None,
    imgsz: int | tuple[int, int] | None = None,
    card: str | PathLike[str] | None = None,
    max_det: int = 300,
    classes: Sequence[int | str] | int | str | None = None,
    agnostic_nms: bool = False,
    multi_label: bool = False,
    trust: bool = False,
    rebuild: bool = True,
) -> Model:
    """Open a model by name ("nanodet" is bundled, `eyas models` lists more) or an ONNX file, ready to predict.

    Or a built engine (`eyas build`), whose backend, card and batch are settled; it takes device, trust and rebuild
    only (see `eyas.engines.open.open_file`).

    backend: "openvino", "onnxruntime" …; None for the best one here. precision, device, options: see `BuildSpec`.
    batch: pictures a call in `stream`. hint: None compiles for latency in `predict` of one picture and for
    throughput in `stream`; naming one compiles once, for both. imgsz: another input size than the file's, one side or
    (height, width). family, names, card (a JSON file): what the network is, where its file does not say.
    max_det: the most objects a picture. classes: only this one or these, by id or name. agnostic_nms: a box may
    suppress one of another class. multi_label: a cell may report every class that passes, not only its best (for
    evaluation).
    Raises ModelError, CardError, OptionError or BackendError.
    """
    if is_engine(Path(model)):
        asked: dict[str, Any] = {"backend": backend, "family": family, "names": names, "imgsz": imgsz, "card": card}
        asked |= {"precision": precision != "auto", "batch": batch != 1, "options": options, "classes": classes}
        asked |= {"max_det": max_det != 300, "agnostic_nms": agnostic_nms, "multi_label": multi_label}
        return _built(Path(model), [name for name, value in asked.items() if value], device, trust, rebuild)
    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    network = open_network(
        os.fspath(model),
        family_name=family,
        names=tuple(names) if names is not None else None,
        size=size,
        card=Path(card) if card else None,
        batch=batch,
    )
    head = HeadSpec(max_det, class_ids(classes, network.card.names), agnostic_nms, multi_label)
    spec = BuildSpec(precision, (1, batch, batch), device=device, options=options or {})
    if network.facts.batch and network.facts.batch != batch:
        log.warning("the model's batch is fixed to %d: it runs %d at a time", *[network.facts.batch] * 2)
    return Model(network.card, deploy_graph(network, head), head, spec, backend, hint, network.digest)


def _built(path: Path, asked: list[str], device: str | None, trust: bool, rebuild: bool) -> Model:
    """A model around an engine file."""
    if asked:
        raise OptionError(
            problem(
                f"{path} is a built engine",
                got=", ".join(asked),
                expected="only what can still be chosen: device, trust, rebuild, conf, iou",
                remedy="Build another engine with these (`eyas build`).",
            )
        )
    found = open_file(path, trust=trust, rebuild=rebuild, device=device)
    model = Model(
        found.card, found.graph, found.head, found.spec, found.backend, found.spec.hint, found.digest, found.engine
    )
    log.info("engine %s: %s", path, found.engine.description)
    return model


class Model:
    """A network on a backend. Safe to use from several threads; a context manager that frees its engines."""

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
    ) -> None:
        """Use `load`. graph: a deploy graph of `card` and `head`; its engines are built on first use.

        digest: fingerprint of the network. engine: one that is ready, for the way of use that `hint` names.
        """
        self.card, self.digest = card, digest
        self.backend, self._backend = choose(backend)
        self._graph, self._head, self._spec, self._hint = graph, head, spec, hint
        self._inputs = [i.name for i in graph.graph.input]
        self._engines: dict[Hint, Engine] = {hint: engine} if hint and engine else {}
        self._lock = threading.Lock()
        self._said_full = False
        self._closed = False
        self._running = 0
        self._idle = threading.Condition()  # guards _running; not _lock, which is held while an engine compiles

    def engine(self, hint: Hint = "latency") -> Engine:
        """The engine for one way of use, compiled on first call."""
        hint = self._hint or hint
        with self._lock:
            self._check_open()
            if hint not in self._engines:
                spec = replace(self._spec, hint=hint)
                recipe = Recipe(self.backend, self._backend, self._graph, self._head, spec, digest=self.digest)
                self._engines[hint] = open_cached(recipe)
                log.info("engine for %s: %s", hint, self._engines[hint].description)
            return self._engines[hint]

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
        if is_single(source):
            (picture,) = pictures(source)
            return self._predict_one(picture, self._thresholds(conf, iou))
        if isinstance(source, (str, PathLike)):
            raise SourceError(
                problem(
                    "predict takes one picture, or a list",
                    got=f"the folder or glob {source}",
                    expected="a file, or a list of sources",
                    remedy=f"predict([{str(source)!r}]) goes through it, one result at a time.",
                )
            )
        return _each(self.stream(source, conf=conf, iou=iou))

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
        return self.stream_pictures(pictures(sources, max_pixels), conf=conf, iou=iou)

    def stream_pictures(
        self, items: Iterable[Picture], *, conf: float = CONFIDENCE, iou: float | None = None
    ) -> Generator[Prediction, None, None]:
        """`stream` over pictures that are already listed (`eyas.source.pictures`)."""
        return self._stream(items, self._thresholds(conf, iou))

    def _stream(self, items: Iterable[Picture], limits: NDArray[np.float32]) -> Generator[Prediction, None, None]:
        engine = self.engine("throughput")
        workers = engine.parallel + 1
        slots = threading.local()
        waiting: deque[Future[list[Prediction]]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="eyas") as pool:
            try:
                for group in _groups(items, self._spec.batch[1]):
                    waiting.append(pool.submit(self._job, engine, group, limits, slots))
                    while waiting and (waiting[0].done() or len(waiting) >= 2 * workers):
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _predict_one(self, picture: Picture, limits: NDArray[np.float32]) -> Result:
        (prediction,) = self._job(self.engine("latency"), [picture], limits, threading.local())
        return _result(prediction)

    def _job(
        self, engine: Engine, group: Sequence[Picture], limits: NDArray[np.float32], slots: threading.local
    ) -> list[Prediction]:
        """Everything for one group of pictures. slots: where this thread keeps its input buffer between jobs."""
        if not hasattr(slots, "images"):
            slots.images = np.empty((max(len(group), self._spec.batch[1]), *self.card.input_size, 3), np.uint8)
        done: list[Prediction] = []
        boxes: list[Letterbox] = []
        for picture in group:
            try:
                frame = picture.load()
            except EyasError as error:
                done.append(Prediction(picture.source_id, error=error))
                continue
            boxes.append(prepare(frame.image, self.card, slots.images[len(boxes)]))
            done.append(Prediction(picture.source_id, frame))
        if not boxes:
            return done
        outputs = self._infer(engine, slots.images[: len(boxes)], np.repeat(limits, len(boxes), axis=0))
        conf, iou = limits[0].tolist()
        if any(is_full(outputs, i, conf) for i in range(len(boxes))):
            self._say_full()
        results = iter([result_of(self.card, self._head, outputs, i, box, iou) for i, box in enumerate(boxes)])
        return [p if p.error else replace(p, result=next(results)) for p in done]

    def _infer(self, engine: Engine, images: Image, limits: NDArray[np.float32]) -> Outputs:
        """One call that `close` waits for; none begins on a closed model, whose engine could hang or crash."""
        with self._idle:
            self._check_open()
            self._running += 1
        try:
            feeds: Feeds = {IMAGES: images, THRESHOLDS: limits}
            return engine.infer({name: feeds[name] for name in self._inputs})
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise EyasError("the model is closed: load it again, or keep it open (`with eyas.load(…) as model`)")

    def _say_full(self) -> None:
        """Once a model. Evaluation takes every class of every cell down to scores that mean nothing: no news there."""
        if not self._said_full and not self._head.multi_label:
            self._said_full = True
            log.warning(
                "a picture has more than %d candidates; the weakest were left out: raise --max-det or --conf",
                self._head.max_candidates,
            )

    def _thresholds(self, conf: float, iou: float | None) -> NDArray[np.float32]:
        values = {"conf": conf, "iou": self.card.iou if iou is None else iou}
        for name, value in values.items():
            if not isinstance(value, (int, float, np.integer, np.floating)) or not 0 <= value <= 1:
                raise OptionError(problem(f"{name} is out of range", got=value, expected="a number 0 to 1", remedy=""))
        return np.array([list(values.values())], np.float32)

    def close(self) -> None:
        """Free the engines; calls under way finish first, and a stream that goes on raises EyasError."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._running)
        with self._lock:
            while self._engines:
                self._engines.popitem()[1].close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _each(predictions: Generator[Prediction, None, None]) -> Iterator[Result]:
    with closing(predictions):  # at an error too, before it is handled
        for prediction in predictions:
            yield _result(prediction)


def _result(prediction: Prediction) -> Result:
    if prediction.error:
        raise prediction.error
    assert prediction.result is not None  # noqa: S101 - a prediction holds one or the other
    return prediction.result


def _groups(items: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
