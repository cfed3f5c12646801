"""A wall of cameras through one engine: fairness, memory, threads, drops and gaps, while one camera dies and returns.

    python benchmarks/camera_wall.py --seconds 300 --out benchmarks/results/camera_wall.json

The cameras are MJPEG servers over HTTP in a process of their own. After a third of the time the first one is killed,
and a tenth of it later it is back; after half of the time the second one sends pictures of another size. These two are
left out of the fairness.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

SIZES = ((360, 640), (180, 320))  # height and width: at first, and of the second camera later
KILLED, RESIZED = 0, 1


class Camera:
    """An endless answer of MJPEG to whoever connects; can be killed, and started again on its port."""

    def __init__(self, fps: float) -> None:
        self.fps, self.port, self.size = fps, 0, 0
        self.start()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def kill(self) -> None:
        for sock in (self._listener, *self._clients):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
            due = time.monotonic()
            for i in range(1 << 40):
                data = PICTURES[self.size][i % len(PICTURES[0])]
                head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                client.sendall(head + data + b"\r\n")
                due += 1 / self.fps
                time.sleep(max(0.0, due - time.monotonic()))


def pictures(size: tuple[int, int]) -> list[bytes]:
    """A bright square that wanders over noise, once around."""
    height, width = size
    ground = cv2.resize(np.random.default_rng(0).integers(0, 200, (9, 16, 3), np.uint8), (width, height))
    found = []
    for angle in np.linspace(0, 2 * np.pi, 40, endpoint=False):
        image = ground.copy()
        centre = np.array([width * (0.5 + 0.3 * np.cos(angle)), height * (0.5 + 0.3 * np.sin(angle))])
        low, high = (centre - height / 8).astype(int).tolist(), (centre + height / 8).astype(int).tolist()
        cv2.rectangle(image, low, high, (250, 250, 250), -1)
        found.append(cv2.imencode(".jpg", image)[1].tobytes())
    return found


def serve(count: int, fps: float) -> None:
    """Print the cameras' ports, then do as standard input says: kill N, start N, resize N."""
    cameras = [Camera(fps) for _ in range(count)]
    print(*(c.port for c in cameras), flush=True)
    for line in sys.stdin:
        verb, number = line.split()
        camera = cameras[int(number)]
        {"kill": camera.kill, "start": camera.start, "resize": lambda c=camera: setattr(c, "size", 1)}[verb]()


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def watch(args: argparse.Namespace, ports: list[int], tell) -> dict:
    """Follow all cameras for so long, and say what came of it."""
    import eyas
    from eyas.video import Reconnect, open_videos

    threads_before = threading.active_count()
    frames: dict[str, int] = defaultdict(int)
    latency_ms: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, set[tuple[int, int]]] = defaultdict(set)
    errors = 0
    memory: list[tuple[float, float]] = []
    s = args.seconds
    events = [(s / 3, f"kill {KILLED}"), (s / 3 + s / 10, f"start {KILLED}"), (s / 2, f"resize {RESIZED}")]
    with eyas.load(args.model, backend=args.backend, batch=args.batch) as model:
        model.engine("throughput")
        urls = [f"http://127.0.0.1:{port}/camera" for port in ports]
        with open_videos(urls, reconnect=Reconnect(first_s=0.2, most_s=2.0)) as videos:
            while_opening = [v.stats.dropped for v in videos.sources]
            begin, cpu, next_s = time.monotonic(), time.process_time(), 0.0
            for prediction in model.track(videos, tracker=args.tracker):
                now = time.monotonic()
                errors += prediction.error is not None
                if prediction.frame is not None:
                    name = prediction.source_id
                    frames[name] += 1
                    sizes[name].add(prediction.frame.size)
                    latency_ms[name].append((now - prediction.frame.arrived_s) * 1e3)
                at = now - begin
                if at >= next_s:
                    memory.append((round(at, 1), round(resident_mb(), 1)))
                    print(f"{at:6.1f} s  {memory[-1][1]:7.1f} MB  {sum(frames.values())} frames", flush=True)
                    next_s += args.every
                while events and at >= events[0][0]:
                    tell(events.pop(0)[1])
                if at >= s:
                    break
            wall_s, cpu_s = time.monotonic() - begin, time.process_time() - cpu
            threads_running = threading.active_count()
            rows = {f"camera {i + 1}": row(v, frames, latency_ms, sizes) for i, v in enumerate(videos.sources)}
            for found, dropped in zip(rows.values(), while_opening, strict=True):
                found["dropped"] -= dropped
    steady = [r["frames"] for i, r in enumerate(rows.values()) if i not in (KILLED, RESIZED)]
    late = [mb for at, mb in memory if at >= min(60.0, s / 2)]
    every_ms = [ms for values in latency_ms.values() for ms in values]
    return {
        "frames_per_s": round(sum(frames.values()) / wall_s, 2),
        "errors": errors,
        "fairness_max_over_min_minus_1": round(max(steady) / min(steady) - 1, 4),
        "latency_ms": quantiles(every_ms),
        "cpu_cores_busy": round(cpu_s / wall_s, 2),
        "memory_growth_mb_after_the_first_minute": round(max(late) - late[0], 1),
        "threads": {"before": threads_before, "running": threads_running, "after": threading.active_count()},
        "killed": "camera 1",
        "resized": "camera 2",
        "streams": rows,
        "memory_mb": memory,
    }


