"""eyas.types: each type refuses what it cannot hold, saying what it got and expected."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from eyas.errors import CardError, EyasError, OptionError, SourceError
from eyas.types import BuildSpec, Frame, ModelCard, Normalise, check_image

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
        ({"resize": "squash"}, "'squash'", "letterbox | letterbox-topleft | stretch | crop"),
        ({"task": "track"}, "'track'", "detect | pose | segment | obb | classify | embed"),
        ({"crop": 0}, "0", "over 0, up to 1"),
        ({"crop": 1.01}, "1.01", "over 0, up to 1"),
        ({"crop": NAN}, "nan", "over 0, up to 1"),
        ({"input_size": (0, 64)}, "(0, 64)", "from 1 to 16384"),
        ({"input_size": (64, 16385)}, "(64, 16385)", "from 1 to 16384"),
        ({"input_size": (64, 64, 3)}, "(64, 64, 3)", "(height, width)"),
        ({"input_size": (64.0, 64)}, "(64.0, 64)", "a whole number"),
        ({"iou": 0}, "0", "over 0, up to 1"),
        ({"iou": 1.01}, "1.01", "over 0, up to 1"),
        ({"iou": NAN}, "nan", "over 0, up to 1"),
        ({"pad_value": -1}, "-1", "0 to 255"),
        ({"pad_value": 256}, "256", "0 to 255"),
        ({"names": ()}, "none", "at least one"),
        ({"names": ["a"], "task": "embed"}, "['a']", "a tuple of names"),
        ({"names": ("a", "")}, "('a', '')", "none empty"),
        ({"names": ("a", 3)}, "('a', 3)", "none empty"),
    ],
)
def test_a_card_with_a_wrong_field(fields: dict[str, Any], got: str, expected: str) -> None:
    refused(CardError, lambda: card(**fields), got, expected)


def test_a_card_at_the_edges_of_what_is_allowed() -> None:
    edge = card(input_size=(1, 16384), iou=1, pad_value=0, names=("x",))
    assert (edge.task, edge.resize, dict(edge.params)) == ("detect", "letterbox", {})
    assert card(pad_value=255, crop=1).pad_value == 255
    assert card(task="embed", names=()).names == ()


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
