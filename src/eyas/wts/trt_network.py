"""The network of some YOLOv5 weights, built with TensorRT's own layer API, as tensorrtx builds it: no ONNX, no parser.

`trt` is the module: tensorrt 8.6, 10, 11 or tensorrt_rtx. Where they differ: 8.6 wants EXPLICIT_BATCH and takes the
precision from builder flags; from 10 on networks are strongly typed, so fp16 is written into the network here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eyas.errors import BackendError, OptionError, problem
from eyas.wts.decode import Table, decode
from eyas.wts.walk import Conv, check_size, forward
from eyas.wts.weights import Weights

Precision = Literal["fp32", "fp16"]


@dataclass(frozen=True, slots=True)
class Built:
    """A network, and the arrays its weights point into: TensorRT copies none, so keep this until the engine is built.

    outputs: the names of what the network gives.
    """

    network: Any
    outputs: tuple[str, ...]
    arrays: tuple[NDArray[Any], ...]


def create_network(trt: Any, builder: Any) -> Any:
    """An empty network: strongly typed where the library knows that, else (8.6) with an explicit batch."""
    flags = trt.NetworkDefinitionCreationFlag.__members__
    wanted = flags.get("STRONGLY_TYPED", flags.get("EXPLICIT_BATCH"))
    return builder.create_network(0 if wanted is None else 1 << int(wanted))


def is_typed(trt: Any, network: Any) -> bool:
    """Whether precision lives in the network. Without EXPLICIT_BATCH among the flags (11, RTX) it always does."""
    flags = trt.NetworkDefinitionCreationFlag.__members__
    if "EXPLICIT_BATCH" not in flags:
        return True
    return "STRONGLY_TYPED" in flags and bool(network.get_flag(flags["STRONGLY_TYPED"]))


def build_network(
    trt: Any,
    network: Any,
    weights: Weights,
    *,
    size: tuple[int, int] = (640, 640),
    batch: int | None = None,
    precision: Precision = "fp32",
    decoded: bool = True,
) -> Built:
    """Fill an empty network. Input `images` float32 [batch, 3, H, W], RGB / 255; batch None: free, wants a profile.

    Output `output0` float32 [batch, N, 5 + C], final rows of centre, extent (pixels), objectness, class scores; not
    decoded: the raw maps [batch, 3 · (5 + C), h, w] as `output0` …. precision: of all up to the raw maps; the decode is
    fp32. On a network that is not strongly typed fp16 is the builder's flag FP16, which the caller sets.
    Raises OptionError; BackendError where TensorRT refuses a layer.
    """
    check_size(weights.arch, size)
    if precision not in ("fp32", "fp16"):
        raise OptionError(problem("no such precision here", got=precision, expected="fp32 or fp16", remedy=""))
    half = precision == "fp16" and is_typed(trt, network)
    ops = TensorRtOps(trt, network, weights, half)
    images = network.add_input("images", trt.float32, (-1 if batch is None else batch, 3, *size))
    edges = forward(ops, weights.arch, weights.classes, ops.narrowed(images))
    edges = [decode(ops, weights, size, edges)] if decoded else [ops.widened(e) for e in edges]
    for i, edge in enumerate(edges):
        edge.name = f"output{i}"
        network.mark_output(edge)
    return Built(network, tuple(f"output{i}" for i in range(len(edges))), tuple(ops.arrays))


def add_batch_profile(builder: Any, config: Any, size: tuple[int, int], batch: tuple[int, int, int]) -> None:
    """Let the engine take batches from batch[0] to batch[2], at its best at batch[1], where the batch is free."""
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *((count, 3, *size) for count in batch))
    config.add_optimization_profile(profile)


class TensorRtOps:
    """See `eyas.wts.walk.Ops` and `eyas.wts.decode.DecodeOps`; edges are ITensor. half: convolutions in fp16.

    arrays: what the weights point into; see `Built`.
    """

    def __init__(self, trt: Any, network: Any, weights: Weights, half: bool) -> None:
        self.arrays: list[NDArray[Any]] = []
        self._trt, self._net, self._weights, self._half = trt, network, weights, half
        # InterpolationMode was ResizeMode before 8.5, and SampleMode and the like have gone the same way
        self._nearest = getattr(trt, "InterpolationMode", None) or trt.ResizeMode

    def _held(self, array: NDArray[Any], half: bool) -> Any:
        self.arrays.append(np.ascontiguousarray(array, np.float16 if half else np.float32))
        return self._trt.Weights(self.arrays[-1])

    def _out(self, layer: Any, what: str) -> Any:
        if layer is None:
            raise BackendError(
                problem(
                    f"{self._trt.__name__} {self._trt.__version__} refuses a layer",
                    got=f"nothing for {what}",
                    expected="a layer",
                    remedy="Its log says why; the ONNX route (`eyas build`) may still work.",
                )
            )
        return layer.get_output(0)

    def conv(self, x: Any, conv: Conv) -> Any:
        """The convolution, and x · σ(x) where it is active."""
        kernel, bias = (self._held(array, self._half) for array in self._weights.convs[conv.name])
        layer = self._net.add_convolution_nd(x, conv.outside, (conv.kernel,) * 2, kernel, bias)
        y = self._out(layer, conv.name)
        layer.name, layer.stride_nd, layer.padding_nd = conv.name, (conv.stride,) * 2, (conv.pad,) * 2
        return self.mul(y, self.sigmoid(y)) if conv.active else y

    def pool(self, x: Any, kernel: int) -> Any:
        """The maximum of kernel × kernel, stride 1."""
        layer = self._net.add_pooling_nd(x, self._trt.PoolingType.MAX, (kernel,) * 2)
        y = self._out(layer, "a pooling")
        layer.stride_nd, layer.padding_nd = (1, 1), (kernel // 2,) * 2
        return y

    def upsample(self, x: Any) -> Any:
        """Each pixel four times."""
        layer = self._net.add_resize(x)
        y = self._out(layer, "a resize")
        layer.resize_mode, layer.scales = self._nearest.NEAREST, [1, 1, 2, 2]
        layer.coordinate_transformation = self._trt.ResizeCoordinateTransformation.ASYMMETRIC
        layer.nearest_rounding = self._trt.ResizeRoundMode.FLOOR
        return y

    def concat(self, edges: Sequence[Any], axis: int = 1) -> Any:
        """Joined over an axis."""
        layer = self._net.add_concatenation(list(edges))
        y = self._out(layer, "a concatenation")
        layer.axis = axis
        return y

    def const(self, value: Table) -> Any:
        """A constant in fp32."""
        return self._out(self._net.add_constant(value.shape, self._held(value, False)), "a constant")

    def add(self, a: Any, b: Any) -> Any:
        """a + b, broadcast."""
        return self._out(self._net.add_elementwise(a, b, self._trt.ElementWiseOperation.SUM), "a sum")

    def mul(self, a: Any, b: Any) -> Any:
        """a · b, broadcast."""
        return self._out(self._net.add_elementwise(a, b, self._trt.ElementWiseOperation.PROD), "a product")

    def sigmoid(self, x: Any) -> Any:
        """σ(x)."""
        return self._out(self._net.add_activation(x, self._trt.ActivationType.SIGMOID), "a sigmoid")

    def narrowed(self, x: Any) -> Any:
        """As fp16, where that is wanted."""
        return self._out(self._net.add_cast(x, self._trt.float16), "a cast") if self._half else x

    def widened(self, x: Any) -> Any:
        """As fp32, where it is not."""
        return self._out(self._net.add_cast(x, self._trt.float32), "a cast") if self._half else x

    def by_anchor(self, raw: Any, width: int, cells: int) -> Any:
        """[B, 3 · width, h, w] → fp32 [B, 3, cells, width]."""
        layer = self._net.add_shuffle(self.widened(raw))
        y = self._out(layer, "a shuffle")
        layer.reshape_dims, layer.second_transpose = (0, 3, width, cells), self._trt.Permutation([0, 1, 3, 2])
        return y

    def by_row(self, x: Any, rows: int, width: int) -> Any:
        """[B, 3, cells, width] → [B, rows, width]."""
        layer = self._net.add_shuffle(x)
        y = self._out(layer, "a shuffle")
        layer.reshape_dims = (0, rows, width)
        return y
