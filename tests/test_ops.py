"""Operators that ONNX lacks: formula, expansion, kernel source, TensorRT plug-in; what torch does is in test_ops_torch.

The plug-in is walked through the protocol that TensorRT documents, once with stand-ins and once with the real classes
of TensorRT-RTX where that is installed. Nothing here needs a GPU.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from eyas import ops, registry
from eyas.errors import BackendError, EyasError, ModelError, OptionError
from eyas.ops import _kernel, _trt_plugin, expand_custom, expanded, hswish
from eyas.types import BuildSpec

RNG = np.random.default_rng(7)
EDGES = np.array([-np.inf, -1e30, -3.0000002, -3, -2.9999998, -1, -0.0, 0, 1, 2.9999998, 3, 3.1, 60000, np.inf, np.nan])


def model_of(*nodes: onnx.NodeProto, shape: list[Any], element: int = TensorProto.FLOAT, opset: int = 18) -> Any:
    """A model from x to y, float32 or float16, with the nodes between."""
    x, y = (helper.make_tensor_value_info(n, element, shape) for n in "xy")
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("eyas", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=imports, ir_version=9)


def swish(x: str = "x", y: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("HSwish", [x], [y], f"swish {y}", domain="eyas", **attributes)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Another operator, of two inputs and with an attribute: a third party's module."""
    module = types.ModuleType("scaled_sum")
    module.DOMAIN, module.NAME, module.ATTRIBUTES = "acme", "ScaledSum", {"alpha": 0.5, "beta": 2.0}
    module.CUDA = _kernel.elementwise("scaledsum", "alpha * x0 + beta * x1", 2, ("alpha", "beta"))
    module.formula = lambda xp, a, b, alpha, beta: alpha * a + beta * b
    module.shape = lambda a, b: [a[0], 5]
    module.expand = lambda g, node, alpha, beta: node.input[0]
    real = registry.names
    monkeypatch.setitem(sys.modules, "scaled_sum", module)
    monkeypatch.setattr(
        registry, "names", lambda kind: real(kind) | ({"scaled": "scaled_sum"} if kind == "ops" else {})
    )
    yield module
    _kernel.kernel.cache_clear()


