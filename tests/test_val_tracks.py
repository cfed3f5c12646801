"""`eyas val --task track`, on MOT folders that are made up and on the sample clip, whose truth is known exactly."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLES

from eyas.cli import main
from eyas.tracking.mot import MotTable, read_mot

pytest.importorskip("trackers", reason="the extra `track` is not installed")

CLIP, TRUTH = SAMPLES / "parade.mp4", SAMPLES / "gt.txt"
FRAMES = 20


def rows(ids: tuple[int, ...], *, confidence: float = 1.0, shift: float = 0.0) -> str:
    """Walkers side by side, each 5 px further in each frame."""
    places = [(f, i, 10 + 5 * f + 120 * k + shift) for f in range(1, FRAMES + 1) for k, i in enumerate(ids)]
    return "".join(f"{f},{i},{x},20,50,100,{confidence},-1,-1,-1\n" for f, i, x in places)


def sequence(folder: Path, truth: str | None, found: str | None, *, nested: bool = False) -> Path:
    for kind, text in (("gt", truth), ("det", found)):
        if text is not None:
            path = folder / kind / f"{kind}.txt" if nested else folder / f"{kind}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder


@pytest.fixture
def mot(tmp_path: Path) -> Path:
    """Two sequences that can be judged, one of each layout, and two that cannot."""
    sequence(tmp_path / "mot" / "easy", rows((4, 9)), rows((-1, -1), confidence=0.9), nested=True)
    sequence(tmp_path / "mot" / "shifted", rows((1, 2, 3)), rows((-1, -1, -1), confidence=0.9, shift=40))
    sequence(tmp_path / "mot" / "hidden", None, rows((-1,)))
    sequence(tmp_path / "mot" / "blind", rows((1,)), None)
    return tmp_path / "mot"


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    assert main(["val", "--task", "track", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main(["val", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


# ---- folders ----


def test_each_sequence_and_tracker_has_a_row_and_all_sequences_together(mot: Path, capsys: pytest.CaptureFixture[str]):
    report = told(capsys, mot, "--tracker", "deepsort", "sort")
    names = [(r["sequence"], r["tracker"]) for r in report["sequences"]]
    assert names == [(s, t) for s in ("easy", "shifted") for t in ("deepsort", "sort")]
    easy, combined = report["sequences"][0], report["combined"]
    assert easy["idf1"] > 0.9
    assert (easy["objects"], easy["tracks"], easy["id_switches"], easy["frames"]) == (2, 2, 0, FRAMES)
    assert report["sequences"][2]["idf1"] == 0.0
    assert [(c["tracker"], c["objects"], c["frames"]) for c in combined] == [
        ("deepsort", 5, 2 * FRAMES),
        ("sort", 5, 2 * FRAMES),
    ]


def test_sequences_without_truth_or_detections_are_named(mot: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["val", "--task", "track", str(mot)]) == 0
    out, err = capsys.readouterr()
    assert "left out: blind: no det.txt\n" in err
    assert "left out: hidden: no gt.txt\n" in err
    table = [line.split()[:2] for line in out.splitlines()]
    assert table == [["sequence", "tracker"], *([name, "deepsort"] for name in ("easy", "shifted", "combined"))]


def test_one_sequence_can_be_named_itself(mot: Path, capsys: pytest.CaptureFixture[str]):
    report = told(capsys, mot / "easy")
    assert [(r["sequence"], r["tracker"]) for r in report["sequences"]] == [("easy", "deepsort")]
    assert report["combined"] == report["left_out"] == []


def test_conf_leaves_out_detections_of_a_file(mot: Path, capsys: pytest.CaptureFixture[str]):
    (row,) = told(capsys, mot / "easy", "--conf", "0.95")["sequences"]
    assert (row["tracks"], row["missed"]) == (0, 2 * FRAMES)


def test_botsort_does_without_pictures(mot: Path, capsys: pytest.CaptureFixture[str]):
    (row,) = told(capsys, mot / "easy", "--tracker", "botsort")["sequences"]
    assert row["idf1"] > 0.9


def test_saved_tracks_have_the_figures_of_the_report(mot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = told(capsys, mot, "--tracker", "deepsort", "--save", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    again = told(capsys, "--results", tmp_path / "out" / "deepsort" / "easy.txt", "--truth", mot / "easy/gt/gt.txt")
    assert again["sequences"][0]["idf1"] == pytest.approx(report["sequences"][0]["idf1"])
    assert again["sequences"][0]["tracker"] == "easy"


# ---- what is wrong ----


def test_a_folder_without_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    err = refused(capsys, "--task", "track", tmp_path)
    assert "holds no sequence: got no such file; expected SEQ/gt/gt.txt and SEQ/det/det.txt" in err


def test_a_folder_in_which_nothing_can_be_judged(mot: Path, capsys: pytest.CaptureFixture[str]):
    err = refused(capsys, "--task", "track", mot / "hidden")
    assert "can be judged: got hidden (no gt.txt)" in err


def test_a_truth_in_which_nothing_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = sequence(tmp_path / "none", rows((1,), confidence=0), rows((-1,)))
    assert "gt.txt is no truth: got 20 rows, none of which counts" in refused(capsys, "--task", "track", folder)


def test_detections_are_neither_truth_nor_result(mot: Path, capsys: pytest.CaptureFixture[str]):
    det, gt = mot / "hidden" / "det.txt", mot / "shifted" / "gt.txt"
    assert "is no truth: got rows with id -1" in refused(capsys, "--task", "track", "--results", gt, "--truth", det)
    assert "holds no tracks: got id -1" in refused(capsys, "--task", "track", "--results", det, "--truth", gt)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "track"], "judges one thing: got neither"),
        (["--task", "track", "a", "--results", "b", "--truth", "c"], "judges one thing: got a and --results b"),
        (["--task", "track", "--results", "b"], "the truth is not known"),
        (["--task", "track", "--results", "b", "--truth", "c", "--tracker", "sort"], "--tracker has no use"),
        (["--task", "track", "--results", "b", "--truth", "c", "--conf", "0.5"], "--conf has no use: got --results"),
        (["--task", "track", "--results", "b", "--truth", "c", "--iou", "0.5"], "--iou has no use: got --results"),
        (
            ["--task", "track", "--results", "b", "--truth", "c", "-m", "d"],
            "uses --model: got --results; expected a video",
        ),
        (
            ["--task", "track", "--results", "b", "--truth", "c", "--backend", "null", "--half", "--trust"],
            "nothing here uses --backend, --precision, --trust: got --results",
        ),
        (["--task", "track", str(SAMPLES), "--batch", "4", "--no-rebuild"], "uses --batch, --no-rebuild: got a folder"),
        (["--task", "track", str(SAMPLES), "--iou", "0.5"], "--iou has no use: got a folder"),
        (["--task", "track", str(SAMPLES), "--conf", "nan"], "--conf is wrong: got nan"),
        (["--task", "track", "nowhere.mp4", "--truth", "c"], "nowhere.mp4 cannot be judged: got no such file"),
        (["--task", "track", "a", "--tracker", "magic"], "unknown tracker: got 'magic'; expected deepsort"),
        (["--task", "track", "a", "--data", "b", "--limit", "3"], "no use for this: got --data, --limit"),
        (["nanodet", "--data", "b", "--truth", "c", "-m", "d"], "no use for this: got --truth, --model"),
        (["nanodet"], "too little to measure: got no --data; expected MODEL and --data"),
        (["--data", "b"], "too little to measure: got no model; expected MODEL and --data"),
        (["--task", "track", str(SAMPLES), "--truth", "c"], "--truth has no use: got a folder"),
    ],
)
def test_wrong_flags_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert said in refused(capsys, *words)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_judged(
    mot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("eyas.cli.val_tracks._judged", None)
    (tmp_path / "file").touch()
    assert "cannot write" in refused(capsys, "--task", "track", mot, "--save", tmp_path / "file")


def test_a_sequence_s_name_stays_in_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = sequence(tmp_path / "new\nline", rows((1,)), rows((-1,)))
    assert main(["val", "--task", "track", str(folder)]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == ["sequence", "new\\nline"]


@pytest.mark.parametrize("task", [["--data", "nowhere"], ["--task", "track", str(CLIP), "--truth", str(TRUTH)]])
def test_a_built_engine_is_opened_as_the_flags_say(
    task: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Told(Exception):
        pass

    def load(model: object, **options: object) -> None:
        raise Told(options["trust"], options["rebuild"])

    monkeypatch.setattr("eyas.loading.load", load)
    monkeypatch.setattr("eyas.evaluation.labels.open_dataset", lambda *_: SimpleNamespace(first=lambda _: None))
    model = ["-m", "x"] if "track" in task else ["x"]
    with pytest.raises(Told, match=r"\(True, False\)"):
        main(["val", *model, *task, "--trust", "--no-rebuild"])


# ---- the sample clip ----


@pytest.fixture(scope="module")
def make_clip() -> ModuleType:
    """samples/make_clip.py."""
    spec = importlib.util.spec_from_file_location("make_clip", SAMPLES / "make_clip.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_clip"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_clip_is_what_its_script_makes(make_clip: ModuleType):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    from eyas.video import open_video

    with open_video(CLIP) as video:
        frames = [frame.image for frame in video]
        assert (len(frames), video.rate) == (make_clip.FRAMES, make_clip.RATE)
    for i in (0, 67, 145, 249):
        error = np.abs(frames[i].astype(int) - make_clip.picture(i))
        assert error.mean() < 3, f"frame {i}"
        assert np.quantile(error, 0.99) < 25, f"frame {i}"


def test_the_truth_is_what_the_script_says(make_clip: ModuleType):
    committed = read_mot(TRUTH)
    for i in (0, 67, 110, 145, 249):
        made = np.array([row[:7] for row in make_clip.truth(i)], float)
        here = committed.where(committed.frame == i + 1)
        assert here.track_id.tolist() == made[:, 1].tolist()
        np.testing.assert_allclose(here.xywh, made[:, 2:6], atol=1)  # OpenCV's versions round in their own ways
        assert here.confidence.tolist() == made[:, 6].tolist()


def hidden(truth: MotTable) -> list[tuple[int, int, int]]:
    """(id, last frame before, first frame after) of each time that somebody is hidden and comes back."""
    out = []
    for who in np.unique(truth.track_id).tolist():
        seen = truth.frame[(truth.track_id == who) & (truth.confidence > 0)]
        out += [(who, int(seen[i]), int(seen[i + 1])) for i in np.flatnonzero(np.diff(seen) > 1)]
    return out


def id_near(result: MotTable, frame: int, box: np.ndarray) -> int | None:
    """The id of the track that overlaps a true box by an IoU of more than a half."""
    here = result.where(result.frame == frame)
    low = np.maximum(here.xywh[:, :2], box[:2])
    high = np.minimum(here.xywh[:, :2] + here.xywh[:, 2:], box[:2] + box[2:])
    both = (high - low).clip(0).prod(axis=1)
    overlap = both / (here.xywh[:, 2:].prod(axis=1) + box[2:].prod() - both)
    return int(here.track_id[overlap.argmax()]) if len(here) and overlap.max() > 0.5 else None


@pytest.mark.slow
def test_ids_hold_over_the_occlusions_of_the_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    report = told(capsys, CLIP, "--truth", TRUTH, "--precision", "fp32", "--save", tmp_path)
    assert report["sequences"][0]["idf1"] >= 0.95
    truth, result = read_mot(TRUTH), read_mot(tmp_path / "deepsort" / "parade.txt")
    events = hidden(truth)
    assert len(events) >= 3
    for who, last, first in events:
        ids = []
        for frame in (last - 10, first + 10):  # when it is well in sight
            box = truth.xywh[(truth.track_id == who) & (truth.frame == frame)][0]
            ids.append(id_near(result, frame, box))
        assert ids[0] is not None, (who, last)
        assert ids[0] == ids[1], (who, last, first)


@pytest.mark.slow
def test_the_truth_of_a_longer_video_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    (tmp_path / "gt.txt").write_text(TRUTH.read_text() + "251,1,5,5,50,50,1,1,1\n")
    err = refused(capsys, "--task", "track", CLIP, "--truth", tmp_path / "gt.txt")
    assert "goes on after the video's end: got frame 251; expected frames 1 to 250" in err
