"""The families that the zoo does not hold: synthetic networks, decoded again in plain NumPy, on two runtimes."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnx
import oracles
import pytest
import zoo
from conftest import ROOT
from numpy.typing import NDArray
from onnx import helper

import eyas
from eyas import registry
from eyas.backends import backend
from eyas.build import Network, deploy_graph, open_network
from eyas.card import settle_card
from eyas.coco import COCO80
from eyas.errors import CardError
from eyas.families import Guess, family
from eyas.graph.head import HeadSpec
from eyas.graph.network import Facts, facts_of
from eyas.nms import greedy_nms
from eyas.outputs import Outputs
from eyas.types import BuildSpec, ModelCard, Normalise

# The second in the slow suite.
RUNTIMES = ("onnxruntime", pytest.param("openvino", marks=pytest.mark.slow))
NAMES = ("ant", "bee", "cow")
SIZE = (96, 64)
P5, P6 = (8, 16, 32), (8, 16, 32, 64)
LIMITS = np.array([[0, 1], [0, 0.5], [0.2, 0.7], [0.3, 0.45], [0.4, 0.3]], np.float32)
RGB = Normalise("rgb", scale=(1 / 255, 1 / 255, 1 / 255))
Decoded = tuple[NDArray[np.float32], NDArray[np.float32]]  # boxes [N, 4], scores [N, C]

# As yolov5s.yaml and yolov5s6.yaml give them: width, height, finest stride first.
COCO_ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
COCO_ANCHORS_P6 = [
    [[19, 27], [44, 40], [38, 94]],
    [[96, 68], [86, 152], [180, 137]],
    [[140, 301], [303, 264], [238, 542]],
    [[436, 615], [739, 380], [925, 792]],
]
OWN_ANCHORS = [[[4, 5], [6, 7], [9, 8]], [[11, 13], [17, 12], [20, 21]], [[25, 30], [33, 28], [40, 41]]]


# ---- networks ----


def begin(seed: int = 3, opset: int = 17) -> tuple[zoo.Net, str]:
    net = zoo.Net(seed, opset, np.float32)
    return net, net.op("Tanh", net.conv("input", 3, 6, 2))


def finish(
    net: zoo.Net, outputs: dict[str, tuple[str, list[int]]], size: tuple[int, int] = SIZE, **metadata: str
) -> onnx.ModelProto:
    """The network with these outputs: name → (edge, shape without the batch)."""
    for name, (edge, _) in outputs.items():
        net.nodes.append(helper.make_node("Identity", [edge], [name]))
    graph = helper.make_graph(
        net.nodes,
        "network",
        [helper.make_tensor_value_info("input", 1, ["batch", 3, *size])],
        [helper.make_tensor_value_info(name, 1, ["batch", *shape]) for name, (_, shape) in outputs.items()],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def cells(stride: int, size: tuple[int, int] = SIZE) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def yolov5(
    layout: str, strides: tuple[int, ...] = P5, classes: int = 3, opset: int = 17, size: tuple[int, int] = SIZE
) -> onnx.ModelProto:
    """layout: "decoded", "decoded and raw", "maps of five axes", "maps of four axes", "maps after a sigmoid"."""
    net, trunk = begin(opset=opset)
    width, anchors = 5 + classes, COCO_ANCHORS if len(strides) == 3 else COCO_ANCHORS_P6
    rows: list[str] = []
    flat: dict[str, tuple[str, list[int]]] = {}
    maps: dict[str, tuple[str, list[int]]] = {}
    for stride, level in zip(strides, anchors, strict=True):
        (h, w), raw = cells(stride, size), net.conv(trunk, 6, 3 * width, stride // 2)
        if layout == "maps after a sigmoid":
            raw = net.op("Sigmoid", raw)
        flat[f"p{stride}"] = raw, [3 * width, h, w]
        five = net.op("Transpose", net.reshape(raw, 0, 3, width, h, w), perm=[0, 1, 3, 4, 2])
        maps[f"p{stride}"] = five, [3, h, w, width]
        ys, xs = np.mgrid[:h, :w]
        corner = net.const(np.stack([xs, ys], -1)[None, None] - 0.5)
        y = net.op("Sigmoid", five)
        xy = net.op("Add", net.op("Mul", net.slice(y, 0, 2, 4), net.const([2.0])), corner)
        wh = net.op("Pow", net.op("Mul", net.slice(y, 2, 4, 4), net.const([2.0])), net.const([2.0]))
        wh = net.op("Mul", wh, net.const(np.reshape(level, (1, 3, 1, 1, 2))))
        xy = net.op("Mul", xy, net.const([float(stride)]))
        rows.append(net.reshape(net.op("Concat", xy, wh, net.slice(y, 4, width, 4), axis=4), 0, -1, width))
    count = sum(3 * np.prod(cells(s, size)) for s in strides)
    decoded = {"output0": (net.op("Concat", *rows, axis=1), [int(count), width])}
    if layout == "decoded":
        return finish(net, decoded, size)
    if layout == "decoded and raw":
        return finish(net, decoded | maps, size)
    coarse_first = reversed((maps if layout == "maps of five axes" else flat).items())  # their order must not matter
    return finish(net, dict(coarse_first), size)


def yolov6(strides: tuple[int, ...] = P5, classes: int = 3) -> onnx.ModelProto:
    """As its exporter writes it: distances → corners → centre and extent, times stride; ones; scores."""
    net, trunk = begin()
    sides, scores = [], []
    for s in strides:
        sides.append(net.reshape(net.op("Relu", net.conv(trunk, 6, 4, s // 2)), 0, 4, -1))
        scores.append(net.reshape(net.op("Sigmoid", net.conv(trunk, 6, classes, s // 2)), 0, classes, -1))
    sides, scores = (net.op("Transpose", net.op("Concat", *parts, axis=2), perm=[0, 2, 1]) for parts in (sides, scores))
    at = oracles.centres(SIZE, strides, 0.5)
    point, step = net.const(at[None, :, :2] / at[None, :, 2:]), net.const(at[None, :, 2:])
    low = net.op("Sub", point, net.slice(sides, 0, 2, 2))
    high = net.op("Add", point, net.slice(sides, 2, 4, 2))
    centre = net.op("Div", net.op("Add", low, high), net.const([2.0]))
    box = net.op("Mul", net.op("Concat", centre, net.op("Sub", high, low), axis=2), step)
    ones = net.op("Add", net.op("Mul", net.slice(sides, 0, 1, 2), net.const([0.0])), net.const([1.0]))
    rows = net.op("Concat", box, ones, scores, axis=2)
    return finish(net, {"outputs": (rows, [len(at), 5 + classes])})


def end2end(classes: int = 3, kept: int = 20) -> onnx.ModelProto:
    """Boxes and scores of one grid, the best `kept` of them chosen in the graph, as YOLOv10 does."""
    net, trunk = begin()
    n = int(np.prod(cells(16)))
    raw = net.op("Transpose", net.reshape(net.conv(trunk, 6, 4 + classes, 8), 0, 4 + classes, n), perm=[0, 2, 1])
    at = oracles.centres(SIZE, (16,), 0.5)[None]
    sides = net.op("Mul", net.op("Sigmoid", net.slice(raw, 0, 4, 2)), net.const([40.0]))
    box = net.op("Concat", net.op("Sub", net.const(at[..., :2]), net.slice(sides, 0, 2, 2)),
                 net.op("Add", net.const(at[..., :2]), net.slice(sides, 2, 4, 2)), axis=2)  # fmt: skip
    scores = net.op("Sigmoid", net.slice(raw, 4, 4 + classes, 2))
    label = net.op("Cast", net.op("ArgMax", scores, axis=2, keepdims=1), to=1)
    rows = net.op("Concat", box, net.op("ReduceMax", scores, axes=[2], keepdims=1), label, axis=2)
    best = net.op("Squeeze", net.slice(rows, 4, 5, 2), net.const([2], np.int64))
    net.nodes.append(helper.make_node("TopK", [best, net.const([kept], np.int64)], ["value", "index"], "top", axis=1))
    index = net.op("Unsqueeze", "index", net.const([2], np.int64))
    index = net.op("Mul", index, net.const(np.ones((1, 1, 6)), np.int64))
    return finish(net, {"output0": (net.op("GatherElements", rows, index, axis=1), [kept, 6])})


def detr(layout: str, classes: int = 3, queries: int = 30) -> onnx.ModelProto:
    """One attention from learnt queries to cells. layout: "logits", "scores", "merged", "rfdetr", "softmax"."""
    net, trunk = begin()
    n = int(np.prod(cells(8)))
    keys = net.reshape(net.conv(trunk, 6, 6, 4), 0, 6, n)
    query = net.const(net.rng.normal(0, 3, (1, queries, 6)))
    share = net.op("Softmax", net.op("MatMul", query, keys), axis=2)
    token = net.op("MatMul", share, net.op("Transpose", keys, perm=[0, 2, 1]))
    token = net.op("Add", token, query)

    def linear(width: int) -> str:
        product = net.op("MatMul", token, net.const(net.rng.normal(0, 0.4, (6, width))))
        return net.op("Add", product, net.const(net.rng.normal(0, 0.3, width)))

    box, chances = net.op("Sigmoid", linear(4)), linear(classes)
    if layout == "merged":
        both = net.op("Concat", box, net.op("Sigmoid", chances), axis=2)
        return finish(net, {"output0": (both, [queries, 4 + classes])})
    if layout in ("scores", "softmax"):
        chances = net.op("Sigmoid", chances) if layout == "scores" else net.op("Softmax", chances, axis=2)
        chances = net.reshape(chances, 0, queries, classes)  # a view does not hide what has been done
    names = ("dets", "labels") if layout == "rfdetr" else ("pred_boxes", "logits")
    outputs = {names[1]: (chances, [queries, classes]), names[0]: (box, [queries, 4])}
    return finish(net, outputs if layout == "logits" else dict(reversed(outputs.items())))


# ---- the same in NumPy ----


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return 1 / (1 + np.exp(-x))


def raw_maps(outputs: list[NDArray[np.float32]], anchors: list[Any], rule: str, final: bool) -> Decoded:
    """Maps of any order and layout → boxes and scores, one cell after the other."""
    boxes, scores = [], []
    for y in sorted(outputs, key=lambda o: -o[0].size):
        if y.ndim == 4:
            _, channels, h, w = y.shape
            y = y.reshape(1, 3, channels // 3, h, w).transpose(0, 1, 3, 4, 2)
        stride = SIZE[0] // y.shape[2]
        level = anchors[P5.index(stride)]
        for a in range(3):
            for r in range(y.shape[2]):
                for c in range(y.shape[3]):
                    t = y[0, a, r, c]
                    s = t if final else sigmoid(t)
                    if rule == "v3":
                        cx, cy, bw, bh = s[0] + c, s[1] + r, np.exp(t[2]), np.exp(t[3])
                    else:
                        cx, cy = 2 * s[0] - 0.5 + c, 2 * s[1] - 0.5 + r
                        bw, bh = (2 * s[2]) ** 2, (2 * s[3]) ** 2
                    boxes.append([cx * stride, cy * stride, bw * level[a][0], bh * level[a][1]])
                    scores.append(s[4] * s[5:])
    return oracles.corners(np.array(boxes, np.float32)), np.array(scores, np.float32)


def rows_with_objectness(outputs: list[NDArray[np.float32]]) -> Decoded:
    rows = next(o for o in outputs if o.ndim == 3)[0]
    return oracles.corners(rows[:, :4]), rows[:, 4:5] * rows[:, 5:]


def rows_with_class(outputs: list[NDArray[np.float32]], classes: int = 3) -> Decoded:
    (rows,) = outputs[0]
    scores = np.zeros((len(rows), classes), np.float32)
    for i, row in enumerate(rows):
        scores[i, int(row[5])] = row[4]
    return rows[:, :4], scores


def queries_in_shares(outputs: list[NDArray[np.float32]], logits: bool) -> Decoded:
    if len(outputs) == 1:
        box, scores = outputs[0][0, :, :4], outputs[0][0, :, 4:]
    else:
        box, scores = (o[0] for o in outputs)
    height, width = SIZE
    boxes = oracles.corners(box * np.array([width, height, width, height], np.float32))
    return boxes, sigmoid(scores) if logits else scores


def reference(
    model: onnx.ModelProto, images: NDArray[np.uint8], decode: Callable[..., Decoded], blob: Any = oracles.blob_rgb
) -> list[Decoded]:
    """Boxes and scores of each picture: the raw network on ONNX Runtime, all else in NumPy."""
    ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [decode(session.run(None, {"input": blob(image)})) for image in images]


# ---- running ----


def opened(model: onnx.ModelProto, names: tuple[str, ...] | None = NAMES, **params: Any) -> Network:
    """Recognised without a flag but the names."""
    facts = facts_of(model)
    card = settle_card(facts, names=names)
    return Network(model, facts, replace(card, params={**card.params, **params}))


def infer(network: Network, runtime: str, images: NDArray[np.uint8], head: HeadSpec | None = None) -> Outputs:
    graph = deploy_graph(network, head or HeadSpec())
    onnx.checker.check_model(graph, full_check=True)
    engine = backend(runtime).open_engine(graph, BuildSpec(precision="fp32", batch=(1, 5, 5)))
    try:
        return engine.infer({"images": images, "thresholds": LIMITS[: len(images)]})
    finally:
        engine.close()


def assert_same(got: Outputs, wanted: list[Decoded], suppress: bool = True, multi_label: bool = False) -> None:
    """Each picture's rows are the oracle's."""
    assert len(got["count"]) == len(wanted)
    assert got["count"].max() > 3
    for i, (boxes, scores) in enumerate(wanted):
        limits = map(float, LIMITS[i])
        want = oracles.detect(boxes, scores, *limits, 300, suppress=suppress, multi_label=multi_label)
        rows = got["detections"][i, : got["count"][i]]
        if not got["converged"][i]:
            rows = rows[greedy_nms(rows[:, :4], rows[:, 5], float(LIMITS[i, 1]))]
        np.testing.assert_array_equal(rows[:, 5], want[:, 5], err_msg=f"classes of picture {i}")
        np.testing.assert_allclose(rows[:, 4], want[:, 4], atol=1e-5, err_msg=f"scores of picture {i}")
        np.testing.assert_allclose(rows[:, :4], want[:, :4], atol=2e-3, rtol=1e-5, err_msg=f"boxes of picture {i}")


def readings(facts: Facts) -> list[tuple[str, int | None]]:
    """What every family takes it for."""
    return [(name, g.classes) for name in registry.names("families") for g in family(name).recognise(facts)]


# ---- YOLOv5 ----

RAW = ("maps of five axes", "maps of four axes", "maps after a sigmoid")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("layout", ["decoded", "decoded and raw", *RAW])
def test_yolov5(layout: str, runtime: str):
    model, images = yolov5(layout), zoo.pictures(5, SIZE)
    assert readings(facts_of(model)) == [("yolov5", 3)]
    network = opened(model)
    assert (network.card.normalise, network.card.resize, network.card.pad_value) == (RGB, "letterbox", 114)
    assert network.card.iou == 0.45
    if layout in RAW:
        final = layout == "maps after a sigmoid"
        assert network.card.params["logits"] is not final
        wanted = reference(model, images, lambda outputs: raw_maps(outputs, COCO_ANCHORS, "v5", final))
    else:
        assert network.card.params == {"strides": [8, 16, 32]}
        wanted = reference(model, images, rows_with_objectness)
    assert_same(infer(network, runtime, images), wanted)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("final", [False, True])
def test_yolov3_is_said_in_the_card(runtime: str, final: bool):
    model, images = yolov5("maps after a sigmoid" if final else "maps of four axes"), zoo.pictures(5, SIZE)
    network = opened(model, decode="v3", anchors=OWN_ANCHORS)
    wanted = reference(model, images, lambda outputs: raw_maps(outputs, OWN_ANCHORS, "v3", final))
    assert_same(infer(network, runtime, images), wanted)


def test_raw_and_decoded_are_one():
    """Our anchors and rule against the graph's own decode of the same weights."""
    images = zoo.pictures(2, SIZE)
    raw, decoded = (infer(opened(yolov5(layout)), "onnxruntime", images) for layout in (RAW[0], "decoded"))
    np.testing.assert_allclose(raw["detections"], decoded["detections"], atol=2e-3, rtol=1e-5)


