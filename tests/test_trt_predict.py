"""From `eyas.load(backend="tensorrt")` to detections: TensorRT's lanes under the stages of the CUDA path.

GPU and TensorRT are stand-ins; the plan's graph is run by ONNX Runtime on the stand-in's memory. The letterbox in the
kernel's place makes every frame one colour, so frames of one colour and of the network's size give what a CPU gives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_trt
import numpy as np
import onnx
import onnxruntime
import pytest
import zoo
from fake_cuda import HERE, CUresult, Machine, machine
from fake_trt_engine import Edges, Mode, World

import eyas
from eyas.cuda.device import open_device
from eyas.cuda.memory import new_array, pinned
from eyas.cuda.stages import DeviceStages
from eyas.errors import BackendError
from eyas.trt import device, plugin, targets
from eyas.types import DeviceImage, Image

__all__ = ["machine"]
SIDE, BATCH = 64, 3
NAMES = ("ant", "bee", "cow")
TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def world_of(gpu: Machine, graph: bytes) -> World:
    """The engine of a graph."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    edges: Edges = {}
    for mode, values in ((Mode.INPUT, session.get_inputs()), (Mode.OUTPUT, session.get_outputs())):
        edges |= {v.name: (mode, TYPES[v.type], (-1, *v.shape[1:])) for v in values}
    return World(gpu, 1, BATCH, edges, lambda feeds: dict(zip(names, session.run(names, feeds), strict=True)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "net.onnx"
    onnx.save(zoo.network("yolov8", size=(SIDE, SIDE)), file)
    return file


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: Machine) -> list[World]:
    """TensorRT 10 and its GPU are there; the engines that were deserialised."""
    shapes = (fake_trt.Tensor("images", (-1, SIDE, SIDE, 3), np.uint8), fake_trt.Tensor("thresholds", (-1, 2)))
    trt, made = fake_trt.fake("10.13.2", inputs=shapes), []

    class Runtime:
        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> World:
            made.append(world_of(machine, next(call[1] for call in trt.calls if call[0] == "parse")))
            return made[-1]

    trt.Runtime, trt.TensorIOMode, trt.nptype = Runtime, Mode, lambda t: t
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plugin, "find_spec", lambda name: object())
    monkeypatch.setattr(plugin, "import_module", lambda name: trt)
    for module in (device, targets, plugin):
        monkeypatch.setattr(module, "gpus", lambda: ((HERE,), ""))
    return made


@pytest.fixture
def model(worlds: list[World], path: Path) -> Iterator[eyas.Model]:
    with opened(path) as found:
        yield found


def opened(path: Path, **settings: Any) -> eyas.Model:
    return eyas.load(path, backend="tensorrt", precision="fp32", batch=BATCH, family="yolov8", names=NAMES, **settings)


def frames(count: int) -> list[Image]:
    colours = np.random.default_rng(4).integers(0, 256, (count, 3), np.uint8)
    return [np.broadcast_to(colour, (SIDE, SIDE, 3)).copy() for colour in colours]


@pytest.fixture
def wanted(path: Path) -> Callable[[list[Image]], list[Any]]:
    """What a CPU finds."""

    def found(pictures: list[Image]) -> list[Any]:
        card: dict[str, Any] = {"family": "yolov8", "names": NAMES}
        with eyas.load(path, backend="onnxruntime", device="cpu", precision="fp32", **card) as cpu:
            return [cpu.predict(picture, conf=0.01) for picture in pictures]

    return found


def assert_same(found: Any, wanted: Any) -> None:
    assert len(found) == len(wanted) > 0
    np.testing.assert_allclose(found.xyxy, wanted.xyxy, atol=1e-3)
    np.testing.assert_allclose(found.confidence, wanted.confidence, atol=1e-5)
    np.testing.assert_array_equal(found.class_id, wanted.class_id)


