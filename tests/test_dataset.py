"""The same labels in every format give the same data set; what is wrong with labels is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyas.coco import COCO80, COCO91_IDS
from eyas.errors import DataError
from eyas.evaluation.classmap import map_classes
from eyas.evaluation.dataset import Dataset, Label, LabelledImage
from eyas.evaluation.labels import open_dataset

pytest.importorskip("yaml", reason="the extra `val` is not installed")
NAMES = ("cat", "dog")
# (picture, width, height, [(class, x, y, width, height)]); whole numbers, since VOC's corners often are
SCENES: list[tuple[str, int, int, list[tuple[int, int, int, int, int]]]] = [
    ("a1", 80, 60, [(0, 0, 0, 20, 30), (1, 40, 10, 40, 50)]),
    ("a2", 64, 64, []),
    ("a10", 50, 90, [(1, 5, 6, 7, 8)]),
]


def pictures_in(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, width, height, _ in SCENES:
        Image.new("RGB", (width, height)).save(folder / f"{name}.png")


def as_coco(root: Path, **changes: Any) -> Path:
    pictures_in(root / "images")
    images = [{"id": i, "file_name": f"{s[0]}.png", "width": s[1], "height": s[2]} for i, s in enumerate(SCENES, 7)]
    boxes = [
        {"id": 0, "image_id": i, "category_id": 3 + c, "bbox": box} for i, s in enumerate(SCENES, 7) for c, *box in s[3]
    ]
    categories = [{"id": 3 + i, "name": name} for i, name in enumerate(NAMES)]
    content = {"images": images, "annotations": boxes, "categories": categories} | changes
    (root / "instances.json").write_text(json.dumps(content))
    return root / "instances.json"


def as_yolo(root: Path, description: str | None = "val: images/val\nnames: [cat, dog]\n") -> Path:
    pictures_in(root / "images" / "val")
    (root / "labels" / "val").mkdir(parents=True)
    for name, width, height, boxes in SCENES:
        rows = [(c, (x + w / 2) / width, (y + h / 2) / height, w / width, h / height) for c, x, y, w, h in boxes]
        if rows:  # a picture without an object has no label file
            text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
            (root / "labels" / "val" / f"{name}.txt").write_text(text)
    if description is None:
        return root
    (root / "data.yaml").write_text(description)
    return root / "data.yaml"


def as_voc(root: Path, first: int = 1, pictures: str = "JPEGImages", difficult: int = 0) -> Path:
    pictures_in(root / pictures)
    (root / "Annotations").mkdir(exist_ok=True)
    for name, width, height, boxes in SCENES:
        objects = "".join(
            f"<object><name>{NAMES[c]}</name><difficult>{difficult}</difficult><bndbox><xmin>{x + first}</xmin>"
            f"<ymin>{y + first}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for c, x, y, w, h in boxes
        )
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        text = f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    return root


def content(data: Dataset) -> dict[str, tuple[int, int, list[tuple[Any, ...]]]]:
    """What all formats can say: ids are each format's own."""
    found: dict[str, tuple[int, int, list[tuple[Any, ...]]]] = {}
    for i, image in enumerate(data.images):
        mine = [label for label in data.labels if label.image == i]
        objects = [(data.categories[m.category_id], *np.round([*m.xywh, m.area], 6).tolist(), m.iscrowd) for m in mine]
        found[image.path.name] = (image.width, image.height, objects)
    return found


EXPECTED = {
    f"{name}.png": (w, h, [(NAMES[c], *map(float, box), float(box[2] * box[3]), False) for c, *box in boxes])
    for name, w, h, boxes in SCENES
}


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_every_format_gives_the_same(tmp_path: Path, form: str):
    data = open_dataset({"coco": as_coco, "yolo": as_yolo, "voc": as_voc}[form](tmp_path))
    assert data.format == form
    assert content(data) == EXPECTED
    assert [i.path.stem for i in data.images] == (["a1", "a10", "a2"] if form == "voc" else ["a1", "a2", "a10"])
    assert data.remarks == ()
    assert content(open_dataset(tmp_path)) == EXPECTED  # the folder tells its format


@pytest.mark.parametrize(
    "description",
    [
        "path: .\nval: images/val\nnames: {0: cat, 1: dog}\n",
        "path: ../datasets/elsewhere\ntrain: nowhere\nval: [images/val]\nnames: [cat, dog]\n",
        "val: ../images/val\nnames: [cat, dog]\nnc: 2\n",  # as Roboflow writes it
        "test: images/val\nnames: [cat, dog]\n",
        "val: list.txt\nnames: [cat, dog]\n",
    ],
)
def test_ways_to_write_a_yolo_description(tmp_path: Path, description: str):
    path = as_yolo(tmp_path, description)
    (tmp_path / "list.txt").write_text("".join(f"./images/val/{s[0]}.png\n" for s in SCENES))
    assert content(open_dataset(path)) == EXPECTED


