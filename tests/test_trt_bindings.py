"""Every call that eyas makes of TensorRT, held against the installed bindings: name, arity, argument types."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import eyas.trt

trt: Any = pytest.importorskip("tensorrt_rtx")
SOURCES = sorted(Path(eyas.trt.__file__).parent.glob("*.py"))

# What a variable of that name holds in src/eyas/trt.
HOLDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": ("IBuilderConfig", "IRuntimeConfig"),
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "cache": ("ITimingCache", "IRuntimeCache"),
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "inspector": "EngineInspector",
    "error": "ParserError",
    "layer": "ILayer",
    "tensor": "ITensor",
}
# (class, method) → the arguments that eyas passes.
CALLS: dict[tuple[str, str], tuple[str, ...]] = {
    ("Builder", "create_network"): ("int",),
    ("Builder", "create_builder_config"): (),
    ("Builder", "create_optimization_profile"): (),
    ("Builder", "build_serialized_network"): ("INetworkDefinition", "IBuilderConfig"),
    ("INetworkDefinition", "get_input"): ("int",),
    ("INetworkDefinition", "get_layer"): ("int",),
    ("ILayer", "get_output"): ("int",),
    ("IBuilderConfig", "set_flag"): ("BuilderFlag",),
    ("IBuilderConfig", "clear_flag"): ("BuilderFlag",),
    ("IBuilderConfig", "set_memory_pool_limit"): ("MemoryPoolType", "int"),
    ("IBuilderConfig", "set_compute_capability"): ("ComputeCapability", "int"),
    ("IBuilderConfig", "add_optimization_profile"): ("IOptimizationProfile",),
    ("IBuilderConfig", "create_timing_cache"): ("bytes",),
    ("IBuilderConfig", "set_timing_cache"): ("ITimingCache", "bool"),
    ("IBuilderConfig", "get_timing_cache"): (),
    ("ITimingCache", "combine"): ("ITimingCache", "bool"),
    ("ITimingCache", "serialize"): (),
    ("IOptimizationProfile", "set_shape"): ("str", "Dims", "Dims", "Dims"),
    ("OnnxParser", "parse"): ("bytes",),
    ("OnnxParser", "get_error"): ("int",),
    ("ParserError", "desc"): (),
    ("ParserError", "node"): (),
    ("Runtime", "deserialize_cuda_engine"): ("bytes",),
    ("ICudaEngine", "create_execution_context"): ("IRuntimeConfig",),
    ("ICudaEngine", "create_runtime_config"): (),
    ("ICudaEngine", "create_engine_inspector"): (),
    ("ICudaEngine", "get_tensor_name"): ("int",),
    ("ICudaEngine", "get_tensor_mode"): ("str",),
    ("ICudaEngine", "get_tensor_shape"): ("str",),
    ("ICudaEngine", "get_tensor_dtype"): ("str",),
    ("ICudaEngine", "get_tensor_profile_shape"): ("str", "int"),
    ("IRuntimeConfig", "create_runtime_cache"): (),
    ("IRuntimeConfig", "set_runtime_cache"): ("IRuntimeCache",),
    ("IRuntimeCache", "serialize"): (),
    ("IRuntimeCache", "deserialize"): ("bytes",),
    ("EngineInspector", "get_engine_information"): ("LayerInformationFormat",),
    ("IExecutionContext", "set_optimization_profile_async"): ("int", "int"),
    ("IExecutionContext", "set_input_shape"): ("str", "tuple"),
    ("IExecutionContext", "set_tensor_address"): ("str", "int"),
    ("IExecutionContext", "get_tensor_shape"): ("str",),
    ("IExecutionContext", "execute_async_v3"): ("int",),
    ("IPluginRegistry", "load_library"): ("str",),
}
# (class, attribute) → whether eyas sets it.
ATTRIBUTES = {
    ("INetworkDefinition", "num_inputs"): False,
    ("INetworkDefinition", "num_layers"): False,
    ("IBuilderConfig", "builder_optimization_level"): True,
    ("IBuilderConfig", "profiling_verbosity"): True,
    ("IBuilderConfig", "plugins_to_serialize"): True,
    ("IBuilderConfig", "hardware_compatibility_level"): True,
    ("IBuilderConfig", "default_device_type"): True,
    ("IBuilderConfig", "DLA_core"): True,
    ("IBuilderConfig", "num_compute_capabilities"): True,
    ("OnnxParser", "num_errors"): False,
    ("Runtime", "DLA_core"): True,
    ("Runtime", "engine_host_code_allowed"): True,
    ("ICudaEngine", "num_io_tensors"): False,
    ("ICudaEngine", "num_optimization_profiles"): False,
    ("IRuntimeConfig", "cuda_graph_strategy"): True,
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"): True,
    ("ILayer", "num_outputs"): False,
    ("ILayer", "name"): False,
    ("ITensor", "name"): False,
    ("ITensor", "shape"): False,
    ("ITensor", "dtype"): False,
}
# Members of enumerations that eyas asks for without `Edition.need`.
MEMBERS = {
    "BuilderFlag": ("TF32", "REFIT", "STRIP_PLAN", "SPARSE_WEIGHTS", "VERSION_COMPATIBLE", "GPU_FALLBACK"),
    "MemoryPoolType": ("WORKSPACE",),
    "ProfilingVerbosity": ("DETAILED",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "TensorIOMode": ("INPUT",),
    "LayerInformationFormat": ("JSON",),
    "HardwareCompatibilityLevel": ("AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
    "DeviceType": ("DLA",),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
    "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
    "ComputeCapability": ("CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121"),
}
# Set before 10 only, on weakly typed networks; strongly typed bindings have no such property.
WEAKLY_TYPED_ONLY = {("ILayer", "precision")}
TYPES = {"int": "SupportsInt", "bytes": "Buffer", "Dims": "Dims", "tuple": "tuple", "str": "str", "bool": "bool"}


def overloads(cls: str, method: str) -> list[list[str]]:
    """Parameters after self as "name: type[ = default]", of each signature in pybind11's docstring."""
    text = getattr(getattr(trt, cls), method).__doc__ or ""
    found = []
    for match in re.finditer(rf"{method}\(self: [\w.]+(?:, )?(.*)\) -> ", text):
        found.append([p for p in re.split(r", (?=\w+: )", match[1]) if p])
    return found


