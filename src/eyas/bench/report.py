"""Measurements as one plain JSON value: what `--json` writes, and what tables are made of."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from eyas.bench.load import Load, quantile
from eyas.bench.measure import Case, Measured, Side

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
LETTERS = ("a", "b")
FORMAT = 1


def report(
    measured: Measured, sides: Sequence[Side], machine: dict[str, Any], while_measuring: dict[str, Any], inputs: str
) -> dict[str, Any]:
    """Everything. inputs: one line on the pictures. while_measuring: see `machine.meanwhile`."""
    rows = [_row(case, loads) for case, loads in measured.loads.items()]
    return {
        "eyas_bench": FORMAT,
        "machine": machine | {"while_measuring": while_measuring},
        "pictures": inputs,
        "settings": asdict(measured.plan) | {"capacity": measured.capacity},
        "models": dict(zip(LETTERS, map(_about, sides), strict=False)),
        "rows": rows,
        "limits": [
            {"batch": batch, "what": what}
            | {letter: _limit(rows, letter, batch, what, machine["cores"]) for letter in LETTERS[: len(sides)]}
            for batch in measured.plan.batches
            for what in ("files", "arrays")
        ],
    }


def _about(side: Side) -> dict[str, Any]:
    model = side.first
    engines = {
        str(batch): {
            hint: {"engine": (engine := m.engine(hint)).description, "parallel": engine.parallel}
            for hint in ("latency", "throughput")
        }
        for batch, m in side.models.items()
    }
    card = model.card
    about = {"model": side.title, "family": card.family, "task": card.task, "input_size": list(card.input_size)}
    return about | {"sha256": model.digest, "backend": model.backend, "engines": engines}


def _row(case: Case, loads: list[list[Load]]) -> dict[str, Any]:
    """One case: its figures for each side, and b's over a's."""
    row = case._asdict() | {letter: figures(ls) for letter, ls in zip(LETTERS, loads, strict=False)}
    if len(loads) == 2:
        row["b_over_a"] = {"images_s": _ratio(*[[load.images_s for load in ls] for ls in loads])} | {
            name: _ratio(*[[quantile(load.latency_ms, SHARES[name]) for load in ls] for ls in loads])
            for name in ("p50", "p99")
        }
    return row


def figures(loads: Sequence[Load]) -> dict[str, Any]:
    """One side of one case. Latencies are of all rounds together; throughput and CPU time the rounds' median.

    A quantile for which there are too few samples is None (see `load.quantile`).
    """
    latency = np.concatenate([load.latency_ms for load in loads])
    rates = [load.images_s for load in loads]
    cpu = [load.cpu_ms for load in loads if load.cpu_ms is not None]
    return {
        "images_s": {"median": statistics.median(rates), "min": min(rates), "max": max(rates), "rounds": rates},
        "latency_ms": {"mean": float(latency.mean()) if len(latency) else None}
        | {name: quantile(latency, share) for name, share in SHARES.items()},
        "cpu_ms": statistics.median(cpu) if cpu else None,
        "samples": len(latency),
        "sent": sum(load.sent for load in loads),
        "refused": sum(load.refused for load in loads),
        "late": sum(load.late for load in loads),
        "failed": dict(sum((load.failed for load in loads), Counter())),
    }


def _ratio(a: Sequence[float | None], b: Sequence[float | None]) -> dict[str, float] | None:
    """Median, least and greatest of the rounds' ratios b / a; None where a round has none."""
    ratios = [y / x for x, y in zip(a, b, strict=True) if x and y]
    if len(ratios) < len(a):
        return None
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def _limit(rows: list[dict[str, Any]], letter: str, batch: int, what: str, cores: float) -> dict[str, Any]:
    """What no way of feeding the engine can pass: its own throughput, and all CPU work spread over all cores.

    images_s: the lower of the two. best: the closed loops' best throughput with this batch; of_limit: over the limit
    of the same round, since the machine's speed may change from one to the next.
    """

    def of(part: str, name: str, at: int | None = None) -> dict[str, Any]:
        found = (r for r in rows if r["part"] == part and r["what"] == name and at in (None, r["batch"]))
        figures: dict[str, Any] = next(found)[letter]
        return figures

    alone = of("engine", "throughput", batch)
    stages = ["decode", "letterbox", "results"][what == "arrays" :]
    work = [alone["cpu_ms"], *(of("stage", name)["cpu_ms"] for name in stages)]
    cpu_ms = None if None in work else sum(work)
    cpu = cores * 1e3 / cpu_ms if cpu_ms else None
    engine = alone["images_s"]["median"]
    loops = [r for r in rows if r["part"] == "closed" and (r["what"], r["batch"]) == (what, batch)]
    best = max((r[letter]["images_s"] for r in loops), key=lambda rate: rate["median"], default=None)
    limits = [min(rate, cpu or rate) for rate in alone["images_s"]["rounds"]]
    return {
        "cpu_ms": cpu_ms,
        "cpu_images_s": cpu,
        "engine_images_s": engine,
        "images_s": min(engine, cpu) if cpu else engine,
        "best": best["median"] if best else None,
        "of_limit": _ratio(limits, best["rounds"]) if best else None,
    }


def failed(report: dict[str, Any]) -> bool:
    """Whether a request ended with an error, other than that too many waited."""
    return any(row[letter]["failed"] for row in report["rows"] for letter in LETTERS if letter in row)
