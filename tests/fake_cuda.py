"""A GPU on the host: what `eyas.cuda` uses of cuda-core and of the driver, over NumPy arrays at their real addresses.

Streams only take notes; what was enqueued is done when somebody waits, so that a missing wait shows. Freed memory is
overwritten, fresh memory is not zero. `eyas.cuda.device.CudaDevice` itself is the real one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from eyas.cuda import device as cuda_device
from eyas.cuda.device import CudaDevice, Gpu
from eyas.cuda.letterbox import FRAME

HERE = Gpu(0, "NVIDIA Test 1", (8, 9))
CUresult = IntEnum(
    "CUresult",
    {
        "CUDA_SUCCESS": 0,
        "CUDA_ERROR_INVALID_VALUE": 1,
        "CUDA_ERROR_OUT_OF_MEMORY": 2,
        "CUDA_ERROR_DEVICE_UNAVAILABLE": 46,
        "CUDA_ERROR_ECC_UNCORRECTABLE": 214,
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": 901,
    },
)
SAID = {
    46: b"CUDA-capable device(s) is/are busy or unavailable",
    214: b"uncorrectable ECC error encountered",
    901: b"operation failed due to a previous error during capture",
}
CaptureMode = IntEnum("CaptureMode", {"CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1})
Work = Callable[[], object]


class CUDAError(Exception):
    """As cuda-core raises it."""


class Machine:
    """Everything on the device. room: bytes that are left.

    lost: the error code of every call once it has gone; lost_at_launch: the one that the next launch of a graph meets.
    """

    def __init__(self) -> None:
        self.lost, self.room = 0, 1 << 30
        self.lost_at_launch = 0
        self.streams: dict[int, Stream] = {}
        self.buffers: list[Buffer] = []
        self.graphs: dict[int, list[Work]] = {}
        self.launches: list[int] = []  # of graphs
        self.handles = count(7)
        self.driver = Driver(self)
        self.quick = Quick(self)
        self.core = SimpleNamespace(
            Device=lambda index: Device(self),
            LegacyPinnedMemoryResource=lambda: SimpleNamespace(allocate=lambda size: Buffer(self, size, pinned=True)),
            LaunchConfig=lambda grid, block: SimpleNamespace(grid=grid, block=block),
            launch=lambda stream, config, kernel, *args: stream.enqueue(lambda: kernel(config.grid, *args)),
        )

    def check(self) -> None:
        """As every call of cuda-core does."""
        if self.lost:
            raise CUDAError(f"{CUresult(self.lost).name}: {SAID[self.lost].decode()}")

    def held(self) -> int:
        """Buffers on the device that are not freed."""
        return sum(not b.closed for b in self.buffers if not b.pinned)


class Stream:
    """A list of work."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.todo, self.done = machine, [], 0
        self.recording: list[Work] | None = None
        self.invalid = self.closed = False
        self.handle = next(machine.handles)
        machine.streams[self.handle] = self

    def enqueue(self, work: Work) -> None:
        assert not self.closed, "a stream that is closed"
        (self.todo if self.recording is None else self.recording).append(work)

    def run_to(self, mark: int) -> None:
        """All work up to the one of that number."""
        while self.todo and self.done < mark:
            work = self.todo.pop(0)
            self.done += 1
            work()

    def sync(self) -> None:
        self.machine.check()
        if self.recording is not None:
            self.invalid = True
            raise CUDAError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: operation not permitted when stream is capturing")
        self.run_to(self.done + len(self.todo))
        self.machine.check()

    def record(self) -> Any:
        event = Event(self.machine)
        self.machine.quick.cuEventRecord(event.handle, self.handle)
        return event

    def wait(self, event: Any) -> None:
        self.machine.quick.cuStreamWaitEvent(self.handle, event.handle, 0)

    def close(self) -> None:
        self.closed = True


class Event:
    """A mark on a stream."""

    known: dict[int, Event] = {}  # noqa: RUF012

    def __init__(self, machine: Machine) -> None:
        self.handle, self.stream, self.mark = next(machine.handles), None, 0
        Event.known[self.handle] = self


class Buffer:
    """Memory; the pattern in it is nobody's result."""

    def __init__(self, machine: Machine, size: int, *, pinned: bool = False) -> None:
        machine.check()
        if size > machine.room:
            raise CUDAError("CUDA_ERROR_OUT_OF_MEMORY: The API call failed because it was unable to allocate memory")
        if not pinned:
            machine.room -= size
        self.machine, self.size, self.pinned, self.closed = machine, size, pinned, False
        self.array = np.full(size, 0xCD, np.uint8)
        self.handle = self.array.ctypes.data
        machine.buffers.append(self)

    def holds(self, address: int) -> bool:
        return not self.closed and self.handle <= address < self.handle + self.size

    def fill(self, value: int, *, stream: Stream) -> None:
        stream.enqueue(lambda: self.array.fill(value))

    def close(self, stream: Stream | None = None) -> None:
        if not self.pinned:
            self.machine.check()
            self.machine.room += self.size
        self.closed = True
        if stream is not None:
            stream.enqueue(lambda: self.array.fill(0xDD))


class Device:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def set_current(self) -> None:
        self.machine.check()

    def create_stream(self) -> Stream:
        self.machine.check()
        return Stream(self.machine)

    def allocate(self, size: int, *, stream: Stream) -> Buffer:
        assert stream.recording is None, "nothing is allocated while a graph is captured"
        return Buffer(self.machine, size)


