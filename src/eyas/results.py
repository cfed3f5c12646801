"""What comes out of a model: `Detections`, `Classification` or `Embedding`, one for each picture.

Coordinates are continuous pixels of the source picture, as in `eyas.types`. Results are plain arrays that the caller
owns; they print themselves, show themselves in a notebook, and go to JSON and back.
"""

from __future__ import annotations

import html
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.coco import COCO80, COCO91_IDS, rle_decode, rle_encode
from eyas.errors import DataError, EyasError, problem
from eyas.extras import need
from eyas.types import Frame

Floats = NDArray[np.float32]
SHOWN = 10  # rows of a result's text and notebook table
MOST_CLASSES = 100_000  # that `Detections.from_dict` makes room for: ids come from files


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects of one picture, as aligned arrays; rows by falling confidence.

    xyxy: float32 [N, 4] x1, y1, x2, y2 in source pixels. confidence: float32 [N], 0…1. class_id: int64 [N].
    names: the class names that class_id indexes; an id without one is shown as its number. tracker_id: int64 [N],
    where a tracker has numbered them.
    keypoints: float32 [N, P, 3] x, y in source pixels and a score 0…1 (1 where the network gives none).
    mask: bool [N, height, width] of the source picture. xyxyxyxy: float32 [N, 4, 2], the corners of oriented boxes in
    order around them; xyxy then encloses them. embedding: float32 [N, D] of unit length.
    Field names are those of supervision's `Detections`.
    """

    xyxy: Floats
    confidence: Floats
    class_id: NDArray[np.int64]
    names: tuple[str, ...] = ()
    tracker_id: NDArray[np.int64] | None = None
    keypoints: Floats | None = None
    mask: NDArray[np.bool_] | None = None
    xyxyxyxy: Floats | None = None
    embedding: Floats | None = None

    def __post_init__(self) -> None:
        given: Any = self  # whatever the caller took for arrays
        boxes, scores, ids = given.xyxy, given.confidence, given.class_id
        n = len(boxes) if isinstance(boxes, np.ndarray) and boxes.ndim else 0
        plain = given.tracker_id is given.keypoints is given.mask is given.xyxyxyxy is given.embedding is None
        arrays = type(boxes) is type(scores) is type(ids) is np.ndarray
        if plain and arrays and boxes.shape == (n, 4) and scores.shape == ids.shape == (n,):
            return  # in short: this is done for every picture
        for name, rest in _SHAPES.items():
            array = getattr(self, name)
            if array is None and name in _OPTIONAL:
                continue
            what = f"Detections.{name} does not fit the other arrays"
            _check_array(what, array, (n, *rest), "All arrays have one row per object.")

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
        arrays = {name: getattr(self, name) for name in _SHAPES}
        return replace(self, **{name: array[rows] for name, array in arrays.items() if array is not None})

    @property
    def class_name(self) -> list[str]:
        """The name of each object's class, or its number where there is no name."""
        return [self.names[i] if 0 <= i < len(self.names) else str(i) for i in self.class_id.tolist()]

    def to_dict(self) -> list[dict[str, Any]]:
        """One plain dictionary per object, ready for JSON: pixels to 0.01, scores to 1e-4, embeddings to 1e-6.

        Masks are COCO's run lengths, {"size": [height, width], "counts": […]}. What is not finite becomes None, which
        JSON can hold. `from_dict` is the way back.
        """
        out: list[dict[str, Any]] = []
        for i, name in enumerate(self.class_name):
            item: dict[str, Any] = {"class_name": name, "class_id": int(self.class_id[i])}
            item["confidence"] = _rounded(self.confidence[i], 4)
            item["xyxy"] = _rounded(self.xyxy[i], 2)
            if self.tracker_id is not None:
                item["tracker_id"] = int(self.tracker_id[i])
            if self.keypoints is not None:
                item["keypoints"] = [[*_rounded(p[:2], 2), _rounded(p[2], 4)] for p in self.keypoints[i]]
            if self.mask is not None:
                item["mask"] = rle_encode(self.mask[i])
            if self.xyxyxyxy is not None:
                item["xyxyxyxy"] = _rounded(self.xyxyxyxy[i], 2)
            if self.embedding is not None:
                item["embedding"] = _rounded(self.embedding[i], 6)
            out.append(item)
        return out

    @classmethod
    def from_dict(cls, objects: Iterable[Mapping[str, Any]], names: Sequence[str] = ()) -> Detections:
        """The reverse of `to_dict`, but for its rounding. names: all classes; those of `objects` are added if missing.

        None becomes NaN. Of no objects at all come no optional arrays.
        Raises DataError where an object lacks a field or has one that others lack, where a field cannot be read, and
        where one class id has two names.
        """
        try:
            items = list(objects)
            every = _all_names(items, names)
            if not items:
                return cls.empty(every)
            columns: dict[str, Any] = {}
            for name in _SHAPES:
                if name not in _OPTIONAL or any(name in o for o in items):
                    values = [_READ.get(name, _same)(o[name]) for o in items]
                    columns[name] = np.asarray(values, _DTYPES.get(name, np.float32))
            return cls(names=every, **columns)
        except (KeyError, TypeError, ValueError, OverflowError, EyasError) as error:
            raise DataError(
                problem(
                    "the objects cannot be read back",
                    got=f"{type(error).__name__}: {error}"[:200],
                    expected="dictionaries as Detections.to_dict gives them, all with the same fields",
                    remedy="Take the list under the key detections, of one model's results.",
                )
            ) from error

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """One row of COCO's results format per object: bbox x, y, width, height to 0.001 px, score to 1e-5.

        category_id: COCO's official id (1…90) if the names are exactly COCO's 80, or person alone with COCO's 17 key
        points; else the class id. With masks: segmentation, run lengths. With key points: keypoints, x, y, score for
        each in turn, 0, 0, 0 for a point that is not finite. Other numbers that are not finite become 0 too; oriented
        boxes have no place in this format.
        """
        posed = self.keypoints is not None and self.keypoints.shape[1] == 17 and self.names == COCO80[:1]
        ids = COCO91_IDS if posed or self.names == COCO80 else ()
        low, high = np.split(_finite(self.xyxy.astype(np.float64)), 2, axis=1)
        boxes = np.hstack([low, high - low]).round(3).tolist()
        scores = _finite(self.confidence).tolist()
        rows: list[dict[str, Any]] = []
        for class_id, box, score in zip(self.class_id.tolist(), boxes, scores, strict=True):
            category = ids[class_id] if 0 <= class_id < len(ids) else class_id
            rows.append({"image_id": image_id, "category_id": category, "bbox": box, "score": round(score, 5)})
        for i, row in enumerate(rows):
            if self.mask is not None:
                row["segmentation"] = rle_encode(self.mask[i])
            if self.keypoints is not None:
                points = self.keypoints[i]
                known = np.isfinite(points).all(axis=1, keepdims=True)
                row["keypoints"] = _rounded(np.where(known, points, 0).ravel(), 3)
        return rows

    def to_supervision(self) -> Any:
        """The same objects as `supervision.Detections`, which shares the arrays.

        Class names, oriented corners, key points and embeddings are in its `data`, under class_name and the names that
        they have here. Raises EyasError where supervision is not installed.
        """
        sv = need("supervision", "track")
        data: dict[str, Any] = {"class_name": np.array(self.class_name, dtype=str)}
        for name in ("xyxyxyxy", "keypoints", "embedding"):
            if getattr(self, name) is not None:
                data[name] = getattr(self, name)
        return sv.Detections(
            xyxy=self.xyxy,
            mask=self.mask,
            confidence=self.confidence,
            class_id=self.class_id,
            tracker_id=self.tracker_id,
            data=data,
        )

    def __repr__(self) -> str:
        rows = [
            f"  {name:<14} {c:.2f}  [{x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}]"
            for name, c, (x1, y1, x2, y2) in zip(self.class_name, self.confidence, self.xyxy, strict=True)
        ]
        return "\n".join([f"Detections({self.summary()})", *_first(rows)])

    def summary(self) -> str:
        """How many of each class, such as 3 person, 1 bus; "nothing" where there is none."""
        counts: dict[str, int] = {}
        for name in self.class_name:
            counts[name] = counts.get(name, 0) + 1
        return ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing"

    def _repr_html_(self) -> str:
        rows = [
            [name, f"{c:.2f}", " ".join(f"{v:.0f}" for v in box)]
            for name, c, box in zip(self.class_name, self.confidence.tolist(), self.xyxy.tolist(), strict=True)
        ]
        return _html_table(f"Detections: {self.summary()}", ["class", "confidence", "x1 y1 x2 y2"], rows)


