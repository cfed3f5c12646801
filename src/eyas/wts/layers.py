"""A TensorRT backend that builds the trunk with TensorRT's layer API from `.wts` weights, instead of parsing it."""

from __future__ import annotations

from typing import Any

import onnx

from eyas.types import BuildSpec
from eyas.wts.weights import Weights


class ByLayers:
    """A backend module of `eyas.trt`, in all but `compile`, which builds a deploy graph made of these weights."""

    def __init__(self, module: Any, weights: Weights) -> None:
        self._module, self._weights = module, weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def compile(self, model: onnx.ModelProto, spec: BuildSpec) -> bytes:
        """A plan. precision: auto (fp16), fp32 or fp16."""
        return bytes(self._module.PLUGIN.compile(model, spec, self._weights))
