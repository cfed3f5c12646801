"""Deploy graphs of the zoo: valid, and equal to a plain NumPy decode of the raw network, on two runtimes."""

from __future__ import annotations

import numpy as np
import onnx
import oracles
import pytest
import zoo
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from eyas.backends import backend
from eyas.build import Network, deploy_graph
from eyas.card import settle_card
from eyas.errors import CardError, ModelError
from eyas.graph.builder import Builder
from eyas.graph.head import HeadSpec
from eyas.graph.network import facts_of, read_network
from eyas.graph.rewrite import split_convolutions, unfold_expectation, widen_last_products
from eyas.graph.surgery import add_stem
from eyas.nms import greedy_nms
from eyas.outputs import Outputs
from eyas.types import BuildSpec, Normalise

# The second in the slow suite.
RUNTIMES = ("onnxruntime", pytest.param("openvino", marks=pytest.mark.slow))
OPSETS = (11, 13, 17, 18, 20)
NAMES = ("ant", "bee", "cow")
LIMITS = np.array([[0, 1], [0, 0.5], [0.3, 0.7], [0.5, 0.45], [0.6, 0.3]], np.float32)


@pytest.fixture(autouse=True)
def _raw_runtime() -> None:
    pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")


def opened(model: onnx.ModelProto, kind: str, names: tuple[str, ...] = NAMES) -> Network:
    facts = facts_of(model)
    return Network(model, facts, settle_card(facts, family_name=zoo.KINDS[kind][0], names=names))


def deploy(model: onnx.ModelProto, kind: str, head: HeadSpec | None = None) -> onnx.ModelProto:
    """The deploy graph, after the strictest check that ONNX has."""
    before = model.SerializeToString()
    graph = deploy_graph(opened(model, kind), head or HeadSpec())
    assert model.SerializeToString() == before, "the network itself must not change"
    onnx.checker.check_model(graph, full_check=True)
    return graph


def infer(graph: onnx.ModelProto, runtime: str, images: NDArray[np.uint8], limits: NDArray[np.float32]) -> Outputs:
    engine = backend(runtime).open_engine(graph, BuildSpec(precision="fp32", batch=(1, 5, 5)))
    try:
        return engine.infer({"images": images, "thresholds": limits})
    finally:
        engine.close()


def assert_as_decoded(outputs: Outputs, wanted, limits: NDArray[np.float32], k: int = 300, atol: float = 2e-3) -> None:
    """Each picture's rows are those of the oracle on (boxes, scores) of the raw network."""
    assert len(outputs["count"]) == len(wanted)
    for i, (boxes, scores) in enumerate(wanted):
        want = oracles.detect(boxes, scores, *map(float, limits[i]), k)
        got = outputs["detections"][i, : outputs["count"][i]]
        if not outputs["converged"][i]:  # the host finishes what the rounds did not
            got = got[greedy_nms(got[:, :4], got[:, 5], float(limits[i, 1]))]
        np.testing.assert_array_equal(got[:, 5], want[:, 5], err_msg=f"classes of picture {i}")
        np.testing.assert_allclose(got[:, 4], want[:, 4], atol=1e-5, err_msg=f"scores of picture {i}")
        np.testing.assert_allclose(got[:, :4], want[:, :4], atol=atol, err_msg=f"boxes of picture {i}")


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", zoo.KINDS)
def test_shapes_follow_from_the_graph_alone_at_every_opset(kind: str, opset: int):
    graph = deploy(zoo.network(kind, opset=opset), kind)
    declared = {o.name: o.type.tensor_type for o in graph.graph.output}
    shapes = {n: [d.dim_value or d.dim_param for d in t.shape.dim] for n, t in declared.items()}
    cells = len(oracles.centres(64, zoo.KINDS[kind][1], 0))
    assert shapes == {"detections": ["batch", cells, 6], "count": ["batch"], "converged": ["batch"]}
    for output in graph.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph.output
    assert [o.name for o in inferred] == ["detections", "count", "converged"]
    assert [o.type.tensor_type.elem_type for o in inferred] == [TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL]
    assert [len(o.type.tensor_type.shape.dim) for o in inferred] == [3, 1, 1]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", zoo.KINDS)
