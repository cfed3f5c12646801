"""What is drawn of an object besides its box: key points, with the tables of what joins them, and masks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from eyas.types import Image

Bgr = tuple[int, int, int]

# COCO's 17 points, by number: 0 nose; then, the left one first, 1 2 eyes, 3 4 ears, 5 6 shoulders, 7 8 elbows,
# 9 10 wrists, 11 12 hips, 13 14 knees, 15 16 ankles. So the odd ones are the person's left. The limbs are those of
# COCO's category "person" (https://cocodataset.org/#format-data), which counts the points from 1.
COCO_LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12)),  # legs and hips
    *((5, 11), (6, 12), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),  # body and arms
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),  # head
)
# Five points of a face, as RetinaFace and SCRFD have them: eye, eye, nose, mouth corner, mouth corner; each pair begins
# with the one on the left of the picture, which is the person's right.
COCO_SIDES = ("middle", *("left", "right") * 8)
FACE_SIDES = ("right", "left", "middle", "right", "left")
# Of Okabe and Ito's colours (see `eyas.annotate`) three that differ from each other and from class 0, a person's box.
SIDE_BGR: dict[str, Bgr] = {"left": (0, 159, 230), "right": (167, 121, 204), "middle": (66, 228, 240)}
DARK: Bgr = (0, 0, 0)

MASK_SHARE = 0.45  # of the colour over a mask; the rest is the picture
SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel
FAR = 1 << 20  # pixels; beyond, OpenCV's arithmetic could overflow


def fixed_point(xy: NDArray[np.floating]) -> NDArray[np.int32]:
    """Continuous pixels [..., 2], all finite, as OpenCV draws them with `shift=SHIFT`: 0 is a pixel's centre there."""
    return np.asarray(((xy.astype(np.float64) - 0.5).clip(-FAR, FAR) * (1 << SHIFT)).round(), np.int32)


def draw_points(picture: Image, points: NDArray[np.float32], size: float, colour: Bgr, least_score: float) -> None:
    """Draw one object's key points [P, 3] (x, y in pixels, score) into `picture`.

    17 points are COCO's person, with limbs; 5 are a face; any other number are dots in the object's colour. What scores
    `least_score` or less, or is not finite, is left out, and so is a limb without both ends. size: a limb's width in
    pixels, 1 or more.
    """
    seen = (points[:, 2] > least_score) & np.isfinite(points).all(axis=1)
    sides = {17: COCO_SIDES, 5: FACE_SIDES}.get(len(points))
    colours = [SIDE_BGR[side] for side in sides] if sides else [colour] * len(points)
    ends = fixed_point(np.where(seen[:, None], points[:, :2], 0))
    radius = max(1.6, (1.15 if len(points) == 17 else 1.6) * size)  # dots without limbs are harder to see
    if len(points) == 17:
        for a, b in COCO_LIMBS:
            if seen[a] and seen[b]:
                cv2.line(picture, _at(ends[a]), _at(ends[b]), _limb_colour(a, b), round(size), cv2.LINE_AA, SHIFT)
    for i in np.flatnonzero(seen).tolist():
        for grown, ink in ((max(0.8, size / 4), DARK), (0, colours[i])):  # a dark rim, to be seen on any background
            cv2.circle(picture, _at(ends[i]), round((radius + grown) * (1 << SHIFT)), ink, -1, cv2.LINE_AA, SHIFT)


def _limb_colour(a: int, b: int) -> Bgr:
    """That of the side on which the limb is; what goes from side to side is in the middle."""
    sides = {COCO_SIDES[a], COCO_SIDES[b]} - {"middle"}
    return SIDE_BGR[sides.pop() if len(sides) == 1 else "middle"]


def _at(point: NDArray[np.int32]) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def tint(picture: Image, image: Image, mask: NDArray[np.bool_], colour: Bgr, width: int) -> None:
    """Where the mask [H, W] is, write `image` tinted with `colour` into `picture`, with the mask's outline, holes too.

    So a mask hides those under it, and no two colours mix. width: of the object's box in pixels; the outline is half
    as thick, at least 1.
    """
    inside = mask.astype(np.uint8)
    x, y, w, h = cv2.boundingRect(inside)
    inside, part = inside[y : y + h, x : x + w], (slice(y, y + h), slice(x, x + w))
    if not inside.size:
        return
    blend = ((1 - MASK_SHARE) * np.arange(256)[:, None] + MASK_SHARE * np.array(colour)).round().astype(np.uint8)
    tinted = cv2.LUT(np.ascontiguousarray(image[part]), blend[None])
    np.copyto(picture[part], tinted, where=inside[:, :, None] > 0)
    outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(x, y))
    cv2.drawContours(picture, outlines, -1, colour, max(1, width // 2), cv2.LINE_AA)
