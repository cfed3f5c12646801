"""`free_batch`: every pattern by itself, what it must refuse, and real networks, image by image on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import helper, numpy_helper

from eyas.errors import ModelError
from eyas.graph.batch import free_batch, prove_batch
from eyas.graph.network import read_network
from eyas.graph.opset import raise_opset
from eyas.graph.surgery import dims_of

pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")

Body = Callable[[zoo.Net, str], str | Sequence[str]]


def export(body: Body, *, shape: Sequence[int | str] = (1, 3, 8, 8), opset: int = 17, seed: int = 0) -> onnx.ModelProto:
    """A network of `body`, whose outputs' shapes are as ONNX infers them."""
    net = zoo.Net(seed, opset, np.float32)
    made = body(net, "input")
    outputs = [made] if isinstance(made, str) else list(made)
    graph = helper.make_graph(
        net.nodes,
        "body",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(e, onnx.TensorProto.UNDEFINED, None) for e in outputs],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value, known in zip(graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(known)
    del model.graph.output[:]
    model.graph.output.extend(graph.output)
    onnx.checker.check_model(model)
    return model


def freed(model: onnx.ModelProto, tolerance: float = 1e-5) -> onnx.ModelProto:
    """The model with a free batch, proved on ONNX Runtime; the original is as it was."""
    before = model.SerializeToString(deterministic=True)
    after = free_batch(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(after, full_check=True)
    assert dims_of(after.graph.input[0])[0] == "batch"
    assert all(dims_of(o)[0] == "batch" for o in after.graph.output)
    assert prove_batch(model, after, tolerance=tolerance) <= tolerance
    return after


def constants(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {t.name: numpy_helper.to_array(t).ravel().tolist() for t in model.graph.initializer}


def targets(model: onnx.ModelProto) -> list[list[int]]:
    """What the Reshapes reshape to."""
    known = constants(model)
    return [known[n.input[1]] for n in model.graph.node if n.op_type == "Reshape"]


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def attention(net: zoo.Net, x: str) -> str:
    """Heads merged into the batch, as old exporters of transformers write it: [1, L, C] → [heads, L, C / heads]."""
    rows = net.op("Transpose", net.reshape(x, 1, 3, 64), perm=[0, 2, 1])
    rows = net.op("MatMul", rows, net.const(net.rng.normal(0, 1, (3, 8))))
    heads = net.reshape(net.op("Transpose", net.reshape(rows, 1, 64, 4, 2), perm=[0, 2, 1, 3]), 4, 64, 2)
    weights = net.op("Softmax", net.op("MatMul", heads, net.op("Transpose", heads, perm=[0, 2, 1])), axis=-1)
    mixed = net.reshape(net.op("MatMul", weights, heads), 1, 4, 64, 2)
    return net.reshape(net.op("Transpose", mixed, perm=[0, 2, 1, 3]), 1, 64, 8)


def seq_first(net: zoo.Net, x: str) -> str:
    """PyTorch's attention keeps the batch in axis 1: [L, 1, C]."""
    rows = net.op("Transpose", net.reshape(x, 1, 3, 64), perm=[2, 0, 1])
    rows = net.op("MatMul", rows, net.const(net.rng.normal(0, 1, (3, 8))))
    heads = net.op("Transpose", net.reshape(rows, 64, 4, 2), perm=[1, 0, 2])
    weights = net.op("Softmax", net.op("MatMul", heads, net.op("Transpose", heads, perm=[0, 2, 1])), axis=-1)
    back = net.op("Transpose", net.op("MatMul", weights, heads), perm=[1, 0, 2])
    return net.op("Transpose", net.reshape(back, 64, 1, 8), perm=[1, 2, 0])


def shape_chain(net: zoo.Net, x: str) -> str:
    """x.view(x.size(0), −1, 4) as PyTorch 1.x exports it, with the batch baked where it was an int."""
    shape = net.op("Shape", x)
    one = net.op("Unsqueeze", net.op("Gather", shape, net.const(0, np.int64), axis=0), net.const([0], np.int64))
    target = net.op("Concat", one, net.const([-1], np.int64), net.const([4], np.int64), axis=0)
    return net.op("Reshape", x, target)


def unbound_shuffle(net: zoo.Net, x: str) -> str:
    y = net.op("Transpose", net.reshape(net.conv(x, 3, 6, 1), 1, 2, 3, 8, 8), perm=[0, 2, 1, 3, 4])
    return net.reshape(y, 1, -1, 8, 8)


def squeeze_excite(net: zoo.Net, x: str) -> str:
    """As TensorFlow writes normalisation: the mean over everything, the batch of one included."""
    mean = net.op("ReduceMean", x, axes=[0, 1, 2, 3], keepdims=1)
    return net.op("Sub", x, net.reshape(mean, 1, 1, 1, 1))


def concat_with_token(net: zoo.Net, x: str) -> str:
    token = net.const(net.rng.normal(0, 1, (1, 3, 1)))
    return net.op("Concat", token, net.reshape(x, 1, 3, 64), axis=2)


def grid_from_shape(net: zoo.Net, x: str) -> str:
    """A constant table expanded to the shape of what it is added to."""
    table = net.const(np.arange(64).reshape(1, 1, 8, 8))
    return net.op("Add", x, net.op("Expand", table, net.op("Shape", x)))


def resize_by_sizes(net: zoo.Net, x: str) -> str:
    return net.op("Resize", x, "", "", net.const([1, 3, 16, 24], np.int64), mode="nearest", nearest_mode="floor")


def resize_by_computed_sizes(net: zoo.Net, x: str) -> str:
    head = net.slice(net.op("Shape", x), 0, 2, 0)
    sizes = net.op("Concat", head, net.const([16, 16], np.int64), axis=0)
    return net.op("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode="asymmetric")


def classifier(net: zoo.Net, x: str) -> str:
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.conv(x, 3, 8, 2)), axis=1)
    weight, bias = net.const(net.rng.normal(0, 1, (5, 8))), net.const(net.rng.normal(0, 1, (1, 5)))
    return net.op("Softmax", net.op("Gemm", pooled, weight, bias, transB=1), axis=1)


def several_outputs(net: zoo.Net, x: str) -> list[str]:
    rows = net.op("Transpose", net.reshape(x, 1, 3, -1), perm=[0, 2, 1])
    best = net.op("ReduceMax", rows, axes=[2], keepdims=0)
    return [net.op("ArgMax", rows, axis=2, keepdims=0), net.op("Softmax", best, axis=-1), net.slice(rows, 1, 3, 2)]


def windows(net: zoo.Net, x: str) -> str:
    """Window attention's partition merges windows into the batch, and takes them apart again."""
    parts = net.op("Transpose", net.reshape(x, 1, 3, 2, 4, 2, 4), perm=[0, 2, 4, 3, 5, 1])
    flat = net.op("Softmax", net.reshape(parts, -1, 16, 3), axis=1)
    back = net.op("Transpose", net.reshape(flat, 1, 2, 2, 4, 4, 3), perm=[0, 5, 1, 3, 2, 4])
    return net.reshape(back, 1, 3, 8, 8)


def whole_slice(net: zoo.Net, x: str) -> str:
    return net.slice(net.slice(x, 0, 1, 0), 1, 3, 1)


def split_channels(net: zoo.Net, x: str) -> str:
    net.nodes.append(helper.make_node("Split", [x, net.const([1, 2], np.int64)], ["a", "b"], axis=1))
    return net.op("Mul", "a", "b")


def best_cells(net: zoo.Net, x: str) -> list[str]:
    edges = ["values", "indices"]
    net.nodes.append(helper.make_node("TopK", [net.reshape(x, 1, 192), net.const([5], np.int64)], edges, axis=1))
    return edges


PATTERNS: dict[str, tuple[Body, list[list[int]] | None]] = {
    "attention": (attention, [[0, 3, 64], [0, 64, 4, 2], [-1, 64, 2], [-1, 4, 64, 2], [0, 64, 8]]),
    "batch in axis 1": (seq_first, None),
    "shape chain": (shape_chain, [[0, 48, 4]]),
    "channel shuffle": (unbound_shuffle, [[0, 2, 3, 8, 8], [0, 6, 8, 8]]),
    "mean over a batch of one": (squeeze_excite, None),
    "constant in Concat": (concat_with_token, None),
    "Expand to a Shape": (grid_from_shape, None),
    "Resize by sizes": (resize_by_sizes, None),
    "Resize by computed sizes": (resize_by_computed_sizes, None),
    "Flatten and Gemm": (classifier, None),
    "several outputs": (several_outputs, [[0, 3, 64]]),
    "windows": (windows, [[0, 3, 2, 4, 2, 4], [-1, 16, 3], [-1, 2, 2, 4, 4, 3], [0, 3, 8, 8]]),
    "Slice of the whole": (whole_slice, None),
    "Split of channels": (split_channels, None),
    "Unsqueeze and Squeeze": (
        lambda net, x: net.op("Squeeze", net.op("Unsqueeze", x, net.const([1], np.int64)), net.const([1], np.int64)),
        None,
    ),
    "Expand of ones": (
        lambda net, x: net.op("Expand", net.slice(x, 0, 1, 1), net.const([1, 4, 8, 8], np.int64)),
        None,
    ),
    "Tile of channels": (lambda net, x: net.op("Tile", x, net.const([1, 2, 1, 1], np.int64)), None),
    "TopK of cells": (best_cells, [[0, 192]]),
    "Pad and Clip": (
        lambda net, x: net.op(
            "Clip", net.op("Pad", x, net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64)), net.const(0.1), net.const(0.7)
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_freed_and_gives_each_image_what_it_gave_alone(name: str):
    body, wanted = PATTERNS[name]
    after = freed(export(body))
    assert wanted is None or targets(after) == wanted
    assert {"Shape", "Gather"}.isdisjoint(operators(after)) or name == "constant in Concat"


def test_an_open_target_that_already_fits_is_left_alone():
    model = export(lambda net, x: net.reshape(x, -1, 3, 64))
    assert targets(freed(model)) == [[-1, 3, 64]]


def test_reductions_lose_the_batch_from_their_axes():
    after = freed(export(squeeze_excite))
    (mean,) = [n for n in after.graph.node if n.op_type == "ReduceMean"]
    assert [list(a.ints) for a in mean.attribute if a.name == "axes"] == [[1, 2, 3]]
    only = freed(export(lambda net, x: net.op("Relu", net.op("ReduceMax", x, axes=[0], keepdims=1))))
    assert "ReduceMax" not in operators(only)


def test_reductions_with_axes_as_input_lose_it_too():
    body: Body = lambda net, x: net.op("ReduceMean", x, net.const([0, 2, 3], np.int64), keepdims=1)  # noqa: E731
    after = freed(export(body, opset=18))
    (mean,) = [n for n in after.graph.node if n.op_type == "ReduceMean"]
    assert constants(after)[mean.input[1]] == [2, 3]


def test_sizes_become_scales():
    after = freed(export(resize_by_sizes))
    (node,) = [n for n in after.graph.node if n.op_type == "Resize"]
    assert len(node.input) == 3
    assert constants(after)[node.input[2]] == [1, 1, 2, 3]


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
@pytest.mark.parametrize("kind", ["yolov8", "yolox-decoded", "nanodet-six"])
def test_a_batch_of_several_is_freed_too(kind: str, opset: int):
    model = zoo.network(kind, batch=3, opset=opset)
    freed(model)


def test_rows_that_are_equal_for_every_image_become_one():
    def body(net: zoo.Net, x: str) -> str:
        return net.op("Mul", x, net.const(np.ones((2, 3, 1, 1)) * np.array([1, 2, 3]).reshape(1, 3, 1, 1)))

    after = freed(export(body, shape=(2, 3, 8, 8)))
    assert [list(t.dims) for t in after.graph.initializer] == [[1, 3, 1, 1]]


def test_constants_of_nodes_count_as_well():
    """Old PyTorch exports keep targets in Constant nodes."""

    def body(net: zoo.Net, x: str) -> str:
        target = numpy_helper.from_array(np.array([1, -1]))
        net.nodes.append(helper.make_node("Constant", [], ["target"], value=target))
        return net.op("Reshape", x, "target")

    after = freed(export(body))
    assert targets(after) == [[0, 192]]
    assert "Constant" not in operators(after)


def test_a_free_batch_stays_as_it_is():
    model = zoo.network("yolov8")
    assert free_batch(model).SerializeToString() == model.SerializeToString()


def test_weights_behind_operators_stay_small():
    """What is not computed from shapes is not folded: an int8 weight stays int8."""

    def body(net: zoo.Net, x: str) -> str:
        weight = net.const(np.ones((4, 3, 1, 1)), np.int8)
        return net.op("Conv", x, net.op("DequantizeLinear", weight, net.const(0.5)))

    after = freed(export(body))
    assert operators(after) == ["DequantizeLinear", "Conv"]
    assert [t.data_type for t in after.graph.initializer].count(onnx.TensorProto.INT8) == 1


def lstm(net: zoo.Net, x: str) -> str:
    rows = net.op("Transpose", net.reshape(x, 1, 3, 64), perm=[2, 0, 1])
    weights = [net.const(net.rng.normal(0, 1, s)) for s in ((1, 16, 3), (1, 16, 4))]
    return net.op("LSTM", rows, *weights, hidden_size=4)


REFUSED: dict[str, tuple[Body, str]] = {
    "Squeeze of the batch": (lambda net, x: net.op("Squeeze", x, net.const([0], np.int64)), "removes the batch axis"),
    "Squeeze of all": (lambda net, x: net.op("Squeeze", x), "removes the batch axis"),
    "Softmax over images": (lambda net, x: net.op("Softmax", x, axis=0), "over the images"),
    "ArgMax over images": (lambda net, x: net.op("ArgMax", x, axis=0, keepdims=1), "over the images"),
    "mean that drops the batch": (lambda net, x: net.op("ReduceMean", x, axes=[0], keepdims=0), "over the images"),
    "L2 over the batch": (lambda net, x: net.op("ReduceL2", x, axes=[0], keepdims=1), "over the images"),
    "Concat of images": (lambda net, x: net.op("Concat", x, x, axis=0), "images behind images"),
    "Gather of an image": (lambda net, x: net.op("Gather", x, net.const([0], np.int64), axis=0), "picks among"),
    "product over images": (
        lambda net, x: net.op(
            "MatMul", net.op("Transpose", net.reshape(x, 1, 192), perm=[1, 0]), net.reshape(x, 1, 192)
        ),
        "sums over the images|along different axes",
    ),
    "sum of misplaced images": (
        lambda net, x: net.op("Add", net.reshape(x, 1, 192), net.op("Transpose", net.reshape(x, 1, 192), perm=[1, 0])),
        "fit each other",
    ),
    "images in axis 1": (lambda net, x: net.op("Transpose", x, perm=[1, 0, 2, 3]), "no batch of its own in axis 0"),
    "images merged with rows": (lambda net, x: net.reshape(x, 3, 64), "no batch of its own in axis 0"),
    "no batch at all": (lambda net, x: [net.op("Relu", x), net.op("Shape", x)], "no batch of its own"),
    "Tile of images": (lambda net, x: net.op("Tile", x, net.const([2, 1, 1, 1], np.int64)), "repeats the images"),
    "Expand of images": (lambda net, x: net.op("Expand", x, net.const([4, 3, 8, 8], np.int64)), "repeats along"),
    "constant over what was merged": (
        lambda net, x: net.op("Add", net.reshape(x, 3, 64), net.const(np.arange(3).reshape(3, 1))),
        "spans the batch",
    ),
    "NonZero": (lambda net, x: net.op("NonZero", x), "NonZero has no rule"),
    "LSTM": (lstm, "LSTM has no rule"),
    "GlobalMaxPool of rows": (
        lambda net, x: net.op("GlobalMaxPool", net.op("Transpose", x, perm=[1, 0, 2, 3])),
        "batch, channels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_ties_images_together_is_refused(name: str):
    body, why = REFUSED[name]
    with pytest.raises(ModelError, match=why) as caught:
        free_batch(export(body))
    assert "the batch cannot be freed" in str(caught.value)
    assert "Export it with a dynamic batch" in str(caught.value)


def test_images_that_were_exported_as_several_may_not_be_averaged():
    body: Body = lambda net, x: net.op("Sub", x, net.op("ReduceMean", x, axes=[0], keepdims=1))  # noqa: E731
    assert free_batch(export(body)) is not None
    with pytest.raises(ModelError, match="over the images"):
        free_batch(export(body, shape=(2, 3, 8, 8)))


def test_rows_that_differ_by_image_are_refused():
    body: Body = lambda net, x: net.op("Mul", x, net.const(np.array([1, 2]).reshape(2, 1, 1, 1)))  # noqa: E731
    with pytest.raises(ModelError, match="treats the images of a batch differently"):
        free_batch(export(body, shape=(2, 3, 8, 8)))


def test_the_error_names_node_and_shape():
    with pytest.raises(ModelError, match=r"at Softmax Softmax_0 of input \[1, 3, 8, 8\]"):
        free_batch(export(lambda net, x: net.op("Softmax", x, axis=0)))


def test_inputs_that_are_not_one_known_picture_are_refused():
    with pytest.raises(ModelError, match="not all known"):
        free_batch(export(lambda net, x: net.op("Relu", x), shape=(1, 3, "h", "w")))
    model = export(lambda net, x: net.op("Relu", x))
    model.graph.input.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))
    with pytest.raises(ModelError, match="2 inputs"):
        free_batch(model)


def test_the_proof_finds_a_wrong_graph():
    """Batch 1 alone would not: the mean over images is each image's own there."""
    before = export(lambda net, x: net.op("Sub", x, net.op("ReduceMean", x, axes=[0], keepdims=1)))
    wrong = onnx.ModelProto()
    wrong.CopyFrom(before)
    for value in (*wrong.graph.input, *wrong.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    assert prove_batch(before, wrong, batches=(1,)) == 0
    with pytest.raises(ModelError, match=r"do not agree.*batch 2"):
        prove_batch(before, wrong)


def random_body(seed: int) -> Body:
    """Operators in random order, with numbers as a tracing exporter writes them; [1, 3, 4, 4] → [1, n] or anything."""

    def body(net: zoo.Net, x: str) -> str:
        rng = np.random.default_rng(seed)
        shape, past = [1, 3, 4, 4], []
        for kind in rng.choice(list(STEPS), rng.integers(3, 9)):
            past.append((x, list(shape)))
            other, its = past[rng.integers(len(past))]
            x, shape = STEPS[kind](net, rng, x, list(shape), other, its)
        return net.op("Neg", net.reshape(x, 1, -1) if rng.random() < 0.8 else x)

    return body


def any_view(net: zoo.Net, rng: np.random.Generator, x: str, shape: list[int], *_: Any) -> tuple[str, list[int]]:
    rest, dims = int(np.prod(shape)), []
    while rest > 1:
        dims.append(int(rng.choice([k for k in range(2, rest + 1) if rest % k == 0])) if len(dims) < 2 else rest)
        rest //= dims[-1]
    for _ in range(rng.integers(0, 3)):
        dims.insert(rng.integers(len(dims) + 1), 1)
    dims = [1, *dims] if rng.random() < 0.6 else dims
    written = list(dims)
    if dims and rng.random() < 0.3:
        written[rng.integers(len(dims))] = -1
    return net.reshape(x, *written), dims


def any_axes(net: zoo.Net, rng: np.random.Generator, x: str, shape: list[int], *_: Any) -> tuple[str, list[int]]:
    order = rng.permutation(len(shape)).tolist()
    return net.op("Transpose", x, perm=order), [shape[i] for i in order]


def any_mean(net: zoo.Net, rng: np.random.Generator, x: str, shape: list[int], *_: Any) -> tuple[str, list[int]]:
    axes = sorted(set(rng.integers(0, len(shape), 2).tolist()))
    kind = str(rng.choice(["ReduceMean", "ReduceMax", "ReduceL2"]))
    return net.op(kind, x, axes=axes, keepdims=1), [1 if i in axes else d for i, d in enumerate(shape)]


def any_softmax(net: zoo.Net, rng: np.random.Generator, x: str, shape: list[int], *_: Any) -> tuple[str, list[int]]:
    return net.op("Softmax", x, axis=int(rng.integers(len(shape)))), shape


def any_concat(net: zoo.Net, rng: np.random.Generator, x: str, shape: list[int], *_: Any) -> tuple[str, list[int]]:
    axis = int(rng.integers(len(shape)))
    beside = [2 if i == axis else d for i, d in enumerate(shape)]
    shape[axis] += 2
    return net.op("Concat", x, net.const(rng.normal(0, 1, beside)), axis=axis), shape


def any_constant(net: zoo.Net, rng: np.random.Generator, x: str, shape: list[int], *_: Any) -> tuple[str, list[int]]:
    over = [d if rng.random() < 0.5 else 1 for d in shape][rng.integers(len(shape)) :]
    return net.op("Add", x, net.const(rng.normal(0, 1, over))), shape


def any_product(net: zoo.Net, rng: np.random.Generator, x: str, shape: list[int], *_: Any) -> tuple[str, list[int]]:
    if len(shape) < 2:
        return x, shape
    return net.op("MatMul", x, net.const(rng.normal(0, 1, (shape[-1], 3)))), [*shape[:-1], 3]


def any_pair(
    net: zoo.Net, rng: np.random.Generator, x: str, shape: list[int], other: str, its: list[int]
) -> tuple[str, list[int]]:
    try:
        wide = list(np.broadcast_shapes(shape, its))
    except ValueError:
        return x, shape
    return net.op("Mul", x, other), wide


def any_slice(net: zoo.Net, rng: np.random.Generator, x: str, shape: list[int], *_: Any) -> tuple[str, list[int]]:
    axis = int(rng.integers(len(shape)))
    if shape[axis] == 1:
        return x, shape
    shape[axis] -= 1
    return net.slice(x, 0, shape[axis], axis), shape


STEPS: dict[str, Callable[..., tuple[str, list[int]]]] = {
    "view": any_view,
    "again": any_view,
    "axes": any_axes,
    "mean": any_mean,
    "softmax": any_softmax,
    "concat": any_concat,
    "constant": any_constant,
    "product": any_product,
    "pair": any_pair,
    "slice": any_slice,
}


def test_random_graphs_are_freed_rightly_or_not_at_all():
    proved = 0
    for seed in range(150):
        before = export(random_body(seed), shape=(1, 3, 4, 4))
        try:
            after = free_batch(before)
        except ModelError:
            continue
        prove_batch(before, after, batches=(1, 2, 3))
        proved += 1
    assert 40 < proved < 140


FIXED = (
    *("mobilefacenet", "nanodet_m_416", "person_reid_0287", "retinaface_mnet025", "scrfd_500m_kps", "yolov5n_face"),
    "yolox_nano",
)


def opened(real_data: Path, name: str) -> onnx.ModelProto:
    return raise_opset(read_network(real_data / "models" / f"{name}.onnx"), name)


@pytest.mark.parametrize("name", FIXED)
def test_every_real_export_for_one_picture_becomes_free(real_data: Path, name: str):
    before = opened(real_data, name)
    after = free_batch(before)
    assert dims_of(after.graph.input[0])[0] == "batch"
    was = {o.name: dims_of(o) for o in before.graph.output}
    for output in after.graph.output:
        shape: tuple[Any, ...] = dims_of(output)
        assert shape[0] == "batch"
        assert len(shape) == len(was[output.name])
        assert all(isinstance(d, int) for d in shape[1:])
    assert {"Shape", "Gather", "Unsqueeze"}.isdisjoint(operators(after))
    assert prove_batch(before, after, batches=(2,)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_every_real_export_gives_the_same_in_batches(real_data: Path, name: str):
    before = opened(real_data, name)
    assert prove_batch(before, free_batch(before)) <= 1e-5
