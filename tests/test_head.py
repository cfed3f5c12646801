"""The deploy graph's end against a plain greedy NMS, on random and on adversarial candidates."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import oracles
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from eyas.graph.builder import Builder
from eyas.graph.head import MOST_IN_GRAPH, Cells, HeadSpec, Rows, append_head, candidates_of
from eyas.nms import greedy_nms

N, C = 24, 3
# The second in the slow suite.
RUNTIMES = ("onnxruntime", pytest.param("openvino", marks=pytest.mark.slow))


def head_model(n: int, classes: int, spec: HeadSpec) -> onnx.ModelProto:
    """A graph that is nothing but the head: boxes [B, n, 4] and scores [B, n, C] in, detections out."""
    names = {"boxes": [None, n, 4], "scores": [None, n, classes], "thresholds": [None, 2]}
    inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in names.items()]
    graph = helper.make_graph([], "head", inputs, [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    g = Builder(model, "head")
    pick = lambda index: Rows(g.take("scores", index, classes, 1), g.take("boxes", index, 4, 1))  # noqa: E731
    edges = [o.edge for o in append_head(g, Cells("scores", 2, n, classes, pick), spec, "thresholds")]
    kinds = {TensorProto.FLOAT: [None, None, 6], TensorProto.INT32: [None], TensorProto.BOOL: [None]}
    model.graph.node.extend(g.nodes)
    model.graph.initializer.extend(g.initializers)
    model.graph.output.extend(
        helper.make_tensor_value_info(e, *kind) for e, kind in zip(edges, kinds.items(), strict=True)
    )
    onnx.checker.check_model(model)
    return model


@cache
def runner(runtime: str, n: int = N, classes: int = C, k: int = N, agnostic: bool = False):
    """A function from (boxes, scores, thresholds) to the head's three outputs."""
    model = head_model(n, classes, HeadSpec(k, agnostic=agnostic))
    return lambda *feeds: run_model(runtime, model, feeds)


def run_model(runtime: str, model: onnx.ModelProto, feeds):
    """The three outputs of a head for boxes, scores and thresholds."""
    if runtime == "onnxruntime":
        ort = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, dict(zip(("boxes", "scores", "thresholds"), feeds, strict=True)))
    import openvino

    network = openvino.Core().read_model(model.SerializeToString())
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled(list(feeds)).values())


def finished(outputs, i: int, iou: float, agnostic: bool = False) -> NDArray[np.float32]:
    """Image i's rows as the product finishes them on the host."""
    detections, count, converged = (o[i] for o in outputs)
    rows = detections[:count]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    return rows if converged else rows[greedy_nms(rows[:, :4], rows[:, 5], iou, agnostic)]


def random_cases(rng: np.random.Generator, batch: int):
    """Crowded boxes on a coarse grid (so that many coincide or touch) and coarse scores (so that many tie)."""
    corner = rng.integers(0, 12, (batch, N, 2)) * 4
    extent = rng.integers(-1, 9, (batch, N, 2)) * 4  # −4 and 0: inside out and without area
    boxes = np.concatenate([corner, corner + extent], -1).astype(np.float32)
    jitter = rng.random((batch, 1, 1)) < 0.5
    boxes += np.where(jitter, rng.random(boxes.shape), 0).astype(np.float32)
    scores = rng.random((batch, N, C)).astype(np.float32)
    coarse = rng.random((batch, 1, 1)) < 0.5
    scores = np.where(coarse, np.round(scores * 4) / 4, scores).astype(np.float32)
    scores[rng.random((batch, N)) < 0.05] = np.nan
    return boxes, scores


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("agnostic", "k"), [(False, N), (True, N), (False, 7)])
def test_head_equals_greedy_nms_on_random_cases(runtime: str, agnostic: bool, k: int):
    rng = np.random.default_rng(k + agnostic)
    run, batch = runner(runtime, k=k, agnostic=agnostic), 500
    for _ in range(8):
        boxes, scores = random_cases(rng, batch)
        conf, iou = rng.choice([0, 0.25, 0.5], batch), rng.choice([0, 0.25, 0.45, 0.5, 0.7, 1], batch)
        limits = np.stack([conf, iou], 1).astype(np.float32)
        outputs = run(boxes, scores, limits)
        for i in range(batch):
            want = oracles.detect(boxes[i], scores[i], *map(float, limits[i]), k, agnostic)
            np.testing.assert_array_equal(finished(outputs, i, float(iou[i]), agnostic), want, err_msg=f"case {i}")


