"""eyas.results: rows behave as rows, show themselves, and go to JSON, COCO and supervision and back; COCO's masks."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from eyas.annotate import draw
from eyas.coco import COCO80, rle_decode, rle_encode
from eyas.errors import DataError, EyasError, ImageError
from eyas.results import Classification, Detections, Embedding, Prediction, Result
from eyas.types import Frame

NAN, INF = float("nan"), float("inf")
OPTIONAL = ("tracker_id", "keypoints", "mask", "xyxyxyxy", "embedding")


def refused(kind: type[EyasError], make: Callable[[], object], got: str, expected: str) -> None:
    """`make` raises exactly `kind`, with what was got and expected in their places."""
    with pytest.raises(EyasError) as caught:
        make()
    assert type(caught.value) is kind
    head, _, tail = str(caught.value).partition("; expected ")
    assert got in head.partition(": got ")[2], head
    assert expected in tail


def detections(n: int, names: tuple[str, ...] = ("cat", "dog"), **more: Any) -> Detections:
    """n objects: confidences falling from 0.9, classes 0, 1, 0, 1 …, boxes that carry their index."""
    i = np.arange(n, dtype=np.float32)
    xyxy = np.stack([i, i + 1, i + 10, i + 20], axis=1)
    return Detections(xyxy, 0.9 - i / 100, np.arange(n, dtype=np.int64) % 2, names, **more)


# Detections


@pytest.mark.parametrize(
    ("field", "value", "got", "expected"),
    [
        ("xyxy", np.zeros((3, 5), np.float32), "shape [3, 5]", "[3, 4]"),
        ("xyxy", np.zeros(4, np.float32), "shape [4]", "[4, 4]"),
        ("xyxy", np.float32(1), "float32", "[0, 4]"),
        ("xyxy", [[0, 0, 1, 1]], "list", "a numpy array"),
        ("confidence", np.zeros(2, np.float32), "shape [2]", "[3]"),
        ("confidence", np.zeros((3, 1), np.float32), "shape [3, 1]", "[3]"),
        ("confidence", [0.1, 0.2, 0.3], "list", "a numpy array"),
        ("class_id", np.zeros(4, np.int64), "shape [4]", "[3]"),
        ("class_id", None, "NoneType", "a numpy array"),
        ("tracker_id", np.zeros(1, np.int64), "shape [1]", "[3]"),
        ("tracker_id", (1, 2, 3), "tuple", "a numpy array"),
    ],
)
def test_arrays_of_unlike_length(field: str, value: Any, got: str, expected: str) -> None:
    good = detections(3)
    fields = {"xyxy": good.xyxy, "confidence": good.confidence, "class_id": good.class_id} | {field: value}
    refused(EyasError, lambda: Detections(**fields), got, expected)
    with pytest.raises(EyasError, match=f"^Detections.{field} does not fit"):
        Detections(**fields)


def test_arrays_are_not_copied() -> None:
    good = detections(3)
    again = Detections(good.xyxy, good.confidence, good.class_id)
    assert again.xyxy is good.xyxy
    assert again.confidence is good.confidence
    assert again.class_id is good.class_id


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [4, 2, 0]),
        (slice(9, 12), []),
        (2, [2]),
        (-1, [4]),
        (np.int64(3), [3]),
        ([3, 0, 3], [3, 0, 3]),
        ([], []),
        (np.array([4, 1]), [4, 1]),
        (np.array([True, False, False, True, False]), [0, 3]),
        (np.zeros(5, np.bool_), []),
    ],
)
def test_indexing(rows: Any, kept: list[int]) -> None:
    all_five = detections(5, tracker_id=np.arange(100, 105))
    some = all_five[rows]
    assert len(some) == len(kept)
    assert some.xyxy[:, 0].tolist() == kept
    assert some.confidence.tolist() == all_five.confidence[kept].tolist()
    assert some.class_id.tolist() == [k % 2 for k in kept]
    assert some.tracker_id is not None
    assert some.tracker_id.tolist() == [100 + k for k in kept]
    assert some.names == all_five.names


def test_indexing_by_confidence_as_the_docs_show() -> None:
    found = detections(5)
    assert len(found[found.confidence > 0.875]) == 3


@pytest.mark.parametrize("rows", [5, -6, [0, 9], np.zeros(4, np.bool_)])
def test_an_index_out_of_range(rows: Any) -> None:
    with pytest.raises(IndexError):
        detections(5)[rows]


def test_iteration_gives_one_object_at_a_time() -> None:
    found = detections(3)
    each = list(found)
    assert [type(d) for d in each] == [Detections] * 3
    assert [len(d) for d in each] == [1, 1, 1]
    assert [d.xyxy[0, 0] for d in each] == [0, 1, 2]
    assert [d.class_name for d in each] == [["cat"], ["dog"], ["cat"]]
    assert list(Detections.empty()) == []


def with_ids(ids: Iterable[int], names: tuple[str, ...]) -> Detections:
    array = np.array(list(ids), np.int64)
    return Detections(np.zeros((len(array), 4), np.float32), np.zeros(len(array), np.float32), array, names)


def test_a_class_without_a_name_is_its_number() -> None:
    assert with_ids([0, 1, 2, 80, -1], ("cat", "dog")).class_name == ["cat", "dog", "2", "80", "-1"]
    assert with_ids([3], ()).class_name == ["3"]


def test_to_dict_is_json_with_rounded_numbers() -> None:
    xyxy = np.array([[1.23456, 2.0, 300.999, 4.006]], np.float32)
    found = Detections(xyxy, np.array([0.123456], np.float32), np.array([1]), ("cat", "dog"))
    row = {"class_name": "dog", "class_id": 1, "confidence": 0.1235, "xyxy": [1.23, 2.0, 301.0, 4.01]}
    assert found.to_dict() == [row]
    assert json.loads(json.dumps(found.to_dict())) == [row]
    assert Detections.empty().to_dict() == []


def test_to_dict_names_the_tracks() -> None:
    rows = detections(2, tracker_id=np.array([7, 9])).to_dict()
    assert [r["tracker_id"] for r in json.loads(json.dumps(rows))] == [7, 9]


def test_repr_of_nothing() -> None:
    assert repr(Detections.empty(("cat",))) == "Detections(nothing)"


def test_repr_of_one() -> None:
    found = Detections(np.array([[1.6, 0, 441.4, 295.7]], np.float32), np.array([0.557], np.float32), np.array([0]))
    assert repr(found) == "Detections(1 0)\n  0              0.56  [2 0 441 296]"
    assert repr(detections(1)) == "Detections(1 cat)\n  cat            0.90  [0 1 10 20]"


def test_repr_of_many_shows_ten_and_counts_the_rest() -> None:
    lines = repr(detections(20)).splitlines()
    assert lines[0] == "Detections(10 cat, 10 dog)"
    assert len(lines) == 12
    assert lines[10].split() == ["dog", "0.81", "[9", "10", "19", "29]"]
    assert lines[11] == "  … 10 more"
    assert len(repr(detections(10)).splitlines()) == 11
    assert repr(detections(11)).endswith("… 1 more")


def test_empty() -> None:
    none = Detections.empty(("cat",))
    assert len(none) == 0
    assert (none.xyxy.shape, none.xyxy.dtype) == ((0, 4), np.float32)
    assert (none.confidence.shape, none.confidence.dtype) == ((0,), np.float32)
    assert (none.class_id.shape, none.class_id.dtype) == ((0,), np.int64)
    assert (none.names, none.tracker_id, none.class_name) == (("cat",), None, [])


def test_a_prediction_says_where_it_came_from() -> None:
    error = ImageError("broken")
    assert Prediction("a.jpg", error=error) == Prediction("a.jpg", None, None, error)
    with pytest.raises(FrozenInstanceError):
        Prediction("a.jpg").source_id = "b.jpg"  # type: ignore[misc]


# Detections with everything


def full(n: int = 3, points: int = 17, size: tuple[int, int] = (6, 9)) -> Detections:
    """n objects with every optional array, all of random values that JSON's rounding leaves as they are."""
    rng = np.random.default_rng(n)

    def numbers(*shape: int, digits: int = 2, most: float = 100) -> np.ndarray:
        return (rng.random(shape) * most).round(digits).astype(np.float32)

    corners = np.sort(numbers(n, 2, 2), axis=1).reshape(n, 4)
    ids = rng.integers(0, 2, n)
    return Detections(
        corners,
        np.sort(numbers(n, digits=4, most=1))[::-1],
        ids,
        ("cat", "dog"),
        rng.permutation(n) + 100,
        np.concatenate([numbers(n, points, 2), numbers(n, points, 1, digits=4, most=1)], axis=2),
        rng.random((n, *size)) > 0.5,
        numbers(n, 4, 2),
        numbers(n, 5, digits=6, most=1),
    )