@pytest.mark.parametrize("layout", ["decoded", "maps of four axes"])
def test_yolov5_with_four_strides(layout: str):
    model, images = yolov5(layout, P6), zoo.pictures(2, SIZE)
    network = opened(model)
    assert network.card.params["strides"] == [8, 16, 32, 64]
    wanted = reference(yolov5("decoded", P6), images, rows_with_objectness)
    assert_same(infer(network, "onnxruntime", images), wanted)


@pytest.mark.parametrize("layout", ["decoded", "maps of five axes", "maps of four axes"])
@pytest.mark.parametrize("opset", [11, 18])
def test_yolov5_with_one_class(layout: str, opset: int):
    model, images = yolov5(layout, classes=1, opset=opset), zoo.pictures(2, SIZE)
    assert readings(facts_of(model)) == [("yolov5", 1)]
    wanted = reference(yolov5("decoded", classes=1), images, rows_with_objectness)
    assert_same(infer(opened(model, ("face",)), "onnxruntime", images), wanted)


def test_yolov5_reports_every_class_of_a_row_if_asked():
    model, images = yolov5("maps of five axes"), zoo.pictures(2, SIZE)
    wanted = reference(model, images, lambda outputs: raw_maps(outputs, COCO_ANCHORS, "v5", False))
    got = infer(opened(model), "openvino", images, HeadSpec(multi_label=True))
    assert_same(got, wanted, multi_label=True)


