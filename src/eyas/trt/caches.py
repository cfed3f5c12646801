"""Files that make the next build or start faster: TensorRT's timing cache, TensorRT-RTX's runtime cache.

Neither is needed: a file that is missing, damaged or of another version is replaced, never an error.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from eyas.engines.folder import cache_folder
from eyas.engines.lock import locked
from eyas.errors import EyasError
from eyas.files import write_atomically
from eyas.trt.device import Gpu
from eyas.trt.edition import Edition
from eyas.trt.options import Options

log = logging.getLogger("eyas")


def timing_file(edition: Edition, options: Options, key: str) -> Path | None:
    """Where timings are kept; None where they are not. TensorRT-RTX times nothing while building."""
    if edition.rtx or options.timing_cache == "":
        return None
    word = "".join(c if c.isalnum() else "-" for c in f"{edition.title}-{key}")
    return Path(options.timing_cache) if options.timing_cache else cache_folder() / f"timing-{word}.cache"


def attach_timing(config: Any, path: Path) -> None:
    """Give the builder what earlier builds measured."""
    cache = config.create_timing_cache(_read(path))
    if not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def keep_timing(config: Any, path: Path) -> None:
    """Store what this build measured on top of what is there by now."""
    cache = config.get_timing_cache()
    with locked(path):
        earlier = _read(path)
        if earlier:
            cache.combine(config.create_timing_cache(earlier), True)
        _write(path, bytes(cache.serialize()))


def runtime_file(options: Options, gpu: Gpu, plan_digest: str) -> Path | None:
    """Where compiled kernels of one plan on one kind of GPU are kept; None where they are not."""
    if options.runtime_cache == "":
        return None
    return Path(options.runtime_cache) if options.runtime_cache else cache_folder() / f"{plan_digest}-{gpu.sm}.runtime"


def attach_runtime_cache(config: Any, path: Path) -> Any:
    """A cache for a runtime configuration, filled with what is stored."""
    cache = config.create_runtime_cache()
    stored = _read(path)
    if stored and not cache.deserialize(stored):
        log.debug("%s is of no use any more: kernels are compiled again", path)
    config.set_runtime_cache(cache)
    return cache


def keep_runtime_cache(cache: Any, path: Path) -> None:
    """Store what has been compiled."""
    data = bytes(cache.serialize())
    if data and data != _read(path):
        _write(path, data)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _write(path: Path, data: bytes) -> None:
    """A cache that cannot be written costs time, nothing else."""
    try:
        write_atomically(path, data)
    except EyasError as error:
        log.warning("%s", error)
