"""eyas.video: what can be opened, that no frame and no time is lost, what is refused, and how live sources recover."""

from __future__ import annotations

import gc
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
from clips import RING, Server, constant, content, number, picture, redirect, write

from eyas.errors import EyasError, OptionError, SourceError
from eyas.types import Frame
from eyas.video import RawVideo, Reconnect, VideoFrame, open_video, open_videos
from eyas.video.target import hide_password, target_of

QUICK = Reconnect(first_s=0.01, factor=1.5, most_s=0.05)


def read(source: object, **settings: object) -> list[VideoFrame]:
    with open_video(source, **settings) as video:
        return list(video)


def refused(source: object, words: str, **settings: object) -> str:
    with pytest.raises(SourceError, match=words) as caught, open_video(source, **settings) as video:
        list(video)
    assert ": got " in str(caught.value)
    return str(caught.value)


def same_times(frames: Sequence[Frame], times: Sequence[Fraction], within_s: float = 1e-9) -> None:
    assert len(frames) == len(times)
    assert max(abs(f.pts_s - float(t)) for f, t in zip(frames, times, strict=True)) <= within_s


@pytest.mark.parametrize(
    ("name", "codec", "within_s"),
    [
        ("a.mp4", "libx264", 1e-9),
        ("a.mov", "libx264", 1e-9),
        ("a.ts", "libx264", 1e-9),
        ("a.mkv", "libx264", 0.0005 + 1e-9),  # Matroska counts whole milliseconds
        ("a.webm", "libvpx-vp9", 0.0005 + 1e-9),
        ("a.flv", "libx264", 0.0005 + 1e-9),
    ],
)
def test_each_container_gives_every_frame_at_its_time(tmp_path: Path, name: str, codec: str, within_s: float):
    times = clips.mixed(40)
    frames = read(write(tmp_path / name, times, codec=codec))
    assert [number(f.image) for f in frames] == [i % RING for i in range(40)]
    assert [f.index for f in frames] == list(range(40))
    assert {f.source_id for f in frames} == {str(tmp_path / name)}
    same_times(frames, times, within_s)


def test_mjpeg_in_avi_has_its_rate(tmp_path: Path):
    times = constant(20, 25)
    frames = read(write(tmp_path / "m.avi", times, codec="mjpeg", pixel_format="yuvj420p"))
    assert [number(f.image) for f in frames] == list(range(20))
    same_times(frames, times)


def test_raw_streams_without_times_get_those_of_the_announced_rate(tmp_path: Path):
    frames = read(write(tmp_path / "a.h264", constant(20, 25)))
    same_times(frames, constant(20, 25))


def test_a_stream_that_begins_late_starts_at_zero(tmp_path: Path):
    times = [t + 7 for t in constant(10)]
    path = write(tmp_path / "late.ts", times)
    with open_video(path) as video:
        frames = list(video)
        assert video.start_s is not None
        assert float(video.start_s) == pytest.approx(float(clips.times_of(path)[0]))
    same_times(frames, constant(10))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_minutes_of_changing_rates_stay_in_step_to_the_tick(tmp_path: Path):
    n = 18_000
    times = clips.mixed(n)
    path = write(tmp_path / "long.mp4", times, audio="aac", gop=250)
    assert times[-1] > 590
    with open_video(path) as video:
        for i, frame in enumerate(video):
            assert number(frame.image) == i % RING
            assert frame.pts_s == pytest.approx(float(times[i]), abs=1e-6)
        assert video.stats.frames == n


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_video_is_upright(tmp_path: Path, rotation: int):
    image = np.zeros((36, 64, 3), np.uint8)
    image[:18, :32] = 250
    frames = read(write(tmp_path / "r.mp4", constant(3), images=[image] * 3, rotate=rotation))
    wanted = np.rot90(image, rotation // 90)  # both count against the clock
    assert frames[0].image.shape == wanted.shape
    assert np.abs(frames[0].image.astype(int) - wanted).mean() < 8


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    ],
)
def test_a_mirrored_video_is_mirrored_back(tmp_path: Path, matrix: tuple[int, ...], wanted):
    image = np.zeros((36, 64, 3), np.uint8)
    image[:18, :32] = 250
    a, b, c, d = (v << 16 for v in matrix)
    path = write(tmp_path / "f.mp4", constant(3), images=[image] * 3, matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30))
    found = read(path)[0].image
    assert found.shape == wanted(image).shape
    assert np.abs(found.astype(int) - wanted(image)).mean() < 8


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [
        ("ffv1", "yuv422p10le"),
        ("ffv1", "gray"),
        ("ffv1", "gray16le"),
        ("ffv1", "yuva420p"),
        ("ffv1", "rgb48le"),
        ("ffv1", "yuv420p"),
        ("libx264rgb", "rgb24"),
        ("libx264", "yuv444p"),
    ],
)
def test_odd_pixel_formats_and_sizes(tmp_path: Path, codec: str, pixel_format: str):
    size = (35, 63)
    frames = read(write(tmp_path / "p.mkv", constant(3), codec=codec, pixel_format=pixel_format, size=size))
    assert [f.size for f in frames] == [size] * 3
    for i, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - picture(i, size)).max() <= 3


