"""The stages of a model whose engine is on a GPU: as `eyas.stages`, with everything after the decode on the device.

A place in a batch is a frame that the GPU can read by itself: page-locked (copied there where it is not) or on the
device already. The copy engine begins to bring it there at once. The engine's thread then enqueues all the rest on one
lane's stream: one letterbox launch, the network, the rows' way back; and waits. While one lane computes, the frames of
the next batches arrive.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eyas import trace
from eyas.cuda.codec import open_decoder
from eyas.cuda.device import CudaDevice
from eyas.cuda.graph import captured_sizes
from eyas.cuda.lane import HostLane, LanedEngine
from eyas.cuda.letterbox import LetterboxKernel, Row, fit_of
from eyas.cuda.memory import Block, address_of, copy, is_pinned, pinned
from eyas.cuda.timing import DeviceClock
from eyas.graph.head import HeadSpec
from eyas.graph.surgery import IMAGES, THRESHOLDS
from eyas.letterbox import Letterbox
from eyas.stages import Job, Outcome, Outcomes
from eyas.types import DeviceImage, Frame, ModelCard

log = logging.getLogger("eyas")


class Placed(NamedTuple):
    """A frame that the GPU can read, how it will be letterboxed, and its line in the kernel's table."""

    frame: Frame
    box: Letterbox
    row: Row
    pixels: NDArray[np.uint8] | DeviceImage


