"""Write files so that nobody ever sees half of one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eyas.errors import SinkError, problem


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the place first, then move it there. Raises SinkError."""
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place at the end, unless an error comes. Raises SinkError."""
    part = path.with_name(f".eyas-{secrets.token_hex(6)}.part")
    with writing(path):
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """The folder, made with its parents if need be. Raises SinkError."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into a SinkError."""
    try:
        yield
    except OSError as error:
        what, remedy = f"cannot write {path}", "Check the path, who may write there, and the free space."
        got = error.strerror or str(error)
        raise SinkError(problem(what, got=got, expected="a place to write to", remedy=remedy)) from error
