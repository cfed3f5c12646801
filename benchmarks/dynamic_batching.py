"""Requests that come when they come: one at a time beside dynamic batches, at the same arrivals.

    python benchmarks/dynamic_batching.py --out benchmarks/results/dynamic_batching.json --plot docs/pictures

Arrivals are a Poisson process at shares of what the single mode can do (its closed-loop rate, measured first), the same
for every mode of a round; latency counts from when a request was due. Modes:
single    batch 1, compiled for latency: one request at a time, the others wait in the queue
greedy    batch 8, compiled for throughput, no lingering: what waits when the engine is free runs together
linger    the same, and a batch that is not full waits 5 ms for more
The engine-only rate by batch size says whether batching pays on the backend at all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from pathlib import Path

import cv2
import numpy as np

import eyas
from eyas.bench.load import closed, open_loop, poisson
from eyas.source import pictures

MODES = {
    "single": {"batch": 1, "hint": "latency"},
    "greedy": {"batch": 8, "hint": "throughput"},
    "linger": {"batch": 8, "hint": "throughput", "queue": eyas.QueueSpec(linger_s=0.005)},
}


def engine_rates(model_name: str, backend: str, seconds: float) -> dict[int, float]:
    """Images a second of the engine alone, all its streams busy, by batch."""
    rates = {}
    for batch in (1, 2, 4, 8):
        with eyas.load(model_name, backend=backend, batch=batch, hint="throughput") as model:
            engine = model.engine()
            images = np.random.default_rng(0).integers(0, 256, (batch, *model.card.input_size, 3), np.uint8)
            feeds = {"images": images, "thresholds": np.full((batch, 2), 0.5, np.float32)}
            load = closed(lambda i, e=engine, f=feeds: e.infer(f), engine.parallel, seconds, batch)
            rates[batch] = load.images_s
    return rates


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="nanodet")
    p.add_argument("--backend", default="openvino")
    p.add_argument("--images", default=str(Path(__file__).parents[1] / "samples"))
    p.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.9, 1.1])
    p.add_argument("--requests", type=int, default=600)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--out", type=Path)
    p.add_argument("--plot", type=Path, metavar="DIR")
    args = p.parse_args()
    cv2.setNumThreads(1)
    frames = [cv2.imread(item.source_id) for item in pictures(args.images)]
    rates = engine_rates(args.model, args.backend, 2.0)
    print("engine alone, images/s by batch:", {k: round(v, 1) for k, v in rates.items()}, flush=True)
    models = {name: eyas.load(args.model, backend=args.backend, **options) for name, options in MODES.items()}
    submits = {name: lambda i, m=m: m.submit(frames[i % len(frames)]) for name, m in models.items()}
    for submit in submits.values():
        for i in range(20):
            submit(i).result()
    peaks = {
        n: closed(lambda i, s=s: s(i).result(), 1 if n == "single" else 32, 3.0).images_s for n, s in submits.items()
    }
    print("closed loop, images/s:", {k: round(v, 1) for k, v in peaks.items()}, flush=True)
    rng = np.random.default_rng(1)
    rows = []
    for share in args.loads:
        rounds: dict[str, list] = {name: [] for name in submits}
        for _ in range(args.rounds):
            due = poisson(share * peaks["single"], args.requests, rng)
            for name, submit in submits.items():
                load = open_loop(submit, due)
                p50, p99 = np.quantile(load.latency_ms, [0.5, 0.99])
                rounds[name].append((p50, p99, load.refused + sum(load.failed.values())))
        row = {"load": share, "images_s": share * peaks["single"]}
        for name, found in rounds.items():
            p50, p99, lost = (statistics.median(column) for column in zip(*found, strict=True))
            row[name] = {"p50_ms": float(p50), "p99_ms": float(p99), "lost": lost}
        rows.append(row)
        told = {n: f"p50 {row[n]['p50_ms']:.0f}, p99 {row[n]['p99_ms']:.0f} ms" for n in submits}
        print(f"load {share:.0%}: {told}", flush=True)
    description = {name: model.engine().description for name, model in models.items()}
    for model in models.values():
        model.close()
    report = {
        "model": Path(args.model).name,
        "backend": args.backend,
        "engines": description,
        "requests": args.requests,
    }
    report |= {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "rounds": args.rounds}
    report |= {"engine_images_s": rates, "closed_images_s": peaks, "rows": rows}
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        draw(report, args.plot / "dynamic_batching.png")


def draw(report: dict, path: Path) -> None:
    """p50 and p99 over the load, a line a mode."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    loads = [row["images_s"] for row in report["rows"]]
    for name, colour in zip(MODES, ("tab:red", "tab:blue", "tab:green"), strict=True):
        axes.plot(loads, [row[name]["p99_ms"] for row in report["rows"]], "o-", color=colour, label=f"{name}, p99")
        axes.plot(loads, [row[name]["p50_ms"] for row in report["rows"]], "o:", color=colour, label=f"{name}, p50")
    axes.axvline(report["closed_images_s"]["single"], color="grey", linestyle="--", label="the most that single can do")
    axes.set(xlabel="arrivals, images/s", ylabel="latency, ms", yscale="log")
    axes.set_title(f"{report['model']} on {report['backend']}, {report['cores']} cores, Poisson arrivals")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
