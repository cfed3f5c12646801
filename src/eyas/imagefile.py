"""Picture files: from the bytes of one file to a BGR array, or an ImageError that says why not.

JPEG and PNG, the hot path, are checked here byte by byte and decoded by OpenCV, because OpenCV alone may return the
upper part of a cut file and writes its complaints to stderr. All other formats go through Pillow, which reports
damage quietly and knows their corner cases (AVIF rotation, alpha in TIFF).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from eyas.errors import ImageError, problem
from eyas.types import Image

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

MAX_PIXELS = 178_956_970
"""Largest width × height that is decoded unless the caller says otherwise: 512 MiB as BGR.

It is where `PIL.Image.open` refuses by default (twice PIL.Image.MAX_IMAGE_PIXELS); Pillow's own setting plays no part.
"""

HEAD_BYTES = 512
"""How much of a file's beginning `picture_format` wants to see."""

_FORMATS = "JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, JPEG 2000 or AVIF"

_MAGIC = {  # how a file of the format begins, as a pattern
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PPM": rb"P[1-6]\s",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "AVIF": rb"....ftyp(avi[fs]|(mif1|msf1|miaf).{4,40}avi[fs])",
}
_STRANGERS = {  # what else people pass by mistake; the first that fits is named
    "zero bytes only": rb"\0+\Z",
    "a PDF document": rb"%PDF",
    "an HTML page; perhaps a download went wrong": rb"(?i)\s*<(!doctype html|html|head|body)\b",
    "an SVG drawing": rb"(?i)\s*(<\?xml.*?)?<svg\b",
    "a Git LFS pointer; run git lfs pull": rb"version https://git-lfs",
    "a ZIP archive (or a file built on one)": rb"PK\x03\x04",
    "a gzip archive": rb"\x1f\x8b",
    "a NumPy file": rb"\x93NUMPY",
    "a HEIC photo": rb"....ftyp(hei[cxms]|hev[cmsx]|mif1|msf1)",
    "a video": rb"....(ftyp|moov|mdat)|RIFF....AVI |\x1a\x45\xdf\xa3|\0\0\x01[\xb3\xba]",
    "text": rb"[^\0-\x08\x0e-\x1f\x7f]+\Z",
}
_MAGIC_RE = {name: re.compile(pattern, re.DOTALL) for name, pattern in _MAGIC.items()}
_STRANGERS_RE = {name: re.compile(pattern, re.DOTALL) for name, pattern in _STRANGERS.items()}

_PLUGINS = {  # format: Pillow's module and class for it
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "PPM": ("PpmImagePlugin", "PpmImageFile"),
    "JPEG2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
}
_REPLACE = "Copy or download it again."
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF orientation: what turns the stored picture upright, as named in PIL.Image.Transpose
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

_SOS, _EOI = 0xDA, 0xD9
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_NO_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
# By second byte of a pair FF xx in the coded data of a scan: is it a marker other than restart, stuffing and fill?
_ENDS_SCAN = np.array([not (b in (0x00, 0xFF) or 0xD0 <= b <= 0xD7) for b in range(256)])


