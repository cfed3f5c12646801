"""The torch backend on a CPU: every operator and every deploy graph against ONNX Runtime; on a GPU, against the CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import zoo
from conftest import BUNDLED, SAMPLES
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import eyas
from eyas.backends import Feeds
from eyas.backends import torch as torch_backend
from eyas.build import Network, deploy_graph, open_network
from eyas.card import settle_card
from eyas.errors import BackendError
from eyas.graph.head import HeadSpec
from eyas.graph.network import facts_of
from eyas.graph.precision import to_narrow
from eyas.types import BuildSpec

torch = pytest.importorskip("torch", reason="torch is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from eyas.torch_ops.epilogue import epilogue_on  # noqa: E402
from eyas.torch_ops.run import Graph, Program  # noqa: E402

CPU = BuildSpec("fp32", device="cpu")
NAMES = ("ant", "bee", "cow")
MODELS = (
    "nanodet_g",
    "nanodet_m_416",
    "yolox_nano",
    "yolov5n_face",
    "yolov8n",
    "yolov8n-pose",
    "scrfd_500m_kps",
    "retinaface_mnet025",
    "mobilefacenet",
    "person_reid_0287",
)
Array = NDArray[Any]


def floats(*shape: int, seed: int = 0, low: float = -3, high: float = 3) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


# ---- one operator at a time ----


def model_of(
    kind: str,
    inputs: Sequence[Array | None],
    known: Sequence[int] = (),
    opset: int = 17,
    outputs: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """A graph of one node. known: which inputs are constants; None: an input that is left out."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    outs = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, names, outs, "the_node", **attributes)
    given = [(n, x) for i, (n, x) in enumerate(zip(names, inputs, strict=True)) if x is not None and i not in known]
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in given]
    weights = [numpy_helper.from_array(x, f"x{i}") for i, x in enumerate(inputs) if x is not None and i in known]
    unshaped = [onnx.ValueInfoProto(name=o) for o in outs]
    graph = helper.make_graph([node], "one", values, unshaped, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def by_torch(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    graph = Graph(torch, model, torch.device("cpu"))
    found = Program(graph, len(next(iter(feeds.values())))).run(
        {n: torch.from_numpy(x.copy()) for n, x in feeds.items()}
    )
    return [found[o.name].numpy() for o in model.graph.output]


def assert_same(model: onnx.ModelProto, feeds: Mapping[str, Array], tolerance: float = 1e-5) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for got, want in zip(by_torch(model, feeds), session.run(None, dict(feeds)), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if want.dtype.kind == "f":
            scale = np.abs(want[np.isfinite(want)]).max(initial=1.0)
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale)
        else:
            np.testing.assert_array_equal(got, want)


X = floats(2, 6, 7, 9)
UNITS = floats(2, 6, low=0.1, high=2)
INTS = np.arange(-6, 6, dtype=np.int64).reshape(2, 6)
POSITIVE = np.abs(INTS) + 1


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


# kind, inputs, which of them are constants, attributes (opset: of the model; outputs: how many)
CASES: list[tuple[str, Sequence[Array | None], Sequence[int], dict[str, Any]]] = [
    *[
        (kind, [X], (), {})
        for kind in ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "HardSigmoid", "Elu", "Abs")
    ],
    *[
        (kind, [X], (), {})
        for kind in ("Neg", "Exp", "Floor", "Ceil", "Sign", "Erf", "Sin", "Cos", "Softplus", "Softsign")
    ],
    *[(kind, [UNITS], (), {}) for kind in ("Sqrt", "Log", "Reciprocal")],
    ("Round", [np.array([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]], np.float32)], (), {}),
    ("LeakyRelu", [X], (), {"alpha": 0.1}),
    ("HardSigmoid", [X], (), {"alpha": 1 / 6}),
    ("Elu", [X], (), {"alpha": 0.7}),
    ("Mish", [X], (), {"opset": 18}),
    ("Gelu", [X], (), {"opset": 20}),
    ("Gelu", [X], (), {"opset": 20, "approximate": "tanh"}),
    ("Clip", [X, np.float32(0), np.float32(1)], (1, 2), {}),
    ("Clip", [X, None, np.float32(1)], (2,), {}),
    ("Clip", [X], (), {"opset": 6, "min": -1.0, "max": 0.5}),
    ("Clip", [X], (), {}),
    ("PRelu", [X, floats(6, 1, 1)], (1,), {}),
    ("PRelu", [X, floats(1)], (1,), {}),
    ("PRelu", [X, floats(6, 7, 1)], (1,), {}),
    *[(kind, [X, floats(6, 1, 1, seed=1)], (1,), {}) for kind in ("Add", "Sub", "Mul", "Div")],
    *[(kind, [X, np.float32(3)], (1,), {}) for kind in ("Add", "Sub", "Mul", "Div", "Less", "Max", "Min", "Pow")],
    *[(kind, [np.float32(0.5), X], (0,), {}) for kind in ("Sub", "Div", "Less", "GreaterOrEqual", "Max", "Min")],
    ("Sub", [floats(1, 1, 1, 1, 1), X], (0,), {}),  # the constant has more axes
    *[
        (kind, [X, floats(2, 1, 7, 9, seed=1)], (), {})
        for kind in ("Max", "Min", "Greater", "LessOrEqual", "Sum", "Mean")
    ],
    ("Max", [X, X * 0.5, floats(9)], (2,), {}),
    ("Div", [INTS, POSITIVE], (), {}),
    ("Div", [INTS, np.array(4, np.int64)], (1,), {}),
    ("Mod", [INTS, POSITIVE], (), {}),
    ("Mod", [INTS, POSITIVE], (), {"fmod": 1}),
    ("Mod", [X, np.float32(1.5)], (1,), {"fmod": 1}),
    ("Pow", [UNITS, floats(2, 6, seed=1)], (), {}),
    ("Equal", [INTS, np.array(3, np.int64)], (1,), {}),
    *[(kind, [INTS > 0, INTS % 2 > 0], (), {}) for kind in ("And", "Or", "Xor", "Equal")],
    ("And", [INTS > 0, np.array(True)], (1,), {}),
    ("Pow", [np.float32(2), X], (0,), {}),
    ("Mul", [np.float32(0.5), X], (0,), {}),
    ("Sub", [np.array(3, np.int64), INTS], (0,), {}),
    ("Not", [INTS > 0], (), {}),
    ("IsNaN", [np.array([[1, np.nan]], np.float32)], (), {}),
    ("Where", [INTS > 0, floats(2, 6), np.float32(-1)], (2,), {}),
    ("Where", [INTS > 0, np.array([1.0], np.float32), np.float32(-1)], (1, 2), {}),
    ("Where", [INTS > 0, INTS, INTS * 2], (), {}),
    *[("Cast", [X], (), {"to": to}) for to in (TensorProto.INT32, TensorProto.BOOL, TensorProto.FLOAT16, 7, 11)],
    ("Cast", [np.arange(12, dtype=np.uint8).reshape(2, 6)], (), {"to": TensorProto.FLOAT}),
    # shapes
    ("Identity", [X], (), {}),
    ("Reshape", [X, i64(0, -1, 9)], (1,), {}),
    ("Reshape", [X, i64(2, 2, 3, 7, 9)], (1,), {}),
    ("Reshape", [floats(2, 2, 3, 4, 5), i64(2, 6, 4, 5)], (1,), {}),
    ("Flatten", [X], (), {}),
    *[("Flatten", [X], (), {"axis": axis}) for axis in (0, 2, -1)],
    ("Squeeze", [floats(2, 1, 3, 1)], (), {}),
    ("Squeeze", [floats(2, 1, 3, 1), i64(-1)], (1,), {}),
    ("Squeeze", [floats(2, 1, 3, 1)], (), {"opset": 11, "axes": [1]}),
    ("Unsqueeze", [X, i64(0, -1)], (1,), {}),
    ("Unsqueeze", [X], (), {"opset": 11, "axes": [2, 4]}),
    ("Transpose", [X], (), {}),
    ("Transpose", [X], (), {"perm": [0, 2, 3, 1]}),
    *[("Concat", [X, X * 2], (), {"axis": axis}) for axis in (0, 1, -1)],
    ("Concat", [floats(2, 4), floats(2, 3)], (1,), {"axis": 1}),
    ("Split", [X], (), {"outputs": 3, "axis": 1}),
    ("Split", [X, i64(1, 3, 2)], (1,), {"outputs": 3, "axis": 1}),
    ("Split", [X], (), {"outputs": 2, "axis": 3, "opset": 11, "split": [4, 5]}),
    ("Split", [X], (), {"outputs": 2, "axis": 2, "opset": 18, "num_outputs": 2}),
    ("Slice", [X, i64(1), i64(5), i64(1), i64(2)], (1, 2, 3, 4), {}),
    ("Slice", [X, i64(-1), i64(-(2**62)), i64(1), i64(-1)], (1, 2, 3, 4), {}),
    ("Slice", [X, i64(5, 8), i64(0, 1), i64(1, -1), i64(-2, -3)], (1, 2, 3, 4), {}),
    ("Slice", [X, i64(0, 1), i64(2**62, -1)], (1, 2), {}),
    ("Slice", [X, i64(4), i64(2), i64(1)], (1, 2, 3), {}),
    ("Slice", [X], (), {"opset": 9, "starts": [1], "ends": [3], "axes": [2]}),
    ("Expand", [floats(2, 1, 3), i64(4, 1)], (1,), {}),
    ("Tile", [floats(2, 3), i64(2, 3)], (1,), {}),
    ("Pad", [X, i64(0, 1, 2, 0, 0, 0, 1, 3)], (1,), {}),
    ("Pad", [X, i64(0, 0, 2, 1, 0, 0, -1, 3), np.float32(7)], (1, 2), {}),
    ("Pad", [X, i64(1, 2), None, i64(3)], (1, 3), {"opset": 18}),
    *[("Pad", [X, i64(0, 0, 2, 3, 0, 0, 1, 4)], (1,), {"mode": mode}) for mode in ("reflect", "edge")],
    ("Gather", [X, i64(2, 1, 0)], (1,), {"axis": 1}),
    ("Gather", [X, i64(5, 4, 3, 2, 1, 0)], (1,), {"axis": 1}),
    ("Gather", [X, i64(1, 3, 5)], (1,), {"axis": 1}),
    ("Gather", [X, i64(-1, 0, 0)], (1,), {"axis": 2}),
    ("Gather", [X, np.array(-2, np.int64)], (1,), {"axis": 3}),
    ("Gather", [X, np.array([[0, 5], [-1, 2]], np.int64)], (1,), {"axis": 1}),
    ("Gather", [X, np.array([[0, 5], [-1, 2]], np.int64)], (), {"axis": 1}),
    ("GatherElements", [floats(2, 6), INTS], (), {"axis": 1}),
    *[("DepthToSpace", [floats(2, 8, 3, 4)], (), {"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")],
    ("SpaceToDepth", [floats(2, 3, 4, 6)], (), {"blocksize": 2}),
    ("CumSum", [X, np.array(1, np.int64)], (1,), {}),
    # windows
    ("Conv", [X, floats(4, 6, 3, 3), floats(4)], (1, 2), {"pads": [1, 1, 1, 1]}),
    ("Conv", [X, floats(4, 6, 3, 3)], (1,), {"strides": [2, 1], "dilations": [1, 2]}),
    ("Conv", [X, floats(4, 6, 3, 3)], (1,), {"pads": [0, 1, 2, 0]}),
    ("Conv", [X, floats(6, 1, 3, 3)], (1,), {"group": 6, "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("Conv", [X, floats(4, 6, 2, 2)], (1,), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("Conv", [X, floats(4, 6, 2, 2)], (1,), {"auto_pad": "VALID"}),
    ("Conv", [floats(2, 3, 9), floats(4, 3, 3)], (1,), {"pads": [1, 1]}),
    ("Conv", [X, floats(4, 6, 3, 3)], (), {}),
    ("ConvTranspose", [X, floats(6, 4, 2, 2), floats(4)], (1, 2), {"strides": [2, 2]}),
    (
        "ConvTranspose",
        [X, floats(6, 2, 3, 3)],
        (1,),
        {"group": 2, "strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]},
    ),
    ("ConvTranspose", [X, floats(6, 4, 3, 3)], (1,), {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
    *[
        ("ConvTranspose", [X, floats(6, 4, 3, 3)], (1,), {"strides": [2, 2], "auto_pad": a})
        for a in ("SAME_UPPER", "SAME_LOWER")
    ],
    ("ConvTranspose", [X, floats(6, 4, 3, 3)], (1,), {"strides": [2, 2], "output_shape": [14, 18]}),
    *[
        (kind, [X], (), {"kernel_shape": [3, 3], **more})
        for kind in ("MaxPool", "AveragePool")
        for more in (
            {"strides": [2, 2]},
            {"strides": [2, 2], "pads": [1, 1, 1, 1]},
            {"strides": [2, 2], "pads": [0, 0, 1, 1]},
            {"strides": [2, 2], "pads": [2, 2, 2, 2]},
            {"strides": [2, 2], "ceil_mode": 1},
            {"strides": [3, 2], "ceil_mode": 1, "pads": [1, 0, 1, 2]},
            {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
            {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        )
    ],
    ("MaxPool", [X], (), {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    (
        "MaxPool",
        [np.arange(2 * 36, dtype=np.uint8).reshape(2, 1, 6, 6)],
        (),
        {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]},
    ),
    ("MaxPool", [floats(2, 3, 9)], (), {"kernel_shape": [3], "strides": [2]}),
    *[
        ("AveragePool", [X], (), {"kernel_shape": [3, 2], "strides": [2, 2], "count_include_pad": 1, "pads": pads})
        for pads in ([1, 1, 1, 1], [0, 1, 1, 0])
    ],
    (
        "AveragePool",
        [X],
        (),
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1, "opset": 19},
    ),
    ("GlobalAveragePool", [X], (), {}),
    ("GlobalMaxPool", [X], (), {}),
    # along axes
    *[
        (kind, [X], (), {"axes": axes, "keepdims": keep, "opset": 11})
        for kind in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceL2", "ReduceL1", "ReduceProd")
        for axes, keep in (([1], 0), ([2, -1], 1))
    ],
    ("ReduceMax", [X, i64(-1)], (1,), {"opset": 18, "keepdims": 0}),
    ("ReduceSum", [X], (), {}),
    ("ReduceSum", [INTS.astype(np.int32), i64(1)], (1,), {"keepdims": 0}),
    ("ReduceSum", [X], (), {"noop_with_empty_axes": 1}),
    *[(kind, [X], (), {"axis": 1, "keepdims": 0}) for kind in ("ArgMax", "ArgMin")],
    ("ArgMax", [np.array([[1, 3, 3, 0], [2, 2, 2, 2]], np.float32)], (), {"axis": 1}),
    ("ArgMax", [np.array([[1, 3, 3, 0], [2, 2, 2, 2]], np.float32)], (), {"axis": 1, "select_last_index": 1}),
    ("TopK", [X, i64(3)], (1,), {"axis": 1, "outputs": 2}),
    ("TopK", [X, i64(2)], (1,), {"outputs": 2, "largest": 0}),
    ("Softmax", [X], (), {}),
    ("Softmax", [X], (), {"axis": 1}),
    ("Softmax", [X], (), {"axis": 1, "opset": 11}),
    ("Softmax", [X], (), {"axis": -1, "opset": 11}),
    ("LogSoftmax", [X], (), {"axis": 1}),
    ("LayerNormalization", [X, floats(9), floats(9, seed=1)], (1, 2), {}),
    ("LayerNormalization", [X, floats(7, 9)], (1,), {"axis": 2, "epsilon": 1e-3}),
    ("BatchNormalization", [X, floats(6), floats(6, seed=1), floats(6, seed=2), floats(6, low=0.1)], (1, 2, 3, 4), {}),
    ("InstanceNormalization", [X, floats(6), floats(6, seed=1)], (1, 2), {}),
    ("MatMul", [X, floats(9, 5)], (1,), {}),
    ("MatMul", [X, X.transpose(0, 1, 3, 2).copy()], (), {}),
    ("Gemm", [floats(2, 5), floats(5, 3), floats(3)], (1, 2), {}),
    ("Gemm", [floats(2, 5), floats(3, 5), floats(3)], (1, 2), {"transB": 1}),
    ("Gemm", [floats(2, 5), floats(2, 3), floats(1)], (1, 2), {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [floats(2, 5), floats(5, 3)], (1,), {}),
    ("Einsum", [floats(2, 3, 4), floats(2, 4, 5)], (), {"equation": "bij,bjk->bik"}),
    ("GridSample", [X, floats(2, 4, 5, 2, low=-1.2, high=1.2)], (), {"opset": 16}),
    (
        "GridSample",
        [X, floats(2, 4, 5, 2, low=-1.2, high=1.2)],
        (),
        {"opset": 16, "align_corners": 1, "mode": "nearest"},
    ),
]


def case_id(case: tuple[str, Any, Any, dict[str, Any]]) -> str:
    return f"{case[0]} {' '.join(f'{k}={v}' for k, v in case[3].items())}"


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_an_operator_gives_what_onnx_runtime_gives(case: tuple[str, Any, Any, dict[str, Any]]) -> None:
    kind, inputs, known, attributes = case
    inputs = [None if x is None else np.asarray(x) for x in inputs]
    model = model_of(kind, inputs, known, **attributes)
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if x is not None and i not in known}
    assert_same(model, feeds)


PLACES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("by", [(2.0, 2.0), (1.5, 0.7), (3.0, 1.0), (0.5, 0.5), "15x4", "1x1"])
@pytest.mark.parametrize("mode", ["linear", "round_prefer_floor", "floor", "ceil", "round_prefer_ceil"])
def test_resize_samples_where_the_specification_says(mode: str, by: Any, place: str) -> None:
    attributes = {"mode": "linear"} if mode == "linear" else {"mode": "nearest", "nearest_mode": mode}
    if isinstance(by, str):
        sizes = i64(2, 6, *(int(s) for s in by.split("x")))
        inputs, known = [X, None, None, sizes], (3,)
    else:
        inputs, known = [X, None, np.array([1, 1, *by], np.float32)], (2,)
    model = model_of("Resize", inputs, known, opset=13, coordinate_transformation_mode=place, **attributes)
    assert_same(model, {"x0": X})


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"mode": "cubic"}, "mode cubic"),
        (
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric", "opset": 19},
            "half_pixel_symmetric",
        ),
        ({"mode": "linear", "antialias": 1, "opset": 18}, "antialias"),
    ],
)
def test_a_resize_of_another_kind_is_refused(attributes: dict[str, Any], said: str) -> None:
    model = model_of("Resize", [X, None, np.array([1, 1, 2, 2], np.float32)], (2,), **{"opset": 13, **attributes})
    with pytest.raises(BackendError, match=rf"operator Resize in node the_node with .*{said}"):
        by_torch(model, {"x0": X})


def test_an_unknown_operator_is_named_with_its_node() -> None:
    with pytest.raises(BackendError, match=r"got operator Hardmax in node the_node; .*Another backend may take it"):
        by_torch(model_of("Hardmax", [X]), {"x0": X})


def test_a_shape_that_depends_on_the_pictures_is_refused() -> None:
    model = model_of("Reshape", [X, i64(2, 6, 63)])
    with pytest.raises(BackendError, match="Reshape in node the_node, whose input 1 depends on the pictures"):
        by_torch(model, {"x0": X, "x1": i64(2, 6, 63)})


def test_what_torch_does_not_take_is_named_too() -> None:
    with pytest.raises(BackendError, match=r"operator MatMul in node the_node, for which torch says: .*5"):
        by_torch(model_of("MatMul", [X, floats(5, 5)], (1,)), {"x0": X})


# ---- what is rewritten ----


def chain(nodes: Sequence[onnx.NodeProto], weights: Mapping[str, Array], outputs: Sequence[str], images: Array) -> Any:
    values = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(images.dtype), images.shape)]
    graph = helper.make_graph(
        list(nodes),
        "chain",
        values,
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [op.kind for op in Graph(torch, model, torch.device("cpu")).ops]


ACTIVATIONS: list[tuple[str, list[onnx.NodeProto]]] = [
    ("Relu", [helper.make_node("Relu", ["c"], ["y"])]),
    ("LeakyRelu", [helper.make_node("LeakyRelu", ["c"], ["y"], alpha=0.1)]),
    ("Clip", [helper.make_node("Clip", ["c", "zero", "six"], ["y"])]),
    ("Silu", [helper.make_node("Sigmoid", ["c"], ["s"]), helper.make_node("Mul", ["c", "s"], ["y"])]),
    (
        "HardSwish",
        [helper.make_node("HardSigmoid", ["c"], ["s"], alpha=1 / 6), helper.make_node("Mul", ["s", "c"], ["y"])],
    ),
]
WEIGHTS = {"w": floats(4, 6, 3, 3), "b": floats(4), "zero": np.float32(0), "six": np.float32(6)}


@pytest.mark.parametrize(("name", "nodes"), ACTIVATIONS, ids=[name for name, _ in ACTIVATIONS])
def test_an_activation_becomes_part_of_the_convolution(name: str, nodes: list[onnx.NodeProto]) -> None:
    conv = helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4)
    model = chain([conv, *nodes], WEIGHTS, ["y"], X)
    (op,) = Graph(torch, model, torch.device("cpu")).ops
    assert op.attributes["activation"].kind == name
    assert_same(model, {"x": X})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("name", "nodes"), ACTIVATIONS, ids=[name for name, _ in ACTIVATIONS])
def test_bias_and_activation_may_be_applied_behind_the_products(
    name: str, nodes: list[onnx.NodeProto], bias: bool
) -> None:
    """As on a GPU, by the epilogue, which here does it with torch's own functions."""
    conv = helper.make_node("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["c"], pads=[1] * 4)
    model = chain([conv, *nodes], WEIGHTS, ["y"], X)
    device: Any = SimpleNamespace(gpu=SimpleNamespace(capability=(9, 0)))
    graph = Graph(torch, model, torch.device("cpu"))
    feeds = {"x": torch.from_numpy(X)}
    with_epilogue = Program(graph, 2, epilogue_on(torch, device, None))
    np.testing.assert_allclose(
        with_epilogue.run(feeds)["y"].numpy(), Program(graph, 2).run(feeds)["y"].numpy(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("reader", ["output", "Neg"])
def test_a_convolution_that_others_read_keeps_its_activation_apart(reader: str) -> None:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    nodes += [helper.make_node("Neg", ["c"], ["z"])] if reader == "Neg" else []
    model = chain(nodes, WEIGHTS, ["y", "z" if reader == "Neg" else "c"], X)
    assert kinds(model)[:2] == ["Conv", "Relu"]
    assert_same(model, {"x": X})


def overwrites(model: onnx.ModelProto, edge: str) -> bool:
    """Whether the operator that makes `edge` overwrites its input."""
    graph = Graph(torch, model, torch.device("cpu"))
    (i,) = (i for i, op in enumerate(graph.ops) if edge in op.outputs)
    return bool(graph.lives.inplace(i))


ADD, RELU = helper.make_node("Add", ["x", "x"], ["a"]), helper.make_node("Relu", ["a"], ["y"])


def test_an_activation_overwrites_what_nobody_else_reads() -> None:
    model = chain([ADD, RELU], {}, ["y"], X)
    assert overwrites(model, "y")
    assert_same(model, {"x": X})


READERS = {
    "reader": [ADD, RELU, helper.make_node("Neg", ["a"], ["z"])],
    "view that is read later": [
        *(ADD, helper.make_node("Flatten", ["a"], ["f"]), RELU),
        helper.make_node("Neg", ["f"], ["z"]),
    ],
    "view that is an output": [ADD, helper.make_node("Transpose", ["a"], ["z"]), RELU],
    "cast that changes nothing": [ADD, helper.make_node("Cast", ["a"], ["z"], to=1), RELU],
}


@pytest.mark.parametrize("nodes", READERS.values(), ids=READERS)
def test_an_activation_does_not_overwrite_what_is_read_later(nodes: list[onnx.NodeProto]) -> None:
    model = chain(nodes, {}, ["y", "z"], X)
    assert not overwrites(model, "y")
    assert_same(model, {"x": X})


def test_inputs_are_never_overwritten() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("Relu", ["i"], ["y"])]
    model = chain(nodes, {}, ["y"], X)
    assert not overwrites(model, "y")
    graph = Graph(torch, model, torch.device("cpu"))
    given = torch.from_numpy(X.copy())
    Program(graph, 2).run({"x": given})
    np.testing.assert_array_equal(given.numpy(), X)


@pytest.mark.parametrize("to", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_bytes_are_converted_by_the_arithmetic_itself(to: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(to)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["f"], ["h"], to=to),
        helper.make_node("Sub", ["h", "mean"], ["y"]),
    ]
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    model = chain(nodes, {"mean": np.array([103.53, 116.28, 123.675], dtype).reshape(1, 3, 1, 1)}, ["y"], images)
    assert kinds(model) == ["Transpose", "Sub"]
    assert_same(model, {"x": images}, 0)


def test_numbers_beyond_bytes_keep_their_casts() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=10), helper.make_node("Cast", ["h"], ["y"], to=1)]
    values = np.array([[2049.0, 1e-9]], np.float32)
    model = chain(nodes, {}, ["y"], values)
    assert kinds(model) == ["Cast", "Cast"]
    assert_same(model, {"x": values}, 0)


def test_shapes_and_their_arithmetic_are_worked_out_when_it_opens() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["batch"], axis=0),
        helper.make_node("Mul", ["batch", "two"], ["twice"]),
        helper.make_node("Concat", ["twice", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    model = chain(nodes, {"zero": i64(0), "two": i64(2), "rest": i64(-1, 9)}, ["y"], X)
    graph = Graph(torch, model, torch.device("cpu"))
    assert len(Program(graph, 2).steps) == 1
    assert_same(model, {"x": X})


def test_a_channel_shuffle_stays_channels_last() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "apart"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["t", "back"], ["y"]),
    ]
    model = chain(nodes, {**WEIGHTS, "apart": i64(2, 2, 2, 5, 7), "back": i64(2, -1, 5, 7)}, ["y"], X)
    graph = Graph(torch, model, torch.device("cpu"))
    last = torch.from_numpy(X).contiguous(memory_format=torch.channels_last)
    assert Program(graph, 2).run({"x": last})["y"].is_contiguous(memory_format=torch.channels_last)
    assert_same(model, {"x": X})


