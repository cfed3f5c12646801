"""Labels of any known format: one module reads each; `open_dataset` tells which from what is there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eyas.errors import DataError, problem
from eyas.evaluation.dataset import Dataset
from eyas.evaluation.labels import coco, voc, yolo

FORMATS = "COCO .json, YOLO .yaml or a folder with images/ and labels/, Pascal VOC folder with Annotations/*.xml"


def open_dataset(path: Path, images: Path | None = None) -> Dataset:
    """Read labels of any known format (see `FORMATS`), telling which from what is there.

    images: the folder that holds the pictures, where they are not in a usual place beside the labels.
    Raises DataError for what is missing, cannot be read, contradicts itself, or holds no object.
    """
    if images is not None and not images.is_dir():
        raise DataError(
            problem(
                "--images is no folder", got=images, expected="a folder with the pictures", remedy="Check the path."
            )
        )
    if path.suffix.lower() == ".json" and path.is_file():
        return coco.read(path, images)
    if path.suffix.lower() in (".yaml", ".yml") and path.is_file():
        return yolo.read(path, images)
    if path.is_dir():
        if folder := voc.annotations_folder(path):
            return voc.read(path, folder, images)
        if yaml := yolo.yaml_in(path):
            return yolo.read(yaml, images)
        if (path / "labels").is_dir():
            return yolo.read_folder(path, images)
        if len(found := sorted(path.glob("*.json"))) == 1:
            return coco.read(found[0], images)
    raise DataError(problem(f"{path} is no labelled data set", got=_seen(path), expected=FORMATS, remedy=_REMEDY))


_REMEDY = "Name the label file itself, or the folder above images/ and labels/."


def _seen(path: Path) -> str:
    if not path.exists():
        return "nothing at that path"
    if not path.is_dir():
        return f"a {path.suffix or 'nameless'} file"
    kinds = Counter("folder " + p.name if p.is_dir() else "*" + p.suffix for p in path.iterdir())
    return "a folder with " + (", ".join(f"{n} × {kind}" for kind, n in kinds.most_common(6)) or "nothing in it")
