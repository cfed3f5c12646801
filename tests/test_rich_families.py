"""Families with more than boxes: synthetic networks and a real one, decoded again in NumPy, on two runtimes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import oracles
import oracles_rich as oracle
import pytest
import zoo
from numpy.typing import NDArray
from onnx import helper

import eyas
from eyas import registry
from eyas.backends import backend
from eyas.build import Network, deploy_graph
from eyas.card import settle_card
from eyas.coco import COCO80
from eyas.errors import CardError
from eyas.families import family
from eyas.graph.head import HeadSpec
from eyas.graph.network import Facts, facts_of
from eyas.letterbox import Letterbox
from eyas.outputs import result_of
from eyas.types import BuildSpec, ModelCard, Normalise

# The second in the slow suite.
RUNTIMES = ("onnxruntime", pytest.param("openvino", marks=pytest.mark.slow))
NAMES = ("ant", "bee", "cow")
SIZE = (96, 64)
P5 = (8, 16, 32)
LIMITS = np.array([[0, 1], [0, 0.5], [0.2, 0.7], [0.3, 0.45], [0.4, 0.3]], np.float32)
RGB = Normalise("rgb", scale=(1 / 255, 1 / 255, 1 / 255))
MASKS = 5
CELLS = [int(np.prod([-(-side // s) for side in SIZE])) for s in P5]


# ---- networks: as each exporter ends them ----


def begin(opset: int = 17) -> tuple[zoo.Net, str]:
    net = zoo.Net(3, opset, np.float32)
    return net, net.op("Tanh", net.conv("input", 3, 6, 2))


def finish(
    net: zoo.Net, outputs: dict[str, tuple[str, list[int]]], batch: int | str = "batch", **metadata: str
) -> onnx.ModelProto:
    """The network with these outputs: name → (edge, shape without the batch)."""
    for name, (edge, _) in outputs.items():
        net.nodes.append(helper.make_node("Identity", [edge], [name]))
    graph = helper.make_graph(
        net.nodes,
        "network",
        [helper.make_tensor_value_info("input", 1, [batch, 3, *SIZE])],
        [helper.make_tensor_value_info(name, 1, [batch, *shape]) for name, (_, shape) in outputs.items()],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def level(net: zoo.Net, trunk: str, width: int) -> str:
    """One convolution a stride, joined: [B, width, N]."""
    return net.op("Concat", *(net.reshape(net.conv(trunk, 6, width, s // 2), 0, width, -1) for s in P5), axis=2)


def boxes_and_scores(net: zoo.Net, trunk: str, classes: int) -> tuple[str, str]:
    """Centre and extent in pixels, and scores, as [B, 4, N] and [B, C, N]."""
    cells = oracles.centres(SIZE, P5, 0.5)
    raw, step = net.op("Sigmoid", level(net, trunk, 4)), net.const(cells[None, :, 2:].transpose(0, 2, 1))
    shift = net.op("Mul", net.op("Sub", net.slice(raw, 0, 2, 1), net.const([0.5])), step)
    centre = net.op("Add", shift, net.const(cells[None, :, :2].transpose(0, 2, 1)))
    extent = net.op("Mul", net.op("Mul", net.slice(raw, 2, 4, 1), net.const([6.0])), step)
    return net.op("Concat", centre, extent, axis=1), net.op("Sigmoid", level(net, trunk, classes))


def prototypes(net: zoo.Net, trunk: str, many: int = MASKS) -> tuple[str, list[int]]:
    return net.op("Tanh", net.conv(trunk, 6, many, 2)), [many, SIZE[0] // 4, SIZE[1] // 4]


def yolov8_pose(points: int, numbers: int, classes: int = 3, opset: int = 17, **options: Any) -> onnx.ModelProto:
    net, trunk = begin(opset)
    box, scores = boxes_and_scores(net, trunk, classes)
    cells = oracles.centres(SIZE, P5, 0.5).T
    raw = net.reshape(level(net, trunk, points * numbers), 0, points, numbers, -1)
    xy = net.op("Add", net.op("Mul", net.slice(raw, 0, 2, 2), net.const(cells[2])), net.const(cells[:2]))
    parts = [xy] if numbers == 2 else [xy, net.op("Sigmoid", net.slice(raw, 2, 3, 2))]
    flat = net.reshape(net.op("Concat", *parts, axis=2), 0, points * numbers, -1)
    out = net.op("Concat", box, scores, flat, axis=1)
    return finish(net, {"output0": (out, [4 + classes + points * numbers, sum(CELLS)])}, **options)


def yolov8_seg(classes: int = 3, opset: int = 17, swapped: bool = False, **options: Any) -> onnx.ModelProto:
    net, trunk = begin(opset)
    out = net.op("Concat", *boxes_and_scores(net, trunk, classes), level(net, trunk, MASKS), axis=1)
    outputs = {"output0": (out, [4 + classes + MASKS, sum(CELLS)]), "output1": prototypes(net, trunk)}
    return finish(net, dict(reversed(outputs.items())) if swapped else outputs, **options)


def yolov8_obb(classes: int = 3, opset: int = 17, plain: bool = False, **options: Any) -> onnx.ModelProto:
    """plain: without the cosine and sine by which the exporter turns the centre's offset."""
    net, trunk = begin(opset)
    box, scores = boxes_and_scores(net, trunk, classes)
    angle = net.op("Mul", net.op("Sub", net.op("Sigmoid", level(net, trunk, 1)), net.const([0.25])), net.const([np.pi]))
    if not plain:
        cos, sin, x, y = net.op("Cos", angle), net.op("Sin", angle), net.slice(box, 0, 1, 1), net.slice(box, 1, 2, 1)
        x, y = (
            net.op("Add", x, net.op("Mul", cos, net.const([3.0]))),
            net.op("Add", y, net.op("Mul", sin, net.const([3.0]))),
        )
        box = net.op("Concat", x, y, net.slice(box, 2, 4, 1), axis=1)
    return finish(
        net, {"output0": (net.op("Concat", box, scores, angle, axis=1), [5 + classes, sum(CELLS)])}, **options
    )


