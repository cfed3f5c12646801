"""`eyas faces enroll|match|val`: a gallery of people, who is in a picture, and how far to trust that."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.cli.model import size
from eyas.errors import DataError, OptionError, problem

if TYPE_CHECKING:
    from eyas.faces import Match, Recogniser
    from eyas.results import Detections, Prediction


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the three commands and their flags."""
    text = "know people by their faces: enroll, match, val"
    top = commands.add_parser("faces", help=text, description=text.capitalize() + ".")
    kinds = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    p = _command(kinds, common, "enroll", "add people to a gallery", run_enroll)
    p.add_argument("source", nargs="+", metavar="SOURCE", help="folders named after people, or pictures with --name")
    p.add_argument("--name", help="who is in the pictures; default: the name of the folder each picture lies in")
    p.add_argument("--gallery", metavar="FILE", type=Path, required=True, help="an .npz file, made or added to")
    p = _command(kinds, common, "match", "say who is in pictures", run_match)
    p.add_argument("source", nargs="+", metavar="SOURCE", help="pictures, folders or globs")
    p.add_argument("--gallery", metavar="FILE", type=Path, required=True, help="what `eyas faces enroll` wrote")
    p.add_argument("--save", metavar="DIR", type=Path, help="pictures with the names drawn in")
    p.add_argument("--format", choices=["table", "json"], default="table", help="json: one object a picture and line")
    p = _command(kinds, common, "val", "measure on labelled pairs of pictures", run_val)
    p.add_argument("pairs", metavar="PAIRS", type=Path, help="a CSV file: picture, picture, yes or no")
    p.add_argument("--images", metavar="DIR", type=Path, help="the pictures, where they are not beside the CSV file")
    p.add_argument("--save", metavar="DIR", type=Path, help="the ROC curve and the report")
    p.add_argument("--format", choices=["table", "json"], default="table")