def equal(a: Detections, b: Detections) -> None:
    """Every array has the same shape, type and values; the names are the same."""
    assert a.names == b.names
    for field in dataclasses.fields(Detections):
        if field.name != "names":
            first, second = getattr(a, field.name), getattr(b, field.name)
            assert (first is None) == (second is None), field.name
            if first is not None:
                assert first.dtype == second.dtype, field.name
                np.testing.assert_array_equal(first, second, field.name)


@pytest.mark.parametrize(
    ("field", "shape", "expected"),
    [
        ("keypoints", (3, 17, 2), "[3, P, 3]"),
        ("keypoints", (2, 17, 3), "[3, P, 3]"),
        ("keypoints", (3, 51), "[3, P, 3]"),
        ("mask", (3, 54), "[3, height, width]"),
        ("mask", (4, 6, 9), "[3, height, width]"),
        ("xyxyxyxy", (3, 8), "[3, 4, 2]"),
        ("xyxyxyxy", (3, 4, 3), "[3, 4, 2]"),
        ("embedding", (5,), "[3, D]"),
        ("embedding", (1, 5), "[3, D]"),
    ],
)
def test_an_optional_array_of_another_shape(field: str, shape: tuple[int, ...], expected: str) -> None:
    refused(EyasError, lambda: replace(full(), **{field: np.zeros(shape)}), f"shape {list(shape)}", expected)


