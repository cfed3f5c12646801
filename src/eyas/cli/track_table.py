"""What `eyas track` counts while it runs, and the table and lines that it ends with."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING

import numpy as np

from eyas.cli.table import counted, printable
from eyas.video.frames import VideoFrame

if TYPE_CHECKING:
    from eyas.results import Prediction
    from eyas.types import Frame
    from eyas.video import VideoSource

COLUMNS = (
    *("stream", "frames", "seconds", "frames/s", "objects", "dropped", "broken", "gaps"),
    *("latency p50", "p99"),
)
REMEMBERED = 10_000  # latencies


class Tally:
    """What has come of one stream. unwritten: so many pictures its video lost, being encoded too slowly."""

    def __init__(self, source: VideoSource, tracked: bool) -> None:
        """tracked: whether objects have ids, so that each counts once."""
        self.source, self.tracked = source, tracked
        self.taken = self.frames = self.failed = self.unwritten = 0
        self.last_s = 0.0
        self.found: Counter[str] = Counter()
        self._ids: set[int] = set()
        self._begun: deque[float] = deque()
        self._latency_s: deque[float] = deque(maxlen=REMEMBERED)
        self._start = self._end = time.monotonic()

    def begin(self, frame: Frame) -> None:
        """A frame has been read."""
        self.taken += 1
        arrived_s = frame.arrived_s if isinstance(frame, VideoFrame) else None
        self._begun.append(time.monotonic() if arrived_s is None else arrived_s)

    def add(self, prediction: Prediction) -> None:
        """And this has come of it."""
        self._end = time.monotonic()
        self._latency_s.append(self._end - self._begun.popleft())
        if prediction.frame is None or prediction.detections is None:
            self.failed += 1
            return
        self.frames += 1
        self.last_s = prediction.frame.pts_s or 0.0
        found = prediction.detections
        if found.tracker_id is None:
            self.found.update(found.class_name)
            return
        for i, name in zip(found.tracker_id.tolist(), found.class_name, strict=True):
            if i not in self._ids:
                self._ids.add(i)
                self.found[name] += 1

    @property
    def rate(self) -> float:
        """Frames a second, by the clock."""
        return self.frames / max(self._end - self._start, 1e-9)

    def latency_ms(self, *quantiles: float) -> list[float]:
        """From a frame's arrival to its result, of the last 10,000: the quantiles (0 to 1); nothing without frames."""
        found: list[float] = (1000 * np.quantile(self._latency_s, quantiles)).tolist() if self._latency_s else []
        return found

    def told(self) -> str:
        """The line that ends a run."""
        stats, gaps = self.source.stats, len(self.source.gaps)
        more = {"dropped": stats.dropped, "broken": stats.broken, "missing": stats.missing, "failed": self.failed}
        more |= {"gap" + "s" * (gaps > 1): gaps, "left out of the video": self.unwritten}
        trouble = "".join(f", {n} {what}" for what, n in more.items() if n)
        what = f"{'followed' if self.tracked else 'found'} {counted(self.found)}"
        frames = f"{self.frames} frame{'s' * (self.frames != 1)}, {self.rate:.1f} a second"
        return f"{printable(self.source.source_id)}: {frames}{trouble}; {what}"

    def row(self) -> tuple[str, ...]:
        """As in COLUMNS."""
        stats, live = self.source.stats, self.source.live
        latency = [f"{ms:.0f} ms" for ms in self.latency_ms(0.5, 0.99)] if live else []
        kinds = ", ".join(f"{n} {name}" for name, n in self.found.most_common()) or "nothing"
        numbers = (
            stats.dropped if live else "-",
            stats.broken + stats.missing + self.failed,
            len(self.source.gaps) if live else "-",
        )
        return (
            self.source.source_id,
            str(self.frames),
            f"{self.last_s:.2f}",
            f"{self.rate:.1f}",
            kinds,
            *map(str, numbers),
            *(latency or ("-", "-")),
        )
