"""int8 by explicit QuantizeLinear and DequantizeLinear, which every runtime reads its own way.

Weights: int8, symmetric, one scale for each output channel, s = max|w| / 127. Activations: one scale an edge,
s = (high − low) / 255 with the range widened to hold 0, so that padding is exact. Biases stay in float.

ONNX Runtime's quantiser writes the nodes; the ranges are ours (`eyas.quantize.histogram`), since its calibrators hold
every activation of every picture in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx

from eyas.extras import need
from eyas.graph.surgery import PRODUCTS
from eyas.quantize.histogram import Histogram, Method
from eyas.quantize.prepare import Layer

Target = Literal["cpu", "tensorrt", "onnxruntime"]
TARGETS: tuple[Target, ...] = ("cpu", "tensorrt", "onnxruntime")


def unquantisable(layers: Iterable[Layer], histograms: Mapping[str, Histogram]) -> list[str]:
    """Layers whose input has no range: always 0, or not finite."""
    return [x.name for x in layers if any(histograms[e].limits("minmax") is None for e in x.reads)]


def insert_qdq(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    histograms: Mapping[str, Histogram],
    method: Method,
    target: Target = "cpu",
) -> onnx.ModelProto:
    """A copy of the network with Q/DQ at the inputs and weights of `layers`; all else stays in float.

    target: "cpu" (OpenVINO, ONNX Runtime) has uint8 activations with a zero point; "tensorrt" int8 ones around zero,
    the only kind that TensorRT takes; "onnxruntime" is "cpu" with Q/DQ at the layers' results as well, without which
    ONNX Runtime's CPU provider computes in float (docs/quantize.md says what each costs).
    """
    quantisation = need("onnxruntime.quantization", "quantize")
    calibrate = need("onnxruntime.quantization.calibrate", "quantize")
    quantiser = need("onnxruntime.quantization.qdq_quantizer", "quantize")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.name = node.output[0]  # layers are named so, and names must differ
    limits = {edge: h.limits(method) for edge, h in histograms.items()}
    ranges = {edge: tuple(np.float32(v) for v in pair) for edge, pair in limits.items() if pair is not None}
    symmetric = target == "tensorrt"
    ops = sorted(PRODUCTS)
    options: dict[str, Any] = {
        "ActivationSymmetric": symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "QDQDisableWeightAdjustForInt32Bias": True,  # or scales of weights grow for a bias that stays in float
        "OpTypesToExcludeOutputQuantization": [] if target == "onnxruntime" else ops,
    }
    work = quantiser.QDQQuantizer(
        copy,
        True,  # a scale for each channel
        False,  # all 8 bits of the weights
        quantisation.QuantType.QInt8,
        quantisation.QuantType.QInt8 if symmetric else quantisation.QuantType.QUInt8,
        calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, ranges),
        [x.name for x in layers],
        [],
        ops,
        options,
    )
    work.quantize_model()
    work.model.topological_sort()
    done: onnx.ModelProto = work.model.model
    return done
