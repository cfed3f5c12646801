"""PyTorch: the deploy graph, operator by operator, under CUDA graphs on a GPU; on a CPU plainly, in fp32.

Not a compiler: `eyas.torch_ops` runs the graph as it is, in fp16 with channels last on a GPU.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.backends import Engine, Feeds, Fitness, check_precision, infer_in_steps
from eyas.errors import BackendError, OptionError, problem
from eyas.extras import need
from eyas.types import BuildSpec


def missing() -> str | None:
    """The package is an extra."""
    return None if find_spec("torch") else "pip install 'eyas[torch]'"


def version() -> str:
    """Of the installed package."""
    return str(need("torch", "torch").__version__)


def fitness() -> Fitness:
    """For GPUs; on a CPU other runtimes are faster."""
    torch = need("torch", "torch")
    if torch.cuda.is_available():
        return Fitness(45, f"runs on the GPU in fp16, under CUDA graphs (PyTorch {version()})")
    return Fitness(0, f"PyTorch {version()} sees no GPU, and on a CPU others are faster")


def compile(model: onnx.ModelProto, spec: BuildSpec) -> bytes:
    """The graph as it is: nothing is compiled that could be kept."""
    return bytes(model.SerializeToString(deterministic=True))


def load_engine(plan: bytes, spec: BuildSpec) -> Engine:
    """The graph again."""
    return open_engine(onnx.load_from_string(plan), spec)


def device_key(spec: BuildSpec) -> str:
    """It runs anywhere."""
    return "any"


def open_engine(model: onnx.ModelProto, spec: BuildSpec) -> Engine:
    """spec.device: cpu, cuda, cuda:N; None for the GPU where there is one. Raises BackendError."""
    torch = need("torch", "torch")
    index = _gpu(torch, spec.device)
    if index is None:
        check_precision(spec, {"fp32": None}, "PyTorch on a CPU")
        return TorchEngine(torch, model)
    check_precision(spec, {"fp16": None, "fp32": None}, "PyTorch on a GPU")
    from eyas.torch_ops.lane import open_lanes

    return open_lanes(torch, model, spec, index)


def _gpu(torch: Any, device: str | None) -> int | None:
    """The GPU's number; None for the CPU."""
    if device is None:
        return 0 if torch.cuda.is_available() else None
    if device.lower() == "cpu":
        return None
    from eyas.cuda.device import index_of

    try:
        index = index_of(device, "PyTorch")
    except OptionError as error:
        expected = "cpu, cuda or cuda:N"
        raise BackendError(
            problem("PyTorch does not know the device", got=device, expected=expected, remedy="")
        ) from error
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        remedy = "Install PyTorch with CUDA (pytorch.org says how), or choose another device."
        got = f"{device}, and PyTorch {version()} sees {count} of them"
        raise BackendError(problem("PyTorch cannot use the GPU", got=got, expected="a GPU", remedy=remedy))
    return index


class TorchEngine:
    """On the CPU: a program for each batch size that comes, made when it comes first."""

    parallel = 1

    def __init__(self, torch: Any, model: onnx.ModelProto) -> None:
        """Raises BackendError for a graph that it cannot run."""
        from eyas.torch_ops.run import Graph, Program

        self._torch, self._graph = torch, Graph(torch, model, torch.device("cpu"))
        self._programs: dict[int, Program] = {}
        self._lock = threading.Lock()
        self.description = f"PyTorch {version()}, CPU, fp32"
        self._program(self._graph.fixed or 1)

    def _program(self, batch: int) -> Any:
        from eyas.torch_ops.run import Program

        with self._lock:
            if batch not in self._programs:
                self._programs[batch] = Program(self._graph, batch)
            return self._programs[batch]

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Runs on torch's threads."""

        def run(now: Feeds) -> dict[str, NDArray[Any]]:
            given = {name: self._tensor(array) for name, array in now.items()}
            found = self._program(len(next(iter(now.values())))).run(given)
            return {name: np.array(tensor.numpy()) for name, tensor in found.items()}

        return infer_in_steps(run, feeds, self._graph.fixed)

    def _tensor(self, array: NDArray[Any]) -> Any:
        """torch warns of arrays that must not be written to, though nothing writes to them."""
        return self._torch.from_numpy(array if array.flags.writeable else array.copy())

    def close(self) -> None:
        """Free the programs and the weights."""
        self._programs.clear()
        del self._graph
