"""A live source: a thread reads all the time and keeps the newest frame; a connection that breaks is made anew."""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from time import monotonic

from eyas.errors import OptionError, SourceError, problem
from eyas.types import Image
from eyas.video.frames import Gap, Opened, VideoFrame, VideoStats

Connect = Callable[[Callable[[Opened], None]], Opened]  # calls its argument with what it is about to open
log = logging.getLogger("eyas")
_MOST_GAPS = 1000  # so many are remembered


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How a broken connection is made anew: after first_s · factor^n seconds, at most most_s, each time a random
    part of 50 to 100% of it, so that a hundred cameras do not come back at once. tries: in a row; None for ever."""

    first_s: float = 0.5
    factor: float = 2.0
    most_s: float = 30.0
    tries: int | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.first_s <= self.most_s and self.factor >= 1 and (self.tries is None or self.tries >= 0)):
            expected = "0 <= first_s <= most_s, factor >= 1, tries >= 0 or None"
            raise OptionError(problem("the reconnection makes no sense", got=self, expected=expected, remedy=""))

    def delays_s(self) -> Iterator[float]:
        """The seconds to wait before each try."""
        for n in count() if self.tries is None else range(self.tries):
            whole = min(self.first_s * self.factor ** min(n, 64), self.most_s)
            yield whole * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class LiveReader:
    """Reads in a thread. `next` and `wait` give a frame newer than the last; `close` ends the thread."""

    def __init__(self, first: Opened, connect: Connect, reconnect: Reconnect, arrived: threading.Condition) -> None:
        """first: the connection that is open. arrived: is notified whenever there is something to `take`."""
        self.tally = VideoStats()
        self.gaps: deque[Gap] = deque(maxlen=_MOST_GAPS)
        self._connect, self._reconnect, self._arrived = connect, reconnect, arrived
        self._connection: Opened | None = first
        self._slot: VideoFrame | None = None
        self._over = False
        self._error: SourceError | None = None
        self._stop = threading.Event()
        self._lasting = first.target.kind == "stdin"  # nothing ends a read of it: its thread may outlive `close`
        self._index, self._epoch, self._last_s, self._began_s = -1, 0, 0.0, 0.0
        self._reason = ""
        self._thread = threading.Thread(target=self._run, name=f"eyas {first.target.source_id}", daemon=True)
        self._thread.start()

    def ready(self) -> bool:
        """Whether `take` has something to say."""
        return self._slot is not None or self._over

    def take(self) -> VideoFrame | None:
        """The newest frame, where there is one. Raises StopIteration at the end, SourceError where it failed."""
        with self._arrived:
            frame, self._slot = self._slot, None
            if frame is None and self._over:
                if self._error:
                    raise self._error
                raise StopIteration
            return frame

    def wait(self, timeout_s: float | None) -> VideoFrame | None:
        """As `take`, once there is something to take, or after so many seconds; None waits as long as it takes."""
        with self._arrived:
            self._arrived.wait_for(self.ready, timeout_s)
            return self.take()

    def next(self) -> VideoFrame:
        """As `take`, once there is one."""
        while True:
            if frame := self.wait(None):
                return frame

    def close(self) -> None:
        """End the thread: at once over HTTP, within the read time-out elsewhere; that of standard input ends later."""
        self._stop.set()
        if connection := self._connection:
            connection.abort()
        if self._lasting:
            self._end(None)
        elif self._thread is not threading.current_thread():
            self._thread.join()

    def _end(self, error: SourceError | None) -> None:
        with self._arrived:
            self._over, self._error = True, None if self._stop.is_set() else error
            self._arrived.notify_all()

    def _run(self) -> None:
        error: SourceError | None = None
        try:
            while connection := self._connection:
                error = self._read(connection)
                self._connection = None
                connection.close()
                if not self._stop.is_set() and connection.target.kind not in ("file", "pictures", "stdin"):
                    log.warning("%s; connecting again", self._reason)
                    self._connection, error = self._again(error)
        except Exception as unforeseen:
            error = SourceError(problem("reading failed", got=repr(unforeseen), expected="frames", remedy=""))
            error.__cause__ = unforeseen
        finally:
            self._end(error)

    def _read(self, connection: Opened) -> SourceError | None:
        """Read until it ends, which leaves the reason in `_reason`; the error, if it was one."""
        first_at: Fraction | None = None
        base_s, new = 0.0, True
        with closing(connection.frames(self.tally)) as frames:
            try:
                for image, at in frames:
                    now = monotonic()
                    if new:
                        self._began_s = self._began_s or now
                        base_s, first_at = now - self._began_s, at
                    clocked = connection.has_clock and at is not None and first_at is not None
                    pts_s = base_s + float(at - first_at) if clocked else now - self._began_s  # type: ignore[operator]
                    pts_s = max(pts_s, self._last_s)
                    if connection.target.kind in ("file", "pictures"):  # shown as it would come from a camera
                        self._stop.wait(max(0.0, pts_s - (monotonic() - self._began_s)))
                    self._put(image, connection.target.source_id, pts_s, new)
                    new = False
                    if self._stop.is_set():
                        break
            except SourceError as error:
                self._reason = str(error)
                return error
        self._reason = f"{connection.target.source_id} ended"
        return None

    def _begun(self, connection: Opened) -> None:
        self._connection = connection
        if self._stop.is_set():  # `close` may have looked before
            connection.abort()

    def _put(self, image: Image, source_id: str, pts_s: float, new: bool) -> None:
        with self._arrived:
            self._index += 1
            if new and self._index:
                self._epoch += 1
                self.gaps.append(Gap(self._last_s, pts_s, self._reason, self._epoch))
            self.tally.dropped += self._slot is not None
            self._last_s = pts_s
            self._slot = VideoFrame(image, self._index, source_id, pts_s, self._epoch, monotonic())
            self._arrived.notify_all()

    def _again(self, error: SourceError | None) -> tuple[Opened | None, SourceError | None]:
        """A new connection, or none and why: no try left, closed, or the broadcast is over."""
        for delay_s in self._reconnect.delays_s():
            if self._stop.wait(delay_s):
                return None, None
            try:
                connection = self._connect(self._begun)
            except SourceError as failed:
                error = failed
                continue
            if self._stop.is_set() or not connection.is_live:  # what was live is a recording now
                connection.close()
                return None, None
            self.tally.reconnects += 1
            return connection, None
        return None, error