# ---- deploy graphs ----


def pictures(size: tuple[int, int], count: int) -> Array:
    files = [cv2.imread(str(path)) for path in sorted(SAMPLES.glob("*.jpg"))]
    return np.stack([cv2.resize(files[i % len(files)], size[::-1]) for i in range(count)])


def feeds_of(model: onnx.ModelProto, images: Array) -> dict[str, Array]:
    limits = np.tile(np.float32([[0.05, 0.5]]), (len(images), 1))
    return {"images": images, "thresholds": limits} if len(model.graph.input) > 1 else {"images": images}


def assert_same_outputs(got: Mapping[str, Array], want: Mapping[str, Array], tolerance: float = 1e-5) -> None:
    assert list(got) == list(want)
    for name, theirs in want.items():
        assert (got[name].dtype, got[name].shape) == (theirs.dtype, theirs.shape)
        if theirs.dtype.kind != "f":
            np.testing.assert_array_equal(got[name], theirs)
            continue
        for i, rows in enumerate(theirs):
            filled = slice(0, int(want["count"][i])) if name == "detections" else slice(None)
            scale = np.abs(rows[filled]).max(initial=1.0)
            assert np.abs(got[name][i][filled] - rows[filled]).max(initial=0) <= tolerance * scale


def compare(model: onnx.ModelProto, batches: Sequence[int]) -> None:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    size = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:3]
    engine = torch_backend.open_engine(model, CPU)
    for batch in batches:
        feeds = feeds_of(model, pictures((size[0], size[1]), batch))
        names = [o.name for o in model.graph.output]
        assert_same_outputs(engine.infer(feeds), dict(zip(names, session.run(names, feeds), strict=True)))
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_gives_what_onnx_runtime_gives(real_data: Path, name: str) -> None:
    network = open_network(real_data / "models" / f"{name}.onnx")
    compare(deploy_graph(network, HeadSpec()), (1,) if network.facts.batch else (1, 2, 7))