def _command(kinds: Any, common: argparse.ArgumentParser, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    p: argparse.ArgumentParser = kinds.add_parser(
        name, parents=[common], help=text, description=text.capitalize() + "."
    )
    p.add_argument("--detector", metavar="MODEL", required=True, help="finds faces and their five points")
    p.add_argument("--embedder", metavar="MODEL", required=True, help="describes an aligned face (arcface)")
    p.add_argument("--backend", metavar="NAME", help="openvino, onnxruntime … (default: the best one here)")
    p.add_argument("--precision", choices=["auto", "fp32", "fp16", "bf16"], default="auto", help="of both models")
    p.add_argument("--imgsz", metavar="SIZE", type=size, help="the detector's input, where its file leaves it free")
    p.add_argument("--conf", type=float, default=0.5, metavar="C", help="of the detector (default 0.5)")
    if name != "enroll":
        p.add_argument("--threshold", type=float, metavar="T", help="cosine over which it is the same (default 0.45)")
    p.set_defaults(run=run)
    return p


def run_enroll(args: argparse.Namespace) -> int:
    """Add the largest face of every picture; 1 where a picture had none.

    The gallery is written at the end, also where that comes early: what was done is kept.
    """
    from eyas.faces.gallery import Gallery, open_gallery
    from eyas.files import make_folder

    if "-" in args.source and args.name is None:
        what, expected = "a picture on standard input lies in no folder", "--name"
        raise OptionError(problem(what, got="no name", expected=expected, remedy="Say who it is with --name."))
    make_folder(args.gallery.parent)
    with _recogniser(args) as recogniser:
        digest = recogniser.embedder.digest
        gallery = open_gallery(args.gallery, digest) if args.gallery.exists() else Gallery(digest)
        before, failed = len(gallery), 0
        try:
            for prediction, vector in _largest(recogniser, _pictures(args.source), args.conf):
                name = _folder_name(prediction.source_id) if args.name is None else args.name
                if vector is None:
                    failed += 1
                else:
                    gallery = gallery.add(name, vector, prediction.source_id)
        finally:
            if len(gallery) > before:
                gallery.save(args.gallery)
    if len(gallery) == before:
        got, expected = f"{failed} without one", "at least one face"
        raise DataError(problem("nobody was enrolled", got=got, expected=expected, remedy="Lower --conf?"))
    if not args.quiet:
        added, total, people = len(gallery) - before, len(gallery), len(gallery.people())
        now = f"{total} face{'s' * (total != 1)}, {people} {'person' if people == 1 else 'people'}"
        print(f"eyas: {added} added; {args.gallery} holds {now}", file=sys.stderr)
    return 1 if failed else 0


def run_match(args: argparse.Namespace) -> int:
    """Print who is in each picture; 1 where a picture failed."""
    from dataclasses import replace

    from eyas.cli.predict import refuse_to_overwrite
    from eyas.faces.gallery import open_gallery
    from eyas.sink import SinkOptions, open_sinks
    from eyas.source import pictures

    failed = 0
    threshold = _threshold(args)
    refuse_to_overwrite(args.save, list(pictures(args.source)))
    with _recogniser(args) as recogniser, open_sinks(SinkOptions(pictures=args.save)) as sinks:
        gallery = open_gallery(args.gallery, recogniser.embedder.digest)
        for prediction in recogniser.stream(args.source, conf=args.conf):
            failed += prediction.error is not None
            rows: list[dict[str, Any]] = []
            faces = prediction.detections
            if faces is not None and faces.embedding is not None:
                matches = gallery.match(faces.embedding, threshold)
                rows = _rows(faces, matches)
                prediction = replace(prediction, result=gallery.named(faces, matches))
            if args.format == "json":
                line = {"path": prediction.source_id, "faces": rows}
                line |= {"error": str(prediction.error)} if prediction.error else {}
                print(json.dumps(line, ensure_ascii=False), flush=True)
            else:
                found = ", ".join(f"{row['name'] or 'unknown'} ({row['similarity']:.2f})" for row in rows)
                print(f"{prediction.source_id}  {prediction.error or found or 'no face'}", flush=True)
            for sink in sinks:
                sink.write(prediction)
    return 1 if failed else 0


def _rows(faces: Detections, matches: list[Match]) -> list[dict[str, Any]]:
    rows = zip(matches, faces.xyxy, faces.confidence, strict=True)
    return [
        {
            "name": match.name,
            "similarity": round(match.similarity, 4),
            "confidence": round(float(confidence), 4),
            "xyxy": [round(v, 2) for v in xyxy.tolist()],
        }
        for match, xyxy, confidence in rows
    ]


def run_val(args: argparse.Namespace) -> int:
    """Print accuracy, thresholds and the area under the ROC; 1 where a picture had no face."""
    from eyas.evaluation.pairs import read_pairs, verification

    if args.save:
        from eyas.extras import need

        need("matplotlib", "val")
    pairs = read_pairs(args.pairs, args.images)
    files = sorted({path for pair in pairs for path in (pair.a, pair.b)})
    with _recogniser(args) as recogniser:
        found = {Path(p.source_id): v for p, v in _largest(recogniser, map(str, files), args.conf) if v is not None}
    result = verification(pairs, found)
    about = {"detector": args.detector, "embedder": args.embedder, "data": str(args.pairs)}
    report = about | result.report(_threshold(args)) | {"without_face": [str(f) for f in files if f not in found]}
    if args.save:
        from eyas.evaluation.plots import roc_curve
        from eyas.files import make_folder, write_atomically

        make_folder(args.save)
        write_atomically(args.save / "roc.png", roc_curve(result, report["threshold"]))
        write_atomically(args.save / "report.json", json.dumps(report, indent=1).encode())
    if args.format == "json":
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        for key, value in report.items():
            print(f"{key:<22} {value:.4f}" if isinstance(value, float) else f"{key:<22} {value or 'none'}")
    return 1 if report["without_face"] else 0


def _threshold(args: argparse.Namespace) -> float:
    from eyas.faces.gallery import THRESHOLD

    value = THRESHOLD if args.threshold is None else args.threshold
    if not -1 <= value <= 1:
        raise OptionError(problem("--threshold is no cosine", got=value, expected="−1 to 1", remedy=""))
    return float(value)


@contextmanager
def _recogniser(args: argparse.Namespace) -> Iterator[Recogniser]:
    from eyas.faces import Recogniser
    from eyas.loading import load

    how: dict[str, Any] = {"backend": args.backend, "precision": args.precision}
    with load(args.detector, imgsz=args.imgsz, **how) as detector, load(args.embedder, **how) as embedder:
        yield Recogniser(detector, embedder)


def _pictures(sources: list[str]) -> list[str]:
    """The sources; a folder of folders stands for the folders in it, and for itself if it holds pictures too."""
    from eyas.source import PICTURE_SUFFIXES

    out = []
    for source in sources:
        here = [p for p in Path(source).iterdir() if not p.name.startswith(".")] if Path(source).is_dir() else []
        inner = [str(p) for p in sorted(here) if p.is_dir()]
        own = not inner or any(p.suffix.lower() in PICTURE_SUFFIXES and p.is_file() for p in here)
        out += [source] * own + inner
    return out


def _folder_name(path: str) -> str:
    """The name of the folder that a picture lies in; of links, their own."""
    folder = Path(path).parent
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _largest(recogniser: Recogniser, sources: Iterable[str], conf: float) -> Iterator[tuple[Prediction, Any]]:
    """Every picture with the vector of its largest face, None (and a line on standard error) where there is none."""
    from eyas.faces.recogniser import largest, no_face

    for prediction in recogniser.stream(sources, conf=conf):
        faces = prediction.detections
        if faces is None or faces.embedding is None or not len(faces):
            print(f"eyas: {prediction.error or no_face(prediction.source_id, conf)}", file=sys.stderr)
            yield prediction, None
        else:
            yield prediction, faces.embedding[largest(faces)]
