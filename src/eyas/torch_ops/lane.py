"""The interpreter on a GPU as an engine of lanes: static arrays, one stream, a CUDA graph a batch size.

The graphs of a lane share one memory pool, since they never run at the same time; the weights are all lanes'.
"""

from __future__ import annotations

import threading
from typing import Any

import onnx

from eyas.cuda.device import CudaDevice, open_device
from eyas.cuda.graph import fitting
from eyas.cuda.lane import Lane, LanedEngine, sizes
from eyas.cuda.memory import DeviceArray, new_array
from eyas.cuda.nms import NmsLane
from eyas.errors import BackendError, EyasError, OptionError, problem
from eyas.graph.openend import open_end
from eyas.graph.precision import to_narrow
from eyas.graph.surgery import dims_of, inputs_of
from eyas.torch_ops.epilogue import epilogue_on
from eyas.torch_ops.run import Graph, Program
from eyas.types import BuildSpec

LANES = {"latency": 1, "throughput": 2}
WARM_UP = 3  # runs before a capture: torch chooses its algorithms and allocates what it keeps
_CAPTURE = threading.Lock()  # torch holds one capture at a time, and the settings around it are the process's


def open_lanes(torch: Any, model: onnx.ModelProto, spec: BuildSpec, index: int) -> LanedEngine:
    """On GPU `index`, in fp16 unless fp32 is asked for. Raises BackendError or OptionError.

    options: lanes=N; nms="graph" leaves the NMS to the graph.
    """
    count = spec.options.get("lanes", LANES[spec.hint])
    if not isinstance(count, int) or not 1 <= count <= 16:
        raise OptionError(problem("the number of lanes is wrong", got=count, expected="1 to 16", remedy=""))
    device = open_device(index)
    ours = onnx.ModelProto()
    ours.CopyFrom(model)
    if precision := ("" if spec.precision == "fp32" else "fp16"):
        to_narrow(ours, "fp16")
    end = open_end(ours) if spec.options.get("nms", "kernel") == "kernel" else None
    graph = Graph(torch, ours, torch.device("cuda", index))
    lanes: list[Lane] = [TorchLane(torch, device, graph, ours, spec) for _ in range(count)]
    lanes = [NmsLane(device, lane, end) for lane in lanes] if end else lanes
    description = f"PyTorch {torch.__version__}, {device.gpu.name}, {precision or 'fp32'}"
    return LanedEngine(device, lanes, sizes(spec, graph.fixed)[-1], description)


class TorchLane:
    """See `eyas.cuda.lane.Lane`."""

    def __init__(self, torch: Any, device: CudaDevice, graph: Graph, model: onnx.ModelProto, spec: BuildSpec) -> None:
        """graph: of `model`, on the device; lanes may share it. Raises BackendError."""
        device.use()
        self._torch, self._device, self.stream = torch, device, device.stream()
        self.sizes = sizes(spec, graph.fixed)
        self.inputs = {v.name: self._array(v) for v in inputs_of(model.graph)}
        self.outputs = {v.name: self._array(v) for v in model.graph.output}
        for array in self.inputs.values():
            array.block.buffer.fill(0, stream=self.stream)
        self._external = torch.cuda.ExternalStream(int(self.stream.handle), device=graph.device)
        self._graphs: dict[int, Any] = {}
        try:
            with _CAPTURE, torch.cuda.device(graph.device), torch.cuda.stream(self._external), _settings(torch):
                self._capture_all(graph)
        except EyasError:
            raise
        except Exception as error:  # torch raises several types
            got = " ".join(str(error).split())[:400]
            expected = "a graph it can capture, and memory for it"
            raise BackendError(
                problem("PyTorch refuses the model on CUDA", got=got, expected=expected, remedy="")
            ) from error

    def _array(self, value: onnx.ValueInfoProto) -> DeviceArray:
        shape = dims_of(value)[1:]
        if not all(isinstance(d, int) for d in shape):
            expected = "sizes that are known, but for the batch"
            raise BackendError(problem(f"{value.name} has no fixed shape", got=shape, expected=expected, remedy=""))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        return new_array(self._device, self.stream, (self.sizes[-1], *(int(d) for d in shape)), dtype)

    def _capture_all(self, graph: Graph) -> None:
        """Largest batch first: the smaller ones then fit into its memory."""
        epilogue = epilogue_on(self._torch, self._device, self.stream)
        feeds = {name: self._tensor(array, graph.device) for name, array in self.inputs.items()}
        results = {name: self._tensor(array, graph.device) for name, array in self.outputs.items()}
        pool = None
        for size in reversed(self.sizes):
            program = Program(graph, size, epilogue)
            pool = self._capture(program, feeds, results, size, pool)
        self._external.synchronize()

    def _capture(self, program: Program, feeds: Any, results: Any, size: int, pool: Any) -> Any:
        """One graph; the pool of all."""
        torch = self._torch

        def work() -> None:
            found = program.run({name: tensor[:size] for name, tensor in feeds.items()})
            for name, tensor in found.items():
                results[name][:size].copy_(tensor)

        with torch.inference_mode():
            for _ in range(WARM_UP):
                work()
            self._external.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=self._external, capture_error_mode="thread_local"):
                work()
        self._graphs[size] = graph, program  # whose constants the graph reads
        return graph.pool()

    def _tensor(self, array: DeviceArray, device: Any) -> Any:
        """The array's memory as a tensor, not a copy."""
        tensor = self._torch.as_tensor(array, device=device)
        if tensor.data_ptr() != array.address:
            expected = "the same memory"
            raise BackendError(problem("PyTorch has copied an array", got=device, expected=expected, remedy=""))
        return tensor

    def launch(self, count: int) -> None:
        """See `Lane`."""
        graph, _ = self._graphs[fitting(self.sizes, count)]
        with self._torch.cuda.stream(self._external):
            graph.replay()

    def close(self) -> None:
        """See `Lane`."""
        self.stream.sync()
        for graph, _ in self._graphs.values():
            graph.reset()
        self._graphs = {}
        for array in [*self.inputs.values(), *self.outputs.values()]:
            array.block.close()
        self.stream.sync()
        self._torch.cuda.empty_cache()
        self.stream.close()


def _settings(torch: Any) -> Any:
    """While it warms up and captures: the fastest algorithm is measured; fp32 is fp32."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