@pytest.mark.parametrize(
    "params",
    [
        {"strides": None},
        {"strides": [8, 16]},
        {"strides": 8},
        {"decode": "v4"},
        {"anchors": OWN_ANCHORS[:2]},
        {"anchors": [[[1, 2]]]},
        {"anchors": "many"},
        {"anchors": [[[0, 1]] * 3] * 3},
        {"anchors": [[1, 2], [3]]},
    ],
)
def test_yolov5_params_that_make_no_sense(params: dict[str, Any]):
    with pytest.raises(CardError, match=r"the card's params do not fit yolov5: got .*; expected strides"):
        deploy_graph(opened(yolov5("maps of five axes"), **params), HeadSpec())


# ---- YOLOv6 ----


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("strides", [P5, P6])
def test_yolov6(strides: tuple[int, ...], runtime: str):
    model, images = yolov6(strides), zoo.pictures(5, SIZE)
    assert readings(facts_of(model)) == [("yolov6", 3)]
    network = opened(model)
    assert (network.card.normalise, network.card.resize, network.card.pad_value) == (RGB, "letterbox", 114)
    assert_same(infer(network, runtime, images), reference(model, images, rows_with_objectness))


@pytest.mark.parametrize("kind", ["yolox", "yolox-decoded"])
def test_yolox_is_not_yolov6(kind: str):
    assert readings(facts_of(zoo.network(kind))) == [("yolox", 3)]