def yolov5_seg(classes: int = 3, opset: int = 17, raw: bool = False, **options: Any) -> onnx.ModelProto:
    """raw: with the raw maps beside it."""
    net, trunk = begin(opset)
    width, rows, maps = 5 + classes + MASKS, [], {}
    for s in P5:
        h, w = SIZE[0] // s, SIZE[1] // s
        five = net.reshape(net.conv(trunk, 6, 3 * width, s // 2), 0, 3, width, h, w)
        five = net.op("Transpose", five, perm=[0, 1, 3, 4, 2])
        maps[f"raw{s}"] = five, [3, h, w, width]
        ys, xs = np.mgrid[:h, :w]
        corner = net.const((np.stack([xs, ys], -1)[None, None] + 0.5) * s)
        xy = net.op("Add", net.op("Mul", net.op("Tanh", net.slice(five, 0, 2, 4)), net.const([s / 2])), corner)
        wh = net.op("Mul", net.op("Sigmoid", net.slice(five, 2, 4, 4)), net.const(np.array([[[[[4.0 * s, 6.0 * s]]]]])))
        chances = net.op("Sigmoid", net.slice(five, 4, 5 + classes, 4))
        rows.append(
            net.reshape(net.op("Concat", xy, wh, chances, net.slice(five, 5 + classes, width, 4), axis=4), 0, -1, width)
        )
    outputs = {"output0": (net.op("Concat", *rows, axis=1), [3 * sum(CELLS), width]), "output1": prototypes(net, trunk)}
    return finish(net, outputs | (maps if raw else {}), **options)


def centernet(
    names: tuple[str, str, str] = ("hm", "wh", "reg"),
    classes: int = 3,
    final: bool = False,
    opset: int = 17,
    **options: Any,
) -> onnx.ModelProto:
    """names: of heat, size and offset; outputs come in alphabetical order. final: the heat ends with a sigmoid."""
    net, trunk = begin(opset)
    heat, size, offset = (net.conv(trunk, 6, width, 2) for width in (classes, 2, 2))
    size, offset = net.op("Mul", net.op("Sigmoid", size), net.const([6.0])), net.op("Sigmoid", offset)
    heat = net.op("Sigmoid", heat) if final else heat
    shape = [SIZE[0] // 4, SIZE[1] // 4]
    edges = zip(names, (heat, size, offset), (classes, 2, 2), strict=True)
    return finish(net, dict(sorted((n, (edge, [width, *shape])) for n, edge, width in edges)), **options)


# ---- running ----


def opened(model: onnx.ModelProto, names: tuple[str, ...] | None = NAMES, **said: Any) -> Network:
    facts = facts_of(model)
    return Network(model, facts, settle_card(facts, names=names, **said))


def raw(model: onnx.ModelProto, images: NDArray[np.uint8], blob: Any = oracles.blob_rgb) -> list[dict[str, Any]]:
    """Each picture's raw outputs by name, on ONNX Runtime."""
    ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    runs = [session.run(None, {session.get_inputs()[0].name: blob(image)}) for image in images]
    return [dict(zip(names, [o[0] for o in run], strict=True)) for run in runs]


def check(
    network: Network,
    runtime: str,
    decode: Callable[[dict[str, Any]], oracle.Decoded],
    kind: str = "upright",
    blob: Any = oracles.blob_rgb,
) -> None:
    """Rows and prototypes of five pictures are the oracle's; so is one picture alone."""
    images, head = zoo.pictures(5, SIZE), HeadSpec()
    graph = deploy_graph(network, head)
    onnx.checker.check_model(graph, full_check=True)
    json.dumps(network.card.params)
    wanted = raw(network.model, images, blob)
    engine = backend(runtime).open_engine(graph, BuildSpec(precision="fp32", batch=(1, 5, 5)))
    try:
        found = engine.infer({"images": images, "thresholds": LIMITS})
        alone = engine.infer({"images": images[1:2], "thresholds": LIMITS[1:2]})
    finally:
        engine.close()
    for name, array in alone.items():
        np.testing.assert_allclose(array[0], found[name][1], rtol=1e-4, atol=2e-3, err_msg=name)
    assert found["count"].max() > 3
    settled = 0
    for i, outputs in enumerate(wanted):
        (conf, iou), decoded = map(float, LIMITS[i]), decode(outputs)
        kept = oracle.best(decoded, conf, iou, kind)
        # What the graph leaves to the host holds all candidates.
        settled += int(found["converged"][i])
        want = kept if found["converged"][i] else oracle.best(decoded, conf, iou, "never")
        rows = found["detections"][i, : found["count"][i]]
        assert len(rows) == len(want)
        np.testing.assert_array_equal(rows[:, 5], want[:, 5])
        np.testing.assert_allclose(rows[:, 4], want[:, 4], atol=1e-5)
        np.testing.assert_allclose(rows[:, :4], want[:, :4], atol=2e-3, rtol=1e-5)
        np.testing.assert_allclose(rows[:, 6:], want[:, 6:], atol=2e-3, rtol=1e-5)
        final = result_of(network.card, head, found, i, Letterbox.fit(SIZE, SIZE), iou)
        np.testing.assert_array_equal(final.class_id, kept[:, 5])
        np.testing.assert_allclose(final.confidence, kept[:, 4], atol=1e-5)
        if kind == "rotated":
            corners = [oracle.turned(row[:4], float(row[6])) for row in kept]
            np.testing.assert_allclose(final.xyxyxyxy, corners, atol=5e-3)
        if "prototypes" in found:
            maps = next(o for o in outputs.values() if o.ndim == 3)
            np.testing.assert_allclose(found["prototypes"][i], maps, atol=1e-5)
            assert final.mask.shape == (len(kept), *SIZE)
    assert (settled == 0) == (kind == "rotated")


def readings(facts: Facts) -> list[tuple[str, int | None]]:
    return [(name, g.classes) for name in registry.names("families") for g in family(name).recognise(facts)]


EXPORT = {"stride": "32", "names": "{0: 'ant', 1: 'bee', 2: 'cow'}"}
PLACES = [(11, "batch"), (13, 1), (17, "batch"), (18, 5), (20, 2)]  # opset and batch


# ---- pose ----


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("points", "numbers"), [(17, 3), (4, 2), (1, 2), (5, 3)])
def test_yolov8_pose(points: int, numbers: int, runtime: str):
    model = yolov8_pose(points, numbers, task="pose", kpt_shape=f"({points}, {numbers})", **EXPORT)
    network = opened(model, None)
    assert network.card == ModelCard(
        "yolov8_pose", SIZE, RGB, NAMES, task="pose", params={"kpt_shape": [points, numbers]}
    )
    decode = oracle.columns if numbers == 3 else oracle.columns_of_pairs
    check(network, runtime, lambda outputs: decode(outputs["output0"], 3))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("opset", "batch"), PLACES)
def test_yolov8_pose_at_every_opset(opset: int, batch: int | str, runtime: str):
    model = yolov8_pose(3, 2, opset=opset, kpt_shape="[3, 2]", **EXPORT, task="pose", batch=batch)
    fixed_or_free(model, runtime, lambda outputs: oracle.columns_of_pairs(outputs["output0"], 3), batch)


def test_fifty_six_columns_are_ambiguous():
    """COCO's 17 points and a person, or 52 classes: the shapes cannot tell, what the user says can."""
    facts = facts_of(yolov8_pose(17, 3, classes=1))
    assert readings(facts) == [("yolov8", 52), ("yolov8_pose", 1)]
    with pytest.raises(CardError, match=r"yolov8 .*with 52 classes or yolov8_pose .*with 1 .*--family"):
        settle_card(facts)
    pose = settle_card(facts, family_name="yolov8_pose")
    assert (pose.task, pose.names, pose.params) == ("pose", ("person",), {"kpt_shape": [17, 3]})
    assert settle_card(facts, names=("dog",)).family == "yolov8_pose"
    assert settle_card(facts, names=tuple(f"n{i}" for i in range(52))).family == "yolov8"
    assert settle_card(replace(facts, metadata=EXPORT | {"names": "{0: 'person'}", "task": "pose"})).task == "pose"
    assert readings(facts_of(yolov8_pose(17, 3, classes=2))) == [("yolov8", 53)]


def test_a_task_in_the_metadata_leaves_one_family():
    model = yolov8_pose(
        17, 3, classes=80, task="pose", kpt_shape="[17, 3]", **(EXPORT | {"names": str(dict(enumerate(COCO80)))})
    )
    assert opened(model, None).card.family == "yolov8_pose"


@pytest.mark.parametrize(
    "said", ["", "[17]", "[17, 4]", "[0, 3]", "[17.0, 3]", "[True, 3]", "a + b", "17", "((", "[17, 3, 1]"]
)
def test_a_key_point_shape_that_cannot_be_read(said: str):
    facts = facts_of(yolov8_pose(17, 3, classes=1, task="pose", kpt_shape=said, **EXPORT))
    with pytest.raises(CardError, match=r"kpt_shape.*got .*expected how many points"):
        settle_card(facts)


def test_a_card_may_say_the_key_point_shape(tmp_path: Path):
    model = yolov8_pose(5, 2)
    card = replace(opened(yolov8_pose(17, 3, 1), None, family_name="yolov8_pose").card, names=NAMES)
    network = Network(model, facts_of(model), replace(card, params={"kpt_shape": [5, 2]}))
    check(network, "onnxruntime", lambda outputs: oracle.columns_of_pairs(outputs["output0"], 3))
    for params in ({}, {"kpt_shape": [5, 3]}):
        with pytest.raises(CardError, match="the card says yolov8_pose with 3 classes"):
            deploy_graph(replace(network, card=replace(card, params=params)), HeadSpec())
    with pytest.raises(CardError, match="kpt_shape"):
        deploy_graph(replace(network, card=replace(card, params={"kpt_shape": 17})), HeadSpec())


# ---- masks ----


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("swapped", [False, True])
def test_yolov8_seg(swapped: bool, runtime: str):
    model = yolov8_seg(swapped=swapped)
    assert readings(facts_of(model)) == [("yolov8_seg", 3)]
    network = opened(model)
    assert network.card == ModelCard("yolov8_seg", SIZE, RGB, NAMES, task="segment")
    check(network, runtime, lambda outputs: oracle.columns(outputs["output0"], 3))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("with_maps", [False, True])
def test_yolov5_seg(with_maps: bool, runtime: str):
    model = yolov5_seg(raw=with_maps)
    assert readings(facts_of(model)) == [("yolov5_seg", 3)]
    network = opened(model)
    assert network.card == ModelCard("yolov5_seg", SIZE, RGB, NAMES, task="segment", iou=0.45)
    check(network, runtime, lambda outputs: oracle.rows_with_objectness(outputs["output0"], 3))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("opset", "batch"), PLACES)
