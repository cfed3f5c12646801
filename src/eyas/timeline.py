"""Where the time of a recorded run went, and what bounds its throughput: pure functions of an `eyas.trace_file`.

Times are integers in nanoseconds from the trace's start, as in `eyas.trace.Span`; reports are in ms, and shares 0…1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from eyas.errors import OptionError, problem
from eyas.trace import Span
from eyas.trace_file import DEVICE, Recording

STAGES = ("source", "queued", "decode", "place", "letterbox", "batch", "engine", "results", "sink")
WAITING = ("queued", "place")  # all other stages are work
ROLES = {"caller": ("source", "sink"), "preparer": ("decode", "letterbox"), "engine": ("engine",)}
BUSY = 0.9  # a lane, or all cores, this busy has no time to give
FEW_CALLS = 4  # of fewer engine calls, none is left out as the cold start
SHORT = 0.1  # a gap shorter than this share of the median engine call is no bubble
# Why an engine's lane was idle: the first of these stages that was under way on another lane, at each moment.
CAUSES = {
    "decode": "decode was running: the engine waited for pictures",
    "letterbox": "letterbox was running: the engine waited for pictures",
    "place": "all places were full",
    "queued": "pictures were queued and no preparer had begun on them",
    "source": "the caller fetched the next picture (source)",
    "sink": "the caller was busy with a result (sink)",
    "": "nothing else was under way: the caller had sent no more pictures",
}
BOUNDS = {  # what can bound throughput
    "engine": "the engine",
    "results": "results, on the engine's threads",
    "cpu": "the CPU's cores",
    "decode": "decode",
    "letterbox": "letterbox",
    "source": "the caller's source",
    "sink": "the caller's sink",
    "caller": "the caller",
}
Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stage:
    """The spans of one stage that ended in the part looked at. kind: "work" or "waiting"."""

    name: str
    kind: str
    count: int
    total_ms: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Lane:
    """Shares of the time in which a lane worked, and in which it held a picture that had to wait."""

    name: str
    role: str
    busy: float
    waiting: float


@dataclass(frozen=True, slots=True)
class Bubbles:
    """Gaps on the engines' lanes longer than threshold_ms. share: of the lanes' time; causes: ms for each reason."""

    threshold_ms: float
    count: int
    total_ms: float
    longest_ms: float
    share: float
    causes: dict[str, float]


@dataclass(frozen=True, slots=True)
class Report:
    """What happened between from_s and to_s. cold_start_s: what was left out before, if anything.

    cpu_share: this process's CPU seconds / (seconds × cores) over the whole trace. bounds: what bounds throughput,
    keys of BOUNDS; none where no engine ran. why: the same in sentences, with the figures.
    """

    recorded_s: float
    from_s: float
    to_s: float
    cold_start_s: float
    pictures: int
    frames_s: float
    cores: int
    cpu_share: float
    bounds: list[str]
    why: list[str]
    stages: list[Stage]
    lanes: list[Lane]
    bubbles: Bubbles


def lanes_of(r: Recording) -> dict[str, str]:
    """Every lane's role by the stages on it: the caller first, then preparers, engines, others and devices."""
    found: dict[str, set[str]] = defaultdict(set)
    for s in r.spans:
        found[s.lane].add(s.name)
    order = {"caller": 0, "preparer": 1, "engine": 2, "other": 3}
    roles = {
        lane: next((role for role in ("engine", "preparer", "caller") if names.intersection(ROLES[role])), "other")
        for lane, names in sorted(found.items(), key=lambda item: _natural(item[0]))
    }
    threads = dict(sorted(roles.items(), key=lambda item: order[item[1]]))
    return threads | dict.fromkeys(sorted({s.lane for s in r.device}, key=_natural), "device")


def part(r: Recording, from_s: float | None = None, to_s: float | None = None) -> Interval:
    """The part to look at, by default from the end of the first engine call, so without the cold start.

    It ends with the last span. Raises OptionError where nothing was recorded there.
    """
    ends = sorted(s.end for s in r.spans if s.name == "engine")
    start = ends[0] if len(ends) >= FEW_CALLS else 0
    given = from_s is not None or to_s is not None
    last = max(s.end for s in r.spans)
    a = (0 if given else start) if from_s is None else max(0, _ns(from_s))
    b = last if to_s is None else min(r.end, _ns(to_s))
    if not any(s.start < b and s.end > a for s in r.spans) or a >= b:
        got, expected = f"{a / 1e9:g} s to {b / 1e9:g} s", f"a part of 0 s to {last / 1e9:.3f} s with spans in it"
        raise OptionError(problem("nothing was recorded there", got=got, expected=expected, remedy=""))
    return a, b