def test_where_two_families_are_left_both_are_named():
    with pytest.raises(CardError) as caught:
        settle_card(facts_of(yolov6(classes=40)))
    for word in ("nanodet with 13 classes", "nanodet with 1 classes", "yolov6 with 40 classes", "--family"):
        assert word in str(caught.value)
    assert "yolox" not in str(caught.value)
    assert settle_card(facts_of(yolov6(classes=40)), family_name="yolov6").family == "yolov6"


# ---- end to end ----


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_end2end(runtime: str):
    model, images = end2end(), zoo.pictures(5, SIZE)
    assert readings(facts_of(model)) == [("end2end", None)]
    network = opened(model)
    assert (network.card.family, network.card.names, network.card.normalise) == ("end2end", NAMES, RGB)
    wanted = reference(model, images, rows_with_class)
    got = infer(network, runtime, images)
    assert got["converged"].all()
    assert_same(got, wanted, suppress=False)
    assert len(oracles.detect(*wanted[4], *map(float, LIMITS[4]), 300)) < got["count"][4], "nothing to suppress"
    assert_same(infer(network, runtime, images, HeadSpec(multi_label=True)), wanted, suppress=False)


def test_end2end_has_cocos_classes_unless_names_say_otherwise(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="eyas"):
        assert settle_card(facts_of(end2end())).names == COCO80
    assert ["COCO's 80 are taken" in r.message for r in caplog.records] == [True]
    names = {"names": "{0: 'ant', 1: 'bee'}", "stride": "32", "task": "detect"}
    card = settle_card(replace(facts_of(end2end()), metadata=names))
    assert (card.family, card.names) == ("end2end", ("ant", "bee"))


