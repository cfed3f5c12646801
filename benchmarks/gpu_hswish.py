"""The CUDA kernel of HSwish on a GPU: right for every size, and how fast beside a copy; a JSON report.

    PYTHONPATH=src python benchmarks/gpu_hswish.py --out hswish.json

Needs an NVIDIA GPU, cuda-core, CuPy, NumPy and onnx; neither TensorRT nor a network. The source, the options of NVRTC
and the launch are the plug-in's own (`eyas.ops._kernel`). The reference is the formula in float64; errors are in units
in the last place of the exact result, in the output's type. A copy and the kernel move the same bytes (each read once,
written once) and are timed in turns. The exit code is 1 where a result is wrong.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import cupy as cp
import numpy as np

from eyas.ops import _kernel, hswish

# One to ten million: around packs of 16 bytes, warps, blocks, and full grids; many odd ones.
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 127, 255, 256, 257, 511, 1000, 1023, 4095, 4097)
SIZES += (65_535, 65_537, 270_335, 999_983, 1_000_003, 2_162_689, 9_999_991, 10_000_000)
OFFSETS = ((0, 0), (1, 0), (0, 1), (3, 3))  # elements between a 256-byte boundary and the input, and the output
LARGEST_ULP = {"float32": 4.0, "float16": 0.51}  # four roundings of 2⁻²⁴ each at most; the last rounding alone
TIMED = {"float32": (10_000_000, 1 << 26), "float16": (10_000_000, 1 << 27)}  # the larger ones outgrow every L2 cache
ROUNDS, REPEATS, MARGIN, CANARY = 9, 20, 64, 123
COPY = 3  # cudaMemcpyDeviceToDevice


def launch(x: cp.ndarray, y: cp.ndarray, stream: cp.cuda.Stream) -> None:
    """As the plug-in's enqueue does."""
    _kernel.launch(hswish, y.dtype, [int(x.data.ptr)], int(y.data.ptr), int(y.size), int(stream.ptr))


