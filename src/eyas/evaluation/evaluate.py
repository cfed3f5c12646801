"""Run a detector over labelled pictures and say how good it is.

with open_for_evaluation("nanodet") as model:
    data = open_dataset(Path("coco/annotations/instances_val2017.json"))
    report = evaluate(model, data, map_classes(model.card.names, data)).report()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from eyas.errors import OptionError, problem
from eyas.evaluation import metrics
from eyas.evaluation.classmap import ClassMap
from eyas.evaluation.dataset import Dataset
from eyas.evaluation.metrics import Found, Truth

if TYPE_CHECKING:
    from eyas.predictor import Model
    from eyas.results import Detections, Prediction

CONF = 0.001  # low enough that the curves end where nothing more is to be won
MOST_CANDIDATES = 30_000  # a picture, before NMS
BEST = 100  # detections a picture that are scored, as in COCO's evaluation
MATCH_IOU = 0.5
CONFUSION = {"conf": 0.25, "iou": 0.45}
STEPS = np.linspace(0, 1, 101)
Watch = Callable[["Iterator[Prediction]"], "Iterator[Prediction]"]


def open_for_evaluation(model: str, **options: Any) -> Model:
    """Open a model so that nothing that could count is left out. options: as for `eyas.load`. Raises OptionError."""
    from eyas.loading import load

    opened = load(model, max_det=MOST_CANDIDATES, multi_label=True, **options)
    if opened.card.task in ("classify", "embed"):
        raise OptionError(
            problem(
                f"{model} finds no objects",
                got=f"family {opened.card.family}, task {opened.card.task}",
                expected="a model that gives boxes",
                remedy="`eyas faces val` measures face embedders.",
            )
        )
    return opened


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out. images: numbers of the pictures in `data` that were evaluated, in order; `truth` and `found` count
    these from 0. failed: (path, why) of the others. resized: pictures that are not the size their labels say."""

    data: Dataset
    classes: ClassMap
    images: tuple[int, ...]
    truth: Truth
    found: Found
    failed: tuple[tuple[str, str], ...]
    resized: int
    seconds: float

    @cached_property
    def coco(self) -> metrics.CocoScores:
        """COCO's tables."""
        return metrics.coco_scores(self.truth, self.found, len(self.images), len(self.classes.names))

    @cached_property
    def matches(self) -> metrics.Matches:
        """Which detections are right at IoU .5."""
        return metrics.match(self.truth, self.found, MATCH_IOU)

    @cached_property
    def best_confidence(self) -> float:
        """The confidence threshold with the best F1."""
        score, hit, objects = self._counted()
        return metrics.best_confidence(score, hit, objects)

    def curve(self, confidence: metrics.Floats = STEPS, cls: int | None = None) -> metrics.Curve:
        """Precision, recall and F1 over the confidence threshold, of all classes together or of one."""
        return metrics.curve(*self._counted(cls), confidence)

    @cached_property
    def confusion(self) -> metrics.Ints:
        """[classes + 1, classes + 1]: see `metrics.confusion`."""
        return metrics.confusion(self.truth, self.found, len(self.classes.names), **CONFUSION)

    def _counted(self, cls: int | None = None) -> tuple[metrics.Floats, Any, int]:
        """(scores, right or not) of the detections that count, and the number of objects."""
        rows, objects = ~self.matches.ignored, ~self.truth.crowd
        if cls is not None:
            rows, objects = rows & (self.found.cls == cls), objects & (self.truth.cls == cls)
        return self.found.score[rows], self.matches.hit[rows], int(objects.sum())

    def errors_by_image(self) -> tuple[metrics.Ints, metrics.Ints]:
        """(missed objects, false detections), int64 [images] each, at the best-F1 confidence."""
        m, t, f = self.matches, self.truth, self.found
        missed = t.image[~t.crowd & (m.by <= self.best_confidence)]
        false = f.image[~m.hit & ~m.ignored & (f.score > self.best_confidence)]
        count = len(self.images)
        return np.bincount(missed, minlength=count), np.bincount(false, minlength=count)

    def report(self) -> dict[str, Any]:
        """All figures as plain JSON values, 0…1; None where there is no object to measure on."""
        t, coco = self.truth, self.coco
        best = self.curve(np.array([self.best_confidence]))
        return {
            "mAP50-95": coco.ap(),
            "mAP50": coco.ap(iou=50),
            "mAP75": coco.ap(iou=75),
            **{f"mAP_{area}": coco.ap(area=area) for area in metrics.AREAS[1:]},
            **{f"AR{most}": coco.ar(most) for most in metrics.MOST},
            **{f"AR_{area}": coco.ar(area=area) for area in metrics.AREAS[1:]},
            "best_f1": float(best.f1[0]),
            "best_f1_confidence": self.best_confidence,
            "precision": _plain(best.precision)[0],
            "recall": float(best.recall[0]),
            "images": len(self.images),
            "instances": int((~t.crowd).sum()),
            "crowds": int(t.crowd.sum()),
            "seconds": round(self.seconds, 2),
            "classes": [self._class(i) for i in range(len(self.classes.names)) if (~t.crowd & (t.cls == i)).any()],
            "only_in_model": list(self.classes.only_model),
            "only_in_data": dict(self.classes.only_data),
            "failed": [{"path": path, "error": why} for path, why in self.failed],
            "other_size": self.resized,
            "remarks": list(self.data.remarks),
            "confusion": {
                **CONFUSION,
                "rows": "true",
                "columns": "found",
                "names": [*self.classes.names, "background"],
                "matrix": self.confusion.tolist(),
            },
            "curve": {k: _plain(getattr(self.curve(), k).round(4)) for k in metrics.Curve.__slots__},
        }

    def _class(self, cls: int) -> dict[str, Any]:
        rows = ~self.truth.crowd & (self.truth.cls == cls)
        at = self.curve(np.array([self.best_confidence]), cls)
        return {
            "name": self.classes.names[cls],
            "images": len(np.unique(self.truth.image[rows])),
            "instances": int(rows.sum()),
            "mAP50-95": self.coco.ap(cls),
            "mAP50": self.coco.ap(cls, 50),
            "mAP75": self.coco.ap(cls, 75),
            "precision": _plain(at.precision)[0],
            "recall": float(at.recall[0]),
            "f1": float(at.f1[0]),
        }

    def results(self) -> list[dict[str, Any]]:
        """COCO's results format, with the data's own image and category ids; unrounded, so that other tools agree."""
        f, ids = self.found, self.classes.category_ids
        rows = zip(f.image.tolist(), f.cls.tolist(), f.xywh.tolist(), f.score.tolist(), strict=True)
        return [
            {"image_id": self.data.images[self.images[i]].id, "category_id": ids[c], "bbox": box, "score": score}
            for i, c, box, score in rows
        ]