def test_end2end_rows_of_classes_without_a_name_are_dropped():
    model, images = end2end(), zoo.pictures(1, SIZE)
    ((boxes, scores),) = reference(model, images, rows_with_class)
    assert scores[:, 2].any()
    assert_same(infer(opened(model, NAMES[:2]), "openvino", images), [(boxes, scores[:, :2])], suppress=False)


@pytest.mark.parametrize("count", [126, 378, 1001, "rows"])
def test_rows_of_six_that_are_grid_cells_or_many_are_not_end2end(count: int | str):
    facts = Facts(("b", 3, *SIZE), {"output": ("b", count, 6)}, {}, frozenset())
    assert "end2end" not in dict(readings(facts))


def test_any_number_of_classes_is_said_so(monkeypatch: pytest.MonkeyPatch):
    card = settle_card(facts_of(end2end()))
    monkeypatch.setattr(family("detr"), "recognise", lambda facts: [Guess(80, RGB)])
    with pytest.raises(CardError, match="detr with 80 classes or end2end with any number of classes"):
        settle_card(facts_of(end2end()))
    model = yolov6()
    with pytest.raises(CardError, match="the card says end2end with 3 classes, but the graph does not fit"):
        deploy_graph(Network(model, facts_of(model), replace(card, names=NAMES)), HeadSpec())