def test_yolo_without_a_description_has_names_or_numbers(tmp_path: Path):
    root = as_yolo(tmp_path, None)
    data = open_dataset(root)
    assert not data.named
    assert set(data.categories.values()) == {"0", "1"}
    assert map_classes(("cow", "hen", "pig"), data).names == ("cow", "hen")
    (root / "classes.txt").write_text("cat\ndog\n")
    assert content(open_dataset(root)) == EXPECTED


def test_a_yolo_polygon_becomes_its_bounding_box(tmp_path: Path):
    path = as_yolo(tmp_path)
    (tmp_path / "labels" / "val" / "a2.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.75\n")
    (label,) = [m for m in open_dataset(path).labels if m.image == 1]
    assert label.xywh == (16, 16, 32, 32)


def test_voc_numbered_from_zero_is_noticed(tmp_path: Path):
    data = open_dataset(as_voc(tmp_path, first=0))
    assert content(data) == {k: v for k, v in EXPECTED.items()}
    assert "numbered from 0" in data.remarks[0]


def test_difficult_voc_objects_count_neither_way(tmp_path: Path):
    with pytest.raises(DataError, match="no labelled object"):
        open_dataset(as_voc(tmp_path, difficult=1))


def test_pictures_elsewhere_are_named(tmp_path: Path):
    path = as_coco(tmp_path / "labels")
    (tmp_path / "labels" / "images").rename(tmp_path / "pics")
    with pytest.raises(DataError, match=r"3 of 3 labelled pictures are missing.*--images DIR"):
        open_dataset(path)
    assert content(open_dataset(path, tmp_path / "pics")) == EXPECTED
    with pytest.raises(DataError, match="--images is no folder"):
        open_dataset(path, tmp_path / "nowhere")


def test_coco_layout_of_the_official_download(tmp_path: Path):
    path = as_coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    path = path.rename(tmp_path / "annotations" / "instances_val2017.json")
    (tmp_path / "images").rename(tmp_path / "val2017")
    assert content(open_dataset(path)) == EXPECTED


def test_sizes_come_from_the_pictures_where_the_labels_have_none(tmp_path: Path):
    images = [{"id": i, "file_name": f"{s[0]}.png"} for i, s in enumerate(SCENES, 7)]
    assert content(open_dataset(as_coco(tmp_path, images=images))) == EXPECTED


def box(*values: float, category: int = 3, image: int = 7) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, "bbox": values, "iscrowd": 0}


def test_boxes_that_cannot_be_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    good, outside = box(1, 1, 9, 9), box(70, 50, 30, 30)
    bad = [box(5, 5, -3, 4), box(5, 5, 0, 4), box(200, 5, 5, 5), box(float("nan"), 1, 2, 3)]
    data = open_dataset(as_coco(tmp_path, annotations=[good, outside, *bad]))
    assert [m.xywh for m in data.labels] == [(1, 1, 9, 9), (70, 50, 30, 30)]
    assert data.remarks == (
        "4 boxes without area or wholly outside their picture were left out",
        "1 boxes reach out of their picture; they count as they are",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": []}, "no labelled object"),
        ({"images": []}, "an annotation of image 7"),
        ({"images": [], "annotations": []}, "lists no picture"),
        ({"annotations": [box(1, 2, 3, 4, category=99)]}, "an annotation of category 99"),
        ({"annotations": [box(1, 2, 3)]}, "is no COCO label file"),
        ({"annotations": [{"image_id": 7, "category_id": 3}]}, "no field 'bbox'"),
        ({"categories": None}, "no list of categories"),
    ],
)
def test_wrong_coco_files(tmp_path: Path, changes: dict[str, Any], message: str):
    path = as_coco(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        open_dataset(path)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "as files of results are"), ("3", "no list")])
def test_files_that_are_not_coco(tmp_path: Path, text: str, message: str):
    path = as_coco(tmp_path)
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val: images/val\n", "names no classes"),
        ("val: images/val\nnames: {a: b}\n", "names no classes"),
        ("names: [cat, dog]\n", "names no split"),
        ("val: gone\nnames: [cat, dog]\n", "place that is not there"),
        ("val: images/val\nnames: [cat]\n", "nameless class"),
        ("val: [unclosed", "is not YAML"),
        ("just words", "describes no data set"),
    ],
)
def test_wrong_yolo_descriptions(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message):
        open_dataset(as_yolo(tmp_path, text))


@pytest.mark.parametrize("line", ["0 .5 .5 .1", "0 .5 .5 .1 .1 .9", "cat .5 .5 .1 .1", "0 a b c d"])
def test_wrong_yolo_lines_are_named(tmp_path: Path, line: str):
    path = as_yolo(tmp_path)
    (tmp_path / "labels" / "val" / "a2.txt").write_text(f"0 .5 .5 .1 .1\n{line}\n")
    with pytest.raises(DataError, match=r"a2\.txt, line 2"):
        open_dataset(path)


