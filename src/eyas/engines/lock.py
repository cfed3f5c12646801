"""One builder at a time for one file. The kernel lets go of the lock when a process dies, `kill -9` included.

The lock's own file is in the cache folder, so that nothing is left beside what is built.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from eyas.engines.folder import cache_folder
from eyas.errors import SinkError, problem
from eyas.files import writing

try:
    fcntl: Any = import_module("fcntl")
except ImportError:  # not on Windows
    fcntl = None

log = logging.getLogger("eyas")
POLL_S = 0.1


@contextmanager
def locked(path: Path, patience_s: float = 3600.0) -> Iterator[None]:
    """Hold the lock of `path` while the block runs; the file need not exist.

    patience_s: how long to wait for another holder. Raises SinkError where the time is up or nothing can be written.
    """
    place = cache_folder() / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:24]}.lock"
    end = time.monotonic() + patience_s
    with writing(place):
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if _by_kernel(handle, path, end):
            os.utime(place)  # `prune` deletes what nobody has touched for a day
            yield
            return
    finally:
        os.close(handle)
    with _by_file(place.with_suffix(".held"), path, end):
        yield


def _by_kernel(handle: int, path: Path, end: float) -> bool:
    """Wait for the kernel's lock; False where the file system has none."""
    if fcntl is None:
        return False
    said = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            said = _wait(path, end, said)
        except OSError:  # some network file systems
            return False


@contextmanager
def _by_file(place: Path, path: Path, end: float) -> Iterator[None]:
    """The same with a file that names its holder; one whose holder is dead is taken over."""
    mine = f"{socket.gethostname()} {os.getpid()}"
    said = False
    while True:
        try:
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            break
        except FileExistsError:
            if _is_dead(place):
                place.unlink(missing_ok=True)
            else:
                said = _wait(path, end, said)
    with os.fdopen(handle, "w") as file:
        file.write(mine)
    try:
        yield
    finally:
        place.unlink(missing_ok=True)


def _is_dead(place: Path) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    try:
        host, _, number = place.read_text().partition(" ")
    except OSError:
        return False
    if os.name != "posix" or host != socket.gethostname() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _wait(path: Path, end: float, said: bool) -> bool:
    if not said:
        log.info("another process is building %s: waiting for it", path.name)
    if time.monotonic() > end:
        raise SinkError(
            problem(
                f"{path} is being built by another process",
                got="no end of that in time",
                expected="it to finish",
                remedy="Wait, or end that process; where none is left, `eyas cache prune` tidies up after a day.",
            )
        )
    time.sleep(POLL_S)
    return True
