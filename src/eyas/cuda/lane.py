"""What an engine on a GPU looks like from the CUDA path: lanes, each with its stream and its own arrays."""

from __future__ import annotations

import logging
import queue
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eyas.backends import Feeds, infer_in_steps
from eyas.cuda.device import CudaDevice, cuda_errors
from eyas.cuda.graph import captured_sizes
from eyas.cuda.memory import DeviceArray, copy, pinned
from eyas.errors import OptionError, problem
from eyas.types import BuildSpec

log = logging.getLogger("eyas")
STEP = 8  # between the batch sizes that get a graph of their own: each takes seconds to open


def sizes(spec: BuildSpec, fixed: int | None) -> tuple[int, ...]:
    """The batch sizes that a lane captures: the smallest, powers of 8, the usual, the largest; or the only one.

    fixed: the graph's batch, where it is not free. The option `sizes` names others, up to the largest batch, which is
    always among them. Raises OptionError.
    """
    if fixed:
        return (fixed,)
    low, usual, high = spec.batch
    asked = spec.options.get("sizes")
    if asked is not None:
        named = list(asked) if isinstance(asked, (list, tuple)) else [asked]
        if not all(isinstance(size, int) and 1 <= size <= high for size in named):
            expected, remedy = f"a list of whole numbers, 1 to {high}", "load(…, batch=N) sets the largest."
            raise OptionError(problem("the batch sizes are wrong", got=repr(asked), expected=expected, remedy=remedy))
        return tuple(sorted({*named, high}))
    powers = [STEP**i for i in range(5) if low < STEP**i < high]
    return tuple(sorted({low, *powers, usual, high}))


class Lane(Protocol):
    """One execution context. Used by one thread at a time; its arrays stay where they are."""

    @property
    def stream(self) -> Any:
        """cuda.core.Stream: everything of this lane happens on it, in order."""

    @property
    def sizes(self) -> Sequence[int]:
        """The batch sizes that it has graphs for, rising. A batch of another size runs on the next larger."""

    @property
    def inputs(self) -> Mapping[str, DeviceArray]:
        """By name, each for the largest batch; written before `launch`."""

    @property
    def outputs(self) -> Mapping[str, DeviceArray]:
        """By name, each for the largest batch; valid once the stream has passed the launch, until the next."""

    def launch(self, count: int) -> None:
        """Enqueue the network on the first `count` images, at most the largest batch."""

    def close(self) -> None:
        """Free all of it."""


class HostLane:
    """A lane with page-locked twins of its arrays, for what comes from the host and goes back to it."""

    def __init__(self, device: CudaDevice, lane: Lane, number: int) -> None:
        self.device, self.lane, self.number = device, lane, number
        self._in = {name: pinned(device, array.shape, array.dtype) for name, array in lane.inputs.items()}
        self._out = {name: pinned(device, array.shape, array.dtype) for name, array in lane.outputs.items()}
        self.download = captured_sizes(device, lane.stream, lane.sizes, self._download)

    def host_input(self, name: str) -> NDArray[Any]:
        """The page-locked twin of an input; see `upload`."""
        return self._in[name]

    def upload(self, name: str, count: int) -> None:
        """Enqueue: the first `count` images' input, from its twin. The stream must have passed the upload before
        where the twin is written."""
        host, target = self._in[name], self.lane.inputs[name]
        copy(self.device, target.address, host.ctypes.data, host[:count].nbytes, self.lane.stream)

    def _download(self, size: int) -> None:
        """Enqueue: the outputs of the first `size` images to the host."""
        for name, array in self.lane.outputs.items():
            host = self._out[name]
            copy(self.device, host.ctypes.data, array.address, host[:size].nbytes, self.lane.stream)

    def results(self, count: int) -> dict[str, NDArray[Any]]:
        """Wait for what was enqueued; the outputs, the caller's own."""
        with cuda_errors(f"GPU {self.device.index} has not finished"):
            self.lane.stream.sync()
        return {name: array[:count].copy() for name, array in self._out.items()}

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """From the host and back."""
        self.device.use()
        count = len(next(iter(feeds.values())))
        for name, host in self._in.items():
            np.copyto(host[:count], feeds[name], casting="same_kind")
            self.upload(name, count)
        self.lane.launch(count)
        self.download(count)
        return self.results(count)


class LanedEngine:
    """An `Engine` (see `eyas.backends`) of lanes. lanes: those that are free; whoever takes one puts it back."""

    def __init__(self, device: CudaDevice, lanes: Sequence[Lane], largest: int, description: str) -> None:
        self.device, self.largest, self.description = device, largest, description
        self.parallel = len(lanes)
        self.all = [HostLane(device, lane, number) for number, lane in enumerate(lanes, 1)]
        self.lanes: queue.SimpleQueue[HostLane] = queue.SimpleQueue()
        for lane in self.all:
            self.lanes.put(lane)

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Any number of images, more than the largest batch in several calls."""
        count = len(next(iter(feeds.values())))
        lane = self.lanes.get()
        try:
            return infer_in_steps(lane.run, feeds, self.largest if count > self.largest else None)
        finally:
            self.lanes.put(lane)

    def close(self) -> None:
        """Wait for lanes that are in use, and free them. What a GPU that is lost says to that is only logged."""
        for _ in range(len(self.all)):
            lane = self.lanes.get().lane
            try:
                self.device.use()
                lane.close()
            except Exception as error:  # the driver's and cuda-core's have no common base
                log.warning("a lane of %s was not freed: %s", self.description, error)
        self.all = []
