"""`eyas quantize` from the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import onnx
import pytest
from conftest import SAMPLES
from test_quantize import NAMES, deep, write_pictures

from eyas.cli import main, quantize
from eyas.errors import OptionError, SourceError

pytest.importorskip("onnxruntime", reason="the extra `quantize` is not installed")


def run(*words: object) -> int:
    """The command alone, as `eyas.cli` runs it."""
    parser = argparse.ArgumentParser()
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true")
    quantize.add(parser.add_subparsers(), common)
    args = parser.parse_args(["quantize", *map(str, words)])
    return int(args.run(args))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with deep.onnx, names.txt and images/."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    onnx.save(deep(), "deep.onnx")
    Path("names.txt").write_text("\n".join(NAMES))
    write_pictures(tmp_path / "images", 12)
    return tmp_path


BASE = ("deep.onnx", "--names", "names.txt", "--images", "images", "-o", "out.onnx")


def test_a_line_says_what_was_done(place: Path, capsys: pytest.CaptureFixture[str]):
    assert run(*BASE, "--method", "entropy") == 0
    out, err = capsys.readouterr()
    assert out.startswith("3 of 3 layers in int8, ")
    assert out.endswith("MB: written to out.onnx\n")
    assert err == ""
    assert sorted(p.name for p in place.iterdir()) == ["cache", "deep.onnx", "images", "names.txt", "out.onnx"]


def test_the_result_predicts_validates_and_shows_like_any_other(place: Path, capsys: pytest.CaptureFixture[str]):
    assert run(*BASE) == 0
    capsys.readouterr()
    assert main(["info", "out.onnx"]) == 0
    assert "yolov8 (detect)" in capsys.readouterr().out
    assert main(["predict", "images/0.png", "-m", "out.onnx", "--conf", "0.9", "-q"]) == 0


def test_the_gate_writes_its_report_beside_the_model(place: Path, capsys: pytest.CaptureFixture[str]):
    assert run(*BASE, "--max-drop", "0.9", "--json") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["metric"] == "agreement with fp32"
    assert report["fp32_score"] == 1
    assert 0 <= report["drop"] <= 0.9
    assert "eyas: report in out-report" in err
    assert sorted(p.name for p in Path("out-report").iterdir()) == ["report.json", "report.md"]


def test_a_model_that_is_worse_than_asked_is_not_written(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("eyas.quantize.work.judge_by_agreement", lambda *_: lambda path: 0.5)
    assert run(*BASE, "--max-drop", "0.01") == 1
    out, err = capsys.readouterr()
    assert "agreement with fp32 1.0000 → 0.5000 (drop 0.5000): refused, not written" in out
    assert "worse than asked, so nothing was written" in err
    assert not Path("out.onnx").exists()
    assert Path("out-report/sensitivity.png").exists()


def test_labels_without_a_limit_are_refused(place: Path):
    with pytest.raises(OptionError, match="--data alone does nothing"):
        run(*BASE, "--data", "labels.json")


def test_too_few_pictures_are_refused(place: Path):
    with pytest.raises(SourceError, match="too few pictures to calibrate on"):
        run("deep.onnx", "--names", "names.txt", "--images", "images/0.png", "images/1.png", "-o", "out.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_the_bundled_model_finds_the_same_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], real_data: Path, target: str
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out.onnx"
    raccoons = real_data / "data" / "raccoon_voc" / "images"
    words = ["nanodet", "--images", str(raccoons), "--limit", "20", "--target", target, "-o", str(out)]
    assert run(*words, "--max-drop", "0.3") == 0
    assert out.stat().st_size < 5e6
    capsys.readouterr()
    assert main(["predict", str(SAMPLES / "astronaut.jpg"), "-m", str(out), "-q"]) == 0
    assert "1 person" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n", "yolox_nano", "nanodet_g", "nanodet_m_416"])
def test_real_models_pass_the_gate_in_fp16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Path, name: str):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = real_data / "data" / "images"
    words = [real_data / "models" / f"{name}.onnx", "--images", images, "--precision", "fp16"]
    assert run(*words, "--max-drop", "0.05", "-o", tmp_path / "half.onnx") == 0
