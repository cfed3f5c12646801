"""The executor over a stand-in for engine and device memory that really moves bytes by address."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import fake_trt
import numpy as np
import pytest

from eyas.errors import BackendError
from eyas.trt import device, plugin, targets
from eyas.trt.device import Gpu
from eyas.trt.edition import Edition
from eyas.trt.executor import Executor
from eyas.trt.memory import CudaCore
from eyas.types import BuildSpec

Mode = IntEnum("Mode", {"INPUT": 1, "OUTPUT": 2})
Format = IntEnum("Format", {"JSON": 1})
# name → (mode, type, shape); free dimensions are −1. "sum" is the sum of a picture, "mask" whether it is over limit.
EDGES = {
    "images": (Mode.INPUT, np.uint8, (-1, 4, 4, 3)),
    "limits": (Mode.INPUT, np.float32, (-1, 2)),
    "sums": (Mode.OUTPUT, np.float32, (-1, 2)),
    "mask": (Mode.OUTPUT, np.bool_, (-1,)),
}
EDITION = Edition(
    SimpleNamespace(TensorIOMode=Mode, nptype=lambda t: t, LayerInformationFormat=Format), "Fake", (1, 0), True
)


class Block:
    def __init__(self, address: int, size: int) -> None:
        self.address, self.host, self.device = address, np.zeros(size, np.uint8), np.zeros(size, np.uint8)


class Memory:
    """Device memory is another array; `log` says in which order things were asked for."""

    def __init__(self, world: World) -> None:
        self.world, self.log, self.stream = world, [], 7
        world.memories.append(self)

    def allocate(self, size: int) -> Block:
        block = Block(1000 + 10 * len(self.world.blocks), size)
        self.world.blocks[block.address] = block
        return block

    def upload(self, block: Block, size: int) -> None:
        self.log.append("upload")
        block.device[:size] = block.host[:size]

    def download(self, block: Block, size: int) -> None:
        self.log.append("download")
        block.host[:size] = block.device[:size]

    def wait(self) -> None:
        self.log.append("wait")

    def use(self) -> None:
        self.log.append("use")

    def close(self) -> None:
        self.log.append("close")


class World:
    """An engine for 2 to 4 pictures."""

    def __init__(self, least: int = 2, most: int = 4) -> None:
        self.least, self.most = least, most
        self.blocks: dict[int, Block] = {}
        self.memories: list[Memory] = []
        self.contexts: list[Context] = []
        self.num_io_tensors = len(EDGES)
        self.broken = ""

    def get_tensor_name(self, i: int) -> str:
        return list(EDGES)[i]

    def get_tensor_mode(self, name: str) -> Any:
        return EDGES[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return EDGES[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return EDGES[name][2]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [(n, *EDGES[name][2][1:]) for n in (self.least, self.most, self.most)]

    def create_execution_context(self) -> Any:
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

    def executor(self, **settings: Any) -> Executor:
        return Executor(EDITION, object(), self, lambda: Memory(self), description="fake", **settings)


class Context:
    def __init__(self, world: World) -> None:
        self.world, self.count, self.shapes_set = world, 0, 0
        self.addresses: dict[str, int] = {}
        self.busy = threading.Lock()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.count, self.shapes_set = shape[0], self.shapes_set + 1
        return self.world.least <= shape[0] <= self.world.most

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.count, *EDGES[name][2][1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.world.broken != "address"

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        assert self.busy.acquire(blocking=False), "two threads in one context"
        images, limits = self._device("images"), self._device("limits")
        sums = images.reshape(self.count, -1).sum(axis=1, dtype=np.float32)
        self._device("sums")[:] = np.stack([sums, limits[:, 1]], axis=1)
        self._device("mask")[:] = sums > limits[:, 0]
        self.busy.release()
        return self.world.broken != "launch"

    def _device(self, name: str) -> Any:
        _, dtype, _ = EDGES[name]
        shape = self.get_tensor_shape(name)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.world.blocks[self.addresses[name]].device[:size].view(dtype).reshape(shape)


def feeds(count: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    limits = np.stack([np.full(count, 6000.0), np.arange(count)], axis=1).astype(np.float32)
    return {"images": rng.integers(0, 255, (count, 4, 4, 3)).astype(np.uint8), "limits": limits}


def assert_right(given: dict[str, Any], found: dict[str, Any]) -> None:
    sums = given["images"].reshape(len(given["images"]), -1).sum(axis=1)
    np.testing.assert_array_equal(found["sums"], np.stack([sums, given["limits"][:, 1]], axis=1))
    np.testing.assert_array_equal(found["mask"], sums > given["limits"][:, 0])
    assert (found["sums"].dtype, found["mask"].dtype) == (np.float32, np.bool_)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_any_number_of_pictures(count: int):
    executor = World().executor()
    given = feeds(count)
    assert_right(given, executor.infer(given))


def test_nothing_is_allocated_after_it_was_made():
    world = World()
    executor = world.executor(lanes=2)
    assert len(world.blocks) == 2 * len(EDGES)
    for count in (4, 1, 3, 9):
        executor.infer(feeds(count))
    assert len(world.blocks) == 2 * len(EDGES)
    assert len(world.contexts) == len(world.memories) == 2


def test_shapes_are_set_only_when_they_change():
    world = World()
    executor = world.executor()
    before = world.contexts[0].shapes_set
    for _ in range(3):
        executor.infer(feeds(4))
    assert world.contexts[0].shapes_set == before
    executor.infer(feeds(3))
    assert world.contexts[0].shapes_set == before + 2


def test_the_order_of_work_and_results_that_stay():
    world = World()
    executor = world.executor()
    given = feeds(3)
    first = executor.infer(given)
    kept = {name: array.copy() for name, array in first.items()}
    assert world.memories[0].log == ["use", "upload", "upload", "download", "download", "wait"]
    executor.infer(feeds(3, seed=1))
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


def test_arrays_of_any_layout_are_taken():
    given = feeds(3)
    given["images"] = given["images"][:, :, ::-1]
    given["limits"] = given["limits"].astype(np.float64)
    assert_right(given, World().executor().infer(given))


def test_threads_share_the_lanes():
    world = World()
    executor = world.executor(lanes=2)
    assert executor.parallel == 2
    with ThreadPoolExecutor(8) as pool:
        for given, found in [(g, pool.submit(executor.infer, g)) for g in map(feeds, [1, 2, 3, 4] * 20, range(80))]:
            assert_right(given, found.result())


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("context", "no execution context"),
        ("address", "an address is refused: got images"),
        ("launch", "launch failed"),
    ],
)
def test_what_tensorrt_refuses_is_said(broken: str, said: str):
    world = World()
    world.broken = broken
    with pytest.raises(BackendError, match=said):
        world.executor().infer(feeds(2))


def test_after_a_failure_the_lane_is_free_again():
    world = World()
    executor = world.executor()
    world.broken = "launch"
    for _ in range(3):
        with pytest.raises(BackendError):
            executor.infer(feeds(2))
    world.broken = ""
    assert_right(feeds(2), executor.infer(feeds(2)))


def test_close_keeps_the_cache_and_frees_every_lane():
    world = World()
    kept = []
    executor = world.executor(lanes=2, keep=lambda: kept.append(len(world.contexts)))
    executor.close()
    assert kept == [2]
    assert [memory.log[-1] for memory in world.memories] == ["close", "close"]


def test_layers_come_from_the_inspector():
    conv, quantised, bare = World().executor().layers()
    assert (conv.name, conv.kind, conv.precision, conv.shape) == ("conv", "Conv", "fp16", (1, 8))
    assert (quantised.precision, quantised.fused) == ("int8", ("a", "b"))
    assert bare.name == "only a name"


def test_cuda_core_is_asked_as_documented():
    """Against a stand-in with cuda-core's names: blocks are allocated, copied on the stream, and freed in order."""
    log: list[Any] = []
    arrays: list[Any] = []

    class Buffer:
        def __init__(self, word: str, size: int) -> None:
            self.word, self.array = word, np.zeros(size, np.uint8)
            self.handle = self.array.ctypes.data
            arrays.append(self.array)

        def copy_from(self, source: Buffer, *, stream: Any) -> None:
            log.append((self.word, "from", source.word, stream.handle))
            self.array[:] = source.array

        def copy_to(self, target: Buffer, *, stream: Any) -> None:
            log.append((self.word, "to", target.word, stream.handle))
            target.array[:] = self.array

        def close(self, stream: Any = None) -> None:
            log.append((self.word, "close"))

    class Device:
        def __init__(self, index: int) -> None:
            log.append(("device", index))

        def set_current(self) -> None:
            log.append(("set_current",))

        def create_stream(self) -> Any:
            return SimpleNamespace(
                handle=42, sync=lambda: log.append(("sync",)), close=lambda: log.append(("stream", "close"))
            )

        def allocate(self, size: int, *, stream: Any) -> Buffer:
            return Buffer("device", size)

    pinned = SimpleNamespace(allocate=lambda size: Buffer("pinned", size))
    core = SimpleNamespace(Device=Device, LegacyPinnedMemoryResource=lambda: pinned)
    memory = CudaCore(core, 3)
    block = memory.allocate(16)
    block.host[:] = np.arange(16)
    memory.upload(block, 16)
    assert arrays[0].tolist() == list(range(16))
    arrays[0][:] = 5
    memory.download(block, 16)
    assert block.host.tolist() == [5] * 16
    assert (memory.stream, block.address) == (42, arrays[0].ctypes.data)
    memory.wait()
    memory.close()
    assert log == [
        ("device", 3),
        ("set_current",),
        ("device", "from", "pinned", 42),
        ("device", "to", "pinned", 42),
        ("sync",),
        ("set_current",),
        ("device", "close"),
        ("pinned", "close"),
        ("sync",),
        ("stream", "close"),
    ]


