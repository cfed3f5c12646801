"""What the user names (files, folders, globs, bytes, arrays, standard input) → pictures, one at a time.

`pictures` never raises for what it finds: a thing that cannot be used becomes a `Picture` whose `load` raises, so
that the caller decides whether one bad path ends the run.
"""

from __future__ import annotations

import difflib
import glob
import io
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from eyas.cuda.memory import device_image, on_device
from eyas.errors import EyasError, ImageError, SourceError, problem
from eyas.imagefile import HEAD_BYTES, MAX_PIXELS, picture_format, read_image
from eyas.types import Frame, Image, check_image

# fmt: off
PICTURE_SUFFIXES = frozenset([
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif",
])
VIDEO_SUFFIXES = frozenset([
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".mts", ".m2ts", ".3gp", ".ogv",
])
# fmt: on

_ONE_THING = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Frame, Mapping, io.IOBase)
_THINGS = "a path, a folder, a glob, '-', bytes, a numpy array, a Frame, or a list of these"
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)

Decode = Callable[[bytes, str, int], Image]
"""As `read_image`, whose parameters these are; the image may be on a GPU."""

Read = Callable[[Decode], "Image | Frame"]


class Load(Protocol):
    """Reads a picture, and decodes it where it is encoded."""

    def __call__(self, decode: Decode = read_image) -> Frame: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture that has been named but not read yet.

    source_id: the path as the user gave it (a folder's joined with the file's name), "stdin", "bytes 2", "array 3".
    index: its number among all pictures of the run, from 0.
    pixels: what `load` will give as the image, where that is in memory already.
    load: reads and decodes; returns a Frame with this index and source_id. Raises ImageError where the picture cannot
    be read, SourceError where what the user named is not there or is no picture source. What is in memory already takes
    no other decoder.
    """

    source_id: str
    index: int
    load: Load
    pixels: object = None


def pictures(sources: Any, max_pixels: int = MAX_PIXELS) -> Iterator[Picture]:
    """Yield the pictures that `sources` names, in order; nothing is opened before its turn, nothing decoded at all.

    sources: one thing or an iterable of things (a generator stays lazy). A thing is
    - str or Path: a picture file; a folder (its files with a suffix of PICTURE_SUFFIXES, without hidden ones and
      subfolders, in natural order: img2 before img10); or a glob with `*`, `?`, `[…]`, `**` (same choice and order);
      a name that exists is never taken for a glob;
    - "-": the bytes of one picture file on standard input;
    - bytes, bytearray, memoryview: the content of one picture file;
    - an array on a GPU, of any library that speaks DLPack or CUDA's array interface: uint8 [H, W, 3] BGR, borrowed;
    - numpy uint8 [H, W, 3] BGR, or [H, W] or [H, W, 1] grey; borrowed, not copied where it is BGR already;
    - a Frame: keeps its source_id and pts_s, and is given this run's index.

    max_pixels: the largest width × height to decode (see `read_image`). Raises nothing of its own: see `Picture.load`.
    """
    things = sources if _is_many(sources) else [sources]
    index = 0
    stdin_taken = False
    for thing in things:
        is_stdin = isinstance(thing, str) and thing == "-"
        found = [_fail("stdin", *_STDIN_TWICE)] if is_stdin and stdin_taken else _expand(thing, index, max_pixels)
        stdin_taken |= is_stdin
        pixels = thing.image if isinstance(thing, Frame) else thing if isinstance(thing, np.ndarray) else None
        for source_id, read in found:
            yield Picture(source_id, index, partial(_frame, read, source_id, index), pixels)
            index += 1


def only_picture(source: Any) -> Picture:
    """The picture that a source names for which `is_single` is true."""
    if isinstance(source, np.ndarray):  # in short, for callers that submit thousands a second
        return Picture("array 0", 0, partial(_frame, partial(_from_array, source, "array 0"), "array 0", 0), source)
    (picture,) = pictures(source)
    return picture


def is_single(source: Any) -> bool:
    """True if `source` names one picture (file, "-", bytes, array, Frame, also one that will fail); False for a list
    or another iterable, a folder, a glob. Opens no file."""
    if isinstance(source, (np.ndarray, Frame)):
        return True
    if isinstance(source, (str, os.PathLike)):
        mode, _ = _look(source)
        return not stat.S_ISDIR(mode) and not (mode == 0 and _is_glob(source))
    return not _is_many(source)


def _is_many(source: Any) -> bool:
    # Tensors of other libraries are iterable, row by row: better one clear refusal than one for each row.
    return isinstance(source, Iterable) and not isinstance(source, _ONE_THING) and not hasattr(source, "__array__")


def _frame(read: Read, source_id: str, index: int, decode: Decode = read_image) -> Frame:
    got = read(decode)
    return replace(got, index=index) if isinstance(got, Frame) else Frame(got, index, source_id)


def _expand(thing: Any, index: int, max_pixels: int) -> Iterable[tuple[str, Read]]:
    """(source_id, reader) of each picture that one thing names; at least one."""
    if isinstance(thing, Frame):
        return [(thing.source_id, lambda _: thing)]
    if isinstance(thing, np.ndarray):
        name = f"array {index}"
        return [(name, partial(_from_array, thing, name))]
    if isinstance(thing, (bytes, bytearray, memoryview)):
        name = f"bytes {index}"
        return [(name, lambda decode: decode(bytes(thing), name, max_pixels))]
    if isinstance(thing, str) and thing == "-":
        return [("stdin", partial(_from_stdin, max_pixels))]
    if isinstance(thing, (str, os.PathLike)):
        return _expand_path(os.fsdecode(thing), max_pixels)
    if on_device(thing):
        name = f"array {index}"
        try:
            image = check_image(device_image(thing, name))  # now: its writer's stream is known on this thread alone
        except EyasError as error:
            return [(name, partial(_raise, error))]
        return [(name, lambda _: image)]
    name = type(thing).__name__
    return [_fail(name, "this is no picture source", f"{type(thing).__module__}.{name}", _THINGS, _AS_ARRAY)]


def _expand_path(text: str, max_pixels: int) -> Iterable[tuple[str, Read]]:
    mode, reason = _look(text)
    suffix = Path(text).suffix
    try:
        if mode == 0 and _is_glob(text):
            # pathlib's own glob knows no absolute patterns and no `**` that matches files (Python 3.11).
            found = glob.glob(text, recursive=True)  # noqa: PTH207
            return _listing(text, "the glob", [Path(p) for p in found], max_pixels)
        if stat.S_ISDIR(mode):
            visible = [p for p in Path(text).iterdir() if not p.name.startswith(".")]
            return _listing(text, "the folder", visible, max_pixels)
    except (OSError, ValueError) as error:
        return [_fail(text, f"{text!r} cannot be listed", _reason(error), "a folder that may be read", _RIGHTS)]
    if mode == 0:
        return [_fail(text, *_missing(text, reason))]
    if suffix.lower() in VIDEO_SUFFIXES:
        return [_fail(text, f"{text} is a video", f"a {suffix} file", "a picture", _VIDEO)]
    return [(text, partial(_from_file, text, max_pixels))]


def _listing(text: str, what: str, paths: list[Path], max_pixels: int) -> Iterable[tuple[str, Read]]:
    """The pictures among the paths that a folder or glob gave, or one that fails and says what was there instead."""
    chosen = sorted((p for p in paths if p.suffix.lower() in PICTURE_SUFFIXES), key=_natural)
    if chosen:
        return ((str(p), partial(_from_file, str(p), max_pixels)) for p in chosen)
    kinds = Counter("folder" if stat.S_ISDIR(_look(p)[0]) else p.suffix.lower() or "no suffix" for p in paths)
    others = ", ".join(f"{n} × {kind}" for kind, n in kinds.most_common(5))
    got = f"{len(paths)} of other kinds ({others})" if paths else "nothing at all"
    remedy = "Check the spelling, or name the files one by one; subfolders are reached with a glob such as 'pics/**/*'."
    return [_fail(text, f"{what} {text} holds no picture", got, "files named *.jpg, *.png, *.webp, *.bmp …", remedy)]


def _missing(text: str, reason: str) -> tuple[str, str, str, str]:
    """The words for a path that is not there: (what, got, expected, remedy)."""
    if _URL.match(text):
        return f"{text} is a URL", "an address", "a path on this machine", _DOWNLOAD
    path = Path(text)
    try:
        siblings = [p.name for p in islice(path.parent.iterdir(), 10_000)]
    except (OSError, ValueError):
        siblings = []
    close = difflib.get_close_matches(path.name, siblings, n=3)
    remedy = f"Did you mean {' or '.join(str(path.parent / name) for name in close)}?" if close else "Check the path."
    shown = text if len(text) <= 300 else text[:300] + "…"
    return f"{shown!r} cannot be used", reason, "a picture, a folder or a glob that matches something", remedy


_AS_ARRAY = "For a PIL picture or a tensor pass a numpy uint8 array in BGR order; for an open file, its read()."
_RIGHTS = "Check that it is still there and its permissions."
_DOWNLOAD = "Download it first: pictures are read from files."
_VIDEO = "model.stream(eyas.video.open_video(path)) goes through its frames."
_STDIN_TWICE = ("'-' can be used only once", "a second '-'", "one picture on standard input", "Leave one of them out.")
_STDIN_EMPTY = ("nothing comes on standard input", "a terminal", "a picture's bytes", "Write eyas … - < picture.jpg")


def _fail(source_id: str, what: str, got: str, expected: str, remedy: str) -> tuple[str, Read]:
    """A picture that cannot be loaded, and why."""

    def read(_: Decode) -> Image:
        raise SourceError(problem(what, got=got, expected=expected, remedy=remedy))

    return source_id, read


def _raise(error: EyasError, _: Decode) -> Image:
    raise error


def _look(path: Any) -> tuple[int, str]:
    """(st_mode, "") of what the path names, or (0, the reason) where there is nothing to be had."""
    if not os.fspath(path):
        return 0, "an empty path"
    try:
        return Path(os.fsdecode(path)).stat().st_mode, ""
    except (OSError, ValueError) as error:  # ValueError: a zero character in the path
        return 0, _reason(error)


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _is_glob(path: Any) -> bool:
    text = os.fsdecode(path)
    return any(char in text for char in "*?[") and not _URL.match(text)


def _natural(path: Path) -> tuple[list[list[str | int]], str]:
    """Sort key by which img2 comes before img10; split() alternates text and number, so like meets like."""
    pieces = (re.split(r"(\d+)", part.lower()) for part in path.parts)
    return [[int(p) if i % 2 else p for i, p in enumerate(part)] for part in pieces], str(path)


def _from_file(path: str, max_pixels: int, decode: Decode) -> Image:
    try:
        with Path(path).open("rb") as file:
            picture_format(file.peek(HEAD_BYTES)[:HEAD_BYTES], path)  # before the whole of a 10 GB archive is read
            data = file.read()
    except OSError as error:
        raise ImageError(
            problem(f"{path} cannot be read", got=_reason(error), expected="a file that may be read", remedy=_RIGHTS)
        ) from error
    return decode(data, path, max_pixels)


def _from_stdin(max_pixels: int, decode: Decode) -> Image:
    if sys.stdin is None or sys.stdin.isatty():
        what, got, expected, remedy = _STDIN_EMPTY
        raise SourceError(problem(what, got=got, expected=expected, remedy=remedy))
    return decode(sys.stdin.buffer.read(), "stdin", max_pixels)


def _from_array(array: np.ndarray[Any, Any], name: str, _: Decode) -> Image:
    if array.dtype == np.uint8 and array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)):
        grey: Any = cv2.cvtColor(array.reshape(array.shape[:2]), cv2.COLOR_GRAY2BGR)
        return check_image(grey, name)
    return check_image(array, name)