@pytest.mark.parametrize(
    "head", [HeadSpec(20), HeadSpec(20, agnostic=True), HeadSpec(30, multi_label=True), HeadSpec(40, (0, 2))]
)
@pytest.mark.parametrize("kind", zoo.KINDS)
def test_every_family_of_the_zoo_gives_what_onnx_runtime_gives(kind: str, head: HeadSpec) -> None:
    model = zoo.network(kind, size=(96, 64))
    card = settle_card(facts_of(model), family_name=zoo.KINDS[kind][0], names=NAMES)
    compare(deploy_graph(Network(model, facts_of(model), card), head), (1, 2, 7))


def test_a_graph_in_fp16_runs_on_a_cpu_too() -> None:
    """What a GPU runs, as near as fp16 is: so the casts are where they belong."""
    model = deploy_graph(open_network(BUNDLED), HeadSpec(100))
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    to_narrow(narrow, "fp16")
    feeds = {k: torch.from_numpy(v) for k, v in feeds_of(model, pictures((416, 416), 1)).items()}
    wide, half = (Program(Graph(torch, m, torch.device("cpu")), 1).run(feeds) for m in (model, narrow))
    best = int((wide["detections"][0, :, 4] > 0.5).sum())
    assert best > 0
    np.testing.assert_allclose(half["detections"][0, :best, :4], wide["detections"][0, :best, :4], atol=2)
    np.testing.assert_allclose(half["detections"][0, :best, 4:], wide["detections"][0, :best, 4:], atol=0.02)


