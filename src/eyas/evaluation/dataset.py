"""Labelled pictures in one form, whatever format they came in; `evaluation.labels` has one reader for each format.

Boxes are x, y, width, height in continuous pixels of the source picture, as in COCO's files and `eyas.types`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eyas.errors import DataError, problem

log = logging.getLogger("eyas")
SLACK = 1.0  # pixels: rounding puts many an honest box this far outside its picture
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One picture. id: what result files call it. width, height: pixels; both 0 where the picture cannot be read."""

    path: Path
    id: int | str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Label:
    """One object. image: its picture's place in `Dataset.images`. xywh, area: pixels, square pixels.

    iscrowd: a region of many, or an object too hard to ask for: what is found in it is neither right nor wrong.
    """

    image: int
    category_id: int
    xywh: Box
    area: float
    iscrowd: bool = False


@dataclass(frozen=True, slots=True)
class Dataset:
    """Pictures and their objects.

    source: what the user named. format: "coco", "yolo" or "voc". categories: name of each category id.
    named: False where the labels give only numbers, which are then the model's own class ids.
    remarks: what was odd about the labels, one sentence each; also logged as warnings when they were read.
    """

    source: Path
    format: str
    images: tuple[LabelledImage, ...]
    labels: tuple[Label, ...]
    categories: Mapping[int, str]
    named: bool = True
    remarks: tuple[str, ...] = ()

    def first(self, count: int | None) -> Dataset:
        """Its first `count` pictures (None: all) with their objects. Raises DataError if these have no object."""
        if count is None or count >= len(self.images):
            return self
        if count < 1:
            raise DataError(problem("--limit leaves no picture", got=count, expected="1 or more", remedy=""))
        labels = tuple(label for label in self.labels if label.image < count)
        if not labels:
            raise DataError(
                problem(
                    f"the first {count} pictures have no labelled object",
                    got=f"{len(self.labels)} objects on the other {len(self.images) - count}",
                    expected="at least one object",
                    remedy="Raise --limit.",
                )
            )
        return replace(self, images=self.images[:count], labels=labels)


def finish(
    source: Path,
    form: str,
    images: Sequence[LabelledImage],
    labels: Sequence[Label],
    categories: Mapping[int, str],
    *,
    named: bool = True,
    remarks: Sequence[str] = (),
) -> Dataset:
    """What every reader ends with: check that the pictures are there and the boxes make sense.

    A box without area, or wholly outside its picture, can never be found and is left out. One that reaches out of its
    picture stays as it is, since COCO's own evaluation does not clip either. Both are counted in `remarks`.
    """
    if not images:
        raise DataError(problem(f"{source} lists no picture", got="0", expected="at least one", remedy="Check --data."))
    missing = [i.path for i in images if not i.path.is_file()]
    if missing:
        raise DataError(
            problem(
                f"{len(missing)} of {len(images)} labelled pictures are missing",
                got=f"labels for {missing[0]}, which is not there",
                expected="every picture of the labels",
                remedy="Say where the pictures are with --images DIR, or take the others out of the labels.",
            )
        )
    good = [label for label in labels if _can_be_found(label.xywh, images[label.image])]
    outside = sum(_reaches_out(label.xywh, images[label.image]) for label in good)
    notes = list(remarks)
    if len(good) < len(labels):
        count = len(labels) - len(good)
        notes.append(f"{count} boxes without area or wholly outside their picture were left out")
    if outside:
        notes.append(f"{outside} boxes reach out of their picture; they count as they are")
    if not any(not label.iscrowd for label in good):
        raise DataError(
            problem(
                f"{source} has no labelled object",
                got=f"{len(images)} pictures, {len(labels)} boxes, {len(good)} of them usable",
                expected="at least one object to find",
                remedy="Test sets without public labels cannot be evaluated; name the validation set's labels.",
            )
        )
    for note in notes:
        log.warning("%s: %s", source, note)
    return Dataset(source, form, tuple(images), tuple(good), dict(categories), named, tuple(notes))


def _can_be_found(box: Box, image: LabelledImage) -> bool:
    x, y, width, height = box
    if not all(map(math.isfinite, box)) or width <= 0 or height <= 0:
        return False
    return not image.width or (x < image.width and y < image.height and x + width > 0 and y + height > 0)


def _reaches_out(box: Box, image: LabelledImage) -> bool:
    x, y, width, height = box
    far = x + width > image.width + SLACK or y + height > image.height + SLACK
    return bool(image.width) and (x < -SLACK or y < -SLACK or far)


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels as the picture is shown (EXIF orientation applied), from its header; (0, 0) where
    that cannot be read: the evaluation will report the picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # 0x0112: orientation; these lie on their side
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0
    return (height, width) if turned else (width, height)


def stem_id(path: Path) -> int | str:
    """What result files call a picture that has no id: its stem, as a number if it is one (as `eyas predict` does)."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else path.stem


def read_text(path: Path) -> str:
    """A label file's text. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise DataError(problem(f"{path} cannot be read", got=got, expected="a UTF-8 text file", remedy="")) from error
