"""A plan as a lane (`eyas.cuda.lane.Lane`): a context and a CUDA graph for each batch size, on blocks that all share.

A captured graph is good for its context as it was then: NVIDIA's guides (TensorRT, "CUDA Graphs") want one context a
graph, left alone afterwards. So every size has a context of its own, whose shapes are set once. Two editions differ:

- Before 10 two contexts cannot use the same optimisation profile: sizes that share one share its context, whose shapes
  are set before each launch, and nothing of it is captured.
- TensorRT-RTX captures by itself, which knows when its kernels are compiled (`runtime_config`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from eyas.cuda.device import CudaDevice, cuda_errors
from eyas.cuda.graph import captured, fitting
from eyas.cuda.memory import DeviceArray, new_array
from eyas.errors import BackendError, problem
from eyas.trt.edition import Edition

log = logging.getLogger("eyas")
Shape = tuple[int, ...]
WARM_UP = 2  # runs before a capture: what TensorRT puts off until a shape's first run must not be in the graph


@dataclass(frozen=True, slots=True)
class Tensor:
    """One edge of the engine. free: whether profiles say its shape.

    shapes: least, usual and largest in each profile; those of an output may hold −1.
    """

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    free: bool
    shapes: tuple[tuple[Shape, Shape, Shape], ...]

    @property
    def batches(self) -> list[tuple[int, int, int]]:
        """The least, usual and largest batch of each profile."""
        return [(low[0], usual[0], high[0]) for low, usual, high in self.shapes]


def tensors_of(edition: Edition, engine: Any) -> list[Tensor]:
    """The engine's inputs and outputs, in its order. Raises BackendError if more than the batch is free: a lane's
    arrays have one size.
    """
    found = []
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        is_input = engine.get_tensor_mode(name) == edition.trt.TensorIOMode.INPUT
        shape, count = tuple(engine.get_tensor_shape(name)), max(1, engine.num_optimization_profiles)
        shapes = [(shape, shape, shape)] * count
        if free := is_input and -1 in shape:
            shapes = [_three(engine.get_tensor_profile_shape(name, i)) for i in range(count)]
        low, high = min(three[0] for three in shapes), max(three[2] for three in shapes)
        if is_input and low[1:] != high[1:]:
            fail(f"the size of {name} is free", f"{list(low)} to {list(high)}")
        dtype = np.dtype(edition.trt.nptype(engine.get_tensor_dtype(name)))
        found.append(Tensor(name, is_input, dtype, free, tuple(shapes)))
    return found


def _three(shapes: Any) -> tuple[Shape, Shape, Shape]:
    low, usual, high = map(tuple, shapes)
    return low, usual, high


def profile_for(tensors: Sequence[Tensor], size: int) -> int:
    """The profile for batches of `size`: the one whose usual it is, else the first that holds it.

    Raises BackendError where none does.
    """
    every = zip(*(t.batches for t in tensors if t.is_input), strict=True)
    fits = {
        i: all(size == usual for _, usual, _ in batches)
        for i, batches in enumerate(every)
        if all(low <= size <= high for low, _, high in batches)
    }
    if not fits:
        fail(f"no optimisation profile holds a batch of {size}", next(t.batches for t in tensors if t.is_input))
    return next((i for i, usual in fits.items() if usual), min(fits))


def runtime_config(edition: Edition, engine: Any) -> Any:
    """For the contexts of TensorRT-RTX: kernels are compiled for a context's shape at once, not in the background, and
    a graph of them is captured in its `execute_async_v3` where that is possible.
    """
    trt, config = edition.trt, engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return config


class TrtLane:
    """See `eyas.cuda.lane.Lane`."""

    def __init__(
        self,
        device: CudaDevice,
        edition: Edition,
        tensors: Sequence[Tensor],
        sizes: Sequence[int],
        new_context: Callable[[], Any],
    ) -> None:
        """sizes: batches within the profile, rising. Raises BackendError."""
        device.use()
        self._device, self.stream, self.sizes = device, device.stream(), tuple(sizes)
        self._inputs = [t for t in tensors if t.is_input]
        profiles = {size: profile_for(tensors, size) for size in self.sizes}
        whose = {size: size if edition.shares_profiles else profile for size, profile in profiles.items()}
        made = {key: new_context() for key in dict.fromkeys(whose.values())}
        contexts = list(made.values())
        if None in contexts:
            fail("no execution context", "too little memory on the GPU, or the plan does not fit it")
        self._contexts = {size: made[whose[size]] for size in self.sizes}
        self._shared = {size for size in self.sizes if list(whose.values()).count(whose[size]) > 1}
        self._captures = not edition.rtx
        if any(t.free for t in tensors):
            for size, context in self._contexts.items():
                if not context.set_optimization_profile_async(profiles[size], int(self.stream.handle)):
                    fail("the optimisation profile is refused", f"{profiles[size]}, of batches of {size}")
            self.stream.sync()
        for size, context in self._contexts.items():
            self._set_shapes(context, size)
        arrays = {t.name: self._array(t) for t in tensors}
        self.inputs = {t.name: arrays[t.name] for t in tensors if t.is_input}
        self.outputs = {t.name: arrays[t.name] for t in tensors if not t.is_input}
        for name, array in arrays.items():
            for context in contexts:
                if not context.set_tensor_address(name, array.address):
                    fail("an address is refused", name)
        with cuda_errors("TensorRT: the first runs failed"):
            for array in self.inputs.values():
                array.block.buffer.fill(0, stream=self.stream)
            self._runs = {size: self._run_of(size) for size in self.sizes}

    def _set_shapes(self, context: Any, size: int) -> None:
        for tensor in self._inputs:
            shape = (size, *tensor.shapes[0][2][1:])
            if not context.set_input_shape(tensor.name, shape):
                fail(f"the shape of {tensor.name} is not in the engine's range", list(shape))

    def _array(self, tensor: Tensor) -> DeviceArray:
        """For the largest batch, to which the context of that size is set."""
        shape = tuple(self._contexts[self.sizes[-1]].get_tensor_shape(tensor.name))
        if -1 in shape:
            fail(f"the size of {tensor.name} depends on the data", list(shape))
        return new_array(self._device, self.stream, shape, tensor.dtype)

    def _run_of(self, size: int) -> Callable[[], None]:
        """A function that enqueues a batch of `size`: a CUDA graph where there can be one."""
        context, stream, shared = self._contexts[size], int(self.stream.handle), size in self._shared

        def run() -> None:
            if shared:
                self._set_shapes(context, size)
            if not context.execute_async_v3(stream):
                fail("the launch failed", "execute_async_v3: false")

        for _ in range(WARM_UP):
            run()
        self.stream.sync()
        if shared or not self._captures:
            return run
        try:
            return captured(self._device, self.stream, run)
        except BackendError as error:  # loops, sizes that depend on data: the context is sound all the same
            log.debug("TensorRT: batches of %d run without a CUDA graph: %s", size, error)
        run()
        self.stream.sync()  # which raises where it was not the capture alone that failed
        return run

    def launch(self, count: int) -> None:
        """See `Lane`."""
        self._runs[fitting(self.sizes, count)]()

    def close(self) -> None:
        """See `Lane`. Where the device is gone there is nothing left to free: that is told, not raised."""
        try:
            self.stream.sync()
            self._runs, self._contexts = {}, {}
            for array in [*self.inputs.values(), *self.outputs.values()]:
                array.block.close()
            self.stream.sync()
            self.stream.close()
        except Exception as error:  # cuda-core's, of many types
            self._runs, self._contexts = {}, {}
            log.warning("GPU %d: a lane could not be freed: %s", self._device.index, error)


def fail(what: str, got: object) -> NoReturn:
    """Raise BackendError."""
    remedy = "`eyas -v` shows what TensorRT says; a build for this GPU and this batch may be needed."
    raise BackendError(problem(f"TensorRT: {what}", got=got, expected="a running engine", remedy=remedy))
