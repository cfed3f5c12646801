"""Manifests: JSON files that name models to download, and the checks that make their entries safe to use."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

from eyas.errors import CardError, ModelError, problem


@dataclass(frozen=True, slots=True)
class Entry:
    """A name and one place that has it.

    kind: "bundled"; "folder", a user's file; "pulled", a file that no manifest names any more; "manifest". place: the
    folder or the manifest, "bundled" for that. path: None if not downloaded. licence, about: "" if unknown.
    shadowed: an earlier place has the name, too. outdated: downloaded, but the manifest names another file by now.
    """

    name: str
    kind: Literal["bundled", "folder", "pulled", "manifest"]
    place: str
    path: Path | None = None
    size_bytes: int | None = None
    licence: str = ""
    about: str = ""
    url: str = ""
    sha256: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    shadowed: bool = False
    outdated: bool = False

    @property
    def downloaded(self) -> bool:
        """True if `pull` brought it, whether that is still what the manifest names or not."""
        return self.path is not None and self.kind in ("pulled", "manifest")


def refuse(what: str, got: object, expected: str, remedy: str) -> NoReturn:
    """Raise ModelError in the shape that every error of eyas has."""
    raise ModelError(problem(what, got=got, expected=expected, remedy=remedy))


def xdg(variable: str, usual: str) -> Path:
    """The user's folder for eyas: in the one that `variable` names, or in ~/`usual`."""
    return Path(os.environ.get(variable) or Path.home() / usual) / "eyas"


def listed(variable: str) -> list[Path]:
    """The paths in an environment variable, separated as in PATH."""
    return [Path(p) for p in os.environ.get(variable, "").split(os.pathsep) if p]


def is_name(value: object) -> bool:
    """True for a name that is safe as a file's."""
    text = value if isinstance(value, str) else ""
    return bool(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", text)) and not text.lower().endswith(".onnx")


def is_https(value: object) -> bool:
    """True for https://HOST/… without a user and in ASCII."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        return False
    try:
        url = urlsplit(value)
        return url.scheme == "https" and bool(url.hostname) and "@" not in url.netloc and url.port != 0
    except ValueError:  # a port out of range, half an IPv6 address
        return False


def _is_line(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (is_name, "1 to 100 of A-Z a-z 0-9 . _ -, no dot at the start, no .onnx at the end"),
    "url": (is_https, "https://HOST/…, in ASCII, without a user"),
    "sha256": (lambda v: isinstance(v, str) and bool(re.fullmatch("[0-9a-fA-F]{64}", v)), "64 hex digits"),
    "licence": (_is_line, "one line of text, such as an SPDX name (Apache-2.0)"),
    "bytes": (lambda v: type(v) is int and v > 0, "the file's size, a whole number over 0"),
    "about": (_is_line, "one line of text"),
    "card": (lambda v: isinstance(v, dict), "an object, as `eyas info MODEL --format json` prints"),
}
_REQUIRED = ("name", "url", "sha256", "licence")
_ANY_CARD = {
    "family": "yolov8",
    "input_size": [32, 32],
    "normalise": {"colour": "rgb", "mean": [0, 0, 0], "scale": [1, 1, 1]},
    "names": ["any"],
}


def in_manifests() -> Iterator[Entry]:
    """The entries of all manifests, in order. Raises ModelError for the first fault."""
    own = xdg("XDG_CONFIG_HOME", ".config") / "models.json"
    for file in dict.fromkeys([*listed("EYAS_MANIFEST"), *([own] if own.exists() else [])]):
        yield from _read_manifest(file)


def _read_manifest(file: Path) -> list[Entry]:
    shape, remedy = '{"models": [{"name": …, "url": …, "sha256": …, "licence": …}, …]}', "Mend it, or do not name it."
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        refuse(f"the manifest {file} cannot be read", error, f"a JSON file {shape}", remedy)
    if not isinstance(content, dict) or content.keys() != {"models"} or not isinstance(content["models"], list):
        refuse(f"the manifest {file} is of another shape", _short(content), shape, remedy)
    seen: dict[str, int] = {}
    entries = []
    for number, fields in enumerate(content["models"], 1):
        entry = _entry(file, number, fields)
        first = seen.setdefault(entry.name.casefold(), number)  # macOS and Windows see one file in both
        if first != number:
            what = f"{file}, entry {number}: the name is taken"
            refuse(what, f"{entry.name}, as in entry {first}", "each name once, in whatever case", "Rename one.")
        entries.append(entry)
    return entries


def _entry(file: Path, number: int, fields: Any) -> Entry:
    what = f"{file}, entry {number}"
    if not isinstance(fields, dict):
        refuse(f"{what} is no entry", _short(fields), "an object", f"Its fields: {', '.join(_RULES)}.")
    if is_name(fields.get("name")):
        what += f" ({fields['name']})"
    for key in (key for key in fields if key not in _RULES):
        near = difflib.get_close_matches(key, _RULES, 1)
        remedy = f"Did you mean {near[0]}?" if near else "Leave it out."
        refuse(f"{what}: unknown field", repr(key), " | ".join(_RULES), remedy)
    for key in dict.fromkeys([*_REQUIRED, *fields]):
        fits, expected = _RULES[key]
        if key not in fields or not fits(fields[key]):
            got = _short(fields[key]) if key in fields else "nothing"
            refuse(f"{what}: {key} is wrong", got, expected, "docs/model-registry.md explains each field.")
    if card := fields.get("card"):
        from eyas.card import card_from_dict

        try:
            card_from_dict(_ANY_CARD | card)  # a card may hold some fields only
        except CardError as error:
            raise ModelError(f"{what}: {error}") from error
    known = {key: fields[key] for key in ("name", "url", "licence", "card", "about") if key in fields}
    size = fields.get("bytes")
    return Entry(kind="manifest", place=str(file), size_bytes=size, sha256=fields["sha256"].lower(), **known)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
