"""What detections are worth against labels: COCO's precision and recall, one-to-one matches, curves, confusions.

AP and AR are COCO's, computed by faster-coco-eval. The rest is for one confidence threshold at a time, as detectors
are used: precision = right / (right + false), recall = right / all objects, F1 their harmonic mean, all classes and
pictures counted together, so that each object weighs the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.extras import need

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
AREAS = ("all", "small", "medium", "large")  # of the object, in COCO's bounds: 32² and 96² square pixels
MOST = (1, 10, 100)  # detections a picture and class that count


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Labelled objects as aligned arrays: image and cls int64 [M], xywh float64 [M, 4], area float64 [M], crowd
    bool [M] (see `dataset.Label`). image: number of the picture; rows sorted by it. cls: number of the class."""

    image: Ints
    cls: Ints
    xywh: Floats
    area: Floats
    crowd: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Detections as aligned arrays: image and cls int64 [N], xywh float64 [N, 4], score float64 [N], 0…1; rows sorted
    by image and, within one, by falling score."""

    image: Ints
    cls: Ints
    xywh: Floats
    score: Floats


@dataclass(frozen=True, slots=True, eq=False)
class CocoScores:
    """COCO's own tables; −1 where there is no object.

    precision: float64 [10 IoU, 101 recall, classes, 4 areas, 3 most].
    recall: float64 [10 IoU, classes, 4 areas, 3 most].
    """

    precision: Floats
    recall: Floats

    def ap(self, cls: int | None = None, iou: int | None = None, area: str = "all") -> float | None:
        """Average precision, 0…1, at 100 detections. cls: one class, None for the mean of all. iou: 50, 75 …, or None
        for the mean of 50, 55 … 95. area: one of AREAS. None where there is no object."""
        table = self.precision[:, :, :, AREAS.index(area), -1]
        table = table if iou is None else table[[(iou - 50) // 5]]
        return _mean(table if cls is None else table[:, :, cls])

    def ar(self, most: int = 100, area: str = "all") -> float | None:
        """Average recall, 0…1, with so many detections (one of MOST). None where there is no object."""
        return _mean(self.recall[:, :, AREAS.index(area), MOST.index(most)])


def _mean(table: Floats) -> float | None:
    valid = table[table > -1]
    return float(valid.mean()) if valid.size else None


def coco_scores(truth: Truth, found: Found, images: int, classes: int) -> CocoScores:
    """COCO's evaluation of boxes. images, classes: how many there are. Raises EyasError without the extra `val`."""
    api = need("faster_coco_eval", "val")
    boxes = [
        {"image_id": i, "category_id": c, "bbox": b, "area": a, "iscrowd": int(k)}
        for i, c, b, a, k in _rows(truth.image, truth.cls, truth.xywh, truth.area, truth.crowd)
    ]
    results = [
        {"image_id": i, "category_id": c, "bbox": b, "score": s, "area": b[2] * b[3], "iscrowd": 0}
        for i, c, b, s in _rows(found.image, found.cls, found.xywh, found.score)
    ]
    run = api.COCOeval_faster(
        *(_indexed(api, rows, images, classes) for rows in (boxes, results)), "bbox", print_function=lambda *_: None
    )
    run.evaluate()
    run.accumulate()
    tables = (np.asarray(run.eval[key], np.float64) for key in ("precision", "recall"))
    return CocoScores(*tables)


def _rows(*columns: NDArray[Any]) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)


def _indexed(api: Any, rows: list[dict[str, Any]], images: int, classes: int) -> Any:
    for i, row in enumerate(rows, 1):  # from 1: COCO's evaluation takes an object's id 0 for "not matched"
        row["id"] = i
    coco = api.COCO(print_function=lambda *_: None)
    coco.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": i, "name": str(i)} for i in range(classes)],
        "annotations": rows,
    }
    coco.createIndex()
    return coco


