"""Read a network from an ONNX file, with an error a person can act on, and state the facts its card rests on."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from eyas.errors import CardError, ModelError, problem
from eyas.graph.surgery import PRODUCTS, dims_of, edges_read, feeding_products, inputs_of, takes_channels_last

Shape = tuple[int | str, ...]

ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})  # in a tail: the network decodes its boxes itself
_VIEWS = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a graph says of itself. Shapes hold a name where an axis is not fixed.

    input_shape: [B, 3, H, W] of the picture input, or [B, H, W, 3] if channels_last. outputs: name → shape, in graph
    order. metadata: the file's own key–value pairs. ops: the operators that occur. tail: those behind the last
    convolutions and matrix products, on values that depend on the picture. makers: output → the operator whose values
    it holds, be they reshaped, cut or cast since.
    """

    input_shape: Shape
    outputs: Mapping[str, Shape]
    metadata: Mapping[str, str]
    ops: frozenset[str]
    tail: frozenset[str] = frozenset()
    makers: Mapping[str, str] = field(default_factory=dict)
    channels_last: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        height, width = self.input_shape[1:3] if self.channels_last else self.input_shape[2:4]
        return int(height), int(width)

    @property
    def batch(self) -> int | None:
        """The batch that the graph is fixed to, None where it is free."""
        return self.input_shape[0] if isinstance(self.input_shape[0], int) else None

    def describe(self) -> str:
        """One line for messages."""
        outs = ", ".join(f"{name} {_text(shape)}" for name, shape in self.outputs.items())
        return f"input {_text(self.input_shape)} → {outs}"


def _text(shape: Shape) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


def read_network(path: Path) -> onnx.ModelProto:
    """Parse and check an ONNX file; weights in external files are read if they lie in the model's own folder.

    Raises ModelError: no such file, not ONNX, cut off, weights outside the folder, or a graph that is not valid.
    """
    if not path.is_file():
        _refuse_missing(path)
    if path.suffix.lower() in (".pt", ".pth", ".engine", ".plan", ".trt", ".tflite", ".pb", ".wts", ".xml"):
        raise ModelError(
            problem(f"{path} is not ONNX", got=f"a {path.suffix} file", expected=".onnx", remedy="Export it to ONNX.")
        )
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ModelError(
            problem(
                f"{path} cannot be read as ONNX",
                got=f"{path.stat().st_size} bytes that do not parse ({error})",
                expected="a complete ONNX file",
                remedy="It may be cut off or of another kind: copy or export it again.",
            )
        ) from error
    if not model.graph.node or not model.graph.output:
        raise ModelError(
            problem(
                f"{path} holds no network",
                got=f"{len(model.graph.node)} operators, {len(model.graph.output)} outputs",
                expected="a complete ONNX file",
                remedy="It may be cut off or of another kind: copy or export it again.",
            )
        )
    _load_external(model, path)
    try:
        onnx.checker.check_model(model)
        for tensor in model.graph.initializer:  # the checker lets some sizes and types pass that do not exist
            numpy_helper.to_array(tensor)
    except (onnx.checker.ValidationError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            problem(
                f"{path} is not a valid network",
                got=(str(error).strip().splitlines() or [type(error).__name__])[0],
                expected="a graph that onnx.checker accepts",
                remedy="It may be cut off: copy or export it again.",
            )
        ) from error
    model.ir_version = max(model.ir_version, 4)  # before 4 every weight, ours too, would have to be listed as an input
    _widen_stored_weights(model.graph)
    return model


