"""OpenVINO, the default: on a CPU it runs bf16 (AMX, AVX-512) where that is faster, and keeps the decode in fp32.

OpenVINO's bf16 covers everything up to the last convolution or MatMul before an output and leaves what follows in
fp32; the deploy graph has neither after the network (see `eyas.graph.head`), so coordinates are never rounded.
"""

from __future__ import annotations

import queue
import threading
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.backends import Feeds, Fitness, check_precision, infer_in_steps
from eyas.errors import BackendError, problem
from eyas.graph.rewrite import widen_last_products
from eyas.graph.surgery import dims_of
from eyas.types import BuildSpec

# Our words → OpenVINO's element types, and the capability that a device lists for each.
TYPES = {"fp32": ("f32", "FP32"), "fp16": ("f16", "FP16"), "bf16": ("bf16", "BF16")}

# Two threads whose very first calls pass NumPy arrays to OpenVINO can block each other for ever: the bindings set up
# their NumPy access inside a C++ once-guard that lets go of the GIL (seen with 2026.4). One thread goes first.
_FIRST_CALL = threading.Lock()


def missing() -> str | None:
    """A core dependency, but a stripped installation may lack it."""
    return None if find_spec("openvino") else "pip install openvino"


def version() -> str:
    """Of the installed package."""
    import openvino

    return str(openvino.__version__).split("-")[0]


def fitness() -> Fitness:
    """The best on a CPU."""
    able = _capabilities(_core(), "CPU")
    fast = "bf16 (the CPU has it)" if "bf16" in able else "fp32 (the CPU has no bf16)"
    return Fitness(50, f"fastest on a CPU, in {fast}")


def _core() -> Any:
    import openvino

    return openvino.Core()


def _capabilities(core: Any, device: str) -> dict[str, str]:
    """The precisions that the device can run, our word → OpenVINO's."""
    listed = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return {ours: theirs for ours, (theirs, flag) in TYPES.items() if flag in listed}


def open_engine(model: onnx.ModelProto, spec: BuildSpec) -> OpenVinoEngine:
    """Compile for spec.device (default CPU). A graph with a free batch is compiled for the range asked for."""
    import openvino as ov

    core = _core()
    device = (spec.device or "CPU").upper()
    if device.split(".")[0].split(":")[0] not in {d.split(".")[0] for d in core.available_devices} | {"AUTO"}:
        raise BackendError(
            problem(
                "OpenVINO does not know the device",
                got=spec.device,
                expected=" | ".join(core.available_devices),
                remedy="Leave --device out, or choose another backend (`eyas backends`).",
            )
        )
    able = _capabilities(core, device)
    check_precision(spec, able, f"OpenVINO on {device}")
    config = {"PERFORMANCE_HINT": spec.hint.upper()}
    if spec.precision != "auto":
        config["INFERENCE_PRECISION_HINT"] = able[spec.precision]
    low, _, high = spec.batch
    try:
        network = core.read_model(_with_wide_ends(model).SerializeToString())
        shapes = {i.name: dims_of(i) for i in model.graph.input}
        in_graph = next(iter(shapes.values()))[0]
        fixed = in_graph if isinstance(in_graph, int) else None
        if fixed is None:
            batch = ov.Dimension(low, high) if low < high else low
            network.reshape({name: [batch, *rest] for name, (_, *rest) in shapes.items()})
            fixed = low if low == high else None
        compiled = core.compile_model(network, device, config | dict(spec.options))
    except RuntimeError as error:
        raise BackendError(
            problem(
                "OpenVINO refuses the model",
                got=str(error).strip().splitlines()[-1],
                expected="a graph it can run",
                remedy="Another backend may take it (`eyas backends`).",
            )
        ) from error
    engine = OpenVinoEngine(compiled, device, fixed, [o.name for o in model.graph.output])
    with _FIRST_CALL:
        engine.infer({i.name: _zeros(i, low) for i in model.graph.input})
    return engine


def _zeros(value: onnx.ValueInfoProto, batch: int) -> NDArray[Any]:
    """An input of nothing but zeros."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return np.zeros([batch, *map(int, dims_of(value)[1:])], dtype)


def _with_wide_ends(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose last layers write fp32 where the network runs in bf16; in fp32 the two are the same."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    widen_last_products(copy)
    return copy


class OpenVinoEngine:
    """One compiled model and a pool of requests, one per stream and one to spare."""

    def __init__(self, compiled: Any, device: str, fixed_batch: int | None, outputs: list[str]) -> None:
        self._fixed = fixed_batch
        self.parallel = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._names = outputs
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.parallel):
            self._requests.put(compiled.create_infer_request())
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        ours = next((o for o, (theirs, _) in TYPES.items() if theirs == precision), precision)
        self.description = f"OpenVINO {version()}, {device}, {ours}"

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Runs on a free request; waits for one where all are busy."""
        request = self._requests.get()

        def run(now: Feeds) -> dict[str, NDArray[Any]]:
            request.infer(dict(now), share_inputs=True)
            return {name: request.get_tensor(name).data.copy() for name in self._names}

        try:
            return infer_in_steps(run, feeds, self._fixed)
        finally:
            self._requests.put(request)

    def close(self) -> None:
        """Free the requests, and with the last one the compiled model."""
        while not self._requests.empty():
            self._requests.get_nowait()
