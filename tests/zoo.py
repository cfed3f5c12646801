"""Tiny networks with random weights and the exact output layouts of each family, for tests without real weights.

Each is a strided convolution, a Tanh, and one convolution per stride, then the reshaping, grids and activations that
the family's exporter writes. Nothing here calls the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import oracles
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# kind → (family, strides, number that the input's values reach once normalised)
KINDS = {
    "yolov8": ("yolov8", (8, 16, 32), 1),
    "yolox": ("yolox", (8, 16, 32), 255),
    "yolox-decoded": ("yolox", (8, 16, 32), 255),
    "nanodet-8": ("nanodet", (8, 16, 32), 2),
    "nanodet-11": ("nanodet", (8, 16, 32), 2),
    "nanodet-six": ("nanodet", (8, 16, 32), 2),
    "nanodet-plus": ("nanodet", (8, 16, 32, 64), 2),
}
BINS = {"nanodet-8": 8, "nanodet-11": 11, "nanodet-six": 8, "nanodet-plus": 8}
COLLIDING = ("images", "thresholds", "detections", "count", "converged")
DFL = 16


class Net:
    """Nodes and weights in the order they are written; every method returns the edge it makes."""

    def __init__(self, seed: int, opset: int, dtype: type) -> None:
        self.rng, self.opset, self.dtype = np.random.default_rng(seed), opset, dtype
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, value: NDArray[Any] | Sequence[float], dtype: type | None = None) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype or self.dtype), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        out = f"e{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], f"{kind}_{len(self.nodes)}", **attributes))
        return out

    def conv(self, x: str, inside: int, outside: int, stride: int, magnitude: float = 1) -> str:
        """3 × 3, padded by one, so that a side of n cells becomes ceil(n / stride)."""
        weight = self.rng.normal(0, 1.5 / (magnitude * np.sqrt(9 * inside)), (outside, inside, 3, 3))
        bias = self.rng.normal(0, 0.3, outside)
        attributes = {"strides": [stride] * 2, "pads": [1] * 4, "kernel_shape": [3, 3]}
        return self.op("Conv", x, self.const(weight), self.const(bias), **attributes)

    def slice(self, x: str, start: int, stop: int, axis: int) -> str:
        return self.op("Slice", x, *(self.const([v], np.int64) for v in (start, stop, axis)))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.const(shape, np.int64))

    def softmax_1(self, x: str) -> str:
        """Over axis 1 of four; before opset 13 Softmax flattened what follows its axis, so exporters transposed."""
        if self.opset >= 13:
            return self.op("Softmax", x, axis=1)
        last = self.op("Softmax", self.op("Transpose", x, perm=[0, 3, 2, 1]), axis=3)
        return self.op("Transpose", last, perm=[0, 3, 2, 1])


def network(
    kind: str,
    *,
    size: tuple[int, int] = (64, 64),
    classes: int = 3,
    batch: int | str = "batch",
    opset: int = 17,
    dtype: type = np.float32,
    seed: int = 0,
    colliding: bool = False,
) -> onnx.ModelProto:
    """A network of one of `KINDS`. size: (height, width). colliding: its edges carry the deploy graph's names."""
    return onnx.load_from_string(_network(kind, size, classes, batch, opset, dtype, seed, colliding))


