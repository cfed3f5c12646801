"""From a deploy graph's outputs to a result in source pixels: the last step, the same for every backend.

`Outputs` are a graph's arrays by name (see `eyas.graph.surgery`); `result_of` takes one image's part of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.graph.head import HeadSpec
from eyas.letterbox import Letterbox
from eyas.nms import greedy_nms, greedy_nms_rotated, rotated_corners
from eyas.results import Classification, Detections, Embedding, Result
from eyas.types import ModelCard

Outputs = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float32]


def result_of(card: ModelCard, head: HeadSpec, outputs: Outputs, i: int, box: Letterbox, iou: float) -> Result:
    """Image i's result. box: how its picture was letterboxed. iou: its NMS threshold, for what the host finishes."""
    if card.task == "classify":
        return Classification(np.array(outputs["probabilities"][i]), card.names)
    if card.task == "embed":
        return Embedding(np.array(outputs["embedding"][i]))
    rows = _final_rows(outputs, i, iou, head.agnostic, rotated=card.task == "obb")
    found = Detections(box.boxes_to_source(rows[:, :4]), rows[:, 4].copy(), rows[:, 5].astype(np.int64), card.names)
    return _EXTRAS[card.task](found, rows, outputs, i, box) if card.task in _EXTRAS else found


def results_of(
    card: ModelCard, head: HeadSpec, outputs: Outputs, boxes: Sequence[Letterbox], ious: Sequence[float]
) -> list[Result | Exception]:
    """Every image's result, or what went wrong with it: as `result_of`, with the arithmetic of a batch done at once."""
    if "detections" in outputs:
        rows: Floats = outputs["detections"][:, : max(outputs["count"].tolist(), default=0)]
        finite = np.logical_and.reduce(np.isfinite(rows), axis=None)
        if card.task in ("detect", "pose") and finite and all(outputs["converged"].tolist()):
            return list(_finished(card, outputs, rows, boxes))
    found: list[Result | Exception] = []
    for i, (box, iou) in enumerate(zip(boxes, ious, strict=True)):
        try:
            found.append(result_of(card, head, outputs, i, box, iou))
        except Exception as error:  # it is this picture's, and does not concern the others
            found.append(error)
    return found


def _finished(card: ModelCard, outputs: Outputs, rows: Floats, boxes: Sequence[Letterbox]) -> Iterator[Detections]:
    """Results of rows that are finite, suppressed, and in order: what nearly every batch is."""
    if all(box is boxes[0] for box in boxes):  # as in most batches
        offset, scale, size = _map(boxes[0])
    else:
        offset, scale, size = np.array([_map(b) for b in boxes]).transpose(1, 0, 2)[:, :, None]
    at = np.subtract(rows[..., :4], offset, dtype=np.float64)
    at /= scale
    np.maximum(at, 0, out=at)
    np.minimum(at, size, out=at)
    xyxy = at.astype(np.float32)
    confidence, class_id = rows[..., 4].copy(), rows[..., 5].astype(np.int64)
    for i, (n, box) in enumerate(zip(outputs["count"].tolist(), boxes, strict=True)):
        found = Detections(xyxy[i, :n], confidence[i, :n], class_id[i, :n], card.names)
        yield _EXTRAS[card.task](found, rows[i, :n], outputs, i, box) if card.task in _EXTRAS else found


@lru_cache(maxsize=1024)
def _map(box: Letterbox) -> NDArray[np.float64]:
    """`Letterbox.boxes_to_source` in numbers, each twice: [where its source begins, scale, size][x, y, x, y]."""
    scale, start = np.array(box.scale), np.array(box.window[:2])
    origin = np.array(box.offset) - start * scale
    return np.array([np.tile(pair[::-1], 2) for pair in (origin, scale, np.array(box.source))])


def is_full(outputs: Outputs, confidences: Sequence[float]) -> bool:
    """Whether every row of some image holds a candidate, so that weaker ones may have been left out."""
    last = outputs["detections"][:, -1, 4].tolist() if "detections" in outputs else []
    return any(score > confidence for score, confidence in zip(last, confidences, strict=False))


