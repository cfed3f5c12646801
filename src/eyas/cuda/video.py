"""Video decoding on the GPU by PyNvVideoCodec (NVDEC): packets → `DeviceImage`s in BGR, with the host's colours.

libav still opens and reads the source (`eyas.video.container`); its packets go to the GPU's decoder instead of its own.
That gives NV12, which our letterbox kernel turns into BGR at once, so that the decoder's surfaces are free again and a
picture is like any other on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import Any, cast

import numpy as np

from eyas.cuda.device import CudaDevice, cuda_errors, open_device
from eyas.cuda.letterbox import LetterboxKernel, Nv12, Source
from eyas.cuda.memory import Block, fetched
from eyas.errors import BackendError, problem
from eyas.extras import need
from eyas.letterbox import Letterbox
from eyas.types import DeviceImage, Image
from eyas.video.decode import BrokenPacket, Decoded, HostDecoder, pyav, turn_of

log = logging.getLogger("eyas")
# libav's name of a codec → NVDEC's, and the filter that makes of its packets the plain streams that NVDEC reads.
CODECS = {"h264": ("H264", "h264_mp4toannexb"), "hevc": ("HEVC", "hevc_mp4toannexb")}
FORMATS = ("yuv420p", "yuvj420p")  # 8 bits, colours at half the size: NVDEC gives it as NV12
# AVColorSpace (ITU-T H.273, table 4) → the matrix. Unspecified is BT.601, as libswscale takes it.
MATRICES = {1: "bt709", 2: "bt601", 5: "bt601", 6: "bt601"}
FULL_RANGE = 2  # AVColorRange
UNTIMED = -(1 << 63)  # AV_NOPTS_VALUE


class GpuDecoder:
    """Decodes one stream on a GPU, where it can; see `eyas.video.decode.Decoder`.

    The first picture is decoded on the host, for what only a picture tells: how it is turned, its colours. A stream
    that the GPU cannot decode stays there, with a warning.
    """

    def __init__(self, stream: Any, gpu: int, name: str, *, low_delay: bool) -> None:
        """stream: av.VideoStream. gpu: its number. name: for the warning. low_delay: no picture waits for others.

        Raises BackendError without such a GPU or decoder, EyasError without PyNvVideoCodec.
        """
        self._device, self._library = open_device(gpu), pynvvideocodec()
        self._stream, self._name, self._low_delay = stream, name, low_delay
        self._host = HostDecoder()
        self._held: list[Any] = []  # packets until the first picture
        self._chosen: NvDecoder | HostDecoder | None = None

    def decode(self, packet: Any) -> Sequence[Decoded]:
        """See `Decoder`."""
        if self._chosen:
            return self._chosen.decode(packet)
        self._held.append(packet)
        frames = packet.decode()
        if not frames:
            return []
        why = unfit(self._stream.codec_context.name, frames[0])
        held, self._held = self._held, []
        if why is None:
            try:
                self._chosen = NvDecoder(self._device, self._library, self._stream, frames[0], self._low_delay)
                return [found for packet in held for found in self._again(self._chosen, packet)]
            except BrokenPacket as error:  # at the very beginning: not one that it knows
                why = str(error)
        log.warning("%s: %s; it is decoded on the host", self._name, why)
        self._chosen = self._host
        return self._host.told(frames)

    def _again(self, decoder: NvDecoder, packet: Any) -> list[Decoded]:
        """A packet that the host has had; one that libav's filter refuses was refused and counted then."""
        with suppress(pyav().FFmpegError):
            return _now(decoder.decode(packet))
        return []

    def close(self) -> None:
        """See `Decoder`."""
        if self._chosen:
            self._chosen.close()


def _now(found: Sequence[Decoded]) -> list[Decoded]:
    """Pictures that no longer need the decoder's memory, for the next packet follows at once."""
    pictures = [decoded.picture() for decoded in found]
    return [d._replace(picture=partial(_given, p)) for d, p in zip(found, pictures, strict=True)]


def _given(image: Image) -> Image:
    return image


