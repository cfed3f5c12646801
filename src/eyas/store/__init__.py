"""Models by name: bundled, in local folders, or in manifests. The first place in this order that has a name wins.

Folders: those in EYAS_MODELS, then the download folder (eyas/models in XDG_CACHE_HOME or ~/.cache). They hold
NAME.onnx and, where the model needs one, NAME.json: its card. Manifests: those in EYAS_MANIFEST, then
eyas/models.json in XDG_CONFIG_HOME or ~/.config. docs/model-registry.md shows one. Only `pull` goes to the network.

`pull` leaves a receipt beside the model, NAME.sha256, as `sha256sum -c` reads it. It says that eyas put the model
there, and which.
"""

from __future__ import annotations

import atexit
import difflib
import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, NoReturn

from eyas.errors import OptionError, problem
from eyas.store.download import Progress, fetch, sha256_of
from eyas.store.manifest import Entry, in_manifests, is_name, listed, refuse, xdg

BUNDLED = {"nanodet": ("nanodet_g_416.onnx", "Apache-2.0")}  # name → file in eyas/models, licence
log = logging.getLogger("eyas")


@dataclass(frozen=True, slots=True)
class Located:
    """A model's file, and the fields of its card that are kept beside it, possibly none (as `--card` takes them)."""

    path: Path
    card: Mapping[str, Any] = field(default_factory=dict)


def resolve(model: str | Path) -> Located:
    """The file of a model, by path or by name; nothing is downloaded.

    A path is: an existing file, what ends in .onnx or holds a separator, and what ends in another suffix unless it is
    a known name. It comes back unchanged, whether it exists or not. Raises ModelError for a name that is unknown or
    not downloaded, and for a manifest that had to be read and is wrong; CardError for a card that cannot be read.
    """
    name, file = str(model), Located(Path(model))
    with suppress(OSError):  # a name too long for the file system
        if file.path.is_file() or name.lower().endswith(".onnx") or {"/", os.sep, os.altsep} & set(name):
            return file
    if (here := _named(name, _on_disk())) and here.path:
        if here.kind == "pulled" and (entry := _named(name, in_manifests())) and entry.sha256 != here.sha256:
            log.warning("%s has another %s by now: `eyas models pull %s` fetches it", entry.place, name, name)
        card = here.path.with_suffix(".json")
        if here.kind == "bundled" or not card.exists():
            return Located(here.path)
        from eyas.card import read_card

        return Located(here.path, read_card(card))
    if entry := _named(name, in_manifests()):
        remedy = f"`eyas models pull {name}` downloads it."
        refuse(f"the model {name} is not downloaded", f"only its entry in {entry.place}", "its file", remedy)
    if file.path.suffix:
        return file
    _refuse_unknown(name)


def known() -> list[Entry]:
    """Every name in every place, in the order in which they are asked. Raises ModelError for a wrong manifest."""
    on_disk, remote = list(_on_disk()), list(in_manifests())
    pulled = {e.name: e for e in on_disk if e.kind == "pulled"}
    rows: list[Entry] = []
    for entry in on_disk + remote:
        if entry.kind == "pulled" and _named(entry.name, remote):
            continue  # shown as the manifest's
        if entry.kind == "manifest" and (have := pulled.pop(entry.name, None)):
            outdated = have.sha256 != entry.sha256
            entry = replace(entry, path=have.path, size_bytes=have.size_bytes, outdated=outdated)
        rows.append(replace(entry, shadowed=_named(entry.name, rows) is not None))
    return rows