def overlaps(a: Floats, b: Floats, crowd: NDArray[np.bool_]) -> Floats:
    """IoU [N, M] of boxes a [N, 4] with b [M, 4], all x y w h; with a crowd, the share of the box of a inside it."""
    low = np.maximum(a[:, None, :2], b[:, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[:, :2] + b[:, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    own, other = a[:, 2:].prod(axis=1)[:, None], b[:, 2:].prod(axis=1)
    union = np.where(crowd, own, own + other - shared)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """hit bool [N]: the detection is right. ignored bool [N]: it lies in a crowd, so it is neither. by float64 [M]:
    score of the detection that found this object, −inf where none did. What holds at a confidence threshold c holds
    for the rows that score above c, since better detections choose first."""

    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    by: Floats


def match(truth: Truth, found: Found, iou: float = 0.5) -> Matches:
    """Pair detections with objects of their class as COCO does: in order of score, each takes the free object that it
    overlaps most, if by `iou` or more."""
    hit, ignored = np.zeros(len(found.score), np.bool_), np.zeros(len(found.score), np.bool_)
    by = np.full(len(truth.cls), -np.inf)
    for mine, theirs in _by_image(found, truth):
        for cls in np.intersect1d(found.cls[mine], truth.cls[theirs]).tolist():
            rows = mine[found.cls[mine] == cls]
            objects = theirs[truth.cls[theirs] == cls]
            table = overlaps(found.xywh[rows], truth.xywh[objects], truth.crowd[objects])
            table[table < iou] = 0
            crowd = truth.crowd[objects]
            for row, shares in zip(rows.tolist(), table, strict=True):
                free = np.where(crowd | (by[objects] > -np.inf), 0, shares)
                if free.any():
                    hit[row], by[objects[free.argmax()]] = True, found.score[row]
                else:
                    ignored[row] = shares[crowd].any()
    return Matches(hit, ignored, by)


def _by_image(found: Found, truth: Truth) -> Iterator[tuple[Ints, Ints]]:
    """Row numbers of the detections and of the objects of each picture that has both."""
    for image in np.intersect1d(found.image, truth.image).tolist():
        yield _rows_of(found.image, image), _rows_of(truth.image, image)


def _rows_of(images: Ints, image: int) -> Ints:
    low, high = np.searchsorted(images, [image, image + 1])
    return np.arange(low, high)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """confidence, precision, recall, f1: float64 [n] each, by rising confidence; values 0…1, precision NaN
    where nothing is left."""

    confidence: Floats
    precision: Floats
    recall: Floats
    f1: Floats


def curve(score: Floats, hit: NDArray[np.bool_], objects: int, confidence: Floats) -> Curve:
    """Precision (NaN where nothing is left), recall and F1 of what scores above each `confidence`. score, hit: of the
    detections that count, in any order. objects: how many there are to find."""
    order = np.argsort(score)
    left = len(score) - np.searchsorted(score[order], confidence, side="right")
    right = np.concatenate([[0], np.cumsum(hit[order][::-1])])[left]
    precision = np.where(left > 0, right / np.maximum(left, 1), np.nan)
    f1 = 2 * right / np.maximum(left + objects, 1)  # = 2PR / (P + R)
    return Curve(confidence, precision, right / max(objects, 1), f1)


def best_confidence(score: Floats, hit: NDArray[np.bool_], objects: int) -> float:
    """The threshold with the best F1, half way between two scores; the highest such; 0 if nothing was found."""
    if not hit.any():
        return 0.0
    scores = np.unique(score)
    between = np.concatenate([[scores[0] / 2], (scores[:-1] + scores[1:]) / 2])
    f1 = curve(score, hit, objects, between).f1
    return float(between[len(f1) - 1 - f1[::-1].argmax()])


def confusion(truth: Truth, found: Found, classes: int, conf: float = 0.25, iou: float = 0.45) -> Ints:
    """How often each class is taken for each: int64 [classes + 1, classes + 1], row the true class, column the one
    found; the last of both is the background: column for objects that were missed, row for things that are not there.

    Of the detections that score above `conf`, pairs of any classes that overlap by `iou` or more are made one to one,
    the best overlap first. Detections in a crowd that pair with nothing are not counted.
    """
    table = np.zeros((classes + 1, classes + 1), np.int64)
    crowd, strong = truth.crowd, np.flatnonzero(found.score > conf)
    taken, used = np.zeros(len(truth.cls), np.bool_), np.zeros(len(found.cls), np.bool_)
    some = Found(found.image[strong], found.cls[strong], found.xywh[strong], found.score[strong])
    for mine, theirs in _by_image(some, truth):
        shares = overlaps(some.xywh[mine], truth.xywh[theirs], crowd[theirs])
        rows, objects = np.nonzero((shares >= iou) & ~crowd[theirs])
        for k in np.argsort(-shares[rows, objects], kind="stable").tolist():
            row, target = strong[mine[rows[k]]], theirs[objects[k]]
            if not used[row] and not taken[target]:
                used[row] = taken[target] = True
                table[truth.cls[target], found.cls[row]] += 1
        inside = ((shares >= iou) & crowd[theirs]).any(axis=1)
        used[strong[mine[inside]]] = True
    table[:-1, -1] = np.bincount(truth.cls[~taken & ~crowd], minlength=classes)
    table[-1, :-1] = np.bincount(found.cls[strong[~used[strong]]], minlength=classes)
    return table
