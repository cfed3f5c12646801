"""`eyas val --task track SOURCE`: trackers against known tracks, as HOTA, MOTA and IDF1, sequence by sequence.

SOURCE holds MOT sequences with detections, or is a video in which a model detects; `--results` judges a finished file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eyas.cli.table import printable
from eyas.errors import DataError, OptionError, problem
from eyas.files import make_folder, write_atomically

if TYPE_CHECKING:
    from eyas.evaluation.tracks import Scores
    from eyas.tracking import Tracker
    from eyas.tracking.mot import MotTable

DEFAULT, DETECTOR = "deepsort", "nanodet"
# Flags of the model that detects in a video, by their names in the arguments, and their values where they are left out.
OF_A_MODEL = {
    "detector": ("--model", None),
    "backend": ("--backend", None),
    "device": ("--device", None),
    "precision": ("--precision", "auto"),
    "batch": ("--batch", 1),
    "hint": ("--hint", None),
    "trust": ("--trust", False),
    "rebuild": ("--no-rebuild", True),
    "family": ("--family", None),
    "names": ("--names", None),
    "imgsz": ("--imgsz", None),
    "card": ("--card", None),
}
LAYOUT = "SEQ/gt/gt.txt and SEQ/det/det.txt, or gt.txt and det.txt beside each other"
COLUMNS = ("hota", "deta", "assa", "mota", "idf1", "id_switches", "missed", "false", "objects", "tracks", "frames")


@dataclass(frozen=True)
class Judged:
    """A sequence: its truth, and what each tracker (by name) makes of it."""

    name: str
    truth: MotTable
    results: Mapping[str, MotTable]


def run(args: argparse.Namespace, options: Mapping[str, Any]) -> int:
    """Track, judge, show and save. options: of `eyas.load`, for the detector of a video."""
    from eyas.extras import need

    need("trackers", "track")
    if args.save:
        make_folder(args.save)
    judged, left_out = _judged(args, options)
    report = _report(args, judged, left_out)
    if args.save:
        _save(args.save, judged, report)
    if args.format == "json":
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        sys.stdout.write(_table(report))
    if not args.quiet:
        lines = [f"eyas: left out: {printable(one['sequence'])}: {one['reason']}" for one in left_out]
        lines += [f"eyas: report and tracks in {args.save}"] if args.save else []
        sys.stderr.write("".join(f"{line}\n" for line in lines))
    return 0


def _judged(args: argparse.Namespace, options: Mapping[str, Any]) -> tuple[list[Judged], list[dict[str, str]]]:
    """The sequences, and what was left out and why."""
    from eyas.tracking.mot import read_mot

    source, names = None if args.model is None else Path(args.model), _trackers(args.tracker)
    if (source is None) == (args.results is None):
        got = "neither" if source is None else f"{source} and --results {args.results}"
        expected = "a folder of MOT sequences, a video, or --results FILE"
        raise OptionError(problem("the track task judges one thing", got=got, expected=expected, remedy=""))
    if args.results is not None:
        for flag in ("tracker", "conf", "iou"):
            if getattr(args, flag) is not None:
                expected = "--results alone: they are tracks already"
                raise OptionError(problem(f"--{flag} has no use", got="--results", expected=expected, remedy=""))
        _check_no_model(args, "--results")
        truth, result = _truth(_named(args.truth)), read_mot(args.results)
        if (result.track_id < 0).any():
            remedy = "These are detections; give them as a sequence's det.txt."
            raise DataError(problem(f"{args.results} holds no tracks", got="id -1", expected="ids", remedy=remedy))
        return [Judged(args.truth.stem, truth, {args.results.stem: result})], []
    assert source is not None  # noqa: S101 - one of both is there
    if source.is_dir():
        if args.truth:
            remedy = "Leave --truth out."
            raise OptionError(problem("--truth has no use", got="a folder", expected=LAYOUT, remedy=remedy))
        if args.iou is not None:
            what, expected = "--iou has no use", "a video, in which a model detects"
            raise OptionError(problem(what, got="a folder", expected=expected, remedy="Leave --iou out."))
        _check_no_model(args, "a folder")
        if args.conf is not None and not math.isfinite(args.conf):  # MOT15's confidences are not 0 to 1
            raise OptionError(problem("--conf is wrong", got=args.conf, expected="a finite number", remedy=""))
        return _folder(source, names, args.conf)
    if "://" not in args.model and not source.is_file():
        expected = "a folder of MOT sequences, or a video"
        raise DataError(problem(f"{source} cannot be judged", got="no such file", expected=expected, remedy=""))
    return [_video(args, names, options)], []


def _check_no_model(args: argparse.Namespace, judged: str) -> None:
    """Raise OptionError for flags of a model where none runs."""
    unfit = [flag for name, (flag, default) in OF_A_MODEL.items() if getattr(args, name) != default]
    if unfit:
        what, expected = f"nothing here uses {', '.join(unfit)}", "a video, in which a model detects"
        remedy = f"Leave {'it' if len(unfit) == 1 else 'them'} out."
        raise OptionError(problem(what, got=judged, expected=expected, remedy=remedy))


def _trackers(names: Sequence[str] | None) -> list[str]:
    """Each once; all of them can be opened. Raises OptionError."""
    unique = list(dict.fromkeys(names or [DEFAULT]))
    for name in unique:
        _open(name)
    return unique


def _open(name: str, **options: Any) -> Tracker:
    from eyas.tracking import open_tracker

    return open_tracker(name, **options)


def _named(truth: Path | None) -> Path:
    if truth is None:
        remedy = "Name it with --truth FILE."
        raise OptionError(problem("the truth is not known", got="nothing", expected="a MOT file", remedy=remedy))
    return truth


def _truth(path: Path) -> MotTable:
    """Read it. Raises DataError, also where nothing in it counts."""
    from eyas.tracking.mot import read_mot

    table = read_mot(path)
    counts = table.confidence != 0
    if not counts.any() or (table.track_id[counts] < 0).any():
        got = "rows with id -1" if counts.any() else f"{len(table)} rows, none of which counts"
        expected = "an id from 0 in each row, and a seventh column that is not 0"
        raise DataError(problem(f"{path} is no truth", got=got, expected=expected, remedy="Is it the det.txt?"))
    return table


def _folder(source: Path, names: Sequence[str], conf: float | None) -> tuple[list[Judged], list[dict[str, str]]]:
    """The sequences of a folder, or the one that it is."""
    from eyas.tracking.mot import read_mot

    inside = [source] if _file(source, "gt") or _file(source, "det") else sorted(source.iterdir())
    known = [folder for folder in inside if _file(folder, "gt") or _file(folder, "det")]
    if not known:
        remedy = "Name the folder that holds the sequences."
        raise DataError(problem(f"{source} holds no sequence", got="no such file", expected=LAYOUT, remedy=remedy))
    judged, left_out = [], []
    for folder in known:
        gt, det = _file(folder, "gt"), _file(folder, "det")
        if gt is None or det is None:
            left_out.append(
                {"sequence": folder.resolve().name, "reason": f"no {'gt.txt' if gt is None else 'det.txt'}"}
            )
            continue
        truth, found = _truth(gt), read_mot(det)
        found = found if conf is None else found.where(found.confidence > conf)
        judged.append(Judged(folder.resolve().name, truth, {name: _follow(name, found, truth) for name in names}))
    if not judged:
        got = ", ".join(f"{one['sequence']} ({one['reason']})" for one in left_out[:5])
        raise DataError(problem(f"no sequence of {source} can be judged", got=got, expected=LAYOUT, remedy=""))
    return judged, left_out


def _file(folder: Path, kind: str) -> Path | None:
    """A sequence's gt.txt or det.txt, where it has one."""
    paths = (folder / kind / f"{kind}.txt", folder / f"{kind}.txt")
    return next((path for path in paths if path.is_file()), None)


