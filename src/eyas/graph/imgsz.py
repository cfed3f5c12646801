"""Another input size for a network that was exported at a fixed one: `resize_input`.

A convolutional network does not depend on its input's size; its export does, wherever a size was written down as a
number. Each axis of each tensor is followed back to rows and columns of the picture (`replay.axes`), and every such
number is written anew (`eyas.graph.replay`):

| pattern | becomes |
|---|---|
| Reshape to [1, 144, 6400], [1, 3, 85, 80, 80], [1, 19200, 85] | the products of the new rows and columns |
| Resize to sizes | scales size / extent, where they are whole or one over a whole |
| Slice and Split of concatenated levels, ends at the full extent | the new bounds, an open end |
| constants over the cells: grids, anchor points, anchors, strides | made anew from their values (`replay.grids`) |
| Shape arithmetic | a constant, which is then one of the above |
| Conv, pools, Transpose, Concat, Softmax, reductions, products of two maps | as they are |

Refused, naming the node: a Gemm or MatMul whose weights are as long as a flattened map; a window that covers the whole
map or was made to divide it (adaptive pooling); constants over the cells that are no grid (learned positions, indices
of ScatterND); a scalar that is the height or width, or one over it (coordinates in parts of the picture); outputs that
list a whole map as one vector; sizes at which maps of different levels no longer fit. Sizes are multiples of the
largest stride, where rows · s = height.

What comes out is what an export at that size gives, number for number; both have the same weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.graph.batch import settle_edges
from eyas.graph.replay import Purpose, Walk, refusal
from eyas.graph.replay.axes import BATCH, Atom, Axis, Layout, axis_of, batch_at, has_batch, new, old
from eyas.graph.replay.grids import extents, remake
from eyas.graph.surgery import dims_of, inputs_of, takes_channels_last

MOST = 8192  # pixels a side


def resize_input(model: onnx.ModelProto, size: tuple[int, int]) -> onnx.ModelProto:
    """The network for pictures of another size. A copy as it is, where it has that size already or its size is free.

    model: opset 11 or newer (`eyas.graph.opset.raise_opset`), one input [B, 3, H, W] or [B, H, W, 3]; B may be free.
    It is not changed. size: (height, width) in pixels. Raises ModelError where the graph is tied to its size or that
    cannot be told.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = inputs_of(model.graph)
    shape = dims_of(inputs[0]) if inputs else ()
    last = bool(shape) and takes_channels_last(inputs[0])
    place = (1, 2) if last else (2, 3)
    free = shape[:1] if shape and isinstance(shape[0], str) else ()
    was = [shape[i] for i in place] if len(shape) == 4 else []
    height, width = was if len(was) == 2 else ("?", "?")
    purpose = Purpose(
        "imgsz",
        f"the network cannot be resized to {size[0]}x{size[1]}",
        f"a graph that does not depend on its input's size, {height}x{width}, but for grids and shapes",
        "Export it at that size.",
        1 if free else 0,
        lambda value, layout: remake(value, layout, (int(height), int(width))),
        lambda value, layout, sizes: _refuse_size(value, (int(height), int(width)), layout, sizes),
        resizes=True,
    )
    if len(inputs) != 1 or len(shape) != 4:
        raise refusal(purpose, f"inputs {[list(dims_of(i)) for i in inputs]}")
    if (height, width) == tuple(size) or isinstance(height, str) or isinstance(width, str):
        return copy
    if not all(1 <= side <= MOST for side in size):
        raise refusal(purpose, f"a side of {max(size)} pixels, where 1 to {MOST} are possible")
    source: list[Axis] = [axis_of(int(d)) if isinstance(d, int) else (Atom(1, BATCH, "b"),) for d in shape]
    for i, was_side, side, role in zip(place, (height, width), size, "hw", strict=True):
        source[i] = (Atom(int(was_side), side, role),)
    walk = Walk(model, tuple(source), purpose)
    try:
        result = walk.run()
    except ModelError as error:
        _check_stride(walk, size, error)
        raise
    _check_stride(walk, size, None)
    for output in result.graph.output:
        _check_output(purpose, output, walk.layouts.get(output.name))
    settle_edges(walk, result)
    for entry in result.metadata_props:
        if entry.key == "imgsz":  # as Ultralytics writes it
            entry.value = str(list(size))
    return result


def _refuse_size(value: NDArray[Any], size: tuple[int, int], layout: Layout, sizes: set[int]) -> None:
    """Refuse a small constant that holds the height or width, or one over it: then it may be meant as such. Likewise
    one over a number of cells, with which a sum over them is a mean; and the sides of the very map that it meets,
    unless they are its stride.
    """
    sides = [*size, *(s - 1 for s in size)]
    own = extents(layout)
    hints = [*sides, *(1 / n for n in (*sides, *own, *(n for n in sizes if n >= 64)))]
    tolerance = 1e-4 if value.dtype.itemsize < 4 else 1e-6
    numbers = np.abs(value.astype(np.float64).reshape(-1, 1))
    sides_only = [n for n in own if not any(n * n in (s, 2 * s) for s in size)]  # where it may be the stride, it is
    if (
        np.isclose(numbers, hints, rtol=tolerance, atol=0).any()
        or np.isclose(numbers, sides_only, rtol=tolerance, atol=0).any(axis=1).all()
    ):
        raise ValueError(
            f"a constant {value.ravel().tolist()} may be the input's size, or the map's, or one over that or its cells"
        )


def _check_stride(walk: Walk, size: tuple[int, int], cause: ModelError | None) -> None:
    """Refuse sizes that are no multiple of the largest stride that the walk saw."""
    stride = max((_stride(walk, layout) for layout in walk.layouts.values()), default=1)
    if any(side % stride for side in size):
        near = [sorted({max(side // stride, 1) * stride, -(-side // stride) * stride}) for side in size]
        low, high = ((near[0][k], near[1][k]) for k in (0, -1))
        choices = " or ".join(dict.fromkeys(f"{h}x{w}" for h, w in (low, high)))
        raise ModelError(
            str(refusal(walk.purpose, f"{size[0]}x{size[1]}")).replace(
                walk.purpose.expected, f"multiples of the largest stride, {stride}"
            )
            + f" The nearest sizes are {choices}."
        ) from cause


def _stride(walk: Walk, layout: Layout) -> int:
    """The input's side over the map's, where that is a power of two."""
    sides = {a[0].role: old(a) for a in next(iter(walk.layouts.values())) if a and a[0].role in ("h", "w")}
    found = 1
    for axis in layout:
        if len(axis) == 1 and axis[0].role in sides and axis[0].old > 1:
            stride, rest = divmod(sides[axis[0].role], axis[0].old)
            if not rest and stride & (stride - 1) == 0:
                found = max(found, stride)
    return found


def _check_output(purpose: Purpose, output: onnx.ValueInfoProto, layout: Layout | None) -> None:
    dims = list(dims_of(output))
    if layout is None:
        raise refusal(purpose, f"output {output.name} {dims}, which does not depend on the picture")
    if purpose.images and (batch_at(layout) != 0 or len(layout[0]) != 1):
        raise refusal(purpose, f"output {output.name} {dims}, which has no batch of its own in axis 0")
    if len(layout) <= 2 and any(old(a) != new(a) and not has_batch(a) for a in layout):
        raise refusal(purpose, f"output {output.name} {dims}, one vector whose length depends on the input's size")