class Driver:
    """cuda.bindings.driver: each call gives its code, then what it made."""

    CUresult, CUstreamCaptureMode = CUresult, CaptureMode

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def cuGetErrorString(self, code: Any) -> tuple[Any, bytes]:
        return 0, SAID.get(int(code), b"an error")

    def cuCtxGetCurrent(self) -> tuple[int, int]:
        return self.machine.lost, 4711

    def cuStreamBeginCapture(self, handle: int, mode: Any) -> tuple[int]:
        assert mode is CaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        stream = self.machine.streams[handle]
        stream.recording, stream.invalid = [], False
        return (self.machine.lost,)

    def cuStreamEndCapture(self, handle: int) -> tuple[int, Any]:
        stream = self.machine.streams[handle]
        works, stream.recording = stream.recording, None
        return (CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None) if stream.invalid else (0, works)

    def cuGraphInstantiate(self, works: list[Work], flags: int) -> tuple[int, int]:
        handle = next(self.machine.handles)
        self.machine.graphs[handle] = works
        return self.machine.lost, handle

    def cuGraphDestroy(self, works: list[Work]) -> tuple[int]:
        return (0,)

    def cuGraphExecDestroy(self, handle: int) -> tuple[int]:
        del self.machine.graphs[handle]
        return (0,)


class Quick:
    """`eyas.cuda.driver.library`: each call gives its code."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def cuCtxSetCurrent(self, context: int) -> int:
        assert context == 4711
        return self.machine.lost

    def cuMemcpyAsync(self, target: int, source: int, size: int, stream: int) -> int:
        self.machine.streams[stream].enqueue(lambda: ctypes.memmove(target, source, size))
        return self.machine.lost

    def cuGraphLaunch(self, graph: int, stream: int) -> int:
        self.machine.lost = self.machine.lost or self.machine.lost_at_launch
        if not self.machine.lost:
            self.machine.launches.append(graph)
            for work in self.machine.graphs[graph]:
                self.machine.streams[stream].enqueue(work)
        return self.machine.lost

    def cuEventRecord(self, event: int, stream: int) -> int:
        mark = Event.known[event]
        mark.stream = self.machine.streams[stream]
        mark.mark = mark.stream.done + len(mark.stream.todo)
        return self.machine.lost

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> int:
        mark = Event.known[event]
        source, number = mark.stream, mark.mark
        self.machine.streams[stream].enqueue(lambda: source.run_to(number))
        return self.machine.lost

    def cuPointerGetAttribute(self, result: int, attribute: int, address: int) -> int:
        assert attribute == 2
        for buffer in self.machine.buffers:
            if buffer.holds(address):
                ctypes.c_uint.from_address(result).value = 1 if buffer.pinned else 2
                return 0
        return CUresult.CUDA_ERROR_INVALID_VALUE


def letterbox(grid: tuple[int, int, int], table: int, out: int, height: Any, width: Any, pad: Any) -> None:
    """In the kernel's place: the first pixel of each frame of the table, all over its output; NV12 at its own size."""
    rows = np.frombuffer((ctypes.c_uint8 * (grid[2] * FRAME.itemsize)).from_address(table), FRAME)
    size = grid[2] * height * width * 3
    target = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(out)).reshape(grid[2], height, width, 3)
    for place, row in zip(target, rows, strict=True):
        address = row["pixels"]
        if row["chroma"]:
            place[:] = nv12(row, height, width)
        elif address:
            place[:] = np.ctypeslib.as_array((ctypes.c_uint8 * 3).from_address(int(address)))


def nv12(row: Any, height: int, width: int) -> np.ndarray:
    """BGR [H, W, 3], by ITU-T H.273: luma = kr R + (1 − kr − kb) G + kb B; u, v: what B and R exceed it by."""

    def plane(address: int, lines: int, row_bytes: int) -> np.ndarray:
        raw = (ctypes.c_uint8 * (lines * row_bytes)).from_address(address)
        return np.ctypeslib.as_array(raw).reshape(lines, row_bytes)[:, :width].astype(float)

    fit = row["fit"]
    assert (fit["source_h"], fit["source_w"], fit["inner_h"], fit["inner_w"]) == (height, width, height, width)
    luma = plane(int(row["pixels"]), height, int(row["row"]))
    colour = plane(int(row["chroma"]), height // 2, int(row["chroma_row"])).repeat(2, 0)
    u, v = (colour[:, i::2].repeat(2, 1) - 128 for i in (0, 1))
    if not fit["range"]:
        luma, u, v = (luma - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    kr, kb = float(fit["kr"]), float(fit["kb"])
    red, blue = luma + 2 * (1 - kr) * v, luma + 2 * (1 - kb) * u
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.stack([blue, green, red], -1).round().clip(0, 255).astype(np.uint8)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with one GPU, which `open_device(0)` opens."""
    found = Machine()
    modules = {"cuda.core": found.core, "cuda.bindings.driver": found.driver}
    monkeypatch.setattr(cuda_device, "import_module", modules.__getitem__)
    monkeypatch.setattr(cuda_device, "need", lambda module, extra: modules[module])
    monkeypatch.setattr(cuda_device.quick, "library", lambda: found.quick)
    monkeypatch.setattr(cuda_device, "gpus", lambda: ((HERE,), ""))
    monkeypatch.setattr(CudaDevice, "kernel", lambda self, file, name, **macros: letterbox)
    cuda_device.open_device.cache_clear()
    yield found
    found.lost = 0
    cuda_device.open_device.cache_clear()
