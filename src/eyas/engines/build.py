"""Deploy graph → engine file: compile, then write plan, sidecar and graph, all or nothing."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from eyas import __version__
from eyas.backends import Backend
from eyas.card import METADATA_KEY
from eyas.engines.lock import locked
from eyas.engines.sidecar import Sidecar, edges, graph_path, sha256, sidecar_path, spec_to_dict
from eyas.errors import OptionError, problem
from eyas.files import writing
from eyas.graph.head import HeadSpec
from eyas.types import BuildSpec


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that an engine is built from.

    backend, module: its name and module. graph: the deploy graph, with its card in the metadata. model, digest: the
    network's name and SHA-256.
    """

    backend: str
    module: Backend
    graph: onnx.ModelProto
    head: HeadSpec
    spec: BuildSpec
    model: str = ""
    digest: str = ""

    def graph_bytes(self) -> bytes:
        """The graph as it is kept."""
        return bytes(self.graph.SerializeToString(deterministic=True))


def build_file(recipe: Recipe, out: Path) -> Sidecar:
    """Compile and write OUT, OUT.json and OUT.graph.onnx; what stood there before stays until all three are written.

    Raises BackendError, OptionError, SinkError.
    """
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise OptionError(
            problem("this is no file to write an engine to", got=out, expected="a path in a folder", remedy="")
        )
    with locked(out):
        sidecar, contents = compiled(recipe, out)
        write_together(contents)
    return sidecar


def compiled(recipe: Recipe, out: Path) -> tuple[Sidecar, dict[Path, bytes]]:
    """The signed sidecar, and what belongs in which file. The caller holds the lock of `out`."""
    start = time.perf_counter()
    plan = recipe.module.compile(recipe.graph, recipe.spec)
    seconds = round(time.perf_counter() - start, 3)
    graph = recipe.graph_bytes()
    sidecar = describe(recipe, plan, graph, seconds)
    return sidecar, {graph_path(out): graph, out: plan, sidecar_path(out): sidecar.to_bytes()}


def describe(recipe: Recipe, plan: bytes, graph: bytes, seconds: float) -> Sidecar:
    """The sidecar of a plan, signed."""
    card = next((p.value for p in recipe.graph.metadata_props if p.key == METADATA_KEY), "{}")
    head: dict[str, Any] = json.loads(json.dumps(asdict(recipe.head)))
    return Sidecar(
        plan_sha256=sha256(plan),
        plan_bytes=len(plan),
        graph_sha256=sha256(graph),
        model=Path(recipe.model).name,
        model_sha256=recipe.digest,
        backend=recipe.backend,
        backend_version=recipe.module.version(),
        device_key=recipe.module.device_key(recipe.spec),
        spec=spec_to_dict(recipe.spec),
        card=json.loads(card),
        head=head,
        inputs=edges(recipe.graph.graph.input),
        outputs=edges(recipe.graph.graph.output),
        seconds=seconds,
        eyas=__version__,
    ).signed()


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write every file beside its place, then move all of them there. Raises SinkError; then nothing has changed."""
    parts: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            parts[path] = path.with_name(f".eyas-{secrets.token_hex(6)}.part")
            with writing(path):
                parts[path].write_bytes(data)
        for path, part in parts.items():
            with writing(path):
                part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
