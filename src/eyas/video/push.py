"""Sending video to a server from a process of its own, which takes coded packets through a pipe.

PyAV holds Python's lock while libav connects and sends. In the caller's process a server that accepts and then says
nothing would hold up every thread, and Ctrl-C with them; here it holds up only a child, which can be killed, and which
an alarm ends where the parent no longer does.

The pipe carries one line of JSON (where to send, never on a command line, where others could read a password), then NUT
(https://ffmpeg.org/nut.html), which unlike Matroska keeps times of any base exactly.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any, cast

from eyas.video.decode import pyav
from eyas.video.target import hide_password

log = logging.getLogger("eyas")
PUSH_TIMEOUT_S = 10.0  # a server that takes nothing for so long is given up
HURRY_S = 1.0  # and after an interruption
TURN_S = 0.05  # how soon a wait sees that it has become shorter
# No table of synchronisation points, which only seeking needs, and which would grow for ever.
NUT = {"syncpoints": "none", "write_index": "0", "strict": "experimental"}
_AT_ONCE = {"probesize": "32", "analyzeduration": "1", "fpsprobesize": "0"}  # one packet tells enough


class Push:
    """The file that a container (NUT) is written to; what is written goes to a server.

    While a thread waits in `write` or `close`, another may call `hurry` or `kill`.
    """

    def __init__(self, format: str, address: str) -> None:
        """format: libav's name of the container that the server takes. Raises OSError."""
        self._name, self._limit_s, self._why = hide_password(address), PUSH_TIMEOUT_S, ""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads might fill
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-c", "from eyas.video.push import main; main()"],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)},
                start_new_session=True,  # Ctrl-C is for the parent, which ends it
            )
        except BaseException:
            self._said.close()
            raise
        self._pipe = cast(io.FileIO, self._child.stdin)
        os.set_blocking(self._pipe.fileno(), False)
        self._room = select.poll()
        self._room.register(self._pipe, select.POLLOUT)
        head = {"format": format, "address": address, "limit_s": self._limit_s}
        self.write(json.dumps(head).encode() + b"\n")

    def write(self, data: Any) -> int:
        """Hand all of it over. Raises OSError where the child has failed, or takes nothing for PUSH_TIMEOUT_S."""
        view = memoryview(data).cast("B")
        done, since = 0, time.monotonic()
        while done < len(view):
            try:
                taken = self._pipe.write(view[done:])
            except (BrokenPipeError, ValueError):  # ValueError: it failed before, and the pipe is closed
                raise self._failure() from None
            if taken:
                done, since = done + taken, time.monotonic()
            elif time.monotonic() - since > self._limit_s:
                self.kill(_silent_for(self._limit_s))
            else:
                self._room.poll(TURN_S * 1000)
        return done

    def close(self) -> None:
        """Wait until all is sent, for PUSH_TIMEOUT_S at most; a second call does nothing. Raises OSError."""
        if self._pipe.closed:
            return
        self._pipe.close()
        since = time.monotonic()
        while self._child.poll() is None:
            if time.monotonic() - since > self._limit_s:
                self.kill(_silent_for(self._limit_s))
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(TURN_S)
        if self._child.returncode:
            raise self._failure()
        for line in self._lines():
            log.warning("%s: %s", self._name, line)

    def hurry(self) -> None:
        """From now on, wait for HURRY_S at most."""
        self._limit_s = min(self._limit_s, HURRY_S)

    def kill(self, why: str = "it was stopped") -> None:
        """End the child, if it has not ended of itself, whatever it has sent."""
        if self._child.poll() is None:
            self._why = why
            self._child.kill()
            self._child.wait()

    def _failure(self) -> OSError:
        """What the child has ended of; nothing is left open then."""
        if not self._said.closed:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(HURRY_S)  # its end of the pipe is closed, so it is about to end
            self.kill()
            self._pipe.close()
            lines, code = self._lines(), self._child.returncode
            told = _silent_for(PUSH_TIMEOUT_S) if code == -signal.SIGALRM else [f"exit code {code}", *lines][-1]
            self._why = self._why or told
        return OSError(errno.EIO, self._why)

    def _lines(self) -> list[str]:
        """What the child has said; it has ended."""
        with self._said as file:
            file.seek(0)
            return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _silent_for(seconds: float) -> str:
    return f"it took nothing for {seconds:g} s"


def main() -> None:
    """The child: send what comes on standard input. Exit code 1 and a line on standard error where that fails; killed
    by SIGALRM where the server takes nothing."""
    head = json.loads(open(0, "rb", buffering=0, closefd=False).readline())  # noqa: SIM115
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process also while libav holds Python's lock
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    logging.disable()  # PyAV's own remarks are not for standard error
    av = pyav()
    try:
        _send(av, head["format"], head["address"], head["limit_s"])
    except (av.FFmpegError, OSError, ValueError) as error:
        _tell(str(getattr(error, "strerror", None) or error), head["address"])
        os._exit(1)  # tidying up would speak to the server again


def _send(av: Any, format: str, address: str, limit_s: float) -> None:
    with av.open("pipe:0", format="nut", options=_AT_ONCE) as given:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        streams = [s for s in given.streams if s.type in ("video", "audio")]
        try:
            out, targets = _connected(av, format, address, streams)
        except (av.FFmpegError, ValueError) as error:
            streams = [s for s in streams if s.type == "video"]
            if len(streams) == len(given.streams):
                raise
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            out, targets = _connected(av, format, address, streams)
            _tell(f"the sound cannot go into it ({getattr(error, 'strerror', None) or error}): left out", address)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for packet in given.demux(streams):
            if packet.size:  # the last is empty
                packet.stream = targets[packet.stream_index]
                signal.setitimer(signal.ITIMER_REAL, limit_s)
                out.mux(packet)
                signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        out.close()


def _connected(av: Any, format: str, address: str, streams: list[Any]) -> tuple[Any, dict[int, Any]]:
    """The output, its header sent, and its stream for each of `streams`, by index."""
    settings = {"flush_packets": "1", "max_interleave_delta": "1000000"}
    if format == "rtsp":
        settings["rtsp_transport"] = "tcp"
    out = av.open(address, "w", format=format, options=settings)
    targets = {s.index: out.add_stream_from_template(s, opaque=True) for s in streams}
    out.start_encoding()
    return out, targets


def _tell(words: str, address: str) -> None:
    print(words.replace(address, hide_password(address)), file=sys.stderr, flush=True)
