"""Which detections a tracker may see, and in which order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eyas.results import Detections

FARTHEST = 2.0**24  # pixels: beyond it, float32 no longer tells one from the next
SMALLEST = 1e-3  # pixels: the shortest side of a box that can be followed


def usable(detections: Detections, min_confidence: float = 0.0) -> NDArray[np.intp]:
    """Rows with a finite box that has an area, and a finite confidence of at least `min_confidence`.

    They come by falling confidence, then corners and class, so that the order of detections decides nothing.
    """
    box, confidence = detections.xyxy.astype(np.float64), detections.confidence
    with np.errstate(invalid="ignore"):
        size = box[:, 2:] - box[:, :2]
        good = (np.abs(box) <= FARTHEST).all(1) & (size >= SMALLEST).all(1) & np.isfinite(confidence)
        good &= confidence >= min_confidence
    rows = np.flatnonzero(good)
    keys = [detections.class_id[rows], *box[rows].T[::-1], -confidence[rows]]
    return rows[np.lexsort(keys)]
