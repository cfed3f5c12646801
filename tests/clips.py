"""Short videos made on the spot: what each frame shows tells which one it is, and when it should be shown.

Frame i is of one grey, 16 + 8 · (i mod 28), so that it survives any codec; `number` reads it back (modulo 28).
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path

import cv2
import numpy as np
import pytest

av = pytest.importorskip("av", reason="the extra `video` (PyAV) is not installed")

RING = 28
TICK = Fraction(1, 90000)


def grey(i: int) -> int:
    return 16 + 8 * (i % RING)


def picture(i: int, size: tuple[int, int] = (36, 64)) -> np.ndarray:
    """Frame i, (height, width): BGR, all of one grey."""
    return np.full((*size, 3), grey(i), np.uint8)


def number(image: np.ndarray) -> int:
    """Which frame an image is, modulo 28."""
    return round((float(image.mean()) - 16) / 8) % RING


def constant(n: int, rate: Fraction | int = 30) -> list[Fraction]:
    return [Fraction(i) / rate for i in range(n)]


def mixed(n: int) -> list[Fraction]:
    """A third at 30, a third at 30000/1001, the rest at intervals that change from frame to frame."""
    steps = [Fraction(1, 30)] * (n // 3) + [Fraction(1001, 30000)] * (n // 3)
    steps += [Fraction(2000 + 1500 * (i % 4), 90000) for i in range(n - len(steps))]
    return [Fraction(0), *accumulate(steps[:-1])]


def write(
    path: Path,
    times: Sequence[Fraction],
    *,
    size: tuple[int, int] = (36, 64),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    images: Iterable[np.ndarray] | None = None,
    rotate: float | None = None,
    matrix: Sequence[int] | None = None,
    audio: str | None = None,
    gop: int = 12,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """A video whose frame i is shown at times[i] seconds. audio: a codec for a 440 Hz tone as long as the frames."""
    with av.open(str(path), "w", format=format, options=container or {}) as out:
        rate = Fraction(30) if len(times) < 2 else 1 / (times[1] - times[0])
        stream = out.add_stream(codec, rate=rate, width=size[1], height=size[0], pix_fmt=pixel_format)
        clocked = path.suffix not in (".avi", ".mjpeg")
        stream.codec_context.time_base = TICK if clocked else 1 / rate
        stream.codec_context.gop_size = gop
        stream.options = (
            options if options is not None else ({"crf": "10", "preset": "ultrafast"} if "264" in codec else {})
        )
        if rotate is not None:
            stream.set_display_rotation(rotate)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        sound = out.add_stream(audio, rate=48000, bit_rate=128_000) if audio else None
        sent = 0
        for i, (at, image) in enumerate(
            zip(times, images or (picture(i, size) for i in range(len(times))), strict=False)
        ):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            base = stream.codec_context.time_base
            frame.pts, frame.time_base = round(at / base), base
            out.mux(stream.encode(frame))
            upto = int((times[i + 1] if i + 1 < len(times) else at + 1 / rate) * 48000)
            while sound and sent + 1024 <= upto:
                out.mux(sound.encode(_tone(sent, sound)))
                sent += 1024
        out.mux(stream.encode(None))
        if sound:
            out.mux(sound.encode(None))
    return path


def _tone(start: int, sound):
    wave = (8000 * np.sin(2 * np.pi * 440 / 48000 * np.arange(start, start + 1024))).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
    return frame


def tone_only(path: Path) -> Path:
    """A file without pictures."""
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=48000)
        for start in range(0, 48000, 1024):
            out.mux(sound.encode(_tone(start, sound)))
        out.mux(sound.encode(None))
    return path


def broken(path: Path, source: Path, share: float = 0.02, seed: int = 0) -> Path:
    """A copy in which some bytes of the second half are random, the last kilobytes (an index) left alone."""
    data = bytearray(source.read_bytes())
    rng = np.random.default_rng(seed)
    low, high = len(data) // 2, max(len(data) // 2 + 1, len(data) - 4096)
    for at in rng.integers(low, high, int((high - low) * share)):
        data[at] = rng.integers(256)
    path.write_bytes(data)
    return path


def times_of(path: Path) -> list[Fraction]:
    """When each frame is shown, as PyAV alone reads it."""
    with av.open(str(path)) as file:
        return [f.pts * f.time_base for f in file.decode(video=0)]


def jpeg(i: int, size: tuple[int, int] = (36, 64)) -> bytes:
    return cv2.imencode(".jpg", picture(i, size))[1].tobytes()


Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """An HTTP server on a free or given port of 127.0.0.1; answers by path."""

    def __init__(self, answers: dict[str, Answer], port: int = 0) -> None:
        server = self
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                with suppress(OSError):  # the client has gone
                    answers.get(self.path, lambda h: h.send_error(404))(self)

            def log_message(self, *args: object) -> None:
                pass

        class Quick(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self.stopping = threading.Event()
        self._server = Quick(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def mjpeg(self, *, fps: float = 100, most: int | None = None, freeze_at: int | None = None) -> Answer:
        """A camera's endless answer; freeze_at: after so many pictures it says nothing more."""

        def answer(h: BaseHTTPRequestHandler) -> None:
            h.send_response(200)
            h.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            h.end_headers()
            i = 0
            while not self.stopping.is_set() and (most is None or i < most):
                if freeze_at is not None and i >= freeze_at:
                    self.stopping.wait(0.05)
                    continue
                data = jpeg(i)
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                h.wfile.write(head.encode() + data + b"\r\n")
                i += 1
                time.sleep(1 / fps)

        return answer


