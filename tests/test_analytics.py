"""Lines, zones, dwell times, speed and heat, on tracks that are made up."""

from __future__ import annotations

import gc
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import EyasError, OptionError
from eyas.results import Classification, Detections, Prediction
from eyas.tracking.analytics import Analytics, Event, Line, Rules, Zone, read_rules, rules_of
from eyas.types import Frame
from eyas.video.frames import VideoFrame

pytest.importorskip("supervision", reason="needs supervision (the extra track)")

SIZE = (100, 200)  # height, width
PICTURE = np.full((*SIZE, 3), 90, np.uint8)
NAMES = ("person", "dog")
SQUARE = Zone("shop", ((50, 20), (150, 20), (150, 80), (50, 80)), anchor="centre")
ACROSS = Line("door", (0, 50), (200, 50), anchor="centre")  # walked along to the right: "in" is up
At = tuple[float, float] | None


def seen(*objects: tuple[int, float, float], classes: Sequence[int] = ()) -> Detections:
    """Boxes of 10 × 10 pixels around x, y, each with an id."""
    xy = np.array([o[1:] for o in objects], np.float32).reshape(-1, 2)
    ids = np.array([o[0] for o in objects], np.int64)
    class_id = np.array(classes or [0] * len(objects), np.int64)
    return Detections(np.hstack([xy - 5, xy + 5]), np.ones(len(xy), np.float32), class_id, NAMES, tracker_id=ids)


def shown(found: Detections | None, index: int, pts_s: float, epoch: int = 0, picture: Any = PICTURE) -> Prediction:
    return Prediction("cam", VideoFrame(picture, index, "cam", pts_s, epoch), found)


def played(analytics: Analytics, path: Iterable[At], step_s: float = 0.1, tracker_id: int = 1) -> list[Event]:
    """One object at these places, frame by frame; None: it is not detected."""
    events = []
    for i, at in enumerate(path):
        found = seen() if at is None else seen((tracker_id, *at))
        events += analytics.update(shown(found, i, i * step_s))
    return events


def told(events: Iterable[Event], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(e, name) for name in names) for e in events]


def over(line: Line = ACROSS, **options: Any) -> Analytics:
    return Analytics(Rules(lines=(line,), **options), SIZE)


def within(zone: Zone = SQUARE, **options: Any) -> Analytics:
    return Analytics(Rules(zones=(zone,), **options), SIZE)


@pytest.mark.parametrize("size", [(0, 0), (100, 0), (-1, 5), (100,), (100, 200, 3), (1.5, 2), (True, 4), 100, None])
def test_a_size_that_is_none_is_refused(size: Any):
    with pytest.raises(OptionError, match=r"the picture's size is wrong: got .*expected \(height, width\)"):
        Analytics(Rules(), size)


# ---- lines ----


def test_a_line_is_crossed_both_ways():
    analytics = over()
    path = [(100.0, y) for y in (80, 70, 60, 40, 30, 20, 30, 40, 60, 70)]
    assert told(played(analytics, path), "kind", "frame", "direction") == [("line", 4, "in"), ("line", 9, "out")]
    assert analytics.counts["door"] == {"in": {"person": 1}, "out": {"person": 1}}


@pytest.mark.parametrize(("end", "direction"), [((200, 50), "in"), ((0, 50), "out")])
def test_in_is_to_the_left_hand_of_who_walks_along_the_line(end: tuple[float, float], direction: str):
    line = Line("door", (200 - end[0], 50), end, anchor="centre")
    assert told(played(over(line), [(100, y) for y in (70, 60, 40, 30)]), "direction") == [(direction,)]


def test_jitter_on_the_line_does_not_count():
    assert played(over(), [(100, y) for y in (60, 52, *(48, 52) * 20, 60, 70)]) == []


def test_a_minimum_crossing_of_one_counts_at_once():
    assert told(played(over(minimum_crossing=1), [(100, 60), (100, 40)]), "frame") == [(1,)]


def test_an_object_that_is_hidden_while_it_crosses_counts():
    assert told(played(over(), [(100, 70), (100, 60), *[None] * 8, (100, 40), (100, 30)]), "frame") == [(11,)]