# ---- from a plan to an executor ----


class Runtime:
    """Its attributes say what was set before the plan was deserialised."""

    seen: ClassVar[dict[str, Any]] = {}

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> World | None:
        Runtime.seen = {"plan": plan} | {k: v for k, v in vars(self).items() if k != "logger"}
        if plan == b"refused":
            self.logger.log(1, "Error Code 1: Serialization (magic tag does not match)")
            return None
        return World()


class RuntimeConfig:
    cache: Any = None

    def create_runtime_cache(self) -> Any:
        return SimpleNamespace(deserialize=lambda data: RuntimeConfig.stored(data), serialize=lambda: b"kernels")

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True

    @staticmethod
    def stored(data: bytes) -> bool:
        Runtime.seen["cache"] = data
        return True


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """rig(version, rtx) installs a stand-in with a GPU of compute capability 8.9 and gives its plug-in."""
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "cache"))
    here = (Gpu(0, "NVIDIA Test 1", (8, 9)),)
    for module in (device, targets, plugin):
        monkeypatch.setattr(module, "gpus", lambda: (here, ""))
    monkeypatch.setattr(plugin, "open_cuda_core", lambda index: Memory(World()))
    monkeypatch.setattr(World, "create_runtime_config", lambda self: RuntimeConfig(), raising=False)
    monkeypatch.setattr(World, "create_execution_context", lambda self, config=None: _context(self, config))

    def install(version: str, rtx: bool) -> Any:
        trt = fake_trt.fake(version, rtx=rtx)
        trt.Runtime, trt.TensorIOMode, trt.nptype = Runtime, Mode, lambda t: t
        monkeypatch.setattr(plugin, "import_module", lambda name: trt)
        return plugin.Plugin(trt.__name__, "rtx" if rtx else "tensorrt", 80)

    return install


