"""JPEG from bytes to pixels on the GPU: nvImageCodec as `eyas.cuda.codec` uses it, beside OpenCV's threads and a copy.

    PYTHONPATH=src python benchmarks/gpu_decode.py --out gpu_decode.json

Two sets made of samples/: as large as COCO's pictures (640 × 480), and 1080p. 4:2:0, baseline, quality 90, no two
alike. A set is decoded by 1, 4 and 16 threads, each picture by one call; every picture stays on the GPU until its set
is done, and the clock stops when the GPU has finished. The ways take turns; the median of the rounds counts. CPU time
is the whole process's, waiting threads that spin included. Pixels are compared with OpenCV's before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from gpu_report import about

from eyas.cpu import cores
from eyas.cuda import codec
from eyas.cuda.codec import GpuDecoder
from eyas.cuda.device import CudaDevice, open_device
from eyas.cuda.memory import Block, copy, pinned
from eyas.imagefile import read_image

SAMPLES = Path(__file__).parents[1] / "samples"
SIZES = {"coco": (480, 640), "1080p": (1080, 1920)}
THREADS = (1, 4, 16)
# By name: which kinds of nvImageCodec's decoders may be used.
ENGINES = {"any": codec.KINDS, "hardware": ("HW_GPU_ONLY",), "cuda": ("GPU_ONLY", "HYBRID_CPU_GPU")}


def make_set(size: tuple[int, int], count: int) -> list[bytes]:
    """Encoded pictures of (height, width): crops of the samples, turned and mirrored."""
    photos = [cv2.imread(str(path)) for path in sorted(SAMPLES.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        photo = photos[i % len(photos)]
        height, width = (int(side * rng.uniform(0.7, 1)) for side in photo.shape[:2])
        top, left = (int(rng.integers(0, s - c + 1)) for s, c in zip(photo.shape, (height, width), strict=False))
        part = cv2.resize(photo[top : top + height, left : left + width], size[::-1], interpolation=cv2.INTER_CUBIC)
        part = cv2.flip(part, int(rng.integers(-1, 2)))
        noise = rng.normal(0, 3, part.shape)  # of a sensor: enlarged pictures alone are too smooth to be hard
        picture = np.clip(part + noise, 0, 255).astype(np.uint8)
        done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert done
        files.append(data.tobytes())
    return files


class Host:
    """OpenCV, page-locked memory and a copy, each thread with its own; the copies stay on the GPU as the others do."""

    def __init__(self, device: CudaDevice) -> None:
        self._device, self._local = device, threading.local()

    def decode(self, data: bytes) -> Any:
        self._device.use()
        mine = self._local
        image = read_image(data, "x")
        if getattr(mine, "host", None) is None or mine.host.size < image.size:
            mine.host, mine.stream = pinned(self._device, (image.size,)), self._device.stream()
        np.copyto(mine.host[: image.size], image.reshape(-1))
        block = Block(self._device, mine.stream, image.nbytes)
        copy(self._device, block.address, mine.host.ctypes.data, image.nbytes, mine.stream)
        mine.stream.sync()  # before the next picture overwrites the page-locked one
        return block, mine.stream

    @staticmethod
    def free(kept: Sequence[Any]) -> None:
        for block, _ in kept:
            block.close()


def pixels(device: CudaDevice, image: Any) -> np.ndarray:
    """On the host."""
    height, width, _ = image.shape
    stream = device.stream()
    stream.wait(image.ready)
    host = np.empty((height, image.row_bytes), np.uint8)
    copy(device, host.ctypes.data, image.address, image.row_bytes * (height - 1) + width * 3, stream)
    stream.sync()
    return host[:, : width * 3].reshape(height, width, 3)


def differences(device: CudaDevice, decode: Callable[[bytes], Any], files: Sequence[bytes]) -> dict[str, float]:
    """From OpenCV's pixels, in grey levels."""
    found = [np.abs(pixels(device, decode(d)).astype(int) - read_image(d, "x")) for d in files]
    return {
        "mean": float(np.mean([f.mean() for f in found])),
        "over_8": float(np.mean([(f > 8).mean() for f in found])),
        "most": int(max(f.max() for f in found)),
    }


def measure(
    device: CudaDevice, pool: ThreadPoolExecutor, decode: Callable[[bytes], Any], files: Sequence[bytes]
) -> Any:
    """Pictures a second, CPU milliseconds a picture, and what was decoded."""
    begin, cpu = time.perf_counter(), time.process_time()
    kept = list(pool.map(decode, files))
    device.device.sync()
    took, used = time.perf_counter() - begin, time.process_time() - cpu
    return len(files) / took, used / len(files) * 1e3, kept


