"""How well an embedder tells people apart: labelled pairs of pictures → accuracy, ROC, the threshold to use."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, problem

YES, NO = ("yes", "1", "true", "same", "match"), ("no", "0", "false", "different", "mismatch")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two picture files and whether they show the same person."""

    a: Path
    b: Path
    same: bool


def read_pairs(file: Path, images: Path | None = None) -> list[Pair]:
    """Pairs from a CSV file with a header: two columns of file names, one that says whether it is the same person.

    That one holds yes or no, 1 or 0, true or false, same or different (also match or mismatch). images: the pictures'
    folder, by default the CSV file's own. Raises DataError: unreadable, without a header, other columns, a word that
    is neither, a picture that is missing, all pairs of one kind.
    """
    folder = images or file.parent
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, strict=True)
            lines = [(reader.line_num, row) for row in reader if "".join(row).strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise _unfit(file, str(error)) from error
    pairs = []
    for i, (number, row) in enumerate(lines):
        shown = f"line {number}: {','.join(row)[:80]}"
        word = row[2].strip().lower() if len(row) == 3 else None
        if word is None or (i and word not in YES + NO):
            raise _unfit(file, shown)
        pair = Pair(folder / row[0].strip(), folder / row[1].strip(), word in YES)
        if not i:  # "same" and "match" head a column as well as they fill it
            if word in YES + NO and _is_file(pair.a) and _is_file(pair.b):
                raise _unfit(file, f"a pair instead of a header in {shown}")
            continue
        for path in (pair.a, pair.b):
            if not _is_file(path):
                raise DataError(
                    problem(
                        f"{file} names a picture that is not there",
                        got=f"line {number}: {path}",
                        expected="a file",
                        remedy="Say with --images where the pictures are.",
                    )
                )
        pairs.append(pair)
    if len({pair.same for pair in pairs}) < 2:
        raise _unfit(file, f"{len(pairs)} pairs, all {'the same' if pairs and pairs[0].same else 'different'}")
    return pairs


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a zero in it
        return False


def _unfit(file: Path, got: str) -> DataError:
    expected = "a header and lines `file,file,yes or no`, some of each kind"
    return DataError(problem(f"{file} holds no pairs", got=got, expected=expected, remedy="See docs/faces.md."))


@dataclass(frozen=True, eq=False)
class Verification:
    """Cosines of pairs and which of them are of one person. similarity: float64 [N]. same: bool [N], some of each."""

    similarity: Floats
    same: NDArray[np.bool_]

    def accuracy(self, threshold: float) -> float:
        """The share of pairs that "the same where the cosine is over the threshold" gets right."""
        return float(((self.similarity > threshold) == self.same).mean())

    def roc(self) -> tuple[Floats, Floats, Floats]:
        """(threshold, false match rate, true match rate), from the strictest threshold to the laxest."""
        thresholds = np.concatenate([[np.inf], np.unique(self.similarity)[::-1], [-np.inf]])
        sides = (np.sort(self.similarity[kind]) for kind in (~self.same, self.same))
        false, true = (1 - side.searchsorted(thresholds, side="right") / len(side) for side in sides)
        return thresholds, false, true

    def auc(self) -> float:
        """The area under the ROC: the chance that a pair of one person is more alike than one of two; ties count ½."""
        same, other = self.similarity[self.same], np.sort(self.similarity[~self.same])
        below, up_to = (other.searchsorted(same, side=side) for side in ("left", "right"))
        return float((below + up_to).mean() / (2 * len(other)))

    def best_threshold(self) -> float:
        """Half-way between the neighbouring cosines where the accuracy is highest; of several gaps, the widest."""
        edges = np.unique(self.similarity)
        middles = np.concatenate([[edges[0] - 1e-6], (edges[:-1] + edges[1:]) / 2, [edges[-1]]])
        gaps = np.concatenate([[0], np.diff(edges), [0]])
        same, other = np.sort(self.similarity[self.same]), np.sort(self.similarity[~self.same])
        right = len(same) - same.searchsorted(middles, side="right") + other.searchsorted(middles, side="right")
        return float(middles[np.lexsort((gaps, right))[-1]])

    def report(self, threshold: float) -> dict[str, Any]:
        """All figures as plain JSON values."""
        same, other = self.similarity[self.same], self.similarity[~self.same]
        return {
            "pairs": len(self.same),
            "same_person": int(self.same.sum()),
            "threshold": threshold,
            "accuracy": self.accuracy(threshold),
            "false_match_rate": float((other > threshold).mean()),
            "false_non_match_rate": float((same <= threshold).mean()),
            "best_threshold": self.best_threshold(),
            "best_accuracy": self.accuracy(self.best_threshold()),
            "auc": self.auc(),
            "least_alike_same": float(same.min()),
            "most_alike_different": float(other.max()),
        }


def verification(pairs: Sequence[Pair], vectors: dict[Path, NDArray[np.float32]]) -> Verification:
    """The cosines of the pairs whose pictures both have a vector. Raises DataError where one kind has none left."""
    left = [p for p in pairs if p.a in vectors and p.b in vectors]
    same = np.array([p.same for p in left], np.bool_)
    if same.all() or not same.any():
        got = f"{int(same.sum())} of one person and {int((~same).sum())} of two, of {len(pairs)}"
        remedy = "See which pictures have no face."
        raise DataError(problem("too few pairs are left", got=got, expected="some of each", remedy=remedy))
    return Verification(np.array([float(vectors[p.a] @ vectors[p.b]) for p in left]), same)
