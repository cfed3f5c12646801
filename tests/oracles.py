"""Plain NumPy references, written for reading only; nothing here calls the code under test."""

from __future__ import annotations

import cv2
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
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    conf: float,
    iou: float,
    k: int,
    agnostic: bool = False,
    multi_label: bool = False,
    suppress: bool = True,
) -> NDArray[np.float32]:
    """Boxes [N, 4] and class scores [N, C] of one picture → kept rows [n, 6], greedily, best first, ties by index.

    multi_label: every class of a box is a candidate, not only its best. suppress: False keeps them all.
    """
    if multi_label:
        pairs = [(float(s), i, c) for i, row in enumerate(scores) for c, s in enumerate(row)]
    else:
        pairs = [(float(row.max()), i, int(row.argmax())) for i, row in enumerate(scores)]
    candidates = sorted((-s, i, c) for s, i, c in pairs if s > F32(conf))  # false for NaN
    clash = exceeds(boxes, iou).tolist()
    kept: list[tuple[int, int, float]] = []
    for s, i, c in candidates[:k]:
        if not suppress or not any(clash[j][i] and (agnostic or c == other) for j, other, _ in kept):
            kept.append((i, c, -s))
    return np.array([[*boxes[i], s, c] for i, c, s in kept], F32).reshape(-1, 6)


# The whole pipeline as the articles write it: one picture at a time, everything but the network in NumPy.

IMAGENET = np.array([103.53, 116.28, 123.675], F32), np.array([57.375, 57.12, 58.395], F32)


def prepare(image: NDArray[np.uint8], size: int, pad: int, centred: bool = True):
    """Letterbox: returns the canvas, the scales (x, y) and the offset (left, top)."""
    height, width = image.shape[:2]
    ratio = min(size / height, size / width)
    w, h = round(width * ratio), round(height * ratio)
    left, top = ((size - w) // 2, (size - h) // 2) if centred else (0, 0)
    canvas = np.full((size, size, 3), pad, np.uint8)
    canvas[top : top + h, left : left + w] = cv2.resize(image, (w, h)) if (w, h) != (width, height) else image
    return canvas, (w / width, h / height), (left, top)


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def centres(size: int | tuple[int, int], strides: tuple[int, ...], shift: float):
    """(x, y, stride) of each cell, written as loops would. size: one side of a square, or (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    cells = []
    for s in strides:
        rows, columns = -(-height // s), -(-width // s)
        cells += [((c + shift) * s, (r + shift) * s, s) for r in range(rows) for c in range(columns)]
    return np.array(cells, F32)


def corners(xywh: NDArray[np.float32]) -> NDArray[np.float32]:
    half = xywh[:, 2:] / 2
    return np.concatenate([xywh[:, :2] - half, xywh[:, :2] + half], axis=1)


def yolov8(outputs, size: int | tuple[int, int]):
    rows = outputs[0][0].T
    return corners(rows[:, :4]), rows[:, 4:]


def yolox(outputs, size: int | tuple[int, int], decoded: bool = False):
    rows, cell = outputs[0][0], centres(size, (8, 16, 32), 0)
    if decoded:
        return corners(rows[:, :4]), rows[:, 4:5] * rows[:, 5:]
    centre = (rows[:, :2] * cell[:, 2:]) + cell[:, :2]
    return corners(np.concatenate([centre, np.exp(rows[:, 2:4]) * cell[:, 2:]], 1)), rows[:, 4:5] * rows[:, 5:]


def yolov5(outputs, size: int | tuple[int, int]):
    rows = outputs[0][0]
    return corners(rows[:, :4]), rows[:, 4:5] * rows[:, 5:]


def nanodet(outputs, size: int | tuple[int, int], plus: bool = False, classes: int = 80):
    if len(outputs) == 6:
        outputs = [np.concatenate([np.concatenate(outputs[:3], 1), np.concatenate(outputs[3:], 1)], 2)]
    rows = outputs[0][0]
    bins = (rows.shape[1] - classes) // 4
    sides = softmax(rows[:, classes:].reshape(len(rows), 4, bins)) @ np.arange(bins, dtype=F32)
    cell = centres(size, (8, 16, 32, 64), 0) if plus else centres(size, (8, 16, 32), 0.5)
    sides = sides * cell[:, 2:]
    return np.concatenate([cell[:, :2] - sides[:, :2], cell[:, :2] + sides[:, 2:]], 1), rows[:, :classes]


def blob_rgb(canvas):
    return np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1)[None], dtype=F32) / F32(255)


def blob_bgr(canvas):
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], dtype=F32)


def blob_imagenet(canvas):
    mean, std = IMAGENET
    return np.ascontiguousarray(((canvas - mean) / std).transpose(2, 0, 1)[None], dtype=F32)


# family → (decode, blob, padding, centred)
RECIPES = {
    "yolov8": (yolov8, blob_rgb, 114, True),
    "yolov5": (yolov5, blob_rgb, 114, True),
    "yolox": (yolox, blob_bgr, 114, False),
    "nanodet": (nanodet, blob_imagenet, 0, True),
}


def predict(session, image: NDArray[np.uint8], family: str, size: int, conf: float, iou: float, k: int = 300):
    """Rows [n, 6] in source pixels, from an ONNX Runtime session of the *raw* network."""
    decode, blob, pad, centred = RECIPES[family]
    canvas, scale, offset = prepare(image, size, pad, centred)
    boxes, scores = decode(session.run(None, {session.get_inputs()[0].name: blob(canvas)}), size)
    some = scores.max(axis=1) > conf
    rows = detect(boxes[some], scores[some], conf, iou, k)
    rows[:, :4] = (rows[:, :4] - [*offset, *offset]) / [*scale, *scale]
    height, width = image.shape[:2]
    rows[:, :4] = np.clip(rows[:, :4], 0, [width, height, width, height])
    return rows
