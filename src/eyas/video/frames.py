"""What passes between the parts of a video source: frames, counts, gaps, and what an opened video can do."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from eyas.types import Frame, Image
from eyas.video.target import Target

PULSE_S = 0.01  # so long `pulses` waits for a frame at a time


@dataclass(frozen=True, slots=True)
class VideoFrame(Frame):
    """A frame of a video. epoch: how many gaps came before it; a live source's index counts what was dropped too.

    arrived_s: when a live source's frame had been decoded, on `time.monotonic`'s clock; None of files.
    """

    epoch: int = 0
    arrived_s: float | None = field(default=None, compare=False)


def epoch_of(frame: Frame) -> int:
    """Of a video's frame; 0 of a picture."""
    return frame.epoch if isinstance(frame, VideoFrame) else 0


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without frames. start_s, end_s: pts_s of the last frame before it and the first one after it.

    reason: why the connection was given up. epoch: that of the frames after it.
    """

    start_s: float
    end_s: float
    reason: str
    epoch: int


@dataclass(slots=True)
class VideoStats:
    """frames: decoded. dropped: of these, pushed out by a newer one (live). broken: packets or pictures that could
    not be decoded. reconnects: how often a connection was made anew. missing: frames that a file announces and, at its
    end, has not given, those that are broken not counted again; 0 where it announces none."""

    frames: int = 0
    dropped: int = 0
    broken: int = 0
    reconnects: int = 0
    missing: int = 0


class Opened(Protocol):
    """An opened video.

    is_live: whether it is a broadcast or a camera. has_clock: whether its times mean something. rate: frames a second,
    duration_s: both as announced. start: the time of its first frame, as announced, in seconds. announced: so many
    frames to show, as the container says; 0 where it does not.
    """

    target: Target
    is_live: bool
    has_clock: bool
    rate: Fraction | None
    duration_s: float | None
    start: Fraction | None
    announced: int

    def frames(self, tally: VideoStats) -> Generator[tuple[Image, Fraction | None], None, None]:
        """(uint8 BGR [H, W, 3], its time in seconds, None where it has none), to the end. Raises SourceError."""

    def abort(self) -> None:
        """End a waiting read from another thread, where that can be done."""

    def close(self) -> None:
        """Let go of it."""
