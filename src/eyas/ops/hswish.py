"""HSwish(x) = x · min(max(x + 3, 0), 6) / 6: Howard et al., "Searching for MobileNetV3", 2019, section 5.2.

The "hard" swish: x · σ(x) with a piecewise linear sigmoid. Old exporters write it as five nodes, and some frameworks as
one of their own. ONNX has it from opset 14 on as HardSwish; here it is the example of an operator with a plug-in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from eyas.graph.builder import Builder
from eyas.ops._kernel import elementwise

DOMAIN, NAME = "eyas", "HSwish"
ATTRIBUTES: dict[str, float] = {}

# x + 3 is exact near −3 (Sterbenz), where x / 6 + 1/2 would cancel. The product with 1/6 is within one unit in the last
# place of the quotient. max(NaN, 0) is 0 in CUDA; the NaN comes back with the factor x.
CUDA = elementwise("hswish", "x0 * (fminf(fmaxf(x0 + 3.0f, 0.0f), 6.0f) * (1.0f / 6.0f))")


def formula(xp: Any, x: Any) -> Any:
    """x of any shape and float type → the same. The factor is at most 1, so that float16 does not overflow."""
    return x * (xp.clip(x + 3, 0, 6) / 6)


def shape(x: Sequence[Any]) -> Sequence[Any]:
    """Element by element."""
    return x


def expand(g: Builder, node: onnx.NodeProto) -> str:
    """x · HardSigmoid(x; 1/6, 1/2), since min(max(x + 3, 0), 6) / 6 = min(max(x / 6 + 1/2, 0), 1).

    No constant is read, so that it holds for float32 and float16 alike; ONNX defines its own HardSwish so.
    """
    x = node.input[0]
    return g.op("Mul", x, g.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
