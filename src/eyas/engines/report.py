"""What `eyas inspect` knows of an engine file or a model, gathered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from eyas.engines.foreign import split_prefixed
from eyas.engines.layers import Layer, graph_layers
from eyas.engines.open import checked_plan, checked_sidecar, is_engine, open_file, refuse
from eyas.engines.sidecar import Sidecar, graph_path, sidecar_path
from eyas.errors import BackendError
from eyas.graph.network import read_network
from eyas.store import resolve


@dataclass(frozen=True, slots=True)
class Inspection:
    """facts: what there is to say, in order. layers: one row each. source: whose layers these are."""

    facts: dict[str, Any]
    layers: list[Layer]
    source: str


def inspect(model: str, *, batch: int = 1, trust: bool = False) -> Inspection:
    """Look into an engine file or a model. Nothing is built, and an engine that does not verify is not opened.

    batch: what a free batch of a model is taken for. Raises ModelError, BackendError.
    """
    path = Path(model)
    if not is_engine(path):
        return _of_model(model, batch)
    if trust and not sidecar_path(path).is_file() and path.is_file():
        return _of_foreign(path)
    sidecar = checked_sidecar(path, trust)
    plan = checked_plan(path, sidecar)
    facts = _facts(path, sidecar)
    if plan_is_onnx(sidecar):
        layers, _ = graph_layers(onnx.load_from_string(plan), sidecar.spec["batch"][1])
        return Inspection(facts, layers, "as ONNX Runtime optimised them")
    try:
        opened = open_file(path, trust=trust, rebuild=False)
    except BackendError as error:
        return _before_fusion(path, sidecar, facts | {"not opened": str(error)})
    rows: Callable[[], list[Layer]] | None = getattr(opened.engine, "layers", None)
    layers = rows() if rows else []
    opened.engine.close()
    return Inspection(facts, layers, f"as {sidecar.backend} runs them")


def plan_is_onnx(sidecar: Sidecar) -> bool:
    """Whether the plan is an ONNX file itself."""
    return sidecar.backend in ("onnxruntime", "null")


def _of_model(model: str, batch: int) -> Inspection:
    path = resolve(model).path
    proto = read_network(path)
    layers, memory = graph_layers(proto, batch)
    facts: dict[str, Any] = {
        "model": model,
        "file": f"{path.stat().st_size / 1e6:.2f} MB",
        "weights": f"{memory.weights / 1e6:.2f} MB",
        "peak": f"{memory.peak / 1e6:.2f} MB between layers at batch {batch}, unfused",
    }
    if memory.unknown:
        facts["unknown"] = f"size of the results of {memory.unknown} layers"
    return Inspection(facts, layers, "as exported")


def _of_foreign(path: Path) -> Inspection:
    data = path.read_bytes()
    found = split_prefixed(data)
    if found is None:
        refuse(path, "no sidecar, and no metadata before the plan", "an engine of eyas or Ultralytics", "")
    metadata, plan = found
    facts = {"engine": str(path), "plan": f"{len(plan) / 1e6:.2f} MB", "written by": "Ultralytics, going by its prefix"}
    return Inspection(facts | {str(k): v for k, v in metadata.items()}, [], "")


def _before_fusion(path: Path, sidecar: Sidecar, facts: dict[str, Any]) -> Inspection:
    """The layers of the graph that was built: all that can be said without the device."""
    kept = graph_path(path)
    if not kept.is_file():
        return Inspection(facts, [], "")
    graph = onnx.load_from_string(kept.read_bytes())
    if sidecar.backend.startswith("tensorrt"):
        from eyas.trt.prepare import prepare

        graph, _ = prepare(graph, sidecar.build_spec(), turing="sm75" in sidecar.device_key)
    layers, memory = graph_layers(graph, sidecar.spec["batch"][1])
    facts["peak"] = f"{memory.peak / 1e6:.2f} MB between layers at batch {sidecar.spec['batch'][1]}, unfused"
    return Inspection(facts, layers, "of the graph it was built from, before fusion")


def _facts(path: Path, s: Sidecar) -> dict[str, Any]:
    spec = s.spec
    return {
        "engine": str(path),
        "model": f"{s.model or 'unnamed'}, SHA-256 {s.model_sha256[:12] or 'unknown'}",
        "signed": "here" if s.verifies() else "not here",
        "built by": f"{s.backend} {s.backend_version}, eyas {s.eyas}, in {s.seconds:.1f} s",
        "runs on": s.device_key,
        "plan": f"{s.plan_bytes / 1e6:.2f} MB, SHA-256 {s.plan_sha256[:12]}",
        "asked for": f"{spec['precision']}, batch {':'.join(map(str, spec['batch']))}, {spec['hint']}",
        "options": spec["options"] or "none",
        "family": f"{s.card.get('family', 'unknown')} ({s.card.get('task', 'unknown')})",
        "inputs": _edges(s.inputs),
        "outputs": _edges(s.outputs),
    }


def _edges(values: dict[str, Any]) -> str:
    return ", ".join(f"{n} {t} {d}" for n, (t, d) in values.items()).replace("'", "")