@pytest.mark.parametrize("rows", [slice(1, 3), [2, 0], 1, np.array([False, True, True]), slice(5, 9)])
def test_every_array_follows_an_index(rows: Any) -> None:
    """Also those that a later version adds: the fields are read from the class."""
    found = full()
    some = found[rows]
    arrays_of = [f.name for f in dataclasses.fields(Detections) if f.name != "names"]
    assert set(OPTIONAL) < set(arrays_of)
    kept = np.arange(3)[rows].reshape(-1)
    for name in arrays_of:
        np.testing.assert_array_equal(getattr(some, name), getattr(found, name)[kept], name)


@pytest.mark.parametrize("left", OPTIONAL)
def test_round_trip_through_json(left: str) -> None:
    """With each optional array missing in turn, and with all."""
    for found in (full(), replace(full(), **{left: None})):
        equal(Detections.from_dict(json.loads(json.dumps(found.to_dict())), found.names), found)


@given(st.integers(1, 4), st.integers(1, 20), st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_round_trip_of_any_shape(n: int, points: int, size: tuple[int, int]) -> None:
    found = full(n, points, size)
    equal(Detections.from_dict(found.to_dict(), found.names), found)


def test_round_trip_of_nothing() -> None:
    none = full()[:0]
    assert [getattr(none, name).shape for name in OPTIONAL] == [(0,), (0, 17, 3), (0, 6, 9), (0, 4, 2), (0, 5)]
    assert (none.to_dict(), none.to_coco(1), list(none)) == ([], [], [])
    assert repr(none) == "Detections(nothing)"
    equal(Detections.from_dict(none.to_dict(), none.names), Detections.empty(none.names))


def test_what_is_not_finite_is_null_in_json() -> None:
    found = full(1, points=2)
    found.keypoints[0] = [[NAN, 1, 0.5], [2, -INF, NAN]]  # type: ignore[index]
    found.xyxyxyxy[0, 3, 1] = INF  # type: ignore[index]
    found.confidence[0] = found.xyxy[0, 2] = NAN
    text = json.dumps(found.to_dict(), allow_nan=False)
    (row,) = json.loads(text)
    assert row["keypoints"] == [[None, 1, 0.5], [2, None, None]]
    assert row["confidence"] is row["xyxy"][2] is row["xyxyxyxy"][3][1] is None
    again = Detections.from_dict([row], found.names)
    assert np.isnan(again.keypoints).sum() == 3  # type: ignore[arg-type]
    assert np.isnan(again.confidence[0])


def test_from_dict_learns_the_names_that_it_is_not_given() -> None:
    ids = with_ids([2, 0, 7, -1], ("cat", "", "cow"))
    again = Detections.from_dict(ids.to_dict())
    assert again.class_name == ids.class_name == ["cow", "cat", "7", "-1"]
    assert again.names == ("cat", "1", "cow")
    assert Detections.from_dict(ids.to_dict(), ["cat", "dog", "cow", "hen"]).names == ("cat", "dog", "cow", "hen")
    far = with_ids([10**12], ()).to_dict()
    assert Detections.from_dict(far).names == (), "a number is no name: no room is made for it"


def changed(**fields: Any) -> list[dict[str, Any]]:
    """Two objects, the second of which has other fields, or lacks those that are `...`."""
    first, second = full(2).to_dict()
    return [first, {k: v for k, v in (second | fields).items() if v is not ...}]


@pytest.mark.parametrize(
    ("objects", "got"),
    [
        *((changed(**{name: ...}), f"KeyError: '{name}'") for name in ("xyxy", "confidence", "class_id", *OPTIONAL)),
        (changed(xyxy=[1, 2, 3]), "ValueError"),
        (changed(xyxy="left"), "ValueError"),
        ([o | {"xyxy": [1, 2, 3]} for o in changed()], "xyxy does not fit"),
        ([o | {"keypoints": [[1, 2]]} for o in changed()], "keypoints does not fit"),
        (changed(class_id=1.5), "TypeError"),
        (changed(tracker_id="7"), "TypeError"),
        (changed(class_id=2**70, class_name=str(2**70)), "OverflowError"),
        (changed(class_id=10**9, class_name="far"), "class 1000000000 is called far, but ids go from 0 to 99999"),
        (changed(class_id=-1, class_name="below"), "class -1 is called below"),
        ([changed()[0] | {"class_name": n, "class_id": 4} for n in "ab"], "class 4 is called a and b"),
        (changed(mask={"size": [6, 9], "counts": [53]}), "DataError: the run lengths do not fill the mask"),
        (changed(mask={"size": [6, 9], "counts": "0m1"}), "got str 0m1"),
        (changed(mask={"size": [6, 9]}), "KeyError: 'counts'"),
        (changed(mask={"size": [1, 1], "counts": [1]}), "ValueError"),
        (changed(mask=[1, 0]), "TypeError"),
        (["cat"], "TypeError"),
        ([3], "TypeError"),
        (None, "TypeError"),
    ],
)
def test_objects_that_cannot_be_read_back(objects: Any, got: str) -> None:
    refused(DataError, lambda: Detections.from_dict(objects), got, "dictionaries as Detections.to_dict gives them")


def test_names_that_contradict_the_objects() -> None:
    objects = with_ids([0], ("cat",)).to_dict()
    refused(DataError, lambda: Detections.from_dict(objects, ("dog",)), "class 0 is called dog and cat", "to_dict")


# COCO


def cocos_own(mask: np.ndarray) -> bytes:
    """The mask's run lengths as pycocotools encodes them."""
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]


