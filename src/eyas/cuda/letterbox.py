"""The launch of `letterbox.cu`: a table of frames, wherever they lie on the GPU, into one output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Any, Literal, NamedTuple

import numpy as np

from eyas.cuda.device import CudaDevice
from eyas.cuda.memory import copy, new_array, pinned
from eyas.errors import OptionError, problem
from eyas.letterbox import Letterbox
from eyas.types import Normalise

Out = Literal["uint8", "float16", "float32"]
Layout = Literal["nhwc", "nchw"]
TYPES: dict[Out, str] = {"uint8": "unsigned char", "float16": "unsigned short", "float32": "float"}
PIXELS = 4  # a thread
THREADS = (32, 4)
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # ITU-R: the weights of red and blue in luma
# As `struct Frame` in letterbox.cu: where a frame lies, how it fits (the same for many frames), what is made of it.
_INTS = ["y", "x", "height", "width", "top", "left", "inner_h", "inner_w", "source_h", "source_w", "smooth", "range"]
FIT = np.dtype([("step_y", "f8"), ("step_x", "f8"), *((name, "i4") for name in _INTS), ("kr", "f4"), ("kb", "f4")])
_PLACE: list[Any] = [("pixels", "u8"), ("chroma", "u8"), ("row", "i4"), ("chroma_row", "i4")]
_NORM: list[Any] = [("mean", "f4", 3), ("scale", "f4", 3), ("swap", "i4"), ("spare", "i4")]
FRAME = np.dtype([*_PLACE, ("fit", FIT), *_NORM])


_ROW = Struct(f"=QQii{FIT.itemsize}s")


class Row(NamedTuple):
    """One line of the table: two planes' addresses and bytes a row, and the FIT record."""

    pixels: int
    chroma: int
    row: int
    chroma_row: int
    fit: bytes


class Nv12(NamedTuple):
    """How a video decoder's frame is laid out: chroma at half size, one plane after the luma.

    address, row_bytes: of the plane with u and v in turns. matrix: "bt601" or "bt709". full: 0…255, else 16…235.
    """

    address: int
    row_bytes: int
    matrix: str = "bt709"
    full: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Where a frame lies. address: of its first pixel, BGR or luma. row_bytes: from one row to the next."""

    address: int
    row_bytes: int
    nv12: Nv12 | None = None


class LetterboxKernel:
    """For batches of up to `batch` frames on one stream; its table goes round, so that launches need not wait."""

    def __init__(
        self,
        device: CudaDevice,
        stream: Any,
        batch: int,
        size: tuple[int, int],
        *,
        pad_value: int = 114,
        out: Out = "uint8",
        layout: Layout = "nhwc",
        normalise: Normalise | None = None,
    ) -> None:
        """size: (height, width) of the output [batch, height, width, 3] (nhwc) or [batch, 3, height, width] (nchw).

        normalise: for floats, what is done with BGR values 0…255; uint8 stays as it is. Raises OptionError.
        """
        if out not in TYPES or layout not in ("nhwc", "nchw") or (out == "uint8" and normalise):
            expected = "uint8 without normalisation, or float16 | float32; nhwc | nchw"
            raise OptionError(problem("no such output", got=f"{out} {layout}", expected=expected, remedy=""))
        self._device, self._stream, self._size, self._pad = device, stream, size, pad_value
        macros = {"OUT": TYPES[out], "PLANAR": int(layout == "nchw"), "PIXELS": PIXELS}
        self._kernel = device.kernel("letterbox.cu", "letterbox", **macros)
        self._host = pinned(device, (batch,), FRAME)
        self._host[...] = np.zeros((), FRAME)
        self._bytes, self._pixels = self._host.view(np.uint8).data, self._host["pixels"]
        self._host_address = int(self._host.ctypes.data)
        self._table = new_array(device, stream, (batch,), FRAME)
        norm = normalise or Normalise("bgr")
        self._host["mean"], self._host["scale"], self._host["swap"] = norm.mean, norm.scale, norm.colour == "rgb"
        self._launch = device.core.launch
        self._grid = (-(-size[1] // (THREADS[0] * PIXELS)), -(-size[0] // THREADS[1]))

    def describe(self, rows: Sequence[Row]) -> None:
        """Write the table, on the host. rows: of frames that live until the launch has run.

        The stream must have passed the last launch.
        """
        for i, row in enumerate(rows):
            _ROW.pack_into(self._bytes, i * FRAME.itemsize, *row)
        self._pixels[len(rows) :] = 0

    def upload(self, count: int) -> None:
        """Enqueue the way of the table's first `count` lines to the device."""
        copy(self._device, self._table.address, self._host_address, count * FRAME.itemsize, self._stream)

    def enqueue(self, count: int, out: int) -> None:
        """Enqueue the launch for the first `count` lines; those without a frame are passed over.

        out: an address on the device.
        """
        config = self._device.core.LaunchConfig(grid=(*self._grid, count), block=THREADS)
        height, width = self._size
        numbers = np.int32(height), np.int32(width), np.float32(self._pad)
        self._launch(self._stream, config, self._kernel, self._table.address, out, *numbers)

    def __call__(self, frames: Sequence[Source], boxes: Sequence[Letterbox], out: int) -> None:
        """`describe`, `upload`, `enqueue`."""
        self.describe([row_of(frame, box) for frame, box in zip(frames, boxes, strict=True)])
        self.upload(len(frames))
        self.enqueue(len(frames), out)


def row_of(frame: Source, box: Letterbox) -> Row:
    """A frame's line."""
    if nv12 := frame.nv12:
        fit = fit_of(box, nv12.matrix, nv12.full)
        return Row(frame.address, nv12.address, frame.row_bytes, nv12.row_bytes, fit)
    return Row(frame.address, 0, frame.row_bytes, 0, fit_of(box))


@lru_cache(maxsize=1024)
def fit_of(box: Letterbox, matrix: str | None = None, full: bool = False) -> bytes:
    """A letterbox, and the colours of NV12, as the kernel reads them: FIT."""
    _, _, height, width = box.window
    steps = height / box.resized[0], width / box.resized[1]
    weights = MATRICES[matrix] if matrix else (0.0, 0.0)
    values = (*steps, *box.window, *box.offset, *box.resized, *box.source, box.smooth, full, *weights)
    return np.array([values], FIT).tobytes()
