"""Draw detections on a picture: one box per object, one colour per class, labels that stay readable.

Boxes are drawn from the least to the most confident, all labels after all boxes, so that the best stays on top; the
most confident label chooses its place first and the others avoid it.
"""

from __future__ import annotations

import colorsys
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from eyas.errors import OptionError, problem
from eyas.types import Detections, Image, check_image

Bgr = tuple[int, int, int]

# R, G, B of Okabe and Ito, "Color Universal Design" (2008): told apart with every common kind of colour blindness, the
# clearest on photographs first. Their eighth, black, is left out: it is lost in shadows.
# Sky blue, orange, bluish green, vermilion, reddish purple, yellow, blue.
OKABE_ITO = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (240, 228, 66), (0, 114, 178))
# Further classes walk the colour circle in golden-ratio steps, which never come back close to an earlier hue, through
# three (saturation, value): lightness helps where hue is not seen. The start was searched for: among the first 20
# colours no two are closer than 25 in CIE Lab (with colour blindness, only those of the seven above are told apart).
GOLDEN, START = 0.618034, 0.96
SHADES = ((0.45, 1.0), (0.9, 0.65), (0.75, 0.95))
UNICODE = int(cv2.__version__.split(".")[0]) >= 5  # what cv2.putText can write


def draw(image: Image, detections: Detections, *, labels: bool = True, line_width: int | None = None) -> Image:
    """Return a copy of `image` with every object's box and label on it.

    image: uint8 [H, W, 3] BGR; not written to. Returns the same shape, dtype and order, C-contiguous, the caller's.
    labels: write "name 0.87", and "#id" where a tracker has numbered the object. A label too long for the picture
    is cut to the name; a picture with less than three lines' height or width gets none.
    line_width: thickness of the boxes in pixels; None fits it to the picture and makes it thinner on small boxes.
    Raises SourceError for an `image` that is none, OptionError for a line width below 1.
    """
    check_image(image)
    if line_width is not None and line_width < 1:
        remedy = "None fits it to the picture."
        raise OptionError(problem("no such line width", got=line_width, expected="1 pixel or more", remedy=remedy))
    picture = image.copy()
    order = np.argsort(-detections.confidence, kind="stable")
    best_first, shorter = detections[order], min(image.shape[:2])
    corners = _whole_pixels(best_first.xyxy, image.shape[:2])
    colours = [class_colour(i) for i in best_first.class_id.tolist()]
    sides = (corners[:, 2:] - corners[:, :2]).min(axis=1, initial=shorter)
    widths = [line_width or max(1, min(round(1 + shorter / 500), side // 6)) for side in sides.tolist()]
    for box, colour, width in reversed(list(zip(corners.tolist(), colours, widths, strict=True))):
        _outline(picture, box, colour, width)
    pen = _Pen(max(11, round(6 + 0.017 * shorter)))
    if not labels or shorter < 3 * pen.height:
        return picture
    tiles = [pen.label(best_first[i], colour, picture.shape[1]) for i, colour in enumerate(colours)]
    places = np.zeros((0, 4), np.int64)
    for box, tile, width in zip(corners.tolist(), tiles, widths, strict=True):
        places = np.vstack([places, _place(box, tile.shape[:2], width // 2, picture.shape[:2], places)])
    for (x1, y1, x2, y2), tile in reversed(list(zip(places.tolist(), tiles, strict=True))):
        picture[y1:y2, x1:x2] = tile
    return picture


@cache
def class_colour(class_id: int) -> Bgr:
    """The colour of a class, the same in every picture and run: Okabe and Ito's first, then a golden-ratio hue walk."""
    if 0 <= class_id < len(OKABE_ITO):
        red, green, blue = OKABE_ITO[class_id]
        return blue, green, red
    saturation, value = SHADES[class_id % len(SHADES)]
    r, g, b = colorsys.hsv_to_rgb((class_id * GOLDEN + START) % 1, saturation, value)
    return round(b * 255), round(g * 255), round(r * 255)


def ink(background: Bgr) -> Bgr:
    """Black or white, whichever contrasts more with `background` (WCAG 2.2 relative luminance; they tie at 0.179)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    return (0, 0, 0) if np.dot(linear, (0.0722, 0.7152, 0.2126)) > 0.179 else (255, 255, 255)


def _whole_pixels(xyxy: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.int64]:
    """Boxes [N, 4] as whole pixels x1, y1, x2, y2 of a (height, width) picture, x2 and y2 exclusive, none empty."""
    ends = np.array(size[1::-1])
    corners = np.nan_to_num(xyxy).clip(0, np.tile(ends, 2)).round().astype(np.int64)
    start = np.minimum(corners[:, :2], ends - 1)
    return np.hstack([start, np.maximum(corners[:, 2:], start + 1)])


def _outline(picture: Image, box: list[int], colour: Bgr, width: int) -> None:
    """Four bands centred on the box's edges: always on whole pixels, so they need no anti-aliasing."""
    out = width // 2
    x1, y1 = max(box[0] - out, 0), max(box[1] - out, 0)
    x2, y2 = min(box[2] + out, picture.shape[1]), min(box[3] + out, picture.shape[0])
    picture[y1 : min(y1 + width, y2), x1:x2] = picture[max(y2 - width, y1) : y2, x1:x2] = colour
    picture[y1:y2, x1 : min(x1 + width, x2)] = picture[y1:y2, max(x2 - width, x1) : x2] = colour


def _place(
    box: list[int], tile: tuple[int, ...], out: int, size: tuple[int, ...], taken: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where a label of (height, width) `tile` goes, x1, y1, x2, y2: above the box, else inside it, else below.

    It goes where it covers the fewest pixels of the `taken` [K, 4] and is moved least to stay in the picture; inside
    comes last where the label would hide most of the object.
    """
    height, width = tile
    xs = (box[0] - out, box[2] + out - width)
    above, inside, below = box[1] - out - height, box[1] - out, box[3] + out
    ys = (above, inside, below) if box[3] - box[1] > 2 * height else (above, below, inside)
    wanted = np.array([(x, y) for x in xs for y in ys])
    start = wanted.clip(0, (size[1] - width, size[0] - height))
    places = np.hstack([start, start + np.array((width, height))])
    low, high = np.maximum(places[:, None, :2], taken[:, :2]), np.minimum(places[:, None, 2:], taken[:, 2:])
    covered = (high - low).clip(0).prod(axis=2).sum(axis=1)
    cost = covered + width * np.abs(wanted - start)[:, 1]
    return np.asarray(places[cost.argmin()])


class _Pen:
    """Writes labels of one text size in pixels; OpenCV 5 does it in TrueType, OpenCV 4 in Hershey's ASCII strokes."""

    def __init__(self, size: int) -> None:
        self.size, self.height = size, round(1.35 * size)
        # Capitals are 21 px high at scale 1. Thickness 2 is TrueType's semibold; for strokes it is in pixels.
        self.style = (cv2.FONT_HERSHEY_SIMPLEX, size / 30)
        self.thickness = 2 if UNICODE else max(1, round(size / 14))

    def label(self, one: Detections, colour: Bgr, most: int) -> Image:
        """The label of the one object in `one` as a picture of its own, at most `most` pixels wide."""
        name, track = _clean(one.class_name[0][:99]), "" if one.tracker_id is None else f" #{one.tracker_id[0]}"
        full, pad = f"{name} {one.confidence[0]:.2f}{track}", round(0.35 * self.size)
        text = full if self._width(full) + 2 * pad <= most else name
        tile = np.full((self.height, self._width(text) + 2 * pad, 3), colour, np.uint8)
        cv2.putText(tile, text, (pad, self.size), *self.style, ink(colour), self.thickness, cv2.LINE_AA)
        return tile[:, :most]

    def _width(self, text: str) -> int:
        return int(cv2.getTextSize(text, *self.style, self.thickness)[0][0])


def _clean(name: str) -> str:
    """`name` without what would leave the line or what OpenCV cannot write (5.0 crashes on a lone surrogate)."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if UNICODE else name.encode("ascii", "replace").decode()
