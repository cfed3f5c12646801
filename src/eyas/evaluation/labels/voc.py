"""Pascal VOC's XML: one file for each picture, in Annotations/ beside JPEGImages/ or images/.

VOC numbers pixels from 1 and its corners are pixels *of* the object, the last one included. So the pixel column xmin
covers x from xmin − 1 to xmin, and the box as eyas has it is (xmin − 1, ymin − 1, xmax, ymax). Tools that number from
0 write such files too; a corner of 0 anywhere in the folder gives them away, and all its boxes are then taken as they
are. `difficult` objects, which VOC's own evaluation leaves out, are treated as COCO treats crowds.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree  # external entities are never loaded by it

from eyas.errors import DataError, problem
from eyas.evaluation.dataset import Dataset, Label, LabelledImage, finish, picture_size, stem_id
from eyas.source import PICTURE_SUFFIXES

CORNERS = ("xmin", "ymin", "xmax", "ymax")
PICTURE_FOLDERS = ("JPEGImages", "images", "Images", "../JPEGImages", "../images", ".")


def annotations_folder(path: Path) -> Path | None:
    """The folder with the XML files of a VOC folder, or None if this is none."""
    for folder in (path / "Annotations", path / "annotations", path):
        if folder.is_dir() and next(folder.glob("*.xml"), None):
            return folder
    return None


def read(path: Path, annotations: Path, folder: Path | None = None) -> Dataset:
    """Read every XML file in `annotations`. folder: where the pictures are. Raises DataError."""
    files = sorted(annotations.glob("*.xml"))
    trees = [_parse(file) for file in files]
    folders = [folder] if folder else [path / name for name in PICTURE_FOLDERS]
    pictures = {p.stem: p for f in reversed(folders) if f.is_dir() for p in f.iterdir() if _is_picture(p)}
    images: list[LabelledImage] = []
    found: list[tuple[int, str, tuple[float, ...], bool]] = []
    for file, tree in zip(files, trees, strict=True):
        stem = Path(tree.findtext("filename") or file.stem).stem
        picture = pictures.get(stem) or pictures.get(file.stem) or folders[0] / f"{stem}.jpg"
        found += [(len(images), *_object(file, item)) for item in tree.iterfind("object")]
        images.append(LabelledImage(picture, stem_id(picture), *_size(tree, picture)))
    names = sorted({name for _, name, _, _ in found})
    ids = {name: i for i, name in enumerate(names, 1)}
    first = 0 if any(min(corners[:2]) < 1 for _, _, corners, _ in found) else 1
    remarks = () if first else ("corners of 0 were found, so all are taken as numbered from 0",)
    labels = [_label(i, ids[name], corners, first, hard) for i, name, corners, hard in found]
    return finish(path, "voc", images, labels, {i: name for name, i in ids.items()}, remarks=remarks)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def _parse(file: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(file).getroot()  # noqa: S314 - the user's own labels; expat limits entity expansion
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(
            problem(f"{file} cannot be read", got=error, expected="an XML file", remedy="Copy it again.")
        ) from error
    if root.tag != "annotation":
        got = f"<{root.tag}>"
        raise DataError(problem(f"{file} is no VOC label file", got=got, expected="<annotation>", remedy=""))
    return root


def _object(file: Path, item: ElementTree.Element) -> tuple[str, tuple[float, ...], bool]:
    """(name, (xmin, ymin, xmax, ymax) as written, difficult). Raises DataError."""
    name = (item.findtext("name") or "").strip()
    try:
        corners = tuple(float(item.findtext(f"bndbox/{c}") or "") for c in CORNERS)
    except ValueError:
        corners = ()
    if not name or not corners:
        raise DataError(
            problem(
                f"{file} holds an object that cannot be read",
                got=ElementTree.tostring(item, "unicode")[:120],
                expected="<name> and <bndbox> with xmin, ymin, xmax, ymax",
                remedy="Mend or remove it.",
            )
        )
    return name, corners, (item.findtext("difficult") or "0").strip() == "1"


def _size(tree: ElementTree.Element, picture: Path) -> tuple[int, int]:
    """(width, height), from the file or else from the picture."""
    try:
        size = int(tree.findtext("size/width") or 0), int(tree.findtext("size/height") or 0)
    except ValueError:
        size = (0, 0)
    return size if all(size) else picture_size(picture)


def _label(image: int, category: int, corners: tuple[float, ...], first: int, hard: bool) -> Label:
    x, y = corners[0] - first, corners[1] - first
    width, height = corners[2] - x, corners[3] - y
    return Label(image, category, (x, y, width, height), width * height, hard)