def read_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode one picture file to uint8 BGR [height, width, 3], a fresh array, upright as its EXIF orientation says.

    data: the whole file. name: what error messages call it. max_pixels: the largest width × height to decode; the
    file's header is checked against it before memory is taken.

    Every picture becomes three channels of 8 bits: grey is replicated; alpha is dropped, not blended; of 16 bits the
    high byte stays (a 16-bit colour PPM is rounded instead); a palette gives its colours; CMYK and YCbCr are
    converted as the decoder does, without colour profiles. Of an animation, the first frame; of a TIFF, the first
    page. 32-bit and floating-point samples have no agreed range and are refused.

    Raises ImageError if the bytes are no picture, a cut or damaged one, or one of more than max_pixels.
    """
    form = picture_format(data[:HEAD_BYTES], name)
    if form in _PLUGINS:
        return _decode_with_pillow(data, form, name, max_pixels)
    width, height, whole = _PROBES[form](data)
    _check_size(width, height, name, max_pixels)
    if not whole:
        raise _damaged(name, form, "its data stop or break before the end marker")
    return _decode_with_opencv(data, form, name)


def picture_format(head: bytes, name: str) -> str:
    """The format ("JPEG", "PNG", …) of the file that begins with `head`; ImageError if it is no picture.

    head: the first HEAD_BYTES bytes, or the whole file where it is shorter. name: what the message calls the file.
    """
    for form, pattern in _MAGIC_RE.items():
        if pattern.match(head):
            return form
    looks = next((words for words, pattern in _STRANGERS_RE.items() if pattern.match(head)), "no known picture format")
    raise ImageError(
        problem(
            f"{name} is not a picture",
            got=f"what looks like {looks}" if head else "0 bytes",
            expected=_FORMATS,
            remedy="The content counts, not the file's suffix; convert it or leave it out.",
        )
    )


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(
            problem(f"{name} is damaged", got="no usable size in its header", expected="a whole file", remedy=_REPLACE)
        )
    if width * height > max_pixels:
        raise ImageError(
            problem(
                f"{name} is too large",
                got=f"{width} × {height} = {width * height:,} pixels",
                expected=f"at most {max_pixels:,}",
                remedy="Scale it down or cut it into tiles, or raise max_pixels.",
            )
        )


def _damaged(name: str, form: str, reason: object) -> ImageError:
    return ImageError(
        problem(f"{name} is cut short or damaged", got=reason, expected=f"a whole {form} file", remedy=_REPLACE)
    )


def probe_jpeg(data: bytes) -> tuple[int, int, bool]:
    """(width, height, whole) of a JPEG file. Segments are walked, so the thumbnail inside EXIF does not count."""
    width = height = frame = 0
    at = data.find(0xFF, 2)
    while 0 <= at <= len(data) - 9:  # room for a frame header up to its width
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _EOI:
            break
        if marker in _SOF:
            frame = marker
            height, width = struct.unpack_from(">HH", data, at + 5)
        if marker == _SOS:
            # The coded data of a sequential file cannot hold FF D9; no need to look through them where it comes last.
            whole = frame in _SEQUENTIAL and data.endswith(b"\xff\xd9")
            return width, height, whole or _has_jpeg_end(data, at + 2 + length)
        at = data.find(0xFF, at + (2 if marker in _NO_LENGTH else 2 + length))
    return width, height, False


def _has_jpeg_end(data: bytes, start: int) -> bool:
    """Is there an end marker after the scan that starts at `start`, and the scans and segments that follow it?

    Within a segment (a progressive file's tables) FF D9 may be mere data, so a search for these two bytes will not do.
    """
    coded = np.frombuffer(data, np.uint8)[start:]
    places = np.flatnonzero(coded[:-1] == 0xFF)
    places = places[_ENDS_SCAN[coded[places + 1]]]
    past = 0
    for at in places.tolist():
        if at < past:
            continue
        if coded[at + 1] == _EOI:
            return True
        past = at + 2 + int.from_bytes(coded[at + 2 : at + 4].tobytes())
    return False


def _probe_png(data: bytes) -> tuple[int, int, bool]:
    """(width, height, whole) of a PNG file; whole also means that the checksums of the chunks that matter are right."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        return 0, 0, False
    width, height = struct.unpack_from(">II", data, 16)
    view, at = memoryview(data), 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        critical = kind[:1].isupper()
        if critical and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            break
        if kind == b"IEND":
            return width, height, True
        at = end
    return width, height, False


_PROBES: dict[str, Callable[[bytes], tuple[int, int, bool]]] = {"JPEG": probe_jpeg, "PNG": _probe_png}


def _decode_with_opencv(data: bytes, form: str, name: str) -> Image:
    try:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # among others its own limits: 2^20 pixels a side, 2^30 in all
        raise _damaged(name, form, f"OpenCV's {error.err or error}") from error
    if image is None:
        raise _damaged(name, form, "data that OpenCV cannot decode")
    bgr: Image = image
    return bgr


def _decode_with_pillow(data: bytes, form: str, name: str, max_pixels: int) -> Image:
    module, plugin = _PLUGINS[form]
    try:
        # Not Image.open: its limit on pixels is a global of the process, and its way to speak of it a warning.
        with getattr(import_module(f"PIL.{module}"), plugin)(io.BytesIO(data)) as picture:
            width, height = picture.size
            _check_size(width, height, name, max_pixels)
            if form == "TIFF":  # it asks that same limit before it takes memory, but not where memory is there already
                core = import_module("PIL.Image").core
                picture.im = core.new(picture.mode, getattr(picture, "_tile_size", picture.size))
            picture.load()
            return _to_bgr(_upright(picture), form, name)
    except ImageError:
        raise
    except Exception as error:  # plugins raise whatever their parsing stumbles on: SyntaxError, KeyError, struct.error
        raise _damaged(name, form, f"{error or type(error).__name__}".strip()) from error


def _upright(picture: PillowImage) -> PillowImage:
    from PIL.Image import Transpose

    try:
        turn = _UPRIGHT.get(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken metadata are no reason to refuse good pixels
        return picture
    return picture.transpose(Transpose[turn]) if turn else picture


def _to_bgr(picture: PillowImage, form: str, name: str) -> Image:
    mode = picture.mode
    bgr: Any
    if mode.startswith("I;16") or (mode == "I" and form == "PPM"):  # Pillow widens a 16-bit PGM to 32 bits
        bgr = cv2.cvtColor((np.asarray(picture) >> 8).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    elif mode in ("F", "I"):
        raise ImageError(
            problem(
                f"{name} has samples of 32 bits",
                got="floating-point numbers" if mode == "F" else "32-bit integers",
                expected="8 or 16 bits a channel",
                remedy="Scale it to 0…255 and pass it as an array, or save it with 8 bits.",
            )
        )
    else:
        bgr = cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2BGR)
    image: Image = bgr
    return image