# ---- DETR's descendants ----


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("classes", [3, 4])
@pytest.mark.parametrize("layout", ["logits", "scores", "merged", "rfdetr"])
def test_detr(layout: str, classes: int, runtime: str):
    model, images = detr(layout, classes), zoo.pictures(5, SIZE)
    assert readings(facts_of(model)) == [("detr", classes)]
    network = opened(model, (*NAMES, "dog")[:classes])
    logits = layout in ("logits", "rfdetr")
    assert (network.card.params, network.card.resize) == ({"logits": logits}, "stretch")
    blob = imagenet_rgb if layout == "rfdetr" else oracles.blob_rgb
    wanted = reference(model, images, lambda o: queries_in_shares(by_name(model, o), logits), blob)
    got = infer(network, runtime, images)
    assert got["converged"].all()
    assert_same(got, wanted, suppress=False)


def imagenet_rgb(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB / 255, minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)."""
    unit = image[..., ::-1].astype(np.float32) / 255
    scaled = (unit - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], dtype=np.float32)


def by_name(model: onnx.ModelProto, outputs: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Boxes first, where there are two outputs."""
    names = [o.name for o in model.graph.output]
    return outputs if len(names) == 1 or names[0] in ("pred_boxes", "dets") else outputs[::-1]


def test_a_softmax_over_classes_and_no_object_is_not_of_this_family():
    assert readings(facts_of(detr("softmax"))) == []


