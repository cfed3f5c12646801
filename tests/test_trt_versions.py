"""What eyas tells each TensorRT, checked on stand-ins that record it and lack what that version lacks."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_trt
import numpy as np
import onnx
import pytest
from fake_cuda import Machine, machine
from fake_trt import NamedParserError, ParserError, Tensor
from onnx import TensorProto, helper, numpy_helper

from eyas.backends import Backend, tensorrt, tensorrt_rtx
from eyas.errors import BackendError, OptionError
from eyas.trt import builder, caches, device, targets
from eyas.trt.builder import build_plan
from eyas.trt.device import Gpu
from eyas.trt.edition import Edition
from eyas.trt.profiles import batches_of
from eyas.types import BuildSpec

__all__ = ["machine"]

HERE = Gpu(0, "NVIDIA Test 1", (8, 9))
VERSIONS = ("8.6.1", "10.13.2", "11.0.0")
FREE = (Tensor("images", (-1, 8, 8, 3), np.uint8), Tensor("thresholds", (-1, 2)))


@pytest.fixture(autouse=True)
def _a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: Machine) -> None:
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "cache"))
    for module in (device, targets):
        monkeypatch.setattr(module, "gpus", lambda: ((HERE,), ""))


def model(opset: int = 17, extra: str | None = None) -> onnx.ModelProto:
    """images uint8 [B, 8, 8, 3] → Transpose → Cast → Conv → y [B, 4, 6, 6]."""
    weights = np.random.default_rng(0).normal(0, 0.1, (4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["images"], ["t"], "eyas/stem/t", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["x"], "eyas/stem/c", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w"], ["a"], "conv_1"),
        helper.make_node(extra or "Relu", ["a"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", 8, 8, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4, 6, 6])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def built(version: str, spec: BuildSpec, **settings: Any) -> Any:
    trt = fake_trt.fake(version, inputs=FREE, **settings)
    assert build_plan(Edition.of(trt), model(), spec) == b"plan"
    return trt


def flags(trt: Any) -> set[str]:
    return {call[1] for call in trt.calls if call[0] == "set_flag"}


def graph_given(trt: Any) -> onnx.ModelProto:
    return onnx.load_from_string(next(call[1] for call in trt.calls if call[0] == "parse"))


@pytest.mark.parametrize("module", [tensorrt, tensorrt_rtx])
def test_the_plug_ins_keep_to_the_protocol(module: Any):
    for name, wanted in inspect.getmembers(Backend, inspect.isfunction):
        if not name.startswith("_"):
            mine = inspect.signature(getattr(module, name))
            assert list(mine.parameters) == list(inspect.signature(wanted).parameters)[1:], name
            assert getattr(module, name).__doc__


# ---- precision ----


@pytest.mark.parametrize("version", VERSIONS)
def test_networks_are_strongly_typed_where_the_version_knows_it(version: str):
    trt = built(version, BuildSpec("fp32", (1, 2, 4)))
    wanted = "EXPLICIT_BATCH" if version.startswith("8") else "STRONGLY_TYPED"
    member = getattr(trt.NetworkDefinitionCreationFlag, wanted)
    assert ("create_network", 1 << int(member)) in trt.calls
    assert not flags(trt)


@pytest.mark.parametrize("version", VERSIONS)
def test_fp16_is_in_the_graph_and_a_flag_only_before_10(version: str):
    trt = built(version, BuildSpec("fp16"))
    types = {t.data_type for t in graph_given(trt).graph.initializer}
    assert types == {TensorProto.FLOAT16}
    assert flags(trt) == ({"FP16", "OBEY_PRECISION_CONSTRAINTS"} if version.startswith("8") else set())


def test_before_10_the_head_is_held_in_fp32():
    trt = built("8.6.1", BuildSpec("fp16"))
    head, network, whole = trt.network.layers
    assert (head.precision, network.precision, whole.precision) == (np.float32, None, None)


def test_bf16_is_refused_where_the_version_lacks_it():
    trt = fake_trt.fake("8.6.1", inputs=FREE)
    with pytest.raises(BackendError, match=r"TensorRT 8\.6\.1 cannot do bf16: got no BuilderFlag\.BF16"):
        build_plan(Edition.of(trt), _opset22(), BuildSpec("bf16"))
    built_with = fake_trt.fake("10.13.2", inputs=FREE)
    build_plan(Edition.of(built_with), _opset22(), BuildSpec("bf16"))
    assert not flags(built_with)


def _opset22() -> onnx.ModelProto:
    """Two convolutions: bf16 leaves the last in fp32."""
    found = model(22)
    found.graph.node[3].CopyFrom(helper.make_node("Conv", ["a", "v"], ["y"], "last"))
    found.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "v"))
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_int8_is_explicit_and_a_flag_only_before_10(version: str):
    quantised = model()
    quantised.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    )
    del quantised.graph.node[3]
    quantised.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"], "q"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "dq"),
        ]
    )
    trt = fake_trt.fake(version, inputs=FREE)
    build_plan(Edition.of(trt), quantised, BuildSpec())
    assert flags(trt) == ({"INT8"} if version.startswith("8") else set())
    assert TensorProto.FLOAT16 not in {t.data_type for t in graph_given(trt).graph.initializer}


def test_auto_is_fp16_and_fp32_where_nothing_can_be_narrowed():
    trt = built("11.0.0", BuildSpec())
    assert {t.data_type for t in graph_given(trt).graph.initializer} == {TensorProto.FLOAT16}
    narrow = graph_given(trt)
    again = fake_trt.fake("11.0.0", inputs=FREE)
    build_plan(Edition.of(again), narrow, BuildSpec())  # already fp16: left as it is
    assert len(graph_given(again).graph.node) == len(narrow.graph.node)


# ---- the rest of the configuration ----


@pytest.mark.parametrize("version", VERSIONS)
def test_fp32_means_fp32(version: str):
    assert ("clear_flag", "TF32") in built(version, BuildSpec("fp32")).calls
    rounded = built(version, BuildSpec("fp32", options={"tf32": True}))
    assert ("clear_flag", "TF32") not in rounded.calls


def profiles(trt: Any) -> list[list[Any]]:
    """For each profile, what was set: input, then its three shapes."""
    found: list[list[Any]] = [[]]
    for name, *values in trt.calls:
        if name == "set_shape":
            found[-1].append(tuple(values))
        elif name == "add_optimization_profile":
            found.append([])
    return found[:-1]


def profile(low: int, usual: int, high: int) -> list[Any]:
    images = ("images", *((n, 8, 8, 3) for n in (low, usual, high)))
    return [images, ("thresholds", *((n, 2) for n in (low, usual, high)))]


@pytest.mark.parametrize(
    ("batch", "options", "wanted"),
    [
        ((1, 8, 32), {}, [(1, 1, 1), (2, 8, 8), (9, 32, 32)]),
        ((4, 4, 4), {}, [(4, 4, 4)]),
        ((2, 5, 100), {}, [(2, 2, 2), (3, 5, 5), (6, 8, 8), (9, 64, 64), (65, 100, 100)]),
        ((1, 8, 32), {"sizes": [4]}, [(1, 4, 4), (5, 32, 32)]),
        ((4, 8, 32), {"sizes": [2, 32]}, [(2, 2, 2), (3, 32, 32)]),
    ],
)
@pytest.mark.parametrize("version", ["8.6.1", "10.13.2"])
def test_each_batch_size_gets_a_profile_that_reaches_down_to_the_one_before(
    version: str, batch: tuple[int, int, int], options: dict[str, Any], wanted: list[tuple[int, int, int]]
):
    assert profiles(built(version, BuildSpec("fp32", batch, options=options))) == [profile(*b) for b in wanted]


@pytest.mark.parametrize(("named", "least"), [([2, 32], 2), ([8], 4), (None, 4)])
def test_the_one_profile_of_rtx_holds_every_batch_size_that_is_named(named: list[int] | None, least: int):
    spec = BuildSpec("fp32", (4, 8, 32), options={"sizes": named} if named else {})
    assert batches_of(spec, tuned=False) == [(least, 8, 32)]


def test_shapes_that_are_given_are_one_profile():
    shapes = {n: tuple((b, *rest) for b in (2, 4, 6)) for n, rest in (("images", (8, 8, 3)), ("thresholds", (2,)))}
    trt = built("10.13.2", BuildSpec("fp32", (1, 8, 32), options={"shapes": shapes}))
    assert profiles(trt) == [profile(2, 4, 6)]


def test_sizes_out_of_range_are_refused():
    with pytest.raises(
        OptionError, match=r"the batch sizes are wrong: got \[64\]; expected a list of whole numbers, 1 to 32"
    ):
        built("10.13.2", BuildSpec("fp32", (1, 8, 32), options={"sizes": [64]}))


def test_fixed_shapes_need_no_profile():
    trt = fake_trt.fake("10.13.2", inputs=(Tensor("images", (1, 8, 8, 3)),))
    build_plan(Edition.of(trt), model(), BuildSpec("fp32"))
    assert not any(call[0] == "add_optimization_profile" for call in trt.calls)


def test_free_sizes_need_a_range():
    free = (Tensor("images", (-1, -1, -1, 3)),)
    trt = fake_trt.fake("10.13.2", inputs=free)
    with pytest.raises(OptionError, match=r"images has free sizes: got \[free, free, free, 3\]"):
        build_plan(Edition.of(trt), model(), BuildSpec("fp32"))
    shapes = {"images": ((1, 8, 8, 3), (1, 16, 16, 3), (2, 32, 32, 3))}
    build_plan(Edition.of(trt), model(), BuildSpec("fp32", options={"shapes": shapes}))
    assert ("set_shape", "images", *shapes["images"]) in trt.calls
    wrong = {"images": ((1, 8, 8, 1), (1, 16, 16, 1), (2, 32, 32, 1))}
    with pytest.raises(OptionError, match="do not fit it"):
        build_plan(Edition.of(trt), model(), BuildSpec("fp32", options={"shapes": wrong}))


def test_every_option_reaches_the_builder(tmp_path: Path):
    library = tmp_path / "libmine.so"
    library.touch()
    options = {"workspace_mib": 256, "optimisation_level": 5, "sparse": True, "refit": True, "strip": True}
    options |= {"version_compatible": True, "hardware": "same", "dla_core": 1, "plugins": [str(library)]}
    trt = built("10.13.2", BuildSpec("fp32", options=options))
    assert flags(trt) == {"SPARSE_WEIGHTS", "REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE", "GPU_FALLBACK"}
    for call in (
        ("set_memory_pool_limit", "WORKSPACE", 256 << 20),
        ("config.builder_optimization_level", 5),
        ("config.hardware_compatibility_level", trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY),
        ("config.default_device_type", trt.DeviceType.DLA),
        ("config.DLA_core", 1),
        ("config.plugins_to_serialize", [str(library)]),
        ("load_library", str(library)),
        ("config.profiling_verbosity", trt.ProfilingVerbosity.DETAILED),
    ):
        assert call in trt.calls
    alone = built("10.13.2", BuildSpec("fp32", options={"dla_core": 0, "gpu_fallback": False}))
    assert not flags(alone)


@pytest.mark.parametrize(
    ("version", "options", "said"),
    [
        ("8.6.1", {"strip": True}, "cannot do stripping weights: got no BuilderFlag.STRIP_PLAN"),
        ("8.6.1", {"hardware": "same"}, "cannot do hardware=same"),
    ],
)
def test_what_a_version_lacks_is_refused(version: str, options: Any, said: str):
    with pytest.raises(BackendError) as caught:
        build_plan(Edition.of(fake_trt.fake(version, inputs=FREE)), model(), BuildSpec("fp32", options=options))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workspace": 1}, "unknown option of TensorRT: got 'workspace'"),
        ({"optimisation_level": 6}, "optimisation_level is out of range"),
        ({"hardware": "any"}, "unknown hardware compatibility"),
        ({"plugins": ["nowhere.so"]}, "a plug-in library is not there: got nowhere.so"),
        ({"shapes": {"x": ((2,), (1,), (3,))}}, "the shapes of x are wrong"),
    ],
)
def test_options_are_checked(options: Any, said: str):
    with pytest.raises(OptionError) as caught:
        build_plan(Edition.of(fake_trt.fake("10.13.2", inputs=FREE)), model(), BuildSpec("fp32", options=options))
    assert said in str(caught.value)


def test_a_plug_in_library_that_does_not_load(tmp_path: Path):
    library = tmp_path / "broken.so"
    library.touch()
    with pytest.raises(BackendError, match=r"cannot load a plug-in library: got .*broken\.so"):
        built("10.13.2", BuildSpec("fp32", options={"plugins": [str(library)]}))


def test_an_old_tensorrt_is_refused():
    with pytest.raises(BackendError, match=r"TensorRT is too old: got 8\.5\.3"):
        Edition.of(fake_trt.fake("8.5.3"))


# ---- targets ----


def test_tensorrt_builds_for_its_own_gpu_only():
    assert built("10.13.2", BuildSpec("fp32", targets=("sm89",)))
    with pytest.raises(BackendError, match=r"builds for the GPU that is here only: got sm120"):
        built("10.13.2", BuildSpec("fp32", targets=("sm120",)))


@pytest.mark.parametrize("word", ["ada", "sm8", "SM89", ""])
def test_a_target_is_a_word_of_its_own(word: str):
    with pytest.raises(OptionError, match="not a target"):
        BuildSpec(targets=(word,))


def test_tensorrt_needs_a_gpu_to_build(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "gpus", lambda: ((), "no NVIDIA driver"))
    with pytest.raises(BackendError, match=r"TensorRT 10\.13\.2 cannot run here: got no NVIDIA driver"):
        built("10.13.2", BuildSpec("fp32"))


def test_the_gpu_that_is_named_is_the_one_that_is_built_for(monkeypatch: pytest.MonkeyPatch):
    trt = fake_trt.fake("10.13.2", inputs=FREE)
    for module in (device, targets):
        monkeypatch.setattr(module, "gpus", lambda: ((HERE, Gpu(1, "NVIDIA Test 2", (9, 0))), ""))
    opened = lambda index: SimpleNamespace(use=lambda: trt.calls.append(("use", index)))  # noqa: E731
    monkeypatch.setattr(builder, "open_device", opened)
    build_plan(Edition.of(trt), model(), BuildSpec("fp32", device="cuda:1"))
    assert trt.calls[0] == ("use", 1)


# ---- timing cache ----


def test_timings_are_kept_and_put_together(tmp_path: Path):
    file = tmp_path / "timing.cache"
    spec = BuildSpec("fp32", options={"timing_cache": str(file)})
    assert ("create_timing_cache", b"") in built("10.13.2", spec).calls
    assert file.read_bytes() == b"+timings"
    second = built("10.13.2", spec)
    assert ("create_timing_cache", b"+timings") in second.calls
    assert ("combine", b"+timings") in second.calls
    assert file.read_bytes() == b"+timings+timings"
    file.write_bytes(b"of another version")
    third = built("10.13.2", spec)
    assert third.calls.count(("create_timing_cache", b"")) == 1, "an empty one takes its place"


def test_timings_lie_in_the_cache_folder_unless_told(tmp_path: Path):
    built("10.13.2", BuildSpec("fp32"))
    (file,) = (tmp_path / "cache").glob("timing-*.cache")
    assert "10-13-2" in file.name
    file.unlink()
    built("10.13.2", BuildSpec("fp32", options={"timing_cache": ""}))
    assert not list((tmp_path / "cache").glob("timing-*"))
    assert caches.timing_file(Edition.of(fake_trt.fake("1.7.1", rtx=True)), builder.Options(), "x") is None


# ---- errors ----


@pytest.mark.parametrize(
    "error",
    [
        ParserError(3, "Assertion failed: creator: Plugin not found, are the plugin name and version correct?"),
        NamedParserError(3, "Assertion failed: Plugin not found", "last", "DeformConv"),
    ],
)
def test_a_parser_error_names_node_operator_and_rule(error: Any):
    trt = fake_trt.fake("10.13.2", inputs=FREE)
    trt.errors.append(error)
    with pytest.raises(BackendError) as caught:
        build_plan(Edition.of(trt), model(extra="DeformConv"), BuildSpec("fp32"))
    text = str(caught.value)
    for word in ("refuses the model: got DeformConv (node last): it knows no such operator", "[doctor rule D302"):
        assert word in text


def test_every_parser_error_is_told_up_to_three():
    trt = fake_trt.fake("10.13.2", inputs=FREE)
    trt.errors += [NamedParserError(i, f"complaint {i}", f"node {i}", "Op") for i in range(5)]
    with pytest.raises(BackendError) as caught:
        build_plan(Edition.of(trt), model(), BuildSpec("fp32"))
    for word in ("complaint 0", "complaint 1", "complaint 2", "and 2 more"):
        assert word in str(caught.value)
    assert "complaint 3" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Error Code 10: Internal Error (Could not find any implementation for node conv_1.)", "Conv (node conv_1)"),
        ("Error Code 1: Myelin (Cannot compile operation 'conv_1' for Turing (SM75))", "--precision fp16"),
        ("Error Code 1: Cuda Runtime (insufficient driver)", "needs a GPU while building"),
    ],
)
def test_a_failed_build_names_the_node_and_the_way_out(said: str, words: str):
    trt = fake_trt.fake("10.13.2", inputs=FREE, plan=None)
    trt.log_on_build += [(2, "a warning about conv_1"), (1, said)]
    with pytest.raises(BackendError) as caught:
        build_plan(Edition.of(trt), model(), BuildSpec("fp32"))
    assert words in str(caught.value)
