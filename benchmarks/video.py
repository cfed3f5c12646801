"""End-to-end video speed beside the speed of its parts: decode, engine and encode alone, then `eyas track`'s whole way.

    python benchmarks/video.py --video street.mp4 --model yolov8n.onnx --rounds 5

Every round measures all of them once, in one process, so that ratios compare the same minute of a noisy machine:
- decode: `open_video`, nothing done with the frames; engine: `Model.stream` over frames in memory; encode:
  `VideoSink.add` of drawn frames in memory;
- all: the file is read ahead, followed and drawn, and encoded behind, as `eyas track FILE --save OUT` does.

Two limits: the slowest part alone, which no pipeline can pass; and, since the parts share the cores, cores / (the sum
of the parts' CPU seconds a frame), tracking and drawing counted too. CPU seconds are the process's, all threads. On a
machine with other work, of_cores_left is the share of the second limit when the cores that others kept busy are left
out of it.

A part that alone takes most of the cores is slower beside the others: with --encoder-threads the encoder leaves them
some, and the first limit is one that a pipeline can come near to.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2

import eyas
from eyas.tracking.follow import follow, rates_of
from eyas.tracking.output import Output
from eyas.video import VideoSink, VideoSource, open_video
from eyas.video.overlap import WriteBehind
from eyas.video.sink import ENCODERS

cv2.setNumThreads(1)  # as `eyas track` does
CORES = len(os.sched_getaffinity(0))
HELD = 48  # frames in memory, at most 300 MB of 1080p


def measured(work: Callable[[], int]) -> tuple[float, float, float]:
    """Frames a second, CPU milliseconds a frame, and how many cores everybody else kept busy meanwhile."""
    start, cpu, idle = time.perf_counter(), time.process_time(), idle_s()
    count = work()
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    others = CORES - (idle_s() - idle + cpu_s) / wall_s
    return count / wall_s, cpu_s / count * 1e3, max(0.0, others)


def idle_s() -> float:
    """Seconds that all cores together have been idle since the machine started (Linux)."""
    return sum(map(int, Path("/proc/stat").read_text().split()[4:6])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--video", type=Path, default=Path(__file__).parents[1] / "samples" / "parade.mp4")
    p.add_argument("--model", default="nanodet")
    p.add_argument("--backend")
    p.add_argument("--device")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--decode", choices=["host", "gpu"], default="host")
    p.add_argument("--tracker", default="deepsort")
    p.add_argument("--encoder-threads", type=int, metavar="N", help="of libx264 (default: its own choice, 1.5 × cores)")
    p.add_argument("--frames", type=int, help="of the video, the first ones (default all)")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--trace", type=Path, metavar="FILE", help="record the last round's whole way")
    p.add_argument("--out", type=Path, help="add the figures to this JSON file")
    args = p.parse_args()

    model = eyas.load(args.model, backend=args.backend, device=args.device, batch=args.batch, hint="throughput")
    with model, tempfile.TemporaryDirectory() as folder, opened(args) as video:
        parts = Parts(args, model, Path(folder) / "out.mp4", list(islice(video, HELD)))
        works = {"decode": parts.decode, "engine": parts.engine, "encode": parts.encode, "all": parts.whole}
        works["all"]()  # warm-up, and the count of frames
        rounds = []
        for i in range(args.rounds):
            row: dict[str, float] = {}
            for name, work in works.items():
                traced = args.trace and name == "all" and i == args.rounds - 1
                with eyas.tracing(args.trace) if traced else nullcontext():
                    row[name], row[f"{name}_ms"], others = measured(work)
            row["follow_ms"], row["draw_ms"] = parts.rest_ms()
            row["work_ms"] = sum(row[f"{k}_ms"] for k in ("decode", "engine", "encode", "follow", "draw"))
            row["slowest"] = min(row[k] for k in ("decode", "engine", "encode"))
            row["budget"] = CORES * 1e3 / row["work_ms"]
            row |= {"of_slowest": row["all"] / row["slowest"], "of_budget": row["all"] / row["budget"]}
            row["of_limit"] = row["all"] / min(row["slowest"], row["budget"])
            row |= {"cores_ours": row["all"] * row["all_ms"] / 1e3, "cores_others": others}
            row["of_cores_left"] = row["all"] * row["work_ms"] / 1e3 / (CORES - others)
            rounds.append({k: round(v, 3) for k, v in row.items()})
            print(f"round {i + 1}: " + "  ".join(f"{k} {v:.2f}" for k, v in row.items()), flush=True)
        medians = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
        title = f"{args.video.name}, {Path(args.model).name}, {model.engine('throughput').description}, {CORES} cores"
        print(f"\n{title}; medians of {args.rounds}\n" + "  ".join(f"{k} {v:.2f}" for k, v in medians.items()))
        if args.out:
            size = parts.held[0].size
            facts = {
                "frames": parts.count,
                "height": size[0],
                "width": size[1],
                "tracker": args.tracker,
                "decode": args.decode,
                "encoder_threads": args.encoder_threads,
            }
            facts |= {"batch": args.batch, "engine": model.engine("throughput").description, "cores": CORES}
            facts |= {"python": platform.python_version(), "medians": medians, "rounds": rounds}
            known = json.loads(args.out.read_text()) if args.out.is_file() else {}
            known[f"{args.video.name}, {Path(args.model).name}"] = facts
            args.out.write_text(json.dumps(known, indent=1) + "\n")


def opened(args: argparse.Namespace) -> VideoSource:
    return open_video(args.video, decode=args.decode, device=args.device)


def sink_of(args: argparse.Namespace, place: Path, sound_of: VideoSource | None = None) -> VideoSink:
    options = ENCODERS["libx264"] | {"threads": str(args.encoder_threads)} if args.encoder_threads else None
    return VideoSink(place, sound_of=sound_of, options=options)


class Parts:
    """Each part alone, and all together. held: frames in memory, undrawn."""

    def __init__(self, args: argparse.Namespace, model: eyas.Model, out: Path, held: list[Any]) -> None:
        self.args, self.model, self.out, self.held = args, model, out, held
        self.count = 0
        with closing(follow(model, held, tracker=args.tracker)) as found:
            self.found = list(found)
        painter = Output("").painter
        self.drawn = [painter.draw(p.frame, p.detections) for p in self.found]

    def decode(self) -> int:
        with opened(self.args) as video:
            return sum(1 for _ in islice(video, self.args.frames))

    def engine(self) -> int:
        frames = islice(cycle(self.held), self.count)
        return sum(p.detections is not None for p in self.model.stream(frames))

    def encode(self) -> int:
        with sink_of(self.args, self.out) as sink:
            for i, image in enumerate(islice(cycle(self.drawn), self.count)):
                sink.add(image, i / 30)
        return self.count

    def rest_ms(self) -> tuple[float, float]:
        """CPU milliseconds a frame of the tracker and of drawing."""
        from eyas.tracking import open_tracker

        tracker, painter, n = open_tracker(self.args.tracker), Output("").painter, len(self.found)
        begin = time.process_time()
        followed = [tracker.update(p.detections, None, p.frame.pts_s) for p in self.found]
        middle = time.process_time()
        for p, objects in zip(self.found, followed, strict=True):
            painter.draw(p.frame, objects)
        return (middle - begin) / n * 1e3, (time.process_time() - middle) / n * 1e3

    def whole(self) -> int:
        """As `eyas track` does it."""
        from eyas.tracking.follow import ahead_of

        with opened(self.args) as video, sink_of(self.args, self.out, video) as sink:
            encoder = WriteBehind(sink.add, "encoder")
            with closing(encoder), closing(Output("all", encoders=[encoder])) as output:
                frames = ahead_of(video, islice(video.pulses(), self.args.frames))
                settings = {"tracker": self.args.tracker, "rates": rates_of(video)}
                with closing(frames), closing(follow(self.model, frames, **settings)) as found:
                    for prediction in found:
                        output.put(prediction)
            self.count = sink.frames
        return self.count


if __name__ == "__main__":
    main()
