"""D501 to D507: inputs, outputs, and what the file says of itself."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from eyas.card import METADATA_KEY
from eyas.doctor.edit import fresh, reread
from eyas.doctor.rule import Rule
from eyas.doctor.rules.tails import suppressors
from eyas.doctor.subject import Subject
from eyas.graph.surgery import IMAGES, OUTPUTS, THRESHOLDS, dims_of, inputs_of

Found = Iterator[tuple[str, str]]


def _half(s: Subject) -> Found:
    for value in (*s.inputs, *s.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            yield value.name, "is fp16"


def widen_edges(model: onnx.ModelProto) -> bool:
    """Inputs and outputs in fp16 become fp32 with a Cast behind or before. fp16 → fp32 → fp16 is exact."""
    graph = model.graph
    before, behind = [], []
    for value in inputs_of(graph):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            inner = fresh(graph, f"{value.name}/fp16")
            reread(graph, value.name, inner)
            before.append(helper.make_node("Cast", [value.name], [inner], inner, to=TensorProto.FLOAT16))
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            inner = fresh(graph, f"{value.name}/fp16")
            reread(graph, value.name, inner)
            for node in graph.node:
                node.output[:] = [inner if edge == value.name else edge for edge in node.output]
            behind.append(helper.make_node("Cast", [inner], [value.name], f"{inner}/cast", to=TensorProto.FLOAT))
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = [*before, *graph.node, *behind]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return bool(before or behind)


def _no_batch(s: Subject) -> Found:
    if s.picture is None or s.deployed or suppressors(s):
        return
    for output in s.graph.output:
        if output.type.tensor_type.HasField("shape"):
            dims = dims_of(output)
            if not dims or (isinstance(dims[0], int) and dims[0] != s.batch):
                yield output.name, f"its shape is {list(dims)} for a batch of {s.batch}"


def _clashes(s: Subject) -> Found:
    if s.deployed:
        return
    names = {o.name for o in s.graph.output}
    for output in sorted(names & {i.name for i in s.graph.input}):
        yield output, "an output is named like an input"
    edges = {edge for node in s.graph.node for edge in node.output} | s.weights.keys()
    for name in (IMAGES, THRESHOLDS, *OUTPUTS):
        if name in edges or (name != IMAGES and name in {i.name for i in s.inputs}):
            yield name, "eyas' deploy graph has an edge of this name"


def _numbers(s: Subject) -> Found:
    for output in s.graph.output:
        if output.name.isdecimal():
            yield output.name, f"the output's name is a number; its shape is {list(dims_of(output))}"


def _unsaid(s: Subject) -> Found:
    if METADATA_KEY not in s.metadata and not s.deployed:
        missing = [key for key in ("names", "stride") if key not in s.metadata]
        if missing:
            yield "metadata", f"no {' and no '.join(missing)}"


def _several(s: Subject) -> Found:
    if s.picture is None or (len(s.inputs) > 1 and not s.deployed):
        seen = ", ".join(f"{i.name} {list(dims_of(i))}" for i in s.inputs) or "none"
        yield "inputs", f"inputs are {seen}"


def _long(s: Subject) -> Found:
    for output in s.graph.output:
        if output.type.tensor_type.elem_type == TensorProto.INT64 and not suppressors(s):
            yield output.name, "is int64"


RULES = (
    Rule(
        "D501",
        "inputs or outputs in fp16",
        "warning",
        "Coordinates above 2048 are rounded to 2 px, and every caller must convert.",
        "Export with fp32 inputs and outputs; --fix adds the casts.",
        _half,
        widen_edges,
    ),
    Rule(
        "D502",
        "an output without a batch axis",
        "warning",
        "Which row belongs to which picture cannot be told.",
        "Export with the batch as the first axis of every output.",
        _no_batch,
    ),
    Rule(
        "D503",
        "names that clash",
        "note",
        "Two things of one name confuse people and tools. eyas renames its own copy.",
        "Choose input_names and output_names at export.",
        _clashes,
    ),
    Rule(
        "D504",
        "outputs named by numbers",
        "note",
        "The exporter counted; the numbers change with every export, and code that knows them breaks.",
        "Choose output_names at export.",
        _numbers,
    ),
    Rule(
        "D505",
        "the file does not say what it is",
        "note",
        "Class names and strides must be given, or are guessed from shapes.",
        "Give --names FILE or --card FILE; an exporter can write them as metadata.",
        _unsaid,
    ),
    Rule(
        "D506",
        "not one picture in",
        "warning",
        "eyas feeds one picture of four axes; other inputs (image size, scale factor) would have to be made up.",
        "Export the network alone, or fold the other inputs into constants.",
        _several,
    ),
    Rule(
        "D507",
        "int64 outputs",
        "note",
        "Some engines have no int64 and hand out int32 instead.",
        "Cast class ids to int32 or float before export.",
        _long,
    ),
)
