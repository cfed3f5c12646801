"""The same detections on the GPU as on the CPU, picture by picture; and a long run whose memory stays flat.

    PYTHONPATH=src python benchmarks/gpu_parity.py --model yolov8n.onnx --images FOLDER --out gpu_parity.json

fp32 (TF32 off): every object over the threshold has its twin, IoU over .99 and scores less than 2e-3 apart; one whose
score is that near to the threshold may be missing on the other side. For fp16 compare mAP: `eyas val --device cuda`.
The CPU side is ONNX Runtime's CPU provider on the same letterboxed pixels or its own (both are reported).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from pathlib import Path

import cv2
import numpy as np
from gpu_report import Meter, about

import eyas
from eyas.cuda.device import open_device
from eyas.nms import box_iou
from eyas.source import pictures

IOU, SCORE = 0.99, 2e-3


def compare(mine, theirs, conf: float) -> tuple[int, int, float, float]:
    """(objects, objects without a twin, smallest IoU of twins, largest difference of their scores)."""
    missing, least, most = 0, 1.0, 0.0
    for a, b in ((mine, theirs), (theirs, mine)):
        for i in range(len(a)):
            same = np.flatnonzero(b.class_id == a.class_id[i])
            overlaps = box_iou(a.xyxy[i], b.xyxy[same]) if len(same) else np.zeros(0)
            good = [
                j
                for j, o in zip(same, overlaps, strict=True)
                if o > IOU and abs(b.confidence[j] - a.confidence[i]) < SCORE
            ]
            if good:
                j = max(good, key=lambda j: -abs(b.confidence[j] - a.confidence[i]))
                least = min(least, float(overlaps[list(same).index(j)]))
                most = max(most, float(abs(b.confidence[j] - a.confidence[i])))
            elif a.confidence[i] > conf + SCORE:
                missing += 1
    return len(mine), missing, least, most


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="nanodet")
    p.add_argument("--images", default=str(Path(__file__).parents[1] / "samples"))
    p.add_argument("--backend", default="onnxruntime")
    p.add_argument("--runs", type=int, default=100_000)
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    device = open_device(0)
    report = about(device, "benchmarks/gpu_parity.py") | {"model": Path(args.model).name}
    paths = [Path(i.source_id) for i in pictures(args.images)]
    images = [cv2.imread(str(path)) for path in paths]
    with (
        eyas.load(args.model, backend="onnxruntime", device="cpu", precision="fp32") as cpu,
        eyas.load(args.model, backend=args.backend, device="cuda", precision="fp32", batch=8) as gpu,
    ):
        report["engines"] = [cpu.engine("throughput").description, gpu.engine("throughput").description]
        objects = missing = 0
        least, most = 1.0, 0.0
        for a, b in zip(cpu.predict(images), gpu.predict(images), strict=True):
            n, m, iou, score = compare(b, a, 0.25)
            objects, missing, least, most = objects + n, missing + m, min(least, iou), max(most, score)
    report["fp32"] = {
        "pictures": len(images),
        "objects": objects,
        "without_twin": missing,
        "least_iou": least,
        "most_score": most,
    }
    print(report["engines"], report["fp32"], flush=True)

    frames = [np.ascontiguousarray(cv2.resize(image, (640, 360))) for image in images]
    with (
        eyas.load(args.model, backend=args.backend, device="cuda", batch=32, hint="throughput") as gpu,
        Meter(every_s=0.2) as meter,
    ):
        going: deque = deque()
        start, marks = time.perf_counter(), []
        for i in range(args.runs):
            going.append(gpu.submit(frames[i % len(frames)]))
            if len(going) >= 200:
                going.popleft().result()
            if i % 10_000 == 9_999:
                marks.append(meter.used[-1] / 1e6 if meter.used else float("nan"))
        while going:
            going.popleft().result()
        seconds = time.perf_counter() - start
    report["long_run"] = {"images": args.runs, "images_per_s": args.runs / seconds, "gpu_memory_mb_each_10000": marks}
    print(report["long_run"], flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    raise SystemExit(1 if missing else 0)


if __name__ == "__main__":
    main()
