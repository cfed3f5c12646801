"""Draw results on a picture: boxes, masks, key points and labels, or the likeliest classes; a colour per class.

In this order: masks, boxes, key points, labels; each from the least to the most confident object, so that the best
stays on top. The most confident label chooses its place first and the others avoid it.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, lru_cache
from itertools import product
from operator import itemgetter
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from eyas.errors import OptionError, problem
from eyas.results import Classification, Detections
from eyas.skeleton import SHIFT, Bgr, draw_points, fixed_point, tint
from eyas.types import Image, check_image

# R, G, B of Okabe and Ito, "Color Universal Design" (2008): told apart with every common kind of colour blindness, the
# clearest on photographs first. Their eighth, black, is left out: it is lost in shadows.
# Sky blue, orange, bluish green, vermilion, reddish purple, yellow, blue.
OKABE_ITO = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (240, 228, 66), (0, 114, 178))
# Further classes walk the colour circle in golden-ratio steps, which never come back close to an earlier hue, through
# three (saturation, value): lightness helps where hue is not seen. The start was searched for: among the first 20
# colours no two are closer than 25 in CIE Lab (with colour blindness, only those of the seven above are told apart).
GOLDEN, START = 0.618034, 0.96
SHADES = ((0.45, 1.0), (0.9, 0.65), (0.75, 0.95))
PANEL_SHARE = 0.3  # of the picture behind the likeliest classes; the rest is black, so that white stays readable
MOST_CLASSES = 5  # lines of that panel
ColourBy = Literal["class", "track"]
Place = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels, x2 and y2 exclusive
UNICODE = int(cv2.__version__.split(".")[0]) >= 5  # what cv2.putText can write


def draw(
    image: Image,
    result: Detections | Classification,
    *,
    labels: bool = True,
    line_width: int | None = None,
    point_score: float = 0.5,
    colour_by: ColourBy = "class",
) -> Image:
    """Return a copy of `image` with its result on it: every object with its box and label, or the likeliest classes.

    image: uint8 [H, W, 3] BGR; not written to. Returns the same shape, dtype and order, C-contiguous, the caller's.
    result: `Detections` of this picture. Masks are tinted with their outline; an oriented box takes the upright one's
    place, unless a corner is not finite; 17 key points are drawn as COCO's person, 5 as a face, others as dots. Or a
    `Classification`: its top five, as lines "name 0.87" in the upper left corner; a name too long is cut.
    labels: write "name 0.87", and "#id" where a tracker has numbered the object, or those lines. A label too long for
    the picture is cut to the name; a picture with less than three lines' height or width gets none.
    line_width: thickness of the boxes in pixels; None fits it to the picture and makes it thinner on small boxes.
    point_score: only key points that score above it (0…1) are drawn, and only limbs between two of these.
    colour_by: "track" gives each tracker id its colour instead of each class; see `object_colours`.
    Raises SourceError for an `image` that is none, OptionError for a line width below 1, a point score out of its
    range, masks of another size than the picture's, and a result that is neither of the two.
    """
    picture = check_image(image).copy()
    _check(result, line_width, point_score)
    if isinstance(result, Detections):
        draw_objects(picture, image, result, labels, line_width, point_score, colour_by)
    elif labels:
        _draw_classes(picture, result)
    return picture


def _check(result: object, line_width: int | None, point_score: float) -> None:
    wrong: tuple[str, object, str, str] | None = None
    if line_width is not None and line_width < 1:
        wrong = ("no such line width", line_width, "1 pixel or more", "None fits it to the picture.")
    elif not 0 <= point_score <= 1:
        wrong = ("no such point score", point_score, "a number 0 to 1", "The default is 0.5.")
    elif not isinstance(result, (Detections, Classification)):
        remedy = "An embedding has no picture."
        wrong = ("the result cannot be drawn", type(result).__name__, "Detections or Classification", remedy)
    if wrong:
        what, got, expected, remedy = wrong
        raise OptionError(problem(what, got=got, expected=expected, remedy=remedy))


def draw_objects(
    picture: Image,
    image: Image,
    detections: Detections,
    labels: bool,
    line_width: int | None,
    point_score: float,
    colour_by: ColourBy,
) -> None:
    """As `draw`, into `picture`, a copy of `image` that may hold other things already. Raises OptionError."""
    order = np.argsort(-detections.confidence, kind="stable")
    best_first = replace(detections, mask=None, embedding=None)[order]  # masks are as large as the picture: not copied
    masks, turned, points = detections.mask, best_first.xyxyxyxy, best_first.keypoints
    size = picture.shape[:2]
    if masks is not None and len(masks) and masks.shape[1:] != size:
        got, expected = (f"{w} × {h} pixels" for h, w in (masks.shape[1:], size))
        remedy = "Draw on the picture that was predicted."
        raise OptionError(problem("the masks are of another picture", got=got, expected=expected, remedy=remedy))
    corners = _whole_pixels(best_first.xyxy, size)
    colours = object_colours(best_first, colour_by)
    extents = (corners[:, 2:] - corners[:, :2]).clip(0)
    sides = extents.min(axis=1, initial=min(size)).astype(np.float64)
    if turned is not None:  # a long thin box across the picture has a large upright one
        edges = np.linalg.norm(np.diff(turned[:, :3].astype(np.float64), axis=1), axis=2)
        sides = np.fmin(sides, edges.min(axis=1, initial=min(size)))
    most = thickness(size)
    widths = [line_width or max(1, min(most, int(side // 6))) for side in sides.tolist()]
    last_first = range(len(best_first) - 1, -1, -1)
    if masks is not None:
        for i in last_first:
            tint(picture, image, masks[order[i]], colours[i], widths[i])
    for i in last_first:
        if turned is not None and np.isfinite(turned[i]).all():
            polygon, width = fixed_point(turned[i]), max(1, widths[i] - 1)  # OpenCV's soft edges add about one
            cv2.polylines(picture, [polygon], True, colours[i], width, cv2.LINE_AA, SHIFT)
        else:
            _outline(picture, corners[i].tolist(), colours[i], widths[i])
    if points is not None:
        limbs = np.minimum(min(size) / 300, np.sqrt(extents.prod(axis=1)) / 40).clip(1)
        for i in last_first:
            draw_points(picture, points[i], float(limbs[i]), colours[i], point_score)
    if labels:
        _draw_labels(picture, best_first, corners.tolist(), colours, widths)


def _draw_labels(
    picture: Image, best_first: Detections, corners: list[list[int]], colours: list[Bgr], widths: list[int]
) -> None:
    pen = Pen.fitting(picture)
    if pen is None:
        return
    size = picture.shape[:2]
    texts = zip(_texts(best_first), colours, strict=True)
    tiles = [_tile(pen.size, *text, colour, size[1]) for text, colour in texts]
    places: list[Place] = []
    for tile, box, width in zip(tiles, corners, widths, strict=True):
        places.append(place_label(box, tile.shape[:2], width // 2, size, places))
    for (x1, y1, x2, y2), tile in reversed(list(zip(places, tiles, strict=True))):
        picture[y1:y2, x1:x2] = tile


@lru_cache(maxsize=512)
def _tile(size: int, name: str, rest: str, colour: Bgr, most: int) -> Image:
    """A label by the pen of that size, not to be written to: in a video most of a frame's were in the last ones."""
    return Pen(size).label(name, rest, colour, most)


