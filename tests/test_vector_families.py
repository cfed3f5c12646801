"""Networks that describe a picture as a whole: synthetic and real ones against plain NumPy, on two runtimes."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import zoo
from numpy.typing import NDArray
from onnx import helper

import eyas
from eyas import registry
from eyas.backends import backend
from eyas.build import Network, deploy_graph, open_network
from eyas.card import METADATA_KEY, settle_card
from eyas.errors import CardError
from eyas.families import IMAGENET, RGB_UNIT, family
from eyas.graph.head import HeadSpec
from eyas.graph.network import Facts, facts_of
from eyas.imagenet import IMAGENET1000
from eyas.results import Classification, Embedding
from eyas.types import BuildSpec, Normalise

# The second in the slow suite.
RUNTIMES = ("onnxruntime", pytest.param("openvino", marks=pytest.mark.slow))
Floats = NDArray[np.float32]
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PREPARED = {  # what each kind of network wants of a BGR picture 0…255
    "arcface": lambda image: (image[..., ::-1] - 127.5) / 127.5,
    "reid": lambda image: (image[..., ::-1] / 255 - MEAN) / DEVIATION,
    "reid bgr": lambda image: image * 1.0,
    "classify": lambda image: (image[..., ::-1] / 255 - MEAN) / DEVIATION,
    "ultralytics": lambda image: image[..., ::-1] / 255,
}
SIZES = {"arcface": (112, 112), "reid": (64, 32), "reid bgr": (96, 32), "classify": (64, 64), "ultralytics": (48, 64)}
ULTRALYTICS = {"stride": "1", "task": "classify", "names": str({i: f"sort {i}" for i in range(7)})}


# ---- networks ----


def network(
    size: tuple[int, int] = (64, 64),
    width: int = 7,
    *,
    end: str = "",
    four: bool = False,
    last: bool = False,
    opset: int = 17,
    batch: int | str = "batch",
    out: str = "output",
    magnitude: float = 1,
    times: float = 1,
    **metadata: str,
) -> onnx.ModelProto:
    """[B, width] (four: [B, width, 1, 1]) of a convolution over patches of 16 × 16 and a product.

    end: an operator behind that. last: the input is [B, H, W, 3]. times: what the result is multiplied by.
    """
    net = zoo.Net(5, opset, np.float32)
    x = net.op("Transpose", "input", perm=[0, 3, 1, 2]) if last else "input"
    weight = net.const(net.rng.normal(0, 1 / (28 * magnitude), (6, 3, 16, 16)))
    x = net.op("Tanh", net.op("Conv", x, weight, strides=[16, 16], kernel_shape=[16, 16]))
    cells = size[0] // 16 * (size[1] // 16)
    x = net.reshape(x, 0, 6 * cells)
    x = net.op("MatMul", x, net.const(net.rng.normal(0, 3 / np.sqrt(6 * cells), (6 * cells, width))))
    if times != 1:
        x = net.op("Mul", x, net.const([times]))
    x = net.op(end, x, **({"axis": 1} if end in ("Softmax", "LogSoftmax") else {})) if end else x
    shape = [width, 1, 1] if four else [width]
    net.nodes.append(
        helper.make_node("Reshape", [x, net.const([0, *shape], np.int64)], [out])
        if four
        else helper.make_node("Identity", [x], [out])
    )
    return _model(net, {out: shape}, [*size, 3] if last else [3, *size], batch, metadata)


def _model(
    net: zoo.Net, outputs: dict[str, list[int]], taken: list[int], batch: int | str, metadata: dict[str, str]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        net.nodes,
        "network",
        [helper.make_tensor_value_info("input", 1, [batch, *taken])],
        [helper.make_tensor_value_info(name, 1, [batch, *shape]) for name, shape in outputs.items()],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def ort_session(model: onnx.ModelProto | Path) -> Any:
    ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"])


def raw(model: onnx.ModelProto | Path, kind: str, images: NDArray[np.uint8]) -> Floats:
    """[N, width]: what the network itself says of pictures of its size, prepared here, one at a time."""
    session = ort_session(model)
    (source,) = session.get_inputs()
    rows = []
    for image in images:
        blob = PREPARED[kind](image.astype(np.float64)).astype(np.float32)
        blob = blob if source.shape[3] == 3 and source.shape[1] != 3 else blob.transpose(2, 0, 1)
        rows.append(session.run(None, {source.name: np.ascontiguousarray(blob[None])})[0].reshape(-1))
    return np.stack(rows)


def unit(rows: Floats) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def softmax(rows: Floats) -> NDArray[np.float64]:
    grown = np.exp(rows.astype(np.float64) - rows.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def opened(model: onnx.ModelProto, **said: Any) -> Network:
    facts = facts_of(model)
    return Network(model, facts, settle_card(facts, **said))


def infer(found: Network, runtime: str, images: NDArray[np.uint8]) -> Floats:
    """The only output, of all pictures in one call."""
    graph = deploy_graph(found, HeadSpec())
    onnx.checker.check_model(graph, full_check=True)
    assert [i.name for i in graph.graph.input] == ["images"], "such a graph has no thresholds"
    engine = backend(runtime).open_engine(graph, BuildSpec(precision="fp32", batch=(1, 3, 3)))
    try:
        ((name, got),) = engine.infer({"images": images}).items()
    finally:
        engine.close()
    assert name == {"classify": "probabilities", "embed": "embedding"}[found.card.task]
    assert (got.dtype, got.ndim) == (np.float32, 2)
    return np.array(got)


def readings(facts: Facts) -> list[str]:
    """The families that take it for their own."""
    return [name for name in registry.names("families") if family(name).recognise(facts)]


def facts(size: tuple[int, int], *shapes: tuple[int | str, ...], last: bool = False, **metadata: str) -> Facts:
    taken = ("B", *size, 3) if last else ("B", 3, *size)
    return Facts(taken, {f"o{i}": s for i, s in enumerate(shapes)}, metadata, frozenset(), channels_last=last)


# ---- which family ----


@pytest.mark.parametrize(
    ("size", "shape", "wanted"),
    [
        ((112, 112), ("B", 128), ["arcface"]),
        ((112, 112), ("B", 256), ["arcface"]),
        ((112, 112), (1, 512), ["arcface"]),
        ((112, 112), ("B", 1000), ["classify"]),
        ((112, 112), ("B", 10), ["classify"]),
        ((112, 112), ("B", 512, 1, 1), []),  # it could be either
        ((160, 160), ("B", 512), ["classify"]),
        ((224, 224), (1, 1000), ["classify"]),
        ((224, 224), ("B", 512), ["classify"]),
        ((224, 224), ("B", 1000, 1, 1), ["classify"]),
        ((256, 128), ("B", 512), ["reid"]),
        ((384, 128), ("B", 751), ["reid"]),
        ((256, 128), ("B", "?"), []),
        ((128, 256), ("B", 10), ["classify"]),
        ((224, 224), ("B",), []),
        ((224, 224), ("B", 1), []),
        ((224, 224), ("B", "classes"), []),
        ((224, 224), ("B", 10, 2), []),
        ((224, 224), ("B", 10, 7, 7), []),
        ((112, 112), ("B",), []),
        ((256, 128), ("B", 512, 1, 1), []),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_who_claims_what(size: tuple[int, int], shape: tuple[int | str, ...], wanted: list[str], last: bool):
    assert readings(facts(size, shape, last=last)) == wanted


def test_two_vectors_are_nobodys():
    for size in ((112, 112), (256, 128), (224, 224)):
        assert readings(facts(size, ("B", 512), ("B", 512))) == []


@pytest.mark.parametrize("size", [(224, 224), (112, 112), (256, 128)])
def test_what_says_that_it_is_a_classifier_is_one(size: tuple[int, int]):
    names = str({i: f"sort {i}" for i in range(512)})
    card = settle_card(facts(size, ("B", 512), stride="1", task="classify", names=names))
    assert (card.family, card.task, card.names[511]) == ("classify", "classify", "sort 511")


@pytest.mark.parametrize("shape", [("B",), ("B", 10, 2), ("B", 10, 7, 7), ()])
def test_outputs_of_another_rank_are_named(shape: tuple[int | str, ...]):
    text = ", ".join(map(str, shape))
    for size in ((224, 224), (112, 112), (256, 128)):
        with pytest.raises(CardError, match=rf"no family fits .*o0 \[{text}\]"):
            settle_card(facts(size, shape))
        for name in ("classify", "arcface", "reid"):
            with pytest.raises(CardError, match=rf"does not look like {name}.*o0 \[{text}\]"):
                settle_card(facts(size, shape), family_name=name)


# ---- embeddings ----

OPSETS = [11, 18, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (13, 17))]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    ("kind", "width", "last"),
    [("arcface", 128, False), ("arcface", 512, True), ("reid", 20, False), ("reid bgr", 20, True)],
)
def test_embeddings(kind: str, width: int, last: bool, opset: int, runtime: str):
    size = SIZES[kind]
    magnitude = 255 if kind == "reid bgr" else 1
    model = network(size, width, last=last, opset=opset, magnitude=magnitude)
    found = opened(model)
    assert (found.card.family, found.card.task, found.card.names) == (kind.split()[0], "embed", ())
    assert found.card.resize == "stretch"
    images = zoo.pictures(3, size)
    want = unit(raw(model, kind, images))
    assert np.abs(want @ want.T - np.eye(3)).max() < 0.95, "the pictures must differ"
    np.testing.assert_allclose(infer(found, runtime, images), want, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("end", ["", "Softmax"])
def test_a_fixed_batch_runs_one_by_one(end: str, runtime: str):
    model, images = network((112, 112), 128, batch=1), zoo.pictures(3, (112, 112))
    np.testing.assert_allclose(infer(opened(model), runtime, images), unit(raw(model, "arcface", images)), atol=1e-5)
    model, images = network(end=end, batch=1), zoo.pictures(3)
    want = raw(model, "classify", images)
    np.testing.assert_allclose(infer(opened(model), runtime, images), want if end else softmax(want), atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("times", [1e20, 1e-20, 3e37])
def test_huge_and_tiny_values_have_a_direction(times: float, runtime: str):
    images = zoo.pictures(3, (112, 112))
    want = unit(raw(network((112, 112), 128), "arcface", images))
    got = infer(opened(network((112, 112), 128, times=times)), runtime, images)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_zero_vector_stays_zero(runtime: str):
    got = infer(opened(network((112, 112), 128, times=0)), runtime, zoo.pictures(3, (112, 112)))
    np.testing.assert_array_equal(got, np.zeros((3, 128)))


def test_a_vector_without_a_length_is_refused():
    found = opened(network((112, 112), 128))
    for outputs in ({"output": ("batch", "?")}, {"output": ("batch", 128, 1)}, {"a": ("b", 128), "c": ("b", 128)}):
        wrong = replace(found, facts=replace(found.facts, outputs=outputs))
        with pytest.raises(CardError, match=r"does not fit.*expected one output \[B, D\]"):
            deploy_graph(wrong, HeadSpec())


# ---- the stem ----


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize(
    ("mean", "scale"),
    [
        ((0, 0, 0), (1 / 255, 1 / 255, 1 / 255)),
        ((10, 100, 200), (0.01, 0.02, 0.03)),
        ((127.5, 127.5, 127.5), (1, 1, 1)),
        ((0, 0, 0), (1, 1, 1)),
    ],
)
def test_pixels_are_prepared_the_same_in_both_layouts(
    mean: tuple[float, float, float], scale: tuple[float, float, float], colour: Any, last: bool, runtime: str
):
    size, magnitude = (112, 112), 255 * max(scale)
    model = network(size, 128, last=last, magnitude=magnitude)
    found = opened(model)
    found = replace(found, card=replace(found.card, normalise=Normalise(colour, mean, scale)))
    images = zoo.pictures(3, size)
    ordered = images[..., ::-1] if colour == "rgb" else images
    blob = ((ordered.astype(np.float64) - mean) * scale).astype(np.float32)
    blob = blob if last else np.ascontiguousarray(blob.transpose(0, 3, 1, 2))
    want = unit(ort_session(model).run(None, {"input": blob})[0])
    np.testing.assert_allclose(infer(found, runtime, images), want, atol=1e-5)


def test_the_plain_preparation_of_pixels_is_no_arithmetic():
    graph = deploy_graph(opened(network((96, 32), 20, last=True, magnitude=255)), HeadSpec()).graph
    stem = [n.op_type for n in graph.node if n.output[0].startswith("eyas/stem")]
    assert stem == ["Cast"]


# ---- classifiers ----


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    ("end", "four"), [("", False), ("", True), ("Softmax", True), ("Softmax", False), ("Sigmoid", False)]
)
def test_classifiers(end: str, four: bool, opset: int, runtime: str):
    model, images = network(end=end, four=four, opset=opset), zoo.pictures(3)
    found = opened(model)
    logits = not end
    assert (found.card.family, found.card.task) == ("classify", "classify")
    assert (found.card.resize, found.card.crop, found.card.params) == ("crop", 0.875, {"logits": logits})
    assert found.card.names == tuple(f"class {i}" for i in range(7))
    want = raw(model, "classify", images)
    want = softmax(want) if logits else want
    assert len({tuple(np.argsort(row)) for row in want}) > 1, "the pictures must differ"
    np.testing.assert_allclose(infer(found, runtime, images), want, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("end", ["LogSoftmax", "Softmax"])
def test_classifiers_that_take_channels_last(end: str, runtime: str):
    model, images = network(end=end, last=True), zoo.pictures(3)
    want = raw(model, "classify", images)
    want = softmax(want) if end == "LogSoftmax" else want
    np.testing.assert_allclose(infer(opened(model), runtime, images), want, atol=1e-5)


@pytest.mark.parametrize("out", ["probabilities", "embedding", "images"])
@pytest.mark.parametrize("end", ["", "Softmax"])
def test_an_output_with_a_name_of_ours_means_the_same(end: str, out: str):
    model, images = network(end=end, out=out), zoo.pictures(3)
    want = raw(model, "classify", images)
    np.testing.assert_allclose(infer(opened(model), "openvino", images), want if end else softmax(want), atol=1e-5)


def test_a_card_says_what_the_operators_hide():
    model, images = network(end="Softmax"), zoo.pictures(3)
    model.graph.node[-1].op_type = "Neg"  # a distribution that no Softmax ends
    model.graph.node.append(helper.make_node("Neg", ["minus"], ["output"]))
    model.graph.node[-2].output[0] = "minus"
    assert opened(model).card.params == {"logits": True}
    found = opened(model, said={"params": {"logits": False}})
    np.testing.assert_allclose(infer(found, "openvino", images), raw(model, "classify", images), atol=1e-5)
    for saved, want in (({}, True), ({"logits": False}, False)):
        graph = deploy_graph(replace(found, card=replace(found.card, params=saved)), HeadSpec()).graph
        behind = [n.op_type for n in graph.node if n.output[0].startswith("eyas/head")]
        assert ("Softmax" in behind) is want


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_logits_of_any_size_are_probabilities(runtime: str):
    got = infer(opened(network(times=1e20)), runtime, zoo.pictures(3))
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    assert sorted(np.unique(got)) == [0, 1]


def test_imagenet_by_its_thousand_classes(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="eyas"):
        card = settle_card(facts((224, 224), ("B", 1000)))
    assert not caplog.records
    assert (card.names, card.normalise, card.input_size) == (IMAGENET1000, IMAGENET, (224, 224))
    assert (card.names[0], card.names[207], card.names[999]) == ("tench", "golden retriever", "toilet tissue")
    assert len(set(IMAGENET1000)) == 1000


def test_eighty_classes_are_not_cocos(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="eyas"):
        card = settle_card(facts((224, 224), ("B", 80)))
    assert card.names[:2] == ("class 0", "class 1")
    assert ["class names are unknown" in r.message for r in caplog.records] == [True]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_ultralytics_classifiers(runtime: str):
    size = SIZES["ultralytics"]
    model, images = network(size, end="Softmax", **ULTRALYTICS), zoo.pictures(3, size)
    found = opened(model)
    assert (found.card.normalise, found.card.resize, found.card.crop) == (RGB_UNIT, "crop", 1.0)
    assert (found.card.names[6], found.card.params) == ("sort 6", {"logits": False})
    np.testing.assert_allclose(infer(found, runtime, images), raw(model, "ultralytics", images), atol=1e-5)


def test_names_that_the_user_gives():
    model = network(width=3)
    assert opened(model, names=("ant", "bee", "cow")).card.names == ("ant", "bee", "cow")
    thousand = facts((224, 224), ("B", 1000))
    assert settle_card(thousand, names=tuple(f"n{i}" for i in range(1000))).names[999] == "n999"
    for found in (facts_of(model), thousand, replace(facts((48, 64), ("B", 9)), metadata=ULTRALYTICS)):
        with pytest.raises(CardError, match="the number of class names is wrong: got 2 names"):
            settle_card(found, names=("ant", "bee"))
    with pytest.raises(CardError, match="the number of class names is wrong: got 7 names"):
        settle_card(replace(facts((48, 64), ("B", 9)), metadata=ULTRALYTICS))


def test_contradictions_of_card_and_graph():
    found = opened(network(width=3))
    short = replace(found, card=replace(found.card, names=("ant", "bee")))
    with pytest.raises(CardError, match=r"classify with 2 classes.*output \[batch, 3\]; expected one output \[B, 2\]"):
        deploy_graph(short, HeadSpec())
    for wrong in ("embed", "detect", "pose"):
        other = replace(found, card=replace(found.card, task=wrong))
        with pytest.raises(CardError, match=f"got task {wrong} with family classify; expected task classify"):
            deploy_graph(other, HeadSpec())
    vector = opened(network((112, 112), 128))
    with pytest.raises(CardError, match="got task classify with family arcface; expected task embed"):
        deploy_graph(replace(vector, card=replace(vector.card, task="classify", names=("a",) * 128)), HeadSpec())
    other = settle_card(vector.facts, {"family": "classify", **_but_family(found, 128)})
    assert (other.family, other.task) == ("classify", "classify"), "a whole card overrules what the shapes say"


def _but_family(found: Network, classes: int) -> dict[str, Any]:
    card = found.card
    normalise = {"colour": "rgb", "mean": card.normalise.mean, "scale": card.normalise.scale}
    names = [f"n{i}" for i in range(classes)]
    rest = {"task": card.task, "resize": card.resize, "pad_value": 0, "iou": 0.7, "params": {}}
    return {"normalise": normalise, "names": names, **rest}


# ---- files and the run ----


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "network.onnx")
    return folder / "network.onnx"


def test_a_classifier_sees_the_middle(tmp_path: Path):
    model = network((224, 224), end="Softmax")
    (picture,) = zoo.pictures(1, (256, 320))
    want = raw(model, "classify", picture[None, 16:240, 48:272])
    with eyas.load(saved(model, tmp_path), backend="onnxruntime") as opened_model:
        got = opened_model.predict(picture)
    assert isinstance(got, Classification)
    np.testing.assert_allclose(got.probabilities[None], want, atol=1e-5)
    assert abs(got.top(1)[0][1] - want.max()) < 1e-5


@pytest.mark.parametrize("backend_name", ["null", *RUNTIMES])
@pytest.mark.parametrize("kind", ["arcface", "reid", "reid bgr", "classify", "ultralytics"])
def test_every_backend_runs_them(kind: str, backend_name: str, tmp_path: Path):
    size = SIZES[kind]
    extra = ULTRALYTICS if kind == "ultralytics" else {}
    width = 128 if kind == "arcface" else 7
    path = saved(network(size, width, last=kind == "reid bgr", **extra), tmp_path)
    pictures = list(zoo.pictures(5, (80, 72)))
    with eyas.load(path, backend=backend_name, batch=2, precision="fp32") as model:
        many = list(model.predict(pictures))
        one = [model.predict(picture) for picture in pictures]
    wanted = Classification if kind in ("classify", "ultralytics") else Embedding
    assert len(many) == 5
    for a, b in zip(many, one, strict=True):
        assert isinstance(a, wanted)
        assert isinstance(b, wanted)
        one_row, other_row = (r.probabilities if isinstance(r, Classification) else r.vector for r in (a, b))
        assert one_row.shape == (width,)
        np.testing.assert_allclose(one_row, other_row, atol=1e-6)
        assert one_row.any() or backend_name == "null"


@pytest.mark.parametrize("kind", ["arcface", "classify"])
def test_a_saved_deploy_graphs_card_comes_back(kind: str):
    found = opened(network(SIZES[kind], 128))
    (prop,) = [p for p in deploy_graph(found, HeadSpec()).metadata_props if p.key == METADATA_KEY]
    again = settle_card(replace(found.facts, metadata={prop.key: prop.value}))
    assert again == found.card
    assert json.loads(prop.value)["task"] == found.card.task


# ---- real weights ----


def face_of(real_data: Path, name: str = "img20.jpg") -> NDArray[np.uint8]:
    """A square around a face, at the size of the input."""
    picture = cv2.imread(str(real_data / "data" / "face_pairs" / name))
    return cv2.resize(picture[85:488, 250:653], (112, 112), interpolation=cv2.INTER_AREA)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_mobilefacenet(real_data: Path, runtime: str):
    path = real_data / "models" / "mobilefacenet.onnx"
    face = face_of(real_data)
    images = np.stack([face, face[:, ::-1], face[::-1]])
    want = unit(raw(path, "arcface", images))
    assert (want @ want.T)[0, 2] < 0.9, "a face upside down must differ"
    with eyas.load(path, backend=runtime, precision="fp32") as model:
        assert (model.card.family, model.card.task) == ("arcface", "embed")
        one = [model.predict(image) for image in images]
    with eyas.load(path, backend=runtime, precision="fp32", batch=3) as model:
        many = list(model.predict(list(images)))
    for a, b, row in zip(one, many, want, strict=True):
        assert a.vector @ row > 0.9999
        assert abs(np.linalg.norm(a.vector) - 1) < 1e-5
        np.testing.assert_allclose(a.vector, b.vector, atol=1e-6)


def test_mobilefacenet_in_bf16(real_data: Path):
    images = face_of(real_data)[None]
    path = real_data / "models" / "mobilefacenet.onnx"
    with eyas.load(path, backend="openvino") as model:
        assert model.predict(images[0]).vector @ unit(raw(path, "arcface", images))[0] > 0.99


PERSONS = [(224, 407, 341, 855), (671, 379, 807, 880), (50, 398, 243, 905)]  # in bus.jpg, as yolov8n finds them


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_person_reid(real_data: Path, runtime: str):
    path = real_data / "models" / "person_reid_0287.onnx"
    bus = cv2.imread(str(real_data / "data" / "images" / "bus.jpg"))
    crops = [
        np.ascontiguousarray(bus[y1 + d : y2 + d, x1 + d : x2 + d]) for x1, y1, x2, y2 in PERSONS for d in (0, 8, -8)
    ]
    sized = np.stack([cv2.resize(crop, (128, 256)) for crop in crops])
    want = unit(raw(path, "reid bgr", sized))
    with eyas.load(path, backend=runtime, precision="fp32") as model:
        assert (model.card.family, model.card.normalise) == ("reid", Normalise("bgr"))
        vectors = np.stack([result.vector for result in model.predict(crops)])
    assert (vectors * want).sum(axis=1).min() > 0.9999
    alike = vectors @ vectors.T
    person = np.repeat(np.arange(3), 3)
    same = person[:, None] == person
    assert alike[same].min() > alike[~same].max() + 0.1


@pytest.mark.slow
def test_real_networks_are_what_they_are(real_data: Path):
    for name, wanted in {"mobilefacenet": ["arcface"], "person_reid_0287": ["reid"]}.items():
        assert readings(open_network(real_data / "models" / f"{name}.onnx").facts) == wanted
    for name in ("nanodet_g", "yolov8n", "yolov8n-pose", "yolox_nano", "scrfd_500m_kps", "retinaface_mnet025"):
        found = readings(open_network(real_data / "models" / f"{name}.onnx").facts)
        assert not {"arcface", "reid", "classify"} & set(found), name
