"""Where results go: drawn pictures, YOLO text files, COCO JSON, CSV, crops; `open_sinks` opens those asked for.

Every sink numbers pictures of the same name in the same way (cat, cat-2 …), so that the files of one picture go
together. A prediction with an error has nothing to save: only the CSV file has a row for it. A result that a sink has
no form for is refused, never left out: see each class's `holds`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from eyas.annotate import draw
from eyas.errors import SinkError, problem
from eyas.files import make_folder, write_atomically, writing
from eyas.results import Classification, Detections, Embedding, Prediction, Result
from eyas.types import Frame, Image, Task

JPEG_QUALITY = 92
VISIBLE = 0.5  # what a key point must score above to be one in a label file
JPEG_SIDE = 65500  # the longest side, in pixels, that libjpeg writes
CSV_COLUMNS = ("path", "width", "height", "class_id", "class_name", "confidence", "x1", "y1", "x2", "y2", "error")


class Sink(Protocol):
    """Takes predictions one by one; `contextlib.closing(sink)` makes a context manager of it."""

    holds: ClassVar[tuple[type[Result], ...]]
    """The kinds of result that it can save."""

    def write(self, prediction: Prediction) -> None:
        """Save one prediction. Raises SinkError, also for a result of a kind that it does not hold."""

    def close(self) -> None:
        """Finish, also after an interrupted run; a second call does nothing. Raises SinkError."""


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """What to save and where; None leaves it out.

    pictures, text, crops: folders. json, csv: files. text_confidence: a last column in the text files.
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
def open_sinks(options: SinkOptions, task: Task | None = None) -> Iterator[list[Sink]]:
    """Open the sinks that `options` names; all are closed at the end, however it comes. Raises SinkError.

    task: the model's (`model.card.task`), so that a sink that cannot hold its results is refused at once, before
    anything is made or emptied; None leaves that to the first prediction.
    """
    o = options
    makers: tuple[tuple[Path | None, type[Sink], Callable[[Path], Sink]], ...] = (
        (o.pictures, SavePictures, lambda folder: SavePictures(folder, labels=o.labels, line_width=o.line_width)),
        (o.text, SaveText, lambda folder: SaveText(folder, confidence=o.text_confidence)),
        (o.crops, SaveCrops, SaveCrops),
        (o.json, SaveJson, SaveJson),
        (o.csv, SaveCsv, SaveCsv),  # last, since it alone empties an earlier run's file as it opens
    )
    wanted = [(place, kind, make) for place, kind, make in makers if place is not None]
    for place, kind, _ in wanted if task is not None else ():
        _refuse(kind, str(place), _KINDS.get(task, Detections))
    with ExitStack() as stack:
        yield [stack.enter_context(closing(make(place))) for place, _, make in wanted]


_KINDS: dict[Task | None, type[Result]] = {"classify": Classification, "embed": Embedding}  # others find objects
_REMEDIES: dict[type[Result], str] = {
    Classification: "--save, --csv and --format json can (SavePictures, SaveCsv, Classification.to_dict).",
    Embedding: "--format json can (Embedding.to_dict).",
    Detections: "--save, --save-txt, --save-crop, --json and --csv can.",
}


def _refuse(sink: type[Sink], place: str, got: type[Result]) -> None:
    """Raise SinkError unless `sink` holds results of the kind `got`."""
    if got not in sink.holds:
        expected = " or ".join(kind.__name__ for kind in sink.holds)
        what = f"{sink.__name__} cannot hold the model's results in {place}"
        raise SinkError(problem(what, got=got.__name__, expected=expected, remedy=_REMEDIES[got]))


class _EachPicture:
    """What the sinks that save files for each picture share: the folder, the names, what is left out."""

    holds: ClassVar[tuple[type[Result], ...]] = (Detections,)

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """folder: made with its parents if need be. Raises SinkError."""
        self.folder = make_folder(Path(folder))
        self._stems = _Stems()

    def write(self, prediction: Prediction) -> None:
        """Save one prediction, unless it is an error. Raises SinkError."""
        if prediction.frame is not None and prediction.result is not None:
            _refuse(type(self), str(self.folder), type(prediction.result))
            stem = self._stems.unique(prediction.source_id)
            self._save(stem, prediction.source_id, prediction.frame, prediction.result)

    def close(self) -> None:
        """Nothing is held open."""

    def _save(self, stem: str, source_id: str, frame: Frame, result: Any) -> None:
        """result: of a kind that `holds` names."""
        raise NotImplementedError


