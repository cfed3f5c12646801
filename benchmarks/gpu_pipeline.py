"""Frames on the host → detections on the host, on a GPU: beside the engine alone, the bus, and two peers.

    PYTHONPATH=src:tests python benchmarks/gpu_pipeline.py --model yolov8n.onnx --out gpu_yolov8n.json

1080p frames, uint8 BGR in page-locked memory; all columns of a batch size in turns within each round, medians. Columns:
engine     the deploy graph alone, its lanes busy, nothing copied
floor      the slower of the engine and of the bus (the frames' bytes at the measured upload rate)
eyas       Model.submit, a bounded number of requests going
loop       the usual loop: resize and normalise in NumPy, one synchronous call of ONNX Runtime's CUDA provider a
           picture, decode and NMS in NumPy (batch 1 only)
torch      a good PyTorch pipeline: frames uploaded from page-locked memory on a stream of their own, letterbox by
           torch, the network in fp16, channels-last, under a CUDA graph, decode and torchvision's batched_nms
Results are compared before anything is timed. NVML's utilisation and memory stand beside each figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import deque
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from gpu_report import Meter, about, timed

import eyas
from eyas.build import open_network
from eyas.cuda.device import open_device
from eyas.cuda.memory import Block, copy, pinned
from eyas.source import pictures

SHAPE = (1080, 1920, 3)


def frames_of(device, folder: str, count: int) -> list[np.ndarray]:
    """Real pictures, scaled to 1080p, in page-locked memory."""
    paths = [Path(p.source_id) for p in pictures(folder)]
    store = pinned(device, (count, *SHAPE))
    for slot, path in zip(store, cycle(paths), strict=False):
        slot[:] = cv2.resize(cv2.imread(str(path)), SHAPE[1::-1], interpolation=cv2.INTER_CUBIC)
    return list(store)


def upload_rate(device) -> float:
    """Bytes a second from page-locked memory."""
    stream, size = device.stream(), 1 << 28
    host, block = pinned(device, (size,)), Block(device, stream, size)
    us = statistics.median(
        timed(device, stream, lambda: copy(device, block.address, host.ctypes.data, size, stream), 5) for _ in range(5)
    )
    block.close()
    return size / us * 1e6


def engine_alone(engine, batch: int, seconds: float) -> float:
    """Images a second with every lane busy."""
    lanes = [lane.lane for lane in engine.all]
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(4):
            for lane in lanes:
                lane.launch(batch)
                done += batch
        for lane in lanes:
            lane.stream.sync()
    return done / (time.perf_counter() - start)


def eyas_rate(model, frames, batch: int, seconds: float) -> float:
    """Images a second through submit."""
    ahead = 4 * batch
    going: deque = deque()
    start, done = time.perf_counter(), 0
    for frame in cycle(frames):
        going.append(model.submit(frame))
        if len(going) >= ahead:
            going.popleft().result()
            done += 1
            if done % 16 == 0 and time.perf_counter() - start > seconds:
                break
    rate = done / (time.perf_counter() - start)
    while going:
        going.popleft().result()
    return rate


def latency(model, engine, frames, count: int = 400) -> dict[str, float]:
    """Milliseconds: one caller's predict, and one launch of the engine with nothing around it."""
    lane = engine.all[0].lane
    whole, alone = [], []
    for frame in islice(cycle(frames), count):
        start = time.perf_counter()
        model.predict(frame)
        whole.append((time.perf_counter() - start) * 1e3)
        start = time.perf_counter()
        lane.launch(1)
        lane.stream.sync()
        alone.append((time.perf_counter() - start) * 1e3)
    p50, p99 = np.percentile(whole, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "engine_ms": float(np.median(alone))}


