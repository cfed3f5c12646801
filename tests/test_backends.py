"""What the backends say of devices, precisions and themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SAMPLES

import eyas
from eyas.backends import onnxruntime as ort_backend

PICTURE = str(SAMPLES / "chelsea.jpg")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_cpu_by_name(backend: str):
    pytest.importorskip("onnxruntime" if backend == "onnxruntime" else "openvino")
    with eyas.load("nanodet", backend=backend, device="cpu", precision="fp32") as model:
        assert model.predict(PICTURE).class_name == ["cat"]
        assert "CPU" in model.engine().description
        assert "fp32" in model.engine().description


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("device", ["toaster", "cuda:first"])
def test_an_unknown_device_is_refused_not_ignored(backend: str, device: str):
    pytest.importorskip("onnxruntime" if backend == "onnxruntime" else "openvino")
    with (
        eyas.load("nanodet", backend=backend, device=device) as model,
        pytest.raises(eyas.BackendError, match=f"got {device}"),
    ):
        model.predict(PICTURE)


def test_cuda_is_a_provider_of_onnxruntime():
    assert ort_backend._providers("cuda:1")[0] == ("CUDAExecutionProvider", {"device_id": 1})
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with (
        eyas.load("nanodet", backend="onnxruntime", device="cuda") as model,
        pytest.raises(eyas.BackendError, match="lacks a provider: got CUDAExecutionProvider"),
    ):
        model.predict(PICTURE)


def test_a_precision_that_the_device_lacks_is_refused():
    pytest.importorskip("onnxruntime")
    with (
        eyas.load("nanodet", backend="onnxruntime", precision="bf16") as model,
        pytest.raises(eyas.BackendError, match="cannot run bf16"),
    ):
        model.predict(PICTURE)


@pytest.mark.slow
def test_two_threads_may_make_the_first_call_of_a_process():
    """Without the first call under a lock, about one process in ten never ended."""
    code = (
        "import eyas\n"
        "with eyas.load('nanodet') as model:\n"
        f"    print(sum(p.detections is not None for p in model.stream([{PICTURE!r}] * 8)))\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(eyas.__file__).parents[1])}
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "8", done.stderr