def test_masks_at_every_opset(opset: int, batch: int | str, runtime: str):
    fixed_or_free(yolov8_seg(opset=opset, batch=batch), runtime, lambda o: oracle.columns(o["output0"], 3), batch)
    decode = oracle.rows_with_objectness
    fixed_or_free(yolov5_seg(opset=opset, batch=batch), runtime, lambda o: decode(o["output0"], 3), batch)


@pytest.mark.parametrize("build", [yolov8_seg, yolov5_seg])
def test_masks_need_matching_outputs(build: Callable[..., onnx.ModelProto]):
    facts = facts_of(build())
    shapes = dict(facts.outputs)
    _, rows, columns = shapes["output0"]
    no_class = ("batch", 4 + MASKS, columns) if build is yolov8_seg else ("batch", rows, 5 + MASKS)
    for name, shape in {
        "output0": no_class,
        "output1": ("batch", MASKS, SIZE[0] // 8, SIZE[1] // 8),
        "output2": ("batch", MASKS, SIZE[0] // 4, SIZE[1] // 4),  # two sets of prototypes
    }.items():
        changed = replace(facts, outputs=shapes | {name: shape})
        assert readings(changed) == []
    network = opened(build())
    with pytest.raises(CardError, match="with 2 classes"):
        deploy_graph(replace(network, card=replace(network.card, names=("a", "b"))), HeadSpec())


# ---- oriented boxes ----


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("plain", [False, True])
def test_yolov8_obb(plain: bool, runtime: str):
    network = opened(yolov8_obb(plain=plain, task="obb", **EXPORT), None)
    assert network.card == ModelCard("yolov8_obb", SIZE, RGB, NAMES, task="obb")
    check(network, runtime, lambda outputs: oracle.columns(outputs["output0"], 3), "rotated")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("opset", "batch"), PLACES)
def test_yolov8_obb_at_every_opset(opset: int, batch: int | str, runtime: str):
    model = yolov8_obb(opset=opset, batch=batch)
    fixed_or_free(model, runtime, lambda o: oracle.columns(o["output0"], 3), batch, "rotated")


def test_what_tells_an_oriented_box():
    assert ("yolov8_obb", 3) in readings(facts_of(yolov8_obb()))
    assert settle_card(facts_of(yolov8_obb()), names=NAMES).task == "obb"
    assert readings(facts_of(yolov8_obb(plain=True))) == [("yolov8", 4)]
    detect = facts_of(yolov8_obb(task="detect", **EXPORT))
    assert (
        settle_card(replace(detect, metadata=detect.metadata | {"names": str(dict(enumerate("abcd")))})).family
        == "yolov8"
    )
    network = opened(yolov8_obb())
    with pytest.raises(CardError, match="the card says yolov8_obb with 2 classes"):
        deploy_graph(replace(network, card=replace(network.card, names=("a", "b"))), HeadSpec())


# ---- peaks ----

CENTERNET = Normalise(
    "bgr", (0.408 * 255, 0.447 * 255, 0.470 * 255), (1 / (0.289 * 255), 1 / (0.274 * 255), 1 / (0.278 * 255))
)


def blob_centernet(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    unit = (image / 255 - [0.408, 0.447, 0.470]) / [0.289, 0.274, 0.278]
    return np.ascontiguousarray(unit.transpose(2, 0, 1)[None], np.float32)


def peaks_of(names: tuple[str, str, str], final: bool) -> Callable[[dict[str, Any]], oracle.Decoded]:
    def decode(outputs: dict[str, Any]) -> oracle.Decoded:
        heat, size, offset = (outputs[name] for name in names)
        return oracle.peaks(heat if final else 1 / (1 + np.exp(-heat)), size, offset, 4)

    return decode


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("hm", "wh", "reg"), 3),
        (("heatmap", "size", "z_offset"), 3),
        (("a", "b", "c"), 3),  # the order of the official code
        (("hm", "wh", "off"), 2),
        (("z_heat", "box_wh", "c"), 2),
    ],
)
def test_centernet(names: tuple[str, str, str], classes: int, final: bool, runtime: str):
    model = centernet(names, classes, final)
    assert readings(facts_of(model)) == [("centernet", classes)]
    network = opened(model, NAMES[:classes])
    assert network.card == ModelCard(
        "centernet", SIZE, CENTERNET, NAMES[:classes], pad_value=0, params={"logits": not final}
    )
    check(network, runtime, peaks_of(names, final), "never", blob_centernet)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("opset", "batch"), PLACES)
