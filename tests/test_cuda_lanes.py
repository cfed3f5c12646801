"""Lanes, graphs and the device's stages without a GPU: the real code on `fake_cuda`, which does nothing unawaited."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import CUresult, Machine, machine

from eyas.cuda.device import CudaDevice, open_device
from eyas.cuda.graph import captured, captured_sizes, fitting
from eyas.cuda.lane import HostLane, LanedEngine, sizes
from eyas.cuda.memory import Block, address_of, copy, device_image, is_pinned, new_array, pinned
from eyas.cuda.stages import DeviceStages
from eyas.errors import BackendError, OptionError, SourceError
from eyas.graph.head import HeadSpec
from eyas.graph.surgery import IMAGES, THRESHOLDS
from eyas.source import pictures
from eyas.stages import Job
from eyas.types import BuildSpec, DeviceImage, Frame, Image, ModelCard, Normalise

__all__ = ["machine"]
SIDE, BATCH = 4, 6
CARD = ModelCard("yolov8", (SIDE, SIDE), Normalise("rgb"), ("thing",), resize="stretch")


class Lane:
    """Gives back each image's first pixel and its thresholds."""

    def __init__(self, device: CudaDevice, sizes: tuple[int, ...] = (2, BATCH)) -> None:
        device.use()
        self.stream, self.sizes = device.stream(), sizes
        most = sizes[-1]
        array: Callable[..., Any] = lambda *shape: new_array(device, self.stream, *shape)  # noqa: E731
        self.inputs = {IMAGES: array((most, SIDE, SIDE, 3), np.uint8), THRESHOLDS: array((most, 2), np.float32)}
        self.outputs = {"pixel": array((most, 3), np.uint8), "limits": array((most, 2), np.float32)}
        self.launched: list[int] = []
        self.closed = False

    def launch(self, count: int) -> None:
        size = fitting(self.sizes, count)
        self.launched.append(size)

        def work() -> None:
            self._see(self.outputs["pixel"], size)[:] = self._see(self.inputs[IMAGES], size)[:, 0, 0]
            self._see(self.outputs["limits"], size)[:] = self._see(self.inputs[THRESHOLDS], size)

        self.stream.enqueue(work)

    def _see(self, array: Any, size: int) -> Any:
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * array.first(size).nbytes).from_address(array.address))
        return raw.view(array.dtype).reshape(size, *array.shape[1:])

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def device(machine: Machine) -> CudaDevice:
    opened = open_device(0)
    opened.use()
    return opened


