"""eyas.video: annotated video keeps frames, times and sound, survives interruptions; MJPEG reaches browsers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import clips
import cv2
import numpy as np
import pytest
from clips import RING, constant, number, picture, times_of, write

from eyas.errors import OptionError, SinkError
from eyas.results import Detections, Embedding, Prediction
from eyas.types import Frame
from eyas.video import MjpegServer, VideoSink, open_video
from eyas.video.sink import fitted

ROOT = Path(__file__).parents[1]


def copied(source: Path, target: Path, **settings: object) -> VideoSink:
    with open_video(source) as video, VideoSink(target, sound_of=video, **settings) as sink:
        for frame in video:
            sink.add(frame.image, frame.pts_s)
    return sink


def sound(path: Path) -> list[tuple[float, bytes]]:
    """(time in seconds, content) of each packet of sound."""
    with clips.av.open(str(path)) as file:
        packets = file.demux(audio=0) if file.streams.audio else []
        return [(float(p.pts * p.time_base), bytes(p)) for p in packets if p.size]


def found(n: int) -> Detections:
    boxes = np.tile(np.array([[8, 8, 40, 30]], np.float32), (n, 1))
    return Detections(boxes, np.full(n, 0.9, np.float32), np.zeros(n, np.int64), ("thing",))


@pytest.mark.parametrize(("name", "within"), [("out.mp4", 0), ("out.mov", 0), ("out.mkv", Fraction(1, 1000))])
def test_frames_times_and_sound_are_kept(tmp_path: Path, name: str, within: float):
    times = clips.mixed(120)
    source = write(tmp_path / "in.mp4", times, audio="aac")
    sink = copied(source, tmp_path / name)
    assert (sink.encoder, sink.sound, sink.frames, sink.size) == ("libx264", True, 120, (36, 64))
    written = times_of(tmp_path / name)
    assert len(written) == 120
    assert max(abs(a - b) for a, b in zip(written, times, strict=True)) <= within
    before, after = sound(source), sound(tmp_path / name)
    assert [data for _, data in after] == [data for _, data in before][: len(after)]
    assert len(after) >= len(before) - 2
    assert all(abs(a[0] - b[0]) <= max(within, 1e-6) for a, b in zip(after, before, strict=False))


def test_each_frame_shows_what_it_showed(tmp_path: Path):
    with VideoSink(tmp_path / "a.mp4") as sink:
        for i in range(60):
            sink.add(picture(i), i / 30)
    with open_video(tmp_path / "a.mp4") as video:
        assert [number(f.image) for f in video] == [i % RING for i in range(60)]


def test_colours_are_kept(tmp_path: Path):
    image = np.zeros((64, 64, 3), np.uint8)
    for i, colour in enumerate([(200, 40, 30), (30, 200, 40), (40, 30, 200), (120, 120, 120)]):
        image[:, 16 * i : 16 * i + 16] = colour
    with VideoSink(tmp_path / "a.mp4") as sink:
        for i in range(10):
            sink.add(image, i / 25)
    with open_video(tmp_path / "a.mp4") as video:
        got = list(video)[-1].image
    for i in range(4):
        middle = (slice(8, 56), slice(16 * i + 4, 16 * i + 12))
        assert np.abs(got[middle].mean((0, 1)) - image[middle].mean((0, 1))).max() < 8


def test_a_finished_mp4_is_an_ordinary_one(tmp_path: Path):
    with VideoSink(tmp_path / "a.mp4") as sink:
        for i in range(300):
            sink.add(picture(i), i / 30)
    with clips.av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].frames == 300  # its index knows all of them
        assert file.duration == pytest.approx(10_000_000, abs=70_000)
        file.seek(8_000_000)
        assert next(file.decode(video=0)).time <= 8
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_late_sound_and_pictures_stay_together(tmp_path: Path):
    source = write(tmp_path / "late.ts", [t + 5 for t in constant(60)], audio="aac")
    copied(source, tmp_path / "out.mp4")
    shift = times_of(source)[0]
    assert times_of(tmp_path / "out.mp4")[0] == 0
    before, after = sound(source), sound(tmp_path / "out.mp4")
    first = next(at for at, data in before if data.endswith(after[0][1]))  # MPEG-TS adds headers in front
    assert after[0][0] == pytest.approx(first - float(shift), abs=0.001)


def test_sound_that_the_container_does_not_take_is_left_out_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    source = write(tmp_path / "in.avi", constant(30, 25), codec="mpeg4", audio="wmav2")
    with caplog.at_level(logging.WARNING, "eyas"):
        sink = copied(source, tmp_path / "out.mp4")
    assert not sink.sound
    assert "left out" in caplog.text
    assert len(times_of(tmp_path / "out.mp4")) == 30


def test_frames_without_times_follow_the_rate(tmp_path: Path):
    with VideoSink(tmp_path / "a.mp4", rate=10) as sink:
        for i in range(5):
            sink.add(picture(i))
    assert times_of(tmp_path / "a.mp4") == [Fraction(i, 10) for i in range(5)]


def test_times_that_do_not_rise_are_moved_on(tmp_path: Path):
    with VideoSink(tmp_path / "a.mp4") as sink:
        for i, at in enumerate([0.0, 0.1, 0.1, 0.05, 0.2]):
            sink.add(picture(i), at)
    tick = Fraction(1, 90_000)
    assert times_of(tmp_path / "a.mp4") == [
        0,
        Fraction(1, 10),
        Fraction(1, 10) + tick,
        Fraction(1, 10) + 2 * tick,
        Fraction(1, 5),
    ]


def test_another_size_is_fitted_into_the_first(tmp_path: Path):
    with VideoSink(tmp_path / "a.mp4") as sink:
        sink.add(np.full((36, 64, 3), 200, np.uint8), 0)
        sink.add(np.full((72, 72, 3), 200, np.uint8), 0.1)
    with open_video(tmp_path / "a.mp4") as video:
        first, second = (f.image.astype(int) for f in video)
    assert first.shape == second.shape == (36, 64, 3)
    assert abs(first.mean() - 200) < 6
    assert second[:, :10].mean() < 12
    assert second[:, -10:].mean() < 12
    assert abs(second[:, 18:46].mean() - 200) < 8


@pytest.mark.parametrize("size", [(35, 63), (1, 1), (36, 63)])
def test_odd_sizes_are_rounded_up(tmp_path: Path, size: tuple[int, int]):
    with VideoSink(tmp_path / "a.mp4") as sink:
        for i in range(3):
            sink.add(picture(i, size), i / 10)
    even = tuple(s + s % 2 for s in size)
    with open_video(tmp_path / "a.mp4") as video:
        assert [f.size for f in video] == [even] * 3


@pytest.mark.parametrize("size", [(36, 64), (38, 66), (40, 98), (2, 2)])
def test_colours_are_kept_at_every_height(tmp_path: Path, size: tuple[int, int]):
    colours = [(200, 40, 60), (30, 180, 90), (120, 120, 240)]
    with VideoSink(tmp_path / "a.mp4") as sink:
        for i, colour in enumerate(colours):
            sink.add(np.full((*size, 3), colour, np.uint8), i / 10)
    with open_video(tmp_path / "a.mp4") as video:
        for frame, colour in zip(video, colours, strict=True):
            assert np.abs(frame.image.astype(int) - colour).max() < 8


@pytest.mark.parametrize("shape", [(10, 400), (400, 10), (36, 64), (72, 128)])
def test_fitting_keeps_the_proportions(shape: tuple[int, int]):
    out = fitted(np.full((*shape, 3), 255, np.uint8), (36, 64))
    rows, columns = (out[..., 0] > 0).any(1).sum(), (out[..., 0] > 0).any(0).sum()
    scale = min(36 / shape[0], 64 / shape[1])
    assert (rows, columns) == pytest.approx((max(1, shape[0] * scale), max(1, shape[1] * scale)), abs=1)


def test_predictions_are_drawn_and_errors_left_out(tmp_path: Path):
    frames = [Frame(picture(20, (96, 128)), i, "cam", i / 10) for i in range(3)]
    with VideoSink(tmp_path / "a.mp4") as sink:
        sink.write(Prediction("cam", frames[0], found(0)))
        sink.write(Prediction("cam", error=SinkError("unreadable")))
        sink.write(Prediction("cam", frames[2], found(1)))
        with pytest.raises(SinkError, match="cannot draw"):
            sink.write(Prediction("cam", frames[2], Embedding(np.array([1.0, 0.0], np.float32))))
    with open_video(tmp_path / "a.mp4") as video:
        plain, drawn = video
    assert (plain.pts_s, drawn.pts_s) == (0.0, 0.2)
    assert np.ptp(plain.image) < 8 < np.ptp(drawn.image)


def test_places_that_cannot_be_written_are_refused(tmp_path: Path):
    for place in ("a.webm", "a", "gopher://host/x", "a.avi"):
        with pytest.raises(SinkError, match="cannot go there"):
            VideoSink(tmp_path / place if "://" not in place else place)
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot write"), VideoSink(tmp_path / "file" / "a.mp4") as sink:
        sink.add(picture(0), 0)
    with pytest.raises(OptionError):
        VideoSink(tmp_path / "a.mp4", rate=0)
    with pytest.raises(SinkError, match=r"cannot write.*refused"), VideoSink("rtmp://127.0.0.1:1/x") as sink:
        sink.add(picture(0), 0)


def test_a_video_is_not_written_over_itself(tmp_path: Path):
    path = write(tmp_path / "a.mp4", constant(3))
    (tmp_path / "link.mp4").symlink_to(path)
    with open_video(path) as video, pytest.raises(SinkError, match="over itself"):
        VideoSink(tmp_path / "link.mp4", sound_of=video)


def test_without_a_frame_no_file_is_made_or_emptied(tmp_path: Path):
    with VideoSink(tmp_path / "a.mp4") as sink:
        pass
    assert not (tmp_path / "a.mp4").exists()
    with pytest.raises(SinkError, match="closed"):
        sink.add(picture(0), 0)


def test_a_full_disk_is_an_error():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    link = Path("/tmp") / f"eyas-full-{os.getpid()}.mkv"  # noqa: S108 - a link is all it is
    link.symlink_to("/dev/full")
    try:
        with VideoSink(link) as sink, pytest.raises(SinkError, match="No space left"):
            _many(sink)
    finally:
        link.unlink()


def test_what_the_last_picture_meets_is_told_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sink = VideoSink(tmp_path / "a.mp4")
    for i in range(3):
        sink.add(picture(i), i / 30)
    real = sink._mux

    def mux(frame: Any, until_s: Fraction) -> None:
        if frame is not None and frame.pts == 9000:
            raise OSError(28, "No space left on device")
        real(frame, until_s)

    monkeypatch.setattr(sink, "_mux", mux)
    sink.add(picture(3), 0.1)
    with pytest.raises(SinkError, match="No space left"):
        sink.close()
    with open_video(tmp_path / "a.mp4") as video:
        assert [number(f.image) for f in video] == [0, 1, 2]


def _many(sink: VideoSink) -> None:
    for i in range(100):
        sink.add(picture(i), i / 30)


_WRITER = """
import sys, time
sys.path[:0] = ["tests", "src"]
from clips import picture
from eyas.video import VideoSink
with VideoSink(sys.argv[1]) as sink:
    for i in range(100000):
        sink.add(picture(i), i / 30)
        if i == 600:
            print("ready", flush=True)
        if i > 600:
            time.sleep(0.05)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(("number_of", "at_least"), [(signal.SIGINT, 600), (signal.SIGKILL, 480)])
