"""Every operator that the interpreter knows: name → a function that binds a node (see `eyas.torch_ops.node`)."""

from __future__ import annotations

from collections.abc import Callable

from eyas.torch_ops.node import Node, Run
from eyas.torch_ops.pointwise import POINTWISE
from eyas.torch_ops.reduce import REDUCTIONS
from eyas.torch_ops.resize import RESIZES
from eyas.torch_ops.shapes import SHAPES
from eyas.torch_ops.windows import WINDOWS

OPERATORS: dict[str, Callable[[Node], Run]] = {**POINTWISE, **SHAPES, **WINDOWS, **RESIZES, **REDUCTIONS}

# Operators whose output may be (a view of) their first input.
VIEWS = frozenset(
    {
        "Identity",
        "Dropout",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Split",
        "Slice",
        "Expand",
        "ExpandLike",
    }
    | {"Gather", "Cast", "Clip", "Resize", "Pad", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"}
    | {"Max", "Min", "Sum", "Tile", "Einsum", "DepthToSpace", "SpaceToDepth"}
)
# Operators whose output is always memory of its own, which an activation behind them may overwrite.
FRESH = frozenset({"Conv", "ConvTranspose", "Add", "Sub", "Mul", "Div", "Gemm", "MatMul", "Concat", "MaxPool"})
# Operators whose output holds the same numbers as their first input, and those whose first output is an index ≥ 0.
SAME_NUMBERS = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "ExpandLike", "Tile"}
)
