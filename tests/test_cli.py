"""The command `eyas`: exit codes, what goes to which stream, what is written, and how it ends when it is cut short."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from conftest import BUNDLED, ROOT, SAMPLES
from onnx import helper

from eyas import __version__
from eyas.backends import candidates
from eyas.cli import main
from eyas.errors import ModelError, SinkError

CHELSEA = str(SAMPLES / "chelsea.jpg")
HEAVY = ("PIL", "cv2", "numpy", "onnx", "onnxruntime", "openvino", "rich")
NULL = ("--backend", "null")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def eyas(capsys: pytest.CaptureFixture[str]) -> Run:
    """eyas(*arguments) → exit code, standard output, standard error; argparse's own exits included."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def greys(tmp_path: Path) -> Path:
    """A folder of two pictures in which `null` sees a person of 0.80 and 0.40, over the whole of 12 × 8 pixels."""
    folder = tmp_path / "greys"
    folder.mkdir()
    for name, value in {"a.png": 204, "b.png": 102}.items():
        cv2.imwrite(str(folder / name), np.full((8, 12, 3), value, np.uint8))
    return folder


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


def in_new_process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eyas", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment(), check=False, **options
    )


# Help and imports


def test_help_and_import_load_nothing_heavy() -> None:
    program = f"""
import sys
def loaded():
    return sorted(set({HEAVY!r}) & sys.modules.keys())
import eyas
after_import = loaded()
from eyas.cli import main
for words in (["--help"], ["predict", "--help"], ["info", "--help"], ["backends", "--help"], ["--version"]):
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 0, stop.code
    else:
        raise AssertionError("no exit")
print(after_import, loaded(), file=sys.stderr)
import cv2
print(loaded(), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment(), check=True
    )
    help_loads, proof = done.stderr.splitlines()
    assert help_loads == "[] []"
    assert "cv2" in proof  # the check can fail
    assert done.stdout.startswith("usage: eyas ")


def test_help_names_every_command(eyas: Run) -> None:
    code, out, err = eyas("--help")
    assert (code, err) == (0, "")
    for command in ("predict", "info", "backends"):
        assert f"\n    {command} " in out


def test_version(eyas: Run) -> None:
    assert eyas("--version") == (0, f"eyas {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["predict"], ["predict", CHELSEA, "--nope"], ["predict", "-q", "-v", CHELSEA]]
)
def test_wrong_usage_exits_2_and_says_how(eyas: Run, arguments: list[str]) -> None:
    code, out, err = eyas(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: eyas")


# predict: what it shows


def test_json_lines_of_a_real_picture() -> None:
    done = in_new_process("predict", CHELSEA, "--format", "json")
    assert done.returncode == 0
    (line,) = lines(done.stdout)
    assert list(line) == ["path", "width", "height", "detections"]
    assert (line["path"], line["width"], line["height"]) == (CHELSEA, 451, 300)
    (cat,) = line["detections"]
    assert list(cat) == ["class_name", "class_id", "confidence", "xyxy"]
    assert (cat["class_name"], cat["class_id"]) == ("cat", 15)
    assert 0.5 < cat["confidence"] < 0.65
    assert len(cat["xyxy"]) == 4
    assert "backend" in done.stderr
    assert "1 cat" in done.stderr


def test_table(eyas: Run) -> None:
    code, out, err = eyas("predict", CHELSEA)
    assert code == 0
    head, row = out.splitlines()
    assert head.split() == ["picture", "size", "objects", "(confidence)"]
    assert row.startswith(f"{CHELSEA}  451 × 300  1 cat (0.5")
    assert "\x1b" not in out
    assert "cat" in err


def test_several_sources_in_order(eyas: Run, greys: Path) -> None:
    code, out, _ = eyas("predict", *NULL, "--format=json", CHELSEA, greys, f"{SAMPLES}/c*.jpg")
    assert code == 0
    names = ["chelsea.jpg", "a.png", "b.png", "chelsea.jpg", "coffee.jpg"]
    assert [Path(line["path"]).name for line in lines(out)] == names
    assert lines(out)[1]["detections"] == [
        {"class_name": "person", "class_id": 0, "confidence": 0.8, "xyxy": [0.0, 0.0, 12.0, 8.0]}
    ]


def test_a_long_table_is_not_cut_off_in_a_pipe(eyas: Run, tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 40)
    deep.mkdir()
    cv2.imwrite(str(deep / "[red]a.png"), np.full((8, 12, 3), 204, np.uint8))
    _, out, _ = eyas("predict", *NULL, deep)
    assert f"{deep}/[red]a.png  12 × 8  1 person (0.80)" in out


def test_standard_input(eyas: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for extra in ([], ["--save", "."]):  # "stdin" is no file of this folder
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(CHELSEA).read_bytes())))
        code, out, _ = eyas("predict", "-", *NULL, "--format", "json", *extra)
        assert code == 0
        assert (lines(out)[0]["path"], lines(out)[0]["width"]) == ("stdin", 451)
    assert [p.name for p in tmp_path.iterdir()] == ["stdin.jpg"]


def test_quiet_and_verbose(eyas: Run) -> None:
    code, out, err = eyas("predict", CHELSEA, *NULL, "-q")
    assert (code, err) == (0, "")
    assert "chelsea" in out
    _, _, err = eyas("predict", CHELSEA, *NULL, "-v")
    assert "backend null: asked for" in err
    with pytest.raises(ModelError):
        main(["predict", CHELSEA, "-v", "--model", "nope.onnx"])


def test_the_progress_bar_is_for_terminals(eyas: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(9):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 12, 3), 204, np.uint8))
    code, _, err = eyas("predict", *NULL, tmp_path)
    assert code == 0
    assert "predicting" not in err
    assert "\x1b" not in err
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = eyas("predict", *NULL, "--format=json", tmp_path)
    assert code == 0
    assert "predicting" in err
    assert len(lines(out)) == 9  # and never among the results
    assert "predicting" not in eyas("predict", *NULL, "-q", tmp_path)[2]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, err = eyas("predict", *NULL, "--format=json", tmp_path)  # lines on the screen are progress enough
    assert "predicting" not in err
    assert len(lines(out)) == 9


# predict: what it writes


def test_everything_that_can_be_saved(eyas: Run, greys: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--save", out / "drawn", "--save-txt", out / "txt", "--save-conf", "--save-crop", out / "crops"]
    code, _, err = eyas("predict", greys, *NULL, *flags, "--json", out / "r.json", "--csv", out / "r.csv")
    assert code == 0
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    crops = ["crops/person/a-1.jpg", "crops/person/b-1.jpg"]
    assert files == [*crops, "drawn/a.png", "drawn/b.png", "r.csv", "r.json", "txt/a.txt", "txt/b.txt"]

    drawn = cv2.imread(str(out / "drawn" / "a.png"))
    assert drawn.shape == (8, 12, 3)
    assert (drawn != 204).any()
    assert cv2.imread(str(out / crops[0])).shape == (8, 12, 3)
    assert (out / "txt" / "a.txt").read_text() == "0 0.500000 0.500000 1.000000 1.000000 0.800000\n"
    first, second = json.loads((out / "r.json").read_text())
    assert first == {"image_id": "a", "category_id": 1, "bbox": [0.0, 0.0, 12.0, 8.0], "score": 0.8}
    assert second["image_id"] == "b"
    with (out / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(Path(r["path"]).name, r["class_name"], r["confidence"]) for r in rows] == [
        ("a.png", "person", "0.8"),
        ("b.png", "person", "0.4"),
    ]
    for where in ("drawn", "txt", "crops", "r.json", "r.csv"):
        assert f" in {out / where}\n" in err


def test_without_save_conf_the_labels_have_five_columns(eyas: Run, greys: Path, tmp_path: Path) -> None:
    assert eyas("predict", greys, *NULL, "--save-txt", tmp_path / "txt")[0] == 0
    assert (tmp_path / "txt" / "b.txt").read_text() == "0 0.500000 0.500000 1.000000 1.000000\n"


def test_nothing_is_written_unasked(eyas: Run, greys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(greys)
    assert eyas("predict", ".", *NULL)[0] == 0
    assert sorted(p.name for p in greys.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("how", ["folder", "file", "symlinked folder", "symlinked file", "relative"])
def test_saving_among_the_sources_is_refused(
    eyas: Run, greys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source, target = greys, greys
    if how == "file":
        source = greys / "a.png"
    elif how == "symlinked folder":
        target = tmp_path / "link"
        target.symlink_to(greys)
    elif how == "symlinked file":
        source = target = tmp_path / "links"
        target.mkdir()
        (target / "c.png").symlink_to(greys / "a.png")
    elif how == "relative":
        target = Path("greys")
    before = {p: p.read_bytes() for p in target.iterdir()}
    code, out, err = eyas("predict", source, *NULL, "--save", target)
    assert (code, out) == (2, "")
    assert "--save would write among the source pictures" in err
    assert f"--save {target}/drawn" in err
    assert {p: p.read_bytes() for p in target.iterdir()} == before
    assert eyas("predict", source, *NULL, "--save", target / "drawn")[0] == 0  # the remedy works


# predict: classifiers and embedders


def mean_colour(path: Path, family: str) -> tuple[str, ...]:
    """A model of task classify or embed: the picture's mean blue, green and red, 0…255; the flags that open it."""
    edges = [helper.make_tensor_value_info(n, 1, s) for n, s in (("images", ["B", 3, 8, 8]), ("out", ["B", 3]))]
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Softmax" if family == "classify" else "Identity", ["flat"], ["out"]),
    ]
    graph = helper.make_graph(nodes, "mean", edges[:1], edges[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path / "mean.onnx")
    task = {"classify": "classify", "arcface": "embed"}[family]
    names = ["blue", "green", "red"] if task == "classify" else []
    normalise = {"colour": "bgr", "mean": [0, 0, 0], "scale": [0.02, 0.02, 0.02]}
    card = {"family": family, "task": task, "names": names, "normalise": normalise, "resize": "stretch"}
    card |= {"pad_value": 0, "iou": 0.7, "params": {}}  # all that would else be read from the shapes
    (path / "card.json").write_text(json.dumps(card))
    return ("--model", str(path / "mean.onnx"), "--card", str(path / "card.json"), "--backend", "onnxruntime")


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A folder of three pictures of one colour each, 120 × 100 pixels: blue, red, red."""
    folder = tmp_path / "colours"
    folder.mkdir()
    for name, bgr in {"a.png": (200, 20, 10), "b.png": (10, 20, 200), "c.png": (10, 20, 100)}.items():
        cv2.imwrite(str(folder / name), np.full((100, 120, 3), bgr, np.uint8))
    return folder


def test_a_classifier_s_table_json_and_files(eyas: Run, colours: Path, tmp_path: Path) -> None:
    flags = mean_colour(tmp_path, "classify")
    (colours / "d.jpg").write_bytes(b"no picture")
    code, out, err = eyas("predict", colours, *flags, "--save", tmp_path / "drawn", "--csv", tmp_path / "r.csv")
    assert code == 1
    head, first, *_, last = out.splitlines()
    assert head.split() == ["picture", "size", "classes", "(probability)"]
    assert first.rstrip().endswith("a.png  120 × 100  blue 0.95, green 0.03, red 0.02")
    assert "d.jpg" in last
    assert ": 2 red, 1 blue; 1 could not be read" in err
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["a.png", "b.png", "c.png"]
    with (tmp_path / "r.csv").open() as file:
        rows = [(r["class_name"], r["confidence"][:4], r["x1"]) for r in csv.DictReader(file)]
    assert rows[:3] == [("blue", "0.95", ""), ("green", "0.02", ""), ("red", "0.02", "")]
    assert len(rows) == 3 * 3 + 1

    code, out, _ = eyas("predict", colours / "b.png", *flags, "--format", "json")
    (line,) = lines(out)
    assert list(line) == ["path", "width", "height", "classification"]
    assert (line["width"], line["height"]) == (120, 100)
    assert [(c["class_name"], c["class_id"]) for c in line["classification"]] == [("red", 2), ("green", 1), ("blue", 0)]
    assert sum(c["probability"] for c in line["classification"]) == pytest.approx(1, abs=2e-4)


def test_an_embedder_s_table_and_json(eyas: Run, colours: Path, tmp_path: Path) -> None:
    flags = mean_colour(tmp_path, "arcface")
    code, out, err = eyas("predict", colours, *flags)
    assert code == 0
    head, first, *_ = out.splitlines()
    assert head.split() == ["picture", "size", "embedding"]
    assert first.rstrip().endswith("a.png  120 × 100  3 values: 0.994 0.099 0.050")
    assert ": 3 embeddings\n" in err
    code, out, err = eyas("predict", colours / "a.png", *flags, "--format=json")
    (line,) = lines(out)
    assert list(line) == ["path", "width", "height", "embedding"]
    assert np.linalg.norm(line["embedding"]) == pytest.approx(1, abs=1e-5)
    assert ": 1 embedding\n" in err


@pytest.mark.parametrize(
    ("family", "flag"),
    [*(("arcface", f) for f in ("--save", "--save-txt", "--crops", "--json", "--csv")), ("classify", "--save-txt")],
)
def test_files_that_cannot_hold_the_result_are_refused_first(
    eyas: Run, colours: Path, tmp_path: Path, family: str, flag: str
) -> None:
    place = tmp_path / {"--json": "r.json", "--csv": "r.csv"}.get(flag, "folder")
    code, out, err = eyas("predict", colours, *mean_colour(tmp_path, family), flag, place)
    assert (code, out) == (2, "")
    assert "cannot hold the model's results" in err
    assert "--format json" in err
    assert "engine" not in err, "not even compiled"
    assert not place.exists()


# predict: what goes wrong


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_bad_file_in_a_folder_has_its_row_and_harms_no_other(eyas: Run, greys: Path, form: str) -> None:
    (greys / "aa.jpg").write_bytes(b"\xff\xd8\xff broken")
    code, out, err = eyas("predict", greys, *NULL, "--format", form)
    assert code == 1
    rows = out.splitlines()[form == "table" :]
    assert [name in row for name, row in zip(("a.png", "aa.jpg", "b.png"), rows, strict=True)] == [True] * 3
    assert "2 pictures" in err
    assert "1 could not be read" in err
    if form == "json":
        assert list(lines(out)[1]) == ["path", "error"]
        assert "aa.jpg" in lines(out)[1]["error"]
    else:
        assert "error: " in rows[1]
        assert "1 person (0.80)" in rows[0]


def test_a_missing_source_is_a_failed_picture(eyas: Run) -> None:
    code, out, _ = eyas("predict", SAMPLES / "chelsae.jpg", *NULL)
    assert code == 1
    assert "Did you mean" in out
    assert "chelsea.jpg" in out


def test_a_missing_model_in_a_process_of_its_own() -> None:
    done = in_new_process("predict", CHELSEA, "--model", "missing.onnx")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("eyas: there is no model missing.onnx: got no such file; expected")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--conf", "2"], "conf is out of range: got 2.0; expected a number 0 to 1"),
        (["--conf", "nan"], "conf is out of range: got nan"),
        (["--conf", "much"], "argument --conf: invalid float value: 'much'"),
        (["--iou", "-0.1"], "iou is out of range: got -0.1"),
        (["--imgsz", "100"], "the network cannot be resized to 100x100: got 100x100; expected multiples of"),
        (["--imgsz", "320x0"], "argument --imgsz: not a size: got 320x0; expected 640 or 384x640"),
        (["--imgsz", "1x2x3"], "not a size: got 1x2x3"),
        (["--classes", "persn"], "Did you mean person?"),
        (["--classes", "80"], "ids from 0 to 79"),
        (["--backend", "opnvino"], "Did you mean openvino?"),
        (["--batch", "0"], "the batch range is wrong"),
        (["--max-det", "0"], "max_candidates (--max-det) is out of range: got 0; expected 1 to 100000"),
        (["--names", "nope.txt"], "the names file cannot be read: got nope.txt"),
        (["--card", "nope.json"], "the card file cannot be read: got nope.json"),
        (["--json", "r.txt"], "got r.txt; expected a .json file"),
        (["--csv", "r.json"], "got r.json; expected a .csv file"),
        (["--model", CHELSEA], "cannot be read as ONNX"),
    ],
)
def test_a_wrong_setting_exits_2_with_one_message(
    eyas: Run, flags: list[str], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = [] if "--backend" in flags else NULL
    code, out, err = eyas("predict", CHELSEA, *backend, *flags)
    assert code == 2
    assert out.count("\n") in (0, 1)  # no row of results: at most the head of the table
    assert "chelsea" not in out
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# predict: which model, which detections


def test_conf_and_classes_choose(eyas: Run, greys: Path) -> None:
    counts = [
        [len(line["detections"]) for line in lines(eyas("predict", greys, *NULL, "--format=json", *flags)[1])]
        for flags in ([], ["--conf", "0.5"], ["--conf", "0.9"])
    ]
    assert counts == [[1, 1], [1, 0], [0, 0]]


def test_classes_person(eyas: Run) -> None:
    sources = [SAMPLES / "astronaut.jpg", SAMPLES / "coffee.jpg"]
    found = lines(eyas("predict", *sources, "--format=json", "--classes", "person", "62", "--precision=fp32")[1])
    names = [{d["class_name"] for d in line["detections"]} for line in found]
    assert names == [{"person"}, set()]


def test_onnxruntime(eyas: Run) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    code, out, err = eyas("predict", CHELSEA, "--backend", "onnxruntime")
    assert code == 0
    assert "1 cat" in out
    assert "engine for latency: ONNX Runtime" in err


def test_null(eyas: Run) -> None:
    code, out, err = eyas("predict", CHELSEA, *NULL)
    assert code == 0
    assert "1 person" in out
    assert "engine for latency: null" in err


def test_few_pictures_are_compiled_for_latency_and_many_for_throughput(eyas: Run, greys: Path) -> None:
    assert "engine for latency" in eyas("predict", greys, *NULL)[2]
    many = eyas("predict", greys, greys, *NULL)[2]
    assert "engine for throughput" in many
    assert "engine for latency" not in many
    assert "engine for latency" in eyas("predict", greys, greys, *NULL, "--hint", "latency")[2]


def test_a_batch_changes_nothing_in_the_results(eyas: Run, greys: Path) -> None:
    one = eyas("predict", greys, SAMPLES, *NULL, "--format=json")
    three = eyas("predict", greys, SAMPLES, *NULL, "--format=json", "--batch", "3")
    assert one[:2] == three[:2]
    assert len(lines(one[1])) == 5


def test_the_right_imgsz_is_accepted(eyas: Run) -> None:
    for size in ("416", "416x416"):
        assert eyas("predict", CHELSEA, *NULL, "--imgsz", size)[0] == 0


# info and backends


def test_info(eyas: Run) -> None:
    code, out, err = eyas("info", "nanodet")
    assert (code, err) == (0, "")
    for words in ("416 × 416", "nanodet (detect)", "80: person, bicycle", "letterbox", "bgr"):
        assert words in out


def test_a_printed_card_is_taken_back(eyas: Run, tmp_path: Path, greys: Path) -> None:
    code, text, _ = eyas("info", "nanodet", "--format", "json")
    assert code == 0
    file = tmp_path / "card.json"
    file.write_text(text)
    assert eyas("info", BUNDLED, "--format=json", "--card", file) == (0, text, "")
    card = json.loads(text)
    card["names"][0] = "Mensch, groß"
    file.write_text(json.dumps(card))
    code, out, _ = eyas("predict", greys, *NULL, "--model", BUNDLED, "--card", file)
    assert code == 0
    assert "1 Mensch, groß (0.80)" in out


def test_info_of_what_is_no_model(eyas: Run) -> None:
    for model in ("missing.onnx", CHELSEA, ROOT):
        code, out, err = eyas("info", model)
        assert (code, out) == (2, "")
        assert err.startswith("eyas: ")


def test_backends(eyas: Run) -> None:
    code, out, _ = eyas("backends")
    assert code == 0
    rows = {line[2:].split()[0]: line for line in out.splitlines()}
    assert {"null", "onnxruntime", "openvino"} <= set(rows)
    best = candidates()[0].name
    assert best != "null"
    assert [name for name, line in rows.items() if line.startswith("→ ")] == [best]
    assert out.startswith(f"→ {best} ")

    code, out, _ = eyas("backends", "--format", "json")
    assert code == 0
    found = json.loads(out)
    assert {c["name"] for c in found} == set(rows)
    assert list(found[0]) == ["name", "version", "rank", "reason"]
    assert found[0]["name"] == best


# Cut short


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A folder that takes long enough to be interrupted: 3000 names of one picture."""
    folder = tmp_path / "endless"
    folder.mkdir()
    for i in range(3000):
        (folder / f"{i}.jpg").symlink_to(CHELSEA)
    return folder


def start(*arguments: object) -> subprocess.Popen[str]:
    # A test run in the background may have been started with SIGINT ignored, which would be inherited.
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from eyas.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


@pytest.mark.parametrize(
    ("form", "ended_by", "code"),
    [("json", signal.SIGINT, 130), ("table", signal.SIGINT, 130), ("json", signal.SIGTERM, 143)],
)
def test_an_interruption_keeps_what_was_finished(
    endless: Path, tmp_path: Path, form: str, ended_by: signal.Signals, code: int
) -> None:
    table, coco = tmp_path / "r.csv", tmp_path / "r.json"
    process = start("predict", endless, *NULL, "--format", form, "--csv", table, "--json", coco)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not table.exists() or table.stat().st_size < 2000):
        time.sleep(0.01)
    process.send_signal(ended_by)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert err.endswith("eyas: interrupted; what was finished is kept\n")
    if form == "json":
        paths = [line["path"] for line in lines(out)]
    else:
        paths = [row.split()[0] for row in out.splitlines()[1:]]
    assert paths == [str(endless / f"{i}.jpg") for i in range(len(paths))]
    assert 5 < len(paths) < 3000
    saved = [row["path"] for row in csv.DictReader(table.read_text().splitlines())]
    assert abs(len(saved) - len(paths)) <= 1  # the last one may have been stopped between file and screen
    assert abs(len(json.loads(coco.read_text())) - len(paths)) <= 1


