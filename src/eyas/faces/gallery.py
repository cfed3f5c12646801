"""Faces with names, in a file: who is enrolled, and who of them a new face is.

A gallery belongs to one embedder: vectors of two networks cannot be compared. The file is NumPy's .npz with the
arrays names [N], vectors [N, D] float32, sources [N] (which picture each came from) and embedder (a fingerprint).
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, problem
from eyas.files import make_folder, write_atomically
from eyas.results import Detections

# Between the most alike strangers and the least alike pictures of one person among the pairs that docs/faces.md
# measures, with MobileFaceNet. Other embedders need their own: `eyas faces val` finds it.
THRESHOLD = 0.45
UNKNOWN = "unknown"


class Match(NamedTuple):
    """Who a face is: the name, None where nobody is alike enough; and the cosine to the closest face, −1…1."""

    name: str | None
    similarity: float


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Enrolled faces. names: one a face, several may share one. vectors: float32 [N, D] of unit length.

    sources: the picture that each came from. embedder: fingerprint of the network that made the vectors.
    """

    embedder: str
    names: tuple[str, ...] = ()
    vectors: NDArray[np.float32] | None = None
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def people(self) -> tuple[str, ...]:
        """Every name once, in alphabetical order."""
        return tuple(sorted(set(self.names)))

    def add(self, name: str, vector: NDArray[np.float32], source: str) -> Gallery:
        """A gallery with one more face. vector: [D] of unit length, as `Embedding.vector`. Raises DataError."""
        if not _is_name(name):
            raise DataError(
                problem("nobody can be called that", got=repr(name), expected=f"a name, not {UNKNOWN!r}", remedy="")
            )
        row = self._fitting(np.atleast_1d(vector)[None])
        vectors = row if self.vectors is None else np.vstack([self.vectors, row])
        return replace(self, names=(*self.names, name), vectors=vectors, sources=(*self.sources, source))

    def match(self, vectors: NDArray[np.float32], threshold: float = THRESHOLD) -> list[Match]:
        """Who each of the faces `vectors` [M, D] is: the closest of all, if its cosine is over `threshold`.

        Of equally close faces it is the one that was enrolled first. Raises DataError for vectors of another length.
        """
        if self.vectors is None or not len(vectors):
            return [Match(None, -1.0)] * len(vectors)
        alike = self._fitting(vectors) @ self.vectors.T
        best = alike.argmax(axis=1)
        cosines = alike[np.arange(len(vectors)), best].tolist()
        return [Match(self.names[i] if c > threshold else None, c) for i, c in zip(best.tolist(), cosines, strict=True)]

    def named(self, faces: Detections, matches: list[Match]) -> Detections:
        """The faces with people's names as their classes, "unknown" the last, and the cosine (0…1) as confidence."""
        names = (*self.people(), UNKNOWN)
        ids = [names.index(m.name or UNKNOWN) for m in matches]
        cosine = np.array([m.similarity for m in matches], np.float32).clip(0, 1)
        return replace(faces, names=names, class_id=np.array(ids, np.int64), confidence=cosine)

    def _fitting(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vectors as float32, if they are finite, of unit length, and as long as those that are here."""
        array = np.asarray(vectors, np.float32)
        if are_units(array) and (self.vectors is None or array.shape[1] == self.vectors.shape[1]):
            return array
        many = "D" if self.vectors is None else self.vectors.shape[1]
        raise DataError(
            problem(
                "the vectors do not fit the gallery",
                got=f"shape {list(array.shape)}",
                expected=f"[faces, {many}], each of length 1",
                remedy="Take those of the embedder that the gallery was made with (Recogniser.embed).",
            )
        )

    def save(self, path: Path) -> None:
        """Write the file; one that is there stays whole until the new one is. Raises SinkError."""
        file = io.BytesIO()
        vectors = np.zeros((0, 0), np.float32) if self.vectors is None else self.vectors
        names, sources = np.array(self.names, dtype=str), np.array(self.sources, dtype=str)
        np.savez(file, names=names, vectors=vectors, sources=sources, embedder=np.array(self.embedder))
        make_folder(path.parent)
        write_atomically(path, file.getvalue())


def are_units(vectors: NDArray[np.floating]) -> bool:
    """Whether these are vectors [N, D] of length 1 (0 too: what a network makes of nothing), to a hundredth."""
    if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
        return False
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return bool(((np.abs(length - 1) < 0.01) | (length == 0)).all())


def _is_name(name: str) -> bool:
    return bool(name.strip()) and name.strip().lower() != UNKNOWN


def open_gallery(path: Path, embedder: str) -> Gallery:
    """Read a gallery that the embedder with this fingerprint made. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as file:
            parts = {name: _array(file, name) for name in ("names", "vectors", "sources", "embedder")}
    except _UNREADABLE as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error
    vectors = parts["vectors"]
    texts = all(parts[n].dtype.kind == "U" and parts[n].shape == vectors.shape[:1] for n in ("names", "sources"))
    whole = texts and vectors.dtype == np.float32 and (are_units(vectors) or vectors.shape == (0, 0))
    names, sources = parts["names"].tolist(), parts["sources"].tolist()
    if not whole or not all(map(_is_name, names)):
        shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in parts.items())
        raise _unreadable(path, shapes)
    if (made_by := str(parts["embedder"])) != embedder:
        raise DataError(
            problem(
                f"{path} was made with another embedder",
                got=f"fingerprint {made_by[:12]}",
                expected=embedder[:12],
                remedy="Enrol again with this embedder, or give the one that the gallery was made with.",
            )
        )
    return Gallery(embedder, tuple(names), vectors if len(names) else None, tuple(sources))


# What zipfile and NumPy raise for files that are cut off, of another kind, encrypted, or that announce too much.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


def _array(file: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with file.open(f"{name}.npy") as part:
        return np.asarray(np.lib.format.read_array(part, allow_pickle=False))


def _unreadable(path: Path, got: str) -> DataError:
    remedy = "`eyas faces enroll` makes one."
    return DataError(problem(f"{path} is no gallery", got=got, expected="a file of eyas faces", remedy=remedy))
