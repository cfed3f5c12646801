"""Video decoded on a GPU: the real code on `fake_cuda` and `fake_nvvideo`, beside the host's pictures."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from clips import RING, Server, constant, number, write
from fake_cuda import Machine, machine
from fake_nvvideo import FakeNvVideo
from test_trt_predict import SIDE, model, path, worlds

import eyas
from eyas.cuda import memory as cuda_memory
from eyas.cuda.device import why_missing
from eyas.cuda.video import parameter_sets, sequence_of
from eyas.errors import BackendError, EyasError, OptionError
from eyas.tracking.draw import Painter
from eyas.types import DeviceImage
from eyas.video import VideoFrame, open_video

__all__ = ["machine", "model", "path", "worlds"]


@pytest.fixture
def nvvideo(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> FakeNvVideo:
    library = FakeNvVideo(machine)
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", library)
    monkeypatch.setattr(cuda_memory, "_staging", cuda_memory.threading.local())
    return library


def both(source: object, **settings: Any) -> tuple[list[VideoFrame], list[VideoFrame]]:
    """The frames that the host decodes, and those of the GPU, which stay there."""
    with open_video(source, **settings) as video:  # type: ignore[arg-type]
        host = list(video)
    with open_video(source, decode="gpu", **settings) as video:  # type: ignore[arg-type]
        return host, list(video)


def colourful(count: int, size: tuple[int, int] = (36, 64)) -> list[np.ndarray]:
    """Frame i is of one colour, on a quarter of it of another."""
    rng = np.random.default_rng(3)
    images = [np.full((*size, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(count)]
    for image in images:
        image[: size[0] // 2, : size[1] // 2] = rng.integers(0, 256, 3)
    return images


def assert_alike(host: list[VideoFrame], gpu: list[VideoFrame]) -> None:
    assert all(isinstance(f.image, DeviceImage) for f in gpu)
    assert [replace(f, image=h.image) for f, h in zip(gpu, host, strict=True)] == host
    for a, b in zip(host, gpu, strict=True):
        assert np.abs(a.image.astype(int) - b.pixels).max() <= 4


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"crf": "10", "bf": "2"}),
        ("a.mkv", "libx264", {"crf": "10", "bf": "0"}),
        ("a.ts", "libx264", {"crf": "10"}),
        ("a.mp4", "libx265", {"crf": "10", "x265-params": "log-level=none"}),
    ],
)
def test_frames_are_the_hosts_and_at_their_times(
    tmp_path: Path, nvvideo: FakeNvVideo, name: str, codec: str, options: dict[str, str]
):
    images = [image for image in colourful(15) for _ in range(2)]
    path = write(tmp_path / name, clips.mixed(30), images=images, codec=codec, options=options)
    host, gpu = both(path)
    assert len(gpu) == 30
    assert_alike(host, gpu)
    assert len(nvvideo.opened) == 1


@pytest.mark.parametrize("space", [1, 6, 2])
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_those_of_the_announced_matrix_and_range(
    tmp_path: Path, nvvideo: FakeNvVideo, space: int, full: bool
):
    path = tmp_path / "c.mp4"
    with clips.av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, width=64, height=36, pix_fmt="yuv420p")
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 2 if full else 1
        stream.options = {"qp": "0"}
        frame = clips.av.VideoFrame(64, 36, "yuv420p")
        for plane, value in zip(frame.planes, (120, 90, 180), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.colorspace, frame.color_range = space, 2 if full else 1
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert_alike(*both(path))


def test_frames_outlive_the_decoder(tmp_path: Path, nvvideo: FakeNvVideo):
    with open_video(write(tmp_path / "a.mp4", constant(40)), decode="gpu") as video:
        frames = list(video)
    assert [number(f.pixels) for f in frames] == [i % RING for i in range(40)]
    assert all(f.pixels.flags.writeable for f in frames), "a copy of one's own"


def test_a_short_clip_whose_frames_come_with_the_last_packet(tmp_path: Path, nvvideo: FakeNvVideo):
    path = write(tmp_path / "a.mp4", constant(2), options={"bf": "2"})
    assert_alike(*both(path))


def test_frames_that_an_edit_list_leaves_out_are_left_out(tmp_path: Path, nvvideo: FakeNvVideo):
    from test_video_source import copied

    whole = write(tmp_path / "w.mp4", constant(60))
    host, gpu = both(copied(whole, tmp_path / "cut.mp4", earlier=Fraction(4, 30)))
    assert [number(f.pixels) for f in gpu] == [i % RING for i in range(4, 60)]
    assert_alike(host, gpu)


def test_a_size_that_grows_and_shrinks_on_the_way(tmp_path: Path, nvvideo: FakeNvVideo):
    sizes = [(36, 64), (72, 128), (36, 64)]
    how: dict[str, Any] = {"options": {"bf": "2"}}
    parts = [write(tmp_path / f"{i}.ts", constant(10), size=size, **how) for i, size in enumerate(sizes)]
    whole = tmp_path / "all.ts"
    whole.write_bytes(b"".join(p.read_bytes() for p in parts))
    with open_video(whole, decode="gpu") as video:
        frames = list(video)
        assert video.stats.broken == 0
    assert [f.size for f in frames] == [s for s in sizes for _ in range(10)]
    assert [number(f.pixels) for f in frames] == [*range(10)] * 3


def test_broken_bytes_are_passed_over(tmp_path: Path, nvvideo: FakeNvVideo):
    whole = write(tmp_path / "w.mp4", constant(120))
    with open_video(clips.broken(tmp_path / "b.mp4", whole), decode="gpu") as video:
        frames = list(video)
    assert 40 < len(frames) <= 120
    assert [number(f.pixels) for f in frames[:40]] == [i % RING for i in range(40)]


def test_a_first_packet_that_is_broken_takes_no_other_with_it(tmp_path: Path, nvvideo: FakeNvVideo):
    whole = write(tmp_path / "w.mp4", constant(30), gop=10)
    with clips.av.open(str(whole)) as container:
        first = next(container.demux(video=0))
        at, size = first.pos, first.size
    data = bytearray(whole.read_bytes())
    data[at : at + size] = b"\x7f" * size  # lengths that point beyond the packet
    path = tmp_path / "b.mp4"
    path.write_bytes(data)
    with open_video(path, decode="gpu") as video:
        found = [number(f.pixels) for f in video]
    assert found[-20:] == [i % RING for i in range(10, 30)]
    assert video.stats.broken > 0


def test_a_stream_that_begins_with_an_i_picture_that_is_no_idr(tmp_path: Path, nvvideo: FakeNvVideo):
    from test_video_source import copied

    how = {"x264-params": "open-gop=1:bframes=2:b-adapt=0:keyint=10:min-keyint=10:scenecut=0:log-level=-1"}
    whole = write(tmp_path / "w.mp4", constant(40), options=how, gop=10)
    with clips.av.open(str(whole)) as container:
        keys = [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    host, gpu = both(copied(whole, tmp_path / "cut.mp4", first=keys[1]))
    assert len(gpu) > 20
    assert_alike(host, gpu)


@pytest.mark.parametrize(
    ("extradata", "sets"),
    [
        (b"\1\x42\0\x1e\xff\xe1\0\2\x67a\2\0\2\x68b\0\1\x68", b"\0\0\0\1ga\0\0\0\1hb\0\0\0\1h"),
        (b"\1\x42\0\x1e\xff\xe1\0", b"\0\0\0\1"),
        (b"\0\0\0\1ga", b"\0\0\0\1ga"),
        (None, b""),
    ],
)
def test_the_parameter_sets_of_a_container(extradata: bytes | None, sets: bytes):
    assert parameter_sets(extradata, "H264") == sets


def test_those_of_h265_stand_before_the_pictures_already():
    assert parameter_sets(b"\1\1\x60\0\0\0", "HEVC") == b""


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"crf": "10", "bf": "2"}), ("libx265", {"x265-params": "log-level=none"})]
)
def test_sets_that_only_the_head_of_the_file_has(
    tmp_path: Path, nvvideo: FakeNvVideo, codec: str, options: dict[str, str]
):
    assert_alike(*both(write(tmp_path / "a.nut", constant(30), codec=codec, options=options)))


def test_the_sequence_of_a_packet_is_found_between_its_other_units():
    data = b"\0\0\0\1\x09\x10\0\0\0\1\x67abc\0\0\1\x68d\0\0\1\x65\x67"
    assert sequence_of(data, "H264") == [b"\x67abc"]
    assert sequence_of(b"\0\0\1\x40\1v\0\0\1\x42\1s\0\0\0\1\x26\1", "HEVC") == [b"\x42\1s"]


def test_pictures_before_a_packet_that_the_decoder_refuses_are_not_lost(tmp_path: Path, nvvideo: FakeNvVideo):
    nvvideo.breaks_after = 25
    path = write(tmp_path / "a.mp4", constant(40), options={"bf": "2", "crf": "10"})
    with open_video(path, decode="gpu") as video:
        found = [number(f.pixels) for f in video]
    assert found == [i % RING for i in range(len(found))]
    assert len(found) >= 24, "those that wait for others too"
    assert video.stats.broken == 15


def test_a_gpu_that_goes_on_the_way_is_an_error_and_no_broken_packet(tmp_path: Path, nvvideo: FakeNvVideo):
    nvvideo.breaks_after, nvvideo.code = 25, 214
    with (
        open_video(write(tmp_path / "a.mp4", constant(40)), decode="gpu") as video,
        pytest.raises(BackendError, match="decodes no more: got CUDA_ERROR_ECC_UNCORRECTABLE"),
    ):
        list(video)
    assert video.stats.broken == 0


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        ("a.mkv", {"codec": "ffv1"}, "the codec ffv1 is none of h264, hevc"),
        ("a.mp4", {"pixel_format": "yuv444p"}, "its pixels are yuv444p"),
        ("a.mp4", {"rotate": 90}, "it is turned or mirrored"),
        ("a.mp4", {"options": {"x264-params": "tff=1:log-level=-1"}}, "it is interlaced"),
    ],
)
def test_what_the_gpu_cannot_decode_stays_on_the_host(
    tmp_path: Path, nvvideo: FakeNvVideo, caplog: pytest.LogCaptureFixture, name: str, how: dict[str, Any], why: str
):
    path = write(tmp_path / name, constant(10), **how)
    with caplog.at_level(logging.WARNING, "eyas"):
        host, gpu = both(path)
    assert len(gpu) == 10
    for a, b in zip(host, gpu, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
    assert caplog.text.count("it is decoded on the host") == 1
    assert f"{path}: {why}" in caplog.text
    assert nvvideo.opened == []


def test_a_gpu_that_refuses_leaves_the_stream_on_the_host(
    tmp_path: Path, nvvideo: FakeNvVideo, caplog: pytest.LogCaptureFixture
):
    nvvideo.refuses = True
    path = write(tmp_path / "a.mp4", constant(30))
    with caplog.at_level(logging.WARNING, "eyas"), open_video(path, decode="gpu") as video:
        assert [number(f.image) for f in video] == [i % RING for i in range(30)]
    assert "no such codec on this GPU" in caplog.text


def test_live_pictures_do_not_wait_for_others(tmp_path: Path, nvvideo: FakeNvVideo):
    path = write(tmp_path / "a.mp4", constant(20), options={"bf": "0", "preset": "ultrafast"})
    with open_video(path, live=True, decode="gpu", reconnect=False) as video:
        frames = list(video)
    assert nvvideo.opened[0]["latency"] is nvvideo.DisplayDecodeLatencyType.LOW
    assert len(frames) > 0
    assert all(isinstance(f.image, DeviceImage) for f in frames)


def test_a_broadcast_over_http_is_decoded_there_too(tmp_path: Path, nvvideo: FakeNvVideo):
    data = write(tmp_path / "a.mp4", constant(30)).read_bytes()
    with Server({"/a.mp4": clips.content(data)}) as server:
        assert_alike(*both(server.url("/a.mp4")))


def test_pictures_of_a_row_stay_on_the_host(tmp_path: Path, nvvideo: FakeNvVideo, caplog: pytest.LogCaptureFixture):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(clips.jpeg(i))
    with caplog.at_level(logging.WARNING, "eyas"), open_video(tmp_path, decode="gpu") as video:
        assert [number(f.image) for f in video] == [0, 1, 2]
    assert "decoded on the host" in caplog.text


def test_without_the_package_the_line_that_installs_it_is_told(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[pynvvideocodec\]'"):
        open_video(write(tmp_path / "a.mp4", constant(3)), decode="gpu")


def test_a_driver_without_the_decoder_is_told_of(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    def missing(module: str, extra: str) -> Any:
        raise RuntimeError("libnvidia-encode.so.1: cannot open\n=== TROUBLESHOOTING ===")

    monkeypatch.setattr("eyas.cuda.video.need", missing)
    with pytest.raises(BackendError, match=r"does not start: got libnvidia-encode\.so\.1: cannot open; expected"):
        open_video(write(tmp_path / "a.mp4", constant(3)), decode="gpu")


@pytest.mark.parametrize("settings", [{"decode": "cuda"}, {"decode": "gpu", "device": "cpu"}])
def test_settings_that_name_no_decoder_are_refused(tmp_path: Path, nvvideo: FakeNvVideo, settings: dict[str, str]):
    with pytest.raises(OptionError):
        open_video(write(tmp_path / "a.mp4", constant(3)), **settings)  # type: ignore[arg-type]


def test_an_engine_on_the_host_has_no_use_for_such_frames(tmp_path: Path):
    path = write(tmp_path / "a.mp4", constant(3))
    with (
        eyas.load("nanodet", backend="null") as model,
        pytest.raises(OptionError, match="decode='gpu' has nobody to decode for: got null"),
    ):
        model.track(path, decode="gpu")


@pytest.mark.parametrize("tracker", ["deepsort", "botsort", None])
def test_a_tracked_video_never_leaves_the_gpu_but_to_be_looked_at(
    tmp_path: Path, nvvideo: FakeNvVideo, model: eyas.Model, monkeypatch: pytest.MonkeyPatch, tracker: str | None
):
    clip = write(tmp_path / "a.mp4", constant(12), size=(SIDE, SIDE))
    fetched: list[DeviceImage] = []
    monkeypatch.setattr("eyas.cuda.video.fetched", lambda image: (fetched.append(image), cuda_memory.fetched(image))[1])
    predictions = list(model.track(clip, decode="gpu", tracker=tracker, conf=0.01))
    assert [p.error for p in predictions] == [None] * 12
    assert all(p.frame is not None and isinstance(p.frame.image, DeviceImage) for p in predictions)
    assert len(fetched) == (12 if tracker == "botsort" else 0), "botsort looks at the pictures"
    with open_video(clip) as video:
        frames = list(video)
    for p, frame in zip(predictions, frames, strict=True):
        assert p.frame is not None
        assert p.detections is not None
        drawn, wanted = (Painter().draw(f, p.detections) for f in (p.frame, frame))
        assert np.abs(drawn.astype(int) - wanted).mean() <= 4


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"crf": "10", "bf": "2"}),
        ("a.ts", "libx264", {"crf": "10", "bf": "0"}),
        ("a.mkv", "libx265", {"crf": "10", "x265-params": "log-level=none"}),
    ],
)
def test_a_real_gpu_gives_the_hosts_frames(tmp_path: Path, name: str, codec: str, options: dict[str, str]):
    _need_a_gpu()
    size = (360, 640)
    images = [image for image in colourful(30, size) for _ in range(2)]
    path = write(tmp_path / name, clips.mixed(60), images=images, size=size, codec=codec, options=options)
    assert_alike(*both(path))


def test_a_real_gpu_follows_a_size_that_grows_and_shrinks(tmp_path: Path):
    _need_a_gpu()
    sizes = [(240, 320), (480, 640), (240, 320)]
    parts = [write(tmp_path / f"{i}.ts", constant(10), size=s, options={"bf": "2"}) for i, s in enumerate(sizes)]
    whole = tmp_path / "all.ts"
    whole.write_bytes(b"".join(p.read_bytes() for p in parts))
    with open_video(whole, decode="gpu") as video:
        frames = list(video)
    assert [f.size for f in frames] == [s for s in sizes for _ in range(10)]
    assert [number(f.pixels) for f in frames] == [*range(10)] * 3


def test_a_real_gpu_gives_live_pictures_their_times(tmp_path: Path):
    _need_a_gpu()
    path = write(tmp_path / "a.mp4", constant(20), size=(240, 320), options={"bf": "0", "preset": "ultrafast"})
    with open_video(path) as video:
        host = [(number(f.image), f.pts_s) for f in video]
    with open_video(path, live=True, decode="gpu", reconnect=False) as video:
        gpu = [(number(f.pixels), f.pts_s) for f in video]
    assert len(gpu) > 0
    assert set(gpu) <= set(host)


def _need_a_gpu() -> None:
    if reason := why_missing():
        pytest.skip(f"needs a GPU: {reason}")
    for needed in ("cuda.core", "PyNvVideoCodec"):
        pytest.importorskip(needed, reason="the extra `pynvvideocodec` is not installed")
