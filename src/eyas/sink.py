"""Where results go: drawn pictures, YOLO text files, COCO JSON, CSV, crops; `open_sinks` opens those asked for.

Every sink numbers pictures of the same name in the same way (cat, cat-2 …), so that the files of one picture go
together. A prediction with an error has nothing to save: only the CSV file has a row for it.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from eyas.annotate import draw
from eyas.coco import COCO80, COCO91_IDS
from eyas.errors import SinkError, problem
from eyas.types import Detections, Frame, Image, Prediction

JPEG_QUALITY = 92
JPEG_SIDE = 65500  # the longest side, in pixels, that libjpeg writes
CSV_COLUMNS = ("path", "width", "height", "class_id", "class_name", "confidence", "x1", "y1", "x2", "y2", "error")


class Sink(Protocol):
    """Takes predictions one by one; `contextlib.closing(sink)` makes a context manager of it."""

    def write(self, prediction: Prediction) -> None:
        """Save one prediction. Raises SinkError."""

    def close(self) -> None:
        """Finish, also after an interrupted run; a second call does nothing. Raises SinkError."""


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """What to save and where; None leaves it out.

    pictures, text, crops: folders. json, csv: files. text_confidence: a sixth column in the text files.
    labels, line_width: as for `eyas.annotate.draw`.
    """

    pictures: Path | None = None
    text: Path | None = None
    json: Path | None = None
    csv: Path | None = None
    crops: Path | None = None
    text_confidence: bool = False
    labels: bool = True
    line_width: int | None = None


@contextmanager
def open_sinks(options: SinkOptions) -> Iterator[list[Sink]]:
    """Open the sinks that `options` names; all are closed at the end, however it comes. Raises SinkError."""
    o = options
    makers = (
        (o.pictures, lambda folder: SavePictures(folder, labels=o.labels, line_width=o.line_width)),
        (o.text, lambda folder: SaveText(folder, confidence=o.text_confidence)),
        (o.crops, SaveCrops),
        (o.json, SaveJson),
        (o.csv, SaveCsv),  # last, since it alone empties an earlier run's file as it opens
    )
    with ExitStack() as stack:
        yield [stack.enter_context(closing(make(place))) for place, make in makers if place is not None]


class _EachPicture:
    """What the sinks that save files for each picture share: the folder, the names, what is left out."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """folder: made with its parents if need be. Raises SinkError."""
        self.folder = _folder(Path(folder))
        self._stems = _Stems()

    def write(self, prediction: Prediction) -> None:
        """Save one prediction, unless it is an error. Raises SinkError."""
        if prediction.frame is not None and prediction.detections is not None:
            stem = self._stems.unique(prediction.source_id)
            self._save(stem, prediction.source_id, prediction.frame, prediction.detections)

    def close(self) -> None:
        """Nothing is held open."""

    def _save(self, stem: str, source_id: str, frame: Frame, detections: Detections) -> None:
        raise NotImplementedError


class SavePictures(_EachPicture):
    """The pictures with their objects drawn: folder/<stem>.png for a .png source, else .jpg of quality 92.

    In the source's own folder it is <stem>-eyas, so that the source stays; an earlier run's results are overwritten.
    A picture with a side over 65500 pixels, which no JPEG file can have, becomes .png too.
    """

    def __init__(self, folder: str | os.PathLike[str], *, labels: bool = True, line_width: int | None = None) -> None:
        """labels, line_width: as for `eyas.annotate.draw`. Raises SinkError."""
        super().__init__(folder)
        self.labels, self.line_width = labels, line_width

    def _save(self, stem: str, source_id: str, frame: Frame, detections: Detections) -> None:
        source = Path(source_id)
        suffix = ".png" if source.suffix.lower() == ".png" or max(frame.size) > JPEG_SIDE else ".jpg"
        own = any(_same(self.folder / name, source) for name in (source.name, stem + suffix))
        target = self.folder / (stem + "-eyas" * own + suffix)
        picture = draw(frame.image, detections, labels=self.labels, line_width=self.line_width)
        _replace(target, _encoded(picture, target))


class SaveText(_EachPicture):
    """YOLO's label files: folder/<stem>.txt with a line "class cx cy w h" per object, empty if there is none.

    Centre and size are shares of the picture's width and height, 0…1, to six decimals.
    """

    def __init__(self, folder: str | os.PathLike[str], *, confidence: bool = False) -> None:
        """confidence: add it as a sixth column. Raises SinkError."""
        super().__init__(folder)
        self.confidence = confidence

    def _save(self, stem: str, source_id: str, frame: Frame, detections: Detections) -> None:
        height, width = frame.size
        x1, y1, x2, y2 = (detections.xyxy.astype(np.float64) / (width, height, width, height)).clip(0, 1).T
        columns = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, *[detections.confidence] * self.confidence]
        rows = zip(detections.class_id.tolist(), np.transpose(columns).tolist(), strict=True)
        lines = [f"{class_id} {' '.join(f'{v:.6f}' for v in values)}\n" for class_id, values in rows]
        _replace(self.folder / f"{stem}.txt", "".join(lines).encode())


class SaveCrops(_EachPicture):
    """Each object cut out: folder/<class name>/<stem>-<n>.jpg, n its number within the picture, from 1.

    Boxes are rounded outwards and clipped to the picture; nothing is saved of a box without area. In class names
    what a file system may refuse becomes "_", so that names that differ only there share a folder.
    """

    def _save(self, stem: str, source_id: str, frame: Frame, detections: Detections) -> None:
        height, width = frame.size
        inside = detections.xyxy.clip(0, (width, height, width, height))
        whole = np.hstack([np.floor(inside[:, :2]), np.ceil(inside[:, 2:])]).astype(np.int64)
        some = (inside[:, 2:] > inside[:, :2]).all(axis=1)
        for i in np.flatnonzero(some).tolist():
            x1, y1, x2, y2 = whole[i].tolist()
            target = _folder(self.folder / _safe(detections.class_name[i])) / f"{stem}-{i + 1}.jpg"
            _replace(target, _encoded(frame.image[y1:y2, x1:x2], target))


class SaveJson:
    """COCO's results format: one array of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}.

    image_id: the picture's stem, as a number if it is all digits (COCO's own files are). category_id: COCO's official
    id (1…90) if the model's names are exactly COCO's 80, else the class id. bbox in pixels to 0.001, score to 1e-5.
    Written whole by `close`, also after an interrupted run; if no prediction came, an earlier file is left alone.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        """file: a .json path; its folder is made if need be. Raises SinkError."""
        self.file = _file(Path(file), ".json")
        self._stems = _Stems()
        self._results: list[str] | None = None

    def write(self, prediction: Prediction) -> None:
        """Keep one prediction, unless it is an error, for `close` to save."""
        self._results = self._results or []
        if (found := prediction.detections) is None:
            return
        stem = self._stems.unique(prediction.source_id)
        image_id = int(stem) if stem.isascii() and stem.isdigit() else stem
        ids = COCO91_IDS if found.names == COCO80 else range(len(found.names))
        low, high = np.split(found.xyxy.astype(np.float64), 2, axis=1)
        boxes = np.hstack([low, high - low]).round(3).tolist()
        for class_id, box, score in zip(found.class_id.tolist(), boxes, found.confidence.tolist(), strict=True):
            category = ids[class_id] if class_id < len(ids) else class_id
            row = {"image_id": image_id, "category_id": category, "bbox": box, "score": round(score, 5)}
            self._results.append(json.dumps(row))  # as text: a fifth of the memory

    def close(self) -> None:
        """Write the file. Raises SinkError."""
        results, self._results = self._results, None
        if results is not None:
            _replace(self.file, b"[" + ",\n".join(results).encode() + b"]\n")