# Every array of Detections and what follows its N rows; a name stands for any length.
_SHAPES: dict[str, tuple[int | str, ...]] = {
    "xyxy": (4,),
    "confidence": (),
    "class_id": (),
    "tracker_id": (),
    "keypoints": ("P", 3),
    "mask": ("height", "width"),
    "xyxyxyxy": (4, 2),
    "embedding": ("D",),
}
_OPTIONAL = frozenset({"tracker_id", "keypoints", "mask", "xyxyxyxy", "embedding"})
_DTYPES: dict[str, Any] = {"class_id": np.int64, "tracker_id": np.int64, "mask": np.bool_}
# How `from_dict` reads a field that is not numbers: `index` refuses 1.5, which an integer array would cut to 1.
_READ: dict[str, Callable[[Any], Any]] = {"class_id": operator.index, "tracker_id": operator.index, "mask": rle_decode}


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """What one picture shows.

    probabilities: float32 [C], 0…1, of at least one class. names: the class names that index it; a class without one
    is shown as its number. Raises EyasError for an array of another shape.
    """

    probabilities: Floats
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        what, remedy = "Classification.probabilities cannot be read", "It is one picture's, without the batch."
        _check_array(what, self.probabilities, ("C",), remedy)

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """(name, probability) of the k likeliest classes, the likeliest first; of equals, the lower class id."""
        return [(name, p) for _, name, p in self.ranked(k)]

    def ranked(self, k: int = 5) -> list[tuple[int, str, float]]:
        """(class id, name, probability) of the same classes as `top`."""
        order = np.argsort(-self.probabilities, kind="stable")[: max(k, 0)].tolist()
        names = [self.names[i] if i < len(self.names) else str(i) for i in order]
        return list(zip(order, names, self.probabilities[order].tolist(), strict=True))

    def to_dict(self, k: int = 5) -> list[dict[str, Any]]:
        """The k likeliest classes as plain dictionaries, ready for JSON; probability to 1e-4, None if not finite."""
        return [{"class_name": name, "class_id": i, "probability": _plain(p, 4)} for i, name, p in self.ranked(k)]

    def __repr__(self) -> str:
        rows = [f"  {name:<24} {p:.3f}" for name, p in self.top()]
        return "\n".join([f"Classification({self.summary()})", *rows])

    def summary(self) -> str:
        """The likeliest class."""
        return self.top(1)[0][0]

    def _repr_html_(self) -> str:
        rows = [[name, f"{p:.3f}"] for name, p in self.top()]
        return _html_table("Classification", ["class", "probability"], rows)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What one picture looks like, as a direction.

    vector: float32 [D], D at least 1, of unit length. Raises EyasError for an array of another shape.
    """

    vector: Floats

    def __post_init__(self) -> None:
        _check_array("Embedding.vector cannot be read", self.vector, ("D",), "It is one picture's, without the batch.")

    def similarity(self, other: Embedding) -> float:
        """The cosine of the angle between both, −1…1. Raises EyasError where their lengths differ."""
        if self.vector.shape != other.vector.shape:
            raise EyasError(
                problem(
                    "the embeddings are not of one model",
                    got=f"{len(self.vector)} and {len(other.vector)} values",
                    expected="vectors of the same length",
                    remedy="Only embeddings of the same network can be compared.",
                )
            )
        return float(np.dot(self.vector, other.vector))

    def to_dict(self) -> list[float]:
        """The vector as plain numbers to 1e-6, ready for JSON."""
        return list(_rounded(self.vector, 6))

    def __repr__(self) -> str:
        return f"Embedding({self.summary()})"

    def summary(self) -> str:
        """Its length and first four values."""
        more = " …" if len(self.vector) > 4 else ""
        return f"{len(self.vector)} values: {' '.join(f'{v:.3f}' for v in self.vector[:4].tolist())}{more}"


Result = Detections | Classification | Embedding


@dataclass(frozen=True, slots=True)
class Prediction:
    """What became of one source picture: a frame and what the model says of it, or the error that stopped it."""

    source_id: str
    frame: Frame | None = None
    result: Result | None = None
    error: EyasError | None = None

    @property
    def detections(self) -> Detections | None:
        """The result of a model that finds objects; None after an error, or where the model does something else."""
        return self.result if isinstance(self.result, Detections) else None

    def _repr_png_(self) -> bytes | None:
        """The picture with its result drawn, for a notebook."""
        if self.frame is None or self.result is None or isinstance(self.result, Embedding):
            return None
        import cv2

        from eyas.annotate import draw

        return bytes(cv2.imencode(".png", draw(self.frame.pixels, self.result))[1])


def _check_array(what: str, array: object, wanted: tuple[int | str, ...], remedy: str) -> None:
    """Raise EyasError unless `array` is of shape `wanted`. A name is any length; one that comes first, any but 0."""
    if isinstance(array, np.ndarray) and _fits(array.shape, wanted):
        return
    raise EyasError(
        problem(
            what,
            got=f"shape {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__,
            expected=f"a numpy array of shape [{', '.join(map(str, wanted))}]",
            remedy=remedy,
        )
    )


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    same = len(shape) == len(wanted) and all(isinstance(w, str) or s == w for s, w in zip(shape, wanted, strict=True))
    return same and not (isinstance(wanted[0], str) and shape[0] == 0)


def _all_names(items: list[Mapping[str, Any]], names: Sequence[str]) -> tuple[str, ...]:
    """`names` and those of the objects, in order of class id. Raises ValueError where they contradict each other."""
    known = dict(enumerate(names))
    for item in items:
        i, name = operator.index(item["class_id"]), str(item["class_name"])
        if name == str(i):  # what a class without a name is called
            continue
        if not 0 <= i < MOST_CLASSES:
            raise ValueError(f"class {i} is called {name}, but ids go from 0 to {MOST_CLASSES - 1}")
        if known.setdefault(i, name) != name:
            raise ValueError(f"class {i} is called {known[i]} and {name}")
    return tuple(known.get(i, str(i)) for i in range(max(known, default=-1) + 1))


def _same(value: Any) -> Any:
    return value


def _finite(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.where(np.isfinite(values), values, 0)


def _rounded(values: NDArray[np.floating] | np.floating, digits: int) -> Any:
    """Plain numbers, in lists as deep as the array; None for what is not finite."""
    return _plain(values.tolist(), digits)


def _plain(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_plain(v, digits) for v in value]
    return round(value, digits) if math.isfinite(value) else None


def _first(rows: list[str]) -> list[str]:
    return [*rows[:SHOWN], *([f"  … {len(rows) - SHOWN} more"] if len(rows) > SHOWN else [])]


def _html_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    cells = ["".join(f"<td>{html.escape(v)}</td>" for v in row) for row in rows[:SHOWN]]
    more = f"<p>… {len(rows) - SHOWN} more</p>" if len(rows) > SHOWN else ""
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<p>{html.escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