def test_to_coco() -> None:
    found = full(2, points=2)
    found.keypoints[1, 1, 0] = NAN  # type: ignore[index]
    rows = found.to_coco(7)
    x1, y1, x2, y2 = found.xyxy[0].astype(np.float64)
    assert list(rows[0]) == ["image_id", "category_id", "bbox", "score", "segmentation", "keypoints"]
    assert (rows[0]["image_id"], rows[0]["category_id"]) == (7, found.class_id[0])
    assert rows[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=5e-4)
    assert rows[0]["score"] == pytest.approx(found.confidence[0], abs=5e-6)
    assert rows[0]["keypoints"] == pytest.approx(found.keypoints[0].ravel().tolist(), abs=5e-4)  # type: ignore[index]
    assert rows[1]["keypoints"][3:] == [0, 0, 0]
    found.xyxy[0], found.confidence[0] = [NAN, 1, INF, 3], NAN
    row = json.loads(json.dumps(found.to_coco("a")[0], allow_nan=False))
    assert (row["bbox"], row["score"]) == ([0, 1, 0, 2], 0)


def test_to_coco_s_categories() -> None:
    assert [r["category_id"] for r in with_ids([0, 79, 80, -1], COCO80).to_coco(1)] == [1, 90, 80, -1]
    assert [r["category_id"] for r in with_ids([0, 1, 5], ("cat", "dog")).to_coco(1)] == [0, 1, 5]
    posed = {n: replace(full(1, points=n), names=("person",), class_id=np.array([0])) for n in (17, 16)}
    assert [posed[n].to_coco(1)[0]["category_id"] for n in (17, 16)] == [1, 0], "COCO's person has 17 points"