def _refuse_missing(path: Path) -> None:
    folder = path.parent
    near = difflib.get_close_matches(path.name, [p.name for p in folder.glob("*.onnx")] if folder.is_dir() else [])
    raise ModelError(
        problem(
            f"there is no model {path}",
            got="a folder" if path.is_dir() else "no such file",
            expected="an .onnx file or the name of a model (`eyas models` lists them)",
            remedy=f"Did you mean {near[0]}?" if near else "Check the path.",
        )
    )


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if not uses_external_data(tensor):
            continue
        where = next((e.value for e in tensor.external_data if e.key == "location"), "")
        target = (folder / where).resolve()
        if not target.is_relative_to(folder):
            raise ModelError(
                problem(
                    f"{path} keeps weights outside its folder",
                    got=f"{tensor.name} in {where}",
                    expected=f"a file in {folder}",
                    remedy="Put the weights beside the model: a path that leads elsewhere could read any file here.",
                )
            )
        if not target.is_file():
            raise ModelError(
                problem(
                    f"{path} lacks its weights",
                    got=f"no file {where}",
                    expected=f"the weights of {tensor.name} beside the model",
                    remedy="Copy the data file that was exported with the model into the same folder.",
                )
            )
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            problem(
                f"{path}: weights unreadable",
                got=str(error),
                expected="data as the model describes",
                remedy="They may be cut off or of another export: copy or export them again.",
            )
        ) from error


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor: weights, constants of nodes, and those of inner graphs."""
    yield from graph.initializer
    for attribute in (a for node in graph.node for a in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _widen_stored_weights(graph: onnx.GraphProto) -> None:
    """Fold `Cast` of a stored fp16 weight to fp32 into the weight, so that passes see ordinary weights."""
    weights = {t.name: t for t in graph.initializer}
    stored = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT16}
    casts = [n for n in graph.node if n.op_type == "Cast" and n.input[0] in stored and _casts_to_float(n)]
    readers = [edge for node in graph.node for edge in edges_read([node])]
    for node in casts:
        if readers.count(node.input[0]) > 1:
            continue
        array = numpy_helper.to_array(weights[node.input[0]]).astype("float32")
        weights[node.input[0]].CopyFrom(numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)
        for listed in [i for i in graph.input if i.name == node.input[0]]:  # as exports before IR 4 list weights
            graph.input.remove(listed)


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)


def facts_of(model: onnx.ModelProto, size: tuple[int, int] | None = None) -> Facts:
    """State the facts; a graph whose height and width are free is first fixed to `size`, in place.

    Raises CardError where there is not one picture input [B, 3, H, W], or where `size` contradicts it.
    """
    graph = model.graph
    inputs = inputs_of(graph)
    shape = dims_of(inputs[0]) if inputs else ()
    last = bool(inputs) and takes_channels_last(inputs[0])
    if len(inputs) != 1 or len(shape) != 4 or not (last or shape[1] == 3 or isinstance(shape[1], str)):
        seen = ", ".join(f"{i.name} {_text(dims_of(i))}" for i in inputs) or "none"
        raise CardError(
            problem(
                "the network does not take one picture",
                got=f"inputs {seen}",
                expected="one input [batch, 3, height, width] (or [batch, height, width, 3])",
                remedy="Export the network alone, without other inputs.",
            )
        )
    _fix_size(model, inputs[0], shape, size, last)
    metadata = {p.key: p.value for p in model.metadata_props}
    outputs = {o.name: dims_of(o) for o in graph.output}
    ops = frozenset(n.op_type for n in graph.node)
    return Facts(dims_of(inputs[0]), outputs, metadata, ops, _tail(graph), _makers(graph), last)


def _tail(graph: onnx.GraphProto) -> frozenset[str]:
    """Operators on which no product depends, without the products themselves, a bias that is an Add of its own, and
    what works on constants and shapes alone (exports compute the sizes of their Reshapes with Mul and Div).
    """
    producer = {edge: node for node in graph.node for edge in node.output}
    inner = feeding_products(graph) | {n.output[0] for n in graph.node if n.op_type in PRODUCTS}
    inner |= _static(graph)
    return frozenset(n.op_type for n in graph.node if n.output[0] not in inner and not _is_bias(n, producer))


def _static(graph: onnx.GraphProto) -> set[str]:
    """First outputs of nodes that depend on no value of the picture: on constants and on shapes only."""
    moving = {i.name for i in inputs_of(graph)}
    static = set()
    for node in graph.node:  # in order: ONNX has every edge written before it is read
        if node.op_type in ("Shape", "Size") or moving.isdisjoint(edges_read([node])):
            static.add(node.output[0])
        else:
            moving.update(node.output)
    return static


def _is_bias(node: onnx.NodeProto, producer: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a node adds a constant to a product."""
    makers = [producer[edge].op_type if edge in producer else "Constant" for edge in node.input]
    return node.op_type == "Add" and "Constant" in makers and not PRODUCTS.isdisjoint(makers)


def _makers(graph: onnx.GraphProto) -> dict[str, str]:
    """Output → operator, seen through what moves values but does not change them."""
    producer = {edge: node for node in graph.node for edge in node.output}
    found = {}
    for output in graph.output:
        node = producer.get(output.name)
        while node is not None and node.op_type in _VIEWS and node.input[0] in producer:
            node = producer[node.input[0]]
        if node is not None:
            found[output.name] = node.op_type
    return found


def _fix_size(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, shape: Shape, size: tuple[int, int] | None, last: bool
) -> None:
    sides = shape[1:3] if last else shape[2:]
    free = any(isinstance(d, str) for d in sides)
    if size and any(isinstance(d, int) and d != given for d, given in zip(sides, size, strict=True)):
        raise CardError(
            problem(
                "the network's input size is fixed",
                got=f"--imgsz {size}",
                expected=f"({sides[0]}, {sides[1]}) (height, width), as exported",
                remedy="Leave --imgsz out, or export the network at that size.",
            )
        )
    if free and size is None:
        raise CardError(
            problem(
                "the network takes pictures of any size",
                got=f"input {_text(shape)}",
                expected="a size to build for",
                remedy="Give it with --imgsz 640 or --imgsz 384x640 (height x width).",
            )
        )
    known = all(dims_of(o) and all(isinstance(d, int) for d in dims_of(o)[1:]) for o in model.graph.output)
    if not free and known:
        return
    batch = shape[0] if isinstance(shape[0], int) else "batch"
    height, width = size or sides
    dims = [batch, height, width, 3] if last else [batch, 3, height, width]
    element = value.type.tensor_type.elem_type
    value.CopyFrom(helper.make_tensor_value_info(value.name, element, dims))
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {o.name: o for o in inferred.graph.output}
    for output in model.graph.output:
        output.CopyFrom(shapes[output.name])