def test_batches_of_rectangles_give_what_a_numpy_decode_gives(kind: str, runtime: str):
    model, images = zoo.network(kind, size=(96, 64)), zoo.pictures(5, (96, 64))
    wanted = zoo.reference(model, kind, images)
    engine = backend(runtime).open_engine(deploy(model, kind), BuildSpec(precision="fp32", batch=(1, 5, 5)))
    for batch in (1, 2, 5):
        for first in range(0, 5, batch):
            some = slice(first, first + batch)
            assert_as_decoded(
                engine.infer({"images": images[some], "thresholds": LIMITS[some]}), wanted[some], LIMITS[some]
            )
    engine.close()


def test_a_picture_turned_on_its_side_is_not_mistaken_for_the_other():
    wide, high = (zoo.network("yolox", size=size) for size in ((64, 96), (96, 64)))
    for model, size in ((wide, (64, 96)), (high, (96, 64))):
        images = zoo.pictures(1, size)
        limits = np.array([[0.2, 1]], np.float32)
        assert_as_decoded(
            infer(deploy(model, "yolox"), "onnxruntime", images, limits),
            zoo.reference(model, "yolox", images),
            limits,
        )


@pytest.mark.parametrize("opset", [11, 18])  # operators are written in three ways: until 12, until 17, from 18 on
@pytest.mark.parametrize("kind", zoo.KINDS)
def test_older_and_newer_opsets_on_onnxruntime(kind: str, opset: int):
    model, images = zoo.network(kind, opset=opset, seed=opset), zoo.pictures(2)
    limits = np.array([[0, 1], [0.4, 0.5]], np.float32)
    assert_as_decoded(
        infer(deploy(model, kind), "onnxruntime", images, limits), zoo.reference(model, kind, images), limits
    )


@pytest.mark.parametrize("opset", [11, 13, 20])
def test_older_and_newer_opsets_on_openvino(opset: int):
    model, images = zoo.network("yolov8", opset=opset, seed=opset), zoo.pictures(2)
    limits = np.array([[0, 1], [0.4, 0.5]], np.float32)
    assert_as_decoded(
        infer(deploy(model, "yolov8"), "openvino", images, limits), zoo.reference(model, "yolov8", images), limits
    )


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_the_networks_own_edges_may_carry_our_names(kind: str):
    plain, colliding = zoo.network(kind), zoo.network(kind, colliding=True)
    assert {i.name for i in colliding.graph.input} == {"images"}
    images = zoo.pictures(2)
    outputs = infer(deploy(colliding, kind), "onnxruntime", images, LIMITS[1:3])
    assert_as_decoded(outputs, zoo.reference(plain, kind, images), LIMITS[1:3])


def test_the_name_that_a_renamed_edge_would_get_may_be_taken_too():
    plain, model = zoo.network("yolox"), zoo.network("yolox", colliding=True)
    edges = [node.output[0] for node in model.graph.node[1:3]]
    zoo.rename(model.graph, dict(zip(edges, ("net/images", "net/detections"), strict=True)))
    onnx.checker.check_model(model)
    images = zoo.pictures(2)
    outputs = infer(deploy(model, "yolox"), "onnxruntime", images, LIMITS[1:3])
    assert_as_decoded(outputs, zoo.reference(plain, "yolox", images), LIMITS[1:3])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["yolov8"])
def test_a_fixed_batch_serves_any_number_of_pictures(kind: str, runtime: str):
    images = zoo.pictures(5)
    for fixed in (1, 2) if runtime == "onnxruntime" else (2,):
        model = zoo.network(kind, batch=fixed)
        graph = deploy(model, kind)
        values = (*graph.graph.input, *graph.graph.output)
        assert {v.type.tensor_type.shape.dim[0].dim_value for v in values} == {fixed}
        assert_as_decoded(infer(graph, runtime, images, LIMITS), zoo.reference(model, kind, images), LIMITS)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["yolov8", "nanodet-11"])
