"""What tracked objects do in one stream: who crosses lines, who stays in zones for how long, where.

    analytics = Analytics(rules_of(["door=0%,60%,100%,60%"], []), frame.size)
    events = analytics.update(prediction)

The rules are in `eyas.tracking.rules`, what is kept of one line or zone in `eyas.tracking.counting`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from eyas.errors import OptionError, problem
from eyas.results import Detections, Prediction
from eyas.skeleton import FAR
from eyas.tracking import TRACKERS
from eyas.tracking.counting import Event, LineCount, Moment, Reason, ZoneCount, anchors
from eyas.tracking.overlay import Heat, draw_rules
from eyas.tracking.rules import Line, Rules, Zone, check_classes, read_rules, rules_of
from eyas.types import Frame, Image

__all__ = ["Analytics", "Event", "Line", "Rules", "Zone", "read_rules", "rules_of"]

SPEED_S = 0.5  # of a track's past that its speed is taken from
ROUNDING_S = 1e-6
MOST_POINTS = 1000  # of a path: what a source without usable times could make grow


class Analytics:
    """Counts, dwell times and heat of one stream, for one thread. size: (height, width) of its pictures.

    Speed is that of the centre of the box, in pixels of `size` per second: the length of the slope of the straight line
    that fits the last 0.5 s best (least squares: sum of (t - mean t)(p - mean p) over sum of (t - mean t)², for x and
    y), of the last two frames where these are farther apart, unknown for the first frame of a track.
    Raises OptionError for a size that is none and a rule that reaches out of the picture, EyasError without the extra
    `track`.
    """

    def __init__(self, rules: Rules, size: tuple[int, int]) -> None:
        if not _is_size(size):
            expected, remedy = "(height, width) in pixels, whole numbers of at least 1", "A frame's `size` is one."
            raise OptionError(problem("the picture's size is wrong", got=repr(size), expected=expected, remedy=remedy))
        self._rules, self._size = rules, size
        self._items: list[LineCount | ZoneCount] = [
            *(LineCount(line, size, rules.minimum_crossing) for line in rules.lines),
            *(ZoneCount(zone, size, rules.minimum_crossing) for zone in rules.zones),
        ]
        self._heat = Heat(size)
        self._paths: dict[int, deque[tuple[float, float, float]]] = {}  # seconds, x, y; oldest first
        self._moment: Moment | None = None
        self._epoch = 0
        self._names: tuple[str, ...] = ()

    def update(self, prediction: Prediction) -> list[Event]:
        """What happens with the next frame; nothing where the prediction holds an error or no detections.

        Boxes of a frame of another size are scaled to `size`. Boxes that are not finite and negative ids are left out.
        An epoch other than the last ends all visits. Raises OptionError for objects without tracker_id, a frame
        without pts_s or with one before the last, and a rule's class that the model does not have.
        """
        found, frame = prediction.detections, prediction.frame
        if prediction.error is not None or found is None:
            return []
        moment = self._moment_of(prediction.source_id, frame)
        objects = self._objects(found, frame)
        events: list[Event] = []
        if getattr(frame, "epoch", 0) != self._epoch:
            events += self._forget(math.inf, self._moment or moment, "gap")
            self._epoch = getattr(frame, "epoch", 0)
            self._moment = None
        self._follow(objects, moment[2])
        self._moment = moment
        for item in self._items:
            events += item.update(self._counted(objects, item.rule.classes), moment, self._speed)
        # After this frame's objects: whom two frames in a row show has not been away, however far apart they are.
        return events + self._forget(moment[2] - self._rules.tolerance_s - ROUNDING_S, moment, "unseen")

    def finish(self) -> list[Event]:
        """The end of the stream: visits end, then one summary of each line and zone; nothing if there was no frame."""
        if self._moment is None:
            return []
        present = [item.counts.get("present", 0) for item in self._items]
        events = self._forget(math.inf, self._moment, "end")
        return events + [item.summary(self._moment, n) for item, n in zip(self._items, present, strict=True)]

    @property
    def counts(self) -> Mapping[str, Mapping[str, Any]]:
        """The counts as they are now: name → {"in": {class name: n}, "out": {class name: n}}, zones with "present"."""
        return MappingProxyType({item.rule.name: MappingProxyType(item.counts) for item in self._items})

    def draw(self, image: Image) -> None:
        """Draw the lines and zones with their names and counts into a picture, uint8 [H, W, 3] BGR.

        A line's arrow points where "in" is. A picture of another size than `size` gets all of it scaled.
        """
        draw_rules(image, [(item.rule.name, item.points, item.text) for item in self._items], self._size)

    def heatmap(self, image: Image) -> Image:
        """A copy of the picture, uint8 [H, W, 3] BGR, tinted by how long objects stood at a place: blue to red.

        The middle of a box's lower edge is where it stands; red is where the most time was spent.
        """
        return self._heat.over(image)

    def _moment_of(self, source_id: str, frame: Frame | None) -> Moment:
        if frame is None or frame.pts_s is None or not math.isfinite(frame.pts_s):
            remedy = "Open the source as a video; dwell and speed are taken from its times."
            got = "no frame" if frame is None else f"pts_s {frame.pts_s}"
            raise OptionError(problem("the frame has no time", got=got, expected="finite pts_s", remedy=remedy))
        if self._moment and getattr(frame, "epoch", 0) == self._epoch and frame.pts_s < self._moment[2]:
            got, remedy = f"{frame.pts_s} s after {self._moment[2]} s", "Use another Analytics for each source."
            what, expected = "the frame's time does not follow the last one", "times that do not fall within an epoch"
            raise OptionError(problem(what, got=got, expected=expected, remedy=remedy))
        return source_id, frame.index, frame.pts_s

    def _objects(self, found: Detections, frame: Frame | None) -> Detections:
        """What can be followed of the detections: boxes in pixels of `size`, classes and ids alone."""
        if found.tracker_id is None:
            if len(found):
                expected, remedy = "objects with tracker_id", f"Choose a tracker first: {', '.join(TRACKERS)}."
                raise OptionError(problem("objects are not tracked", got="no ids", expected=expected, remedy=remedy))
            return Detections.empty(found.names)
        numbered = found.tracker_id >= 0
        ids, times = np.unique(found.tracker_id[numbered], return_counts=True)
        if (times > 1).any():
            got, remedy = f"id {ids[times.argmax()]} twice", "Use one tracker for a stream."
            what, expected = "two objects of a frame have one id", "an id of its own for each"
            raise OptionError(problem(what, got=got, expected=expected, remedy=remedy))
        self._check_classes(found.names)
        scale = np.divide(self._size, frame.size)[[1, 0, 1, 0]] if frame is not None else 1.0
        boxes = (found.xyxy * scale).clip(-FAR, FAR).astype(np.float32)
        rows = numbered & np.isfinite(found.xyxy).all(axis=1)
        plain = Detections(boxes, found.confidence, found.class_id, found.names, tracker_id=found.tracker_id)
        return plain if rows.all() else plain[rows]

    def _check_classes(self, names: tuple[str, ...]) -> None:
        if names != self._names:
            check_classes(self._rules, names)
            self._names = names

    def _counted(self, objects: Detections, classes: tuple[str, ...] | None) -> Detections:
        return objects if classes is None else objects[np.isin(objects.class_name, classes)]

    def _follow(self, objects: Detections, now: float) -> None:
        ids = [] if objects.tracker_id is None else objects.tracker_id.tolist()
        for i, (x, y) in zip(ids, anchors(objects, "centre").tolist(), strict=True):
            path = self._paths.setdefault(i, deque(maxlen=MOST_POINTS))
            path.append((now, x, y))
            while len(path) > 2 and now - path[0][0] > SPEED_S:
                path.popleft()
        if self._moment is not None:
            self._heat.add(anchors(objects, "bottom"), min(now - self._moment[2], self._rules.tolerance_s))

    def _speed(self, tracker_id: int) -> float | None:
        path = np.array(self._paths[tracker_id])
        t, xy = path[:, 0], path[:, 1:]
        t = t - t.mean()
        spread = float(t @ t)
        return float(np.hypot(*(t @ (xy - xy.mean(axis=0)) / spread))) if spread > 0 else None

    def _forget(self, before_s: float, moment: Moment, reason: Reason) -> list[Event]:
        """Drop all that was last seen before that time, so that what is kept does not grow with the stream."""
        events = [e for item in self._items for e in item.forget(before_s, moment, self._speed, reason)]
        self._paths = {i: path for i, path in self._paths.items() if path[-1][0] >= before_s}
        return events


def _is_size(size: object) -> bool:
    sides = size if isinstance(size, (tuple, list)) and len(size) == 2 else (None,)
    return all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) and side > 0 for side in sides)