def test_centernet_at_every_opset(opset: int, batch: int | str, runtime: str):
    names = ("hm", "wh", "reg")
    model = centernet(names, opset=opset, batch=batch)
    fixed_or_free(model, runtime, peaks_of(names, False), batch, "never", blob_centernet)


def test_what_is_no_centernet():
    facts = facts_of(centernet())
    for name, shape in {"hm": ("batch", 3, 12, 8), "wh": ("batch", 4, 24, 16), "x": ("batch", 2, 24, 16)}.items():
        assert readings(replace(facts, outputs=dict(facts.outputs) | {name: shape})) == []
    network = opened(centernet())
    with pytest.raises(CardError, match="the card says centernet with 2 classes"):
        deploy_graph(replace(network, card=replace(network.card, names=("a", "b"))), HeadSpec())


# ---- all ----


def fixed_or_free(
    model: onnx.ModelProto,
    runtime: str,
    decode: Callable[[dict[str, Any]], oracle.Decoded],
    batch: int | str,
    kind: str = "upright",
    blob: Any = oracles.blob_rgb,
) -> None:
    """The same through a batch that the graph fixes, filled up by the engine."""

    def whole(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        one = blob(image)
        return np.repeat(one, batch, 0) if isinstance(batch, int) else one

    check(opened(model), runtime, decode, kind, whole)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "MatMul", "Gemm"])
