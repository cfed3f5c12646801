"""ONNX Runtime: every platform. On an NVIDIA GPU its sessions are lanes on our buffers (see `eyas.cuda.ort`).

device: cpu, cuda, cuda:N; the GPU where there is one that this build can use. options: providers=[…] as ONNX Runtime
takes them (TensorRT's, for one); lanes=N, how many calls run side by side on a GPU.
"""

from __future__ import annotations

import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from eyas.backends import Engine, Feeds, Fitness, check_precision, infer_in_steps
from eyas.cpu import cores
from eyas.cuda.device import gpus, why_missing
from eyas.cuda.ort import GPU_PROVIDERS, in_precision, open_lanes
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
    """Best on a GPU; below OpenVINO on a CPU, where it has no reduced precision."""
    if not _why_no_cuda():
        return Fitness(60, f"runs on {gpus()[0][0].name}, in fp16 (ONNX Runtime {version()})")
    return Fitness(40, f"runs on any CPU, in fp32 (ONNX Runtime {version()})")


def open_engine(model: onnx.ModelProto, spec: BuildSpec) -> Engine:
    """Sessions on a CPU or a GPU; see the module's head."""
    return load_engine(compile(model, spec) if _on_gpu(spec) else model.SerializeToString(), spec)


def compile(model: onnx.ModelProto, spec: BuildSpec) -> bytes:
    """The graph as ONNX Runtime optimised it, but for what suits only this very CPU: that is done when it is loaded."""
    import onnxruntime as ort

    if _on_gpu(spec):
        return bytes(in_precision(model, spec).SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        _session(model.SerializeToString(), spec, options)
        return path.read_bytes()


def load_engine(plan: bytes, spec: BuildSpec) -> Engine:
    """Sessions on a stored graph."""
    import onnxruntime as ort

    if _on_gpu(spec):
        return open_lanes(onnx.load_from_string(plan), spec, _checked(_chosen(spec)))
    options = ort.SessionOptions()
    parallel = cores() if spec.hint == "throughput" else 1
    options.intra_op_num_threads = max(1, cores() // parallel)
    session = _session(plan, spec, options)
    batch = session.get_inputs()[0].shape[0]
    return OrtEngine(session, parallel, batch if isinstance(batch, int) else None)


def device_key(spec: BuildSpec) -> str:
    """The providers: an optimised graph is theirs."""
    names = [_name(p) for p in _chosen(spec)]
    return "+".join(name.removesuffix("ExecutionProvider") for name in names)


def _session(model: bytes, spec: BuildSpec, options: Any) -> Any:
    """An InferenceSession. Raises BackendError."""
    import onnxruntime as ort

    check_precision(spec, {"fp32": None}, "ONNX Runtime's CPU provider")
    providers = _checked(_chosen(spec))
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise BackendError(
            problem("ONNX Runtime refuses the model", got=str(error)[:300], expected="a graph it can run", remedy="")
        ) from error


def _checked(providers: list[Any]) -> list[Any]:
    """The providers, if this build has them all. Raises BackendError."""
    import onnxruntime as ort

    if unknown := {_name(p) for p in providers} - set(ort.get_available_providers()):
        raise BackendError(
            problem(
                "this build of ONNX Runtime lacks a provider",
                got=", ".join(sorted(unknown)),
                expected=" | ".join(ort.get_available_providers()),
                remedy="pip install 'eyas[ort-gpu]' for CUDA.",
            )
        )
    return providers


def _chosen(spec: BuildSpec) -> list[Any]:
    """The providers that were asked for, else those of the device."""
    return list(spec.options.get("providers") or _providers(spec.device))


def _name(provider: Any) -> str:
    return str(provider if isinstance(provider, str) else provider[0])


def _on_gpu(spec: BuildSpec) -> bool:
    return _name(_chosen(spec)[0]) in GPU_PROVIDERS


@cache
def _why_no_cuda() -> str | None:
    """Why the CUDA provider runs nothing here; None where it does."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider"
    return why_missing()


def _providers(device: str | None) -> list[Any]:
    """What runs on a device: cpu, cuda or cuda:1 (the CPU then takes what CUDA cannot)."""
    name, _, number = (device or ("cpu" if _why_no_cuda() else "cuda")).lower().partition(":")
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
