"""Annotated video: frames with what was found drawn → H.264 in mp4, mov or mkv, or sent to a server (rtmp, rtsp).

The frames keep their times. What is written can be played at any moment: mp4 and mov grow in fragments, a few seconds
each, and `close` makes an ordinary file of them in place, with one index.
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import cv2
import numpy as np

from eyas.annotate import draw
from eyas.errors import OptionError, SinkError, problem
from eyas.files import make_folder
from eyas.results import Classification, Detections, Prediction, Result
from eyas.types import Image, is_image, kind_of
from eyas.video.decode import pyav
from eyas.video.push import NUT, Push
from eyas.video.sound import Sound
from eyas.video.source import VideoSource
from eyas.video.target import hide_password

log = logging.getLogger("eyas")
TICK = Fraction(1, 90_000)  # the time base: 30, 25 and 30000/1001 frames a second are whole in it
MOST_STEP_S = 20_000  # libav's mov reader loses all times after a longer frame (2^31 ticks)
FRAGMENT_S = 2.0  # a key frame, and with it a new fragment, at least so often
SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
SERVERS = {"rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp"}
ENCODERS = {  # without B frames times are as given, and few frames wait in the encoder
    "libx264": {"crf": "23", "preset": "veryfast", "bf": "0", "rc-lookahead": "10", "forced-idr": "1"},
    "mpeg4": {"b": "8000000"},
}
_BT601 = 6  # matrix, primaries and transfer curve of ITU-R BT.601 with 525 lines, in the numbers of ITU-T H.273


class VideoSink:
    """Writes one video; a context manager. `write` takes predictions, `add` pictures.

    encoder: "libx264", or "mpeg4" where this PyAV has no libx264. size: the (height, width) of what is written: that of
    the first frame, a side that is odd rounded up. Other sizes are fitted into it, with black beside.
    sound: whether sound is copied; a server may still not take it.
    """

    holds: ClassVar[tuple[type[Result], ...]] = (Detections, Classification)

    def __init__(
        self,
        place: str | os.PathLike[str],
        *,
        sound_of: VideoSource | None = None,
        rate: float = 25.0,
        labels: bool = True,
        line_width: int | None = None,
        encoder: str | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        """place: a file named .mp4, .m4v, .mov or .mkv, begun with the first frame; or an rtmp or rtsp address.

        sound_of: where the frames come from; if it is a file, its sound is copied as it is, where the container takes
        it. rate: frames a second of frames without a time. labels, line_width: see `draw`. encoder, options: another
        encoder of libav's, and what it is told. Raises SinkError, OptionError.
        """
        self._av = pyav()
        self.place = os.fspath(place)
        scheme = self.place.partition("://")[0].lower() if "://" in self.place else None
        suffix = Path(self.place).suffix.lower()
        self._format = SERVERS.get(scheme, "") if scheme else SUFFIXES.get(suffix, "")
        self._is_file = scheme is None
        self.name = self.place if self._is_file else hide_password(self.place)
        if not self._format:
            expected = f"a file named {', '.join(SUFFIXES)}, or an address of {', '.join(SERVERS)}"
            raise SinkError(problem("video cannot go there", got=self.name, expected=expected, remedy=""))
        if self._is_file and sound_of and sound_of.path and _same(self.place, sound_of.path):
            raise SinkError(problem(_ITSELF, got=self.place, expected="another file", remedy=""))
        if not 0 < rate <= 1000:
            raise OptionError(problem("rate is out of range", got=rate, expected="0 to 1000", remedy=""))
        self.encoder = encoder or next((e for e in ENCODERS if e in self._av.codecs_available), "")
        try:
            self._av.Codec(self.encoder, "w")
        except ValueError as error:
            expected, remedy = "one of libav's in this PyAV", "Leave it out for libx264 or mpeg4."
            raise OptionError(
                problem("unknown encoder", got=repr(self.encoder), expected=expected, remedy=remedy)
            ) from error
        self._tick = Fraction(1, 60_000) if self.encoder == "mpeg4" else TICK  # MPEG-4 counts in 16 bits
        self._options = ENCODERS.get(self.encoder, {}) if options is None else options
        self.labels, self.line_width = labels, line_width
        self._source, self._step = sound_of, 1 / Fraction(rate).limit_denominator(1001)
        self.size: tuple[int, int] | None = None
        self.sound = False
        self.frames = 0
        self._out: Any = None
        # An interruption (Ctrl-C) comes in the main thread only: here no packet is lost between encoder and file.
        self._thread = ThreadPoolExecutor(1, "eyas video sink")
        self._going: Future[None] | None = None  # what it is at: one picture is encoded while the next is converted
        self._stream: Any = None
        self._file: _File | None = None
        self._push: Push | None = None
        self._sound: Sound | None = None
        self._planes: Any = None
        self._last: int | None = None  # in ticks
        self._key_at = 0
        self._closed = False

    def write(self, prediction: Prediction) -> None:
        """Add the frame with what was found drawn in; nothing of one that has an error. Raises SinkError."""
        frame, result = prediction.frame, prediction.result
        if frame is None or result is None:
            return
        if self._is_file and self._out is None and _same(self.place, frame.source_id):
            raise SinkError(problem(_ITSELF, got=self.place, expected="another file", remedy=""))
        if not isinstance(result, self.holds):
            expected = " or ".join(kind.__name__ for kind in self.holds)
            what, got = f"{type(self).__name__} cannot draw the model's results", type(result).__name__
            raise SinkError(problem(what, got=got, expected=expected, remedy=""))
        assert isinstance(result, (Detections, Classification))  # noqa: S101 - as `holds` says
        self.add(draw(frame.pixels, result, labels=self.labels, line_width=self.line_width), frame.pts_s)

    def add(self, image: Image, pts_s: float | None = None) -> None:
        """Add a picture (uint8 BGR) that is shown at pts_s seconds; None: one step after the last.

        Times that do not rise are moved to one tick (1/90000 s) after the last; in mp4 and mov the last picture is
        repeated each 20 000 s until then. Raises SinkError, also for the picture before.
        """
        if self._closed:
            raise SinkError(problem("the video is closed", got="another frame", expected="none", remedy=""))
        if pts_s is not None and not (math.isfinite(pts_s) and (self._last is not None or pts_s >= 0)):
            expected = "seconds from the beginning, 0 or more"
            raise SinkError(problem("a frame's time is out of range", got=pts_s, expected=expected, remedy=""))
        image = checked(image)
        if self._out is None:
            self._open(*image.shape[:2])
        assert self.size  # noqa: S101 - _open sets it
        step = round(self._step / self._tick)
        ticks = (0 if self._last is None else self._last + step) if pts_s is None else round(pts_s / self._tick)
        if self._last is not None:
            ticks = max(ticks, self._last + 1)
            most = round(MOST_STEP_S / self._tick)
            while self._format in ("mp4", "mov") and ticks - self._last > most:
                self._encode(self._last + most)
        self._planes = cv2.cvtColor(fitted(image, self.size), cv2.COLOR_BGR2YUV_I420)
        self._encode(ticks)
        self.frames += 1

    def _encode(self, ticks: int) -> None:
        """Begin to write the picture in `_planes`."""
        # The quick way copies nothing, but takes heights of 4n alone (PyAV 18).
        made = self._av.VideoFrame
        frame = (made.from_ndarray if len(self._planes) % 6 else made.from_numpy_buffer)(self._planes, "yuv420p")
        frame.colorspace, frame.color_range = _BT601, 1
        frame.pts, frame.time_base = ticks, self._tick
        if self._last is None or (ticks - self._key_at) * self._tick >= FRAGMENT_S:
            frame.pict_type = self._av.video.frame.PictureType.I
            self._key_at = ticks
        self._last = ticks
        self._await()
        self._going = self._thread.submit(self._mux, frame, ticks * self._tick)

    def _await(self) -> None:
        """The picture before has been written."""
        going, self._going = self._going, None
        if going:
            self._result(going)

    def _result(self, done: Future[None]) -> None:
        """Wait for what the thread is at; an interruption while it is closed ends the wait for a server."""
        try:
            with self._refusals():
                done.result()
        except KeyboardInterrupt:
            if self._push and self._closed:
                self._push.kill()
            raise

    def close(self) -> None:
        """Finish the file, or wait until all is sent; a second call does nothing. Raises SinkError."""
        closed, self._closed = self._closed, True
        if closed or self._out is None:
            return
        try:
            end_s = ((self._last or 0) + round(self._step / self._tick)) * self._tick
            finished = self._thread.submit(self._finish, end_s)  # whatever has become of the last picture
            try:
                self._await()
            finally:
                self._result(finished)
        finally:
            if self._push:
                self._push.kill()  # where it has not ended of itself
            self._thread.shutdown()
            if self._sound:
                self._sound.close()
            if self._file:
                self._file.close()
            self._drop_push()

    def hurry(self) -> None:
        """Wait for a server for a second at most from now on; for any thread."""
        if push := self._push:
            push.hurry()

    def _drop_push(self) -> None:
        """End the child, if it has not ended of itself. In no other thread is anything written then."""
        push, self._push = self._push, None
        if push:
            push.kill()
            with suppress(OSError):
                push.close()

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind:
            self.hurry()
        with suppress(SinkError) if kind else nullcontext():  # the first error is the one to tell
            self.close()

    def _open(self, height: int, width: int) -> None:
        try:
            self._begin(height, width)
        except BaseException:  # nothing has been written that `close` could finish
            for part in (self._sound, self._file):
                if part:
                    part.close()
            self._drop_push()
            self._out = self._sound = self._file = None
            raise

    def _begin(self, height: int, width: int) -> None:
        self.size = height + height % 2, width + width % 2
        source = self._source
        if source and source.path and source.start_s is not None:
            try:
                self._sound = Sound.of(source.path, source.start_s)
            except (self._av.FFmpegError, OSError) as error:
                log.warning("%s: the sound of %s cannot be read (%s): left out", self.name, source.path, error)
        with self._refusals():
            if self._is_file:
                make_folder(Path(self.place).parent)
                self._file = _File(self.place, "wb")
            try:
                self._start(self._sound)
            except (self._av.FFmpegError, ValueError) as error:
                if self._sound is None:
                    raise
                log.warning("%s: the sound cannot go into it (%s): left out", self.name, error)
                self._sound.close()
                self._sound = None
                if self._file:
                    self._file.seek(0)
                    self._file.truncate()
                self._start(None)
        self.sound = self._sound is not None

    def _start(self, sound: Sound | None) -> None:
        """Open the container and write its header."""
        assert self.size  # noqa: S101 - _open sets it
        settings = {"flush_packets": "1", "max_interleave_delta": "1000000"}
        if self._format in ("mp4", "mov"):
            settings["movflags"] = "frag_keyframe+delay_moov+default_base_moof+hybrid_fragmented"
        elif self._is_file:
            settings["cluster_time_limit"] = "1000"  # ms: so much may be lost
            settings["avoid_negative_ts"] = "disabled"  # else sound that begins early would move the frames
        else:
            self._drop_push()
            self._push = Push(self._format, self.place)
            settings |= NUT
        format = self._format if self._is_file else "nut"
        self._out = self._av.open(self._file or self._push, "w", format=format, options=settings)
        options = dict(self._options)
        if not self._is_file and self.encoder == "libx264":
            options.setdefault("tune", "zerolatency")
        rate = Fraction(round(1 / self._step)) if self._step else None
        height, width = self.size
        self._stream = self._out.add_stream(self.encoder, rate=rate, width=width, height=height, pix_fmt="yuv420p")
        context = self._stream.codec_context
        context.time_base = self._tick
        context.gop_size = 600
        context.colorspace, context.color_range = _BT601, 1
        context.color_primaries = context.color_trc = _BT601
        self._stream.options = options
        if self._is_file:  # libx264 then takes a picture a thread; a slice of one, PyAV's choice, waits for less
            context.thread_type = "AUTO"
        if sound:
            sound.stream = self._out.add_stream_from_template(sound.template)
        self._out.start_encoding()

    def _mux(self, frame: Any, until_s: Fraction) -> None:
        """Encode a frame (None: the last ones) and write what there is, with the sound until then. In the thread."""
        if self._sound:
            for packet in self._sound.until(until_s):
                self._out.mux(packet)
        self._out.mux(self._stream.encode(frame))

    def _finish(self, end_s: Fraction) -> None:
        """Write what is left, and the index. In the thread."""
        try:
            self._mux(None, end_s)
        finally:
            self._out.close()
            if self._push:
                self._push.close()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn libav's and the system's refusals into SinkErrors."""
        try:
            yield
        except (self._av.FFmpegError, OSError, ValueError) as error:
            got = getattr(error, "strerror", None) or str(error)
            remedy = "Check the place, who may write there, and the free space."
            expected = f"a place for {self.encoder} in {self._format}"
            raise SinkError(problem(f"cannot write {self.name}", got=got, expected=expected, remedy=remedy)) from error


