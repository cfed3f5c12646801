"""The pictures that are measured with: the user's, or synthetic ones that are the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from eyas.errors import OptionError, problem
from eyas.source import pictures
from eyas.types import Image

SYNTHETIC = 8
SIZE = (480, 640)  # height, width
QUALITY = 90  # of the JPEG files


@dataclass(frozen=True, slots=True)
class Inputs:
    """files: the bytes of picture files; images: uint8 [H, W, 3] BGR, what they decode to; about: one line on them."""

    files: tuple[bytes, ...]
    images: tuple[Image, ...]
    about: str

    def __len__(self) -> int:
        return len(self.files)


def synthetic(count: int = SYNTHETIC) -> Inputs:
    """Pictures with the spectrum of photographs and nothing to find in them.

    Amplitudes fall with spatial frequency as 1/f, as they do on average in natural scenes (Field, "Relations between
    the statistics of natural images and the response properties of cortical cells", 1987), so that a JPEG decoder
    meets about as many coefficients as in a photograph.
    """
    images = []
    for seed in range(count):
        white = np.random.default_rng(seed).standard_normal((*SIZE, 3))
        frequency = np.hypot(np.fft.fftfreq(SIZE[0])[:, None], np.fft.rfftfreq(SIZE[1]))
        frequency[0, 0] = np.inf  # no mean
        pink = np.fft.irfft2(np.fft.rfft2(white, axes=(0, 1)) / frequency[..., None], SIZE, axes=(0, 1))
        images.append(np.clip(128 + 48 * pink / pink.std(), 0, 255).astype(np.uint8))
    files = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes() for image in images]
    about = f"{count} synthetic JPEG pictures, {SIZE[1]} × {SIZE[0]}, without objects (--images takes your own)"
    return _decoded(files, about)


def from_files(sources: Sequence[str], limit: int) -> Inputs:
    """The first `limit` picture files that the sources name, all held in memory. Raises SourceError, OptionError."""
    files = []
    for picture in islice(pictures(sources), limit):
        if picture.source_id == "stdin":
            remedy = "Name files, folders or globs."
            raise OptionError(problem("--images takes no '-'", got="-", expected="picture files", remedy=remedy))
        picture.load()  # a file that cannot be used says so here
        files.append(Path(picture.source_id).read_bytes())
    sizes = sum(map(len, files)) / len(files) / 1e3
    count = f"{len(files)} picture" + "s" * (len(files) != 1)
    inputs = _decoded(files, "")
    height, width = np.mean([image.shape[:2] for image in inputs.images], axis=0).round().astype(int)
    about = f"{count} of {', '.join(sources)}; on average {width} × {height}, {sizes:.0f} kB"
    return Inputs(inputs.files, inputs.images, about)


def _decoded(files: Sequence[bytes], about: str) -> Inputs:
    """With what the files decode to."""
    return Inputs(tuple(files), tuple(p.load().image for p in pictures(list(files))), about)
