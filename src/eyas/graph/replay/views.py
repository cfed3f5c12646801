"""Rules of the walk (`eyas.graph.replay`) for operators that move, cut, join and repeat values."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx

from eyas.graph.replay.axes import (
    Atom,
    Axis,
    Layout,
    axis_of,
    batch_at,
    changes,
    has_batch,
    joined,
    leads,
    merged,
    new,
    new_shape,
    old,
    old_shape,
    parts_of,
    regroup,
)
from eyas.graph.replay.walk import Walk, rule, single_row

END = 2**63 - 1


@rule("Reshape")
def _reshape(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    """The same atoms in other groups. Where the batch is an axis of its own at its place, the target copies it (0);
    where it was merged with others, the target leaves it open (−1), and every other extent is written out.
    """
    x, target = walk.layout(node.input[0]), walk.ints(node, 1) or []
    literal = bool(attributes.get("allowzero"))
    result = regroup(x, _resolved(target, old_shape(x), literal))
    if not _holds(target, x, result, literal) or walk.statics.derived(node.input[1]):
        dims = [new(axis) for axis in result]
        place = batch_at(result)
        if place is not None:
            copied = place < len(x) and x[place] == result[place] and not literal
            dims[place] = 0 if copied else -1
        node.input[1] = walk.const(dims)
    return [result]


def _resolved(target: list[int], shape: tuple[int, ...], literal: bool) -> list[int]:
    dims = _with_copies(target, shape, literal)
    if -1 in dims:
        dims[dims.index(-1)] = prod(shape) // prod(d for d in dims if d != -1)
    return dims


def _holds(target: list[int], x: Layout, result: Layout, literal: bool) -> bool:
    """Whether the target as it stands gives the right shape in the new world too."""
    known = prod(d for d in _with_copies(target, new_shape(x), literal) if d != -1)
    if not known or prod(new_shape(x)) % known:
        return False
    return _resolved(target, new_shape(x), literal) == list(new_shape(result))


def _with_copies(target: list[int], shape: tuple[int, ...], literal: bool) -> list[int]:
    return [shape[i] if d == 0 and not literal else d for i, d in enumerate(target)]


@rule("Flatten")
def _flatten(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    axis = attributes.get("axis", 1)
    axis += len(x) if axis < 0 else 0
    return [tuple(merged(tuple(a for part in side for a in part)) for side in (x[:axis], x[axis:]))]


@rule("Transpose")
def _transpose(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    return [tuple(x[i] for i in attributes.get("perm", range(len(x))[::-1]))]


@rule("Squeeze")
def _squeeze(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    axes = walk.axes(node, attributes, len(x))
    if axes is None:
        axes = [i for i, d in enumerate(old_shape(x)) if d == 1]
    if any(has_batch(x[i]) for i in axes):
        raise ValueError("it removes the batch axis")
    if any(new(x[i]) != 1 for i in axes):
        raise ValueError("an axis that it removes is longer at the new size")
    return [tuple(axis for i, axis in enumerate(x) if i not in axes)]


@rule("Unsqueeze")
def _unsqueeze(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    named: list[int] = attributes.get("axes") or walk.ints(node, 1) or []
    axes = [a % (len(x) + len(named)) for a in named]
    rest = iter(x)
    return [tuple(() if i in axes else next(rest) for i in range(len(x) + len(axes)))]


@rule("Concat")
def _concat(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    """Constants beside what carries the batch are repeated for each image."""
    moving = [walk.layouts[e] for e in node.input if e in walk.layouts]
    rank = len(moving[0])
    axis = attributes["axis"] % rank
    if any(has_batch(m[axis]) for m in moving):
        raise ValueError("it puts images behind images")
    rest = [tuple(() if i == axis else a for i, a in enumerate(m)) for m in moving]
    walk.same(node, *rest)
    parts: list[Axis] = []
    for i, edge in enumerate(node.input):
        if edge in walk.layouts:
            parts.append(walk.layouts[edge][axis])
        else:
            parts.append(axis_of(walk.statics.shape(edge)[axis]))
            _lay_beside(walk, node, i, axis, rest[0])
    return [(*moving[0][:axis], joined(parts), *moving[0][axis + 1 :])]


def _lay_beside(walk: Walk, node: onnx.NodeProto, i: int, axis: int, rest: Layout) -> None:
    """Give a concatenated constant the extents of its neighbours."""
    shape = walk.statics.shape(node.input[i])
    if walk.purpose.resizes and shape[axis] in walk.sizes:
        raise ValueError(f"the length of a constant {list(shape)} may depend on the input's size")
    if not any(has_batch(a) or changes(a) for a in rest):
        return
    value = walk.value(node.input[i])
    over = tuple(axis_of(shape[axis]) if k == axis else () if has_batch(a) else a for k, a in enumerate(rest))
    place = batch_at(rest)
    if place is not None:
        if len(rest[place]) > 1:
            raise ValueError(f"a constant {list(shape)} spans the batch")
        value = single_row(value, place)
    if any(map(changes, over)):
        value = walk.purpose.remake(value, over)
    edge = walk.const(value, value.dtype.name)
    if place is not None:
        like = next(e for e in node.input if e in walk.layouts)
        dims = list(new_shape(over))
        images = walk.g.slice(walk.g.op("Shape", like), place, place + 1, 0)
        around = [walk.const(dims[:place]), images, walk.const(dims[place + 1 :])]
        edge = walk.g.op("Expand", edge, walk.g.op("Concat", *around, axis=0))
    node.input[i] = edge


@rule("Split")
def _split(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x = walk.layout(node.input[0])
    axis = attributes.get("axis", 0) % len(x)
    if has_batch(x[axis]):
        raise ValueError("it parts the images of a batch")
    sizes = attributes.get("split") or walk.ints(node, 1)
    count = len(node.output)
    if sizes is None:
        chunk = -(-old(x[axis]) // count)
        sizes = [chunk] * (count - 1) + [old(x[axis]) - chunk * (count - 1)]
    found = _parts(x[axis], sizes)
    if changes(x[axis]):
        if found is None:
            raise ValueError(f"it parts {old(x[axis])} cells not between levels")
        if "split" in attributes:
            next(a for a in node.attribute if a.name == "split").ints[:] = list(map(new, found))
        elif len(node.input) > 1 or len({new(p) for p in found}) > 1:
            del node.input[1:]
            node.input.append(walk.const([new(p) for p in found]))
            kept = [a for a in node.attribute if a.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(kept)
    return [(*x[:axis], p, *x[axis + 1 :]) for p in found or map(axis_of, sizes)]


def _parts(axis: Axis, sizes: list[int]) -> list[Axis] | None:
    """The parts of a concatenated axis, in groups of these extents; None if they are not parted so."""
    queue, found = list(parts_of(axis)), []
    for size in sizes:
        group: list[Axis] = []
        while queue and sum(map(old, group)) < size:
            group.append(queue.pop(0))
        if sum(map(old, group)) != size:
            return None
        found.append(group[0] if len(group) == 1 else joined(group))
    return found


@rule("Slice")
def _cut(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    x = list(walk.layout(node.input[0]))
    starts, ends = walk.ints(node, 1) or [], walk.ints(node, 2) or []
    axes = walk.axes(node, {}, len(x), 3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = walk.ints(node, 4) or [1] * len(starts)
    fresh = list(starts), list(ends)
    for i, (axis, start, end, step) in enumerate(zip(axes, starts, ends, steps, strict=True)):
        size = old(x[axis])
        whole = step == 1 and start in (0, -size) and end >= size
        if whole:
            fresh[1][i] = END if end < 2**31 - 1 and (has_batch(x[axis]) or changes(x[axis])) else end
        elif has_batch(x[axis]):
            raise ValueError("it picks among the images of a batch")
        elif changes(x[axis]):
            x[axis], fresh[0][i], fresh[1][i] = _piece(x[axis], start, end, step)
        else:
            x[axis] = axis_of(len(range(*slice(start, end, step).indices(size))))
    for k, (before, after) in enumerate(zip((starts, ends), fresh, strict=True), 1):
        if before != after:
            node.input[k] = walk.const(after)
    return [tuple(x)]


def _piece(axis: Axis, start: int, end: int, step: int) -> tuple[Axis, int, int]:
    """What is cut out of an axis that changes, and the bounds for its new extent: levels of a concatenation, or a
    fixed margin or step that holds at any size.
    """
    size = old(axis)
    low, high, _ = slice(start, end, step).indices(size)
    found = _parts(axis, [s for s in (low, high - low, size - high) if s]) if step == 1 and low < high else None
    if found and len(axis) == 1 and axis[0].parts:
        piece = found[1 if low else 0]
        before = new(found[0]) if low else 0
        return piece, before, before + new(piece)
    ends = END if end >= size else end
    if step < 1 or start < 0 or start > 4 or (ends >= 0 and ends != END) or ends < -4 or len(axis) != 1:
        raise ValueError(f"its bounds {start}:{end} depend on the input's size")
    extents = [len(range(*slice(start, ends, step).indices(n))) for n in (size, new(axis))]
    return (Atom(extents[0], extents[1], axis[0].role),), start, ends


@rule("Gather")
def _gather(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    data, indices = node.input
    x = walk.layouts.get(data) or tuple(map(axis_of, walk.statics.shape(data)))
    axis = attributes.get("axis", 0) % len(x)
    if data in walk.layouts:
        chosen = tuple(map(axis_of, walk.value(indices).shape))
        if has_batch(x[axis]):
            raise ValueError("it picks among the images of a batch")
        if changes(x[axis]):
            raise ValueError("it picks cells by their number, which depends on the input's size")
    else:
        chosen = walk.layout(indices)
    return [(*x[:axis], *chosen, *x[axis + 1 :])]


@rule("GatherElements")
def _gather_elements(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    x, indices = (walk.layout(edge) for edge in node.input)
    axis = attributes.get("axis", 0) % len(x)
    if has_batch(x[axis]):
        raise ValueError("it picks among the images of a batch")
    walk.same(node, *(tuple(() if i == axis or not has_batch(a) else a for i, a in enumerate(m)) for m in (x, indices)))
    return [indices]


@rule("Expand")
def _expand(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    x, target = walk.layout(node.input[0]), walk.ints(node, 1) or []
    rank = max(len(x), len(target))
    result = [*[()] * (rank - len(x)), *x]
    fresh = list(target)
    for i, extent in enumerate(target):
        place = rank - len(target) + i
        axis = result[place]
        if has_batch(axis) or changes(axis):
            if extent not in (1, old(axis)):
                raise ValueError(f"it repeats along an axis that changes, to {extent}")
            fresh[i] = 1
        elif extent > 1 and old(axis) == 1:
            _refuse_size(walk, extent)
            result[place] = axis_of(extent)
    if fresh != target:
        node.input[1] = walk.const(fresh)
    return [tuple(result)]


def _refuse_size(walk: Walk, extent: int) -> None:
    if walk.purpose.resizes and extent in walk.sizes:
        raise ValueError(f"it repeats values {extent} times, which may depend on the input's size")


@rule("Tile")
def _tile(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    x, repeats = walk.layout(node.input[0]), walk.ints(node, 1) or []
    found = []
    for axis, times in zip(x, repeats, strict=True):
        if times > 1 and has_batch(axis):
            raise ValueError("it repeats the images of a batch")
        if times > 1:
            _refuse_size(walk, times)
        found.append(merged((*axis_of(times), *axis)))
    return [tuple(found)]


@rule("Pad")
def _pad(walk: Walk, node: onnx.NodeProto, _: dict[str, Any]) -> list[Layout]:
    x, pads = walk.layout(node.input[0]), walk.ints(node, 1) or []
    axes = walk.axes(node, {}, len(x), 3)
    axes = list(range(len(x))) if axes is None else axes
    found = list(x)
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        more = before + after
        if not before and not after:
            continue
        if has_batch(x[axis]):
            raise ValueError("it adds to the images of a batch")
        if not changes(x[axis]):
            found[axis] = axis_of(old(x[axis]) + more)
        elif len(x[axis]) == 1 and not x[axis][0].parts and min(before, after) >= 0 and max(before, after) <= 8:
            found[axis] = (Atom(old(x[axis]) + more, new(x[axis]) + more, x[axis][0].role),)
        else:
            raise ValueError(f"its margins {before} and {after} may depend on the input's size")
    return [tuple(found)]


@rule("Resize")
def _resize(walk: Walk, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[Layout]:
    """Sizes become scales: size / extent, one number for both worlds. Batch and channels stay."""
    x = walk.layout(node.input[0])
    mode = attributes.get("coordinate_transformation_mode", b"half_pixel")
    if (
        not leads(x)
        or mode == b"tf_crop_and_resize"
        or attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch"
    ):
        raise ValueError("it crops, keeps an aspect ratio, or does not work on [batch, channels, …]")
    axes = [a % len(x) for a in attributes.get("axes", range(len(x)))]
    scales = np.ones(len(x), np.float32)
    by_size = len(node.input) > 3 and node.input[3] != ""
    given = walk.value(node.input[3 if by_size else 2]).ravel()
    for axis, number in zip(axes, given.tolist(), strict=True):
        scales[axis] = np.float32(number) / np.float32(old(x[axis])) if by_size else number
    found = []
    for i, (axis, scale) in enumerate(zip(x, scales.tolist(), strict=True)):
        if i < 2 or scale == 1:
            if scale != 1:
                raise ValueError("it changes the batch or the channels")
            found.append(axis)
            continue
        extents = [int(np.floor(np.float32(n) * np.float32(scale))) for n in (old(axis), new(axis))]
        whole = scale == round(scale) or 1 / scale == round(1 / scale)
        if changes(axis) and (not whole or min(extents) < 2 or (new(axis) * scale) % 1):
            raise ValueError(f"it scales {old(axis)} cells by {scale:.4g}, which the new size does not allow")
        role = axis[0].role if len(axis) == 1 else ""
        found.append((Atom(extents[0], extents[1], role),) if changes(axis) or role else axis_of(extents[0]))
    if by_size:
        wanted = [int(given[axes.index(i)]) if i in axes else old(a) for i, a in enumerate(x)]
        if [old(a) for a in found] != wanted:
            raise ValueError(f"its sizes {wanted} are no exact multiple of what it resizes")
        node.input[2] = walk.const(scales[axes], "float32")
        del node.input[3:]
    return [tuple(found)]
