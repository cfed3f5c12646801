"""The .wts route's networks: ONNX, and TensorRT's layers run on the CPU by an interpreter, against ONNX Runtime."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import oracles
import pytest
import trt_interpreter
import wts_zoo
from conftest import ROOT
from onnx import numpy_helper

from eyas.build import deploy_graph
from eyas.errors import BackendError, CardError, ModelError, OptionError
from eyas.graph.head import HeadSpec
from eyas.wts import (
    ARCHES,
    add_batch_profile,
    architecture,
    build_network,
    create_network,
    export_wts,
    graft,
    open_wts,
    read_wts,
    settle,
    tensors_from_onnx,
    to_onnx,
    write_wts,
)
from eyas.wts import trt_network as shim
from eyas.wts.graft import STUB, hollowed

TINY = architecture("yolov5n", width=0.125)
TINY6 = architecture("yolov5n6", width=0.125)
PICTURES = ("many_face.png", "biubug6_faces.jpg", "zidane.jpg")


def on_cpu(model: onnx.ModelProto, **feeds: Any) -> list[Any]:
    """Every output, from ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def noise(*shape: int) -> Any:
    return np.random.default_rng(3).random(shape, np.float32)


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx, which builds without a GPU, is not installed")


@pytest.fixture(scope="module")
def builder(trt: Any) -> Any:
    return trt.Builder(trt.Logger(trt.Logger.ERROR))


@pytest.fixture(scope="module")
def face(real_data: Path) -> onnx.ModelProto:
    return onnx.load(real_data / "models" / "yolov5n_face.onnx")


@pytest.fixture(scope="module")
def blobs(real_data: Path) -> list[Any]:
    """Real pictures as the network wants them, float32 [1, 3, 640, 640]."""
    read = [cv2.imread(str(real_data / "data" / "images" / name)) for name in PICTURES]
    return [oracles.blob_rgb(oracles.prepare(image, 640, 114)[0]) for image in read]