def test_an_fp16_network_gives_fp32_detections_near_the_oracles(kind: str, runtime: str):
    model, images = zoo.network(kind, dtype=np.float16), zoo.pictures(2)
    limits = np.array([[0, 1], [0, 1]], np.float32)
    outputs = infer(deploy(model, kind), runtime, images, limits)
    assert outputs["detections"].dtype == np.float32
    for i, (boxes, scores) in enumerate(zoo.reference(model, kind, images)):
        got = outputs["detections"][i]
        assert outputs["count"][i] == len(got) == len(boxes)
        nearest = np.abs(got[:, None, :4] - boxes[None]).max(axis=2).argmin(axis=1)
        np.testing.assert_allclose(got[:, :4], boxes[nearest], atol=0.5)
        np.testing.assert_allclose(got[:, 4], scores.max(axis=1)[nearest], atol=5e-3)
        assert len(set(nearest)) > 0.9 * len(boxes)


@pytest.mark.parametrize("kind", ["yolov8", "yolox", "nanodet-plus"])
def test_fewer_candidates_than_cells_are_the_best_ones(kind: str):
    model, images = zoo.network(kind), zoo.pictures(5)
    outputs = infer(deploy(model, kind, HeadSpec(10)), "onnxruntime", images, LIMITS)
    assert outputs["detections"].shape == (5, 10, 6)
    assert_as_decoded(outputs, zoo.reference(model, kind, images), LIMITS, k=10)


@pytest.mark.parametrize("kind", ["yolov8", "yolox", "nanodet-plus"])
def test_wanted_classes_keep_their_numbers(kind: str):
    model, images = zoo.network(kind), zoo.pictures(2)
    outputs = infer(deploy(model, kind, HeadSpec(classes=(0, 2))), "onnxruntime", images, LIMITS[1:3])
    wanted = zoo.reference(model, kind, images)
    for _, scores in wanted:
        scores[:, 1] = 0
    assert set(outputs["detections"][0, : outputs["count"][0], 5]) == {0, 2}
    assert_as_decoded(outputs, wanted, LIMITS[1:3])


def test_one_class_and_many():
    for classes in (1, 80):
        names = tuple(f"n{i}" for i in range(classes))
        for kind in ("yolov8", "yolox", "nanodet-8"):
            model, images = zoo.network(kind, classes=classes), zoo.pictures(1)
            graph = deploy_graph(opened(model, kind, names), HeadSpec())
            outputs = infer(graph, "onnxruntime", images, LIMITS[1:2])
            assert_as_decoded(outputs, zoo.reference(model, kind, images, classes), LIMITS[1:2])


def test_an_opset_that_is_too_old_is_refused():
    model = zoo.network("nanodet-8")
    network = opened(model, "nanodet-8")
    model.opset_import[0].version = 10
    with pytest.raises(ModelError, match="opset 10; expected opset 11 or newer"):
        deploy_graph(network, HeadSpec())


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_a_card_with_another_number_of_classes_contradicts_the_graph(kind: str):
    from dataclasses import replace

    network = opened(zoo.network(kind), kind)
    with pytest.raises(CardError, match="with 2 classes, but the graph does not fit"):
        deploy_graph(replace(network, card=replace(network.card, names=("a", "b"))), HeadSpec())


# ---- the stem ----

RECIPES = {
    "plain": Normalise("bgr"),
    "rgb": Normalise("rgb"),
    "rgb scaled": Normalise("rgb", scale=(1 / 255, 1 / 128, 1 / 64)),
    "bgr mean": Normalise("bgr", mean=(100, 110, 125)),
    "rgb mean scaled": Normalise("rgb", (100, 110, 125), (1 / 57, 1 / 58, 1 / 70)),
    "bgr mean scaled": Normalise("bgr", (100, 110, 125), (1 / 57, 1 / 58, 1 / 70)),
    "mirrored": Normalise("rgb", (0, 0, 255), (1, 1, -1)),
}


