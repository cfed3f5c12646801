"""`eyas predict SOURCE…`: what the model says of pictures, as a table or JSON lines, drawn, and in files."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.cli.model import (
    add_engine_flags,
    add_head_flags,
    add_network_flags,
    add_trace_flag,
    count,
    open_model,
    tracing_to,
)
from eyas.cli.table import counted, print_table
from eyas.errors import OptionError, SourceError, problem

if TYPE_CHECKING:
    from eyas.results import Prediction, Result
    from eyas.source import Picture
    from eyas.types import Task

WRITTEN = {
    "pictures": "drawn pictures",
    "text": "YOLO labels",
    "crops": "cut-out objects",
    "json": "COCO results",
    "csv": "one row an object or class",
}
COLUMNS = {"classify": "classes (probability)", "embed": "embedding"}  # the table's last; others find objects
FEW = 4  # up to so many pictures, waiting for a second engine to compile costs more than it gains


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    p = commands.add_parser(
        "predict",
        parents=[common],
        help="find objects in pictures",
        description="Find objects in pictures, or say what else the model says of them.",
    )
    p.add_argument("source", nargs="+", metavar="SOURCE", help="pictures, folders or globs; - reads one from stdin")
    p.add_argument("-m", "--model", default="nanodet", help="an .onnx file or a bundled model (default nanodet)")
    p.add_argument("--format", choices=["table", "json"], default="table", help="json: one object a picture and line")
    add_head_flags(p)
    out = p.add_argument_group("files to write")
    out.add_argument("--save", metavar="DIR", type=Path, help="pictures with what was found drawn in")
    out.add_argument("--save-txt", metavar="DIR", type=Path, help="YOLO labels: boxes, outlines, points or corners")
    out.add_argument("--save-conf", action="store_true", help="with --save-txt: add the confidence")
    out.add_argument("--save-crop", "--crops", metavar="DIR", type=Path, dest="crops", help="each object cut out")
    out.add_argument("--json", metavar="FILE", type=Path, help="COCO results of all pictures")
    out.add_argument("--csv", metavar="FILE", type=Path, help="one row an object, or likely class")
    add_network_flags(p)
    add_engine_flags(p)
    add_trace_flag(p)
    p.add_argument("--max-pixels", type=count, metavar="N", help="refuse larger pictures (default 178956970)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict, show and save; 1 where a picture failed."""
    import cv2

    from eyas import trace
    from eyas.imagefile import MAX_PIXELS
    from eyas.sink import SinkOptions, open_sinks
    from eyas.source import pictures

    items = list(pictures(args.source, args.max_pixels or MAX_PIXELS))
    places = {"pictures": args.save, "text": args.save_txt, "crops": args.crops, "json": args.json, "csv": args.csv}
    _refuse_videos(items)
    refuse_to_overwrite(args.save, items)
    options = SinkOptions(**places, text_confidence=args.save_conf)
    if len(items) >= FEW:
        cv2.setNumThreads(1)  # one picture a thread: OpenCV's own threads would only get in the way
    found: Counter[str] = Counter()
    failed = 0
    hint = "latency" if len(items) < FEW else "throughput"
    with open_model(args, hint) as model, open_sinks(options, model.card.task) as sinks:
        table = _Table(model.card.task) if args.format == "table" else None
        model.engine()
        start = time.perf_counter()
        results = model.stream_pictures(items, conf=args.conf, iou=args.iou)
        lines_show_progress = table is None and sys.stdout.isatty()
        bar = sys.stderr.isatty() and not args.quiet and not lines_show_progress and len(items) >= 2 * FEW
        try:
            with tracing_to(args.trace), closing(_with_progress(results, len(items)) if bar else results) as results:
                for prediction in results:
                    with trace.span("sink"):
                        for sink in sinks:
                            sink.write(prediction)
                    if table:
                        table.add(prediction)
                    else:
                        _print_json(prediction)
                    found.update(_counted(prediction.result))
                    failed += prediction.error is not None
        finally:
            if table:
                table.print()  # after an interruption too: what was finished
        seconds = time.perf_counter() - start
    if not args.quiet:
        if model.card.task == "embed":
            found["embeddings" if len(items) - failed > 1 else "embedding"] = len(items) - failed
        _summary(places, len(items), failed, +found, seconds)
    return 1 if failed else 0


