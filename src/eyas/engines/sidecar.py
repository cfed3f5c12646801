"""What stands beside a plan: JSON that says what it is, signed with the key of the user who built it.

The signature is HMAC-SHA256 over the canonical JSON of everything else; the plan and the kept graph are in it by
their SHA-256. So a sidecar that somebody else wrote, or a plan that was exchanged, does not verify.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import onnx

from eyas.engines.folder import signing_key
from eyas.errors import ModelError, problem
from eyas.graph.head import HeadSpec
from eyas.graph.surgery import dims_of
from eyas.types import BuildSpec

FORMAT = 1
LARGEST = 4 << 20  # bytes; class names of the largest models need a tenth


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a plan is. Hashes are SHA-256 in hexadecimal.

    plan_sha256, plan_bytes: of the plan. graph_sha256: of the deploy graph. model, model_sha256: name of the network's
    file and its hash. backend, backend_version, device_key: what built it, for what. spec, card, head: how, as JSON.
    inputs, outputs: name → [type, dimensions]. seconds: of the build. eyas: the version that wrote it.
    """

    plan_sha256: str
    plan_bytes: int
    graph_sha256: str
    model: str
    model_sha256: str
    backend: str
    backend_version: str
    device_key: str
    spec: dict[str, Any]
    card: dict[str, Any]
    head: dict[str, Any]
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    seconds: float = 0.0
    eyas: str = ""
    format: int = FORMAT
    signature: str = field(default="", repr=False)

    def signed(self) -> Sidecar:
        """A copy with this user's signature."""
        return replace(self, signature=self._mac())

    def verifies(self) -> bool:
        """Whether this user signed it as it is."""
        return hmac.compare_digest(self.signature, self._mac())

    def to_bytes(self) -> bytes:
        """As the file holds it."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    def build_spec(self) -> BuildSpec:
        """`spec` as the type. Raises OptionError where it makes no sense."""
        values = dict(self.spec)
        return BuildSpec(**values | {"batch": tuple(values["batch"]), "targets": tuple(values["targets"])})

    def head_spec(self) -> HeadSpec:
        """`head` as the type. Raises OptionError."""
        classes = self.head["classes"]
        return HeadSpec(**self.head | {"classes": None if classes is None else tuple(classes)})

    def _mac(self) -> str:
        content = {k: v for k, v in asdict(self).items() if k != "signature"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hmac.new(signing_key(), text.encode(), hashlib.sha256).hexdigest()


def sidecar_path(plan: Path) -> Path:
    """Where the sidecar of a plan is."""
    return plan.with_name(f"{plan.name}.json")


def graph_path(plan: Path) -> Path:
    """Where the deploy graph of a plan is kept."""
    return plan.with_name(f"{plan.name}.graph.onnx")


def is_sidecar(path: Path) -> bool:
    """Whether a JSON file is one of ours: other programs put FILE.json beside a FILE.onnx too. Raises OSError."""
    return path.stat().st_size <= LARGEST and b'"plan_sha256"' in path.read_bytes()


def read_sidecar(plan: Path) -> Sidecar:
    """Read and check its form, not its signature. Raises ModelError."""
    path = sidecar_path(plan)
    try:
        if path.stat().st_size > LARGEST:
            _refuse(path, f"{path.stat().st_size} bytes", f"at most {LARGEST}")
        values = json.loads(path.read_bytes())
    except OSError as error:
        _refuse(path, error.strerror or str(error), "a file that can be read")
    except (ValueError, RecursionError) as error:
        _refuse(path, str(error)[:200], "JSON")
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        _refuse(path, "other JSON", "an object with `format`")
    if values["format"] != FORMAT:
        _refuse(
            path, f"format {values['format']}", f"format {FORMAT}", "A newer eyas wrote it: update, or build again."
        )
    known = {f.name: f.type for f in fields(Sidecar)}
    kinds: Mapping[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float)}
    wrong = [n for n, kind in known.items() if not isinstance(values.get(n), kinds.get(str(kind), dict))]
    if wrong or set(values) - set(known):
        _refuse(path, ", ".join(wrong or sorted(set(values) - set(known))), "the fields of a sidecar, each of its type")
    return Sidecar(**values)


def spec_to_dict(spec: BuildSpec) -> dict[str, Any]:
    """As JSON holds it: tuples become lists."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(spec), default=str))
    return found


def edges(values: Any) -> dict[str, Any]:
    """Inputs or outputs of a graph: name → [element type, dimensions]."""
    return {
        v.name: [onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type).lower(), list(dims_of(v))] for v in values
    }


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _refuse(path: Path, got: str, expected: str, remedy: str = "Build the engine again: `eyas build`.") -> None:
    raise ModelError(problem(f"the sidecar {path} cannot be used", got=got, expected=expected, remedy=remedy))