def beginning(ways: str, opset: int = 17, dtype: type = np.float32) -> onnx.ModelProto:
    """A network that is nothing but its beginning: x [1, 3, 8, 6] → y, with a convolution that pads."""
    net = zoo.Net(3, opset, dtype)
    if ways == "conv":
        y = net.conv("x", 3, 4, 1)
    elif ways == "slice":  # as in YOLOv5's and YOLOX's Focus
        y = net.conv(net.slice("x", 1, 7, 2), 3, 4, 1)
    elif ways == "two readers":
        y = net.op("Add", net.conv("x", 3, 3, 1), "x")
    elif ways == "shared weight":
        weight = net.const(net.rng.normal(size=(3, 3, 3, 3)))
        inner = net.op("Conv", "x", weight, pads=[1] * 4)
        y = net.op("Conv", inner, weight, pads=[1] * 4)
    elif ways == "depthwise":
        y = net.op("Conv", "x", net.const(net.rng.normal(size=(3, 1, 3, 3))), pads=[1] * 4, group=3)
    elif ways == "computed weight":
        weight = net.op("Mul", net.const(net.rng.normal(size=(4, 3, 3, 3))), net.const([0.5]))
        y = net.op("Conv", "x", weight, pads=[1] * 4)
    else:
        raise ValueError(ways)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        net.nodes,
        ways,
        [helper.make_tensor_value_info("x", element, [1, 3, 8, 6])],
        [helper.make_tensor_value_info(y, element, [None] * 4)],
        net.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def run(model: onnx.ModelProto, **feeds: NDArray) -> list[NDArray]:
    import onnxruntime as ort

    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def with_stem(model: onnx.ModelProto, normalise: Normalise) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    g = Builder(copy, "stem")
    add_stem(g, copy.graph, normalise)
    nodes = [*g.nodes, *copy.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(g.initializers)
    copy.graph.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 8, 6, 3]))
    return copy


def normalised(image: NDArray[np.uint8], n: Normalise) -> NDArray[np.float32]:
    """Written out pixel channel by pixel channel: BGR [H, W, 3] → [1, 3, H, W]."""
    order = (0, 1, 2) if n.colour == "bgr" else (2, 1, 0)
    planes = [(image[..., c].astype(np.float64) - n.mean[i]) * n.scale[i] for i, c in enumerate(order)]
    return np.stack(planes)[None].astype(np.float32)


WAYS = {"conv": True, "slice": False, "two readers": False, "shared weight": False, "depthwise": False}
WAYS["computed weight"] = False


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("ways", WAYS)
def test_the_stem_equals_normalising_by_hand(ways: str, recipe: str):
    image = np.random.default_rng(1).integers(0, 256, (8, 6, 3)).astype(np.uint8)
    model, normalise = beginning(ways), RECIPES[recipe]
    (want,) = run(model, x=normalised(image, normalise))
    graph = with_stem(model, normalise)
    (got,) = run(graph, images=image[None])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    stem = [node.op_type for node in graph.graph.node[: -len(model.graph.node)]]
    if WAYS[ways]:  # folded: neither scale nor channel order is left
        assert not {"Mul", "Gather"} & set(stem)
    else:
        assert ("Gather" in stem) is (normalise.colour == "rgb")
        assert ("Mul" in stem) is (set(normalise.scale) != {1})
    assert ("Sub" in stem) is any(normalise.mean)


@pytest.mark.parametrize("recipe", RECIPES)
def test_folding_changes_nothing_next_to_not_folding(recipe: str):
    model = beginning("conv")
    beside = onnx.ModelProto()
    beside.CopyFrom(model)  # a second reader of the input, so that nothing may be folded
    beside.graph.node.append(helper.make_node("Identity", ["x"], ["z"]))
    beside.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3, 8, 6]))
    image = np.random.default_rng(2).integers(0, 256, (1, 8, 6, 3)).astype(np.uint8)
    folded, plain = (with_stem(m, RECIPES[recipe]) for m in (model, beside))
    (a,), (b, z) = run(folded, images=image), run(plain, images=image)
    np.testing.assert_allclose(z, normalised(image[0], RECIPES[recipe]), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_an_fp16_weight_is_not_scaled_into_the_subnormal_range():
    image = np.random.default_rng(4).integers(0, 256, (1, 8, 6, 3)).astype(np.uint8)
    normalise = Normalise("rgb", scale=(1 / 255, 1 / 255, 1 / 255))
    model = beginning("conv", dtype=np.float16)
    (weight,) = (t for t in model.graph.initializer if len(t.dims) == 4)
    small = (numpy_helper.to_array(weight) / 8).astype(np.float16)
    weight.CopyFrom(numpy_helper.from_array(small, weight.name))
    (want,) = run(model, x=normalised(image[0], normalise).astype(np.float16))
    (got,) = run(with_stem(model, normalise), images=image)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, want, atol=2e-3)


