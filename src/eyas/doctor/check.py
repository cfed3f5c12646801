"""Ask every rule about a model."""

from __future__ import annotations

import logging
from collections import Counter
from importlib import import_module
from pathlib import Path

import onnx

from eyas import registry
from eyas.doctor.reading import with_weights
from eyas.doctor.rule import Finding, Rule
from eyas.doctor.subject import Subject
from eyas.errors import OptionError, problem

__all__ = ["Finding", "Rule", "examine", "rules"]
log = logging.getLogger("eyas")


def rules() -> tuple[Rule, ...]:
    """Every rule, built in or a third party's, by id. Raises OptionError where two have one id."""
    paths = registry.names("rules")  # asked once: entry points take 10 ms to read
    own = [import_module(path) for path in paths.values() if path.startswith("eyas.")]
    others = [registry.get("rules", name) for name, path in paths.items() if not path.startswith("eyas.")]
    found = [rule for module in (*own, *others) for rule in module.RULES]
    twice = [i for i, n in Counter(rule.id for rule in found).items() if n > 1]
    if twice:
        raise OptionError(
            problem(
                "two doctor rules have the same id",
                got=", ".join(twice),
                expected="an id of its own for each",
                remedy="Take another letter for your own rules: D is eyas'.",
            )
        )
    return tuple(sorted(found, key=lambda rule: rule.id))


def examine(model: onnx.ModelProto, path: Path | None = None, backend: str | None = None) -> list[Finding]:
    """What is wrong with a model, by rule id. It is not changed.

    path: its file; weights in external files are looked for beside it. backend: the name of the one it is meant for,
    None for any. Rules marked `first` are asked first; on an error of theirs the others cannot be.
    """
    everything = rules()
    subject = Subject(model, path, backend)
    early = [f for rule in everything if rule.first for f in _ask(rule, subject)]
    if any(f.severity == "error" for f in early):
        return early
    subject = Subject(with_weights(model, path), path, backend)
    late = [f for rule in everything if not rule.first for f in _ask(rule, subject)]
    return sorted(early + late, key=lambda f: f.rule)


def _ask(rule: Rule, subject: Subject) -> list[Finding]:
    """One rule's findings. One that fails on a strange model must not hide the others."""
    try:
        return [rule.found(node, what) for node, what in rule.check(subject)]
    except Exception as error:
        log.warning("rule %s could not be asked: %s: %s", rule.id, type(error).__name__, str(error)[:200])
        return []
