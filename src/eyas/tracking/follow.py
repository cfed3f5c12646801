"""Objects followed through videos: detector ─► (re-identification) ─► one tracker a stream ─► predictions with ids.

The frames of all streams share the detector's batches, and the boxes of all streams those of the re-identification.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas import trace
from eyas.cascading import cascade
from eyas.errors import OptionError, problem
from eyas.predictor import CONFIDENCE, Model
from eyas.pulses import picture_of
from eyas.results import Detections, Embedding, Prediction, Result
from eyas.source import Picture
from eyas.tracking import Tracker, open_tracker
from eyas.types import Frame, Image, decodes_on_gpu
from eyas.video import VideoSource, VideoSources, open_video, open_videos
from eyas.video.frames import epoch_of
from eyas.video.overlap import read_ahead
from eyas.video.target import LIST_SUFFIXES

WEAK = 0.1  # the confidence from which on detections can continue a track, for trackers that look at weak ones
LOOK_AT_WEAK = ("bytetrack", "botsort", "cbiou")
FASTEST = 240.0  # frames a second; a container that announces more has named its clock's rate, not its pictures'
Video = VideoSource | VideoSources
Source = str | os.PathLike[str] | int
Followed = Generator[Prediction, None, None]


def follow(
    model: Model,
    frames: Video | Iterable[Frame | None],
    *,
    tracker: str | None = "deepsort",
    conf: float | None = None,
    iou: float | None = None,
    reid: Model | None = None,
    tracker_options: Mapping[str, Any] | None = None,
    rates: Mapping[str, float] | None = None,
) -> Followed:
    """The frames in order, each with its objects, which `tracker_id` numbers. A frame that fails carries its error.

    frames: of one or more videos; None among them, from a source that pauses (`VideoSource.pulses`), lets what is done
    come out. Each `source_id` has a tracker of its own, whose ids count from 1. It is reset where
    a frame's `epoch` changes (a camera came back), and ids go on. A video that is given opened is not closed.
    tracker: one of `eyas.tracking.TRACKERS`; None leaves the objects without numbers, and all of them there.
    conf: None is 0.1 for trackers that look at weak detections (bytetrack, botsort, cbiou), else 0.25.
    iou: as for `Model.predict`. reid: a model of the task "embed", for deepsort; all boxes are cut out, and what it
    says of them is `embedding`. tracker_options: the tracker's own (docs/tracking.md).
    rates: frames a second by source_id; None takes those that an opened video announces.
    Raises OptionError, and EyasError without the extra `track`, at once.
    """
    options = dict(tracker_options or {})
    check(model, tracker, reid, options)
    if conf is None:
        conf = confidence_for(tracker)
    model.thresholds(conf, iou)
    if rates is None:
        rates = rates_of(frames) if isinstance(frames, Video) else {}
    return _follow(model, frames, tracker, conf, iou, reid, options, rates)


def track(
    model: Model, source: Video | Source | Iterable[Source], video: Mapping[str, Any], **settings: Any
) -> Followed:
    """Open what is not open yet, with the settings `video` of `open_video`, and follow; see `Model.track`."""
    names = ("tracker", "reid", "tracker_options")
    tracker, reid, options = (settings.get(name) for name in names)
    check(model, tracker, reid, dict(options or {}))
    check_decode(model, video)

    def run() -> Followed:
        with ExitStack() as stack:
            if isinstance(source, Video):
                opened = source
            else:
                opened = open_any(source, **video)
                stack.callback(opened.close)
            yield from stack.enter_context(closing(follow(model, opened, **settings)))

    return run()


def confidence_for(tracker: str | None) -> float:
    """From which confidence on a tracker is given detections, unless told otherwise."""
    return WEAK if tracker in LOOK_AT_WEAK else CONFIDENCE


def check(model: Model, tracker: str | None, reid: Model | None, options: Mapping[str, Any]) -> None:
    """Raise OptionError, or EyasError for a missing extra, where these cannot follow anything together."""
    wrong: tuple[str, str, str, str] | None = None
    if model.card.task in ("classify", "embed"):
        wrong = ("the model finds no objects", f"the task {model.card.task}", "a detector", "")
    elif tracker is None and options:
        wrong = ("there is no tracker to take options", ", ".join(options), "none", "Name a tracker.")
    elif reid is not None and tracker != "deepsort":
        wrong = ("re-identification has no use", f"the tracker {tracker}", "deepsort", "Other trackers go by boxes.")
    elif reid is not None and reid.card.task != "embed":
        remedy = "`eyas info MODEL` says what a model is taken for."
        wrong = ("this model does not re-identify", f"the task {reid.card.task}", "the task embed", remedy)
    if wrong:
        what, got, expected, remedy = wrong
        raise OptionError(problem(what, got=got, expected=expected, remedy=remedy))
    if tracker is not None:
        open_tracker(tracker, **options)


def check_decode(model: Model, video: Mapping[str, Any]) -> None:
    """Raise OptionError where settings of `open_video` leave frames on a GPU, and the model's engine is not on one."""
    if not decodes_on_gpu(video.get("decode", "host")):
        return
    from eyas.cuda.codec import nobody_to_decode_for
    from eyas.cuda.stages import DeviceStages

    if not isinstance(model.stages("throughput"), DeviceStages):
        raise nobody_to_decode_for(model.engine("throughput").description)


