"""eyas.trace: spans of every thread reach the file, also after an error, and nothing is kept when it is off."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eyas
from eyas import trace
from eyas.errors import OptionError, SinkError


def events(path: Path, phase: str) -> list[dict[str, Any]]:
    return [e for e in json.loads(path.read_bytes())["traceEvents"] if e["ph"] == phase]


def test_nothing_is_recorded_outside_a_block():
    assert trace.current is None
    with trace.span("sink"):
        pass
    assert list(trace.each("source", "ab")) == ["a", "b"]
    with trace.tracing() as record:
        assert trace.current is record
    assert trace.current is None
    assert record.spans == []


def test_a_model_records_each_stage_of_every_picture(tmp_path: Path):
    with eyas.load(backend="null", batch=2) as model, trace.tracing() as record:
        assert len(list(model.stream([np.zeros((8, 8, 3), np.uint8)] * 6))) == 6
    names = [s.name for s in record.spans]
    assert [names.count(stage) for stage in ("decode", "place", "letterbox")] == [6, 6, 6]
    assert sum(s.facts["pictures"] for s in record.spans if s.name == "engine") == 6
    assert [w.name for w in record.waits] == ["queued"] * 6
    assert all(record.start <= s.start <= s.end for s in record.spans)


def test_a_second_trace_at_the_same_time_is_refused_and_the_first_goes_on():
    with trace.tracing() as first:
        with pytest.raises(OptionError, match="already"), trace.tracing():
            pass
        assert trace.current is first


def test_the_file_is_written_after_an_error_too_and_the_error_goes_on(tmp_path: Path):
    out = tmp_path / "new" / "t.json"
    with pytest.raises(ZeroDivisionError), trace.tracing(out), trace.span("sink"):
        1 / 0  # noqa: B018
    assert [e["name"] for e in events(out, "X")] == ["sink"]
    assert trace.current is None


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(SinkError), trace.tracing(tmp_path / "file" / "t.json"):
        pytest.fail("the block ran")
    assert trace.current is None


def test_each_thread_has_a_lane_of_its_own(tmp_path: Path):
    out = tmp_path / "t.json"
    with trace.tracing(out) as record:
        threads = [threading.Thread(target=record.add, args=("decode", trace.clock()), name=f"t {i}") for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        record.add("copy", trace.clock(), lane="GPU 0")
        record.add("decode", trace.clock(), lane="t 1")
    lanes = {e["tid"]: e["args"]["name"] for e in events(out, "M")}
    assert sorted(lanes.values()) == ["GPU 0", "t 0", "t 1", "t 2"]
    assert 0 not in lanes  # that is where the waits are
    assert sorted(lanes[e["tid"]] for e in events(out, "X")) == ["GPU 0", "t 0", "t 1", "t 1", "t 2"]


def test_spans_of_many_threads_are_all_kept():
    with trace.tracing() as record:

        def work() -> None:
            for _ in range(500):
                record.add("decode", trace.clock())

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(record.spans) == 2000


def test_events_are_what_chromes_format_asks_for(tmp_path: Path):
    out = tmp_path / "t.json"
    with trace.tracing(out) as record:
        record.add("engine", record.start + 1_500_000, record.start + 4_000_000, pictures=4)
        record.wait("queued", record.start, picture="a.jpg")
        record.wait("queued", record.start)
    (span,) = events(out, "X")
    assert (span["name"], span["ts"], span["dur"], span["args"]) == ("engine", 1500.0, 2500.0, {"pictures": 4})
    begun, ended = events(out, "b"), events(out, "e")
    assert [e["id"] for e in begun] == [e["id"] for e in ended] == [0, 1]
    assert all(e["ts"] >= b["ts"] == 0 for b, e in zip(begun, ended, strict=True))
    assert len({e["pid"] for e in (span, *begun, *ended, *events(out, "M"))}) == 1
    about = json.loads(out.read_bytes())["otherData"]
    assert about["seconds"] > 0
    assert about["cpu_seconds"] > 0
    assert about["cores"] >= 1
