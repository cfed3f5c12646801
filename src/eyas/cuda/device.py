"""One GPU through cuda-core: its context, its streams, and kernels compiled by NVRTC and kept on disk."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from typing import Any

from eyas.cuda import driver as quick
from eyas.errors import BackendError, OptionError, SinkError, problem
from eyas.extras import need

# CUdevice_attribute of the CUDA driver API
_MAJOR, _MINOR = 75, 76
OLDEST_DRIVER = 12_000  # cuda-core's: CUDA 12
OPTIONS = {"std": "c++17", "fma": True}  # of NVRTC, besides the architecture


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
    """Every GPU, and, where there is none, why. Asks the driver alone: cheap, and without one an answer, no crash."""
    try:
        cuda = ctypes.CDLL(quick.NAME)
    except OSError:
        return (), f"no NVIDIA driver ({quick.NAME} cannot be loaded)"
    if code := cuda.cuInit(0):
        return (), f"no GPU that the driver can use (cuInit: error {code})"
    count, newest = ctypes.c_int(), ctypes.c_int()
    if code := cuda.cuDeviceGetCount(ctypes.byref(count)):
        return (), f"the driver does not count its GPUs (error {code})"
    cuda.cuDriverGetVersion(ctypes.byref(newest))
    if newest.value < OLDEST_DRIVER:
        return (), f"a driver for CUDA {newest.value // 1000}.{newest.value % 1000 // 10}, which is too old: CUDA 12"
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


def index_of(device: str | None, who: str) -> int:
    """None, "cuda" → 0; "cuda:1" → 1. who: the runtime, for the message. Raises OptionError."""
    name, _, number = (device or "cuda").lower().partition(":")
    if name not in ("cuda", "gpu") or not (number or "0").isdecimal():
        raise OptionError(problem(f"{who} does not know the device", got=device, expected="cuda or cuda:N", remedy=""))
    return int(number or 0)


def why_missing(index: int = 0) -> str | None:
    """Why nothing can run on GPU `index` here; None where it can."""
    found, reason = gpus()
    if index < len(found):
        return None
    return reason or f"{len(found)} GPU{'s' * (len(found) != 1)}, no number {index}"


@cache
def open_device(index: int) -> CudaDevice:
    """GPU `index`, opened once a process. Raises BackendError where there is none, EyasError without cuda-core."""
    if why := why_missing(index):
        remedy = "See whether `nvidia-smi` lists it and which driver it has; --device cpu runs without a GPU."
        raise BackendError(problem(f"GPU {index} cannot be used", got=why, expected="an NVIDIA GPU", remedy=remedy))
    need("cuda.core", "cuda")
    with cuda_errors(f"GPU {index} cannot be used"):
        return CudaDevice(index)


class CudaDevice:
    """Use `open_device`. Safe from several threads, each of which calls `use` first."""

    def __init__(self, index: int) -> None:
        self.index, self.gpu = index, gpus()[0][index]
        self.core = import_module("cuda.core")
        self.driver = import_module("cuda.bindings.driver")
        self.quick = quick.library()
        self.device = self.core.Device(index)
        self.device.set_current()
        self.context = int(self.check(self.driver.cuCtxGetCurrent()))
        self.borrowing = self.stream()  # on which other libraries' arrays are waited for

    def use(self) -> None:
        """Make it the calling thread's device, in its primary context, which PyTorch and CuPy use too."""
        self.passed(self.quick.cuCtxSetCurrent(self.context))

    def stream(self) -> Any:
        """A new stream (cuda.core.Stream) that does not wait for the default one."""
        return self.device.create_stream()

    def kernel(self, file: str, name: str, **macros: object) -> Any:
        """A kernel of one of this package's .cu files (cuda.core.Kernel), from the cache where it was compiled before.

        macros: -D definitions. Raises BackendError with the compiler's words.
        """
        source = resources.files("eyas.cuda").joinpath(file).read_text(encoding="utf-8")
        major, minor = self.gpu.capability
        return compiled(source, file, f"sm_{major}{minor}", **macros).get_kernel(name)

    def check(self, result: tuple[Any, ...]) -> Any:
        """What a call of the driver API gave, without its code. Raises BackendError where that is an error."""
        code, *values = result
        self.passed(code)
        return values[0] if values else None

    def passed(self, code: int) -> None:
        """Raise BackendError where a code of the driver API (CUresult) says so."""
        if code:
            result = self.driver.CUresult(int(code))
            _, said = self.driver.cuGetErrorString(result)
            got = f"{result.name}: {said.decode() if said else ''}"
            raise BackendError(problem(f"GPU {self.index} refuses", got=got, expected="success", remedy=REMEDY))


REMEDY = "Out of memory: a smaller batch. Otherwise see `nvidia-smi` and the system's log; the process must start anew."


@contextmanager
def cuda_errors(what: str) -> Iterator[None]:
    """Turn what cuda-core raises, of many types, into a BackendError."""
    try:
        yield
    except (BackendError, MemoryError):
        raise
    except Exception as error:
        got = " ".join(str(error).split())[:400]
        raise BackendError(problem(what, got=got, expected="a working GPU", remedy=REMEDY)) from error


def compiled(source: str, name: str, arch: str, **macros: object) -> Any:
    """Machine code (cuda.core.ObjectCode) for `arch`, such as "sm_90"; needs no GPU. Kept in eyas' cache folder.

    Raises BackendError with the compiler's words, EyasError without cuda-core.
    """
    core = need("cuda.core", "cuda")
    definitions = [(key, str(value)) for key, value in macros.items()]
    options = core.ProgramOptions(arch=arch, name=name, define_macro=definitions or None, **OPTIONS)
    try:
        return core.Program(source, "c++", options).compile("cubin", cache=_kernels())
    except Exception as error:  # NVRTC's errors have no common base
        got = " ".join(str(error).split())[:600]
        expected = f"CUDA C++ that NVRTC takes for {arch}"
        remedy = "If no libnvrtc was found: pip install nvidia-cuda-nvrtc"
        raise BackendError(problem(f"{name} does not compile", got=got, expected=expected, remedy=remedy)) from error


@cache
def _kernels() -> Any:
    """cuda-core's cache of compiled programs, in our folder; None where nothing can be kept."""
    from eyas.engines.folder import cache_folder

    try:
        folder = cache_folder() / "kernels"
    except SinkError:
        return None
    return import_module("cuda.core.utils").FileStreamProgramCache(folder)