# ---- inner graphs ----


def add_branch(model: onnx.ModelProto, edge: str) -> None:
    """An If whose branches read `edge` of the outer graph: 1 · edge or 0 − edge, as the output "branch"."""
    branches = []
    for kind in ("Identity", "Neg"):
        value = helper.make_tensor_value_info(f"{kind}/out", TensorProto.FLOAT, [None] * 4)
        branches.append(helper.make_graph([helper.make_node(kind, [edge], [value.name])], kind, [], [value]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    node = helper.make_node("If", ["yes"], ["branch"], then_branch=branches[0], else_branch=branches[1])
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("branch", TensorProto.FLOAT, [None] * 4))


def test_what_an_inner_graph_reads_of_the_input_is_normalised_too():
    model, normalise = beginning("conv"), RECIPES["rgb mean scaled"]
    add_branch(model, "x")
    image = np.random.default_rng(1).integers(0, 256, (8, 6, 3)).astype(np.uint8)
    want = run(model, x=normalised(image, normalise))
    for a, b in zip(run(with_stem(model, normalise), images=image[None]), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_convolution_that_an_inner_graph_reads_is_not_split():
    model = splitting()
    add_branch(model, model.graph.node[0].output[0])
    assert split_convolutions(model) == 0
    run(model, x=np.zeros((1, 3, 6, 6), np.float32))


def test_an_inner_graph_may_read_edges_that_carry_our_names():
    plain, model = zoo.network("yolox"), zoo.network("yolox", colliding=True)
    add_branch(model, "images")
    model.graph.output.pop()
    outputs = infer(deploy(model, "yolox"), "onnxruntime", zoo.pictures(2), LIMITS[1:3])
    assert_as_decoded(outputs, zoo.reference(plain, "yolox", zoo.pictures(2)), LIMITS[1:3])


# ---- weights that are stored as fp16 ----


def test_weights_stored_as_fp16_become_ordinary_ones(tmp_path):
    model = zoo.network("yolox")
    graph = model.graph
    stored = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT]
    casts = []
    for tensor in stored:
        name = tensor.name
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}/stored"))
        casts.append(helper.make_node("Cast", [f"{name}/stored"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, tmp_path / "half.onnx")
    read = read_network(tmp_path / "half.onnx")
    assert casts
    assert "Cast" not in {n.op_type for n in read.graph.node}
    assert TensorProto.FLOAT16 not in {t.data_type for t in read.graph.initializer}
    images = zoo.pictures(2)
    assert_as_decoded(
        infer(deploy(read, "yolox"), "onnxruntime", images, LIMITS[1:3]),
        zoo.reference(model, "yolox", images),
        LIMITS[1:3],
    )


def test_a_cast_that_two_readers_share_and_one_to_another_type_stay(tmp_path):
    net = zoo.Net(0, 17, np.float32)
    half = net.const(np.ones((1, 3, 1, 1)), np.float16)
    wide = net.op("Cast", half, to=TensorProto.DOUBLE)
    other = net.const(np.full((1, 3, 1, 1), 2), np.float16)
    first, second = (net.op("Cast", other, to=TensorProto.FLOAT) for _ in range(2))
    back = net.op("Cast", wide, to=TensorProto.FLOAT)
    y = net.op("Add", net.op("Mul", "x", first), net.op("Mul", back, second))
    graph = helper.make_graph(
        net.nodes,
        "casts",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 3, 4, 4])],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "casts.onnx")
    x = np.random.default_rng(0).random((1, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(run(read_network(tmp_path / "casts.onnx"), x=x)[0], run(model, x=x)[0])


def test_an_old_export_that_lists_its_fp16_weights_as_inputs(tmp_path):
    net = zoo.Net(0, 11, np.float32)
    weight = net.const(np.random.default_rng(1).normal(size=(4, 3, 3, 3)), np.float16)
    y = net.op("Conv", "x", net.op("Cast", weight, to=TensorProto.FLOAT))
    values = [("x", TensorProto.FLOAT, [1, 3, 8, 8]), (weight, TensorProto.FLOAT16, [4, 3, 3, 3])]
    inputs = [helper.make_tensor_value_info(*v) for v in values]
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 4, 6, 6])]
    graph = helper.make_graph(net.nodes, "old", inputs, outputs, net.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=3)
    onnx.save(model, tmp_path / "old.onnx")
    read = read_network(tmp_path / "old.onnx")
    assert facts_of(read).size == (8, 8)
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(run(read, x=x)[0], run(model, x=x)[0])