def _context(world: World, config: Any) -> Context:
    Runtime.seen["config"] = config
    return Context(world)


def test_a_plan_becomes_an_executor(rig: Callable[..., Any]):
    found = rig("10.13.2", False).load_engine(b"plan", BuildSpec("fp16"))
    assert Runtime.seen == {"plan": b"plan", "config": None}
    assert (found.parallel, found.description) == (1, "TensorRT 10.13.2, NVIDIA Test 1 (sm89), fp16")
    assert [t.name for t in found.tensors] == list(EDGES)


@pytest.mark.parametrize(("version", "lanes"), [("8.6.1", 1), ("10.13.2", 2), ("11.0.0", 2)])
def test_throughput_takes_two_lanes_where_they_can_share_a_profile(rig: Callable[..., Any], version: str, lanes: int):
    assert rig(version, False).load_engine(b"plan", BuildSpec(hint="throughput")).parallel == lanes


def test_what_the_runtime_must_know_before_it_deserialises(rig: Callable[..., Any]):
    options = {"version_compatible": True, "dla_core": 1, "contexts": 3}
    found = rig("10.13.2", False).load_engine(b"plan", BuildSpec(options=options))
    assert Runtime.seen["engine_host_code_allowed"] is True
    assert Runtime.seen["DLA_core"] == 1
    assert found.parallel == 3
    rig("10.13.2", False).load_engine(b"plan", BuildSpec())
    assert "engine_host_code_allowed" not in Runtime.seen, "plans run no host code unless they were built to"


def test_a_plan_that_the_runtime_refuses(rig: Callable[..., Any]):
    with pytest.raises(BackendError, match=r"TensorRT 11\.0\.0 refuses the engine: got .*magic tag.*eyas build"):
        rig("11.0.0", False).load_engine(b"refused", BuildSpec())


def test_rtx_keeps_its_kernels(rig: Callable[..., Any], tmp_path: Path):
    first = rig("1.7.1", True).load_engine(b"plan", BuildSpec())
    assert isinstance(Runtime.seen["config"], RuntimeConfig)
    assert Runtime.seen["config"].cache is not None
    assert "cache" not in Runtime.seen
    first.close()
    (file,) = (tmp_path / "cache").glob("*-sm89.runtime")
    assert file.read_bytes() == b"kernels"
    rig("1.7.1", True).load_engine(b"plan", BuildSpec())
    assert Runtime.seen["cache"] == b"kernels"
    rig("1.7.1", True).load_engine(b"plan", BuildSpec(options={"runtime_cache": ""}))
    assert Runtime.seen["config"] is None


def test_device_keys(rig: Callable[..., Any]):
    trt = rig("10.13.2", False)
    assert trt.device_key(BuildSpec()) == "sm89 NVIDIA Test 1"
    assert trt.device_key(BuildSpec(options={"hardware": "ampere+"})) == "ampere+"
    assert trt.device_key(BuildSpec(options={"hardware": "same"})) == "sm89"
    rtx = rig("1.7.1", True)
    assert rtx.device_key(BuildSpec()) == targets.PORTABLE
    assert rtx.device_key(BuildSpec(targets=("sm75", "sm89"))) == "sm75+sm89"
    assert rtx.device_key(BuildSpec(targets=("current",))) == "sm89"
    with pytest.raises(BackendError, match=r"for another GPU: got NVIDIA Test 1 \(sm89\); expected sm120"):
        rtx.load_engine(b"plan", BuildSpec(targets=("sm120",)))