def engine(trt: Any, builder: Any, network: Any, shapes: dict[str, tuple[int, ...]] | None = None) -> int:
    """The size of the plan for SM89, in bytes."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    if shapes is None:
        add_batch_profile(builder, config, tuple(network.get_input(0).shape)[2:], (1, 2, 4))
    else:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, (1, *shape), (2, *shape), (4, *shape))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return int(plan.nbytes)


# Real weights


@pytest.mark.slow
def test_onnx_and_layers_agree_with_the_original_on_real_pictures(
    trt: Any, builder: Any, face: onnx.ModelProto, blobs: list[Any], tmp_path: Path
) -> None:
    export_wts(face, tmp_path / "face.wts")
    weights = settle(read_wts(tmp_path / "face.wts"), ARCHES["yolov5n"], classes=1)
    rebuilt, network = to_onnx(weights, decoded=True), create_network(trt, builder)
    built = build_network(trt, network, weights)
    for blob in blobs:
        (original,) = on_cpu(face, images=blob)
        (from_onnx,) = on_cpu(rebuilt, images=blob)
        from_layers = trt_interpreter.run(trt, built.network, {"images": blob})["output0"]
        assert original.shape == from_layers.shape == (1, 25200, 6)
        assert original[..., 4].max() > 0.1 or blob is blobs[2]  # there is something to see but in zidane.jpg
        np.testing.assert_allclose(from_onnx, original, atol=1e-3, rtol=0)
        np.testing.assert_allclose(from_layers, original, atol=1e-3, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_weights_build_for_a_gpu_that_is_not_here(
    trt: Any, builder: Any, face: onnx.ModelProto, precision: Any
) -> None:
    weights = settle(tensors_from_onnx(face))
    network = create_network(trt, builder)
    built = build_network(trt, network, weights, precision=precision)
    size, stored = engine(trt, builder, network), sum(a.nbytes for a in built.arrays)
    assert stored < size < 2 * stored


def test_fp16_moves_no_box_by_more_than_a_pixel(
    trt: Any, builder: Any, face: onnx.ModelProto, blobs: list[Any]
) -> None:
    network = create_network(trt, builder)
    built = build_network(trt, network, settle(tensors_from_onnx(face)), precision="fp16")
    assert {a.dtype for a in built.arrays} == {np.dtype(np.float16), np.dtype(np.float32)}
    (original,) = on_cpu(face, images=blobs[0])
    found = trt_interpreter.run(trt, network, {"images": blobs[0]})["output0"]
    assert found.dtype == np.float32
    seen = original[0, :, 4] > 0.1
    assert seen.sum() > 10
    np.testing.assert_allclose(found[0, seen, :4], original[0, seen, :4], atol=1)
    np.testing.assert_allclose(found[..., 4:], original[..., 4:], atol=0.02)


def test_exports_real_weights_with_the_batch_norm_that_tensorrtx_wants(face: onnx.ModelProto, tmp_path: Path) -> None:
    weights = export_wts(face, tmp_path / "face.wts")
    tensors = read_wts(tmp_path / "face.wts")
    assert weights.arch == ARCHES["yolov5n"]
    assert {"model.0.conv.weight", "model.0.bn.running_var", "model.24.m.2.bias"} <= tensors.keys()
    assert tensors["model.24.anchor_grid"].tolist() == settle(tensors_from_onnx(face)).anchors.ravel().tolist()
    biases = settle(tensors_from_onnx(face)).convs["model.3"][1]
    np.testing.assert_allclose(settle(tensors).convs["model.3"][1], biases, rtol=1e-6)


# Networks of random weights, small enough for every test run


@pytest.mark.parametrize(("arch", "size"), [(TINY, (64, 96)), (TINY6, (128, 64))])
def test_layers_and_onnx_agree_for_both_families_and_any_batch(
    trt: Any, builder: Any, arch: Any, size: tuple[int, int]
) -> None:
    weights, network = settle(wts_zoo.checkpoint(arch), arch), create_network(trt, builder)
    build_network(trt, network, weights, size=size)
    for batch in (1, 3):
        blob = noise(batch, 3, *size)
        (wanted,) = on_cpu(to_onnx(weights, size=size, decoded=True), images=blob)
        found = trt_interpreter.run(trt, network, {"images": blob})["output0"]
        assert wanted.shape == (batch, 3 * sum(size[0] // s * size[1] // s for s in arch.strides), 8)
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        assert np.ptp(wanted[..., 4]) > 0.1


def test_decodes_as_the_published_formula_says() -> None:
    weights = settle(wts_zoo.checkpoint(TINY), TINY)
    blob = noise(1, 3, 64, 96)
    maps = on_cpu(to_onnx(weights, size=(64, 96)), images=blob)
    rows = on_cpu(to_onnx(weights, size=(64, 96), decoded=True), images=blob)[0][0]
    at = 0
    for raw, stride, anchors in zip(maps, (8, 16, 32), weights.anchors, strict=True):
        _, _, height, width = raw.shape
        assert (height, width) == (64 // stride, 96 // stride)
        sigma = 1 / (1 + np.exp(-raw.reshape(3, 8, height, width).astype(np.float64)))
        for a in range(3):
            for y in range(height):
                for x in range(width):
                    s = sigma[a, :, y, x]
                    centre = [(2 * s[0] - 0.5 + x) * stride, (2 * s[1] - 0.5 + y) * stride]
                    extent = [(2 * s[2]) ** 2 * anchors[a][0], (2 * s[3]) ** 2 * anchors[a][1]]
                    np.testing.assert_allclose(rows[at], [*centre, *extent, *s[4:]], rtol=1e-4, atol=1e-4)
                    at += 1
    assert at == len(rows)


def test_raw_maps_of_both_routes_agree(trt: Any, builder: Any) -> None:
    weights, network = settle(wts_zoo.checkpoint(TINY), TINY), create_network(trt, builder)
    built = build_network(trt, network, weights, size=(64, 64), batch=2, decoded=False)
    assert built.outputs == ("output0", "output1", "output2")
    found = trt_interpreter.run(trt, network, {"images": noise(2, 3, 64, 64)})
    for name, wanted in zip(
        built.outputs, on_cpu(to_onnx(weights, size=(64, 64)), images=noise(2, 3, 64, 64)), strict=True
    ):
        np.testing.assert_allclose(found[name], wanted, atol=1e-4)


def test_tensors_survive_onnx_and_back() -> None:
    weights = settle(wts_zoo.checkpoint(ARCHES["yolov5n"], 2))
    back = settle(tensors_from_onnx(to_onnx(weights)))
    assert (back.arch, back.classes) == (weights.arch, 2)
    for name, pair in weights.convs.items():
        np.testing.assert_array_equal(back.convs[name][0], pair[0])
        np.testing.assert_array_equal(back.convs[name][1], pair[1])


@pytest.mark.parametrize("decoded", [True, False])
def test_export_finds_the_anchors_of_a_network_of_ones_own(decoded: bool, tmp_path: Path) -> None:
    weights = settle(wts_zoo.checkpoint(TINY), TINY)
    found = export_wts(to_onnx(weights, size=(64, 64), decoded=decoded), tmp_path / "a.wts", TINY)
    np.testing.assert_allclose(found.anchors, weights.anchors, rtol=1e-4)
    np.testing.assert_allclose(settle(read_wts(tmp_path / "a.wts"), TINY).anchors, weights.anchors, rtol=1e-4)


def test_export_warns_where_nothing_says_the_anchors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = to_onnx(settle(wts_zoo.checkpoint(TINY), TINY), size=(64, 64))
    del model.metadata_props[:]
    with caplog.at_level("WARNING", "eyas"):
        export_wts(model, tmp_path / "a.wts", TINY)
    assert "the anchors are taken to be YOLOv5's own" in caplog.text


class Tensor:
    """What a state dict holds, as far as it is used: torch need not be there."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def detach(self) -> Tensor:
        return self

    cpu = detach

    def float(self) -> Tensor:
        return Tensor(self.array.astype(np.float32))

    def numpy(self) -> Any:
        return self.array