def feeds(count: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    return {IMAGES: images, THRESHOLDS: rng.random((count, 2), np.float32)}


def assert_right(given: dict[str, Any], found: dict[str, Any]) -> None:
    np.testing.assert_array_equal(found["pixel"], given[IMAGES][:, 0, 0])
    np.testing.assert_array_equal(found["limits"], given[THRESHOLDS])


# ---- graphs and sizes ----


@pytest.mark.parametrize(
    ("batch", "fixed", "wanted"),
    [
        ((1, 1, 1), None, (1,)),
        ((1, 32, 32), None, (1, 8, 32)),
        ((1, 8, 100), None, (1, 8, 64, 100)),
        ((3, 5, 7), None, (3, 5, 7)),
        ((1, 4096, 4096), None, (1, 8, 64, 512, 4096)),
        ((1, 8, 32), 5, (5,)),
    ],
)
def test_the_sizes_that_get_a_graph(batch: tuple[int, int, int], fixed: int | None, wanted: tuple[int, ...]):
    assert sizes(BuildSpec(batch=batch), fixed) == wanted


def test_sizes_may_be_named():
    assert sizes(BuildSpec(batch=(1, 32, 32), options={"sizes": [4, 1]}), None) == (1, 4, 32)
    assert sizes(BuildSpec(batch=(1, 32, 32), options={"sizes": [32]}), None) == (32,)
    for wrong in ([0], [33], ["8"], 1.5, [True, None]):
        with pytest.raises(OptionError, match=r"the batch sizes are wrong: got .* whole numbers, 1 to 32"):
            sizes(BuildSpec(batch=(1, 32, 32), options={"sizes": wrong}), None)


def test_the_smallest_size_that_holds_a_count():
    assert [fitting((2, 8, 9), n) for n in (1, 2, 3, 8, 9)] == [2, 2, 8, 8, 9]
    with pytest.raises(StopIteration):
        fitting((2, 8, 9), 10)


def test_a_captured_piece_of_work_runs_when_it_is_launched_and_awaited(device: CudaDevice, machine: Machine):
    stream, done = device.stream(), []
    run = captured(device, stream, lambda: stream.enqueue(lambda: done.append(1)))
    stream.sync()
    assert done == [], "what is captured is not run"
    run()
    run()
    assert done == []
    stream.sync()
    assert done == [1, 1]
    del run
    assert machine.graphs == {}, "and freed with its function"


def test_each_size_runs_once_before_it_is_captured(device: CudaDevice):
    stream, called = device.stream(), []
    run = captured_sizes(device, stream, (2, 8), called.append)
    assert called == [2, 2, 8, 8]
    run(3)
    assert called == [2, 2, 8, 8], "a launch calls nothing"


def test_a_capture_that_fails_leaves_the_stream_usable(device: CudaDevice):
    stream, done = device.stream(), []

    def waits() -> None:
        stream.sync()

    with pytest.raises(Exception, match="not permitted when stream is capturing"):
        captured(device, stream, waits)
    stream.enqueue(lambda: done.append(1))
    stream.sync()
    assert done == [1]


def test_a_capture_that_was_spoiled_is_an_error(device: CudaDevice):
    stream = device.stream()

    def spoils() -> None:
        stream.invalid = True

    with pytest.raises(BackendError, match=r"GPU 0 refuses: got CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: operation"):
        captured(device, stream, spoils)


# ---- memory ----


def test_a_block_grows_and_never_shrinks(device: CudaDevice, machine: Machine):
    block = Block(device, device.stream(), 1000)
    first = block.address
    block.grow(10)
    assert (block.size, block.address) == (1000, first)
    block.grow(3 << 20)
    assert block.size == 3 << 20
    block.grow((3 << 20) + 1)
    assert block.size == 4 << 20, "in steps"
    assert machine.held() == 1
    block.close()
    block.close()
    assert machine.room == 1 << 30


def test_no_memory_is_an_error_and_the_device_is_well(device: CudaDevice, machine: Machine):
    machine.room = 4096
    with pytest.raises(BackendError, match=r"no memory on GPU 0 for 5242880 bytes: got .*OUT_OF_MEMORY.*expected"):
        Block(device, device.stream(), 5 << 20)
    with pytest.raises(BackendError, match="no page-locked memory for 8192 bytes"):
        pinned(device, (8192,))
    assert Block(device, device.stream(), 100).size == 256


def test_pinned_memory_lives_as_long_as_its_views(device: CudaDevice, machine: Machine):
    array = pinned(device, (3, 5), np.float32)
    (buffer,) = [b for b in machine.buffers if b.pinned]
    assert (array.shape, array.dtype) == ((3, 5), np.float32)
    assert is_pinned(device, array[2:].ctypes.data)
    assert not is_pinned(device, np.zeros(9).ctypes.data)
    view = array[1:]
    del array
    assert not buffer.closed
    del view
    assert buffer.closed


def test_an_address_is_that_of_the_first_byte_whatever_the_array():
    whole = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    fixed = whole.copy()
    fixed.flags.writeable = False
    for array in (whole, fixed, whole[1:], whole[:, 1:], whole[::-1], whole.T, whole[:0], fixed[2:, ::2]):
        assert address_of(array) == array.ctypes.data


# ---- lanes from the host and back ----


def test_a_lane_gives_what_its_network_gives(device: CudaDevice):
    host = HostLane(device, Lane(device), 1)
    for count in (1, 2, 3, BATCH, 1):
        given = feeds(count, count)
        assert_right(given, host.run(given))
    assert host.lane.launched == [2, 2, 6, 6, 2]  # type: ignore[attr-defined]


def test_results_are_the_callers_own(device: CudaDevice):
    host = HostLane(device, Lane(device), 1)
    given = feeds(2)
    found = host.run(given)
    host.run(feeds(2, seed=1))
    assert_right(given, found)


def test_an_engine_takes_any_number_of_images(device: CudaDevice):
    engine = LanedEngine(device, [Lane(device)], BATCH, "fake")
    for count in (1, 5, 6, 7, 20):
        assert_right(feeds(count, count), engine.infer(feeds(count, count)))


def test_two_lanes_serve_two_threads_at_the_same_time(device: CudaDevice):
    lanes = [Lane(device), Lane(device)]
    both = threading.Barrier(2, timeout=30)
    for lane in lanes:
        launch = lane.launch
        lane.launch = lambda count, launch=launch: (both.wait(), launch(count))[1]  # type: ignore[method-assign]
    engine = LanedEngine(device, lanes, BATCH, "fake")
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: engine.infer(feeds(3, i)), range(2)))
    for i in range(2):
        assert_right(feeds(3, i), found[i])
    assert [len(lane.launched) for lane in lanes] == [1, 1]


