"""One opened video: libav's container (PyAV) → packets → uint8 BGR pictures with their time.

A packet that cannot be decoded is counted and passed over. What libav may open is told to it here: for a local file
that file only, and only in containers that name no other file; see docs/video.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any

from eyas.errors import OptionError, SourceError, problem
from eyas.types import Image
from eyas.video.decode import BrokenPacket, Decoder, HostDecoder, pyav
from eyas.video.frames import VideoStats
from eyas.video.piped import HEAD, MOST_HEAD, check_pipe, unfit
from eyas.video.target import Target
from eyas.video.web import Reach, Web

# Containers and raw streams that hold the video themselves: no playlists (hls, concat, dash), no descriptions (sdp).
CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,nut,mxf,gxf,dv,wtv,rm,gif,apng,mjpeg,mpjpeg,h264,hevc,vvc,obu,"
    "av1,ivf,m4v,h263,vc1,yuv4mpegpipe,dhav,nuv,dirac,rawvideo"
)
# Nothing in these says when a picture is shown.
CLOCKLESS = frozenset(["mjpeg", "mpjpeg", "rawvideo", "h264", "hevc", "vvc", "obu", "av1", "m4v", "h263", "vc1"])
_STREAM_FORMATS = {"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "flv", "rtmps": "flv", "udp": "mpegts", "rtp": "rtp"}
_LIVE_OPTIONS = {"analyzeduration": "1000000", "fpsprobesize": "0"}
_MOST_ERRORS = 64  # so many reads that fail one after the other end a video


@dataclass(frozen=True, slots=True)
class RawVideo:
    """What bytes without a header are: width and height in pixels, frames a second, libav's name of a pixel format."""

    width: int
    height: int
    rate: float = 30.0
    pixel_format: str = "bgr24"

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0 and 0 < self.rate <= 1000):
            expected = "a positive size, and more than 0 to 1000 frames a second"
            raise OptionError(problem("the raw video makes no sense", got=self, expected=expected, remedy=""))


