"""What goes in: pictures, what a network is, how it is to be built. Each type checks itself when it is made.

Results are in `eyas.results`. Coordinates are continuous pixels of the *source* picture: x to the right, y down,
(0, 0) the upper left corner of the upper left pixel, so a box that covers a W × H picture is (0, 0, W, H).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from eyas.errors import CardError, OptionError, SourceError, problem

Image = NDArray[np.uint8]
Colour = Literal["rgb", "bgr"]
Resize = Literal["letterbox", "letterbox-topleft", "stretch", "crop"]
RESIZES: tuple[Resize, ...] = ("letterbox", "letterbox-topleft", "stretch", "crop")
Task = Literal["detect", "pose", "segment", "obb", "classify", "embed"]
TASKS: tuple[Task, ...] = ("detect", "pose", "segment", "obb", "classify", "embed")


@dataclass(frozen=True, slots=True)
class DeviceImage:
    """A picture that lies on a GPU, borrowed: uint8 [H, W, 3] BGR; rows may be padded, pixels may not.

    Stands where a frame's `image` would; only engines on a GPU take it. address: of the first pixel, on GPU `index`.
    ready: cuda.core.Event after which it may be read. owner: keeps the memory alive. fetch: makes a copy on the host.
    """

    address: int
    shape: tuple[int, int, int]
    row_bytes: int
    index: int
    ready: Any
    owner: Any
    fetch: Callable[[DeviceImage], Image] | None = None


DECODES = ("host", "gpu")


def decodes_on_gpu(asked: object) -> bool:
    """Whether an option `decode` asks for the GPU. Raises OptionError where it is neither "host" nor "gpu"."""
    if asked not in DECODES:
        raise OptionError(problem("unknown decode", got=repr(asked), expected=" | ".join(DECODES), remedy=""))
    return asked == "gpu"


def is_image(image: object) -> TypeGuard[Image]:
    """Whether it is a uint8 BGR array [H, W, 3] with at least one pixel, on the host."""
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and bool(image.size)


def kind_of(image: object) -> str:
    """What stands where an image should, for a message."""
    return f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__


def check_image(image: object, what: str = "the picture") -> Image:
    """Return `image` if it is a uint8 BGR array [H, W, 3] with at least one pixel; raise SourceError otherwise."""
    if is_image(image):
        return image
    if isinstance(image, DeviceImage):
        return cast(Image, image)  # whoever reads pixels on the host asks first (`host_image`)
    raise SourceError(
        problem(
            f"{what} is not an image array",
            got=kind_of(image),
            expected="numpy uint8 [height, width, 3] in BGR order, at least 1 × 1",
            remedy="cv2.imread gives this; for RGB use image[..., ::-1], for grey cv2.cvtColor.",
        )
    )


def host_image(frame: Frame) -> Image:
    """The frame's pixels, which must lie on the host. Raises SourceError."""
    if isinstance(frame.image, DeviceImage):
        what, got = f"{frame.source_id} lies on a GPU", f"memory of GPU {frame.image.index}"
        remedy = "Take an engine on that GPU (--device cuda), or copy the picture to the host first."
        raise SourceError(problem(what, got=got, expected="a picture on the host", remedy=remedy))
    return frame.image


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture on its way through the pipeline.

    image: uint8 [H, W, 3] BGR; borrowed, never written to. On a GPU it is a `DeviceImage` of that shape.
    index: its number within the run, from 0.
    source_id: where it came from: a path, or a name such as "array 3".
    pts_s: when it is shown, in seconds from the start of its source; None for still pictures.
    """

    image: Image
    index: int = 0
    source_id: str = "array"
    pts_s: float | None = None

    def __post_init__(self) -> None:
        check_image(self.image, self.source_id)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def pixels(self) -> Image:
        """The image on the host: of one that lies on a GPU a fresh copy. Raises BackendError where that fails."""
        image: Any = self.image
        return image.fetch(image) if isinstance(image, DeviceImage) and image.fetch else host_image(self)


@dataclass(frozen=True, slots=True)
class Normalise:
    """What the network wants of a pixel value p in 0…255: (p − mean) · scale, channels in the order `colour`."""

    colour: Colour = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        ok = self.colour in ("rgb", "bgr") and len(self.mean) == len(self.scale) == 3
        if not ok or not np.isfinite([*self.mean, *self.scale]).all() or 0 in self.scale:
            raise CardError(
                problem(
                    "the normalisation makes no sense",
                    got=f"colour {self.colour!r}, mean {self.mean}, scale {self.scale}",
                    expected="colour rgb or bgr, three finite means, three finite scales other than 0",
                    remedy="The values are those of (pixel − mean) · scale with pixels from 0 to 255.",
                )
            )


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a network is: everything that its graph alone does not say.

    family: name of the decode. task: what comes out: boxes ("detect"), boxes with key points ("pose"), with masks
    ("segment"), oriented ("obb"); class probabilities ("classify"); a unit vector ("embed").
    input_size: (height, width) in pixels. normalise, resize, pad_value: how a picture becomes the input.
    crop: with resize "crop", the share of the picture's shorter side that stays. names: one name per class id.
    iou: the NMS threshold that its authors use. params: what else the family needs (strides, bins …), JSON values.
    """

    family: str
    input_size: tuple[int, int]
    normalise: Normalise
    names: tuple[str, ...]
    resize: Resize = "letterbox"
    pad_value: int = 114
    task: Task = "detect"
    iou: float = 0.7
    crop: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = None
        if self.resize not in RESIZES:
            wrong = ("resize rule", repr(self.resize), " | ".join(RESIZES))
        elif len(self.input_size) != 2 or not all(isinstance(s, int) and 1 <= s <= 16384 for s in self.input_size):
            wrong = ("input size", str(self.input_size), "(height, width), each a whole number from 1 to 16384")
        elif not 0 < self.iou <= 1:
            wrong = ("IoU threshold", str(self.iou), "over 0, up to 1")
        elif not 0 <= self.pad_value <= 255:
            wrong = ("pad value", str(self.pad_value), "0 to 255")
        elif self.task not in TASKS:
            wrong = ("task", repr(self.task), " | ".join(TASKS))
        elif not 0 < self.crop <= 1:
            wrong = ("crop", str(self.crop), "over 0, up to 1")
        elif self.task != "embed" and not self.names:
            wrong = ("class names", "none", "at least one")
        elif type(self.names) is not tuple or not all(isinstance(n, str) and n for n in self.names):
            wrong = ("class names", str(self.names)[:80], "a tuple of names, none empty")
        if wrong:
            what, got, expected = wrong
            raise CardError(problem(f"the card's {what} is wrong", got=got, expected=expected, remedy="Mend the card."))


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """How an engine is to be built; with the model's hash and the backend's version it names a cached engine.

    precision: "auto" is what the device does best, else "fp32", "fp16", "bf16".
    batch: (smallest, usual, largest) number of images a call. hint: "latency" (one call at a time, all cores on
    it) or "throughput" (several calls side by side). device: the runtime's own word, such as "CPU" or "cuda:0".
    options: passed to the backend as they are (ONNX Runtime: providers; TensorRT: see `eyas.trt.options`).
    targets: the GPUs to build for where the backend can build for others than its own: "sm89", "all", "current".
    """

    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    batch: tuple[int, int, int] = (1, 1, 1)
    hint: Literal["latency", "throughput"] = "latency"
    device: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole = isinstance(self.batch, tuple) and all(isinstance(b, int) for b in self.batch)
        if not whole or len(self.batch) != 3 or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2] <= 4096:
            raise OptionError(
                problem(
                    "the batch range is wrong",
                    got=self.batch,
                    expected="three whole numbers, 1 ≤ smallest ≤ usual ≤ largest ≤ 4096",
                    remedy="For instance (1, 8, 32); --batch and load(batch=…) take the largest alone.",
                )
            )
        choices = {"precision": ("auto", "fp32", "fp16", "bf16"), "hint": ("latency", "throughput")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise OptionError(
                    problem(f"unknown {name}", got=repr(getattr(self, name)), expected=" | ".join(allowed), remedy="")
                )
        for target in self.targets:
            if not re.fullmatch(r"sm\d{2,3}|all|current", target):
                raise OptionError(
                    problem("not a target", got=repr(target), expected="sm89 and the like | all | current", remedy="")
                )
