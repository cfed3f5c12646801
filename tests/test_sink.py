"""Every sink's files are read back and compared with what went in."""

import csv
import errno
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest

from eyas.annotate import draw
from eyas.coco import COCO80
from eyas.errors import ImageError, SinkError
from eyas.results import Classification, Detections, Embedding, Prediction, Result
from eyas.sink import SaveCrops, SaveCsv, SaveJson, SavePictures, SaveText, Sink, SinkOptions, open_sinks
from eyas.types import TASKS, Frame, Image, Task

FAILED = Prediction("bad.jpg", error=ImageError("cut short,\nsomewhere"))


def picture(height: int = 80, width: int = 100) -> Image:
    """Smooth enough for JPEG to keep it within a few grey levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2 % 256, y * 2 % 256, (x + y) % 256], axis=2).astype(np.uint8)


def found(*rows: list[float], names: tuple[str, ...] = ("cat", "dog")) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), names)


TWO = found([10, 20, 50.5, 60, 0.875, 0], [0.25, 0, 100, 80, 0.5, 1])


LIKELY = Classification(np.float32([0.02, 0.6, 0.2, 0.1, 0.05, 0.03]), ("a", "cat", "dog", "hen", "cow", "pig"))


def seen(source_id: str | Path, result: Result = TWO, image: Image | None = None) -> Prediction:
    frame = Frame(picture() if image is None else image, 0, str(source_id))
    return Prediction(str(source_id), frame, result)


def write(sink: Sink, *predictions: Prediction) -> None:
    with closing(sink):
        for prediction in predictions:
            sink.write(prediction)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_are_the_drawn_ones(tmp_path: Path) -> None:
    write(SavePictures(tmp_path, labels=False, line_width=2), seen("in/a.png"), seen("in/b.jpg"), FAILED)
    assert files(tmp_path) == ["a.png", "b.jpg"]
    expected = draw(picture(), TWO, labels=False, line_width=2)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), expected)
    difference = cv2.imread(str(tmp_path / "b.jpg")).astype(int) - expected
    assert np.abs(difference).mean() < 12
    assert (tmp_path / "b.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_names_follow_the_source(tmp_path: Path) -> None:
    sources = ["a/cat.jpg", "b/cat.JPG", "c/Cat.png", "cat-2.webp", "array 3", "bytes 2", "stdin", "my dog.bmp", ".."]
    write(SavePictures(tmp_path), *map(seen, sources))
    expected = ["cat.jpg", "cat-2.jpg", "Cat-3.png", "cat-2-2.jpg", "array-3.jpg", "bytes-2.jpg", "stdin.jpg"]
    assert set(files(tmp_path)) == {*expected, "my dog.jpg", "...jpg"}


def test_the_names_of_all_sinks_agree(tmp_path: Path) -> None:
    options = SinkOptions(tmp_path / "p", tmp_path / "t", tmp_path / "r.json")
    with open_sinks(options) as sinks:
        for prediction in (seen("a/cat.jpg"), FAILED, seen("b/cat.png"), seen("c/cat.jpg")):
            for sink in sinks:
                sink.write(prediction)
    assert files(tmp_path / "p") == ["cat-2.png", "cat-3.jpg", "cat.jpg"]
    assert files(tmp_path / "t") == ["cat-2.txt", "cat-3.txt", "cat.txt"]
    ids = [row["image_id"] for row in json.loads((tmp_path / "r.json").read_text())]
    assert ids == ["cat", "cat", "cat-2", "cat-2", "cat-3", "cat-3"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_the_source_is_never_overwritten(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"cat{suffix}"
    source.write_bytes(b"the original")
    for _ in range(2):  # a second run overwrites the first one's results
        write(SavePictures(tmp_path / ".." / tmp_path.name), seen(source))
    assert source.read_bytes() == b"the original"
    assert files(tmp_path) == sorted([source.name, "cat-eyas.png" if suffix == ".png" else "cat-eyas.jpg"])


@pytest.mark.parametrize("link", ["cat.jpg", "cat.webp"])
def test_a_source_reached_through_a_link_is_not_overwritten(tmp_path: Path, link: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat.jpg").write_bytes(b"the original")
    (tmp_path / "in" / link).symlink_to(tmp_path / "out" / "cat.jpg")
    write(SavePictures(tmp_path / "out"), seen(tmp_path / "in" / link))
    assert (tmp_path / "out" / "cat.jpg").read_bytes() == b"the original"
    assert files(tmp_path / "out") == ["cat-eyas.jpg", "cat.jpg"]


def test_a_picture_too_long_for_jpeg_becomes_png(tmp_path: Path) -> None:
    write(SavePictures(tmp_path), seen("wide.jpg", image=np.zeros((2, 65501, 3), np.uint8)))
    assert cv2.imread(str(tmp_path / "wide.png")).shape == (2, 65501, 3)


def test_likeliest_classes_are_drawn_too(tmp_path: Path) -> None:
    write(SavePictures(tmp_path), seen("a.png", LIKELY))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), draw(picture(), LIKELY))
    assert (draw(picture(), LIKELY) != picture()).any()


# --- text -------------------------------------------------------------------------------------------------------------


def test_text_is_yolo_s(tmp_path: Path) -> None:
    write(SaveText(tmp_path), seen("a.jpg"), seen("none.jpg", found()), FAILED)
    assert (tmp_path / "a.txt").read_text() == (
        "0 0.302500 0.500000 0.405000 0.500000\n1 0.501250 0.500000 0.997500 1.000000\n"
    )
    assert (tmp_path / "none.txt").read_bytes() == b""
    assert files(tmp_path) == ["a.txt", "none.txt"]


def test_text_can_have_the_confidence_and_stays_within_the_picture(tmp_path: Path) -> None:
    write(SaveText(tmp_path, confidence=True), seen("a.jpg", found([-50, -40, 50, 120, 0.875, 7])))
    assert (tmp_path / "a.txt").read_text() == "7 0.250000 0.500000 0.500000 1.000000 0.875000\n"


def labels(tmp_path: Path, result: Detections, confidence: bool = False) -> list[list[float]]:
    """The numbers of each line of the label file of a picture of 100 × 80."""
    write(SaveText(tmp_path, confidence=confidence), seen("a.jpg", result))
    return [[float(v) for v in line.split(" ")] for line in (tmp_path / "a.txt").read_text().splitlines()]


def masked(*masks: np.ndarray) -> Detections:
    return replace(TWO[: len(masks)], mask=np.array(masks))


def test_text_of_masks_is_the_largest_outline(tmp_path: Path) -> None:
    square, two = np.zeros((2, 80, 100), np.bool_)
    square[20:60, 10:51] = True
    two[10:20, 10:20] = True
    cv2.fillPoly(two.view(np.uint8), [np.array([[40, 30], [90, 40], [50, 75]])], 1)
    first, second = labels(tmp_path, masked(square, two), confidence=True)
    assert first[0] == 0
    assert first[-1] == pytest.approx(0.875)
    assert {(x, y) for x, y in np.reshape(first[1:-1], (-1, 2))} == {
        (0.105, 0.25625), (0.105, 0.74375), (0.505, 0.25625), (0.505, 0.74375)
    }  # fmt: skip
    # Filled again, the outline is the larger of both areas, to the pixel.
    points = (np.reshape(second[1:-1], (-1, 2)) * (100, 80)).astype(int)
    again = cv2.fillPoly(np.zeros((80, 100), np.uint8), [points], 1)
    two[10:20, 10:20] = False
    np.testing.assert_array_equal(again, two)


@pytest.mark.parametrize("area", [np.s_[0:0, 0:0], np.s_[5, 7], np.s_[5, 7:30]])
def test_text_of_a_mask_without_an_area_is_its_box(tmp_path: Path, area: Any) -> None:
    mask = np.zeros((80, 100), np.bool_)
    mask[area] = True
    (line,) = labels(tmp_path, masked(mask))
    assert line == pytest.approx([0, 0.1, 0.25, 0.505, 0.25, 0.505, 0.75, 0.1, 0.75])


def test_text_of_key_points_is_the_box_and_what_is_seen(tmp_path: Path) -> None:
    points = [
        [50, 20, 0.9],
        [50, 20, 0.5],
        [-1, 20, 0.9],
        [50, 81, 0.9],
        [np.nan, 20, 0.9],
        [0, 80, 0.51],
        [9, 9, np.nan],
    ]
    one = replace(TWO[:1], keypoints=np.float32([points]))
    write(SaveText(tmp_path, confidence=True), seen("a.jpg", one))
    seen_points = "0.500000 0.250000 2 0 0 0 0 0 0 0 0 0 0 0 0 0.000000 1.000000 2 0 0 0"
    expected = f"0 0.302500 0.500000 0.405000 0.500000 {seen_points} 0.875000\n"
    assert (tmp_path / "a.txt").read_text() == expected


def test_text_of_oriented_boxes_is_their_corners(tmp_path: Path) -> None:
    corners = np.float32([[[10, 20], [50, 40], [40, 60], [0, 40]], [[-9, 8], [120, 8], [50, 99], [np.nan, 0]]])
    first, second = labels(tmp_path, replace(TWO, xyxyxyxy=corners), confidence=True)
    assert first == pytest.approx([0, 0.1, 0.25, 0.5, 0.5, 0.4, 0.75, 0, 0.5, 0.875])
    assert second == pytest.approx([1, 0.0025, 0, 1, 0, 1, 1, 0.0025, 1, 0.5]), "the upright box for want of a corner"
    corners[1, 3] = [50, 0]
    _, second = labels(tmp_path, replace(TWO, xyxyxyxy=corners))
    assert second == pytest.approx([1, 0, 0.1, 1, 0.1, 0.5, 1, 0.5, 0]), "clipped to the picture"


def test_text_prefers_masks_then_points_then_corners(tmp_path: Path) -> None:
    mask = np.zeros((1, 80, 100), np.bool_)
    mask[0, 20:60, 10:51] = True
    points, corners = np.ones((1, 2, 3), np.float32), np.zeros((1, 4, 2), np.float32)
    every = replace(TWO[:1], mask=mask, keypoints=points, xyxyxyxy=corners)
    forms = [every, replace(every, mask=None), replace(every, mask=None, keypoints=None), TWO[:1]]
    assert [len(labels(tmp_path, form)[0]) for form in forms] == [1 + 8, 5 + 6, 1 + 8, 5]
    assert labels(tmp_path, forms[0]) != labels(tmp_path, forms[2])


def test_a_box_that_is_nowhere_is_no_number_that_readers_refuse(tmp_path: Path) -> None:
    (line,) = labels(tmp_path, found([np.nan, 20, np.inf, 60, 0.5, 1]))
    assert line == pytest.approx([1, 0.5, 0.5, 1, 0.5])


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_is_coco_s(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "results.json"
    coco = found([1.5, 2, 11.75, 4.125, 0.123456789, 0], [0, 0, 9, 9, 0.5, 79], names=COCO80)
    write(SaveJson(file), seen("val/000000000139.jpg", coco), FAILED, seen("b.jpg", found()))
    assert json.loads(file.read_text()) == [
        {"image_id": 139, "category_id": 1, "bbox": [1.5, 2.0, 10.25, 2.125], "score": 0.12346},
        {"image_id": 139, "category_id": 90, "bbox": [0.0, 0.0, 9.0, 9.0], "score": 0.5},
    ]


def test_json_of_another_model_has_its_class_ids(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    write(SaveJson(file), seen("²3.jpg", found([0, 0, 1, 1, 0.5, 1], [0, 0, 1, 1, 0.5, 9])))
    assert [(r["image_id"], r["category_id"]) for r in json.loads(file.read_text())] == [("²3", 1), ("²3", 9)]


def test_json_has_masks_and_key_points(tmp_path: Path) -> None:
    masks, points = np.zeros((2, 80, 100), np.bool_), np.ones((2, 17, 3), np.float32)
    masks[:, 3:9, 4:6] = True
    both = replace(TWO, mask=masks, keypoints=points)
    write(SaveJson(tmp_path / "r.json"), seen("7.jpg", both))
    rows = json.loads((tmp_path / "r.json").read_text())
    assert rows == both.to_coco(7)
    assert rows[0]["segmentation"]["size"] == [80, 100]
    assert len(rows[0]["keypoints"]) == 51


def test_json_without_objects_is_an_empty_array(tmp_path: Path) -> None:
    write(SaveJson(tmp_path / "r.json"), seen("a.jpg", found()))
    assert json.loads((tmp_path / "r.json").read_text()) == []


def test_an_interrupted_run_keeps_what_was_finished(tmp_path: Path) -> None:
    file = tmp_path / "r.json"

    def run() -> None:
        with open_sinks(SinkOptions(json=file)) as (sink,):
            sink.write(seen("7.jpg"))
            assert not file.exists(), "it is written whole, at the end"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [r["image_id"] for r in json.loads(file.read_text())] == [7, 7]


def test_a_run_that_cannot_start_leaves_earlier_results(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text("earlier")
    with pytest.raises(SinkError), open_sinks(SinkOptions(json=file, csv=tmp_path)):
        raise AssertionError
    assert file.read_text() == "earlier"


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_csv_has_a_row_per_object_and_one_per_other_picture(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    sink = SaveCsv(file)
    with closing(sink):
        sink.write(seen("a, b.jpg"))
        assert len(file.read_text().splitlines()) == 3, "on the disk before the next picture"
        sink.write(FAILED)
        sink.write(seen("none.jpg", found()))
    sink.close()
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.reader(opened))
    assert rows == [
        ["path", "width", "height", "class_id", "class_name", "confidence", "x1", "y1", "x2", "y2", "error"],
        ["a, b.jpg", "100", "80", "0", "cat", "0.875", "10.0", "20.0", "50.5", "60.0", ""],
        ["a, b.jpg", "100", "80", "1", "dog", "0.5", "0.25", "0.0", "100.0", "80.0", ""],
        ["bad.jpg", *[""] * 9, "cut short,\nsomewhere"],
        ["none.jpg", "100", "80", *[""] * 8],
    ]


def test_csv_has_a_row_per_likely_class(tmp_path: Path) -> None:
    few = Classification(np.float32([0.25, 0.75]), ("cat",))
    write(SaveCsv(tmp_path / "r.csv"), seen("a.jpg", LIKELY), seen("b.jpg", few), FAILED)
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as opened:
        rows = list(csv.reader(opened))[1:]
    classes = [
        ("1", "cat", "0.6"),
        ("2", "dog", "0.2"),
        ("3", "hen", "0.1"),
        ("4", "cow", "0.05"),
        ("5", "pig", "0.03"),
    ]
    assert rows[:5] == [["a.jpg", "100", "80", *c, *[""] * 5] for c in classes]
    assert [row[3:6] for row in rows[5:7]] == [["1", "1", "0.75"], ["0", "cat", "0.25"]]
    assert rows[7][-1] == "cut short,\nsomewhere"


def test_csv_keeps_a_path_that_is_no_utf_8(tmp_path: Path) -> None:
    write(SaveCsv(tmp_path / "r.csv"), seen(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), found()))
    assert b"\ncaf\xe9.jpg,100,80," in (tmp_path / "r.csv").read_bytes()


# --- crops ------------------------------------------------------------------------------------------------------------


def test_crops_are_the_boxes_rounded_outwards(tmp_path: Path) -> None:
    boxes = found(
        [10.6, 20.2, 30.1, 40, 0.9, 0],  # pixels 10…30, 20…39
        [-5, 70.5, 20, 999, 0.8, 1],
        [12.5, 5, 12.5, 9, 0.7, 0],  # no area
        [200, 5, 300, 9, 0.6, 0],  # outside
        [99.5, 79.5, 100, 80, 0.5, 0],
    )
    write(SaveCrops(tmp_path), seen("in/a.png", boxes), FAILED)
    shapes = {name: cv2.imread(str(tmp_path / name)).shape[:2] for name in files(tmp_path)}
    assert shapes == {"cat/a-1.jpg": (20, 21), "dog/a-2.jpg": (10, 20), "cat/a-5.jpg": (1, 1)}
    difference = cv2.imread(str(tmp_path / "cat" / "a-1.jpg")).astype(int) - picture()[20:40, 10:31]
    assert np.abs(difference).max() < 12


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("../../etc", "_.._etc"),
        ("..", "_"),
        ("/", "_"),
        ("traffic light", "traffic light"),
        ("кошка", "кошка"),
        ("a\0b\nc:d\\e", "a_b_c_d_e"),
        ("猫" * 500, "猫" * 66),
        ("\udcff", "_"),
    ],
)
def test_class_names_cannot_lead_out_of_the_folder(tmp_path: Path, name: str, folder: str) -> None:
    write(SaveCrops(tmp_path / "crops"), seen("a.jpg", found([0, 0, 9, 9, 0.5, 0], names=(name,))))
    assert files(tmp_path) == [f"crops/{folder}/a-1.jpg"]


def test_crops_of_oriented_boxes_are_upright(tmp_path: Path) -> None:
    corners = np.float32([[[30, 20], [50.5, 40], [30, 60], [10, 40]]])
    write(SaveCrops(tmp_path), seen("a.png", replace(TWO[:1], xyxyxyxy=corners)))
    assert cv2.imread(str(tmp_path / "cat" / "a-1.jpg")).shape == (40, 41, 3)


def test_a_box_that_is_nowhere_is_not_cut_out(tmp_path: Path) -> None:
    write(SaveCrops(tmp_path), seen("a.png", found([np.nan, 5, np.nan, 9, 0.9, 0], [5, 5, np.inf, 9, 0.9, 1])))
    assert files(tmp_path) == ["dog/a-2.jpg"]


# --- what a sink cannot hold ------------------------------------------------------------------------------------------


EMBEDDING = Embedding(np.float32([0.6, 0.8]))
PLACES = {SavePictures: "p", SaveText: "t", SaveCrops: "c", SaveJson: "r.json", SaveCsv: "r.csv"}
REFUSED = [
    *((sink, LIKELY, "--save, --csv and --format json can") for sink in (SaveText, SaveCrops, SaveJson)),
    *((sink, EMBEDDING, "--format json can") for sink in PLACES),
]


@pytest.mark.parametrize(("sink", "result", "remedy"), REFUSED)
def test_a_result_that_has_no_form_there(tmp_path: Path, sink: Any, result: Result, remedy: str) -> None:
    place = tmp_path / PLACES[sink]
    with closing(sink(place)) as saver:
        saver.write(FAILED)
        with pytest.raises(SinkError) as caught:
            saver.write(seen("a.jpg", result))
    expected = " or ".join(kind.__name__ for kind in sink.holds)
    start = (
        f"{sink.__name__} cannot hold the model's results in {place}: got {type(result).__name__}; expected {expected}"
    )
    assert str(caught.value).startswith(f"{start}. {remedy}")
    assert not [f for f in files(tmp_path) if f.startswith(("p/", "t/", "c/"))]


def test_every_sink_holds_what_it_does_not_refuse(tmp_path: Path) -> None:
    """And nothing is missing from either list."""
    refused = {(sink, type(result)) for sink, result, _ in REFUSED}
    for sink, place in PLACES.items():
        for result in (TWO, LIKELY, EMBEDDING):
            assert (type(result) in sink.holds) != ((sink, type(result)) in refused)
            if type(result) in sink.holds:
                write(sink(tmp_path / place), seen("a.jpg", result))
    assert {type(r) for r in (TWO, LIKELY, EMBEDDING)} == set(get_args(Result))


@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_a_sink_cannot_hold_is_refused_before_anything_is_made(tmp_path: Path, task: Task) -> None:
    (tmp_path / "r.csv").write_text("earlier")
    options = SinkOptions(*(tmp_path / PLACES[s] for s in (SavePictures, SaveText, SaveJson, SaveCsv, SaveCrops)))
    if task not in ("classify", "embed"):
        with open_sinks(options, task) as sinks:
            assert len(sinks) == 5
        return
    with pytest.raises(SinkError, match="cannot hold the model's results"), open_sinks(options, task):
        raise AssertionError
    assert files(tmp_path) == ["r.csv"]
    assert [p.name for p in tmp_path.iterdir()] == ["r.csv"]
    assert (tmp_path / "r.csv").read_text() == "earlier"


# --- what can go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sink", [SavePictures, SaveText, SaveCrops])
def test_a_folder_that_cannot_be_made(tmp_path: Path, sink: type[SavePictures | SaveText | SaveCrops]) -> None:
    (tmp_path / "taken").write_text("a file")
    for place in ("taken", "taken/below"):
        with pytest.raises(SinkError, match=r"cannot write .*taken.*: got .*; expected a place to write to\. Check"):
            sink(tmp_path / place)


@pytest.mark.parametrize(("sink", "suffix"), [(SaveJson, ".json"), (SaveCsv, ".csv")])
def test_a_file_that_is_none_of_its_kind(tmp_path: Path, sink: type[SaveJson | SaveCsv], suffix: str) -> None:
    with pytest.raises(SinkError, match=f"got .*results.xml; expected a {suffix} file"):
        sink(tmp_path / "results.xml")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(SinkError, match="got the folder"):
        sink(tmp_path / f"folder{suffix}")


def test_a_folder_in_the_place_of_a_result(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(SinkError, match=r"cannot write .*a\.txt: got Is a directory"):
        write(SaveText(tmp_path), seen("a.jpg"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"], "no half of a file is left behind"


@pytest.mark.parametrize("sink", [SavePictures, SaveText, SaveCrops])
def test_a_full_disk(
    tmp_path: Path, sink: type[SavePictures | SaveText | SaveCrops], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        real(path, data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    saver = sink(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SinkError, match="No space left on device"):
        saver.write(seen("a.jpg"))
    assert files(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_csv_on_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "r.csv").symlink_to("/dev/full")
    sink = SaveCsv(tmp_path / "r.csv")
    with pytest.raises(SinkError, match="No space left on device"):
        sink.write(seen("a.jpg"))
    with pytest.raises(SinkError):
        sink.close()
    sink.close()


def test_a_picture_that_opencv_will_not_encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imencode", lambda *args: (False, None))
    with pytest.raises(SinkError, match=r"cannot encode .*a\.jpg: got 100 × 80 pixels"):
        write(SavePictures(tmp_path), seen("a.jpg"))


def test_one_sink_that_fails_to_close_does_not_stop_the_others(tmp_path: Path) -> None:
    stack = open_sinks(SinkOptions(json=tmp_path / "r.json", csv=tmp_path / "r.csv"))
    saved, table = stack.__enter__()
    saved.write(seen("a.jpg"))
    (tmp_path / "r.json").mkdir()
    with pytest.raises(SinkError, match="Is a directory"):
        stack.__exit__(None, None, None)
    assert isinstance(table, SaveCsv)
    assert table._out.closed


def test_nothing_asked_for_opens_nothing() -> None:
    with open_sinks(SinkOptions()) as sinks:
        assert sinks == []
