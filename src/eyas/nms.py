"""Greedy non-maximum suppression on the host: finishes what the deploy graph leaves to it.

That is the rare picture whose chains outlast the graph's rounds, and graphs with very many candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 32  # turned boxes compared with all others at a time


def greedy_nms(
    xyxy: NDArray[np.float32], class_id: NDArray[np.floating], iou: float, agnostic: bool = False
) -> NDArray[np.intp]:
    """Indices of the boxes that stay, rising, of candidates sorted by score.

    xyxy: float32 [N, 4], best first. class_id: [N]. A box goes when one before it that stays, of its class
    (or of any if agnostic), overlaps it with intersection > iou · union, in float32 as the deploy graph has it.
    """
    if agnostic or len(xyxy) == 0:
        return _one_class(xyxy, np.float32(iou))
    groups = np.argsort(class_id, kind="stable")  # class by class, within each still best first
    cuts = np.flatnonzero(np.diff(class_id[groups])) + 1
    kept = [group[_one_class(xyxy[group], np.float32(iou))] for group in np.split(groups, cuts)]
    return np.sort(np.concatenate(kept))


def _one_class(xyxy: NDArray[np.float32], iou: np.float32) -> NDArray[np.intp]:
    """The same where every box may suppress every other."""
    low, high = xyxy[:, :2], xyxy[:, 2:]
    extent = np.maximum(high - low, 0)
    area = extent[:, 0] * extent[:, 1]
    rest = np.arange(len(xyxy))
    kept = []
    while rest.size:
        first, rest = rest[0], rest[1:]
        kept.append(first)
        sides = np.maximum(np.minimum(high[first], high[rest]) - np.maximum(low[first], low[rest]), 0)
        intersection = sides[:, 0] * sides[:, 1]
        rest = rest[~(intersection > iou * (area[first] + area[rest] - intersection))]
    return np.asarray(kept, np.intp)


def box_iou(box: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU of one box [4] with each of [N, 4], x1 y1 x2 y2; 0 where neither has an area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(axis=1).astype(np.float64)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    share: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return share


def rotated_corners(xyxy: NDArray[np.floating], angle: NDArray[np.floating]) -> NDArray[np.float64]:
    """Corners [N, 4, 2] of boxes [N, 4] turned about their centres by angle [N], radians, x towards y.

    In order around the box; for an angle of 0: top left, top right, bottom right, bottom left.
    """
    low, high = np.asarray(xyxy[:, :2], np.float64), np.asarray(xyxy[:, 2:], np.float64)
    centre, half = (low + high) / 2, (high - low) / 2
    cos, sin = np.cos(angle, dtype=np.float64), np.sin(angle, dtype=np.float64)
    along = np.stack([half[:, 0] * cos, half[:, 0] * sin], axis=1)
    across = np.stack([-half[:, 1] * sin, half[:, 1] * cos], axis=1)
    around = [-along - across, along - across, along + across, across - along]
    corners: NDArray[np.float64] = centre[:, None] + np.stack(around, axis=1)
    return corners


def greedy_nms_rotated(
    xyxy: NDArray[np.floating],
    angle: NDArray[np.floating],
    class_id: NDArray[np.floating],
    iou: float,
    agnostic: bool = False,
) -> NDArray[np.intp]:
    """`greedy_nms` for boxes turned by `angle` (see `rotated_corners`): the overlap is that of the turned boxes.

    Exact but for float64's rounding. Boxes whose circumscribed circles do not meet are not intersected. The best
    `BLOCK` that are left are compared with all behind them at once: fewer steps than box by box, and little work in
    vain on boxes that one of them removes.
    """
    corners = rotated_corners(xyxy, angle)
    extent = np.maximum(np.asarray(xyxy[:, 2:], np.float64) - xyxy[:, :2], 0)
    centre, area, reach = corners.mean(axis=1), extent.prod(axis=1), np.hypot(*extent.T) / 2
    axis = np.stack([np.cos(angle, dtype=np.float64), np.sin(angle, dtype=np.float64)], axis=1)
    rest = np.arange(len(xyxy))
    kept = []
    while rest.size:
        block = rest[:BLOCK]
        apart = centre[rest] - centre[block, None]
        near = (apart * apart).sum(axis=2) < (reach[rest] + reach[block, None]) ** 2
        near &= (area[rest] > 0) & (area[block, None] > 0) & (np.arange(rest.size) > np.arange(block.size)[:, None])
        if not agnostic:
            near &= class_id[rest] == class_id[block, None]
        row, column = np.nonzero(near)
        first, second = block[row], rest[column]
        # The second's corners as the first sees them: turned back about its centre, so that its sides are upright.
        x, y = np.moveaxis(corners[second] - centre[first, None], 2, 0)
        cos, sin = axis[first, :1], axis[first, 1:]
        seen = np.stack([x * cos + y * sin, y * cos - x * sin], axis=2)
        shared = area_within(seen, extent[first] / 2)
        near[row, column] = shared > iou * (area[first] + area[second] - shared)
        stays = np.ones(rest.size, np.bool_)
        for i, suppressed in enumerate(near):
            if stays[i]:
                stays &= ~suppressed
        kept.append(block[stays[: block.size]])
        rest = rest[block.size :][stays[block.size :]]
    return np.concatenate([*kept, rest])


def area_within(corners: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area [N] that convex polygons [N, V, 2] have within upright boxes from −half to half, half: [N, 2] (x, y).

    A polygon's chord at x, cut to the box, is clamp(upper edge) − clamp(lower edge). So the area is the sum over edges
    of the signed integral of clamp(y(x), −half, half) between their ends, themselves clamped in x; it is linear between
    the two places where the edge enters and leaves the box, so three trapezia give it exactly.
    """
    wide, tall = half[:, :1], half[:, 1:]
    (x, y), (end_x, end_y) = np.moveaxis(corners, 2, 0), np.moveaxis(np.roll(corners, -1, axis=1), 2, 0)
    run, rise = end_x - x, end_y - y
    slope = np.divide(rise, run, out=np.zeros_like(rise), where=run != 0)  # an upright edge has no width to integrate
    start, stop = np.clip(x, -wide, wide), np.clip(end_x, -wide, wide)
    low, high = np.minimum(start, stop), np.maximum(start, stop)
    crossings = []
    for level in (-tall, tall):
        at = x + np.divide((level - y) * run, rise, out=np.zeros_like(rise), where=rise != 0)
        crossings.append(np.clip(at, low, high))
    ahead = stop >= start
    first, second = np.minimum(*crossings), np.maximum(*crossings)
    places = [start, np.where(ahead, first, second), np.where(ahead, second, first), stop]
    heights = [np.clip(y + (place - x) * slope, -tall, tall) for place in places]
    parts = [(heights[i] + heights[i + 1]) * (places[i + 1] - places[i]) / 2 for i in range(3)]
    total: NDArray[np.float64] = np.abs(np.sum(parts, axis=(0, 2)))
    return total