def test_pycocotools_reads_the_rows() -> None:
    found = full(3, size=(12, 20))
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "height": 12, "width": 20}],
        "annotations": [],
        "categories": [{"id": i, "name": n} for i, n in enumerate(found.names)],
    }
    truth.createIndex()
    read = truth.loadRes(found.to_coco(7))
    rows = read.loadAnns(read.getAnnIds())
    assert [r["score"] for r in rows] == pytest.approx(found.confidence.tolist(), abs=1e-5)
    assert found.mask is not None
    assert [read.annToRLE(r)["counts"] for r in rows] == [cocos_own(mask) for mask in found.mask]


masks = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans())


@given(masks)
@example(np.zeros((5, 7), np.bool_))
@example(np.ones((5, 7), np.bool_))
@example(np.ones((1, 1), np.bool_))
@example(np.eye(6, dtype=np.bool_)[::-1])
@example(np.eye(8, dtype=np.bool_)[::2, 1:])
def test_run_lengths_are_coco_s(mask: np.ndarray) -> None:
    rle = rle_encode(mask)
    json.dumps(rle)
    assert coco_mask.frPyObjects(rle, *mask.shape)["counts"] == cocos_own(mask)
    ours = rle_decode(rle)
    assert ours.dtype == np.bool_
    np.testing.assert_array_equal(ours, mask)


@pytest.mark.parametrize(
    ("rle", "got"),
    [
        ({"size": [2, 3], "counts": [5]}, "5 pixels"),
        ({"size": [2, 3], "counts": [7]}, "7 pixels"),
        ({"size": [2, 3], "counts": []}, "0 pixels"),
        ({"size": [2, 3], "counts": [8, -2]}, "6 pixels"),
    ],
)
def test_run_lengths_that_do_not_fill_the_mask(rle: dict[str, Any], got: str) -> None:
    refused(DataError, lambda: rle_decode(rle), got, "2 × 3")


# supervision


def test_to_supervision() -> None:
    pytest.importorskip("supervision", reason="needs supervision (the extra track)")
    found = full(3)
    given = found.to_supervision()
    for name in ("xyxy", "confidence", "class_id", "tracker_id", "mask"):
        np.testing.assert_array_equal(getattr(given, name), getattr(found, name), name)
    assert given.data["class_name"].tolist() == found.class_name
    for name in ("xyxyxyxy", "keypoints", "embedding"):
        np.testing.assert_array_equal(given.data[name], getattr(found, name), name)
    kept = given[given.confidence >= found.confidence[1]]
    assert len(kept) == 2, "its own indexing takes all that is in it along"
    np.testing.assert_array_equal(kept.data["keypoints"], found.keypoints[:2])  # type: ignore[index]


def test_to_supervision_of_the_least() -> None:
    pytest.importorskip("supervision", reason="needs supervision (the extra track)")
    none = Detections.empty(("cat",)).to_supervision()
    assert len(none) == 0
    plain = detections(2).to_supervision()
    assert (plain.mask, plain.tracker_id, list(plain.data)) == (None, None, ["class_name"])


def test_without_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[track\]'"):
        detections(1).to_supervision()


# Classification