@cache
def _network(
    kind: str,
    size: tuple[int, int],
    classes: int,
    batch: int | str,
    opset: int,
    dtype: type,
    seed: int,
    colliding: bool,
) -> bytes:
    _, strides, magnitude = KINDS[kind]
    net = Net(seed, opset, dtype)
    trunk = net.op("Tanh", net.conv("input", 3, 6, 2, magnitude))
    cells = oracles.centres(size, strides, 0)
    if kind == "yolov8":
        outputs = {"output0": (_yolov8(net, trunk, strides, classes, size), [4 + classes, len(cells)])}
    elif kind.startswith("yolox"):
        out = _yolox(net, trunk, strides, classes, cells if kind == "yolox-decoded" else None)
        outputs = {"output": (out, [len(cells), 5 + classes])}
    else:
        scores, sides = _nanodet(net, trunk, strides, classes, BINS[kind])
        counts = [int((cells[:, 2] == s).sum()) for s in strides]
        if kind == "nanodet-six":
            outputs = {f"cls_pred_stride_{s}": (e, [n, classes]) for s, e, n in zip(strides, scores, counts)}  # noqa: B905
            outputs |= {f"dis_pred_stride_{s}": (e, [n, 4 * BINS[kind]]) for s, e, n in zip(strides, sides, counts)}  # noqa: B905
        else:
            levels = [net.op("Concat", *pair, axis=2) for pair in zip(scores, sides, strict=True)]
            outputs = {"output": (net.op("Concat", *levels, axis=1), [len(cells), classes + 4 * BINS[kind]])}
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for name, (edge, _) in outputs.items():
        net.nodes.append(helper.make_node("Identity", [edge], [name]))
    graph = helper.make_graph(
        net.nodes,
        kind,
        [helper.make_tensor_value_info("input", element, [batch, 3, *size])],
        [helper.make_tensor_value_info(name, element, [batch, *shape]) for name, (_, shape) in outputs.items()],
        net.weights,
    )
    if colliding:
        edges = ("input", next(iter(outputs)), net.nodes[0].output[0], net.weights[0].name, net.nodes[-2].output[0])
        rename(graph, dict(zip(edges, COLLIDING, strict=True)))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9 if opset > 18 else 7)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename edges wherever they occur."""
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for edges in (node.input, node.output):
            edges[:] = [names.get(edge, edge) for edge in edges]


def _yolov8(net: Net, trunk: str, strides: Sequence[int], classes: int, size: tuple[int, int]) -> str:
    """As Ultralytics exports it: DFL as Softmax → 1 × 1 Conv, then distances → centre and extent, in pixels."""
    width = 4 * DFL + classes
    levels = [net.reshape(net.conv(trunk, 6, width, s // 2), 0, width, -1) for s in strides]
    raw = net.op("Concat", *levels, axis=2)
    sides = net.reshape(net.slice(raw, 0, 4 * DFL, 1), 0, 4, DFL, -1)
    sides = net.softmax_1(net.op("Transpose", sides, perm=[0, 2, 1, 3]))
    weight = net.const(np.arange(DFL).reshape(1, DFL, 1, 1))
    sides = net.reshape(net.op("Conv", sides, weight, kernel_shape=[1, 1]), 0, 4, -1)
    cells = oracles.centres(size, tuple(strides), 0.5)
    points, steps = net.const(cells[:, :2].T[None] / cells[:, 2]), net.const(cells[:, 2][None, None])
    low = net.op("Sub", points, net.slice(sides, 0, 2, 1))
    high = net.op("Add", points, net.slice(sides, 2, 4, 1))
    centre = net.op("Div", net.op("Add", low, high), net.const([2]))
    box = net.op("Mul", net.op("Concat", centre, net.op("Sub", high, low), axis=1), steps)
    return net.op("Concat", box, net.op("Sigmoid", net.slice(raw, 4 * DFL, width, 1)), axis=1)


def _yolox(net: Net, trunk: str, strides: Sequence[int], classes: int, cells: NDArray[Any] | None) -> str:
    """As Megvii's exporter writes it: raw, or with `--decode_in_inference` (cells given) in pixels."""
    levels = []
    for s in strides:
        box = net.conv(trunk, 6, 4, s // 2)
        rest = net.op("Sigmoid", net.conv(trunk, 6, 1 + classes, s // 2))
        levels.append(net.reshape(net.op("Concat", box, rest, axis=1), 0, 5 + classes, -1))
    rows = net.op("Transpose", net.op("Concat", *levels, axis=2), perm=[0, 2, 1])
    if cells is None:
        return rows
    grid, step = net.const(cells[None, :, :2] / cells[None, :, 2:]), net.const(cells[None, :, 2:])
    centre = net.op("Mul", net.op("Add", net.slice(rows, 0, 2, 2), grid), step)
    extent = net.op("Mul", net.op("Exp", net.slice(rows, 2, 4, 2)), step)
    return net.op("Concat", centre, extent, net.slice(rows, 4, 5 + classes, 2), axis=2)


def _nanodet(net: Net, trunk: str, strides: Sequence[int], classes: int, bins: int) -> tuple[list[str], list[str]]:
    """Scores [B, n, C] and distance logits [B, n, 4 · bins] of each stride."""
    scores, sides = [], []
    for s in strides:
        for width, into in ((classes, scores), (4 * bins, sides)):
            level = net.conv(trunk, 6, width, s // 2)
            level = net.op("Sigmoid", level) if into is scores else level
            into.append(net.op("Transpose", net.reshape(level, 0, width, -1), perm=[0, 2, 1]))
    return scores, sides


def pictures(count: int, size: tuple[int, int] = (64, 64), seed: int = 7) -> NDArray[np.uint8]:
    """uint8 [count, H, W, 3] with structure at several scales, each different."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 160, (count, size[0] // 8, size[1] // 8, 3))
    return (coarse.repeat(8, 1).repeat(8, 2) + rng.integers(0, 96, (count, *size, 3))).astype(np.uint8)


BLOBS = {"yolov8": oracles.blob_rgb, "yolox": oracles.blob_bgr, "nanodet": oracles.blob_imagenet}


def reference(model: onnx.ModelProto, kind: str, images: NDArray[np.uint8], classes: int = 3):
    """(boxes [N, 4], scores [N, C]) of each picture: the raw network on ONNX Runtime, all else in NumPy."""
    import onnxruntime as ort

    family, _, _ = KINDS[kind]
    size = images.shape[1:3]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    element = np.float16 if "float16" in source.type else np.float32
    found = []
    for image in images:
        blob = BLOBS[family](image).astype(element)
        blob = np.repeat(blob, source.shape[0], 0) if isinstance(source.shape[0], int) else blob
        outputs = [o[:1].astype(np.float32) for o in session.run(None, {source.name: blob})]
        if family == "yolov8":
            found.append(oracles.yolov8(outputs, size))
        elif family == "yolox":
            found.append(oracles.yolox(outputs, size, decoded=kind == "yolox-decoded"))
        else:
            found.append(oracles.nanodet(outputs, size, plus=kind == "nanodet-plus", classes=classes))
    return found