def one_class(boxes: NDArray[np.floating], scores: NDArray[np.floating]):
    """A case of N boxes, the rest filled with boxes of score 0."""
    full = np.zeros((1, N, 4), np.float32), np.zeros((1, N, C), np.float32)
    full[0][0, : len(boxes)], full[1][0, : len(scores), 1] = boxes, scores
    return full


def chain(links: int):
    """Each box overlaps its neighbours only, scores falling: greedy keeps every second; depth = links − 1."""
    x = np.arange(links) * 3.0
    return one_class(np.stack([x, x * 0, x + 10, x * 0 + 10], 1), np.linspace(0.9, 0.5, links))


ADVERSARIAL = {
    "chain as deep as the rounds": chain(8),
    "chain deeper than the rounds": chain(N),
    "identical boxes, tied scores": one_class(np.tile([1, 1, 9, 9], (N, 1)), np.full(N, 0.5)),
    "no area": one_class(np.tile([5, 5, 5, 5], (N, 1)), np.linspace(0.3, 0.9, N)),
    "IoU exactly at the threshold": one_class(np.array([[0, 0, 2, 2], [0, 0, 2, 1]]), np.array([0.9, 0.8])),
    "NaN scores": one_class(np.tile([1, 1, 9, 9], (3, 1)), np.array([np.nan, 0.5, np.nan])),
    "nothing": one_class(np.zeros((0, 4)), np.zeros(0)),
    "huge coordinates": one_class(np.array([[-1e8, -1e8, 1e8, 1e8], [0, 0, 1e8, 1e8]]), np.array([0.4, 0.6])),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_head_equals_greedy_nms_on_adversarial_cases(runtime: str, name: str):
    boxes, scores = ADVERSARIAL[name]
    outputs = runner(runtime)(boxes, scores, np.array([[0.25, 0.5]], np.float32))
    np.testing.assert_array_equal(finished(outputs, 0, 0.5), oracles.detect(boxes[0], scores[0], 0.25, 0.5, N))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_converged_tells_whether_the_rounds_sufficed(runtime: str):
    limits = np.array([[0.25, 0.5]], np.float32)
    for links, want in ((8, True), (N, False)):
        _, count, converged = runner(runtime)(*chain(links), limits)
        assert bool(converged[0]) is want
        assert count[0] == (links // 2 if want else links)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_image_has_its_own_thresholds_and_batch_mates_do_not_matter(runtime: str):
    boxes, scores = random_cases(np.random.default_rng(1), 6)
    limits = np.array([[0.1, 0.3], [0.5, 0.3], [0.1, 0.9], [0.9, 0.5], [0, 0], [1, 1]], np.float32)
    together = runner(runtime)(boxes, scores, limits)
    for i in range(6):
        alone = runner(runtime)(boxes[i : i + 1], scores[i : i + 1], limits[i : i + 1])
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a[0], b[i])


def test_wanted_classes_only():
    model = head_model(N, C, HeadSpec(N, classes=(0, 2)))
    session = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString())
    boxes, scores = random_cases(np.random.default_rng(3), 4)
    scores = np.nan_to_num(scores, nan=0.0)
    limits = np.tile(np.array([[0.25, 0.5]], np.float32), (4, 1))
    outputs = session.run(None, {"boxes": boxes, "scores": scores, "thresholds": limits})
    scores[:, :, 1] = 0
    for i in range(4):
        want = oracles.detect(boxes[i], scores[i], 0.25, 0.5, N)
        np.testing.assert_array_equal(finished(outputs, i, 0.5), want)


