"""Pictures of a measurement as PNG: latencies' histograms, and throughput against latency under its limits."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.bench.load import quantile
from eyas.bench.measure import Case, Measured
from eyas.bench.report import LETTERS
from eyas.bench.tables import number
from eyas.extras import need

DPI = 150
COLOURS = {"a": "#0072b2", "b": "#d55e00"}  # of Okabe and Ito, as in `eyas.evaluation.plots`
SHADES = {"a": ("#0072b2", "#56b4e9", "#003a5c", "#009e73"), "b": ("#d55e00", "#e69f00", "#7a3600", "#cc79a7")}
MARKS = "osD^v<>P"
GREY, RULE = "#666666", "#dddddd"
BINS = 60


def latency(measured: Measured, report: dict[str, Any]) -> bytes:
    """How latencies are distributed: one picture at a time, and at each rate of the open loop."""
    cases = [c for c in measured.loads if c.what == "predict" or c.part == "open"]
    samples = {c: [np.concatenate([x.latency_ms for x in loads]) for loads in measured.loads[c]] for c in cases}
    every = np.concatenate([s for both in samples.values() for s in both])
    size = (9, 1.2 + 1.5 * len(cases))
    figure = need("matplotlib.figure", "val").Figure(figsize=size, layout="constrained", dpi=DPI)
    panels = figure.subplots(len(cases), sharex=True, squeeze=False)[:, 0]
    low, high = (every.min() * 0.8, every.max() * 1.25) if len(every) else (1.0, 10.0)
    edges = np.geomspace(low, high, BINS + 1)
    for axes, case in zip(panels, cases, strict=True):
        for letter, sample in zip(LETTERS, samples[case], strict=False):
            _histogram(axes, sample, edges, letter, len(report["models"]) > 1)
        axes.set_title(_title(case), loc="left", fontsize=9)
        axes.set_xscale("log")
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    _plain_numbers(panels[-1].xaxis)
    panels[-1].set_xlabel("latency, ms; columns: share of the requests; upright lines: p50, dashed p99")
    figure.suptitle(_heading(report, "Latency"), fontsize=10, x=0.01, ha="left", parse_math=False)
    return _png(figure)


def _histogram(axes: Any, sample: NDArray[np.float64], edges: NDArray[np.float64], letter: str, named: bool) -> None:
    """One side's shares a bin, with its median and, where there are enough samples, its p99."""
    who = f"{letter.upper()}: " if named else ""
    p50, p99 = quantile(sample, 0.5), quantile(sample, 0.99)
    label = f"{who}p50 {number(p50)}, p99 {number(p99)} ms, n {len(sample)}"
    weights = np.full(len(sample), 1 / max(1, len(sample)))
    axes.hist(sample, edges, weights=weights, color=COLOURS[letter], alpha=0.5, label=label)
    for value, style in ((p50, "-"), (p99, (0, (3, 2)))):
        if value is not None:
            axes.axvline(value, color=COLOURS[letter], linewidth=1.2, linestyle=style)


def _title(case: Case) -> str:
    if case.part == "open":
        return f"open loop, {number(case.rate)} images/s offered, batch {case.batch}"
    return "predict, one picture at a time"


def throughput(report: dict[str, Any]) -> bytes:
    """Throughput against latency: a line a batch size, a point a number of callers; limits as upright lines."""
    figure = need("matplotlib.figure", "val").Figure(figsize=(9, 5.6), layout="constrained", dpi=DPI)
    axes = figure.add_subplot(xlabel="throughput, images/s", ylabel="latency p50, ms; whiskers: to p90")
    rows = [r for r in report["rows"] if (r["part"], r["what"]) == ("closed", "files")]
    batches = sorted({r["batch"] for r in rows})
    named = len(report["models"]) > 1
    for letter in report["models"]:
        for i, batch in enumerate(batches):
            points = [(r["callers"], r[letter]) for r in rows if r["batch"] == batch]
            style = {"color": SHADES[letter][i % 4], "marker": MARKS[i % len(MARKS)], "label": f"batch {batch}"}
            if named:
                style["label"] = f"{letter.upper()}, batch {batch}"
            _curve(axes, points, style)
        _limit_lines(axes, report, letter, named)
    axes.set_yscale("log")
    axes.set_xlim(0, axes.get_xlim()[1] * 1.03)
    _plain_numbers(axes.yaxis)
    axes.grid(color=RULE, linewidth=0.6, which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
    title = _heading(report, "Closed loop from file bytes, numbers are callers")
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    return _png(figure)


def _curve(axes: Any, points: list[tuple[int, dict[str, Any]]], style: dict[str, Any]) -> None:
    kept = [(callers, f) for callers, f in points if f["latency_ms"]["p50"] is not None]
    if not kept:
        return
    x = [f["images_s"]["median"] for _, f in kept]
    y = [f["latency_ms"]["p50"] for _, f in kept]
    up = [(f["latency_ms"]["p90"] or v) - v for (_, f), v in zip(kept, y, strict=True)]
    axes.errorbar(x, y, yerr=[np.zeros(len(y)), up], linewidth=1.3, markersize=5, capsize=2, elinewidth=0.7, **style)
    for (callers, _), at in zip(kept, zip(x, y, strict=True), strict=True):
        axes.annotate(str(callers), at, xytext=(5, -9), textcoords="offset points", fontsize=7, color=style["color"])


def _limit_lines(axes: Any, report: dict[str, Any], letter: str, named: bool) -> None:
    """Of the batch whose limit is highest: the engine's own throughput, and all CPU work over all cores."""
    found = [(r["batch"], r[letter]) for r in report["limits"] if r["what"] == "files"]
    batch, limit = max(found, key=lambda pair: pair[1]["images_s"])
    who = f"{letter.upper()}, " if named else ""
    lines = [("engine alone", "engine_images_s", (0, (5, 2))), ("CPU work over all cores", "cpu_images_s", (0, (1, 1)))]
    for name, key, style in lines:
        if limit[key]:
            label = f"{who}{name}, batch {batch}: {number(limit[key])}"
            axes.axvline(limit[key], color=COLOURS[letter] if named else GREY, linestyle=style, label=label)


def _heading(report: dict[str, Any], what: str) -> str:
    sides = [f"{model['model'].rsplit('/', 1)[-1]}, {_engine(model)}" for model in report["models"].values()]
    if len(sides) == 1:
        return f"{what}\n{sides[0]}"
    return f"{what}\n" + "\n".join(f"{letter.upper()}: {side}" for letter, side in zip(LETTERS, sides, strict=True))


def _engine(model: dict[str, Any]) -> str:
    description: str = next(iter(model["engines"].values()))["throughput"]["engine"]
    return description


def _plain_numbers(axis: Any) -> None:
    """20 rather than 2 × 10¹, and of a logarithmic axis only what there is room for."""
    ticker = need("matplotlib.ticker", "val")
    axis.set_major_locator(ticker.LogLocator(10, (1, 2, 3, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _png(figure: Any) -> bytes:
    out = BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
