"""OpenVINO, the default: on a CPU it runs bf16 (AMX, AVX-512) where that is faster, and keeps the decode in fp32.

OpenVINO's bf16 covers everything up to the last convolution or MatMul before an output and leaves what follows in
fp32; the deploy graph has neither after the network (see `eyas.graph.head`), so coordinates are never rounded.
"""

from __future__ import annotations

import io
import queue
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.backends import Feeds, Fitness, check_precision, infer_in_steps
from eyas.errors import BackendError, problem
from eyas.graph.rewrite import widen_last_products
from eyas.graph.surgery import OUTPUTS, dims_of
from eyas.types import BuildSpec

if TYPE_CHECKING:
    from eyas.engines.layers import Layer

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
    core, device, config = _settings(spec)
    names = [o.name for o in model.graph.output]
    return _engine(_compiled(core, device, config, model, spec), device, spec, names)


def compile(model: onnx.ModelProto, spec: BuildSpec) -> bytes:
    """OpenVINO's blob: weights and graph as they were compiled."""
    core, device, config = _settings(spec)
    blob = io.BytesIO()
    _compiled(core, device, config, model, spec).export_model(blob)
    return blob.getvalue()


def load_engine(plan: bytes, spec: BuildSpec) -> OpenVinoEngine:
    """From a blob: half of the time that compiling takes."""
    core, device, config = _settings(spec)
    try:
        compiled = core.import_model(io.BytesIO(plan), device, config)
        return _engine(compiled, device, spec, [_our_name(o) for o in compiled.outputs])
    except RuntimeError as error:
        raise _refusal("engine", error, "a blob of this version for this device") from error


def device_key(spec: BuildSpec) -> str:
    """The device by its full name: a blob holds what was chosen for it."""
    core, device, _ = _settings(spec)
    if device.startswith("AUTO"):
        return device
    return f"{device} {core.get_property(device, 'FULL_DEVICE_NAME')}"


def _settings(spec: BuildSpec) -> tuple[Any, str, dict[str, Any]]:
    """Core, device and configuration. Raises BackendError for a device or a precision that is not there."""
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
    return core, device, config | dict(spec.options)


def _compiled(core: Any, device: str, config: dict[str, Any], model: onnx.ModelProto, spec: BuildSpec) -> Any:
    import openvino as ov

    low, _, high = spec.batch
    try:
        network = core.read_model(_with_wide_ends(model).SerializeToString())
        shapes = {i.name: dims_of(i) for i in model.graph.input}
        if not isinstance(next(iter(shapes.values()))[0], int):
            batch = ov.Dimension(low, high) if low < high else low
            network.reshape({name: [batch, *rest] for name, (_, *rest) in shapes.items()})
        return core.compile_model(network, device, config)
    except RuntimeError as error:
        raise _refusal("model", error, "a graph it can run") from error


def _refusal(what: str, error: RuntimeError, expected: str) -> BackendError:
    said = (str(error).strip() or type(error).__name__).splitlines()[-1]
    remedy = "Another backend may take it (`eyas backends`)."
    return BackendError(problem(f"OpenVINO refuses the {what}", got=said, expected=expected, remedy=remedy))


def _our_name(port: Any) -> str:
    """Of the names that an output has got by fusion, the deploy graph's."""
    names = port.get_names()
    return next((name for name in OUTPUTS if name in names), port.get_any_name())


def _engine(compiled: Any, device: str, spec: BuildSpec, outputs: list[str]) -> OpenVinoEngine:
    """Around a compiled model, which has run once."""
    batch = compiled.inputs[0].partial_shape[0]
    fixed = batch.get_length() if batch.is_static else None
    engine = OpenVinoEngine(compiled, device, fixed, outputs)
    with _FIRST_CALL:
        engine.infer({i.get_any_name(): _zeros(i, spec.batch[0]) for i in compiled.inputs})
    return engine


def _zeros(port: Any, batch: int) -> NDArray[Any]:
    """An input of nothing but zeros. batch: where the input does not say."""
    shape = [d.get_length() if d.is_static else batch for d in port.partial_shape]
    return np.zeros(shape, port.element_type.to_dtype())


def _with_wide_ends(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose last layers write fp32 where the network runs in bf16; in fp32 the two are the same."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    widen_last_products(copy)
    return copy


class OpenVinoEngine:
    """One compiled model and a pool of requests, one per stream and one to spare."""

    def __init__(self, compiled: Any, device: str, fixed_batch: int | None, outputs: list[str]) -> None:
        self._fixed, self._compiled = fixed_batch, compiled
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

    def layers(self) -> list[Layer]:
        """What OpenVINO has made of the graph: fused layers with the precision each runs in; no constants."""
        from eyas.engines.layers import Layer

        rows = []
        for op in self._compiled.get_runtime_model().get_ordered_ops():
            said = {
                key: op.rt_info[key].astype(str) for key in ("layerType", "originalLayersNames", "runtimePrecision")
            }
            if said["layerType"] in ("Const", "Input", "Output"):
                continue
            shape = op.output(0).partial_shape if op.get_output_size() else None
            rows.append(
                Layer(
                    name=op.get_friendly_name(),
                    kind=said["layerType"],
                    precision=next(
                        (o for o, (t, _) in TYPES.items() if t == said["runtimePrecision"]), said["runtimePrecision"]
                    ),
                    shape=tuple(shape.to_shape()) if shape is not None and shape.is_static else None,
                    fused=tuple(part for part in said["originalLayersNames"].split(",") if part),
                )
            )
        return rows

    def close(self) -> None:
        """Free the requests, and with the last one the compiled model."""
        self._compiled = None
        while not self._requests.empty():
            self._requests.get_nowait()
