"""PyNvVideoCodec on the host: libav decodes, into surfaces that the next call overwrites, on a stream of `fake_cuda`.

As NVDEC it reads plain streams only (Annex B), takes no pictures larger than the first one's, and scales smaller ones
to that size.
"""

from __future__ import annotations

import ctypes
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
from fake_cuda import Machine

START_CODES = (b"\0\0\1", b"\0\0\0\1")
PITCH = 32  # bytes beside each row


class PyNvVCException(Exception):
    """As the library raises it."""


class PyNvVCExceptionUnsupported(Exception):
    """As the library raises it; not a kind of the other."""


class PacketData:
    """Bytes by their address."""

    def __init__(self) -> None:
        self.bsl = self.bsl_data = self.pts = self.decode_flag = 0

    def __setattr__(self, name: str, value: int) -> None:
        assert type(value) is int, f"{name}: the real one takes whole numbers only"
        super().__setattr__(name, value)


class View:
    """A plane."""

    def __init__(self, array: np.ndarray, width: int, channels: int) -> None:
        self.shape = [array.shape[0], width // channels, channels]
        self.stride = [array.strides[0], channels, 1]
        self.dataptr = array.ctypes.data


class DecodedFrame:
    """A picture in one of the decoder's surfaces."""

    def __init__(self, surface: np.ndarray, size: tuple[int, int], pts: int, kind: Any) -> None:
        self._surface, self._size, self._pts, self.format = surface, size, pts, kind

    def getPTS(self) -> int:
        return self._pts

    def cuda(self) -> list[View]:
        height, width = self._size
        return [View(self._surface[:height], width, 1), View(self._surface[height:], width, 2)]


class PyNvDecoder:
    """One stream's. It knows pictures by their number: libav need not understand pts."""

    def __init__(self, library: FakeNvVideo, codec: str, stream: int, at_once: bool) -> None:
        self._library, self._stream, self._at_once = library, library.machine.streams[stream], at_once
        self._context = av.CodecContext.create(codec.lower(), "r")
        self._context.thread_type = "NONE"
        self._most: tuple[int, int] | None = None
        self._surfaces: list[np.ndarray] = []
        self._late: list[Any] = []  # to be had by a flush

    def Decode(self, packet: PacketData) -> list[DecodedFrame]:
        for surface in self._surfaces:
            self._stream.enqueue(lambda surface=surface: surface.fill(0xEE))
        data = ctypes.string_at(packet.bsl_data, packet.bsl) if packet.bsl else b""
        self._library.fed += bool(data)
        if data and self._library.fed > self._library.breaks_after:
            self._library.machine.lost = self._library.code
            raise PyNvVCException("an error of the decoder")
        assert not data or bool(packet.decode_flag) == self._at_once
        if data and not data.startswith(START_CODES):
            raise PyNvVCException("no start code")
        given = av.Packet(data) if data else None
        if given is not None:
            given.pts = packet.pts
        try:
            frames = [*self._late, *self._context.decode(given)]
        except av.error.InvalidDataError:
            return []  # it conceals
        size = self._context.height, self._context.width
        self._most = self._most or size
        self._surfaces, self._late = [], []
        if data and (size[0] > self._most[0] or size[1] > self._most[1]):
            self._late = frames
            raise PyNvVCException("the picture has grown")
        height, width = self._most
        return [self._lent(f.reformat(width, height)) for f in frames if (f.height, f.width) <= self._most]

    def _lent(self, frame: Any) -> DecodedFrame:
        size = frame.height, frame.width
        pixels = frame.to_ndarray(format="nv12")
        surface = np.full((pixels.shape[0], size[1] + PITCH), 0xCD, np.uint8)
        self._stream.enqueue(lambda: surface[:, : size[1]].__setitem__(slice(None), pixels))
        self._surfaces.append(surface)
        pts = self._library.UNTIMED if frame.pts is None else frame.pts
        return DecodedFrame(surface, size, pts, self._library.Pixel_Format.NV12)


class FakeNvVideo:
    """The module. opened: the arguments of each decoder; refuses: makes no more.

    fed: packets so far; those beyond breaks_after are refused. code: the driver's from then on.
    """

    UNTIMED = -(1 << 63)
    PyNvVCException, PyNvVCExceptionUnsupported = PyNvVCException, PyNvVCExceptionUnsupported
    PacketData = PacketData
    Pixel_Format = SimpleNamespace(NV12="NV12", P016="P016")
    cudaVideoCodec = Enum("cudaVideoCodec", ["H264", "HEVC"])
    DisplayDecodeLatencyType = Enum("DisplayDecodeLatencyType", ["NATIVE", "LOW"])
    VideoPacketFlag = IntEnum("VideoPacketFlag", {"ENDOFPICTURE": 8})

    def __init__(self, machine: Machine) -> None:
        self.machine, self.opened, self.refuses = machine, [], False
        self.fed, self.breaks_after, self.code = 0, 1 << 30, 0

    def CreateDecoder(self, **wanted: Any) -> PyNvDecoder:
        self.opened.append(wanted)
        if self.refuses:
            raise PyNvVCExceptionUnsupported("no such codec on this GPU")
        assert wanted["usedevicememory"]
        assert (wanted["gpuid"], wanted["cudacontext"]) == (0, 4711)
        at_once = wanted["latency"] is self.DisplayDecodeLatencyType.LOW
        return PyNvDecoder(self, wanted["codec"].name, wanted["cudastream"], at_once)