def in_batches(device: CudaDevice, size: int) -> Callable[[Sequence[bytes]], Any]:
    """nvImageCodec as its authors mean it: many pictures a call, on as many threads of its own as there are cores."""
    from nvidia import nvimgcodec

    decoder = nvimgcodec.Decoder(
        device_id=device.index,
        max_num_cpu_threads=cores(),
        backends=[nvimgcodec.Backend(getattr(nvimgcodec.BackendKind, kind)) for kind in codec.KINDS],
        options=codec.OPTIONS,
    )
    params = nvimgcodec.DecodeParams(
        apply_exif_orientation=True,
        color_spec=nvimgcodec.ColorSpec.SRGB,
        allow_any_depth=False,
        sample_format=nvimgcodec.SampleFormat.I_BGR,
    )
    stream = device.stream()

    def decode(files: Sequence[bytes]) -> Any:
        kept = []
        for at in range(0, len(files), size):
            streams = [nvimgcodec.CodeStream(data) for data in files[at : at + size]]
            kept += decoder.decode(streams, params=params, cuda_stream=int(stream.handle))
        assert all(image is not None for image in kept)
        return stream, kept

    return decode


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--count", type=int, default=96, help="pictures in a set")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--batch", type=int, default=32, help="of the way with many pictures a call")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    cv2.setNumThreads(1)
    device = open_device(0)
    device.use()
    report = about(device, "benchmarks/gpu_decode.py") | {"cores": cores(), "count": args.count, "sets": {}}
    for name in ("nvidia-nvimgcodec-cu13", "nvidia-nvjpeg", "opencv-python"):
        try:
            report["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    decoders: dict[str, GpuDecoder] = {}
    for name, kinds in ENGINES.items():
        codec.KINDS = kinds  # decoders made later, for further threads, take it from there too: see below
        try:
            decoders[name] = GpuDecoder(device)
        except Exception as error:  # no such engine on this GPU: a finding
            report[f"without_{name}"] = str(error)
            print(f"{name}: {error}", flush=True)
    for set_name, size in SIZES.items():
        files = make_set(size, args.count)
        found: dict[str, Any] = {"bytes": statistics.fmean(map(len, files)), "size": size}
        report["sets"][set_name] = found
        print(f"{set_name}: {args.count} pictures of {found['bytes'] / 1e3:.0f} kB", flush=True)
        ways: dict[str, Callable[[bytes], Any]] = {"opencv": Host(device).decode}
        for name, decoder in decoders.items():

            def decode(data: bytes, decoder: GpuDecoder = decoder) -> Any:
                image = decoder.decode(data, "x")
                assert image is not None, "nvImageCodec failed; the log says why"
                return image

            codec.KINDS = ENGINES[name]
            try:
                found[f"difference_{name}"] = differences(device, decode, files[:12])
            except AssertionError as error:
                found[f"without_{name}"] = str(error)
                continue
            print(f"  {name}: {found[f'difference_{name}']}", flush=True)
            ways[name] = decode
        for threads in THREADS:
            rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            with ThreadPoolExecutor(threads) as pool:
                for turn in range(args.rounds + 1):  # the first warms up: every thread's decoder, memory
                    for name, way in ways.items():
                        codec.KINDS = ENGINES.get(name, codec.KINDS)
                        rate, cpu_ms, kept = measure(device, pool, way, files)
                        if name == "opencv":
                            Host.free(kept)
                        del kept
                        if turn:
                            rates[name].append((rate, cpu_ms))
            for name, pairs in rates.items():
                rate, cpu_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
                found[f"{name}_{threads}_threads"] = {"pictures_per_s": rate, "cpu_ms": cpu_ms}
                print(f"  {name}, {threads} threads: {rate:.0f} pictures/s, {cpu_ms:.2f} ms of CPU each", flush=True)
        codec.KINDS = ENGINES["any"]
        many = in_batches(device, args.batch)
        times = []
        for turn in range(args.rounds + 1):
            begin = time.perf_counter()
            kept = many(files)
            device.device.sync()
            if turn:
                times.append(len(files) / (time.perf_counter() - begin))
            del kept
        found[f"batches_of_{args.batch}"] = {"pictures_per_s": statistics.median(times)}
        print(f"  {args.batch} pictures a call: {statistics.median(times):.0f} pictures/s", flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
