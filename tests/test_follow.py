"""eyas.tracking.follow and Model.track: whose ids, which times, what is opened is closed; reading ahead and behind."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clips
import numpy as np
import pytest
from clips import Server, constant, write

import eyas
from eyas.errors import EyasError, OptionError, SourceError
from eyas.results import Embedding, Prediction
from eyas.tracking import follow as module
from eyas.tracking.follow import follow
from eyas.types import DeviceImage, Frame, Image
from eyas.video import Reconnect, VideoFrame, open_video, open_videos
from eyas.video.overlap import WAITING, WriteBehind, read_ahead

pytest.importorskip("trackers", reason="the extra `track` is not installed")
BRIGHT, WEAK = 230, 40  # `null` sees an object of confidence 0.90 or 0.16, as large as the picture


@pytest.fixture(scope="module")
def model() -> Iterator[eyas.Model]:
    with eyas.load("nanodet", backend="null", batch=4) as model:
        yield model


@pytest.fixture(autouse=True)
def no_thread_left(model: eyas.Model) -> Iterator[None]:
    """What a test starts beside the model ends with it."""
    model.engine("throughput")
    before = set(threading.enumerate())
    yield
    assert [t for t in threading.enumerate() if t not in before and t.name.startswith("eyas")] == []


def picture(value: int = BRIGHT) -> Image:
    return np.full((36, 64, 3), value, np.uint8)


def frame(i: int, source: str = "a", *, value: int = BRIGHT, pts_s: float | None = None, epoch: int = 0) -> VideoFrame:
    return VideoFrame(picture(value), i, source, i / 30 if pts_s is None else pts_s, epoch)


def clip(path: Path, n: int = 12) -> Path:
    return write(path, constant(n), images=[picture()] * n)


def ids(predictions: Any) -> list[list[int] | None]:
    """The ids frame by frame; None where objects have none."""
    found = [p.detections for p in predictions]
    return [None if f is None or f.tracker_id is None else f.tracker_id.tolist() for f in found]


@pytest.mark.parametrize("tracker", ["bytetrack", "botsort", "ocsort", "deepsort", "sort", "cbiou"])
def test_every_tracker_keeps_an_object_s_id(model: eyas.Model, tracker: str):
    found = ids(follow(model, [frame(i) for i in range(10)], tracker=tracker))
    assert found[-5:] == [[1]] * 5


def test_each_stream_has_its_own_ids_frames_and_times(model: eyas.Model):
    frames = [frame(i, source) for i in range(8) for source in "ab"]
    found = list(follow(model, frames))
    assert [p.frame for p in found] == frames
    assert {(p.source_id, *(p.detections.tracker_id if p.detections else ())) for p in found[8:]} == {
        ("a", 1),
        ("b", 1),
    }


def test_a_new_epoch_begins_new_tracks_and_no_id_comes_twice(model: eyas.Model):
    frames = [frame(i) for i in range(6)] + [frame(6 + i, pts_s=i / 30, epoch=1) for i in range(6)]
    found = ids(follow(model, frames, rates={"a": 30}))
    assert found[5] == [1]
    assert found[11] == [2]


@pytest.mark.parametrize(("rates", "last"), [({"a": 30.0}, 2), ({}, 1)])
def test_time_counts_where_the_rate_is_known(model: eyas.Model, rates: dict[str, float], last: int):
    frames = [frame(i) for i in range(6)] + [frame(6 + i, pts_s=20 + i / 30) for i in range(6)]
    assert ids(follow(model, frames, tracker="deepsort", rates=rates))[-1] == [last]


def test_without_a_tracker_all_objects_come_without_ids(model: eyas.Model):
    found = list(follow(model, [frame(i) for i in range(3)], tracker=None))
    assert [len(p.detections or ()) for p in found] == [1, 1, 1]
    assert ids(found) == [None] * 3


@pytest.mark.parametrize(("tracker", "last"), [("bytetrack", [1]), ("deepsort", [])])
def test_trackers_that_look_at_weak_detections_get_them(model: eyas.Model, tracker: str, last: list[int]):
    frames = [frame(i, value=BRIGHT if i < 6 else WEAK) for i in range(7)]
    assert ids(follow(model, frames, tracker=tracker))[-1] == last


def test_a_frame_that_cannot_be_read_carries_its_error_and_the_others_go_on(model: eyas.Model):
    away: Any = DeviceImage(0, (36, 64, 3), 192, 0, None, None)
    frames = [*(frame(i) for i in range(4)), VideoFrame(away, 4, "a", 4 / 30), frame(5)]
    found = list(follow(model, frames))
    assert [type(p.error) for p in found] == [*[type(None)] * 4, SourceError, type(None)]
    assert ids(found)[-1] == [1]


class Reid:
    """A re-identification that sees the mean colour of each crop."""

    card = SimpleNamespace(task="embed")

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def submit(self, piece: Image, **settings: Any) -> Future[Embedding]:
        self.shapes.append(piece.shape)
        vector = piece.mean(axis=(0, 1), dtype=np.float32) + 1
        done: Future[Embedding] = Future()
        done.set_result(Embedding(vector / np.linalg.norm(vector)))
        return done


def test_every_box_is_cut_out_and_described(model: eyas.Model):
    reid: Any = Reid()
    found = list(follow(model, [frame(i) for i in range(5)], tracker="deepsort", reid=reid))
    assert reid.shapes == [(36, 64, 3)] * 5
    detections = found[-1].detections
    assert detections is not None
    assert detections.embedding is not None
    assert detections.embedding.shape == (1, 3)
    assert np.linalg.norm(detections.embedding) == pytest.approx(1)
    assert ids(found)[-1] == [1]


def test_what_a_picture_does_not_hold_is_cut_out_as_far_as_it_is_there():
    boxes = np.array(
        [[10.2, 5, 20.1, 9], [-9, -9, 3, 3], [70, 40, 80, 50], [5, 5, 5, 9], [np.nan, 0, 1, 1]], np.float32
    )
    found = eyas.Detections(boxes, np.ones(5, np.float32), np.zeros(5, np.int64))
    pieces = module._crop(Frame(picture()), found)
    assert [p.shape[:2] for p in pieces] == [(4, 11), (3, 3), (1, 1)]
    joined = module._join(found, [Embedding(np.float32([1, 0]))] * 3)
    assert joined.embedding is not None
    assert np.isnan(joined.embedding).any(axis=1).tolist() == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tracker": "sort of"}, "unknown tracker"),
        ({"tracker_options": {"speed": 9}}, "no such option"),
        ({"tracker": None, "tracker_options": {"max_age": 9}}, "no tracker to take options"),
        ({"reid": Reid(), "tracker": "bytetrack"}, "has no use.*bytetrack"),
        ({"tracker": None, "reid": Reid()}, "has no use"),
        ({"tracker": "deepsort", "reid": SimpleNamespace(card=SimpleNamespace(task="detect"))}, "not re-identify"),
        ({"conf": 2}, "conf is out of range"),
    ],
)
def test_what_cannot_work_is_refused_at_once(model: eyas.Model, settings: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        follow(model, [], **settings)
    if "conf" not in settings:
        with pytest.raises(OptionError, match=words):
            model.track("nowhere.mp4", **settings)


def test_a_model_without_objects_is_refused():
    classifier: Any = SimpleNamespace(card=SimpleNamespace(task="classify"))
    with pytest.raises(OptionError, match=r"finds no objects.*classify"):
        follow(classifier, [])


def test_a_missing_extra_is_named(model: eyas.Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[track\]'"):
        follow(model, [], tracker="sort")


# ---- Model.track ----


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The videos that are opened meanwhile."""
    seen: list[Any] = []

    def keep(open_it: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **settings: Any) -> Any:
            seen.append(open_it(*args, **settings))
            return seen[-1]

        return run

    monkeypatch.setattr(module, "open_video", keep(open_video))
    monkeypatch.setattr(module, "open_videos", keep(open_videos))
    return seen


