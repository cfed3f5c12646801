"""fp16 and bf16 in the graph: near the fp32 results, and only where it may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import zoo
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from eyas.errors import ModelError
from eyas.graph.precision import LARGEST, narrowable, to_narrow
from eyas.graph.rewrite import unfold_expectation

KINDS = tuple(zoo.KINDS)


def ran(model: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def blob(kind: str, count: int = 2) -> NDArray[np.float32]:
    top = zoo.KINDS[kind][2]
    return np.random.default_rng(5).uniform(0, top, (count, 3, 64, 64)).astype(np.float32)


def small(*nodes: onnx.NodeProto, weights: dict[str, NDArray[np.float32]], opset: int = 17) -> onnx.ModelProto:
    """A network x [b, 3, 8, 8] → y [b, 4, 8, 8]."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4, 8, 8])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def conv(x: str, weight: str, y: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, weight], [y], y, pads=[1] * 4)


def two_convolutions(opset: int = 17, scale: float = 1.0) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(0, scale, (6, 3, 3, 3)), "w2": rng.normal(0, 0.1, (4, 6, 3, 3))}
    nodes = (conv("x", "w1", "a"), helper.make_node("Relu", ["a"], ["r"], "r"), conv("r", "w2", "y"))
    return small(*nodes, weights={k: v.astype(np.float32) for k, v in weights.items()}, opset=opset)


@pytest.mark.parametrize("kind", KINDS)
def test_fp16_stays_near_fp32_and_keeps_its_edges(kind: str):
    model = zoo.network(kind)
    unfold_expectation(model)
    want, x = ran(model, blob(kind)), blob(kind)
    edges = [(v.name, v.type.tensor_type.elem_type) for v in (*model.graph.input, *model.graph.output)]
    assert to_narrow(model, "fp16") == []
    onnx.checker.check_model(model, full_check=True)
    assert [(v.name, v.type.tensor_type.elem_type) for v in (*model.graph.input, *model.graph.output)] == edges
    assert sum(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer) >= 4
    for a, b in zip(want, ran(model, x), strict=True):
        spread = np.ptp(a)
        assert 0 < np.abs(a - b).max() < 0.01 * spread


def test_behind_the_last_product_everything_is_fp32():
    model = zoo.network("yolov8")
    unfold_expectation(model)
    to_narrow(model, "fp16")
    types = {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Softmax", "Sub", "Div", "Add"):
            assert not any(e.endswith("/narrow") or types.get(e) == TensorProto.FLOAT16 for e in node.input)


def test_bf16_leaves_the_last_products_in_fp32():
    model = two_convolutions(opset=22)
    to_narrow(model, "bf16")
    onnx.checker.check_model(model, full_check=True)
    types = {t.name: t.data_type for t in model.graph.initializer}
    first, last = (n for n in model.graph.node if n.op_type == "Conv")
    assert (types[first.input[1]], types[last.input[1]]) == (TensorProto.BFLOAT16, TensorProto.FLOAT)
    assert [n.op_type for n in model.graph.node] == ["Cast", "Conv", "Relu", "Cast", "Conv"]


def test_bf16_weights_are_rounded_to_nearest():
    model = two_convolutions(opset=22)
    exact = numpy_helper.to_array(model.graph.initializer[0])
    to_narrow(model, "bf16")
    stored = next(t for t in model.graph.initializer if t.data_type == TensorProto.BFLOAT16)
    got = numpy_helper.to_array(stored).astype(np.float32)
    np.testing.assert_allclose(got, exact, rtol=2**-8)
    assert np.abs(got / exact - 1).mean() < 2**-9  # cutting off would be worse by half


def test_bf16_runs_on_openvino():
    openvino = pytest.importorskip("openvino")
    x = np.random.default_rng(1).uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
    model = two_convolutions(opset=22)
    want = ran(two_convolutions(), x)[0]
    to_narrow(model, "bf16")
    core = openvino.Core()
    got = core.compile_model(core.read_model(model.SerializeToString()), "CPU")({"x": x})[0]
    assert 0 < np.abs(got - want).max() < 0.02 * np.ptp(want)


@pytest.mark.parametrize("large", [70_000.0, np.inf])
def test_a_weight_that_fp16_cannot_hold_keeps_its_layer(large: float):
    model = two_convolutions()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0, 0, 0] = large
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w1"))
    assert to_narrow(model, "fp16") == ["a"]
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types["w1"] == TensorProto.FLOAT
    assert types["w2/narrow"] == TensorProto.FLOAT16


