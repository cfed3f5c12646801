"""`eyas val` from the command line, on the sample pictures with the bundled model."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import pytest
from conftest import SAMPLES

from eyas.cli import main

for needed in ("faster_coco_eval", "matplotlib"):
    pytest.importorskip(needed, reason="the extra `val` is not installed")

# What is to be seen, marked by hand: picture, size, (category, x y w h).
SCENES = (
    ("astronaut.jpg", (512, 512), [(1, (10, 5, 450, 507))]),
    ("chelsea.jpg", (451, 300), [(17, (5, 10, 440, 285))]),
    ("coffee.jpg", (600, 400), [(67, (0, 0, 600, 400)), (47, (165, 20, 250, 245))]),
)
CATEGORIES = {1: "person", 17: "cat", 47: "cup", 67: "diningtable", 90: "samovar"}


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A COCO data set of the sample pictures, as instances.json."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    images, boxes = [], []
    for i, (name, (width, height), objects) in enumerate(SCENES, 1):
        shutil.copy(SAMPLES / name, folder / "images" / name)
        images.append({"id": i, "file_name": name, "width": width, "height": height})
        boxes += [{"id": 9 * i + k, "image_id": i, "category_id": c, "bbox": b} for k, (c, b) in enumerate(objects)]
    boxes.append({"id": 99, "image_id": 3, "category_id": 90, "bbox": (5, 5, 50, 50)})
    categories = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def test_one_json_report(labels: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["val", "nanodet", "--data", str(labels), "--precision", "fp32", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["mAP50"] > 0.7
    assert 0.3 < report["mAP50-95"] <= report["mAP50"] <= 1
    assert (report["images"], report["instances"], report["failed"]) == (3, 4, [])
    assert [c["name"] for c in report["classes"]] == ["person", "cat", "cup", "dining table"]
    assert report["only_in_data"] == {"samovar": 1}
    assert "traffic light" in report["only_in_model"]
    assert report["engine"].endswith("fp32")
    assert "not known to the model, left out: samovar (1)" in err


def test_tables(labels: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["val", "nanodet", "--data", str(labels), "--precision", "fp32", "-q"]) == 0
    out = capsys.readouterr().out
    assert "3 pictures, 4 objects, classes: 4" in out
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if row and row[0].startswith("mAP")] == ["mAP50-95", "mAP50", "mAP75"]
    assert [row[0] for row in rows if row and row[0] in ("small", "medium", "large")] == ["small", "medium", "large"]
    (small,) = [row for row in rows if row and row[0] == "small"]
    assert small[1] == "–"  # no small object: no figure, rather than 0


@pytest.mark.slow
def test_saved_files(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out" / "deep"
    assert main(["val", "nanodet", "--data", str(labels), "--save", str(out), "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    names = {"pr_curve.png", "f1_curve.png", "confusion_matrix.png", "report.json", "results.json"}
    assert names <= {p.name for p in out.iterdir()} <= names | {"worst.jpg"}
    assert json.loads((out / "report.json").read_text()) == report
    results = json.loads((out / "results.json").read_text())
    assert {r["image_id"] for r in results} <= {1, 2, 3}
    assert {r["category_id"] for r in results} <= set(CATEGORIES) - {90}
    for name in sorted(p.name for p in out.iterdir() if p.suffix != ".json"):
        assert cv2.imread(str(out / name)).std() > 10, name


@pytest.mark.slow
def test_the_worst_pictures_come_first(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    content = json.loads(labels.read_text())
    for i in range(5):  # cats that are not there
        content["annotations"].append(
            {"id": 200 + i, "image_id": 1, "category_id": 17, "bbox": (5 + 70 * i, 5, 60, 60)}
        )
    labels.write_text(json.dumps(content))
    assert main(["val", "nanodet", "--data", str(labels), "--save", str(tmp_path / "out"), "--json", "-q"]) == 0
    capsys.readouterr()
    assert cv2.imread(str(tmp_path / "out" / "worst.jpg")).shape[1] >= 480


@pytest.mark.slow
def test_against_another_precision_and_backend(labels: Path, capsys: pytest.CaptureFixture[str]):
    command = ["val", "nanodet", "--data", str(labels), "--precision", "fp32", "--vs-backend", "onnxruntime", "-q"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    vs = report["vs"]
    assert "ONNX Runtime" in vs["engine"]
    assert vs["difference"]["mAP50-95"] == pytest.approx(vs["mAP50-95"] - report["mAP50-95"])
    assert abs(vs["difference"]["mAP50-95"]) < 0.02
    gaps = [abs(c["difference"]) for c in vs["classes"]]
    assert gaps == sorted(gaps, reverse=True)
    assert len(gaps) == 4
    assert main(command) == 0
    assert "B − A" in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_against_itself_is_no_different(labels: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["val", "nanodet", "--data", str(labels), "--vs", "nanodet", "--json", "-q"]) == 0
    difference = json.loads(capsys.readouterr().out)["vs"]["difference"]
    assert difference.pop("mAP_small") is None  # no small object
    assert set(difference.values()) == {0.0, None}


def test_a_picture_that_cannot_be_read_does_not_lose_the_others(labels: Path, capsys: pytest.CaptureFixture[str]):
    (labels.parent / "images" / "chelsea.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert main(["val", "nanodet", "--data", str(labels), "--json"]) == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["images"], report["instances"]) == (2, 3)
    assert [Path(f["path"]).name for f in report["failed"]] == ["chelsea.jpg"]
    assert "failed and left out" in err
    for name in ("astronaut", "coffee"):
        (labels.parent / "images" / f"{name}.jpg").write_bytes(b"")
    assert main(["val", "nanodet", "--data", str(labels), "--json"]) == 2
    assert "no picture could be read" in capsys.readouterr().err


def test_limit(labels: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["val", "nanodet", "--data", str(labels), "--limit", "2", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2


def test_nothing_in_common(labels: Path, capsys: pytest.CaptureFixture[str]):
    content = json.loads(labels.read_text())
    content["categories"] = [{"id": i, "name": f"thing {i}"} for i in CATEGORIES]
    labels.write_text(json.dumps(content))
    assert main(["val", "nanodet", "--data", str(labels), "-q"]) == 2
    assert "share no class" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "flags"), [("faster_coco_eval", []), ("matplotlib", ["--save", "out"])])
def test_a_missing_extra_prints_the_pip_line(
    labels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str, flags: list[str]
):
    monkeypatch.chdir(labels.parent)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["val", "nanodet", "--data", str(labels), *flags]) == 2
    assert "pip install 'eyas[val]'" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(labels: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["val", "nanodet", "--data", str(labels), "--save", str(labels), "-q"]) == 2
    assert "cannot write" in capsys.readouterr().err
