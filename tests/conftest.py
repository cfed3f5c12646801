"""Where tests find pictures and models: what the repository carries, and, if it is there, a folder of real ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

try:
    from hypothesis import settings
except ImportError:  # where only tests without it run, as beside PyTorch
    pass
else:  # the gate tries the same examples each time; HYPOTHESIS_PROFILE=search looks for new ones
    settings.register_profile("gate", derandomize=True, deadline=None)
    settings.register_profile("search", deadline=None)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
BUNDLED = ROOT / "src" / "eyas" / "models" / "nanodet_g_416.onnx"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with models/ and data/ that EYAS_TEST_DATA names (default: shared/ beside the repository)."""
    folder = Path(os.environ.get("EYAS_TEST_DATA", ROOT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no real models and labelled data in {folder}; name the folder with EYAS_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """`main` sets up the logger and OpenCV's threads for a process of its own."""
    logger, threads = logging.getLogger("eyas"), cv2.getNumThreads()
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
    cv2.setNumThreads(threads)