def option_model(spec: HeadSpec, *, logits: bool = False, suppress: str = "graph", classes_first: bool = False):
    """A head whose boxes also carry two extra columns: the cell's number and its square."""
    names = {"boxes": [None, N, 4], "scores": [None, C, N] if classes_first else [None, N, C], "thresholds": [None, 2]}
    inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in names.items()]
    model = helper.make_model(
        helper.make_graph([], "head", inputs, []), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    g = Builder(model, "head")
    axis = 1 if classes_first else 2

    def pick(index: str) -> Rows:
        number = g.over_axes("Unsqueeze", g.cast(index), [2])
        extras = g.op("Concat", number, g.op("Mul", number, number), axis=2)
        return Rows(g.take("scores", index, C, 3 - axis), g.take("boxes", index, 4, 1), extras)

    cells = Cells("scores", axis, N, C, pick, logits=logits, suppress=suppress, extras=2)
    edges = [o.edge for o in append_head(g, cells, spec, "thresholds")]
    shapes = ([None, candidates_of(cells, spec), 8], [None], [None])
    kinds = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL)
    model.graph.node.extend(g.nodes)
    model.graph.initializer.extend(g.initializers)
    outputs = zip(edges, kinds, shapes, strict=True)
    model.graph.output.extend(helper.make_tensor_value_info(e, t, s) for e, t, s in outputs)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("suppress", ["graph", "host", "never"])
@pytest.mark.parametrize(("multi_label", "k"), [(False, N), (True, 30), (True, 3000)])
@pytest.mark.parametrize("classes_first", [False, True])
def test_every_option_of_the_head(runtime: str, suppress: str, multi_label: bool, k: int, classes_first: bool):
    model = option_model(HeadSpec(k, multi_label=multi_label), suppress=suppress, classes_first=classes_first)
    boxes, scores = random_cases(np.random.default_rng(k), 60)
    scores = np.nan_to_num(scores, nan=0.0)
    limits = np.tile(np.array([[0.25, 0.5]], np.float32), (60, 1))
    feeds = [boxes, scores.transpose(0, 2, 1).copy() if classes_first else scores, limits]
    outputs = run_model(runtime, model, feeds)
    for i in range(60):
        got = finished(outputs, i, 0.5)
        want = oracles.detect(boxes[i], scores[i], 0.25, 0.5, k, False, multi_label, suppress != "never")
        np.testing.assert_array_equal(got[:, :6], want)
        for row in got:
            cell = int(row[6])
            np.testing.assert_array_equal(boxes[i, cell], row[:4])
            assert row[7] == cell**2
        assert outputs[2][i] or suppress != "never"
        assert not (suppress == "host" and outputs[2][i])


def test_above_the_limit_of_the_graph_the_host_suppresses():
    n = MOST_IN_GRAPH + 1
    rng = np.random.default_rng(5)
    corner = rng.integers(0, 300, (1, n, 2))
    boxes = np.concatenate([corner, corner + rng.integers(5, 60, (1, n, 2))], -1).astype(np.float32)
    scores = np.round(rng.random((1, n, C)), 2).astype(np.float32)
    outputs = runner("onnxruntime", n, C, n)(boxes, scores, np.array([[0.1, 0.5]], np.float32))
    assert not outputs[2][0]
    want = oracles.detect(boxes[0], scores[0], 0.1, 0.5, n)
    assert 100 < len(want) < n
    np.testing.assert_array_equal(finished(outputs, 0, 0.5), want)


def test_logits_are_squashed_after_the_maximum():
    boxes, scores = random_cases(np.random.default_rng(2), 20)
    scores = np.clip(np.nan_to_num(scores, nan=0.0), 0.01, 0.98) + np.float32(0.003)  # none at the threshold itself
    limits = np.tile(np.array([[0.25, 0.5]], np.float32), (20, 1))
    for multi_label in (False, True):
        model = option_model(HeadSpec(3 * N, multi_label=multi_label), logits=True)
        outputs = run_model("onnxruntime", model, [boxes, np.log(scores / (1 - scores)), limits])
        for i in range(20):
            got = finished(outputs, i, 0.5)
            want = oracles.detect(boxes[i], scores[i], 0.25, 0.5, 3 * N, False, multi_label)
            assert len(got) == len(want)
            np.testing.assert_allclose(np.sort(got[:, 4]), np.sort(want[:, 4]), atol=1e-6)
