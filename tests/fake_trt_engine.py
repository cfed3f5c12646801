"""A TensorRT engine on the GPU of `fake_cuda`: contexts that compute on device memory, once their stream is awaited."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import Machine

from eyas.cuda.device import open_device
from eyas.trt.edition import Edition
from eyas.trt.executor import Executor

Mode = IntEnum("Mode", {"INPUT": 1, "OUTPUT": 2})
Format = IntEnum("Format", {"JSON": 1})
Specialise = IntEnum("Specialise", {"LAZY": 0, "EAGER": 1})
Graphs = IntEnum("Graphs", {"DISABLED": 0, "WHOLE_GRAPH_CAPTURE": 1})
Edges = dict[str, tuple[Any, Any, tuple[int, ...]]]
# name → (mode, type, shape); free dimensions are −1. "sum" is the sum of a picture, "mask" whether it is over limit.
EDGES: Edges = {
    "images": (Mode.INPUT, np.uint8, (-1, 4, 4, 3)),
    "limits": (Mode.INPUT, np.float32, (-1, 2)),
    "sums": (Mode.OUTPUT, np.float32, (-1, 2)),
    "mask": (Mode.OUTPUT, np.bool_, (-1,)),
}


def edition(version: tuple[int, ...] = (10, 1), rtx: bool = False) -> Edition:
    trt = SimpleNamespace(TensorIOMode=Mode, nptype=lambda t: t, LayerInformationFormat=Format)
    return Edition(trt, "Fake", version, rtx)


def sums(given: dict[str, Any]) -> dict[str, Any]:
    """What the engine of EDGES computes."""
    images, limits = given["images"], given["limits"]
    total = images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)
    return {"sums": np.stack([total, limits[:, 1]], axis=1), "mask": total > limits[:, 0]}


class World:
    """An engine for `least` to `most` pictures. broken: what goes wrong."""

    def __init__(
        self,
        gpu: Machine,
        least: int = 2,
        most: int = 4,
        edges: Edges = EDGES,
        compute: Callable[..., Any] = sums,
        profiles: list[tuple[int, int, int]] | None = None,
    ) -> None:
        self.gpu, self.edges, self.compute = gpu, dict(edges), compute
        self.profiles = profiles or [(least, most, most)]
        self.num_optimization_profiles = len(self.profiles)
        self.contexts: list[Context] = []
        self.num_io_tensors = len(edges)
        self.broken = ""

    def get_tensor_name(self, i: int) -> str:
        return list(self.edges)[i]

    def get_tensor_mode(self, name: str) -> Any:
        return self.edges[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.edges[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.edges[name][2]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        rest = [max(size, 1) for size in self.edges[name][2][1:]]
        low, usual, high = self.profiles[profile]
        return [(low, *rest), (usual, *rest), (high, *[s + (self.broken == "size") for s in rest])]

    def create_execution_context(self, config: Any = None) -> Any:
        if self.broken == "context":
            return None
        self.contexts.append(Context(self))
        return self.contexts[-1]

    def create_engine_inspector(self) -> Any:
        layers = [
            {"Name": "conv", "LayerType": "Conv", "Outputs": [{"Format/Datatype": "Half", "Dimensions": [1, 8]}]},
            {"Name": "q", "LayerType": "Q", "Outputs": [{"Format/Datatype": "Int8 NCHW"}], "Metadata": "a\x1eb"},
            "only a name",
        ]
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": layers}))

    def executor(self, kind: Edition | None = None, **settings: Any) -> Executor:
        return Executor(kind or edition(), object(), self, open_device(0), description="fake", **settings)


class Context:
    """A graph of it reads its shapes when it runs: whoever changes them after the capture gets wrong results."""

    def __init__(self, world: World) -> None:
        self.world, self.count, self.shapes_set = world, 0, 0
        self.addresses: dict[str, int] = {}
        self.profile: int | None = None
        self.eager = 0  # launches outside a capture
        self.busy = threading.Lock()

    def set_optimization_profile_async(self, index: int, handle: int) -> bool:
        assert not self.world.gpu.streams[handle].closed
        self.profile = index
        return self.world.broken != "profile"

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert (self.profile is not None) is (-1 in self.world.edges[name][2])
        self.count, self.shapes_set = shape[0], self.shapes_set + 1
        low, _, high = self.world.profiles[self.profile or 0]
        return self.world.broken != "shape" and low <= shape[0] <= high

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self.world.broken == "data" and name == "mask":
            return (-1,)
        return (self.count, *self.world.edges[name][2][1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.world.broken != "address"

    def execute_async_v3(self, handle: int) -> bool:
        stream, broken = self.world.gpu.streams[handle], self.world.broken
        if broken == "launch":
            return False
        if stream.recording is None:
            self.eager += 1
            stream.enqueue(lambda count=self.count: self._compute(count))
            return True
        stream.enqueue(lambda: self._compute(self.count))
        stream.invalid = broken in ("capture", "quiet capture")
        return broken != "capture"

    def _compute(self, count: int) -> None:
        assert self.busy.acquire(blocking=False), "two threads in one context"
        edges = self.world.edges
        found = self.world.compute({n: self._device(n, count).copy() for n, e in edges.items() if e[0] == Mode.INPUT})
        for name, value in found.items():
            self._device(name, count)[:] = value
        self.busy.release()

    def _device(self, name: str, count: int) -> Any:
        _, dtype, shape = self.world.edges[name]
        size = int(np.prod((count, *shape[1:]))) * np.dtype(dtype).itemsize
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.addresses[name]))
        return raw.view(dtype).reshape(count, *shape[1:])