@pytest.mark.parametrize("space", ["bt709", "smpte170m"])
def test_colours_are_those_of_the_announced_matrix(tmp_path: Path, space: str):
    colour = np.full((36, 64, 3), (30, 60, 200), np.uint8)
    av = clips.av
    path = tmp_path / "c.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=30, width=64, height=36, pix_fmt="yuv444p")
        number_of = {"bt709": 1, "smpte170m": 6}[space]
        stream.codec_context.colorspace, stream.codec_context.color_range = number_of, 1
        frame = av.VideoFrame.from_ndarray(colour, format="bgr24")
        frame = frame.reformat(format="yuv444p", dst_colorspace={1: 1, 6: 5}[number_of], dst_color_range=1)
        frame.colorspace, frame.color_range = number_of, 1
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert np.abs(read(path)[0].image.astype(int) - colour).max() <= 3


def test_a_size_that_changes_on_the_way_is_given_as_it_is(tmp_path: Path):
    small, large = (write(tmp_path / f"{i}.ts", constant(10), size=s) for i, s in enumerate([(36, 64), (72, 128)]))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    sizes = [f.size for f in read(both)]
    assert sizes == [(36, 64)] * 10 + [(72, 128)] * 10


def test_broken_bytes_are_passed_over_and_counted(tmp_path: Path):
    whole = write(tmp_path / "w.avi", constant(60, 30), codec="mjpeg", pixel_format="yuvj420p")
    path = clips.broken(tmp_path / "b.avi", whole, share=0.2)
    with open_video(path) as video:
        frames = list(video)
    assert video.stats.broken > 0
    assert 30 <= len(frames) < 60
    assert [number(f.image) for f in frames[:25]] == list(range(25))


def test_a_file_that_was_cut_off_gives_what_is_left_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    whole = write(tmp_path / "w.mp4", constant(300), container={"movflags": "faststart"})
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with caplog.at_level(logging.WARNING, "eyas"):
        frames = read(path)
    assert 30 < len(frames) < 290
    assert [number(f.image) for f in frames[:30]] == [i % RING for i in range(30)]
    assert "is it cut off?" in caplog.text


def test_a_whole_file_is_not_called_short(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "eyas"):
        read(write(tmp_path / "w.mkv", clips.mixed(60), audio="aac"))
    assert not caplog.records


def copied(source: Path, target: Path, *, first: int = 0, earlier: Fraction = Fraction(0)) -> Path:
    """The packets from number `first` on, so many seconds earlier."""
    with clips.av.open(str(source)) as old, clips.av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for i, packet in enumerate(old.demux(video=0)):
            if packet.dts is not None and i >= first:
                packet.pts -= int(earlier / packet.time_base)
                packet.dts -= int(earlier / packet.time_base)
                packet.stream = stream
                new.mux(packet)
    return target


def test_announced_frames_that_do_not_come_are_counted_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    whole = write(tmp_path / "w.mp4", constant(60), gop=12)
    with open_video(copied(whole, tmp_path / "no_key.mp4", first=1)) as video, caplog.at_level(logging.WARNING, "eyas"):
        assert len(list(video)) == 48  # nothing can be decoded before the second key frame
    assert (video.stats.missing, video.stats.broken) == (11, 0)
    assert "11 of the announced frames are missing" in caplog.text