def is_closed(video: Any) -> bool:
    return next(iter(video), None) is None


def test_a_file_is_followed_to_its_end_and_closed(model: eyas.Model, tmp_path: Path, opened: list[Any]):
    found = list(model.track(clip(tmp_path / "a.mp4")))
    assert ids(found)[-1] == [1]
    assert [p.frame.index for p in found if p.frame] == list(range(12))
    assert is_closed(opened[0])


def test_who_stops_early_leaves_nothing_open(model: eyas.Model, tmp_path: Path, opened: list[Any]):
    found = model.track(clip(tmp_path / "a.mp4", 60))
    next(found)
    found.close()
    assert is_closed(opened[0])


def test_an_error_leaves_nothing_open(
    model: eyas.Model, tmp_path: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: Any) -> Any:
        raise RuntimeError("as planned")

    monkeypatch.setattr("eyas.tracking.deepsort.DeepSort.update", fail)
    with pytest.raises(RuntimeError, match="as planned"):
        list(model.track(clip(tmp_path / "a.mp4", 60)))
    assert is_closed(opened[0])


def test_several_files_and_lists_of_them_are_followed(model: eyas.Model, tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        clip(tmp_path / name)
    (tmp_path / "wall.streams").write_text("a.mp4\nb.mp4\n")
    both = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for source in (both, tmp_path / "wall.streams"):
        found = list(model.track(source))
        assert {p.source_id for p in found} == set(map(str, both))
        assert len(found) == 24


def test_an_opened_video_stays_open(model: eyas.Model, tmp_path: Path):
    with open_video(clip(tmp_path / "a.mp4", 60)) as video:
        list(itertools.islice(model.track(video), 2))
        assert next(video).index > 0


def test_a_source_that_is_named_twice_is_refused(model: eyas.Model, tmp_path: Path, opened: list[Any]):
    path = clip(tmp_path / "a.mp4")
    with pytest.raises(OptionError, match="named twice"):
        next(model.track([path, path]))
    assert is_closed(opened[0])


def test_what_is_not_there_is_told_of(model: eyas.Model, tmp_path: Path):
    with pytest.raises(SourceError, match=r"none\.mp4"):
        next(model.track(tmp_path / "none.mp4"))


def test_a_rate_that_no_camera_has_is_not_believed(tmp_path: Path):
    with open_video(clip(tmp_path / "a.mp4")) as video:
        assert module.rates_of(video) == {str(tmp_path / "a.mp4"): 30.0}
        video.rate = 90000
        assert module.rates_of(video) == {}


def camera(port: int = 0) -> Server:
    """A server of MJPEG at /cam."""
    answers: dict[str, clips.Answer] = {}
    server = Server(answers, port)
    answers["/cam"] = server.mjpeg(fps=50)
    return server


@pytest.mark.slow
def test_a_camera_that_comes_back_has_new_ids(model: eyas.Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clips, "grey", lambda i: BRIGHT)
    server = camera()
    url, port = server.url("/cam"), server.port
    seen: list[Prediction] = []
    with open_video(url, reconnect=Reconnect(first_s=0.05, most_s=0.1), timeout_s=2) as video:
        for prediction in follow(model, video):
            seen.append(prediction)
            if len(seen) == 30:
                server.stop()
                server = camera(port)
            if video.gaps and ids(seen[-1:]) == [[2]]:
                break
        gaps = video.gaps
    server.stop()
    assert len(gaps) == 1
    assert [p.frame.epoch for p in seen if isinstance(p.frame, VideoFrame)][-1] == 1


# ---- sources that pause ----


def pausing(frames: list[VideoFrame]) -> Iterator[VideoFrame | None]:
    """The frames, then nothing new for ever."""
    yield from frames
    while True:
        time.sleep(0.001)
        yield None


@pytest.mark.parametrize("settings", [{}, {"reid": Reid()}, {"tracker": None}], ids=["ids", "embeddings", "alone"])
def test_what_is_done_comes_out_while_the_source_pauses(model: eyas.Model, settings: Any):
    frames = [frame(i) for i in range(3)]
    found = follow(model, pausing(frames), **{"tracker": "deepsort"} | settings)
    assert [p.frame for p in itertools.islice(found, 3)] == frames  # the time limit is what fails here
    found.close()


def test_a_silent_camera_s_last_frame_comes_out(model: eyas.Model):
    answers: dict[str, clips.Answer] = {}
    with Server(answers) as server:
        answers["/cam"] = server.mjpeg(fps=20, freeze_at=10)
        for run in (model.stream, model.track):
            with open_video(server.url("/cam"), timeout_s=100) as video:
                seen = (p.frame for p in run(video))
                assert next(f for f in seen if f and f.arrived_s and clips.number(f.image) == 9)
                assert video.stats.reconnects == 0


def test_a_live_video_s_frames_are_numbered_by_the_run_as_others_are(model: eyas.Model, tmp_path: Path):
    with open_video(clip(tmp_path / "a.mp4")) as video:
        next(video)
        assert [p.frame.index for p in model.stream(video) if p.frame] == list(range(11))
    assert [p.frame.index for p in model.stream([frame(7), frame(9)]) if p.frame] == [0, 1]


def test_nothing_new_is_no_picture(model: eyas.Model):
    with pytest.raises(SourceError, match="no picture source"):
        list(model.predict([None]))


# ---- reading ahead, writing behind ----


def test_what_is_read_ahead_comes_in_order():
    assert list(read_ahead(range(100))) == list(range(100))


def test_an_error_comes_at_its_turn():
    def items() -> Iterator[int]:
        yield 1
        raise SourceError("as planned")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(SourceError, match="as planned"):
        next(ahead)


def test_no_more_is_read_than_has_room():
    fetched = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for i in range(100):
            fetched.release()
            yield i

    ahead = read_ahead(items())
    next(ahead)
    for _ in range(WAITING + 2):
        assert fetched.acquire(timeout=5)
    assert not fetched.acquire(timeout=0.1)
    ahead.close()


def test_what_is_written_behind_is_written_in_order_before_it_closes():
    seen: list[int] = []
    behind = WriteBehind(seen.append, "test")
    for i in range(50):
        behind.put(i)
    behind.close()
    behind.close()
    assert seen == list(range(50))


def test_an_error_of_the_writer_reaches_the_caller_once():
    def fail(item: int) -> None:
        raise SourceError(f"no room for {item}")

    behind = WriteBehind(fail, "test")
    behind.put(1)
    with pytest.raises(SourceError, match="no room for 1"):
        deque(map(behind.put, itertools.count(2)), maxlen=0)
    behind.close()


def test_an_error_of_the_last_item_comes_when_it_is_closed():
    behind = WriteBehind(lambda item: 1 / item, "test")
    behind.put(0)
    with pytest.raises(ZeroDivisionError):
        behind.close()


def test_who_writes_faster_than_the_writer_waits():
    gate = threading.Event()
    behind = WriteBehind(lambda item: gate.wait(5), "test", most=2)
    put = 0

    def fill() -> None:
        nonlocal put
        for i in range(10):
            behind.put(i)
            put += 1

    filler = threading.Thread(target=fill)
    filler.start()
    filler.join(0.2)
    assert put <= 3
    gate.set()
    filler.join()
    behind.close()
    assert put == 10


def test_a_slow_writer_of_a_live_stream_loses_the_oldest_and_counts_them():
    gate, begun = threading.Event(), threading.Event()
    seen: list[int] = []

    def write_slowly(item: int) -> None:
        begun.set()
        gate.wait(20)
        seen.append(item)

    behind = WriteBehind(write_slowly, "test", most=2, lossy=True)
    behind.put(0)
    assert begun.wait(20)
    for i in range(1, 10):
        behind.put(i)  # never waits
    gate.set()
    behind.close()
    assert seen == [0, 8, 9]
    assert behind.dropped == 7
