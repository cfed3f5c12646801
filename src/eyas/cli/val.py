"""`eyas val MODEL --data PATH`: how good a detector is on labelled pictures, alone or against another.

`eyas val --task track SOURCE`: how good trackers are (`eyas.cli.val_tracks`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.cli.model import add_engine_flags, add_network_flags
from eyas.errors import DataError, OptionError, problem
from eyas.files import make_folder, write_atomically

if TYPE_CHECKING:
    from eyas.evaluation.classmap import ClassMap
    from eyas.evaluation.dataset import Dataset
    from eyas.evaluation.evaluate import Evaluation
    from eyas.predictor import Model
    from eyas.results import Prediction


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "measure a detector on labelled pictures, or trackers on known tracks"
    p = commands.add_parser("val", parents=[common], help=text, description=text.capitalize() + ".")
    what = "an .onnx file or a model's name (`eyas models`); with --task track what is judged: see there"
    p.add_argument("model", nargs="?", metavar="MODEL", help=what)
    p.add_argument("--task", choices=["detect", "track"], default="detect", help="what is measured (default detect)")
    p.add_argument("--data", metavar="PATH", type=Path, help="COCO .json, YOLO .yaml or folder, Pascal VOC folder")
    p.add_argument("--images", metavar="DIR", type=Path, help="the pictures, where they are not beside the labels")
    p.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    what = "leave out what scores below (default 0.001; trackers: as `eyas track`, and all of a det.txt)"
    p.add_argument("--conf", type=float, metavar="C", help=what)
    p.add_argument("--iou", type=float, metavar="T", help="NMS threshold (default: the model's own)")
    p.add_argument("--format", choices=["table", "json"], default="table", help="json: one report on standard output")
    p.add_argument("--json", action="store_const", const="json", dest="format", help="same as --format json")
    p.add_argument("--save", metavar="DIR", type=Path, help="curves, confusions, worst pictures, report and results")
    tracks = p.add_argument_group("--task track SOURCE: a folder of MOT sequences (gt.txt, det.txt), or a video")
    tracks.add_argument("--truth", metavar="FILE", type=Path, help="the known tracks of a video or of --results")
    tracks.add_argument("--results", metavar="FILE", type=Path, help="tracks to judge, instead of SOURCE")
    tracks.add_argument("--tracker", nargs="+", metavar="NAME", help="one or more (after SOURCE; default deepsort)")
    what = "what detects in a video (default nanodet)"
    tracks.add_argument("-m", "--model", dest="detector", metavar="MODEL", help=what)
    versus = p.add_argument_group("against another (any of these)")
    versus.add_argument("--vs", metavar="MODEL", help="another model; it says itself what it is (default: the same)")
    versus.add_argument("--vs-backend", metavar="NAME", help="what runs the other (default: the same)")
    versus.add_argument("--vs-precision", choices=["auto", "fp32", "fp16", "bf16"], help="default: the same")
    add_network_flags(p)
    add_engine_flags(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, show and save; 1 where a picture failed."""
    _check(args)
    if args.task == "track":
        from eyas.cli import val_tracks

        return val_tracks.run(args, _options(args))
    import cv2

    from eyas.cli.val_tables import print_report
    from eyas.evaluation.labels import open_dataset
    from eyas.extras import need

    for module in ("faster_coco_eval", "matplotlib")[: 2 if args.save else 1]:
        need(module, "val")
    if args.save:
        make_folder(args.save)
    data = open_dataset(args.data, args.images).first(args.limit)
    cv2.setNumThreads(1)  # one picture a thread: OpenCV's own threads would only get in the way
    report, evaluation = _evaluate_all(args, data)
    if args.save:
        _save(args.save, evaluation, report)
    if args.format == "json":
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        sys.stdout.write(print_report(report))
    if not args.quiet:
        _tell(args, report)
    return 1 if report["failed"] else 0


def _check(args: argparse.Namespace) -> None:
    """Raise OptionError where something is missing, or belongs to another task."""
    track = args.task == "track"
    detect_only, track_only = "data images limit vs vs_backend vs_precision", "truth results tracker detector"
    others = (detect_only if track else track_only).split()
    flags = [f"--{'model' if name == 'detector' else name.replace('_', '-')}" for name in others]
    unfit = [flag for flag, name in zip(flags, others, strict=True) if getattr(args, name) is not None]
    if unfit:
        what, expected = f"the task {args.task} has no use for this", "only what its own help says"
        remedy = "Name what is judged without a flag." if track else "--task track measures trackers."
        raise OptionError(problem(what, got=", ".join(unfit), expected=expected, remedy=remedy))
    if not track and (args.model is None or args.data is None):
        got = "no model" if args.model is None else "no --data"
        remedy = "eyas val nanodet --data coco/instances.json; for trackers, --task track."
        raise OptionError(problem("too little to measure", got=got, expected="MODEL and --data", remedy=remedy))


