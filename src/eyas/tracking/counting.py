"""One line or one zone of one stream: who crossed, who is inside, for how long; as events.

Which side of a line and whether inside is decided by supervision's `LineZone` and `PolygonZone`, which see each object
as a point. Time, absence and visits are kept here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eyas.extras import need
from eyas.results import Detections
from eyas.tracking.rules import ANCHORS, Line, Zone, in_pixels

Moment = tuple[str, int, float]  # source_id, number of the frame, its pts_s
Speed = Callable[[int], float | None]  # of a track, in pixels per second
Reason = Literal["outside", "unseen", "gap", "end"]
_DIGITS = {"pts_s": 6, "dwell_s": 3, "speed_px_s": 1, "mean_dwell_s": 3, "longest_dwell_s": 3}


@dataclass(frozen=True, slots=True)
class Event:
    """What happened at one line or zone. Fields that do not apply are None.

    kind: "line" (crossed), "enter", "leave" (of a zone) or "summary" (of a line or zone, at the end).
    frame, pts_s: the frame that settled it and its time. rule: the name of the line or zone.
    tracker_id, class_name: who. direction: "in" | "out", of lines. reason, of leaves: "outside" (it was seen there),
    "unseen" (for longer than the tolerance), "gap" (of the stream) or "end".
    dwell_s: from the first to the last frame that saw it inside. speed_px_s: see `Analytics`.
    count_in, count_out: events so far by class, of summaries; of zones, enter and leave. present: how many were still
    inside at the end. mean_dwell_s, longest_dwell_s: over all visits.
    """

    kind: Literal["line", "enter", "leave", "summary"]
    source_id: str
    frame: int
    pts_s: float
    rule: str
    tracker_id: int | None = None
    class_name: str | None = None
    direction: Literal["in", "out"] | None = None
    reason: Reason | None = None
    dwell_s: float | None = None
    speed_px_s: float | None = None
    count_in: Mapping[str, int] | None = None
    count_out: Mapping[str, int] | None = None
    present: int | None = None
    mean_dwell_s: float | None = None
    longest_dwell_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields that apply, as plain JSON types: times to 1 ms (pts_s 1 µs), speed to 0.1 px/s."""
        out: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if value is not None:
                digits = _DIGITS.get(name)
                out[name] = (
                    dict(value) if isinstance(value, Mapping) else value if digits is None else round(value, digits)
                )
        return out


class LineCount:
    """Crossings of one line in a (height, width) picture. Raises EyasError without supervision."""

    def __init__(self, rule: Line, size: tuple[int, int], minimum: int) -> None:
        sv = self._sv = need("supervision", "track")
        self.rule, self.points = rule, in_pixels(rule, size)
        start, end = (sv.Point(x, y) for x, y in self.points.tolist())
        self._zone = sv.LineZone(start, end, [sv.Position.CENTER], minimum)
        self._keys: dict[int, tuple[int, float]] = {}  # track → its number in LineZone, when it was seen
        self._number = count()
        self.count_in: Counter[str] = Counter()
        self.count_out: Counter[str] = Counter()

    def update(self, objects: Detections, moment: Moment, speed: Speed) -> list[Event]:
        """Who crosses the line with this frame. objects: of the classes that count, with tracker_id."""
        points = anchors(objects, self.rule.anchor)
        start, way = self.points[0], self.points[1] - self.points[0]
        along = (points - start) @ way / (way @ way)
        rows = np.flatnonzero((along >= 0) & (along <= 1))
        ids: list[int] = [] if objects.tracker_id is None else objects.tracker_id.tolist()
        # Who passes by an end begins anew, so that the way round the line does not count as a crossing.
        here = set(ids)
        absent = {i: known for i, known in self._keys.items() if i not in here}
        present = {ids[r]: (self._keys[ids[r]][0] if ids[r] in self._keys else next(self._number)) for r in rows}
        # LineZone forgets objects after a few frames without them. Who is unseen is put beyond the start, where it
        # keeps what it knew and learns nothing.
        shown = np.vstack([points[rows], np.tile(start - way, (len(absent), 1))])
        keys = [*present.values(), *(key for key, _ in absent.values())]
        self._keys = absent | {i: (key, moment[2]) for i, key in present.items()}
        if not keys:
            return []
        crossed = self._zone.trigger(_as_points(self._sv, shown, keys))
        events: list[Event] = []
        names = objects.class_name
        for r, is_in, is_out in zip(rows.tolist(), *(c.tolist() for c in crossed), strict=False):
            if is_in or is_out:
                (self.count_in if is_in else self.count_out)[names[r]] += 1
                who: dict[str, Any] = {"tracker_id": ids[r], "class_name": names[r], "speed_px_s": speed(ids[r])}
                events.append(Event("line", *moment, self.rule.name, direction="in" if is_in else "out", **who))
        return events

    def forget(self, before_s: float, moment: Moment, speed: Speed, reason: Reason) -> list[Event]:
        """Forget who was last seen before that time."""
        self._keys = {i: (key, seen_s) for i, (key, seen_s) in self._keys.items() if seen_s >= before_s}
        return []

    @property
    def counts(self) -> dict[str, Any]:
        """{"in": {class name: crossings}, "out": the same}."""
        return {"in": dict(self.count_in), "out": dict(self.count_out)}

    @property
    def text(self) -> str:
        """The counts in words."""
        return f"{self.count_in.total()} in, {self.count_out.total()} out"

    def summary(self, moment: Moment, present: int) -> Event:
        """All counts."""
        return Event("summary", *moment, self.rule.name, count_in=dict(self.count_in), count_out=dict(self.count_out))