class SaveCsv:
    """One table of all objects, with a header; a row reaches the disk as soon as its picture is done.

    A picture without objects has one row with only its path and size, one that failed has its path and error.
    Confidence to 1e-5, corners in pixels to 0.001. UTF-8; bytes of a path that are not are kept as they are.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        """file: a .csv path, overwritten; its folder is made if need be. Raises SinkError."""
        self.file = _file(Path(file), ".csv")
        with _writing(self.file):
            self._out = self.file.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._table = csv.writer(self._out, lineterminator="\n")
        self._table.writerow(CSV_COLUMNS)

    def write(self, prediction: Prediction) -> None:
        """Add one prediction's rows. Raises SinkError."""
        frame, found, error = prediction.frame, prediction.detections, prediction.error
        picture = [prediction.source_id, *(frame.size[::-1] if frame is not None else ("", ""))]
        found = Detections.empty() if found is None else found
        parts = (found.class_id.tolist(), found.class_name, found.confidence.tolist(), found.xyxy.tolist())
        objects = zip(*parts, strict=True)
        rows = [[*picture, i, name, round(score, 5), *[round(v, 3) for v in xy], ""] for i, name, score, xy in objects]
        with _writing(self.file):
            self._table.writerows(rows or [[*picture, *[""] * 7, error or ""]])
            self._out.flush()

    def close(self) -> None:
        """Close the file. Raises SinkError."""
        with _writing(self.file):
            self._out.close()


