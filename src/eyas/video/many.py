"""Many videos at once: frames of all of them, whichever has one, each source in its turn."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

from eyas.errors import SourceError, problem
from eyas.video.frames import PULSE_S, VideoFrame
from eyas.video.live import LiveReader
from eyas.video.source import VideoSource, open_video
from eyas.video.target import hide_password, listed_sources

log = logging.getLogger("eyas")


class VideoSources:
    """An iterator of the frames of several sources, and a context manager; `source_id` tells which one a frame is of.

    sources: those that are open. failed: the others, by name, and why; also those that failed later.
    """

    def __init__(
        self, sources: list[VideoSource], failed: dict[str, SourceError], arrived: threading.Condition
    ) -> None:
        """Use `open_videos`."""
        self.sources, self.failed = tuple(sources), failed
        self._turns, self._arrived = list(sources), arrived

    def __iter__(self) -> VideoSources:
        return self

    def __next__(self) -> VideoFrame:
        """A frame: of each source that has one in turn. A source that fails is told of and left out."""
        while True:
            if frame := self._next(None):
                return frame

    def pulses(self) -> Generator[VideoFrame | None, None, None]:
        """The frames, and None each 10 ms in which no live source has one: for who has something else to do then."""
        while True:
            try:
                frame = self._next(PULSE_S)
            except StopIteration:
                return
            yield frame

    def _next(self, timeout_s: float | None) -> VideoFrame | None:
        """A frame, or None after so many seconds without one. Raises StopIteration.

        Who has had its turn goes to the end of the row, so that a source which has a frame waits for at most one of
        each other source, however many frames these have.
        """
        while self._turns:
            for source in list(self._turns):
                with suppress(ValueError):  # closed by another thread
                    self._turns.remove(source)
                try:
                    frame = source.reader.take() if isinstance(source.reader, LiveReader) else next(source)
                except StopIteration:
                    continue
                except SourceError as error:
                    log.warning("%s", error)
                    self.failed[source.source_id] = error
                    continue
                self._turns.append(source)
                if frame is not None:
                    return frame
            if self._turns and not self._wait(timeout_s):
                return None
        raise StopIteration

    def _wait(self, timeout_s: float | None) -> bool:
        """Until a live source has something (a file always has), but at most so many seconds; whether it has."""
        readers = [s.reader for s in self._turns if isinstance(s.reader, LiveReader)]
        if len(readers) < len(self._turns):
            return True
        with self._arrived:
            return self._arrived.wait_for(lambda: any(r.ready() for r in readers), timeout_s)

    def close(self) -> None:
        """Close all."""
        self._turns.clear()
        for source in self.sources:
            source.close()

    def __enter__(self) -> VideoSources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_videos(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str] | int], **settings: Any
) -> VideoSources:
    """Open several videos. sources: a list file (.txt or .streams: one a line, # begins a line of comment), or they.

    settings: as for `open_video`. One that cannot be opened is told of and left out. Raises SourceError where none can.
    """
    named = listed_sources(sources) if isinstance(sources, (str, os.PathLike)) else list(sources)
    arrived = threading.Condition()
    opened: list[VideoSource] = []
    failed: dict[str, SourceError] = {}
    try:
        for name in named:
            try:
                opened.append(open_video(name, **settings, arrived=arrived))
            except SourceError as error:
                log.warning("%s", error)
                failed[hide_password(str(name))] = error
    except BaseException:
        for source in opened:
            source.close()
        raise
    if not opened:
        reasons = "; ".join(map(str, failed.values())) or "an empty list"
        expected = "at least one that can be opened"
        raise SourceError(problem("no video can be opened", got=reasons, expected=expected, remedy=""))
    return VideoSources(opened, failed, arrived)