@pytest.mark.parametrize(
    "outputs",
    [
        {"a": ("b", 84, 8400)},  # a YOLO with attention, at strides that we do not know
        {"a": ("b", 126, 8)},  # as many as a grid has
        {"a": ("b", 300, 6)},  # end to end
        {"a": ("b", 300, 4)},
        {"a": ("b", 1001, 4), "c": ("b", 1001, 9)},
        {"a": ("b", 300, 4), "c": ("b", 200, 9)},
        {"a": ("b", 300, 4), "c": ("b", "rows", 9)},
        {"a": ("b", 300, 5), "c": ("b", 300, 9)},
        {"a": ("b", 300, 4), "c": ("b", 300, 4)},  # four classes, and names that do not tell
        {"a": ("b", 300, 4), "c": ("b", 300, 9), "e": ("b", 300, 9)},
        {"a": ("b", 300, 4), "c": ("b", 300)},
    ],
)
def test_near_misses_are_not_detr(outputs: dict[str, tuple[int | str, ...]]):
    facts = Facts(("b", 3, *SIZE), outputs, {}, frozenset({"Softmax", "MatMul"}))
    assert "detr" not in dict(readings(facts))


# ---- what a graph says of its end ----


def test_the_tail_is_what_no_product_depends_on():
    net, trunk = begin()
    product = net.op("MatMul", net.op("Relu", trunk), net.const(np.ones((32, 5))))
    biased = net.op("Add", product, net.const(np.ones(5)))
    y = net.op("Transpose", net.op("Exp", biased), perm=[0, 1, 3, 2])
    facts = facts_of(finish(net, {"y": (y, [6, 5, 48]), "z": (net.op("Neg", "input"), [3, *SIZE])}))
    assert facts.tail == {"Exp", "Transpose", "Neg", "Identity"}
    assert facts.makers == {"y": "Exp", "z": "Neg"}
    assert {"Relu", "Tanh", "Conv", "Add"} <= facts.ops


def test_arithmetic_on_shapes_and_separate_biases_do_not_hide_a_yolox():
    model = zoo.network("yolox")
    nodes, weights = list(model.graph.node), model.graph.initializer
    for node in [n for n in nodes if n.op_type == "Conv"]:  # as dequantised exports write it
        bias, edge = node.input.pop(), node.output[0]
        node.output[0] = f"{edge}/product"
        (stored,) = (t for t in weights if t.name == bias)
        stored.dims[:] = [1, stored.dims[0], 1, 1]
        nodes.insert(nodes.index(node) + 1, helper.make_node("Add", [node.output[0], bias], [edge]))
    last = next(n for n in nodes if n.op_type == "Reshape")
    weights.append(onnx.numpy_helper.from_array(np.array([0, 8, 1]), "sizes"))
    weights.append(onnx.numpy_helper.from_array(np.array([4]), "four"))
    size = [
        helper.make_node("Shape", [last.input[0]], ["shape"]),
        helper.make_node("Slice", ["shape", "two", "four"], ["sides"]),
        helper.make_node("ReduceProd", ["sides"], ["cells"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["sizes", "cells"], ["wanted"]),
        helper.make_node("Div", ["wanted", "unit"], ["divided"]),
    ]
    weights.append(onnx.numpy_helper.from_array(np.array([2]), "two"))
    weights.append(onnx.numpy_helper.from_array(np.array([1, 64, 1]), "unit"))
    last.input[1] = "divided"
    at = nodes.index(last)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *size, *nodes[at:]])
    facts = facts_of(model)
    assert {"Add", "Mul", "Div"} <= facts.ops
    assert facts.tail == {"Sigmoid", "Concat", "Reshape", "Transpose", "Identity"}
    assert readings(facts) == [("yolox", 3)]
    images = zoo.pictures(2)
    assert_same(infer(opened(model), "onnxruntime", images), zoo.reference(model, "yolox", images))


