"""Two real GPUs behind one queue give the results of one. Who gets which batch is tried without GPUs elsewhere."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from conftest import SAMPLES

import eyas
from eyas import Detections
from eyas.cuda.device import gpus
from eyas.types import Image

NAMES = ("astronaut", "chelsea", "coffee")
BOTH = "cuda:0,cuda:1"


@pytest.fixture(scope="module")
def images() -> list[Image]:
    if len(gpus()[0]) < 2:
        pytest.skip(f"needs two GPUs: {gpus()[1] or 'there is one'}")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs PyTorch with CUDA")
    return [cv2.imread(str(SAMPLES / f"{name}.jpg")) for name in NAMES] * 30


def opened(device: str) -> eyas.Model:
    """In fp32: in fp16 an object near the threshold comes and goes with the size of its batch."""
    return eyas.load("nanodet", backend="torch", precision="fp32", device=device, batch=8, hint="throughput")


def found(model: eyas.Model, images: list[Any]) -> list[Detections]:
    results = [future.result() for future in [model.submit(image) for image in images]]
    return [r for r in results if isinstance(r, Detections)]


def assert_alike(got: list[Detections], wanted: list[Detections]) -> None:
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a.class_id, b.class_id)
        np.testing.assert_allclose(a.confidence, b.confidence, atol=2e-3)
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1.0)


def test_two_gpus_find_what_one_finds(images: list[Image]) -> None:
    with opened("cuda:0") as one, opened(BOTH) as two:
        wanted = found(one, images)
        assert sum(map(len, wanted)) > 30
        assert_alike(found(two, images), wanted)


@pytest.mark.parametrize("index", [0, 1])
def test_frames_may_lie_on_either(images: list[Image], index: int) -> None:
    torch = pytest.importorskip("torch")
    there = [torch.from_numpy(image).to(f"cuda:{index}") for image in images]
    with opened(BOTH) as model:
        assert_alike(found(model, there), found(model, images))