def test_a_yolo_label_without_its_picture(tmp_path: Path):
    path = as_yolo(tmp_path)
    (tmp_path / "labels" / "val" / "gone.txt").write_text("0 .5 .5 .1 .1\n")
    with pytest.raises(DataError, match=r"1 label files have no picture: got .*gone\.txt"):
        open_dataset(path)


def test_a_picture_that_cannot_be_read_is_left_to_the_evaluation(tmp_path: Path):
    path = as_yolo(tmp_path)
    (tmp_path / "images" / "val" / "a10.png").write_bytes(b"no picture")
    data = open_dataset(path)
    assert (data.images[2].width, len(data.labels)) == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation", "cannot be read"),
        ("<html/>", "no VOC label file"),
        ("<annotation><object><name>a</name></object></annotation>", "object that cannot be read"),
    ],
)
def test_wrong_voc_files(tmp_path: Path, text: str, message: str):
    root = as_voc(tmp_path)
    (root / "Annotations" / "a2.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(root)


def test_unknown_formats_say_what_was_seen(tmp_path: Path):
    (tmp_path / "a.mp4").touch()
    for path, seen in ((tmp_path, r"1 × \*\.mp4"), (tmp_path / "a.mp4", r"a \.mp4 file"), (tmp_path / "x", "nothing")):
        with pytest.raises(DataError, match=rf"no labelled data set: got .*{seen}.*expected COCO"):
            open_dataset(path)


def test_the_first_pictures(tmp_path: Path):
    data = open_dataset(as_coco(tmp_path))
    assert (len(data.first(2).images), len(data.first(2).labels)) == (2, 2)
    assert data.first(None) is data.first(99) is data
    with pytest.raises(DataError, match="leaves no picture"):
        data.first(0)
    late = open_dataset(as_coco(tmp_path, annotations=[box(1, 1, 9, 9, image=9)]))
    with pytest.raises(DataError, match="first 2 pictures have no labelled object"):
        late.first(2)


def test_real_voc_labels(real_data: Path):
    data = open_dataset(real_data / "data" / "raccoon_voc")
    assert (len(data.images), len(data.labels), data.categories) == (200, 217, {1: "raccoon"})
    assert data.images[0].id == "raccoon-1"
    assert data.labels[0].xywh == (80, 87, 442, 321)  # corners 81 88 522 408 of the file
    assert data.remarks == ()


# --- which class is which ---------------------------------------------------------------------------------------------


def some(categories: dict[int, str], objects: dict[int, int] | None = None, named: bool = True) -> Dataset:
    counts = dict.fromkeys(categories, 1) if objects is None else objects
    labels = tuple(Label(0, c, (0, 0, 1, 1), 1) for c, n in counts.items() for _ in range(n))
    return Dataset(Path("x"), "coco", (LabelledImage(Path("a"), 1, 9, 9),), labels, categories, named)


def test_classes_pair_by_name_and_the_rest_is_told():
    got = map_classes(
        ("Dog", "dining_table", "cat"), some({4: "diningtable", 9: " DOG ", 2: "hen", 5: "x"}, {4: 1, 2: 3})
    )
    assert got.names == ("Dog", "dining_table")
    assert (got.of_model, got.of_data) == ({0: 0, 1: 1}, {4: 1, 9: 0})
    assert (got.category_ids, got.only_model, got.only_data) == ((9, 4), ("cat",), {"hen": 3})


def test_categories_of_one_name_are_one_class():
    got = map_classes(("raccoon",), some({0: "raccoon", 1: "Raccoon"}, {1: 5}))
    assert (got.of_data, got.category_ids) == ({0: 0, 1: 0}, (1,))


def test_official_coco_numbers_stand_in_for_names():
    german = {i: f"Ding {i}" for i in COCO91_IDS}
    got = map_classes(COCO80, some(german))
    assert (got.names, got.category_ids) == (COCO80, COCO91_IDS)
    with pytest.raises(DataError, match="share no class"):
        map_classes(COCO80, some({1: "raccoon"}))  # 1 is COCO's person, but this is not COCO
    with pytest.raises(DataError, match="share no class"):
        map_classes(("a", "b"), some(german))


def test_a_second_model_limits_the_classes():
    assert map_classes(("cat", "dog"), some({1: "cat", 2: "dog"}), ("Dog", "hen")).names == ("dog",)


def test_common_classes_need_an_object():
    with pytest.raises(DataError, match="share no class with an object"):
        map_classes(("cat",), some({1: "cat", 2: "dog"}, {2: 3}))
