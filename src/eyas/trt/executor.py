"""A plan on a GPU: runtime, engine, contexts and buffers made once, then nothing but copies and launches.

Each lane has an execution context, a stream and one block for every tensor, sized for the largest batch, so nothing
is allocated after it was made; a smaller batch is another shape in the same blocks. `infer` takes a free lane.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.backends import Feeds, infer_in_steps
from eyas.engines.layers import Layer
from eyas.errors import BackendError, problem
from eyas.trt.edition import Edition
from eyas.trt.inspect import engine_layers
from eyas.trt.memory import Block, Memory


@dataclass(frozen=True, slots=True)
class Tensor:
    """One edge of the engine. shapes: least and largest; a −1 in an output's is settled by the inputs."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    least: tuple[int, ...]
    largest: tuple[int, ...]


def tensors_of(edition: Edition, engine: Any) -> list[Tensor]:
    """The engine's inputs and outputs, in its order."""
    found = []
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        is_input = engine.get_tensor_mode(name) == edition.trt.TensorIOMode.INPUT
        least = largest = tuple(engine.get_tensor_shape(name))
        if is_input and -1 in least:
            low, _, high = engine.get_tensor_profile_shape(name, 0)
            least, largest = tuple(low), tuple(high)
        dtype = np.dtype(edition.trt.nptype(engine.get_tensor_dtype(name)))
        found.append(Tensor(name, is_input, dtype, least, largest))
    return found


class Lane:
    """One context with its stream and blocks. Used by one thread at a time."""

    def __init__(self, context: Any, memory: Memory, tensors: list[Tensor]) -> None:
        self._context, self._memory = context, memory
        self._inputs = [t for t in tensors if t.is_input]
        self._outputs = [t for t in tensors if not t.is_input]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._set_shapes({t.name: t.largest for t in self._inputs})
        self._blocks: dict[str, Block] = {}
        for tensor in tensors:
            shape = tuple(context.get_tensor_shape(tensor.name))
            block = memory.allocate(max(1, _bytes(shape, tensor.dtype)))
            self._blocks[tensor.name] = block
            if not context.set_tensor_address(tensor.name, block.address):
                _fail("an address is refused", tensor.name)

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Copy in, launch, copy out, wait. Results are the caller's own."""
        self._memory.use()
        self._set_shapes({t.name: feeds[t.name].shape for t in self._inputs})
        for tensor in self._inputs:
            array = np.ascontiguousarray(feeds[tensor.name], tensor.dtype)
            block = self._blocks[tensor.name]
            block.host[: array.nbytes] = array.reshape(-1).view(np.uint8)
            self._memory.upload(block, array.nbytes)
        if not self._context.execute_async_v3(self._memory.stream):
            _fail("the launch failed", "execute_async_v3: false")
        shapes = {t.name: tuple(self._context.get_tensor_shape(t.name)) for t in self._outputs}
        for tensor in self._outputs:
            self._memory.download(self._blocks[tensor.name], _bytes(shapes[tensor.name], tensor.dtype))
        self._memory.wait()
        return {t.name: self._read(t, shapes[t.name]) for t in self._outputs}

    def _read(self, tensor: Tensor, shape: tuple[int, ...]) -> NDArray[Any]:
        raw = self._blocks[tensor.name].host[: _bytes(shape, tensor.dtype)]
        return raw.view(tensor.dtype).reshape(shape).copy()

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                _fail(f"the shape of {name} is not in the engine's range", list(shape))
        self._shapes = shapes

    def close(self) -> None:
        """Context first, then what it used."""
        self._context = None
        self._blocks = {}
        self._memory.close()


class Executor:
    """An `Engine` (see `eyas.backends`) over TensorRT.

    new_context: makes one execution context. new_memory: makes one stream with its memory. keep: called with nothing
    when it closes, for the runtime cache. The runtime must outlive the engine, so it is held here.
    """

    def __init__(
        self,
        edition: Edition,
        runtime: Any,
        engine: Any,
        new_memory: Callable[[], Memory],
        *,
        description: str,
        lanes: int = 1,
        new_context: Callable[[], Any] | None = None,
        keep: Callable[[], None] | None = None,
    ) -> None:
        self._edition, self._runtime, self._engine, self._keep = edition, runtime, engine, keep
        self.parallel, self.description = lanes, description
        self.tensors = tensors_of(edition, engine)
        first = next(t for t in self.tensors if t.is_input)
        self._least, self._largest = first.least[0], first.largest[0]
        self._lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for _ in range(lanes):
            context = (new_context or engine.create_execution_context)()
            if context is None:
                _fail("no execution context", "too little memory on the GPU, or the plan does not fit it")
            self._lanes.put(Lane(context, new_memory(), self.tensors))

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Any number of images: more than the largest batch in several calls, fewer than the least filled up."""
        count = len(next(iter(feeds.values())))
        step = self._largest if count > self._largest else self._least if count < self._least else None
        lane = self._lanes.get()
        try:
            return infer_in_steps(lane.run, feeds, step)
        finally:
            self._lanes.put(lane)

    def layers(self) -> list[Layer]:
        """What TensorRT has made of the graph."""
        return engine_layers(self._edition, self._engine)

    def close(self) -> None:
        """Free the lanes, then engine and runtime."""
        if self._keep:
            self._keep()
        while not self._lanes.empty():
            self._lanes.get_nowait().close()
        self._engine = self._runtime = None


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _fail(what: str, got: object) -> None:
    remedy = "`eyas -v` shows what TensorRT says; a build for this GPU and this batch may be needed."
    raise BackendError(problem(f"TensorRT: {what}", got=got, expected="a running engine", remedy=remedy))
