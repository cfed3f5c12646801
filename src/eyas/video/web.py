"""HTTP for libav: every address is checked before it is connected to, also those that a playlist or redirect names.

libav's own HTTP would follow redirects to any host, and its HLS reader any address in a playlist. So libav is given
only bytes; who is spoken to is decided here, on the resolved address, at the moment of the connection.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import urllib.request
import weakref
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from eyas.errors import SourceError, problem
from eyas.video.target import WEB_SCHEMES, hide_password

Connect = Callable[[str, int, float, "ssl.SSLContext | None"], socket.socket]
_PLAIN = "%!$&'()*+,;=:@/?"  # what stands in a path or query as it is (RFC 3986, 3.3 and 3.4)
_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}


class Reach:
    """Which addresses may be connected to.

    allow_private: True, every one; None, public ones and those that `url`, which the user named, resolves to; False,
    public ones only, `url`'s too. Public is what the IANA registries call globally reachable
    (`ipaddress.ip_address.is_global`). Raises SourceError where `url` itself may not be reached.
    """

    def __init__(self, url: str, allow_private: bool | None) -> None:
        self.allow_private = allow_private
        parts = urlsplit(url)
        self._named: set[tuple[str, int]] = set()
        with suppress(OSError):  # an unknown host is told of where the connection is made
            port = parts.port or _PORTS.get(parts.scheme, 0)
            self._named = set() if allow_private is False else set(_resolve(parts.hostname or "", port))
            if allow_private is False and parts.scheme not in WEB_SCHEMES:  # libav connects itself
                for ip, number in _resolve(parts.hostname or "", port):
                    self.check(ip, number, parts.hostname or "")

    def check(self, ip: str, port: int, host: str) -> None:
        """Raise SourceError unless `ip`, which `host` resolved to, may be connected to."""
        if self.allow_private or (ip, port) in self._named or _is_public(ip):
            return
        raise SourceError(
            problem(
                f"{host} is not to be reached",
                got=f"the private address {ip}, port {port}",
                expected="a public address" + ("" if self.allow_private is False else ", or the one that was named"),
                remedy="If it is meant, allow_private=True lets playlists, redirects and names lead there.",
            )
        )

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """A connection to the first address of `host` that answers, each checked. Raises SourceError, OSError."""
        last: OSError | None = None
        for ip, number in _resolve(host, port):
            self.check(ip, number, host)
            try:
                return socket.create_connection((ip, number), timeout_s)
            except OSError as error:
                last = error
        raise last or OSError("the host has no address")


def _resolve(host: str, port: int) -> list[tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host!r} is no name of a host") from error
    return list(dict.fromkeys((str(address[0]), port) for *_, address in found))


def _is_public(ip: str) -> bool:
    address = ipaddress.ip_address(ip.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return (mapped or address).is_global and not address.is_multicast


class Web:
    """Opens addresses as files for libav. `abort` ends whatever waits, from another thread.

    timeout_s: of connecting and of each read. refused: the first SourceError that libav may have swallowed.
    size: of what was opened first, in bytes; None where its server does not say.
    """

    def __init__(self, reach: Reach, timeout_s: float) -> None:
        self.reach, self.timeout_s = reach, timeout_s
        self.refused: SourceError | None = None
        self.size: int | None = None
        self._first = True
        self.deadline_s = monotonic() + timeout_s
        self.aborted = False
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._files: weakref.WeakSet[WebFile] = weakref.WeakSet()

    def extend(self) -> None:
        """Something came: the time for the next thing begins."""
        self.deadline_s = monotonic() + self.timeout_s

    def abort(self) -> None:
        """Shut all connections."""
        self.aborted = True
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def open(self, url: str, flags: int = 1, options: Any = None) -> WebFile:
        """libav's `io_open`: a file of what lies at `url`. Raises SourceError."""
        try:
            if (scheme := urlsplit(url).scheme.lower()) not in WEB_SCHEMES or flags != 1:
                what, expected = "what was opened leads elsewhere", "http or https"
                raise SourceError(
                    problem(what, got=f"{hide_password(url)} ({scheme or 'a file'})", expected=expected, remedy="")
                )
            file = WebFile(self, url)
            if self._first:
                self._first, self.size = False, file.size
            self._files.add(file)
            return file
        except SourceError as error:
            self.refused = self.refused or error
            raise

    def close(self) -> None:
        """Close every file; libav leaves some open where it fails."""
        self.abort()
        for file in list(self._files):
            file.close()

    def request(self, url: str, start: int) -> http.client.HTTPResponse:
        """The answer to a GET from byte `start` on. Raises SourceError."""
        parts = urlsplit(url)
        path, query = quote(parts.path, safe=_PLAIN), quote(parts.query, safe=_PLAIN)
        plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))
        opener = urllib.request.OpenerDirector()
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        if parts.username is not None:
            passwords.add_password(None, plain, unquote(parts.username), unquote(parts.password or ""))
        for handler in (
            _Handler(self._connect),
            _TlsHandler(self._connect),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPBasicAuthHandler(passwords),
            urllib.request.HTTPDigestAuthHandler(passwords),
        ):
            opener.add_handler(handler)
        headers = {"User-Agent": "eyas", "Accept": "*/*"} | ({"Range": f"bytes={start}-"} if start else {})
        request = urllib.request.Request(plain, headers=headers)  # noqa: S310 - the scheme has been checked
        try:
            answer: http.client.HTTPResponse = opener.open(request, timeout=self.timeout_s)
        except HTTPError as error:
            with error:
                raise _failed(plain, f"HTTP {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise _failed(plain, str(reason) or type(reason).__name__) from error
        if start and answer.status != 206:
            answer.close()
            raise _failed(plain, "no answer from the middle of the file (no Range)")
        return answer

    def _connect(self, host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None) -> socket.socket:
        sock = self.reach.connect(host, port, timeout_s)
        if tls:
            sock = tls.wrap_socket(sock, server_hostname=host)
        self._sockets.add(sock)
        if self.aborted:  # `abort` may have looked before this one was there
            sock.close()
            raise OSError("closed")
        return sock


def _failed(url: str, got: str) -> SourceError:
    remedy = "Check the address, the user and password in it, and that the server runs."
    return SourceError(problem(f"{url} cannot be read", got=got, expected="an answer with video", remedy=remedy))


class WebFile:
    """What lies at an address, as a file to read; seekable where the server takes byte ranges."""

    def __init__(self, web: Web, url: str) -> None:
        """Raises SourceError."""
        self._web, self._url, self._at = web, url, 0
        self._answer = web.request(url, 0)
        self.content_type = self._answer.headers.get_content_type()
        length = self._answer.headers.get("Content-Length", "")
        self.size = int(length) if length.isdecimal() else None
        self._ranges = self.size is not None and self._answer.headers.get("Accept-Ranges", "").lower() == "bytes"

    def read(self, n: int) -> bytes:
        """Up to n bytes, as soon as some are there; b"" at the end. Raises SourceError, OSError."""
        if monotonic() > self._web.deadline_s:
            raise TimeoutError("timed out")
        if self.size is not None and self._at >= self.size:
            return b""
        try:
            data = self._answer.read1(n)
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"the connection broke: {error}") from error
        if not data and self.size is not None and not self._web.aborted:
            raise OSError(f"the connection broke at byte {self._at} of {self.size}")
        self._at += len(data)
        return data

    def seekable(self) -> bool:
        """Whether the server takes byte ranges."""
        return self._ranges

    def seek(self, offset: int, whence: int = 0) -> int:
        """Ask for the bytes from another place on. Raises SourceError."""
        to = offset + (0, self._at, self.size or 0)[whence]
        if to != self._at:
            self._answer.close()
            self._at = to
            if self.size is None or to < self.size:
                self._answer = self._web.request(self._url, to)
        return to

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def close(self) -> None:
        """End the connection."""
        self._answer.close()


class _Handler(urllib.request.HTTPHandler):
    def __init__(self, connect: Connect) -> None:
        super().__init__()

        class Plain(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = connect(self.host, self.port, float(self.timeout or 10), None)

        self._kind = Plain

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, request)


class _TlsHandler(urllib.request.HTTPSHandler):
    def __init__(self, connect: Connect) -> None:
        super().__init__()
        tls = ssl.create_default_context()

        class Tls(http.client.HTTPSConnection):
            def connect(self) -> None:
                self.sock = connect(self.host, self.port, float(self.timeout or 10), tls)

        self._kind = Tls

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, request)