def test_an_object_that_is_hidden_for_longer_than_the_tolerance_begins_anew():
    path = [(100, 70), (100, 60), *[None] * 8, (100, 40), (100, 30)]
    assert played(over(tolerance_s=0.5), path) == []


def test_the_way_round_the_end_of_a_line_is_no_crossing():
    line = Line("door", (0, 50), (100, 50), anchor="centre")
    path = [(90, 70), (90, 60), (110, 60), (110, 40), (90, 40), (90, 30), (90, 20)]
    assert played(over(line), path) == []


def test_the_anchor_is_the_point_that_crosses():
    centre, feet = over(), over(Line("door", (0, 50), (200, 50)))
    path = [(100.0, y) for y in range(60, 30, -2)]
    (first,), (second,) = played(centre, path), played(feet, path)
    assert second.frame == first.frame + 2  # 5 pixels lower, 2 pixels a frame; a foot on the line is not yet over it


# ---- zones and dwell ----


def test_a_stay_is_as_long_as_its_times_say():
    path = [(20.0, 50.0), (60.0, 50.0), (80.0, 50.0), (100.0, 50.0), (160.0, 50.0), (170.0, 50.0)]
    analytics, times = within(), [0.0, 0.1, 0.15, 2.4, 2.5, 3.0]
    events = [
        e
        for i, (at, t) in enumerate(zip(path, times, strict=True))
        for e in analytics.update(shown(seen((1, *at)), i, t))
    ]
    assert told(events, "kind", "frame", "reason") == [("enter", 2, None), ("leave", 5, "outside")]
    assert events[1].dwell_s == pytest.approx(2.3)


def test_a_gap_in_detections_is_no_leave():
    path: list[At] = [*[(100.0, 50.0)] * 5, *[None] * 9, *[(100.0, 50.0)] * 5, (20.0, 50.0), (20.0, 50.0)]
    events = played(within(), path)
    assert told(events, "kind", "reason") == [("enter", None), ("leave", "outside")]
    assert events[1].dwell_s == pytest.approx(1.8)


def test_who_vanishes_has_left_when_the_tolerance_is_over():
    events = played(within(), [*[(100.0, 50.0)] * 5, *[None] * 20])
    assert told(events, "kind", "frame", "reason") == [("enter", 1, None), ("leave", 15, "unseen")]
    assert events[1].dwell_s == pytest.approx(0.4)


def test_who_returns_after_the_tolerance_enters_again():
    analytics = within()
    played(analytics, [*[(100.0, 50.0)] * 5, *[None] * 20, *[(100.0, 50.0)] * 5])
    assert analytics.counts["shop"] == {"in": {"person": 2}, "out": {"person": 1}, "present": 1}


def test_who_is_in_every_frame_of_a_slow_camera_has_not_left():
    assert told(played(within(), [(100, 50)] * 5, step_s=3), "kind") == [("enter",)]


def test_a_touch_of_a_zone_is_no_visit():
    analytics = within()
    assert played(analytics, [(49, 50), (51, 50)] * 10) == []
    assert analytics.finish()[0].count_in == {}


def test_jitter_on_the_edge_of_a_zone_is_one_visit():
    path = [(100.0, 50.0)] * 3 + [(49.0, 50.0), (51.0, 50.0)] * 10
    assert told(played(within(), path), "kind") == [("enter",)]


# ---- speed ----


def test_speed_is_in_pixels_per_second():
    (event,) = played(over(), [(100.0, 90.0 - 5 * i) for i in range(12)])
    assert event.speed_px_s == pytest.approx(50)


def test_speed_is_that_of_the_last_half_second():
    slow = [(10 + 0.1 * i, 80.0) for i in range(20)]
    fast = [(12.0, 80.0 - 5 * i) for i in range(12)]
    assert played(over(), slow + fast)[0].speed_px_s == pytest.approx(50)


