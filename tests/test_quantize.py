"""int8 by Q/DQ: ranges, cache, Q/DQ in the right places, the gate, and everything that users get wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import oracles
import pytest
import zoo
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import eyas
from eyas.build import Network, deploy_graph, open_network
from eyas.card import card_to_dict
from eyas.errors import ModelError, OptionError, SourceError
from eyas.graph.head import HeadSpec
from eyas.quantize import Settings, Watches, quantize
from eyas.quantize.collect import collect
from eyas.quantize.compare import Reference, ends_of
from eyas.quantize.gate import search
from eyas.quantize.histogram import HALF, METHODS, Histogram
from eyas.quantize.pictures import calibration_set, load_input
from eyas.quantize.prepare import layers_of, prepare

pytest.importorskip("onnxruntime", reason="the extra `quantize` is not installed")
NAMES = ("a", "b", "c")


def deep(kind: str = "yolov8", depth: int = 3, batch: int | str = "batch", opset: int = 17) -> onnx.ModelProto:
    """A network of `kind` with `depth` convolutions before its heads, the first with its bias in an Add."""
    net = zoo.Net(3, opset, np.float32)
    x = net.op("Conv", "input", net.const(net.rng.normal(0, 0.3, (6, 3, 3, 3))), strides=[2, 2], pads=[1] * 4)
    x = net.op("Relu", net.op("Add", x, net.const(net.rng.normal(0, 0.3, (1, 6, 1, 1)))))
    for _ in range(depth - 1):
        x = net.op("Relu", net.conv(x, 6, 6, 1))
    strides = zoo.KINDS[kind][1]
    cells = len(oracles.centres((64, 64), strides, 0))
    if kind == "yolov8":
        out, shape = zoo._yolov8(net, x, strides, 3, (64, 64)), [7, cells]
    else:
        out, shape = zoo._yolox(net, x, strides, 3, None), [cells, 8]
    net.nodes.append(helper.make_node("Identity", [out], ["output0"]))
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 64, 64])
    target = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [batch, *shape])
    graph = helper.make_graph(net.nodes, "deep", [source], [target], net.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(deep(), tmp_path / "deep.onnx")
    return tmp_path / "deep.onnx"


def write_pictures(folder: Path, count: int, seed: int = 7) -> Path:
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(zoo.pictures(count, (48, 80), seed)):
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "images", 12)


def options() -> dict[str, object]:
    return {"names": NAMES}


def network_of(path: Path) -> Network:
    return prepare(open_network(path, names=NAMES))


# --- histograms


def values(seed: int = 0, count: int = 50_000) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(1, 3, count).astype(np.float32)


def test_a_histogram_counts_as_numpy_does():
    h, x = Histogram(), values()
    h.add(x)
    width = 2.0**h.exponent
    want, _ = np.histogram(x, np.arange(-HALF, HALF + 1) * width)
    np.testing.assert_array_equal(h.counts, want)
    assert (h.low, h.high) == (x.min(), x.max())


def test_order_and_portions_make_no_difference():
    parts = [values(i) * 10**i for i in range(4)]
    forth, back = Histogram(), Histogram()
    for x in parts:
        forth.add(x)
    for x in parts[::-1]:
        back.add(x.reshape(10, -1))
    np.testing.assert_array_equal(forth.counts, back.counts)
    assert (forth.exponent, forth.low, forth.high) == (back.exponent, back.low, back.high)


@pytest.mark.parametrize("edge", [1.0, -1.0, 2048.0, -2048.0, 1e-30, 3e38])
def test_values_on_the_brink_of_a_bin_are_counted(edge: float):
    h = Histogram()
    h.add(np.float32([edge]))
    assert h.counts.sum() == 1


@pytest.mark.parametrize("method", METHODS)
def test_an_outlier_stretches_minmax_and_nothing_else(method: str):
    h = Histogram()
    h.add(np.abs(values(count=200_000).astype(np.float64)))
    h.add(np.array([1000.0]))
    low, high = h.limits(method)
    assert 0 <= low < 0.001
    assert high == 1000 if method == "minmax" else 5 < high < 100


def test_percentile_leaves_out_its_share():
    h, x = Histogram(), np.linspace(0, 1, 60_000, dtype=np.float32) ** 8 * 100
    h.add(x)
    assert h.limits("percentile")[1] == pytest.approx(np.quantile(x, 0.9999), abs=0.1)


def test_entropy_keeps_a_uniform_range_whole():
    h = Histogram()
    h.add(np.random.default_rng(0).uniform(-1, 1, 60_000))
    assert h.limits("entropy")[1] > 0.95


def test_nothing_but_zeros_has_no_range_nor_has_nan():
    h = Histogram()
    h.add(np.zeros(9, np.float32))
    assert h.limits("minmax") is None
    h.add(np.float32([1, np.nan]))
    assert h.limits("minmax") is None
    assert np.isnan(h.largest)
    assert h.high == 1


def test_many_values_are_sampled_but_never_their_ends():
    h, x = Histogram(), np.zeros(1_000_000, np.float32)
    x[[1, 3]] = -5, 7
    h.add(x)
    assert (h.low, h.high) == (-5, 7)
    assert h.counts.sum() < 70_000


# --- pictures


def test_input_is_that_of_inference(model: Path, images: Path):
    """The network on `load_input` says what the deploy graph says, whose stem does the same."""
    network = open_network(model, names=NAMES)
    picture = images / "3.png"
    seen = oracles.blob_rgb(letterboxed(cv2.imread(str(picture))))
    np.testing.assert_allclose(load_input(picture, network.card, network.model), seen, atol=1e-6)


def letterboxed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """48 × 80 → 64 × 64: width to 64, height to 38, centred."""
    out = np.full((64, 64, 3), 114, np.uint8)
    out[13:51] = cv2.resize(image, (64, 38), interpolation=cv2.INTER_LINEAR)
    return out


def test_three_pictures_are_too_few(tmp_path: Path):
    with pytest.raises(SourceError, match=r"got 3 usable; expected at least 10"):
        calibration_set(write_pictures(tmp_path / "few", 3))


def test_black_pictures_are_left_out(tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture):
    for i in range(5):
        cv2.imwrite(str(images / f"black{i}.png"), np.zeros((9, 9, 3), np.uint8))
    assert len(calibration_set(images).paths) == 12
    assert "black0.png is of one colour" in caplog.text
    for path in images.glob("[0-9].png"):
        path.unlink()
    with pytest.raises(SourceError, match=r"got 2 usable \(5 of one colour left out\)"):
        calibration_set(images)


def test_unreadable_pictures_are_left_out(images: Path):
    (images / "0.png").write_bytes(b"no picture")
    assert len(calibration_set(images).paths) == 11


def test_an_empty_folder_says_so(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no picture"):
        calibration_set(tmp_path / "empty")


def test_a_limit_spreads_over_the_folder(images: Path):
    assert [p.name for p in calibration_set(images, 3, least=1).paths] == ["0.png", "6.png", "11.png"]


# --- layers and preparation


def test_layers_are_all_products_but_the_last(model: Path):
    network = network_of(model)
    assert [x.op for x in layers_of(network.model)] == ["Conv"] * 3
    assert len(ends_of(network.model)) == 3  # one for each stride


def test_biases_are_folded_and_old_opsets_raised(tmp_path: Path):
    onnx.save(deep("yolox", opset=11), tmp_path / "old.onnx")
    network = network_of(tmp_path / "old.onnx")
    convolutions = [n for n in network.model.graph.node if n.op_type == "Conv"]
    assert all(len(n.input) == 3 for n in convolutions)
    assert network.model.opset_import[0].version >= 13


def test_a_quantised_model_is_refused(model: Path, images: Path, tmp_path: Path):
    quantize(model, images, tmp_path / "out.onnx", **options())
    with pytest.raises(ModelError, match="quantised already: got DequantizeLinear, QuantizeLinear"):
        quantize(tmp_path / "out.onnx", images, tmp_path / "twice.onnx")


def test_a_network_without_any_product_is_refused(tmp_path: Path, images: Path):
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 16, 16])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3])
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    made = helper.make_model(
        helper.make_graph(nodes, "g", [source], [target]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(made, tmp_path / "pool.onnx")
    with pytest.raises(ModelError, match="no convolution or matrix product among Flatten, GlobalAveragePool"):
        quantize(tmp_path / "pool.onnx", images, tmp_path / "out.onnx", family_name="classify", names=NAMES)


def test_an_operator_that_nobody_can_quantise_stays(tmp_path: Path, images: Path):
    made = deep()
    first = next(n for n in made.graph.node if n.op_type == "Relu")
    first.op_type = "Softsign"
    onnx.save(made, tmp_path / "odd.onnx")
    report = quantize(tmp_path / "odd.onnx", images, tmp_path / "out.onnx", **options())
    assert (report.layers, report.kept) == (3, {})
    assert "Softsign" in [n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node]


def test_a_custom_operator_is_named(tmp_path: Path, images: Path):
    made = deep()
    node = next(n for n in made.graph.node if n.op_type == "Relu")
    node.op_type, node.domain = "Magic", "my.own"
    made.opset_import.append(helper.make_opsetid("my.own", 1))
    onnx.save(made, tmp_path / "odd.onnx")
    with pytest.raises(ModelError, match=r"cannot be calibrated: got .*Magic"):
        quantize(tmp_path / "odd.onnx", images, tmp_path / "out.onnx", **options())


def test_a_layer_that_never_sees_a_value_stays_in_float(tmp_path: Path, images: Path):
    made = deep(depth=2)
    bias = next(t for t in made.graph.initializer if list(t.dims) == [1, 6, 1, 1])
    bias.CopyFrom(numpy_helper.from_array(np.full((1, 6, 1, 1), -1e3, np.float32), bias.name))  # behind it a Relu
    onnx.save(made, tmp_path / "dead.onnx")
    report = quantize(tmp_path / "dead.onnx", images, tmp_path / "out.onnx", **options())
    assert list(report.kept.values()) == ["its input has no range on these pictures"]
    assert report.layers == 2


# --- the result


EVERYWHERE = [(kind, target) for kind in ("yolox", "yolov8") for target in ("cpu", "tensorrt", "onnxruntime")]


@pytest.mark.parametrize(
    ("kind", "target"), [EVERYWHERE[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in EVERYWHERE[1:])]
)
def test_the_result_is_near_and_runs_everywhere(tmp_path: Path, images: Path, kind: str, target: str):
    onnx.save(deep(kind), tmp_path / "deep.onnx")
    out = tmp_path / "out.onnx"
    report = quantize(tmp_path / "deep.onnx", images, out, settings=Settings(target=target), **options())
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert 15 < report.sqnr_db < 60
    assert report.cosine > 0.98
    picture = str(images / "5.png")
    for backend in ("openvino", "onnxruntime"):
        with (
            eyas.load(tmp_path / "deep.onnx", backend=backend, precision="fp32", names=NAMES) as plain,
            eyas.load(out, backend=backend, precision="fp32") as narrow,
        ):
            want, got = plain.predict(picture, conf=0.01), narrow.predict(picture, conf=0.01)
        assert plain.card == narrow.card
        assert abs(want.confidence.max() - got.confidence.max()) < 0.1


def test_weights_are_int8_symmetric_by_channel_and_the_ends_float(model: Path, images: Path, tmp_path: Path):
    quantize(model, images, tmp_path / "out.onnx", **options())
    graph = onnx.load(tmp_path / "out.onnx").graph
    made = {n.output[0]: n for n in graph.node}
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    narrow = [n for n in graph.node if n.op_type == "Conv" and n.input[1] in made]
    assert len(narrow) == 3
    for node in narrow:
        stored, scale, zero = (weights[e] for e in made[node.input[1]].input)
        assert (stored.dtype, scale.shape) == (np.int8, stored.shape[:1])
        assert not zero.any()
        assert np.abs(stored).max(axis=(1, 2, 3)).min() >= 126
        assert made[node.input[0]].op_type == "DequantizeLinear"
    assert [n.input[1] in made for n in graph.node if n.op_type == "Conv"] == [True] * 3 + [False] * 3


def test_tensorrt_gets_int8_around_zero_and_the_others_uint8(model: Path, images: Path, tmp_path: Path):
    kinds = {}
    for target in ("cpu", "tensorrt"):
        quantize(model, images, tmp_path / "out.onnx", settings=Settings(target=target), **options())
        graph = onnx.load(tmp_path / "out.onnx").graph
        weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        kinds[target] = [weights[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert all(z.dtype == np.uint8 for z in kinds["cpu"])
    assert all(z.dtype == np.int8 and not z.any() for z in kinds["tensorrt"])


def test_metadata_carries_the_card_and_what_was_done(model: Path, images: Path, tmp_path: Path):
    quantize(model, images, tmp_path / "out.onnx", settings=Settings(method="percentile"), **options())
    found = {p.key: p.value for p in onnx.load(tmp_path / "out.onnx").metadata_props}
    metadata = {key: json.loads(found[key]) for key in ("eyas", "eyas-quantisation")}
    assert metadata["eyas"] == json.loads(json.dumps(card_to_dict(open_network(model, names=NAMES).card)))
    note = metadata["eyas-quantisation"]
    assert (note["precision"], note["method"], note["pictures"], note["kept"]) == ("int8", "percentile", 12, {})


def test_the_deploy_graph_keeps_the_quantised_results(model: Path, images: Path, tmp_path: Path):
    """Stem, rewrites and head around Q/DQ: raw network and deploy graph agree on the best score."""
    out = tmp_path / "out.onnx"
    quantize(model, images, out, **options())
    network = open_network(out)
    deployed = deploy_graph(network, HeadSpec())
    onnx.checker.check_model(deployed, full_check=True)
    assert sum(n.op_type == "QuantizeLinear" for n in deployed.graph.node) == 3
    (x,) = [load_input(images / "2.png", network.card, network.model)]
    (raw,) = Reference.of(network.model, [x]).inputs
    import onnxruntime as ort

    session = ort.InferenceSession(network.model.SerializeToString(), providers=["CPUExecutionProvider"])
    best = session.run(None, {"input": raw})[0][0, 4:].max()
    with eyas.load(out, backend="onnxruntime") as opened:
        assert opened.predict(str(images / "2.png"), conf=0.001).confidence.max() == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_fp16_and_bf16_through_the_same_door(model: Path, tmp_path: Path, precision: str):
    few = write_pictures(tmp_path / "few", 2)
    out = tmp_path / "out.onnx"
    report = quantize(model, few, out, settings=Settings(precision=precision), **options())
    assert report.bytes_after < report.bytes_before * 1.5
    with (
        eyas.load(model, backend="openvino", precision="fp32", names=NAMES) as plain,
        eyas.load(out, backend="openvino", precision="fp32") as narrow,
    ):
        want, got = (m.predict(str(few / "1.png"), conf=0.01).confidence.max() for m in (plain, narrow))
    assert want == pytest.approx(got, abs=0.02)


def test_kept_layers_stay(model: Path, images: Path, tmp_path: Path):
    first = layers_of(network_of(model).model)[0].name
    settings = Settings(keep=(first,))
    report = quantize(model, images, tmp_path / "out.onnx", settings=settings, **options())
    assert report.kept == {first: "asked for"}
    assert sum(n.op_type == "QuantizeLinear" for n in onnx.load(tmp_path / "out.onnx").graph.node) == 2


def test_keeping_what_is_not_there_or_everything_is_refused(model: Path, images: Path, tmp_path: Path):
    for keep, message in (("nothing*", "names no layer"), ("*", "no layer is left")):
        with pytest.raises((OptionError, ModelError), match=message):
            quantize(model, images, tmp_path / "out.onnx", settings=Settings(keep=(keep,)), **options())
    assert not (tmp_path / "out.onnx").exists()


def test_the_model_is_never_overwritten(model: Path, images: Path, tmp_path: Path):
    before = model.read_bytes()
    (tmp_path / "link.onnx").symlink_to(model)
    for out in (model, tmp_path / "link.onnx"):
        with pytest.raises(OptionError, match="would take the place of the model"):
            quantize(model, images, out, **options())
    with pytest.raises(OptionError, match="no file to write a model to"):
        quantize(model, images, tmp_path / "out.txt", **options())
    assert model.read_bytes() == before


@pytest.mark.parametrize("wrong", [{"precision": "int4"}, {"method": "mean"}, {"target": "npu"}, {"max_drop": 1.5}])
def test_settings_check_themselves(wrong: dict[str, object]):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        Settings(**wrong)


# --- the cache


class Interrupted:
    """Ends the calibration after some pictures, or counts how many it would take."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.seen = after, 0

    def __call__(self, paths: Iterable[Path], done: int, total: int) -> Iterator[Path]:
        for path in paths:
            if self.after is not None and self.seen == self.after:
                raise KeyboardInterrupt
            self.seen += 1
            yield path