def _follow(name: str, found: MotTable, truth: MotTable) -> MotTable:
    """Track a file's detections: without pictures, one step a frame."""
    from eyas.tracking.mot import table_of

    tracker = _open(name, **({"enable_cmc": False} if name == "botsort" else {}))
    last = int(max(found.frame.max(initial=0), truth.frame.max()))
    return table_of((frame, tracker.update(found.detections(frame))) for frame in range(1, last + 1))


def _video(args: argparse.Namespace, names: Sequence[str], options: Mapping[str, Any]) -> Judged:
    """Detect once, and give every tracker what scores above its threshold."""
    from eyas.loading import load
    from eyas.tracking.follow import confidence_for, follow, rates_of
    from eyas.tracking.mot import table_of
    from eyas.video import open_video

    truth = _truth(_named(args.truth))
    confs = {name: confidence_for(name) if args.conf is None else args.conf for name in names}
    with open_video(args.model, live=False) as video, load(args.detector or DETECTOR, **options) as model:
        rate = next(iter(rates_of(video).values()), None)
        trackers = {name: _open(name, frame_rate=rate) for name in names}
        rows: dict[str, list[tuple[int, Any]]] = {name: [] for name in names}
        with closing(follow(model, video, tracker=None, conf=min(confs.values()), iou=args.iou)) as predictions:
            for number, prediction in enumerate(predictions, 1):
                if prediction.error:
                    raise prediction.error
                frame, found = prediction.frame, prediction.detections
                assert frame is not None and found is not None  # noqa: S101, PT018 - a detector's, without an error
                for name, tracker in trackers.items():
                    sure = found[np.flatnonzero(found.confidence > confs[name])]
                    rows[name].append((number, tracker.update(sure, np.asarray(frame.image), frame.pts_s)))
    frames = len(rows[names[0]])
    if truth.frame.max() > frames:
        what, expected = f"{args.truth} goes on after the video's end", f"frames 1 to {frames}"
        got, remedy = f"frame {truth.frame.max()}", "Is it the truth of another video?"
        raise DataError(problem(what, got=got, expected=expected, remedy=remedy))
    return Judged(Path(args.model).stem, truth, {name: table_of(some) for name, some in rows.items()})


