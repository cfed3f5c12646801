"""Constants that an exporter laid out over the cells of a grid, known by their values and made anew for another grid.

Decoding inside a network adds to each cell its place and multiplies by its stride or its anchor. Exported, these are
tables: YOLOv5's grid [1, 3, h, w, 2] and anchor_grid, YOLOv8's anchor points [1, 2, N] and strides [1, N], YOLOX's
grids [1, N, 2] and expanded strides [1, N, 1]. All of them are, for every level by itself and for every value that does
not vary with the cell (channel, anchor),

    v[y, x] = a + b · x   or   a + b · y   or   a,

where b is 1 or the level's stride s, or twice these (a decode of 2·p + grid), and a the shift of the first cell, at
most b; where b = 0, a is a stride or an anchor. What fits this, exactly, is written out for the new numbers of rows and
columns with the same a and b. What does not is refused: a learned table, or coordinates that were divided by the
picture's size (b = 1/w), for which the old values do not tell the new ones.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.graph.replay.axes import Atom, Axis, Layout, changes, has_batch, new_shape, old, on_cells, parts_of

SMALLEST = 8  # cells: smaller numbers are too common to mean anything
LEAST = 0.25  # a stride or an anchor, in pixels or cells; in parts of the picture some would be smaller
Table = NDArray[np.float64]


def remake(value: NDArray[Any], layout: Layout, size: tuple[int, int]) -> NDArray[Any]:
    """The constant for the new extents. value: old extents of `layout`, which may lead with fewer axes.

    size: (height, width) of the old input. Raises ValueError if the values are not those of a grid.
    """
    what = f"a constant {list(value.shape)}"
    if not np.issubdtype(value.dtype, np.number) or not np.isfinite(value).all():
        raise ValueError(f"{what} over the cells holds no numbers of a grid")
    composed = [i for i, axis in enumerate(layout) if len(parts_of(axis)) > 1 and changes(axis)]
    if len(composed) > 1:
        raise ValueError(f"{what} spans several concatenated axes")
    if not composed:
        return _level(value, layout, size, what)
    place = composed[0]
    ends = np.cumsum([old(p) for p in parts_of(layout[place])])[:-1].tolist()
    levels = [
        _level(part, (*layout[:place], axis, *layout[place + 1 :]), size, what)
        for part, axis in zip(np.split(value, ends, place), parts_of(layout[place]), strict=True)
    ]
    return np.ascontiguousarray(np.concatenate(levels, place))


def extents(layout: Layout) -> set[int]:
    """The numbers of rows, columns and cells that the axes are made of."""
    found: set[int] = set()
    todo = [axis for axis in layout if on_cells(axis) and not has_batch(axis)]
    found.add(prod(old(axis) for axis in todo))
    while todo:
        axis = todo.pop()
        moving = [a for a in axis if a.role in ("h", "w") or changes((a,))]
        found |= {old(axis), prod(a.old for a in moving), *(a.old for a in moving)}
        todo += [part for a in axis for part in a.parts]
    return {n for n in found if n >= SMALLEST}


def _level(value: NDArray[Any], layout: Layout, size: tuple[int, int], what: str) -> NDArray[Any]:
    """The table of one level."""
    atoms: list[Atom] = []
    for axis, extent in zip(layout, value.shape, strict=True):
        whole = (Atom(extent, extent),)
        atoms += _atoms(axis, what) if extent == old(axis) and changes(axis) else whole
    moving = [i for i, a in enumerate(atoms) if a.old != a.new or a.role in ("h", "w")]
    if {atoms[i].role for i in moving} - {"h", "w"}:
        raise ValueError(f"{what} spans an axis of which it is not known whether it is rows or columns")
    table = value.astype(np.float64).reshape([a.old for a in atoms])
    table = np.moveaxis(table, moving, range(len(moving)))
    cells = [atoms[i] for i in moving]
    strides = [size["hw".index(a.role)] / a.old for a in cells]
    _refuse_extents(table, cells, strides, what)
    first, slopes = _fit(table, strides, value.dtype, what)
    result = np.broadcast_to(first, (*[a.new for a in cells], *first.shape)).copy()
    for k, (atom, slope) in enumerate(zip(cells, slopes, strict=True)):
        steps = np.arange(atom.new, dtype=np.float64).reshape([-1 if j == k else 1 for j in range(result.ndim)])
        result += steps * slope
    result = np.moveaxis(result, range(len(moving)), moving).astype(value.dtype)
    becomes = zip(layout, value.shape, new_shape(layout), strict=True)
    return result.reshape([n if changes(a) and old(a) == d else d for a, d, n in becomes])


def _refuse_extents(table: Table, cells: list[Atom], strides: list[float], what: str) -> None:
    """Refuse one number for all cells that is their number, or one over it, unless it is their stride (or twice)."""
    numbers = {a.old for a in cells} | {prod(a.old for a in cells)}
    if table.flat[0] in [k * s for s in strides for k in (1, 2)]:
        return
    if table.min() == table.max() and any(np.isclose(table.flat[0], [n, 1 / n], rtol=1e-3).any() for n in numbers):
        raise ValueError(f"{what} over the cells may be scaled by their number")


def _atoms(axis: Axis, what: str) -> list[Atom]:
    if any(a.parts and changes((a,)) for a in axis):
        raise ValueError(f"{what} spans an axis that was concatenated and then divided")
    return list(axis)


def _fit(table: Table, strides: list[float], dtype: np.dtype[Any], what: str) -> tuple[Table, list[Table]]:
    """Value at the first cell and step along each of the leading axes, for what does not vary with the cell."""
    first = table[(0,) * len(strides)]
    scale = np.finfo(dtype).eps if np.issubdtype(dtype, np.floating) else 0.0
    slopes = []
    for k, (extent, stride) in enumerate(zip(table.shape, strides, strict=False)):
        if extent < 2:
            raise ValueError(f"{what} has one cell along an axis, which tells no step")
        raw = table[tuple(int(j == k) for j in range(len(strides)))] - first
        slope = np.zeros_like(raw)
        for step in {1.0, 2.0, stride, 2 * stride}:
            slope[np.abs(raw - step) <= 4 * scale * np.maximum(np.abs(first), step) + 1e-9] = step
        slopes.append(slope)
    rebuilt = first + np.zeros_like(table)
    for k, slope in enumerate(slopes):
        steps = np.arange(table.shape[k], dtype=np.float64)
        rebuilt = rebuilt + steps.reshape([-1 if j == k else 1 for j in range(table.ndim)]) * slope
    if not np.allclose(rebuilt, table, rtol=4 * scale, atol=1e-9):
        raise ValueError(f"{what} over the cells is not the grid of places, strides or anchors")
    along = sum((s != 0).astype(int) for s in slopes)
    most = np.maximum.reduce(slopes)
    still = first[(along == 0) & (first != 0)]
    if (along > 1).any() or (np.abs(first) > most)[along == 1].any() or (still.size and np.abs(still).min() < LEAST):
        raise ValueError(f"{what} over the cells may be scaled by the picture's size")
    return first, slopes
