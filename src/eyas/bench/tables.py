"""A report as text: what it was measured on, then a table for each part."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.bench.machine import QUIET
from eyas.bench.measure import OPEN
from eyas.bench.report import LETTERS, SHARES

if TYPE_CHECKING:
    from rich.table import Table

Row = tuple[str, ...]
WIDTH = 132  # columns where the output is no terminal
PARTS = {
    "engine": "Engine alone: ready inputs; latency is of a call, that is of a whole batch",
    "stage": "Stages, each alone, one picture at a time; predict is all of them",
    "closed": "Closed loop: each caller sends its next picture when it has the last one's result",
    "open": "Open loop: pictures come at random (Poisson); latency counts from when each was due",
}
FIRST = {
    "engine": ("compiled for", "batch", "calls"),
    "stage": ("stage", "", ""),
    "closed": ("from", "batch", "callers"),
    "open": ("from", "batch", "offered/s"),
}
FIGURES = ("images/s", "min–max", *(f"{name} ms" for name in SHARES), "CPU ms", "samples")
WORDS = {"files": "file bytes", "arrays": "arrays"}


def text(report: dict[str, Any]) -> str:
    """All of it, with colours on a terminal."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    with console.capture() as shown:  # rich itself would end with its own exit code where the reader has gone
        console.print(_table(("", ""), _head(report)))
        for part, title in PARTS.items():
            rows = [row for row in report["rows"] if row["part"] == part]
            console.print("", title, _part(part, rows, report), sep="\n", highlight=False, markup=False)
        console.print("", "Limits, images/s", _limits(report), sep="\n", highlight=False, markup=False)
        if "b" in report["models"]:
            title = "B beside A: the rounds' median ratio B / A, and the least and the greatest"
            console.print("", title, _versus(report), sep="\n", highlight=False, markup=False)
    return "\n".join(line.rstrip() for line in shown.get().splitlines()) + "\n"


def _head(report: dict[str, Any]) -> Iterable[Row]:
    machine, settings = report["machine"], report["settings"]
    for letter, model in report["models"].items():
        name = f"model {letter.upper()}" if len(report["models"]) > 1 else "model"
        size = "{} × {}".format(*reversed(model["input_size"]))
        digest = f", sha256 {model['sha256'][:12]}" if model["sha256"] else ""
        yield name, f"{Path(model['model']).name}: {model['family']}, {model['task']}, input {size}{digest}"
        engines = [e for pair in model["engines"].values() for e in pair.values()]
        yield "engine", "; ".join(dict.fromkeys(e["engine"] for e in engines))
    yield "machine", _machine(machine)
    clock = machine["clock"]
    facts = [f"governor {', '.join(clock['governor'])}"] if clock["governor"] else []
    facts += [f"up to {clock['max_mhz']} MHz"] if clock["max_mhz"] else []
    yield "CPU clock", "; ".join([*facts, clock["caveat"]])
    yield "others", _others(machine)
    yield "versions", ", ".join([*(f"{name} {v}" for name, v in machine["versions"].items()), machine["system"]])
    yield "pictures", report["pictures"]
    times = (settings["rounds"], settings["seconds"], OPEN * settings["seconds"], settings["warmup_s"])
    yield "method", "rounds: {}, {:g} s a measurement ({:g} s in the open loop), {:g} s of warm-up each".format(*times)
    yield (
        "",
        "images/s and CPU ms (of this process, a picture): medians of the rounds; latencies: of all rounds together",
    )
    yield "", "OpenCV works on one thread a picture; a dash stands where the samples are too few for the quantile"


def _machine(machine: dict[str, Any]) -> str:
    cores = f"{machine['cores']:g} of {machine['cores_of_machine']} cores"
    memory = f", {machine['memory_gib']:g} GiB" if machine["memory_gib"] else ""
    return f"{machine['cpu']}, {cores}{memory}" + (", a virtual machine" if machine["virtual"] else "")


