"""Turn, scale and move a face so that its eyes, nose and mouth lie where every embedder was trained to find them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from eyas.errors import OptionError, problem
from eyas.types import Image, check_image

SIDE = 112
FARTHEST = 1e6  # from the picture's corner, in pixels: beyond that nothing is a point in a picture
# Left eye, right eye, nose, left and right corner of the mouth (as the picture shows them), in pixels of a picture of
# 112 × 112: insightface's `face_align.py`, which ArcFace, MobileFaceNet and their heirs were trained with.
PLACES = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float64
)


def align(image: Image, points: NDArray[np.floating], size: int = SIDE) -> Image:
    """The face as a picture of its own, uint8 [size, size, 3] BGR.

    image: uint8 [H, W, 3] BGR. points: [5, 2] or [5, 3], x and y in its pixels, in the order of `PLACES`.
    The map is the similarity (turn, scale, shift; no reflection) with the least squared distances to `PLACES`, sampled
    bilinearly; beyond the picture is black. size: 1 to 4096. Raises SourceError or OptionError.
    """
    check_image(image)
    xy = _five(points)
    if not isinstance(size, (int, np.integer)) or not 1 <= size <= 4096:
        raise OptionError(problem("no face has that size", got=size, expected="1 to 4096 pixels", remedy=""))
    turned: Image = np.empty((size, size, 3), np.uint8)
    cv2.warpAffine(image, similarity(xy, PLACES * (size / SIDE)), (size, size), turned, cv2.INTER_LINEAR)
    return turned


def _five(points: object) -> NDArray[np.float64]:
    """The points as float64 [5, 2]. Raises OptionError unless they are five that a face could have."""
    try:
        array = np.asarray(points, np.float64)
        got = f"shape {list(array.shape)}: {np.array2string(array.ravel()[:6])}"
    except (TypeError, ValueError):
        array, got = np.zeros(0), repr(points)[:60]
    if array.shape in ((5, 2), (5, 3)):
        xy = array[:, :2]
        if (np.abs(xy) < FARTHEST).all() and np.ptp(xy, axis=0).max() > 1e-3:
            return xy
    raise OptionError(
        problem(
            "the points are not those of a face",
            got=got,
            expected="[5, 2]: eyes, nose, corners of the mouth, finite and not all in one place",
            remedy="Detections.keypoints[i] of a face detector (SCRFD, RetinaFace, YuNet) holds them.",
        )
    )


def similarity(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """[2, 3]: the similarity a·z + b that takes the points `start` closest to `end`, with z = x + iy.

    Least squares (Umeyama, 1991, without reflection): a = Σ conj(z − z̄)(w − w̄) / Σ |z − z̄|², b = w̄ − a·z̄.
    Pixel centres are whole numbers here, as in OpenCV's warps and in the coordinates of `PLACES`.
    """
    z, w = start @ (1, 1j), end @ (1, 1j)
    a = np.vdot(z - z.mean(), w - w.mean()) / np.vdot(z - z.mean(), z - z.mean()).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
