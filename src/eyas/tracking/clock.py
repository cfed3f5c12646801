"""How many frames lie between two updates, where the source's own times say so."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from eyas.errors import OptionError, problem

_MOST = 1e9  # steps: longer gaps are all the same


class Clock:
    """Counts steps of 1 / frame_rate seconds. Without a frame rate, each update is one step, whatever its time.

    frame_rate: pictures a second that the tracker's settings are meant for. Raises OptionError if not over 0.
    """

    def __init__(self, frame_rate: float | None = None) -> None:
        given: Any = frame_rate  # of a command's words, say
        is_number = isinstance(given, Real) and given is not True
        if given is not None and not (is_number and math.isfinite(given) and given > 0):
            expected = "pictures a second, over 0, or None to count updates"
            raise OptionError(problem("the frame rate is wrong", got=frame_rate, expected=expected, remedy=""))
        self._rate = frame_rate
        self._last_s: float | None = None

    def steps(self, pts_s: float | None) -> int:
        """Steps since the last call, rounded to whole ones; at least 1, and 1 where a time is not known.

        Raises OptionError for a time that is not finite or lies before the last one.
        """
        if self._rate is None or pts_s is None:
            return 1
        last, self._last_s = self._last_s, pts_s
        if not math.isfinite(pts_s) or (last is not None and pts_s < last):
            self._last_s = last
            raise OptionError(
                problem(
                    "the frame's time does not follow the last one",
                    got=f"{pts_s} s after {last} s",
                    expected="finite seconds that do not fall",
                    remedy="Call reset() between sources and after a jump back.",
                )
            )
        return 1 if last is None else max(1, round(min((pts_s - last) * self._rate, _MOST)))

    def reset(self) -> None:
        """Forget the last time: the next one begins anew."""
        self._last_s = None
