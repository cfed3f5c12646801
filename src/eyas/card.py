"""Settle what a network is: from our own metadata, from Ultralytics' keys, from its shapes, or not at all.

Order of authority: the user's flags, the model's own card (metadata key "eyas", JSON), Ultralytics' keys, the
shapes. Where two readings remain, the error names both and the flag that decides.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eyas import registry
from eyas.coco import COCO80
from eyas.errors import CardError, OptionError, problem
from eyas.families import Guess, family
from eyas.graph.network import Facts
from eyas.types import TASKS, ModelCard, Normalise, Task

METADATA_KEY = "eyas"
log = logging.getLogger("eyas")


def settle_card(
    facts: Facts,
    said: Mapping[str, Any] | None = None,
    *,
    family_name: str | None = None,
    names: tuple[str, ...] | None = None,
) -> ModelCard:
    """The card of a network, given what the user says (all optional). Raises CardError where it cannot be settled.

    said: fields of a card (see `card_to_dict`), which win over what the file says. family_name: a module of
    `eyas.families` or a third party's; names: one per class: these win over everything.
    """
    said = said or {}
    own = _loads(facts.metadata[METADATA_KEY], "the model's own card") if METADATA_KEY in facts.metadata else {}
    wanted = family_name or said.get("family")
    if wanted and own.get("family") != wanted:  # all but the names belongs to the family that it is not
        own = {k: v for k, v in own.items() if k == "names"}
    fields = own | dict(said) | ({"family": family_name} if family_name else {}) | ({"names": names} if names else {})
    _check_kinds(fields)
    if not fields.keys() >= _SETTLED:
        hint = _from_ultralytics(facts.metadata)
        task = _known_task(fields.get("task") or hint.get("task")) if not fields.get("family") else None
        guessed = _recognise(facts, fields.get("family"), fields.get("names") or hint.get("names"), task)
        hint.pop("task", None)  # the family's own, which is the same unless the user named another family
        params = {**guessed["params"], **fields.get("params", {})}
        fields = guessed | hint | fields | {"params": params}
    fields = fields | {"input_size": facts.size}
    return card_from_dict(fields)


# What must be known for the shapes not to be asked; and JSON's kind of those fields that are used before the card is.
_SETTLED = {f.name for f in dataclasses.fields(ModelCard)} - {"input_size", "crop"}
_KINDS: dict[str, tuple[type, ...]] = {"family": (str,), "names": (list, tuple), "params": (Mapping,)}


def _check_kinds(fields: Mapping[str, Any]) -> None:
    for key, kinds in _KINDS.items():
        if key in fields and not isinstance(fields[key], kinds):
            raise CardError(
                problem(
                    f"the card's {key} cannot be read",
                    got=repr(fields[key])[:60],
                    expected={"family": "a string", "names": "a list", "params": "a JSON object"}[key],
                    remedy="`eyas info MODEL --format json` prints a card to start from.",
                )
            )


def _known_task(task: str | None) -> Task | None:
    if task is None or task in TASKS:
        return task
    raise CardError(
        problem(
            "the network's task is not supported",
            got=f"task {task!r} in the card or in the model's metadata",
            expected=" | ".join(TASKS),
            remedy="Name a family with --family if you know better.",
        )
    )


def _from_ultralytics(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Class names and task from the keys that Ultralytics' exporter writes."""
    if "names" not in metadata or "stride" not in metadata:
        return {}
    try:
        names = ast.literal_eval(metadata["names"])
        names = tuple(names[i] for i in range(len(names)))
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise CardError(
            problem(
                "the model's metadata holds names that cannot be read",
                got=metadata["names"][:80],
                expected="a Python dictionary {0: 'person', 1: …}",
                remedy="Give the names with --names FILE.",
            )
        ) from error
    return {"names": names, "task": metadata.get("task", "detect")}


def _recognise(
    facts: Facts, wanted: str | None, names: tuple[str, ...] | None, task: Task | None = None
) -> dict[str, Any]:
    """The one reading of the shapes that is left when flags, task and names have had their say."""
    among = [wanted] if wanted else list(registry.names("families"))
    readings = [(n, g) for n in among for g in family(n).recognise(facts) if task in (None, g.task)]
    if not readings:
        kind = f" of the task {task!r}" if task else ""
        raise CardError(
            problem(
                f"the network does not look like {wanted}" if wanted else f"no family{kind} fits the network",
                got=facts.describe(),
                expected=f"the outputs of {wanted or ' | '.join(among)} at input {facts.size}",
                remedy="Check --family; see docs/models.md for each family's outputs.",
            )
        )
    left = [(n, g) for n, g in readings if names is None or g.classes in (None, len(names))]
    if not left:
        found = " | ".join(sorted({str(g.classes) for _, g in readings}))
        raise CardError(
            problem(
                "the number of class names is wrong",
                got=f"{len(names or ())} names",
                expected=f"{found} classes, as the outputs have ({facts.describe()})",
                remedy="Give one name per class with --names FILE.",
            )
        )
    if len(left) > 1:  # of two readings, the one with COCO's 80 classes is by far the likelier
        left = [(n, g) for n, g in left if g.classes in (None, len(COCO80))] or left
    if len(left) > 1:
        both = " or ".join(f"{_kind(n, g)} with {g.classes or 'any number of'} classes" for n, g in left)
        raise CardError(
            problem(
                "more than one family fits the network",
                got=f"{facts.describe()}: {both}",
                expected="one reading",
                remedy="Say which with --family, or give the class names with --names FILE.",
            )
        )
    return _fields(*left[0], names)