def test_frames_that_an_edit_list_leaves_out_are_not_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    whole = write(tmp_path / "w.mp4", constant(60))
    with open_video(copied(whole, tmp_path / "cut.mp4", earlier=Fraction(4, 30))) as video:
        assert [number(f.image) for f in video] == [i % RING for i in range(4, 60)]
    assert video.stats.missing == 0
    assert not caplog.records


def test_an_mp4_without_its_index_says_what_is_wrong(tmp_path: Path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(write(tmp_path / "w.mp4", constant(60)).read_bytes()[:3000])
    refused(path, "moov")


def test_frames_are_freed_without_the_garbage_collector(tmp_path: Path):
    path = write(tmp_path / "a.mp4", constant(60))
    with open_video(path) as video:
        next(video)
        gc.collect()
        gc.disable()
        try:
            for _ in video:
                pass
            assert gc.collect() < 50, "so few that no frame was among them"
        finally:
            gc.enable()


def test_what_is_no_video_is_refused(tmp_path: Path):
    refused(tmp_path / "missing.mp4", "No such file")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    refused(empty, "is empty")
    text = tmp_path / "text.mp4"
    text.write_text("These are words, not frames. " * 99)
    refused(text, "is no video")
    refused(clips.tone_only(tmp_path / "tone.m4a"), "holds no video.*got audio")
    noise = tmp_path / "noise.mkv"
    noise.write_bytes(np.random.default_rng(0).bytes(50_000))
    refused(noise, "is no video")


@pytest.mark.parametrize("source", [None, "", -1, True, 1.5, b"abc", "gopher://host/x", "rtsp://", "http:///x.mp4"])
def test_what_is_no_source_is_refused(source: object):
    refused(source, "no video source|cannot be used")


def test_frames_over_max_pixels_are_refused(tmp_path: Path):
    refused(write(tmp_path / "a.mp4", constant(3)), "too large.*64 × 36.*Raise max_pixels", max_pixels=2000)


def test_frames_that_grow_over_max_pixels_on_the_way_are_never_given(tmp_path: Path):
    small, large = (write(tmp_path / f"{i}.ts", constant(10), size=s) for i, s in enumerate([(36, 64), (72, 128)]))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    seen = []
    with open_video(both, max_pixels=3000) as video, suppress(SourceError):
        for frame in video:
            seen.append(frame.size)
    assert seen == [(36, 64)] * 10


@pytest.mark.parametrize("settings", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"rate": 0}, {"max_pixels": 0}])
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict[str, float]):
    with pytest.raises(OptionError):
        open_video(tmp_path / "a.mp4", **settings)


def test_pictures_in_a_row_are_a_video(tmp_path: Path):
    for i in (3, 4, 10, 7):
        cv2.imwrite(str(tmp_path / f"img_{i:04d}.png"), picture(i))
    for source in (tmp_path / "img_%04d.png", tmp_path / "*.png", tmp_path):
        frames = read(source, rate=10)
        assert [number(f.image) for f in frames] == [3, 4, 7, 10]
        same_times(frames, constant(4, 10))
    refused(tmp_path / "pic_%04d.png", "matches nothing")
    refused(tmp_path / "*.jpg", "cannot be used|holds no")


def test_a_picture_that_cannot_be_read_is_counted_and_its_time_passes(tmp_path: Path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i))
    (tmp_path / "1.png").write_bytes(b"no picture")
    with open_video(tmp_path, rate=10) as video:
        assert [f.pts_s for f in video] == [0.0, 0.2]
    assert video.stats.broken == 1


def test_a_name_with_a_colon_is_a_file(tmp_path: Path):
    assert len(read(write(tmp_path / "a.mp4", constant(5)).rename(tmp_path / "concat:a|b"))) == 5


def test_a_file_address_is_a_file(tmp_path: Path):
    path = write(tmp_path / "with space.mp4", constant(5))
    assert len(read(path.as_uri())) == 5


def test_missing_cameras_are_told_of():
    refused(97, "camera 97")


