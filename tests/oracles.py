"""Plain NumPy references, written for reading only; nothing here calls the code under test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = np.float32


def exceeds(boxes: NDArray[np.float32], iou: float) -> NDArray[np.bool_]:
    """[N, N]: intersection > iou · union for each pair, in float32 throughout."""
    x1, y1, x2, y2 = boxes.T[:, :, None]
    x3, y3, x4, y4 = boxes.T[:, None, :]
    width = np.maximum(np.minimum(x2, x4) - np.maximum(x1, x3), F32(0))
    height = np.maximum(np.minimum(y2, y4) - np.maximum(y1, y3), F32(0))
    area = np.maximum(boxes[:, 2] - boxes[:, 0], F32(0)) * np.maximum(boxes[:, 3] - boxes[:, 1], F32(0))
    intersection = width * height
    return intersection > F32(iou) * (area[:, None] + area[None] - intersection)


def detect(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], conf: float, iou: float, k: int, agnostic: bool = False
) -> NDArray[np.float32]:
    """Boxes [N, 4] and class scores [N, C] of one picture → kept rows [n, 6], greedily, best first, ties by index."""
    class_id = scores.argmax(axis=1)
    score = scores[np.arange(len(scores)), class_id]
    candidates = sorted((-float(s), i) for i, s in enumerate(score) if s > F32(conf))  # false for NaN
    clash = exceeds(boxes, iou).tolist()
    kept: list[int] = []
    for _, i in candidates[:k]:
        if not any(clash[j][i] and (agnostic or class_id[j] == class_id[i]) for j in kept):
            kept.append(i)
    rows = [[*boxes[i], score[i], class_id[i]] for i in kept]
    return np.array(rows, F32).reshape(-1, 6)