@dataclass(slots=True)
class _Visit:
    """run: frames in a row that contradict `confirmed`. since_s, inside_s: first and last time inside."""

    class_name: str
    since_s: float
    inside_s: float
    seen_s: float
    run: int = 0
    confirmed: bool = False


class ZoneCount:
    """Visits to one zone in a (height, width) picture. Raises EyasError without supervision."""

    def __init__(self, rule: Zone, size: tuple[int, int], minimum: int) -> None:
        sv = self._sv = need("supervision", "track")
        self.rule, self.points, self._minimum = rule, in_pixels(rule, size), minimum
        self._zone = sv.PolygonZone(np.rint(self.points).astype(np.int64), [sv.Position.CENTER])
        self._visits: dict[int, _Visit] = {}
        self.count_in: Counter[str] = Counter()
        self.count_out: Counter[str] = Counter()
        self._dwell_s = self._longest_s = 0.0

    def update(self, objects: Detections, moment: Moment, speed: Speed) -> list[Event]:
        """Who enters and leaves with this frame. objects: of the classes that count, with tracker_id."""
        if objects.tracker_id is None or not len(objects):
            return []
        ids, now, events = objects.tracker_id.tolist(), moment[2], list[Event]()
        shown = _as_points(self._sv, anchors(objects, self.rule.anchor), ids)
        for i, name, inside in zip(ids, objects.class_name, self._zone.trigger(shown).tolist(), strict=True):
            visit = self._visits.get(i)
            if visit is None:
                if not inside:
                    continue
                visit = self._visits[i] = _Visit(name, now, now, now)
            visit.seen_s = now
            visit.inside_s = now if inside else visit.inside_s
            visit.run = visit.run + 1 if inside != visit.confirmed else 0
            if not visit.confirmed and not inside:
                del self._visits[i]
            elif visit.run >= self._minimum and visit.confirmed:
                events.append(self._leave(i, moment, speed, "outside"))
            elif visit.run >= self._minimum:
                visit.confirmed, visit.run, visit.class_name = True, 0, name
                self.count_in[name] += 1
                events.append(Event("enter", *moment, self.rule.name, tracker_id=i, class_name=name))
        return events

    def forget(self, before_s: float, moment: Moment, speed: Speed, reason: Reason) -> list[Event]:
        """End the visits of those who were last seen before that time."""
        gone = [i for i, visit in self._visits.items() if visit.seen_s < before_s and visit.confirmed]
        left = [self._leave(i, moment, speed, reason) for i in gone]
        self._visits = {i: visit for i, visit in self._visits.items() if visit.seen_s >= before_s}
        return left

    def _leave(self, i: int, moment: Moment, speed: Speed, reason: Reason) -> Event:
        visit = self._visits.pop(i)
        dwell_s = visit.inside_s - visit.since_s
        self.count_out[visit.class_name] += 1
        self._dwell_s, self._longest_s = self._dwell_s + dwell_s, max(self._longest_s, dwell_s)
        who: dict[str, Any] = {"tracker_id": i, "class_name": visit.class_name, "speed_px_s": speed(i)}
        return Event("leave", *moment, self.rule.name, reason=reason, dwell_s=dwell_s, **who)

    @property
    def present(self) -> int:
        """How many are inside."""
        return sum(visit.confirmed for visit in self._visits.values())

    @property
    def counts(self) -> dict[str, Any]:
        """{"in": {class name: entered}, "out": {class name: left}, "present": how many are inside}."""
        return {"in": dict(self.count_in), "out": dict(self.count_out), "present": self.present}

    @property
    def text(self) -> str:
        """The counts in words."""
        return f"{self.present} inside, {self.count_in.total()} in all"

    def summary(self, moment: Moment, present: int) -> Event:
        """All counts, and how long the visits were. present: how many were inside before the end."""
        n = self.count_out.total()
        rest: dict[str, Any] = {"count_in": dict(self.count_in), "count_out": dict(self.count_out)}
        if n:
            rest |= {"mean_dwell_s": self._dwell_s / n, "longest_dwell_s": self._longest_s}
        return Event("summary", *moment, self.rule.name, present=present, **rest)


def anchors(objects: Detections, anchor: str) -> NDArray[np.float64]:
    """float64 [N, 2]: the points x, y of the boxes that stand for the objects."""
    boxes = objects.xyxy.astype(np.float64)
    return np.asarray(boxes[:, :2] + ANCHORS[anchor] * (boxes[:, 2:] - boxes[:, :2]))


def _as_points(sv: Any, points: NDArray[np.float64], ids: list[int]) -> Any:
    """supervision's Detections of boxes without extent."""
    zeros = np.zeros(len(points), np.int64)
    return sv.Detections(np.hstack([points, points]), class_id=zeros, tracker_id=np.array(ids, np.int64))
