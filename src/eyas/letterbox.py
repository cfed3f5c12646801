"""The one owner of resize geometry: where each source pixel lands in the network's input, and back.

A picture, or a window w × h that begins at x₀ in it, is scaled to w' × h' and placed at (left, top) in the input;
along each axis, in continuous pixels,

    x_in = (x − x₀) · w'/w + left          x = (x_in − left) · w/w' + x₀

w' and h' are whole pixels, so the two axes' scales differ a little; using them, not the nominal one, keeps the
inverse exact. Sample positions are those of `cv2.resize(INTER_LINEAR)`: pixel centres at +½.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from eyas.errors import OptionError, problem
from eyas.types import RESIZES, Image, ModelCard, Resize


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The map from one source size to one input size.

    source, target: (height, width) of the picture and of the network's input. resized: (height, width) of the
    scaled picture within the input; offset: (top, left) where it lies, in whole pixels. window: (top, left, height,
    width) of the part of the picture that is taken. smooth: average where it shrinks, instead of sampling.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    window: tuple[int, int, int, int]
    smooth: bool = False

    @classmethod
    @lru_cache(maxsize=1024)
    def fit(
        cls, source: tuple[int, int], target: tuple[int, int], rule: Resize = "letterbox", crop: float = 1.0
    ) -> Letterbox:
        """Place a picture of size `source` in an input of size `target`, both (height, width).

        rule: "letterbox" keeps the aspect ratio and centres (an odd pixel of padding goes below or right, as
        Ultralytics does), "letterbox-topleft" keeps it at the upper left (YOLOX), "stretch" fills the input, "crop"
        fills it with the middle, of which `crop` (over 0, up to 1) of the shorter side stays (ImageNet: 224 of 256).
        """
        if min(*source, *target) < 1 or rule not in RESIZES or not 0 < crop <= 1:
            raise OptionError(
                problem(
                    "no letterbox fits",
                    got=f"picture {source}, input {target}, rule {rule!r}, crop {crop}",
                    expected=f"sizes (height, width) of at least 1, a rule of {' | '.join(RESIZES)}, a crop of 0 to 1",
                    remedy="",
                )
            )
        whole = (0, 0, *source)
        if rule == "stretch":
            return cls(source, target, target, (0, 0), whole)
        ratios = target[0] / source[0], target[1] / source[1]
        if rule == "crop":
            height, width = (max(1, round(side * crop / max(ratios))) for side in target)
            middle = ((source[0] - height) // 2, (source[1] - width) // 2, height, width)
            return cls(source, target, target, (0, 0), middle, smooth=True)
        ratio = min(ratios)
        resized = (max(1, round(source[0] * ratio)), max(1, round(source[1] * ratio)))
        spare = (target[0] - resized[0], target[1] - resized[1])
        offset = (0, 0) if rule == "letterbox-topleft" else (spare[0] // 2, spare[1] // 2)
        return cls(source, target, resized, offset, whole)

    @property
    def scale(self) -> tuple[float, float]:
        """(y, x) factors from source to input."""
        return self.resized[0] / self.window[2], self.resized[1] / self.window[3]

    def apply(self, image: Image, out: Image, pad_value: int = 114) -> Image:
        """Write the scaled and padded picture into `out`, uint8 [target height, target width, 3], and return it.

        Every pixel of `out` is written; `image` is only read. Bilinear, as detectors were trained; classifiers
        (`smooth`) were trained on pictures of which every pixel counts.
        """
        y, x, *size = self.window
        image = image[y : y + size[0], x : x + size[1]]
        (top, left), (height, width) = self.offset, self.resized
        inner = out[top : top + height, left : left + width]
        if tuple(size) == self.resized:
            inner[...] = image
        else:
            # OpenCV writes straight into the slice: `dst` of the right size and type is not reallocated.
            how = cv2.INTER_AREA if self.smooth and height < size[0] else cv2.INTER_LINEAR
            cv2.resize(image, (width, height), dst=inner, interpolation=how)
        out[:top] = out[top + height :] = pad_value
        out[top : top + height, :left] = out[top : top + height, left + width :] = pad_value
        return out

    def forward(self, xy: NDArray[np.floating]) -> NDArray[np.float64]:
        """Source → input pixels. xy: [..., 2k] as x, y, x, y …; returns float64 of that shape."""
        (sy, sx), (top, left), (y, x, *_) = self.scale, self.offset, self.window
        pairs = np.asarray(xy, np.float64).reshape(*xy.shape[:-1], xy.shape[-1] // 2, 2)
        return ((pairs - (x, y)) * (sx, sy) + (left, top)).reshape(xy.shape)

    def inverse(self, xy: NDArray[np.floating]) -> NDArray[np.float64]:
        """Input → source pixels; the exact inverse of `forward`, not clipped to the picture."""
        (sy, sx), (top, left), (y, x, *_) = self.scale, self.offset, self.window
        pairs = np.asarray(xy, np.float64).reshape(*xy.shape[:-1], xy.shape[-1] // 2, 2)
        return ((pairs - (left, top)) / (sx, sy) + (x, y)).reshape(xy.shape)

    def boxes_to_source(self, xyxy: NDArray[np.floating]) -> NDArray[np.float32]:
        """Boxes [N, 4] from input to source pixels, clipped to the picture."""
        height, width = self.source
        return np.clip(self.inverse(xyxy), 0, (width, height, width, height)).astype(np.float32)


def prepare(image: Image, card: ModelCard, out: Image) -> Letterbox:
    """Write a picture into `out`, uint8 [H, W, 3] of the card's input size, as the network wants it, and say how.

    The one way in: prediction, calibration and comparison all see the same pixels.
    """
    box = Letterbox.fit((image.shape[0], image.shape[1]), card.input_size, card.resize, card.crop)
    box.apply(image, out, card.pad_value)
    return box