def pynvvideocodec() -> Any:
    """The library. Raises EyasError where it is missing, BackendError where it finds no driver that suits it."""
    try:
        return need("PyNvVideoCodec", "pynvvideocodec")
    except (RuntimeError, OSError) as error:
        got = " ".join(str(error).split("\n")[0].split())[:200]
        expected, remedy = "a driver with NVDEC", "In a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        raise BackendError(
            problem("PyNvVideoCodec does not start", got=got, expected=expected, remedy=remedy)
        ) from error


def unfit(codec: str, frame: Any) -> str | None:
    """Why a stream of such frames (av.VideoFrame) cannot be decoded here as the host would; None where it can."""
    if codec not in CODECS:
        return f"the codec {codec} is none of {', '.join(CODECS)}"
    if frame.format.name not in FORMATS:
        return f"its pixels are {frame.format.name}, not {' or '.join(FORMATS)}"
    if int(frame.colorspace) not in MATRICES:
        return f"its colours have the matrix {int(frame.colorspace)}, not BT.601 or BT.709"
    if any(turn_of(frame)):
        return "it is turned or mirrored"
    if frame.interlaced_frame:
        return "it is interlaced, which NVDEC would not leave woven"
    return None


def parameter_sets(extradata: bytes | None, codec: str) -> bytes:
    """A container's parameter sets as a plain stream. codec: NVDEC's name.

    Extradata is such a stream, or for H.264 an avcC record (ISO/IEC 14496-15, 5.3.3.1.2), whose sets libav's filter
    puts before IDR pictures only. (It puts H.265's before each picture that one can begin with: nothing is left to do.)
    """
    data, at, found = extradata or b"", 5, b""
    if data.startswith((b"\0\0\1", b"\0\0\0\1")):
        return data
    if codec != "H264" or data[:1] != b"\1":
        return b""
    for mask in (0x1F, 0xFF):  # the number of SPS, then of PPS
        count, at = int.from_bytes(data[at : at + 1]) & mask, at + 1
        for _ in range(count):
            end = at + 2 + int.from_bytes(data[at : at + 2])
            found, at = found + b"\0\0\0\1" + data[at + 2 : end], end
    return found


def sequence_of(data: bytes, codec: str) -> list[bytes]:
    """The sequence parameter sets, which hold the size, in a packet of a plain stream. codec: NVDEC's name.

    Types of NAL units: ITU-T H.264, table 7-1, and H.265, table 7-1.
    """
    units = [unit.rstrip(b"\0") for unit in data.split(b"\0\0\1")[1:]]
    return [u for u in units if u and (u[0] & 31 == 7 if codec == "H264" else u[0] >> 1 == 33)]