def open_any(source: Source | Iterable[Source], **settings: Any) -> Video:
    """One video, or those of a list or of a list file (.txt, .streams). settings: of `open_video`.

    Raises SourceError, and OptionError where a source is named twice: their tracks could not be told apart.
    """
    if isinstance(source, int) or (isinstance(source, (str, os.PathLike)) and not is_list(source)):
        return open_video(source, **settings)
    videos = open_videos(source, **settings)
    twice = [name for name, n in Counter(s.source_id for s in videos.sources).items() if n > 1]
    if twice:
        videos.close()
        expected, remedy = "each source once", "Its frames would be mixed up."
        raise OptionError(problem("a source is named twice", got=", ".join(twice), expected=expected, remedy=remedy))
    return videos


def is_list(source: Any) -> bool:
    """Whether it is the name of a list file."""
    named = isinstance(source, (str, os.PathLike)) and "://" not in os.fsdecode(source)
    return named and Path(os.fsdecode(source)).suffix.lower() in LIST_SUFFIXES


def sources_of(video: Video) -> tuple[VideoSource, ...]:
    """The one, or all of them."""
    return video.sources if isinstance(video, VideoSources) else (video,)


def rates_of(video: Video) -> dict[str, float]:
    """Frames a second by source_id, of the sources that announce a likely one."""
    rates = {s.source_id: float(s.rate) for s in sources_of(video) if s.rate}
    return {name: rate for name, rate in rates.items() if rate <= FASTEST}


def ahead_of(video: Video, frames: Iterable[Frame | None]) -> Generator[Frame | None, None, None]:
    """The frames (None where live ones pause), read ahead on a thread where all sources are files; others may block for
    as long as they like.

    To be closed before the video is.
    """
    files = all(s.path is not None and not s.live for s in sources_of(video))
    return read_ahead(frames) if files else (frame for frame in frames)


def _follow(
    model: Model,
    frames: Video | Iterable[Frame | None],
    tracker: str | None,
    conf: float,
    iou: float | None,
    reid: Model | None,
    options: Mapping[str, Any],
    rates: Mapping[str, float],
) -> Followed:
    trackers: dict[str, tuple[Tracker, int]] = {}  # by source_id, with the epoch that it is in
    with ExitStack() as stack:
        if isinstance(frames, Video):
            frames = stack.enter_context(closing(ahead_of(frames, frames.pulses())))
        found = model.pulses(_pictures(frames), conf=conf, iou=iou)
        if reid is not None:
            found = cascade(found, reid, _crop, _join)
        for prediction in stack.enter_context(closing(found)):
            if prediction is None:
                continue
            frame, objects = prediction.frame, prediction.detections
            if tracker is None or frame is None or objects is None:
                yield prediction
                continue
            source_id, epoch = prediction.source_id, epoch_of(frame)
            if source_id not in trackers:
                rate = {"frame_rate": rates[source_id]} if source_id in rates else {}
                trackers[source_id] = open_tracker(tracker, **rate | dict(options)), epoch
            own, last = trackers[source_id]
            if epoch != last:
                own.reset()
                trackers[source_id] = own, epoch
            with trace.span("track"):
                objects = own.update(objects, frame.pixels if own.looks else None, frame.pts_s)
            yield replace(prediction, result=objects)


def _pictures(frames: Iterable[Frame | None]) -> Iterator[Picture | None]:
    """The frames as they are: with the index that they have in their own source."""
    for frame in frames:
        yield None if frame is None else picture_of(frame)


def _crop(frame: Frame, found: Detections) -> list[Image]:
    """The boxes, cut out of the picture: views of at least one pixel."""
    image, (height, width) = frame.pixels, frame.size
    boxes = found.xyxy[_rows(found)]
    low = np.floor(boxes[:, :2]).clip(0, (width - 1, height - 1)).astype(np.int64)
    high = np.maximum(np.ceil(boxes[:, 2:]).clip(0, (width, height)).astype(np.int64), low + 1)
    return [image[y1:y2, x1:x2] for (x1, y1), (x2, y2) in zip(low.tolist(), high.tolist(), strict=True)]


def _join(found: Detections, results: list[Result]) -> Detections:
    """The embeddings, in the rows of the boxes that were cut out; NaN in others, which no tracker follows."""
    vectors = [result.vector for result in results if isinstance(result, Embedding)]
    if not vectors:
        return found
    embedding = np.full((len(found), len(vectors[0])), np.nan, np.float32)
    embedding[_rows(found)] = vectors
    return replace(found, embedding=embedding)


def _rows(found: Detections) -> NDArray[np.intp]:
    """Those whose box is finite and has an area."""
    finite = np.isfinite(found.xyxy).all(axis=1)
    return np.flatnonzero(finite & (found.xyxy[:, 2:] > found.xyxy[:, :2]).all(axis=1))
