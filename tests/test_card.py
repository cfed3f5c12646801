"""Who decides what a network is: flags, a card file, the model's own card, Ultralytics' keys, its shapes, or nobody."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import zoo

from eyas import registry
from eyas.build import Network, deploy_graph
from eyas.card import METADATA_KEY, card_from_dict, card_to_dict, class_ids, read_card, read_names, settle_card
from eyas.coco import COCO80
from eyas.errors import CardError, OptionError
from eyas.graph.head import HeadSpec
from eyas.graph.network import Facts, facts_of
from eyas.types import ModelCard, Normalise

NAMES = ("ant", "bee", "cow")
OWN = ModelCard(
    "nanodet",
    (64, 64),
    Normalise("rgb", (1, 2, 3), (0.1, 0.2, 0.3)),
    NAMES,
    "stretch",
    7,
    iou=0.33,
    params={"strides": [8, 16, 32], "bins": 8, "shift": 0.25},
)


def facts(kind: str = "yolov8", classes: int = 3, size: tuple[int, int] = (64, 64), **metadata: str) -> Facts:
    """What the graph of a zoo member says, with these keys in its metadata."""
    return replace(facts_of(zoo.network(kind, classes=classes, size=size)), metadata=metadata)


def rows(width: int) -> Facts:
    """One output [B, 84, width] at 64 × 64: of yolox as well as of nanodet, as far as shapes tell."""
    return Facts(("batch", 3, 64, 64), {"output": ("batch", 84, width)}, {}, frozenset({"Conv"}))


def written(folder: Path, fields: Any) -> Path:
    path = folder / "card.json"
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields), encoding="utf-8")
    return path


# ---- from shapes ----


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_with_the_number_of_names_the_shapes_suffice(kind: str):
    family, strides, _ = zoo.KINDS[kind]
    card = settle_card(facts(kind), names=NAMES)
    assert (card.family, card.names, card.input_size, card.task) == (family, NAMES, (64, 64), "detect")
    usual = {
        "yolov8": ("letterbox", 114, 0.7, Normalise("rgb", (0, 0, 0), (1 / 255,) * 3), {}),
        "yolox": ("letterbox-topleft", 114, 0.65, Normalise("bgr"), {"decoded": kind == "yolox-decoded"}),
        "nanodet": (
            "letterbox",
            0,
            0.6,
            Normalise("bgr", (103.53, 116.28, 123.675), (1 / 57.375, 1 / 57.12, 1 / 58.395)),
            {"strides": list(strides), "bins": zoo.BINS.get(kind), "shift": 0.0 if len(strides) == 4 else 0.5},
        ),
    }[family]
    assert (card.resize, card.pad_value, card.iou, card.normalise, card.params) == usual


def test_the_size_is_the_graphs():
    assert settle_card(facts("yolox", size=(96, 64)), names=NAMES).input_size == (96, 64)


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_eighty_classes_are_cocos_and_need_no_flag(kind: str, caplog: pytest.LogCaptureFixture):
    card = settle_card(facts(kind, classes=80))
    assert card.family == zoo.KINDS[kind][0]
    assert card.names == COCO80
    assert not caplog.records


@pytest.mark.parametrize("classes", [1, 79, 82])
def test_other_numbers_of_classes_are_not_named_after_coco(classes: int, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="eyas"):
        card = settle_card(facts("yolov8", classes=classes))
    assert card.names == tuple(f"class {i}" for i in range(classes))
    assert [r.message for r in caplog.records] == [
        "class names are unknown: numbers are shown instead; give them with --names FILE"
    ]


def test_a_width_that_fits_two_families_is_asked_about():
    with pytest.raises(CardError) as caught:
        settle_card(rows(60))
    text = str(caught.value)
    for word in ("more than one family fits", "got input", "[batch, 84, 60]", "expected one reading"):
        assert word in text
    for word in ("nanodet with 28 classes", "nanodet with 16 classes", "yolox with 55 classes", "--family", "--names"):
        assert word in text


def test_names_of_the_right_count_decide():
    for count, family, params in (
        (55, "yolox", {"decoded": False}),
        (28, "nanodet", {"strides": [8, 16, 32], "bins": 8, "shift": 0.5}),
        (16, "nanodet", {"strides": [8, 16, 32], "bins": 11, "shift": 0.5}),
    ):
        card = settle_card(rows(60), names=tuple(f"n{i}" for i in range(count)))
        assert (card.family, card.params, len(card.names)) == (family, params, count)


def test_the_family_decides():
    assert len(settle_card(rows(60), family_name="yolox").names) == 55
    with pytest.raises(CardError, match="nanodet with 28 classes or nanodet with 16 classes"):
        settle_card(rows(60), family_name="nanodet")  # its two bin counts are left
    assert settle_card(rows(40), family_name="nanodet").params["bins"] == 8  # 11 would take 44


def test_of_two_readings_the_one_with_cocos_eighty_classes_wins():
    assert settle_card(rows(85)).family == "yolox"
    assert settle_card(rows(112)).params["bins"] == 8
    assert settle_card(rows(124)).params["bins"] == 11


def test_names_that_fit_no_reading():
    with pytest.raises(CardError) as caught:
        settle_card(facts("yolov8"), names=("a", "b"))
    for word in ("number of class names is wrong", "got 2 names", "expected 3 classes", "--names FILE"):
        assert word in str(caught.value)
    with pytest.raises(CardError, match=r"got 2 names; expected 16 \| 28 \| 55 classes"):
        settle_card(rows(60), names=("a", "b"))


def test_shapes_of_no_family():
    odd = Facts(("batch", 3, 64, 64), {"boxes": ("n", 7, 7)}, {}, frozenset())
    with pytest.raises(CardError) as caught:
        settle_card(odd)
    for word in (
        "no family fits",
        "boxes [n, 7, 7]",
        " | ".join(registry.names("families")),
        "(64, 64)",
        "docs/models.md",
    ):
        assert word in str(caught.value)
    with pytest.raises(CardError, match="does not look like yolox"):
        settle_card(odd, family_name="yolox")


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"a": ()},
        {"a": ("b", "rows", 8)},
        {"a": ("b", 84, "width")},
        {"a": ("b", 84, 5)},
        {"a": ("b", 4, 84)},
        {"a": ("b", 83, 8)},
        {"a": ("b", 84, 8), "b": ("b", 84, 8)},
        {f"e{i}": ("b", 84, 8) for i in range(6)},
        {f"e{i}": (1,) for i in range(8)},
    ],
)
def test_near_misses_are_nobodys(outputs: dict[str, tuple[int | str, ...]]):
    with pytest.raises(CardError, match="no family fits"):
        settle_card(Facts(("batch", 3, 64, 64), outputs, {}, frozenset()))


def test_pairs_with_as_many_classes_as_distance_bins_are_told_apart_by_name():
    network = facts("nanodet-six", classes=32)
    card = settle_card(network, names=tuple(f"n{i}" for i in range(32)))
    assert card.family == "nanodet"
    assert card.params["bins"] == 8


def test_an_unknown_family_lists_the_known_ones():
    with pytest.raises(OptionError) as caught:
        settle_card(facts(), family_name="yolo8")
    for word in (
        "unknown family",
        "'yolo8'",
        " | ".join(registry.names("families")),
        "Did you mean yolov8?",
    ):
        assert word in str(caught.value)


# ---- the model's own card ----


def test_the_models_own_card_wins_over_the_shapes():
    own = json.dumps(card_to_dict(OWN))
    assert settle_card(facts("nanodet-8", eyas=own)) == OWN
    assert settle_card(facts("nanodet-8", eyas=own, names="{0: 'x', 1: 'y', 2: 'z'}", stride="32")) == OWN


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_a_card_survives_the_deploy_graphs_metadata(kind: str):
    model = zoo.network(kind)
    model.metadata_props.add(key="author", value="someone else")
    network = Network(model, facts_of(model), settle_card(facts_of(model), names=("möwe", "鳥", "'\"")))
    graph = onnx.load_from_string(deploy_graph(network, HeadSpec()).SerializeToString())
    (entry,) = [p for p in graph.metadata_props if p.key == METADATA_KEY]
    assert entry.key == METADATA_KEY
    assert card_from_dict(json.loads(entry.value)) == network.card
    model.metadata_props.append(entry)
    assert settle_card(facts_of(model)) == network.card


def test_a_card_becomes_plain_json_and_comes_back():
    assert card_from_dict(json.loads(json.dumps(card_to_dict(OWN)))) == OWN
    assert card_from_dict(card_to_dict(OWN)) == OWN


def test_flags_win_over_the_models_own_card():
    own = json.dumps(card_to_dict(OWN))
    assert settle_card(facts("nanodet-8", eyas=own), names=("x", "y", "z")) == replace(OWN, names=("x", "y", "z"))
    assert settle_card(facts("nanodet-8", eyas=own), family_name="nanodet") == OWN
    other = settle_card(facts("yolov8", eyas=own), family_name="yolov8")  # nothing of nanodet's is left
    assert other == settle_card(facts("yolov8"), family_name="yolov8", names=NAMES)


@pytest.mark.parametrize("text", ["{", "[1]", "null", "3", ""])
def test_an_own_card_that_is_no_json_object(text: str):
    with pytest.raises(CardError, match=r"the model's own card is not JSON: got .*; expected a JSON object"):
        settle_card(facts(eyas=text))


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_a_full_card_with_the_wrong_number_of_classes_contradicts_the_graph(kind: str):
    card = settle_card(facts(kind), names=NAMES)
    own = json.dumps(card_to_dict(replace(card, names=("a", "b"))))
    model = zoo.network(kind)
    wrong = settle_card(facts(kind, eyas=own))
    with pytest.raises(CardError) as caught:
        deploy_graph(Network(model, facts_of(model), wrong), HeadSpec())
    for word in ("the card says", card.family, "with 2 classes", ": got input", "--names"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"strides": [8, 16, 32]},
        {"strides": [0], "bins": 8, "shift": 0.5},
        {"strides": 8, "bins": 8, "shift": 0.5},
        {"strides": [], "bins": 8, "shift": 0.5},
        {"strides": ["8"], "bins": 8, "shift": 0.5},
        {"strides": [8, 16, 32], "bins": 0, "shift": 0.5},
        {"strides": [8, 16, 32], "bins": "8", "shift": 0.5},
        {"strides": [8, 16, 32], "bins": 8, "shift": "half"},
        {"strides": [8, 16, 32], "bins": 11, "shift": 0.5},
        {"strides": [8, 16], "bins": 8, "shift": 0.5},
    ],
)
def test_params_that_do_not_fit_contradict_the_graph(params: dict[str, Any]):
    model = zoo.network("nanodet-8")
    card = settle_card(facts("nanodet-8", eyas=json.dumps(card_to_dict(OWN) | {"params": params})))
    with pytest.raises(CardError, match="nanodet"):
        deploy_graph(Network(model, facts_of(model), card), HeadSpec())


def test_a_card_of_another_family_contradicts_the_graph():
    model = zoo.network("nanodet-8")
    for family in ("yolov8", "yolox"):
        own = json.dumps(card_to_dict(replace(OWN, family=family)))
        card = settle_card(facts("nanodet-8", eyas=own))
        with pytest.raises(CardError, match=f"the card says {family} with 3 classes, but the graph does not fit"):
            deploy_graph(Network(model, facts_of(model), card), HeadSpec())
    six = zoo.network("nanodet-six")
    with pytest.raises(CardError, match="but the graph does not fit"):
        deploy_graph(Network(six, facts_of(six), replace(OWN, family="yolox")), HeadSpec())


# ---- Ultralytics' keys ----

ULTRALYTICS = {"description": "Ultralytics YOLOv8n model", "stride": "32", "task": "detect", "imgsz": "[64, 64]"}


@pytest.mark.parametrize("names", ["{0: 'ant', 1: 'bee', 2: 'cow'}", "['ant', 'bee', 'cow']"])
def test_ultralytics_names(names: str):
    card = settle_card(facts("yolov8", **ULTRALYTICS, names=names))
    assert (card.family, card.names) == ("yolov8", NAMES)


def test_ultralytics_names_come_in_order_of_their_ids():
    card = settle_card(facts("yolov8", **ULTRALYTICS, names="{2: 'cow', 0: 'ant', 1: 'it\\'s a bee'}"))
    assert card.names == ("ant", "it's a bee", "cow")


def test_flags_win_over_ultralytics_names():
    network = facts("yolov8", **ULTRALYTICS, names="{0: 'x', 1: 'y', 2: 'z'}")
    assert settle_card(network, names=NAMES).names == NAMES


@pytest.mark.parametrize(
    "names",
    [
        "{0: 'ant', 1:",
        "{0: 'ant', 2: 'cow'}",
        "{'0': 'ant'}",
        "3",
        "print('x')",
        "{0: open('/etc/passwd')}",
        "{1, 2}",
        "",
    ],
)
def test_ultralytics_names_that_cannot_be_read(names: str):
    with pytest.raises(CardError) as caught:
        settle_card(facts("yolov8", **ULTRALYTICS, names=names))
    for word in ("names that cannot be read", f"got {names[:80]}", "a Python dictionary", "--names FILE"):
        assert word in str(caught.value)


def test_ultralytics_names_of_another_number_than_the_outputs_have():
    with pytest.raises(CardError, match="got 2 names; expected 3 classes"):
        settle_card(facts("yolov8", **ULTRALYTICS, names="{0: 'ant', 1: 'bee'}"))
    with pytest.raises(CardError, match="got 0 names; expected 3 classes"):
        settle_card(facts("yolov8", **ULTRALYTICS, names="{}"))
    with pytest.raises(CardError, match="class names is wrong"):
        settle_card(facts("yolov8", **ULTRALYTICS, names="{0: 1, 1: 2, 2: 3}"))


@pytest.mark.parametrize("task", ["segment", "pose", "classify", "embed"])
def test_a_task_that_the_outputs_do_not_fit(task: str):
    keys = ULTRALYTICS | {"task": task, "names": "{0: 'ant', 1: 'bee', 2: 'cow'}"}
    with pytest.raises(CardError, match=f"no family of the task '{task}' fits the network"):
        settle_card(facts("yolov8", **keys))
    model = zoo.network("nanodet-8")
    card = settle_card(facts("nanodet-8", eyas=json.dumps(card_to_dict(replace(OWN, task=task)))))
    with pytest.raises(CardError, match=f"got task {task} with family nanodet; expected task detect"):
        deploy_graph(Network(model, facts_of(model), card), HeadSpec())


def test_a_task_that_does_not_exist():
    keys = ULTRALYTICS | {"task": "fly", "names": "{0: 'ant', 1: 'bee', 2: 'cow'}"}
    with pytest.raises(CardError, match=r"got task 'fly' in the card.*; expected detect \| pose"):
        settle_card(facts("yolov8", **keys))


def test_somebody_elses_names_key_is_not_ultralytics():
    assert settle_card(facts("yolov8", names="whatever"), names=NAMES).names == NAMES


# ---- a card file ----


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"iou": 0.3}, {"iou": 0.3}),
        ({"resize": "stretch", "pad_value": 9}, {"resize": "stretch", "pad_value": 9}),
        ({"names": ["x", "y", "z"]}, {"names": ("x", "y", "z")}),
        ({"params": {"shift": 0.0}}, {"params": {"strides": [8, 16, 32], "bins": 8, "shift": 0.0}}),
        (
            {"normalise": {"colour": "rgb", "mean": [0, 0, 0], "scale": [1, 1, 1]}},
            {"normalise": Normalise("rgb", (0, 0, 0), (1, 1, 1))},
        ),
        ({}, {}),
    ],
)
def test_the_fields_of_a_card_file_win_and_the_others_are_found(tmp_path: Path, fields: dict[str, Any], want: dict):
    bare = settle_card(facts("nanodet-8"), family_name="nanodet", names=NAMES)
    keywords: dict[str, Any] = {} if "names" in fields else {"names": NAMES}
    card = settle_card(facts("nanodet-8"), read_card(written(tmp_path, fields)), **keywords)
    assert card == replace(bare, **want)
    own = json.dumps(card_to_dict(replace(OWN, params=bare.params)))
    expected = replace(replace(OWN, params=bare.params), **want)
    if "params" in fields:  # a full own card: the file's params are all there is
        expected = replace(expected, params={"shift": 0.0})
    assert settle_card(facts("nanodet-8", eyas=own), read_card(written(tmp_path, fields))) == expected


def test_family_names_and_normalisation_alone_leave_the_rest_to_the_family(tmp_path: Path):
    """The legacy YOLOX: everything but the normalisation is as it is today."""
    legacy = {"colour": "rgb", "mean": [123.675, 116.28, 103.53], "scale": [0.017, 0.017, 0.017]}
    fields = {"family": "yolox", "names": list(NAMES), "normalise": legacy}
    card = settle_card(facts("yolox-decoded"), read_card(written(tmp_path, fields)))
    assert card == replace(
        settle_card(facts("yolox-decoded"), names=NAMES),
        normalise=Normalise("rgb", (123.675, 116.28, 103.53), (0.017, 0.017, 0.017)),
    )
    assert card.params == {"decoded": True}
    assert card.resize == "letterbox-topleft"


def test_a_family_in_a_card_file_decides_but_a_flag_decides_first(tmp_path: Path):
    path = written(tmp_path, {"family": "yolox"})
    assert settle_card(rows(60), read_card(path)).family == "yolox"
    with pytest.raises(CardError, match="does not look like yolov8"):
        settle_card(rows(60), read_card(path), family_name="yolov8")
    with pytest.raises(OptionError, match="unknown family: got 'what'"):
        settle_card(rows(60), read_card(written(tmp_path, {"family": "what"})))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("{", ("is not JSON", "got {", "a JSON object")),
        ("[1, 2]", ("is not JSON", "a JSON object")),
        ({"colour": "bgr"}, ("unknown fields colour", "normalise")),
        ({"iou": 0}, ("IoU threshold is wrong", "over 0, up to 1")),
        ({"iou": "high"}, ("TypeError",)),
        ({"pad_value": 300}, ("pad value is wrong", "0 to 255")),
        ({"pad_value": None}, ("TypeError",)),
        ({"resize": "warp"}, ("resize rule is wrong", "letterbox | letterbox-topleft | stretch | crop")),
        ({"names": []}, ("class names is wrong", "at least one")),
        ({"names": 3}, ("the card's names cannot be read", "got 3", "a list")),
        ({"names": "ant"}, ("the card's names cannot be read", "got 'ant'", "a list")),
        ({"names": ["a", "", "c"]}, ("class names is wrong", "none empty")),
        ({"names": ["a", 2, "c"]}, ("class names is wrong", "none empty")),
        ({"family": 8}, ("the card's family cannot be read", "got 8", "a string")),
        ({"family": ["yolox"]}, ("the card's family cannot be read", "a string")),
        ({"params": 8}, ("the card's params cannot be read", "a JSON object")),
        ({"task": "fly"}, ("task is not supported", "'fly'", "detect | pose")),
        ({"normalise": None}, ("TypeError",)),
        ({"normalise": {"colour": "rgb"}}, ("KeyError: 'mean'",)),
        ({"normalise": {"colour": "rgb", "mean": [0, 0], "scale": [1, 1, 1]}}, ("ValueError",)),
        (
            {"normalise": {"colour": "hsv", "mean": [0] * 3, "scale": [1] * 3}},
            ("normalisation makes no sense", "'hsv'"),
        ),
        ({"normalise": {"colour": "rgb", "mean": [0] * 3, "scale": [1, 0, 1]}}, ("normalisation makes no sense",)),
        ('{"normalise": {"colour": "rgb", "mean": [0, NaN, 0], "scale": [1, 1, 1]}}', ("makes no sense", "finite")),
    ],
)
def test_a_card_file_that_makes_no_sense(tmp_path: Path, fields: Any, words: tuple[str, ...]):
    path = written(tmp_path, fields)
    keywords: dict[str, Any] = {} if isinstance(fields, dict) and "names" in fields else {"names": NAMES}
    with pytest.raises(CardError) as caught:
        settle_card(facts("yolov8"), read_card(path), **keywords)
    for word in (": got ", "; expected ", *words):
        assert word in str(caught.value)


def test_a_card_without_the_fields_that_must_be_there():
    for field in ("family", "names", "normalise", "input_size"):
        fields = card_to_dict(OWN)
        del fields[field]
        with pytest.raises(CardError, match=r"the card cannot be read: got .*; expected the fields crop, family"):
            card_from_dict(fields)


@pytest.mark.parametrize("size", [[64], [0, 64], ["a", 64], 64, [64, 20000], None])
def test_an_input_size_that_makes_no_sense(size: Any):
    with pytest.raises(CardError):
        card_from_dict(card_to_dict(OWN) | {"input_size": size})


def test_a_card_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(CardError, match=r"the card file cannot be read: got .*absent\.json.*; expected a text file"):
        read_card(tmp_path / "absent.json")
    with pytest.raises(CardError, match="the card file cannot be read"):
        read_card(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CardError, match="the card file cannot be read"):
        read_card(tmp_path / "binary.json")


# ---- names and ids ----


def test_a_file_of_names(tmp_path: Path):
    path = tmp_path / "names.txt"
    for text in ("ant\nbee\ncow", "ant\nbee\ncow\n\n", "  ant \r\nbee\r\ncow\r\n", "\ufeffant\nbee\ncow\n"):
        path.write_text(text, encoding="utf-8", newline="")
        assert read_names(path) == NAMES
    path.write_text("traffic light\nmöwe\n", encoding="utf-8")
    assert read_names(path) == ("traffic light", "möwe")


@pytest.mark.parametrize("text", ["", "\n\n", "ant\n\ncow\n", "\nant\n"])
def test_a_file_with_an_empty_name(tmp_path: Path, text: str):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(CardError, match="is no list of names: got an empty line; expected one name a line"):
        read_names(tmp_path / "names.txt")


def test_a_file_of_names_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(CardError, match=r"the names file cannot be read: got .*absent\.txt"):
        read_names(tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes("möwe".encode("latin-1"))
    with pytest.raises(CardError, match="the names file cannot be read"):
        read_names(tmp_path / "latin.txt")


def test_ids_of_classes():
    assert class_ids(None, NAMES) is None
    assert class_ids(["cow", "ant"], NAMES) == (0, 2)
    assert class_ids([1, "1", "bee"], NAMES) == (1,)
    assert class_ids([0, 1, 2], NAMES) == (0, 1, 2)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (["cwo"], ("got cwo", "ids from 0 to 2", "Did you mean cow?")),
        ([3], ("got 3",)),
        ([-1], ("got -1",)),
        (["ant", "dog", "elk"], ("got dog, elk", "eyas info MODEL")),
        ([], ("got none",)),
        (["Ant"], ("got Ant", "Did you mean ant?")),
        ([1.5], ("got 1.5",)),
    ],
)
def test_ids_of_classes_that_do_not_exist(wanted: list[Any], words: tuple[str, ...]):
    with pytest.raises(OptionError) as caught:
        class_ids(wanted, NAMES)
    for word in ("classes (--classes)", *words):
        assert word in str(caught.value)


def test_one_class_need_not_be_a_list():
    assert class_ids("bee", NAMES) == class_ids(1, NAMES) == (1,)
