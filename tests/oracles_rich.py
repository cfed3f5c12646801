"""Plain references for key points, masks and oriented boxes; nothing here calls the code under test.

Rows are [n, 6 + E] float32 in network-input pixels: x1 y1 x2 y2, score, class, extras.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = np.float32
Point = tuple[float, float]
Decoded = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]  # boxes, scores, extras of every cell


# ---- decodes: the raw network's outputs of one picture → boxes [N, 4], scores [N, C], extras [N, E] ----


def corners(xywh: NDArray[np.float32]) -> NDArray[np.float32]:
    half = xywh[:, 2:] / 2
    return np.concatenate([xywh[:, :2] - half, xywh[:, :2] + half], axis=1)


def columns(output: NDArray[np.float32], classes: int) -> Decoded:
    """[4 + C + E, N]: pose with three numbers a point, segmentation, oriented boxes."""
    rows = output.T
    return corners(rows[:, :4]), rows[:, 4 : 4 + classes], rows[:, 4 + classes :]


def columns_of_pairs(output: NDArray[np.float32], classes: int) -> Decoded:
    """Pose with x and y alone: every point's score is 1."""
    boxes, scores, extras = columns(output, classes)
    points = extras.reshape(len(extras), -1, 2)
    points = np.concatenate([points, np.ones_like(points[:, :, :1])], axis=2)
    return boxes, scores, points.reshape(len(extras), -1)


def rows_with_objectness(output: NDArray[np.float32], classes: int) -> Decoded:
    """[3 · cells, 5 + C + M]."""
    end = 5 + classes
    return corners(output[:, :4]), output[:, 4:5] * output[:, 5:end], output[:, end:]


def peaks(heat: NDArray[np.float32], size: NDArray[np.float32], offset: NDArray[np.float32], stride: int) -> Decoded:
    """CenterNet, cell by cell: a score is left only where no neighbour's is higher."""
    classes, height, width = heat.shape
    boxes, scores = [], []
    for r in range(height):
        for c in range(width):
            around = heat[:, max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].reshape(classes, -1).max(axis=1)
            scores.append(np.where(heat[:, r, c] == around, heat[:, r, c], 0))
            x, y = c + offset[0, r, c], r + offset[1, r, c]
            w, h = size[:, r, c]
            boxes.append([(x - w / 2) * stride, (y - h / 2) * stride, (x + w / 2) * stride, (y + h / 2) * stride])
    return np.array(boxes, F32), np.array(scores, F32), np.zeros((len(boxes), 0), F32)


# ---- choice ----


def best(decoded: Decoded, conf: float, iou: float, kind: str = "upright", k: int = 300) -> NDArray[np.float32]:
    """Rows [n, 6 + E] that stay, best first, ties by index. kind: how NMS overlaps boxes; "never" if there is none."""
    boxes, scores, extras = decoded
    top = scores.max(axis=1)
    order = [i for i in np.argsort(-top, kind="stable").tolist() if top[i] > F32(conf)][:k]
    ids = scores.argmax(axis=1)
    kept: list[int] = []
    for i in order:
        rivals = [j for j in kept if ids[j] == ids[i]] if kind != "never" else []
        if kind == "rotated" and any(
            rotated_iou(boxes[i], extras[i, -1], boxes[j], extras[j, -1]) > iou for j in rivals
        ):
            continue
        if kind == "upright" and upright_exceed(boxes[i], boxes[rivals], F32(iou)):
            continue
        kept.append(i)
    rows = [[*boxes[i], top[i], ids[i], *extras[i]] for i in kept]
    return np.array(rows, F32).reshape(-1, 6 + extras.shape[1])


def upright_exceed(box: NDArray[np.float32], others: NDArray[np.float32], iou: np.float32) -> bool:
    """Whether intersection > iou · union with any of the others, in float32."""
    sides = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), F32(0))
    extent, extents = np.maximum(box[2:] - box[:2], F32(0)), np.maximum(others[:, 2:] - others[:, :2], F32(0))
    shared = sides[:, 0] * sides[:, 1]
    return bool((shared > iou * (extents[:, 0] * extents[:, 1] + extent[0] * extent[1] - shared)).any())


# ---- oriented boxes: polygons, clipped side by side (Sutherland and Hodgman, 1974) ----


def turned(box: NDArray[np.float32], angle: float) -> list[Point]:
    """The corners of x1 y1 x2 y2 turned about its centre, x towards y."""
    x1, y1, x2, y2 = (float(v) for v in box)
    cx, cy, cos, sin = (x1 + x2) / 2, (y1 + y2) / 2, math.cos(angle), math.sin(angle)
    around = [(x1 - cx, y1 - cy), (x2 - cx, y1 - cy), (x2 - cx, y2 - cy), (x1 - cx, y2 - cy)]
    return [(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in around]


def shoelace(polygon: list[Point]) -> float:
    """Area; positive where the corners go from x towards y."""
    following = polygon[1:] + polygon[:1]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(polygon, following, strict=True)) / 2