class NvDecoder:
    """NVDEC for a stream of one codec; see `Decoder`. Sizes may change."""

    def __init__(self, device: CudaDevice, library: Any, stream: Any, first: Any, low_delay: bool) -> None:
        """first: a frame of the stream (av.VideoFrame), whose colours all have."""
        device.use()
        self._device, self._library, self._time_base = device, library, stream.time_base
        self._codec, filter_name = CODECS[stream.codec_context.name]
        self._plain = pyav().bitstream.BitStreamFilterContext(filter_name, stream)
        self._sets = parameter_sets(stream.codec_context.extradata, self._codec)
        self._matrix, self._full = MATRICES[int(first.colorspace)], int(first.color_range) == FULL_RANGE
        # Without B frames each picture can be had as soon as its packet is there.
        self._at_once = low_delay and not stream.codec_context.has_b_frames
        self._on = device.stream()
        self._left_out: set[int] = set()
        self._late: list[Decoded] = []  # of a decoder that is no more
        self._sequence: list[bytes] = []
        self._kernel: tuple[tuple[int, int], LetterboxKernel] | None = None
        self._decoder, self._begins = self._new(), True

    def _new(self) -> Any:
        library = self._library
        latency = library.DisplayDecodeLatencyType
        try:
            return library.CreateDecoder(
                gpuid=self._device.index,
                codec=getattr(library.cudaVideoCodec, self._codec),
                cudacontext=self._device.context,
                cudastream=int(self._on.handle),
                usedevicememory=True,
                latency=latency.LOW if self._at_once else latency.NATIVE,
            )
        except self._errors as error:
            raise BrokenPacket(f"the GPU's decoder cannot be had ({error})") from error

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return self._library.PyNvVCException, self._library.PyNvVCExceptionUnsupported, RuntimeError

    def decode(self, packet: Any) -> Sequence[Decoded]:
        """See `Decoder`."""
        self._device.use()
        if packet.is_discard and packet.pts is not None:
            self._left_out.add(packet.pts)
        empty = packet.size == 0
        found: list[Decoded] = []
        for plain in self._plain.filter(None if empty else packet):
            if plain.is_keyframe:
                self._renew(sequence_of(bytes(plain), self._codec))
            found += self._feed(plain, plain.pts)
        if empty:
            found += self._feed(b"", None)
        return found

    def _renew(self, sequence: list[bytes]) -> None:
        """A new decoder where the sequence is another than before: the old one would scale to its own size."""
        if sequence and self._sequence and sequence != self._sequence:
            self._flush()
            self._sets = b""
        self._sequence = sequence or self._sequence

    def _flush(self) -> None:
        """Keep what the decoder still has, and begin with a new one."""
        with suppress(*self._errors):
            self._late += _now(self._told(self._decode(b"", None)))
        self._decoder, self._begins = self._new(), True

    def _feed(self, data: Any, pts: int | None) -> list[Decoded]:
        """The pictures that come of some bytes; none of them: of what is left.

        Raises BrokenPacket; BackendError where the GPU itself has failed.
        """
        try:
            frames = self._decode(data, pts)
        except self._errors:  # such as pictures that have grown, if no key frame said so
            with cuda_errors(f"GPU {self._device.index} decodes no more"):
                self._on.sync()
            self._flush()
            try:
                frames = self._decode(data, pts)
            except self._errors as error:
                raise BrokenPacket(str(error)) from error
        told, late, self._late = self._told(frames), self._late, []
        return [*late, *told]

    def _decode(self, data: Any, pts: int | None) -> Sequence[Any]:
        """What the library gives for some bytes."""
        if self._begins and data:
            data, self._begins = bytes(data), False
            data = data if sequence_of(data, self._codec) else self._sets + data
        pixels = np.frombuffer(data, np.uint8)
        packet = self._library.PacketData()
        packet.bsl, packet.bsl_data = pixels.size, pixels.ctypes.data if pixels.size else 0
        packet.pts = UNTIMED if pts is None else pts
        if self._at_once:
            packet.decode_flag = int(self._library.VideoPacketFlag.ENDOFPICTURE)
        frames: Sequence[Any] = self._decoder.Decode(packet)
        return frames

    def _told(self, frames: Sequence[Any]) -> list[Decoded]:
        return [found for frame in frames if (found := self._one(frame)) is not None]

    def _one(self, frame: Any) -> Decoded | None:
        pts = int(frame.getPTS())
        if pts in self._left_out:
            self._left_out.discard(pts)
            return None
        if frame.format != self._library.Pixel_Format.NV12:
            raise BrokenPacket(f"a picture in {frame.format}")
        luma, chroma = frame.cuda()
        height, width = int(luma.shape[0]), int(luma.shape[1])
        at = None if pts == UNTIMED else Fraction(pts) * self._time_base
        nv12 = Nv12(int(chroma.dataptr), int(chroma.stride[0]), self._matrix, self._full)
        source = Source(int(luma.dataptr), int(luma.stride[0]), nv12)
        return Decoded((height, width), at, partial(self._picture, frame, source, (height, width)))

    def _picture(self, frame: Any, source: Source, size: tuple[int, int]) -> Image:
        """Turn it into BGR, in memory of its own. frame: keeps what is read alive."""
        self._device.use()
        if self._kernel is None or self._kernel[0] != size:
            self._kernel = size, LetterboxKernel(self._device, self._on, 1, size)
        block = Block(self._device, self._on, size[0] * size[1] * 3)
        self._kernel[1]([source], [Letterbox.fit(size, size, "stretch")], block.address)
        self._on.sync()  # the decoder may write there again
        del frame
        ready = self._on.record()
        image = DeviceImage(block.address, (*size, 3), size[1] * 3, self._device.index, ready, block, fetched)
        return cast(Image, image)

    def close(self) -> None:
        """See `Decoder`."""
        self._decoder = None
