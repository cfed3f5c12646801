"""READ FIRST: an engine file → an engine, in the order in which it is checked:

sidecar's form ─ its signature ─ the plan's hash ─ backend installed ─ version and device ─ deserialise

Nothing of the plan is given to a runtime before the first three. Where version or device are others, the engine is
built again from the graph that is kept beside it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import onnx

from eyas.backends import Backend, Engine, backend
from eyas.card import card_from_dict
from eyas.engines.build import Recipe, compiled, write_together
from eyas.engines.lock import locked
from eyas.engines.sidecar import Sidecar, graph_path, is_sidecar, read_sidecar, sha256, sidecar_path
from eyas.errors import BackendError, CardError, ModelError, OptionError, SinkError, problem
from eyas.graph.head import HeadSpec
from eyas.types import BuildSpec, ModelCard

SUFFIXES = (".plan", ".engine", ".blob")
log = logging.getLogger("eyas")


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine ready to run, and what it is. graph: inputs and outputs of its deploy graph, without its nodes."""

    engine: Engine
    card: ModelCard
    head: HeadSpec
    spec: BuildSpec
    backend: str
    digest: str
    graph: onnx.ModelProto


def is_engine(path: Path) -> bool:
    """Whether a file is a built engine: by its suffix, or because a sidecar of eyas stands beside it."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with suppress(OSError):  # a name too long for the file system, a file that cannot be read
        return path.is_file() and sidecar_path(path).is_file() and is_sidecar(sidecar_path(path))
    return False


def open_file(path: Path, *, trust: bool = False, rebuild: bool = True, device: str | None = None) -> Opened:
    """Open a built engine. trust: take one whose sidecar this user did not sign. rebuild: build it again where it is
    of another version or for another device; False makes that an error. device: another than it was built for.

    Raises ModelError where it is damaged or not trusted, BackendError where it cannot run here.
    """
    sidecar = checked_sidecar(path, trust)
    plan = checked_plan(path, sidecar)
    module = backend(sidecar.backend)
    try:
        card, head, spec = card_from_dict(sidecar.card), sidecar.head_spec(), sidecar.build_spec()
    except (CardError, OptionError, KeyError, TypeError, ValueError) as error:
        refuse(path, str(error), "a sidecar as eyas writes it", "Build the engine again: `eyas build`.")
    if not sidecar.verifies():
        spec = replace(spec, options={k: v for k, v in spec.options.items() if k != "plugins"})  # more code of theirs
    if device is not None:
        spec = replace(spec, device=device)
    if why := mismatch(sidecar, module, spec):
        if not rebuild:
            remedy = "Leave --no-rebuild out, or build it here: `eyas build`."
            raise BackendError(
                problem(f"the engine {path} is not for this machine", got=why[0], expected=why[1], remedy=remedy)
            )
        plan = _rebuilt(path, sidecar, module, head, spec, why)
    engine = module.load_engine(plan, spec)
    return Opened(engine, card, head, spec, sidecar.backend, sidecar.model_sha256, _edges_only(sidecar))


def checked_sidecar(path: Path, trust: bool) -> Sidecar:
    """The sidecar, if this user signed it or says to trust it. Raises ModelError."""
    if not path.is_file():
        refuse(path, "no such file", "an engine", "Check the path.")
    if not sidecar_path(path).is_file():
        refuse(
            path,
            "no sidecar beside it",
            f"{sidecar_path(path).name}, which says what it is",
            "An engine that another program built cannot be opened: build one from its .onnx with `eyas build`. "
            "`eyas inspect --trust` shows what an engine of Ultralytics says of itself.",
        )
    sidecar = read_sidecar(path)
    if sidecar.verifies():
        return sidecar
    if not trust:
        refuse(
            path,
            "a sidecar that was not signed here",
            "an engine that you built",
            "An engine is executable code. Build it yourself (`eyas build`), or, if you know where it comes from, "
            "open it with --trust.",
        )
    log.warning("%s was not signed here and is trusted because you say so", path)
    return sidecar


def checked_plan(path: Path, sidecar: Sidecar) -> bytes:
    """The plan, if it is the one that the sidecar describes; trust does not help a damaged one. Raises ModelError."""
    try:
        plan = path.read_bytes()
    except OSError as error:
        refuse(path, error.strerror or str(error), "a file that can be read", "")
    remedy = "Build the engine again: `eyas build`."
    if len(plan) != sidecar.plan_bytes:
        refuse(path, f"{len(plan)} bytes", f"{sidecar.plan_bytes}, as its sidecar says", remedy)
    if sha256(plan) != sidecar.plan_sha256:
        refuse(path, "other bytes than were built", "the plan whose SHA-256 its sidecar names", remedy)
    return plan


def mismatch(sidecar: Sidecar, module: Backend, spec: BuildSpec) -> tuple[str, str] | None:
    """(what it was built with, what is here) where they differ."""
    here, built = module.version(), sidecar.backend_version
    same_major = here.split(".")[0] == built.split(".")[0]
    if here != built and not (spec.options.get("version_compatible") and same_major):
        return f"{sidecar.backend} {built}", f"{sidecar.backend} {here}"
    key = module.device_key(spec)
    return None if key == sidecar.device_key else (f"built for {sidecar.device_key}", f"built for {key}")


def _rebuilt(
    path: Path, sidecar: Sidecar, module: Backend, head: HeadSpec, spec: BuildSpec, why: tuple[str, str]
) -> bytes:
    """Build from the kept graph, under the lock, and put the result in its place where that can be written."""
    with locked(path):
        now = read_sidecar(path)
        if now != sidecar and now.verifies() and mismatch(now, module, spec) is None:
            return checked_plan(path, now)  # another process has just done it
        graph = kept_graph(path, sidecar)
        log.warning("%s is of %s, here is %s: building it again", path, *why)
        recipe = Recipe(sidecar.backend, module, graph, head, spec, sidecar.model, sidecar.model_sha256)
        _, contents = compiled(recipe, path)
        try:
            write_together(contents)
        except SinkError as error:
            log.warning("the new engine is used, but not kept: %s", error)
        return contents[path]


def kept_graph(path: Path, sidecar: Sidecar) -> onnx.ModelProto:
    """The deploy graph that an engine was built from, if it is still beside it. Raises ModelError."""
    kept = graph_path(path)
    try:
        data = kept.read_bytes()
    except OSError as error:
        refuse(kept, error.strerror or str(error), "the graph to build it again from", "Build it from its model.")
    if sha256(data) != sidecar.graph_sha256:
        refuse(kept, "another graph", "the one whose SHA-256 the sidecar names", "Build it from its model.")
    return onnx.load_from_string(data)


def _edges_only(sidecar: Sidecar) -> onnx.ModelProto:
    model = onnx.ModelProto()
    for values, edges in ((model.graph.input, sidecar.inputs), (model.graph.output, sidecar.outputs)):
        for name, (element, dims) in edges.items():
            kind = onnx.TensorProto.DataType.Value(element.upper())
            values.append(onnx.helper.make_tensor_value_info(name, kind, dims))
    return model


def refuse(path: Path, got: str, expected: str, remedy: str) -> NoReturn:
    """Raise ModelError about an engine file."""
    raise ModelError(problem(f"the engine {path} is refused", got=got, expected=expected, remedy=remedy))
