"""Engines kept for `eyas.load`, for backends whose compile takes long; listed and pruned by `eyas cache`."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from eyas.backends import Engine
from eyas.engines.build import Recipe, compiled, write_together
from eyas.engines.folder import KEY, cache_folder
from eyas.engines.lock import locked
from eyas.engines.open import checked_plan
from eyas.engines.sidecar import FORMAT, Sidecar, graph_path, read_sidecar, sha256, sidecar_path, spec_to_dict
from eyas.errors import ModelError, SinkError

log = logging.getLogger("eyas")
STALE_S = 24 * 3600.0  # parts and locks that nobody has touched for so long are left over from a dead process


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached engine. size: bytes of all its files. used: seconds since the epoch."""

    path: Path
    sidecar: Sidecar
    size: int
    used: float


def open_cached(recipe: Recipe) -> Engine:
    """The engine, from the cache or compiled into it. A cache that cannot be used costs time, nothing else.

    Backends that do not say `CACHED` are asked directly: OpenVINO compiles in a second.
    """
    if not getattr(recipe.module, "CACHED", False) or recipe.module.fitness().rank < 0:  # the latter says why not
        return recipe.module.open_engine(recipe.graph, recipe.spec)
    try:
        path = cache_folder() / f"{cache_key(recipe)}.plan"
        with locked(path):
            plan = _found(path) or _built(path, recipe)
    except SinkError as error:
        log.warning("engines are not kept: %s", error)
        return recipe.module.open_engine(recipe.graph, recipe.spec)
    return recipe.module.load_engine(plan, recipe.spec)


def cache_key(recipe: Recipe) -> str:
    """Everything that the plan depends on, hashed."""
    parts = {
        "format": FORMAT,
        "graph": sha256(recipe.graph_bytes()),
        "spec": spec_to_dict(recipe.spec),
        "backend": [recipe.backend, recipe.module.version(), recipe.module.device_key(recipe.spec)],
    }
    return sha256(json.dumps(parts, sort_keys=True).encode())[:32]


def _found(path: Path) -> bytes | None:
    """The plan, if there is one and it verifies; a damaged one is as good as none."""
    if not path.exists():
        return None
    try:
        sidecar = read_sidecar(path)
        if not sidecar.verifies():
            raise ModelError("its sidecar does not verify")
        plan = checked_plan(path, sidecar)
    except ModelError as error:
        log.warning("a cached engine is built again: %s", error)
        return None
    path.touch()
    return plan


def _built(path: Path, recipe: Recipe) -> bytes:
    log.info("building an engine with %s: this happens once", recipe.backend)
    _, contents = compiled(recipe, path)
    contents.pop(graph_path(path))  # the model is at hand whenever this entry is
    try:
        write_together(contents)
    except SinkError as error:
        log.warning("the engine is used, but not kept: %s", error)
    return contents[path]


def entries() -> list[Entry]:
    """Every cached engine, most recently used first; damaged ones are left out."""
    found = []
    for path in cache_folder().glob("*.plan"):
        try:
            stat = path.stat()
            found.append(
                Entry(path, read_sidecar(path), stat.st_size + sidecar_path(path).stat().st_size, stat.st_mtime)
            )
        except (ModelError, OSError):
            continue
    return sorted(found, key=lambda e: -e.used)


def prune(max_size: int | None = None, older_than_s: float | None = None) -> list[Path]:
    """Delete the engines that were not used for `older_than_s` seconds, then the least recently used until at most
    `max_size` bytes are left; always what a dead process left over and what is damaged. Gives the deleted files.
    """
    folder, now = cache_folder(), time.time()
    kept = entries()
    whole = {e.path for e in kept}
    gone = [f for e in kept if older_than_s is not None and now - e.used > older_than_s for f in _files(e.path)]
    left = [e for e in kept if e.path not in gone]
    total = sum(e.size for e in left)
    while left and max_size is not None and total > max_size:
        last = left.pop()
        total -= last.size
        gone += _files(last.path)
    for path in folder.iterdir():
        left_over = path.suffix in (".part", ".lock", ".held")
        damaged = ".plan" in path.name and folder / f"{path.name.split('.plan')[0]}.plan" not in whole
        if (left_over or damaged) and now - path.stat().st_mtime > STALE_S:
            gone.append(path)
    for path in gone:
        if path.name != KEY:
            path.unlink(missing_ok=True)
    return gone


def _files(plan: Path) -> list[Path]:
    return [path for path in (plan, sidecar_path(plan), graph_path(plan)) if path.exists()]