def _final_rows(outputs: Outputs, i: int, iou: float, agnostic: bool, rotated: bool) -> Floats:
    """Image i's rows [n, 6 + E], best first, suppressed here where the graph did not finish."""
    rows: Floats = outputs["detections"][i, : outputs["count"][i]]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]  # a graph with very many leaves them in index order
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not outputs["converged"][i]:
        if rotated:
            rows = rows[greedy_nms_rotated(rows[:, :4], rows[:, 6], rows[:, 5], iou, agnostic)]
        else:
            rows = rows[greedy_nms(rows[:, :4], rows[:, 5], iou, agnostic)]
    return rows


def _with_keypoints(found: Detections, rows: Floats, outputs: Outputs, i: int, box: Letterbox) -> Detections:
    """Key points from columns x, y, score each; not clipped: a point may lie outside the picture."""
    points = rows[:, 6:].reshape(len(rows), (rows.shape[1] - 6) // 3, 3).copy()
    points[:, :, :2] = box.inverse(points[:, :, :2])
    return replace(found, keypoints=points)


def _with_masks(found: Detections, rows: Floats, outputs: Outputs, i: int, box: Letterbox) -> Detections:
    """Masks: the sign of Σ coefficient · prototype, upsampled to the source and cut to the box.

    As YOLACT has it (Bolya et al., "YOLACT: Real-time Instance Segmentation", 2019, §3.1): where the sigmoid of the
    sum passes ½. The prototypes cover the network's input; their sum is sampled bilinearly at source pixel centres.
    OpenCV's warpAffine would do that too, but rounds to 1/32 cell before its version 5: a pixel or more at 1080p.
    """
    prototypes: Floats = outputs["prototypes"][i]
    cells = np.array(prototypes.shape[:0:-1])  # x, y
    sums = np.tensordot(rows[:, 6:], prototypes, axes=1)
    masks = np.zeros((len(rows), *box.source), np.bool_)
    centres = np.repeat(np.arange(max(box.source)) + 0.5, 2).reshape(-1, 2)
    at = (box.forward(centres) * cells / box.target[::-1] - 0.5).clip(0, cells - 1)
    before = at.astype(np.intp)  # where a pixel lies among the cells: this one, and how far on to the next
    after, share = np.minimum(before + 1, cells - 1), (at - before).astype(np.float32)
    corners = np.ceil(found.xyxy - 0.5).astype(np.intp)  # of the pixels whose centres are in the box
    extent = np.maximum(corners[:, 2:] - corners[:, :2], 0)
    scratch = np.empty((2, extent.prod(axis=1).max(initial=0)), np.float32)
    for mask, total, (x1, y1, x2, y2), (width, height) in zip(masks, sums, corners, extent, strict=True):
        if not width or not height:
            continue
        columns, lines = slice(x1, x2), slice(y1, y2)
        top, bottom = before[y1, 1], after[y2 - 1, 1] + 1
        left, right = total[top:bottom, before[columns, 0]], total[top:bottom, after[columns, 0]]
        across = left + (right - left) * share[columns, 0]
        # A value is across + down · share. It passes 0 where down · share passes −across.
        down = np.diff(across, axis=0, append=across[-1:])
        low, step = (part[: width * height].reshape(height, width) for part in scratch)
        np.take(-across, before[lines, 1] - top, axis=0, out=low, mode="clip")
        np.take(down, before[lines, 1] - top, axis=0, out=step, mode="clip")
        step *= share[lines, 1, None]
        np.greater(step, low, out=mask[lines, columns])
    return replace(found, mask=masks)


def _with_corners(found: Detections, rows: Floats, outputs: Outputs, i: int, box: Letterbox) -> Detections:
    """Oriented boxes: rows hold the unrotated box and, in column 6, the angle in radians, clockwise on the screen.

    xyxy becomes the smallest upright box around the four corners, clipped to the picture; the corners are not.
    """
    corners = box.inverse(rotated_corners(rows[:, :4], rows[:, 6]).reshape(len(rows), 8)).reshape(-1, 4, 2)
    height, width = box.source
    upright = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).clip(0, (width, height) * 2)
    return replace(found, xyxy=upright.astype(np.float32), xyxyxyxy=corners.astype(np.float32))


_EXTRAS = {"pose": _with_keypoints, "segment": _with_masks, "obb": _with_corners}