def test_many_threads_share_the_lanes(device: CudaDevice):
    engine = LanedEngine(device, [Lane(device), Lane(device)], BATCH, "fake")
    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(lambda i: engine.infer(feeds(i % 9 + 1, i)), range(100))):
            assert_right(feeds(i % 9 + 1, i), found)


def test_a_lane_that_failed_is_put_back(device: CudaDevice):
    lane = Lane(device)
    engine = LanedEngine(device, [lane], BATCH, "fake")
    launch, lane.launch = lane.launch, lambda count: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        engine.infer(feeds(2))
    lane.launch = launch  # type: ignore[method-assign]
    assert_right(feeds(3), engine.infer(feeds(3)))


def test_closing_waits_for_lanes_in_use(device: CudaDevice):
    engine = LanedEngine(device, [Lane(device), Lane(device)], BATCH, "fake")
    taken, hosts = engine.lanes.get(), engine.all
    closing = threading.Thread(target=engine.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    engine.lanes.put(taken)
    closing.join(30)
    assert not closing.is_alive()
    assert all(host.lane.closed for host in hosts)  # type: ignore[attr-defined]
    engine.close()


# ---- stages ----


@pytest.fixture(params=[1, 2], ids=["one lane reads the host", "frames are uploaded for two lanes"])
def stages(request: pytest.FixtureRequest, device: CudaDevice) -> DeviceStages:
    engine = LanedEngine(device, [Lane(device) for _ in range(request.param)], BATCH, "fake")
    return DeviceStages(CARD, HeadSpec(), [engine])


def frame(colour: int, height: int = 7, width: int = 9) -> Image:
    return np.full((height, width, 3), (colour, colour + 1, colour + 2), np.uint8)


def jobs_of(images: list[Any]) -> list[Job]:
    return [Job(picture, i / 10, 0.5, whole=False) for i, picture in enumerate(pictures(images))]


def seen(stages: DeviceStages, memory: Any, images: list[Any]) -> dict[str, Any]:
    """Each frame's first pixel, as the network saw it, and its thresholds."""
    jobs = jobs_of(images)
    placed = [stages.place(stages.load(job), memory, i) for i, job in enumerate(jobs)]
    with stages.on_lane(0, memory, jobs, placed) as lane:
        lane.download(len(jobs))
        return lane.results(len(jobs))


def assert_seen(found: dict[str, Any], colours: list[int]) -> None:
    assert found["pixel"].tolist() == [[c, c + 1, c + 2] for c in colours]
    np.testing.assert_array_equal(found["limits"], np.float32([(i / 10, 0.5) for i in range(len(colours))]))


def test_several_frames_of_several_sizes(stages: DeviceStages):
    memory = stages.memory(BATCH)
    assert len(memory.slots) == BATCH
    for colours in ([1], [10, 20, 30, 40, 50, 60], [7, 8], [100, 90, 80]):
        images = [frame(c, 5 + i, 11 - i) for i, c in enumerate(colours)]
        assert_seen(seen(stages, memory, images), colours)


def test_a_frame_that_is_not_pinned_is_copied_and_may_be_overwritten(stages: DeviceStages):
    memory, image = stages.memory(BATCH), frame(30)
    (job,) = jobs_of([image])
    assert not stages.ready(job)
    placed = stages.place(stages.load(job), memory, 0)
    image[:] = 0
    with stages.on_lane(0, memory, [job], [placed]) as lane:
        lane.download(1)
        assert_seen(lane.results(1), [30])


def test_a_pinned_frame_is_read_where_it_lies(stages: DeviceStages, device: CudaDevice):
    memory, locked = stages.memory(BATCH), pinned(device, (7, 9, 3))
    locked[:] = frame(40)
    (job,) = jobs_of([locked])
    assert stages.ready(job)
    assert_seen(seen(stages, memory, [locked]), [40])
    assert memory.slots[0].host.size == 0, "nothing was copied"
    part = locked[:, 2:]
    assert not stages.ready(jobs_of([part])[0]), "its rows do not follow one another"
    assert_seen(seen(stages, memory, [part]), [40])
    assert memory.slots[0].host.size == part.nbytes


def test_slots_grow_with_their_frames(stages: DeviceStages):
    memory = stages.memory(BATCH)
    assert_seen(seen(stages, memory, [frame(1, 10, 10)]), [1])
    assert_seen(seen(stages, memory, [frame(2, 100, 100)]), [2])
    host = memory.slots[0].host
    assert_seen(seen(stages, memory, [frame(3, 20, 20)]), [3])
    assert memory.slots[0].host is host
    block = memory.slots[0].block
    assert block is None if stages.engines[0].parallel == 1 else block.size >= host.size


def test_a_frame_on_the_device_goes_in_without_a_copy(stages: DeviceStages, device: CudaDevice):
    memory, stream = stages.memory(BATCH), device.stream()
    array, host = new_array(device, stream, (7, 9, 3), np.uint8), frame(50)
    copy(device, array.address, host.ctypes.data, host.nbytes, stream)
    image: Any = DeviceImage(array.address, (7, 9, 3), 27, 0, stream.record(), array)
    (job,) = jobs_of([Frame(image)])
    assert stages.ready(job)
    assert_seen(seen(stages, memory, [Frame(image), frame(60)]), [50, 60])
    assert memory.slots[0].block is None


def test_a_frame_on_another_gpu_is_fetched(stages: DeviceStages, device: CudaDevice, machine: Machine):
    memory, stream = stages.memory(BATCH), device.stream()
    array, host = new_array(device, stream, (7, 40), np.uint8), np.zeros((7, 40), np.uint8)
    host[:, :27] = frame(70).reshape(7, 27)
    copy(device, array.address, host.ctypes.data, host.nbytes, stream)
    image: Any = DeviceImage(array.address, (7, 9, 3), 40, 1, stream.record(), array)
    jobs = jobs_of([Frame(image)])
    placed = [stages.place(stages.load(job), memory, 0) for job in jobs]
    before = machine.held()
    with stages.on_lane(0, memory, jobs, placed) as lane:
        assert machine.held() == before + 1
        found = stages._intakes[id(lane)].finish(1)
    assert_seen(found, [70])
    assert machine.held() == before, "and freed"


def test_two_batches_at_the_same_time_keep_their_frames(device: CudaDevice):
    stages = DeviceStages(CARD, HeadSpec(), [LanedEngine(device, [Lane(device), Lane(device)], BATCH, "fake")])

    def ask(first: int) -> bool:
        memory = stages.memory(BATCH)
        for turn in range(20):
            colours = [(first + turn + i) % 250 for i in range(1 + turn % BATCH)]
            assert_seen(seen(stages, memory, [frame(c) for c in colours]), colours)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(0, 200, 50)))