def test_the_formula_is_that_of_the_paper():
    x = np.linspace(-8, 8, 1001)
    np.testing.assert_allclose(hswish.formula(np, x), [v * min(max(v + 3, 0), 6) / 6 for v in x], rtol=1e-15)
    np.testing.assert_array_equal(hswish.formula(np, np.array([-3.0, 0.0, 3.0, 10.0])), [0, 0, 3, 10])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_the_expansion_gives_the_formula(dtype: type, opset: int):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = model_of(swish(), shape=["n", 5], element=element, opset=opset)
    assert expand_custom(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert {n.domain for n in model.graph.node} == {""}
    assert [o.domain for o in model.opset_import] == [""]
    with np.errstate(over="ignore"):
        x = np.concatenate([EDGES, RNG.normal(0, 4, 285)]).reshape(-1, 5).astype(dtype)
    with np.errstate(invalid="ignore"):
        wanted = hswish.formula(np, x.astype(np.float64))
    # x · HardSigmoid: x / 6 + 1/2 is rounded near 1/2, so the error is one of the type's units, times |x| ≤ 3 there.
    np.testing.assert_allclose(
        run(model, x),
        wanted.astype(dtype),
        rtol=2e-3 if dtype is np.float16 else 1e-6,
        atol=4e-3 if dtype is np.float16 else 5e-7,
    )


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_expansion_runs_on_the_backends(backend: str):
    pytest.importorskip(backend)
    module = registry.get("backends", backend)
    model = model_of(swish("x", "h"), swish("h", "y"), shape=[2, 3, 4])
    assert expand_custom(model) == 2
    engine = module.open_engine(model, BuildSpec("fp32"))
    x = RNG.normal(0, 4, (2, 3, 4)).astype(np.float32)
    wanted = hswish.formula(np, hswish.formula(np, x.astype(np.float64)))
    np.testing.assert_allclose(engine.infer({"x": x})["y"], wanted, atol=2e-6)
    engine.close()


def test_what_is_not_expanded():
    model = model_of(swish("x", "h"), helper.make_node("Relu", ["h"], ["y"]), shape=[2])
    before = model.SerializeToString()
    assert expand_custom(model, keep=[("eyas", "HSwish")]) == 0
    assert model.SerializeToString() == before
    other = model_of(helper.make_node("HSwish", ["x"], ["y"], domain="other"), shape=[2])
    assert expanded(other) is other
    own = model_of(swish(), shape=[2])
    body = [helper.make_node("Relu", ["a"], ["b"])]
    own.functions.append(helper.make_function("eyas", "HSwish", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    assert expand_custom(own) == 0
    assert (run(own, np.array([-1, 2], np.float32)) == [0, 2]).all()  # the model's own function, not ours


def test_expanded_is_a_copy_and_inner_graphs_are_expanded_too():
    inner = [
        helper.make_graph([swish("x", name)], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])])
        for name in ("a", "b")
    ]
    flag = helper.make_node("Constant", [], ["flag"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    branch = helper.make_node("If", ["flag"], ["y"], then_branch=inner[0], else_branch=inner[1])
    model = model_of(flag, branch, shape=[3])
    before = model.SerializeToString()
    plain = expanded(model)
    assert model.SerializeToString() == before
    x = np.array([-1, 0.5, 4], np.float32)
    np.testing.assert_allclose(run(plain, x), hswish.formula(np, x), atol=1e-6)
    assert expand_custom(plain) == 0


def test_names_do_not_clash_with_those_of_an_earlier_expansion():
    model = model_of(swish("x", "h"), shape=[3])
    model.graph.output[0].name = "h"
    expand_custom(model)
    model.graph.node.append(swish("h", "y"))
    model.graph.output[0].name = "y"
    model.opset_import.append(helper.make_opsetid("eyas", 1))
    assert expand_custom(model) == 1
    onnx.checker.check_model(model, full_check=True)
    x = np.array([-1, 0.5, 4], np.float32)
    np.testing.assert_allclose(run(model, x), hswish.formula(np, hswish.formula(np, x)), atol=1e-6)


def test_an_expansion_that_hands_an_input_on(scaled: types.ModuleType):
    node = helper.make_node("ScaledSum", ["x", "x"], ["y"], domain="acme")
    model = model_of(node, shape=[3])
    assert expand_custom(model) == 1
    assert [n.op_type for n in model.graph.node] == ["Identity"]


def test_attributes_are_filled_in_and_strangers_refused(scaled: types.ModuleType):
    node = helper.make_node("ScaledSum", ["x", "x"], ["y"], domain="acme", beta=3.0, plugin_version="1")
    assert ops.attributes_of(scaled, node) == {"alpha": 0.5, "beta": 3.0}
    assert ops.inputs_of(scaled) == ["a", "b"]
    with pytest.raises(ModelError, match=r"gamma = 1.0; expected no attributes"):
        expand_custom(model_of(swish(gamma=1.0), shape=[3]))
    with pytest.raises(ModelError, match=r"alpha = b'much'; expected alpha: a number, beta: a number"):
        ops.attributes_of(scaled, helper.make_node("ScaledSum", ["x"], ["y"], domain="acme", alpha="much"))


def test_operators_are_found(scaled: types.ModuleType):
    assert ops.operators() == {("eyas", "HSwish"): hswish, ("acme", "ScaledSum"): scaled}
    with pytest.raises(OptionError, match=r"unknown operator.*Did you mean hswish"):
        ops.operator("hswich")


# The kernel


@pytest.fixture(scope="module")
def core() -> Any:
    """cuda-core with an NVRTC that it can find; neither needs a GPU."""
    found = pytest.importorskip("cuda.core", reason="the extra `cuda` is not installed")
    try:
        found.Program("", "c++", found.ProgramOptions(arch="sm_80")).compile("cubin")
    except Exception as error:
        pytest.skip(f"cuda-core finds no NVRTC: {str(error)[:80]}")
    return found


@pytest.mark.parametrize("arch", ["sm_75", "sm_89", "sm_90", "sm_120"])
def test_the_kernels_compile(core: Any, scaled: types.ModuleType, arch: str):
    for op, name in ((hswish, "hswish"), (scaled, "scaledsum")):
        code = _kernel.compiled(op, arch).code
        assert f"{name}_fp32".encode() in code
        assert f"{name}_fp16".encode() in code


def test_a_kernel_that_does_not_compile(core: Any, scaled: types.ModuleType):
    scaled.CUDA = scaled.CUDA.replace("alpha * x0", "alpha ** x0")
    with pytest.raises(BackendError, match=r"kernel of acme::ScaledSum does not compile: got .*error"):
        _kernel.compiled(scaled, "sm_90")


# What CUDA adds to C++, for one thread at a time; float16 by table (the halves of 0 and up are in order of their bits).
SHIM = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#define __device__
#define __global__
#define __forceinline__ inline
struct Index { unsigned x; };
static Index blockIdx, blockDim, threadIdx, gridDim;
static const float* halves;
static float host_wide(unsigned short bits) { return halves[bits]; }
static unsigned short host_narrow(float v) {
    const unsigned short sign = std::signbit(v) ? 0x8000 : 0;
    if (std::isnan(v)) return 0x7e00;
    const float a = std::fabs(v);
    if (a >= 65520.0f) return sign | 0x7c00;
    const unsigned short up = std::min<long>(std::lower_bound(halves, halves + 0x7c00, a) - halves, 0x7bff);
    if (halves[up] == a || up == 0) return sign | up;
    const float below = a - halves[up - 1], above = halves[up] - a;
    return sign | (above > below || (above == below && up % 2) ? up - 1 : up);
}
"""
LOOP = """
template <typename K> static void each(K kernel, unsigned grid, unsigned block, const float* table) {
    halves = table; gridDim.x = grid; blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) kernel();
}
extern "C" void run_fp32(const float* x, float* y, count_t n, unsigned grid, unsigned block, const float* table) {
    each([=] { hswish_fp32(x, y, n); }, grid, block, table);
}
extern "C" void run_fp16(const half_t* x, half_t* y, count_t n, unsigned grid, unsigned block, const float* table) {
    each([=] { hswish_fp16(x, y, n); }, grid, block, table);
}
"""


@pytest.fixture(scope="module")
def on_the_host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The kernel's own source compiled for the CPU: indices, alignment and rounding, but not the two instructions."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    text = hswish.CUDA
    for old, new in (
        ('asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));', "f = host_wide(v.bits);"),
        ('asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(v));', "out.bits = host_narrow(v);"),
        ("#pragma unroll", ""),
    ):
        assert old in text
        text = text.replace(old, new)
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "k.cpp").write_text(SHIM + text + LOOP)
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "k.cpp", "-o", "k.so"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return ctypes.CDLL(str(folder / "k.so"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("x_at", "y_at"), [(0, 0), (1, 0), (0, 3), (2, 2)])
def test_the_kernels_arithmetic_for_any_size_and_alignment(on_the_host: Any, dtype: type, x_at: int, y_at: int):
    table = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    run_kernel = on_the_host.run_fp16 if dtype is np.float16 else on_the_host.run_fp32
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1000, 1023, 4099):
        with np.errstate(over="ignore"):
            x = np.concatenate([EDGES, RNG.normal(0, 4, n)])[-n:].astype(dtype)
        source, target = np.zeros(n + 64, dtype), np.full(n + 64, 123, dtype)
        start = -source.ctypes.data % 16 // source.itemsize + x_at
        to = -target.ctypes.data % 16 // target.itemsize + y_at
        source[start : start + n] = x
        pointers = (ctypes.c_void_p(a.ctypes.data + i * a.itemsize) for a, i in ((source, start), (target, to)))
        run_kernel(*pointers, ctypes.c_ulonglong(n), 3, 8, ctypes.c_void_p(table.ctypes.data))
        with np.errstate(invalid="ignore"):
            wanted = hswish.formula(np, x.astype(np.float64)).astype(dtype)
        # Four roundings of 2⁻²⁴ at most; in float16 the last one alone counts.
        np.testing.assert_allclose(target[to : to + n], wanted, rtol=1e-3 if dtype is np.float16 else 2.4e-7)
        assert (np.delete(target, np.s_[to : to + n]) == 123).all()


def test_without_cuda_core_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    _kernel._core.cache_clear()
    with pytest.raises(EyasError, match=r"pip install 'eyas\[cuda\]'"):
        _kernel.compiled(hswish, "sm_90")


def test_a_kernel_has_two_element_types():
    assert _kernel.entry(hswish, np.float16) == "hswish_fp16"
    with pytest.raises(BackendError, match=r"HSwish has no such kernel: got int8"):
        _kernel.entry(hswish, np.int8)


class Launches:
    """A stand-in for cuda-core: notes what is compiled and launched."""

    def __init__(self) -> None:
        self.compiled: list[tuple[str, str, Any]] = []
        self.launched: list[tuple[Any, ...]] = []
        outer = self
        self.Stream = types.SimpleNamespace(from_handle=lambda handle: f"stream {handle}")
        self.ProgramOptions = lambda **options: options
        self.LaunchConfig = lambda grid, block: (grid, block)

        class Program:
            def __init__(self, code: str, kind: str, options: Any) -> None:
                self.all = (code, kind, options)

            def compile(self, target: str) -> Any:
                outer.compiled.append(self.all)
                return types.SimpleNamespace(get_kernel=lambda name: name, code=b"")

        self.Program = Program

    def Device(self, number: int = 0) -> Any:
        properties = types.SimpleNamespace(multiprocessor_count=4)
        return types.SimpleNamespace(device_id=number, compute_capability=(8, 9), properties=properties)

    def launch(self, *arguments: Any) -> None:
        self.launched.append(arguments)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    found = Launches()
    _kernel.kernel.cache_clear()
    monkeypatch.setattr(_kernel, "_core", lambda: found)
    yield found
    _kernel.kernel.cache_clear()


def test_a_launch(launches: Launches, scaled: types.ModuleType):
    _kernel.prepare(scaled, np.float16)
    _kernel.launch(scaled, np.float16, [16, 32], 64, 1000, 7, alpha=0.25, beta=3)
    (_, _, options), *more = launches.compiled
    assert (options["arch"], options["use_fast_math"], more) == ("sm_89", False, [])  # once, and kept
    ((stream, config, kernel, *arguments),) = launches.launched
    assert (stream, config, kernel) == ("stream 7", (4, 256), "scaledsum_fp16")
    assert arguments == [16, 32, 64, 1000, 0.25, 3.0]
    assert [type(a) for a in arguments[3:]] == [np.uint64, np.float32, np.float32]
    _kernel.launch(scaled, np.float16, [16, 32], 64, 10**9, 7, alpha=0.25, beta=3)
    assert launches.launched[1][1] == (4 * 8, 256)  # no more blocks than the device holds
    _kernel.launch(scaled, np.float16, [16, 32], 64, 0, 7, alpha=0.25, beta=3)
    assert len(launches.launched) == 2  # no elements, no launch


# TensorRT


def stand_in() -> types.ModuleType:
    """The names of TensorRT's that the plug-in uses; attributes must be set after the bases' __init__, as there."""
    trt = types.ModuleType("stand_in")

    class Base:
        def __init__(self) -> None:
            self.made = True

        def __setattr__(self, name: str, value: object) -> None:
            if name != "made" and "made" not in self.__dict__:
                raise TypeError("__init__ of the base was not called")
            object.__setattr__(self, name, value)

    for name in ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One"):
        setattr(trt, name, type(name, (Base,), {}))
    trt.DataType = Enum("DataType", "FLOAT HALF INT8")
    trt.TensorFormat = Enum("TensorFormat", "LINEAR CHW32")
    trt.PluginFieldType = Enum("PluginFieldType", "FLOAT32 INT32")
    trt.TensorRTPhase = Enum("TensorRTPhase", "BUILD RUNTIME")
    trt.PluginCapabilityType = Enum("PluginCapabilityType", "CORE BUILD RUNTIME")
    trt.PluginField = lambda name, data, type: types.SimpleNamespace(name=name, data=data, type=type)
    trt.PluginFieldCollection = list
    trt.DimsExprs = list
    trt.PluginTensorDesc = types.SimpleNamespace
    trt.DynamicPluginTensorDesc = types.SimpleNamespace
    trt.INetworkDefinition = type("INetworkDefinition", (), {"add_plugin_v3": None})
    known: dict[tuple[str, str, str], Any] = {}

    def register_creator(creator: Any, namespace: str) -> bool:
        key = (creator.name, creator.plugin_version, namespace)
        return known.setdefault(key, creator) is creator

    found = types.SimpleNamespace(register_creator=register_creator, get_creator=lambda *key: known.get(key))
    trt.get_plugin_registry = lambda: found
    return trt


@pytest.fixture(params=["stand-in", "tensorrt_rtx"])
def trt(request: pytest.FixtureRequest) -> Any:
    if request.param == "stand-in":
        return stand_in()
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


def desc(trt: Any, kind: Any, shape: tuple[int, ...], form: Any = None) -> Any:
    found = trt.PluginTensorDesc()
    found.type, found.dims, found.format = kind, shape, form or trt.TensorFormat.LINEAR
    return found


def dynamic(trt: Any, *descs: Any) -> list[Any]:
    found = []
    for one in descs:
        found.append(trt.DynamicPluginTensorDesc())
        found[-1].desc = one
    return found


def test_a_plug_in_from_creation_to_launch(trt: Any, launches: Launches, scaled: types.ModuleType):
    creator = _trt_plugin.classes(trt, scaled)[1]()
    assert (creator.name, creator.plugin_namespace, creator.plugin_version) == ("ScaledSum", "acme", "1")
    assert [f.name for f in creator.field_names] == ["alpha", "beta"]
    kinds = trt.PluginFieldType
    three = np.array([3], np.float32)  # a field only points to it
    said = trt.PluginFieldCollection([trt.PluginField("beta", three, kinds.FLOAT32)])
    built = creator.create_plugin("a node", said, trt.TensorRTPhase.BUILD)
    assert built.numbers == {"alpha": 0.5, "beta": 3.0}
    assert (built.plugin_name, built.plugin_namespace, built.num_outputs) == ("ScaledSum", "acme", 1)
    for capability in (trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME):
        assert built.get_capability_interface(capability) is built
    half, full, linear = trt.DataType.HALF, trt.DataType.FLOAT, trt.TensorFormat.LINEAR
    assert built.get_output_data_types([half, half]) == [half]
    good = dynamic(trt, *(desc(trt, half, (2, 5)) for _ in range(3)))
    assert [built.supports_format_combination(i, good, 2) for i in range(3)] == [True] * 3
    mixed = dynamic(
        trt, desc(trt, half, (2, 5)), desc(trt, full, (2, 5)), desc(trt, half, (2, 5), trt.TensorFormat.CHW32)
    )
    assert [built.supports_format_combination(i, mixed, 2) for i in range(3)] == [True, False, False]
    whole = dynamic(trt, *(desc(trt, trt.DataType.INT8, (2, 5)) for _ in range(3)))
    assert not built.supports_format_combination(0, whole, 2)
    assert linear == good[0].desc.format

    stored = built.get_fields_to_serialize()
    assert {f.name: (float(f.data[0]), f.type) for f in stored} == {
        "alpha": (0.5, kinds.FLOAT32),
        "beta": (3.0, kinds.FLOAT32),
    }
    read = creator.create_plugin("a node", stored, trt.TensorRTPhase.RUNTIME)
    assert read.numbers == built.numbers
    attached = read.attach_to_context(None)
    assert attached is not read
    assert attached.numbers == read.numbers
    shapes = [desc(trt, half, (3, 5))]
    attached.on_shape_change(shapes * 2, shapes)
    assert len(launches.compiled) == 1
    attached.enqueue(shapes * 2, shapes, [16, 32], [64], 0, 9)
    ((stream, _, kernel, *arguments),) = launches.launched
    assert (stream, kernel, arguments) == ("stream 9", "scaledsum_fp16", [16, 32, 64, 15, 0.5, 3.0])
    assert len(launches.compiled) == 1


def test_shapes_are_handed_on_and_numbers_become_constants(scaled: types.ModuleType):
    trt = stand_in()
    builder = types.SimpleNamespace(constant=lambda value: f"constant {value}")
    built = _trt_plugin.plugin(trt, scaled, {"alpha": 1.0, "beta": 1.0})
    assert built.get_output_shapes([["n", "w"], ["n", "w"]], [], builder) == [["n", "constant 5"]]
    alone = _trt_plugin.plugin(trt, hswish, {})
    assert alone.get_output_shapes([["n", "c", "h", "w"]], [], builder) == [["n", "c", "h", "w"]]


def test_registration(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_trt_plugin, "_CREATORS", {})
    trt = stand_in()
    assert _trt_plugin.register(trt) == {("eyas", "HSwish")} == _trt_plugin.register(trt)
    assert (
        trt.get_plugin_registry().get_creator("HSwish", "1", "eyas")
        is _trt_plugin._CREATORS["stand_in", "eyas", "HSwish"]
    )
    _trt_plugin._CREATORS.clear()  # as if another library had brought the one that is there
    with pytest.raises(BackendError, match="registered already"):
        _trt_plugin.register(trt)


def test_tensorrt_rtx_brings_none_and_is_given_the_expansion():
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    assert _trt_plugin.register(trt) == frozenset()
    model = model_of(swish(), shape=[1, 3, 8, 8])
    assert expand_custom(model, _trt_plugin.register(trt)) == 1
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(model.SerializeToString())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config).nbytes > 1000


# In a process of its own: TensorRT-RTX 1.7.1 ends it once the plug-in is made (see `_trt_plugin`).
PARSE = """
import sys
import tensorrt_rtx as trt
from eyas.ops import _trt_plugin, hswish
made = _trt_plugin.classes(trt, hswish)[1]
real = made.create_plugin
def noted(self, name, fields, phase):
    found = real(self, name, fields, phase)
    print("made", type(found).__name__, phase == trt.TensorRTPhase.BUILD, flush=True)
    return found
made.create_plugin = noted
_trt_plugin._register(trt, hswish)
builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
network = builder.create_network(0)
trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR)).parse(open(sys.argv[1], "rb").read())
"""


@pytest.mark.parametrize("addressed", [False, True])
def test_the_onnx_parser_finds_the_plug_in(tmp_path: Path, addressed: bool):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    model = model_of(swish(), shape=[1, 3, 8, 8])
    if addressed:
        assert _trt_plugin.address(model, {("eyas", "HSwish")}) == 1
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    done = subprocess.run([sys.executable, "-c", PARSE, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0] == "made HSwishPlugin True", done.stderr


def test_nodes_are_addressed_once():
    model = model_of(swish(), shape=[3])
    for _ in range(2):
        assert _trt_plugin.address(model, {("eyas", "HSwish")}) == 1
    found = {a.name: helper.get_attribute_value(a) for a in model.graph.node[0].attribute}
    assert found == {"plugin_namespace": b"eyas", "plugin_version": b"1"}
    assert len(model.graph.node[0].attribute) == 2
    assert _trt_plugin.address(model, ()) == 0
    assert expand_custom(model) == 1  # an addressed node can still be expanded