def test_the_stages_are_those_of_the_device(model: eyas.Model):
    assert isinstance(model.stages(), DeviceStages)
    assert model.engine().description == "TensorRT 10.13.2, NVIDIA Test 1 (sm89), fp32"


def test_detections_are_those_of_the_cpu_one_by_one_and_in_batches(
    model: eyas.Model, wanted: Callable[[list[Image]], list[Any]]
):
    pictures = frames(7)
    expected = wanted(pictures)
    for picture, result in zip(pictures, expected, strict=True):
        assert_same(model.predict(picture, conf=0.01), result)
    for found, result in zip(model.stream(pictures, conf=0.01), expected, strict=True):
        assert_same(found.result, result)
    assert len(model.engine("throughput").all) == 2  # type: ignore[attr-defined] # lanes


def test_pinned_frames_and_those_on_the_device_go_in_as_they_are(
    model: eyas.Model, machine: Machine, wanted: Callable[[list[Image]], list[Any]]
):
    picture = frames(1)[0]
    (expected,) = wanted([picture])
    gpu = open_device(0)
    locked = pinned(gpu, picture.shape)
    locked[:] = picture
    assert_same(model.predict(locked, conf=0.01), expected)
    stream = gpu.stream()
    array = new_array(gpu, stream, picture.shape, np.uint8)
    gpu.quick.cuMemcpyAsync(array.address, locked.ctypes.data, picture.nbytes, stream.handle)
    borrowed = DeviceImage(array.address, (SIDE, SIDE, 3), SIDE * 3, 0, stream.record(), array)
    frame = eyas.Frame(borrowed)  # nobody has waited for the copy: the lane does
    assert_same(model.predict(frame, conf=0.01), expected)


def test_threads_get_their_own_pictures_results(model: eyas.Model, wanted: Callable[[list[Image]], list[Any]]):
    pictures = frames(6)
    expected, failed = wanted(pictures), []

    def ask(first: int) -> None:
        try:
            for i in range(first, first + 12):
                assert_same(model.submit(pictures[i % 6], conf=0.01).result(30), expected[i % 6])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize("code", [CUresult.CUDA_ERROR_DEVICE_UNAVAILABLE, CUresult.CUDA_ERROR_ECC_UNCORRECTABLE])
@pytest.mark.parametrize("when", ["at the launch", "while it computes"])
@pytest.mark.parametrize("count", [1, 7])
def test_a_device_that_disappears_is_told_to_everyone_who_waits(
    worlds: list[World], path: Path, machine: Machine, code: Any, when: str, count: int
):
    model = opened(path, hint="throughput")
    model.predict(frames(1)[0])
    compute = worlds[0].compute

    def lost_while_computing(feeds: Any) -> Any:
        machine.lost = code
        return compute(feeds)

    if when == "at the launch":
        machine.lost_at_launch = code
    else:
        worlds[0].compute = lost_while_computing
    with ThreadPoolExecutor(count) as pool:
        errors = list(pool.map(lambda picture: said(model, picture), frames(count)))
    for error in errors:
        assert isinstance(error, BackendError), repr(error)
        for word in (code.name, "got", "expected", "the process must start anew"):
            assert word in str(error)
    model.close()


def said(model: eyas.Model, picture: Image) -> BaseException | None:
    """What goes wrong with a picture, when it is submitted or later."""
    try:
        return model.submit(picture).exception(30)
    except BackendError as error:
        return error


def test_a_gpu_that_is_not_there(worlds: list[World], path: Path):
    with pytest.raises(BackendError, match=r"TensorRT 10\.13\.2 cannot run here: got 1 GPU, no number 3"):
        opened(path, device="cuda:3").predict(frames(1)[0])


def test_several_gpus_must_all_be_there(worlds: list[World], path: Path, machine: Machine):
    with pytest.raises(BackendError, match="1 GPU, no number 1"):
        opened(path, device="cuda:0,cuda:1").predict(frames(1)[0])
    assert machine.held() == 0, "the first engine is closed again"