@pytest.mark.parametrize("form", ["json", "table"])
def test_a_reader_that_has_enough_ends_the_run_quietly(tmp_path: Path, form: str) -> None:
    for i in range(300):
        (tmp_path / f"{i}.jpg").symlink_to(CHELSEA)
    process = start("predict", tmp_path, *NULL, "--format", form, "-q")
    assert process.stdout is not None
    assert process.stderr is not None
    if form == "json":
        assert json.loads(process.stdout.readline())["width"] == 451
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 0
    process.stderr.close()


def test_a_sink_that_fails_ends_the_run_and_what_was_written_is_kept(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from eyas.sink import SavePictures

    writes = SavePictures.write
    done: list[Any] = []

    def fails_at_the_fifth(self: SavePictures, prediction: Any) -> None:
        if len(done) == 4:
            raise SinkError("the disk is full")
        done.append(writes(self, prediction))

    monkeypatch.setattr(SavePictures, "write", fails_at_the_fifth)
    before = set(threading.enumerate())
    table, drawn = tmp_path / "r.csv", tmp_path / "drawn"
    code = main(["predict", str(endless), *NULL, "--save", str(drawn), "--csv", str(table), "--format", "json"])
    assert code == 2
    out, err = capsys.readouterr()
    assert err.endswith("eyas: the disk is full\n")
    assert [line["path"] for line in lines(out)] == [str(endless / f"{i}.jpg") for i in range(4)]
    assert len(list(drawn.iterdir())) == 4
    assert len(list(csv.DictReader(table.read_text().splitlines()))) in (4, 5)
    assert set(threading.enumerate()) == before
