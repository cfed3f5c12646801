"""What is said on a machine without a driver, with an old one, without a GPU, or without the one that was named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from eyas.cuda import device as cuda_device
from eyas.cuda.device import gpus, open_device, why_missing
from eyas.errors import BackendError


def driver(monkeypatch: pytest.MonkeyPatch, *, version: int = 13_000, count: int = 1, failed: int = 0) -> None:
    """A driver library of that version, with so many GPUs; failed: what cuInit says."""

    def answer(value: int) -> Callable[..., int]:
        def call(target: Any, *rest: Any) -> int:
            target._obj.value = value
            return 0

        return call

    def name(buffer: Any, size: int, handle: Any) -> int:
        buffer.value = b"NVIDIA Test 1"
        return 0

    library = SimpleNamespace(
        cuInit=lambda flags: failed,
        cuDeviceGetCount=answer(count),
        cuDriverGetVersion=answer(version),
        cuDeviceGet=answer(0),
        cuDeviceGetName=name,
        cuDeviceGetAttribute=answer(9),
    )
    monkeypatch.setattr(cuda_device.ctypes, "CDLL", lambda path: library)


@pytest.fixture
def unasked() -> Iterator[None]:
    """Nothing that was found before counts, nor what is found here afterwards."""
    gpus.cache_clear()
    open_device.cache_clear()
    yield
    gpus.cache_clear()
    open_device.cache_clear()


def refused(index: int = 0) -> str:
    with pytest.raises(BackendError) as caught:
        open_device(index)
    text = str(caught.value)
    for word in (f"GPU {index} cannot be used: got ", "; expected an NVIDIA GPU. ", "nvidia-smi", "--device cpu"):
        assert word in text
    return text


def test_no_driver(monkeypatch: pytest.MonkeyPatch, unasked: None):
    def missing(path: str) -> Any:
        raise OSError(f"{path}: cannot open shared object file")

    monkeypatch.setattr(cuda_device.ctypes, "CDLL", missing)
    assert "got no NVIDIA driver (libcuda.so.1 cannot be loaded)" in refused()


@pytest.mark.parametrize(("version", "said"), [(11_080, "CUDA 11.8"), (10_020, "CUDA 10.2")])
def test_an_old_driver(monkeypatch: pytest.MonkeyPatch, unasked: None, version: int, said: str):
    driver(monkeypatch, version=version)
    assert f"got a driver for {said}, which is too old: CUDA 12" in refused()


@pytest.mark.parametrize("version", [12_000, 13_010])
def test_drivers_that_will_do(monkeypatch: pytest.MonkeyPatch, unasked: None, version: int):
    driver(monkeypatch, version=version, count=2)
    found, why = gpus()
    assert (why, [gpu.index for gpu in found], found[0].name, found[0].sm) == ("", [0, 1], "NVIDIA Test 1", "sm99")
    assert why_missing(1) is None


def test_a_driver_that_has_no_gpu_or_does_not_start(monkeypatch: pytest.MonkeyPatch, unasked: None):
    driver(monkeypatch, count=0)
    assert "got a driver, but no GPU" in refused()
    gpus.cache_clear()
    driver(monkeypatch, failed=999)
    assert "got no GPU that the driver can use (cuInit: error 999)" in refused()


def test_a_number_that_is_not_there(monkeypatch: pytest.MonkeyPatch, unasked: None):
    driver(monkeypatch, count=2)
    assert "got 2 GPUs, no number 5" in refused(5)
    gpus.cache_clear()
    driver(monkeypatch, count=1)
    assert "got 1 GPU, no number 1" in refused(1)
