"""What a rule is, and what it finds. A module with `RULES: tuple[Rule, ...]` brings some; `eyas.registry` finds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import onnx

from eyas.errors import OptionError, problem

if TYPE_CHECKING:
    from eyas.doctor.subject import Subject

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a rule found.

    rule: its id. node: the node, edge or tensor. what: what is wrong there. why: why it hurts. remedy: what to do.
    repairable: whether `--fix` tries to mend it (a repair that cannot be proved is not written).
    """

    rule: str
    severity: Severity
    node: str
    what: str
    why: str
    remedy: str
    repairable: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as data.

    id: a letter and three digits (D1xx file, 2xx shapes, 3xx operators, 4xx numbers, 5xx inputs and outputs, 6xx tails,
    7xx quantisation; take another letter for your own). title, why, remedy: for people. severity: error, nothing runs
    or the results are wrong; warning, it costs speed or fails somewhere; note, worth knowing, and the exit code is 0.
    check: what is wrong, as (node name, detail) each. repair: changes a model in place, says whether it did.
    first: asked before all others and before weights are read; if such an error is found, nothing else is asked.
    tolerance: |repaired − original| ≤ tolerance · (1 + |original|) for every value; 0 where the rewrite is exact.
    on_request: the repair changes what the network gives; it runs only where the user asks (`--strip-nms`).
    """

    id: str
    title: str
    severity: Severity
    why: str
    remedy: str
    check: Callable[[Subject], Iterable[tuple[str, str]]]
    repair: Callable[[onnx.ModelProto], bool] | None = None
    first: bool = False
    tolerance: float = 0.0
    on_request: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Z]\d{3}", self.id) or self.severity not in SEVERITIES or self.tolerance < 0:
            raise OptionError(
                problem(
                    "a doctor rule is not well formed",
                    got=f"id {self.id!r}, severity {self.severity!r}, tolerance {self.tolerance}",
                    expected=f"a letter and three digits, {' | '.join(SEVERITIES)}, 0 or more",
                    remedy="Mend the module that brings it.",
                )
            )

    def found(self, node: str, what: str) -> Finding:
        """A finding of this rule."""
        fixable = self.repair is not None and not self.on_request
        return Finding(self.id, self.severity, node, what, self.why, self.remedy, fixable)