def test_passwords_are_not_shown():
    assert hide_password("rtsp://user:secret@host:554/x") == "rtsp://host:554/x"
    assert "secret" not in target_of("rtsp://user:secret@host/x").source_id
    assert "secret" not in refused("http://user:secret@127.0.0.1:1/x.mp4", "127.0.0.1")


_STDIN = (
    "from eyas.video import *; v = open_video('-', raw={raw}); print([round((f.image.mean() - 16) / 8) for f in v])"
)


def test_standard_input_in_any_container_that_streams(tmp_path: Path):
    for name, codec, pixel_format in (("a.mjpeg", "mjpeg", "yuvj420p"), ("a.mkv", "libx264", "yuv420p")):
        path = write(tmp_path / name, constant(4), codec=codec, pixel_format=pixel_format)
        command = [sys.executable, "-c", _STDIN.format(raw=None)]
        done = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=True)
        assert done.stdout.decode().strip() == "[0, 1, 2, 3]"


def test_raw_video_on_standard_input():
    data = b"".join(picture(i).tobytes() for i in range(4))
    code = _STDIN.format(raw="RawVideo(64, 36)")
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[0, 1, 2, 3]"
    with pytest.raises(OptionError):
        RawVideo(0, 36)


def test_closing_half_way_lets_go_of_the_file(tmp_path: Path):
    video = open_video(write(tmp_path / "a.mp4", constant(30)))
    assert next(video).index == 0
    video.close()
    video.close()
    assert list(video) == []


@pytest.mark.slow
def test_the_real_videos_are_read_whole(real_data: Path):
    folder = real_data / "data" / "video"
    for name, n in (("street_test", 302), ("face_tracker", 438)):
        path = folder / f"{name}.mp4"
        with open_video(path) as video:
            pts_s = [f.pts_s for f in video]
        assert len(pts_s) == n
        assert pts_s == [float(t) for t in clips.times_of(path)]


# Over HTTP


def test_a_file_behind_http_is_read_whole(tmp_path: Path):
    path = write(tmp_path / "a.mp4", constant(40))  # its index lies at the end: it must seek
    answers = {"/a.mp4": content(path.read_bytes(), "video/mp4")}
    with clips.no_thread_left(), Server(answers) as server, open_video(server.url("/a.mp4")) as video:
        assert not video.live
        assert [number(f.image) for f in video] == [i % RING for i in range(40)]


def test_a_server_without_byte_ranges_does_for_files_that_stream(tmp_path: Path):
    path = write(tmp_path / "a.mkv", constant(40))
    with Server({"/a.mkv": content(path.read_bytes(), ranges=False)}) as server:
        assert len(read(server.url("/a.mkv"), live=False)) == 40


def test_a_server_that_says_no_is_quoted():
    with Server({}) as server:
        refused(server.url("/none.mp4"), "HTTP 404")
    refused(server.url("/none.mp4"), "refused")