def test_a_lane_is_free_again_after_a_failure(stages: DeviceStages, machine: Machine):
    memory = stages.memory(BATCH)
    count = stages.engines[0].parallel
    for _ in range(count + 1):
        machine.lost = CUresult.CUDA_ERROR_ECC_UNCORRECTABLE
        with pytest.raises(BackendError, match="CUDA_ERROR_ECC_UNCORRECTABLE"):
            seen(stages, memory, [frame(1)])
        machine.lost = 0
    assert_seen(seen(stages, memory, [frame(9)]), [9])


@pytest.mark.parametrize(("row", "taken"), [(64, True), (15, True), (-15, False)])
def test_rows_from_the_last_to_the_first_cannot_be_borrowed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, row: int, taken: bool
):
    view = SimpleNamespace(device_id=0, shape=(4, 5, 3), strides=(row, 3, 1), dtype=np.dtype(np.uint8), ptr=4096)
    library = SimpleNamespace(StridedMemoryView=SimpleNamespace(from_any_interface=lambda array, stream_ptr: view))
    monkeypatch.setattr("eyas.cuda.memory.need", lambda module, extra: library)
    if taken:
        assert device_image(object(), "an array").row_bytes == row
        return
    with pytest.raises(SourceError, match=r"is not an image on a GPU: got uint8 \[4, 5, 3\], strides \[-15, 3, 1\]"):
        device_image(object(), "an array")
