"""D301 to D305: operators that a backend does not know, said before its build fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx

from eyas.doctor.rule import Rule
from eyas.doctor.rules.tails import PLUGINS
from eyas.doctor.subject import Subject, name_of
from eyas.ops import operators

Found = Iterator[tuple[str, str]]

_SEQUENCES = frozenset(
    {"ConcatFromSequence", "SequenceConstruct", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap"}
    | {"SplitToSequence", "Optional", "OptionalGetElement", "OptionalHasElement"}
)
_STRINGS = frozenset({"RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"})
# OnnxParser.supports_operator of TensorRT-RTX 1.7.1.116 says no to these (asked for every operator of ONNX 1.23).
_NOT_PARSED = (
    _SEQUENCES
    | _STRINGS
    | {"SequenceAt", "SequenceEmpty", "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr"}
    | {"BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "ConvInteger", "CumProd", "DFT", "DeformConv", "Det"}
    | {"DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix"}
    | {"Multinomial", "NegativeLogLikelihoodLoss", "QLinearConv", "QLinearMatMul", "SoftmaxCrossEntropyLoss", "Unique"}
)
# Backend → standard operators known not to work there.
LACKING: Mapping[str, frozenset[str]] = {
    # OpenVINO 2026.4.1: Core.read_model answers "No conversion rule found" (each tried with one node).
    "openvino": _SEQUENCES
    | _STRINGS
    | {"CumProd", "DeformConv", "Det", "ImageDecoder", "MaxUnpool", "MelWeightMatrix"},
    # TensorRT: the parser is the same open project (onnx-tensorrt); its docs/operators.md agrees for the older ones.
    "tensorrt": _NOT_PARSED,
    # NonMaxSuppression is parsed, but no runner is found when it is built (1.7.1, measured).
    "tensorrt_rtx": _NOT_PARSED | {"NonMaxSuppression"},
    # ONNX Runtime's CPU provider implements every operator of vision networks; custom domains are D301's.
    "onnxruntime": frozenset(),
}


def lacking(s: Subject) -> dict[str, list[str]]:
    """Operator → the backends that lack it, among the one that is meant or all."""
    found: dict[str, list[str]] = {}
    used = {n.op_type for n in s.nodes if n.domain in ("", "ai.onnx")}
    for backend, ops in LACKING.items():
        if s.backend in (None, backend):
            for op in sorted(used & ops):
                found.setdefault(op, []).append(backend)
    return found


def _custom(s: Subject) -> Found:
    own = {(f.domain, f.name) for f in s.model.functions} | set(operators())
    for node in s.nodes:
        if (node.domain, node.op_type) in own or node.op_type in PLUGINS:
            continue
        standard = node.domain in ("", "ai.onnx", "ai.onnx.ml") and onnx.defs.has(node.op_type, node.domain)
        if not standard and not node.domain.startswith("com.microsoft"):
            kind = f"of the domain {node.domain!r}" if node.domain else "that ONNX does not define"
            yield name_of(node), f"operator {node.op_type} {kind}"


def _unknown(s: Subject) -> Found:
    for op, backends in lacking(s).items() if s.backend else ():
        first = next(n for n in s.nodes if n.op_type == op)
        yield name_of(first), f"{op} does not work on {backends[0]}"


def _somewhere(s: Subject) -> Found:
    for op, backends in lacking(s).items() if s.backend is None else ():
        if op != "NonMaxSuppression":  # D601 says it
            yield name_of(next(n for n in s.nodes if n.op_type == op)), f"{op} does not work on {', '.join(backends)}"


def _microsoft(s: Subject) -> Found:
    used = Counter(n.op_type for n in s.nodes if n.domain.startswith("com.microsoft"))
    if used and s.backend != "onnxruntime":
        first = next(n for n in s.nodes if n.domain.startswith("com.microsoft"))
        yield name_of(first), ", ".join(f"{count} × {op}" for op, count in used.items())


def _control(s: Subject) -> Found:
    for node in s.graph.node:
        if node.op_type in ("If", "Loop", "Scan"):
            yield name_of(node), f"{node.op_type} decides at run time what is computed"


RULES = (
    Rule(
        "D301",
        "an operator that is not of ONNX",
        "error",
        "Only a runtime with the right plug-in can run it, and eyas has none (eyas.ops).",
        "Export with standard operators, or cut the graph before it.",
        _custom,
    ),
    Rule(
        "D302",
        "an operator that the backend does not know",
        "error",
        "The build fails, often after minutes.",
        "Choose another backend, or write the layer with other operators before export.",
        _unknown,
    ),
    Rule(
        "D303",
        "an operator that some backends do not know",
        "note",
        "The build fails there.",
        "`--backend NAME` says whether it concerns you.",
        _somewhere,
    ),
    Rule(
        "D304",
        "ONNX Runtime's own operators",
        "warning",
        "Domain com.microsoft: the graph was saved after optimisation. OpenVINO knows some of them, TensorRT none.",
        "Take the network as it was exported; each runtime optimises for itself.",
        _microsoft,
    ),
    Rule(
        "D305",
        "control flow",
        "warning",
        "If, Loop and Scan end fusion and keep shapes unknown; most come from a Python `if` on a shape.",
        "Export by tracing with fixed sizes.",
        _control,
    ),
)
