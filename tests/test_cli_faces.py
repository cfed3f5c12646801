"""`eyas faces` from the command line: on made-up models, and on real ones where they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_faces import BLACK, DARK, GREEN, RED, FakeModel, card, detector, embedder, mean_colour, tiles

from eyas.cli import main
from eyas.faces.gallery import Gallery, open_gallery

BLUE, YELLOW = (250, 0, 0), (0, 250, 250)
MODELS = ["--detector", "finds.onnx", "--embedder", "tells.onnx"]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeModel]:
    """What `load` opens, by name."""
    known = {"finds.onnx": detector(), "tells.onnx": embedder(), "other.onnx": embedder(digest="f" * 64)}
    asked: dict[str, Any] = {}

    def load(name: str, **options: Any) -> FakeModel:
        asked[name] = options
        return known[name]

    monkeypatch.setattr("eyas.loading.load", load)
    known["asked"] = asked  # type: ignore[assignment]
    return known


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """people/ann and people/bob with two pictures each; new/ with three more; the current folder."""
    monkeypatch.chdir(tmp_path)
    shown = {
        "people/ann/1.png": [RED],
        "people/ann/2.png": [(0, 40, 250)],
        "people/bob/1.png": [GREEN],
        "people/bob/2.png": [(30, 250, 0), BLACK],
        "new/1.png": [GREEN, RED],
        "new/2.png": [BLUE],
        "new/3.png": [BLACK],
    }
    for name, colours in shown.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(name, tiles(*colours))
    return tmp_path


def enroll(*more: str) -> int:
    return main(["faces", "enroll", *more, "--gallery", "g.npz", *MODELS])


def match(*more: str) -> int:
    return main(["faces", "match", *more, "--gallery", "g.npz", *MODELS])


def held() -> Gallery:
    return open_gallery(Path("g.npz"), "e" * 64)


pytestmark = pytest.mark.usefixtures("models")
Out = pytest.CaptureFixture[str]


# ---- enroll ----


def test_folders_are_people(folder: Path, capsys: Out):
    assert enroll("people") == 0
    assert held().names == ("ann", "ann", "bob", "bob")
    assert held().sources[0] == str(Path("people/ann/1.png"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "4 added; g.npz holds 4 faces, 2 people" in err


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["people/ann"], ["ann", "ann"]),
        (["people/bob/1.png", "people/ann"], ["bob", "ann", "ann"]),
        (["people/*/1.png"], ["ann", "bob"]),
        (["people/../people/ann/1.png"], ["ann"]),
        (["./people/"], ["ann", "ann", "bob", "bob"]),
        (["people", "--name", "cat"], ["cat"] * 4),
    ],
)
def test_who_is_in_a_picture(sources: list[str], names: list[str], folder: Path):
    assert enroll(*sources) == 0
    assert list(held().names) == names


@pytest.mark.parametrize("source", ["1.png", ".", "../ann", "../ann/1.png"])
def test_the_folder_that_one_is_in_has_a_name_too(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder / "people" / "ann")
    assert enroll(source, "-q") == 0
    assert held().people() == ("ann",)


def test_links_keep_their_folders_name(folder: Path):
    Path("people/cat").mkdir()
    Path("people/cat/1.png").symlink_to(folder / "new" / "2.png")
    Path("people/dan").symlink_to(folder / "people" / "bob")
    assert enroll("people/cat", "people/dan") == 0
    assert held().names == ("cat", "dan", "dan")


def test_pictures_beside_folders_are_not_forgotten(folder: Path):
    Path("people/ann/old").mkdir()
    cv2.imwrite("people/ann/old/3.png", tiles(RED))
    assert enroll("people/ann") == 0
    assert sorted(held().names) == ["ann", "ann", "old"]


def test_hidden_folders_and_other_files_are_left_alone(folder: Path):
    Path("people/.thumbnails").mkdir()
    cv2.imwrite("people/.thumbnails/1.png", tiles(BLUE))
    Path("people/notes.txt").write_text("who is who")
    assert enroll("people") == 0
    assert held().people() == ("ann", "bob")


def test_enrolling_more(folder: Path, capsys: Out):
    assert enroll("people/ann", "-q") == 0
    assert capsys.readouterr().err == ""
    assert enroll("people/bob/1.png") == 0
    assert held().names == ("ann", "ann", "bob")
    assert "1 added; g.npz holds 3 faces, 2 people" in capsys.readouterr().err


def test_a_gallery_in_a_new_folder(folder: Path):
    assert main(["faces", "enroll", "people", "--gallery", "a/b/g.npz", *MODELS]) == 0
    assert Path("a/b/g.npz").is_file()


def test_the_largest_face_is_enrolled(folder: Path, models: dict[str, FakeModel]):
    whole = models["finds.onnx"].answer

    def second_is_larger(image: Any) -> Any:
        found = whole(image)
        found.xyxy[1:, 1] = -50
        return found

    models["finds.onnx"].answer = second_is_larger
    assert enroll("new/1.png", "--name", "ann") == 0
    assert held().vectors[0].argmax() == np.argmax(RED)


def test_pictures_without_a_face_are_told(folder: Path, capsys: Out):
    Path("people/ann/bad.png").write_bytes(b"no picture")
    cv2.imwrite("people/ann/0.png", tiles(BLACK))
    assert enroll("people") == 1
    assert len(held()) == 4
    err = capsys.readouterr().err
    assert f"no face in {Path('people/ann/0.png')}: got nothing over 0.5" in err
    assert "bad.png" in err


def test_nobody_was_enrolled(folder: Path, capsys: Out):
    assert enroll("new/3.png", "no-such.png") == 2
    assert not Path("g.npz").exists()
    assert "nobody was enrolled: got 2 without one" in capsys.readouterr().err
    assert enroll("people", "-q") == 0
    before = Path("g.npz").read_bytes()
    assert enroll("new/3.png") == 2
    assert Path("g.npz").read_bytes() == before


def test_confidence(folder: Path):
    cv2.imwrite("dark.png", tiles(DARK))
    assert enroll("dark.png", "--name", "ann") == 2
    assert enroll("dark.png", "--name", "ann", "--conf", "0.3") == 0
    assert enroll("dark.png", "--name", "ann", "--conf", "7") == 2


@pytest.mark.parametrize("name", ["", " ", "unknown"])
def test_names_that_nobody_has(name: str, folder: Path, capsys: Out):
    assert enroll("people", "--name", name) == 2
    assert "nobody can be called that" in capsys.readouterr().err
    assert not Path("g.npz").exists()


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), None)])
def test_what_was_done_before_an_interruption_is_kept(
    error: BaseException, code: int | None, folder: Path, models: dict[str, FakeModel]
):
    whole = models["finds.onnx"].answer

    def three_times(image: Any) -> Any:
        if len(models["finds.onnx"].asked) > 3:
            raise error
        return whole(image)

    models["finds.onnx"].answer = three_times
    if code is None:
        with pytest.raises(type(error)):
            enroll("people")
    else:
        assert enroll("people") == code
    assert held().names == ("ann", "ann", "bob")


def test_a_name_that_cannot_be_keeps_the_others(folder: Path, capsys: Out):
    Path("people/unknown").mkdir()
    cv2.imwrite("people/unknown/1.png", tiles(BLUE))
    assert enroll("people") == 2
    assert held().people() == ("ann", "bob")
    assert "nobody can be called that: got 'unknown'" in capsys.readouterr().err


def test_standard_input_needs_a_name(folder: Path, capsys: Out):
    assert enroll("-") == 2
    assert "lies in no folder" in capsys.readouterr().err


def test_a_gallery_of_another_embedder(folder: Path, capsys: Out):
    assert enroll("people", "-q") == 0
    before = Path("g.npz").read_bytes()
    other = ["--gallery", "g.npz", "--detector", "finds.onnx", "--embedder", "other.onnx"]
    for command in ("enroll", "match"):
        assert main(["faces", command, "people", *other]) == 2
        assert "was made with another embedder" in capsys.readouterr().err
    assert Path("g.npz").read_bytes() == before


@pytest.mark.parametrize("command", ["enroll", "match"])
def test_a_gallery_that_is_none(command: str, folder: Path, capsys: Out):
    Path("g.npz").write_text("ann")
    assert main(["faces", command, "people", "--gallery", "g.npz", *MODELS]) == 2
    assert "g.npz is no gallery" in capsys.readouterr().err
    assert Path("g.npz").read_text() == "ann"


def test_a_gallery_that_cannot_be_written(folder: Path, models: dict[str, FakeModel], capsys: Out):
    Path("file").touch()
    assert main(["faces", "enroll", "people", "--gallery", "file/g.npz", *MODELS]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert not models["finds.onnx"].asked, "said before the work is done"


@pytest.mark.parametrize(("task", "which"), [("detect", "finds.onnx"), ("pose", "tells.onnx")])
def test_models_of_another_kind(task: str, which: str, folder: Path, models: dict[str, FakeModel], capsys: Out):
    models[which] = FakeModel(card(task), mean_colour)
    assert enroll("people") == 2
    assert "is of another kind" in capsys.readouterr().err


def test_how_models_are_opened(folder: Path, models: dict[str, Any]):
    how = ["--backend", "onnxruntime", "--precision", "fp32", "--imgsz", "320x640"]
    assert enroll("people", *how) == 0
    both = {"backend": "onnxruntime", "precision": "fp32"}
    assert models["asked"] == {"finds.onnx": {"imgsz": (320, 640), **both}, "tells.onnx": both}


# ---- match ----


def test_who_is_there(folder: Path, capsys: Out):
    assert enroll("people", "-q") == 0
    assert match("new") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{Path('new/1.png')}  bob (1.00), ann (1.00)",
        f"{Path('new/2.png')}  unknown (0.12)",
        f"{Path('new/3.png')}  no face",
    ]
    assert err == ""


def test_json_lines(folder: Path, capsys: Out):
    assert enroll("people", "-q") == 0
    Path("new/4.png").write_bytes(b"no picture")
    assert match("new", "--format", "json") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(line) for line in lines] == [["path", "faces"]] * 3 + [["path", "faces", "error"]]
    assert lines[0]["path"] == str(Path("new/1.png"))
    assert lines[0]["faces"][1] == {
        "name": "ann",
        "similarity": pytest.approx(1, abs=1e-3),
        "confidence": pytest.approx(250 / 255, abs=1e-4),
        "xyxy": [64, 0, 128, 64],
    }
    assert [face["name"] for face in lines[1]["faces"]] == [None]
    assert lines[2]["faces"] == lines[3]["faces"] == []
    assert "4.png" in lines[3]["error"]


def test_names_in_any_script_are_printed_as_they_are(folder: Path, capsys: Out):
    assert enroll("people/ann", "--name", "Žofie 李", "-q") == 0
    assert match("new/1.png", "--format", "json") == 0
    assert '"name": "Žofie 李"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("threshold", "names"),
    [
        ("0.1", ["ann", "bob"]),
        ("0.95", [None, None]),
        ("0.9", [None, "bob"]),
        ("-1", ["ann", "bob"]),
        ("1", [None] * 2),
    ],
)
def test_thresholds(threshold: str, names: list[str | None], folder: Path, capsys: Out):
    cv2.imwrite("mixed.png", tiles((150, 0, 250), (250, 150, 0)))
    cv2.imwrite("bob.png", tiles((200, 250, 0)))
    assert enroll("people/ann/1.png", "-q") == 0
    assert enroll("bob.png", "--name", "bob", "-q") == 0
    assert match("mixed.png", "--format", "json", "--threshold", threshold) == 0
    assert [f["name"] for f in json.loads(capsys.readouterr().out)["faces"]] == names


@pytest.mark.parametrize("threshold", ["1.5", "-2", "nan"])
def test_thresholds_that_are_none(threshold: str, folder: Path, capsys: Out):
    assert enroll("people", "-q") == 0
    assert match("new", "--threshold", threshold) == 2
    assert "--threshold is no cosine" in capsys.readouterr().err


def test_pictures_with_names(folder: Path, models: dict[str, FakeModel], monkeypatch: pytest.MonkeyPatch):
    written: list[list[str]] = []
    from eyas import sink

    draw = sink.draw

    def watched(image: Any, result: Any, **options: Any) -> Any:
        written.append(result.class_name)
        return draw(image, result, **options)

    monkeypatch.setattr(sink, "draw", watched)
    assert enroll("people", "-q") == 0
    assert match("new", "--save", "out") == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["1.png", "2.png", "3.png"]
    assert written == [["bob", "ann"], ["unknown"], []]
    assert (cv2.imread("out/1.png") != cv2.imread("new/1.png")).any()
    np.testing.assert_array_equal(cv2.imread("out/3.png"), cv2.imread("new/3.png"))


def test_source_pictures_are_not_overwritten(folder: Path, capsys: Out):
    assert enroll("people", "-q") == 0
    before = Path("new/1.png").read_bytes()
    assert match("people/ann", "new", "--save", "new") == 2
    assert "--save would write among the source pictures" in capsys.readouterr().err
    assert Path("new/1.png").read_bytes() == before


def test_no_gallery(folder: Path, capsys: Out):
    assert match("new") == 2
    assert "g.npz is no gallery" in capsys.readouterr().err


# ---- val ----


@pytest.fixture
def pairs(folder: Path) -> Path:
    rows = ["people/ann/1.png,people/ann/2.png,yes", "people/bob/1.png,people/bob/2.png,yes"]
    rows += ["people/ann/1.png,people/bob/1.png,no", "people/ann/2.png,people/bob/2.png,no"]
    Path("pairs.csv").write_text("\n".join(["a,b,same", *rows]))
    return Path("pairs.csv")


def test_val(pairs: Path, capsys: Out):
    assert main(["faces", "val", str(pairs), *MODELS]) == 0
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert (rows["pairs"], rows["same_person"], rows["without_face"]) == ("4", "2", "none")
    assert (rows["accuracy"], rows["auc"], rows["threshold"]) == ("1.0000", "1.0000", "0.4500")
    assert (rows["detector"], rows["embedder"], rows["data"]) == ("finds.onnx", "tells.onnx", "pairs.csv")


def test_val_as_json_and_files(pairs: Path, capsys: Out):
    pytest.importorskip("matplotlib", reason="the extra `val` is not installed")
    assert main(["faces", "val", str(pairs), *MODELS, "--format", "json", "--save", "out", "--threshold", "0.995"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["false_non_match_rate"] == 1
    assert report["accuracy"] == 0.5
    assert report["best_accuracy"] == 1
    assert json.loads(Path("out/report.json").read_text()) == report
    assert Path("out/roc.png").read_bytes().startswith(b"\x89PNG")


def test_val_with_pictures_elsewhere(pairs: Path, tmp_path: Path, capsys: Out):
    Path("lists").mkdir()
    pairs.rename("lists/pairs.csv")
    assert main(["faces", "val", "lists/pairs.csv", *MODELS]) == 2
    assert "Say with --images" in capsys.readouterr().err
    assert main(["faces", "val", "lists/pairs.csv", "--images", ".", *MODELS]) == 0


def test_val_where_pictures_have_no_face(pairs: Path, capsys: Out):
    cv2.imwrite("people/ann/2.png", tiles(BLACK))
    assert main(["faces", "val", str(pairs), *MODELS, "--format", "json"]) == 1
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["without_face"] == [str(Path("people/ann/2.png"))]
    assert (report["pairs"], report["same_person"]) == (2, 1)
    assert "no face in" in err
    cv2.imwrite("people/bob/2.png", tiles(BLACK))
    assert main(["faces", "val", str(pairs), *MODELS]) == 2
    assert "too few pairs are left" in capsys.readouterr().err


def test_val_of_what_holds_no_pairs(folder: Path, models: dict[str, Any], capsys: Out):
    Path("pairs.csv").write_text("a,b,same\n")
    assert main(["faces", "val", "pairs.csv", *MODELS]) == 2
    assert "pairs.csv holds no pairs" in capsys.readouterr().err
    assert not models["asked"], "said before models are opened"


def test_a_missing_extra_prints_the_pip_line(pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["faces", "val", str(pairs), *MODELS, "--save", "out"]) == 2
    assert "pip install 'eyas[val]'" in capsys.readouterr().err
    assert main(["faces", "val", str(pairs), *MODELS]) == 0


@pytest.mark.parametrize("line", [["faces"], ["faces", "match", "a.jpg"], ["faces", "enroll", "a", "--gallery", "g"]])
def test_what_must_be_given(line: list[str], capsys: Out):
    with pytest.raises(SystemExit) as stopped:
        main(line)
    assert stopped.value.code == 2
    assert "required" in capsys.readouterr().err


# ---- real models ----


@pytest.fixture
def real(real_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, list[str]]:
    """The real pictures, and the flags that name SCRFD and MobileFaceNet; an empty folder is the current one."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    models = real_data / "models"
    flags = ["--detector", str(models / "scrfd_500m_kps.onnx"), "--embedder", str(models / "mobilefacenet.onnx")]
    return real_data / "data", flags


