"""Operators that move elements, pick some, or say how many there are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import onnx

from eyas.torch_ops.node import Node, Run, Tensor


def constant(n: Node) -> Run:
    """One of the attributes that may hold it."""
    (name, value), *_ = n.op.attributes.items()
    if name == "value":
        array = onnx.numpy_helper.to_array(value)
    elif name in ("value_float", "value_floats"):
        array = np.array(value, np.float32)
    elif name in ("value_int", "value_ints"):
        array = np.array(value, np.int64)
    else:
        raise n.refuse(f"the attribute {name}")
    return lambda: n.torch.from_numpy(array.copy())


def shape(n: Node) -> Run:
    """The sizes themselves, since they are known."""
    sizes = n.shape()[slice(n.get("start", 0), n.get("end"))]
    return lambda _: n.torch.tensor(sizes, dtype=n.torch.int64)


def reshape(n: Node) -> Run:
    """0 keeps an axis, −1 is what is left. Channels are merged where they are neighbours in memory."""
    wanted, have = n.ints(1), n.shape()
    if not n.get("allowzero", 0):
        wanted = [have[i] if d == 0 else d for i, d in enumerate(wanted)]
    if -1 in wanted:
        known = prod(d for d in wanted if d != -1)
        wanted[wanted.index(-1)] = prod(have) // known if known else 0
    return reshaped(n, wanted)


def reshaped(n: Node, wanted: list[int]) -> Run:
    """To a shape. The end of a channel shuffle, [B, a, b, H, W] → [B, a·b, H, W], stays channels-last."""
    have, target = n.shape(), tuple(wanted)
    if len(have) == 5 and len(target) == 4 and (have[0], have[3], have[4]) == (target[0], target[2], target[3]):

        def merge(x: Tensor, *_: None) -> Tensor:
            if x.stride(4) == 1:
                return x.reshape(target)
            return x.permute(0, 3, 4, 1, 2).reshape(have[0], have[3], have[4], target[1]).permute(0, 3, 1, 2)

        return merge
    return lambda x, *_: x.reshape(target)


def flatten(n: Node) -> Run:
    """To two axes."""
    axis, have = n.axis(1), n.shape()
    return reshaped(n, [prod(have[:axis]), prod(have[axis:])])


def axes_of(n: Node) -> list[int] | None:
    """Attribute or second input."""
    if n.has(1):
        return n.ints(1)
    found = n.get("axes")
    return None if found is None else list(found)


def squeeze(n: Node) -> Run:
    """Drop axes of length one: those named, or all."""
    axes, have = axes_of(n), n.shape()
    if axes is None:
        axes = [i for i, d in enumerate(have) if d == 1]
    gone = {a % len(have) for a in axes}
    return reshaped(n, [d for i, d in enumerate(have) if i not in gone])


def unsqueeze(n: Node) -> Run:
    """New axes of length one, counted in the result."""
    axes, have = axes_of(n) or [], list(n.shape())
    rank = len(have) + len(axes)
    for axis in sorted(a % rank for a in axes):
        have.insert(axis, 1)
    return reshaped(n, have)


def transpose(n: Node) -> Run:
    """A view; by default all axes in reverse."""
    order = tuple(n.get("perm", tuple(reversed(range(len(n.shape()))))))
    return lambda x: x.permute(order)


def concat(n: Node) -> Run:
    """In the order in which the first tensor's axes lie in memory, so that the result lies as its parts do."""
    axis, torch, rank = n.axis(), n.torch, len(n.shape())
    if rank == 4 or rank < 3:  # which torch.cat does by itself
        return lambda *x: torch.cat(x, axis)

    def run(*x: Tensor) -> Tensor:
        order = sorted(range(rank), key=lambda i: -x[0].stride(i))
        if order == list(range(rank)) or any(d == 1 for d in x[0].shape):
            return torch.cat(x, axis)
        back = [order.index(i) for i in range(rank)]
        return torch.cat([y.permute(order) for y in x], order.index(axis)).permute(back)

    return run