def test_speed_of_few_frames_a_second_is_that_of_the_last_two():
    (event,) = played(over(tolerance_s=3), [(100, 80), (100, 60), (100, 40), (100, 30)], step_s=2)
    assert event.speed_px_s == pytest.approx(5)


def test_jitter_of_boxes_hardly_changes_the_speed():
    jitter = np.random.default_rng(3).normal(0, 1, 60)
    path = [(100.0, 90 - i + float(j)) for i, j in enumerate(jitter)]
    (event,) = played(over(minimum_crossing=4), path, step_s=1 / 30)
    assert event.speed_px_s == pytest.approx(30, rel=0.25)


def test_speed_is_unknown_where_no_time_passes():
    analytics = over(minimum_crossing=1)
    assert analytics.update(shown(seen((1, 100, 60)), 0, 1.0)) == []
    assert analytics.update(shown(seen((1, 100, 40)), 1, 1.0))[0].speed_px_s is None


# ---- classes, streams, ends ----


def test_classes_are_counted_each_for_itself():
    analytics = Analytics(Rules((ACROSS, Line("dogs", (0, 50), (200, 50), "centre", ("dog",))), (SQUARE,)), SIZE)
    for i, y in enumerate((70, 60, 40, 30)):
        analytics.update(shown(seen((1, 100, y), (2, 120, y), (3, 140, y), classes=(0, 1, 1)), i, i / 10))
    assert analytics.counts["door"]["in"] == {"person": 1, "dog": 2}
    assert analytics.counts["dogs"]["in"] == {"dog": 2}
    assert analytics.counts["shop"] == {"in": {"person": 1, "dog": 2}, "out": {}, "present": 3}


def test_a_track_that_changes_its_class_leaves_by_the_one_it_entered_with():
    analytics = within()
    for i in range(6):
        x = 100 if i < 4 else 20
        analytics.update(shown(seen((1, x, 50), classes=(i > 2,)), i, i / 10))
    assert analytics.counts["shop"] == {"in": {"person": 1}, "out": {"person": 1}, "present": 0}


def test_a_new_epoch_ends_visits_where_the_old_one_ended():
    analytics = within()
    for i in range(3):
        analytics.update(shown(seen((1, 100, 50)), i, i / 10))
    events = [e for i in range(2) for e in analytics.update(shown(seen((1, 100, 50)), 9 + i, 0.9 + i / 10, epoch=1))]
    wanted = [("leave", 2, 0.2, "gap"), ("enter", 10, 1.0, None)]
    assert told(events, "kind", "frame", "pts_s", "reason") == wanted


def test_a_crossing_does_not_span_a_new_epoch():
    analytics = over(minimum_crossing=1)
    analytics.update(shown(seen((1, 100, 60)), 0, 0))
    assert analytics.update(shown(seen((1, 100, 40)), 1, 0.1, epoch=1)) == []


def test_times_may_begin_anew_with_an_epoch():
    analytics = within()
    analytics.update(shown(seen((1, 100, 50)), 0, 7.0))
    assert analytics.update(shown(seen((1, 100, 50)), 1, 0.0, epoch=1)) == []


def test_the_end_closes_visits_and_sums_up():
    analytics = Analytics(Rules((ACROSS,), (SQUARE,)), SIZE)
    path = [(100.0, 70.0), (100.0, 60.0), (100.0, 40.0), (100.0, 30.0), (100.0, 10.0), (100.0, 10.0)]
    played(analytics, path)
    for i in range(6, 10):
        analytics.update(shown(seen((2, 100, 70)), i, i / 10))
    leave, line, zone = analytics.finish()
    assert (leave.kind, leave.tracker_id, leave.reason) == ("leave", 2, "end")
    assert line.to_dict() == {
        "kind": "summary", "source_id": "cam", "frame": 9, "pts_s": 0.9, "rule": "door",
        "count_in": {"person": 1}, "count_out": {},
    }  # fmt: skip
    assert zone.to_dict() == {
        "kind": "summary", "source_id": "cam", "frame": 9, "pts_s": 0.9, "rule": "shop",
        "count_in": {"person": 2}, "count_out": {"person": 2}, "present": 1,
        "mean_dwell_s": 0.3, "longest_dwell_s": 0.3,
    }  # fmt: skip


