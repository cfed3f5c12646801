"""The float network that precision passes start from, and which of its layers can be quantised."""

from __future__ import annotations

import fnmatch
import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import numpy_helper, version_converter

from eyas.build import Network
from eyas.errors import ModelError, OptionError, problem
from eyas.extras import need
from eyas.graph.builder import opset_of
from eyas.graph.opset import FAILURES
from eyas.graph.precision import constants_to_weights, float_edges
from eyas.graph.rewrite import split_convolutions, unfold_expectation
from eyas.graph.surgery import PRODUCTS, feeding_products, inputs_of

QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
QUANTISED |= {"QLinearConv", "QLinearMatMul"}
PER_CHANNEL = 13  # the opset in which Q/DQ take one scale a channel
log = logging.getLogger("eyas")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that can be quantised. name: its first output. op: its operator. reads: the activation edges."""

    name: str
    op: str
    reads: tuple[str, ...]


def prepare(network: Network, opset: int = PER_CHANNEL) -> Network:
    """A copy that is ready for a precision pass: biases and batch norms folded in, at least of this opset.

    Folding is ONNX Runtime's "basic" level, which writes standard operators. The rewrites of `eyas.build` go first,
    because they look for weights, where a quantised network has Q/DQ.
    Raises ModelError: quantised already, no convolution or matrix product, or an opset that cannot be converted.
    """
    ops = {n.op_type for n in network.model.graph.node}
    if ops & QUANTISED:
        raise ModelError(
            problem(
                "the model is quantised already",
                got=", ".join(sorted(ops & QUANTISED)),
                expected="a model in fp32",
                remedy="Start from the export before it was quantised.",
            )
        )
    if not ops & PRODUCTS:
        raise ModelError(
            problem(
                "nothing in the model gains from another precision",
                got=f"no convolution or matrix product among {', '.join(sorted(ops)[:6])}",
                expected=" | ".join(sorted(PRODUCTS)),
                remedy="Leave it in fp32.",
            )
        )
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    model = _converted(model, opset) if opset_of(model) < opset else model
    constants_to_weights(model.graph)
    sources = inputs_of(model.graph)  # old exports list their weights too, which would keep them from being constant
    del model.graph.input[:]
    model.graph.input.extend(sources)
    unfold_expectation(model)
    split_convolutions(model)
    return replace(network, model=_folded(model))


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(model, opset)
    except FAILURES as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ModelError(
            problem(
                "the model's operators cannot be converted",
                got=f"opset {opset_of(model)} ({reason})",
                expected=f"opset {opset} or newer, or one that onnx.version_converter converts",
                remedy="Export it again with a newer opset.",
            )
        ) from error


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Conv + BatchNormalization, Conv + Add, and what is constant, each as one (ONNX Runtime, level basic)."""
    ort = need("onnxruntime", "quantize")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise ModelError(
                problem(
                    "ONNX Runtime cannot run the network, so it cannot be calibrated",
                    got=str(error)[:200],
                    expected="operators that it knows",
                    remedy="Keep custom operators out of the export.",
                )
            ) from error
        folded = onnx.load(path)
    used = {n.domain or "" for n in folded.graph.node}
    kept = [o for o in folded.opset_import if o.domain in used or o.domain in ("", "ai.onnx")]
    del folded.opset_import[:], folded.metadata_props[:]
    folded.opset_import.extend(kept)
    folded.metadata_props.extend(model.metadata_props)
    return folded


def layers_of(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """What can be quantised, in graph order: convolutions and products with constant weights that are not the last.

    The last ones stay in float: their results are coordinates and scores, which 8 bits would round to a 256th of their
    range. Products of two activations (attention) stay too.
    """
    inner, floats = feeding_products(model.graph), float_edges(model)
    weights = {t.name: t for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        constant = len(node.input) > 1 and node.input[1] in weights and node.input[0] not in weights
        if node.op_type in PRODUCTS and node.output[0] in inner and constant and node.input[0] in floats:
            array = numpy_helper.to_array(weights[node.input[1]])
            if array.ndim > 1 and array.dtype == "float32":
                found.append(Layer(node.output[0], node.op_type, (node.input[0],)))
    return tuple(found)


def watched(model: onnx.ModelProto) -> tuple[str, ...]:
    """Every fp32 edge on the way to a product, the network's input first: whose ranges precision passes ask for."""
    inner, floats = feeding_products(model.graph), float_edges(model)
    source = [i.name for i in inputs_of(model.graph)]
    made = [e for n in model.graph.node for e in n.output if n.output[0] in inner or n.op_type in PRODUCTS]
    return tuple(dict.fromkeys(e for e in (*source, *made) if e in floats))


def asked_for(keep: tuple[str, ...], model: onnx.ModelProto, layers: tuple[tuple[str, str], ...]) -> list[str]:
    """The layers that patterns name, by first output or by the node's own name. Raises OptionError for one of none."""
    able = {name for name, _ in layers}
    called = {n.output[0]: (n.output[0], n.name) for n in model.graph.node if n.output[0] in able}
    found: list[str] = []
    for pattern in keep:
        hits = [name for name, both in called.items() if any(fnmatch.fnmatchcase(n, pattern) for n in both)]
        if not hits:
            raise OptionError(
                problem(
                    "keep (--keep) names no layer that could be narrowed",
                    got=pattern,
                    expected=f"a name or pattern of these {len(able)}: {', '.join(sorted(able)[:4])} …",
                    remedy="The report's table of sensitivities lists them (--report).",
                )
            )
        found += hits
    return found
