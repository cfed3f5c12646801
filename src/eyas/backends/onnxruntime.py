"""ONNX Runtime: every platform; the CPU provider unless `providers` says otherwise."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from eyas.backends import Feeds, Fitness, check_precision, infer_in_steps
from eyas.errors import BackendError, problem
from eyas.types import BuildSpec

CPU = "CPUExecutionProvider"


def missing() -> str | None:
    """The package is an extra."""
    return None if find_spec("onnxruntime") else "pip install 'eyas[ort]' (or 'eyas[ort-gpu]')"


def version() -> str:
    """Of the installed package."""
    import onnxruntime

    return str(onnxruntime.__version__)


def fitness() -> Fitness:
    """Below OpenVINO on a CPU: it has no reduced precision there."""
    return Fitness(40, f"runs on any CPU, in fp32 (ONNX Runtime {version()})")


def open_engine(model: onnx.ModelProto, spec: BuildSpec) -> OrtEngine:
    """One session; spec.device: cpu, cuda, cuda:N; options: providers=[…] as ONNX Runtime takes them."""
    return load_engine(model.SerializeToString(), spec)


def compile(model: onnx.ModelProto, spec: BuildSpec) -> bytes:
    """The graph as ONNX Runtime optimised it, but for what suits only this very CPU: that is done when it is loaded."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        _session(model.SerializeToString(), spec, options)
        return path.read_bytes()


def load_engine(plan: bytes, spec: BuildSpec) -> OrtEngine:
    """One session on a stored graph."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parallel = cores if spec.hint == "throughput" else 1
    options.intra_op_num_threads = max(1, cores // parallel)
    session = _session(plan, spec, options)
    batch = session.get_inputs()[0].shape[0]
    return OrtEngine(session, parallel, batch if isinstance(batch, int) else None)


def device_key(spec: BuildSpec) -> str:
    """The providers: an optimised graph is theirs."""
    names = [p if isinstance(p, str) else p[0] for p in spec.options.get("providers") or _providers(spec.device)]
    return "+".join(name.removesuffix("ExecutionProvider") for name in names)


def _session(model: bytes, spec: BuildSpec, options: Any) -> Any:
    """An InferenceSession. Raises BackendError."""
    import onnxruntime as ort

    check_precision(spec, {"fp32": None}, "ONNX Runtime's CPU provider")
    providers = list(spec.options.get("providers") or _providers(spec.device))
    wanted = {p if isinstance(p, str) else p[0] for p in providers}
    if unknown := wanted - set(ort.get_available_providers()):
        raise BackendError(
            problem(
                "this build of ONNX Runtime lacks a provider",
                got=", ".join(sorted(unknown)),
                expected=" | ".join(ort.get_available_providers()),
                remedy="pip install 'eyas[ort-gpu]' for CUDA.",
            )
        )
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise BackendError(
            problem("ONNX Runtime refuses the model", got=str(error)[:300], expected="a graph it can run", remedy="")
        ) from error


def _providers(device: str | None) -> list[Any]:
    """What runs on a device: cpu, cuda or cuda:1 (the CPU then takes what CUDA cannot)."""
    name, _, number = (device or "cpu").lower().partition(":")
    if name == "cpu" and not number:
        return [CPU]
    if name == "cuda" and (number or "0").isdecimal():
        return [("CUDAExecutionProvider", {"device_id": int(number or 0)}), CPU]
    raise BackendError(
        problem(
            "ONNX Runtime does not know the device",
            got=device,
            expected="cpu, cuda or cuda:N",
            remedy="For another provider pass options={'providers': […]} to eyas.load.",
        )
    )


class OrtEngine:
    """One session; its `run` is safe from several threads."""

    def __init__(self, session: Any, parallel: int, fixed_batch: int | None) -> None:
        self._session = session
        self._fixed = fixed_batch
        self._names = [output.name for output in session.get_outputs()]
        self.parallel = parallel
        provider = session.get_providers()[0].removesuffix("ExecutionProvider")
        self.description = f"ONNX Runtime {version()}, {provider}, fp32"

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Runs on the calling thread and ONNX Runtime's own."""

        def run(now: Feeds) -> dict[str, NDArray[Any]]:
            return dict(zip(self._names, self._session.run(self._names, dict(now)), strict=True))

        return infer_in_steps(run, feeds, self._fixed)

    def close(self) -> None:
        """Free the session."""
        self._session = None
