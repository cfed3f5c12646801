"""What is written of followed streams: lines of JSON, CSV and MOT as they come; drawn pictures; counts and events.

Each stream has an `Output`, which works on a thread of its own while the next frames are read and understood.
"""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from eyas.errors import OptionError, problem
from eyas.files import make_folder, write_atomically, writing
from eyas.results import Prediction
from eyas.tracking.analytics import Analytics, Rules
from eyas.tracking.draw import Painter
from eyas.tracking.mot import mot_lines, table_of
from eyas.types import Frame, Image
from eyas.video.frames import epoch_of
from eyas.video.overlap import WriteBehind

CSV_HEADER = "source_id,frame,pts_s,epoch,tracker_id,class_id,class_name,confidence,x1,y1,x2,y2,error\n"
NO_TRACK = -1  # the MOT format's id of what is not followed


class LineFile:
    """A text file that grows by whole lines, at once on their way to the disk; a context manager. For any thread."""

    def __init__(self, path: Path, header: str = "") -> None:
        """Begins the file anew. Raises SinkError."""
        self.path, self._lock = path, threading.Lock()
        make_folder(path.parent)
        with writing(path):
            self._out = path.open("wb", buffering=0)
        self.write(header)

    def write(self, lines: str) -> None:
        """Add lines, each with its end. Raises SinkError."""
        data = lines.encode(errors="surrogateescape")  # paths may hold bytes that are no UTF-8
        with self._lock, writing(self.path):
            while data:
                data = data[self._out.write(data) or 0 :]

    def close(self) -> None:
        """Close the file."""
        self._out.close()

    def __enter__(self) -> LineFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def json_line(prediction: Prediction) -> str:
    """source_id, and frame, pts_s, epoch, width, height, detections (`to_dict`, without embeddings), or error."""
    line: dict[str, Any] = {"source_id": prediction.source_id}
    frame, found = prediction.frame, prediction.detections
    if frame is None or found is None:
        line["error"] = str(prediction.error)
    else:
        height, width = frame.size
        line |= {
            "frame": frame.index,
            "pts_s": _time(frame),
            "epoch": epoch_of(frame),
            "width": width,
            "height": height,
        }
        line["detections"] = replace(found, embedding=None).to_dict()
    return json.dumps(line, ensure_ascii=False) + "\n"


def csv_lines(prediction: Prediction) -> str:
    """A row for each object, as in CSV_HEADER; one without an object for a frame that has none, or an error."""
    frame, found = prediction.frame, prediction.detections
    if frame is None or found is None:
        rows: list[list[object]] = [[prediction.source_id, *[""] * 11, prediction.error or ""]]
    else:
        begin = [prediction.source_id, frame.index, _time(frame), epoch_of(frame)]
        ids = [""] * len(found) if found.tracker_id is None else found.tracker_id.tolist()
        scores, boxes = found.confidence.tolist(), found.xyxy.tolist()
        columns = zip(ids, found.class_id.tolist(), found.class_name, scores, boxes, strict=True)
        rows = [[*begin, i, c, name, round(s, 5), *(round(v, 3) for v in box), ""] for i, c, name, s, box in columns]
        rows = rows or [[*begin, *[""] * 9]]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def mot_text(prediction: Prediction) -> str:
    """The frame's rows in the MOT format (`eyas.tracking.mot`); objects without ids have −1."""
    frame, found = prediction.frame, prediction.detections
    if frame is None or found is None:
        return ""
    if found.tracker_id is None:
        found = replace(found, tracker_id=np.full(len(found), NO_TRACK, np.int64))
    return "".join(mot_lines(table_of([(frame.index + 1, found)])))


def _time(frame: Frame) -> float | None:
    return None if frame.pts_s is None else round(frame.pts_s, 6)


