"""The letterbox kernel on a GPU: how near it comes to the bytes it must move, beside OpenCV and PyTorch.

    PYTHONPATH=src python benchmarks/gpu_letterbox.py --out gpu_letterbox.json

A batch of 1080p frames, uint8 BGR, into [batch, 640, 640, 3] uint8. The floor is the bytes that any such kernel must
touch (32-byte sectors of the source rows and columns that are sampled, each once, and the output, each once) at the
bandwidth of a large device-to-device copy, measured in the same run. Two sets of frames take turns, each larger than
the L2 cache. Pixels are compared with OpenCV's before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from gpu_report import about, measured_copy, timed

from eyas.cuda import letterbox as kernel_module
from eyas.cuda.device import open_device
from eyas.cuda.letterbox import LetterboxKernel, Source, row_of
from eyas.cuda.memory import Block, copy, new_array, pinned
from eyas.letterbox import Letterbox

SECTOR = 32


def touched(box: Letterbox) -> int:
    """Bytes of the source that bilinear sampling reads, in whole sectors, each counted once."""
    height, width = box.source

    def taps(count: int, length: int) -> np.ndarray:
        exact = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
        at = exact.astype(int)
        weighs = np.rint((exact - at) * 2048) > 0  # the second of two rows, unless the first has all the weight
        return np.unique(np.concatenate([at, np.minimum(at + 1, length - 1)[weighs]]))

    columns = taps(box.resized[1], width)
    sectors = np.unique((columns[:, None] * 3 + np.arange(3)) // SECTOR)
    return len(taps(box.resized[0], height)) * len(sectors) * SECTOR


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--size", type=int, default=640)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    device = open_device(0)
    stream = device.stream()
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (args.batch, 135, 240, 3), np.uint8)
    images = [np.ascontiguousarray(cv2.resize(s, (1920, 1080), interpolation=cv2.INTER_CUBIC)) for s in small]
    target = (args.size, args.size)
    box = Letterbox.fit((1080, 1920), target)
    boxes = [box] * args.batch
    host = pinned(device, (args.batch, 1080, 1920, 3))
    host[:] = images
    sets = []
    for _ in range(2):
        block = Block(device, stream, host.nbytes)
        copy(device, block.address, host.ctypes.data, host.nbytes, stream)
        sets.append([Source(block.address + i * images[0].nbytes, 1920 * 3) for i in range(args.batch)] + [block])
    direct = [Source(host[i].ctypes.data, 1920 * 3) for i in range(args.batch)]
    out = new_array(device, stream, (args.batch, *target, 3), np.uint8)
    stream.sync()
    wanted = [box.apply(image, np.empty((*target, 3), np.uint8)) for image in images]

    report = about(device, "benchmarks/gpu_letterbox.py")
    bandwidth = measured_copy(device, stream)
    moved = args.batch * (touched(box) + args.size * args.size * 3)
    floor_us = moved / bandwidth * 1e6
    report |= {"copy_bytes_per_s": bandwidth, "bytes_touched": moved, "floor_us": floor_us, "batch": args.batch}
    print(f"copy {bandwidth / 1e12:.2f} TB/s; {moved / 1e6:.1f} MB touched; floor {floor_us:.1f} us", flush=True)

    variants = {}
    for pixels in (1, 2, 4, 8):
        for threads in ((32, 8), (32, 4), (64, 4), (16, 16)):
            kernel_module.PIXELS, kernel_module.THREADS = pixels, threads
            kernel = LetterboxKernel(device, stream, args.batch, target)
            out.block.buffer.fill(0, stream=stream)
            kernel(sets[0][:-1], boxes, out.address)
            got = pinned(device, out.shape)
            copy(device, got.ctypes.data, out.address, got.nbytes, stream)
            stream.sync()
            difference = np.abs(got.astype(int) - np.stack(wanted).astype(int))
            assert not difference.any()
            times = []
            for r in range(args.rounds):
                kernel.describe([row_of(frame, box) for frame in sets[r % 2][:-1]])
                kernel.upload(args.batch)
                us = timed(device, stream, lambda k=kernel: k.enqueue(args.batch, out.address), 20)
                times.append(us)
            us = statistics.median(times)
            variants[f"{pixels} pixels, block {threads}"] = us
            print(f"{pixels} pixels, block {threads}: {us:.1f} us, {floor_us / us:.2f} of the floor", flush=True)
    report["kernel_us"] = variants
    best = min(variants, key=variants.get)
    kernel_module.PIXELS, kernel_module.THREADS = 4, (32, 4)
    kernel = LetterboxKernel(device, stream, args.batch, target)
    kernel.describe([row_of(f, box) for f in direct])
    kernel.upload(args.batch)
    zero_copy = statistics.median(
        timed(device, stream, lambda: kernel.enqueue(args.batch, out.address), 3) for _ in range(5)
    )
    upload = statistics.median(
        timed(device, stream, lambda: copy(device, sets[0][-1].address, host.ctypes.data, host.nbytes, stream), 3)
        for _ in range(5)
    )
    one = Source(host[0].ctypes.data, 1920 * 3)
    kernel.describe([row_of(one, box)])
    kernel.upload(1)
    zero_one = statistics.median(timed(device, stream, lambda: kernel.enqueue(1, out.address), 20) for _ in range(5))
    kernel.describe([row_of(sets[0][0], box)])
    kernel.upload(1)
    one_us = statistics.median(timed(device, stream, lambda: kernel.enqueue(1, out.address), 20) for _ in range(5))
    upload_one = statistics.median(
        timed(device, stream, lambda: copy(device, sets[0][-1].address, host.ctypes.data, images[0].nbytes, stream), 20)
        for _ in range(5)
    )
    report |= {"zero_copy_us": zero_copy, "upload_us": upload, "upload_bytes_per_s": host.nbytes / upload * 1e6}
    report |= {"one_zero_copy_us": zero_one, "one_kernel_us": one_us, "one_upload_us": upload_one}
    print(f"upload {upload:.0f} us ({host.nbytes / upload / 1e3:.1f} GB/s); read directly {zero_copy:.0f}")
    print(f"one frame: upload {upload_one:.1f} us, kernel {one_us:.1f}, directly {zero_one:.1f}")

    frames = torch.stack([torch.as_tensor(image) for image in images]).cuda()

    def with_torch() -> torch.Tensor:
        x = frames.permute(0, 3, 1, 2).half()
        x = torch.nn.functional.interpolate(x, box.resized, mode="bilinear", align_corners=False)
        top, left = box.offset
        h, w = box.resized
        x = torch.nn.functional.pad(x, (left, args.size - w - left, top, args.size - h - top), value=114.0)
        return x.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    theirs = with_torch().cpu().numpy().astype(int)
    print("torch differs by at most", int(np.abs(theirs - np.stack(wanted)).max()))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    times = []
    for _ in range(args.rounds):
        events[0].record()
        for _ in range(10):
            with_torch()
        events[1].record()
        torch.cuda.synchronize()
        times.append(events[0].elapsed_time(events[1]) * 100)
    report["torch_us"] = statistics.median(times)
    cv2.setNumThreads(1)
    outs = [np.empty((*target, 3), np.uint8) for _ in images]
    for workers in (1, 16):
        with ThreadPoolExecutor(workers) as pool:
            times = []
            for _ in range(5):
                start = time.perf_counter()
                list(pool.map(lambda i: box.apply(images[i], outs[i]), range(args.batch)))
                times.append((time.perf_counter() - start) * 1e6)
        report[f"opencv_{workers}_threads_us"] = statistics.median(times)
    mine = variants["4 pixels, block (32, 4)"]
    print(f"best: {best} {variants[best]:.1f} us; shipped {mine:.1f} us = {floor_us / mine:.2f} of the floor")
    for name in ("torch_us", "opencv_1_threads_us", "opencv_16_threads_us"):
        print(f"{name}: {report[name]:.0f}, {report[name] / mine:.0f} x the kernel's time")
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