def test_an_interrupted_run_leaves_a_video(tmp_path: Path, name: str, number_of: signal.Signals, at_least: int):
    path = tmp_path / name
    command = [sys.executable, "-c", _WRITER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number_of)
        process.communicate(timeout=30)
    with open_video(path) as video:
        numbers = [number(f.image) for f in video]
    assert len(numbers) >= at_least
    assert numbers == [i % RING for i in range(len(numbers))]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


_LISTENER = """
import sys
from itertools import islice
sys.path[:0] = ["tests"]
from clips import av, number
with av.open(sys.argv[1], options={"listen": "1"}, timeout=30) as server:
    frames = islice(server.decode(video=0), 40)
    print([(number(f.to_ndarray(format="bgr24")), round(f.pts * f.time_base * 1000)) for f in frames], flush=True)
"""


def test_a_video_can_be_sent_to_an_rtmp_server():
    url = f"rtmp://127.0.0.1:{free_port()}/live/x"
    times = clips.mixed(200)
    command = [sys.executable, "-c", _LISTENER, url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            while server.poll() is None:  # until it listens, a sink is refused; it hangs up when it has enough
                with suppress(SinkError), VideoSink(url) as sink:
                    for i, at in enumerate(times):
                        sink.add(picture(i), float(at))
            said = server.communicate(timeout=20)[0].strip()
        finally:
            server.kill()
    assert said == str([(i % RING, round(at * 1000)) for i, at in enumerate(times[:40])])


# MJPEG to a browser


def test_browsers_see_the_newest_picture():
    with clips.no_thread_left(), MjpegServer(0) as server:
        assert b"/stream.mjpg" in look(server.url).read()
        stop = threading.Event()

        def feed() -> None:
            i = 0
            while not stop.wait(0.01):
                server.add(picture(i))
                i += 1

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            with open_video(f"{server.url}stream.mjpg", reconnect=False) as video:
                frames = list(islice(video, 5))
            one = look(f"{server.url}frame.jpg").read()
        finally:
            stop.set()
            feeder.join()
    assert len({number(f.image) for f in frames}) == 5
    assert cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR).shape == (36, 64, 3)


