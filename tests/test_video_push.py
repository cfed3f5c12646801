"""Video sent to servers: packets arrive unchanged, and a server that says nothing holds up no thread and no Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import pytest
from clips import av, mixed, picture, write

from eyas.errors import SinkError
from eyas.video import VideoSink
from eyas.video import push as pushing
from eyas.video.push import NUT, Push

ROOT = Path(__file__).parents[1]
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")


@pytest.fixture
def silent() -> Iterator[str]:
    """The host and port of a server that takes connections (the system does so for it) and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "PUSH_TIMEOUT_S", 1.0)


def until(true: Callable[[], Any]) -> Any:
    """What `true` gives as soon as that is something."""
    end = time.monotonic() + 30
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def send(push: Push, clip: Path) -> list[tuple[int, Fraction, bytes]]:
    """Send a clip's packets, and close the push. Returns (stream, time in seconds, content) of each."""
    sent = []
    with av.open(str(clip)) as source, av.open(push, "w", format="nut", options=NUT | {"flush_packets": "1"}) as out:
        streams = [out.add_stream_from_template(s) for s in source.streams]
        for packet in source.demux():
            if packet.size:
                sent.append((packet.stream_index, packet.pts * packet.time_base, bytes(packet)))
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    push.close()
    return sent


def received(path: Path) -> list[tuple[int, Fraction, bytes]]:
    with av.open(str(path)) as file:
        return [(p.stream_index, p.pts * p.time_base, bytes(p)) for p in file.demux() if p.size]


# ---- what arrives ----


def test_packets_arrive_as_they_were_with_their_times_to_the_tick(tmp_path: Path):
    clip = write(tmp_path / "a.mkv", mixed(60), options={"bf": "0"})
    push = Push("nut", str(tmp_path / "b.nut"))
    sent = send(push, clip)
    assert len(sent) == 60
    assert received(tmp_path / "b.nut") == sent


def test_a_packet_is_sent_before_the_next_one_comes(tmp_path: Path):
    push = Push("nut", str(tmp_path / "b.nut"))
    with av.open(push, "w", format="nut", options=NUT | {"flush_packets": "1"}) as out:
        stream = out.add_stream("libx264", rate=25, width=64, height=36, pix_fmt="yuv420p")
        stream.options = {"tune": "zerolatency"}
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(picture(i), format="bgr24")
            frame.pts = i
            out.mux(stream.encode(frame))
            until(lambda n=i + 1: arrived(tmp_path / "b.nut") == n)
    push.close()


def arrived(path: Path) -> int:
    try:
        return len(received(path))
    except (OSError, av.FFmpegError):  # not even a header
        return 0


def test_sound_that_the_server_does_not_take_is_left_out_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    clip = write(tmp_path / "a.mkv", mixed(30), audio="pcm_s16le")  # flv has none of 48000 samples a second
    push = Push("flv", str(tmp_path / "b.flv"))
    with caplog.at_level(logging.WARNING, "eyas"):
        send(push, clip)
    assert "left out" in caplog.text
    assert len(clips.times_of(tmp_path / "b.flv")) == 30
    with av.open(str(tmp_path / "b.flv")) as file:
        assert not file.streams.audio


# ---- what may go wrong ----


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("scheme", ["rtmp", "rtsp"])
def test_a_server_that_says_nothing_is_given_up(silent: str, scheme: str):
    sink = VideoSink(f"{scheme}://{silent}/x")
    with clips.no_thread_left(), pytest.raises(SinkError, match=rf"cannot write {scheme}.*took nothing for 1 s"), sink:
        fill(sink)


def fill(sink: VideoSink) -> None:
    """Many more frames than fit into the pipe."""
    for i in range(1_000_000):
        sink.add(picture(i), i / 30)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("scheme", ["rtmp", "rtsp"])
def test_a_server_that_says_nothing_does_not_hold_up_the_end(silent: str, scheme: str):
    sink = VideoSink(f"{scheme}://{silent}/x")
    sink.add(picture(0), 0)
    with clips.no_thread_left(), pytest.raises(SinkError, match="took nothing for 1 s"):
        sink.close()
    sink.close()