@pytest.mark.parametrize(("cls", "method"), CALLS, ids=".".join)
def test_a_call_fits_the_bindings(cls: str, method: str):
    signatures = overloads(cls, method)
    assert signatures, f"{cls}.{method} has no signature"
    given = CALLS[cls, method]
    for parameters in signatures:
        required = [p for p in parameters if " = " not in p]
        types = [p.split(": ", 1)[1].split(" = ")[0].split(".")[-1].split("::")[-1] for p in parameters]
        if len(required) <= len(given) <= len(parameters) and all(
            TYPES.get(mine, mine) == theirs for mine, theirs in zip(given, types, strict=False)
        ):
            return
    pytest.fail(f"{cls}.{method}{given} fits none of {signatures}")


@pytest.mark.parametrize(("cls", "name"), ATTRIBUTES, ids=".".join)
def test_an_attribute_is_there(cls: str, name: str):
    found = getattr(getattr(trt, cls), name)
    assert isinstance(found, property)
    assert found.fset is not None or not ATTRIBUTES[cls, name]


@pytest.mark.parametrize("enum", MEMBERS)
def test_a_member_is_there(enum: str):
    assert set(MEMBERS[enum]) <= set(getattr(trt, enum).__members__)


def test_the_functions_of_the_module():
    assert "logger" in trt.init_libnvinfer_plugins.__doc__
    assert "namespace: str" in trt.init_libnvinfer_plugins.__doc__
    assert hasattr(trt.get_plugin_registry(), "load_library")
    assert trt.nptype(trt.DataType.UINT8)
    assert trt.ILogger.Severity.ERROR.value == 1
    assert trt.float32 == trt.DataType.FLOAT
    assert (trt.__name__, trt.__version__[0].isdigit()) == ("tensorrt_rtx", True)


def used() -> set[tuple[str, str]]:
    """(variable, attribute) of every access in src/eyas/trt to a variable that holds something of TensorRT."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = (
                    owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
                )
                if name in HOLDS:
                    found.add((name, node.attr))
    return found


def test_no_call_is_missing_from_the_tables():
    known = set(CALLS) | set(ATTRIBUTES) | WEAKLY_TYPED_ONLY
    ours = {"is_input", "shapes", "code", "args", "strerror"}  # of `Tensor` and of exceptions
    missing = []
    for name, attribute in used():
        classes = HOLDS[name] if isinstance(HOLDS[name], tuple) else (HOLDS[name],)
        if attribute not in ours and not any((cls, attribute) in known for cls in classes):
            missing.append(f"{name}.{attribute}")
    assert sorted(missing) == []


def test_the_tables_hold_nothing_that_is_not_used():
    attributes = {attribute for _, attribute in used()} | {"load_library"}
    assert sorted(f"{c}.{a}" for c, a in {**CALLS, **ATTRIBUTES} if a not in attributes) == []
