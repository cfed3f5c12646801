"""SORT, ByteTrack, OC-SORT, BoT-SORT and C-BIoU: those of the package `trackers` (Roboflow, Apache-2.0), used as ours.

They follow boxes whatever their class: a track may change it, and each row keeps the class that was detected.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import OptionError, problem
from eyas.extras import need
from eyas.results import Detections
from eyas.tracking.boxes import usable
from eyas.tracking.clock import Clock
from eyas.tracking.options import build
from eyas.types import Image

_CLASSES = {
    "sort": "SORTTracker",
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
    "botsort": "BoTSORTTracker",
    "cbiou": "CBIoUTracker",
}
_LOOK_AT_PICTURES = ("botsort",)
_ROW = "row"  # in the library's `data`: which of our rows it is


def _check_kinds(name: str, factory: Any, options: Mapping[str, Any]) -> None:
    """Raise OptionError for a value of another kind than the default: the package would fail with the first frame."""
    known = inspect.signature(factory).parameters
    for option, value in options.items():
        if option not in known:
            continue
        default = known[option].default
        if isinstance(default, bool):
            good, expected = isinstance(value, bool), "true or false"
        elif isinstance(default, (int, float)):
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            good, expected = number and math.isfinite(value), "a number"
        elif isinstance(default, type):
            good, expected = isinstance(value, type), "a class"
        else:
            good, expected = isinstance(default, str) or not isinstance(value, str), "an object"
        if not good:
            got = f"{option} {value!r}"
            raise OptionError(problem(f"{name} refuses an option", got=got, expected=expected, remedy=""))


class LibraryTracker:
    """One of the package's trackers behind `eyas.tracking.Tracker`. options: those of its class, by name.

    The package counts ids from 0 after each reset, and gives −1 to what it does not (yet) follow; here ids go on from 1
    and such rows are left out.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        factory = getattr(need("trackers", "track"), _CLASSES[name])
        self._rate: float | None = options.get("frame_rate")
        self._clock = Clock(self._rate)
        given = {k: v for k, v in options.items() if (k, v) != ("frame_rate", None)}
        _check_kinds(name, factory, given)
        self._inner = build(name, factory, given)
        self.looks = name in _LOOK_AT_PICTURES and getattr(self._inner, "enable_cmc", False)
        self._name = name
        self._frames = 0  # that the package has been told of
        self._first_id = self._next_id = 1

    def update(self, detections: Detections, frame: Image | None = None, pts_s: float | None = None) -> Detections:
        """See `eyas.tracking.Tracker`. Raises OptionError where BoT-SORT is to look at pictures and gets none."""
        if self.looks and frame is None:
            raise OptionError(
                problem(
                    f"{self._name} needs the picture",
                    got="None",
                    expected="update(detections, frame) with uint8 [H, W, 3] BGR",
                    remedy="Without pictures, open it with enable_cmc=False.",
                )
            )
        self._frames += self._clock.steps(pts_s)
        rows = usable(detections)
        sv = need("supervision", "track")
        found = self._inner.update(
            sv.Detections(
                xyxy=detections.xyxy[rows],
                confidence=detections.confidence[rows],
                class_id=detections.class_id[rows],
                data={_ROW: rows},
            ),
            frame if self.looks else None,
            None if self._rate is None else self._frames / self._rate,
        )
        return self._ours(detections, found)

    def _ours(self, detections: Detections, found: Any) -> Detections:
        kept: NDArray[np.bool_] = found.tracker_id >= 0
        ids = found.tracker_id[kept].astype(np.int64) + self._first_id
        where = np.asarray(found.data[_ROW][kept] if len(found) else [], np.intp)
        self._next_id = max(self._next_id, int(ids.max(initial=0)) + 1)
        order = np.argsort(where)
        return replace(detections[where[order]], tracker_id=ids[order])

    def reset(self) -> None:
        """Forget all tracks and times. Ids go on: none is given twice."""
        self._inner.reset()
        self._clock.reset()
        self._frames = 0
        self._first_id = self._next_id