def _kind(name: str, guess: Guess) -> str:
    return name if guess.task == "detect" else f"{name} ({guess.task})"


def _fields(name: str, guess: Guess, names: tuple[str, ...] | None) -> dict[str, Any]:
    names = guess.names if names is None else names
    if names is None and guess.task == "embed":
        names = ()
    if names is None and guess.classes is None:
        log.warning("the outputs do not tell the classes: COCO's 80 are taken; give others with --names FILE")
    if names is None and guess.classes in (None, len(COCO80)) and guess.task != "classify":
        names = COCO80
    if names is None:
        log.warning("class names are unknown: numbers are shown instead; give them with --names FILE")
        names = tuple(f"class {i}" for i in range(guess.classes or 0))
    return {
        "family": name,
        "task": guess.task,
        "crop": guess.crop,
        "normalise": dataclasses.asdict(guess.normalise),
        "resize": guess.resize,
        "pad_value": guess.pad_value,
        "names": names,
        "iou": guess.iou,
        "params": dict(guess.params),
    }


def class_ids(wanted: Sequence[int | str] | int | str | None, names: Sequence[str]) -> tuple[int, ...] | None:
    """Ids of classes given by name or number, one or several; None for all. Raises OptionError for an unknown one."""
    if wanted is None:
        return None
    wanted = [wanted] if isinstance(wanted, (str, int)) else wanted
    by_name = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(len(names))}
    unknown = [str(w) for w in wanted if str(w) not in by_name]
    if unknown or not wanted:
        near = [m for w in unknown for m in difflib.get_close_matches(w, names, 1)]
        raise OptionError(
            problem(
                "classes (--classes) names what the model does not have",
                got=", ".join(unknown) or "none",
                expected=f"class names or ids from 0 to {len(names) - 1}",
                remedy=f"Did you mean {', '.join(near)}?" if near else "`eyas info MODEL --format json` lists them.",
            )
        )
    return tuple(sorted({by_name[str(w)] for w in wanted}))


def card_to_dict(card: ModelCard) -> dict[str, Any]:
    """The card as plain JSON values."""
    return dataclasses.asdict(card)


def card_from_dict(fields: Mapping[str, Any]) -> ModelCard:
    """The reverse of `card_to_dict`. Raises CardError for unknown, missing or unfit fields."""
    known = {f.name for f in dataclasses.fields(ModelCard)}
    unknown = sorted(fields.keys() - known)
    _check_kinds(fields)
    try:
        if unknown:
            raise TypeError(f"unknown fields {', '.join(unknown)}")
        norm = fields["normalise"]
        normalise = Normalise(norm["colour"], _floats(norm["mean"]), _floats(norm["scale"]))
        size = (int(fields["input_size"][0]), int(fields["input_size"][1]))
        fixed = {"normalise": normalise, "names": tuple(fields["names"]), "input_size": size}
        return ModelCard(**{**fields, **fixed})
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise CardError(
            problem(
                "the card cannot be read",
                got=f"{type(error).__name__}: {error}",
                expected=f"the fields {', '.join(sorted(known))}",
                remedy="`eyas info MODEL --format json` prints a card to start from.",
            )
        ) from error


def _floats(values: Any) -> tuple[float, float, float]:
    a, b, c = values
    return float(a), float(b), float(c)


def _loads(text: str, what: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        fields = error
    if not isinstance(fields, dict):
        raise CardError(problem(f"{what} is not JSON", got=text[:60], expected="a JSON object", remedy="Mend it."))
    return fields


def read_card(path: Path) -> dict[str, Any]:
    """A card file's fields, possibly not all of them. Raises CardError if it is missing or not a JSON object."""
    return _loads(_read_text(path, "card"), f"the card {path}")


def read_names(path: Path) -> tuple[str, ...]:
    """Class names from a text file, one a line, in order of class id. Raises CardError if missing or empty."""
    names = tuple(line.strip() for line in _read_text(path, "names").rstrip().splitlines())
    if not names or not all(names):
        raise CardError(
            problem(f"{path} is no list of names", got="an empty line", expected="one name a line", remedy="Mend it.")
        )
    return names


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors put a mark first
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(
            problem(f"the {what} file cannot be read", got=f"{path}: {error}", expected="a text file", remedy="")
        ) from error