def test_without_a_frame_there_is_nothing_to_sum_up():
    assert within().finish() == []


def test_failed_frames_and_other_tasks_say_nothing():
    analytics = within()
    frame = VideoFrame(PICTURE, 0, "cam", 0.0)
    assert analytics.update(Prediction("cam", frame, error=EyasError("broken"))) == []
    assert analytics.update(Prediction("cam", frame)) == []
    assert analytics.update(Prediction("cam", frame, Classification(np.ones(2, np.float32) / 2, NAMES))) == []


def test_frames_without_objects_need_no_ids():
    assert within().update(shown(Detections.empty(NAMES), 0, 0)) == []


def test_what_is_not_confirmed_or_not_finite_is_left_out():
    analytics = within(minimum_crossing=1)
    assert analytics.update(shown(seen((-1, 100, 50), (-1, 90, 50), (4, math.nan, 50), (5, math.inf, 50)), 0, 0)) == []


def test_an_event_is_plain_json():
    (event,) = played(over(), [(100.0, 90.0 - 5 * i) for i in range(12)])
    assert json.loads(json.dumps(event.to_dict())) == {
        "kind": "line", "source_id": "cam", "frame": 10, "pts_s": 1.0, "rule": "door", "tracker_id": 1,
        "class_name": "person", "direction": "in", "speed_px_s": 50.0,
    }  # fmt: skip


def test_counts_are_read_only():
    counts = within().counts
    with pytest.raises(TypeError):
        counts["shop"]["present"] = 3  # type: ignore[index]


