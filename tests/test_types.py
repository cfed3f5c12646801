"""eyas.types: each type refuses what it cannot hold, saying what it got and expected; Detections behaves as rows."""

import json
from collections.abc import Callable, Iterable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from eyas.errors import CardError, EyasError, ImageError, OptionError, SourceError
from eyas.types import BuildSpec, Detections, Frame, ModelCard, Normalise, Prediction, check_image

PICTURE = np.zeros((4, 6, 3), np.uint8)
NAN, INF = float("nan"), float("inf")


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


# Frame


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((4, 6), np.uint8), "uint8 [4, 6]"),
        (np.zeros((4, 6, 4), np.uint8), "uint8 [4, 6, 4]"),
        (np.zeros((2, 4, 6, 3), np.uint8), "uint8 [2, 4, 6, 3]"),
        (np.zeros((4, 6, 3), np.float32), "float32 [4, 6, 3]"),
        (np.zeros((0, 6, 3), np.uint8), "uint8 [0, 6, 3]"),
        (np.zeros((4, 0, 3), np.uint8), "uint8 [4, 0, 3]"),
        ([[[0, 0, 0]]], "list"),
        (None, "NoneType"),
    ],
)
def test_a_frame_holds_only_bgr_pictures(image: Any, got: str) -> None:
    refused(SourceError, lambda: Frame(image, source_id="cam 1"), got, "uint8 [height, width, 3] in BGR order")
    with pytest.raises(SourceError, match=r"^cam 1 is not an image array"):
        Frame(image, source_id="cam 1")


def test_a_frame_borrows_its_picture() -> None:
    frame = Frame(PICTURE)
    assert frame.image is PICTURE
    assert check_image(PICTURE) is PICTURE
    assert frame.size == (4, 6)
    assert (frame.index, frame.source_id, frame.pts_s) == (0, "array", None)
    with pytest.raises(FrozenInstanceError):
        frame.index = 3  # type: ignore[misc]


# Normalise, ModelCard, BuildSpec


@pytest.mark.parametrize(
    ("fields", "got"),
    [
        ({"colour": "RGB"}, "colour 'RGB'"),
        ({"colour": "grey"}, "colour 'grey'"),
        ({"mean": (0.0, 0.0)}, "mean (0.0, 0.0)"),
        ({"scale": (1.0,) * 4}, "scale (1.0, 1.0, 1.0, 1.0)"),
        ({"mean": (0.0, NAN, 0.0)}, "mean (0.0, nan, 0.0)"),
        ({"scale": (1.0, INF, 1.0)}, "scale (1.0, inf, 1.0)"),
        ({"scale": (1.0, 1.0, 0.0)}, "scale (1.0, 1.0, 0.0)"),
    ],
)
def test_a_normalisation_that_makes_no_sense(fields: dict[str, Any], got: str) -> None:
    refused(CardError, lambda: Normalise(**fields), got, "rgb or bgr, three finite means, three finite scales")


def card(**fields: Any) -> ModelCard:
    base: dict[str, Any] = {"family": "yolov8", "input_size": (64, 96), "normalise": Normalise(), "names": ("a", "b")}
    return ModelCard(**base | fields)


@pytest.mark.parametrize(
    ("fields", "got", "expected"),
    [
        ({"resize": "crop"}, "'crop'", "letterbox | letterbox-topleft | stretch"),
        ({"input_size": (0, 64)}, "(0, 64)", "from 1 to 16384"),
        ({"input_size": (64, 16385)}, "(64, 16385)", "from 1 to 16384"),
        ({"input_size": (64, 64, 3)}, "(64, 64, 3)", "(height, width)"),
        ({"input_size": (64.0, 64)}, "(64.0, 64)", "a whole number"),
        ({"iou": 0}, "0", "over 0, up to 1"),
        ({"iou": 1.01}, "1.01", "over 0, up to 1"),
        ({"iou": NAN}, "nan", "over 0, up to 1"),
        ({"pad_value": -1}, "-1", "0 to 255"),
        ({"pad_value": 256}, "256", "0 to 255"),
        ({"names": ()}, "()", "at least one name"),
        ({"names": ("a", "")}, "('a', '')", "none empty"),
        ({"names": ("a", 3)}, "('a', 3)", "at least one name"),
    ],
)
def test_a_card_with_a_wrong_field(fields: dict[str, Any], got: str, expected: str) -> None:
    refused(CardError, lambda: card(**fields), got, expected)


def test_a_card_at_the_edges_of_what_is_allowed() -> None:
    edge = card(input_size=(1, 16384), iou=1, pad_value=0, names=("x",))
    assert (edge.task, edge.resize, dict(edge.params)) == ("detect", "letterbox", {})
    assert card(pad_value=255).pad_value == 255


@pytest.mark.parametrize(
    ("fields", "got", "expected"),
    [
        ({"batch": (0, 1, 1)}, "(0, 1, 1)", "1 ≤ smallest ≤ usual ≤ largest ≤ 4096"),
        ({"batch": (2, 1, 3)}, "(2, 1, 3)", "1 ≤ smallest"),
        ({"batch": (1, 4, 3)}, "(1, 4, 3)", "1 ≤ smallest"),
        ({"batch": (1, 1, 4097)}, "(1, 1, 4097)", "4096"),
        ({"batch": (1, 2)}, "(1, 2)", "three whole numbers"),
        ({"batch": (1, 2.5, 3)}, "(1, 2.5, 3)", "three whole numbers"),
        ({"batch": 8}, "8", "three whole numbers"),
        ({"precision": "int4"}, "'int4'", "auto | fp32 | fp16 | bf16"),
        ({"hint": "fast"}, "'fast'", "latency | throughput"),
    ],
)
def test_a_build_with_a_wrong_field(fields: dict[str, Any], got: str, expected: str) -> None:
    refused(OptionError, lambda: BuildSpec(**fields), got, expected)


def test_a_build_at_the_edges_of_what_is_allowed() -> None:
    assert BuildSpec(batch=(1, 1, 4096)).batch == (1, 1, 4096)
    assert BuildSpec() == BuildSpec("auto", (1, 1, 1), "latency", None, {})


def test_a_wrong_option_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="the batch range is wrong"):
        BuildSpec(batch=(0, 0, 0))


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