class SavePictures(_EachPicture):
    """The pictures with what was found drawn: folder/<stem>.png for a .png source, else .jpg of quality 92.

    In the source's own folder it is <stem>-eyas, so that the source stays; an earlier run's results are overwritten.
    A picture with a side over 65500 pixels, which no JPEG file can have, becomes .png too.
    """

    holds: ClassVar[tuple[type[Result], ...]] = (Detections, Classification)

    def __init__(self, folder: str | os.PathLike[str], *, labels: bool = True, line_width: int | None = None) -> None:
        """labels, line_width: as for `eyas.annotate.draw`. Raises SinkError."""
        super().__init__(folder)
        self.labels, self.line_width = labels, line_width

    def _save(self, stem: str, source_id: str, frame: Frame, result: Detections | Classification) -> None:
        source = Path(source_id)
        suffix = ".png" if source.suffix.lower() == ".png" or max(frame.size) > JPEG_SIDE else ".jpg"
        own = any(_same(self.folder / name, source) for name in (source.name, stem + suffix))
        target = self.folder / (stem + "-eyas" * own + suffix)
        picture = draw(frame.pixels, result, labels=self.labels, line_width=self.line_width)
        write_atomically(target, _encoded(picture, target))


class SaveText(_EachPicture):
    """YOLO's label files: folder/<stem>.txt with a line per object, empty if there is none.

    What a line holds after the class id depends on what the objects have, the first of these:

    - masks: the largest outline's x y x y …, through the centres of the pixels along its edge, so that filling it gives
      the outer shape again; the four corners of the box where no outline has three points;
    - key points: cx cy w h, then x y visibility each: visibility 2, or 0 0 0 where a point scores 0.5 or less or lies
      outside the picture, where these files cannot say it;
    - oriented boxes: the corners x1 y1 … x4 y4; those of the upright box where one is not finite;
    - nothing else: cx cy w h.

    All are shares of the picture's width and height, clipped to 0…1, to six decimals.
    """

    def __init__(self, folder: str | os.PathLike[str], *, confidence: bool = False) -> None:
        """confidence: add it as the last column. Raises SinkError."""
        super().__init__(folder)
        self.confidence = confidence

    def _save(self, stem: str, source_id: str, frame: Frame, result: Detections) -> None:
        size = np.array(frame.size[::-1])
        corners = (np.nan_to_num(result.xyxy.astype(np.float64)).reshape(-1, 2, 2) / size).clip(0, 1)
        lines = []
        for i, (low, high) in enumerate(corners):
            box = " ".join(f"{v:.6f}" for v in [*(low + high) / 2, *(high - low)])
            around = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
            if result.mask is not None:
                outline = _outline(result.mask[i])
                text = _pairs(around if outline is None else (outline + 0.5) / size)
            elif result.keypoints is not None:
                text = f"{box} {_visible(result.keypoints[i], size)}"
            elif result.xyxyxyxy is not None:
                known = np.isfinite(result.xyxyxyxy[i]).all()
                text = _pairs((result.xyxyxyxy[i] / size).clip(0, 1) if known else around)
            else:
                text = box
            score = f" {result.confidence[i]:.6f}" if self.confidence else ""
            lines.append(f"{result.class_id[i]} {text}{score}\n")
        write_atomically(self.folder / f"{stem}.txt", "".join(lines).encode())


def _pairs(points: NDArray[np.floating]) -> str:
    return " ".join(f"{x:.6f} {y:.6f}" for x, y in points.tolist())


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.floating] | None:
    """The corners [K, 2] x, y, of the largest outline of a mask, in whole pixels; None if none has three."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max((o[:, 0] for o in outlines if len(o) >= 3), key=cv2.contourArea, default=None)
    return None if largest is None else largest.astype(np.float64)


def _visible(points: NDArray[np.float32], size: NDArray[np.int64]) -> str:
    """Key points [P, 3] as x y 2 or 0 0 0 each; size: the picture's (width, height)."""
    share = points[:, :2] / size
    seen = (points[:, 2] > VISIBLE) & (share >= 0).all(axis=1) & (share <= 1).all(axis=1)
    return " ".join(f"{x:.6f} {y:.6f} 2" if s else "0 0 0" for (x, y), s in zip(share.tolist(), seen, strict=True))


