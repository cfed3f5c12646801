"""Greedy non-maximum suppression on the host: finishes the rare picture whose chains outlast the graph's rounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def greedy_nms(
    xyxy: NDArray[np.float32], class_id: NDArray[np.floating], iou: float, agnostic: bool = False
) -> NDArray[np.intp]:
    """Indices of the boxes that stay, of candidates sorted by score.

    xyxy: float32 [N, 4], best first. class_id: [N]. A box goes when one before it that stays, of its class
    (or of any if agnostic), overlaps it with intersection > iou · union, in float32 as the deploy graph has it.
    """
    low, high = xyxy[:, :2], xyxy[:, 2:]
    extent = np.maximum(high - low, 0)
    area = extent[:, 0] * extent[:, 1]
    alive = np.ones(len(xyxy), np.bool_)
    threshold = np.float32(iou)
    for i in range(len(xyxy)):
        if not alive[i]:
            continue
        rest = slice(i + 1, None)
        sides = np.maximum(np.minimum(high[i], high[rest]) - np.maximum(low[i], low[rest]), 0)
        intersection = sides[:, 0] * sides[:, 1]
        goes = intersection > threshold * (area[i] + area[rest] - intersection)
        alive[rest] &= ~(goes if agnostic else goes & (class_id[rest] == class_id[i]))
    return np.flatnonzero(alive)