# ---- rewrites: each proved equal, and proved to leave alone what does not match ----


def expectation(
    change: str = "", opset: int = 17, dtype: type = np.float32
) -> tuple[onnx.ModelProto, NDArray[np.floating]]:
    """x [2, 5, 4, 6] → Softmax → 1 × 1 Conv with one output channel → y, or something near it that does not match."""
    net = zoo.Net(5, opset, dtype)
    outside, side = (2, 1) if change == "two channels" else (1, 3 if change == "3 x 3" else 1)
    inside = 1 if change == "grouped" else 5
    weight = net.const(net.rng.normal(size=(5 if change == "grouped" else outside, inside, side, side)))
    attributes: dict[str, object] = {}
    if change == "strided":
        attributes["strides"] = [2, 2]
    if change == "padded":
        attributes["pads"] = [1, 1, 1, 1]
    if change == "3 x 3":
        attributes["pads"] = [1] * 4
    if change == "grouped":
        attributes["group"] = 5
    if change == "neutral attributes":
        attributes = {"strides": [1, 1], "pads": [0] * 4, "group": 1, "kernel_shape": [1, 1], "dilations": [1, 1]}
    bias = [net.const(net.rng.normal(size=outside))] if change == "biased" else []
    if change == "computed weight":
        weight = net.op("Neg", weight)
    before = "Sigmoid" if change == "not behind a softmax" else "Softmax"
    p = net.op(before, "x", **({"axis": 1} if before == "Softmax" else {}))
    y = net.op("Conv", p, weight, *bias, **attributes)
    y = net.op("Neg", y)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        net.nodes,
        "expectation",
        [helper.make_tensor_value_info("x", element, ["b", 5, 4, 6])],
        [helper.make_tensor_value_info(y, element, [None] * 4)],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    return model, np.random.default_rng(6).normal(size=(2, 5, 4, 6)).astype(dtype)


@pytest.mark.parametrize(("opset", "change", "dtype"), [(o, "", np.float32) for o in OPSETS] + [
    (17, "neutral attributes", np.float32),
    (17, "", np.float16),
])  # fmt: skip
def test_unfold_expectation_keeps_the_result(opset: int, change: str, dtype: type):
    model, x = expectation(change, opset, dtype)
    (want,) = run(model, x=x)
    assert unfold_expectation(model) == 1
    assert [n.op_type for n in model.graph.node] == ["Softmax", "Mul", "ReduceSum", "Neg"]
    (got,) = run(model, x=x)
    assert got.dtype == want.dtype
    assert np.ptp(want.astype(np.float32)) > 0.01
    np.testing.assert_allclose(got, want, atol=1e-6 if dtype == np.float32 else 2e-3)
    assert unfold_expectation(model) == 0


NEAR_MISSES = ("strided", "padded", "grouped", "3 x 3", "biased", "two channels", "not behind a softmax")


@pytest.mark.parametrize("change", [*NEAR_MISSES, "computed weight"])
def test_unfold_expectation_leaves_other_convolutions_alone(change: str):
    model, x = expectation(change)
    before = model.SerializeToString()
    run(model, x=x)  # the near miss is itself a valid network
    assert unfold_expectation(model) == 0
    assert model.SerializeToString() == before