def _others(machine: dict[str, Any]) -> str:
    """How quiet the machine was."""
    load, during = machine["load_average"], machine["while_measuring"]
    parts = [] if load is None else [f"load average {load:.2f} at the start"]
    if during["others"] is None:
        parts.append("what other processes did meanwhile is not known")
    else:
        parts.append(f"meanwhile other processes took {during['others']:.0%} of the CPU time")
        parts.append(f"the host {during['stolen']:.0%}")
    busy = (load or 0) > QUIET * machine["cores_of_machine"]
    noisy = busy or (during["others"] or 0) > QUIET or (during["stolen"] or 0) > QUIET
    return ", ".join(parts) + (": NOT QUIET, trust ratios more than figures" if noisy else "")


def _part(part: str, rows: list[dict[str, Any]], report: dict[str, Any]) -> Table:
    letters = [letter for letter in LETTERS if letter in report["models"]]
    keep = [i for i, name in enumerate(FIRST[part]) if name]
    extra = ("refused", "failed", "late") if part == "open" else ("failed",) if _any_failed(rows) else ()
    head = (*(FIRST[part][i] for i in keep), *([""] if len(letters) > 1 else []), *FIGURES, *extra)
    lines = []
    for row in rows:
        for letter in letters:
            first = _first(row, report["models"][letter])
            begin = [first[i] if letter == "a" else "" for i in keep]
            who = [letter.upper()] if len(letters) > 1 else []
            f = row[letter]
            counts = {"refused": f["refused"], "failed": sum(f["failed"].values()), "late": f["late"]}
            lines.append((*begin, *who, *_figures(f), *(str(counts[name]) for name in extra)))
    return _table(head, lines)


def _any_failed(rows: Iterable[dict[str, Any]]) -> bool:
    return any(row[letter]["failed"] for row in rows for letter in LETTERS if letter in row)


def _first(row: dict[str, Any], model: dict[str, Any]) -> Row:
    """A row's name, its batch, and callers or rate."""
    if row["part"] == "engine":
        parallel = model["engines"][str(row["batch"])]["throughput"]["parallel"]
        return row["what"], str(row["batch"]), str(1 if row["what"] == "latency" else parallel)
    last = str(row["callers"]) if row["rate"] is None else number(row["rate"])
    return WORDS.get(row["what"], row["what"]), str(row["batch"]), last


def _figures(f: dict[str, Any]) -> Row:
    rate = f["images_s"]
    spread = f"{number(rate['min'])}–{number(rate['max'])}"
    latencies = (number(f["latency_ms"][name]) for name in SHARES)
    return number(rate["median"]), spread, *latencies, number(f["cpu_ms"]), str(f["samples"])


def _limits(report: dict[str, Any]) -> Table:
    letters = [letter for letter in LETTERS if letter in report["models"]]
    who = [""] if len(letters) > 1 else []
    head = (
        "from",
        "batch",
        *who,
        "engine alone",
        "CPU ms",
        "CPU work over all cores",
        "best closed loop",
        "of limit",
        "min–max",
    )
    lines = []
    for row in report["limits"]:
        for letter in letters:
            r = row[letter]
            of = r["of_limit"]
            share = (f"{of['median']:.0%}", f"{of['min']:.0%}–{of['max']:.0%}") if of else ("-", "-")
            values = (r["engine_images_s"], r["cpu_ms"], r["cpu_images_s"], r["best"])
            name = [letter.upper()] if who else []
            lines.append((WORDS[row["what"]], str(row["batch"]), *name, *map(number, values), *share))
    return _table(head, lines)


def _versus(report: dict[str, Any]) -> Table:
    head = ("what", "batch", "callers or rate", "images/s", "min–max", "p50", "min–max", "p99", "min–max")
    lines = []
    for row in report["rows"]:
        cells: list[str] = []
        for name in ("images_s", "p50", "p99"):
            r = row["b_over_a"][name]
            cells += [f"{r['median']:.2f} ×", f"{r['min']:.2f}–{r['max']:.2f}"] if r else ["-", "-"]
        what, batch, load = _first(row, report["models"]["a"])
        lines.append((f"{row['part']}: {what}", batch, load, *cells))
    return _table(head, lines)


def number(value: float | None) -> str:
    """Three significant digits, whole ones all of them: 0.0123, 1.23, 12.3, 123, 1234; a dash for None."""
    if value is None:
        return "-"
    if value >= 99.95 or value == 0:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.0995 else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Row]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    shown = any(head)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=shown)
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i == 0 or not shown else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
