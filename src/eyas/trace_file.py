"""Read a trace file that `eyas.trace` wrote, and check it, for `eyas.timeline` and `eyas.timeline_plot`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyas.errors import DataError, problem
from eyas.trace import Span

DEVICE = "GPU "  # how the lanes of what ran on a device begin


@dataclass(frozen=True, slots=True)
class Recording:
    """A trace: spans in order of their start. Times in nanoseconds from its start.

    spans: on threads. device: on a GPU, from lanes whose name begins with "GPU ". waits: overlap one another.
    cpu: the process's CPU nanoseconds over the whole trace, which ends at `end`.
    """

    spans: tuple[Span, ...]
    device: tuple[Span, ...]
    waits: tuple[Span, ...]
    end: int
    cores: int
    cpu: int


def read(path: Path) -> Recording:
    """Read what `eyas.trace.tracing` wrote. Raises DataError where it is no trace, or not all of one."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"no JSON, or only a part of it ({error})") from error
    events = data.get("traceEvents") if isinstance(data, dict) else None
    about = data.get("otherData") if isinstance(data, dict) else None
    if not isinstance(events, list) or not all(isinstance(e, dict) for e in events):
        raise _unreadable(path, "JSON without a list of trace events")
    if not isinstance(about, dict) or not all(_number(about.get(k), 0) for k in ("seconds", "cpu_seconds", "cores")):
        raise _unreadable(path, "trace events of another program (seconds, cpu_seconds or cores are missing)")
    try:
        spans, waits = _spans(events), _waits(events)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"a trace event that is not complete ({error})") from error
    device = tuple(s for s in spans if s.lane.startswith(DEVICE))
    threads = tuple(s for s in spans if not s.lane.startswith(DEVICE))
    if not threads:
        raise _unreadable(path, "a trace without spans: no model ran while it was recorded")
    end = max(round(about["seconds"] * 1e9), *(s.end for s in spans))
    cpu = round(about["cpu_seconds"] * 1e9)
    return Recording(threads, device, tuple(waits), end, max(1, int(about["cores"])), cpu)


def _spans(events: list[dict[str, Any]]) -> list[Span]:
    named = [e for e in events if e.get("ph") == "M" and e.get("name") == "thread_name"]
    lanes = {(e["pid"], e["tid"]): str(e["args"]["name"]) for e in named}
    spans = []
    for e in events:
        if e.get("ph") == "X":
            start, length = _time(e, "ts"), _time(e, "dur", 0)
            lane = lanes.get((e["pid"], e["tid"]), f"thread {e['tid']}")
            spans.append(Span(str(e["name"]), lane, start, start + length, _facts(e)))
    return sorted(spans, key=lambda s: s.start)


def _waits(events: list[dict[str, Any]]) -> list[Span]:
    begun: dict[Any, Mapping[str, Any]] = {}
    waits = []
    for e in events:
        if e.get("cat") == "wait" and e.get("ph") in ("b", "e"):
            key = e["pid"], e["name"], e["id"]
            if e["ph"] == "b":
                begun[key] = e
            else:
                b = begun.pop(key)
                waits.append(Span(str(e["name"]), str(e["name"]), _time(b, "ts"), _time(e, "ts"), _facts(b)))
    if begun:
        raise ValueError("a wait without an end")
    return sorted(waits, key=lambda s: s.start)


def _facts(event: Mapping[str, Any]) -> dict[str, Any]:
    facts = event.get("args", {})
    if not isinstance(facts, dict) or not _number(facts.get("pictures", 1), 0):
        raise ValueError("args")
    return facts


def _time(event: Mapping[str, Any], key: str, least: float = -math.inf) -> int:
    if not _number(event[key], least):
        raise ValueError(key)
    return round(float(event[key]) * 1e3)


def _number(value: object, least: float) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= least


def _unreadable(path: Path, got: str) -> DataError:
    remedy = "Record one with `eyas.trace.tracing`."
    return DataError(problem(f"cannot read {path}", got=got, expected="a trace that eyas recorded", remedy=remedy))
