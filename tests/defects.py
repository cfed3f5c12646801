"""Broken exports, generated: each the same small healthy network with one thing wrong, as exporters and tools break it.

`base()` is the healthy one. A defect names the rules that must be found, no other; `mended` says that the repair must
succeed and be equal. Nothing here calls the code under test, but for the deploy graph, which only eyas makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

F32, I64 = np.float32, np.int64
Model = onnx.ModelProto


@dataclass(frozen=True)
class Defect:
    """make: writes the file into a folder and returns its path. strip: repaired with --strip-nms."""

    make: Callable[[Path], Path]
    rules: frozenset[str]
    mended: bool = False
    backend: str | None = None
    strip: bool = False


DEFECTS: dict[str, Defect] = {}


def broken(*rules: str, mended: bool = False, backend: str | None = None, strip: bool = False) -> Any:
    """Register what makes one defect: a function of nothing that gives a model, or of a folder that gives a path."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def make(folder: Path) -> Path:
            if function.__code__.co_argcount:
                made: Path = function(folder)
                return made
            path = folder / "net.onnx"
            path.write_bytes(function().SerializeToString())
            return path

        DEFECTS[function.__name__] = Defect(make, frozenset(rules), mended, backend, strip)
        return function

    return register


def value(name: str, shape: list[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def put(model: Model, name: str, array: Any, dtype: Any = None) -> str:
    """Store a weight, in place of one of the same name."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(np.asarray(array, dtype)).reshape(np.shape(array)), name)
    for old in [t for t in model.graph.initializer if t.name == name]:
        model.graph.initializer.remove(old)
    model.graph.initializer.append(tensor)
    return name


def weight(model: Model, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)).copy()


def node(model: Model, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def base(
    batch: int | str = "batch", opset: int = 17, size: tuple[int | str, int | str] = (32, 32), dtype: Any = F32
) -> Model:
    """input [B, 3, 32, 32] → two strided convolutions → ×2 → Concat → output0 [B, 6, 256], metadata and all."""
    rng = np.random.default_rng(3)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        *_layer("one", "input", 2),
        *_layer("two", "one/relu", 2),
        helper.make_node("Resize", ["two/relu", "", "scales"], ["up"], "up", mode="nearest", **_FLOOR),
        helper.make_node("Concat", ["one/relu", "up"], ["both"], "join", axis=1),
        *_layer("three", "both", 1)[:1],
        helper.make_node("Reshape", ["three", "target"], ["output0"], "flat"),
    ]
    cells: int | str = 256 if isinstance(size[0], int) else "cells"
    graph = helper.make_graph(
        nodes, "base", [value("input", [batch, 3, *size], kind)], [value("output0", [batch, 6, cells], kind)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    for name, inside, outside in (("one", 3, 8), ("two", 8, 8), ("three", 16, 6)):
        put(model, f"{name}/w", rng.normal(0, 0.3, (outside, inside, 3, 3)), dtype)
        put(model, f"{name}/b", rng.normal(0, 0.3, outside), dtype)
    put(model, "scales", [1, 1, 2, 2], F32)
    put(model, "target", [0, 6, -1], I64)
    if 11 <= opset < 13:  # Resize must have this input then
        node(model, "up").input[1] = put(model, "roi", np.zeros(0), F32)
    for key, said in (("names", "{0: 'ant', 1: 'bee'}"), ("stride", "2")):
        model.metadata_props.add(key=key, value=said)
    return model


_FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def _layer(name: str, source: str, stride: int) -> list[onnx.NodeProto]:
    weights = [f"{name}/w", f"{name}/b"]
    conv = helper.make_node("Conv", [source, *weights], [name], name, strides=[stride] * 2, pads=[1] * 4)
    return [conv, helper.make_node("Relu", [name], [f"{name}/relu"], f"{name}/relu")]


def insert(model: Model, before: str, *nodes: onnx.NodeProto) -> None:
    """Put nodes in front of the one of that name."""
    everything = list(model.graph.node)
    place = [n.name for n in everything].index(before)
    everything[place:place] = nodes
    del model.graph.node[:]
    model.graph.node.extend(everything)


def behind(model: Model, *nodes: onnx.NodeProto, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Model:
    """Append nodes; the last one's first output becomes the graph's only output. The network's own is edge "raw"."""
    node(model, "flat").output[0] = "raw"
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.append(value(nodes[-1].output[0], shape, kind))
    return model


def on_features(model: Model, *nodes: onnx.NodeProto, out: str) -> Model:
    """Put nodes behind the first ReLU (edge "one/relu"); the Concat reads `out` instead."""
    insert(model, "join", *nodes)
    node(model, "join").input[0] = out
    return model


OUT: list[int | str] = ["batch", 6, 256]


# ---- 1: the file ----


@broken("D101", mended=True)
def opset_nine() -> Model:
    model = base(opset=9)
    up = node(model, "up")
    up.CopyFrom(helper.make_node("Upsample", ["two/relu", "scales"], ["up"], "up", mode="nearest"))
    return model


@broken("D102", backend="tensorrt")
def opset_too_new() -> Model:
    return base(opset=24)


@broken("D103")
def a_cycle() -> Model:
    model = base()
    node(model, "two").input[0] = "both"
    put(model, "two/w", np.zeros((8, 16, 3, 3)), F32)
    return model


@broken("D104", mended=True)
def not_in_order() -> Model:
    model = base()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def outside(model: Model, name: str, location: str, folder: Path) -> Path:
    """Move one weight's data to a file; returns the model's path."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    data = tensor.raw_data
    set_external_data(tensor, location, 0, len(data))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    if location != "missing.bin":
        (folder / location).write_bytes(data)
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@broken("D105", mended=True)
def weights_beside_the_file(folder: Path) -> Path:
    return outside(base(), "two/w", "net.bin", folder)


@broken("D106")
def weights_missing(folder: Path) -> Path:
    return outside(base(), "two/w", "missing.bin", folder)


@broken("D106")
def weights_outside_the_folder(folder: Path) -> Path:
    (folder / "inner").mkdir()
    path = outside(base(), "two/w", "net.bin", folder)
    return path.rename(folder / "inner" / "net.onnx") if _relocate(path) else path


def _relocate(path: Path) -> bool:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = f"../{entry.value}" if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    return True


@broken("D106")
def external_weights_cut_off(folder: Path) -> Path:
    path = outside(base(), "two/w", "net.bin", folder)
    (folder / "net.bin").write_bytes(b"\0" * 100)
    return path


@broken("D105", "D107")
def three_gigabytes(folder: Path) -> Path:
    model = base()
    tensor = next(t for t in model.graph.initializer if t.name == "two/w")
    tensor.dims[:] = [8, 8, 3, 3_910_000]
    path = outside(model, "two/w", "net.bin", folder)
    with (folder / "net.bin").open("r+b") as file:
        file.truncate(3_100_000_000)  # sparse: no disk, no memory
    return path


@broken("D108")
def a_weight_cut_off() -> Model:
    model = base()
    tensor = next(t for t in model.graph.initializer if t.name == "two/w")
    tensor.raw_data = tensor.raw_data[:-40]
    return model


@broken("D109")
def an_edge_that_nothing_writes() -> Model:
    model = base()
    node(model, "join").input[1] = "lost"
    node(model, "up").output[0] = "down"
    return model


@broken("D109")
def an_edge_written_twice() -> Model:
    model = base()
    model.graph.node.append(helper.make_node("Relu", ["three"], ["output0"], "again"))
    return model


@broken("D110")
def an_attribute_that_does_not_exist() -> Model:
    model = base()
    node(model, "two").attribute.append(helper.make_attribute("colour", 3))
    return model


@broken("D111", mended=True)
def names_given_twice() -> Model:
    model = base()
    node(model, "two/relu").name = "one/relu"
    return model


@broken("D112", mended=True)
def weights_listed_as_inputs() -> Model:
    model = base()
    listed = [value(t.name, list(t.dims), t.data_type) for t in model.graph.initializer]
    model.graph.input.extend(listed)
    model.ir_version = 3
    return model


# ---- 2: batch and shapes ----


@broken("D201", mended=True)
def a_batch_of_one() -> Model:
    return base(batch=1)


@broken("D201", mended=True)
def a_batch_of_four() -> Model:
    model = base(batch=4)
    put(model, "target", [4, 6, 256], I64)
    return model


@broken("D202", mended=True)
def one_baked_into_a_reshape() -> Model:
    model = base()
    put(model, "target", [1, 6, 256], I64)
    return model


@broken("D202", mended=True)
def four_baked_into_a_reshape() -> Model:
    model = base()
    put(model, "target", [4, 6, 256], I64)
    return model


@broken("D203", mended=True)
def minus_one_beside_the_batch() -> Model:
    model = base()
    put(model, "target", [1, 6, -1], I64)
    return model


@broken("D204", mended=True)
def a_target_computed_from_shapes() -> Model:
    model = base()
    parts = []
    for axis in (0, 2, 3):
        parts.append(helper.make_node("Gather", ["shape", put(model, f"axis{axis}", axis, I64)], [f"d{axis}"]))
    first = put(model, "first", [0], I64)
    insert(
        model,
        "flat",
        helper.make_node("Shape", ["three"], ["shape"], "shape"),
        *parts,
        helper.make_node("Mul", ["d2", "d3"], ["cells"]),
        helper.make_node("Unsqueeze", ["d0", first], ["b"]),
        helper.make_node("Unsqueeze", ["cells", first], ["n"]),
        helper.make_node("Concat", ["b", put(model, "six", [6], I64), "n"], ["computed"], axis=0),
    )
    node(model, "flat").input[1] = "computed"
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "target"))
    return model


def sized(model: Model, sizes: list[int], **attributes: Any) -> Model:
    put(model, "scales", sizes, I64)
    fields = {"mode": "nearest", **_FLOOR, **attributes}
    node(model, "up").CopyFrom(helper.make_node("Resize", ["two/relu", "", "", "scales"], ["up"], "up", **fields))
    return model


@broken("D205", mended=True)
def resize_by_sizes() -> Model:
    return sized(base(), [1, 8, 16, 16])


@broken("D205", mended=True)
def resize_by_sizes_of_two_axes() -> Model:
    return sized(base(opset=18), [16, 16], axes=[2, 3], mode="linear", coordinate_transformation_mode="half_pixel")


@broken("D206")
def height_and_width_free() -> Model:
    return base(size=("height", "width"))


@broken("D207")
def argmax_over_the_batch() -> Model:
    model = base()
    nodes = (
        helper.make_node("ArgMax", ["raw"], ["best"], "best", axis=0),
        helper.make_node("Cast", ["best"], ["as float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["raw", "as float"], ["output0"]),
    )
    return behind(model, *nodes, shape=OUT)


# ---- 3: operators ----


@broken("D301")
def a_custom_operator() -> Model:
    model = base()
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    return behind(model, helper.make_node("HSwish", ["raw"], ["output0"], "custom", domain="my.ops"), shape=OUT)


@broken("D301")
def an_operator_that_onnx_does_not_have() -> Model:
    return behind(base(), helper.make_node("HSwishPlugin", ["raw"], ["output0"], "custom"), shape=OUT)


def determinant() -> Model:
    model = base()
    nodes = (
        helper.make_node("Reshape", ["raw", put(model, "square", [0, 6, 16, 16], I64)], ["squares"]),
        helper.make_node("Det", ["squares"], ["output0"], "det"),
    )
    return behind(model, *nodes, shape=["batch", 6])


@broken("D302", backend="openvino")
def an_operator_that_openvino_lacks() -> Model:
    return determinant()


@broken("D303")
def an_operator_that_some_backends_lack() -> Model:
    return determinant()


@broken("D304")
def saved_by_onnx_runtime() -> Model:
    model = base()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return behind(model, helper.make_node("QuickGelu", ["raw"], ["output0"], domain="com.microsoft"), shape=OUT)


@broken("D305")
def control_flow() -> Model:
    model = base()
    put(model, "yes", True, np.bool_)
    inner = [
        helper.make_graph([helper.make_node(op, ["raw"], [f"in {op}"])], op, [], [value(f"in {op}", OUT)])
        for op in ("Relu", "Neg")
    ]
    branch = helper.make_node("If", ["yes"], ["output0"], "branch", then_branch=inner[0], else_branch=inner[1])
    return behind(model, branch, shape=OUT)


def normalised(**attributes: Any) -> Model:
    model, rng = base(), np.random.default_rng(5)
    names = [put(model, f"bn/{k}", rng.uniform(0.5, 1.5, 8), F32) for k in ("scale", "shift", "mean", "var")]
    norm = helper.make_node("BatchNormalization", ["one", *names], ["one/bn"], "bn", **attributes)
    insert(model, "one/relu", norm)
    node(model, "one/relu").input[0] = "one/bn"
    return model


@broken("D306", mended=True)
def batchnorm_behind_a_convolution() -> Model:
    return normalised(epsilon=1e-3)


@broken("D306", mended=True)
def batchnorm_behind_a_convolution_without_bias() -> Model:
    model = normalised()
    del node(model, "one").input[2]
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "one/b"))
    return model


@broken("D307", mended=True)
def dropout_left_in() -> Model:
    return on_features(base(), helper.make_node("Dropout", ["one/relu"], ["dropped"], "drop"), out="dropped")


@broken("D307", mended=True)
def dropout_before_the_output() -> Model:
    return behind(base(), helper.make_node("Dropout", ["raw"], ["output0"], "drop"), shape=OUT)


@broken("D308")
def batchnorm_in_training_mode() -> Model:
    model = normalised(training_mode=1)
    node(model, "bn").output.extend(["mean out", "var out"])
    return model


@broken("D308")
def dropout_in_training_mode() -> Model:
    model = base()
    ratio, mode = put(model, "ratio", 0.5, F32), put(model, "mode", True, np.bool_)
    drop = helper.make_node("Dropout", ["one/relu", ratio, mode], ["dropped"], "drop")
    return on_features(model, drop, out="dropped")


@broken("D309", mended=True)
def a_chain_of_identities() -> Model:
    chain = [helper.make_node("Identity", [a], [b], b) for a, b in (("one/relu", "i1"), ("i1", "i2"), ("i2", "i3"))]
    return on_features(base(), *chain, out="i3")


@broken("D201", "D310", mended=True)
def a_slice_assigned_in_place() -> Model:
    model = base(batch=1)
    where = np.stack(np.meshgrid([0], np.arange(2, 4), np.arange(256), indexing="ij"), -1)
    bounds = [put(model, f"bound{i}", [v], I64) for i, v in enumerate((2, 4, 1))]
    nodes = (
        helper.make_node("Slice", ["raw", *bounds], ["sides"]),
        helper.make_node("Sigmoid", ["sides"], ["squashed"]),
        helper.make_node("ScatterND", ["raw", put(model, "where", where, I64), "squashed"], ["output0"], "scatter"),
    )
    return behind(model, *nodes, shape=[1, 6, 256])


@broken("D311", mended=True)
def dead_nodes() -> Model:
    model = base()
    put(model, "unused/w", np.ones((4, 8, 1, 1)), F32)
    insert(
        model,
        "join",
        helper.make_node("Conv", ["one/relu", "unused/w"], ["side"], "side"),
        helper.make_node("Relu", ["side"], ["nowhere"], "nowhere"),
    )
    return model


@broken("D312", mended=True)
def a_weight_that_nothing_reads() -> Model:
    model = base()
    put(model, "anchors", np.ones((3, 2)), F32)
    return model


@broken("D313")
def a_weight_stored_twice() -> Model:
    model = base()
    table = np.random.default_rng(1).random((1, 6, 256))
    parts = [put(model, name, table, F32) for name in ("first", "second")]
    nodes = (
        helper.make_node("Add", ["raw", parts[0]], ["more"]),
        helper.make_node("Mul", ["more", parts[1]], ["output0"]),
    )
    return behind(model, *nodes, shape=OUT)


# ---- 4: numbers ----


def with_weight(name: str, change: Callable[[NDArray[Any]], Any]) -> Model:
    model = base()
    array = weight(model, name)
    change(array)
    put(model, name, array)
    return model


@broken("D401")
def a_weight_that_is_nan() -> Model:
    return with_weight("two/w", lambda a: a.__setitem__((3, 3, 1, 1), np.nan))


@broken("D401")
def an_infinite_bias() -> Model:
    return with_weight("two/b", lambda a: a.__setitem__(2, np.inf))


@broken("D402")
def a_weight_beyond_fp16() -> Model:
    return with_weight("two/b", lambda a: a.__setitem__(2, 1e6))


@broken("D403")
def weights_that_vanish_in_fp16() -> Model:
    return with_weight("two/w", lambda a: a.__imul__(1e-8))


@broken("D404", mended=True)
def a_table_of_int64() -> Model:
    model = base()
    put(model, "order", np.random.default_rng(2).integers(0, 256, 2000), I64)
    return behind(
        model, helper.make_node("Gather", ["raw", "order"], ["output0"], "pick", axis=2), shape=["batch", 6, 2000]
    )


@broken("D405")
def float64_inside() -> Model:
    model = base()
    nodes = (
        helper.make_node("Cast", ["raw"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["wide", put(model, "half", 0.5, np.float64)], ["halved"]),
        helper.make_node("Cast", ["halved"], ["output0"], to=TensorProto.FLOAT),
    )
    return behind(model, *nodes, shape=OUT)


# ---- 5: inputs and outputs ----


@broken("D501", mended=True)
def fp16_edges() -> Model:
    return base(dtype=np.float16)


@broken("D502")
def an_output_without_a_batch() -> Model:
    best = helper.make_node("ReduceMax", ["raw"], ["output0"], axes=[0], keepdims=0)
    return behind(base(), best, shape=[6, 256])


@broken("D503")
def an_edge_with_a_name_of_ours() -> Model:
    model = base()
    node(model, "up").output[0] = node(model, "join").input[1] = "thresholds"
    return model


@broken("D504")
def an_output_named_by_a_number() -> Model:
    model = base()
    model.graph.output[0].name = node(model, "flat").output[0] = "572"
    return model


@broken("D505")
def no_metadata() -> Model:
    model = base()
    del model.metadata_props[:]
    return model


@broken("D506")
def a_second_input() -> Model:
    model = base()
    model.graph.input.append(value("scale_factor", [1, 1, 1]))
    return behind(model, helper.make_node("Mul", ["raw", "scale_factor"], ["output0"]), shape=OUT)


@broken("D507")
def an_int64_output() -> Model:
    best = helper.make_node("ArgMax", ["raw"], ["output0"], axis=1, keepdims=0)
    return behind(base(), best, shape=["batch", 256], kind=TensorProto.INT64)


# ---- 6: tails and heads ----


def boxes_and_scores(model: Model) -> list[onnx.NodeProto]:
    """Nodes that make "b" [B, 256, 4] and "s" [B, 2, 256] of the raw output."""
    nodes = []
    for edge, low, high in (("four", 0, 4), ("s", 4, 6)):
        bounds = [put(model, f"{edge}{i}", [v], I64) for i, v in enumerate((low, high, 1))]
        nodes.append(helper.make_node("Slice", ["raw", *bounds], [edge], edge))
    return [*nodes, helper.make_node("Transpose", ["four"], ["b"], "b", perm=[0, 2, 1])]


@broken("D601", mended=True, strip=True)
def nms_inside() -> Model:
    model = base()
    limits = [put(model, "most", 10, I64), put(model, "iou", 0.5, F32), put(model, "least", 0.1, F32)]
    nms = helper.make_node("NonMaxSuppression", ["b", "s", *limits], ["chosen"], "nms")
    return behind(model, *boxes_and_scores(model), nms, shape=["found", 3], kind=TensorProto.INT64)


@broken("D602", mended=True, strip=True)
def nms_as_a_plugin() -> Model:
    model = base()
    model.opset_import.append(helper.make_opsetid("TRT", 1))
    rows = helper.make_node("Transpose", ["s"], ["rows"], perm=[0, 2, 1])
    names = ["num_dets", "det_boxes", "det_scores", "det_classes"]
    nms = helper.make_node("EfficientNMS_TRT", ["b", "rows"], names, "nms", domain="TRT", max_output_boxes=100)
    behind(model, *boxes_and_scores(model), rows, nms, shape=["batch", 1], kind=TensorProto.INT32)
    model.graph.output.extend([value("det_boxes", ["batch", 100, 4]), value("det_scores", ["batch", 100])])
    model.graph.output.append(value("det_classes", ["batch", 100], TensorProto.INT32))
    return model


@broken("D603")
def end_to_end() -> Model:
    model = base()
    nodes = (
        helper.make_node("Transpose", ["raw"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("TopK", ["rows", put(model, "ten", [10], I64)], ["output0", "which"], "best", axis=1),
    )
    return behind(model, *nodes, shape=["batch", 10, 6])


@broken("D604")
def divided_by_255_inside() -> Model:
    model = base()
    insert(model, "one", helper.make_node("Div", ["input", put(model, "by", 255.0, F32)], ["scaled"], "scale"))
    node(model, "one").input[0] = "scaled"
    return model


@broken("D604")
def mean_and_deviation_inside() -> Model:
    model = base()
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]))
    insert(
        model,
        "one",
        helper.make_node("Sub", ["input", put(model, "mean", mean, F32)], ["less"], "less"),
        helper.make_node("Div", ["less", put(model, "std", std, F32)], ["scaled"], "scale"),
    )
    node(model, "one").input[0] = "scaled"
    return model


@broken("D604")
def bytes_in() -> Model:
    model = base()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    insert(model, "one", helper.make_node("Cast", ["input"], ["pixels"], to=TensorProto.FLOAT))
    node(model, "one").input[0] = "pixels"
    return model


@broken("D605", "D701")
def a_deploy_graph() -> Model:
    import zoo

    from eyas.build import Network, deploy_graph
    from eyas.card import settle_card
    from eyas.graph.head import HeadSpec
    from eyas.graph.network import facts_of

    model = zoo.network("nanodet-8")
    card = settle_card(facts_of(model), family_name="nanodet", names=("ant", "bee", "cow"))
    return deploy_graph(Network(model, facts_of(model), card), HeadSpec(20))


# ---- 7: quantisation ----


@broken("D701")
def a_softmax() -> Model:
    return behind(base(), helper.make_node("Softmax", ["raw"], ["output0"], "softmax", axis=1), shape=OUT)


@broken("D702")
def already_quantised() -> Model:
    model = base()
    scale, zero = put(model, "q/scale", 0.02, F32), put(model, "q/zero", 0, np.int8)
    pair = (
        helper.make_node("QuantizeLinear", ["one/relu", scale, zero], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", scale, zero], ["dq"], "dq"),
    )
    return on_features(model, *pair, out="dq")


@broken("D703")
def one_channel_of_another_range() -> Model:
    return with_weight("two/w", lambda a: a[5].__imul__(3000))