def products(change: str, dtype: type = np.float32) -> tuple[onnx.ModelProto, int]:
    """A network with some convolutions and products, and how many of them no other one depends on."""
    net = zoo.Net(8, 17, dtype)
    inner = net.op("Relu", net.conv("x", 3, 4, 1))
    rank = {"product and its bias": 2, "Gemm": 2, "squashed": 3}.get(change, 4)
    if change == "two branches":
        a, b = net.conv(inner, 4, 2, 2), net.op("Sigmoid", net.conv(inner, 4, 2, 2))
        y, last = net.op("Concat", a, b, axis=1), 1  # the second is squashed
    elif change == "squashed":
        levels = [net.reshape(net.conv(inner, 4, 2, s), 0, 2, -1) for s in (1, 2)]
        y, last = net.op("Softmax", net.op("Transpose", net.op("Concat", *levels, axis=2), perm=[0, 2, 1]), axis=1), 0
    elif change == "squashed, and an output":
        raw = net.conv(inner, 4, 2, 1)
        y, last = net.op("Concat", net.op("Sigmoid", raw), raw, axis=1), 1
    elif change == "product and its bias":
        flat = net.reshape(inner, 0, -1)
        product = net.op("MatMul", flat, net.const(net.rng.normal(size=(4 * 36, 5))))
        y, last = net.op("Add", product, net.const(net.rng.normal(size=5))), 1
    elif change == "Gemm":
        weight = net.const(net.rng.normal(size=(4 * 36, 5)))
        y, last = net.op("Neg", net.op("Gemm", net.reshape(inner, 0, -1), weight)), 1
    elif change == "sum of two":
        y, last = net.op("Add", net.conv(inner, 4, 2, 1), net.conv(inner, 4, 2, 1)), 1
    elif change == "a leaf beside a deeper one":
        side = net.conv(inner, 4, 2, 1)
        deep = net.op("Softmax", net.conv(net.op("Tanh", net.conv(inner, 4, 4, 1)), 4, 2, 1), axis=1)
        y, last = net.op("Mul", side, deep), 1  # the deeper one is squashed
    elif change == "none":
        net.nodes.clear()
        y, last = net.op("Relu", "x"), 0
    elif change == "read twice":
        leaf = net.conv(inner, 4, 2, 1)
        y, last = net.op("Mul", net.op("Add", leaf, net.const([1.0])), leaf), 1
    else:
        raise ValueError(change)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        net.nodes,
        "products",
        [helper.make_tensor_value_info("x", element, [1, 3, 6, 6])],
        [helper.make_tensor_value_info(y, element, [None] * rank)],
        net.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), last


PRODUCTS = (
    "two branches",
    "squashed",
    "squashed, and an output",
    "product and its bias",
    "Gemm",
    "sum of two",
    "a leaf beside a deeper one",
    "read twice",
)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("change", [*PRODUCTS, "none"])
def test_widen_last_products_keeps_the_result(change: str, dtype: type):
    model, last = products(change, dtype)
    x = np.random.default_rng(9).normal(size=(1, 3, 6, 6)).astype(dtype)
    (want,) = run(model, x=x)
    assert widen_last_products(model) == last
    added = [n for n in model.graph.node if n.op_type == "LeakyRelu"]
    assert len(added) == last
    assert all(a.f == 1 for n in added for a in n.attribute)
    (got,) = run(model, x=x)
    assert (want < 0).any() or last == 0, "a Relu would pass this test"
    np.testing.assert_array_equal(got, want)


def test_widen_touches_the_last_ones_only():
    model, _ = products("a leaf beside a deeper one")
    inner = {n.output[0] for n in model.graph.node if n.op_type == "Conv"}
    widen_last_products(model)
    widened = {n.output[0] for n in model.graph.node if n.op_type == "LeakyRelu"}
    assert len(inner) == 4
    assert widened < inner
    assert widened == {n.input[0] for n in model.graph.node if n.op_type == "Mul"} & inner


