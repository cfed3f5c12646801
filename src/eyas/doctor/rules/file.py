"""D101, D102, D110 to D112: the file as a whole and its operator set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx

from eyas.doctor.rule import Rule
from eyas.doctor.subject import Subject
from eyas.graph.builder import MIN_OPSET
from eyas.graph.opset import raise_opset

Found = Iterator[tuple[str, str]]

# The newest default operator set that each backend reads. onnxruntime: the newest that 1.31.1 loads, tried. tensorrt:
# docs/operators.md of onnx-tensorrt 10.x ("opset 9 to opset 22"). OpenVINO 2026.4.1 and TensorRT-RTX 1.7.1 read any
# (tried up to 29 and 27) and judge by operators.
NEWEST = {"onnxruntime": 26, "tensorrt": 22}


def _old(s: Subject) -> Found:
    if s.opset < MIN_OPSET:
        yield "opset", f"opset {s.opset}"


def newer_opset(model: onnx.ModelProto) -> bool:
    """Opset 17 by onnx.version_converter, with Resize's first sampling kept (see `eyas.graph.opset`)."""
    raised = raise_opset(model, "the model")
    model.CopyFrom(raised)
    return True


def _new(s: Subject) -> Found:
    asked = [s.backend] if s.backend else [max(NEWEST, key=lambda name: NEWEST[name])]  # any: what none of them reads
    for name in asked:
        if s.opset > NEWEST.get(name, s.opset):
            yield "opset", f"opset {s.opset}; {name} reads up to {NEWEST[name]}"


def _refused(s: Subject) -> Found:
    try:
        onnx.checker.check_model(s.model)
    except onnx.checker.ValidationError as error:
        text = str(error).strip().splitlines()[0]
        if "No Op registered" not in text:  # D301's
            yield "model", text[:200]


def _same_names(s: Subject) -> Found:
    for name, count in Counter(node.name for node in s.graph.node if node.name).items():
        if count > 1:
            yield name, f"{count} nodes have this name"


def own_names(model: onnx.ModelProto) -> bool:
    """Nodes of one name get numbers behind it. Edges, by which nodes are wired, keep theirs: no number changes."""
    taken: set[str] = set()
    every = {node.name for node in model.graph.node}
    for node in model.graph.node:
        name, i = node.name, 1
        while name and name in taken | (every - {node.name}):
            name, i = f"{node.name}_{i}", i + 1
        node.name = name
        taken.add(name)
    return True


def _listed(s: Subject) -> Found:
    listed = [i.name for i in s.graph.input if i.name in s.weights]
    if listed:
        yield listed[0], f"{len(listed)} weights are listed as inputs (IR version {s.model.ir_version})"


def unlist(model: onnx.ModelProto) -> bool:
    """Weights are no inputs: the list loses them, and the IR version becomes 4, from which on that is allowed."""
    weights = {t.name for t in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)
    return True


RULES = (
    Rule(
        "D101",
        "the opset is older than 11",
        "warning",
        "Resize and Clip were other operators then, and sizes are computed in ways that engines do not follow.",
        "Export with opset 17; --fix converts with onnx.version_converter.",
        _old,
        newer_opset,
        tolerance=1e-5,
    ),
    Rule(
        "D102",
        "the opset is newer than the backend reads",
        "warning",
        "The backend refuses the file, or takes its operators for older ones.",
        "Export with opset 17, which every backend reads.",
        _new,
    ),
    Rule(
        "D110",
        "onnx.checker refuses it",
        "error",
        "Runtimes refuse it too, or read it each in its own way.",
        "Export it again; the detail says what is wrong.",
        _refused,
    ),
    Rule(
        "D111",
        "several nodes of one name",
        "error",
        "ONNX Runtime refuses the file, and lists of layers to keep in fp32 cannot tell them apart.",
        "--fix numbers them.",
        _same_names,
        own_names,
    ),
    Rule(
        "D112",
        "weights listed as inputs",
        "warning",
        "A runtime must expect other values at every call, so nothing can be folded or fused.",
        "Export with keep_initializers_as_inputs=False; --fix removes them from the list.",
        _listed,
        unlist,
    ),
)
