"""COCO's 80 classes in the order that detectors number them, the ids that COCO's files give them, and its masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, problem

# fmt: off
COCO80: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on

# COCO numbers its categories 1…90 and never used these ten (https://cocodataset.org, "things" of 2017).
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO91_IDS: tuple[int, ...] = tuple(i for i in range(1, 91) if i not in _UNUSED)


def rle_encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A bool mask [H, W] as COCO's uncompressed run lengths: column by column, first of zeros, then of ones, …"""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def rle_decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask bool [H, W] of uncompressed run lengths. Raises DataError where they do not fill it."""
    height, width = rle["size"]
    runs = rle["counts"]
    plain = isinstance(runs, (list, tuple, np.ndarray)) and all(isinstance(n, (int, np.integer)) for n in runs)
    counts = np.asarray(runs if plain else [], np.int64)
    if not plain or (counts < 0).any() or counts.sum() != height * width:
        raise DataError(
            problem(
                "the run lengths do not fill the mask",
                got=f"{counts.sum()} pixels" if plain else f"{type(runs).__name__} {str(runs)[:30]}",
                expected=f"{height} × {width}",
                remedy="Only COCO's uncompressed form, a list of numbers, is read.",
            )
        )
    flat = np.repeat(np.arange(counts.size) % 2 == 1, counts)
    return flat.reshape((height, width), order="F")