def _evaluate_all(args: argparse.Namespace, data: Dataset) -> tuple[dict[str, Any], Evaluation]:
    """The report, with "vs" where there are two models, and the first one's evaluation."""
    from eyas.evaluation.classmap import map_classes

    options = _options(args)
    if args.vs is None and args.vs_backend is None and args.vs_precision is None:
        with _open(args.model, options) as model:
            return _evaluate(args, args.model, model, data, map_classes(model.card.names, data))
    own = {} if args.vs is None else dict.fromkeys(("family", "names", "imgsz", "card"))
    changed = {k: v for k, v in (("backend", args.vs_backend), ("precision", args.vs_precision)) if v is not None}
    other = args.model if args.vs is None else args.vs
    with _open(args.model, options) as model, _open(other, options | own | changed) as rival:
        names, theirs = model.card.names, rival.card.names
        report, evaluation = _evaluate(args, args.model, model, data, map_classes(names, data, theirs))
        model.close()  # so that the two never compete for memory
        second, _ = _evaluate(args, other, rival, data, map_classes(theirs, data, names))
    return report | {"vs": compare(report, second)}, evaluation


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What `eyas.load` takes, besides the model."""
    from eyas.card import read_names

    names = read_names(args.names) if args.names else None
    kept = ("backend", "precision", "device", "batch", "family", "imgsz", "card", "trust", "rebuild")
    same = {k: getattr(args, k) for k in kept}
    return same | {"names": names, "hint": args.hint or "throughput"}


def _open(model: str, options: dict[str, Any]) -> Model:
    from eyas.evaluation.evaluate import open_for_evaluation

    return open_for_evaluation(model, **options)


def _evaluate(
    args: argparse.Namespace, name: str, model: Model, data: Dataset, classes: ClassMap
) -> tuple[dict[str, Any], Evaluation]:
    from eyas.evaluation.evaluate import BEST, CONF, evaluate

    def watch(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        if args.quiet or not sys.stderr.isatty():
            return predictions
        from rich.console import Console
        from rich.progress import track

        what = f"evaluating {Path(name).name}"
        return iter(track(predictions, what, len(data.images), console=Console(stderr=True), transient=True))

    engine = model.engine("throughput").description
    conf = CONF if args.conf is None else args.conf
    result = evaluate(model, data, classes, conf=conf, iou=args.iou, watch=watch)
    if not result.images:
        path, why = result.failed[0]
        raise DataError(
            problem("no picture could be read", got=f"{path}: {why}", expected="at least one", remedy="See --images.")
        )
    nms = model.card.iou if args.iou is None else args.iou
    about = {
        "model": name,
        "family": model.card.family,
        "engine": engine,
        "data": str(args.data),
        "data_format": data.format,
        "settings": {"conf": conf, "nms_iou": nms, "detections_a_picture": BEST},
    }
    return about | result.report(), result


def compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """What the second report has over the first: the differences second − first, classes by falling |difference|."""
    from eyas.evaluation.classmap import canonical

    keys = [k for k in first if k.startswith(("mAP", "AR", "best_f1")) or k in ("precision", "recall")]
    theirs = {canonical(c["name"]): c for c in second["classes"]}
    rows = []
    for mine in first["classes"]:
        other = theirs[canonical(mine["name"])]
        a, b = mine["mAP50-95"], other["mAP50-95"]
        rows.append({"name": mine["name"], "instances": mine["instances"], "a": a, "b": b, "difference": _minus(b, a)})
    rows.sort(key=lambda row: -abs(row["difference"] or 0))
    return {
        "model": second["model"],
        "engine": second["engine"],
        **{k: second[k] for k in keys},
        "seconds": second["seconds"],
        "failed": second["failed"],
        "difference": {k: _minus(second[k], first[k]) for k in keys},
        "classes": rows,
    }


def _minus(b: float | None, a: float | None) -> float | None:
    return None if a is None or b is None else b - a


def _save(folder: Path, evaluation: Evaluation, report: dict[str, Any]) -> None:
    """The files of --save. Raises SinkError."""
    import cv2

    from eyas.evaluation import plots
    from eyas.evaluation.sheet import contact_sheet

    files = {
        "pr_curve.png": plots.pr_curve(evaluation),
        "f1_curve.png": plots.f1_curve(evaluation),
        "confusion_matrix.png": plots.confusion_matrix(evaluation),
        "report.json": json.dumps(report, indent=1, ensure_ascii=False).encode(),
        "results.json": json.dumps(evaluation.results()).encode(),
    }
    sheet = contact_sheet(evaluation)
    if sheet is not None:
        files["worst.jpg"] = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    for name, content in files.items():
        write_atomically(folder / name, content)


def _tell(args: argparse.Namespace, report: dict[str, Any]) -> None:
    """To standard error: what the figures leave out, and where the files are."""
    lost = report["only_in_data"]
    lines = [
        f"eyas: {report['images']} pictures in {report['seconds']:.1f} s",
        *[f"eyas: failed and left out: {f['error']}" for f in report["failed"][:5]],
        *_more(len(report["failed"]) - 5, "pictures failed"),
        *(
            [f"eyas: not known to the model, left out: {_some([f'{n} ({c})' for n, c in lost.items()])}"]
            if lost
            else []
        ),
        *([f"eyas: not in the labels, left out: {_some(report['only_in_model'])}"] if report["only_in_model"] else []),
        *([f"eyas: {report['other_size']} pictures are not the size their labels say"] if report["other_size"] else []),
        *([f"eyas: curves, confusions, worst pictures, report and results in {args.save}"] if args.save else []),
    ]
    print("\n".join(lines), file=sys.stderr)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _more(count: int, what: str) -> list[str]:
    return [f"eyas: {count} more {what}"] if count > 0 else []
