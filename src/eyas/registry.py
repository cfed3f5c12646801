"""How families and backends are found: a module in the folder, or a third party's entry point, by the same name.

A plug-in is a module; `families/__init__.py` and `backends/__init__.py` state what it must define. Built-ins are
the modules of those folders. A package of yours adds one with an entry point in the group `eyas.families`,
`eyas.backends`, `eyas.rules` (of the doctor) or `eyas.ops` (operators that ONNX lacks) whose value is the module.
Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType
from typing import Literal

from eyas.errors import OptionError, problem

Kind = Literal["families", "backends", "rules", "ops"]
_PACKAGES = {"rules": "eyas.doctor.rules"}  # where a kind's built-ins are, if not in eyas.<kind>
_WORDS = {"families": "family", "backends": "backend", "rules": "doctor rule module", "ops": "operator"}


def names(kind: Kind) -> dict[str, str]:
    """Every plug-in of one kind, name → module path, in alphabetical order; a third party's wins a clash."""
    package = importlib.import_module(_PACKAGES.get(kind, f"eyas.{kind}"))
    found = {m.name: f"{package.__name__}.{m.name}" for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_"}
    found |= {e.name: e.value for e in entry_points(group=f"eyas.{kind}")}
    return dict(sorted(found.items()))


def get(kind: Kind, name: str) -> ModuleType:
    """Import one plug-in. Raises OptionError where there is none of that name, or where it cannot be imported."""
    known = names(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known)
        raise OptionError(
            problem(
                f"unknown {_WORDS[kind]}",
                got=repr(name),
                expected=" | ".join(known),
                remedy=f"Did you mean {near[0]}?" if near else "",
            )
        )
    try:
        return importlib.import_module(known[name])
    except ImportError as error:
        raise OptionError(
            problem(
                f"the plug-in {name} cannot be imported",
                got=f"{known[name]}: {error}",
                expected=f"a module, as the entry point's value in the group eyas.{kind}",
                remedy="Mend or uninstall the package that brings it.",
            )
        ) from error
