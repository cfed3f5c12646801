"""`eyas quantize MODEL --images DIR -o OUT.onnx`: a model in int8, fp16 or bf16, no worse than asked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.cli.model import add_network_flags, count

if TYPE_CHECKING:
    from eyas.quantize import Report, Watches


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "write a model in int8, fp16 or bf16, and measure what that costs"
    p = commands.add_parser("quantize", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("model", metavar="MODEL", help="an .onnx file or a model's name (`eyas models`)")
    p.add_argument(
        "--images", metavar="PATH", nargs="+", required=True, help="pictures to calibrate on: folder, glob or files"
    )
    p.add_argument("-o", "--out", metavar="OUT.onnx", type=Path, required=True, help="the file to write")
    p.add_argument("--precision", choices=["int8", "fp16", "bf16"], default="int8")
    p.add_argument(
        "--method", choices=["auto", "minmax", "percentile", "entropy"], default="auto", help="ranges of int8"
    )
    p.add_argument("--target", choices=["cpu", "tensorrt", "onnxruntime"], default="cpu", help="who int8 is for")
    p.add_argument("--limit", type=count, metavar="N", help="at most N pictures, evenly spaced")
    p.add_argument("--keep", nargs="+", metavar="LAYER", default=[], help="layers that stay in fp32 (* and ? allowed)")
    gate = p.add_argument_group("the gate")
    gate.add_argument("--max-drop", type=float, metavar="D", help="refuse what loses more (0.01: one point of AP)")
    gate.add_argument("--data", type=Path, metavar="LABELS", help="measure AP on these (as `eyas val` takes them)")
    gate.add_argument("--report", type=Path, metavar="DIR", help="report (default with --max-drop: OUT-report)")
    gate.add_argument("--backend", nargs="+", metavar="NAME", default=[], help="what measures; the worst counts")
    gate.add_argument("--json", action="store_true", help="the report on standard output")
    add_network_flags(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Narrow, measure, write; 1 where the model is worse than asked and so not written."""
    import json

    import cv2

    from eyas.card import read_names
    from eyas.errors import OptionError, problem
    from eyas.quantize import Settings, quantize

    if args.data and args.max_drop is None:
        raise OptionError(
            problem("--data alone does nothing", got="no --max-drop", expected="both", remedy="Add --max-drop 0.01.")
        )
    data = None
    if args.data:
        from eyas.evaluation.labels import open_dataset
        from eyas.extras import need

        need("faster_coco_eval", "val")
        data = open_dataset(args.data)
    cv2.setNumThreads(1)  # one picture a thread: OpenCV's own threads would only get in the way
    folder = args.report or (args.out.with_name(args.out.stem + "-report") if args.max_drop is not None else None)
    result = quantize(
        args.model,
        args.images,
        args.out,
        settings=Settings(args.precision, args.method, args.target, tuple(args.keep), args.max_drop),
        data=data,
        limit=args.limit,
        report=folder,
        backends=args.backend,
        watches=_watches(args.quiet),
        family_name=args.family,
        names=read_names(args.names) if args.names else None,
        size=args.imgsz,
        card=args.card,
    )
    if args.json:
        print(json.dumps(result.to_dict(), indent=1, ensure_ascii=False))
    else:
        print(result.summary())
    _tell(result, folder, args.quiet)
    return 0 if result.written else 1


def _tell(result: Report, folder: Path | None, quiet: bool) -> None:
    """To standard error: where the report is, and what to try where the model was refused."""
    if folder and not quiet:
        print(f"eyas: report in {folder}", file=sys.stderr)
    if not result.written:
        hint = "allow more with --max-drop, try another --method, or calibrate on pictures like those of the data"
        print(f"eyas: worse than asked, so nothing was written: {hint}", file=sys.stderr)


def _watches(quiet: bool) -> Watches:
    """Progress bars on a terminal's standard error, else none."""
    from eyas.quantize import Watches

    if quiet or not sys.stderr.isatty():
        return Watches()
    from rich.console import Console
    from rich.progress import track

    def pictures(paths: Iterable[Path], done: int, total: int) -> Iterable[Path]:
        console = Console(stderr=True)
        return track(paths, "calibrating", total, completed=done, console=console, transient=True)

    def layers(names: Sequence[str]) -> Iterable[str]:
        return track(names, "sensitivity of each layer", console=Console(stderr=True), transient=True)

    return Watches(pictures, layers)
