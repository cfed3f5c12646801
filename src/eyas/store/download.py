"""Fetch one file over HTTPS, resume what was left, and let it have its name only once its SHA-256 is right.

Each run downloads into a part file of its own, so that runs side by side cannot spoil each other's; a run starts with
a copy of the longest part that an earlier one left. The first to finish clears the others' away.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import secrets
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError

from eyas import __version__
from eyas.errors import ModelError, problem
from eyas.store.manifest import Entry, is_https, refuse

LARGEST_BYTES = 4 << 30  # where the manifest does not say
TIMEOUT_S = 30.0  # for each wait on the network, not for the whole
ABANDONED_S = 600.0  # nobody writes a part that is older: each wait ends after TIMEOUT_S
CHUNK_BYTES = 1 << 20
Progress = Callable[[int, int | None], None]


class _WrongFile(ModelError):
    """What came is not what the manifest names: nothing of it is kept."""


def fetch(entry: Entry, target: Path, progress: Progress) -> None:
    """Download `entry` to `target`. Raises ModelError for the network or a wrong file, OSError for the disk."""
    stem = f".{entry.name}+{entry.sha256[:16]}+"  # no name holds a plus
    part = target.with_name(f"{stem}{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as out:
            digest, mark = _copy_longest(part, stem, out)
            if digest.hexdigest() != entry.sha256:
                digest = _transfer(entry, part, out, digest, mark, progress)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != entry.sha256:
            remedy = f"It is deleted. Pull again; if it stays so, ask who keeps {entry.place}."
            got, expected = f"SHA-256 {digest.hexdigest()}", f"{entry.sha256}, as {entry.place} says"
            raise _WrongFile(problem(f"{entry.url} is another file", got=got, expected=expected, remedy=remedy))
        try:
            part.replace(target)
        except FileNotFoundError:  # another run was first, and has cleared this part away
            if sha256_of(target) != entry.sha256:
                raise
    except _WrongFile:
        _clear(part.parent, stem)  # the other parts too: this one may have begun with the fault of one of them
        raise
    except BaseException:
        with suppress(FileNotFoundError):
            os.utime(part, (0, 0))  # nobody writes it any more
        if not _mark(part).exists():
            part.unlink(missing_ok=True)
        raise
    _clear(part.parent, stem)


def _clear(folder: Path, stem: str) -> None:
    for left in folder.glob(f"{stem}*"):
        left.unlink(missing_ok=True)


def _mark(part: Path) -> Path:
    """Holds what tells the versions of the server's file apart, an ETag or a date; without it no part is resumed."""
    return part.with_suffix(".mark")


def _copy_longest(part: Path, stem: str, out: IO[bytes]) -> tuple[hashlib._Hash, bytes]:
    """Begin with what another run left, and return the SHA-256 so far, and the mark of that file."""
    digest, mark = hashlib.sha256(), b""
    with suppress(FileNotFoundError):  # the other run has just finished
        others = [p for p in part.parent.glob(f"{stem}*.part") if p != part and _mark(p).exists()]
        for source in sorted(others, key=lambda p: p.stat().st_size)[-1:]:
            mark = _mark(source).read_bytes()
            with source.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    out.write(chunk)
                    digest.update(chunk)
            _mark(part).write_bytes(mark)
        for old in others:
            if time.time() - old.stat().st_mtime > ABANDONED_S:
                old.unlink()
                _mark(old).unlink(missing_ok=True)
    return digest, mark


def _transfer(
    entry: Entry, part: Path, out: IO[bytes], digest: hashlib._Hash, mark: bytes, progress: Progress
) -> hashlib._Hash:
    """Fetch what is missing behind what `out` holds, or all of it, and return the SHA-256 of the whole."""
    with _online(entry):
        response, done = _open(entry.url, out.tell(), mark.decode("latin-1"))
    with response:
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if re.fullmatch("[0-9]{1,18}", length) else entry.size_bytes
        if total is not None:
            _check_size(entry, total)
        if not done:
            out.seek(0)
            out.truncate()
            digest = hashlib.sha256()
            _mark(part).unlink(missing_ok=True)
            etag = response.headers.get("ETag", "")
            if new := etag if etag.startswith('"') else response.headers.get("Last-Modified", ""):
                _mark(part).write_text(new, encoding="latin-1")
        progress(done, total)
        while True:
            with _online(entry):
                chunk = response.read1(CHUNK_BYTES)
            if not chunk:
                break
            done += len(chunk)
            if done > (entry.size_bytes or LARGEST_BYTES):
                _check_size(entry, done)
            out.write(chunk)
            digest.update(chunk)
            progress(done, total)
    if total is not None and done < total:
        got, expected = f"{done} bytes", f"{total} bytes"
        refuse(f"{entry.url} was cut off", got, expected, f"`eyas models pull {entry.name}` goes on from there.")
    return digest


def _check_size(entry: Entry, size: int) -> None:
    declared = entry.size_bytes
    if size != declared if declared else size > LARGEST_BYTES:
        expected = f"{declared} bytes, as {entry.place} says" if declared else f"at most {LARGEST_BYTES} bytes"
        remedy = f"If the url is right, put the size in {entry.place} right (bytes)."
        raise _WrongFile(problem(f"{entry.url} is another file", got=f"{size} bytes", expected=expected, remedy=remedy))


def _open(url: str, start: int, mark: str) -> tuple[http.client.HTTPResponse, int]:
    """The answer, and the byte that it begins with: `start`, or 0 where the server sends the whole file."""
    opener = urllib.request.OpenerDirector()
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    errors = (urllib.request.HTTPErrorProcessor(), urllib.request.HTTPDefaultErrorHandler())
    for handler in (urllib.request.ProxyHandler(), tls, _RedirectToHttps(), *errors):
        opener.add_handler(handler)
    wanted = {"Range": f"bytes={start}-", "If-Range": mark} if start else {}
    request = urllib.request.Request(url, headers={"User-Agent": f"eyas/{__version__}"} | wanted)  # noqa: S310
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        return _open(url, 0, "")
    if response.status == 206 and start and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        return response, start
    if response.status == 200:
        return response, 0
    response.close()
    if not start:
        raise http.client.HTTPException(f"status {response.status}")
    return _open(url, 0, "")


class _RedirectToHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not is_https(newurl):
            fp.close()
            raise URLError(f"a redirect to {newurl!r}, which is no plain https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _online(entry: Entry) -> Iterator[None]:
    """Say what the network did not do."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        got, expected = str(reason) or type(reason).__name__, "its bytes"
        remedy = f"Check the network and HTTPS_PROXY; `eyas models pull {entry.name}` starts again or goes on."
        if isinstance(error, HTTPError):
            error.close()
            got, expected = f"HTTP status {error.code} {error.reason}", "200 or 206"
            remedy = "Try again later." if error.code >= 500 else f"Check the url in {entry.place}."
        elif isinstance(reason, socket.gaierror):
            got = f"the host's name cannot be resolved ({reason})"
        elif isinstance(reason, ssl.SSLError):
            got, expected = f"TLS: {reason}", "a certificate that is trusted here"
            remedy = "SSL_CERT_FILE names a file with certificates of your own to trust."
        elif isinstance(reason, TimeoutError):
            got = f"nothing for {TIMEOUT_S:g} s"
        refuse(f"cannot download {entry.url}", got, expected, remedy)


def sha256_of(path: Path) -> str:
    """A file's SHA-256 in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
