"""What the GPU benchmarks share: who and what was measured, timing by events, and the copy as a yardstick."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eyas.cuda.device import CudaDevice
from eyas.cuda.memory import Block, copy

PACKAGES = ("cuda-core", "cuda-bindings", "numpy", "torch", "onnxruntime-gpu", "onnxruntime", "opencv-python-headless")


def about(device: CudaDevice, script: str) -> dict[str, Any]:
    """Command, device, driver and versions."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": " ".join(["PYTHONPATH=src python", script, *(Path(word).name for word in sys.argv[1:])]),
        "device": device.gpu.name,
        "capability": device.gpu.capability,
        "driver": driver.splitlines()[0] if driver else "unknown",
        "python": platform.python_version(),
        "versions": found,
    }


def timed(
    device: CudaDevice,
    stream: Any,
    work: Callable[[], object],
    repeats: int,
    before: Callable[[], object] | None = None,
) -> float:
    """Microseconds a call, by events on the stream around `repeats` of them."""
    options = device.core.EventOptions(timing_enabled=True)
    if before:
        before()
    work()
    stream.sync()
    start = stream.record(options=options)
    for _ in range(repeats):
        work()
    end = stream.record(options=options)
    end.sync()
    return (end - start) * 1e3 / repeats


def measured_copy(device: CudaDevice, stream: Any, size: int = 1 << 30) -> float:
    """Bytes a second, read and written, of a device-to-device copy."""
    a, b = Block(device, stream, size), Block(device, stream, size)
    us = statistics.median(
        timed(device, stream, lambda: copy(device, b.address, a.address, size, stream), 10) for _ in range(5)
    )
    a.close()
    b.close()
    return 2 * size / us * 1e6


class Meter:
    """GPU memory and utilisation by NVML, sampled by a thread while the block runs."""

    def __init__(self, index: int = 0, every_s: float = 0.05) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml, self._handle, self._every_s = pynvml, pynvml.nvmlDeviceGetHandleByIndex(index), every_s
        self.busy: list[int] = []
        self.used: list[int] = []

    def __enter__(self) -> Meter:
        import threading

        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(self._every_s):
            self.busy.append(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
            self.used.append(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def summary(self) -> dict[str, float]:
        """Mean utilisation in percent, most memory in MB (of the whole GPU)."""
        return {
            "gpu_percent": statistics.fmean(self.busy) if self.busy else float("nan"),
            "gpu_memory_mb": max(self.used, default=0) / 1e6,
        }
