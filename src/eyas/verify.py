"""Is an engine right, on the machine where it runs? Beside the fp32 network on real pictures, with a verdict.

Meant for engines that were built elsewhere or in a lower precision: a plan for a GPU says nothing about itself until
it has run. The reference is the deploy graph that the engine was built from, in fp32 on a backend that is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, OptionError, problem
from eyas.nms import box_iou
from eyas.predictor import Model
from eyas.results import Classification, Detections, Embedding, Result
from eyas.types import Frame

CONFIDENCE = 0.25
MARGIN = 0.05  # objects that score less above the threshold may fall on its other side
FOUND_IOU = 0.5  # a partner at all


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine must reach. found: share of the reference's objects that it finds, and of its own that the
    reference has. iou: that all but one in twenty pairs overlap by. score: that all but one in twenty scores or
    probabilities are within. cosine: of every embedding."""

    found: float = 0.98
    iou: float = 0.9
    score: float = 0.05
    cosine: float = 0.99

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise OptionError(problem(f"{name} is no share", got=value, expected="0 to 1", remedy=""))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was measured. figures: by name. failed: those that miss their limit, each as (name, limit)."""

    engine: str
    reference: str
    pictures: int
    figures: dict[str, float]
    failed: tuple[tuple[str, float], ...]

    @property
    def good(self) -> bool:
        """Whether the engine reached every limit."""
        return not self.failed

    def report(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {**asdict(self), "failed": [list(pair) for pair in self.failed], "good": self.good}


def verify(model: Model, reference: Model, frames: Iterable[Frame], limits: Limits | None = None) -> Verdict:
    """Run both on the same pictures. Raises OptionError where they are not of one kind, DataError without a picture.

    model: what is in doubt; reference: what is trusted. Both stay open.
    """
    limits = limits or Limits()
    if (model.card.task, model.card.input_size) != (reference.card.task, reference.card.input_size):
        got = f"{model.card.task} {model.card.input_size} and {reference.card.task} {reference.card.input_size}"
        raise OptionError(problem("the two are not of one kind", got=got, expected="the same network", remedy=""))
    pairs: list[tuple[Result, Result]] = []
    for frame in frames:
        theirs, mine = (m.predict(frame, conf=CONFIDENCE) for m in (reference, model))
        pairs.append((theirs, mine))
    if not pairs:
        raise DataError(problem("there is nothing to verify on", got="no picture", expected="at least one", remedy=""))
    figures, wanted = _figures(pairs, limits)
    failed = [(name, limit) for name, (limit, least) in wanted.items() if not _reached(figures[name], limit, least)]
    about = [m.engine().description for m in (model, reference)]
    return Verdict(about[0], about[1], len(pairs), figures, tuple(failed))


def _reached(value: float, limit: float, least: bool) -> bool:
    return bool(value >= limit if least else value <= limit)


def _figures(
    pairs: list[tuple[Result, Result]], limits: Limits
) -> tuple[dict[str, float], dict[str, tuple[float, bool]]]:
    """The figures of one kind of result, and of those with a limit: (limit, whether it is the least)."""
    first = pairs[0][0]
    if isinstance(first, Classification):
        tables = [
            (a.probabilities, b.probabilities)
            for a, b in pairs
            if isinstance(a, Classification) and isinstance(b, Classification)
        ]
        apart = np.array([np.abs(a - b).max() for a, b in tables])
        same = float(np.mean([a.argmax() == b.argmax() for a, b in tables]))
        return {"top1_agreement": same, "probability_difference_p95": _quantile(apart, 0.95)}, {
            "top1_agreement": (limits.found, True),
            "probability_difference_p95": (limits.score, False),
        }
    if isinstance(first, Embedding):
        cosines = [a.similarity(b) for a, b in pairs if isinstance(a, Embedding) and isinstance(b, Embedding)]
        return {"least_cosine": min(cosines)}, {"least_cosine": (limits.cosine, True)}
    found = [_matches(a, b) for a, b in pairs if isinstance(a, Detections) and isinstance(b, Detections)]
    back = [_matches(b, a) for a, b in pairs if isinstance(a, Detections) and isinstance(b, Detections)]
    ious, scores = (np.concatenate([f[i] for f in found]) for i in (0, 1))
    hit = ious >= FOUND_IOU
    extra = np.concatenate([f[0] for f in back]) >= FOUND_IOU
    if not len(ious):
        remedy = "Take pictures with objects in them."
        raise DataError(
            problem("the reference finds nothing", got=f"{len(pairs)} pictures", expected="objects", remedy=remedy)
        )
    figures = {
        "objects": float(len(ious)),
        "found": float(hit.mean()),
        "confirmed": float(extra.mean()) if len(extra) else 0.0,
        "iou_p05": _quantile(ious[hit], 0.05),
        "score_difference_p95": _quantile(scores[hit], 0.95),
        "score_difference_max": float(scores[hit].max(initial=0)),
    }
    return figures, {
        "found": (limits.found, True),
        "confirmed": (limits.found, True),
        "iou_p05": (limits.iou, True),
        "score_difference_p95": (limits.score, False),
    }


def _quantile(values: NDArray[Any], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else 0.0


def _matches(want: Detections, got: Detections) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(IoU, |score difference|) of each sure object of `want` with its best free partner of that class in `got`.

    Partners are taken by falling confidence. An object without one has IoU 0 and difference 1.
    """
    sure = want[want.confidence > CONFIDENCE + MARGIN]
    free = np.ones(len(got), np.bool_)
    rows = []
    for i in range(len(sure)):
        overlap = np.where(free & (got.class_id == sure.class_id[i]), box_iou(sure.xyxy[i], got.xyxy), 0.0)
        best = int(overlap.argmax()) if len(got) else -1
        if best < 0 or overlap[best] == 0:
            rows.append((0.0, 1.0))
            continue
        free[best] = False
        rows.append((float(overlap[best]), abs(float(sure.confidence[i] - got.confidence[best]))))
    table = np.array(rows, np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
