"""Annotated video in a browser: the newest frame to everybody who looks, as MJPEG over HTTP."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar

import cv2

from eyas.annotate import draw
from eyas.errors import OptionError, SinkError, problem
from eyas.results import Classification, Detections, Prediction, Result
from eyas.types import Image
from eyas.video.sink import checked

log = logging.getLogger("eyas")
BOUNDARY = "eyas-frame"
LOOK_S = 1.0  # so often it is seen whether a client that waits for a picture is still there
PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>eyas</title>
<style>html,body{margin:0;height:100%;background:#111}img{width:100%;height:100%;object-fit:contain}</style>
<img src="/stream.mjpg" alt="annotated video"></html>
"""


class MjpegServer:
    """Serves / (a page), /stream.mjpg and /frame.jpg; a context manager. `write` takes predictions, `add` pictures.

    A client that is slow misses frames; one that takes nothing for `patience_s` is let go, and over max_clients it is
    told to come later (503). port: the one that was bound.
    """

    holds: ClassVar[tuple[type[Result], ...]] = (Detections, Classification)

    def __init__(
        self,
        port: int = 8080,
        *,
        host: str = "127.0.0.1",
        quality: int = 80,
        max_clients: int = 16,
        patience_s: float = 5.0,
    ) -> None:
        """port: 0 for any free one. host: 127.0.0.1 shows it to this machine only, 0.0.0.0 to everybody, without a
        password. quality: of the JPEG pictures, 1 to 100. Raises SinkError, OptionError."""
        if not (0 <= port <= 65535 and 1 <= quality <= 100 and max_clients >= 1 and 0 < patience_s <= 3600):
            got = f"port {port}, quality {quality}, max_clients {max_clients}, patience_s {patience_s}"
            raise OptionError(
                problem("the server's settings are out of range", got=got, expected="see docs", remedy="")
            )
        self._quality, self._changed = quality, threading.Condition()
        self._draw: Callable[[], Image] | None = None
        self._jpeg, self._number, self._encoded = b"", 0, 0
        self._closed = False
        try:
            self._server = _Server((host, port), self, max_clients, patience_s)
        except OSError as error:
            got = error.strerror or str(error)
            what, remedy = f"cannot listen on {host}, port {port}", "Choose another port; 0 takes a free one."
            raise SinkError(problem(what, got=got, expected="a free port", remedy=remedy)) from error
        self.host, self.port = host, int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="eyas mjpeg", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{self.host}:{self.port}/"

    def write(self, prediction: Prediction) -> None:
        """Show the frame with what was found drawn in; nothing of one that has an error. Raises SinkError."""
        frame, result = prediction.frame, prediction.result
        if frame is None or result is None:
            return
        if not isinstance(result, (Detections, Classification)):
            what, got = "MjpegServer cannot draw the model's results", type(result).__name__
            raise SinkError(problem(what, got=got, expected="Detections or Classification", remedy=""))
        self._show(lambda: draw(frame.pixels, result))

    def add(self, image: Image) -> None:
        """Show a picture (uint8 BGR); it must not be changed afterwards. Raises SinkError."""
        checked(image)
        self._show(lambda: image)

    def _show(self, make: Callable[[], Image]) -> None:
        """Drawn and encoded only if somebody looks, and in that client's thread."""
        with self._changed:
            self._draw, self._number = make, self._number + 1
            self._changed.notify_all()

    def next_jpeg(self, after: int, gone: Callable[[], bool]) -> tuple[int, bytes]:
        """Wait for a picture newer than number `after`: its number and content; (0, b"") once it is closed.

        gone: whether nobody waits for it any more, asked each second without a picture; if so, (0, b"") too.
        """
        with self._changed:
            while not self._changed.wait_for(lambda: self._closed or self._number > after, LOOK_S):
                if gone():
                    return 0, b""
            if self._closed or self._draw is None:
                return 0, b""
            if self._encoded != self._number:  # one client encodes for all
                done, data = cv2.imencode(".jpg", self._draw(), [cv2.IMWRITE_JPEG_QUALITY, self._quality])
                self._jpeg, self._encoded = data.tobytes() if done else b"", self._number
            return self._number, self._jpeg

    def close(self) -> None:
        """Let all clients go and end the server; a second call does nothing."""
        with self._changed:
            closed, self._closed = self._closed, True
            self._changed.notify_all()
        if not closed:
            self._server.shutdown()
            self._server.let_go()
            self._server.server_close()  # waits for the clients' threads
            self._thread.join()

    def __enter__(self) -> MjpegServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self, place: tuple[str, int], mjpeg: MjpegServer, most: int, patience_s: float) -> None:
        self.mjpeg, self.patience_s = mjpeg, patience_s
        self._room = threading.Semaphore(most)
        self._clients: set[socket.socket] = set()
        super().__init__(place, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each connection, while there is room."""
        if self._room.acquire(blocking=False):
            self._clients.add(request)
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            request.settimeout(0.1)
            request.sendall(b"HTTP/1.0 503 Too many clients\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._clients.discard(request)
            self._room.release()

    def let_go(self) -> None:
        """End all connections: who sends or takes nothing would hold up the closing."""
        for client in self._clients.copy():
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""
        log.debug("%s: %s", client_address, sys.exc_info()[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.patience_s)  # of every read and write

    def do_GET(self) -> None:
        """One of the three addresses."""
        mjpeg = self.server.mjpeg
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer("text/html; charset=utf-8", PAGE)
        elif path == "/frame.jpg":
            if data := mjpeg.next_jpeg(0, self._gone)[1]:
                self._answer("image/jpeg", data)
        elif path == "/stream.mjpg":
            self._begin(f"multipart/x-mixed-replace; boundary={BOUNDARY}", None)
            number = 0
            while True:
                number, data = mjpeg.next_jpeg(number, self._gone)
                if not data:
                    return
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
        else:
            self.send_error(404)

    def _gone(self) -> bool:
        """Whether the client has closed the connection."""
        self.connection.settimeout(0)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.connection.settimeout(self.server.patience_s)

    def _answer(self, kind: str, data: bytes) -> None:
        self._begin(kind, len(data))
        self.wfile.write(data)

    def _begin(self, kind: str, length: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests go to eyas' log, for those who want to see them."""
        log.debug("%s: %s", self.client_address[0], format % args)