def analyse(r: Recording, from_s: float | None = None, to_s: float | None = None) -> Report:
    """Where the time went in a part of the recording (see `part`), and what bounds throughput in it."""
    a, b = part(r, from_s, to_s)
    roles = lanes_of(r)
    lanes = []
    for name, role in roles.items():
        spans = [s for s in (*r.spans, *r.device) if s.lane == name]
        work, waits = ([s for s in spans if (s.name in WAITING) == waiting] for waiting in (False, True))
        lanes.append(Lane(name, role, _at_work(work, a, b), _at_work(waits, a, b)))
    stages = _stages(r, a, b)
    pictures = sum(int(s.facts.get("pictures", 1)) for s in r.spans if s.name == "engine" and a < s.end <= b)
    cpu = r.cpu / r.end / r.cores
    gpu = {name: _at_work(_of(r.device, name), a, b) for name in sorted({_gpu(s.lane) for s in r.device})}
    holes = bubbles(r, a, b)
    bounds, why = _verdict(stages, lanes, holes, (b - a) / r.end, cpu, r.cores, gpu)
    cold = a / 1e9 if from_s is None and to_s is None else 0.0
    frames_s = pictures / ((b - a) / 1e9)
    return Report(
        r.end / 1e9, a / 1e9, b / 1e9, cold, pictures, frames_s, r.cores, cpu, bounds, why, stages, lanes, holes
    )


def shortest_bubble(r: Recording) -> int:
    """From which length on (ns) a gap on an engine's lane counts: a tenth of the median engine call."""
    calls = [s.end - s.start for s in r.spans if s.name == "engine"]
    return round(SHORT * float(np.median(calls))) if calls else 0


def gaps(r: Recording, lane: str, a: int, b: int) -> list[Interval]:
    """A lane's idle times between a and b that are long enough to count as bubbles."""
    least = shortest_bubble(r)
    idle = _minus([(a, b)], _union(s for s in r.spans if s.lane == lane))
    return [(start, end) for start, end in idle if end - start > least]


def bubbles(r: Recording, a: int, b: int) -> Bubbles:
    """The engines' idle times, and what else was under way in them."""
    engines = [lane for lane, role in lanes_of(r).items() if role == "engine"]
    found = [gaps(r, lane, a, b) for lane in engines]
    lengths = [end - start for idle in found for start, end in idle]
    under_way = {name: _union(s for s in (*r.spans, *r.waits) if s.name == name) for name in CAUSES}
    causes: dict[str, float] = defaultdict(float)
    for rest in found:
        for name, text in CAUSES.items():
            after = _minus(rest, under_way[name]) if name else []
            causes[text] += (_length(rest) - _length(after)) / 1e6
            rest = after
    most = dict(sorted(((text, ms) for text, ms in causes.items() if ms > 0), key=lambda item: -item[1]))
    total = sum(lengths)
    share = total / (b - a) / len(engines) if engines else 0.0
    return Bubbles(shortest_bubble(r) / 1e6, len(lengths), total / 1e6, max(lengths, default=0) / 1e6, share, most)


def queued(r: Recording) -> tuple[list[int], list[int]]:
    """When the number of waiting requests changed, and to what; it begins with none at 0."""
    changes: dict[int, int] = defaultdict(int)
    for s in r.waits:
        if s.name == "queued":
            changes[max(s.start, 0)] += 1
            changes[max(s.end, 0)] -= 1
    times = sorted(changes)
    return [0, *times], [0, *np.cumsum([changes[t] for t in times]).tolist()]


