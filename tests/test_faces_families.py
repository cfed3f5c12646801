"""Face detectors with five key points: synthetic networks and real weights against plain NumPy, on two runtimes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import oracles
import oracles_faces
import pytest
import zoo
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import eyas
from eyas import registry
from eyas.build import Network, deploy_graph, open_network
from eyas.card import settle_card
from eyas.errors import CardError, ModelError
from eyas.families import family
from eyas.graph.builder import opset_of
from eyas.graph.head import HeadSpec
from eyas.graph.network import Facts, facts_of
from eyas.graph.opset import raise_opset
from eyas.results import Detections

RUNTIMES = ("onnxruntime", "openvino")
EITHER = ("onnxruntime", pytest.param("openvino", marks=pytest.mark.slow))  # the second in the slow suite
FACES = ("retinaface", "scrfd", "yunet")
P3, P5 = (8, 16, 32), (8, 16, 32, 64, 128)
SIZE = (96, 160)
CONF = 0.4
FOUND = {"zidane.jpg": 2, "s_l.jpg": 2, "many_face.png": 6, "biubug6_faces.jpg": 8}  # faces at confidence ½
REAL = {"scrfd_500m_kps": "scrfd", "retinaface_mnet025": "retinaface"}

# name → (family, options of its builder)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "scrfd": ("scrfd", {}),
    "scrfd by stride": ("scrfd", {"order": "by stride"}),
    "scrfd backwards": ("scrfd", {"order": "backwards"}),
    "scrfd without points": ("scrfd", {"points": False}),
    "scrfd without points by stride": ("scrfd", {"points": False, "order": "by stride"}),
    "scrfd of five strides": ("scrfd", {"strides": P5}),
    "scrfd of five strides by stride": ("scrfd", {"strides": P5, "order": "by stride", "points": False}),
    "scrfd without a batch": ("scrfd", {"batch": 1, "flat": True}),
    "retinaface": ("retinaface", {}),
    "retinaface of logits": ("retinaface", {"logits": True}),
    "retinaface backwards": ("retinaface", {"order": "backwards"}),
    "yunet": ("yunet", {}),
    "yunet by stride": ("yunet", {"order": "by stride"}),
    "yunet of opset 11": ("yunet", {"opset": 11}),
}


# ---- networks ----


def network(name: str, size: tuple[int, int] = SIZE, **options: Any) -> onnx.ModelProto:
    """One of NETWORKS with random weights."""
    kind, usual = NETWORKS[name]
    return BUILDERS[kind](size, **(usual | options))


def begin(magnitude: float, opset: int = 17, seed: int = 3) -> tuple[zoo.Net, str]:
    net = zoo.Net(seed, opset, np.float32)
    return net, net.op("Tanh", net.conv("input", 3, 6, 2, magnitude))


def rows_of(net: zoo.Net, trunk: str, stride: int, anchors: int, width: int) -> str:
    """[B, anchors · cells, width] as PyTorch's permute and reshape give it."""
    raw = net.conv(trunk, 6, anchors * width, stride // 2)
    return net.reshape(net.op("Transpose", raw, perm=[0, 2, 3, 1]), 0, -1, width)


def finish(
    net: zoo.Net, outputs: dict[str, tuple[str, list[int]]], size: tuple[int, int], batch: int | str, order: str
) -> onnx.ModelProto:
    """outputs: name → (edge, shape without the batch). order: "as given", "by stride" (the name's end), "backwards"."""
    names = list(outputs)
    if order == "by stride":
        names.sort(key=lambda n: int(n.rpartition("_")[2]))
    elif order == "backwards":
        names.reverse()
    net.nodes.extend(helper.make_node("Identity", [outputs[n][0]], [n]) for n in names)
    flat = [n for n in names if len(outputs[n][1]) == 3]  # they state their whole shape, [rows, width]
    shapes = {n: outputs[n][1][1:] if n in flat else [batch, *outputs[n][1]] for n in names}
    graph = helper.make_graph(
        net.nodes,
        "faces",
        [helper.make_tensor_value_info("input", 1, [batch, 3, *size])],
        [helper.make_tensor_value_info(n, 1, shapes[n]) for n in names],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def cells(size: tuple[int, int], stride: int) -> int:
    return -(-size[0] // stride) * -(-size[1] // stride)


def scrfd(
    size: tuple[int, int],
    strides: tuple[int, ...] = P3,
    points: bool = True,
    order: str = "as given",
    batch: int | str = "batch",
    flat: bool = False,
) -> onnx.ModelProto:
    net, trunk = begin(1)
    anchors = 2 if len(strides) == 3 else 1
    outputs: dict[str, tuple[str, list[int]]] = {}
    for kind, width in (("score", 1), ("bbox", 4), *([("kps", 10)] if points else [])):
        for s in strides:
            edge = rows_of(net, trunk, s, anchors, width)
            edge = net.op(*{"score": ("Sigmoid", edge), "bbox": ("Exp", edge)}.get(kind, ("Identity", edge)))
            n = anchors * cells(size, s)
            outputs[f"{kind}_{s}"] = (net.reshape(edge, -1, width), [0, n, width]) if flat else (edge, [n, width])
    return finish(net, outputs, size, batch, order)


def retinaface(
    size: tuple[int, int], logits: bool = False, order: str = "as given", overflow: int | None = None
) -> onnx.ModelProto:
    """overflow: a row whose extent and one whose point leave float32's range."""
    net, trunk = begin(128)
    count = sum(2 * cells(size, s) for s in P3)
    outputs = {}
    for kind, width in (("loc", 4), ("conf", 2), ("landms", 10)):
        edge = net.op("Concat", *[rows_of(net, trunk, s, 2, width) for s in P3], axis=1)
        if kind == "conf" and not logits:
            edge = net.op("Softmax", edge, axis=2)
        if overflow is not None and kind != "conf":
            more = np.zeros((1, count, width))
            more[0, overflow + (kind == "landms"), 2] = 3e38
            edge = net.op("Mul", net.op("Add", edge, net.const(more)), net.const([1.0 if kind == "loc" else 9.0]))
        outputs[kind] = edge, [count, width]
    return finish(net, outputs, size, "batch", order)


def yunet(size: tuple[int, int], order: str = "as given", opset: int = 17) -> onnx.ModelProto:
    net, trunk = begin(255, opset)
    outputs = {}
    for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for s in P3:
            edge = rows_of(net, trunk, s, 1, width)
            edge = net.op("Sigmoid", edge) if width == 1 else edge
            outputs[f"{kind}_{s}"] = edge, [cells(size, s), width]
    return finish(net, outputs, size, "batch", order)


BUILDERS: dict[str, Callable[..., onnx.ModelProto]] = {"scrfd": scrfd, "retinaface": retinaface, "yunet": yunet}


# ---- references ----


def session_of(model: bytes | str) -> Any:
    ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # old networks keep weights that nothing reads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def raw_outputs(session: Any, blob: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: blob}), strict=True))


def reference(name: str, model: onnx.ModelProto, image: NDArray[np.uint8], iou: float):
    """(boxes, scores, points) that are left of a picture of the network's size, NumPy behind the raw network."""
    kind, options = NETWORKS[name]
    named = raw_outputs(session_of(model.SerializeToString()), oracles_faces.blob(image, kind))
    size = image.shape[:2]
    if kind == "scrfd":
        strides = options.get("strides", P3)
        found = oracles_faces.scrfd(named, size, strides, 2 if len(strides) == 3 else 1)
    elif kind == "retinaface":
        found = oracles_faces.retinaface(named, size, options.get("logits", False))
    else:
        found = oracles_faces.yunet(named, size)
    return oracles_faces.to_source(oracles_faces.suppress(found, CONF, iou), (1, 1), (0, 0), image.shape)


def assert_same(found: Any, wanted: Any, pixels: float, score: float) -> None:
    boxes, scores, points = wanted
    assert isinstance(found, Detections)
    assert found.names == ("face",)
    assert len(found) == len(boxes)
    np.testing.assert_allclose(found.confidence, scores, atol=score)
    np.testing.assert_allclose(found.xyxy, boxes, atol=pixels)
    if points is None:
        assert found.keypoints is None
    else:
        assert found.keypoints is not None
        assert found.keypoints.shape == (len(boxes), 5, 3)
        np.testing.assert_allclose(found.keypoints[..., :2], points, atol=pixels)
        assert (found.keypoints[..., 2] == 1).all()


def opened(model: onnx.ModelProto) -> Network:
    facts = facts_of(model)
    return Network(model, facts, settle_card(facts))


def claims(facts: Facts) -> list[str]:
    return [name for name in registry.names("families") if family(name).recognise(facts)]


# ---- synthetic networks ----


@pytest.mark.parametrize("runtime", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_agrees_with_numpy_alone_and_in_a_batch(name: str, runtime: str, tmp_path: Path):
    model, path = network(name), tmp_path / "faces.onnx"
    onnx.save(model, path)
    images = list(zoo.pictures(3, SIZE))
    with eyas.load(path, backend=runtime, precision="fp32", batch=1) as one:
        assert (one.card.family, one.card.names) == (NETWORKS[name][0], ("face",))
        assert one.card.task == ("detect" if "without points" in name or "five strides by" in name else "pose")
        alone = [one.predict(image, conf=CONF) for image in images]
        wanted = [reference(name, model, image, one.card.iou) for image in images]
    for found, want in zip(alone, wanted, strict=True):
        assert len(found) > 3
        assert_same(found, want, 2e-3, 1e-5)
    if "without a batch" in name:
        return
    with eyas.load(path, backend=runtime, precision="fp32", batch=3) as three:
        for found, want in zip(three.predict(images, conf=CONF), wanted, strict=True):
            assert_same(found, want, 2e-3, 1e-5)


@pytest.mark.parametrize("size", [(64, 64), (256, 96), (100, 140)])  # the last with cells cut at the edges
@pytest.mark.parametrize("name", ["scrfd", "scrfd of five strides", "retinaface", "yunet"])
def test_input_sizes_come_from_the_network(name: str, size: tuple[int, int], tmp_path: Path):
    model, path = network(name, size), tmp_path / "faces.onnx"
    onnx.save(model, path)
    image = zoo.pictures(1, (size[0] // 8 * 8 + 8, size[1] // 8 * 8 + 8))[0, : size[0], : size[1]]
    with eyas.load(path, backend="onnxruntime", precision="fp32") as one:
        assert one.card.input_size == size
        found = one.predict(image, conf=CONF)
        assert_same(found, reference(name, model, image, one.card.iou), 2e-3, 1e-5)
    assert len(found) > 1


@pytest.mark.parametrize("runtime", EITHER)
def test_what_overflows_is_dropped(runtime: str, tmp_path: Path):
    image, path = zoo.pictures(1, SIZE)[0], tmp_path / "faces.onnx"
    boxes, _, _ = reference("retinaface", plain := retinaface(SIZE), image, 1)
    named = raw_outputs(session_of(plain.SerializeToString()), oracles_faces.blob(image, "retinaface"))
    row = int(np.argmax(np.minimum(named["conf"][0, :-1, 1], named["conf"][0, 1:, 1])))  # this and the next are sure
    onnx.save(retinaface(SIZE, overflow=row), path)
    with eyas.load(path, backend=runtime, precision="fp32") as model:
        found = model.predict(image, conf=CONF, iou=1)
    assert isinstance(found, Detections)
    assert len(found) == len(boxes) - 2
    assert np.isfinite(found.xyxy).all()
    assert found.keypoints is not None
    assert np.isfinite(found.keypoints).all()


@pytest.mark.parametrize("runtime", EITHER)
@pytest.mark.parametrize("name", ["scrfd", "scrfd without points", "retinaface", "yunet"])
def test_no_face(name: str, runtime: str, tmp_path: Path):
    path = tmp_path / "faces.onnx"
    onnx.save(network(name), path)
    with eyas.load(path, backend=runtime, precision="fp32") as model:
        found = model.predict(zoo.pictures(1, SIZE)[0], conf=1)
    assert isinstance(found, Detections)
    assert len(found) == 0
    assert (found.keypoints is None) if "without" in name else (found.keypoints.shape == (0, 5, 3))


# ---- who claims what ----


@pytest.mark.parametrize("name", NETWORKS)
def test_one_family_claims_a_face_detector(name: str):
    assert claims(facts_of(network(name))) == [NETWORKS[name][0]]


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_no_face_family_claims_another_network(kind: str):
    assert not set(claims(facts_of(zoo.network(kind)))) & set(FACES)
    assert not set(claims(facts_of(zoo.network(kind, classes=1, size=(96, 64))))) & set(FACES)


def test_one_family_claims_each_real_face_detector(real_data: Path):
    for path in sorted((real_data / "models").glob("*.onnx")):
        model = raise_opset(onnx.load(path), path.name)
        found = set(claims(facts_of(model)))
        want = {REAL[path.stem]} if path.stem in REAL else set()
        assert found & set(FACES) == want, path.name
        assert not want or found == want, path.name


@pytest.mark.parametrize(
    "outputs",
    [
        {"a": ("b", 640, 4), "c": ("b", 640, 2), "d": ("b", 640, 10)},  # not as many rows as priors
        {"a": ("b", 504, 4), "c": ("b", 504, 2)},  # no points
        {"a": ("b", 504, 4), "c": ("b", 504, 2), "d": ("b", 504, 10), "e": ("b", 504, 1)},
        {"a": ("b", "rows", 4), "c": ("b", "rows", 2), "d": ("b", "rows", 10)},
        {f"{k}{n}": ("b", n, w) for k, w in (("s", 1), ("b", 4)) for n in (240, 60, 15)},  # one anchor, three strides
        {f"{k}{n}": ("b", n, w) for k, w in (("s", 1), ("b", 5)) for n in (480, 120, 30)},
        {f"{k}{n}": ("b", n, w) for k, w in (("s", 2), ("b", 4), ("k", 10)) for n in (480, 120, 30)},
        {f"{k}{n}": (n, w) for k, w in (("s", 1), ("b", 4), ("k", 10)) for n in (480, 120, 30)},  # of a free batch
        {f"{k}{n}": ("b", n, w) for k, w in (("s", 1), ("b", 4), ("k", 10)) for n in (480, 120, 30)} | {"x": ("b", 7)},
        {f"{k}{n}": ("b", n, w) for k, w in (("c", 1), ("o", 1), ("b", 4)) for n in (240, 60, 15)},
    ],
)
def test_near_misses_are_no_face_detector(outputs: dict[str, tuple[int | str, ...]]):
    facts = Facts(("b", 3, *SIZE), outputs, {}, frozenset())
    assert not [name for name in FACES if family(name).recognise(facts)]


@pytest.mark.parametrize("name", ["scrfd", "retinaface", "yunet"])
def test_a_card_that_contradicts_the_graph(name: str):
    right = opened(network(name))
    for change in ({"names": ("a", "b")}, *({"family": other} for other in FACES if other != name)):
        wrong = replace(right, card=replace(right.card, **change))
        with pytest.raises(CardError, match=r"the card says \w+ with \d classes, but the graph does not fit"):
            deploy_graph(wrong, HeadSpec())
    with pytest.raises(CardError, match="task"):
        deploy_graph(replace(right, card=replace(right.card, task="segment")), HeadSpec())
    bare = opened(network("scrfd without points"))
    with pytest.raises(CardError, match="task"):
        deploy_graph(replace(bare, card=replace(bare.card, task="pose")), HeadSpec())


def test_edges_that_carry_the_deploy_graphs_names():
    model = network("retinaface of logits")
    zoo.rename(model.graph, {"input": "images", "loc": "detections", "conf": "count", "landms": "converged"})
    found = opened(model)
    assert found.card.params == {"logits": True}
    onnx.checker.check_model(deploy_graph(found, HeadSpec()), full_check=True)


# ---- real weights ----


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_faces_agree_with_a_plain_numpy_decode_of_the_raw_network(real_data: Path, name: str):
    path, results = real_data / "models" / f"{name}.onnx", {}
    for runtime in RUNTIMES:
        with eyas.load(path, backend=runtime, precision="fp32") as model:
            assert (model.card.family, model.card.task, model.card.iou) == (REAL[name], "pose", 0.4)
            results[runtime] = {p: model.predict(real_data / "data" / "images" / p, conf=0.5) for p in FOUND}
    session = session_of(str(path))
    for picture, count in FOUND.items():
        image = cv2.imread(str(real_data / "data" / "images" / picture))
        scrfd = REAL[name] == "scrfd"
        canvas, scale, offset = oracles.prepare(image, 640, 0 if scrfd else 114, centred=not scrfd)
        arrays = list(raw_outputs(session, oracles_faces.blob(canvas, REAL[name])).values())
        if scrfd:
            names = [f"{kind}_{s}" for kind in ("score", "bbox", "kps") for s in P3]
            raw = oracles_faces.scrfd(dict(zip(names, arrays, strict=True)), (640, 640), P3, 2)
        else:
            names = ["loc", "conf", "landms"]
            raw = oracles_faces.retinaface(dict(zip(names, arrays, strict=True)), (640, 640))
        wanted = oracles_faces.to_source(oracles_faces.suppress(raw, 0.5, 0.4), scale, offset, image.shape)
        for runtime in RUNTIMES:
            found = results[runtime][picture]
            assert len(found) == count
            assert_same(found, wanted, 0.5, 2e-3)
        mine, theirs = (results[runtime][picture] for runtime in RUNTIMES)
        np.testing.assert_allclose(mine.xyxy, theirs.xyxy, atol=0.1)
        np.testing.assert_allclose(mine.keypoints, theirs.keypoints, atol=0.1)
        if picture in ("many_face.png", "biubug6_faces.jpg"):  # upright faces that look at the viewer
            assert_points_are_where_they_belong(mine)


def assert_points_are_where_they_belong(found: Detections) -> None:
    """Left eye, right eye, nose, left and right corner of the mouth, as the viewer sees them, inside the box."""
    assert found.keypoints is not None
    left, right, nose, low_left, low_right = found.keypoints[..., :2].transpose(1, 0, 2)
    assert (left[:, 0] < right[:, 0]).all()
    assert (low_left[:, 0] < low_right[:, 0]).all()
    for eye in (left, right):
        assert (eye[:, 1] < nose[:, 1]).all()
    for corner in (low_left, low_right):
        assert (corner[:, 1] > nose[:, 1]).all()
    assert (found.keypoints[..., :2] > found.xyxy[:, None, :2]).all()
    assert (found.keypoints[..., :2] < found.xyxy[:, None, 2:]).all()


# ---- old opsets ----


def old(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], opset: int, shape: list[Any]) -> onnx.ModelProto:
    rank = [None] * 4
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, rank)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    helper.set_model_props(model, {"who": "me"})
    return model


def resizing(mode: str, factor: float, opset: int) -> onnx.ModelProto:
    """Height and width times a constant factor, as each opset writes it."""
    scales = [1.0, 1.0, factor, factor]
    if opset < 9:
        return old([helper.make_node("Upsample", ["x"], ["y"], mode=mode, scales=scales)], [], opset, [2, 3, 12, 9])
    kind = "Upsample" if opset == 9 else "Resize"
    weight = numpy_helper.from_array(np.array(scales, np.float32), "scales")
    return old([helper.make_node(kind, ["x", "scales"], ["y"], mode=mode)], [weight], opset, [2, 3, 12, 9])


@pytest.mark.parametrize("opset", [7, 9, 10])
@pytest.mark.parametrize("factor", [2.0, 1.5, 3.0])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_resize_samples_as_it_did(mode: str, factor: float, opset: int):
    model = resizing(mode, factor, opset)
    x = np.random.default_rng(1).normal(size=(2, 3, 12, 9)).astype(np.float32)
    converted = raise_opset(model, "it")
    assert (opset_of(model), opset_of(converted)) == (opset, 17)
    assert {p.key: p.value for p in converted.metadata_props} == {"who": "me"}
    before, after = (raw_outputs(session_of(m.SerializeToString()), x)["y"] for m in (model, converted))
    np.testing.assert_allclose(after, before, atol=1e-6)


def resizing_to_a_shape(shape: list[Any]) -> onnx.ModelProto:
    """As PyTorch exported interpolate(x, size) for opset 9: twice, each time to twice the last two axes."""
    consts = {"one": [1, 1], "two": [2.0, 2.0]}
    weights = [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in consts.items()]
    nodes, x = [], "x"
    for i, y in enumerate(("middle", "y")):
        nodes += [
            helper.make_node("Shape", [x], [f"shape{i}"]),
            helper.make_node("Slice", [f"shape{i}"], [f"sides{i}"], axes=[0], starts=[2], ends=[4]),
            helper.make_node("Cast", [f"sides{i}"], [f"float{i}"], to=1),
            helper.make_node("Mul", [f"float{i}", "two"], [f"wanted{i}"]),
            helper.make_node("Div", [f"wanted{i}", f"float{i}"], [f"ratio{i}"]),
            helper.make_node("Concat", ["one", f"ratio{i}"], [f"scales{i}"], axis=0),
            helper.make_node("Upsample", [x, f"scales{i}"], [y], mode="nearest"),
        ]
        x = y
    return old(nodes, weights, 9, shape)


@pytest.mark.parametrize("shape", [[1, 3, 8, 6], ["b", 3, 8, 6], ["b", 3, "h", "w"]])
def test_computed_scales_become_constants_so_that_sizes_are_known(shape: list[Any]):
    model = resizing_to_a_shape(shape)
    size = (8, 6) if "h" in shape else None
    converted = raise_opset(model, "it", size)
    assert facts_of(converted, size).outputs["y"][1:] == (3, 32, 24)
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 6)).astype(np.float32)
    before, after = (raw_outputs(session_of(m.SerializeToString()), x)["y"] for m in (model, converted))
    np.testing.assert_array_equal(after, before)


def test_scales_that_are_not_known_stay():
    free = raise_opset(resizing_to_a_shape(["b", 3, "h", "w"]), "it")
    assert [n.input[2] for n in free.graph.node if n.op_type == "Resize"] == ["scales0", "scales1"]
    sums = [
        helper.make_node("ReduceMax", ["x"], ["top"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["top", "four"], ["scales"]),
        helper.make_node("Upsample", ["x", "scales"], ["y"], mode="nearest"),
    ]
    four = numpy_helper.from_array(np.array([1], np.int64), "four")
    of_the_picture = raise_opset(old(sums, [four], 9, [1, 1, 1, 1]), "it")
    assert [n.input[2] for n in of_the_picture.graph.node if n.op_type == "Resize"] == ["scales"]


def test_a_network_that_is_new_enough_is_left_alone():
    for opset in (11, 17):
        model = network("yunet of opset 11", opset=opset)
        assert raise_opset(model, "it") is model


def test_an_operator_that_cannot_be_converted(tmp_path: Path):
    path = tmp_path / "odd.onnx"
    model = old([helper.make_node("Odd", ["x"], ["y"])], [], 9, [1, 3, 8, 8])
    with pytest.raises(ModelError, match=r"too old and cannot be converted: got opset 9 .*Odd") as caught:
        raise_opset(model, str(path))
    assert "Export it again with a newer opset" in str(caught.value)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("else.where", 1))
    with pytest.raises(ModelError, match="opset 0"):
        raise_opset(model, str(path))


def test_the_real_old_network_gives_what_it_gave(real_data: Path, caplog: pytest.LogCaptureFixture):
    path = real_data / "models" / "retinaface_mnet025.onnx"
    with caplog.at_level(logging.INFO, "eyas"):
        found = open_network(path)
    assert any("converted from opset 9 to 17" in r.message for r in caplog.records)
    assert found.facts.outputs == {"output0": (1, 16800, 4), "572": (1, 16800, 2), "571": (1, 16800, 10)}
    x = np.random.default_rng(1).uniform(-120, 150, (1, 3, 640, 640)).astype(np.float32)
    before, after = (raw_outputs(session_of(m), x) for m in (str(path), found.model.SerializeToString()))
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=1e-5)
