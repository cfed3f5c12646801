"""Tracked objects on a picture: boxes and labels coloured by id, and behind each a trail of where it stood."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np

from eyas.annotate import draw, draw_objects, object_colours
from eyas.results import Detections
from eyas.skeleton import SHIFT, fixed_point
from eyas.types import Frame, Image
from eyas.video.frames import epoch_of

TRAIL_S = 2.0
MOST = 1000  # points of a trail, where times do not rise
STEP_S = 1 / 30  # between frames without a time


class Painter:
    """Draws the frames of one stream, in order; it remembers where each track was."""

    def __init__(self, *, trail_s: float = TRAIL_S, labels: bool = True) -> None:
        """trail_s: for how many seconds a trail goes back; 0 draws none."""
        self._trail_s, self._labels = trail_s, labels
        self._trails: dict[int, deque[tuple[float, float, float]]] = {}  # id → (time in seconds, x, y)
        self._last_s, self._epoch = 0.0, 0

    def draw(self, frame: Frame, found: Detections) -> Image:
        """A copy of the frame with its objects, trails under boxes. Objects without ids are coloured by class.

        A trail ends in the middle of its box's lower edge, and begins anew where the stream's epoch changes.
        """
        image = frame.pixels
        if found.tracker_id is None or not self._trail_s:
            return draw(image, found, labels=self._labels, colour_by="track")
        picture = image.copy()
        self._remember(frame, found)
        self._draw_trails(picture, found)
        draw_objects(picture, image, found, self._labels, None, 0.5, "track")
        return picture

    def _remember(self, frame: Frame, found: Detections) -> None:
        epoch = epoch_of(frame)
        if epoch != self._epoch:
            self._trails, self._epoch = {}, epoch
        now_s = self._last_s = self._last_s + STEP_S if frame.pts_s is None else frame.pts_s
        feet = np.column_stack([found.xyxy[:, [0, 2]].mean(axis=1), found.xyxy[:, 3]]).tolist()
        for i, (x, y) in zip(_ids(found), feet, strict=True):
            self._trails.setdefault(i, deque(maxlen=MOST)).append((now_s, x, y))
        for i, trail in list(self._trails.items()):
            while trail and trail[0][0] < now_s - self._trail_s:
                trail.popleft()
            if not trail:
                del self._trails[i]

    def _draw_trails(self, image: Image, found: Detections) -> None:
        width = max(1, round(1 + min(image.shape[:2]) / 500))
        for i, colour in zip(_ids(found), object_colours(found, "track"), strict=True):
            points = np.array([(x, y) for _, x, y in self._trails.get(i, ())], np.float64)
            if len(points) > 1 and np.isfinite(points).all():
                cv2.polylines(image, [fixed_point(points)], False, colour, width, cv2.LINE_AA, SHIFT)


def _ids(found: Detections) -> list[int]:
    return [] if found.tracker_id is None else found.tracker_id.tolist()
