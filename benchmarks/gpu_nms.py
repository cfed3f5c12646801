"""NMS on the device: the kernel of `eyas/cuda/nms.cu` against the deploy graph's own NMS, at equal results.

    PYTHONPATH=src python benchmarks/gpu_nms.py nanodet yolov8n.onnx --images pictures --out gpu_nms.json

Microseconds of one launch of the engine, letterbox and copies left out, by events; both variants in turns, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from gpu_report import about, timed

import eyas
from eyas.cuda.device import open_device

KINDS = ("kernel", "graph")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="+")
    p.add_argument("--images", default=str(Path(__file__).parents[1] / "samples"))
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    device = open_device(0)
    report = about(device, "benchmarks/gpu_nms.py") | {"rows": []}
    for name in args.models:
        with ExitStack() as stack:
            models = {
                kind: stack.enter_context(
                    eyas.load(
                        name,
                        backend="onnxruntime",
                        device="cuda",
                        batch=args.batch,
                        hint="throughput",
                        options={"lanes": 1, "nms": kind, "sizes": [1, args.batch]},
                    )
                )
                for kind in KINDS
            }
            found = {kind: list(model.predict([args.images])) for kind, model in models.items()}
            for one, other in zip(*found.values(), strict=True):
                assert len(one) == len(other)
                assert np.array_equal(one.class_id, other.class_id)
                assert np.abs(one.xyxy - other.xyxy).max(initial=0) < 0.05
            lanes = {kind: model.engine("throughput").all[0].lane for kind, model in models.items()}
            for count in (1, args.batch):
                times: dict[str, list[float]] = {kind: [] for kind in KINDS}
                for _ in range(args.rounds):
                    for kind, lane in lanes.items():
                        times[kind].append(timed(device, lane.stream, lambda k=lane, n=count: k.launch(n), 20))
                row = {kind: statistics.median(us) for kind, us in times.items()}
                row |= {"model": Path(name).name, "batch": count, "objects": sum(map(len, found["kernel"]))}
                report["rows"].append(row)
                print({k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
