"""How far a network in another precision departs from the fp32 one: on labels, on detections, on raw values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.evaluation.dataset import Dataset
from eyas.graph.surgery import PRODUCTS, feeding_products
from eyas.nms import box_iou
from eyas.quantize.collect import runner
from eyas.results import Classification, Detections, Embedding, Result

if TYPE_CHECKING:
    from eyas.predictor import Precision

CONF = 0.01  # what scores below moves AP by less than a thousandth, and costs most of the time
CANDIDATES = 1000  # pairs of cell and class that enter NMS; 100 detections a picture are scored
SURE, SAME = 0.25, 0.5  # without labels: which fp32 detections must be found again, and at which IoU


def ends_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """The results of the last convolutions and products: what the network says before it is decoded."""
    inner = feeding_products(model.graph)
    return tuple(n.output[0] for n in model.graph.node if n.op_type in PRODUCTS and n.output[0] not in inner)


@dataclass(frozen=True, slots=True)
class Reference:
    """The fp32 network's `ends` for some inputs, to compare others with. values: input by input, end by end."""

    inputs: tuple[NDArray[Any], ...]
    values: tuple[Mapping[str, NDArray[Any]], ...]

    @classmethod
    def of(cls, model: onnx.ModelProto, inputs: Sequence[NDArray[Any]]) -> Reference:
        """Run `model` on the inputs."""
        run = runner(model, ends_of(model))
        return cls(tuple(inputs), tuple(run(x) for x in inputs))

    def noise(self, model: onnx.ModelProto) -> float:
        """Mean over the ends of Σ(y − ŷ)² / Σ(y − ȳ)²: the share of what they say that is wrong, 0 and up.

        Against the variance, not the power: class logits are far below zero and would hide the noise.
        """
        names = list(self.values[0])
        run = runner(model, names)
        wrong, said = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for x, want in zip(self.inputs, self.values, strict=True):
            got = run(x)
            for name in names:
                y = want[name].astype(np.float64)
                wrong[name] += float(((y - got[name]) ** 2).sum())
                said[name] += float(((y - y.mean()) ** 2).sum())
        return float(np.mean([wrong[n] / max(said[n], 1e-30) for n in names]))


def sqnr_db(noise: float) -> float:
    """Signal to quantisation noise in decibels; 200 at most, so that it stays a number."""
    return min(200.0, -10 * float(np.log10(max(noise, 1e-20))))


Backends = Sequence["str | None"]  # None: the best one here
Judge = Callable[[Path], float]  # a model's file → how good it is, 0…1


def judge_by_labels(data: Dataset, backends: Backends, precision: Precision) -> Judge:
    """COCO's AP .50:.95 on labelled pictures, on the backend that does worst."""
    from eyas.evaluation.classmap import map_classes
    from eyas.evaluation.evaluate import evaluate
    from eyas.loading import load

    def measure(path: Path, backend: str | None) -> float:
        options: dict[str, Any] = {"backend": backend, "precision": precision, "hint": "throughput"}
        with load(path, max_det=CANDIDATES, multi_label=True, **options) as model:
            found = evaluate(model, data, map_classes(model.card.names, data), conf=CONF)
        return found.coco.ap() or 0.0

    return lambda path: min(measure(path, backend) for backend in backends)


def judge_by_agreement(reference: Path, paths: Sequence[Path], backends: Backends) -> Judge:
    """The share of the fp32 network's results on these pictures that another finds again, on the worst backend.

    Detections from confidence .25: found by one of the same class with IoU over .5, each used once, at half the
    confidence threshold (so that one that drops from .26 to .24 is not called lost). Classes: the same first one.
    Embeddings: the mean cosine.
    """
    from eyas.loading import load

    def results(path: Path, backend: str | None, precision: Precision, conf: float) -> list[Result]:
        with load(path, backend=backend, precision=precision, hint="throughput") as model:
            return list(model.predict(list(paths), conf=conf))

    want = {backend: results(reference, backend, "fp32", SURE) for backend in backends}

    def measure(path: Path, backend: str | None) -> float:
        got = results(path, backend, "auto", SURE / 2)
        shares = [_again(a, b) for a, b in zip(want[backend], got, strict=True)]
        total = sum(n for _, n in shares)
        return sum(found for found, _ in shares) / total if total else 1.0

    return lambda path: min(measure(path, backend) for backend in backends)


def _again(want: Result, got: Result) -> tuple[float, int]:
    """(how many of the results are there again, how many there are)."""
    if isinstance(want, Detections) and isinstance(got, Detections):
        return _matched(want, got), len(want)
    if isinstance(want, Classification) and isinstance(got, Classification):
        return float(want.top(1)[0][0] == got.top(1)[0][0]), 1
    assert isinstance(want, Embedding) and isinstance(got, Embedding)  # noqa: S101, PT018 - one card, one kind
    return float(want.vector @ got.vector), 1


def _matched(want: Detections, got: Detections) -> int:
    free = np.ones(len(got), bool)
    found = 0
    for box, cls in zip(want.xyxy, want.class_id, strict=True):
        overlap = np.where(free & (got.class_id == cls), box_iou(box, got.xyxy), 0.0)
        if overlap.size and overlap.max() > SAME:
            free[int(overlap.argmax())] = False
            found += 1
    return found


def mean_cosine(reference: Reference, model: onnx.ModelProto) -> float:
    """Mean cosine between the ends of both networks, −1…1."""
    run = runner(model, list(reference.values[0]))
    found = []
    for x, want in zip(reference.inputs, reference.values, strict=True):
        got = run(x)
        for name, y in want.items():
            a, b = y.ravel().astype(np.float64), got[name].ravel().astype(np.float64)
            found.append(float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30)))
    return float(np.mean(found))