def clipped(polygon: list[Point], a: Point, b: Point) -> list[Point]:
    """What lies to the inner side of the line from a to b."""

    def side(p: Point) -> float:
        return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])

    out = []
    for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if side(p) >= 0:
            out.append(p)
        if (side(p) > 0 and side(q) < 0) or (side(p) < 0 and side(q) > 0):
            t = side(p) / (side(p) - side(q))
            out.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return out


def shared_area(a: list[Point], b: list[Point]) -> float:
    if abs(shoelace(a)) == 0 or abs(shoelace(b)) == 0:
        return 0.0
    for start, stop in zip(b, b[1:] + b[:1], strict=True):
        a = clipped(a, start, stop) if a else a
    return abs(shoelace(a)) if a else 0.0


def rotated_iou(box_a: NDArray[np.float32], angle_a: float, box_b: NDArray[np.float32], angle_b: float) -> float:
    """0 where either has no area."""
    areas = [max(float(c[2] - c[0]), 0.0) * max(float(c[3] - c[1]), 0.0) for c in (box_a, box_b)]
    if min(areas) == 0:
        return 0.0
    shared = shared_area(turned(box_a, float(angle_a)), turned(box_b, float(angle_b)))
    return shared / (sum(areas) - shared)


# ---- pictures: where a source pixel lies in the input, and back ----


def placed(
    source: tuple[int, int], target: tuple[int, int], rule: str
) -> tuple[tuple[float, float], tuple[int, int], tuple[int, int]]:
    """((scale x, scale y), (left, top), (width, height) of the scaled picture) of a picture in the input."""
    (h, w), (height, width) = source, target
    if rule == "stretch":
        return (width / w, height / h), (0, 0), (width, height)
    ratio = min(height / h, width / w)
    new_w, new_h = max(1, round(w * ratio)), max(1, round(h * ratio))
    left, top = ((width - new_w) // 2, (height - new_h) // 2) if rule == "letterbox" else (0, 0)
    return (new_w / w, new_h / h), (left, top), (new_w, new_h)


def canvas(image: NDArray[np.uint8], target: tuple[int, int], rule: str, pad: int) -> NDArray[np.uint8]:
    _, (left, top), (w, h) = placed(image.shape[:2], target, rule)
    out = np.full((*target, 3), pad, np.uint8)
    out[top : top + h, left : left + w] = image if image.shape[:2] == (h, w) else cv2.resize(image, (w, h))
    return out


def to_source(xy: NDArray[np.floating], source: tuple[int, int], target: tuple[int, int], rule: str):
    """[..., 2] input pixels → source pixels, not clipped."""
    scale, offset, _ = placed(source, target, rule)
    return (np.asarray(xy, np.float64) - offset) / scale


def boxes_to_source(boxes: NDArray[np.float32], source: tuple[int, int], target: tuple[int, int], rule: str):
    points = to_source(boxes.reshape(-1, 2, 2), source, target, rule).reshape(-1, 4)
    return points.clip(0, [source[1], source[0]] * 2)


def mask_values(
    coefficients: NDArray[np.float32],
    prototypes: NDArray[np.float32],
    source: tuple[int, int],
    target: tuple[int, int],
    rule: str,
) -> NDArray[np.float64]:
    """[height, width]: at each source pixel's centre, the bilinear sample of Σ coefficient · prototype.

    A cell's value is that of its centre; beyond the outermost centres it stays what it is there.
    """
    sums = np.einsum("m,mhw->hw", coefficients.astype(np.float64), prototypes.astype(np.float64))
    (sx, sy), (left, top), _ = placed(source, target, rule)
    rows, columns_ = sums.shape
    ys = (((np.arange(source[0]) + 0.5) * sy + top) * rows / target[0] - 0.5).clip(0, rows - 1)
    xs = (((np.arange(source[1]) + 0.5) * sx + left) * columns_ / target[1] - 0.5).clip(0, columns_ - 1)
    r, c = np.floor(ys).astype(int), np.floor(xs).astype(int)
    below, right = np.minimum(r + 1, rows - 1), np.minimum(c + 1, columns_ - 1)
    fy, fx = (ys - r)[:, None], (xs - c)[None, :]
    upper = sums[r][:, c] * (1 - fx) + sums[r][:, right] * fx
    lower = sums[below][:, c] * (1 - fx) + sums[below][:, right] * fx
    return upper * (1 - fy) + lower * fy


def inside(box: NDArray[np.floating], source: tuple[int, int]) -> NDArray[np.bool_]:
    """[height, width]: the source pixels whose centres lie in the box x1 y1 x2 y2."""
    ys, xs = np.arange(source[0])[:, None] + 0.5, np.arange(source[1])[None, :] + 0.5
    return (xs >= box[0]) & (xs < box[2]) & (ys >= box[1]) & (ys < box[3])
