"""One model after another: what the first finds is cut out and given to the second, many pictures at a time.

predictions ─► crop ─► submit each piece to the model ─► join ─► Prediction
of the first           └─ the pieces of `ahead` pictures wait together, and share the model's batches
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from eyas.card import class_ids
from eyas.errors import OptionError, problem
from eyas.nms import box_iou
from eyas.predictor import CONFIDENCE, Model
from eyas.results import Detections, Floats, Prediction, Result
from eyas.types import Frame, Image

AHEAD = 16  # pictures: each holds its frame in memory
FARTHEST = 1 << 30  # pixels; no picture is larger

Crop = Callable[[Frame, Detections], Sequence[Image]]
Join = Callable[[Detections, list[Result]], Result]
_Going = tuple[Prediction, list[Future[Result]]]


@overload
def cascade(
    predictions: Iterable[Prediction], model: Model, crop: Crop, join: Join, *, conf: float = ..., ahead: int = ...
) -> Generator[Prediction, None, None]: ...


@overload
def cascade(
    predictions: Iterable[Prediction | None],
    model: Model,
    crop: Crop,
    join: Join,
    *,
    conf: float = ...,
    ahead: int = ...,
) -> Generator[Prediction | None, None, None]: ...


def cascade(
    predictions: Iterable[Prediction | None],
    model: Model,
    crop: Crop,
    join: Join,
    *,
    conf: float = CONFIDENCE,
    ahead: int = AHEAD,
) -> Generator[Any, None, None]:
    """Run `model` on the pieces of what another model found; predictions in order, with `join`'s results.

    predictions: of a model that finds objects (`Model.stream`, or another cascade). Those with an error, and those
    without objects, pass through unchanged; if it is a generator, it is closed at the end. At a None of a source that
    pauses (`Model.pulses`), what is done is handed over, then None.
    crop(frame, detections): the pieces of one picture, uint8 [h, w, 3] BGR, lent to the model until they are done.
    join(detections, results): the picture's final result; the results are in the order of the pieces.
    conf: of `model`, 0…1. ahead: the most pictures that wait for `model` at a time; 1 is one after the other.

    What crop, join or either model raises comes at its picture's turn and ends the stream. A full queue is waited for,
    whatever the model's rule. Leaving early cancels what waits. Raises OptionError for `ahead`.
    """
    if not isinstance(ahead, int) or ahead < 1:
        remedy = f"The default is {AHEAD}."
        raise OptionError(problem("ahead is wrong", got=repr(ahead), expected="a whole number from 1", remedy=remedy))
    return _cascade(_begin(predictions, model, crop, conf), join, ahead)


def _cascade(
    begun: Generator[_Going | None, None, None], join: Join, ahead: int
) -> Generator[Prediction | None, None, None]:
    going: deque[_Going] = deque()
    with closing(begun):
        try:
            for picture in begun:
                if picture is not None:
                    going.append(picture)
                while going and (len(going) >= ahead or all(future.done() for future in going[0][1])):
                    yield _finish(going, join)
                if picture is None:
                    yield None
            while going:
                yield _finish(going, join)
        finally:
            for _, futures in going:
                _cancel(futures)


def _begin(
    predictions: Iterable[Prediction | None], model: Model, crop: Crop, conf: float
) -> Generator[_Going | None, None, None]:
    """Each picture with its pieces' futures. What is raised becomes the future of one more, to come at its turn."""
    try:
        for prediction in predictions:
            yield None if prediction is None else (prediction, _submit(prediction, model, crop, conf))
    except Exception as error:
        failed: Future[Result] = Future()
        failed.set_exception(error)
        yield Prediction(""), [failed]
    finally:
        if isinstance(predictions, Generator):
            predictions.close()


def _submit(prediction: Prediction, model: Model, crop: Crop, conf: float) -> list[Future[Result]]:
    futures: list[Future[Result]] = []
    if prediction.frame is not None and prediction.detections:
        try:
            for piece in crop(prediction.frame, prediction.detections):
                futures.append(model.submit(piece, conf=conf, full="block"))
        except BaseException:
            _cancel(futures)
            raise
    return futures


