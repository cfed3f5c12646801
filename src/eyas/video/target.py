"""What a user names as a video → what it is: a file, pictures in a row, a camera, an address, standard input."""

from __future__ import annotations

import glob
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from eyas.errors import SourceError, problem
from eyas.source import PICTURE_SUFFIXES, Picture, pictures

Kind = Literal["file", "pictures", "camera", "web", "stream", "stdin"]
LIST_SUFFIXES = frozenset([".txt", ".streams"])
WEB_SCHEMES = frozenset(["http", "https"])
STREAM_SCHEMES = frozenset(["rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp"])
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_IN_PASSWORDS = "In a user's name or password, write / as %2F, # as %23, ? as %3F and [ as %5B."
_PATTERN = re.compile(r"%(0\d+)?d")


@dataclass(frozen=True, slots=True)
class Target:
    """A video that has been named but not opened yet.

    kind: "web" is HTTP, "stream" another network protocol. where: a path, a device or an address, as libav takes it.
    source_id: the name that frames carry; passwords in addresses are left out of it.
    """

    kind: Kind
    where: str
    source_id: str


def target_of(source: Any) -> Target:
    """What `source` is; see `eyas.video.open_video`. Opens nothing. Raises SourceError."""
    if isinstance(source, int) and not isinstance(source, bool) and source >= 0:
        return Target("camera", f"/dev/video{source}", f"camera {source}")
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        expected = "a path, an address, a camera's number, or '-'"
        raise SourceError(problem("this is no video source", got=repr(source), expected=expected, remedy=""))
    text = os.fsdecode(source)
    if text == "-":
        return Target("stdin", "-", "stdin")
    if found := _SCHEME.match(text):
        return _address(text, found[1].lower())
    try:
        mode = Path(text).stat().st_mode
    except (OSError, ValueError) as error:
        if text.isascii() and text.isdigit():
            return target_of(int(text))
        if _PATTERN.search(Path(text).name) or any(c in text for c in "*?["):
            return Target("pictures", text, text)
        got = getattr(error, "strerror", None) or str(error)
        remedy = "Check the path."
        raise SourceError(
            problem(f"{text[:300]!r} cannot be used", got=got, expected="a video", remedy=remedy)
        ) from error
    if stat.S_ISCHR(mode):
        return Target("camera", text, text)
    suffix = Path(text).suffix.lower()
    if suffix in LIST_SUFFIXES:
        what, got, expected = f"{text} is a list", f"a {suffix} file", "one video"
        raise SourceError(problem(what, got=got, expected=expected, remedy="open_videos reads lists of sources."))
    return Target("pictures" if stat.S_ISDIR(mode) or suffix in PICTURE_SUFFIXES else "file", text, text)


def _address(text: str, scheme: str) -> Target:
    expected = f"a host, and one of {', '.join(sorted(WEB_SCHEMES | STREAM_SCHEMES))}"
    try:
        parts = urlsplit(text)
        whole = bool(parts.path if scheme == "file" else parts.hostname) and (parts.port or 1) > 0
    except ValueError as error:  # what it says may be part of a password
        got, remedy = (f"{scheme}://…@…", _IN_PASSWORDS) if "@" in text else (text, "")
        what, expected = "the address cannot be read", "host:port, with a port of 1 to 65535, or a host alone"
        raise SourceError(problem(what, got=got, expected=expected, remedy=remedy)) from error
    if scheme == "file" and whole:
        return target_of(url2pathname(parts.path))
    if scheme not in WEB_SCHEMES | STREAM_SCHEMES or not whole:
        raise SourceError(problem("the address cannot be used", got=hide_password(text), expected=expected, remedy=""))
    return Target("web" if scheme in WEB_SCHEMES else "stream", text, hide_password(text))


def hide_password(url: str) -> str:
    """The address without the user's name and password, for messages and `source_id`."""
    return re.sub(r"(?<=://)[^/?#]*@", "", url, count=1)


def listed_pictures(where: str, max_pixels: int) -> list[Picture]:
    """The pictures of a folder, a glob, one file, or a pattern such as img_%04d.jpg, in the order of their numbers.

    A pattern starts at the smallest number there is and passes over missing ones. Raises SourceError.
    """
    name = Path(where).name
    found = _PATTERN.search(name)
    if not found or Path(where).exists():
        return list(pictures(where, max_pixels))
    digits = rf"(\d{{{int(found[1])},}})" if found[1] else r"(\d+)"
    wanted = re.compile(re.escape(name[: found.start()]) + digits + re.escape(name[found.end() :]))
    folder = Path(where).parent
    try:
        names = [p.name for p in folder.iterdir()]
    except OSError as error:
        got = error.strerror or str(error)
        raise SourceError(problem(f"{folder} cannot be listed", got=got, expected="a folder", remedy="")) from error
    numbered = sorted((int(m[1]), m[0]) for m in map(wanted.fullmatch, names) if m)
    if not numbered:
        example = name[: found.start()] + found[0] % 1 + name[found.end() :]
        what, got = f"the pattern {where} matches nothing", f"{len(names)} other files"
        raise SourceError(problem(what, got=got, expected=f"files like {example}", remedy="Check the spelling."))
    return list(pictures([folder / n for _, n in numbered], max_pixels))


def listed_sources(file: str | os.PathLike[str]) -> list[str]:
    """The sources that a list file names: one a line; empty lines and those with # first are passed over.

    Relative paths are relative to the list's folder. Raises SourceError.
    """
    path = Path(file)
    if path.suffix.lower() not in LIST_SUFFIXES:
        what, got, expected = f"{path} is no list", f"a {path.suffix} file", " or ".join(sorted(LIST_SUFFIXES))
        raise SourceError(problem(what, got=got, expected=expected, remedy="For one video, put it into a Python list."))
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise SourceError(problem(f"{path} cannot be read", got=got, expected="a list", remedy="")) from error
    named = [line for line in lines if line and not line.startswith("#")]
    if not named:
        expected = "a path or an address a line"
        raise SourceError(problem(f"{path} names no source", got=f"{len(lines)} lines", expected=expected, remedy=""))
    return [s if _SCHEME.match(s) or s == "-" or s.isdigit() else _beside(path.parent, s) for s in named]


def _beside(folder: Path, name: str) -> str:
    """The path or glob `name` in `folder`, whose own name is no glob."""
    is_glob = any(c in name for c in "*?[") and not (folder / name).exists()
    return str((Path(glob.escape(str(folder))) if is_glob else folder) / name)