def test_a_download_that_breaks_off_is_an_error(tmp_path: Path):
    data = write(tmp_path / "a.mkv", constant(200), options={"crf": "0"}).read_bytes()

    def half(h):
        h.send_response(200)
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        h.wfile.write(data[: len(data) // 2])
        h.close_connection = True

    with Server({"/a.mkv": half}) as server, open_video(server.url("/a.mkv"), live=False) as video:
        with pytest.raises(SourceError, match=r"stopped.*broke"):
            list(video)
        assert video.stats.frames > 10


def test_name_and_password_are_sent_where_they_are_asked_for(tmp_path: Path):
    film = content(write(tmp_path / "a.mkv", constant(5)).read_bytes())

    def locked(h):
        if h.headers.get("Authorization") == "Basic dXNlcjpzZSBjcmV0":  # user:se cret
            film(h)
        else:
            h.send_response(401)
            h.send_header("WWW-Authenticate", 'Basic realm="cam"')
            h.send_header("Content-Length", "0")
            h.end_headers()

    with Server({"/a.mkv": locked}) as server:
        refused(server.url("/a.mkv"), "HTTP 401")
        with open_video(server.url("/a.mkv").replace("//", "//user:se%20cret@"), live=False) as video:
            assert {f.source_id for f in video} == {server.url("/a.mkv")}


PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n{}#EXT-X-ENDLIST\n"


def playlist(*names: str) -> bytes:
    return PLAYLIST.format("".join(f"#EXTINF:1.0,\n{n}\n" for n in names)).encode()


def test_a_playlist_over_http_is_followed_on_its_own_server(tmp_path: Path):
    parts = [write(tmp_path / f"{i}.ts", [t + i for t in constant(30)]).read_bytes() for i in range(3)]
    answers = {f"/{i}.ts": content(p, "video/mp2t") for i, p in enumerate(parts)}
    answers["/a.m3u8"] = content(playlist("0.ts", "1.ts", "2.ts"), "application/vnd.apple.mpegurl")
    with Server(answers) as server:
        frames = read(server.url("/a.m3u8"))
    same_times(frames, constant(90))


@pytest.mark.parametrize("name", ["file:///etc/passwd", "file:///etc/passwd.ts", "/etc/passwd.ts", "gopher://x/y.ts"])
def test_a_playlist_over_http_reaches_no_file(name: str):
    with Server({"/evil.m3u8": content(playlist(name, name), "application/vnd.apple.mpegurl")}) as server:
        refused(server.url("/evil.m3u8"), "no video|leads elsewhere|HTTP 404")


def test_a_playlist_over_http_reaches_no_other_private_address(tmp_path: Path):
    part = content(write(tmp_path / "a.ts", constant(30)).read_bytes(), "video/mp2t")
    with Server({"/secret.ts": part}) as inner:
        evil = content(playlist(inner.url("/secret.ts")), "application/vnd.apple.mpegurl")
        with Server({"/evil.m3u8": evil}) as server:
            refused(server.url("/evil.m3u8"), "private address 127.0.0.1")
            assert not inner.asked
            assert len(read(server.url("/evil.m3u8"), allow_private=True)) == 30


def test_a_redirect_reaches_no_other_private_address(tmp_path: Path):
    film = content(write(tmp_path / "a.mkv", constant(5)).read_bytes())
    with Server({"/a.mkv": film}) as inner, Server({"/to": redirect(inner.url("/a.mkv"))}) as server:
        refused(server.url("/to"), "private address")
        assert not inner.asked
        assert len(read(server.url("/to"), live=False, allow_private=True)) == 5
    with Server({"/to": redirect("file:///etc/passwd")}) as server:
        refused(server.url("/to"), "302|unknown url|not allowed")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/a.mkv", "http://localhost:{}/a.mkv", "http://[::ffff:127.0.0.1]:{}/a.mkv"]
)
def test_private_addresses_can_be_refused_altogether(tmp_path: Path, url: str):
    with Server({"/a.mkv": content(write(tmp_path / "a.mkv", constant(5)).read_bytes())}) as server:
        refused(url.format(server.port), "private address|cannot be read", allow_private=False)
        assert not server.asked


@pytest.mark.parametrize("url", ["rtsp://127.0.0.1:1/x", "rtmp://10.0.0.1/x", "udp://192.168.1.1:5000"])
def test_private_addresses_of_other_protocols_can_be_refused(url: str):
    refused(url, "private address", allow_private=False)


@pytest.mark.parametrize("line", ["file:///etc/passwd", "http://127.0.0.1:{}/a.ts", "a.ts"])
def test_a_playlist_in_a_file_is_followed_only_where_asked(tmp_path: Path, line: str):
    part = write(tmp_path / "a.ts", constant(30))
    with Server({"/a.ts": content(part.read_bytes(), "video/mp2t")}) as server:
        path = tmp_path / "evil.m3u8"
        path.write_bytes(playlist(line.format(server.port)))
        hidden = path.with_name("evil.mp4")  # the name makes no difference
        hidden.write_bytes(path.read_bytes())
        for source in (path, hidden):
            refused(source, "is a playlist.*allow_private")
        assert not server.asked
        if line != "file:///etc/passwd":
            assert len(read(path, allow_private=True)) == 30


# Live


def test_a_live_source_keeps_the_newest_frame_and_counts_the_rest():
    with clips.no_thread_left(), Server({}) as server:
        answers = {"/cam": server.mjpeg(fps=200)}
        with Server(answers) as camera, open_video(camera.url("/cam")) as video:
            assert video.live
            frames = []
            for frame in islice(video, 6):
                frames.append(frame)
                time.sleep(0.1)
            stats = video.stats
            server.stopping.set()
    assert stats.dropped > 20
    assert stats.frames - stats.dropped in (6, 7, 8)  # one in the slot, one on its way there
    steps = np.diff([f.index for f in frames])
    assert (steps[1:] > 3).all()
    assert [f.index % RING for f in frames] == [number(f.image) for f in frames]
    assert (np.diff([f.pts_s for f in frames]) > 0).all()
    assert {f.epoch for f in frames} == {0}


def test_a_live_server_that_is_restarted_is_found_again():
    with clips.no_thread_left():
        answers: dict[str, clips.Answer] = {}
        camera = Server(answers)
        answers["/cam"] = camera.mjpeg(fps=100)
        port = camera.port
        with open_video(camera.url("/cam"), reconnect=QUICK, timeout_s=2) as video:
            before = list(islice(video, 10))
            camera.stop()
            time.sleep(0.2)
            answers.clear()
            again = Server(answers, port)
            answers["/cam"] = again.mjpeg(fps=100)
            after = []
            for frame in video:
                after.append(frame)
                if sum(f.epoch == 1 for f in after) == 10:
                    break
            gaps, stats = video.gaps, video.stats
        again.stop()
    assert {f.epoch for f in before} == {0}
    assert after[-1].epoch == 1
    pts_s = [f.pts_s for f in before + after]
    assert pts_s == sorted(pts_s)
    (gap,) = gaps
    assert gap.epoch == 1
    assert gap.end_s - gap.start_s > 0.1
    assert gap.reason
    assert stats.reconnects == 1


def test_a_live_server_that_freezes_is_given_up_in_time():
    with clips.no_thread_left():
        answers: dict[str, clips.Answer] = {}
        with Server(answers) as camera:
            answers["/cam"] = camera.mjpeg(fps=100, freeze_at=30)
            once = open_video(camera.url("/cam"), reconnect=False, timeout_s=0.5)
            with once, pytest.raises(SourceError, match=r"stopped: got nothing for 0\.5 s"):
                list(once)
            with open_video(camera.url("/cam"), reconnect=QUICK, timeout_s=0.3) as video:
                epochs = [f.epoch for f in islice(video, 60)]
                assert "nothing for 0.3 s" in video.gaps[0].reason
    assert epochs[-1] >= 1


def test_a_server_that_only_dribbles_is_given_up_in_time():
    def dribble(h):
        h.send_response(200)
        h.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        h.end_headers()
        for i in range(8):
            data = clips.jpeg(i)
            h.wfile.write(
                b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data)
            )
        while True:
            h.wfile.write(b"x")
            time.sleep(0.05)

    with Server({"/cam": dribble}) as camera:
        video = open_video(camera.url("/cam"), reconnect=False, timeout_s=0.5)
        with video, pytest.raises(SourceError, match="stopped"):
            list(video)