def test_export_writes_a_state_dict_whole(tmp_path: Path) -> None:
    tensors = wts_zoo.checkpoint(TINY)
    state = {f"module.{name}": Tensor(array) for name, array in tensors.items()}
    assert export_wts(state, tmp_path / "a.wts", TINY).classes == 3
    found = read_wts(tmp_path / "a.wts")
    assert list(found) == list(tensors)
    assert found["model.0.bn.num_batches_tracked"].tolist() == [7]


def _last_conv_of_another_stride(model: onnx.ModelProto) -> None:
    conv = [n for n in model.graph.node if n.op_type == "Conv"][-4]
    next(a for a in conv.attribute if a.name == "strides").ints[:] = [2, 2]


def _relu_for_silu(model: onnx.ModelProto) -> None:
    first = next(n for n in model.graph.node if n.op_type == "Sigmoid")
    first.op_type = "Relu"


def _one_less(model: onnx.ModelProto) -> None:
    model.graph.node.remove([n for n in model.graph.node if n.op_type == "Conv"][-1])


def _no_addition(model: onnx.ModelProto) -> None:
    """The neck's blocks have none: only a proof finds that."""
    add = next(n for n in model.graph.node if n.op_type == "Add")
    add.input[0] = add.input[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_last_conv_of_another_stride, "strides [2, 2]"),
        (_relu_for_silu, "no SiLU; expected model.0"),
        (_one_less, "59 convolutions"),
        (_no_addition, "gives other results"),
    ],
)
def test_export_refuses_networks_that_are_not_quite_yolov5(change: Any, said: str, tmp_path: Path) -> None:
    model = to_onnx(settle(wts_zoo.checkpoint(TINY), TINY), size=(64, 64), decoded=True)
    change(model)
    with pytest.raises(ModelError) as error:
        export_wts(model, tmp_path / "a.wts", TINY)
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