@pytest.mark.slow
def test_real_people(real: tuple[Path, list[str]], capsys: Out):
    data, flags = real
    for name, picture in {"ann": "img20.jpg", "bob": "img24.jpg"}.items():
        Path("people", name).mkdir(parents=True)
        Path("people", name, "1.jpg").symlink_to(data / "face_pairs" / picture)
    assert main(["faces", "enroll", "people", "--gallery", "g.npz", "-q", *flags]) == 0
    capsys.readouterr()
    new = [data / "face_pairs" / "img21.jpg", data / "face_pairs" / "img25.jpg", data / "images" / "s_l.jpg"]
    command = ["faces", "match", *map(str, new), "--gallery", "g.npz", "--format", "json", "--save", "out", *flags]
    assert main([*command, "-q"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[face["name"] for face in line["faces"]] for line in lines] == [["ann"], ["bob"], [None, None]]
    assert min(lines[i]["faces"][0]["similarity"] for i in (0, 1)) > 0.45
    assert sorted(p.name for p in Path("out").iterdir()) == ["img21.jpg", "img25.jpg", "s_l.jpg"]
    drawn, plain = cv2.imread("out/img21.jpg"), cv2.imread(str(new[0]))
    x1, y1, x2, _ = map(int, lines[0]["faces"][0]["xyxy"])
    changed = np.abs(drawn.astype(int) - plain).max(axis=2) > 60
    assert changed[y1 - 2 : y1 + 3, x1:x2].mean() > 0.3, "a box is drawn"


@pytest.mark.slow
@pytest.mark.parametrize(
    "detector_name", ["scrfd_500m_kps", pytest.param("retinaface_mnet025", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_real_pairs_are_right(precision: str, detector_name: str, real: tuple[Path, list[str]], capsys: Out):
    from eyas.backends import openvino

    if precision == "bf16" and "bf16" not in openvino._capabilities(openvino._core(), "CPU"):
        pytest.skip("this machine has no bf16")
    data, flags = real
    flags[1] = str(Path(flags[1]).with_name(f"{detector_name}.onnx"))
    how = ["--backend", "openvino", "--precision", precision, "--threshold", "0.45", "--format", "json", "-q"]
    assert main(["faces", "val", str(data / "face_pairs" / "pairs.csv"), *flags, *how]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pairs"], report["same_person"], report["without_face"]) == (150, 19, [])
    assert (report["accuracy"], report["false_match_rate"], report["false_non_match_rate"]) == (1, 0, 0)
    assert report["auc"] == 1
    assert report["least_alike_same"] > 0.45 > report["most_alike_different"]