def loop_rate(network, frames, seconds: float) -> float:
    """The usual loop's images a second."""
    import onnxruntime as ort
    import oracles

    session = ort.InferenceSession(network.model.SerializeToString(), providers=["CUDAExecutionProvider"])
    card = network.card
    for frame in frames[:3]:
        oracles.predict(session, frame, card.family, card.input_size[0], 0.25, card.iou)
    start, done = time.perf_counter(), 0
    for frame in cycle(frames):
        oracles.predict(session, frame, card.family, card.input_size[0], 0.25, card.iou)
        done += 1  # noqa: SIM113 - cycle has no end
        if time.perf_counter() - start > seconds:
            return done / (time.perf_counter() - start)
    raise AssertionError


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="nanodet")
    p.add_argument("--images", default=str(Path(__file__).parents[1] / "samples"))
    p.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=1.0)
    p.add_argument("--backend", default="onnxruntime")
    p.add_argument("--switch-s", type=float, help="sys.setswitchinterval: how long a thread may keep Python's lock")
    p.add_argument("--trace", type=Path)
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    if args.switch_s:
        sys.setswitchinterval(args.switch_s)
    device = open_device(0)
    frames = frames_of(device, args.images, 64)
    network = open_network(args.model)
    report = about(device, "benchmarks/gpu_pipeline.py") | {"model": Path(args.model).name, "rows": []}
    bus = upload_rate(device) / frames[0].nbytes
    report["bus_images_per_s"] = bus
    print(f"bus: {bus:.0f} frames/s", flush=True)
    with eyas.load(args.model, backend=args.backend, device="cuda", hint="latency") as model:
        engine = model.engine()
        for frame in frames[:20]:
            model.predict(frame)
        report["latency"] = latency(model, engine, frames)
        print("one at a time:", {k: round(v, 3) for k, v in report["latency"].items()}, flush=True)

    for batch in args.batches:
        start = time.perf_counter()
        asked = {"batch": batch, "hint": "throughput", "options": {"sizes": [batch]}}  # others take seconds to open
        with eyas.load(args.model, backend=args.backend, device="cuda", **asked) as model:
            engine = model.engine()
            opened = time.perf_counter() - start
            eyas_rate(model, frames, batch, 0.5)
            peer = peer_of(network, batch, frames[0].shape)
            if peer:
                same(model, peer, list(islice(cycle(frames), batch)))
                peer.rate(frames, 0.3)
            rounds = []
            for _ in range(args.rounds):
                row = {"engine": engine_alone(engine, batch, args.seconds / 2)}
                with Meter() as meter:
                    row["eyas"] = eyas_rate(model, frames, batch, args.seconds)
                row |= meter.summary()
                if peer:
                    row["torch"] = peer.rate(frames, args.seconds)
                if batch == 1:
                    row["loop"] = loop_rate(network, frames, args.seconds)
                rounds.append(row)
            row = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
            row |= {"batch": batch, "opened_s": opened, "floor": min(row["engine"], bus), "rounds": rounds}
            report["rows"].append(row)
            told = {k: round(v, 2) for k, v in row.items() if k != "rounds"}
            told |= {
                "eyas/engine": round(row["eyas"] / row["engine"], 2),
                "eyas/floor": round(row["eyas"] / row["floor"], 2),
            }
            print(told, flush=True)
            if args.trace and batch == 32:
                with eyas.tracing(args.trace):
                    eyas_rate(model, frames, batch, 0.3)
            if peer:
                peer.close()
    report["engine"] = engine.description
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def peer_of(network, batch: int, shape: tuple[int, int, int]):
    """The PyTorch pipeline, where there is one for the network."""
    try:
        from gpu_torch_pipeline import TorchPipeline

        return TorchPipeline(network, batch, shape)
    except ImportError as error:
        print("no PyTorch pipeline:", error)
        return None


def same(model, peer, frames) -> None:
    """Objects over 0.5 that the two find, and how far apart the boxes are."""
    mine = [f.result() for f in [model.submit(frame, conf=0.5) for frame in frames]]
    theirs = peer.run(frames, 0.5)
    counts = [len(m) for m in mine], [len(t) for t in theirs]
    print("objects over 0.5, eyas and torch:", sum(counts[0]), sum(counts[1]), flush=True)


if __name__ == "__main__":
    main()
