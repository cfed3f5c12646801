"""eyas.diff and its command: the layer that was changed is the one that is named, and by as much as it was changed."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import zoo
from conftest import SAMPLES
from onnx import numpy_helper

from eyas.build import Network, open_network
from eyas.cli import main
from eyas.diff import Layer, Side, compare
from eyas.errors import DataError, OptionError
from eyas.types import Frame

FRAMES = [Frame(image) for image in zoo.pictures(3, (48, 80))]


def saved(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    return path


def opened(model: onnx.ModelProto, tmp_path: Path) -> Network:
    return open_network(saved(tmp_path / "some.onnx", model), names=("a", "b", "c"))


def scaled(model: onnx.ModelProto, node: str, factor: float) -> onnx.ModelProto:
    """A copy in which one convolution's weights and bias are `factor` times as large."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (target,) = [n for n in copy.graph.node if n.name == node]
    for tensor in copy.graph.initializer:
        if tensor.name in target.input:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return copy


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == "Conv"]


def test_two_runtimes_in_fp32_agree(tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
    network = opened(zoo.network("yolox"), tmp_path)
    result = compare(Side(network, "openvino", "fp32"), Side(network, "onnxruntime", "fp32"), FRAMES)
    assert result.first() is None
    assert result.pictures == 3
    assert result.unpaired == 0
    assert len(result.layers) > 8
    assert max(layer.relative for layer in result.layers) < 1e-4
    assert min(layer.power for layer in result.layers) > 0


@pytest.mark.slow
def test_a_layer_that_was_changed_is_the_first_to_depart_by_as_much(tmp_path: Path):
    model = zoo.network("yolox")
    for node in convolutions(model)[1:]:  # not the first: stem and weights are folded together there
        changed = opened(scaled(model, node.name, 1.1), tmp_path)
        result = compare(Side(opened(model, tmp_path), "openvino", "fp32"), Side(changed, "openvino", "fp32"), FRAMES)
        first = result.first()
        assert first is not None
        assert (first.name, first.op) == (node.output[0], "Conv")
        assert first.relative == pytest.approx(0.1, rel=1e-3)
        assert first.sqnr_db == pytest.approx(20, abs=0.01)
        assert first.largest == pytest.approx(0.1 * first.scale, rel=1e-3)


def test_a_smaller_change_than_the_threshold_is_no_departure(tmp_path: Path):
    model = zoo.network("yolox")
    node = convolutions(model)[1]
    sides = [Side(opened(m, tmp_path), "openvino", "fp32") for m in (model, scaled(model, node.name, 1.005))]
    assert compare(*sides, FRAMES).first() is None
    assert compare(*sides, FRAMES, threshold=0.004).first() is not None


def test_a_layer_gathers_over_pictures_and_knows_infinity():
    layer = Layer("x", "Conv")
    layer.add(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    layer.add(np.array([0.0, np.inf, np.nan]), np.array([1.0, np.inf, np.nan]))
    assert layer.relative == pytest.approx(np.sqrt((0.25 + 1) / 25))
    assert (layer.largest, layer.scale, layer.bad) == (1, 4, 0)
    layer.add(np.array([1.0]), np.array([np.nan]))
    assert layer.relative == float("inf")
    assert Layer("y", "Conv").relative == 0
    assert Layer("y", "Conv").sqnr_db == float("inf")


def test_networks_that_cannot_be_compared(tmp_path: Path):
    one = Side(opened(zoo.network("yolox"), tmp_path))
    wide = Side(opened(zoo.network("yolox", size=(64, 96)), tmp_path))
    with pytest.raises(OptionError, match="do not take the same pictures"):
        compare(one, wide, FRAMES)
    with pytest.raises(OptionError, match="--threshold is no share: got 0"):
        compare(one, one, FRAMES, threshold=0)
    with pytest.raises(DataError, match="nothing to compare on"):
        compare(one, one, [])
    other = zoo.network("yolox")
    for node in other.graph.node:
        node.input[:] = [f"x{e}" if e.startswith("e") else e for e in node.input]
        node.output[:] = [f"x{e}" if e.startswith("e") else e for e in node.output]
    stranger = opened(other, tmp_path)
    result = compare(one, Side(stranger), FRAMES)
    assert result.unpaired > 5, "only the stem and the output carry the same names"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    return main([str(a) for a in arguments]), *capsys.readouterr()


@pytest.mark.slow
def test_the_command_names_the_layer_draws_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib", reason="the extra `val` is not installed")
    model = zoo.network("yolox")
    node = convolutions(model)[1]
    a, b = saved(tmp_path / "a.onnx", model), saved(tmp_path / "b.onnx", scaled(model, node.name, 1.1))
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n")
    plot = tmp_path / "new" / "errors.png"
    common = ("diff", a, b, "--images", SAMPLES, "--limit", 2, "--names", names)
    code, out, _ = run(capsys, *common, "--plot", plot)
    assert code == 1
    assert f"first to depart: {node.output[0]} (Conv)" in out
    assert "on 2 pictures" in out
    picture = cv2.imread(str(plot))
    assert picture is not None
    assert picture.std() > 5
    code, out, _ = run(capsys, *common, "--json")
    report = json.loads(out)
    assert (code, report["first_to_depart"], report["pictures"]) == (1, node.output[0], 2)
    code, out, _ = run(capsys, *common, "--threshold", 0.5)
    assert code == 0
    assert "no layer departs by over 0.5" in out


def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, said = run(capsys, "diff", "nanodet", "--images", SAMPLES)
    assert code == 2
    assert "both sides are the same" in said
    assert "--vs-precision" in said
    wanted = ("--vs-precision", "bf16", "--images")
    code, _, said = run(capsys, "diff", "nanodet", *wanted, tmp_path / "none.jpg")
    assert code == 2
    assert "none.jpg" in said
    code, _, said = run(capsys, "diff", "nanodet", *wanted, SAMPLES, "--plot", tmp_path / "x.txt")
    assert code == 2
    assert "expected a .png file" in said
