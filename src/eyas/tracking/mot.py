"""Tracks and detections as text, in the format of the MOT Challenge: frame, id, x, y, w, h, conf, and three more.

Frames count from 1. x, y: upper left corner in pixels. id −1: no track. The last three columns (world coordinates in
MOT15; class and visibility in the ground truth of MOT16 and newer) are not read, and written as −1.
Source: motchallenge.net/instructions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, problem
from eyas.files import write_atomically
from eyas.results import Detections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MotTable:
    """The rows of a MOT file as aligned arrays, sorted by frame.

    frame: int64 [N], from 1. track_id: int64 [N], −1 where there is none. xywh: float64 [N, 4] pixels. confidence:
    float64 [N]; in ground truth 0 marks what does not count.
    """

    frame: Ints
    track_id: Ints
    xywh: Floats
    confidence: Floats

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, which: NDArray[np.bool_]) -> MotTable:
        """Some of the rows."""
        return MotTable(self.frame[which], self.track_id[which], self.xywh[which], self.confidence[which])

    def detections(self, frame: int) -> Detections:
        """The boxes of one frame, by falling confidence, as class 0; without their ids."""
        here = self.where(self.frame == frame)
        order = np.argsort(-here.confidence, kind="stable")
        low, size = np.split(here.xywh[order], 2, axis=1)
        xyxy = np.hstack([low, low + size]).astype(np.float32)
        return Detections(xyxy, here.confidence[order].astype(np.float32), np.zeros(len(order), np.int64))


def table_of(frames: Iterable[tuple[int, Detections]]) -> MotTable:
    """A tracker's output, frame number (from 1) and detections with `tracker_id`, as a table.

    Raises DataError for a frame number below 1 and for detections without ids.
    """
    parts: list[Floats] = [np.zeros((0, 7))]
    for frame, found in frames:
        if frame < 1 or found.tracker_id is None:
            got = f"frame {frame}" if frame < 1 else f"no tracker_id in frame {frame}"
            expected = "frames from 1 and the detections that a tracker gives back"
            raise DataError(problem("these are no tracks", got=got, expected=expected, remedy=""))
        box = found.xyxy.astype(np.float64)
        number = np.full(len(found), frame)
        parts.append(np.column_stack([number, found.tracker_id, box[:, :2], box[:, 2:] - box[:, :2], found.confidence]))
    return _table(np.vstack(parts))


def _table(rows: Floats) -> MotTable:
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return MotTable(rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 2:6], rows[:, 6])


def read_mot(path: Path) -> MotTable:
    """Read a file: columns parted by commas or blanks, at least 6; without a seventh, confidence is 1.

    An empty file holds no rows. Raises DataError with the line's number where one cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(_unfit(f"cannot read {path}", str(error))) from error
    rows: list[list[float]] = []
    seen: set[tuple[float, float]] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _row(path, number, line)
        if row[1] >= 0 and (row[0], row[1]) in seen:
            raise DataError(_unfit(f"{path}, line {number}", f"id {row[1]:.0f} twice in frame {row[0]:.0f}"))
        seen.add((row[0], row[1]))
        rows.append(row)
    return _table(np.array(rows, np.float64).reshape(-1, 7))


def _row(path: Path, number: int, line: str) -> list[float]:
    cells = line.strip().removesuffix(",").split(",") if "," in line else line.split()
    try:
        row = [float(cell) for cell in cells[:7]]
    except ValueError as error:
        raise DataError(_unfit(f"{path}, line {number}", repr(line[:80]))) from error
    row += [1.0] if len(row) == 6 else []
    whole = len(row) == 7 and np.isfinite(row).all() and row[0].is_integer() and row[1].is_integer()
    if not whole or row[0] < 1 or max(map(abs, row)) > _MOST or row[4] < 0 or row[5] < 0:
        raise DataError(_unfit(f"{path}, line {number}", repr(line[:80])))
    return row


_MOST = 2.0**53  # whole numbers that a float64 holds


def _unfit(what: str, got: str) -> str:
    expected = "frame (from 1), id, x, y, width, height (not below 0), confidence …, as finite numbers"
    return problem(what, got=got, expected=expected, remedy="See motchallenge.net/instructions for the format.")


def write_mot(path: Path, table: MotTable) -> None:
    """Write it: see `mot_lines`. Raises SinkError."""
    write_atomically(path, "".join(mot_lines(table)).encode())


def mot_lines(table: MotTable) -> list[str]:
    """A line for each row, with its end: pixels to 0.01, confidence to 1e-4."""
    columns = (table.frame.tolist(), table.track_id.tolist(), table.xywh.tolist(), table.confidence.tolist())
    return [
        f"{frame},{track},{x:.2f},{y:.2f},{w:.2f},{h:.2f},{confidence:.4f},-1,-1,-1\n"
        for frame, track, (x, y, w, h), confidence in zip(*columns, strict=True)
    ]