class Connection:
    """A video that libav reads; see `eyas.video.frames.Opened`."""

    web: Web | None = None

    def __init__(
        self,
        target: Target,
        *,
        timeout_s: float,
        max_pixels: int,
        allow_private: bool | None,
        raw: RawVideo | None,
        live: bool | None,
        gpu: int | None = None,
        begun: Callable[[Connection], None] | None = None,
    ) -> None:
        """Opens; see `eyas.video.open_video`. gpu: the one that decodes; None: the host. Raises as it.

        begun: is called before the connection is made, so that another thread can `abort` that as well.
        """
        self.target, self.max_pixels, self.timeout_s = target, max_pixels, timeout_s
        self._av, self._gpu = pyav(), gpu
        self._deadline_s = monotonic() + timeout_s
        arguments = self._arguments(allow_private, raw, live)
        options = arguments["options"] | {"max_pixels": str(max_pixels)}
        if begun:
            begun(self)
        try:
            self.container = self._av.open(mode="r", **arguments | {"options": options})
        except (self._av.FFmpegError, OSError, SourceError, ValueError) as error:
            if self.web:
                self.web.close()
            raise self._explained(error) from error
        try:
            self.stream = self._video_stream()
        except BaseException:
            self.close()
            raise
        self.format = self.container.format.name
        self.has_clock = self.format.split(",")[0] not in CLOCKLESS
        endless = self.format == "mpjpeg" or (  # a playlist's own size says nothing
            self.container.duration is None and (self.format == "hls" or self.web is None or self.web.size is None)
        )
        self.is_live = target.kind in ("camera", "stream") or (target.kind == "web" and endless)
        stream, duration = self.stream, self.container.duration
        self.rate: Fraction | None = stream.average_rate or stream.guessed_rate or None
        self.duration_s: float | None = None if duration is None else duration / self._av.time_base
        if stream.duration is not None and self.duration_s is not None:  # sound may last longer
            self.duration_s = min(self.duration_s, float(stream.duration * stream.time_base))
        self.start: Fraction | None = None if stream.start_time is None else stream.start_time * stream.time_base
        if "matroska" in self.format and self.start and self.duration_s is not None:  # counted from 0, not from there
            self.duration_s = max(0.0, self.duration_s - float(self.start))
        self.announced: int = stream.frames
        self.low_delay = self.is_live if live is None else live
        self.stream.thread_type = "SLICE" if self.low_delay else "AUTO"  # threads by frame hold frames back

    def _arguments(self, allow_private: bool | None, raw: RawVideo | None, live: bool | None) -> dict[str, Any]:
        """What to open, and how: the arguments of `av.open`. Raises SourceError."""
        where, kind = self.target.where, self.target.kind
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        found: dict[str, Any] = {"file": where, "options": options}
        if raw:
            try:
                self._av.VideoFormat(raw.pixel_format)
            except ValueError as error:
                what, expected = "unknown pixel format of raw video", "libav's name of one, such as bgr24 or yuv420p"
                raise OptionError(problem(what, got=repr(raw.pixel_format), expected=expected, remedy="")) from error
            options |= {
                "video_size": f"{raw.width}x{raw.height}",
                "framerate": str(Fraction(raw.rate).limit_denominator()),
            }
            options |= {"pixel_format": raw.pixel_format}
            found["format"] = "rawvideo"
        if kind == "file":
            self._look(where)
            found["file"] = f"file:{where}"
            if allow_private and _is_playlist(where):
                options |= {
                    "format_whitelist": f"{CONTAINERS},hls",
                    "protocol_whitelist": "file,http,https,tcp,tls,crypto",
                }
        elif kind == "stdin":
            if sys.stdin is None or sys.stdin.isatty():
                what, remedy = "nothing comes on standard input", "Write … | eyas …"
                raise SourceError(problem(what, got="a terminal", expected="a video's bytes", remedy=remedy))
            pipe = _Pipe(sys.stdin.buffer)
            check_pipe(pipe.head(), bare=raw is not None)
            found["file"] = pipe
        elif kind == "camera":
            found |= {"format": "v4l2", "options": {}, "timeout": self.timeout_s}
        elif kind == "web":
            self.web = Web(Reach(where, allow_private), self.timeout_s)
            # HLS must ask us for every connection, and use none again.
            options |= {"format_whitelist": f"{CONTAINERS},hls", "http_persistent": "0", "http_multiple": "0"}
            options |= {"protocol_whitelist": "http,https,crypto,data"}
            found["io_open"] = self.web.open
        else:
            Reach(where, allow_private)
            scheme = where.partition(":")[0].lower()
            found |= {"format": _STREAM_FORMATS[scheme], "timeout": self.timeout_s}
            options |= {
                "format_whitelist": f"{CONTAINERS},rtsp,rtp,sdp",
                "protocol_whitelist": f"{scheme},rtp,tcp,tls,udp,rtmp",
            }
            options |= {"rtsp_transport": "tcp"} if scheme.startswith("rtsp") else {}
        if live or (live is None and kind in ("camera", "stream", "web")):
            options |= _LIVE_OPTIONS
        return found

    def _look(self, path: str) -> None:
        """Raise SourceError for what is known to be no video before libav is asked."""
        with suppress(OSError):
            if Path(path).is_file() and not Path(path).stat().st_size:
                remedy = "Was the recording cut off?"
                raise SourceError(problem(f"{path} is empty", got="0 bytes", expected="a video", remedy=remedy))

    def _video_stream(self) -> Any:
        attached = self._av.stream.Disposition.attached_pic  # a song's cover
        videos = [s for s in self.container.streams.video if not s.disposition & attached and s.codec_context]
        if not videos:
            kinds = ", ".join(s.type for s in self.container.streams) or "no stream at all"
            what, remedy = f"{self.target.source_id} holds no video", "Check with ffprobe what is in it."
            raise SourceError(problem(what, got=kinds, expected="a stream of pictures", remedy=remedy))
        best = max(videos, key=lambda s: s.width * s.height)  # the first of the largest
        if best.width * best.height > self.max_pixels:
            raise self._too_large(best.width, best.height)
        best.codec_context.options = {"max_pixels": str(self.max_pixels)}
        return best

    def _too_large(self, width: int, height: int) -> SourceError:
        what, expected = f"{self.target.source_id} is too large", f"at most {self.max_pixels} pixels a frame"
        return SourceError(problem(what, got=f"{width} × {height}", expected=expected, remedy="Raise max_pixels."))

    def _explained(self, error: Exception) -> SourceError:
        """What libav, Python or we said when it was opened, as a SourceError."""
        name = self.target.source_id
        if self.web and self.web.refused:
            return self.web.refused
        if isinstance(error, SourceError):
            return error
        if self.target.kind == "file" and _is_playlist(self.target.where):
            return SourceError(
                problem(
                    f"{name} is a playlist",
                    got="a list of other files and addresses",
                    expected="the video itself",
                    remedy="If you trust it, allow_private=True follows it.",
                )
            )
        if isinstance(error, (self._av.error.InvalidDataError, self._av.error.ArgumentError)):
            if self.target.kind == "stdin":
                return unfit("what libav finds no video in")
            remedy = "Is it complete? An mp4 whose recording was cut off lacks its index (moov) and cannot be read."
            expected = "a video, in a container that eyas reads"
            return SourceError(problem(f"{name} is no video", got="other data", expected=expected, remedy=remedy))
        got = "nothing in time" if _timed_out(self._av, error) else getattr(error, "strerror", None) or str(error)
        remedy = "Check that it is there, and who may read it."
        return SourceError(problem(f"{name} cannot be opened", got=got, expected="a video", remedy=remedy))

    def frames(self, tally: VideoStats) -> Generator[tuple[Image, Fraction | None], None, None]:
        """(uint8 BGR [H, W, 3], its time on the container's clock in seconds, None where it has none), to the end.

        Raises SourceError where a network source or camera stops; a file that cannot be read further just ends.
        """
        self.extend()
        decoder = self._decoder()
        try:
            for packet in self._packets(tally):
                self.announced -= packet.is_discard  # an edit list leaves it out
                try:
                    found = decoder.decode(packet)
                except (self._av.FFmpegError, BrokenPacket):
                    tally.broken += 1
                    found = []
                for (height, width), at, picture in found:
                    if height * width > self.max_pixels:
                        raise self._too_large(width, height)
                    self.extend()
                    tally.frames += 1
                    yield picture(), at
                    self.extend()  # how long the reader was busy with it does not count
        finally:
            decoder.close()

    def _decoder(self) -> Decoder:
        if self._gpu is None:
            return HostDecoder()
        from eyas.cuda.video import GpuDecoder

        return GpuDecoder(self.stream, self._gpu, self.target.source_id, low_delay=self.low_delay)

    def _packets(self, tally: VideoStats) -> Iterator[Any]:
        """The video's packets, then the one that flushes the decoder."""
        failures = 0
        while True:
            try:
                for packet in self.container.demux():
                    failures = 0
                    if packet.stream_index == self.stream.index:
                        yield packet
                    self._check_deadline()
                break
            except (self._av.FFmpegError, OSError, SourceError) as error:
                if self.web and self.web.refused:
                    raise self.web.refused from error
                failures += 1
                last = not isinstance(error, self._av.error.InvalidDataError) or failures >= _MOST_ERRORS
                if last and (self.target.kind not in ("file", "stdin") or isinstance(error, SourceError)):
                    raise self._stopped(error) from error
                tally.broken += 1
                if last:
                    break
        if self.web and self.web.refused:
            raise self.web.refused

    def _stopped(self, error: Exception) -> SourceError:
        if isinstance(error, SourceError):
            return error
        timed_out = _timed_out(self._av, error)
        got = f"nothing for {self.timeout_s:g} s" if timed_out else getattr(error, "strerror", None) or str(error)
        what, remedy = f"{self.target.source_id} stopped", "Check the camera or server, and the network."
        return SourceError(problem(what, got=got, expected="more frames", remedy=remedy))

    def extend(self) -> None:
        """A frame came: the time for the next one begins."""
        self._deadline_s = monotonic() + self.timeout_s
        if self.web:
            self.web.extend()

    def _check_deadline(self) -> None:
        """Packets of sound may come while the picture has stopped."""
        if self.target.kind in ("web", "stream", "camera") and monotonic() > self._deadline_s:
            raise self._stopped(TimeoutError())

    def abort(self) -> None:
        """End a waiting read from another thread: at once over HTTP, within `timeout_s` elsewhere."""
        if self.web:
            self.web.abort()

    def close(self) -> None:
        """Let go of the file or connection."""
        self.container.close()
        if self.web:
            self.web.close()


