"""End-to-end images per second on a folder of pictures, beside the articles' loop and beside the machine's limit.

    python benchmarks/predict_folder.py --model yolov8n.onnx --images FOLDER --count 100

Every round measures everything once, so that ratios compare the same minute of a noisy machine:
(a) the articles' loop: ONNX Runtime with NumPy before and after it, one picture at a time;
(b) the limit: the CPU work of decode, letterbox and engine, each measured alone, spread over all cores without a
    gap; and the engine alone at full throughput.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

import eyas
from eyas.build import open_network
from eyas.imagefile import read_image
from eyas.letterbox import Letterbox
from eyas.source import pictures

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracles

cv2.setNumThreads(1)  # as the command line does for many pictures
CORES = len(os.sched_getaffinity(0))


def rate(count: int, start: float) -> float:
    return count / (time.perf_counter() - start)


def articles_loop(session: ort.InferenceSession, paths: list[Path], family: str, size: int, iou: float) -> float:
    start = time.perf_counter()
    for path in paths:
        oracles.predict(session, cv2.imread(str(path)), family, size, 0.25, iou)
    return rate(len(paths), start)


def cpu_ms(work, items: list) -> float:
    """CPU milliseconds per item, whole process (so that helper threads count)."""
    start = time.process_time()
    for item in items:
        work(item)
    return (time.process_time() - start) / len(items) * 1e3


def engine_alone(engine: eyas.predictor.Engine, canvas: np.ndarray, count: int) -> tuple[float, float]:
    """Images per second with all streams busy, and CPU milliseconds an image."""
    from concurrent.futures import ThreadPoolExecutor

    feeds = {"images": canvas, "thresholds": np.array([[0.25, 0.6]], np.float32)}
    with ThreadPoolExecutor(engine.parallel) as pool:
        start, cpu = time.perf_counter(), time.process_time()
        list(pool.map(lambda _: engine.infer(feeds), range(count)))
        return rate(count, start), (time.process_time() - cpu) / count * 1e3


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="nanodet")
    p.add_argument("--images", type=Path, default=Path(__file__).parents[1] / "samples")
    p.add_argument("--count", type=int, default=100)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--backend")
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    args = p.parse_args()

    files = [Path(item.source_id) for item in pictures(str(args.images))]
    paths = list(islice(cycle(files), args.count))
    network = open_network(args.model)
    family, size, iou = network.card.family, network.card.input_size[0], network.card.iou
    session = ort.InferenceSession(network.model.SerializeToString(), providers=["CPUExecutionProvider"])
    model = eyas.load(args.model, backend=args.backend)
    engine = model.engine("throughput")

    data = [path.read_bytes() for path in paths]
    images = [read_image(d, "picture") for d in data]
    canvas = np.empty((1, size, size, 3), np.uint8)

    def letterbox(image: np.ndarray) -> None:
        box = Letterbox.fit(image.shape[:2], network.card.input_size, network.card.resize)
        box.apply(image, canvas[0], network.card.pad_value)

    def eyas_run() -> float:
        start = time.perf_counter()
        done = sum(p.detections is not None for p in model.stream([str(p) for p in paths]))
        assert done == len(paths)
        return rate(done, start)

    eyas_run()  # warm-up
    rounds = []
    for i in range(args.rounds):
        alone, engine_ms = engine_alone(engine, canvas, args.count)
        row = {"eyas": eyas_run(), "loop": articles_loop(session, paths[:40], family, size, iou)}
        row |= {
            "decode_ms": cpu_ms(lambda d: read_image(d, "picture"), data),
            "letterbox_ms": cpu_ms(letterbox, images),
        }
        row |= {"engine_ms": engine_ms, "engine_alone": alone}
        work = row["decode_ms"] + row["letterbox_ms"] + engine_ms
        row["limit"] = min(CORES * 1e3 / work, alone)
        row |= {"vs_loop": row["eyas"] / row["loop"], "vs_limit": row["eyas"] / row["limit"]}
        rounds.append(row)
        print(f"round {i + 1}: " + "  ".join(f"{k} {v:.2f}" for k, v in row.items()), flush=True)
    m = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
    title = f"{Path(args.model).name} {size}, {args.count} pictures, {engine.description}, {CORES} cores"
    print(f"\n{title}; medians of {args.rounds}")
    stages = f"decode {m['decode_ms']:.2f} + letterbox {m['letterbox_ms']:.2f} + engine {m['engine_ms']:.2f}"
    print(f"  {stages} CPU ms an image")
    print(f"  limit {m['limit']:.1f} images/s; engine alone {m['engine_alone']:.1f}")
    against = f"{m['vs_limit']:.2f} of the limit, {m['vs_loop']:.1f} × the articles' loop ({m['loop']:.1f})"
    print(f"  eyas {m['eyas']:.1f} images/s = {against}")
    if args.out:
        facts = {"model": Path(args.model).name, "input": size, "engine": engine.description, "cores": CORES}
        facts |= {"python": platform.python_version(), "pictures": args.count, "medians": m, "rounds": rounds}
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
