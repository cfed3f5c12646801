"""The few types that carry everything. Each checks itself when it is made; arrays are never copied unasked.

Coordinates are continuous pixels of the *source* picture: x to the right, y down, (0, 0) the upper left corner of
the upper left pixel, so a box that covers a W × H picture is (0, 0, W, H).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eyas.errors import CardError, EyasError, OptionError, SourceError, problem

Image = NDArray[np.uint8]
Colour = Literal["rgb", "bgr"]
Resize = Literal["letterbox", "letterbox-topleft", "stretch"]
RESIZES: tuple[Resize, ...] = ("letterbox", "letterbox-topleft", "stretch")


def check_image(image: object, what: str = "the picture") -> Image:
    """Return `image` if it is a uint8 BGR array [H, W, 3] with at least one pixel; raise SourceError otherwise."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        return image
    got = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    raise SourceError(
        problem(
            f"{what} is not an image array",
            got=got,
            expected="numpy uint8 [height, width, 3] in BGR order, at least 1 × 1",
            remedy="cv2.imread gives this; for RGB use image[..., ::-1], for grey cv2.cvtColor.",
        )
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture on its way through the pipeline.

    image: uint8 [H, W, 3] BGR; borrowed, never written to.
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

    family: name of the decode. task: what comes out, "detect" so far. input_size: (height, width) in pixels.
    normalise, resize, pad_value: how a picture becomes the input. names: one name per class id.
    iou: the NMS threshold that its authors use. params: what else the family needs (strides, bins …), JSON values.
    """

    family: str
    input_size: tuple[int, int]
    normalise: Normalise
    names: tuple[str, ...]
    resize: Resize = "letterbox"
    pad_value: int = 114
    task: str = "detect"
    iou: float = 0.7
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
        elif not self.names or not all(isinstance(n, str) and n for n in self.names):
            wrong = ("class names", str(self.names)[:80], "at least one name, none empty")
        if wrong:
            what, got, expected = wrong
            raise CardError(problem(f"the card's {what} is wrong", got=got, expected=expected, remedy="Mend the card."))


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """How an engine is to be built; with the model's hash and the backend's version it names a cached engine.

    precision: "auto" is what the device does best, else "fp32", "fp16", "bf16".
    batch: (smallest, usual, largest) number of images a call. hint: "latency" (one call at a time, all cores on
    it) or "throughput" (several calls side by side). device: the runtime's own word, such as "CPU" or "cuda:0".
    options: passed to the backend as they are (ONNX Runtime: providers).
    """

    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    batch: tuple[int, int, int] = (1, 1, 1)
    hint: Literal["latency", "throughput"] = "latency"
    device: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

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


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects of one picture, as aligned arrays; rows by falling confidence.

    xyxy: float32 [N, 4] x1, y1, x2, y2 in source pixels. confidence: float32 [N], 0…1. class_id: int64 [N].
    names: the class names that class_id indexes. tracker_id: int64 [N], where a tracker has numbered them.
    Field names are those of supervision's `Detections`.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    names: tuple[str, ...] = ()
    tracker_id: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.xyxy) if isinstance(self.xyxy, np.ndarray) and self.xyxy.ndim else 0
        shapes: dict[str, tuple[object, tuple[int, ...]]] = {
            "xyxy": (self.xyxy, (n, 4)),
            "confidence": (self.confidence, (n,)),
            "class_id": (self.class_id, (n,)),
        }
        if self.tracker_id is not None:
            shapes["tracker_id"] = (self.tracker_id, (n,))
        for name, (array, shape) in shapes.items():
            if not isinstance(array, np.ndarray) or array.shape != shape:
                raise EyasError(
                    problem(
                        f"Detections.{name} does not fit the other arrays",
                        got=f"shape {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__,
                        expected=f"a numpy array of shape {list(shape)}",
                        remedy="All arrays have one row per object.",
                    )
                )

    @classmethod
    def empty(cls, names: tuple[str, ...] = ()) -> Detections:
        """No object at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), names)

    def __len__(self) -> int:
        return len(self.xyxy)

    def __iter__(self) -> Iterator[Detections]:
        """One `Detections` of length 1 per object."""
        return (self[i : i + 1] for i in range(len(self)))

    def __getitem__(self, rows: slice | int | NDArray[np.bool_] | NDArray[np.integer[Any]] | list[int]) -> Detections:
        """The chosen objects: a slice, an index, a mask or a list of indices."""
        if isinstance(rows, (int, np.integer)):
            rows = [int(rows)]
        ids = None if self.tracker_id is None else self.tracker_id[rows]
        return Detections(self.xyxy[rows], self.confidence[rows], self.class_id[rows], self.names, ids)

    @property
    def class_name(self) -> list[str]:
        """The name of each object's class, or its number where there is no name."""
        return [self.names[i] if 0 <= i < len(self.names) else str(i) for i in self.class_id.tolist()]

    def to_dict(self) -> list[dict[str, Any]]:
        """One plain dictionary per object, ready for JSON; coordinates to 0.01 px, confidence to 1e-4."""
        rows = zip(self.class_name, self.class_id.tolist(), self.confidence.tolist(), self.xyxy.tolist(), strict=True)
        out: list[dict[str, Any]] = [
            {"class_name": name, "class_id": i, "confidence": round(c, 4), "xyxy": [round(v, 2) for v in box]}
            for name, i, c, box in rows
        ]
        if self.tracker_id is not None:
            for item, track in zip(out, self.tracker_id.tolist(), strict=True):
                item["tracker_id"] = track
        return out

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for name in self.class_name:
            counts[name] = counts.get(name, 0) + 1
        what = ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing"
        rows = [
            f"  {name:<14} {c:.2f}  [{x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}]"
            for name, c, (x1, y1, x2, y2) in zip(self.class_name, self.confidence, self.xyxy, strict=True)
        ]
        more = [f"  … {len(rows) - 10} more"] if len(rows) > 10 else []
        return "\n".join([f"Detections({what})", *rows[:10], *more])


@dataclass(frozen=True, slots=True)
class Prediction:
    """What became of one source picture: a frame and what was found in it, or the error that stopped it."""

    source_id: str
    frame: Frame | None = None
    detections: Detections | None = None
    error: EyasError | None = None