def split(n: Node) -> Run:
    """Sizes by input, by attribute, or in equal parts (the last may be shorter)."""
    axis, parts = n.axis(), len(n.op.outputs)
    length = n.shape()[axis]
    size = -(-length // parts)
    equal = [min(size, length - i * size) for i in range(parts)]
    sizes = n.ints(1) if n.has(1) else list(n.get("split", equal))
    return lambda x, *_: x.split(sizes, axis)


def slices(n: Node) -> Run:
    """As NumPy slices; backwards by flipping what a forward slice takes."""
    have = n.shape()
    starts, ends = (n.ints(1), n.ints(2)) if n.has(1) else (list(n.get("starts")), list(n.get("ends")))
    axes = n.ints(3) if n.has(3) else list(n.get("axes", range(len(starts))))
    steps = n.ints(4) if n.has(4) else [1] * len(starts)
    index, flips = [slice(None)] * len(have), []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        taken = range(*slice(start, end, step).indices(have[axis]))
        if step < 0:
            flips.append(axis % len(have))
            taken = taken[::-1]
        index[axis] = slice(taken.start, taken.stop, taken.step) if len(taken) else slice(0, 0)
    key = tuple(index)
    if flips:
        return lambda x, *_: x[key].flip(flips)
    return lambda x, *_: x[key]


def expand(n: Node) -> Run:
    """A view with stride 0 along new axes."""
    target = np.broadcast_shapes(n.shape(), tuple(n.ints(1)))
    return lambda x, *_: x.expand(target)


def expand_like(n: Node) -> Run:
    """To the shape of a constant, of `eyas.torch_ops.fuse`."""
    target = np.broadcast_shapes(n.shape(), tuple(n.value(1).shape))
    return lambda x, *_: x.expand(target)


def tile(n: Node) -> Run:
    """Repeat along each axis."""
    times = n.ints(1)
    return lambda x, *_: x.repeat(times)


def pad(n: Node) -> Run:
    """constant, or any other rule as an index along each axis."""
    rank, mode = len(n.shape()), n.get("mode", "constant")
    amounts = n.ints(1) if n.has(1) else list(n.get("pads"))
    axes = [a % rank for a in n.ints(3)] if n.has(3) else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = amounts[i], amounts[i + len(axes)]
    if mode == "constant":
        value = n.number(2) if n.has(2) else n.get("value", 0)
        flat = [v for i in reversed(range(rank)) for v in (before[i], after[i])]
        while len(flat) > 2 and flat[-2:] == [0, 0]:
            del flat[-2:]
        return lambda x, *_: n.F.pad(x, flat, value=value)
    rules: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in rules or min(*before, *after) < 0:
        raise n.refuse(f"mode {mode}, pads {amounts}")
    return indexed(
        n,
        {
            i: np.pad(np.arange(d), (before[i], after[i]), mode=rules[mode])
            for i, d in enumerate(n.shape())
            if before[i] or after[i]
        },
    )


def indexed(n: Node, taken: dict[int, Any]) -> Run:
    """The chosen places along some axes: axis → index."""
    places = [(axis, n.attach(n.torch.tensor(index, dtype=n.torch.int64))) for axis, index in taken.items()]

    def run(*args: Tensor) -> Tensor:
        x = args[0]
        for axis, at in places:
            x = x.index_select(axis, args[at])
        return x

    return run


def gather(n: Node) -> Run:
    """Known indices become a view, a flip or a selection; others a selection along the flattened index."""
    axis, torch = n.axis(), n.torch
    length = n.shape()[axis]
    target = (*n.shape()[:axis], *n.shape(1), *n.shape()[axis + 1 :])
    if n.known(1):
        wanted = n.shape(1)
        index = [i % length for i in n.ints(1)]
        if not wanted:
            return lambda x, *_: x.select(axis, index[0])
        steps = {b - a for a, b in pairwise(index)} or {1}
        if len(wanted) == 1 and len(steps) == 1 and (step := steps.pop()) > 0:
            key = (*[slice(None)] * axis, slice(index[0], index[-1] + 1, step))
            return lambda x, _: x[key]
        if index == list(range(length))[::-1] and len(wanted) == 1:
            return lambda x, _: x.flip(axis)
        select = indexed(n, {axis: index})
        return lambda *args: select(*args).reshape(target)
    positive = n.positive

    def run(x: Tensor, i: Tensor) -> Tensor:
        i = i.reshape(-1)
        return torch.index_select(x, axis, i if positive else i.remainder(length)).reshape(target)

    return run


def gather_elements(n: Node) -> Run:
    """Negative indices count from the end."""
    axis, positive = n.axis(), n.positive
    length = n.shape()[axis]
    return lambda x, i: x.gather(axis, i if positive else i.remainder(length))


def depth_to_space(n: Node) -> Run:
    """Modes DCR and CRD."""
    block, (b, c, h, w) = n.get("blocksize"), n.shape()
    crd = n.get("mode", "DCR") == "CRD"
    apart = (b, c // block**2, block, block, h, w) if crd else (b, block, block, c // block**2, h, w)
    order = (0, 1, 4, 2, 5, 3) if crd else (0, 3, 4, 1, 5, 2)
    return lambda x: x.reshape(apart).permute(order).reshape(b, c // block**2, h * block, w * block)


def space_to_depth(n: Node) -> Run:
    """The inverse of DepthToSpace in mode DCR."""
    block, (b, c, h, w) = n.get("blocksize"), n.shape()
    apart = (b, c, h // block, block, w // block, block)
    return lambda x: x.reshape(apart).permute(0, 3, 5, 1, 2, 4).reshape(b, c * block**2, h // block, w // block)


def arange(n: Node) -> Run:
    """From known bounds."""
    start, stop, step = (n.number(i) for i in range(3))
    dtype = n.inputs[0].dtype
    return lambda *_: n.torch.arange(start, stop, step, dtype=dtype)


def filled(n: Node) -> Run:
    """ConstantOfShape."""
    value = n.get("value")
    array = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    filling = n.torch.from_numpy(array.copy())
    sizes = n.ints(0)
    return lambda _: n.torch.full(sizes, filling.item(), dtype=filling.dtype)


def cumulative_sum(n: Node) -> Run:
    """Along a known axis."""
    (axis,) = n.ints(1)
    if n.get("exclusive", 0) or n.get("reverse", 0):
        raise n.refuse("exclusive or reverse")
    return lambda x, _: x.cumsum(axis, dtype=x.dtype)


SHAPES: dict[str, Callable[[Node], Run]] = {
    "Constant": constant,
    "Shape": shape,
    "Size": lambda n: lambda _: n.torch.tensor(prod(n.shape())),
    "Identity": lambda n: lambda x: x,
    "Dropout": lambda n: lambda x, *_: x,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slices,
    "Expand": expand,
    "ExpandLike": expand_like,
    "Tile": tile,
    "Pad": pad,
    "Gather": gather,
    "GatherElements": gather_elements,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Range": arange,
    "ConstantOfShape": filled,
    "CumSum": cumulative_sum,
}
