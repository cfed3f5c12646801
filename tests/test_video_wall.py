"""Many live sources at once: whose turn it is, who waits for whom, and what is told of each."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clips
import numpy as np
import pytest
from clips import constant, times_of, write

from eyas.cli import main
from eyas.cli.track_table import COLUMNS, Tally
from eyas.errors import SourceError
from eyas.results import Detections, Prediction
from eyas.types import Image
from eyas.video import Reconnect, VideoFrame, VideoSink, VideoSource, VideoSources, VideoStats
from eyas.video.live import LiveReader
from eyas.video.target import Target

GREY = np.full((36, 64, 3), 230, np.uint8)


class Camera:
    """A camera that has a frame whenever one is `due`; see `eyas.video.frames.Opened`."""

    is_live, has_clock, rate, duration_s, start, announced = True, False, None, None, None, 0

    def __init__(self, name: str, always: bool = False) -> None:
        """always: it has so many frames that nobody can take them all."""
        self.target = Target("camera", name, name)
        self._due: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._always, self._over = always, threading.Event()

    def due(self, error: Exception | None = None) -> None:
        """It has a frame now, or fails."""
        self._due.put(error)

    def frames(self, tally: VideoStats) -> Generator[tuple[Image, Fraction | None], None, None]:
        while not self._over.wait(0.0002):
            error = None if self._always else self._due.get()
            if error:
                raise error
            if not self._over.is_set():
                tally.frames += 1
                yield GREY, None

    def abort(self) -> None:
        self._over.set()
        self._due.put(None)

    def close(self) -> None:
        pass


@pytest.fixture
def wall() -> Iterator[Callable[..., VideoSources]]:
    """wall(camera, …): all of them, opened; without reconnection."""
    opened: list[VideoSources] = []

    def build(*cameras: Camera) -> VideoSources:
        arrived = threading.Condition()

        def refuse(_: object) -> Any:
            raise AssertionError("nobody reconnects here")

        sources = [VideoSource(c, LiveReader(c, refuse, Reconnect(tries=0), arrived)) for c in cameras]
        opened.append(VideoSources(sources, {}, arrived))
        return opened[-1]

    with clips.no_thread_left():
        yield build
        for videos in opened:
            videos.close()


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert what()


def test_a_slow_source_waits_for_one_frame_of_each_other_at_most(wall: Callable[..., VideoSources]):
    slow = Camera("slow")
    videos = wall(Camera("a", always=True), slow, Camera("b", always=True), Camera("c", always=True))
    next(videos)
    for _ in range(20):
        slow.due()
        wait_for(videos.sources[1].reader.ready)
        assert "slow" in [f.source_id for f in islice(videos, 4)]
    assert videos.sources[1].stats.dropped == 0
    assert videos.sources[0].stats.dropped > 0


def test_sources_that_always_have_frames_share_evenly(wall: Callable[..., VideoSources]):
    videos = wall(*(Camera(name, always=True) for name in "abc"))
    taken = []
    for _ in range(60):
        wait_for(lambda: all(s.reader.ready() for s in videos.sources))
        taken.append(next(videos).source_id)
    assert [taken.count(name) for name in "abc"] == [20, 20, 20]


def test_who_stalls_or_dies_holds_nobody_up(wall: Callable[..., VideoSources]):
    stalls, dies = Camera("stalls"), Camera("dies")
    videos = wall(Camera("a", always=True), stalls, dies)
    for camera in (stalls, dies):
        camera.due()
        wait_for(videos.sources[1 + (camera is dies)].reader.ready)
    assert {f.source_id for f in islice(videos, 3)} == {"a", "stalls", "dies"}
    dies.due(SourceError("as planned"))
    wait_for(videos.sources[2].reader.ready)
    assert {f.source_id for f in islice(videos, 20)} == {"a"}
    assert str(videos.failed["dies"]) == "as planned"
    stalls.due()
    wait_for(videos.sources[1].reader.ready)
    assert "stalls" in [f.source_id for f in islice(videos, 2)]


def test_a_silent_wall_says_so_and_ends_with_its_last_source(wall: Callable[..., VideoSources]):
    camera, other = Camera("a"), Camera("b")
    videos = wall(camera, other)
    pulses = videos.pulses()
    assert next(pulses) is None
    camera.due()
    assert next(f for f in pulses if f).source_id == "a"
    assert next(pulses) is None
    for each in (camera, other):
        each.due(SourceError("gone"))
    assert list(pulses)[-1:] in ([], [None])
    assert set(videos.failed) == {"a", "b"}


def seen(arrived_s: float | None) -> Prediction:
    frame = VideoFrame(GREY, 0, "cam", 1.5, arrived_s=arrived_s)
    return Prediction("cam", frame, Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int)))


def test_a_stream_is_told_of_in_numbers():
    stats = VideoStats(frames=110, dropped=10, broken=2)
    source: Any = SimpleNamespace(source_id="cam", stats=stats, gaps=(1, 2), live=True)
    tally = Tally(source, tracked=True)
    for i in range(100):
        prediction = seen(time.monotonic() - (9 if i > 97 else 0.5))
        assert prediction.frame
        tally.begin(prediction.frame)
        tally.add(prediction)
    tally.unwritten = 3
    row = dict(zip(COLUMNS, tally.row(), strict=True))
    assert [row[c] for c in ("stream", "frames", "seconds", "dropped", "broken", "gaps")] == [
        *("cam", "100", "1.50", "10", "2", "2")
    ]
    assert 500 <= float(row["latency p50"].split()[0]) < 9000 <= float(row["p99"].split()[0])
    assert ", 10 dropped, 2 broken, 2 gaps, 3 left out of the video;" in tally.told()


@pytest.mark.slow
@pytest.mark.parametrize("live", [True, False])
def test_a_slow_video_holds_up_files_but_no_live_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, live: bool
):
    pytest.importorskip("trackers", reason="the extra `track` is not installed")
    for name in ("quick", "slow"):
        write(tmp_path / f"{name}.mp4", constant(90), images=[GREY] * 90)
    done, waited = threading.Event(), []
    add = VideoSink.add

    def add_slowly(self: VideoSink, image: Image, pts_s: float | None = None) -> None:
        if self.place.endswith("slow.mp4"):
            waited.append(done.wait(20 if live else 0.2))
        add(self, image, pts_s)
        if self.place.endswith("quick.mp4") and self.frames > 25:
            done.set()

    monkeypatch.setattr(VideoSink, "add", add_slowly)
    flags = ["--save", str(tmp_path / "out"), "--backend", "null", "--live" if live else "--no-live"]
    assert main(["track", str(tmp_path / "quick.mp4"), str(tmp_path / "slow.mp4"), *flags]) == 0
    written = len(times_of(tmp_path / "out" / "slow.mp4"))
    told = next(line for line in capsys.readouterr().err.splitlines() if "slow.mp4:" in line)
    assert waited[0] is live, "the other stream went on, or waited"
    assert (written < 90, "left out of the video" in told) == (live, live)
