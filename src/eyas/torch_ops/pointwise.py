"""Operators on each element by itself: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx

from eyas.torch_ops.node import Node, Run, Tensor


def dtype_of(torch: Any, element: int) -> Any:
    """ONNX's element type as torch's."""
    numpy = onnx.helper.tensor_dtype_to_np_dtype(element)
    return getattr(torch, numpy.name)


def scalar(n: Node, i: int) -> float | int | bool | None:
    """Input i as a Python number, where it is one known element whose axes add nothing to the other input's."""
    other = n.inputs[1 - i]
    if n.known(i) and not n.known(1 - i) and n.inputs[i].numel() == 1 and n.inputs[i].dim() <= other.dim():
        value: float | int | bool = n.value(i).item()
        return value
    return None


def binary(name: str, reverse: str = "", **settings: Any) -> Callable[[Node], Run]:
    """a ∘ b with broadcasting. A known single number stays on the host.

    reverse: torch's function for b ∘ a, which a number on the left needs; "": the number is uploaded then.
    """

    def bind(n: Node) -> Run:
        f, numbers = getattr(n.torch, name), not n.get("tensors")
        if numbers and (b := scalar(n, 1)) is not None:
            return lambda x, _: f(x, b, **settings)
        if numbers and reverse and (a := scalar(n, 0)) is not None:
            g = getattr(n.torch, reverse)
            return lambda _, x: g(x, a, **settings)
        return lambda x, y: f(x, y, **settings)

    return bind


def divide(n: Node) -> Run:
    """Whole numbers are cut towards zero."""
    return binary("div", rounding_mode=None if n.inputs[0].is_floating_point() else "trunc")(n)


def modulo(n: Node) -> Run:
    """With `fmod` the sign is the dividend's, else the divisor's."""
    return binary("fmod" if n.get("fmod", 0) else "remainder")(n)


def extreme(name: str) -> Callable[[Node], Run]:
    """Max or Min of any number of tensors; against a number it is a clamp."""

    def bind(n: Node) -> Run:
        f = getattr(n.torch, name)
        if len(n.inputs) == 2:
            for i in (0, 1):
                bound = scalar(n, i)
                if bound is not None:
                    limits = {"min" if name == "maximum" else "max": bound}
                    return lambda *x: x[1 - i].clamp(**limits)
        return lambda *x: _fold(f, x)

    return bind


def total(n: Node) -> Run:
    """Sum of any number of tensors."""
    return lambda *x: _fold(n.torch.add, x)


def mean(n: Node) -> Run:
    """Mean of any number of tensors."""
    return lambda *x: _fold(n.torch.add, x) / len(x)


def _fold(f: Callable[[Tensor, Tensor], Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
    first, *rest = tensors
    for other in rest:
        first = f(first, other)
    return first


def unary(name: str) -> Callable[[Node], Run]:
    """torch's function of that name, in place where it can be."""

    def bind(n: Node) -> Run:
        run: Run = getattr(n.torch, f"{name}_" if n.inplace and hasattr(n.torch, f"{name}_") else name)
        return run

    return bind


def functional(name: str, **names: tuple[str, float]) -> Callable[[Node], Run]:
    """torch.nn.functional's of that name. names: its argument → ONNX's attribute and default."""

    def bind(n: Node) -> Run:
        f, settings = getattr(n.F, name), {mine: n.get(*theirs) for mine, theirs in names.items()}
        if n.inplace:
            settings["inplace"] = True
        return lambda x: f(x, **settings)

    return bind


def hard_sigmoid(n: Node) -> Run:
    """max(0, min(1, αx + β))."""
    alpha, beta = n.get("alpha", 0.2), n.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return functional("hardsigmoid")(n)
    return lambda x: (x * alpha + beta).clamp_(0, 1)


def clip(n: Node) -> Run:
    """Bounds as attributes (before opset 11), as known inputs or as tensors."""
    if any(n.has(i) and not n.known(i) for i in (1, 2)):
        return lambda x, *bounds: n.torch.clamp(x, *bounds)
    low = n.number(1) if n.has(1) else n.get("min")
    high = n.number(2) if n.has(2) else n.get("max")
    if low is None and high is None:
        return lambda x, *_: x
    if n.inplace:
        return lambda x, *_: x.clamp_(low, high)
    return lambda x, *_: x.clamp(low, high)


def prelu(n: Node) -> Run:
    """A slope for each channel has a kernel of its own; others are broadcast."""
    x, slope = n.inputs[0], n.inputs[1]
    channels = x.shape[1] if x.dim() > 1 else 1
    if slope.numel() in (1, channels) and slope.dim() == x.dim() - 1 and slope.shape[0] == slope.numel():
        return lambda x, s: n.F.prelu(x, s.reshape(-1))
    return lambda x, s: n.torch.where(x < 0, x * s, x)


def gelu(n: Node) -> Run:
    """Exact, or by tanh."""
    return lambda x: n.F.gelu(x, approximate=n.get("approximate", "none"))


def cast(n: Node) -> Run:
    """To another element type; floating values are cut towards zero."""
    dtype = dtype_of(n.torch, n.get("to"))
    return lambda x: x.to(dtype)


POINTWISE: dict[str, Callable[[Node], Run]] = {
    "Add": binary("add", "add"),
    "Sub": binary("sub", "rsub"),
    "Mul": binary("mul", "mul"),
    "Div": divide,
    "Mod": modulo,
    "Pow": binary("pow"),
    "Less": binary("lt", "gt"),
    "LessOrEqual": binary("le", "ge"),
    "Greater": binary("gt", "lt"),
    "GreaterOrEqual": binary("ge", "le"),
    "Equal": binary("eq", "eq"),
    "And": lambda n: n.torch.logical_and,
    "Or": lambda n: n.torch.logical_or,
    "Xor": lambda n: n.torch.logical_xor,
    "Not": unary("logical_not"),
    "Max": extreme("maximum"),
    "Min": extreme("minimum"),
    "Sum": total,
    "Mean": mean,
    "Abs": unary("abs"),
    "Neg": unary("neg"),
    "Sqrt": unary("sqrt"),
    "Exp": unary("exp"),
    "Log": unary("log"),
    "Erf": unary("erf"),
    "Sin": unary("sin"),
    "Cos": unary("cos"),
    "Floor": unary("floor"),
    "Ceil": unary("ceil"),
    "Round": unary("round"),  # halves to even in both
    "Sign": unary("sign"),
    "Reciprocal": unary("reciprocal"),
    "IsNaN": unary("isnan"),
    "Relu": unary("relu"),
    "Sigmoid": unary("sigmoid"),
    "Tanh": unary("tanh"),
    "Silu": functional("silu"),  # of `eyas.torch_ops.fuse`
    "LeakyRelu": functional("leaky_relu", negative_slope=("alpha", 0.01)),
    "Elu": functional("elu", alpha=("alpha", 1.0)),
    "Mish": functional("mish"),
    "HardSwish": functional("hardswish"),
    "HardSigmoid": hard_sigmoid,
    "Softplus": lambda n: n.F.softplus,
    "Softsign": lambda n: n.F.softsign,
    "Gelu": gelu,
    "PRelu": prelu,
    "Clip": clip,
    "Cast": cast,
    "Where": lambda n: n.torch.where,  # numbers too as tensors: torch would copy them to the device each time
}
# Activations that may overwrite their input when nobody else reads it.
INPLACE = frozenset(
    {"Relu", "Sigmoid", "Tanh", "Silu", "LeakyRelu", "Elu", "Mish", "HardSwish", "HardSigmoid", "Clip", "Sqrt", "Exp"}
)