def test_a_live_source_that_never_comes_back_is_given_up_after_the_tries():
    answers: dict[str, clips.Answer] = {}
    with clips.no_thread_left(), Server(answers) as camera:
        answers["/cam"] = camera.mjpeg(fps=200, most=30)
        with open_video(camera.url("/cam"), reconnect=Reconnect(0.01, 1, 0.01, tries=3)) as video:
            next(video)
            answers.clear()
            with pytest.raises(SourceError, match="HTTP 404"):
                list(video)
        assert camera.asked == ["/cam"] * 4


def test_without_reconnection_a_broadcast_that_ends_is_over():
    answers: dict[str, clips.Answer] = {}
    with clips.no_thread_left(), Server(answers) as camera:
        answers["/cam"] = camera.mjpeg(fps=200, most=30)
        with open_video(camera.url("/cam"), reconnect=False) as video:
            assert list(video)[-1].index == 29


def test_closing_does_not_wait_for_a_silent_server():
    answers: dict[str, clips.Answer] = {}
    with clips.no_thread_left(), Server(answers) as camera:
        answers["/cam"] = camera.mjpeg(fps=100, freeze_at=30)
        with open_video(camera.url("/cam"), timeout_s=100) as video:
            for frame in video:
                if frame.index == 29:
                    break
    # the test's own time limit is what fails here


