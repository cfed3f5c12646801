"""D601 to D605: pre- and post-processing that the graph already holds, so that it is not added twice."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from eyas.doctor.edit import fresh, sweep
from eyas.doctor.rule import Rule
from eyas.doctor.subject import Subject, name_of
from eyas.graph.surgery import dims_of

Found = Iterator[tuple[str, str]]

# TensorRT's plug-ins, and others' of the same kind; boxes are the first input, scores the second.
PLUGINS = frozenset(
    {"EfficientNMS_TRT", "EfficientNMSX_TRT", "EfficientNMS_ONNX_TRT", "BatchedNMS_TRT", "BatchedNMSDynamic_TRT"}
    | {"TRTBatchedNMS", "NMS_TRT", "YOLO_NMS_TRT", "EfficientRotatedNMS_TRT"}
)
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
_CARRIERS = frozenset({"Cast", "Identity", "Transpose", "Gather", "Unsqueeze", "Squeeze"})


def suppressors(s: Subject) -> list[onnx.NodeProto]:
    """Nodes that do NMS."""
    return [n for n in s.graph.node if n.op_type == "NonMaxSuppression" or n.op_type in PLUGINS]


def _nms(s: Subject) -> Found:
    for node in suppressors(s):
        if node.op_type == "NonMaxSuppression":
            yield name_of(node), "NonMaxSuppression: its rows are of no fixed number; TensorRT-RTX does not build it"


def _plugin(s: Subject) -> Found:
    for node in suppressors(s):
        if node.op_type in PLUGINS and s.backend != "tensorrt":
            yield name_of(node), f"{node.op_type} is a plug-in of TensorRT's; nothing else runs it"


def strip(model: onnx.ModelProto) -> bool:
    """Cut the graph before its one NMS: boxes and scores, its first two inputs, become the outputs.

    What is computed before the cut stays, node by node; what comes behind it is dropped.
    """
    graph, s = model.graph, Subject(model)
    found = suppressors(s)
    if len(found) != 1 or len(found[0].input) < 2:
        return False
    outputs, ends = [], []
    for name, edge in zip(("boxes", "scores"), found[0].input, strict=False):
        if edge not in s.makers:
            return False
        free = fresh(graph, name)
        ends.append(helper.make_node("Identity", [edge], [free], free))
        outputs.append(helper.make_tensor_value_info(free, s.types.get(edge, TensorProto.FLOAT), s.shapes.get(edge)))
    del graph.output[:]
    graph.node.extend(ends)
    graph.output.extend(outputs)
    sweep(graph)
    domains = {node.domain for node in s.nodes} | {""}
    kept = [o for o in model.opset_import if o.domain in domains or o.domain == "ai.onnx"]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return True


def _end_to_end(s: Subject) -> Found:
    ops = {n.op_type for n in s.graph.node}
    for output in s.graph.output:
        dims = dims_of(output)
        few = len(dims) == 3 and isinstance(dims[1], int) and dims[1] <= 1000
        if few and dims[2] in (6, 7) and "TopK" in ops and not s.deployed:
            yield output.name, f"{list(dims)} behind TopK: a row an object, already chosen"


def _prepared(s: Subject) -> Found:
    if s.picture is None or s.deployed:
        return
    if s.picture.type.tensor_type.elem_type == TensorProto.UINT8:
        yield s.picture.name, "the input is uint8: bytes are converted inside"
    edge, found = s.picture.name, []
    while len(s.readers.get(edge, [])) == 1:
        node = s.readers[edge][0]
        others = [s.value(e) for e in node.input if e != edge]
        if node.op_type in _ARITHMETIC and all(v is not None and v.size in (1, 3) for v in others):
            values = " ".join(f"{v:.6g}" for array in others if array is not None for v in array.ravel())
            found.append((name_of(node), f"{node.op_type} by {values} right behind the input"))
        elif node.op_type not in _CARRIERS:
            break
        edge = node.output[0]
    if found and not any(not any(g.normalise.mean) and set(g.normalise.scale) == {1.0} for g in s.guesses):
        yield from found  # but for a family that gives the network bytes as they are


def _deployed(s: Subject) -> Found:
    if s.deployed:
        yield "graph", f"inputs and outputs are a deploy graph's: {', '.join(sorted(s.outputs))}"


RULES = (
    Rule(
        "D601",
        "NMS inside",
        "warning",
        "The number of rows depends on the picture, so buffers and CUDA graphs cannot be planned.",
        "Export without NMS; or --fix with --strip-nms cuts it off, and boxes and scores are the outputs.",
        _nms,
        strip,
        on_request=True,
    ),
    Rule(
        "D602",
        "NMS as a TensorRT plug-in",
        "error",
        "Only TensorRT with that plug-in runs it: OpenVINO, ONNX Runtime and TensorRT-RTX refuse the file.",
        "Export without end2end; or --fix with --strip-nms cuts it off, and boxes and scores are the outputs.",
        _plugin,
        strip,
        on_request=True,
    ),
    Rule(
        "D603",
        "the network chooses its objects itself",
        "note",
        "NMS on top would be wrong: nothing may be added.",
        "Nothing to do: eyas' family `end2end` takes the rows as they are.",
        _end_to_end,
    ),
    Rule(
        "D604",
        "pre-processing inside",
        "warning",
        "Done once more outside, it leaves the network almost black pictures.",
        'Give a card with "normalise" that does nothing: mean 0, scale 1.',
        _prepared,
    ),
    Rule(
        "D605",
        "a deploy graph of eyas' own",
        "note",
        "It has its stem, decode and NMS; nothing is added to it.",
        "Run it with a runtime as it is.",
        _deployed,
    ),
)