def test_a_sum_of_two_products_is_arithmetic():
    net, trunk = begin()
    y = net.op("Add", net.conv(trunk, 6, 2, 1), net.conv(trunk, 6, 2, 1))
    assert facts_of(finish(net, {"y": (y, [2, 48, 32])})).tail == {"Add", "Identity"}


# ---- real weights ----


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_yolov5_faces(real_data: Path, runtime: str):
    path, pictures = real_data / "models" / "yolov5n_face.onnx", real_data / "data" / "images"
    counts = {"many_face.png": 6, "biubug6_faces.jpg": 1, "zidane.jpg": 0, "bus.jpg": None}
    with eyas.load(path, backend=runtime, precision="fp32") as model:
        assert (model.card.family, model.card.names) == ("yolov5", ("face",))
        assert model.card.params == {"strides": [8, 16, 32]}
        ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for name, count in counts.items():
            found = model.predict(pictures / name)
            want = oracles.predict(session, cv2.imread(str(pictures / name)), "yolov5", 640, 0.25, model.card.iou)
            assert len(found) == len(want)
            assert count is None or len(found) == count
            np.testing.assert_allclose(found.xyxy, want[:, :4], atol=0.5)
            np.testing.assert_allclose(found.confidence, want[:, 4], atol=2e-3)


def test_real_networks_are_what_they_were(real_data: Path):
    for name, wanted in {"yolox_nano": "yolox", "yolov8n": "yolov8", "nanodet_m_416": "nanodet"}.items():
        assert open_network(real_data / "models" / f"{name}.onnx").card.family == wanted
    facts = open_network(real_data / "models" / "yolox_nano.onnx").facts
    assert [n for n, classes in readings(facts) if classes == 80] == ["yolox"]


# ---- the page that shows how to add one ----


def page_module() -> tuple[str, ModuleType]:
    text = (ROOT / "docs" / "add-a-family.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ((name, value),) = re.findall(r'^(\w+) = "([\w.]+)"$', text, re.MULTILINE)
    module = ModuleType(value)
    exec(compile(code, value, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - our own page
    return name, module


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_family_of_the_docs_works(runtime: str, monkeypatch: pytest.MonkeyPatch):
    name, module = page_module()
    assert module.__doc__
    net, trunk = begin()
    n = len(oracles.centres(SIZE, P5, 0))
    levels = [net.reshape(net.op("Sigmoid", net.conv(trunk, 6, 7, s // 2)), 0, 7, -1) for s in P5]
    raw = net.op("Transpose", net.op("Concat", *levels, axis=2), perm=[0, 2, 1])
    boxes = net.op("Mul", net.slice(raw, 0, 4, 2), net.const([30, 30, 64, 96]))
    model = finish(net, {"boxes": (boxes, [n, 4]), "scores": (net.slice(raw, 4, 7, 2), [n, 3])})
    found = EntryPoints([EntryPoint(name, module.__name__, "eyas.families")])
    monkeypatch.setattr(registry, "entry_points", lambda group: found.select(group=group))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    network = opened(model, None)
    assert network.card == ModelCard(
        name, SIZE, RGB, ("class 0", "class 1", "class 2"), "letterbox", 114, iou=0.6, params={}
    )
    images = zoo.pictures(5, SIZE)
    wanted = reference(model, images, lambda outputs: (outputs[0][0], outputs[1][0]))
    assert_same(infer(network, runtime, images), wanted)
    json.dumps(network.card.params)
    with pytest.raises(CardError, match=f"the card says {name} with 2 classes"):
        deploy_graph(replace(network, card=replace(network.card, names=("a", "b"))), HeadSpec())
