"""What every tracker promises, on boxes that are made up and on a street that was never filmed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tracking_scenes import street

from eyas.errors import EyasError, OptionError
from eyas.results import Detections
from eyas.tracking import TRACKERS, Tracker, open_tracker
from eyas.tracking.clock import Clock
from eyas.tracking.mot import read_mot, table_of

pytest.importorskip("scipy.optimize", reason="the extra `track` is not installed")

PICTURE = np.random.default_rng(0).integers(0, 255, (72, 128, 3), dtype=np.uint8)


def opened(name: str, **options: Any) -> Tracker:
    if name != "deepsort":
        pytest.importorskip("trackers", reason="the extra `track` is not installed")
    if name == "botsort":
        options.setdefault("enable_cmc", False)
    return open_tracker(name, **options)


def boxes(*xyxy: Iterable[float], confidence: float = 0.9) -> Detections:
    array = np.array(xyxy, np.float32).reshape(-1, 4)
    return Detections(array, np.full(len(array), confidence, np.float32), np.zeros(len(array), np.int64), ("person",))


def ids(found: Detections) -> list[int]:
    assert found.tracker_id is not None
    return found.tracker_id.tolist()


def follow(tracker: Tracker, box: Iterable[float], updates: int = 6) -> list[list[int]]:
    """The same box again and again: the ids of each update."""
    return [ids(tracker.update(boxes(box))) for _ in range(updates)]


every = pytest.mark.parametrize("name", TRACKERS)
BOX = (100, 100, 150, 220)


@every
def test_what_stays_keeps_its_id(name: str):
    assert follow(opened(name), BOX)[3:] == [[1]] * 3


@every
def test_rows_keep_their_order_and_all_that_they_hold(name: str):
    tracker = opened(name)
    found = boxes(BOX, (400, 100, 460, 240), (700, 100, 760, 260))
    found = Detections(
        found.xyxy, np.array([0.8, 0.9, 0.75], np.float32), np.array([2, 0, 1]), ("a", "b", "c"),
        keypoints=np.arange(18, dtype=np.float32).reshape(3, 2, 3),
    )  # fmt: skip
    for _ in range(5):
        tracked = tracker.update(found)
    assert tracked.xyxy.tolist() == found.xyxy.tolist()
    assert tracked.class_name == ["c", "a", "b"]
    assert tracked.keypoints is not None
    assert tracked.keypoints.tolist() == found.keypoints.tolist()
    assert sorted(ids(tracked)) == [1, 2, 3]
    assert tracked.tracker_id is not None
    assert tracked.tracker_id.dtype == np.int64


@every
def test_frames_without_detections_are_no_trouble(name: str):
    tracker = opened(name)
    empty = [ids(tracker.update(Detections.empty())) for _ in range(3)]
    assert empty + follow(tracker, BOX)[3:] == [[], [], [], [1], [1], [1]]
    assert ids(tracker.update(Detections.empty())) == []


@every
def test_an_object_that_is_hidden_for_a_moment_keeps_its_id(name: str):
    tracker = opened(name)
    before = follow(tracker, BOX)[-1]
    for _ in range(5):
        tracker.update(Detections.empty())
    assert follow(tracker, BOX)[-1] == before == [1]


@every
def test_after_a_reset_ids_go_on(name: str):
    tracker = opened(name)
    assert follow(tracker, BOX)[-1] == [1]
    tracker.reset()
    assert follow(tracker, BOX)[-1] == [2]
    tracker.reset()
    tracker.reset()
    assert follow(tracker, (500, 100, 550, 220))[-1] == [3]


@every
def test_boxes_that_cannot_be_followed_are_left_out(name: str):
    tracker = opened(name)
    nan, inf = np.nan, np.inf
    bad = [(nan, 0, 9, 9), (0, 0, inf, 9), (5, 5, 5, 9), (9, 9, 5, 5), (0, 0, 3e38, 3e38)]
    for _ in range(6):
        tracked = tracker.update(boxes(*bad, BOX))
    assert tracked.xyxy.tolist() == [list(BOX)]
    assert ids(tracked) == [1]


@every
@pytest.mark.parametrize("confidence", [np.nan, np.inf])
def test_a_confidence_that_is_no_number_is_left_out(name: str, confidence: float):
    tracker = opened(name)
    assert [ids(tracker.update(boxes(BOX, confidence=confidence))) for _ in range(5)] == [[]] * 5


@every
def test_what_it_is_given_stays_as_it_is(name: str):
    tracker = opened(name)
    found = boxes((400, 100, 460, 240), BOX)
    copy = found.xyxy.copy()
    for _ in range(4):
        tracker.update(found)
    assert found.tracker_id is None
    np.testing.assert_array_equal(found.xyxy, copy)


@every
def test_a_street_is_followed(name: str):
    sc = pytest.importorskip("eyas.evaluation.tracks")
    pytest.importorskip("trackers.eval", reason="the extra `track` is not installed")
    scene = street(seed=3, walkers=5, frames=80, missed=0.02, false=0.05)
    assert (scene.truth.confidence == 0).any(), "nobody is ever hidden in this scene"
    tracker = opened(name)
    result = table_of((i, tracker.update(d)) for i, d in enumerate(scene.frames, 1))
    assert sc.score(scene.truth, result).idf1 > 0.93


@pytest.mark.parametrize("name", ["deepsort", "sort", "bytetrack"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_ids_are_unique_in_a_frame_and_never_come_back_after_a_reset(name: str, data: st.DataObject):
    tracker = opened(name)
    coordinate = st.floats(-50, 400, width=32)
    given_before: set[int] = set()
    for _ in range(2):
        now: set[int] = set()
        place = data.draw(hnp.arrays(np.float32, (data.draw(st.integers(0, 6)), 2), elements=coordinate))
        for _ in range(data.draw(st.integers(1, 8))):
            moved = place + data.draw(hnp.arrays(np.float32, place.shape, elements=st.floats(-9, 9, width=32)))
            found = ids(tracker.update(boxes(*np.hstack([moved, np.add(moved, [40, 90])]))))
            assert len(set(found)) == len(found)
            now |= set(found)
        assert not now & given_before
        assert min(now, default=1) >= 1
        given_before |= now
        tracker.reset()


# ---- what supervision makes of it ----


def test_who_crosses_a_line_is_counted_once_by_supervision():
    sv = pytest.importorskip("supervision", reason="the extra `track` is not installed")
    tracker = opened("deepsort")
    line = sv.LineZone(start=sv.Point(200, 0), end=sv.Point(200, 400))
    for x in range(0, 400, 10):
        line.trigger(tracker.update(boxes((x, 100, x + 50, 220), (800 - x, 100, 850 - x, 220))).to_supervision())
    assert {line.in_count, line.out_count} == {0, 1}


# ---- names and options ----


def test_an_unknown_tracker_is_refused():
    with pytest.raises(OptionError, match=r"unknown tracker.*deepsort \| sort \| bytetrack"):
        open_tracker("deapsort")


@every
def test_an_unknown_option_is_refused_with_those_that_there_are(name: str):
    with pytest.raises(OptionError, match=r"no such option: got colour; expected .*frame_rate"):
        opened(name, colour=1)


@pytest.mark.parametrize("rate", [0, -1, np.nan, np.inf, "fast", True])
@every
def test_a_frame_rate_that_is_none_is_refused(name: str, rate: Any):
    with pytest.raises(OptionError, match="frame rate"):
        opened(name, frame_rate=rate)


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("sort", {"minimum_consecutive_frames": "abc"}, "minimum_consecutive_frames 'abc'; expected a number"),
        ("ocsort", {"delta_t": None}, "delta_t None; expected a number"),
        ("bytetrack", {"track_activation_threshold": True}, "track_activation_threshold True; expected a number"),
        ("sort", {"minimum_iou_threshold": np.nan}, "minimum_iou_threshold nan; expected a number"),
        ("botsort", {"enable_cmc": "no"}, "enable_cmc 'no'; expected true or false"),
        ("sort", {"state_estimator_class": "fast"}, "state_estimator_class 'fast'; expected a class"),
        ("sort", {"iou": "giou"}, "iou 'giou'; expected an object"),
    ],
)
def test_an_option_of_another_kind_is_refused_when_the_tracker_is_opened(name: str, option: Any, words: str):
    with pytest.raises(OptionError, match=f"{name} refuses an option: got {words}"):
        opened(name, **option)


def test_an_option_that_the_library_refuses_is_an_option_error():
    with pytest.raises(OptionError, match="sort refuses an option: got lost_track_buffer must be"):
        opened("sort", lost_track_buffer=-1)


def test_without_the_package_the_pip_line_is_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[track\]'"):
        open_tracker("bytetrack")


def test_botsort_wants_the_picture_unless_told_otherwise():
    tracker = opened("botsort", enable_cmc=True)
    with pytest.raises(OptionError, match=r"botsort needs the picture.*enable_cmc=False"):
        tracker.update(boxes(BOX))
    assert ids(tracker.update(boxes((10, 10, 40, 60)), PICTURE)) == [1]


@every
def test_a_picture_that_is_not_needed_is_no_trouble(name: str):
    assert len(opened(name).update(Detections.empty(), PICTURE)) == 0


# ---- time ----


def test_without_a_frame_rate_each_update_is_one_frame():
    clock = Clock()
    assert [clock.steps(t) for t in (0.0, 100.0, None, 5.0)] == [1, 1, 1, 1]


def test_with_a_frame_rate_gaps_count_as_frames():
    clock = Clock(10)
    assert [clock.steps(t) for t in (7.0, 7.1, 7.14, 7.44, None, 17.44, 17.44)] == [1, 1, 1, 3, 1, 100, 1]


def test_after_a_reset_time_begins_anew():
    clock = Clock(10)
    clock.steps(100.0)
    clock.reset()
    assert clock.steps(3.0) == 1


def test_a_gap_as_long_as_numbers_go_is_counted():
    clock = Clock(1e6)
    clock.steps(-1e308)
    assert clock.steps(1e308) == 1e9


@pytest.mark.parametrize("wrong", [0.9, np.nan, np.inf])
def test_time_that_does_not_follow_is_refused_and_forgotten(wrong: float):
    clock = Clock(10)
    clock.steps(1.0)
    with pytest.raises(OptionError, match=r"does not follow.*reset\(\)"):
        clock.steps(wrong)
    assert clock.steps(1.3) == 3


@every
def test_a_long_gap_ends_tracks_where_time_counts(name: str):
    tracker = opened(name, frame_rate=30)
    for i in range(6):
        found = tracker.update(boxes(BOX), pts_s=i / 30)
    assert ids(found) == [1]
    assert ids(tracker.update(boxes(BOX), pts_s=60)) == []


@every
def test_after_a_reset_the_time_of_a_tracker_begins_anew(name: str):
    tracker = opened(name, frame_rate=30)
    tracker.update(boxes(BOX), pts_s=500.0)
    with pytest.raises(OptionError, match=r"reset\(\)"):
        tracker.update(boxes(BOX), pts_s=0.0)
    tracker.reset()
    for i in range(6):
        found = tracker.update(boxes(BOX), pts_s=i / 30)
    assert len(found) == 1


@every
def test_a_few_lost_frames_end_nothing_where_time_counts(name: str):
    tracker = opened(name, frame_rate=30)
    for i in range(6):
        tracker.update(boxes(BOX), pts_s=i / 30)
    assert ids(tracker.update(boxes(BOX), pts_s=12 / 30)) == [1]


# ---- real detections ----


def test_deepsort_is_as_good_as_sort_on_real_detections(real_data: Path):
    sc = pytest.importorskip("eyas.evaluation.tracks")
    pytest.importorskip("trackers", reason="the extra `track` is not installed")
    found_by = {}
    for name in ("sort", "deepsort"):
        pairs = []
        for folder in ("TUD-Campus", "TUD-Stadtmitte"):
            found = read_mot(real_data / "data" / "mot15" / folder / "det.txt")
            tracker = open_tracker(name)
            frames = range(1, int(found.frame.max()) + 1)
            result = table_of((f, tracker.update(found.detections(f))) for f in frames)
            pairs.append((read_mot(real_data / "data" / "mot15" / folder / "gt.txt"), result))
        found_by[name] = sc.score_sequences(pairs)
    for figure, least in {"hota": 0.5, "mota": 0.65, "idf1": 0.65}.items():
        assert getattr(found_by["deepsort"], figure) >= getattr(found_by["sort"], figure) > least