_ITSELF = "the video would be written over itself"


def checked(image: Image) -> Image:
    """`image`, if it is one on the host: uint8 BGR [H, W, 3], at least 1 × 1. Raises SinkError."""
    if is_image(image):
        return image
    expected, remedy = "numpy uint8 [height, width, 3] in BGR order", "For grey: cv2.cvtColor; for a Frame: its pixels."
    raise SinkError(problem("this is no picture to show", got=kind_of(image), expected=expected, remedy=remedy))


class _File(io.FileIO):
    """An unbuffered file that writes all or raises: what libav has given away is on its way to the disk."""

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += super().write(view[done:]) or 0
        return done


def _same(a: str, b: str) -> bool:
    with suppress(OSError, ValueError):
        return Path(a).samefile(b)
    return False


def fitted(image: Image, size: tuple[int, int]) -> Image:
    """`image` in a picture of `size` (height, width): as it is where at most a row and column lack, which repeat the
    last; else scaled to fit, in the middle, with black beside."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return np.ascontiguousarray(image)
    if 0 <= size[0] - height <= 1 and 0 <= size[1] - width <= 1:
        edges = (0, size[0] - height, 0, size[1] - width)
        return np.asarray(cv2.copyMakeBorder(image, *edges, cv2.BORDER_REPLICATE), np.uint8)
    scale = min(size[0] / height, size[1] / width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (size[0] - inner[1]) // 2, (size[1] - inner[0]) // 2
    out = np.zeros((*size, 3), np.uint8)
    out[top : top + inner[1], left : left + inner[0]] = small
    return out