@dataclass(slots=True)
class Counting:
    """What is counted in one stream. events: where they go, as JSON lines. heatmap: a .png of where objects stood."""

    rules: Rules
    events: LineFile | None = None
    heatmap: Path | None = None
    analytics: Analytics | None = None
    frame: Frame | None = None

    def update(self, prediction: Prediction) -> None:
        """The next frame. Raises OptionError for a rule that does not fit it."""
        if prediction.frame is None:
            return
        if self.analytics is None:
            self.analytics = Analytics(self.rules, prediction.frame.size)
        if self.heatmap is not None:
            self.frame = prediction.frame
        self._tell(self.analytics.update(prediction))

    def finish(self) -> None:
        """Write the summaries and the heat map, if there was a frame. Raises SinkError."""
        if self.analytics is None:
            return
        self._tell(self.analytics.finish())
        if self.heatmap is not None and self.frame is not None:
            make_folder(self.heatmap.parent)
            picture = self.analytics.heatmap(self.frame.pixels)
            write_atomically(self.heatmap, cv2.imencode(".png", picture)[1].tobytes())

    def _tell(self, events: Sequence[Any]) -> None:
        if self.events and events:
            self.events.write("".join(json.dumps(e.to_dict(), ensure_ascii=False) + "\n" for e in events))


@dataclass(slots=True)
class Output:
    """All that is written of one stream, on a thread of its own. Close it (`contextlib.closing`).

    lines: files, and what makes their lines. shows: take the drawn picture and its time in seconds. encoders: those of
    them that may be slow, each on a thread of its own.
    """

    name: str
    lines: list[tuple[LineFile, Callable[[Prediction], str]]] = field(default_factory=list)
    shows: list[Callable[[Image, float | None], None]] = field(default_factory=list)
    encoders: list[WriteBehind] = field(default_factory=list)
    counting: Counting | None = None
    painter: Painter = field(default_factory=Painter)
    _behind: WriteBehind | None = None

    def put(self, prediction: Prediction) -> None:
        """The next prediction; waits where several wait already. Raises what went wrong with an earlier one."""
        if self._behind is None and (self.lines or self.shows or self.encoders or self.counting):
            self._behind = WriteBehind(self._write, f"output {self.name}")
        if self._behind:
            self._behind.put(prediction)

    @property
    def dropped(self) -> int:
        """How many pictures encoders that were too slow have lost."""
        return sum(encoder.dropped for encoder in self.encoders)

    def close(self) -> None:
        """Finish what waits, then the counts; a second call does nothing. Raises what went wrong."""
        if self._behind:
            behind, self._behind = self._behind, None
            behind.close()
            if self.counting:
                self.counting.finish()

    def _write(self, prediction: Prediction) -> None:
        for file, lines_of in self.lines:
            file.write(lines_of(prediction))
        if self.counting:
            self.counting.update(prediction)
        frame, found = prediction.frame, prediction.detections
        if (self.shows or self.encoders) and frame is not None and found is not None:
            image = self.painter.draw(frame, found)
            if self.counting and self.counting.analytics:
                self.counting.analytics.draw(image)
            for show in (*self.shows, *(encoder.put for encoder in self.encoders)):
                show(image, frame.pts_s)


def file_names(source_ids: Sequence[str]) -> list[str]:
    """A name for the files of each stream, none twice: "a/clip.mp4" → clip, then "b/clip.mp4" → clip-2."""
    names: list[str] = []
    for source_id in source_ids:
        last = re.split(r"[\\/]", source_id.partition("?")[0].rstrip("/\\"))[-1]
        first = re.sub(r"[^\w.-]+", "-", Path(last).stem).strip("-.")[:100] or "stream"
        name, n = first, 2
        while name.casefold() in {n.casefold() for n in names}:
            name, n = f"{first}-{n}", n + 1
        names.append(name)
    return names


def files_for(flag: str, place: Path, names: Sequence[str], suffix: str) -> list[Path]:
    """The file of each stream: `place` itself, or in that folder (a name without suffix is one) NAME + suffix.

    Raises OptionError where one file is named for several streams.
    """
    if place.is_dir() or not place.suffix:
        return [place / (name + suffix) for name in names]
    if len(names) > 1:
        what, got = f"{flag} names one file for {len(names)} streams", str(place)
        remedy = f"For instance {flag} {place.with_suffix('')}; each stream gets a file in it."
        raise OptionError(problem(what, got=got, expected="a folder", remedy=remedy))
    return [place]
