"""Plain NumPy references for face detectors, written for reading only; nothing here calls the code under test.

Each decode gives boxes [N, 4] as corners, scores [N] and points [N, 5, 2] (or None), in pixels of the network's input.
"""

from __future__ import annotations

import numpy as np
import oracles
from numpy.typing import NDArray

F32 = np.float32


def blob(canvas: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """[1, 3, H, W] as the network of that kind wants it."""
    pixels = canvas.astype(F32)
    if kind == "scrfd":
        pixels = (pixels[..., ::-1] - F32(127.5)) / F32(128)
    elif kind == "retinaface":
        pixels = pixels - np.array([104, 117, 123], F32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def scrfd(named, size: tuple[int, int], strides: tuple[int, ...], anchors: int):
    """named: output name → array; the names are "score_8", "bbox_8", "kps_8" …"""
    boxes, scores, points = [], [], []
    for s in strides:
        score, sides = (named[f"{kind}_{s}"].reshape(-1, width) for kind, width in (("score", 1), ("bbox", 4)))
        offsets = named[f"kps_{s}"].reshape(-1, 5, 2) if f"kps_{s}" in named else None
        row = 0
        for y in range(0, size[0], s):
            for x in range(0, size[1], s):
                for _ in range(anchors):
                    left, up, right, down = sides[row] * F32(s)
                    boxes.append([x - left, y - up, x + right, y + down])
                    scores.append(score[row, 0])
                    if offsets is not None:
                        points.append([[x + dx * F32(s), y + dy * F32(s)] for dx, dy in offsets[row]])
                    row += 1
    return np.array(boxes, F32), np.array(scores, F32), np.array(points, F32) if points else None


def retinaface(named, size: tuple[int, int], logits: bool = False):
    """named: "loc", "conf", "landms" → array."""
    priors = []  # cx, cy, w, h as a share of the input, as the paper's code has it
    height, width = size
    for s, sides in {8: (16, 32), 16: (64, 128), 32: (256, 512)}.items():
        for r in range(-(-height // s)):
            for c in range(-(-width // s)):
                priors += [[(c + 0.5) * s / width, (r + 0.5) * s / height, m / width, m / height] for m in sides]
    prior, loc = np.array(priors), named["loc"][0].astype(np.float64)
    with np.errstate(over="ignore"):
        extent = prior[:, 2:] * np.exp(loc[:, 2:] * 0.2)
    centre = prior[:, :2] + loc[:, :2] * 0.1 * prior[:, 2:]
    scale = np.array([width, height])
    boxes = np.concatenate([(centre - extent / 2) * scale, (centre + extent / 2) * scale], 1)
    points = prior[:, None, :2] + named["landms"][0].reshape(-1, 5, 2) * 0.1 * prior[:, None, 2:]
    conf = named["conf"][0]
    if logits:
        conf = np.exp(conf) / np.exp(conf).sum(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        return boxes.astype(F32), conf[:, 1], (points * scale).astype(F32)


def yunet(named, size: tuple[int, int]):
    """named: "cls_8", "obj_8", "bbox_8", "kps_8" … → array."""
    boxes, scores, points = [], [], []
    for s in (8, 16, 32):
        columns = -(-size[1] // s)
        for i, (p, q) in enumerate(zip(named[f"cls_{s}"][0, :, 0], named[f"obj_{s}"][0, :, 0], strict=True)):
            r, c = divmod(i, columns)
            x, y, w, h = named[f"bbox_{s}"][0, i]
            cx, cy, w, h = (c + x) * s, (r + y) * s, np.exp(w) * s, np.exp(h) * s
            boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            scores.append(np.sqrt(min(max(p, 0), 1) * min(max(q, 0), 1)))
            kps = named[f"kps_{s}"][0, i]
            points.append([[(kps[2 * n] + c) * s, (kps[2 * n + 1] + r) * s] for n in range(5)])
    return np.array(boxes, F32), np.array(scores, F32), np.array(points, F32)


def suppress(found, conf: float, iou: float, k: int = 300):
    """Greedy NMS, best first: what is left of (boxes, scores, points)."""
    boxes, scores, points = found
    with np.errstate(invalid="ignore"):
        order = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] > F32(conf)][:k]
        clash = oracles.exceeds(boxes[order], iou)
    kept: list[int] = []
    for i in range(len(order)):
        if not any(clash[j, i] for j in kept):
            kept.append(i)
    rows = np.array([order[i] for i in kept], int)
    return boxes[rows], scores[rows], None if points is None else points[rows]


def to_source(found, scale, offset, shape: tuple[int, ...]):
    """The same in pixels of the source picture [h, w, 3]; boxes clipped to it, points not."""
    boxes, scores, points = found
    boxes = np.clip((boxes - [*offset, *offset]) / [*scale, *scale], 0, [shape[1], shape[0], shape[1], shape[0]])
    return boxes, scores, None if points is None else (points - offset) / scale
