"""Small stand-ins for the trt module of each edition: they record every call and lack what that version lacks.

Members as in NVIDIA's Python API references of 8.6.1, 10.x and 11.x (removed names: the 10 → 11 migration guide).
"""

from __future__ import annotations

from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np

COMMON = ("DEBUG", "GPU_FALLBACK", "REFIT", "TF32", "SPARSE_WEIGHTS", "VERSION_COMPATIBLE")
FLAGS = {
    8: (*COMMON, "FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"),
    10: (*COMMON, "FP16", "INT8", "BF16", "OBEY_PRECISION_CONSTRAINTS", "STRIP_PLAN"),
    11: (*COMMON, "STRIP_PLAN"),
    1: (*COMMON, "STRIP_PLAN"),
}
NETWORK = {
    8: ("EXPLICIT_BATCH",),
    10: ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
    11: ("STRONGLY_TYPED",),
    1: ("STRONGLY_TYPED",),
}
LEVELS = {8: ("NONE", "AMPERE_PLUS")}
ALL_LEVELS = ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")
TARGETS = ("NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121")


def members(name: str, words: tuple[str, ...]) -> Any:
    return IntEnum(name, {word: i for i, word in enumerate(words)})


class Tensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class Layer:
    def __init__(self, name: str, dtype: Any) -> None:
        self.name, self.num_outputs, self._dtype, self.precision = name, 1, dtype, None

    def get_output(self, i: int) -> Tensor:
        return Tensor(f"{self.name}:{i}", (1,), self._dtype)


class Plan(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class Cache:
    def __init__(self, calls: list[Any], data: bytes) -> None:
        self._calls, self.data = calls, data

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        self._calls.append(("combine", other.data))
        return True

    def serialize(self) -> bytes:
        return self.data + b"+timings"


def fake(version: str, *, rtx: bool = False, inputs: tuple[Tensor, ...] = (), plan: bytes | None = b"plan") -> Any:
    """A trt module. `calls` lists what was called; `errors` are what the parser will say."""
    trt: Any = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    major = int(version.split(".")[0])
    trt.__version__, trt.calls, trt.errors, trt.log_on_build = version, [], [], []
    trt.BuilderFlag = members("BuilderFlag", FLAGS[major])
    trt.NetworkDefinitionCreationFlag = members("NetworkDefinitionCreationFlag", NETWORK[major])
    trt.HardwareCompatibilityLevel = members("HardwareCompatibilityLevel", LEVELS.get(major, ALL_LEVELS))
    trt.MemoryPoolType = members("MemoryPoolType", ("WORKSPACE",))
    trt.ProfilingVerbosity = members("ProfilingVerbosity", ("LAYER_NAMES_ONLY", "DETAILED", "NONE"))
    trt.DeviceType = members("DeviceType", ("GPU", "DLA"))
    if rtx:
        trt.ComputeCapability = members("ComputeCapability", TARGETS)
    trt.float32 = np.float32
    calls = trt.calls

    class ILogger:
        pass

    class Config:
        def __init__(self) -> None:
            self.cache: Cache | None = None

        def __setattr__(self, name: str, value: Any) -> None:
            calls.append((f"config.{name}", value))
            super().__setattr__(name, value)

        def set_flag(self, flag: Any) -> None:
            calls.append(("set_flag", flag.name))

        def clear_flag(self, flag: Any) -> None:
            calls.append(("clear_flag", flag.name))

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            calls.append(("set_memory_pool_limit", pool.name, size))

        def set_compute_capability(self, capability: Any, index: int) -> bool:
            calls.append(("set_compute_capability", capability.name, index))
            return True

        def add_optimization_profile(self, profile: Any) -> int:
            calls.append(("add_optimization_profile",))
            return 0

        def create_timing_cache(self, data: bytes) -> Cache:
            calls.append(("create_timing_cache", data))
            return Cache(calls, data)

        def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
            self.cache = cache
            return cache.data != b"of another version"

        def get_timing_cache(self) -> Cache | None:
            return self.cache

    class Profile:
        def set_shape(self, name: str, low: Any, usual: Any, high: Any) -> None:
            calls.append(("set_shape", name, low, usual, high))

    class Network:
        def __init__(self) -> None:
            self.num_inputs = len(inputs)
            self.layers = [Layer("eyas/head/Mul_1", np.float32), Layer("conv_1", np.float32), Layer("eyas/i", np.int64)]
            self.num_layers = len(self.layers)

        def get_input(self, i: int) -> Tensor:
            return inputs[i]

        def get_layer(self, i: int) -> Layer:
            return self.layers[i]

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Network:
            calls.append(("create_network", flags))
            trt.network = Network()
            return trt.network

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> Plan | None:
            for severity, text in trt.log_on_build:
                self.logger.log(severity, text)
            calls.append(("build_serialized_network",))
            return None if plan is None else Plan(plan)

    class OnnxParser:
        def __init__(self, network: Network, logger: Any) -> None:
            self.num_errors = len(trt.errors)

        def parse(self, model: bytes) -> bool:
            calls.append(("parse", model))
            return not trt.errors

        def get_error(self, i: int) -> Any:
            return trt.errors[i]

    class Registry:
        def load_library(self, path: str) -> Any:
            calls.append(("load_library", path))
            return None if "broken" in path else object()

    trt.ILogger, trt.Builder, trt.OnnxParser = ILogger, Builder, OnnxParser
    trt.init_libnvinfer_plugins = lambda logger, namespace: True
    trt.get_plugin_registry = Registry
    return trt


class ParserError:
    """As 8.6 has it: a number, no names."""

    def __init__(self, node: int, desc: str) -> None:
        self._node, self._desc = node, desc

    def node(self) -> int:
        return self._node

    def desc(self) -> str:
        return self._desc


class NamedParserError(ParserError):
    """As 10 and newer have it."""

    def __init__(self, node: int, desc: str, name: str, op: str) -> None:
        super().__init__(node, desc)
        self._name, self._op = name, op

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._op
