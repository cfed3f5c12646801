"""Arrays for the CUDA path: page-locked ones on the host, blocks on the device, and frames that are there already."""

from __future__ import annotations

import ctypes
import threading
import weakref
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from eyas.cuda.device import CudaDevice, cuda_errors, open_device
from eyas.errors import SourceError, problem
from eyas.extras import need
from eyas.types import DeviceImage, Image

_MEMORY_TYPE, _HOST = 2, 1  # CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_MEMORYTYPE_HOST of the driver API
GRAIN = 1 << 20  # blocks that grow do so in steps of this many bytes


def pinned(device: CudaDevice, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> NDArray[Any]:
    """A page-locked host array, not initialised, which the GPU copies at full speed and without waiting for the CPU.

    It lives as long as the array and its views. Raises BackendError where no memory is left.
    """
    kind = np.dtype(dtype)
    size = max(1, prod(shape) * kind.itemsize)
    with cuda_errors(f"no page-locked memory for {size} bytes"):
        buffer = device.core.LegacyPinnedMemoryResource().allocate(size)
    raw = (ctypes.c_uint8 * size).from_address(int(buffer.handle))
    weakref.finalize(raw, buffer.close)
    flat: NDArray[np.uint8] = np.ctypeslib.as_array(raw)
    return flat[: prod(shape) * kind.itemsize].view(kind).reshape(shape)


def address_of(array: NDArray[Any]) -> int:
    """Of its first byte: `array.ctypes.data`, in a third of the time for one that is whole and may be written."""
    whole = array.flags.c_contiguous and array.flags.writeable and array.size
    return ctypes.addressof(ctypes.c_byte.from_buffer(array.data)) if whole else array.ctypes.data


def is_pinned(device: CudaDevice, address: int) -> bool:
    """Whether the driver knows the host's memory there, whoever locked it (eyas, PyTorch's pin_memory …)."""
    kind = ctypes.c_uint()
    code = device.quick.cuPointerGetAttribute(ctypes.addressof(kind), _MEMORY_TYPE, address)
    return code == 0 and kind.value == _HOST


class Block:
    """A piece of device memory. grow: makes it larger if need be; its content and address are lost then."""

    def __init__(self, device: CudaDevice, stream: Any, size: int) -> None:
        self.device, self.stream, self.size = device, stream, 0
        self._buffer: Any = None
        self.grow(size)

    @property
    def address(self) -> int:
        """On the device."""
        return int(self._buffer.handle)

    @property
    def buffer(self) -> Any:
        """cuda-core's."""
        return self._buffer

    def grow(self, size: int) -> None:
        """Room for `size` bytes at least. Raises BackendError where there is none."""
        if size <= self.size:
            return
        self.close()
        room = -(-size // GRAIN) * GRAIN if size > GRAIN else max(256, size)
        with cuda_errors(f"no memory on GPU {self.device.index} for {room} bytes"):
            self._buffer = self.device.device.allocate(room, stream=self.stream)
        self.size = room

    def close(self) -> None:
        """Free it, once the stream has come this far."""
        if self._buffer is not None:
            self._buffer.close(self.stream)
            self._buffer, self.size = None, 0


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """Part of a block, as an array in C order. Shared by DLPack and by __cuda_array_interface__, without a copy.

    It is borrowed: what it holds is overwritten by the lane's next launch. stream: cuda.core.Stream it is written on.
    """

    block: Block
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def address(self) -> int:
        """On the device."""
        return self.block.address

    @property
    def nbytes(self) -> int:
        """Of the whole array."""
        return prod(self.shape) * self.dtype.itemsize

    def first(self, count: int) -> DeviceArray:
        """The first `count` along the first axis."""
        return DeviceArray(self.block, (count, *self.shape[1:]), self.dtype)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "stream": int(self.block.stream.handle),
        }

    def __dlpack__(self, **options: Any) -> Any:
        return self._view().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self._view().__dlpack_device__()
        return int(kind), int(index)

    def _view(self) -> Any:
        return need("cuda.core.utils", "cuda").StridedMemoryView.from_buffer(
            self.block.buffer, self.shape, dtype=self.dtype
        )


def new_array(device: CudaDevice, stream: Any, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
    """A block of its own for an array, not initialised."""
    kind = np.dtype(dtype)
    return DeviceArray(Block(device, stream, max(1, prod(shape) * kind.itemsize)), shape, kind)


def copy(device: CudaDevice, target: int, source: int, size: int, stream: Any) -> None:
    """Enqueue a copy of `size` bytes between two addresses, on the host or on the device."""
    device.passed(device.quick.cuMemcpyAsync(target, source, size, int(stream.handle)))


def on_device(array: object) -> bool:
    """Whether an object (a tensor of PyTorch, CuPy, JAX …) says that its data lies on a CUDA device."""
    if hasattr(array, "__cuda_array_interface__"):
        return True
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack_device__"):
        return False
    return int(array.__dlpack_device__()[0]) == CUDA


CUDA = 2  # kDLCUDA of DLPack


_staging = threading.local()  # a page-locked array for each thread, which grows


def fetched(image: DeviceImage) -> Image:
    """A copy on the host, for who must see the pixels there: uint8 [H, W, 3]. Raises BackendError."""
    device = open_device(image.index)
    device.use()
    height, width, _ = image.shape
    size = image.row_bytes * (height - 1) + width * 3
    if getattr(_staging, "host", np.empty(0)).size < size:
        _staging.host = pinned(device, (-(-size // GRAIN) * GRAIN,))
    with cuda_errors("a picture cannot be fetched from the GPU"):
        stream = device.borrowing
        stream.wait(image.ready)
        copy(device, int(_staging.host.ctypes.data), image.address, size, stream)
        stream.sync()
    rows = np.lib.stride_tricks.as_strided(_staging.host, image.shape, (image.row_bytes, 3, 1), writeable=False)
    return np.array(rows, np.uint8)


def device_image(array: object, name: str) -> DeviceImage:
    """Borrow a picture on a GPU: uint8 [H, W, 3] BGR, pixels next to one another. Raises SourceError otherwise.

    To be called on the thread that wrote it: what its library has enqueued there so far is waited for, on the device.
    """
    view_of = need("cuda.core.utils", "cuda").StridedMemoryView.from_any_interface
    try:
        device = open_device(int(view_of(array, stream_ptr=-1).device_id))
        device.use()
        view = view_of(array, stream_ptr=int(device.borrowing.handle))  # which then waits for who writes it
        ready = device.borrowing.record()
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        expected = "what DLPack or CUDA's array interface can lend"
        raise SourceError(problem(f"{name} cannot be borrowed", got=error, expected=expected, remedy="")) from error
    shape, dtype = tuple(view.shape), np.dtype(view.dtype)
    strides = tuple(view.strides or (prod(shape[i + 1 :]) for i in range(len(shape))))
    packed = strides[1:] == (3, 1) and strides[0] >= 0  # rows upside down lie before their address: no copy finds them
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not prod(shape) or not packed:
        raise SourceError(
            problem(
                f"{name} is not an image on a GPU",
                got=f"{dtype} {list(shape)}, strides {list(strides)}",
                expected="uint8 [height, width, 3] in BGR order, channels last and next to one another",
                remedy="tensor.permute(1, 2, 0).contiguous() makes it of a [3, H, W] tensor.",
            )
        )
    return DeviceImage(int(view.ptr), (shape[0], shape[1], 3), strides[0], device.index, ready, array, fetched)
