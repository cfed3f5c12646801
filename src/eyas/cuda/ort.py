"""ONNX Runtime's CUDA provider as an engine of lanes: our buffers by IO binding, our stream, a CUDA graph a batch size.

Each lane has one session for each batch size that is worth one (`eyas.cuda.lane.sizes`), recorded once as a CUDA graph;
after that ONNX Runtime is not called any more. A batch of another size runs on the next larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx

from eyas.backends import check_precision
from eyas.cuda.device import CudaDevice, open_device
from eyas.cuda.graph import captured, fitting
from eyas.cuda.lane import Lane, LanedEngine, sizes
from eyas.cuda.memory import DeviceArray, new_array
from eyas.cuda.nms import NmsLane
from eyas.errors import BackendError, OptionError, problem
from eyas.graph.openend import open_end
from eyas.graph.precision import to_narrow
from eyas.graph.surgery import IMAGES, dims_of, inputs_of
from eyas.types import BuildSpec

LANES = {"latency": 1, "throughput": 2}
# What captures a CUDA graph, by provider.
GPU_PROVIDERS = {
    "CUDAExecutionProvider": "enable_cuda_graph",
    "TensorrtExecutionProvider": "trt_cuda_graph_enable",
    "NvTensorRTRTXExecutionProvider": "enable_cuda_graph",
}
SETTINGS = {"prefer_nhwc": "1", "fuse_conv_bias": "1"}  # of the CUDA provider: 1.2 to 1.4 times as fast on an H100


def in_precision(model: onnx.ModelProto, spec: BuildSpec) -> onnx.ModelProto:
    """A copy in the precision asked for: "auto" is fp16, with the decode in fp32."""
    check_precision(spec, {"fp32": None, "fp16": None}, "ONNX Runtime on CUDA")
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    if spec.precision != "fp32" and not any(n.op_type == "QuantizeLinear" for n in copied.graph.node):
        to_narrow(copied, "fp16")
    return copied


def open_lanes(model: onnx.ModelProto, spec: BuildSpec, providers: Sequence[Any]) -> LanedEngine:
    """An engine on the first provider's GPU. model: see `in_precision`; its NMS may be taken off. Raises BackendError.

    options: lanes=N; nms="graph" leaves the NMS to the graph.
    """
    import onnxruntime as ort

    name, asked = (providers[0], {}) if isinstance(providers[0], str) else providers[0]
    device = open_device(int(asked.get("device_id", 0)))
    narrow = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
    ours = {"device_id": device.index, "use_tf32": int(spec.precision != "fp32"), **SETTINGS}
    settings = {k: str(v) for k, v in ((ours if name == "CUDAExecutionProvider" else {}) | dict(asked)).items()}
    settings[GPU_PROVIDERS[name]] = settings.get(GPU_PROVIDERS[name], "1")
    count = int(spec.options.get("lanes", LANES[spec.hint]))
    if not 1 <= count <= 16:
        raise OptionError(problem("the number of lanes is wrong", got=count, expected="1 to 16", remedy=""))
    end = open_end(model) if spec.options.get("nms", "kernel") == "kernel" else None
    lanes: list[Lane] = []
    for _ in range(count):
        plain = OrtLane(device, model, spec, [(name, settings), *providers[1:]])
        lanes.append(NmsLane(device, plain, end) if end else plain)
    title = name.removesuffix("ExecutionProvider")
    about = f"ONNX Runtime {ort.__version__}, {title}, {device.gpu.name}, {'fp16' if narrow else 'fp32'}"
    largest = lanes[0].inputs[IMAGES].shape[0]
    return LanedEngine(device, lanes, largest, about)


class OrtLane:
    """See `eyas.cuda.lane.Lane`."""

    def __init__(
        self, device: CudaDevice, model: onnx.ModelProto, spec: BuildSpec, providers: Sequence[tuple[str, Any] | str]
    ) -> None:
        """providers: ONNX Runtime's, the first with its settings. Raises BackendError."""
        device.use()
        self._device, self.stream = device, device.stream()
        value = inputs_of(model.graph)[0]
        batch = dims_of(value)[0]
        fixed = batch if isinstance(batch, int) else None
        self.sizes = sizes(spec, fixed)
        largest = self.sizes[-1]
        self.inputs = {v.name: self._array(v, largest) for v in model.graph.input}
        self.outputs = {v.name: self._array(v, largest) for v in model.graph.output}
        self._zero()
        self._runs: dict[int, Callable[[], Any]] = {}
        content = model.SerializeToString()
        for size in self.sizes:
            self._runs[size] = self._bound(content, size, None if fixed else str(batch), providers)

    def _array(self, value: onnx.ValueInfoProto, batch: int) -> DeviceArray:
        shape = dims_of(value)[1:]
        if not all(isinstance(d, int) for d in shape):
            expected = "sizes that are known, but for the batch"
            raise BackendError(problem(f"{value.name} has no fixed shape", got=shape, expected=expected, remedy=""))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        return new_array(self._device, self.stream, (batch, *(int(d) for d in shape)), dtype)

    def _zero(self) -> None:
        """Inputs that are numbers, for the runs that warm up."""
        for array in self.inputs.values():
            array.block.buffer.fill(0, stream=self.stream)
        self.stream.sync()

    def _bound(self, model: bytes, size: int, batch_name: str | None, providers: Sequence[Any]) -> Any:
        """A function that enqueues one run of `size` images."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        if batch_name:
            options.add_free_dimension_override_by_name(batch_name, size)
        (name, settings), *others = providers
        ours = {"user_compute_stream": str(int(self.stream.handle))}
        try:
            session = ort.InferenceSession(model, options, providers=[(name, settings | ours), *others])
            binding = session.io_binding()
            for bind, arrays in ((binding.bind_input, self.inputs), (binding.bind_output, self.outputs)):
                for edge, array in arrays.items():
                    shape = [size, *array.shape[1:]]
                    bind(edge, "cuda", self._device.index, array.dtype, shape, array.address)
            run = ort.RunOptions()
            run.add_run_config_entry("disable_synchronize_execution_providers", "1")
            run.add_run_config_entry("gpu_graph_id", "-1")  # it captures nothing itself: see below
            for _ in range(2):  # allocates, and chooses algorithms
                session.run_with_iobinding(binding, run)
            self.stream.sync()
            return self._recorded(session, binding, run)
        except BackendError:
            raise
        except Exception as error:  # a dozen unrelated types
            got = " ".join(str(error).split())[:400]
            raise BackendError(
                problem("ONNX Runtime refuses the model on CUDA", got=got, expected="a graph it can run", remedy="")
            ) from error

    def _recorded(self, session: Any, binding: Any, run: Any) -> Callable[[], None]:
        """One run as a CUDA graph that any thread may launch.

        ONNX Runtime's own graphs belong to the thread that captured them. Its provider is told that graphs are on all
        the same, since it then keeps the small buffers on the host that a graph's copies read. The session is not run
        again, so nothing else touches its memory; the binding and the session live as long as the function.
        """
        replay = captured(self._device, self.stream, lambda: session.run_with_iobinding(binding, run))
        self.stream.sync()

        def launch(kept: tuple[Any, ...] = (session, binding)) -> None:
            replay()

        return launch

    def launch(self, count: int) -> None:
        """See `Lane`."""
        self._runs[fitting(self.sizes, count)]()

    def close(self) -> None:
        """See `Lane`."""
        self._runs = {}
        for array in [*self.inputs.values(), *self.outputs.values()]:
            array.block.close()
        self.stream.sync()
        self.stream.close()