def _texts(detections: Detections) -> list[tuple[str, str]]:
    """What is written of each object: its name, and the rest, such as " 0.87 #12"."""
    ids, scores = detections.tracker_id, detections.confidence.tolist()
    tracks = [""] * len(scores) if ids is None else [f" #{i}" for i in ids.tolist()]
    return [(name, f" {p:.2f}{track}") for name, p, track in zip(detections.class_name, scores, tracks, strict=True)]


def _draw_classes(picture: Image, result: Classification) -> None:
    """The top five as white lines on a dark panel; as many as the height has room for."""
    pen = Pen.fitting(picture)
    if pen is None:
        return
    height, width = picture.shape[:2]
    rows = result.top(min(MOST_CLASSES, (height - 2 * pen.pad) // pen.height))
    lines = [pen.shortened(name, f" {p:.2f}", width - 2 * pen.pad) for name, p in rows]
    right = min(max(map(pen.width, lines)) + 2 * pen.pad, width)
    panel = picture[: len(lines) * pen.height + 2 * pen.pad, :right]
    panel[:] = (panel * PANEL_SHARE).astype(np.uint8)
    for i, line in enumerate(lines):
        pen.write(picture, line, (pen.pad, pen.pad + i * pen.height + pen.size), (255, 255, 255))


@cache
def class_colour(class_id: int) -> Bgr:
    """The colour of a class, the same in every picture and run: Okabe and Ito's first, then a golden-ratio hue walk."""
    if 0 <= class_id < len(OKABE_ITO):
        red, green, blue = OKABE_ITO[class_id]
        return blue, green, red
    saturation, value = SHADES[class_id % len(SHADES)]
    r, g, b = colorsys.hsv_to_rgb((class_id * GOLDEN + START) % 1, saturation, value)
    return round(b * 255), round(g * 255), round(r * 255)


def object_colours(detections: Detections, colour_by: ColourBy = "class") -> list[Bgr]:
    """The colour of each object: its class's, or that of its tracker id, from 1, as if that were a class from 0.

    The colours of ids come again after a thousand; objects without an id have their class's.
    """
    if colour_by == "class" or detections.tracker_id is None:
        return [class_colour(i) for i in detections.class_id.tolist()]
    return [class_colour((i - 1) % 1000) for i in detections.tracker_id.tolist()]


@lru_cache(maxsize=2048)
def ink(background: Bgr) -> Bgr:
    """Black or white, whichever contrasts more with `background` (WCAG 2.2 relative luminance; they tie at 0.179)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    return (0, 0, 0) if np.dot(linear, (0.0722, 0.7152, 0.2126)) > 0.179 else (255, 255, 255)


def thickness(size: tuple[int, ...]) -> int:
    """Of lines that suit a (height, width) picture, in pixels."""
    return round(1 + min(size) / 500)


def _whole_pixels(xyxy: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.int64]:
    """Boxes [N, 4] as whole pixels x1, y1, x2, y2 of a (height, width) picture, x2 and y2 exclusive, none empty."""
    ends = np.array(size[1::-1])
    corners = np.fmin(np.fmax(xyxy, 0), np.tile(ends, 2)).round().astype(np.int64)
    start = np.minimum(corners[:, :2], ends - 1)
    return np.hstack([start, np.maximum(corners[:, 2:], start + 1)])


def _outline(picture: Image, box: list[int], colour: Bgr, width: int) -> None:
    """Four bands centred on the box's edges: always on whole pixels, so they need no anti-aliasing."""
    out = width // 2
    x1, y1 = max(box[0] - out, 0), max(box[1] - out, 0)
    x2, y2 = min(box[2] + out, picture.shape[1]), min(box[3] + out, picture.shape[0])
    bands = (
        (x1, y1, x2, min(y1 + width, y2)),
        (x1, max(y2 - width, y1), x2, y2),
        (x1, y1, min(x1 + width, x2), y2),
        (max(x2 - width, x1), y1, x2, y2),
    )
    for band in bands:
        _fill(picture, band, colour)


def _fill(picture: Image, place: Place, colour: Bgr) -> None:
    """As `picture[y1:y2, x1:x2] = colour`, which takes several times as long.

    By NumPy, as each call of OpenCV gives Python's lock away, and waits for it again where other threads want it too.
    """
    x1, y1, x2, y2 = place
    picture[y1:y2, x1:x2] = _row(colour, picture.shape[1])[:, : x2 - x1]


@lru_cache(maxsize=256)
def _row(colour: Bgr, width: int) -> Image:
    """One row of pixels, not to be written to."""
    return np.full((1, width, 3), colour, np.uint8)


def place_label(
    box: list[int], tile: tuple[int, ...], out: int, size: tuple[int, ...], taken: Iterable[Iterable[int]]
) -> Place:
    """Where a label of (height, width) `tile` goes: above the box, else inside it, else below.

    It goes where it covers the fewest pixels of the `taken` places and is moved least to stay in the picture; inside
    comes last where the label would hide most of the object.
    """
    height, width = tile
    xs = (box[0] - out, box[2] + out - width)
    above, inside, below = box[1] - out - height, box[1] - out, box[3] + out
    ys = (above, inside, below) if box[3] - box[1] > 2 * height else (above, below, inside)
    places: list[tuple[int, Place]] = []
    for x, y in product(xs, ys):
        x1, y1 = min(max(x, 0), size[1] - width), min(max(y, 0), size[0] - height)
        x2, y2 = x1 + width, y1 + height
        cost = width * abs(y - y1)
        for left, top, right, bottom in taken:
            if left < x2 and x1 < right and top < y2 and y1 < bottom:
                cost += (min(right, x2) - max(left, x1)) * (min(bottom, y2) - max(top, y1))
        places.append((cost, (x1, y1, x2, y2)))
        if cost == 0:
            break
    return min(places, key=itemgetter(0))[1]


class Pen:
    """Writes text of one size in pixels; OpenCV 5 does it in TrueType, OpenCV 4 in Hershey's ASCII strokes."""

    def __init__(self, size: int) -> None:
        self.size, self.height, self.pad = size, round(1.35 * size), round(0.35 * size)
        # Capitals are 21 px high at scale 1. Thickness 2 is TrueType's semibold; for strokes it is in pixels.
        self.style = (cv2.FONT_HERSHEY_SIMPLEX, size / 30)
        self.thickness = 2 if UNICODE else max(1, round(size / 14))

    @classmethod
    def fitting(cls, picture: Image) -> Pen | None:
        """The pen that suits a picture; None for one with less than three lines' height or width."""
        shorter = min(picture.shape[:2])
        pen = cls(max(11, round(6 + 0.017 * shorter)))
        return pen if shorter >= 3 * pen.height else None

    def label(self, name: str, rest: str, colour: Bgr, most: int) -> Image:
        """A picture of `name` and `rest`, or where they are wider than `most` pixels of the name, cut there."""
        name = _clean(name[:99])
        text = name + rest if self.width(name + rest) + 2 * self.pad <= most else name
        return self.tile(text, colour, most)

    def tile(self, text: str, colour: Bgr, most: int) -> Image:
        """A picture of `text` on a ground of that colour, cut where it is wider than `most` pixels."""
        tile = _row(colour, most)[:, : self.width(text) + 2 * self.pad].repeat(self.height, axis=0)
        self.write(tile, text, (self.pad, self.size), ink(colour))
        return tile

    def shortened(self, name: str, rest: str, most: int) -> str:
        """`name` and `rest` on one line of at most `most` pixels if need be with less of the name."""
        name, dots = _clean(name[:99]), "…" if UNICODE else "..."
        choices = (name, *(name[:n].rstrip() + dots for n in range(len(name) - 1, 0, -1)))
        return next((c + rest for c in choices if self.width(c + rest) <= most), rest.strip())

    def write(self, picture: Image, text: str, start: tuple[int, int], colour: Bgr) -> None:
        """Write into `picture`; start: x and y of the left end of the baseline."""
        cv2.putText(picture, text, start, *self.style, colour, self.thickness, cv2.LINE_AA)

    def width(self, text: str) -> int:
        """Of `text`, in pixels."""
        return int(cv2.getTextSize(text, *self.style, self.thickness)[0][0])


def _clean(name: str) -> str:
    """`name` without what would leave the line or what OpenCV cannot write (5.0 crashes on a lone surrogate)."""
    if not name.isprintable():
        name = "".join(c if c.isprintable() else "?" for c in name)
    return name if UNICODE else name.encode("ascii", "replace").decode()
