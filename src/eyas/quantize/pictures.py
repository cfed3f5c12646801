"""Calibration pictures: which they are, what is in them, and the input that each becomes, exactly as in inference."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.errors import ImageError, SourceError, problem
from eyas.graph.surgery import inputs_of, takes_channels_last
from eyas.imagefile import read_image
from eyas.letterbox import prepare
from eyas.source import pictures
from eyas.types import Image, ModelCard

LEAST = 10  # pictures: of fewer, one unlike the others decides every range, and the next unlike one is clipped
FEW = 100
log = logging.getLogger("eyas")


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Pictures to calibrate on, in order. paths: the files; digests: SHA-256 of each file's content."""

    paths: tuple[Path, ...]
    digests: tuple[str, ...]


def calibration_set(
    sources: str | PathLike[str] | Sequence[str | PathLike[str]], limit: int | None = None, least: int = LEAST
) -> CalibrationSet:
    """The usable pictures of a folder, a glob, or a list of these.

    limit: at most so many, evenly spaced over what is there (files of one scene lie side by side). Pictures that
    cannot be read, and those of one colour, which say nothing of any range, are left out with a warning.
    Raises SourceError where fewer than `least` are left.
    """
    found = list(pictures(sources))
    if limit is not None and limit < len(found):
        found = [found[i] for i in np.linspace(0, len(found) - 1, limit).round().astype(int)]
    paths, digests, bad, blank = [], [], [], []
    for item in found:
        path = Path(item.source_id)
        try:
            if not path.is_file():
                item.load()  # says what is wrong with it
            data = path.read_bytes()
            image = read_image(data, str(path))
        except ImageError as error:
            log.warning("left out: %s", error)
            bad.append(path)
            continue
        if image.min() == image.max():
            log.warning("left out: %s is of one colour", path)
            blank.append(path)
            continue
        paths.append(path)
        digests.append(hashlib.sha256(data).hexdigest())
    if len(paths) < least:
        left = [f"{len(blank)} of one colour"] * bool(blank) + [f"{len(bad)} unreadable"] * bool(bad)
        raise SourceError(
            problem(
                "too few pictures to calibrate on",
                got=f"{len(paths)} usable" + (f" ({', '.join(left)} left out)" if left else ""),
                expected=f"at least {least}; some hundreds like those that the model will see are better",
                remedy="Name a folder with more pictures with --images.",
            )
        )
    if least > 1 and len(paths) < FEW:
        log.warning("only %d pictures to calibrate on: %d or more make ranges sounder", len(paths), FEW)
    return CalibrationSet(tuple(paths), tuple(digests))


def network_input(image: Image, card: ModelCard, value: onnx.ValueInfoProto) -> NDArray[Any]:
    """The picture as the network's own input, [1, 3, H, W] (or [1, H, W, 3] where it takes that), in its own type.

    The letterbox is inference's own; the arithmetic is that of `eyas.graph.surgery.add_stem` in fp32:
    (p − mean) · scale, channels in the card's order.
    """
    slot = np.empty((*card.input_size, 3), np.uint8)
    prepare(image, card, slot)
    x = slot.astype(np.float32)
    x = x[..., ::-1] if card.normalise.colour == "rgb" else x
    x = (x - np.asarray(card.normalise.mean, np.float32)) * np.asarray(card.normalise.scale, np.float32)
    x = x if takes_channels_last(value) else x.transpose(2, 0, 1)
    element = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return np.ascontiguousarray(x[None], element)


def load_input(path: Path, card: ModelCard, model: onnx.ModelProto) -> NDArray[Any]:
    """`network_input` of a file, repeated where the network's batch is fixed above 1. Raises ImageError."""
    value = inputs_of(model.graph)[0]
    batch = value.type.tensor_type.shape.dim[0].dim_value or 1
    return np.repeat(network_input(read_image(path.read_bytes(), str(path)), card, value), batch, axis=0)