class _Stems:
    """File names without suffix, one per picture, none twice, nor apart only by case (macOS, Windows)."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def unique(self, source_id: str) -> str:
        """The stem for one more picture: "a/cat.jpg" → cat, then "b/cat.jpg" → cat-2; "array 3" → array-3."""
        path = Path(source_id)
        first = (path.stem if path.suffix else path.stem.replace(" ", "-")) or "picture"
        stem, n = first, self._next.get(first, 2)
        while stem.casefold() in self._taken:
            stem, n = f"{first}-{n}", n + 1
        self._taken.add(stem.casefold())
        self._next[first] = n
        return stem


def _safe(name: str) -> str:
    """A class name as a folder's name; it comes with the model, so it must not lead elsewhere or be too long."""
    clean = "".join(c if c.isalnum() or c in " -_.,()+&'" else "_" for c in name)
    return clean.encode()[:200].decode(errors="ignore").strip(" .") or "_"


def _same(a: Path, b: Path) -> bool:
    """True if both exist and are one file, links followed."""
    with suppress(OSError, ValueError):
        return a.samefile(b)
    return False


def _folder(path: Path) -> Path:
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def _file(path: Path, suffix: str) -> Path:
    if path.suffix.lower() != suffix or path.is_dir():
        got, expected = f"the folder {path}" if path.is_dir() else str(path), f"a {suffix} file"
        raise SinkError(problem("results cannot go there", got=got, expected=expected, remedy="Name the file itself."))
    _folder(path.parent)
    return path


def _encoded(image: Image, target: Path) -> bytes:
    """`image` as the content of a file of target's suffix."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if target.suffix == ".jpg" else []
    with suppress(cv2.error):
        done, data = cv2.imencode(target.suffix, image, settings)
        if done:
            return data.tobytes()
    got, remedy = f"{image.shape[1]} × {image.shape[0]} pixels", "Leave this picture out, or make it smaller."
    raise SinkError(problem(f"OpenCV cannot encode {target}", got=got, expected="a picture it can", remedy=remedy))


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees half of it: beside its place first, then moved there."""
    part = path.with_name(f".eyas-{secrets.token_hex(6)}.part")
    with _writing(path):
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into a SinkError."""
    try:
        yield
    except OSError as error:
        what, remedy = f"cannot write {path}", "Check the path, who may write there, and the free space."
        got = error.strerror or str(error)
        raise SinkError(problem(what, got=got, expected="a place to write to", remedy=remedy)) from error