def test_the_likeliest_classes() -> None:
    shown = Classification(np.float32([0.1, 0.25, 0.25, 0.4, NAN]), ("a", "b", "c", "d"))
    assert shown.top(2) == [("d", pytest.approx(0.4)), ("b", 0.25)]
    assert [name for name, _ in shown.top(9)] == ["d", "b", "c", "a", "4"]
    assert shown.top(0) == shown.top(-1) == []
    assert shown.summary() == "d"
    rows = json.loads(json.dumps(shown.to_dict(), allow_nan=False))
    assert rows[0] == {"class_name": "d", "class_id": 3, "probability": 0.4}
    assert rows[-1] == {"class_name": "4", "class_id": 4, "probability": None}
    assert [r["class_id"] for r in shown.to_dict(3)] == [3, 1, 2]
    assert repr(shown).splitlines()[:2] == ["Classification(d)", f"  {'d':<24} 0.400"]
    assert len(Classification(np.full(1000, 0.001, np.float32)).to_dict()) == 5


@pytest.mark.parametrize(
    ("array", "got"), [(np.zeros((1, 5)), "shape [1, 5]"), (np.zeros(0), "shape [0]"), ([0.5], "list")]
)
def test_one_picture_s_vector_only(array: Any, got: str) -> None:
    refused(EyasError, lambda: Classification(array), got, "a numpy array of shape [C]")
    refused(EyasError, lambda: Embedding(array), got, "a numpy array of shape [D]")


# Embedding


def test_embeddings_compare_by_cosine() -> None:
    a, b, c = (Embedding(np.float32(v)) for v in ([0.6, 0.8], [0.8, 0.6], [-0.6, -0.8]))
    assert a.similarity(b) == pytest.approx(0.96)
    assert a.similarity(a) == pytest.approx(1)
    assert a.similarity(c) == pytest.approx(-1)
    refused(EyasError, lambda: a.similarity(Embedding(np.zeros(3, np.float32))), "2 and 3 values", "the same length")


def test_an_embedding_s_numbers() -> None:
    vector = np.float32([0.12345678, -0.5, 0.25, 0, 1])
    assert json.loads(json.dumps(Embedding(vector).to_dict())) == [0.123457, -0.5, 0.25, 0, 1]
    assert repr(Embedding(vector)) == "Embedding(5 values: 0.123 -0.500 0.250 0.000 …)"
    assert Embedding(vector[:2]).summary() == "2 values: 0.123 -0.500"


# Notebooks


EVIL = "<script>alert(1)</script> & co"


def cells(page: str) -> list[str]:
    return re.findall(r"<td>(.*?)</td>", page)


def test_a_table_for_notebooks() -> None:
    page = detections(1)._repr_html_()
    assert cells(page) == ["cat", "0.90", "0 1 10 20"]
    assert "<p>Detections: 1 cat</p>" in page
    many = detections(12)._repr_html_()
    assert len(cells(many)) == 3 * 10
    assert many.endswith("<p>… 2 more</p>")
    assert "more" not in detections(10)._repr_html_()
    assert cells(Detections.empty()._repr_html_()) == []
    shown = Classification(np.float32([0.25, 0.75]), ("cat", "dog"))
    assert cells(shown._repr_html_()) == ["dog", "0.750", "cat", "0.250"]


def test_names_are_text_in_a_notebook() -> None:
    """A class name comes with the model, and must not become part of the page."""
    results = (detections(1, names=(EVIL, "")), Classification(np.float32([1]), (EVIL,)))
    for page in (r._repr_html_() for r in results):
        assert "<script" not in page
        assert cells(page)[0] == "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co"


PICTURE = np.full((60, 80, 3), 77, np.uint8)


@pytest.mark.parametrize("result", [detections(2), Classification(np.float32([0.25, 0.75]), ("cat", "dog"))])
def test_a_picture_for_notebooks(result: Detections | Classification) -> None:
    data = Prediction("a.jpg", Frame(PICTURE), result)._repr_png_()
    assert data is not None
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(shown, draw(PICTURE, result))
    assert (shown != PICTURE).any()


def test_no_picture_for_notebooks() -> None:
    assert Prediction("a.jpg", error=ImageError("broken"))._repr_png_() is None
    assert Prediction("a.jpg", Frame(PICTURE), Embedding(np.float32([1])))._repr_png_() is None


@pytest.mark.parametrize(
    ("result", "is_one"), [(detections(1), True), (Classification(np.float32([1])), False), (None, False)]
)
def test_a_prediction_s_detections(result: Result | None, is_one: bool) -> None:
    assert Prediction("a.jpg", Frame(PICTURE), result).detections is (result if is_one else None)