class Slot:
    """What one place of a batch keeps for its frames; both grow with them."""

    def __init__(self, device: CudaDevice, stream: Any) -> None:
        self.device, self.stream = device, stream
        self.host = np.empty(0, np.uint8)  # page-locked
        self.block: Block | None = None

    def pinned(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A page-locked copy."""
        if self.host.size < pixels.nbytes:
            self.host = pinned(self.device, (pixels.nbytes,))
        twin = self.host[: pixels.nbytes].reshape(pixels.shape)
        np.copyto(twin, pixels)
        return twin

    def upload(self, address: int, size: int) -> int:
        """Enqueue a copy to the device; its address there."""
        if self.block is None:
            self.block = Block(self.device, self.stream, size)
        self.block.grow(size)
        copy(self.device, self.block.address, address, size, self.stream)
        return self.block.address


class Memory:
    """What a batch needs: a slot for each place, and the stream on which its frames cross the bus."""

    def __init__(self, device: CudaDevice, batch: int) -> None:
        device.use()
        self.device, self.stream = device, device.stream()
        self.slots = [Slot(device, self.stream) for _ in range(batch)]
        self._event = self.stream.record()

    def wait_on(self, stream: Any) -> None:
        """Let a stream wait for the uploads so far."""
        quick, event = self.device.quick, int(self._event.handle)
        self.device.passed(quick.cuEventRecord(event, int(self.stream.handle)))
        self.device.passed(quick.cuStreamWaitEvent(int(stream.handle), event, 0))


class DeviceStages:
    """The stages of one model on engines of lanes. Safe from several threads."""

    overlapping = True  # lanes share their GPU

    def __init__(
        self,
        card: ModelCard,
        head: HeadSpec,
        engines: Sequence[LanedEngine],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """options: a `BuildSpec`'s, of which `decode` is for here: "host" or "gpu". Raises OptionError, EyasError."""
        self.card, self.engines = card, tuple(engines)
        self._outcomes = Outcomes(card, head)
        self._fit = lru_cache(maxsize=1024)(partial(_fit, card))  # by the size of a frame
        self._intakes = {id(lane): Intake(lane, engine.largest, card) for engine in engines for lane in engine.all}
        # While one lane computes, the copy engine brings the next one's frames. A lane that is alone has nothing to
        # overlap with, and which of several GPUs will take a batch is not known yet: there the kernel reads the host.
        self._uploads = len(self.engines) == 1 and self.engines[0].parallel > 1
        self._decoder = open_decoder(options or {}, self.engines[0].device)

    def memory(self, batch: int) -> Memory:
        """On the first engine's GPU."""
        return Memory(self.engines[0].device, batch)

    def ready(self, job: Job) -> bool:
        """A frame that the GPU can read where it is costs the CPU nothing."""
        pixels = job.picture.pixels
        if isinstance(pixels, np.ndarray):
            return pixels.ndim == 3 and self._readable(pixels, address_of(pixels))
        return isinstance(pixels, DeviceImage)

    def _readable(self, pixels: NDArray[Any], address: int) -> bool:
        """Whether the GPU can read the host's pixels where they are."""
        device = self.engines[0].device
        device.use()
        return pixels.flags.c_contiguous and is_pinned(device, address)

    def load(self, job: Job) -> Frame:
        """Read and decode: on the GPU where that was asked for, unless the caller wants the frame too."""
        if self._decoder is None or job.whole or job.picture.pixels is not None:
            return job.picture.load()
        return job.picture.load(self._decoder.read)

    def place(self, frame: Frame, memory: Memory, place: int) -> Placed:
        """Make the frame's pixels such that the GPU can fetch them without the CPU, and begin to bring them there."""
        box, fit = self._fit(frame.size)
        pixels: Any = frame.image
        if isinstance(pixels, DeviceImage):
            return Placed(frame, box, Row(pixels.address, 0, pixels.row_bytes, 0, fit), pixels)
        slot, address = memory.slots[place], address_of(pixels)
        if not self._readable(pixels, address):
            pixels = slot.pinned(pixels)
            address = address_of(pixels)
        if self._uploads:
            address = slot.upload(address, pixels.nbytes)
        return Placed(frame, box, Row(address, 0, pixels.shape[1] * 3, 0, fit), pixels)

    def run(
        self, engine: int, memory: Memory, places: Sequence[int], jobs: Sequence[Job], placed: Sequence[Placed]
    ) -> list[Outcome]:
        """All of it on one lane; then each picture's result."""
        begin, record = trace.clock(), trace.current
        with self.on_lane(engine, memory, jobs, placed) as lane:
            outputs = self._intakes[id(lane)].finish(len(jobs))
        if record:
            record.add("engine", begin, pictures=len(jobs))
        return self._outcomes.of(outputs, jobs, [(p.frame, p.box) for p in placed])

    @contextmanager
    def on_lane(self, engine: int, memory: Memory, jobs: Sequence[Job], placed: Sequence[Placed]) -> Iterator[HostLane]:
        """A lane on whose stream all has been enqueued for the jobs; the block's own until it ends."""
        lanes = self.engines[engine].lanes
        lane = lanes.get()
        try:
            if self._uploads:
                memory.wait_on(lane.lane.stream)
            self._intakes[id(lane)].start(placed, [(j.conf, j.iou) for j in jobs])
            yield lane
            self._intakes[id(lane)].forget()
        except BaseException:
            self._intakes[id(lane)].abandon()
            raise
        finally:
            lanes.put(lane)


def _fit(card: ModelCard, size: tuple[int, int]) -> tuple[Letterbox, bytes]:
    """How frames of (height, width) are letterboxed, and that as the kernel reads it."""
    box = Letterbox.fit(size, card.input_size, card.resize, card.crop)
    return box, fit_of(box)


class Intake:
    """The way into one lane: the letterbox kernel on its stream."""

    def __init__(self, lane: HostLane, batch: int, card: ModelCard) -> None:
        self._lane, self._device, self._stream = lane, lane.device, lane.lane.stream
        self._device.use()
        self._fetched: list[Block] = []
        self._letterbox = LetterboxKernel(self._device, self._stream, batch, card.input_size, pad_value=card.pad_value)
        self._images = lane.lane.inputs[IMAGES]
        self._limits = lane.host_input(THRESHOLDS) if THRESHOLDS in lane.lane.inputs else None
        self._bring = captured_sizes(self._device, self._stream, lane.lane.sizes, self._enqueue)
        self._device_clock: DeviceClock | None = None
        self._marks: DeviceClock = _NO_CLOCK

    def start(self, placed: Sequence[Placed], limits: Sequence[tuple[float, float]]) -> None:
        """Enqueue everything for the frames. The lane's stream must have passed what was enqueued before."""
        self._device.use()
        self._marks = self._clock()
        self._marks.mark("letterbox")
        if self._limits is not None:
            self._limits[: len(limits)] = limits
        self._letterbox.describe([self._readable(p) if isinstance(p.pixels, DeviceImage) else p.row for p in placed])
        self._bring(len(placed))
        self._marks.mark("engine")
        self._lane.lane.launch(len(placed))

    def _enqueue(self, size: int) -> None:
        """The thresholds and the table of frames to the device, and the frames into the network's input."""
        if self._limits is not None:
            self._lane.upload(THRESHOLDS, size)
        self._letterbox.upload(size)
        self._letterbox.enqueue(size, self._images.address)

    def finish(self, count: int) -> dict[str, NDArray[Any]]:
        """Bring the outputs of `count` frames to the host, and wait for them."""
        self._marks.mark("copy back")
        self._lane.download(count)
        self._marks.mark("")
        outputs = self._lane.results(count)
        self._marks.record(f"GPU {self._device.index} lane {self._lane.number}", count)
        return outputs

    def forget(self) -> None:
        """Let go of what was fetched from other GPUs, and of marks. The stream must have passed them."""
        while self._fetched:
            self._fetched.pop().close()
        self._marks.clear()

    def abandon(self) -> None:
        """`forget` after an error: what was enqueued may still be reading; a device that has gone reads nothing."""
        try:
            self._stream.sync()
            self.forget()
        except Exception as error:  # cuda-core's, of many types; the first error is the one that is raised
            log.debug("GPU %d, lane %d: %s", self._device.index, self._lane.number, error)

    def _readable(self, placed: Placed) -> Row:
        """Wait, on the device, for who writes a frame there; fetch one that lies on another GPU."""
        image: Any = placed.pixels
        self._stream.wait(image.ready)
        if image.index == self._device.index:
            return placed.row
        height, width, _ = image.shape
        size = image.row_bytes * (height - 1) + width * 3
        block = Block(self._device, self._stream, size)
        self._fetched.append(block)
        copy(self._device, block.address, image.address, size, self._stream)
        return placed.row._replace(pixels=block.address)

    def _clock(self) -> DeviceClock:
        if trace.current is None:
            return _NO_CLOCK
        if self._device_clock is None:
            self._device_clock = DeviceClock(self._device, self._stream)
        return self._device_clock


class _NoClock(DeviceClock):
    """While nothing is recorded."""

    def __init__(self) -> None:
        """Nothing."""

    def mark(self, name: str) -> None:
        """Nothing."""

    def record(self, lane: str, pictures: int) -> None:
        """Nothing."""

    def clear(self) -> None:
        """Nothing."""


_NO_CLOCK = _NoClock()