@pytest.mark.parametrize("picture", ["chelsea.jpg", "astronaut.jpg", "coffee.jpg"])
def test_predictions_are_those_of_onnx_runtime(picture: str) -> None:
    found = []
    for name in ("torch", "onnxruntime"):
        with eyas.load("nanodet", backend=name, device="cpu", precision="fp32") as model:
            found.append(model.predict(SAMPLES / picture))
    mine, theirs = found
    assert mine.class_name == theirs.class_name
    np.testing.assert_allclose(mine.xyxy, theirs.xyxy, atol=1e-2)
    np.testing.assert_allclose(mine.confidence, theirs.confidence, atol=1e-5)


# ---- the backend ----


def test_a_device_that_is_not_there_is_refused() -> None:
    model = deploy_graph(open_network(BUNDLED), HeadSpec())
    for device in ("toaster", "cuda:first"):
        with pytest.raises(BackendError, match=f"PyTorch does not know the device: got {device}"):
            torch_backend.open_engine(model, BuildSpec(device=device))
    with pytest.raises(BackendError, match="PyTorch cannot use the GPU: got cuda:99"):
        torch_backend.open_engine(model, BuildSpec(device="cuda:99"))


def test_reduced_precision_is_refused_on_a_cpu() -> None:
    with pytest.raises(BackendError, match=r"PyTorch on a CPU cannot run fp16: .*expected auto \| fp32"):
        torch_backend.open_engine(deploy_graph(open_network(BUNDLED), HeadSpec()), BuildSpec("fp16", device="cpu"))