def _timed_out(av: Any, error: Exception) -> bool:
    return isinstance(error, (TimeoutError, av.error.ExitError))


class _Pipe:
    """Bytes that come once: only `read`, so that libav does not seek. Returns what is there, without waiting for n.

    `head` gives the first ones beforehand; `read` then gives them again.

    What is buffered already comes first; then the file itself is read: a thread that waits in the buffer's lock when
    Python ends makes that a fatal error.
    """

    def __init__(self, file: Any) -> None:
        self.name = "stdin"
        buffered: Callable[[int], bytes] = getattr(file, "read1", file.read)
        raw = getattr(file, "raw", None)
        self._first: Callable[[int], bytes] | None = buffered
        self._read: Callable[[int], bytes | None] = raw.read if raw else buffered
        self._seen = b""

    def head(self) -> bytes:
        """At least the first 64 bytes, or all there are; waits for them."""
        while len(self._seen) < HEAD and (more := self._next(MOST_HEAD)):
            self._seen += more
        return self._seen

    def read(self, n: int) -> bytes:
        if self._seen:
            given, self._seen = self._seen[:n], self._seen[n:]
            return given
        return self._next(n)

    def _next(self, n: int) -> bytes:
        first, self._first = self._first, None
        return (first or self._read)(n) or b""


def _is_playlist(path: str) -> bool:
    if not Path(path).is_file():  # a pipe would wait for ever, or lose what is read here
        return False
    with suppress(OSError), Path(path).open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"#EXTM3U")
    return False
