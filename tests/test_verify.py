"""eyas.verify: an engine that is right is called good, one that is wrong is not, and by the figure that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLES

import eyas
from eyas.errors import DataError, OptionError
from eyas.results import Classification, Detections, Embedding, Result
from eyas.source import pictures
from eyas.types import Frame
from eyas.verify import Limits, verify

NAMES = ("a", "b")


class Fake:
    """A model that gives what it is told, picture by picture."""

    def __init__(self, results: list[Result], task: str = "detect", size: int = 64) -> None:
        self.card = eyas.ModelCard("x", (size, size), eyas.Normalise(), NAMES, task=task)  # type: ignore[arg-type]
        self._results = iter(results)

    def predict(self, frame: Frame, conf: float) -> Result:
        return next(self._results)

    def engine(self) -> Any:
        return type("Engine", (), {"description": "fake"})()


FRAMES = [Frame(np.zeros((64, 64, 3), np.uint8))] * 2


def boxes(*rows: tuple[float, ...]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), NAMES)


TWO = boxes((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 1))


def judged(mine: Result, theirs: Result, **limits: float) -> Any:
    task = {Detections: "detect", Classification: "classify", Embedding: "embed"}[type(mine)]
    return verify(Fake([mine] * 2, task), Fake([theirs] * 2, task), FRAMES, Limits(**limits))  # type: ignore[arg-type]


def test_what_is_equal_is_good():
    verdict = judged(TWO, TWO)
    assert verdict.good
    assert verdict.figures["objects"] == 4
    assert verdict.figures["found"] == verdict.figures["confirmed"] == verdict.figures["iou_p05"] == 1
    assert verdict.figures["score_difference_max"] == 0


@pytest.mark.parametrize(
    ("mine", "figures"),
    [
        (TWO[:1], {"found"}),  # one is missing
        (boxes((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 0)), {"found", "confirmed"}),  # of another class
        (boxes((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 1), (40, 40, 50, 50, 0.7, 0)), {"confirmed"}),
        (boxes((0, 0, 10, 10, 0.9, 0), (22, 20, 32, 30, 0.8, 1)), {"iou_p05"}),  # moved: IoU 2/3
        (boxes((0, 0, 10, 10, 0.7, 0), (20, 20, 30, 30, 0.8, 1)), {"score_difference_p95"}),
        (boxes(), {"found", "confirmed", "iou_p05"}),
    ],
)
def test_what_differs_is_not_good_and_the_figure_says_why(mine: Detections, figures: set[str]):
    verdict = judged(mine, TWO)
    assert not verdict.good
    assert {name for name, _ in verdict.failed} == figures
    assert verdict.report()["good"] is False


def test_objects_at_the_brink_do_not_count_against_it():
    brink = boxes((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.27, 1))
    assert judged(brink[:1], brink).good


def test_classes_and_vectors():
    sure = Classification(np.array([0.9, 0.1], np.float32), NAMES)
    assert judged(sure, sure).good
    other = Classification(np.array([0.2, 0.8], np.float32), NAMES)
    assert {n for n, _ in judged(other, sure).failed} == {"top1_agreement", "probability_difference_p95"}
    east, north = (Embedding(np.array(v, np.float32)) for v in ([1, 0], [0, 1]))
    assert judged(east, east).good
    assert judged(north, east).figures == {"least_cosine": 0}
    assert judged(north, east, cosine=0).good


def test_what_cannot_be_verified():
    with pytest.raises(OptionError, match="not of one kind"):
        verify(Fake([TWO]), Fake([TWO], size=32), FRAMES)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="nothing to verify on"):
        verify(Fake([]), Fake([]), [])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the reference finds nothing"):
        judged(TWO, boxes())
    with pytest.raises(OptionError, match="iou is no share"):
        Limits(iou=2)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    from eyas.cli import main

    capsys.readouterr()
    return main([str(a) for a in arguments]), *capsys.readouterr()


@pytest.mark.slow
def test_the_command_on_an_engine_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    engine = tmp_path / "nanodet.blob"
    assert run(capsys, "build", "nanodet", "--backend", "openvino", "-o", engine)[0] == 0
    code, out, _ = run(capsys, "verify", engine, "--images", SAMPLES, "--json")
    report = json.loads(out)
    assert (code, report["good"], report["pictures"]) == (0, True, 3)
    assert report["engine"].startswith("OpenVINO")
    assert report["reference"].startswith("ONNX Runtime")
    code, out, _ = run(capsys, "verify", engine, "--images", SAMPLES, "--max-score", 0)
    missed = "misses 0" in out
    assert (code, "verdict: NOT good" in out) == ((1, True) if missed else (0, False))


def test_a_model_beside_itself(tmp_path: Path):
    frames = [p.load() for p in pictures([str(SAMPLES)])]
    with eyas.load("nanodet", precision="fp32") as one, eyas.load("nanodet", precision="fp32") as two:
        verdict = verify(one, two, [replace(f) for f in frames])
    assert verdict.good
    assert verdict.figures["objects"] >= 3