def test_an_edge_measured_beyond_fp16_stays_finite():
    """Weights of a thousand on pixels of 250 leave fp16's range; what touches those edges stays in fp32."""
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(0, 1e3, (6, 3, 3, 3)), "w2": rng.normal(0, 1e-5, (5, 6, 3, 3))}
    weights["w3"] = rng.normal(0, 1, (4, 5, 3, 3))
    nodes = (conv("x", "w1", "a"), conv("a", "w2", "b"), conv("b", "w3", "y"))
    model = small(*nodes, weights={k: v.astype(np.float32) for k, v in weights.items()})
    x = np.full((1, 3, 8, 8), 250, np.float32)
    (want,) = exactly(model, x)
    (wrong,) = exactly(narrowed(model, {}), x)
    assert not np.isfinite(wrong).all()
    (got,) = exactly(narrowed(model, {"a": 5e6}), x)
    np.testing.assert_allclose(got, want, atol=1e-2 * np.ptp(want))
    assert (got != want).any()


def exactly(model: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """By onnx' reference: ONNX Runtime's CPU provider computes fp16 in fp32 and never overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return ReferenceEvaluator(model).run(None, {"x": x})


def narrowed(model: onnx.ModelProto, largest: dict[str, float]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    to_narrow(copy, "fp16", largest=largest)
    return copy


def test_measured_values_up_to_the_limit_are_no_reason():
    model = two_convolutions()
    assert to_narrow(model, "fp16", largest={"a": LARGEST}) == []


def test_what_is_asked_for_stays():
    model = two_convolutions()
    assert to_narrow(model, "fp16", keep=["y"]) == ["y"]
    assert [n.op_type for n in model.graph.node] == ["Cast", "Conv", "Relu", "Cast", "Conv"]


def test_resize_keeps_its_scales_in_fp32():
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(6, 3, 3, 3)), "w2": rng.normal(size=(4, 6, 3, 3))}
    floats = {k: v.astype(np.float32) for k, v in weights.items()} | {"s": np.float32([1, 1, 2, 2])}
    down = helper.make_node("MaxPool", ["u"], ["d"], "d", kernel_shape=[2, 2], strides=[2, 2])
    nodes = (conv("x", "w1", "a"), helper.make_node("Resize", ["a", "", "s"], ["u"], "u"), down, conv("d", "w2", "y"))
    model = small(*nodes, weights=floats)
    x = rng.uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
    (want,) = ran(model, x)
    to_narrow(model, "fp16")
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(ran(model, x)[0], want, atol=0.01 * np.ptp(want))


def test_an_operator_that_is_not_listed_stays_and_the_rest_goes():
    weights = {"w1": np.ones((6, 3, 3, 3), np.float32), "w2": np.ones((4, 6, 3, 3), np.float32)}
    model = small(
        conv("x", "w1", "a"), helper.make_node("Erf", ["a"], ["e"], "e"), conv("e", "w2", "y"), weights=weights
    )
    to_narrow(model, "fp16")
    onnx.checker.check_model(model, full_check=True)
    assert [n.op_type for n in model.graph.node] == ["Cast", "Conv", "Cast", "Erf", "Cast", "Conv", "Cast"]


def test_too_old_an_opset_says_which_is_needed():
    with pytest.raises(ModelError, match="got opset 17; expected opset 22"):
        to_narrow(two_convolutions(), "bf16")


def test_a_narrow_network_is_refused():
    model = two_convolutions()
    to_narrow(model, "fp16")
    with pytest.raises(ModelError, match="nothing in the network can run in fp16"):
        to_narrow(model, "fp16")


def test_narrowable_lists_what_would_change():
    model = version_converter.convert_version(two_convolutions(), 22)
    assert narrowable(model, "fp16") == (("a", "Conv"), ("r", "Relu"), ("y", "Conv"))
    assert narrowable(model, "bf16") == (("a", "Conv"), ("r", "Relu"))


def test_a_saved_network_keeps_its_types(tmp_path: Path):
    model = two_convolutions()
    to_narrow(model, "fp16")
    onnx.save(model, tmp_path / "half.onnx")
    again = onnx.load(tmp_path / "half.onnx")
    x = np.random.default_rng(1).uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(ran(again, x)[0], ran(model, x)[0])
