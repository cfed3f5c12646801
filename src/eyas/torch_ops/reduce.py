"""Operators along axes: reductions, rankings, normalisations, matrix products."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from eyas.torch_ops.node import Node, Run, Tensor
from eyas.torch_ops.shapes import axes_of

Reduce = Callable[[Any], Callable[[Tensor, tuple[int, ...], bool], Tensor]]


def reduction(function: Reduce) -> Callable[[Node], Run]:
    """Over axes by attribute or input; none given: over all, or, with noop_with_empty_axes, over none."""

    def bind(n: Node) -> Run:
        axes, keep = axes_of(n), bool(n.get("keepdims", 1))
        if not axes and n.get("noop_with_empty_axes", 0):
            return lambda x, *_: x
        rank = len(n.shape())
        over = tuple(sorted(a % rank for a in axes)) if axes else tuple(range(rank))
        f = function(n.torch)
        return lambda x, *_: f(x, over, keep)

    return bind


def _product(torch: Any) -> Callable[[Tensor, tuple[int, ...], bool], Tensor]:
    def run(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
        for axis in reversed(axes):
            x = torch.prod(x, axis, keep, dtype=x.dtype)
        return x

    return run


def best(name: str) -> Callable[[Node], Run]:
    """ArgMax or ArgMin: the first of equals, or the last."""

    def bind(n: Node) -> Run:
        axis, keep = n.axis(), bool(n.get("keepdims", 1))
        f, length = getattr(n.torch, name), n.shape()[axis]
        if n.get("select_last_index", 0):
            return lambda x: length - 1 - f(x.flip(axis), axis, keep)
        return lambda x: f(x, axis, keep)

    return bind


def top_k(n: Node) -> Run:
    """Values and indices; which of equals comes first is not settled (`eyas.graph.head` asks with unique keys)."""
    axis, largest, in_order = n.axis(-1), bool(n.get("largest", 1)), bool(n.get("sorted", 1))
    k = n.ints(1)[0] if n.has(1) else int(n.get("k"))
    return lambda x, *_: n.torch.topk(x, k, axis, largest, in_order)


def softmax(name: str) -> Callable[[Node], Run]:
    """Before opset 13 over all that follows the axis."""

    def bind(n: Node) -> Run:
        f, have = getattr(n.torch, name), n.shape()
        if n.opset >= 13:
            axis = n.axis(-1)
            return lambda x: f(x, axis)
        axis = n.axis(1)
        if prod(have[axis + 1 :]) == 1:
            return lambda x: f(x, axis)
        flat = (prod(have[:axis]), prod(have[axis:]))
        return lambda x: f(x.reshape(flat), 1).reshape(have)

    return bind


def layer_norm(n: Node) -> Run:
    """Over the axis and all that follow."""
    sizes, epsilon = n.shape()[n.axis(-1) :], n.get("epsilon", 1e-5)
    if any(n.op.outputs[1:]):
        raise n.refuse("more outputs than one")

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        shifted = None if bias is None else bias.expand(sizes)
        return n.F.layer_norm(x, sizes, scale.expand(sizes), shifted, epsilon)

    return run


def batch_norm(n: Node) -> Run:
    """With known statistics: one multiply-add, whose numbers are worked out in double precision."""
    epsilon = n.get("epsilon", 1e-5)
    if any(n.op.outputs[1:]) or n.get("training_mode", 0):
        raise n.refuse("statistics of the batch")
    if not all(n.known(i) for i in range(1, 5)):
        return lambda x, scale, bias, mean, var: n.F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
    scale, bias, mean, var = (n.value(i).double() for i in range(1, 5))
    factor = scale / (var + epsilon).sqrt()
    shape = [1, -1] + [1] * (len(n.shape()) - 2)
    shift, times = (n.attach(v.to(n.inputs[0].dtype).reshape(shape)) for v in (bias - mean * factor, factor))
    return lambda *args: n.torch.addcmul(args[shift], args[0], args[times])


def instance_norm(n: Node) -> Run:
    """Each channel of each picture by its own mean and variance."""
    epsilon = n.get("epsilon", 1e-5)
    return lambda x, scale, bias: n.F.instance_norm(x, None, None, scale, bias, True, 0.0, epsilon)


def gemm(n: Node) -> Run:
    """α·A·B + β·C, each of A and B perhaps transposed."""
    alpha, beta, turn_a, turn_b = n.get("alpha", 1.0), n.get("beta", 1.0), n.get("transA", 0), n.get("transB", 0)
    row = not n.has(2) or n.shape(2) == (n.shape(1)[0 if turn_b else 1],)
    if alpha == beta == 1 and not turn_a and row:
        return lambda a, b, c=None: n.F.linear(a, b if turn_b else b.t(), c)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = n.torch.matmul(a.t() if turn_a else a, b.t() if turn_b else b)
        product = product if alpha == 1 else product * alpha
        return product if c is None else product + (c if beta == 1 else c * beta)

    return run


REDUCTIONS: dict[str, Callable[[Node], Run]] = {
    "ReduceMax": reduction(lambda torch: torch.amax),
    "ReduceMin": reduction(lambda torch: torch.amin),
    "ReduceSum": reduction(lambda torch: lambda x, axes, keep: torch.sum(x, axes, keep, dtype=x.dtype)),
    "ReduceMean": reduction(lambda torch: torch.mean),
    "ReduceProd": reduction(_product),
    "ReduceL1": reduction(lambda torch: lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": reduction(lambda torch: lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceSumSquare": reduction(lambda torch: lambda x, axes, keep: x.square().sum(axes, keep)),
    "ReduceLogSumExp": reduction(lambda torch: torch.logsumexp),
    "ArgMax": best("argmax"),
    "ArgMin": best("argmin"),
    "TopK": top_k,
    "Softmax": softmax("softmax"),
    "LogSoftmax": softmax("log_softmax"),
    "LayerNormalization": layer_norm,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "MatMul": lambda n: n.torch.matmul,
    "Gemm": gemm,
    "Einsum": lambda n: lambda *x: n.torch.einsum(n.get("equation"), *x),
}
