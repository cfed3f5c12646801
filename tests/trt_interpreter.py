"""Runs a TensorRT INetworkDefinition on the CPU: each layer as the library's documentation defines it.

What is read is what TensorRT holds: the layers and their attributes, through the bindings, not what wrote them. Layers
that this does not know are an error. Convolutions and pooling are single operators of ONNX Runtime, all else NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

CLASSES = {
    "CONVOLUTION": "IConvolutionLayer",
    "POOLING": "IPoolingLayer",
    "ACTIVATION": "IActivationLayer",
    "ELEMENTWISE": "IElementWiseLayer",
    "CONCATENATION": "IConcatenationLayer",
    "CONSTANT": "IConstantLayer",
    "RESIZE": "IResizeLayer",
    "SHUFFLE": "IShuffleLayer",
    "CAST": "ICastLayer",
}


def layers_of(trt: Any, network: Any) -> list[tuple[str, Any]]:
    """(kind, layer): each layer as its own class, since `get_layer` gives all as ILayer, which hides the attributes.

    The kind is read first: activations and poolings have a `type` of their own.
    """
    layers = []
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        kind = layer.type.name
        if kind in CLASSES:
            layer.__class__ = getattr(trt, CLASSES[kind])
        layers.append((kind, layer))
    return layers


def run(
    trt: Any, network: Any, feeds: dict[str, NDArray[Any]], wanted: Iterable[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Tensor name → value, of the network's outputs or those `wanted`, given the tensors in `feeds`."""
    makers: dict[str, tuple[str, Any, Any]] = {}
    for kind, layer in layers_of(trt, network):
        for tensor in (layer.get_output(i) for i in range(layer.num_outputs)):
            assert tensor.name not in makers, f"two tensors are called {tensor.name}"
            makers[tensor.name] = kind, layer, tensor
    goals = list(wanted or [network.get_output(i).name for i in range(network.num_outputs)])
    values, todo = dict(feeds), list(goals)
    while todo:  # depth first: a layer waits on the stack until its inputs are there
        name = todo[-1]
        if name in values:
            todo.pop()
            continue
        kind, layer, tensor = makers[name]
        inputs = [layer.get_input(i).name for i in range(layer.num_inputs)]
        if missing := [i for i in inputs if i not in values]:
            todo += missing
            continue
        result = _LAYERS[kind](trt, layer, *(values[i] for i in inputs))
        shape = tuple(tensor.shape)
        assert len(shape) == result.ndim, (name, shape, result.shape)
        assert all(said in (-1, size) for said, size in zip(shape, result.shape, strict=True)), (name, shape)
        assert result.dtype == trt.nptype(tensor.dtype), (name, result.dtype, tensor.dtype)
        values[name] = result
    return {name: values[name] for name in goals}


@cache
def _session(op: str, inputs: int, attributes: tuple[tuple[str, Any], ...]) -> ort.InferenceSession:
    names = [f"i{i}" for i in range(inputs)]
    node = helper.make_node(op, names, ["o"], **{k: list(v) if isinstance(v, tuple) else v for k, v in attributes})
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*names, "o")]
    model = helper.make_model(
        helper.make_graph([node], op, values[:-1], values[-1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _single(op: str, *inputs: NDArray[Any], **attributes: Any) -> NDArray[Any]:
    session = _session(op, len(inputs), tuple(attributes.items()))
    feeds = {f"i{i}": np.asarray(array, np.float32) for i, array in enumerate(inputs)}
    return session.run(None, feeds)[0].astype(inputs[0].dtype)


def _convolution(trt: Any, layer: Any, x: NDArray[Any]) -> NDArray[Any]:
    assert layer.padding_mode == trt.PaddingMode.EXPLICIT_ROUND_DOWN
    outside, kernel = layer.num_output_maps, tuple(layer.kernel_size_nd)
    weight = np.asarray(layer.kernel).reshape(outside, x.shape[1] // layer.num_groups, *kernel)
    return _single(
        "Conv",
        x,
        weight,
        np.asarray(layer.bias),
        kernel_shape=kernel,
        strides=tuple(layer.stride_nd),
        pads=(*layer.pre_padding, *layer.post_padding),
        dilations=tuple(layer.dilation_nd),
        group=layer.num_groups,
    )


def _pooling(trt: Any, layer: Any, x: NDArray[Any]) -> NDArray[Any]:
    assert layer.type == trt.PoolingType.MAX
    assert layer.padding_mode == trt.PaddingMode.EXPLICIT_ROUND_DOWN
    pads = (*layer.pre_padding, *layer.post_padding)
    return _single("MaxPool", x, kernel_shape=tuple(layer.window_size_nd), strides=tuple(layer.stride_nd), pads=pads)


def _activation(trt: Any, layer: Any, x: NDArray[Any]) -> NDArray[Any]:
    assert layer.type == trt.ActivationType.SIGMOID
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def _elementwise(trt: Any, layer: Any, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    kinds = trt.ElementWiseOperation
    return {kinds.SUM: np.add, kinds.PROD: np.multiply}[layer.op](a, b)


def _concatenation(trt: Any, layer: Any, *inputs: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(inputs, layer.axis)


def _constant(trt: Any, layer: Any) -> NDArray[Any]:
    return np.asarray(layer.weights).reshape(tuple(layer.shape))


def _resize(trt: Any, layer: Any, x: NDArray[Any]) -> NDArray[Any]:
    """Nearest, asymmetric, rounded down: output i is input ⌊i / scale⌋."""
    assert layer.resize_mode == trt.InterpolationMode.NEAREST
    assert layer.coordinate_transformation == trt.ResizeCoordinateTransformation.ASYMMETRIC
    assert layer.nearest_rounding == trt.ResizeRoundMode.FLOOR
    for axis, scale in enumerate(layer.scales):
        x = x.take((np.arange(int(x.shape[axis] * scale)) / scale).astype(int), axis)
    return x


def _shuffle(trt: Any, layer: Any, x: NDArray[Any]) -> NDArray[Any]:
    x = x.transpose(list(layer.first_transpose)[: x.ndim])
    assert layer.zero_is_placeholder
    x = x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(layer.reshape_dims)])
    return x.transpose(list(layer.second_transpose)[: x.ndim])


def _cast(trt: Any, layer: Any, x: NDArray[Any]) -> NDArray[Any]:
    return x.astype(trt.nptype(layer.to_type))


_LAYERS = {
    "CONVOLUTION": _convolution,
    "POOLING": _pooling,
    "ACTIVATION": _activation,
    "ELEMENTWISE": _elementwise,
    "CONCATENATION": _concatenation,
    "CONSTANT": _constant,
    "RESIZE": _resize,
    "SHUFFLE": _shuffle,
    "CAST": _cast,
}
