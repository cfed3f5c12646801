"""Tracked objects on a picture: boxes and labels coloured by id, and behind each a trail of where it stood."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field

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
NOWHERE = np.iinfo(np.int32).max  # in place of both coordinates of a point that is not finite


@dataclass(slots=True)
class _Trail:
    """Where one track stood, from the oldest on. xy: x, y of each point in turn, as `fixed_point` has them."""

    times_s: deque[float] = field(default_factory=deque)
    xy: array[int] = field(default_factory=lambda: array("i"))


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
        feet = np.column_stack([found.xyxy[:, [0, 2]].mean(axis=1), found.xyxy[:, 3]])
        known = np.isfinite(feet).all(axis=1, keepdims=True)
        points = np.where(known, fixed_point(np.where(known, feet, 0)), NOWHERE)
        for i, xy in zip(_ids(found), points.tolist(), strict=True):
            trail = self._trails.setdefault(i, _Trail())
            trail.times_s.append(now_s)
            trail.xy.extend(xy)
        since_s = now_s - self._trail_s
        for i, trail in list(self._trails.items()):
            while trail.times_s and (trail.times_s[0] < since_s or len(trail.times_s) > MOST):
                trail.times_s.popleft()
                del trail.xy[:2]
            if not trail.times_s:
                del self._trails[i]

    def _draw_trails(self, image: Image, found: Detections) -> None:
        width = max(1, round(1 + min(image.shape[:2]) / 500))
        for i, colour in zip(_ids(found), object_colours(found, "track"), strict=True):
            trail = self._trails.get(i)
            if trail and len(trail.times_s) > 1 and NOWHERE not in trail.xy:
                points = np.array(trail.xy, np.int32).reshape(-1, 2)
                cv2.polylines(image, [points], False, colour, width, cv2.LINE_AA, SHIFT)


def _ids(found: Detections) -> list[int]:
    return [] if found.tracker_id is None else found.tracker_id.tolist()