def _finish(going: deque[_Going], join: Join) -> Prediction:
    """Wait for the oldest picture; it stays in `going` where that, or `join`, raises."""
    prediction, futures = going[0]
    results = [future.result() for future in futures]
    if prediction.detections:
        prediction = replace(prediction, result=join(prediction.detections, results))
    going.popleft()
    return prediction


def _cancel(futures: Iterable[Future[Result]]) -> None:
    for future in futures:
        future.cancel()


def poses(classes: Sequence[int | str] | int | str | None = None, margin: float = 0.1) -> tuple[Crop, Join]:
    """`crop` and `join` for a pose model: `cascade(detector.stream(…), pose, *poses("person"))`.

    classes: whose boxes are cut out, by name or id; None for all. margin: by how much of its width and height a box
    grows on each side, 0…1. Pieces are views of the picture; those of boxes without area are left out.

    The detections get `keypoints` float32 [N, P, 3] in source pixels: of the person in the piece whose box overlaps
    the detector's most. Where the pose model found nobody, and for other classes, all three numbers are 0, which is
    COCO's "not labelled". `keypoints` stays None in a picture from which nothing was cut.
    Raises OptionError here for the margin; in the stream for an unknown class, and for a model without key points.
    """
    if not isinstance(margin, (int, float)) or not 0 <= margin <= 1:
        raise OptionError(problem("the margin is wrong", got=repr(margin), expected="a number 0 to 1", remedy=""))

    def crop(frame: Frame, found: Detections) -> list[Image]:
        height, width = frame.size
        _, boxes = _cuts(found, classes, margin)
        low, high = boxes[:, :2].clip(0, (width - 1, height - 1)), boxes[:, 2:].clip(1, (width, height))
        pixels = frame.pixels
        return [pixels[y1:y2, x1:x2] for (x1, y1), (x2, y2) in zip(low.tolist(), high.tolist(), strict=True)]

    def join(found: Detections, results: list[Result]) -> Detections:
        rows, boxes = _cuts(found, classes, margin)
        persons = [_persons(result) for result in results]
        if not persons:
            return found
        keypoints = np.zeros((len(found), persons[0][1].shape[1], 3), np.float32)
        for row, (x, y), (xyxy, points) in zip(rows.tolist(), boxes[:, :2].tolist(), persons, strict=True):
            overlaps = box_iou(found.xyxy[row] - (x, y, x, y), xyxy)
            if overlaps.any():
                keypoints[row] = points[overlaps.argmax()] + (x, y, 0)
        return replace(found, keypoints=keypoints)

    return crop, join


def _cuts(
    found: Detections, classes: Sequence[int | str] | int | str | None, margin: float
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """The rows [K] to cut out and their boxes [K, 4] with the margin, whole pixels rounded outwards.

    Clipped to the picture but for its far edges, which are not known here.
    """
    wanted = class_ids(classes, found.names)
    sides = found.xyxy[:, 2:] - found.xyxy[:, :2]
    chosen = np.isfinite(found.xyxy).all(axis=1) & (sides > 0).all(axis=1)
    if wanted is not None:
        chosen &= np.isin(found.class_id, wanted)
    rows = np.flatnonzero(chosen)
    grown = found.xyxy[rows] + margin * np.hstack([-sides[rows], sides[rows]])
    low, high = np.floor(grown[:, :2]).clip(0, FARTHEST), np.ceil(grown[:, 2:]).clip(0, FARTHEST)
    return rows, np.hstack([low, np.maximum(high, low + 1)]).astype(np.int64)


def _persons(result: Result) -> tuple[Floats, Floats]:
    """Boxes [n, 4] and key points [n, P, 3] of one piece."""
    if isinstance(result, Detections) and result.keypoints is not None:
        return result.xyxy, result.keypoints
    got = "objects" if isinstance(result, Detections) else type(result).__name__
    remedy = "`eyas info MODEL` says what a model is taken for."
    raise OptionError(problem("the second model finds no key points", got=got, expected="a pose model", remedy=remedy))