def test_an_interrupted_calibration_goes_on_and_ends_the_same(model: Path, images: Path, tmp_path: Path):
    network, chosen = network_of(model), calibration_set(images)
    edges = [e for x in layers_of(network.model) for e in x.reads]
    whole = collect(network, edges, chosen, cache=tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        collect(network, edges, chosen, cache=tmp_path / "two", watch=Interrupted(5))
    rest = Interrupted()
    resumed = collect(network, edges, chosen, cache=tmp_path / "two", watch=rest)
    assert rest.seen == 7
    for edge in edges:
        np.testing.assert_array_equal(resumed[edge].counts, whole[edge].counts)
        assert resumed[edge].limits("minmax") == whole[edge].limits("minmax")


def test_another_method_reads_the_cache_and_other_pictures_do_not(model: Path, images: Path, tmp_path: Path):
    def seen(method: str = "minmax") -> int:
        watch = Interrupted()
        settings, watches = Settings(method=method), Watches(pictures=watch)
        quantize(model, images, tmp_path / "out.onnx", settings=settings, watches=watches, **options())
        return watch.seen

    assert [seen(), seen(), seen("entropy"), seen("percentile")] == [12, 0, 0, 0]
    cv2.imwrite(str(images / "0.png"), zoo.pictures(1, (48, 80), 99)[0])
    assert seen() == 12


def test_a_broken_cache_is_made_again(model: Path, images: Path, tmp_path: Path):
    network, chosen = network_of(model), calibration_set(images)
    edges = [e for x in layers_of(network.model) for e in x.reads]
    whole = collect(network, edges, chosen, cache=tmp_path / "one")
    (file,) = (tmp_path / "one").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again = collect(network, edges, chosen, cache=tmp_path / "one")
    np.testing.assert_array_equal(again[edges[0]].counts, whole[edges[0]].counts)


# --- the gate


def test_auto_takes_the_method_with_the_least_noise(model: Path, images: Path, tmp_path: Path):
    found = {}
    for method in ("auto", *METHODS):
        report = quantize(model, images, tmp_path / "out.onnx", settings=Settings(method=method), **options())
        found[method] = (report.sqnr_db, report.method)
    assert found["auto"] == max(found[method] for method in METHODS)
    assert len({sqnr for sqnr, _ in found.values()}) > 1


def test_the_search_finds_the_brink():
    k, trials = search(lambda k: 0.5 if k >= 11 else 0.3, 100, 0.5, 0.01)
    assert k == 11
    assert [t.kept for t in trials] == [0, 1, 2, 4, 8, 16, 12, 10, 11]


def test_the_search_stops_at_once_where_all_is_well_and_gives_up_at_the_end():
    assert search(lambda k: 0.495, 100, 0.5, 0.01)[0] == 0
    k, trials = search(lambda k: 0.1, 6, 0.5, 0.01)
    assert k is None
    assert [t.kept for t in trials] == [0, 1, 2, 4, 5]


def spoiled(path: Path) -> str:
    """Write a network of which one layer cannot be quantised well; returns the layer's weight's shape as a mark."""
    made = deep(depth=4)
    weights = [t for t in made.graph.initializer if list(t.dims) == [6, 6, 3, 3]]
    # One channel a thousand times louder before the second layer, and as much quieter behind it: same function.
    first, second = weights[0], weights[1]
    a, b = numpy_helper.to_array(first).copy(), numpy_helper.to_array(second).copy()
    bias = next(n.input[2] for n in made.graph.node if n.op_type == "Conv" and n.input[1] == first.name)
    offset = next(t for t in made.graph.initializer if t.name == bias)
    c = numpy_helper.to_array(offset).copy()
    a[0], c[0], b[:, 0] = a[0] * 3000, c[0] * 3000, b[:, 0] / 3000
    for tensor, value in ((first, a), (second, b), (offset, c)):
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(made, path)
    return next(n.output[0] for n in made.graph.node if n.op_type == "Conv" and n.input[1] == second.name)


def test_the_gate_keeps_the_layer_that_costs_most(tmp_path: Path, images: Path):
    culprit = spoiled(tmp_path / "spoiled.onnx")
    out, folder = tmp_path / "out.onnx", tmp_path / "report"
    settings = Settings(max_drop=0.2)
    report = quantize(
        tmp_path / "spoiled.onnx", images, out, settings=settings, report=folder, backends=["onnxruntime"], **options()
    )
    assert report.trials[0].drop > 0.2
    assert report.sensitivity[0].layer == culprit
    assert culprit in report.kept
    assert report.written == str(out)
    assert report.drop <= 0.2
    assert json.loads((folder / "report.json").read_text())["kept"].keys() == report.kept.keys()
    assert f"| `{culprit}` | sensitive" in (folder / "report.md").read_text()
    assert cv2.imread(str(folder / "sensitivity.png")) is not None


def test_the_gate_refuses_what_it_cannot_mend(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch):
    spoiled(tmp_path / "spoiled.onnx")
    monkeypatch.setattr("eyas.quantize.work.judge_by_agreement", lambda *_: lambda path: 0.4)
    out, folder = tmp_path / "out.onnx", tmp_path / "report"
    settings = Settings(max_drop=0.01)
    report = quantize(tmp_path / "spoiled.onnx", images, out, settings=settings, report=folder, **options())
    assert report.written is None
    assert not out.exists()
    assert "refused, not written" in (folder / "report.md").read_text()
    assert report.drop == pytest.approx(0.6)


def test_bf16_that_costs_too_much_is_refused_at_once(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("eyas.quantize.work.judge_by_agreement", lambda *_: lambda path: 0.4)
    settings = Settings(precision="bf16", max_drop=0.01)
    report = quantize(model, images, tmp_path / "out.onnx", settings=settings, **options())
    assert (report.written, report.sensitivity, len(report.trials)) == (None, (), 1)
    assert not (tmp_path / "out.onnx").exists()


def test_noise_is_nought_for_the_network_itself(model: Path, images: Path):
    network = network_of(model)
    reference = Reference.of(network.model, [load_input(images / "1.png", network.card, network.model)])
    assert reference.noise(network.model) == 0