def evaluate(
    model: Model,
    data: Dataset,
    classes: ClassMap,
    *,
    conf: float = CONF,
    iou: float | None = None,
    watch: Watch = lambda predictions: predictions,
) -> Evaluation:
    """Predict every picture and keep what is needed to judge it. classes: see `map_classes`.

    conf, iou: as for `Model.predict`; a higher conf than the default cuts the curves short and lowers AP. watch: wraps
    the predictions as they come (a progress bar). Pictures that cannot be read are in `failed` and left out of every
    figure.
    """
    start = time.perf_counter()
    paths = [str(image.path) for image in data.images]
    images: list[int] = []
    tables: list[metrics.Floats] = []
    failed: list[tuple[str, str]] = []
    resized = 0
    for i, prediction in enumerate(watch(model.stream(paths, conf=conf, iou=iou))):
        if prediction.frame is None or prediction.detections is None:
            failed.append((prediction.source_id, str(prediction.error)))
            continue
        said = (data.images[i].height, data.images[i].width)
        resized += prediction.frame.size != said
        tables.append(_best(prediction.detections, classes, len(images)))
        images.append(i)
    table = np.concatenate([np.zeros((0, 7)), *tables])
    found = Found(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:6], table[:, 6])
    seconds = time.perf_counter() - start
    truth = truth_of(data, classes, images)
    return Evaluation(data, classes, tuple(images), truth, found, tuple(failed), resized, seconds)


def _best(detections: Detections, classes: ClassMap, image: int) -> metrics.Floats:
    """[n ≤ BEST, 7]: image, class, x, y, w, h, score of the best detections of the classes that are evaluated."""
    number = np.array([classes.of_model.get(i, -1) for i in range(len(detections.names))], np.int64)
    cls = number[detections.class_id]
    rows = np.flatnonzero(cls >= 0)
    rows = rows[np.argsort(-detections.confidence[rows], kind="stable")][:BEST]
    low, high = np.split(detections.xyxy[rows].astype(np.float64), 2, axis=1)
    return np.column_stack([np.full(len(rows), image), cls[rows], low, high - low, detections.confidence[rows]])


def _plain(values: metrics.Floats) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [None if np.isnan(v) else v for v in values.tolist()]


def truth_of(data: Dataset, classes: ClassMap, images: list[int]) -> Truth:
    """The objects of the chosen pictures and classes, as arrays."""
    place = {image: n for n, image in enumerate(images)}
    rows = [
        (place[label.image], classes.of_data[label.category_id], *label.xywh, label.area, label.iscrowd)
        for label in data.labels
        if label.image in place and label.category_id in classes.of_data
    ]
    table = np.array(sorted(rows, key=lambda row: row[0]), np.float64).reshape(-1, 8)
    whole = table[:, :2].astype(np.int64)
    return Truth(whole[:, 0], whole[:, 1], table[:, 2:6], table[:, 6], table[:, 7].astype(np.bool_))
