"""Which GPUs are here, asked of the driver alone: cheap, and without a driver an answer, not a crash."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache

from eyas.errors import BackendError, OptionError, problem
from eyas.trt.edition import Edition

# CUdevice_attribute of the CUDA driver API
_MAJOR, _MINOR = 75, 76
# TensorRT-RTX 1.7 refuses every other compute capability (9.0, H100 and H200, among them).
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
_BUILD = "`eyas build --backend tensorrt_rtx --target sm89` builds for another machine"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. capability: compute capability, (8, 9) for SM89."""

    index: int
    name: str
    capability: tuple[int, int]

    @property
    def sm(self) -> str:
        """Such as "sm89"."""
        return f"sm{self.capability[0]}{self.capability[1]}"


@cache
def gpus() -> tuple[tuple[Gpu, ...], str]:
    """Every GPU, and, where there is none, why."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return (), f"no NVIDIA driver ({library} cannot be loaded)"
    if code := cuda.cuInit(0):
        return (), f"no GPU that the driver can use (cuInit: error {code})"
    count = ctypes.c_int()
    if code := cuda.cuDeviceGetCount(ctypes.byref(count)):
        return (), f"the driver does not count its GPUs (error {code})"
    found = tuple(_gpu(cuda, i) for i in range(count.value))
    return found, "" if found else "a driver, but no GPU"


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    return Gpu(index, name.value.decode(errors="replace"), (major.value, minor.value))


def why_unusable(rtx: bool, index: int = 0) -> str | None:
    """Why no engine can run on GPU `index` here; None where one can."""
    found, reason = gpus()
    if index >= len(found):
        return reason or f"{len(found)} GPU{'s' * (len(found) != 1)}, no number {index}"
    gpu = found[index]
    if rtx and gpu.capability not in RTX_CAPABILITIES:
        return f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    return None


def index_of(device: str | None) -> int:
    """None, "cuda" → 0; "cuda:1" → 1. Raises OptionError."""
    name, _, number = (device or "cuda").lower().partition(":")
    if name not in ("cuda", "gpu") or not (number or "0").isdecimal():
        raise OptionError(
            problem("TensorRT does not know the device", got=device, expected="cuda or cuda:N", remedy="")
        )
    return int(number or 0)


def usable_gpu(edition: Edition, device: str | None) -> Gpu:
    """The GPU to run on. Raises BackendError that says why there is none and what to do."""
    index = index_of(device)
    if why := why_unusable(edition.rtx, index):
        can = " | ".join(f"{a}.{b}" for a, b in RTX_CAPABILITIES)
        expected = f"an NVIDIA GPU of compute capability {can}" if edition.rtx else "an NVIDIA GPU and its driver"
        remedy = f"{_BUILD}; another backend runs it here (`eyas backends`)."
        raise BackendError(problem(f"{edition.title} cannot run here", got=why, expected=expected, remedy=remedy))
    return gpus()[0][index]
