"""Greedy non-maximum suppression on the host: finishes what the deploy graph leaves to it.

That is the rare picture whose chains outlast the graph's rounds, and graphs with very many candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
