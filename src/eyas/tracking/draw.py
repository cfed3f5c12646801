"""Tracked objects on a picture: boxes and labels coloured by id, and behind each a trail of where it stood."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np

from eyas.annotate import draw, draw_objects, object_colours, thickness
from eyas.results import Detections
from eyas.skeleton import SHIFT, fixed_point
from eyas.types import Frame, Image
from eyas.video.frames import epoch_of

TRAIL_S = 2.0
MOST = 1000  # points of a trail, where times do not rise
APART = 2  # line widths: points of a trail that are closer would not be told apart
STEP_S = 1 / 30  # between frames without a time
NOWHERE = np.iinfo(np.int32).max  # in place of both coordinates of a point that is not finite


@dataclass(slots=True)
class _Trail:
    """Where one track stood, from the oldest on. xy: x, y of each point in turn, as `fixed_point` has them."""

    now: list[int]
    times_s: deque[float] = field(default_factory=deque)
    xy: array[int] = field(default_factory=lambda: array("i"))

    def forget(self, since_s: float) -> None:
        """Drop the points of before."""
        while self.times_s and (self.times_s[0] < since_s or len(self.times_s) >= MOST):
            self.times_s.popleft()
            del self.xy[:2]

    def add(self, now_s: float, point: list[int], apart: int) -> None:
        """Where it stands now; remembered where that is `apart` from the last point that is."""
        self.now = point
        if not self.xy or max(abs(point[0] - self.xy[-2]), abs(point[1] - self.xy[-1])) >= apart:
            self.times_s.append(now_s)
            self.xy.extend(point)


class Painter:
    """Draws the frames of one stream, in order; it remembers where each track was."""

    def __init__(self, *, trail_s: float = TRAIL_S, labels: bool = True) -> None:
        """trail_s: for how many seconds a trail goes back; 0 draws none."""
        self._trail_s, self._labels = trail_s, labels
        self._trails: dict[int, _Trail] = {}  # by tracker id
        self._last_s, self._epoch = 0.0, 0

    def draw(self, frame: Frame, found: Detections) -> Image:
        """A copy of the frame with its objects, trails under boxes. Objects without ids are coloured by class.

        A trail ends in the middle of its box's lower edge, and begins anew where the stream's epoch changes.
        """
        image = frame.pixels
        if found.tracker_id is None or not self._trail_s:
            return draw(image, found, labels=self._labels, colour_by="track")
        mine = image is not frame.image and found.mask is None  # copied from a GPU; masks also need what is under them
        picture = image if mine else image.copy()
        width = thickness(image.shape[:2])
        self._remember(frame, found, (APART * width) << SHIFT)
        for i, colour in zip(_ids(found), object_colours(found, "track"), strict=True):
            trail = self._trails[i]
            points = np.array([*trail.xy, *trail.now], np.int32).reshape(-1, 2)
            if len(points) > 2 and NOWHERE not in points:
                cv2.polylines(picture, [points], False, colour, width, cv2.LINE_AA, SHIFT)
        draw_objects(picture, image, found, self._labels, None, 0.5, "track")
        return picture

    def _remember(self, frame: Frame, found: Detections, apart: int) -> None:
        """apart: how far the points of a trail are from each other at least, as `fixed_point` has them."""
        epoch = epoch_of(frame)
        if epoch != self._epoch:
            self._trails, self._epoch = {}, epoch
        now_s = self._last_s = self._last_s + STEP_S if frame.pts_s is None else frame.pts_s
        for i, trail in list(self._trails.items()):
            trail.forget(now_s - self._trail_s)
            if not trail.times_s:
                del self._trails[i]
        x1, _, x2, y2 = found.xyxy.T
        feet = np.stack([x1 / 2 + x2 / 2, y2], axis=1)
        known = np.isfinite(feet).all(axis=1, keepdims=True)
        points = np.where(known, fixed_point(np.where(known, feet, 0)), NOWHERE)
        for i, point in zip(_ids(found), points.tolist(), strict=True):
            self._trails.setdefault(i, _Trail(point)).add(now_s, point, apart)


def _ids(found: Detections) -> list[int]:
    return [] if found.tracker_id is None else found.tracker_id.tolist()