def splitting(change: str = "", opset: int = 17, dtype: type = np.float32) -> onnx.ModelProto:
    """x [1, 3, 6, 6] → Conv to 7 channels → Split into 4 and 3 → two outputs, or something near it."""
    net = zoo.Net(10, opset, dtype)
    inside = 3
    if change == "grouped":
        weight = net.const(net.rng.normal(size=(6, 1, 3, 3)))
        raw = net.op("Conv", "x", weight, group=3, pads=[1] * 4)
    elif change == "no bias":
        raw = net.op("Conv", "x", net.const(net.rng.normal(size=(7, 3, 3, 3))), strides=[2, 1], dilations=[1, 2])
    else:
        raw = net.conv("x", inside, 6 if change == "other axis" else 7, 1)
    if change == "between":
        raw = net.op("Sigmoid", raw)
    if change == "computed weight":
        weight = net.op("Neg", net.nodes[-1].input[1])
        net.nodes.insert(0, net.nodes.pop())
        net.nodes[1].input[1] = weight
    sizes = [3, 3] if change in ("other axis", "grouped") else [4, 3]
    axis = 2 if change == "other axis" else 1
    ends = ["low", "high"]
    if change == "equal parts":
        raw, ends = net.conv("x", 3, 6, 1), ends
        net.nodes.append(helper.make_node("Split", [raw], ends, axis=1, **({"num_outputs": 2} if opset > 17 else {})))
    elif opset < 13:
        net.nodes.append(helper.make_node("Split", [raw], ends, axis=axis, split=sizes))
    else:
        net.nodes.append(helper.make_node("Split", [raw, net.const(sizes, np.int64)], ends, axis=axis))
    if change == "shared weight":
        first = net.nodes[0]
        ends = [*ends, net.op("Conv", "x", *first.input[1:], pads=[1] * 4)]
    if change == "read twice":
        ends = [*ends, net.op("Neg", raw)]
    if change == "an output itself":
        ends = [*ends, raw]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        net.nodes,
        "splitting",
        [helper.make_tensor_value_info("x", element, [1, 3, 6, 6])],
        [helper.make_tensor_value_info(end, element, [None] * 4) for end in ends],
        net.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


@pytest.mark.parametrize(
    ("opset", "change", "dtype"),
    [*((o, "", np.float32) for o in OPSETS), (17, "no bias", np.float32), (17, "", np.float16)],
)
def test_split_convolutions_keeps_the_results(opset: int, change: str, dtype: type):
    model, x = splitting(change, opset, dtype), np.random.default_rng(11).normal(size=(1, 3, 6, 6)).astype(dtype)
    want = run(model, x=x)
    assert split_convolutions(model) == 1
    assert [n.op_type for n in model.graph.node] == ["Conv", "Conv"]
    got = run(model, x=x)
    for a, b, channels in zip(got, want, (4, 3), strict=True):
        assert b.shape[1] == channels
        np.testing.assert_allclose(a, b, atol=1e-5 if dtype == np.float32 else 1e-2)
    assert split_convolutions(model) == 0


OTHER_SPLITS = (
    "grouped",
    "other axis",
    "between",
    "computed weight",
    "shared weight",
    "read twice",
    "an output itself",
)


@pytest.mark.parametrize(
    ("change", "opset"),
    [*((c, 17) for c in OTHER_SPLITS), ("equal parts", 11), ("equal parts", 17), ("equal parts", 18)],
)
def test_split_convolutions_leaves_other_splits_alone(change: str, opset: int):
    model = splitting(change, opset)
    before = model.SerializeToString()
    run(model, x=np.zeros((1, 3, 6, 6), np.float32))
    assert split_convolutions(model) == 0
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("kind", "count"), [("yolox", 1), ("yolox-decoded", 1), ("yolov8", 0), ("nanodet-six", 0)])
def test_widening_a_deploy_graph_changes_no_bit(kind: str, count: int):
    graph, images = deploy(zoo.network(kind), kind), zoo.pictures(2)
    before = infer(graph, "onnxruntime", images, LIMITS[1:3])
    assert (widen_last_products(graph) > 0) is (count > 0)  # elsewhere only a Sigmoid or Softmax reads them
    onnx.checker.check_model(graph, full_check=True)
    after = infer(graph, "onnxruntime", images, LIMITS[1:3])
    np.testing.assert_array_equal(before["detections"], after["detections"])


def test_the_yolov8_of_the_zoo_does_hold_an_expectation():
    for opset, want in ((11, 0), (13, 1), (20, 1)):  # before 13 exporters put a Transpose in between
        assert unfold_expectation(zoo.network("yolov8", opset=opset)) == want
