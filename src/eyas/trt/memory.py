"""The seam to the device: who owns stream and buffers. The executor knows only these protocols.

`CudaCore` fills them from the package cuda-core. Another layer (pools shared with decoding, CUDA graphs) does so by
giving `Executor` another factory.
"""

from __future__ import annotations

import ctypes
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eyas.errors import BackendError, problem

Bytes = NDArray[np.uint8]


class Block(Protocol):
    """A piece of device memory and its page-locked twin on the host, of one size."""

    @property
    def address(self) -> int:
        """On the device; it stays the same."""

    @property
    def host(self) -> Bytes:
        """uint8 [size], written before `upload`, read after `download` and `wait`."""


class Memory(Protocol):
    """One stream, and what is allocated for it. Used by one thread at a time."""

    @property
    def stream(self) -> int:
        """The CUDA stream's handle."""

    def allocate(self, size: int) -> Block:
        """A block of so many bytes, at least 1, aligned to 256."""

    def upload(self, block: Block, size: int) -> None:
        """Enqueue the copy of the first `size` bytes, host → device."""

    def download(self, block: Block, size: int) -> None:
        """Enqueue the copy of the first `size` bytes, device → host."""

    def wait(self) -> None:
        """Until all that was enqueued is done."""

    def use(self) -> None:
        """Make the device current for the calling thread."""

    def close(self) -> None:
        """Free stream and blocks."""


def cuda_core_missing() -> str | None:
    """None where cuda-core is installed, else the pip line."""
    return None if find_spec("cuda") and find_spec("cuda.core") else "pip install 'eyas[cuda]'"


def open_cuda_core(index: int) -> CudaCore:
    """Memory of GPU `index`. Raises BackendError where cuda-core is missing or fails."""
    if remedy := cuda_core_missing():
        raise BackendError(
            problem("memory on the GPU needs a package", got="no cuda-core", expected="cuda-core", remedy=remedy)
        )
    core = import_module("cuda.core")

    try:
        return CudaCore(core, index)
    except Exception as error:  # CUDA errors are of many types
        raise BackendError(
            problem(f"GPU {index} cannot be used", got=error, expected="a working driver", remedy="Try `nvidia-smi`.")
        ) from error


class _Pair:
    def __init__(self, device: Any, pinned: Any, size: int) -> None:
        self.device, self.pinned = device, pinned
        self.address = int(device.handle)
        raw = (ctypes.c_uint8 * size).from_address(int(pinned.handle))
        self.host: Bytes = np.ctypeslib.as_array(raw)


class CudaCore:
    """`Memory` over cuda-core 0.4 or newer. core: its module."""

    def __init__(self, core: Any, index: int) -> None:
        if not hasattr(core, "Device"):  # before cuda-core 0.5
            core = import_module("cuda.core.experimental")
        self._device = core.Device(index)
        self._device.set_current()
        self._pinned = core.LegacyPinnedMemoryResource()
        self._stream = self._device.create_stream()
        self._pairs: list[_Pair] = []

    @property
    def stream(self) -> int:
        """See `Memory`."""
        return int(self._stream.handle)

    def allocate(self, size: int) -> _Pair:
        """See `Memory`."""
        device = self._device.allocate(size, stream=self._stream)
        self._pairs.append(_Pair(device, self._pinned.allocate(size), size))
        return self._pairs[-1]

    def upload(self, block: Any, size: int) -> None:
        """See `Memory`. cuda-core copies whole buffers, so `size` is rounded up to the block's."""
        block.device.copy_from(block.pinned, stream=self._stream)

    def download(self, block: Any, size: int) -> None:
        """See `Memory`. cuda-core copies whole buffers, so `size` is rounded up to the block's."""
        block.device.copy_to(block.pinned, stream=self._stream)

    def wait(self) -> None:
        """See `Memory`."""
        self._stream.sync()

    def use(self) -> None:
        """See `Memory`."""
        self._device.set_current()

    def close(self) -> None:
        """See `Memory`."""
        self.use()
        while self._pairs:
            pair = self._pairs.pop()
            pair.host = np.empty(0, np.uint8)
            pair.device.close(self._stream)
            pair.pinned.close()
        self._stream.sync()
        self._stream.close()
