"""Videos → frames, one at a time: `open_video`. Many at once: `eyas.video.many`.

A file loses nothing and waits for its reader; a live source (`eyas.video.live`) keeps only the newest frame.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from types import TracebackType

from eyas.errors import ImageError, OptionError, SourceError, problem
from eyas.imagefile import MAX_PIXELS
from eyas.types import Image, decodes_on_gpu
from eyas.video.container import Connection, RawVideo
from eyas.video.frames import PULSE_S, Gap, Opened, VideoFrame, VideoStats
from eyas.video.live import LiveReader, Reconnect
from eyas.video.target import Target, listed_pictures, target_of

log = logging.getLogger("eyas")
SHORT_S = 0.5  # a file that ends so much before its announced end is told of


class VideoSource:
    """An iterator of `VideoFrame`, and a context manager. For one thread; `close` may come from another.

    source_id: its name. path: the file it is read from, if it is one. live: whether it drops what is not fetched.
    rate: frames a second on average, and duration_s, both as announced; None where they are not.
    start_s: where pts_s 0 lies on the container's own clock, in seconds: what sound must be shifted by to go with the
    frames. None before the first frame, and of live sources.
    """

    def __init__(self, opened: Opened, reader: LiveReader | FileReader) -> None:
        """Use `open_video`."""
        target = opened.target
        self.source_id, self.path = target.source_id, target.where if target.kind == "file" else None
        self.rate, self.duration_s = opened.rate, opened.duration_s
        self.reader, self.live = reader, isinstance(reader, LiveReader)
        self._closed = False

    @property
    def start_s(self) -> Fraction | None:
        """Where pts_s 0 lies, in seconds of the container."""
        return None if isinstance(self.reader, LiveReader) else self.reader.start_s

    @property
    def stats(self) -> VideoStats:
        """What has happened so far."""
        return replace(self.reader.tally)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The interruptions so far, oldest first (the last thousand)."""
        return tuple(self.reader.gaps) if isinstance(self.reader, LiveReader) else ()

    def __iter__(self) -> VideoSource:
        return self

    def __next__(self) -> VideoFrame:
        """The next frame of a file, or one of a live source that is newer than the last. Raises SourceError."""
        if self._closed:
            raise StopIteration
        return self.reader.next()

    def pulses(self) -> Generator[VideoFrame | None, None, None]:
        """The frames, and None each 10 ms in which a live source has none: for who has something else to do then."""
        while not self._closed:
            try:
                frame = self.reader.wait(PULSE_S) if isinstance(self.reader, LiveReader) else self.reader.next()
            except StopIteration:
                return
            yield frame

    def close(self) -> None:
        """End the reading and let go of the source; a second call does nothing."""
        self._closed = True
        self.reader.close()

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_video(
    source: str | os.PathLike[str] | int,
    *,
    live: bool | None = None,
    reconnect: Reconnect | bool = True,
    timeout_s: float = 10.0,
    max_pixels: int = MAX_PIXELS,
    allow_private: bool | None = None,
    raw: RawVideo | None = None,
    rate: float = 25.0,
    decode: str = "host",
    device: str | None = None,
    arrived: threading.Condition | None = None,
) -> VideoSource:
    """Open a video; its frames are uint8 BGR, upright, each with its time.

    source: a file; a folder, glob or pattern (img_%04d.jpg) of pictures; a camera's number (0 for /dev/video0; Linux);
    an address (http, https, rtsp, rtsps, rtmp, rtmps, udp, rtp); "-" for standard input.
    live: keep only the newest frame; None: cameras and broadcasts do, files and recordings do not.
    reconnect: how a broken live connection is made anew; False ends it there. timeout_s: of connecting, and of waiting
    for a frame, in seconds; standard input may take as long as it will.
    max_pixels: the most pixels of a frame. allow_private: what may be reached beside what was named. None: public
    addresses; True: private ones and, from a playlist in a file, other files too; False: public addresses only, also
    where `source` names another. raw: what bytes without a header are. rate: frames a second of pictures.
    decode: "host", or "gpu": H.264 and H.265 are decoded on the device, "cuda" or "cuda:N", and stay there: a frame's
    image is then a `DeviceImage`, its `pixels` a copy on the host (docs/video.md).
    arrived: is notified when a live source has a frame (see `open_videos`).
    Raises SourceError, OptionError; EyasError where PyAV is not installed (`pip install 'eyas[video]'`), with "gpu"
    PyNvVideoCodec too; BackendError where that finds no GPU.
    """
    if not (0 < timeout_s <= 3600 and 0 < rate <= 1000 and max_pixels > 0):
        got = f"timeout_s {timeout_s}, rate {rate}, max_pixels {max_pixels}"
        expected = "0 to 3600 seconds, 0 to 1000 frames a second, at least 1 pixel"
        raise OptionError(problem("the video's settings are out of range", got=got, expected=expected, remedy=""))
    gpu = _gpu(decode, device)
    target = target_of(source)
    if raw is not None and target.kind in ("pictures", "camera", "stream"):
        what, expected = "bare pixels (--raw, raw) cannot be read there", "a file, an http address or standard input"
        remedy = "Leave raw out: this source says itself what it is."
        raise OptionError(problem(what, got=target.source_id, expected=expected, remedy=remedy))

    def connect(begun: Callable[[Opened], None] | None = None) -> Opened:
        if target.kind == "pictures":
            if gpu is not None:
                log.warning("%s: pictures of a row are decoded on the host", target.source_id)
            return PictureRow(target, Fraction(rate).limit_denominator(1001), max_pixels)
        return Connection(
            target,
            timeout_s=timeout_s,
            max_pixels=max_pixels,
            allow_private=allow_private,
            raw=raw,
            live=live,
            gpu=gpu,
            begun=begun,
        )

    opened = connect()
    if opened.is_live if live is None else live:
        again = reconnect if isinstance(reconnect, Reconnect) else Reconnect(tries=None if reconnect else 0)
        return VideoSource(opened, LiveReader(opened, connect, again, arrived or threading.Condition()))
    return VideoSource(opened, FileReader(opened))


