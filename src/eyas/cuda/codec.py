"""JPEG decoding on the GPU by nvImageCodec: from a file's bytes to a `DeviceImage`, upright and BGR as `read_image`'s.

What a file may be is decided here, by its header, before the library sees it: JPEG of the common kinds that passes
`eyas.imagefile`'s own checks. All other files take the host's way, which also has the words for what is wrong with
them. Pixels differ from the host's by a few grey levels: another inverse DCT, another interpolation of the colours.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np

from eyas.cuda.device import CudaDevice
from eyas.cuda.memory import fetched
from eyas.errors import BackendError, OptionError, problem
from eyas.extras import need
from eyas.imagefile import MAX_PIXELS, probe_jpeg, read_image
from eyas.types import DeviceImage, Image, decodes_on_gpu

log = logging.getLogger("eyas")
# nvImageCodec's kinds of decoders. Without CPU_ONLY, so that what it cannot do on the GPU comes back to us.
KINDS = ("HW_GPU_ONLY", "GPU_ONLY", "HYBRID_CPU_GPU")
OPTIONS = ":fancy_upsampling=1"  # colours between the samples of 4:2:0 are interpolated, as libjpeg-turbo does

# Markers and layouts of segments: ITU-T T.81, annex B. JFIF, Exif and Adobe: what libjpeg and OpenCV go by.
_SOS, _APP1, _APP14 = 0xDA, 0xE1, 0xEE
_BASELINE, _PROGRESSIVE = 0xC0, 0xC2
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Samples of brightness for one of colour, (across, down), in a nibble each: 4:4:4, 4:2:2, 4:2:0, 4:4:0.
_SAMPLINGS = frozenset((0x11, 0x21, 0x22, 0x12))


def takes(data: bytes, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether these bytes are a whole JPEG file that the GPU decodes as OpenCV does, of at most max_pixels.

    It is: 8 bits; grey, or YCbCr of the usual samplings; baseline in one scan, or progressive. It is not where our
    reading of a file and the library's may differ: RGB stored as such, a second Exif segment (OpenCV goes by the first,
    nvImageCodec by the last), stray bytes between segments.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    width, height, whole = probe_jpeg(data)
    return whole and 0 < width * height <= max_pixels and _is_common(data)


def _is_common(data: bytes) -> bool:
    """`takes`, of the segments up to the first scan."""
    at, exifs, sof, frame = 2, 0, 0, b""
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if length < 2 or not 0xC0 <= marker < 0xFF or 0xD0 <= marker < _SOS:  # such as have no length
            return False
        body = data[at + 4 : at + 2 + length]
        if marker == _SOS:
            in_one_scan = len(body) > 0 and len(frame) > 5 and body[0] == frame[5]
            return _is_common_frame(frame) and (sof == _PROGRESSIVE or (sof == _BASELINE and in_one_scan))
        if marker in _SOF:
            if frame:
                return False
            sof, frame = marker, body
        if marker == _APP1 and body.startswith(b"Exif\0"):
            exifs += 1
        if exifs > 1 or (marker == _APP14 and body.startswith(b"Adobe") and body[11:12] == b"\0"):  # the latter: RGB
            return False
        at += 2 + length
    return False


def _is_common_frame(frame: bytes) -> bool:
    """frame: a frame header: bits, height (2), width (2), components; for each its name, sampling and table."""
    if len(frame) < 6 or frame[0] != 8 or len(frame) != 6 + 3 * frame[5]:
        return False
    names, samplings = frame[6::3], frame[7::3]
    if frame[5] == 1:
        return samplings == b"\x11"
    return frame[5] == 3 and samplings[0] in _SAMPLINGS and samplings[1:] == b"\x11\x11" and names != b"RGB"


def open_decoder(options: Mapping[str, Any], device: CudaDevice | None) -> GpuDecoder | None:
    """What `options={"decode": …}` asks for: "host" (the default): None; "gpu": a decoder on the device.

    device: None where the engine is on no GPU. Raises OptionError, EyasError without nvImageCodec, BackendError.
    """
    if not decodes_on_gpu(options.get("decode", "host")):
        return None
    if device is None:
        raise nobody_to_decode_for("an engine on the host")
    return GpuDecoder(device)


def nobody_to_decode_for(got: str) -> OptionError:
    """The error where the engine, which `got` names, is on no GPU."""
    expected, remedy = "an engine of lanes on an NVIDIA GPU", "--device cuda takes one; without it leave decode out."
    return OptionError(problem("decode='gpu' has nobody to decode for", got=got, expected=expected, remedy=remedy))


@dataclass(frozen=True, slots=True)
class _Worker:
    """One decoder of nvImageCodec's, and the stream on which its pictures become ready."""

    decoder: Any
    stream: Any