steps = st.lists(st.tuples(st.sampled_from([20.0, 100.0, None]), st.floats(0, 1.5)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(tracks=st.tuples(steps, steps), minimum=st.integers(1, 3))
def test_enter_and_leave_alternate_for_each_track(tracks: tuple[Any, Any], minimum: int):
    analytics = within(minimum_crossing=minimum)
    events, now = [], 0.0
    for i, pair in enumerate(zip(*tracks, strict=False)):
        now += pair[0][1]
        found = [(k + 1, x, 50.0) for k, (x, _) in enumerate(pair) if x is not None]
        events += analytics.update(shown(seen(*found), i, now, epoch=i // 25))
    events += analytics.finish()
    for track in (1, 2):
        kinds = [e.kind for e in events if e.tracker_id == track]
        assert kinds == ["enter", "leave"] * (len(kinds) // 2)
    assert all(0 <= e.dwell_s <= now for e in events if e.dwell_s is not None)
    assert [e.pts_s for e in events] == sorted(e.pts_s for e in events)


def reachable(thing: object) -> int:
    """How many objects hang from this one, but for modules, classes and functions."""
    known, todo = {id(thing)}, [thing]
    while todo:
        for other in gc.get_referents(todo.pop()):
            if id(other) not in known and not isinstance(other, (type, type(math), type(reachable))):
                known.add(id(other))
                todo.append(other)
    return len(known)


@pytest.mark.parametrize("frames", [2000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_what_is_kept_does_not_grow_with_the_stream(frames: int):
    analytics = Analytics(Rules((ACROSS,), (SQUARE,)), SIZE)
    kept = []
    for i in range(frames):  # each object is seen in three frames
        analytics.update(shown(seen(*((j, 100.0, 40.0 + j % 20) for j in range(i, i + 3))), i, i / 25))
        if i in (500, frames - 1):
            kept.append(reachable(analytics))
    assert analytics.counts["shop"]["in"]["person"] > frames - 5
    assert kept[1] <= kept[0] * 1.05


# ---- sizes ----


def test_shares_suit_every_size():
    rules = rules_of(["door=0%,50%,100%,50%"], ["shop=25%,20%,75%,20%,75%,90%,25%,90%"])
    for scale in (1, 4):
        analytics = Analytics(rules, (SIZE[0] * scale, SIZE[1] * scale))
        big = np.zeros((SIZE[0] * scale, SIZE[1] * scale, 3), np.uint8)
        for i, y in enumerate((80, 70, 60, 40, 30, 20)):
            found = seen((1, 100 * scale, y * scale))
            analytics.update(shown(found, i, i / 10, picture=big))
        assert analytics.counts["door"]["in"] == {"person": 1}
        assert analytics.counts["shop"]["present"] == 1


def test_a_stream_that_changes_its_size_goes_on():
    analytics = over()
    big = np.zeros((2 * SIZE[0], 2 * SIZE[1], 3), np.uint8)
    analytics.update(shown(seen((1, 100, 60)), 0, 0.0))
    analytics.update(shown(seen((1, 200, 118)), 1, 0.1, picture=big))
    assert analytics.counts["door"]["in"] == {}
    analytics.update(shown(seen((1, 200, 90)), 2, 0.2, picture=big))
    analytics.update(shown(seen((1, 100, 40)), 3, 0.3))
    assert analytics.counts["door"]["in"] == {"person": 1}


# ---- pictures ----


def test_drawing_writes_into_the_picture_itself():
    picture = np.zeros((400, 600, 3), np.uint8)
    Analytics(rules_of(["door=10%,50%,90%,50%"], []), (400, 600)).draw(picture)
    assert picture[200, 300].tolist() == [255, 255, 255]
    assert not picture[390].any()


def test_drawing_reaches_a_picture_that_is_a_view_and_of_another_size():
    whole = np.zeros((800, 600, 3), np.uint8)
    view = whole[::2, ::-1]
    Analytics(rules_of(["door=10%,50%,90%,50%"], []), SIZE).draw(view)
    assert view[200, 300].tolist() == [255, 255, 255]
    assert not whole[1::2].any()


def test_small_pictures_are_drawn_without_letters():
    picture = np.zeros((12, 12, 3), np.uint8)
    Analytics(rules_of(["door=0%,50%,100%,50%"], ["shop=0%,0%,100%,0%,100%,100%"]), (12, 12)).draw(picture)
    assert picture.any()


def test_heat_is_where_objects_stood():
    analytics = Analytics(Rules(), SIZE)
    played(analytics, [(50.0, 40.0)] * 30 + [(150.0, 40.0)] * 5)
    warm = analytics.heatmap(PICTURE)
    b, _, r = warm[45, 50].tolist()
    assert r > b + 50  # red: the most time
    b, _, r = warm[45, 150].tolist()
    assert b > r + 50  # blue: little
    assert (warm[90:] == PICTURE[90:]).all()
    assert (PICTURE == 90).all()


def test_heat_counts_seconds_and_not_frames():
    analytics = Analytics(Rules(), SIZE)
    times = [*np.linspace(0, 1, 50), 1.9, 2.8, 3.7]
    for i, t in enumerate(times):
        analytics.update(shown(seen((1, 50 if i < 50 else 150, 40)), i, float(t)))
    b, _, r = analytics.heatmap(PICTURE)[45, 150].tolist()
    assert r > b + 50


def test_without_objects_the_heat_map_is_the_picture():
    warm = Analytics(Rules(), SIZE).heatmap(PICTURE)
    assert (warm == PICTURE).all()
    assert warm is not PICTURE


# ---- rules ----

GOOD: dict[str, Any] = {
    "relative": True,
    "minimum_crossing": 3,
    "tolerance_s": 0.5,
    "lines": [{"name": "door", "start": [0, 0.5], "end": [1, 0.5], "anchor": "centre", "classes": ["person"]}],
    "zones": [{"name": "shop", "polygon": [[0, 0], [1, 0], [1, 1]]}],
}


def blocks(language: str) -> list[str]:
    page = (ROOT / "docs" / "analytics.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def written(folder: Path, content: object) -> Path:
    path = folder / "rules.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_rules_file_says_all_that_rules_hold(tmp_path: Path):
    door = Line("door", (0, 0.5), (1, 0.5), "centre", ("person",), relative=True)
    shop = Zone("shop", ((0, 0), (1, 0), (1, 1)), relative=True)
    assert read_rules(written(tmp_path, GOOD)) == Rules((door,), (shop,), minimum_crossing=3, tolerance_s=0.5)


def test_the_page_shows_rules_that_can_be_read(tmp_path: Path):
    (shown_rules,) = blocks("json")
    rules = read_rules(written(tmp_path, shown_rules))
    assert [rule.name for rule in (*rules.lines, *rules.zones)] == ["door", "till"]


def test_the_page_shows_what_its_python_prints(capsys: pytest.CaptureFixture[str]):
    (code,), (text,) = blocks("python"), blocks("text")
    exec(code, {})  # noqa: S102
    assert capsys.readouterr().out == text
    assert set(re.findall(r'"kind": "(\w+)"', text)) == {"line", "enter", "leave", "summary"}


def test_rules_of_the_command_are_pixels_or_hundredths():
    rules = rules_of(["a=b=1,2,3.5,4"], ["shop= 0%, 0%, 50%, 0%, 50%, 100%"])
    assert rules.lines == (Line("a=b", (1, 2), (3.5, 4)),)
    assert rules.zones == (Zone("shop", ((0, 0), (0.5, 0), (0.5, 1)), relative=True),)


def line(**change: Any) -> Mapping[str, Any]:
    return GOOD | {"lines": [GOOD["lines"][0] | change]}


def zone(**change: Any) -> Mapping[str, Any]:
    return GOOD | {"zones": [GOOD["zones"][0] | change]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ([], "the file is wrong: got list"),
        ({}, "there is no rule in it: got neither lines nor zones"),
        ({"lines": [], "zones": [], "tolerance_s": 2}, "there is no rule in it"),
        (GOOD | {"line": []}, "the file has an unknown key: got line; expected lines | zones"),
        (GOOD | {"relative": 1}, "relative is wrong: got 1; expected true or false"),
        (GOOD | {"lines": {}}, "lines is wrong: got dict"),
        (GOOD | {"zones": [3]}, r"zones\[0\] is wrong: got int"),
        (GOOD | {"minimum_crossing": 0}, "minimum_crossing is wrong: got 0"),
        (GOOD | {"minimum_crossing": True}, "minimum_crossing is wrong: got True"),
        (GOOD | {"minimum_crossing": 1.5}, "minimum_crossing is wrong: got 1.5"),
        (GOOD | {"minimum_crossing": 2.0}, "minimum_crossing is wrong: got 2.0"),
        (GOOD | {"tolerance_s": 0}, "tolerance_s is wrong: got 0"),
        (GOOD | {"tolerance_s": math.nan}, "tolerance_s is wrong: got nan"),
        (GOOD | {"tolerance_s": "1"}, "tolerance_s is wrong: got '1'"),
        (line(ends=1), r"lines\[0\] has an unknown key: got ends"),
        (GOOD | {"lines": [{"name": "door"}]}, r"lines\[0\] lacks start, end: got name"),
        (line(name=" "), "a line has no name"),
        (line(name=7), "a line has no name: got 7"),
        (line(name="shop"), "a name occurs twice: got shop"),
        (line(start=[0.5]), r"a point of line 'door' is wrong: got \[0.5\]; expected two numbers"),
        (line(start=[0.5, "x"]), "a point of line 'door' is wrong"),
        (line(start=[0.5, math.inf]), "a point of line 'door' is wrong"),
        (line(start=[0.5, 10**400]), "a point of line 'door' is wrong"),
        (line(start=0.5), "a point of line 'door' is wrong: got 0.5"),
        (line(start=[0.5, 50]), "lies outside of the picture: got .*50.*; expected shares from 0 to 1"),
        (line(start=[1, 0.5]), "line 'door' has no length"),
        (line(anchor="feet"), "line 'door' has an unknown anchor: got 'feet'; expected bottom | centre"),
        (line(anchor=[1]), "line 'door' has an unknown anchor"),
        (line(classes="person"), "the classes of line 'door' are wrong: got 'person'"),
        (line(classes=[]), "the classes of line 'door' are wrong"),
        (line(classes=[0]), "the classes of line 'door' are wrong"),
        (zone(polygon=[[0, 0], [1, 1]]), "zone 'shop' has too few points: got 2; expected 3"),
        (zone(polygon=[[0, 0], [0.5, 0.5], [1, 1]]), "zone 'shop' has no area"),
        (zone(polygon="all"), "a point of zone 'shop' is wrong: got 'all'"),
        (zone(polygon=[0, 0, 1, 0, 1, 1]), "a point of zone 'shop' is wrong: got 0"),
    ],
)
def test_a_wrong_rules_file_is_refused(tmp_path: Path, content: object, message: str):
    with pytest.raises(OptionError, match=message) as refused:
        read_rules(written(tmp_path, content))
    assert "rules.json" in str(refused.value)


def test_a_key_that_comes_twice_is_refused(tmp_path: Path):
    path = tmp_path / "rules.json"
    path.write_text('{"tolerance_s": 2, "lines": [{"name": "a", "start": [0, 0], "end": [9, 9]}], "lines": []}')
    with pytest.raises(OptionError, match=r"rules\.json: .*a key occurs twice: got lines"):
        read_rules(path)


def test_a_missing_rules_file_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match=r"cannot be read: got .*none\.json"):
        read_rules(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rules_of(["door=1,2,3"], []), "the line cannot be read: got 'door=1,2,3'; expected NAME=x1,y1,x2,y2"),
        (lambda: rules_of(["1,2,3,4"], []), "the line cannot be read"),
        (lambda: rules_of(["=1,2,3,4"], []), "the line cannot be read"),
        (lambda: rules_of(["door=1,2,3,x"], []), "the line cannot be read"),
        (lambda: rules_of(["door=1,2,3,nan"], []), "a point of line 'door' is wrong"),
        (lambda: rules_of(["door=1,2,3%,4"], []), "the line mixes pixels and %"),
        (lambda: rules_of(["door=0%,0%,0%,101%"], []), "lies outside of the picture"),
        (lambda: rules_of([], ["shop=1,2,3,4"]), "the zone cannot be read"),
        (lambda: rules_of([], ["shop=1,2,3,4,5,7,8"]), "the zone cannot be read"),
        (lambda: rules_of(["a=1,2,3,4"], ["a=1,2,3,4,5,9"]), "a name occurs twice: got a"),
    ],
)
def test_wrong_rules_of_the_command_are_refused(make: Callable[[], Rules], message: str):
    with pytest.raises(OptionError, match=message):
        make()


def test_a_rule_for_a_larger_picture_is_refused():
    with pytest.raises(OptionError, match=r"'door' reaches out of the picture: .* x from 0 to 200, y from 0 to 100"):
        over(Line("door", (0, 50), (1280, 50)))


def test_objects_without_ids_ask_for_a_tracker():
    found = Detections(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), NAMES)
    with pytest.raises(OptionError, match=r"not tracked.*Choose a tracker first: deepsort"):
        within().update(shown(found, 0, 0))


def test_an_id_that_comes_twice_in_a_frame_is_refused():
    with pytest.raises(OptionError, match="one id: got id 3 twice"):
        within().update(shown(seen((1, 9, 9), (3, 100, 50), (3, 20, 50)), 0, 0))


def test_a_class_that_the_model_lacks_is_refused():
    with pytest.raises(OptionError, match="no such class: got persn; expected person, dog"):
        within(Zone("z", SQUARE.polygon, classes=("persn", "dog"))).update(shown(seen((1, 9, 9)), 0, 0))


@pytest.mark.parametrize("frame", [None, Frame(PICTURE), Frame(PICTURE, pts_s=math.nan)])
def test_frames_without_a_time_are_refused(frame: Frame | None):
    with pytest.raises(OptionError, match="the frame has no time"):
        within().update(Prediction("cam", frame, seen((1, 9, 9))))


def test_times_that_fall_are_refused():
    analytics = within()
    analytics.update(shown(seen(), 0, 1.0))
    with pytest.raises(OptionError, match=r"got 0.5 s after 1.0 s"):
        analytics.update(shown(seen(), 1, 0.5))


def test_without_supervision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[track\]'"):
        within()