def test_a_decode_holds_no_product(kind: str):
    """OpenVINO computes everything up to the last one in bf16."""
    for model in (
        yolov8_pose(17, 3, kpt_shape="[17, 3]", task="pose", **EXPORT),
        yolov8_seg(),
        yolov8_obb(),
        yolov5_seg(),
        centernet(),
    ):
        before = sum(node.op_type == kind for node in model.graph.node)
        graph = deploy_graph(opened(model), HeadSpec())
        assert sum(node.op_type == kind for node in graph.graph.node) == before


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_fewer_candidates_chosen_classes_and_several_a_cell(runtime: str):
    """The extras follow their box whatever the head does."""
    network, images = opened(yolov8_seg()), zoo.pictures(2, SIZE)
    (boxes, scores, extras) = oracle.columns(raw(network.model, images)[1]["output0"], 3)
    for head in (HeadSpec(7), HeadSpec(classes=(0, 2)), HeadSpec(multi_label=True)):
        engine = backend(runtime).open_engine(deploy_graph(network, head), BuildSpec(precision="fp32", batch=(1, 2, 2)))
        try:
            found = engine.infer({"images": images, "thresholds": np.array([[0, 1], [0, 1]], np.float32)})
        finally:
            engine.close()
        rows = found["detections"][1, : found["count"][1]]
        ids = list(head.classes or range(3))
        if head.multi_label:
            order = [divmod(int(i), 3) for i in np.argsort(-scores.ravel(), kind="stable")]
        else:
            best = scores[:, ids].max(axis=1)
            order = [(int(i), ids[int(scores[i, ids].argmax())]) for i in np.argsort(-best, kind="stable")]
        order = order[: head.max_candidates]
        assert len(rows) == len(order)
        np.testing.assert_array_equal(rows[:, 5], [c for _, c in order])
        np.testing.assert_allclose(rows[:, :4], boxes[[i for i, _ in order]], atol=2e-3)
        np.testing.assert_allclose(rows[:, 6:], extras[[i for i, _ in order]], atol=2e-3)


