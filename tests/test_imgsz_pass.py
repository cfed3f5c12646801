"""`resize_input`: a resized export equals an export at that size, number for number; what is tied to its size is
refused; real networks find the same objects at another size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import oracles
import pytest
import zoo
from numpy.typing import NDArray
from onnx import helper
from test_real_models import iou

import eyas
from eyas.errors import ModelError
from eyas.graph.imgsz import resize_input
from eyas.graph.network import read_network
from eyas.graph.opset import raise_opset
from eyas.graph.replay.axes import Atom, axis_of
from eyas.graph.replay.grids import remake
from eyas.graph.surgery import dims_of

ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")

Size = tuple[int, int]
Body = Callable[[zoo.Net, str, Size], str | Sequence[str]]
STRIDES = (8, 16, 32)
ANCHORS = np.arange(10, 28).reshape(3, 3, 2) * 1.25


def export(
    body: Body, size: Size, *, batch: int | str = 1, opset: int = 17, channels_last: bool = False
) -> onnx.ModelProto:
    """A network that `body` writes for one size, with the same weights at each."""
    net = zoo.Net(0, opset, np.float32)
    made = body(net, "input", size)
    outputs = [made] if isinstance(made, str) else list(made)
    shape = [batch, *size, 3] if channels_last else [batch, 3, *size]
    graph = helper.make_graph(
        net.nodes,
        "body",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(e, onnx.TensorProto.UNDEFINED, None) for e in outputs],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, pictures: NDArray[np.float32]) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pictures})


def assert_resized(old: onnx.ModelProto, fresh: onnx.ModelProto, size: Size) -> onnx.ModelProto:
    """`old` at `size` is what `fresh` is; `old` is as it was."""
    before = old.SerializeToString(deterministic=True)
    found = resize_input(old, size)
    assert old.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(found, full_check=True)
    shape = [1 if isinstance(d, str) else d for d in dims_of(fresh.graph.input[0])]
    pictures = np.random.default_rng(1).uniform(0, 1, shape).astype(np.float32)
    for output, a, b in zip(found.graph.output, run(found, pictures), run(fresh, pictures), strict=True):
        np.testing.assert_array_equal(a, b)
        assert [d if isinstance(d, int) else 1 for d in dims_of(output)] == list(b.shape)
    return found


@pytest.mark.parametrize("size", [(64, 128), (192, 64), (128, 96), (320, 32 * 11)], ids=str)
@pytest.mark.parametrize("kind", zoo.KINDS)
def test_each_family_at_another_size_is_a_fresh_export(kind: str, size: Size):
    if kind == "nanodet-plus":
        size = (-(-size[0] // 64) * 64, -(-size[1] // 64) * 64)
    old, fresh = (zoo.network(kind, size=s, batch="batch") for s in ((128, 128), size))
    assert_resized(old, fresh, size)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_stays_fixed(batch: int, opset: int):
    old, fresh = (zoo.network("yolov8", size=s, batch=batch, opset=opset) for s in ((128, 128), (64, 160)))
    found = assert_resized(old, fresh, (64, 160))
    assert dims_of(found.graph.output[0])[0] == batch


def levels(net: zoo.Net, x: str, width: int) -> list[str]:
    trunk = net.op("Tanh", net.conv(x, 3, 6, 2))
    return [net.conv(trunk, 6, width, s // 2) for s in STRIDES]


def grid(size: Size, stride: int, shift: float) -> NDArray[np.float32]:
    """[h, w, 2] of x, y as loops would."""
    rows, columns = size[0] // stride, size[1] // stride
    return np.array([[(c + shift, r + shift) for c in range(columns)] for r in range(rows)], np.float32)


def yolov5(net: zoo.Net, x: str, size: Size) -> str:
    """v6 and later: 5-axis view, grid and anchor_grid expanded over the cells, one flat list."""
    rows = []
    for level, stride, anchors in zip(levels(net, x, 3 * 7), STRIDES, ANCHORS, strict=True):
        h, w = size[0] // stride, size[1] // stride
        y = net.op("Sigmoid", net.op("Transpose", net.reshape(level, 1, 3, 7, h, w), perm=[0, 1, 3, 4, 2]))
        cells = np.broadcast_to(grid(size, stride, -0.5), (1, 3, h, w, 2))
        table = np.broadcast_to(anchors.reshape(1, 3, 1, 1, 2), (1, 3, h, w, 2))
        xy = net.op("Add", net.op("Mul", net.slice(y, 0, 2, 4), net.const([2])), net.const(cells))
        xy = net.op("Mul", xy, net.const([stride]))
        wh = net.op("Mul", net.slice(y, 2, 4, 4), net.const([2]))
        wh = net.op("Mul", net.op("Mul", wh, wh), net.const(table))
        rows.append(net.reshape(net.op("Concat", xy, wh, net.slice(y, 4, 7, 4), axis=4), 1, 3 * h * w, 7))
    return net.op("Concat", *rows, axis=1)


def yolov5_flat(net: zoo.Net, x: str, size: Size) -> str:
    """All levels at once: grid [1, N, 2], strides [1, N, 1] and anchors [1, N, 2] of 3 anchors a cell."""
    rows, cells, steps, sides = [], [], [], []
    for level, stride, anchors in zip(levels(net, x, 3 * 7), STRIDES, ANCHORS, strict=True):
        h, w = size[0] // stride, size[1] // stride
        y = net.op("Transpose", net.reshape(level, 1, 3, 7, h * w), perm=[0, 1, 3, 2])
        rows.append(net.reshape(y, 1, -1, 7))
        cells.append(np.tile(grid(size, stride, 0).reshape(-1, 2), (3, 1)) * stride)
        steps.append(np.full((3 * h * w, 1), stride))
        sides.append(anchors.repeat(h * w, 0))
    y = net.op("Concat", *rows, axis=1)
    step = net.const(np.concatenate(steps)[None])
    xy = net.op("Add", net.op("Mul", net.slice(y, 0, 2, 2), step), net.const(np.concatenate(cells)[None]))
    wh = net.op("Mul", net.slice(y, 2, 4, 2), net.const(np.concatenate(sides)[None]))
    return net.op("Concat", xy, wh, net.slice(y, 4, 7, 2), axis=2)


def pose(net: zoo.Net, x: str, size: Size) -> str:
    """YOLOv8-pose's key points: 2 · p · s + place in pixels, [1, 3, 3, N] → [1, 9, N], levels in one view each."""
    flat = [net.reshape(y, 0, 9, size[0] * size[1] // s**2) for y, s in zip(levels(net, x, 9), STRIDES, strict=True)]
    cells = oracles.centres(size, STRIDES, 0)
    y = net.reshape(net.op("Concat", *flat, axis=2), 0, 3, 3, len(cells))
    xy = net.op("Mul", net.slice(y, 0, 2, 2), net.const(2 * cells[:, 2].reshape(1, 1, 1, -1)))
    xy = net.op("Add", xy, net.const(cells[:, :2].T[None, None]))
    return net.reshape(net.op("Concat", xy, net.op("Sigmoid", net.slice(y, 2, 3, 2)), axis=2), 0, 9, len(cells))


def grid_from_shapes(net: zoo.Net, x: str, size: Size) -> str:
    """A grid that the graph makes itself, of Range and Expand, from the shape of the map."""
    (level, *_) = levels(net, x, 2)
    shape = net.op("Shape", level)
    places = []
    for axis in (3, 2):
        count = net.op("Gather", shape, net.const(axis, np.int64), axis=0)
        line = net.op("Cast", net.op("Range", net.const(0, np.int64), count, net.const(1, np.int64)), to=1)
        target = net.op("Concat", net.const([1, 1], np.int64), net.slice(shape, 2, 4, 0), axis=0)
        line = net.op("Unsqueeze", line, net.const([1] if axis == 2 else [0], np.int64))
        places.append(net.op("Expand", line, target))
    place = net.op("Concat", *places, axis=1)
    return net.op("Mul", net.op("Add", level, place), net.const([8]))


def attention(net: zoo.Net, x: str, size: Size) -> str:
    """YOLO11's: the map flattened, softmax(QKᵀ) V, and viewed as a map again."""
    h, w = size[0] // 16, size[1] // 16
    y = net.conv(x, 3, 12, 16)
    net.nodes.append(
        helper.make_node("Split", [net.reshape(y, 1, 2, 6, h * w), net.const([2, 2, 2], np.int64)], list("qkv"), axis=2)
    )
    scores = net.op("MatMul", net.op("Transpose", "q", perm=[0, 1, 3, 2]), "k")
    weights = net.op("Softmax", net.op("Mul", scores, net.const([0.7071])), axis=-1)
    mixed = net.op("MatMul", "v", net.op("Transpose", weights, perm=[0, 1, 3, 2]))
    return net.op("Add", net.reshape(mixed, 1, 4, h, w), net.reshape("v", 1, 4, h, w))


def pyramid(net: zoo.Net, x: str, size: Size) -> str:
    """F.interpolate to the size of the other map, then levels cut out of one list again by number."""
    trunk = net.op("Tanh", net.conv(x, 3, 6, 8))
    deep = net.op("Tanh", net.conv(trunk, 6, 6, 2))
    up = net.op(
        *("Resize", deep, "", "", net.const([1, 6, size[0] // 8, size[1] // 8], np.int64)),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    fine, coarse = (size[0] * size[1] // s**2 for s in (8, 16))
    maps = [net.reshape(net.op("Add", up, trunk), 1, 6, fine), net.reshape(deep, 1, 6, coarse)]
    rows = net.op("Concat", *maps, axis=2)
    first, second = net.slice(rows, 0, fine, 2), net.slice(rows, fine, fine + coarse, 2)
    net.nodes.append(helper.make_node("Split", [rows, net.const([fine, coarse], np.int64)], ["s0", "s1"], axis=2))
    return net.op("Concat", net.op("Neg", second), first, "s0", net.op("Neg", "s1"), axis=2)


def focus(net: zoo.Net, x: str, size: Size) -> str:
    """YOLOX's first layer: every other pixel, with the ends written out; then a channel shuffle."""

    def every_other(y: str, start: int, axis: int) -> str:
        bounds = (net.const([v], np.int64) for v in (start, size[axis - 2], axis, 2))
        return net.op("Slice", y, *bounds)

    parts = [every_other(every_other(x, i, 2), j, 3) for j in (0, 1) for i in (0, 1)]
    h, w = size[0] // 2, size[1] // 2
    y = net.op("Transpose", net.reshape(net.op("Concat", *parts, axis=1), 1, 4, 3, h, w), perm=[0, 2, 1, 3, 4])
    y = net.reshape(y, 1, -1, h, w)
    for axis, count in ((2, h), (3, w)):
        y = net.slice(y, 0, count, axis)
    return y


def pooled(net: zoo.Net, x: str, size: Size) -> str:
    """Squeeze and excite, SPP's pools, and a classifier on the mean: none of these knows the size."""
    y = net.conv(x, 3, 8, 8)
    gate = net.op(
        "Sigmoid", net.op("Conv", net.op("GlobalAveragePool", y), net.const(net.rng.normal(0, 1, (8, 8, 1, 1))))
    )
    y = net.op("MaxPool", net.op("Mul", y, gate), kernel_shape=[5, 5], pads=[2] * 4)
    mean = net.op("ReduceMean", y, axes=[2, 3], keepdims=0)
    return net.op("Gemm", mean, net.const(net.rng.normal(0, 1, (8, 5))))


def tf_like(net: zoo.Net, x: str, size: Size) -> str:
    y = net.conv(net.op("Transpose", x, perm=[0, 3, 1, 2]), 3, 4, 8)
    return net.reshape(net.op("Transpose", y, perm=[0, 2, 3, 1]), 1, size[0] * size[1] // 64, 4)


BODIES: dict[str, Body] = {
    "yolov5": yolov5,
    "yolov5 flat": yolov5_flat,
    "pose": pose,
    "grid from shapes": grid_from_shapes,
    "attention": attention,
    "pyramid": pyramid,
    "focus": focus,
    "pooled": pooled,
}


@pytest.mark.parametrize("sizes", [((128, 128), (96, 160)), ((64, 128), (128, 64)), ((128, 128), (128, 320))], ids=str)
@pytest.mark.parametrize("name", BODIES)
def test_a_pattern_at_another_size_is_a_fresh_export(name: str, sizes: tuple[Size, Size]):
    old, fresh = (export(BODIES[name], s) for s in sizes)
    assert_resized(old, fresh, sizes[1])


def test_pictures_with_channels_last():
    old, fresh = (export(tf_like, s, channels_last=True) for s in ((64, 128), (96, 64)))
    assert_resized(old, fresh, (96, 64))


@pytest.mark.parametrize("opset", [11, 12])
def test_splits_that_are_attributes(opset: int):
    def body(net: zoo.Net, x: str, size: Size) -> str:
        n = [size[0] * size[1] // s**2 for s in (8, 16)]
        maps = [net.reshape(net.conv(x, 3, 6, s), 1, 6, k) for s, k in zip((8, 16), n, strict=True)]
        rows = net.op("Concat", *maps, axis=2)
        net.nodes.append(helper.make_node("Split", [rows], ["s0", "s1"], axis=2, split=n))
        return net.op("Concat", "s1", "s0", axis=2)

    old, fresh = (export(body, s, opset=opset) for s in ((64, 64), (96, 128)))
    assert_resized(old, fresh, (96, 128))


def test_resized_twice_is_resized_once():
    model = export(yolov5, (128, 128))
    there = resize_input(model, (64, 96))
    assert_resized(there, model, (128, 128))
    assert_resized(there, export(yolov5, (192, 64)), (192, 64))


def test_the_same_size_and_a_free_size_stay_as_they_are():
    for model in (export(focus, (64, 64)), export(lambda net, x, _: net.op("Relu", x), ("h", "w"))):  # type: ignore[arg-type]
        assert resize_input(model, (64, 64)).SerializeToString() == model.SerializeToString()


def test_the_size_in_the_metadata_follows():
    model = export(focus, (64, 64))
    model.metadata_props.add(key="imgsz", value="[64, 64]")
    model.metadata_props.add(key="stride", value="32")
    found = {p.key: p.value for p in resize_input(model, (32, 96)).metadata_props}
    assert found == {"imgsz": "[32, 96]", "stride": "32"}


def flat_gemm(net: zoo.Net, x: str, size: Size) -> str:
    y = net.op("Flatten", net.conv(x, 3, 2, 16), axis=1)
    return net.op("Gemm", y, net.const(np.ones((2 * size[0] * size[1] // 256, 5))))


def normalised_grid(net: zoo.Net, x: str, size: Size) -> str:
    """Places in parts of the picture: the step is 1 / w."""
    (level, *_) = levels(net, x, 2)
    return net.op("Add", level, net.const((grid(size, 8, 0.5) / [size[1] / 8, size[0] / 8]).transpose(2, 0, 1)[None]))


def normalised_stride(net: zoo.Net, x: str, size: Size) -> str:
    (level, *_) = levels(net, x, 2)
    return net.op("Mul", level, net.const(np.full((1, 1, size[0] // 8, size[1] // 8), 8 / 640)))


def learned_places(net: zoo.Net, x: str, size: Size) -> str:
    (level, *_) = levels(net, x, 2)
    return net.op("Add", level, net.const(net.rng.normal(0, 1, (1, 2, size[0] // 8, size[1] // 8))))


def scatter(net: zoo.Net, x: str, size: Size) -> str:
    indices = np.stack(np.meshgrid([0], [0], range(size[0]), range(size[1]), indexing="ij"), -1)
    return net.op("ScatterND", x, net.const(indices, np.int64), net.slice(x, 1, 2, 1))


def wide(net: zoo.Net, x: str, size: Size) -> str:
    return net.op("Mul", net.conv(x, 3, 2, 16), net.const([size[1]]))


def narrow(net: zoo.Net, x: str, size: Size) -> str:
    return net.op("Div", net.conv(x, 3, 2, 16), net.const([1 / size[0]]))


def map_wide(net: zoo.Net, x: str, size: Size) -> str:
    return net.op("Mul", net.conv(x, 3, 2, 16), net.const([size[1] // 16]))


def clipped(net: zoo.Net, x: str, size: Size) -> str:
    return net.op("Clip", net.conv(x, 3, 2, 16), net.const(0), net.const(size[1] - 1))


def own_mean(net: zoo.Net, x: str, size: Size) -> str:
    y = net.op("ReduceSum", net.conv(x, 3, 2, 4), net.const([2, 3], np.int64))
    return net.op("Mul", y, net.const([16 / (size[0] * size[1])]))


def width_from_shape(net: zoo.Net, x: str, size: Size) -> str:
    width = net.op("Cast", net.slice(net.op("Shape", net.conv(x, 3, 2, 2)), 3, 4, 0), to=1)
    return net.op("Div", net.conv(x, 3, 2, 16), width)


def adaptive(net: zoo.Net, x: str, size: Size) -> str:
    side = [size[0] // 8, size[1] // 8]
    return net.op("AveragePool", net.conv(x, 3, 2, 4), kernel_shape=side, strides=side)


def whole_window(net: zoo.Net, x: str, size: Size) -> str:
    y = net.conv(x, 3, 2, 16)
    return net.op("Conv", y, net.const(np.ones((4, 2, size[0] // 16, size[1] // 16))))


def one_vector(net: zoo.Net, x: str, size: Size) -> str:
    return net.op("Flatten", net.conv(x, 3, 2, 16), axis=1)


def picked(net: zoo.Net, x: str, size: Size) -> str:
    flat = net.reshape(net.conv(x, 3, 2, 8), 1, 2, -1)
    return net.op("Gather", flat, net.const([0, 5, 9], np.int64), axis=2)


def windows(net: zoo.Net, x: str, size: Size) -> str:
    return net.reshape(net.conv(x, 3, 2, 8), 1, 2, size[0] // 16, 2, size[1] // 8)


def crop(net: zoo.Net, x: str, size: Size) -> str:
    return net.slice(net.conv(x, 3, 2, 2), 0, size[0] // 4, 2)


def suppressed(net: zoo.Net, x: str, size: Size) -> str:
    boxes = net.op("Transpose", net.reshape(net.conv(x, 3, 4, 8), 1, 4, -1), perm=[0, 2, 1])
    scores = net.op("ReduceMax", net.op("Transpose", boxes, perm=[0, 2, 1]), axes=[1])
    return net.op("NonMaxSuppression", boxes, scores)


TIED: dict[str, tuple[Body, str]] = {
    "Flatten and Gemm": (flat_gemm, "weights are tied to the input's size"),
    "places in parts of the picture": (normalised_grid, "not the grid|scaled by the picture's size"),
    "strides in parts of the picture": (normalised_stride, "scaled by the picture's size"),
    "learned places": (learned_places, "not the grid"),
    "ScatterND": (scatter, "ScatterND has no rule"),
    "times the width": (wide, r"a constant \[160.0\] may be the input's size"),
    "over the height": (narrow, "may be the input's size"),
    "times the map's width": (map_wide, "or the map's"),
    "clipped to the picture": (clipped, "may be the input's size"),
    "a mean of its own": (own_mean, "over that or its cells"),
    "width from a Shape": (width_from_shape, "computed from the input's size"),
    "adaptive pooling": (adaptive, "window of 16 is tied"),
    "a window over the whole map": (whole_window, "window is tied|cannot be worked out"),
    "one vector": (one_vector, "one vector whose length"),
    "cells by number": (picked, "picks cells by their number"),
    "a view of windows": (windows, "is cut into"),
    "half of the picture": (crop, "bounds 0:32 depend"),
    "NMS inside": (suppressed, "NonMaxSuppression has no rule"),
}


@pytest.mark.parametrize("name", TIED)
def test_what_is_tied_to_its_size_is_refused(name: str):
    body, why = TIED[name]
    model = export(body, (128, 160))
    with pytest.raises(ModelError, match=why) as caught:
        resize_input(model, (192, 96))
    assert "cannot be resized to 192x96" in str(caught.value)
    assert "Export it at that size" in str(caught.value)


@pytest.mark.parametrize("body", [yolov5, pyramid, pose], ids=["yolov5", "pyramid", "pose"])
def test_sizes_that_are_no_multiple_name_the_nearest(body: Body):
    with pytest.raises(ModelError, match=r"multiples of the largest stride, (16|32).*nearest sizes are") as caught:
        resize_input(export(body, (128, 128)), (100, 136))
    assert ("96x128 or 128x160" if body is not pyramid else "96x128 or 112x144") in str(caught.value)


@pytest.mark.parametrize("size", [(0, 64), (-32, 64), (64, 100_000)])
def test_impossible_sizes(size: Size):
    with pytest.raises(ModelError, match="a side of"):
        resize_input(export(focus, (64, 64)), size)


def test_the_table_of_one_level_is_written_out_for_more_cells():
    rows, columns = (Atom(4, 6, "h"),), (Atom(5, 3, "w"),)
    old = grid((32, 40), 8, 0.5) * 8
    found = remake(old, (rows, columns, axis_of(2)), (32, 40))
    np.testing.assert_array_equal(found, grid((48, 24), 8, 0.5) * 8)
    assert found.dtype == np.float32
    half = remake(old.astype(np.float16), (rows, columns, axis_of(2)), (32, 40))
    np.testing.assert_array_equal(half, (grid((48, 24), 8, 0.5) * 8).astype(np.float16))
    off = old.copy()
    off[3, 4, 1] += 0.01
    with pytest.raises(ValueError, match="is not the grid"):
        remake(off, (rows, columns, axis_of(2)), (32, 40))


# Real networks. Sizes: the first is the export's, the second one for bus.jpg, the third for zidane.jpg.
REAL = {
    "yolov8n": ((640, 640), (640, 480), (384, 640)),
    "yolov8n-pose": ((640, 640), (640, 480), (384, 640)),
    "yolov5n_face": ((640, 640), (640, 480), (384, 640)),
    "yolox_nano": ((416, 416), (416, 320), (256, 416)),
    "nanodet_g": ((416, 416), (416, 320), (256, 416)),
    "nanodet_m_416": ((416, 416), (416, 320), (256, 416)),
    "scrfd_500m_kps": ((640, 640), (640, 480), (384, 640)),
    "retinaface_mnet025": ((640, 640), (640, 480), (384, 640)),
}
SURE = dict.fromkeys(REAL, 0.5) | {"yolov5n_face": 0.65}  # its weights are weak


def opened(real_data: Path, name: str) -> onnx.ModelProto:
    return raise_opset(read_network(real_data / "models" / f"{name}.onnx"), name)


def found_at(model: onnx.ModelProto, path: Path, picture: Path, conf: float) -> eyas.Detections:
    onnx.save(model, path)
    with eyas.load(path, precision="fp32") as loaded:
        result = loaded.predict(picture, conf=conf)
    assert isinstance(result, eyas.Detections)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("picture", ["bus.jpg", pytest.param("zidane.jpg", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", REAL)
def test_real_networks_find_the_same_objects_at_another_size(real_data: Path, tmp_path: Path, name: str, picture: str):
    size = REAL[name][1 if picture == "bus.jpg" else 2]
    model = opened(real_data, name)
    file = real_data / "data" / "images" / picture
    before = found_at(model, tmp_path / "before.onnx", file, SURE[name])
    after = found_at(resize_input(model, size), tmp_path / "after.onnx", file, 0.25)
    assert len(before) > 0 or (name, picture) == ("yolov5n_face", "zidane.jpg")
    for box, class_id in zip(before.xyxy, before.class_id, strict=True):
        rivals = [iou(box, other) for other in after.xyxy[after.class_id == class_id]]
        assert max(rivals, default=0) > 0.8


def canvas(real_data: Path, size: Size) -> NDArray[np.float32]:
    """zidane.jpg in the upper part, grey below; float32 [1, 3, H, W] RGB 0…1."""
    image = cv2.imread(str(real_data / "data" / "images" / "zidane.jpg"))
    full = np.full((*size, 3), 114, np.uint8)
    full[: size[1] * 9 // 16] = cv2.resize(image, (size[1], size[1] * 9 // 16))
    return oracles.blob_rgb(full)


def with_outputs(model: onnx.ModelProto, *edges: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_tensor_value_info(e, onnx.TensorProto.FLOAT, None) for e in edges)
    return copy


def test_yolov8_decodes_its_resized_cells_as_numpy_does(real_data: Path):
    sides = "__module.model.22.dfl/aten::view/Reshape_1:0"  # left, top, right, bottom in cells
    model = with_outputs(resize_input(opened(real_data, "yolov8n"), (384, 640)), sides)
    rows, distances = run(model, canvas(real_data, (384, 640)))
    cells = oracles.centres((384, 640), STRIDES, 0.5)
    step = cells[:, 2:]
    low, high = cells[:, :2] - distances[0, :2].T * step, cells[:, :2] + distances[0, 2:].T * step
    np.testing.assert_allclose(rows[0, :4].T, np.concatenate([(low + high) / 2, high - low], 1), atol=1e-3)


def test_yolov5_decodes_its_resized_cells_as_numpy_does(real_data: Path):
    model = opened(real_data, "yolov5n_face")
    raw = [n.output[0] for n in model.graph.node if n.op_type == "Transpose"]
    rows, *maps = run(with_outputs(resize_input(model, (384, 640)), *raw), canvas(real_data, (384, 640)))
    anchors = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
    decoded = []
    for values, stride, pairs in zip(maps, STRIDES, anchors, strict=True):
        y = 1 / (1 + np.exp(-values))
        y[..., :2] = (y[..., :2] * 2 + grid((384, 640), stride, -0.5)) * stride
        y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * np.array(pairs).reshape(3, 1, 1, 2)
        decoded.append(y.reshape(1, -1, 6))
    np.testing.assert_allclose(rows, np.concatenate(decoded, 1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["yolov8n", "yolov5n_face"])
def test_padding_that_is_left_out_changes_little_far_from_it(real_data: Path, name: str):
    """Cells of stride 8 in the upper half: the rest of the picture reaches them through the deep levels only."""
    model = opened(real_data, name)
    picture = canvas(real_data, (640, 640))
    (square,), (wide_,) = (
        run(model, picture),
        run(resize_input(model, (384, 640)), np.ascontiguousarray(picture[:, :, :384])),
    )
    if name == "yolov8n":
        square, wide_ = square[0, :, : 24 * 80].T, wide_[0, :, : 24 * 80].T
    else:
        square, wide_ = (rows[0, : 3 * k * 80].reshape(3, k, 80, 6)[:, :24] for rows, k in ((square, 80), (wide_, 48)))
        square, wide_ = square.reshape(-1, 6), wide_.reshape(-1, 6)
    apart = np.abs(square - wide_)
    assert np.median(apart[:, :2]) < 0.5  # a pixel of centre; a row too far would be 8
    assert np.median(apart[:, 4:]) < 1e-3
    assert apart[:, 4:].max() < 0.2
