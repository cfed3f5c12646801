"""Deploy graphs on a GPU: ONNX Runtime's CUDA provider beside the torch interpreter, both as lanes in fp16.

    PYTHONPATH=src python benchmarks/gpu_torch_vs_ort.py yolov8n.onnx --images pictures.npz --out torch.json

Each file is a deploy graph (`eyas.build.deploy_graph`). --images: an .npz whose arrays are uint8 BGR pictures of any
size, [H, W, 3] or [N, H, W, 3]; they are resized to the network's input. Outputs are compared on them before anything
is timed. A round launches each lane's graph back to back, and the runtimes take turns, so that both see the same
clocks. Numbers are images a second of the network alone: nothing goes to or from the host while it is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from gpu_report import Meter, about, timed

from eyas.backends import Feeds
from eyas.cuda.device import CudaDevice, open_device
from eyas.cuda.lane import LanedEngine
from eyas.cuda.ort import in_precision
from eyas.cuda.ort import open_lanes as open_ort
from eyas.torch_ops.lane import open_lanes as open_torch
from eyas.types import BuildSpec


def pictures(path: Path, size: tuple[int, int], count: int) -> np.ndarray:
    """uint8 [count, H, W, 3], the file's pictures again and again."""
    with np.load(path) as file:
        arrays = [file[name] for name in file.files]
    every = [p for array in arrays for p in (array if array.ndim == 4 else array[None])]
    return np.stack([cv2.resize(every[i % len(every)], size[::-1]) for i in range(count)])


def opened(model: onnx.ModelProto, spec: BuildSpec) -> tuple[dict[str, LanedEngine], dict[str, float]]:
    """Both engines, of one lane each, and how long each took to open."""
    cuda = ("CUDAExecutionProvider", {"prefer_nhwc": "1", "fuse_conv_bias": "1"})
    makers = {
        "onnxruntime": lambda: open_ort(in_precision(model, spec), spec, [cuda, "CPUExecutionProvider"]),
        "torch": lambda: open_torch(torch, model, spec, 0),
    }
    engines, seconds = {}, {}
    for name, make in makers.items():
        start = time.perf_counter()
        engines[name] = make()
        seconds[name] = time.perf_counter() - start
    return engines, seconds


def difference(got: dict[str, Any], want: dict[str, Any]) -> dict[str, float]:
    """How far two runtimes are apart. Rows of detections may swap places, so each is held against its nearest."""
    if "detections" not in want:
        return {name: float(np.abs(got[name].astype(float) - want[name]).max()) for name in want}
    boxes, scores, lost, rows = [0.0], [0.0], 0, 0
    for mine, theirs, m, n in zip(got["detections"], want["detections"], got["count"], want["count"], strict=True):
        mine, theirs = mine[:m], theirs[:n]
        theirs = theirs[theirs[:, 4] > 0.3]
        rows += len(theirs)
        for row in theirs:
            same = mine[mine[:, 5] == row[5]]
            apart = np.abs(same[:, :4] - row[:4]).max(axis=1) if len(same) else np.array([np.inf])
            if apart.min() > 8:
                lost += 1
                continue
            boxes.append(float(apart.min()))
            scores.append(float(abs(same[apart.argmin(), 4] - row[4])))
    return {"rows": rows, "rows_lost": lost, "box_px": max(boxes), "score": max(scores)}


def measure(
    device: CudaDevice, engines: dict[str, LanedEngine], batch: int, rounds: int, feeds: Feeds
) -> dict[str, dict[str, float]]:
    """Median microseconds a launch of each runtime, in rounds that take turns."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    repeats = {}
    for name, engine in engines.items():
        engine.infer({key: array[:batch] for key, array in feeds.items()})  # so that the inputs hold pictures
        lane = engine.all[0].lane
        us = timed(device, lane.stream, lambda lane=lane: lane.launch(batch), 5)
        repeats[name] = max(5, min(300, int(2e5 / us)))
    for r in range(rounds):
        for name in list(engines)[:: 1 if r % 2 else -1]:
            lane = engines[name].all[0].lane
            times[name].append(timed(device, lane.stream, lambda lane=lane: lane.launch(batch), repeats[name]))
    found = {}
    for name, us in times.items():
        middle = statistics.median(us)
        found[name] = {"us": middle, "us_min": min(us), "us_max": max(us), "images_per_s": batch / middle * 1e6}
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="+", type=Path)
    p.add_argument("--images", type=Path, required=True)
    p.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--conf", type=float, default=0.25)
    p.add_argument("--precision", choices=["fp16", "fp32"], default="fp16")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    device = open_device(0)
    report = about(device, "benchmarks/gpu_torch_vs_ort.py") | {"precision": args.precision, "models": {}}
    report["cudnn"] = torch.backends.cudnn.version()
    for path in args.models:
        model = onnx.load(path)
        dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        fixed = dims[0] or None
        batches = [fixed] if fixed else sorted(args.batches)
        found: dict[str, Any] = {"batches": {}}
        images = pictures(args.images, (dims[1], dims[2]), batches[-1])
        feeds: dict[str, Any] = {"images": images}
        if len(model.graph.input) > 1:
            feeds["thresholds"] = np.tile(np.float32([[args.conf, 0.6]]), (len(images), 1))
        for batch in batches:  # each with engines of its own, so that every size is captured as it is
            spec = BuildSpec(args.precision, (batch, batch, batch), device="cuda")
            engines, seconds = opened(model, spec)
            now = {key: array[:batch] for key, array in feeds.items()}
            outputs = {name: engine.infer(now) for name, engine in engines.items()}
            apart = difference(outputs["torch"], outputs["onnxruntime"])
            with Meter() as meter:
                times = measure(device, engines, batch, args.rounds, now)
            ratio = times["onnxruntime"]["us"] / times["torch"]["us"]
            found["batches"][batch] = {
                "times": times,
                "torch_is_times_as_fast": ratio,
                "difference": apart,
                "open_s": seconds,
                "meter": meter.summary(),
            }
            rates = ", ".join(f"{name} {t['images_per_s']:.0f}/s ({t['us']:.0f} us)" for name, t in times.items())
            print(f"{path.stem} batch {batch}: {rates}; torch {ratio:.2f} x as fast; apart {apart}", flush=True)
            for engine in engines.values():
                engine.close()
        report["models"][path.stem] = found
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