def test_it_is_never_chosen_unasked_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_backend.fitness().rank == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_backend.fitness().rank == 45


# ---- the CUDA kernel ----


def test_the_epilogue_compiles_for_every_activation() -> None:
    pytest.importorskip("cuda.core", reason="the extra `cuda` is not installed")
    from importlib import resources

    from eyas.cuda.device import compiled
    from eyas.torch_ops.epilogue import EXPRESSIONS
    from eyas.torch_ops.fuse import ACTIVATIONS as FUSED

    assert set(EXPRESSIONS) == {"", *FUSED}
    source = resources.files("eyas.torch_ops").joinpath("epilogue.cu").read_text(encoding="utf-8")
    for write in EXPRESSIONS.values():
        for half in (0, 1):
            assert compiled(source, "epilogue.cu", "sm_80", HALF=half, ACT=write({"min": 0.0, "max": math.inf}))


@pytest.fixture
def gpu() -> Any:
    from eyas.cuda.device import open_device, why_missing

    if why := why_missing() or (None if torch.cuda.is_available() else "this PyTorch has no CUDA"):
        pytest.skip(f"needs a GPU: {why}")
    pytest.importorskip("cuda.core", reason="the extra `cuda` is not installed")
    device = open_device(0)
    device.use()
    return device


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 58, 64])
@pytest.mark.parametrize("biased", [True, False])
def test_the_epilogue_is_what_torch_makes_in_two_steps(gpu: Any, dtype: str, channels: int, biased: bool) -> None:
    from eyas.torch_ops.epilogue import EXPRESSIONS
    from eyas.torch_ops.node import Node, Op
    from eyas.torch_ops.pointwise import POINTWISE

    stream = gpu.stream()
    with torch.cuda.stream(torch.cuda.ExternalStream(int(stream.handle))):
        x = torch.randn(3, channels, 7, 11, device="cuda").mul_(4).to(getattr(torch, dtype))
        x = x.contiguous(memory_format=torch.channels_last)
        bias = torch.randn(channels, device="cuda") if biased else None
        for kind in EXPRESSIONS:
            op = Op(kind, "", ("x",), ("y",), {"min": 0.0, "max": 6.0, "alpha": 0.1}) if kind else None
            wide = x.float() if bias is None else x.float() + bias.reshape(1, -1, 1, 1)
            want = POINTWISE[kind](Node(torch, op, 17, [wide]))(wide) if op else wide
            got = epilogue_on(torch, gpu, stream)(op)(x.clone(), bias)
            stream.sync()
            atol = 1e-6 if dtype == "float32" else 0
            torch.testing.assert_close(
                got.float(), want.to(x.dtype).float(), rtol=2e-3 if atol == 0 else 1e-6, atol=1e-5
            )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_lanes_give_what_the_cpu_gives(gpu: Any, precision: Any) -> None:
    model = deploy_graph(open_network(BUNDLED), HeadSpec(100))
    wanted = torch_backend.open_engine(model, CPU)
    engine = torch_backend.open_engine(model, BuildSpec(precision, (1, 2, 8), "throughput", "cuda"))
    for count in (1, 2, 3, 8, 11):
        feeds: Feeds = feeds_of(model, pictures((416, 416), count))
        want, got = wanted.infer(feeds), engine.infer(feeds)
        for i in range(count):
            best = int((want["detections"][i, :, 4] > 0.5).sum())
            mine, theirs = got["detections"][i, :best], want["detections"][i, :best]
            np.testing.assert_allclose(mine[:, :4], theirs[:, :4], atol=0.05 if precision == "fp32" else 2)
            np.testing.assert_allclose(mine[:, 4:], theirs[:, 4:], atol=1e-3 if precision == "fp32" else 0.02)
    engine.close()