def row(video, frames: dict, latency_ms: dict, sizes: dict) -> dict:
    """What came of one camera."""
    name, stats = video.source_id, video.stats
    return {
        "frames": frames[name],
        "dropped": stats.dropped,
        "broken": stats.broken,
        "reconnects": stats.reconnects,
        "gaps": [[round(g.start_s, 2), round(g.end_s, 2), g.epoch] for g in video.gaps],
        "sizes": sorted(sizes[name]),
        "latency_ms": quantiles(latency_ms[name]),
    }


def quantiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (50, 99)} if values else {}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seconds", type=float, default=300.0)
    p.add_argument("--cameras", type=int, default=16)
    p.add_argument("--fps", type=float, default=10.0)
    p.add_argument("--every", type=float, default=10.0, metavar="S", help="between looks at the memory")
    p.add_argument("--model", default="nanodet")
    p.add_argument("--backend", default="null")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--tracker", default="deepsort")
    p.add_argument("--serve", action="store_true", help="be the cameras")
    p.add_argument("--out", type=Path, help="write the figures as JSON")
    args = p.parse_args()
    if args.serve:
        serve(args.cameras, args.fps)
        return
    cv2.setNumThreads(1)
    command = [sys.executable, __file__, "--serve", "--cameras", str(args.cameras), "--fps", str(args.fps)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cameras:
        try:
            ports = [int(port) for port in cameras.stdout.readline().split()]
            found = watch(args, ports, lambda words: print(words, file=cameras.stdin, flush=True))
        finally:
            cameras.terminate()
    facts = {"cameras": args.cameras, "fps": args.fps, "seconds": args.seconds, "size": SIZES[0], "batch": args.batch}
    facts |= {"model": Path(args.model).name, "backend": args.backend, "tracker": args.tracker}
    facts |= {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    dropped = sum(r["dropped"] for r in found["streams"].values())
    print(f"fairness {found['fairness_max_over_min_minus_1']:.2%}, latency {found['latency_ms']}, {dropped} dropped")
    print(f"memory + {found['memory_growth_mb_after_the_first_minute']} MB, threads {found['threads']}")
    if args.out:
        args.out.write_text(json.dumps(facts | found, indent=1) + "\n")


PICTURES = [pictures(size) for size in SIZES] if "--serve" in sys.argv else []

if __name__ == "__main__":
    main()