class SaveCrops(_EachPicture):
    """Each object cut out: folder/<class name>/<stem>-<n>.jpg, n its number within the picture, from 1.

    The upright boxes, also of oriented objects, are rounded outwards and clipped to the picture; nothing is saved of a
    box without area. In class names what a file system may refuse becomes "_", so that names that differ only there
    share a folder.
    """

    def _save(self, stem: str, source_id: str, frame: Frame, result: Detections) -> None:
        height, width = frame.size
        inside = np.nan_to_num(result.xyxy).clip(0, (width, height, width, height))
        whole = np.hstack([np.floor(inside[:, :2]), np.ceil(inside[:, 2:])]).astype(np.int64)
        some = (inside[:, 2:] > inside[:, :2]).all(axis=1)
        pixels = frame.pixels
        for i in np.flatnonzero(some).tolist():
            x1, y1, x2, y2 = whole[i].tolist()
            target = make_folder(self.folder / _safe(result.class_name[i])) / f"{stem}-{i + 1}.jpg"
            write_atomically(target, _encoded(pixels[y1:y2, x1:x2], target))


class SaveJson:
    """COCO's results format: one array of the rows of `Detections.to_coco`, with masks and key points.

    image_id: the picture's stem, as a number if it is all digits (COCO's own files are).
    Written whole by `close`, also after an interrupted run; if no prediction came, an earlier file is left alone.
    """

    holds: ClassVar[tuple[type[Result], ...]] = (Detections,)

    def __init__(self, file: str | os.PathLike[str]) -> None:
        """file: a .json path; its folder is made if need be. Raises SinkError."""
        self.file = _file(Path(file), ".json")
        self._stems = _Stems()
        self._results: list[str] | None = None

    def write(self, prediction: Prediction) -> None:
        """Keep one prediction, unless it is an error, for `close` to save. Raises SinkError."""
        if prediction.result is not None:
            _refuse(type(self), str(self.file), type(prediction.result))
        self._results = self._results or []
        if (found := prediction.detections) is None:
            return
        stem = self._stems.unique(prediction.source_id)
        image_id = int(stem) if stem.isascii() and stem.isdigit() else stem
        self._results += map(json.dumps, found.to_coco(image_id))  # as text: a fifth of the memory

    def close(self) -> None:
        """Write the file. Raises SinkError."""
        results, self._results = self._results, None
        if results is not None:
            write_atomically(self.file, b"[" + ",\n".join(results).encode() + b"]\n")


class SaveCsv:
    """One table of all objects, with a header; a row reaches the disk as soon as its picture is done.

    A picture without objects has one row with only its path and size, one that failed has its path and error. Of a
    `Classification` there is a row for each of the five likeliest classes, without corners.
    Confidence to 1e-5, corners in pixels to 0.001. UTF-8; bytes of a path that are not are kept as they are.
    """

    holds: ClassVar[tuple[type[Result], ...]] = (Detections, Classification)

    def __init__(self, file: str | os.PathLike[str]) -> None:
        """file: a .csv path, overwritten; its folder is made if need be. Raises SinkError."""
        self.file = _file(Path(file), ".csv")
        with writing(self.file):
            self._out = self.file.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._table = csv.writer(self._out, lineterminator="\n")
        self._table.writerow(CSV_COLUMNS)

    def write(self, prediction: Prediction) -> None:
        """Add one prediction's rows. Raises SinkError."""
        frame, result, error = prediction.frame, prediction.result, prediction.error
        picture = [prediction.source_id, *(frame.size[::-1] if frame is not None else ("", ""))]
        rows: list[list[object]] = []
        if result is not None:
            _refuse(type(self), str(self.file), type(result))
        if isinstance(result, Detections):
            parts = (result.class_id.tolist(), result.class_name, result.confidence.tolist(), result.xyxy.tolist())
            objects = zip(*parts, strict=True)
            rows = [[i, name, round(score, 5), *[round(v, 3) for v in xyxy], ""] for i, name, score, xyxy in objects]
        elif isinstance(result, Classification):
            rows = [[i, name, round(score, 5), *[""] * 5] for i, name, score in result.ranked()]
        with writing(self.file):
            self._table.writerows([*picture, *row] for row in rows or [[*[""] * 7, error or ""]])
            self._out.flush()

    def close(self) -> None:
        """Close the file. Raises SinkError."""
        with writing(self.file):
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


def _file(path: Path, suffix: str) -> Path:
    if path.suffix.lower() != suffix or path.is_dir():
        got, expected = f"the folder {path}" if path.is_dir() else str(path), f"a {suffix} file"
        raise SinkError(problem("results cannot go there", got=got, expected=expected, remedy="Name the file itself."))
    make_folder(path.parent)
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
