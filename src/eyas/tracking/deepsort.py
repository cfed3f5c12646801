"""DeepSORT: motion and appearance decide which detection continues which track.

Source: Wojke, Bewley, Paulus, "Simple Online and Realtime Tracking with a Deep Association Metric", 2017, with the cost
of its experiments (λ = 0: appearance ranks the pairs, motion only gates them). All tracks are rows of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import OptionError, problem
from eyas.results import Detections
from eyas.tracking import motion
from eyas.tracking.appearance import Gallery, cosine_distances
from eyas.tracking.association import Floats, Ints, Pairs, assign, iou, iou_of_pairs, pairs_below
from eyas.tracking.boxes import usable
from eyas.tracking.clock import Clock
from eyas.types import Image

MOST = 100_000  # of n_init, max_age and budget: the steps of a gap and the rows of a gallery stay within reason


@dataclass(frozen=True, slots=True)
class Settings:
    """What DeepSORT can be told; the defaults are the paper's.

    max_cosine_distance: 0…2, over which two embeddings are not of one object. max_iou_distance: 1 − IoU, 0…1, of the
    last stage (and, where there is no appearance, of all pairs). n_init: frames in a row that confirm a track.
    max_age: frames that a confirmed track outlives unseen. budget: embeddings kept for each track, the latest.
    min_confidence: 0…1, detections below it are left out. per_class: a track never changes its class.
    frame_rate: pictures a second that n_init and max_age are meant for, to count frames by pts_s; None counts updates.
    Raises OptionError for a value out of its range.
    """

    max_cosine_distance: float = 0.2
    max_iou_distance: float = 0.7
    n_init: int = 3
    max_age: int = 30
    budget: int = 100
    min_confidence: float = 0.3
    per_class: bool = True
    frame_rate: float | None = None

    def __post_init__(self) -> None:
        ranges = {"max_cosine_distance": 2, "max_iou_distance": 1, "min_confidence": 1}
        for name, most in ranges.items():
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= most:
                _refuse(name, value, f"0 to {most}")
        for name in ("n_init", "max_age", "budget"):
            value = getattr(self, name)
            if not _is_number(value, int, np.integer) or not 1 <= value <= MOST:
                _refuse(name, value, f"a whole number, 1 to {MOST}")
        per_class: Any = self.per_class
        if not isinstance(per_class, bool):
            _refuse("per_class", per_class, "true or false")


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds or (int, float, np.number)) and not isinstance(value, bool)


def _refuse(name: str, got: object, expected: str) -> None:
    raise OptionError(problem(f"DeepSORT's {name} is wrong", got=got, expected=expected, remedy=""))


def _ints() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class _Tracks:
    """N tracks as aligned arrays. id: 0 until confirmed. hits: detections so far. misses: updates since the last one
    that had none for it. unseen: steps since the last one. seen_in: the row of this update's detection, or −1."""

    states: motion.States = field(default_factory=lambda: np.zeros((5, 0, 4)))
    id: NDArray[np.int64] = field(default_factory=_ints)
    class_id: NDArray[np.int64] = field(default_factory=_ints)
    hits: NDArray[np.int64] = field(default_factory=_ints)
    misses: NDArray[np.int64] = field(default_factory=_ints)
    unseen: NDArray[np.int64] = field(default_factory=_ints)
    seen_in: NDArray[np.int64] = field(default_factory=_ints)
    gallery: list[Gallery] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.id)

    def keep(self, which: NDArray[np.bool_]) -> None:
        if which.all():
            return
        self.states = self.states[:, which]
        for name in ("id", "class_id", "hits", "misses", "unseen", "seen_in"):
            setattr(self, name, getattr(self, name)[which])
        self.gallery = [g for g, kept in zip(self.gallery, which.tolist(), strict=True) if kept]

    def begin(self, xyah: Floats, class_id: NDArray[np.int64], rows: Ints, budget: int) -> None:
        """A new track for each of these detections."""
        zeros = np.zeros(len(rows), np.int64)
        self.states = np.concatenate([self.states, motion.begin(xyah)], axis=1)
        new = {"id": zeros, "class_id": class_id, "hits": zeros + 1, "misses": zeros, "unseen": zeros, "seen_in": rows}
        for name, values in new.items():
            setattr(self, name, np.concatenate([getattr(self, name), values]))
        self.gallery += [Gallery(budget) for _ in rows]