# ---- real weights ----


def golden(model_file: Path, picture: NDArray[np.uint8], iou: float) -> NDArray[np.float32]:
    """Rows of the raw pose network on ONNX Runtime, boxes and points in source pixels."""
    ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    session = ort.InferenceSession(model_file, providers=["CPUExecutionProvider"])
    blob = oracles.blob_rgb(oracle.canvas(picture, (640, 640), "letterbox", 114))
    (output,) = session.run(None, {session.get_inputs()[0].name: blob})
    boxes, scores, extras = oracle.columns(output[0], 1)
    some = scores[:, 0] > 0.25
    rows = oracle.best((boxes[some], scores[some], extras[some]), 0.25, iou)
    source = picture.shape[:2]
    rows[:, :4] = oracle.boxes_to_source(rows[:, :4], source, (640, 640), "letterbox")
    points = rows[:, 6:].reshape(len(rows), 17, 3)
    points[:, :, :2] = oracle.to_source(points[:, :, :2], source, (640, 640), "letterbox")
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(("picture", "persons"), [("bus.jpg", 4), ("zidane.jpg", 2)])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pose_of_real_weights(real_data: Path, runtime: str, picture: str, persons: int):
    file, image = real_data / "models" / "yolov8n-pose.onnx", real_data / "data" / "images" / picture
    with eyas.load(file, backend=runtime, precision="fp32") as model:
        assert (model.card.family, model.card.names) == ("yolov8_pose", ("person",))
        found = model.predict(image)
    want = golden(file, cv2.imread(str(image)), model.card.iou)
    assert len(found) == len(want) == persons
    np.testing.assert_allclose(found.xyxy, want[:, :4], atol=0.5)
    np.testing.assert_allclose(found.confidence, want[:, 4], atol=2e-3)
    points = want[:, 6:].reshape(persons, 17, 3)
    np.testing.assert_allclose(found.keypoints[:, :, :2], points[:, :, :2], atol=0.5)
    np.testing.assert_allclose(found.keypoints[:, :, 2], points[:, :, 2], atol=2e-3)
    for (x1, y1, x2, y2), body in zip(found.xyxy, found.keypoints, strict=True):
        x, y, _ = body[body[:, 2] > 0.5].T
        grown = 0.15 * max(x2 - x1, y2 - y1)
        assert ((x > x1 - grown) & (x < x2 + grown) & (y > y1 - grown) & (y < y2 + grown)).all()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pose_of_a_batch_is_that_of_single_pictures(real_data: Path, runtime: str):
    file = real_data / "models" / "yolov8n-pose.onnx"
    files = [real_data / "data" / "images" / name for name in ("bus.jpg", "zidane.jpg", "person.jpg")]
    with (
        eyas.load(file, backend=runtime, precision="fp32") as one,
        eyas.load(file, backend=runtime, precision="fp32", batch=3) as three,
    ):
        singly, together = [one.predict(f) for f in files], list(three.predict(files))
    assert sum(map(len, singly)) >= 6
    for a, b in zip(singly, together, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=2e-2)
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=2e-2)
