"""YOLO's layout: a text file for each picture, a line "class cx cy w h" for each object, shares of width and height.

The labels of …/images/a/1.jpg are …/labels/a/1.txt; a picture without such a file has no object. A line of a class
and three points or more is a polygon, whose bounding box is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eyas.errors import DataError, problem
from eyas.evaluation.dataset import Box, Dataset, Label, LabelledImage, finish, picture_size, read_text, stem_id
from eyas.extras import need
from eyas.source import PICTURE_SUFFIXES, pictures

SPLITS = ("val", "valid", "test")
EXAMPLE = "path: .   val: images/val   names: {0: person, 1: bicycle}"


def yaml_in(folder: Path) -> Path | None:
    """The YAML file that describes a folder: data.yaml, or the only one there is."""
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    named = [p for p in found if p.stem == "data"]
    return named[0] if named else found[0] if len(found) == 1 else None


def read(path: Path, folder: Path | None = None) -> Dataset:
    """Read the validation split (`val`, else `test`) that a data.yaml names: a folder, a list of these, or a text
    file that lists pictures. folder: takes the place of that split. Raises DataError."""
    fields = _parse(path)
    names = _names(path, fields)
    places = [folder] if folder else _split(path, fields)
    files: list[Path] = []
    for place in places:
        files += _listed(place) if place.suffix == ".txt" else _pictures_in(place)
    whole = [place for place in places if place.suffix != ".txt"]
    return _read_pictures(path, files, names, whole)


def read_folder(folder: Path, images: Path | None = None) -> Dataset:
    """Read a folder with images/ and labels/; names from classes.txt if there is one. Raises DataError."""
    place = images or folder / "images"
    files = [p for p in (folder / "classes.txt", folder / "labels" / "classes.txt") if p.is_file()]
    names = dict(enumerate(read_text(files[0]).split("\n"))) if files else None
    names = {i: name.strip() for i, name in names.items() if name.strip()} if names else None
    return _read_pictures(folder, _pictures_in(place), names, [place], folder / "labels")


def _parse(path: Path) -> dict[str, Any]:
    yaml = need("yaml", "val")
    try:
        fields = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DataError(problem(f"{path} is not YAML", got=error, expected=EXAMPLE, remedy="Mend it.")) from error
    if not isinstance(fields, dict):
        got = type(fields).__name__
        raise DataError(problem(f"{path} describes no data set", got=got, expected=EXAMPLE, remedy="Mend it."))
    return fields


def _names(path: Path, fields: dict[str, Any]) -> dict[int, str]:
    names = fields.get("names")
    pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    try:
        found = {int(i): str(name) for i, name in pairs}
    except (TypeError, ValueError):
        found = {}
    if not found:
        raise DataError(
            problem(
                f"{path} names no classes",
                got=f"names: {names!r}",
                expected="a list, or a mapping from number to name",
                remedy=f"For instance {EXAMPLE}",
            )
        )
    return found


def _split(path: Path, fields: dict[str, Any]) -> list[Path]:
    """Where the split is: relative to `path:` in the file, and this to the file; or to the file itself where `path:`
    is another machine's. Roboflow's "../valid/images" means "valid/images"."""
    key = next((k for k in SPLITS if fields.get(k)), None)
    if key is None:
        got = f"the fields {', '.join(map(str, fields))}"
        raise DataError(problem(f"{path} names no split", got=got, expected="val or test", remedy=f"As in {EXAMPLE}"))
    said = fields[key] if isinstance(fields[key], list) else [fields[key]]
    roots = [path.parent / str(fields.get("path") or "."), path.parent]
    return [_place(path, str(place), roots) for place in said]


def _place(path: Path, text: str, roots: Sequence[Path]) -> Path:
    ways = [root / t for root in roots for t in (text, text.removeprefix("../"))]
    found = next((way for way in ways if way.exists()), None)
    if found is None:
        raise DataError(
            problem(
                f"{path} names a place that is not there",
                got=text,
                expected=f"a folder or list at {ways[0]}",
                remedy="Mend `path:` in it, or name the folder of pictures with --images DIR.",
            )
        )
    return found


def _listed(file: Path) -> list[Path]:
    """The pictures that a text file lists, relative to the file."""
    return [file.parent / line.strip() for line in read_text(file).splitlines() if line.strip()]


def _pictures_in(folder: Path) -> list[Path]:
    """All pictures in a folder and below, img2 before img10."""
    folders = [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]
    with_pictures = [f for f in folders if any(p.suffix.lower() in PICTURE_SUFFIXES for p in f.iterdir())]
    if not with_pictures:
        raise DataError(
            problem(
                f"{folder} holds no picture",
                got="none there or below",
                expected="files named *.jpg, *.png …",
                remedy="Name the folder of pictures with --images DIR.",
            )
        )
    return [Path(p.source_id) for f in with_pictures for p in pictures(f)]


def _labels_folder(folder: Path) -> Path:
    """…/images/val → …/labels/val, for the last part called images."""
    parts = list(folder.parts)
    for i in reversed(range(len(parts))):
        if parts[i] == "images":
            return Path(*parts[:i], "labels", *parts[i + 1 :])
    return folder


def _read_pictures(
    source: Path,
    files: Sequence[Path],
    names: dict[int, str] | None,
    whole: Iterable[Path],
    labels_at: Path | None = None,
) -> Dataset:
    """whole: folders that were taken whole, so that every label file beside them must have its picture."""
    images: list[LabelledImage] = []
    labels: list[Label] = []
    root = next(iter(whole), None)
    for file in files:
        width, height = picture_size(file)
        beside = labels_at / file.parent.relative_to(root) if labels_at and root else _labels_folder(file.parent)
        text = beside / f"{file.stem}.txt"
        rows = _rows(text) if text.is_file() and width else []
        labels += [_label(len(images), i, box, width, height) for i, box in rows]
        images.append(LabelledImage(file, stem_id(file), width, height))
    _refuse_orphans([labels_at] if labels_at else [_labels_folder(place) for place in whole], files)
    used = {label.category_id for label in labels}
    if names is not None and (strange := sorted(used - names.keys())):
        got = f"class {strange[0]}, and {len(names)} names"
        raise DataError(problem(f"{source}: labels of a nameless class", got=got, expected="names for all", remedy=""))
    categories = {i: str(i) for i in sorted(used)} if names is None else names
    return finish(source, "yolo", images, labels, categories, named=names is not None)


def _refuse_orphans(folders: Iterable[Path], files: Sequence[Path]) -> None:
    """Raise DataError for label files without a picture."""
    stems = {file.stem for file in files}
    texts = sorted(t for folder in folders if folder.is_dir() for t in folder.rglob("*.txt") if t.name != "classes.txt")
    orphans = [text for text in texts if text.stem not in stems]
    if orphans:
        raise DataError(
            problem(
                f"{len(orphans)} label files have no picture",
                got=orphans[0],
                expected="a picture of that name for each",
                remedy="Say where the pictures are with --images DIR, or take these label files away.",
            )
        )


def _rows(text: Path) -> list[tuple[int, Box]]:
    """(class id, x y w h as shares of the picture) of each line. Raises DataError."""
    rows: list[tuple[int, Box]] = []
    for number, line in enumerate(read_text(text).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(v) for v in words[1:]]
            polygon = len(values) >= 6 and len(values) % 2 == 0
            if len(values) != 4 and not polygon:
                raise ValueError
            rows.append((int(float(words[0])), _bounds(values) if polygon else _corner(values)))
        except ValueError:
            raise DataError(
                problem(
                    f"{text}, line {number}: not a label",
                    got=repr(line[:60]),
                    expected="class cx cy w h, or class x1 y1 x2 y2 x3 y3 …",
                    remedy="Leave confidences out (`eyas predict --save-txt` without --save-conf).",
                )
            ) from None
    return rows


def _corner(values: Sequence[float]) -> Box:
    cx, cy, width, height = values
    return cx - width / 2, cy - height / 2, width, height


def _bounds(values: Sequence[float]) -> Box:
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _label(image: int, category: int, box: Box, width: int, height: int) -> Label:
    x, y, w, h = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    return Label(image, category, (x, y, w, h), w * h)