def _refuse_videos(items: list[Picture]) -> None:
    """Raise SourceError where a video is named as a picture."""
    from eyas.source import VIDEO_SUFFIXES

    for path in (Path(item.source_id) for item in items):
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            what, got = f"{path} is a video", f"a {path.suffix} file"
            remedy = f"`eyas track {path}` follows what is in it; with --tracker none it only finds it."
            raise SourceError(problem(what, got=got, expected="pictures", remedy=remedy))


def refuse_to_overwrite(folder: Path | None, items: list[Picture]) -> None:
    """Raise OptionError if a drawn picture could take the place of one that is still to be read."""
    if folder is None:
        return
    target = folder.resolve()
    paths = [Path(i.source_id) for i in items if i.source_id != "stdin"]
    inside = [p for p in paths if target in (p.parent.resolve(), p.resolve().parent)]
    if inside:
        raise OptionError(
            problem(
                "--save would write among the source pictures",
                got=f"{folder}, which holds {inside[0]}",
                expected="a folder without source pictures",
                remedy=f"For instance --save {folder}/drawn.",
            )
        )


def _counted(result: Result | None) -> list[str]:
    """The classes that the closing line counts: every object's, or the picture's likeliest."""
    from eyas.results import Classification, Detections

    if isinstance(result, Classification):
        return [result.summary()]
    return result.class_name if isinstance(result, Detections) else []


def _summary(places: dict[str, Path | None], total: int, failed: int, found: Counter[str], seconds: float) -> None:
    bad = f"; {failed} could not be read" if failed else ""
    done = total - failed
    print(f"eyas: {done} picture{'s' * (done != 1)} in {seconds:.2f} s: {counted(found)}{bad}", file=sys.stderr)
    for what, where in places.items():
        if where:
            print(f"eyas: {WRITTEN[what]} in {where}", file=sys.stderr)


def _print_json(prediction: Prediction) -> None:
    line: dict[str, Any] = {"path": prediction.source_id}
    if prediction.frame is not None and prediction.result is not None:
        height, width = prediction.frame.size
        key = type(prediction.result).__name__.lower()  # detections, classification, embedding
        line |= {"width": width, "height": height, key: prediction.result.to_dict()}
    else:
        line["error"] = str(prediction.error)
    print(json.dumps(line, ensure_ascii=False), flush=True)


class _Table:
    """Collects a row a picture; printed at the end, since column widths need all rows."""

    def __init__(self, task: Task) -> None:
        self._columns = ("picture", "size", COLUMNS.get(task, "objects (confidence)"))
        self._rows: list[tuple[str, str, str]] = []

    def add(self, prediction: Prediction) -> None:
        if prediction.frame is None or prediction.result is None:
            self._rows.append((prediction.source_id, "-", f"error: {prediction.error}"))
            return
        height, width = prediction.frame.size
        self._rows.append((prediction.source_id, f"{width} × {height}", _told(prediction.result)))

    def print(self) -> None:
        print_table(self._columns, self._rows, lambda row: "red" if row[2].startswith("error: ") else None)


def _told(result: Result) -> str:
    """A result on one line."""
    from eyas.results import Classification, Embedding

    if isinstance(result, Embedding):
        return result.summary()
    if isinstance(result, Classification):
        more = " …" if len(result.probabilities) > 5 else ""
        return ", ".join(f"{name} {p:.2f}" for name, p in result.top(5)) + more
    best: dict[str, list[float]] = {}
    for name, confidence in zip(result.class_name, result.confidence.tolist(), strict=True):
        best.setdefault(name, []).append(confidence)
    return ", ".join(f"{len(c)} {name} ({_range(c)})" for name, c in best.items()) or "nothing"


def _range(confidences: list[float]) -> str:
    low, high = f"{min(confidences):.2f}", f"{max(confidences):.2f}"
    return high if low == high else f"{low}–{high}"


def _with_progress(items: Generator[Prediction, None, None], total: int) -> Generator[Prediction, None, None]:
    from rich.console import Console
    from rich.progress import Progress

    # Unless told otherwise, rich sends what is printed meanwhile to its own console: results would go to stderr.
    with closing(items), Progress(console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        yield from bar.track(items, total, description="predicting")
