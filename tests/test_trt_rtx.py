"""TensorRT-RTX as it is installed: real builds without a GPU, and what it says where it cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper, numpy_helper

import eyas
from eyas.backends import candidates, choose, tensorrt_rtx
from eyas.build import Network, deploy_graph, open_network
from eyas.card import settle_card
from eyas.errors import BackendError, OptionError
from eyas.graph.head import HeadSpec
from eyas.graph.network import facts_of
from eyas.trt import builder, device, plugin
from eyas.trt.device import Gpu, gpus, why_unusable
from eyas.trt.prepare import cast_before_transposing, precision_in, prepare, write_gemm_as_convolution
from eyas.trt.profiles import add_profiles
from eyas.types import BuildSpec

pytest.importorskip("tensorrt_rtx")
NAMES = ("ant", "bee", "cow")
TARGETS = ("sm75", "sm86", "sm89", "sm120", "all")


def network(kind: str = "yolov8") -> onnx.ModelProto:
    """A small deploy graph."""
    model = zoo.network(kind, size=(64, 64))
    card = settle_card(facts_of(model), family_name=zoo.KINDS[kind][0], names=NAMES)
    return deploy_graph(Network(model, facts_of(model), card), HeadSpec(20))


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, (), "no NVIDIA driver (libcuda.so.1 cannot be loaded)")


def _machine(monkeypatch: pytest.MonkeyPatch, found: tuple[Gpu, ...], reason: str = "") -> None:
    for module in (device, plugin):
        monkeypatch.setattr(module, "gpus", lambda: (found, reason))


# ---- what the graph needs ----


def test_the_cast_goes_before_the_transposition_and_changes_no_number():
    before, after = network(), network()
    assert cast_before_transposing(after.graph) == 1
    feeds = {"images": zoo.pictures(3), "thresholds": np.tile(np.float32([[0.3, 0.6]]), (3, 1))}
    for a, b in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
    assert cast_before_transposing(after.graph) == 0


def test_a_transposition_that_others_read_too_stays():
    model = network()
    node = next(n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] == "images")
    model.graph.node.append(helper.make_node("Identity", [node.output[0]], ["second"], "second"))
    assert cast_before_transposing(model.graph) == 0


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("with_bias", [False, True])
def test_gemm_as_a_convolution_gives_the_same_sums(transposed: int, with_bias: bool):
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(5, 7) if transposed else (7, 5)).astype(np.float32)
    settings = {"transB": transposed, "alpha": 0.5, "beta": 2.0}
    model = gemm(matrix, rng.normal(size=5).astype(np.float32) if with_bias else None, settings)
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    assert write_gemm_as_convolution(changed) == 1
    assert "Gemm" not in {n.op_type for n in changed.graph.node}
    x = {"x": rng.normal(size=(3, 7)).astype(np.float32)}
    np.testing.assert_allclose(run(changed, x)[0], run(model, x)[0], rtol=1e-5, atol=1e-6)


def test_gemm_of_two_results_stays():
    model = gemm(np.ones((7, 5), np.float32), None, {})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [7, 5]))
    del model.graph.initializer[:]
    assert write_gemm_as_convolution(model) == 0


def gemm(matrix: Any, bias: Any, settings: dict[str, Any]) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(matrix, "w")] + (
        [numpy_helper.from_array(bias, "b")] if bias is not None else []
    )
    node = helper.make_node("Gemm", ["x", *(w.name for w in weights)], ["y"], "gemm", **settings)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, ["B", 7])], [value("y", TensorProto.FLOAT, ["B", 5])], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_prepare_changes_a_copy_and_says_the_precision():
    model = network()
    before = model.SerializeToString(deterministic=True)
    assert prepare(model, BuildSpec("fp32"))[1] == "fp32"
    ready, precision = prepare(model, BuildSpec("fp16"))
    assert (precision, precision_in(ready)) == ("fp16", "fp16")
    assert model.SerializeToString(deterministic=True) == before


# ---- builds ----


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", [(), ("sm75",), ("all",)])
def test_a_deploy_graph_builds_without_a_gpu(precision: Any, target: tuple[str, ...]):
    plan = tensorrt_rtx.compile(network(), BuildSpec(precision, (1, 2, 4), targets=target))
    assert plan[:4] == b"vtrt"
    assert len(plan) > 10_000


def test_a_real_builder_takes_a_profile_for_each_size(monkeypatch: pytest.MonkeyPatch):
    added: list[Any] = []

    def add(*given: Any, tuned: bool) -> None:
        add_profiles(*given, tuned=True)
        added.append(given[1].num_optimization_profiles)

    monkeypatch.setattr(builder, "add_profiles", add)
    plan = tensorrt_rtx.compile(network(), BuildSpec("fp16", (1, 8, 32), targets=("sm89",)))
    assert (plan[:4], added) == (b"vtrt", [3])


@pytest.mark.parametrize("kind", ["yolox", "nanodet-plus"])
def test_other_families_build_too(kind: str):
    assert tensorrt_rtx.compile(network(kind), BuildSpec("fp16", (1, 2, 4), targets=("sm89",)))[:4] == b"vtrt"


def test_turing_takes_a_gemm_in_fp32():
    model = gemm(np.ones((7, 5), np.float32), None, {})
    assert tensorrt_rtx.compile(model, BuildSpec("fp32", targets=("sm75",)))
    two = gemm(np.ones((7, 5), np.float32), None, {})
    del two.graph.initializer[:]
    two.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [7, 5]))
    with pytest.raises(BackendError, match=r"Gemm \(node gemm\): .*Turing.*--precision fp16, or leave SM75 out"):
        tensorrt_rtx.compile(two, BuildSpec("fp32", targets=("sm75",)))


def test_explicit_quantisation_builds():
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.integers(-127, 127, (8, 3, 3, 3)).astype(np.int8), "w")
    scales = numpy_helper.from_array(np.full(8, 0.01, np.float32), "ws")
    zeros = numpy_helper.from_array(np.zeros(8, np.int8), "wz")
    one = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "wd", axis=0),
        helper.make_node("Conv", ["d", "wd"], ["y"], "conv"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["B", 3, 16, 16])],
        [value("y", TensorProto.FLOAT, ["B", 8, 14, 14])],
        [weights, scales, zeros, *one],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert tensorrt_rtx.compile(model, BuildSpec(targets=("sm89",)))[:4] == b"vtrt"


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        (BuildSpec(targets=("sm90",)), OptionError, "SM90 (H100, H200) needs --backend tensorrt"),
        (BuildSpec(options={"hardware": "same"}), BackendError, "plans that are portable anyway"),
        (BuildSpec(options={"version_compatible": True}), BackendError, "cannot do version-compatible plans"),
        (BuildSpec(options={"dla_core": 0}), BackendError, "cannot do DLA"),
    ],
)
def test_what_rtx_cannot_do_is_refused(spec: BuildSpec, error: type[Exception], said: str):
    with pytest.raises(error) as caught:
        tensorrt_rtx.compile(network(), spec)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "spec", [{"options": {"refit": True}}, {"options": {"strip": True}}, {"targets": ("current",)}]
)
def test_what_needs_a_gpu_while_building_says_so(spec: Any, no_driver: None):
    with pytest.raises(BackendError, match="cannot run here: got no NVIDIA driver"):
        tensorrt_rtx.compile(network(), BuildSpec("fp32", **spec))


def test_an_operator_that_it_lacks_is_named_with_its_rule():
    model = network()
    node = next(n for n in model.graph.node if n.op_type == "Tanh")
    node.op_type = "DeformConv"
    with pytest.raises(BackendError, match=rf"DeformConv \(node {node.name}\): .*\[doctor rule D302"):
        tensorrt_rtx.compile(model, BuildSpec("fp32"))


def test_a_file_that_is_no_model():
    model = network()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(
        BackendError, match=r"(?s)refuses the model: got .*NoSuchOperator.*; expected a graph it can run"
    ):
        tensorrt_rtx.compile(model, BuildSpec("fp32"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_real_model_builds(precision: Any, target: str, real_data: Path):
    for path in sorted((real_data / "models").glob("*.onnx")):
        found = open_network(path, batch=8)
        batch = (found.facts.batch,) * 3 if found.facts.batch else (1, 8, 32)
        plan = tensorrt_rtx.compile(deploy_graph(found, HeadSpec()), BuildSpec(precision, batch, targets=(target,)))
        assert plan[:4] == b"vtrt", path.name


# ---- where it cannot run ----


def test_without_a_driver_it_says_so_and_what_to_do(no_driver: None):
    with pytest.raises(BackendError) as caught:
        tensorrt_rtx.open_engine(network(), BuildSpec())
    for word in ("TensorRT-RTX 1.", "cannot run here", "no NVIDIA driver", "--target sm89", "another backend"):
        assert word in str(caught.value)


def test_hopper_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    _machine(monkeypatch, (Gpu(0, "NVIDIA H200", (9, 0)),))
    assert tensorrt_rtx.fitness().rank < 0
    with pytest.raises(BackendError, match=r"got NVIDIA H200, compute capability 9\.0; expected .* 8\.9"):
        tensorrt_rtx.load_engine(b"plan", BuildSpec())


def test_an_engine_for_another_gpu_is_not_deserialised(monkeypatch: pytest.MonkeyPatch):
    _machine(monkeypatch, (Gpu(0, "NVIDIA GeForce RTX 2080", (7, 5)),))
    with pytest.raises(BackendError, match=r"for another GPU: got NVIDIA GeForce RTX 2080 \(sm75\); expected sm89\."):
        tensorrt_rtx.load_engine(b"plan", BuildSpec(targets=("sm89",)))


def test_the_automatic_choice_passes_it_by_with_a_note(no_driver: None, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", logger="eyas"):
        name, _ = choose()
    assert not name.startswith("tensorrt")
    assert "backend tensorrt_rtx: passed by: builds engines, runs none here: no NVIDIA driver" in caplog.text
    line = next(c for c in candidates() if c.name == "tensorrt_rtx")
    assert line.rank == -1
    assert line.version.startswith("1.")


def test_a_gpu_without_cuda_core_is_passed_by(monkeypatch: pytest.MonkeyPatch):
    _machine(monkeypatch, (Gpu(0, "NVIDIA GeForce RTX 4090", (8, 9)),))
    monkeypatch.setattr(plugin, "cuda_core_missing", lambda: "pip install 'eyas[cuda]'")
    assert tensorrt_rtx.fitness() == (-1, "builds engines, runs none here: no cuda-core: pip install 'eyas[cuda]'")
    monkeypatch.setattr(plugin, "cuda_core_missing", lambda: None)
    assert tensorrt_rtx.fitness().rank > candidates()[0].rank or candidates()[0].name == "tensorrt_rtx"


def test_asking_costs_no_import():
    code = (
        "import sys, eyas\nfrom eyas.backends import candidates\n"
        "assert not any(m.startswith(('tensorrt', 'eyas.trt')) for m in sys.modules)\n"
        "candidates()\nprint([m for m in sys.modules if m.split('.')[0] in ('tensorrt', 'tensorrt_rtx', 'cuda')])"
    )
    env = os.environ | {"PYTHONPATH": str(Path(eyas.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_driver_is_asked_without_a_crash():
    found, reason = gpus()
    assert bool(found) is (reason == "")
    assert all(gpu.sm.startswith("sm") for gpu in found)
    assert why_unusable(True, len(found))