def values(n: int, dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """A normal distribution about the bend, with the awkward numbers among it where there is room."""
    info = np.finfo(dtype)
    edges = [-3, 3, 0, -0.0, np.inf, -np.inf, np.nan, info.max, info.min, info.tiny, -info.smallest_subnormal]
    edges += [np.nextafter(dtype.type(v), dtype.type(t)) for v in (-3, 3) for t in (-9, 9)]
    x = rng.normal(0, 4, n).astype(dtype)
    at = rng.permutation(n)[: len(edges)]
    x[at] = np.array(edges, dtype)[: len(at)]
    return x


def check(n: int, dtype: np.dtype, offsets: tuple[int, int], stream: cp.cuda.Stream, rng: np.random.Generator) -> dict:
    """One size and alignment: largest error, whether NaN are where they belong, whether anything else was written."""
    x = values(n, dtype, rng)
    source = cp.zeros(n + MARGIN, dtype)
    target = cp.full(n + MARGIN, CANARY, dtype)
    source[offsets[0] : offsets[0] + n] = cp.asarray(x)
    cp.cuda.Device().synchronize()  # CuPy filled them on its own stream
    launch(source[offsets[0] : offsets[0] + n], target[offsets[1] : offsets[1] + n], stream)
    stream.synchronize()
    everything = cp.asnumpy(target)
    got = everything[offsets[1] : offsets[1] + n]
    with np.errstate(invalid="ignore", over="ignore"):
        exact = hswish.formula(np, x.astype(np.float64))
        wanted = exact.astype(dtype)
        finite = np.isfinite(wanted)
        apart = np.abs(got[finite].astype(np.float64) - exact[finite])
        ulp = apart / np.spacing(np.abs(wanted[finite])).astype(np.float64)
    rest = np.delete(everything, np.s_[offsets[1] : offsets[1] + n])
    same = np.array_equal(got[~finite], wanted[~finite], equal_nan=True)
    return {
        "max_abs": float(apart.max(initial=0)),
        "max_ulp": float(ulp.max(initial=0)),
        "not_finite_equal": bool(same),
        "nothing_else_written": bool((rest == CANARY).all()),
    }


def captured(dtype: np.dtype, stream: cp.cuda.Stream) -> bool | str:
    """Whether the launch can be part of a CUDA graph, as in an engine, and gives the same there; or why not."""
    try:
        return _captured(dtype, stream)
    except Exception as error:  # the rest of the report is worth having all the same
        return f"{type(error).__name__}: {error}"


def _captured(dtype: np.dtype, stream: cp.cuda.Stream) -> bool:
    x = cp.asarray(values(100_003, dtype, np.random.default_rng(3)))
    once, again = cp.zeros_like(x), cp.zeros_like(x)
    cp.cuda.Device().synchronize()
    launch(x, once, stream)
    stream.synchronize()
    with stream:
        stream.begin_capture()
        launch(x, again, stream)
        graph = stream.end_capture()
        graph.launch(stream)
    stream.synchronize()
    return bool(np.array_equal(cp.asnumpy(once), cp.asnumpy(again), equal_nan=True))


def milliseconds(work, stream: cp.cuda.Stream) -> float:
    """Device time of one of REPEATS calls in a row."""
    begin, end = cp.cuda.Event(), cp.cuda.Event()
    begin.record(stream)
    for _ in range(REPEATS):
        work()
    end.record(stream)
    end.synchronize()
    return cp.cuda.get_elapsed_time(begin, end) / REPEATS


def speed(n: int, dtype: np.dtype, stream: cp.cuda.Stream) -> dict:
    """GB/s (10⁹ bytes, read and written) of the kernel and of a device-to-device copy, medians of rounds in turns."""
    x = cp.asarray(np.random.default_rng(1).normal(0, 4, n).astype(dtype))
    y = cp.empty_like(x)
    cp.cuda.Device().synchronize()

    def kernel() -> None:
        launch(x, y, stream)

    def copy() -> None:
        cp.cuda.runtime.memcpyAsync(int(y.data.ptr), int(x.data.ptr), x.nbytes, COPY, int(stream.ptr))

    for work in (kernel, copy):
        milliseconds(work, stream)
    times = [(milliseconds(kernel, stream), milliseconds(copy, stream)) for _ in range(ROUNDS)]
    mine, theirs = (statistics.median(t[i] for t in times) for i in (0, 1))
    moved = 2 * x.nbytes / 1e6
    return {
        "elements": n,
        "kernel_us": mine * 1e3,
        "kernel_gb_s": moved / mine,
        "copy_gb_s": moved / theirs,
        "of_the_copy": statistics.median(c / k for k, c in times),
        "of_the_copy_worst_best": [min(c / k for k, c in times), max(c / k for k, c in times)],
    }


def host_us(stream: cp.cuda.Stream) -> float:
    """What one launch costs the thread that calls it, in microseconds: the price of a plug-in in Python."""
    x = cp.zeros(1, np.float32)
    y = cp.zeros(1, np.float32)
    rounds = []
    for _ in range(ROUNDS):
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(200):
            launch(x, y, stream)
        rounds.append((time.perf_counter() - start) / 200 * 1e6)
    stream.synchronize()
    return statistics.median(rounds)


def versions() -> dict:
    """Of all that took part."""
    import cuda.core

    found = {"python": platform.python_version(), "numpy": np.__version__, "cupy": cp.__version__}
    found |= {"cuda_core": cuda.core.__version__, "driver": cp.cuda.runtime.driverGetVersion()}
    found["runtime"] = cp.cuda.runtime.runtimeGetVersion()
    try:
        from cuda.bindings import nvrtc

        found["nvrtc"] = ".".join(map(str, nvrtc.nvrtcVersion()[1:]))
    except Exception as error:  # the report does without
        found["nvrtc"] = f"unknown: {error}"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the report there, too")
    arguments = parser.parse_args()
    _kernel._core().Device(0).set_current()
    stream = cp.cuda.Stream(non_blocking=True)
    properties = cp.cuda.runtime.getDeviceProperties(0)
    name = properties["name"]
    report = {
        "device": name.decode() if isinstance(name, bytes) else str(name),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "versions": versions(),
        "nvrtc_options": {k: str(v) for k, v in _kernel.OPTIONS.items()},
        "types": {},
    }
    right = True
    for dtype in (np.dtype(np.float32), np.dtype(np.float16)):
        start = time.perf_counter()
        _kernel.prepare(hswish, dtype)
        compiling = time.perf_counter() - start
        rng = np.random.default_rng(0)
        cases = {(n, o): check(n, dtype, o, stream, rng) for n in SIZES for o in OFFSETS}
        worst = max(cases, key=lambda key: cases[key]["max_ulp"])
        found = {
            "cases": len(cases),
            "largest_size": max(SIZES),
            "max_abs_error": max(c["max_abs"] for c in cases.values()),
            "max_ulp_error": cases[worst]["max_ulp"],
            "max_ulp_allowed": LARGEST_ULP[dtype.name],
            "worst_case": {"elements": worst[0], "offsets": worst[1]},
            "not_finite_equal": all(c["not_finite_equal"] for c in cases.values()),
            "nothing_else_written": all(c["nothing_else_written"] for c in cases.values()),
            "in_a_cuda_graph": captured(dtype, stream),
            "compile_ms": compiling * 1e3,
            "speed": [speed(n, dtype, stream) for n in TIMED[dtype.name]],
        }
        ok = found["max_ulp_error"] <= LARGEST_ULP[dtype.name]
        found["right"] = bool(
            ok and found["not_finite_equal"] and found["nothing_else_written"] and found["in_a_cuda_graph"] is True
        )
        right &= found["right"]
        report["types"][dtype.name] = found
    report["host_us_per_launch"] = host_us(stream)
    report["right"] = right
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