class GpuDecoder:
    """Decodes JPEG on one GPU. Safe from several threads.

    A call has a decoder of nvImageCodec's for itself: one keeps the state of the call under way in its members, and
    nothing is promised about several at once. There are as many as there were calls at the same time, and the one that
    was used last goes first. They outlive the threads, so that a server's short-lived ones cost nothing.
    """

    def __init__(self, device: CudaDevice) -> None:
        """Raises EyasError without nvImageCodec, BackendError where it decodes nothing on this GPU."""
        self._device = device
        self._codec = codec = need("nvidia.nvimgcodec", "nvimgcodec")
        self._params = codec.DecodeParams(
            apply_exif_orientation=True,
            color_spec=codec.ColorSpec.SRGB,
            allow_any_depth=False,
            sample_format=codec.SampleFormat.I_BGR,
        )
        self._free: list[_Worker] = []  # append and pop are atomic
        self._said = False
        self._try()

    def read(self, data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
        """As `read_image`, with the same errors; the image is on the GPU where `decode` takes the file."""
        image = self.decode(data, name, max_pixels)
        return read_image(data, name, max_pixels) if image is None else cast(Image, image)

    def decode(self, data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> DeviceImage | None:
        """A JPEG file's pixels on the GPU, upright; None for a file that it does not take, see `takes`.

        None too, with a warning the first time, where the library fails with a file that it should take. name: for the
        warning.
        """
        if not takes(data, max_pixels):
            return None
        image, why = self._decode(data)
        if image is None and not self._said:
            self._said = True
            log.warning("%s: nvImageCodec fails (%s); such pictures are decoded on the host", name, why)
        return image

    def _decode(self, data: bytes) -> tuple[DeviceImage | None, str]:
        """The picture, or why there is none."""
        self._device.use()
        try:
            worker = self._take()
            try:
                stream = int(worker.stream.handle)
                image = worker.decoder.decode(self._codec.CodeStream(data), params=self._params, cuda_stream=stream)
                return (self._lent(image, worker.stream), "") if image is not None else (None, "no reason given")
            finally:
                self._free.append(worker)
        except RuntimeError as error:  # all that it raises by itself
            return None, " ".join(str(error).split())[:200]

    def _take(self) -> _Worker:
        """One that is free, else a new one. Raises RuntimeError."""
        try:
            return self._free.pop()
        except IndexError:
            pass
        codec = self._codec
        kinds = [codec.Backend(getattr(codec.BackendKind, kind)) for kind in KINDS]
        # One thread: the caller's own waits meanwhile.
        decoder = codec.Decoder(device_id=self._device.index, max_num_cpu_threads=1, backends=kinds, options=OPTIONS)
        return _Worker(decoder, self._device.stream())

    def _lent(self, image: Any, stream: Any) -> DeviceImage:
        """Raises RuntimeError where it is not laid out as was asked for."""
        shape, strides = tuple(image.shape), tuple(image.strides)
        if len(shape) != 3 or shape[2] != 3 or strides[1:] != (3, 1):
            raise RuntimeError(f"pixels of shape {shape}, strides {strides}")
        address = int(image.__cuda_array_interface__["data"][0])
        owner = (stream, image)  # a tuple lets go of its last item first: the memory is freed on the stream
        size = (shape[0], shape[1], 3)
        return DeviceImage(address, size, strides[0], self._device.index, stream.record(), owner, fetched)

    def _try(self) -> None:
        """Decode something: a library that lacks nvJPEG says so on standard error, and then decodes nothing."""
        _, tiny = cv2.imencode(".jpg", np.full((64, 64, 3), 128, np.uint8))
        image, why = self._decode(tiny.tobytes())
        if image is None:
            what = f"nvImageCodec decodes no JPEG on GPU {self._device.index}"
            remedy = "pip install 'eyas[nvimgcodec]' brings nvJPEG; on CUDA 12, 'nvidia-nvimgcodec-cu12[nvjpeg]'."
            raise BackendError(problem(what, got=why, expected="nvJPEG and a GPU that it knows", remedy=remedy))
