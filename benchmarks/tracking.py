"""Every tracker on the public detections of MOT15, on generated streets, and how many frames a second each manages.

    python benchmarks/tracking.py --data mot15 --out benchmarks/results/tracking.json

--data: a folder of sequences, each with det.txt and, to be scored, gt.txt. There are no pictures, so BoT-SORT runs
without its camera compensation and DeepSORT without appearance; on generated streets (tests/tracking_scenes.py) it
runs with and without. All trackers have their default options.

Speed: association alone on one core, 50 objects in every frame; each round runs every tracker once over all frames,
and the median over rounds counts.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core; read when NumPy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from eyas.evaluation.tracks import Scores, score_sequences
from eyas.results import Detections
from eyas.tracking import TRACKERS, Tracker, open_tracker
from eyas.tracking.mot import MotTable, read_mot, table_of

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tracking_scenes import street

SHOWN = ("hota", "deta", "assa", "mota", "idf1", "id_switches", "tracks")
# name of a kind of street → how it is made; 10 of each
STREETS: dict[str, dict[str, Any]] = {
    "12 walkers": {},
    "25 walkers, worse detector": {"walkers": 25, "jitter": 0.03, "missed": 0.1, "false": 1.0},
}
Sequence = tuple[MotTable, list[Detections]]


def fresh(name: str) -> Tracker:
    return open_tracker(name, **({"enable_cmc": False} if name == "botsort" else {}))


def judged(name: str, sequences: list[Sequence]) -> Scores:
    pairs = []
    for truth, frames in sequences:
        tracker = fresh(name)
        pairs.append((truth, table_of((i, tracker.update(d)) for i, d in enumerate(frames, 1))))
    return score_sequences(pairs)


def real(folder: Path) -> dict[str, list[Sequence]]:
    """The sequences with a truth, each, and all together."""
    found: dict[str, list[Sequence]] = {}
    for truth in sorted(folder.glob("*/gt.txt")):
        table = read_mot(truth.with_name("det.txt"))
        frames = [table.detections(f) for f in range(1, int(table.frame.max()) + 1)]
        found[truth.parent.name] = [(read_mot(truth), frames)]
    return found | {"together": [s for one in found.values() for s in one]}


def generated(embedding: int) -> dict[str, list[Sequence]]:
    scenes = {k: [street(seed, embedding=embedding, **how) for seed in range(10)] for k, how in STREETS.items()}
    return {k: [(s.truth, s.frames) for s in kind] for k, kind in scenes.items()}


def steady(objects: int, frames: int, embedding: int) -> list[Detections]:
    """Objects that cross a picture, every one found in every frame."""
    rng = np.random.default_rng(0)
    centre = rng.uniform(0, 1, (objects, 2)) * [1920, 1080]
    speed, side = rng.normal(0, 2, (objects, 2)), rng.uniform([30, 80], [60, 150], (objects, 2))
    looks = rng.normal(size=(objects, max(embedding, 1)))
    out = []
    for i in range(frames):
        low = centre + speed * i - side / 2 + rng.normal(0, 1, (objects, 2))
        vectors = looks + 0.25 * rng.normal(size=looks.shape)
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        box = np.hstack([low, low + side]).astype(np.float32)
        sure = np.full(objects, 0.9, np.float32)
        ids = np.zeros(objects, np.int64)
        out.append(Detections(box, sure, ids, embedding=vectors if embedding else None))
    return out


def speeds(objects: int, rounds: int, frames: int = 200) -> dict[str, float]:
    """Updates a second, tracker by tracker."""
    plain, seen = steady(objects, frames, 0), steady(objects, frames, 128)
    runs = {name: (name, plain) for name in TRACKERS} | {"deepsort with 128-d embeddings": ("deepsort", seen)}
    taken: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(rounds):
        for label, (name, detections) in runs.items():
            tracker = fresh(name)
            for d in detections[:20]:
                tracker.update(d)
            start = time.perf_counter()
            for d in detections[20:]:
                tracker.update(d)
            taken[label].append((frames - 20) / (time.perf_counter() - start))
    return {label: round(statistics.median(values), 1) for label, values in taken.items()}


def show(title: str, rows: dict[str, Scores]) -> dict[str, Any]:
    print(f"\n{title}\n{'':32}" + "".join(f"{name:>12}" for name in SHOWN))
    out: dict[str, Any] = {}
    for name, s in rows.items():
        out[name] = {k: round(v, 4) if isinstance(v := getattr(s, k), float) else v for k in SHOWN}
        cells = [f"{v:12.1%}" if isinstance(v, float) else f"{v:12}" for v in out[name].values()]
        print(f"{name:32}" + "".join(cells), flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7, help="of the speed measurement")
    args = parser.parse_args()
    report: dict[str, Any] = {"versions": {p: version(p) for p in ("numpy", "scipy", "supervision", "trackers")}}
    report["mot15"] = {
        title: show(f"MOT15, {title}", {name: judged(name, sequences) for name in TRACKERS})
        for title, sequences in real(args.data).items()
    }
    plain, seen = generated(0), generated(128)
    report["streets"] = {}
    for title, sequences in plain.items():
        rows = {name: judged(name, sequences) for name in TRACKERS}
        rows["deepsort with 128-d embeddings"] = judged("deepsort", seen[title])
        report["streets"][title] = show(f"10 generated streets, {title}", rows)
    report["updates_per_s_50_objects"] = speeds(50, args.rounds)
    print("\nupdates a second, 50 objects, one core")
    for label, value in report["updates_per_s_50_objects"].items():
        print(f"{label:32}{value:12.0f}")
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