def test_predictions_are_drawn_for_browsers():
    with MjpegServer(0) as server:
        server.write(Prediction("cam", Frame(picture(20, (96, 128))), found(1)))
        server.write(Prediction("cam", error=SinkError("unreadable")))
        one = look(f"{server.url}frame.jpg").read()
        with pytest.raises(SinkError, match="cannot draw"):
            server.write(Prediction("cam", Frame(picture(0)), Embedding(np.array([1.0, 0.0], np.float32))))
    assert np.ptp(cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR)) > 50


def test_a_client_that_takes_nothing_is_let_go():
    with clips.no_thread_left(), MjpegServer(0, patience_s=0.3, quality=100) as server:
        noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
        with socket.create_connection(("127.0.0.1", server.port)) as lazy:
            lazy.sendall(b"GET /stream.mjpg HTTP/1.0\r\n\r\n")
            until = time.monotonic() + 20
            while not _threads() and time.monotonic() < until:
                time.sleep(0.01)
            while _threads() and time.monotonic() < until:
                server.add(noise)
                time.sleep(0.02)
            assert not _threads()


def look(url: str) -> Any:
    return urllib.request.urlopen(url, timeout=20)  # noqa: S310 - our own server


def _threads() -> list[str]:
    return [t.name for t in threading.enumerate() if "process_request_thread" in t.name]


def test_clients_over_the_limit_are_told_to_come_later():
    with MjpegServer(0, max_clients=1) as server:
        server.add(picture(0))
        with look(f"{server.url}stream.mjpg") as first:
            assert first.read(5)
            with pytest.raises(urllib.error.HTTPError, match="503") as caught:
                look(server.url)
            caught.value.close()


def test_a_server_can_be_closed_while_somebody_looks():
    with clips.no_thread_left():
        server = MjpegServer(0)
        server.add(picture(0))
        with look(f"{server.url}stream.mjpg") as client:
            assert client.read(5)
            server.close()
            server.close()
    assert not _threads()


def test_what_the_server_cannot_do_is_refused():
    with MjpegServer(0) as server:
        with pytest.raises(SinkError, match="cannot listen"):
            MjpegServer(server.port)
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            look(f"{server.url}etc/passwd")
        caught.value.close()
    with pytest.raises(OptionError):
        MjpegServer(-1)
