"""Mend what can be mended, and prove each step: what is not proved is not kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx

from eyas.doctor.check import examine, rules
from eyas.doctor.proof import Proof, Reference, Unequal, normalise_of
from eyas.doctor.reading import external, with_weights
from eyas.doctor.rule import Finding, Rule
from eyas.doctor.subject import Subject

_TIMES = 3  # a rule's repair may be needed again after another's, but not for ever


@dataclass(frozen=True, slots=True)
class Done:
    """A repair that was made. count: how many findings it answered. proof: None where nothing is computed anew."""

    rule: str
    title: str
    count: int
    proof: Proof | None


@dataclass(frozen=True, slots=True)
class Undone:
    """A repair that was tried and is not in the model, and why."""

    rule: str
    title: str
    reason: str


@dataclass(frozen=True, slots=True)
class Repaired:
    """model: mended, external weights inside. left: what is still found in it. proof: of the whole, against the
    network as it came (or, where NMS was cut off on request, as it was cut).
    """

    model: onnx.ModelProto
    done: tuple[Done, ...]
    undone: tuple[Undone, ...]
    left: tuple[Finding, ...]
    proof: Proof | None


@dataclass
class _State:
    model: onnx.ModelProto
    done: list[Done] = field(default_factory=list)
    failed: dict[str, tuple[Undone, int]] = field(default_factory=dict)  # and after how many others
    tolerance: float = 0.0


def repair(
    model: onnx.ModelProto, path: Path | None = None, backend: str | None = None, *, strip_nms: bool = False
) -> Repaired:
    """Apply the rules' repairs one after the other until nothing repairable is left. `model` is not changed.

    Each step is run on ONNX Runtime beside the network as it came (`eyas.doctor.proof`); one that gives other results
    than its rule allows is undone. strip_nms: cut the graph before its NMS first. Raises EyasError without ONNX
    Runtime.
    """
    found = examine(model, path, backend)
    if _broken(found):
        return Repaired(model, (), (), tuple(found), None)
    state = _State(onnx.ModelProto())
    state.model.CopyFrom(with_weights(model, path))
    everything = {rule.id: rule for rule in rules()}
    if external(model):
        state.done.append(Done("D105", everything["D105"].title, 1, None))
    if strip_nms:
        found = _strip(state, everything, found, path, backend)
    reference: Reference | None = None
    while rule := _next(state, everything, found):
        try:
            trial = _tried(state.model, rule)
            if _bare(trial) == _bare(state.model):  # other names, another order: nothing to run
                proof = None
            else:
                reference = reference or Reference(state.model, normalise_of(Subject(state.model)))
                proof = reference.compare(trial, max(state.tolerance, rule.tolerance))
        except Unequal as error:
            state.failed[rule.id] = (Undone(rule.id, rule.title, str(error)), len(state.done))
            continue
        state.model, state.tolerance = trial, max(state.tolerance, rule.tolerance)
        state.done.append(Done(rule.id, rule.title, sum(f.rule == rule.id for f in found), proof))
        state.failed.pop(rule.id, None)
        found = examine(state.model, path, backend)
    left = examine(state.model, path, backend) if state.done else found
    undone = tuple(undone for undone, _ in state.failed.values() if any(f.rule == undone.rule for f in left))
    return Repaired(state.model, tuple(state.done), undone, tuple(left), _last(state))


def _broken(found: list[Finding]) -> bool:
    """Whether an error stands in the way of even running the network."""
    first = {rule.id for rule in rules() if rule.first}
    return any(f.rule in first and f.severity == "error" and not f.repairable for f in found)


def _last(state: _State) -> Proof | None:
    return next((done.proof for done in reversed(state.done) if done.proof), None)


def _next(state: _State, everything: dict[str, Rule], found: list[Finding]) -> Rule | None:
    """The next rule to try: one not tried yet, else one that failed before others changed the graph."""
    times = {i: sum(d.rule == i for d in state.done) for i in everything}
    open_ = [f.rule for f in found if f.repairable and f.rule != "D105" and times[f.rule] < _TIMES]
    fresh = [i for i in open_ if i not in state.failed]
    again = [i for i in open_ if i in state.failed and state.failed[i][1] < len(state.done)]
    return everything[(fresh or again)[0]] if fresh or again else None


def _tried(model: onnx.ModelProto, rule: Rule) -> onnx.ModelProto:
    """A repaired copy. Raises Unequal where the repair fails or does nothing."""
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    try:
        changed = rule.repair is not None and rule.repair(trial)
    except Exception as error:  # a third party's may raise anything; the model is as it was
        raise Unequal(str(error)[:300] or type(error).__name__) from error
    if not changed:
        raise Unequal("the pattern is not one that the repair knows")
    return trial


def _bare(model: onnx.ModelProto) -> tuple[bytes, list[bytes]]:
    """All that is computed: the nodes without their names and order, and everything else as it is."""
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    for node in rest.graph.node:
        node.name = ""
    nodes = sorted(node.SerializeToString(deterministic=True) for node in rest.graph.node)
    del rest.graph.node[:]
    return rest.SerializeToString(deterministic=True), nodes


def _strip(
    state: _State, everything: dict[str, Rule], found: list[Finding], path: Path | None, backend: str | None
) -> list[Finding]:
    """Cut before the NMS, if there is one. The proof: every node that is left is one of the network's own."""
    for rule in (r for r in everything.values() if r.on_request and any(f.rule == r.id for f in found)):
        trial = onnx.ModelProto()
        trial.CopyFrom(state.model)
        if rule.repair is None or not rule.repair(trial):
            reason = "there is not one NMS whose boxes and scores the graph computes"
            state.failed[rule.id] = (Undone(rule.id, rule.title, reason), 0)
            continue
        own = {node.SerializeToString() for node in state.model.graph.node}
        ends = {o.name for o in trial.graph.output}
        if all(node.SerializeToString() in own for node in trial.graph.node if ends.isdisjoint(node.output)):
            state.model = trial
            state.done.append(Done(rule.id, rule.title, 1, None))
    return examine(state.model, path, backend)