def _verdict(
    stages: list[Stage],
    lanes: list[Lane],
    holes: Bubbles,
    looked_at: float,
    cpu: float,
    cores: int,
    gpu: dict[str, float],
) -> tuple[list[str], list[str]]:
    """What bounds throughput, and why. More than one may be true: a CPU's engine keeps its cores busy.

    looked_at: the part's share of the trace. cpu: how busy the cores were in all of it. gpu: how busy each GPU was.
    """
    busy = {role: [lane.busy for lane in lanes if lane.role == role] for role in ROLES}
    mean = {role: sum(shares) / len(shares) if shares else 0.0 for role, shares in busy.items()}
    work = {s.name: s.total_ms for s in stages if s.kind == "work" and s.name in STAGES}
    most = sorted(work, key=lambda name: -work[name])
    at_least = 1 - (1 - cpu) / looked_at  # in this part, if the cores were fully used in the rest
    shares = ", ".join(f"{name} {work[name] / sum(work.values()):.0%}" for name in most)

    def largest(*names: str) -> str:
        return max(names, key=lambda name: work.get(name, 0.0))

    bounds, why = [], []
    if not busy["engine"]:
        return [], ["no engine call was recorded: nothing can be said about throughput"]
    engines = f"the engine's threads worked {mean['engine']:.0%} of the time"
    engines += "".join(f", {name} {share:.0%}" for name, share in gpu.items())
    if mean["engine"] >= BUSY or any(share >= BUSY for share in gpu.values()):
        bounds.append(largest("engine", "results"))
        why.append(engines)
    if at_least >= BUSY:
        bounds.append("cpu")
        why.append(f"at least {at_least:.0%} of the time of {cores} cores was used; work by stage: {shares}")
    if not bounds and mean["preparer"] >= BUSY:
        bounds.append(largest("decode", "letterbox"))
        why.append(f"the preparers worked {mean['preparer']:.0%} of the time, {engines}")
    if not bounds and mean["caller"] >= BUSY:
        bounds.append(largest("source", "sink"))
        why.append(f"the caller worked {mean['caller']:.0%} of the time, {engines}")
    if not bounds:
        bounds.append("caller")
        ranks = ", ".join(f"{role}s {share:.0%}" for role, share in mean.items() if busy[role])
        cause = next(iter(holes.causes), "it hardly did")
        why.append(f"nothing was busy all the time ({ranks}, cores {cpu:.0%}); when the engine idled, mostly: {cause}")
    return bounds, why


def _stages(r: Recording, a: int, b: int) -> list[Stage]:
    times: dict[str, list[int]] = defaultdict(list)
    for s in (*r.spans, *r.waits, *r.device):
        if a < s.end <= b:
            name = f"{s.name} (GPU)" if s.lane.startswith(DEVICE) else s.name
            times[name].append(s.end - s.start)
    known = {name: i for i, name in enumerate(STAGES)}
    rows = []
    for name in sorted(times, key=lambda name: (known.get(name, len(known)), name)):
        ms = np.array(times[name]) / 1e6
        figures = (ms.sum(), ms.mean(), *np.percentile(ms, (50, 95)), ms.max())
        rows.append(Stage(name, "waiting" if name in WAITING else "work", len(ms), *map(float, figures)))
    return rows


def _at_work(spans: Iterable[Span], a: int, b: int) -> float:
    """The share of the time between a and b that the spans cover together."""
    return 1 - _length(_minus([(a, b)], _union(spans))) / (b - a)


def _of(spans: Iterable[Span], gpu: str) -> list[Span]:
    return [s for s in spans if _gpu(s.lane) == gpu]


def _gpu(lane: str) -> str:
    """ "GPU 0" of "GPU 0 lane 1"."""
    return " ".join(lane.split()[:2])


def _union(spans: Iterable[Span]) -> list[Interval]:
    """Disjoint intervals in order, which the spans cover together."""
    out: list[Interval] = []
    for start, end in sorted((s.start, s.end) for s in spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


def _minus(intervals: list[Interval], taken: list[Interval]) -> list[Interval]:
    """What of disjoint ordered intervals is in none of `taken`, disjoint and ordered too."""
    out, i = [], 0
    for start, end in intervals:
        while i < len(taken) and taken[i][1] <= start:
            i += 1
        at = start
        for first, last in taken[i:]:
            if first >= end:
                break
            if first > at:
                out.append((at, first))
            at = max(at, last)
        if at < end:
            out.append((at, end))
    return out


def _length(intervals: list[Interval]) -> int:
    return sum(end - start for start, end in intervals)


def _ns(seconds: float) -> int:
    if not math.isfinite(seconds):
        raise OptionError(problem("no time", got=seconds, expected="seconds from the trace's start", remedy=""))
    return round(seconds * 1e9)


def _natural(lane: str) -> list[tuple[int, str]]:
    """Sorts "prepare 10" after "prepare 9"."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in lane.split()]
