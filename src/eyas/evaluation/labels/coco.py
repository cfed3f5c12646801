"""COCO's JSON: lists of images, annotations and categories (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eyas.errors import DataError, problem
from eyas.evaluation.dataset import Box, Dataset, Label, LabelledImage, finish, picture_size, read_text

LISTS = ("images", "annotations", "categories")
LAYOUT = '{"images": […], "annotations": […], "categories": […]}'


def read(path: Path, folder: Path | None = None) -> Dataset:
    """Read an instances file; pictures in order of their ids, as COCO's own evaluation takes them.

    folder: where the pictures are; else images/ beside the file, the file's own folder, or COCO's layout
    (annotations/instances_val2017.json goes with val2017/). Raises DataError.
    """
    content = _parse(path)
    try:
        categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        listed = sorted(content["images"], key=lambda image: _sort_key(image["id"]))
        places = {image["id"]: i for i, image in enumerate(listed)}
        if len(places) < len(listed):
            raise _wrong(path, "two images with the same id")
        names = [str(image["file_name"]) for image in listed]
        folder = folder or _find_folder(path, names)
        images = [_image(entry, folder / name) for entry, name in zip(listed, names, strict=True)]
        labels = [_label(path, a, places, categories) for a in content["annotations"]]
    except (KeyError, TypeError, ValueError) as error:
        got = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise _wrong(path, got) from error
    return finish(path, "coco", images, labels, categories)


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(problem(f"{path} is not JSON", got=error, expected=LAYOUT, remedy="Copy it again.")) from error
    if isinstance(content, list):
        raise _wrong(path, "a list, as files of results are")
    missing = [k for k in LISTS if not isinstance(content, dict) or not isinstance(content.get(k), list)]
    if missing:
        raise _wrong(path, f"no list of {' nor of '.join(missing)}")
    result: dict[str, Any] = content
    return result


def _wrong(path: Path, got: str) -> DataError:
    remedy = "Name COCO's instances file (labels), not captions, results or a model's card."
    return DataError(problem(f"{path} is no COCO label file", got=got, expected=LAYOUT, remedy=remedy))


def _sort_key(image_id: Any) -> tuple[bool, int, str]:
    whole = isinstance(image_id, int)
    return not whole, image_id if whole else 0, str(image_id)


def _find_folder(path: Path, names: Sequence[str]) -> Path:
    """The first usual place that holds the first picture; images/ beside the file if none does."""
    split = path.stem.rpartition("_")[2]  # instances_val2017 → val2017
    up = path.parent.parent
    usual = (path.parent / "images", path.parent, up / split, up / "images" / split, up / "images")
    return next((place for place in usual if names and (place / names[0]).is_file()), usual[0])


def _image(entry: dict[str, Any], path: Path) -> LabelledImage:
    size = (int(entry.get("width") or 0), int(entry.get("height") or 0))
    return LabelledImage(path, entry["id"], *(size if all(size) else picture_size(path)))


def _label(path: Path, entry: dict[str, Any], places: dict[Any, int], categories: dict[int, str]) -> Label:
    if entry["image_id"] not in places:
        raise _wrong(path, f"an annotation of image {entry['image_id']!r}, which is not listed")
    if entry["category_id"] not in categories:
        raise _wrong(path, f"an annotation of category {entry['category_id']!r}, which is not listed")
    x, y, width, height = (float(v) for v in entry["bbox"])
    box: Box = (x, y, width, height)
    area = entry.get("area")
    return Label(
        places[entry["image_id"]],
        entry["category_id"],
        box,
        width * height if area is None else float(area),
        bool(entry.get("iscrowd", 0)),
    )
