"""Bias and activation behind a convolution in one pass over memory, where torch takes two: a small CUDA kernel.

torch's convolution adds its bias in a kernel of its own, and the activation is another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from math import isfinite
from typing import Any

import numpy as np

from eyas.cuda.device import CudaDevice, compiled
from eyas.torch_ops.node import Epilogue, Node, Op, Run, Tensor
from eyas.torch_ops.pointwise import POINTWISE

THREADS = 256
LARGEST = 1 << 31  # elements, which the kernel counts in 32 bits

# Activation → an expression of `v`, from the operator's attributes. Comparisons let NaN pass, as torch does.
EXPRESSIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda a: "v",
    "Relu": lambda a: "(v<0.f?0.f:v)",
    "LeakyRelu": lambda a: f"(v<0.f?v*{_float(a.get('alpha', 0.01))}:v)",
    "Sigmoid": lambda a: "(1.f/(1.f+expf(-v)))",
    "Silu": lambda a: "(v/(1.f+expf(-v)))",
    "HardSwish": lambda a: "(v<-3.f?0.f:(v>3.f?v:v*(v+3.f)/6.f))",
    "Clip": lambda a: _clipped(a.get("min"), a.get("max")),
}


def _float(value: float) -> str:
    return f"({float(value)!r}f)"


def _clipped(low: float | None, high: float | None) -> str:
    found = "v"
    if high is not None and isfinite(high):
        found = f"(v>{_float(high)}?{_float(high)}:{found})"
    if low is not None and isfinite(low):
        found = f"(v<{_float(low)}?{_float(low)}:{found})"
    return found


@cache
def kernel(expression: str, half: bool, arch: str) -> Any:
    """The kernel (cuda.core.Kernel), from the cache on disk where it was compiled before. Raises BackendError."""
    source = resources.files("eyas.torch_ops").joinpath("epilogue.cu").read_text(encoding="utf-8")
    return compiled(source, "epilogue.cu", arch, HALF=int(half), ACT=expression).get_kernel("epilogue")


def epilogue_on(torch: Any, device: CudaDevice, stream: Any) -> Epilogue:
    """For `Node`. stream: cuda.core.Stream, torch's current one whenever the steps run."""
    major, minor = device.gpu.capability
    arch = f"sm_{major}{minor}"

    def make(activation: Op | None) -> Run:
        expression = EXPRESSIONS[activation.kind if activation else ""](activation.attributes if activation else {})
        plain = _plain(torch, activation)

        def finish(x: Tensor, bias: Tensor | None) -> Tensor:
            half = x.dtype == torch.float16
            lies = x.is_contiguous(memory_format=torch.channels_last) and x.data_ptr() % 16 == 0
            if not x.is_cuda or not lies or not (half or x.dtype == torch.float32) or x.numel() >= LARGEST:
                return plain(x, bias)
            each = THREADS * (8 if half else 4)
            config = device.core.LaunchConfig(grid=-(-x.numel() // each), block=THREADS)
            numbers = np.uint32(x.numel()), np.uint32(x.shape[1])
            address = 0 if bias is None else bias.data_ptr()
            device.core.launch(stream, config, kernel(expression, half, arch), x.data_ptr(), address, *numbers)
            return x

        return finish

    return make


def _plain(torch: Any, activation: Op | None) -> Run:
    """The same by torch's own kernels."""
    act: Run | None = None
    if activation is not None:
        act = POINTWISE[activation.kind](Node(torch, activation, 0, [None], inplace=True))

    def finish(x: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            x = x.add_(bias.reshape(1, -1, 1, 1))
        return x if act is None else act(x)

    return finish
