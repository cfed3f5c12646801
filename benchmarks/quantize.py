"""int8, fp16 and bf16 beside fp32: COCO AP, speed and file size, with OpenVINO and with ONNX Runtime.

    python benchmarks/quantize.py MODEL.onnx … --data coco_val/instances.json --images raccoons pictures

Each model is calibrated on --images and passes the gate of `eyas quantize` with --max-drop on --data. AP is that of
the gate (confidence from .01, the best 1000 candidates enter NMS). Speed: one picture a call on all cores, stem,
network, decode and NMS; every round times every variant once, and the ratios to fp32 are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import eyas
from eyas.evaluation.labels import open_dataset
from eyas.quantize import Settings, quantize
from eyas.quantize.compare import judge_by_labels

# name → (settings; None for the file as it is, the precision in which a backend runs it, the backends)
BOTH = ("openvino", "onnxruntime")
VARIANTS: dict[str, tuple[dict[str, Any] | None, str, tuple[str, ...]]] = {
    "fp32": (None, "fp32", BOTH),
    "bf16 by the runtime": (None, "auto", ("openvino",)),
    "bf16": ({"precision": "bf16"}, "auto", ("openvino",)),
    "fp16": ({"precision": "fp16"}, "fp32", BOTH),
    "int8": ({}, "auto", BOTH),
    "int8 for ONNX Runtime": ({"target": "onnxruntime"}, "auto", ("onnxruntime",)),
}
GATED = ("int8", "int8 for ONNX Runtime")


def times(engines: dict[str, eyas.Model], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a picture of every engine, round by round; the order turns, so that nobody is always first."""
    canvas = np.random.default_rng(0).integers(0, 255, (1, 1, 1, 3))
    found: dict[str, list[float]] = {name: [] for name in engines}
    names = list(engines)
    for i in range(-1, rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            model = engines[name]
            feeds = {
                "images": np.broadcast_to(canvas, (1, *model.card.input_size, 3)).astype(np.uint8),
                "thresholds": np.array([[0.25, 0.6]], np.float32),
            }
            start = time.perf_counter()
            for _ in range(4):
                model.engine("latency").infer(feeds)
            if i >= 0:
                found[name].append((time.perf_counter() - start) / 4 * 1e3)
    return found


def measure(model: str, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each variant and backend."""
    data = open_dataset(args.data)
    rows: list[dict[str, Any]] = []
    engines: dict[str, eyas.Model] = {}
    for name, (settings, precision, backends) in VARIANTS.items():
        path, report = Path(model), None
        if settings is not None:
            path = folder / f"{Path(model).stem}-{name.replace(' ', '-')}.onnx"
            gated = name in GATED
            asked = Settings(max_drop=args.max_drop if gated else None, **settings)
            report = quantize(
                model, args.images, path, settings=asked, data=data if gated else None, limit=args.limit,
                cache=args.cache, backends=backends,
            )  # fmt: skip
            print(f"{Path(model).name} {name}: {report.summary()}", flush=True)
            if report.written is None:
                rows.append({"model": Path(model).name, "variant": name, "refused": True, "drop": report.drop})
                continue
        for backend in backends:
            row: dict[str, Any] = {"model": Path(model).name, "variant": name, "backend": backend}
            row["bytes"] = path.stat().st_size
            row["ap"] = judge_by_labels(data, [backend], precision)(path)
            row["drop"] = next((r["ap"] for r in rows if r["variant"] == "fp32" and r["backend"] == backend), row["ap"])
            row["drop"] -= row["ap"]
            if report:
                row |= {"kept": len(report.kept), "layers": report.layers, "seconds": round(report.seconds)}
            rows.append(row)
            engines[f"{name}|{backend}"] = eyas.load(path, backend=backend, precision=precision, hint="latency")
            print(json.dumps(row), flush=True)
    taken = times(engines, args.rounds)
    for row in rows:
        if not row.get("refused"):
            own, base = taken[f"{row['variant']}|{row['backend']}"], taken[f"fp32|{row['backend']}"]
            row["ms"] = statistics.median(own)
            row["speed_up"] = statistics.median(b / a for a, b in zip(own, base, strict=True))
            row["engine"] = engines[f"{row['variant']}|{row['backend']}"].engine("latency").description
    for opened in engines.values():
        opened.close()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| model | variant | runtime | AP | drop | in float | MB | × fp32 speed |", "|---|---|---|---:|---:|---|---:|---:|"]  # fmt: skip  # noqa: E501
    for r in rows:
        if r.get("refused"):
            lines.append(f"| {r['model']} | {r['variant']} | refused | | {r['drop']:.4f} | | | |")
            continue
        kept = f"{r['kept']} of {r['layers']}" if "kept" in r else ""
        cells = [r["model"], r["variant"], r["backend"], f"{r['ap']:.4f}", f"{r['drop']:.4f}", kept]
        lines.append("| " + " | ".join([*cells, f"{r['bytes'] / 1e6:.1f}", f"{r['speed_up']:.2f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="*", default=["nanodet"])
    p.add_argument("--data", type=Path, required=True, help="labels, as `eyas val` takes them")
    p.add_argument("--images", nargs="+", required=True, help="pictures to calibrate on")
    p.add_argument("--limit", type=int, default=100, help="calibration pictures")
    p.add_argument("--max-drop", type=float, default=0.01)
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--cache", type=Path, help="where calibrations are kept")
    p.add_argument("--out", type=Path, help="write the figures as JSON, after every model")
    args = p.parse_args()
    cv2.setNumThreads(1)  # as the command line does for many pictures
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            rows += measure(model, args, Path(folder))
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
