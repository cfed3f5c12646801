"""TensorRT's lanes on a stand-in for the GPU that really moves bytes by address, and does nothing before a wait."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import fake_trt
import numpy as np
import pytest
from fake_cuda import HERE, CUresult, Machine, machine
from fake_trt_engine import EDGES, Context, Graphs, Mode, Specialise, World, edition, sums

from eyas import extras
from eyas.cuda import device as cuda_device
from eyas.errors import BackendError, EyasError
from eyas.trt import device, plugin, targets
from eyas.trt.edition import Edition
from eyas.types import BuildSpec

__all__ = ["machine"]


def feeds(count: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    limits = np.stack([np.full(count, 6000.0), np.arange(count)], axis=1).astype(np.float32)
    return {"images": rng.integers(0, 255, (count, 4, 4, 3)).astype(np.uint8), "limits": limits}


def assert_right(given: dict[str, Any], found: dict[str, Any]) -> None:
    wanted = sums(given)
    np.testing.assert_array_equal(found["sums"], wanted["sums"])
    np.testing.assert_array_equal(found["mask"], wanted["mask"])
    assert (found["sums"].dtype, found["mask"].dtype) == (np.float32, np.bool_)


KINDS = {
    "10": edition(),
    "8.6, one context for all sizes": edition((8, 6, 1)),
    "RTX, which captures by itself": edition((1, 7, 1), rtx=True),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("most", [4, 70])
@pytest.mark.parametrize("broken", ["", "capture", "quiet capture"])
def test_any_number_of_pictures(machine: Machine, kind: Edition, most: int, broken: str):
    world = World(machine, most=most)
    world.broken = broken
    executor = world.executor(kind)
    for count in [4, 1, 2, 3, 9, 5, 1, 71, 150]:
        given = feeds(count, count)
        assert_right(given, executor.infer(given))
    executor.close()


def test_a_context_and_a_graph_for_each_size(machine: Machine):
    world = World(machine, 1, 70)
    executor = world.executor()
    assert executor.all[0].lane.sizes == (1, 8, 64, 70)
    assert [c.count for c in world.contexts] == [1, 8, 64, 70]
    assert [c.shapes_set for c in world.contexts] == [2] * 4
    for count in (1, 3, 8, 9, 65):
        assert_right(feeds(count), executor.infer(feeds(count)))
    assert [c.eager for c in world.contexts] == [2] * 4, "after the warm-up only graphs are launched"
    assert [c.shapes_set for c in world.contexts] == [2] * 4
    assert len({c.addresses["images"] for c in world.contexts}) == 1, "one block for all sizes"


def test_a_smaller_batch_runs_on_the_next_larger_size_but_not_below_the_least(machine: Machine):
    seen = []
    world = World(machine, 2, 9, compute=lambda given: seen.append(len(given["images"])) or sums(given))
    executor = world.executor()
    seen.clear()
    for count in (1, 2, 3, 8, 9):
        executor.infer(feeds(count))
    assert seen == [2, 2, 8, 8, 9]


def test_what_cannot_be_captured_is_told_and_runs(machine: Machine, caplog: pytest.LogCaptureFixture):
    world = World(machine)
    world.broken = "capture"
    with caplog.at_level("DEBUG", logger="eyas"):
        executor = world.executor()
    assert "batches of 2 run without a CUDA graph: TensorRT: the launch failed" in caplog.text
    machine.launches.clear()
    assert_right(feeds(4), executor.infer(feeds(4)))
    assert len(machine.launches) == 1, "the download's"


def test_before_10_a_graph_is_captured_where_one_size_is_all(machine: Machine):
    world = World(machine, 4, 4)
    assert_right(feeds(4), world.executor(edition((8, 6, 1))).infer(feeds(4)))
    assert [c.eager for c in world.contexts] == [2]
    several = World(machine)
    assert_right(feeds(4), several.executor(edition((8, 6, 1))).infer(feeds(4)))
    assert len(several.contexts) == 1


def test_before_10_contexts_cannot_share_a_profile(machine: Machine):
    with pytest.raises(BackendError, match=r"cannot do 2 contexts of a free batch: got optimisation profiles"):
        World(machine).executor(edition((8, 6, 1)), lanes=2)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_each_size_has_the_profile_that_was_tuned_for_it(machine: Machine, kind: Edition):
    seen: list[int] = []
    compute = lambda given: seen.append(len(given["images"])) or sums(given)  # noqa: E731
    world = World(machine, compute=compute, profiles=[(1, 1, 1), (2, 8, 8), (9, 32, 32)])
    executor = world.executor(kind)
    assert executor.largest == 32
    assert executor.all[0].lane.sizes == (1, 8, 32)
    assert [(c.count, c.profile) for c in world.contexts] == [(1, 0), (8, 1), (32, 2)]
    seen.clear()
    for count in (1, 5, 8, 9, 33):
        assert_right(feeds(count), executor.infer(feeds(count)))
    assert seen == [1, 8, 8, 32, 32, 32]
    if not kind.rtx:
        assert [c.eager for c in world.contexts] == [2] * 3, "each has a graph, also before 10"


def test_sizes_may_be_named_within_the_profiles(machine: Machine):
    world = World(machine, profiles=[(1, 1, 1), (2, 8, 8), (4, 16, 32)])
    executor = world.executor(counts=(4, 8))
    assert [(c.count, c.profile) for c in world.contexts] == [(4, 1), (8, 1), (32, 2)]
    assert_right(feeds(6), executor.infer(feeds(6)))
    before_10 = World(machine, profiles=[(1, 1, 1), (2, 8, 8), (4, 16, 32)])
    executor = before_10.executor(edition((8, 6, 1)), counts=(4, 8))
    assert [c.profile for c in before_10.contexts] == [1, 2], "4 and 8 share a context"
    for count in (3, 8, 20):
        assert_right(feeds(count), executor.infer(feeds(count)))


def test_a_size_that_no_profile_holds_is_refused(machine: Machine):
    world = World(machine, profiles=[(1, 1, 1), (8, 8, 8)])
    with pytest.raises(
        BackendError, match=r"no optimisation profile holds a batch of 4: got \[\(1, 1, 1\), \(8, 8, 8\)\]"
    ):
        world.executor(counts=(4,))


def test_an_engine_of_a_fixed_batch_has_no_profile(machine: Machine):
    edges = {name: (mode, dtype, (3, *shape[1:])) for name, (mode, dtype, shape) in EDGES.items()}
    for kind in KINDS.values():
        executor = World(machine, 3, 3, edges).executor(kind, lanes=2)
        assert executor.largest == 3
        assert_right(feeds(7), executor.infer(feeds(7)))


def test_nothing_is_allocated_after_it_was_made(machine: Machine):
    executor = World(machine).executor(lanes=2)
    before = machine.held()
    assert before == 2 * len(EDGES)
    for count in (4, 1, 3, 9):
        executor.infer(feeds(count))
    assert machine.held() == before


def test_results_stay_when_the_lane_goes_on(machine: Machine):
    executor = World(machine).executor()
    first = executor.infer(feeds(3))
    kept = {name: array.copy() for name, array in first.items()}
    executor.infer(feeds(3, seed=1))
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


def test_arrays_of_any_layout_are_taken(machine: Machine):
    given = feeds(3)
    given["images"] = given["images"][:, :, ::-1]
    given["limits"] = given["limits"].astype(np.float64)
    assert_right(feeds(3) | {"images": given["images"]}, World(machine).executor().infer(given))


def test_threads_share_the_lanes(machine: Machine):
    executor = World(machine).executor(lanes=2)
    assert executor.parallel == 2
    with ThreadPoolExecutor(8) as pool:
        for given, found in [(g, pool.submit(executor.infer, g)) for g in map(feeds, [1, 2, 3, 4] * 20, range(80))]:
            assert_right(given, found.result())


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("context", "no execution context"),
        ("profile", "the optimisation profile is refused: got 0"),
        ("shape", r"the shape of images is not in the engine's range: got \[2, 4, 4, 3\]"),
        ("address", "an address is refused: got images"),
        ("launch", "launch failed"),
        ("data", r"the size of mask depends on the data: got \[-1\]"),
        ("size", r"the size of images is free: got \[2, 4, 4, 3\] to \[4, 5, 5, 4\]"),
    ],
)
def test_what_tensorrt_refuses_is_said(machine: Machine, broken: str, said: str):
    world = World(machine)
    world.broken = broken
    with pytest.raises(BackendError, match=said):
        world.executor()


def test_after_a_failed_launch_the_lane_is_free_again(machine: Machine):
    world = World(machine)
    executor = world.executor(edition((8, 6, 1)))  # launches the context, no graph
    world.broken = "launch"
    for _ in range(3):
        with pytest.raises(BackendError, match="launch failed"):
            executor.infer(feeds(2))
    world.broken = ""
    assert_right(feeds(2), executor.infer(feeds(2)))


def test_close_keeps_the_cache_and_frees_every_lane(machine: Machine):
    world = World(machine)
    kept: list[int] = []
    executor = world.executor(lanes=2, keep=lambda: kept.append(len(world.contexts)))
    streams = [lane.lane.stream for lane in executor.all]
    executor.close()
    executor.close()
    assert kept == [4]
    assert machine.held() == 0
    assert all(stream.closed for stream in streams)
    del executor
    gc.collect()
    assert machine.graphs == {}


def test_layers_come_from_the_inspector(machine: Machine):
    conv, quantised, bare = World(machine).executor().layers()
    assert (conv.name, conv.kind, conv.precision, conv.shape) == ("conv", "Conv", "fp16", (1, 8))
    assert (quantised.precision, quantised.fused) == ("int8", ("a", "b"))
    assert bare.name == "only a name"


# ---- what can go wrong with the device ----


def test_no_memory_is_a_clear_error(machine: Machine):
    machine.room = 1000
    with pytest.raises(BackendError, match=r"no memory on GPU 0 for \d+ bytes: got .*OUT_OF_MEMORY.*a smaller batch"):
        World(machine, 1, 70).executor()
    machine.room = 1 << 30
    assert_right(feeds(3), World(machine).executor().infer(feeds(3)))


GONE = [CUresult.CUDA_ERROR_DEVICE_UNAVAILABLE, CUresult.CUDA_ERROR_ECC_UNCORRECTABLE]


@pytest.mark.parametrize("code", GONE, ids=lambda code: code.name)
def test_a_device_that_disappears_is_told_and_closing_goes_on(
    machine: Machine, code: Any, caplog: pytest.LogCaptureFixture
):
    executor = World(machine).executor(lanes=2)
    machine.lost = code
    for _ in range(3):
        with pytest.raises(BackendError, match=rf"GPU 0 refuses: got {code.name}: .*; expected success\. .*anew"):
            executor.infer(feeds(2))
    executor.close()
    assert "a lane of fake was not freed" in caplog.text


def test_a_device_that_disappears_while_a_plan_is_loaded(machine: Machine):
    def gone(given: dict[str, Any]) -> dict[str, Any]:
        machine.lost = CUresult.CUDA_ERROR_ECC_UNCORRECTABLE
        return sums(given)

    with pytest.raises(BackendError, match="CUDA_ERROR_ECC_UNCORRECTABLE"):
        World(machine, compute=gone).executor()


# ---- from a plan to an executor ----


class Runtime:
    """Its attributes say what was set before the plan was deserialised."""

    seen: ClassVar[dict[str, Any]] = {}
    gpu: ClassVar[Any] = None

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> World | None:
        Runtime.seen = {"plan": plan} | {k: v for k, v in vars(self).items() if k != "logger"}
        if plan == b"refused":
            self.logger.log(1, "Error Code 1: Serialization (magic tag does not match)")
            return None
        return World(Runtime.gpu)


class RuntimeConfig:
    cache: Any = None
    cuda_graph_strategy = Graphs.DISABLED
    dynamic_shapes_kernel_specialization_strategy = Specialise.LAZY

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
def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: Machine) -> Callable[..., Any]:
    """rig(version, rtx) installs a stand-in with a GPU of compute capability 8.9 and gives its plug-in."""
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "cache"))
    for module in (device, targets, plugin):
        monkeypatch.setattr(module, "gpus", lambda: ((HERE,), ""))
    monkeypatch.setattr(World, "create_runtime_config", lambda self: RuntimeConfig(), raising=False)
    monkeypatch.setattr(World, "create_execution_context", _context)
    Runtime.gpu = machine

    def install(version: str, rtx: bool) -> Any:
        trt = fake_trt.fake(version, rtx=rtx)
        trt.Runtime, trt.TensorIOMode, trt.nptype = Runtime, Mode, lambda t: t
        trt.CudaGraphStrategy, trt.DynamicShapesKernelSpecializationStrategy = Graphs, Specialise
        monkeypatch.setattr(plugin, "import_module", lambda name: trt)
        return plugin.Plugin(trt.__name__, "rtx" if rtx else "tensorrt", 80)

    return install


def _context(world: World, config: Any = None) -> Context:
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
    assert Runtime.seen["config"].cache is None


def test_rtx_compiles_at_once_and_captures_by_itself(rig: Callable[..., Any], machine: Machine):
    executor = rig("1.7.1", True).load_engine(b"plan", BuildSpec())
    config = Runtime.seen["config"]
    assert config.dynamic_shapes_kernel_specialization_strategy is Specialise.EAGER
    assert config.cuda_graph_strategy is Graphs.WHOLE_GRAPH_CAPTURE
    machine.launches.clear()
    assert_right(feeds(3), executor.infer(feeds(3)))
    assert len(machine.launches) == 1, "the download's"


def test_without_cuda_core_it_says_what_to_install(rig: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extras, "import_module", missing)
    monkeypatch.setattr(cuda_device, "need", extras.need)
    with pytest.raises(EyasError, match=r"got No module named 'cuda\.core'; .*pip install 'eyas\[cuda\]'"):
        rig("10.13.2", False).load_engine(b"plan", BuildSpec())


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
