"""eyas.timeline: what a trace says of itself, on traces whose answer is known, and what is refused."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import eyas
from eyas.cli import trace as command
from eyas.errors import DataError, OptionError
from eyas.timeline import Report, analyse, lanes_of, part, queued
from eyas.timeline_plot import _short, draw, middle
from eyas.trace import Trace, tracing
from eyas.trace_file import Recording, read

ENGINE, PREPARE, MAIN = "eyas x engine 1", "eyas x prepare 1", "MainThread"
Row = tuple[str, str, float, float]  # name, lane, start and end in ms


def write(path: Path, rows: list[Row], cpu: float = 0.1, cores: int = 2, seconds: float | None = None) -> Path:
    """A trace file with these spans; those on the lane "waits" are waits. cpu: the share of all cores."""
    record = Trace()
    ns = [(name, lane, record.start + int(a * 1e6), record.start + int(b * 1e6)) for name, lane, a, b in rows]
    for name, lane, a, b in ns:
        if lane == "waits":
            record.wait(name, a)
            record.waits[-1] = record.waits[-1]._replace(end=b)
        else:
            record.add(name, a, b, lane, **({"pictures": 2} if name == "engine" else {}))
    data = record.events()
    length = seconds or max(b for *_, b in rows) / 1e3
    data["otherData"] = {"seconds": length, "cpu_seconds": cpu * length * cores, "cores": cores}
    path.write_text(json.dumps(data))
    return path


def report(tmp_path: Path, rows: list[Row], cpu: float = 0.1, **limits: float) -> Report:
    return analyse(read(write(tmp_path / "t.json", rows, cpu)), **limits)


def calls(count: int = 20, busy: float = 10, every: float = 10) -> list[Row]:
    """Engine calls of `busy` ms, one each `every` ms."""
    return [("engine", ENGINE, i * every, i * every + busy) for i in range(count)]


def fill(name: str, lane: str, count: int = 20) -> list[Row]:
    return [(name, lane, i * 10.0, i * 10.0 + 9.8) for i in range(count)]


def test_frames_a_second_leave_out_the_first_call(tmp_path: Path):
    found = report(
        tmp_path, [("engine", ENGINE, 0, 500), *[("engine", ENGINE, t, t + 10) for t in range(500, 700, 10)]]
    )
    assert found.cold_start_s == pytest.approx(0.5)
    assert found.pictures == 40
    assert found.frames_s == pytest.approx(200)


def test_of_few_calls_none_is_left_out(tmp_path: Path):
    found = report(tmp_path, calls(3))
    assert (found.from_s, found.cold_start_s, found.pictures) == (0, 0, 6)


def test_a_part_that_is_named_is_taken_as_it_is(tmp_path: Path):
    found = report(tmp_path, calls(), from_s=0.0, to_s=0.1)
    assert (found.from_s, found.to_s, found.pictures, found.cold_start_s) == (0, 0.1, 20, 0)


def test_stages_have_their_times_and_waiting_is_told_from_work(tmp_path: Path):
    rows = [("decode", PREPARE, i * 10.0, i * 10.0 + i) for i in range(1, 6)]
    found = report(
        tmp_path, [*rows, ("place", PREPARE, 60, 80), ("queued", "waits", 0, 30), ("queued", "waits", 0, 50)]
    )
    queue, decode, place = found.stages
    assert (queue.name, queue.kind, queue.count, queue.total_ms) == ("queued", "waiting", 2, 80)
    assert (decode.kind, decode.count, decode.total_ms, decode.mean_ms) == ("work", 5, 15, 3)
    assert (decode.p50_ms, decode.p95_ms, decode.max_ms) == pytest.approx((3, 4.8, 5))
    assert (place.name, place.kind) == ("place", "waiting")


def test_a_lane_is_busy_where_it_works_and_not_where_it_waits(tmp_path: Path):
    rows: list[Row] = [("decode", PREPARE, 0, 30), ("place", PREPARE, 30, 100), ("decode", MAIN, 0, 60)]
    found = report(tmp_path, [*rows, ("letterbox", MAIN, 40, 80)])  # these overlap: counted once
    shares = {lane.name: (lane.busy, lane.waiting) for lane in found.lanes}
    assert shares == {PREPARE: (pytest.approx(0.3), pytest.approx(0.7)), MAIN: (pytest.approx(0.8), 0)}


def test_a_busy_engine_is_the_bound(tmp_path: Path):
    found = report(tmp_path, [*calls(), *[("decode", PREPARE, i * 10.0, i * 10.0 + 3) for i in range(20)]])
    assert found.bounds == ["engine"]
    assert "100%" in found.why[0]


def test_results_are_the_bound_where_they_fill_the_engines_threads(tmp_path: Path):
    found = report(tmp_path, [*calls(20, 2), *[("results", ENGINE, i * 10.0 + 2, i * 10.0 + 10) for i in range(20)]])
    assert found.bounds == ["results"]


def test_busy_cores_are_named_beside_a_busy_engine_with_the_work_of_each_stage(tmp_path: Path):
    found = report(tmp_path, [*calls(), *fill("decode", PREPARE)], cpu=0.98)
    assert found.bounds == ["engine", "cpu"]
    assert "engine 51%, decode 49%" in found.why[1]


def test_cores_are_not_called_busy_for_a_part_of_which_nothing_is_known(tmp_path: Path):
    found = report(tmp_path, calls(100), cpu=0.95, from_s=0.5, to_s=0.6)
    assert found.bounds == ["engine"]
    assert found.cpu_share == pytest.approx(0.95)


@pytest.mark.parametrize("stage", ["decode", "letterbox"])
def test_busy_preparers_and_a_starving_engine_name_the_longer_stage(tmp_path: Path, stage: str):
    found = report(tmp_path, [*calls(20, 2), *fill(stage, PREPARE)])
    assert found.bounds == [stage]


@pytest.mark.parametrize("stage", ["source", "sink"])
def test_a_busy_caller_is_the_bound(tmp_path: Path, stage: str):
    found = report(tmp_path, [*calls(20, 2), *fill(stage, MAIN)])
    assert found.bounds == [stage]


def test_where_nothing_is_busy_it_is_the_caller(tmp_path: Path):
    found = report(tmp_path, calls(20, 2))
    assert found.bounds == ["caller"]
    assert "the caller had sent no more" in found.why[0]


def test_a_preparer_that_waits_for_a_place_is_not_busy(tmp_path: Path):
    assert report(tmp_path, [*calls(), *fill("place", PREPARE)]).bounds == ["engine"]
    assert report(tmp_path, [*calls(20, 2), *fill("place", PREPARE), ("decode", PREPARE, 9.8, 10)]).bounds == ["caller"]


def test_without_an_engine_call_nothing_is_claimed(tmp_path: Path):
    found = report(tmp_path, fill("decode", PREPARE), cpu=1)
    assert (found.bounds, found.frames_s) == ([], 0)
    assert "no engine call" in found.why[0]


def test_bubbles_are_told_by_what_was_under_way_meanwhile(tmp_path: Path):
    rows: list[Row] = [*calls(4), *[("engine", ENGINE, t, t + 10) for t in (60, 100, 140.5)]]
    rows += [
        ("decode", PREPARE, 35, 55),
        ("sink", MAIN, 70, 90),
        ("queued", "waits", 85, 95),
        ("decode", PREPARE, 110, 140),
    ]
    holes = report(tmp_path, rows).bubbles
    assert (holes.count, holes.threshold_ms) == (3, 1)
    assert holes.total_ms == pytest.approx(20 + 30 + 30.5)
    assert holes.longest_ms == pytest.approx(30.5)
    causes = {text.split(" ")[0]: ms for text, ms in holes.causes.items()}
    # From 40 to 55 and 110 to 140 decode ran, then 0.5 ms nothing; from 70 sink, the queue first where both were.
    assert causes == pytest.approx({"decode": 45, "the": 15, "pictures": 10, "nothing": 10.5})
    assert sum(causes.values()) == pytest.approx(holes.total_ms)


def test_gaps_shorter_than_a_tenth_of_a_call_are_no_bubbles(tmp_path: Path):
    assert report(tmp_path, calls(20, 10, 10.9)).bubbles.count == 0
    assert report(tmp_path, calls(20, 10, 11.1)).bubbles.count == 19


def test_what_ran_on_a_gpu_is_kept_apart_from_the_threads(tmp_path: Path):
    gpu: list[Row] = [(n, f"GPU 0 lane {i % 2}", i * 5.0, i * 5.0 + 5) for i in range(40) for n in ("engine",)]
    found = report(tmp_path, [*calls(20, 8), *gpu])
    assert found.pictures == 38  # the threads' calls, not once more
    assert [lane.role for lane in found.lanes] == ["engine", "device", "device"]
    assert {s.name for s in found.stages} == {"engine", "engine (GPU)"}
    assert found.bounds == ["engine"]  # two lanes, half busy each, that fill the GPU
    assert "GPU 0 100%" in found.why[0]


def test_lanes_come_in_the_order_of_the_flow(tmp_path: Path):
    rows: list[Row] = [("engine", f"eyas x engine {i}", 0, 1) for i in (10, 9)]
    rows += [
        ("decode", PREPARE, 0, 1),
        ("source", MAIN, 0, 1),
        ("copy", "worker", 0, 1),
        ("copy", "GPU 0 lane 0", 0, 1),
    ]
    roles = lanes_of(read(write(tmp_path / "t.json", rows)))
    assert list(roles.items()) == [
        (MAIN, "caller"),
        (PREPARE, "preparer"),
        ("eyas x engine 9", "engine"),
        ("eyas x engine 10", "engine"),
        ("worker", "other"),
        ("GPU 0 lane 0", "device"),
    ]


def test_the_queue_is_as_long_as_the_number_of_waits_at_a_time(tmp_path: Path):
    rows: list[Row] = [("queued", "waits", 10, 40), ("queued", "waits", 20, 30), ("queued", "waits", 30, 35)]
    times, counts = queued(read(write(tmp_path / "t.json", [*calls(4), *rows])))
    assert [t // 1_000_000 for t in times] == [0, 10, 20, 30, 35, 40]
    assert counts == [0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize("limits", [(5.0, None), (0.1, 0.1), (0.1, 0.05), (float("nan"), None), (None, -1.0)])
def test_a_part_without_anything_in_it_is_refused(tmp_path: Path, limits: tuple[float | None, float | None]):
    with pytest.raises(OptionError):
        part(read(write(tmp_path / "t.json", calls())), *limits)


def good(tmp_path: Path) -> dict[str, Any]:
    rows: list[Row] = [*calls(), ("queued", "waits", 0, 5)]
    return json.loads(write(tmp_path / "good.json", rows).read_text())  # type: ignore[no-any-return]


def refused(tmp_path: Path, data: Any) -> str:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_is_no_trace_is_refused(tmp_path: Path):
    assert "without a list of trace events" in refused(tmp_path, [1, 2])
    assert "without a list of trace events" in refused(tmp_path, {"traceEvents": [1]})
    assert "another program" in refused(tmp_path, {"traceEvents": []})
    assert "another program" in refused(tmp_path, good(tmp_path) | {"otherData": {"seconds": "1"}})
    assert "another program" in refused(tmp_path, good(tmp_path) | {"otherData": {"seconds": -1}})


def test_a_trace_without_spans_is_refused(tmp_path: Path):
    with tracing(tmp_path / "t.json"):
        pass
    with pytest.raises(DataError, match="no model ran"):
        read(tmp_path / "t.json")
    with pytest.raises(DataError, match="no model ran"):
        read(write(tmp_path / "t.json", [("engine", "GPU 0 lane 0", 0, 5)]))


def test_a_file_that_ends_too_early_is_refused(tmp_path: Path):
    whole = write(tmp_path / "t.json", calls()).read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "t.json").write_bytes(whole[:size])
        with pytest.raises(DataError, match="only a part"):
            read(tmp_path / "t.json")
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError):
        read(tmp_path / "t.json")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "nothing.json")


@pytest.mark.parametrize("key", ["ts", "dur", "tid", "name"])
def test_an_event_that_lacks_something_is_refused(tmp_path: Path, key: str):
    data = good(tmp_path)
    del next(e for e in data["traceEvents"] if e["ph"] == "X")[key]
    assert "not complete" in refused(tmp_path, data)


@pytest.mark.parametrize(
    ("key", "value"), [("ts", "1"), ("dur", -1), ("dur", float("inf")), ("args", {"pictures": "a"})]
)
def test_an_event_with_a_wrong_value_is_refused(tmp_path: Path, key: str, value: object):
    data = good(tmp_path)
    next(e for e in data["traceEvents"] if e["ph"] == "X")[key] = value
    assert "not complete" in refused(tmp_path, data)


@pytest.mark.parametrize("phase", ["b", "e"])
def test_a_wait_with_one_end_is_refused(tmp_path: Path, phase: str):
    data = good(tmp_path)
    data["traceEvents"] = [e for e in data["traceEvents"] if e["ph"] != phase]
    assert "not complete" in refused(tmp_path, data)


def test_the_picture_shows_a_dozen_calls_in_the_middle(tmp_path: Path):
    r = read(write(tmp_path / "t.json", calls(100)))
    assert [t / 1e6 for t in middle(r)] == [440, 560]
    assert [t / 1e6 for t in middle(read(write(tmp_path / "t.json", calls(5))))] == [0, 50]


def pixels(r: Recording, **limits: float) -> Any:
    pytest.importorskip("matplotlib")
    return cv2.imdecode(np.frombuffer(draw(r, **limits), np.uint8), cv2.IMREAD_COLOR)


def red(picture: Any) -> int:
    """How many pixels have the colour of a bubble."""
    return int((np.abs(picture.astype(int) - (0x28, 0x28, 0xC6)).sum(axis=2) < 30).sum())


def test_bubbles_are_hatched_in_the_picture(tmp_path: Path):
    without = pixels(read(write(tmp_path / "a.json", calls())))
    assert red(without) == 0
    assert red(pixels(read(write(tmp_path / "b.json", calls(20, 5))))) > 1000


def test_names_with_formula_signs_and_unknown_stages_can_be_drawn(tmp_path: Path):
    rows: list[Row] = [*calls(), ("a $\\x$ b", "lane $\\y$", 0, 150), ("copy", "GPU 0 lane 0", 0, 150)]
    assert pixels(read(write(tmp_path / "t.json", rows)), from_s=0.0, to_s=0.2).shape[2] == 3


def test_lanes_lose_the_words_they_share():
    assert _short([MAIN, "eyas x engine 1", "eyas x prepare 1"]) == [MAIN, "engine 1", "prepare 1"]
    assert _short(["eyas a engine 1", "eyas b engine 1"]) == ["a engine 1", "b engine 1"]
    assert _short(["GPU 0"]) == ["GPU 0"]


def run(*words: str) -> int:
    top = argparse.ArgumentParser()
    command.add(top.add_subparsers(), argparse.ArgumentParser(add_help=False))
    args = top.parse_args(["trace", *words])
    return int(args.run(args))


def test_the_command_prints_and_draws_what_a_model_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib")
    path = tmp_path / "t.json"
    with eyas.load(backend="null", batch=2) as model, tracing(path):
        list(model.stream([np.zeros((64, 64, 3), np.uint8)] * 20))
    assert run(str(path), "--plot", str(tmp_path / "new" / "t.png")) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("frames/s", "bounded by", "engine 1", "bubbles", "letterbox"))
    assert cv2.imread(str(tmp_path / "new" / "t.png")) is not None
    assert run(str(path), "--format", "json", "--from-s", "0") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pictures"] == 20
    assert found["recorded_s"] >= found["to_s"] > found["from_s"] == 0


def test_a_plot_that_is_no_png_is_refused_before_anything_else(tmp_path: Path):
    with pytest.raises(OptionError, match="--plot"):
        run(str(tmp_path / "nothing.json"), "--plot", str(tmp_path / "t.pdf"))
