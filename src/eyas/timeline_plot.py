"""A picture of a recorded trace: a row for each lane, a bar for each span, the engines' bubbles, the queue below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from eyas.extras import need
from eyas.timeline import BOUNDS, STAGES, WAITING, Interval, analyse, gaps, lanes_of, part, queued
from eyas.trace import Span
from eyas.trace_file import Recording

WIDE = 0.012  # of the picture's width: what a number of pictures needs
BATCHES = 12  # so many engine calls are shown unless a part is named
COLOURS = {  # of Okabe and Ito, as in `eyas.annotate`
    "source": "#cc79a7",
    "decode": "#56b4e9",
    "letterbox": "#0072b2",
    "engine": "#e69f00",
    "results": "#009e73",
    "sink": "#f0e442",
}
MORE = ("#8c564b", "#7f7fbf", "#5fa55a", "#b5651d", "#708090")  # for names that eyas does not use itself
WAIT, GREY, RULE, BUBBLE = "#d5d5d5", "#666666", "#e5e5e5", "#c62828"


def draw(r: Recording, from_s: float | None = None, to_s: float | None = None) -> bytes:
    """A PNG of a part of the recording, by default of a dozen engine calls in its middle.

    Raises OptionError where nothing was recorded in that part, EyasError without matplotlib.
    """
    need("matplotlib", "val")
    from matplotlib.figure import Figure

    a, b = middle(r) if from_s is None and to_s is None else part(r, from_s, to_s)
    shown = [s for s in (*r.spans, *r.device) if s.start < b and s.end > a]
    lanes = lanes_of(r)
    report = analyse(r, a / 1e9, b / 1e9)
    figure = Figure(figsize=(14, 2.7 + 0.5 * len(lanes)), layout="constrained", dpi=110)
    heights = [0.5 * len(lanes) + 0.2, 0.9]
    rows, queue = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    colours = _colours(shown)
    for y, (lane, role) in enumerate(lanes.items()):
        spans = [s for s in shown if s.lane == lane]
        _draw_bars(rows, y, spans, colours)
        _draw_numbers(rows, y, [s for s in spans if s.name == "engine" and s.end - s.start > WIDE * (b - a)])
        if role == "engine":
            _draw_bubbles(rows, y, gaps(r, lane, a, b))
    busy = {lane.name: lane.busy for lane in report.lanes}
    labels = [f"{name}  {busy[lane]:4.0%}" for name, lane in zip(_short(list(lanes)), lanes, strict=True)]
    rows.set_yticks(range(len(lanes)), labels, fontsize=9, parse_math=False)
    rows.set_ylim(len(lanes) - 0.5, -0.5)
    rows.text(-0.005, 1.01, "thread, busy", transform=rows.transAxes, ha="right", fontsize=8, color=GREY)
    _draw_queue(queue, r, a, b)
    for axes in (rows, queue):
        axes.set_xlim(a / 1e6, b / 1e6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    _legend(rows, colours, bool(report.bubbles.count))
    _title(figure, r, a, b)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def middle(r: Recording) -> Interval:
    """From the start of the first to the end of the last of a dozen engine calls half-way; everything if fewer."""
    calls = sorted((s for s in r.spans if s.name == "engine"), key=lambda s: s.start)
    if len(calls) <= BATCHES:
        return part(r, from_s=0)
    first = (len(calls) - BATCHES) // 2
    some = calls[first : first + BATCHES]
    return max(0, some[0].start), max(s.end for s in some)


def _draw_bars(axes: Any, y: int, spans: Sequence[Span], colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        bars = [(s.start / 1e6, (s.end - s.start) / 1e6) for s in spans if s.name == name]
        height = 0.22 if name in WAITING else 0.74
        axes.broken_barh(bars, (y - height / 2, height), facecolor=colour, edgecolor="white", linewidth=0.4)


def _draw_numbers(axes: Any, y: int, calls: Sequence[Span]) -> None:
    for s in calls:
        if s.facts.get("pictures", 1) > 1:
            place = (s.start + s.end) / 2e6, y
            axes.text(*place, f"{s.facts['pictures']}", ha="center", va="center", fontsize=8, clip_on=True)


def _draw_bubbles(axes: Any, y: int, idle: Sequence[Interval]) -> None:
    bars = [(start / 1e6, (end - start) / 1e6) for start, end in idle]
    axes.broken_barh(bars, (y - 0.37, 0.74), facecolor="white", edgecolor=BUBBLE, hatch="////", linewidth=0.6)


def _draw_queue(axes: Any, r: Recording, a: int, b: int) -> None:
    times, counts = queued(r)
    axes.fill_between([*(t / 1e6 for t in times), r.end / 1e6], [*counts, counts[-1]], step="post", color="#b0bec5")
    high = max([n for i, n in enumerate(counts) if times[i] <= b and ([*times, r.end][i + 1] >= a)], default=0)
    axes.set_ylim(0, max(1, high) * 1.15)
    axes.set_yticks([0, max(1, high)])
    axes.set_ylabel("requests\nqueued", rotation=0, ha="right", va="center", fontsize=9)
    axes.set_xlabel("ms from the start of the trace")


def _legend(axes: Any, colours: dict[str, str], idle: bool) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=f"{n} (waits)" if n in WAITING else n) for n, colour in colours.items()]
    if idle:
        handles.append(Patch(facecolor="white", edgecolor=BUBBLE, hatch="////", label="bubble: the engine idles"))
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "ncols": min(10, len(handles))}
    box = axes.legend(handles=handles, **place, frameon=False, handlelength=1.4, columnspacing=1.4)
    for text in box.get_texts():
        text.set_fontsize(9)
        text.set_parse_math(False)


def _title(figure: Any, r: Recording, a: int, b: int) -> None:
    total = sum(s.name == "engine" for s in r.spans)
    calls = sum(s.name == "engine" and s.start < b and s.end > a for s in r.spans)
    what = f"{calls} of {total} engine calls, {a / 1e9:.3f} s to {b / 1e9:.3f} s of {r.end / 1e9:.3f} s"
    whole = analyse(r)
    bounds = " and ".join(BOUNDS[name] for name in whole.bounds) or "not known"
    lines = [what, f"whole trace: {whole.frames_s:.1f} frames/s", f"bounded by {bounds}"]
    lines += ["numbers: pictures in a call"] if any(s.facts.get("pictures", 1) > 1 for s in r.spans) else []
    figure.suptitle(" · ".join(lines), x=0.01, ha="left", fontsize=11)


def _colours(spans: Sequence[Span]) -> dict[str, str]:
    """A colour for every name that occurs, in the order in which a picture meets them."""
    names = {s.name for s in spans}
    others = sorted(names.difference(STAGES))
    more = {name: MORE[i % len(MORE)] for i, name in enumerate(others)}
    return {name: COLOURS.get(name, WAIT) for name in STAGES if name in names} | more


def _short(lanes: Sequence[str]) -> list[str]:
    """Names without the words that most share at the front: "eyas nanodet engine 1" is "engine 1" here."""
    words = [lane.split() for lane in lanes if lane.startswith("eyas ")]
    shared = 0
    while words and all(len(w) > shared + 1 and w[shared] == words[0][shared] for w in words):
        shared += 1
    return [" ".join(lane.split()[shared:]) if lane.startswith("eyas ") else lane for lane in lanes]
