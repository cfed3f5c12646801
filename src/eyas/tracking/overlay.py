"""Lines, zones and heat, drawn over pictures, with the lettering of `eyas.annotate`."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from eyas.annotate import Pen, place_label
from eyas.extras import need
from eyas.skeleton import SHIFT, fixed_point
from eyas.types import Image, check_image

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
CELL = 4  # pixels of the picture, each way, that share one value of heat


def draw_rules(image: Image, rules: Iterable[tuple[str, NDArray[np.float64], str]], size: tuple[int, int]) -> None:
    """Draw lines (two points) and zones (more) as (name, points [P, 2], counts) into `image`.

    size: (height, width) of the picture that the points are of; they are scaled to `image`, uint8 [H, W, 3] BGR.
    """
    picture = np.ascontiguousarray(check_image(image))
    pen, width = Pen.fitting(picture), max(2, round(min(picture.shape[:2]) / 250))
    placed = [(name, points * _scale(picture, size), counts) for name, points, counts in rules]
    for _, points, _ in placed:
        _stroke(picture, points, width)
        if len(points) == 2:
            _arrow(picture, points, width)
    taken = np.zeros((0, 4), np.int64)
    for name, points, counts in placed:
        if pen is None:
            break
        x, y = (points.mean(axis=0) if len(points) == 2 else points[points.sum(axis=1).argmin()]).astype(int).tolist()
        tile = _label(pen, name, counts, picture.shape[1])
        place = place_label([x, y, x, y], tile.shape[:2], -width, picture.shape[:2], taken)
        picture[place[1] : place[3], place[0] : place[2]] = tile
        taken = np.vstack([taken, place])
    if picture is not image:
        image[...] = picture


class Heat:
    """Seconds that objects spent at each place of a (height, width) picture."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._seconds = np.zeros([-(-s // CELL) for s in size])

    def add(self, points: NDArray[np.float64], seconds: float) -> None:
        """So long was something at each of the points [N, 2]; those outside of the picture do not count."""
        cells = np.floor(points / CELL).astype(np.int64)
        height, width = self._seconds.shape
        cells = cells[(cells >= 0).all(axis=1) & (cells < (width, height)).all(axis=1)]
        np.add.at(self._seconds, (cells[:, 1], cells[:, 0]), seconds)

    def over(self, image: Image) -> Image:
        """A copy of `image` under the heat, in the colours of supervision's `HeatMapAnnotator`."""
        picture = np.array(check_image(image), order="C")
        most = self._seconds.max()
        if most <= 0:
            return picture
        sv = need("supervision", "track")
        spread = cv2.GaussianBlur(self._seconds / most, (0, 0), max(1.0, min(self._size) / CELL / 40))
        whole = cv2.resize(spread.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        annotator = sv.HeatMapAnnotator(opacity=0.5, kernel_size=None)
        annotator.heat_mask = np.where(whole > 0.02 * whole.max(), whole, 0)
        return np.asarray(annotator.annotate(picture, sv.Detections.empty()))


def _scale(picture: Image, size: tuple[int, int]) -> NDArray[np.float64]:
    return np.divide(picture.shape[1::-1], size[::-1])


def _stroke(picture: Image, points: NDArray[np.float64], width: int) -> None:
    """A white stroke with a black edge, seen on every ground; closed if it has more than two points."""
    path = [fixed_point(points)]
    for colour, thickness in ((BLACK, width + 2), (WHITE, width)):
        cv2.polylines(picture, path, len(points) > 2, colour, thickness, cv2.LINE_AA, SHIFT)


def _arrow(picture: Image, points: NDArray[np.float64], width: int) -> None:
    """From a quarter of the line to the left hand of who walks from start to end: where "in" is."""
    start, end = points
    way = (end - start) / np.linalg.norm(end - start)
    foot, length = start + (end - start) / 4, 10.0 * width
    left = np.array([way[1], -way[0]])  # y goes down
    tip, wing = foot + left * length, way * length / 3
    _stroke(picture, np.array([foot, tip]), width)
    for side in (-wing, wing):
        _stroke(picture, np.array([tip - left * length / 3 + side, tip]), width)


def _label(pen: Pen, name: str, counts: str, most: int) -> Image:
    """Black on white, at most `most` pixels wide."""
    text = pen.shortened(name, f": {counts}", most - 2 * pen.pad)
    return pen.tile(text, WHITE, most)
