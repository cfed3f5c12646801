"""Networks in int8, fp16 or bf16 as plain ONNX, with a gate on what that costs. `eyas.quantize.flow`: read first."""

from eyas.quantize.flow import Watches, quantize
from eyas.quantize.report import Report
from eyas.quantize.work import Settings

__all__ = ["Report", "Settings", "Watches", "quantize"]