def pull(name: str, to: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Download a manifest's model into the folder `to` (made if need be) or the download folder, and return its file.

    progress(bytes so far, bytes in all or None) is called as it comes in. What an interrupted run left is resumed.
    The file gets its name only once its SHA-256 is right. A file that eyas did not download is never overwritten.
    Raises ModelError: no such name, the network, a wrong file; OptionError: the folder.
    """
    entry, here = _named(name, in_manifests()), _named(name, _on_disk())
    if entry is None and here is not None:
        remedy = f"`eyas models path {name}` prints where it is."
        refuse(f"nothing to download for {name}", f"a model in {here.place}", "a name in a manifest", remedy)
    if entry is None:
        _refuse_unknown(name)
    target = (download_folder() if to is None else Path(to)) / f"{name}.onnx"
    if to is None and here is not None and here.path != target:
        log.warning("%s in %s comes before the one in %s", name, here.place, entry.place)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        have = sha256_of(target) if target.is_file() else ""
        if have not in ("", entry.sha256) and not _receipt(target):
            what, expected = f"{target} is in the way", "no file there, or one that eyas downloaded"
            raise OptionError(problem(what, got="another file", expected=expected, remedy="Name a folder with --to."))
        log.info("%s: licence %s, %s", name, entry.licence, "already there" if have == entry.sha256 else entry.url)
        if have != entry.sha256:
            fetch(entry, target, progress or (lambda done, total: None))
        if entry.card and not (card := target.with_suffix(".json")).exists():
            _write(card, json.dumps(entry.card, indent=2, ensure_ascii=False) + "\n")
        _write(target.with_suffix(".sha256"), f"{entry.sha256}  {target.name}\n")
    except OSError as error:
        what, remedy = f"cannot write {target}", "Check the folder, who may write there, and the free space."
        raise OptionError(problem(what, got=error, expected="a place to write to", remedy=remedy)) from error
    return target


def remove(name: str) -> list[Path]:
    """Delete what `pull` put in the download folder, its card and partial files too, and return it.

    Raises ModelError where there is nothing of that kind, OptionError where it cannot be deleted.
    """
    gone: list[Path] = []
    if is_name(name):
        model = download_folder() / f"{name}.onnx"
        own = [model.with_suffix(s) for s in (".onnx", ".json", ".sha256")] if _receipt(model) else []
        gone = [*model.parent.glob(f".{name}+*"), *(path for path in own if path.exists())]
    if not gone:
        entry = _named(name, known()) or _refuse_unknown(name)
        remedy = "Only what `eyas models pull` downloaded is removed; other files are yours to delete."
        got = "a bundled model" if entry.kind == "bundled" else f"one in {entry.place}"
        refuse(f"{name} is not removed", got, "a downloaded model", remedy)
    try:
        for path in gone:
            path.unlink(missing_ok=True)
    except OSError as error:
        remedy = "Check who may write in its folder."
        raise OptionError(problem(f"cannot delete {name}", got=error, expected="to be let", remedy=remedy)) from error
    return gone


def download_folder() -> Path:
    """Where `pull` puts models unless told otherwise; it may not exist yet."""
    return xdg("XDG_CACHE_HOME", ".cache") / "models"


def _named(name: str, among: Iterable[Entry]) -> Entry | None:
    return next((e for e in among if e.name == name), None)


def _refuse_unknown(name: str) -> NoReturn:
    near = difflib.get_close_matches(name, {e.name for e in known()})
    expected = "an .onnx file or the name of a model (`eyas models` lists them)"
    remedy = f"Did you mean {' or '.join(near)}?" if near else "Check the spelling, EYAS_MODELS and EYAS_MANIFEST."
    refuse(f"there is no model {name}", "neither a file nor a known name", expected, remedy)


def _on_disk() -> Iterator[Entry]:
    for name, (_, licence) in BUNDLED.items():
        path = _bundled(name)
        yield Entry(name, "bundled", "bundled", path, path.stat().st_size, licence)
    own = download_folder()
    for folder in [*(f for f in dict.fromkeys(listed("EYAS_MODELS")) if f != own), own]:
        for path in sorted(p for p in folder.glob("*.onnx") if p.name[0] != "." and p.is_file()):
            sha256 = _receipt(path) if folder == own else ""
            kind: Literal["pulled", "folder"] = "pulled" if sha256 else "folder"
            yield Entry(path.stem, kind, str(folder), path, path.stat().st_size, sha256=sha256)


@cache
def _bundled(name: str) -> Path:
    kept = ExitStack()  # of a zipped package, the file is unpacked until the program ends
    atexit.register(kept.close)
    return kept.enter_context(as_file(files("eyas") / "models" / BUNDLED[name][0]))


def _receipt(model: Path) -> str:
    """The SHA-256 that `pull` noted of a model; "" where the file is none of its."""
    with suppress(OSError, ValueError):
        return model.with_suffix(".sha256").read_text(encoding="ascii").partition(" ")[0]
    return ""


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.stem}+{secrets.token_hex(4)}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
