"""eyas.video where something goes wrong: odd addresses, pipes, servers, threads that close, pictures that are none."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from clips import Server, constant, content, no_thread_left, picture, redirect, times_of, write

from eyas.errors import OptionError, SinkError, SourceError
from eyas.results import Detections
from eyas.video import MjpegServer, RawVideo, Reconnect, VideoSink, open_video, open_videos

PAUSE_S = 60  # longer than any test may take


def message(source: object, **settings: object) -> str:
    with pytest.raises(SourceError) as told:
        open_video(source, **settings).close()
    return str(told.value)


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://h:99999/x", "http://h:abc/x", "rtsp://h:abc/x", "rtsp://[bad/x", "udp://h:70000"]
)
def test_an_address_that_is_none_is_quoted(url: str):
    assert url in message(url)


def test_an_address_that_is_none_shows_no_password():
    told = message("rtsp://admin:pa/ss@host/x")
    assert "ss@" not in told
    assert "admin" not in told
    assert "%2F" in told


@pytest.mark.parametrize("host", ["a" * 70 + ".com", ".."])
def test_what_can_be_no_host_is_told_of(host: str):
    assert "no name of a host" in message(f"http://{host}:1/x", timeout_s=2)


def test_a_file_address_without_a_path_is_refused():
    assert "file://" in message("file://")


def test_a_refused_address_says_what_is_expected():
    with Server({}) as other, Server({"/v": redirect(other.url("/x"))}) as server:
        assert "expected a public address, or the one that was named" in message(server.url("/v"))


@pytest.mark.parametrize("name", ["a b.mkv", "é.mkv"])
def test_an_address_is_written_as_http_wants_it(tmp_path: Path, name: str):
    data = write(tmp_path / "v.mkv", constant(10)).read_bytes()
    quoted = {"a b.mkv": "/a%20b.mkv", "é.mkv": "/%C3%A9.mkv"}[name]
    with Server({quoted: content(data)}) as server, open_video(server.url(f"/{name}")) as video:
        assert len(list(video)) == 10


def test_a_pattern_beside_other_percent_signs_says_what_is_missing(tmp_path: Path):
    assert "files like 50%x_0001.jpg" in message(tmp_path / "50%x_%04d.jpg")


@pytest.mark.parametrize("name", ["none*.png", "."])
def test_pictures_that_are_not_there_are_told_of_at_once(tmp_path: Path, name: str):
    assert "holds no picture" in message(tmp_path / name)


def test_a_glob_in_a_list_is_read_in_a_folder_with_brackets(tmp_path: Path):
    folder = tmp_path / "cam [1]"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture(0))
    (folder / "l.txt").write_text("*.png\n")
    with open_videos(folder / "l.txt") as videos:
        assert len(list(videos)) == 1


def test_a_video_is_no_list_of_videos(tmp_path: Path):
    with pytest.raises(SourceError, match="is no list"):
        open_videos(write(tmp_path / "v.mp4", constant(2)))


def test_sources_that_failed_are_named_without_their_password(tmp_path: Path):
    with open_videos([write(tmp_path / "v.mp4", constant(2)), "http://u:secret@127.0.0.1:1/x"]) as videos:
        assert list(videos.failed) == ["http://127.0.0.1:1/x"]


def test_an_unknown_pixel_format_is_told_of(tmp_path: Path):
    (tmp_path / "v.raw").write_bytes(bytes(300))
    with pytest.raises(OptionError, match="pixel format"):
        open_video(tmp_path / "v.raw", raw=RawVideo(10, 10, pixel_format="foo"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_without_a_video_is_refused(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"garbage" * 1000,))
    writer.start()
    assert "is no video" in message(pipe)
    writer.join()


def test_a_matroska_file_that_begins_late_is_not_called_short(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write(tmp_path / "late.mkv", [t + 100 for t in constant(60)])
    with open_video(path) as video:
        assert len(list(video)) == 60
        assert video.duration_s == pytest.approx(2, abs=0.1)
    assert not caplog.records


def test_the_time_that_a_reader_takes_is_not_counted_as_waiting(tmp_path: Path):
    noise = list(np.random.default_rng(0).integers(0, 255, (40, 180, 320, 3), np.uint8))
    data = write(tmp_path / "v.mkv", constant(40), size=(180, 320), images=noise).read_bytes()
    with Server({"/v": content(data)}) as server, open_video(server.url("/v"), timeout_s=0.5) as video:
        next(video)
        time.sleep(0.7)
        assert len(list(video)) == 39


@pytest.mark.parametrize("name", ["v.ts", "v.h264"])
def test_a_recording_of_known_size_is_not_live(tmp_path: Path, name: str):
    data = write(tmp_path / name, constant(60)).read_bytes()
    with Server({"/v": content(data, ranges=False)}) as server, open_video(server.url("/v"), timeout_s=5) as video:
        assert not video.live
        assert len(list(video)) == 60


def test_pictures_played_as_if_they_were_live_take_their_time(tmp_path: Path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i))
    with open_video(tmp_path, live=True, rate=5) as video:
        assert [f.index for f in video] == [0, 1, 2]


@pytest.mark.parametrize("open_", [open_video, lambda path: open_videos([path, path])])
def test_a_file_can_be_closed_from_another_thread(tmp_path: Path, open_: Callable[[Path], object]):
    path = write(tmp_path / "v.mkv", constant(2000), size=(144, 256))
    video = open_(path)
    begun, failed = threading.Event(), []

    def read() -> None:
        try:
            for _ in video:
                begun.set()
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    begun.wait()
    video.close()
    reader.join()
    assert not failed
    assert list(video) == []


def test_closing_ends_a_read_over_http_in_another_thread(tmp_path: Path):
    data, resume = write(tmp_path / "v.mkv", constant(60)).read_bytes(), threading.Event()

    def half(h) -> None:
        h.send_response(200)
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        h.wfile.write(data[: len(data) * 3 // 4])
        h.wfile.flush()
        resume.wait(PAUSE_S)

    with Server({"/v": half}) as server:
        video = open_video(server.url("/v"), timeout_s=PAUSE_S)
        next(video)
        reader = threading.Thread(target=lambda: list(video))
        reader.start()
        video.close()
        reader.join()
        assert not resume.is_set()
        resume.set()


def test_closing_does_not_wait_for_a_connection_that_is_being_made():
    asked, resume = threading.Event(), threading.Event()
    servers: list[Server] = []

    def answer(h) -> None:
        if len(servers[0].asked) == 1:
            return servers[0].mjpeg(most=3)(h)
        asked.set()
        resume.wait(PAUSE_S)

    with no_thread_left(), Server({"/c": answer}) as server:
        servers.append(server)
        with open_video(server.url("/c"), timeout_s=PAUSE_S, reconnect=Reconnect(0.01, 1, 0.01)) as video:
            next(video)
            asked.wait()
        assert not resume.is_set()
        resume.set()


def test_closing_does_not_wait_for_standard_input(tmp_path: Path):
    data = write(tmp_path / "v.mkv", constant(60)).read_bytes()
    code = (
        "from eyas.video import open_video\n"
        "video = open_video('-', live=True)\n"
        "while video.reader.wait(0.5): pass\n"
        "video.close()\nprint(list(video))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        run.stdin.write(data[: len(data) * 3 // 4])
        run.stdin.flush()
        assert run.stdout.read().strip() == b"[]"
        assert run.wait() == 0


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), None]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, image):
    with VideoSink(tmp_path / "v.mp4") as sink, pytest.raises(SinkError, match="no picture"):
        sink.add(image)
    with MjpegServer(0) as server, pytest.raises(SinkError, match="no picture"):
        server.add(image)


@pytest.mark.parametrize("pts_s", [float("nan"), float("inf"), -1.0])
def test_a_time_that_is_none_is_refused(tmp_path: Path, pts_s: float):
    with VideoSink(tmp_path / "v.mp4") as sink, pytest.raises(SinkError, match="out of range"):
        sink.add(picture(0), pts_s)


def test_an_unknown_encoder_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(OptionError, match="unknown encoder: got 'nope'"):
        VideoSink(tmp_path / "v.mp4", encoder="nope")


def test_an_encoder_that_does_not_start_leaves_nothing_open(tmp_path: Path):
    sink = VideoSink(tmp_path / "v.mp4", options={"crf": "zzz"})
    for _ in range(2):
        with pytest.raises(SinkError, match="cannot write"):
            sink.add(picture(0))
    sink.close()
    if Path("/proc/self/fd").is_dir():
        files = [os.path.realpath(f) for f in Path("/proc/self/fd").iterdir()]
        assert str(tmp_path / "v.mp4") not in files


def test_mpeg4_takes_times_that_do_not_rise(tmp_path: Path):
    with VideoSink(tmp_path / "v.mp4", encoder="mpeg4") as sink:
        for i in range(20):
            sink.add(picture(i), 1.0)
    assert all(a < b for a, b in pairwise(times_of(tmp_path / "v.mp4")))


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_times_after_a_gap_of_a_night_are_kept(tmp_path: Path, name: str):
    wanted = [0, 0.5, 60_000, 60_000.5]
    with VideoSink(tmp_path / name) as sink:
        for i, at in enumerate(wanted):
            sink.add(picture(i), at)
    assert sink.frames == 4
    assert set(wanted) <= {float(t) for t in times_of(tmp_path / name)}


def test_a_video_is_not_written_over_the_one_that_its_predictions_are_of(tmp_path: Path):
    path = write(tmp_path / "v.mp4", constant(5))
    before = path.read_bytes()
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ("thing",))
    with open_video(path) as video, VideoSink(path) as sink, pytest.raises(SinkError, match="over itself"):
        sink.write(SimpleNamespace(frame=next(video), result=none))
    assert path.read_bytes() == before


def test_sound_that_cannot_be_read_is_left_out_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write(tmp_path / "v.mp4", constant(5), audio="aac")
    with open_video(path) as video, VideoSink(tmp_path / "out.mp4", sound_of=video) as sink:
        frame = next(video)
        path.unlink()
        with caplog.at_level(logging.WARNING, "eyas"):
            sink.add(frame.image, frame.pts_s)
    assert "left out" in caplog.text
    assert not sink.sound
    assert len(times_of(tmp_path / "out.mp4")) == 1


def connected(server: MjpegServer, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(data)
    return client


def test_clients_that_left_while_nothing_was_shown_make_room():
    with MjpegServer(0, max_clients=1) as server:
        with connected(server, b"GET /stream.mjpg HTTP/1.0\r\n\r\n") as client:
            assert client.recv(12) == b"HTTP/1.0 200"
        answer = b""
        while not answer.startswith(b"HTTP/1.0 200"):
            with connected(server, b"GET / HTTP/1.0\r\n\r\n") as client:
                answer = client.recv(12)


def test_closing_the_server_does_not_wait_for_clients_that_ask_for_nothing():
    server = MjpegServer(0, patience_s=3600)
    with no_thread_left(), connected(server, b"GE"):
        while not any("process_request" in thread.name for thread in threading.enumerate()):
            time.sleep(0.01)
        began_s = time.monotonic()
        server.close()
        assert time.monotonic() - began_s < PAUSE_S


def test_what_follows_a_question_mark_is_passed_over():
    with MjpegServer(0) as server:
        server.add(picture(0))
        with connected(server, b"GET /frame.jpg?t=1 HTTP/1.0\r\n\r\n") as client:
            assert client.recv(12) == b"HTTP/1.0 200"
