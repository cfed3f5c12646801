"""What an axis of a tensor is made of, in two worlds at once: the graph as exported, and the graph as it shall be.

An axis is a product of atoms, outermost first: the 19,200 rows of a YOLOv5 level are 3 anchors × 80 rows × 80 columns.
An atom knows its extent in both worlds, so an axis' new extent is the product of its atoms' new extents, and a Reshape
is nothing but a new grouping of the same atoms. An axis that was concatenated is one atom with parts: 8,400 cells are
(80 × 80) + (40 × 40) + (20 × 20). Extents of 1 that stay 1 have no atom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

BATCH = 7919  # the batch's extent in the new world: a prime that no network has, and never written into a graph


@dataclass(frozen=True, slots=True)
class Atom:
    """A factor of an axis. role: "b" for the batch, "h" and "w" for rows and columns of the picture, or "".

    parts: the axes that were concatenated to this one.
    """

    old: int
    new: int
    role: str = ""
    parts: tuple[Axis, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is a number like any other: the same in both worlds, of no role, of no parts."""
        return self.old == self.new and not self.role and not self.parts


Axis = tuple[Atom, ...]
Layout = tuple[Axis, ...]


def axis_of(extent: int) -> Axis:
    """An axis of one plain extent."""
    return () if extent == 1 else (Atom(extent, extent),)


def layout_of(shape: Sequence[int]) -> Layout:
    """Plain axes."""
    return tuple(axis_of(d) for d in shape)


def old(axis: Axis) -> int:
    """The axis' extent in the graph as exported."""
    return prod(a.old for a in axis)


def new(axis: Axis) -> int:
    """The axis' extent in the graph as it shall be."""
    return prod(a.new for a in axis)


def old_shape(layout: Layout) -> tuple[int, ...]:
    """Extents in the graph as exported."""
    return tuple(map(old, layout))


def new_shape(layout: Layout) -> tuple[int, ...]:
    """Extents in the graph as it shall be, `BATCH` for the batch."""
    return tuple(map(new, layout))


def has_batch(axis: Axis) -> bool:
    """Whether the images lie along this axis."""
    return any(a.role == "b" for a in axis)


def changes(axis: Axis) -> bool:
    """Whether any factor or part of the axis differs between the worlds (their product may not)."""
    return any(a.old != a.new or any(changes(p) for p in a.parts) for a in axis)


def on_cells(axis: Axis) -> bool:
    """Whether the axis has rows or columns of the picture among its factors or parts, or changes."""
    return changes(axis) or any(a.role in ("h", "w") or any(map(on_cells, a.parts)) for a in axis)


def batch_at(layout: Layout) -> int | None:
    """The axis along which the images lie."""
    return next((i for i, axis in enumerate(layout) if has_batch(axis)), None)


def leads(layout: Layout) -> bool:
    """Whether the images lie along axis 0, outermost, or nowhere."""
    place = batch_at(layout)
    return place is None or (place == 0 and layout[0][0].role == "b")


def joined(parts: Sequence[Axis]) -> Axis:
    """The axis that a concatenation makes."""
    if not any(changes(p) for p in parts):
        return axis_of(sum(map(old, parts)))
    flat = tuple(q for p in parts for q in (p[0].parts if len(p) == 1 and p[0].parts else (p,)))
    return (Atom(sum(map(old, flat)), sum(map(new, flat)), "", flat),)


def parts_of(axis: Axis) -> tuple[Axis, ...]:
    """The axes that were concatenated to this one; itself if it is of one piece."""
    return axis[0].parts if len(axis) == 1 and axis[0].parts else (axis,)


def merged(axis: Axis) -> Axis:
    """The same axis with neighbouring plain atoms multiplied, so that equal axes compare equal."""
    found: list[Atom] = []
    for atom in axis:
        if found and atom.plain and found[-1].plain:
            found[-1] = Atom(found[-1].old * atom.old, found[-1].new * atom.new)
        else:
            found.append(atom)
    return tuple(found)


def regroup(layout: Layout, target: Sequence[int]) -> Layout:
    """The layout of `layout` reshaped to the old extents `target`. Raises ValueError where that cuts through an atom
    that is not a plain number.

    A batch of one has no extent to go by: it begins the next axis that begins behind what lies outside it.
    """
    queue = list(merged(tuple(a for axis in layout for a in axis)))  # numbers in a row may be cut anywhere
    found = []
    for extent in target:
        axis: list[Atom] = []
        rest = extent
        while queue and (rest > 1 or (not axis and queue[0].role == "b" and queue[0].old == 1)):
            atom = queue.pop(0)
            if rest % atom.old == 0:
                axis.append(atom)
                rest //= atom.old
            elif atom.plain and atom.old % rest == 0:
                axis.append(Atom(rest, rest))
                queue.insert(0, Atom(atom.old // rest, atom.old // rest))
                rest = 1
            else:
                raise ValueError(f"an axis of {atom.old} is cut into {extent}")
        if rest != 1:
            raise ValueError(f"nothing is left to fill an axis of {extent}")
        found.append(axis)
    if queue and not (found and all(a.old == 1 for a in queue)):
        raise ValueError("values are left over")
    if queue:
        found[-1].extend(queue)
    return tuple(merged(tuple(axis)) for axis in found)
