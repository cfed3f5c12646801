"""YOLOv5's architecture as data, and weights against it: folded, counted, and refused where they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import wts_zoo
from onnx import TensorProto, helper, numpy_helper

from eyas.errors import ModelError, OptionError
from eyas.families.yolov5 import ANCHORS
from eyas.wts import ARCHES, architecture, settle
from eyas.wts.fit import fitting
from eyas.wts.walk import convolutions

TINY = architecture("yolov5n", width=0.125)
Tensors = dict[str, np.ndarray]

# Parameters with 80 classes as Ultralytics' release notes and logs give them: fused where to the unit ("213 layers,
# 7225885 parameters"), else in millions.
PUBLISHED = {"yolov5n": 1867405, "yolov5s": 7225885, "yolov5m": 21172173, "yolov5l": 46533693, "yolov5x": 86705005}
MILLIONS = {"yolov5n6": 3.2, "yolov5s6": 12.6, "yolov5m6": 35.7, "yolov5l6": 76.8, "yolov5x6": 140.7}


@pytest.mark.parametrize("name", ARCHES)
def test_has_the_published_number_of_parameters(name: str) -> None:
    fused = sum(int(np.prod(c.shape)) + c.outside for c in convolutions(ARCHES[name], 80))
    norms = sum(c.outside for c in convolutions(ARCHES[name], 80) if c.active)  # γ and β in the place of a bias
    if name in PUBLISHED:
        assert fused == PUBLISHED[name]
    else:  # the table does not say which
        assert MILLIONS[name] in (round(fused / 1e6, 1), round((fused + norms) / 1e6, 1))


def test_repeats_round_halves_to_even_and_channels_up_to_eight() -> None:
    arch = architecture("yolov5s", 0.5, 0.33)
    assert [arch.repeats(n) for n in (1, 3, 6, 9)] == [1, 2, 3, 4]
    assert [arch.channels(n) for n in (64, 128, 1024)] == [24, 48, 344]


@pytest.mark.parametrize("multiple", [0.0, -1.0, 5.0, float("nan")])
def test_refuses_multiples_that_make_no_network(multiple: float) -> None:
    with pytest.raises(OptionError, match="--gd"):
        architecture("yolov5s", depth=multiple)


def test_refuses_an_unknown_name() -> None:
    with pytest.raises(OptionError, match=r"got yolov8n; expected yolov5n \| yolov5s"):
        architecture("yolov8n")


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s", "yolov5m", "yolov5n6"])
def test_finds_named_architectures(name: str) -> None:
    shapes = {n: np.broadcast_to(np.float32(0), t.shape) for n, t in wts_zoo.checkpoint(ARCHES[name], 2).items()}
    assert fitting(shapes) == ARCHES[name]


@pytest.mark.parametrize(
    ("base", "depth", "width"), [("yolov5s", 0.33, 0.375), ("yolov5s", 1.0, 0.125), ("yolov5s6", 0.5, 0.13)]
)
def test_finds_custom_architectures_that_are_the_same_network(base: str, depth: float, width: float) -> None:
    arch = architecture(base, depth, width)
    found = fitting(wts_zoo.checkpoint(arch, 2))
    assert found is not None
    assert convolutions(found, 2) == convolutions(arch, 2)


def test_folds_batch_norm_as_the_operator_defines_it() -> None:
    tensors, rng = wts_zoo.checkpoint(TINY), np.random.default_rng(1)
    weight, bias = settle(tensors, TINY).convs["model.1"]
    conv = next(c for c in convolutions(TINY, 3) if c.name == "model.1")
    norm = [f"model.1.bn.{p}" for p in ("weight", "bias", "running_mean", "running_var")]
    attributes = {"strides": [2, 2], "pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", "model.1.conv.weight"], ["c"], **attributes),
        helper.make_node("BatchNormalization", ["c", *norm], ["y"], epsilon=1e-3),
        helper.make_node("Conv", ["x", "w", "b"], ["z"], **attributes),
    ]
    stored = {n: tensors[n] for n in ("model.1.conv.weight", *norm)} | {"w": weight, "b": bias}
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xyz"]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(a, n) for n, a in stored.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, z = session.run(None, {"x": rng.normal(0, 1, (1, conv.inside, 16, 16)).astype(np.float32)})
    np.testing.assert_allclose(z, y, atol=2e-6)
    assert np.abs(y).max() > 1


def test_takes_flat_tensors_fused_ones_and_wrapped_names_alike() -> None:
    tensors = wts_zoo.checkpoint(TINY)
    wanted = settle(tensors, TINY)
    fused: Tensors = {}
    for conv in convolutions(TINY, 3):
        fused[f"{conv.stem}.weight"], fused[f"{conv.stem}.bias"] = wanted.convs[conv.name]
    fused["model.24.anchors"] = tensors["model.24.anchors"]
    for other in (
        {n: t.reshape(-1) for n, t in tensors.items()},
        fused,
        {f"module.{n}": t for n, t in tensors.items()},
        {f"model.{n}": t for n, t in tensors.items()},
        {n.removeprefix("model."): t for n, t in tensors.items()},
    ):
        found = settle(other, TINY)
        assert found.classes == 3
        np.testing.assert_array_equal(found.anchors, wanted.anchors)
        for name, pair in wanted.convs.items():
            np.testing.assert_array_equal(found.convs[name][0], pair[0])
            np.testing.assert_array_equal(found.convs[name][1], pair[1])


def test_reads_anchors_in_strides_in_pixels_or_takes_those_of_coco() -> None:
    tensors = wts_zoo.checkpoint(TINY)
    strides = tensors.pop("model.24.anchors")
    pixels = strides * np.array([8, 16, 32], np.float32)[:, None, None]
    assert settle(tensors, TINY).anchors.tolist() == [[list(a) for a in level] for level in ANCHORS[8, 16, 32]]
    np.testing.assert_array_equal(settle(tensors | {"model.24.anchors": strides.ravel()}, TINY).anchors, pixels)
    both = tensors | {"model.24.anchors": strides, "model.24.anchor_grid": pixels.reshape(3, 1, 3, 1, 1, 2).ravel()}
    np.testing.assert_array_equal(settle(both, TINY).anchors, pixels)


def without(name: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.pop(name)


def with_(name: str, shape: tuple[int, ...]) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: np.ones(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("model.4.cv1.conv.weight"), "1 missing (model.4.cv1.conv.weight); expected the"),
        (without("model.9.cv2.bn.running_var"), "1 missing (model.9.cv2.bn.running_var)"),
        (without("model.24.m.0.bias"), "got no model.24.m.0.bias among"),
        (with_("model.4.cv9.weight", (3,)), "1 surplus (model.4.cv9.weight)"),
        (with_("model.24.m.0.bias", (23,)), "Detect layer of 23 channels which is not 3 · (5 + classes)"),
        (with_("model.24.m.1.bias", (27,)), "got model.24.m.1.bias with 27 values; expected 24 (24)"),
        (with_("model.1.bn.bias", (3,)), "got model.1.bn.bias with 3 values; expected 16 (16)"),
        (with_("model.1.conv.weight", (16, 8, 1, 9)), "of shape [16, 8, 1, 9]; expected 1152 (16 × 8 × 3 × 3)"),
        (with_("model.1.conv.weight", (1151,)), "with 1151 values; expected 1152 (16 × 8 × 3 × 3)"),
        (with_("model.24.anchors", (2, 3, 2)), "model.24.anchors with 12 values; expected 18 (3 × 3 × 2)"),
        (lambda t: t.update({"model.1.bn.running_var": -np.ones(16, np.float32)}), "is no variance: got -1; expected"),
    ],
)
def test_refuses_weights_that_do_not_fit(change: Callable[[Tensors], Any], said: str) -> None:
    tensors = wts_zoo.checkpoint(TINY)
    settle(tensors, TINY)
    change(tensors)
    with pytest.raises(ModelError) as error:
        settle(tensors, TINY)
    assert said in str(error.value)


def test_refuses_another_number_of_classes_and_says_both() -> None:
    with pytest.raises(ModelError) as error:
        settle(wts_zoo.checkpoint(TINY), TINY, classes=80)
    text = str(error.value)
    assert "got a Detect layer of 24 channels = 3 · (5 + 3): 3 classes" in text
    assert "expected 255 = 3 · (5 + 80) channels: 80 classes, as you say" in text
    assert settle(wts_zoo.checkpoint(TINY), TINY, classes=3).classes == 3


@pytest.mark.parametrize(
    ("have", "want", "fits"),
    [
        (ARCHES["yolov5n"], ARCHES["yolov5s"], "They fit --arch yolov5n."),
        (architecture("yolov5n6", width=0.125), ARCHES["yolov5n"], "They fit --arch yolov5s6 --gd 0.33 --gw 0."),
        (architecture("yolov5n", 0.67), ARCHES["yolov5n"], "They fit --arch yolov5s --gd 0.67 --gw 0.25."),
        (TINY, ARCHES["yolov5n6"], "They fit --arch yolov5s --gd 0.33 --gw 0."),
    ],
)
def test_names_the_architecture_that_fits_instead(have: Any, want: Any, fits: str) -> None:
    with pytest.raises(ModelError) as error:
        settle(wts_zoo.checkpoint(have), want)
    assert fits in str(error.value)
    assert want.describe() in str(error.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model.0.conv.conv.weight", "model.1.conv.weight"], "before 6.0 (Focus)"),
        (["model.0.conv.weight", "model.24.proto.cv1.conv.weight"], "Of YOLOv5 only detectors"),
        (["backbone.stem.weight"], "Write the file again"),
    ],
)
def test_says_what_other_weights_look_like(names: list[str], said: str) -> None:
    with pytest.raises(ModelError, match="no YOLOv5 of release") as error:
        settle({name: np.ones(3, np.float32) for name in names})
    assert said in str(error.value)