class DeepSort:
    """The tracker `deepsort`; its options are its `Settings`. Needs SciPy (extra `track`). For one thread.

    With `Detections.embedding`: confirmed tracks are matched by the smallest cosine distance to their gallery within
    the motion gate, those seen last first (the cascade). Then, by IoU, tracks that are unconfirmed or were seen in the
    update before.
    Without it: confirmed tracks are matched within the motion gate all at once, by the IoU that is expected over all
    places the prediction allows; it falls as a track grows uncertain, so that those seen last win without a cascade.
    The last stage is the same.
    """

    looks = False

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._clock = Clock(self.settings.frame_rate)
        self._tracks = _Tracks()
        self._next_id = 1

    def reset(self) -> None:
        """Forget all tracks and times. Ids go on: none is given twice."""
        self._tracks = _Tracks()
        self._clock.reset()

    def update(self, detections: Detections, frame: Image | None = None, pts_s: float | None = None) -> Detections:
        """See `eyas.tracking.Tracker`. frame is not looked at."""
        steps = self._clock.steps(pts_s)
        rows = usable(detections, self.settings.min_confidence)
        xyxy = detections.xyxy[rows].astype(np.float64)
        embedding = None if detections.embedding is None else detections.embedding[rows]
        class_id = detections.class_id[rows].astype(np.int64)

        self._advance(steps)
        t, d = self._match(xyxy, class_id, embedding)
        self._learn(t, d, xyxy, class_id, embedding)
        shown = np.flatnonzero((self._tracks.id > 0) & (self._tracks.seen_in >= 0))
        where = rows[self._tracks.seen_in[shown]]
        order = np.argsort(where)
        return replace(detections[where[order]], tracker_id=self._tracks.id[shown[order]])

    def _advance(self, steps: int) -> None:
        """Every track some steps on; those unseen for too long end here."""
        tracks = self._tracks
        tracks.unseen += steps
        tracks.keep(tracks.unseen <= self.settings.max_age)
        for _ in range(steps if len(tracks) else 0):
            tracks.states = motion.predict(tracks.states)

    def _match(self, xyxy: Floats, class_id: NDArray[np.int64], embedding: Any) -> tuple[Ints, Ints]:
        """Confirmed tracks (with appearance: the cascade), then the IoU stage: pairs of track and detection."""
        tracks, settings = self._tracks, self.settings
        if not len(tracks) or not len(xyxy):
            return np.zeros(0, np.intp), np.zeros(0, np.intp)
        waiting, free = np.ones(len(tracks), bool), np.ones(len(xyxy), bool)
        matched: list[Pairs] = []

        def match(pairs: Pairs, highest: float, who: NDArray[np.bool_]) -> None:
            pairs = pairs.where((who & waiting)[pairs.row] & free[pairs.column])
            pairs = pairs.where(assign(pairs, highest))
            waiting[pairs.row] = free[pairs.column] = False
            matched.append(pairs)

        def allowed(pairs: Pairs) -> Pairs:
            same = tracks.class_id[pairs.row] == class_id[pairs.column]
            return pairs.where(same) if settings.per_class else pairs

        highest = settings.max_iou_distance
        overlapping = allowed(pairs_below(1 - iou(motion.to_xyxy(tracks.states[0]), xyxy), highest))
        likely, most = overlapping, settings.max_cosine_distance
        if embedding is not None:
            likely = allowed(pairs_below(cosine_distances(tracks.gallery, embedding), most))
        error = motion.squared_mahalanobis(tracks.states[:, likely.row], motion.from_xyxy(xyxy)[likely.column])
        likely = likely.where(error <= motion.GATE)

        confirmed = tracks.id > 0
        if embedding is None:
            expected = iou_of_pairs(motion.to_xyxy(motion.spread(tracks.states[:, likely.row])), xyxy[likely.column])
            match(likely._replace(cost=1 - expected.mean(0)), 1, confirmed)
        else:
            for misses in np.unique(tracks.misses[confirmed]):
                match(likely, most, confirmed & (tracks.misses == misses))
        match(overlapping, highest, ~confirmed | (tracks.misses == 0))
        return np.concatenate([m.row for m in matched]), np.concatenate([m.column for m in matched])

    def _learn(self, t: Ints, d: Ints, xyxy: Floats, class_id: NDArray[np.int64], embedding: Any) -> None:
        """What the matched, the missed and the new tracks become."""
        tracks, settings = self._tracks, self.settings
        xyah = motion.from_xyxy(xyxy)
        tracks.states[:, t] = motion.update(tracks.states[:, t], xyah[d])
        tracks.seen_in[:] = -1
        tracks.seen_in[t] = d
        tracks.misses += 1
        tracks.misses[t] = tracks.unseen[t] = 0
        tracks.hits[t] += 1
        tracks.keep((tracks.id > 0) | (tracks.misses == 0))
        unclaimed = np.ones(len(xyxy), bool)
        unclaimed[d] = False
        new = np.flatnonzero(unclaimed)
        if len(new):
            tracks.begin(xyah[new], class_id[new], new, settings.budget)
        if embedding is not None:
            for i in np.flatnonzero(tracks.seen_in >= 0).tolist():
                tracks.gallery[i].add(embedding[tracks.seen_in[i]])
        due = np.flatnonzero((tracks.id == 0) & (tracks.hits >= settings.n_init))
        if len(due):
            due = due[np.argsort(tracks.seen_in[due])]
            tracks.id[due] = np.arange(self._next_id, self._next_id + len(due))
            self._next_id += len(due)