def _report(args: argparse.Namespace, judged: Sequence[Judged], left_out: list[dict[str, str]]) -> dict[str, Any]:
    """All figures as plain JSON values; "combined": all sequences as one, where there are several."""
    from eyas.evaluation.tracks import score, score_sequences

    def row(tracker: str, scores: Scores) -> dict[str, Any]:
        return {"tracker": tracker, **asdict(scores)}

    names = list(judged[0].results)
    several = names if len(judged) > 1 else []
    return {
        "task": "track",
        "data": str(args.results or args.model),
        "sequences": [{"sequence": j.name, **row(n, score(j.truth, j.results[n]))} for j in judged for n in names],
        "combined": [row(n, score_sequences((j.truth, j.results[n]) for j in judged)) for n in several],
        "left_out": left_out,
    }


def _table(report: Mapping[str, Any]) -> str:
    rows = [*report["sequences"], *({"sequence": "combined", **row} for row in report["combined"])]
    cells = [("sequence", "tracker", *(column.replace("_", " ") for column in COLUMNS))]
    cells += [(printable(r["sequence"]), r["tracker"], *(_cell(r[column]) for column in COLUMNS)) for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        padded = (c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        lines.append("  ".join(padded).rstrip() + "\n")
    return "".join(lines)


def _cell(value: float | int) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _save(folder: Path, judged: Sequence[Judged], report: Mapping[str, Any]) -> None:
    """report.json, and TRACKER/SEQUENCE.txt as the MOT Challenge takes them. Raises SinkError."""
    from eyas.tracking.mot import write_mot

    for one in judged:
        for name, table in one.results.items():
            write_mot(make_folder(folder / name) / f"{one.name}.txt", table)
    write_atomically(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