@pytest.mark.usefixtures("soon")
def test_a_child_that_stands_still_is_given_up(tmp_path: Path):
    push = Push("flv", str(tmp_path / "b.flv"))
    os.kill(push._child.pid, signal.SIGSTOP)
    with pytest.raises(OSError, match="took nothing for 1 s"):
        push.write(bytes(1 << 20))
    with pytest.raises(OSError, match="took nothing for 1 s"):
        push.write(b"more")
    assert push._child.returncode == -signal.SIGKILL


def test_what_the_child_met_is_told(tmp_path: Path):
    push = Push("flv", str(tmp_path / "nowhere" / "b.flv"))
    clip = write(tmp_path / "a.mkv", mixed(5))
    with pytest.raises(OSError, match="No such file"):
        send(push, clip)
    assert push._child.returncode == 1


@needs_proc
@pytest.mark.usefixtures("soon")
def test_a_password_is_not_for_all_to_read(silent: str):
    sink = VideoSink(f"rtmp://user:word@{silent}/x")
    sink.add(picture(0), 0)
    (child,) = children(os.getpid())
    variables = until(Path(f"/proc/{child}/environ").read_bytes)  # empty while it is being started
    command = until(Path(f"/proc/{child}/cmdline").read_bytes)
    with pytest.raises(SinkError) as caught:
        sink.close()
    assert b"eyas.video.push" in command
    assert silent.encode() not in command + variables
    assert "word" not in str(caught.value)


# ---- interruptions ----

_SENDER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path[:0] = ["tests", "src"]
from clips import picture
from eyas.video import VideoSink, push
push.PUSH_TIMEOUT_S = float(sys.argv[2])
with VideoSink(sys.argv[1]) as sink:
    for i in range(int(sys.argv[3])):
        sink.add(picture(i), i / 30)
        if i == 0:
            print("sending", flush=True)
    sink.close()
"""


def sender(address: str, *, limit_s: float, frames: int) -> subprocess.Popen[bytes]:
    """A process that pushes, its first frame given away."""
    command = [sys.executable, "-c", _SENDER, address, str(limit_s), str(frames)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"sending\n"
    return process


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["rtmp", "rtsp"])
@pytest.mark.parametrize("frames", [1_000_000, 1])  # in `add`, and in `close`
def test_ctrl_c_ends_a_run_whose_server_says_nothing_and_its_child(silent: str, scheme: str, frames: int):
    with sender(f"{scheme}://{silent}/x", limit_s=100, frames=frames) as process:
        try:
            (child,) = until(lambda: children(process.pid))
            time.sleep(2)  # both stand still
            process.send_signal(signal.SIGINT)
            err = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert b"KeyboardInterrupt" in err
    assert not runs(child)


_TRACK = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from eyas.cli import main
from eyas.video import push
push.PUSH_TIMEOUT_S = 100.0
sys.exit(main(["track", "samples/parade.mp4", "--push", sys.argv[1]]))
"""


@needs_proc
@pytest.mark.slow
def test_ctrl_c_ends_a_followed_video_whose_server_says_nothing(silent: str):
    command = [sys.executable, "-c", _TRACK, f"rtmp://{silent}/x"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            (child,) = until(lambda: children(process.pid))
            time.sleep(2)  # all stand still
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode in (2, 130)
    assert not runs(child)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["rtmp", "rtsp"])
def test_a_child_whose_parent_was_killed_ends_even_if_its_server_says_nothing(silent: str, scheme: str):
    with sender(f"{scheme}://{silent}/x", limit_s=5, frames=1_000_000) as process:
        try:
            (child,) = until(lambda: children(process.pid))
            time.sleep(1)  # it is connecting
        finally:
            process.kill()
            process.communicate(timeout=10)
    assert runs(child), "it is stuck, else this shows nothing"
    until(lambda: not runs(child))