def _gpu(decode: str, device: str | None) -> int | None:
    """The number of the GPU that decodes; None for the host. Raises as `open_video`."""
    if not decodes_on_gpu(decode):
        return None
    from eyas.cuda.device import index_of, open_device
    from eyas.cuda.video import pynvvideocodec

    gpu = index_of(device, "decode='gpu'")
    open_device(gpu)
    pynvvideocodec()
    return gpu


class PictureRow:
    """Pictures as a video, so many a second; see `eyas.video.frames.Opened`."""

    def __init__(self, target: Target, rate: Fraction, max_pixels: int) -> None:
        """Lists them. Raises SourceError."""
        self.target, self.is_live, self.has_clock = target, False, True
        self.rate: Fraction | None = rate
        self.start: Fraction | None = Fraction(0)
        self.announced = 0
        self._pictures = listed_pictures(target.where, max_pixels)
        with suppress(ImageError):  # one that cannot be read is passed over in its turn
            self._pictures[0].load()
        self.duration_s: float | None = float(len(self._pictures) / rate)
        self._step_s = 1 / rate

    def frames(self, tally: VideoStats) -> Generator[tuple[Image, Fraction | None], None, None]:
        """A picture that cannot be read is counted, and its time passes."""
        for picture in self._pictures:
            try:
                image = picture.load().image
            except ImageError as error:
                log.warning("%s", error)
                tally.broken += 1
                continue
            tally.frames += 1
            yield image, picture.index * self._step_s

    def abort(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held open."""


class FileReader:
    """Reads when asked. start_s: see `VideoSource`. `close` may come from another thread than `next`."""

    def __init__(self, opened: Opened) -> None:
        self.tally = VideoStats()
        self.start_s: Fraction | None = None
        self._opened, self._frames = opened, self._read(opened)
        self._reading, self._closed = threading.Lock(), False

    def next(self) -> VideoFrame:
        """The next frame. Raises StopIteration, SourceError."""
        try:
            with self._reading:
                return next(self._frames)
        finally:
            if self._closed:
                self.close()

    def close(self) -> None:
        """Let go of the source; while another thread is in `next`, that one does, as soon as its read ends."""
        self._closed = True
        self._opened.abort()
        if self._reading.acquire(blocking=False):
            try:
                self._frames.close()
                self._opened.close()
            finally:
                self._reading.release()

    def _read(self, opened: Opened) -> Generator[VideoFrame, None, None]:
        name, step, last = opened.target.source_id, 1 / (opened.rate or Fraction(25)), None
        for image, at in opened.frames(self.tally):
            if at is None:  # a container without times: as fast as it announces
                at = (opened.start or Fraction(0)) if last is None else last + step
            if self.start_s is None:
                self.start_s = at if opened.start is None else min(at, opened.start)
            last = at if last is None else max(at, last)
            yield VideoFrame(image, self.tally.frames - 1, name, float(at - self.start_s))
        if last is None or self.start_s is None:
            got, expected = f"{self.tally.broken} broken packets or pictures", "at least one frame"
            raise SourceError(problem(f"nothing in {name} can be decoded", got=got, expected=expected, remedy=""))
        end_s = float(last + step - self.start_s)
        if opened.duration_s is not None and end_s < opened.duration_s - SHORT_S:
            log.warning("%s ends at %.2f s; %.2f s were announced: is it cut off?", name, end_s, opened.duration_s)
        self.tally.missing = max(0, opened.announced - self.tally.frames - self.tally.broken)
        if self.tally.missing:
            log.warning("%s: %d of the announced frames are missing", name, self.tally.missing)
        if self.tally.broken:
            log.warning("%s: %d packets or pictures could not be decoded", name, self.tally.broken)