def test_export_refuses_other_names_and_networks(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no \.wts file"):
        export_wts({}, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="not those of the architecture"):
        export_wts(onnx.ModelProto(), tmp_path / "a.wts")


# The deploy graph


def test_opens_as_a_network_and_finds_what_the_decoded_one_finds(tmp_path: Path) -> None:
    tensors = wts_zoo.checkpoint(TINY)
    write_wts(tmp_path / "a.wts", tensors)
    opened, weights = open_wts(tmp_path / "a.wts", arch="yolov5n", width=0.125, names=["a", "b", "c"], size=(64, 64))
    assert opened.card.names == ("a", "b", "c")
    np.testing.assert_array_equal(np.array(opened.card.params["anchors"], np.float32), weights.anchors)
    picture = np.random.default_rng(5).integers(0, 256, (1, 64, 64, 3), np.uint8)
    (decoded,) = on_cpu(to_onnx(weights, size=(64, 64), decoded=True), images=oracles.blob_rgb(picture[0]))
    boxes, scores = oracles.yolov5([decoded], (64, 64))
    wanted = oracles.detect(boxes, scores, 0.3, 0.5, 300)
    thresholds = np.array([[0.3, 0.5]], np.float32)
    rows, count, _ = on_cpu(deploy_graph(opened, HeadSpec()), images=picture, thresholds=thresholds)
    assert count[0] == len(wanted) > 3
    np.testing.assert_allclose(rows[0, : count[0]], wanted, atol=2e-3)


def test_a_file_alone_says_what_it_is(tmp_path: Path) -> None:
    write_wts(tmp_path / "a.wts", wts_zoo.checkpoint(ARCHES["yolov5n"], 80, anchors=False))
    opened, weights = open_wts(tmp_path / "a.wts")
    assert (weights.arch.name, opened.card.input_size, opened.card.names[0]) == ("yolov5n", (640, 640), "person")


def test_stubs_have_the_shapes_of_the_trunk(tmp_path: Path) -> None:
    write_wts(tmp_path / "a.wts", wts_zoo.checkpoint(TINY))
    opened, weights = open_wts(tmp_path / "a.wts", size=(64, 96))
    deploy = deploy_graph(opened, HeadSpec())
    hollow, folded = hollowed(deploy, weights)
    onnx.checker.check_model(hollow, full_check=True)
    assert [n.name for n in hollow.graph.node if n.op_type == "Conv"] == [f"{STUB}{i}" for i in range(3)]
    assert [list(o.type.tensor_type.shape.dim) for o in hollow.graph.output] == [
        list(o.type.tensor_type.shape.dim) for o in deploy.graph.output
    ]
    first = next(t for t in deploy.graph.initializer if t.name == "model.0.conv.weight")
    np.testing.assert_array_equal(folded.convs["model.0"][0], numpy_helper.to_array(first))
    assert not np.array_equal(folded.convs["model.0"][0], weights.convs["model.0"][0])  # 1 / 255 and BGR are in it
    with pytest.raises(ModelError, match="of another network"):
        hollowed(
            to_onnx(settle(wts_zoo.checkpoint(TINY), TINY), size=(64, 96)), settle(wts_zoo.checkpoint(TINY6), TINY6)
        )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_grafts_the_trunk_between_stem_and_head(trt: Any, builder: Any, tmp_path: Path, precision: Any) -> None:
    write_wts(tmp_path / "a.wts", wts_zoo.checkpoint(TINY))
    opened, weights = open_wts(tmp_path / "a.wts", size=(64, 64))
    deploy = deploy_graph(opened, HeadSpec())
    network = create_network(trt, builder)
    built = graft(trt, network, deploy, weights, precision)
    assert built.outputs == ("detections", "count", "converged")
    layers = [layer for _, layer in trt_interpreter.layers_of(trt, network)]
    stub = next(layer for layer in layers if layer.name == f"{STUB}0")
    read = {layer.get_input(i).name for layer in layers for i in range(layer.num_inputs) if layer.get_input(i)}
    assert not read & {layer.get_output(0).name for layer in layers if layer.name.startswith(STUB)}
    raw = [layer.get_output(0).name for layer in layers if layer.name.startswith("model.24.m.")]
    blob = 255 * noise(1, 3, 64, 64)
    feeds = {stub.get_input(0).name: blob}
    found = trt_interpreter.run(trt, network, feeds, raw)
    wanted = on_cpu(to_onnx(weights, size=(64, 64)), images=np.ascontiguousarray(blob[:, ::-1]) / 255)
    for name, one in zip(raw, wanted, strict=True):
        np.testing.assert_allclose(found[name], one, atol=1e-3 if precision == "fp32" else 0.05)
    assert engine(trt, builder, network, {"images": (64, 64, 3), "thresholds": (2,)}) > 100_000


def test_what_the_page_shows_runs(trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "wts.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    write_wts(tmp_path / "yolov5s.wts", wts_zoo.checkpoint(ARCHES["yolov5s"], 80))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    # a plan for the GPU that is here needs one, so the page's config is told another
    code = code.replace("plan =", "config.num_compute_capabilities = 1\nconfig.set_compute_capability(GPU, 0)\nplan =")
    names["GPU"] = trt.ComputeCapability.SM89
    exec(code, names)  # noqa: S102
    assert [o.name for o in names["deploy"].graph.output] == ["detections", "count", "converged"]
    assert names["plan"].nbytes > 14_000_000  # fp16: half of 28.9 MB


# What is refused


def test_refuses_sizes_names_and_precisions_that_do_not_fit(trt: Any, builder: Any) -> None:
    weights = settle(wts_zoo.checkpoint(TINY), TINY)
    with pytest.raises(OptionError, match=r"got 64 × 80 .*expected multiples of 32"):
        to_onnx(weights, size=(64, 80))
    with pytest.raises(OptionError, match="multiples of 32"):
        build_network(trt, create_network(trt, builder), weights, size=(0, 64))
    with pytest.raises(OptionError, match="precision"):
        build_network(trt, create_network(trt, builder), weights, precision="int8")  # type: ignore[arg-type]
    with pytest.raises(CardError, match="got 2 names; expected 3"):
        to_onnx(weights, names=["a", "b"])


def test_refuses_multiples_without_an_architecture(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--gd and --gw change a known architecture"):
        open_wts(tmp_path / "a.wts", depth=0.5)


def test_says_which_layer_tensorrt_refuses(trt: Any, builder: Any) -> None:
    weights = settle(wts_zoo.checkpoint(TINY), TINY)

    class Refusing:
        def __init__(self, network: Any) -> None:
            self.network = network

        def __getattr__(self, name: str) -> Any:
            return (lambda *_: None) if name == "add_pooling_nd" else getattr(self.network, name)

    with pytest.raises(BackendError, match="refuses a layer: got nothing for a pooling"):
        build_network(trt, Refusing(create_network(trt, builder)), weights, size=(64, 64))


# Other versions: only what differs, on stand-ins


@pytest.mark.parametrize(
    ("flags", "typed", "wanted", "is_typed"),
    [
        ({"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1}, False, 1, False),  # 8.6
        ({"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, True, 2, True),  # 10
        ({"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, False, 2, False),  # 10, a network made by somebody else
        ({"STRONGLY_TYPED": 0}, True, 1, True),  # RTX
        ({}, True, 0, True),
    ],
)
def test_creates_networks_in_each_version(flags: dict[str, int], typed: bool, wanted: int, is_typed: bool) -> None:
    module = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(__members__=flags))
    seen = []
    shim.create_network(module, SimpleNamespace(create_network=seen.append))
    assert seen == [wanted]
    assert shim.is_typed(module, SimpleNamespace(get_flag=lambda flag: typed)) is is_typed