def test_waiting_times_rise_to_the_most_and_differ():
    delays = list(islice(Reconnect(1, 2, 8).delays_s(), 6))
    for delay, whole in zip(delays, [1, 2, 4, 8, 8, 8], strict=True):
        assert whole / 2 <= delay <= whole
    assert len(set(delays)) == 6
    assert list(Reconnect(tries=0).delays_s()) == []
    with pytest.raises(OptionError):
        Reconnect(first_s=-1)


def test_a_file_can_be_played_as_if_it_were_live(tmp_path: Path):
    path = write(tmp_path / "a.mp4", constant(30))
    with clips.no_thread_left(), open_video(path, live=True) as video:
        began = time.monotonic()
        frames = list(video)
    assert time.monotonic() - began >= 0.9
    same_times(frames[:1] + frames[-1:], [Fraction(0), Fraction(29, 30)])


def test_rtsp_is_live_and_connected_again(tmp_path: Path):
    noise = [np.random.default_rng(i).integers(0, 256, (36, 64, 3), np.uint8) for i in range(120)]
    data = write(tmp_path / "a.ts", constant(120), images=noise).read_bytes()
    with clips.no_thread_left(), clips.RtspServer(data) as camera:
        with open_video(camera.url, reconnect=QUICK, timeout_s=5) as video:
            assert video.live
            frames = []
            for frame in video:
                frames.append(frame)
                if frame.epoch == 2:
                    break
            assert [g.epoch for g in video.gaps] == [1, 2]
        assert camera.sessions >= 3
    assert {f.size for f in frames} == {(36, 64)}
    pts_s = [f.pts_s for f in frames]
    assert pts_s == sorted(pts_s)


@pytest.mark.slow
def test_memory_stays_flat_over_many_reconnections():
    answers: dict[str, clips.Answer] = {}
    with clips.no_thread_left(), Server(answers) as camera:
        answers["/cam"] = camera.mjpeg(fps=2000, most=40)
        with open_video(camera.url("/cam"), reconnect=Reconnect(0, 1, 0)) as video:
            peaks = []
            for frame in video:
                if frame.epoch in (50, 150) and len(peaks) < frame.epoch // 50:
                    gc.collect()
                    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
                if frame.epoch >= 151:
                    break
    assert peaks[-1] - peaks[0] < 20_000  # KiB


# Many at once


def test_a_list_file_opens_all_its_sources_and_takes_turns(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name, n in (("a.mp4", 10), ("b.mkv", 5)):
        write(tmp_path / name, constant(n))
    listing = tmp_path / "all.streams"
    listing.write_text("# two films\na.mp4\n\nb.mkv\nmissing.mp4\n")
    with open_videos(listing) as videos:
        assert list(videos.failed) == [str(tmp_path / "missing.mp4")]
        ids = [Path(f.source_id).name for f in videos]
    assert ids == ["a.mp4", "b.mkv"] * 5 + ["a.mp4"] * 5
    refused(listing, "open_videos")


def test_live_sources_are_waited_for_together(tmp_path: Path):
    answers: dict[str, clips.Answer] = {}
    with clips.no_thread_left(), Server(answers) as camera:
        answers |= {"/a": camera.mjpeg(fps=50), "/b": camera.mjpeg(fps=10)}
        with open_videos([camera.url("/a"), camera.url("/b")]) as videos:
            ids = [f.source_id[-1] for f in islice(videos, 30)]
    assert ids.count("a") > ids.count("b") >= 2


def test_a_list_of_which_none_can_be_opened_is_refused(tmp_path: Path):
    with pytest.raises(SourceError, match="no video can be opened"):
        open_videos([tmp_path / "a.mp4", tmp_path / "b.mp4"])
    empty = tmp_path / "a.txt"
    empty.write_text("# nothing\n")
    with pytest.raises(SourceError, match="names no source"):
        open_videos(empty)


def test_importing_the_package_does_not_load_pyav():
    code = "import sys, eyas.video; assert 'av' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pyav_that_is_too_old_or_missing_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.mp4", constant(3))
    monkeypatch.setattr(clips.av, "__version__", "16.1.0")
    with pytest.raises(EyasError, match="PyAV is too old"):
        open_video(path)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[video\]'"):
        open_video(path)