def content(data: bytes, kind: str = "application/octet-stream", ranges: bool = True) -> Answer:
    """A file, byte ranges and all."""

    def answer(h: BaseHTTPRequestHandler) -> None:
        start = int(h.headers.get("Range", "bytes=0-")[6:].split("-")[0]) if ranges else 0
        h.send_response(206 if start else 200)
        h.send_header("Content-Type", kind)
        h.send_header("Content-Length", str(len(data) - start))
        if ranges:
            h.send_header("Accept-Ranges", "bytes")
        if start:
            h.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        h.end_headers()
        h.wfile.write(data[start:])

    return answer


def redirect(to: str) -> Answer:
    def answer(h: BaseHTTPRequestHandler) -> None:
        h.send_response(302)
        h.send_header("Location", to)
        h.send_header("Content-Length", "0")
        h.end_headers()

    return answer


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Fails where a thread of eyas outlives the block."""
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("eyas ")]


class RtspServer:
    """An RTSP server (RFC 2326) that plays one MPEG-TS file over the control connection (interleaved RTP, RFC 2250)."""

    def __init__(self, data: bytes, *, pause_s: float = 0.001) -> None:
        self._data, self._pause_s = data, pause_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        self.sessions = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.sessions += 1
                with client, suppress(OSError):
                    self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        file = client.makefile("rb")
        while line := file.readline().decode():
            headers = {}
            while (header := file.readline().decode().strip()) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            verb, body, more = line.split()[0], b"", ""
            if verb == "OPTIONS":
                more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif verb == "DESCRIBE":
                body = (
                    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track1\r\n"
                )
                more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif verb == "SETUP":
                more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            elif verb == "PLAY":
                more = "Session: 1\r\n"
            client.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{more}\r\n".encode() + body)
            if verb == "PLAY":
                for n, at in enumerate(range(0, len(self._data), 7 * 188)):
                    part = self._data[at : at + 7 * 188]
                    rtp = struct.pack(">BBHII", 0x80, 33, n & 0xFFFF, n * 300, 7) + part
                    client.sendall(struct.pack(">cBH", b"$", 0, len(rtp)) + rtp)
                    time.sleep(self._pause_s)
            if verb in ("PLAY", "TEARDOWN"):
                return

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
