"""`eyas verify ENGINE`: an engine beside its fp32 network on real pictures, on the machine where it runs."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.cli.model import count

if TYPE_CHECKING:
    from eyas.predictor import Model


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "check an engine against its fp32 network"
    p = commands.add_parser("verify", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("model", metavar="ENGINE|MODEL", help="what `eyas build` wrote, or a model and how to run it")
    p.add_argument("--images", metavar="SOURCE", nargs="+", required=True, help="pictures, folders or globs")
    p.add_argument("--limit", type=count, default=100, metavar="N", help="only the first N pictures (default 100)")
    p.add_argument("--backend", metavar="NAME", help="what runs a MODEL (default: the best one here)")
    p.add_argument("--precision", choices=["auto", "fp32", "fp16", "bf16"], default="auto", help="of a MODEL")
    p.add_argument("--reference", metavar="MODEL", help="what is trusted (default: what the engine was built from)")
    p.add_argument("--reference-backend", metavar="NAME", default="onnxruntime", help="what runs it, in fp32")
    p.add_argument("--min-found", type=float, default=0.98, metavar="S", help="share of objects found (default 0.98)")
    p.add_argument("--min-iou", type=float, default=0.9, metavar="T", help="of 19 in 20 pairs (default 0.9)")
    p.add_argument("--max-score", type=float, default=0.05, metavar="D", help="off, of 19 in 20 (default 0.05)")
    p.add_argument("--trust", action="store_true", help="open an engine that was not signed here")
    p.add_argument("--format", choices=["table", "json"], default="table")
    p.add_argument("--json", action="store_const", const="json", dest="format", help="same as --format json")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print, judge: 0 good, 1 not."""
    from itertools import islice

    from eyas.engines.open import is_engine
    from eyas.loading import load
    from eyas.source import pictures
    from eyas.verify import Limits, verify

    built = is_engine(Path(args.model))
    limits = Limits(found=args.min_found, iou=args.min_iou, score=args.max_score)
    with ExitStack() as stack:
        model = stack.enter_context(
            load(args.model, trust=args.trust)
            if built
            else load(args.model, backend=args.backend, precision=args.precision, hint="latency")
        )
        reference = stack.enter_context(_reference(args, built))
        frames = (picture.load() for picture in islice(pictures(args.images), args.limit))
        verdict = verify(model, reference, frames, limits)
    if args.format == "json":
        print(json.dumps(verdict.report(), indent=1, ensure_ascii=False))
        return 0 if verdict.good else 1
    missed = dict(verdict.failed)
    print(f"engine     {verdict.engine}\nreference  {verdict.reference}\npictures   {verdict.pictures}")
    for name, value in verdict.figures.items():
        note = f"  misses {missed[name]:g}" if name in missed else ""
        print(f"{name:<27} {value:.4f}{note}")
    print("verdict: good" if verdict.good else "verdict: NOT good")
    return 0 if verdict.good else 1


def _reference(args: argparse.Namespace, built: bool) -> Model:
    """The trusted side, in fp32."""
    from eyas.card import card_from_dict
    from eyas.engines.open import checked_sidecar, kept_graph
    from eyas.loading import load
    from eyas.predictor import Model
    from eyas.types import BuildSpec

    if args.reference or not built:
        return load(args.reference or args.model, backend=args.reference_backend, precision="fp32", hint="latency")
    path = Path(args.model)
    sidecar = checked_sidecar(path, args.trust)
    card, graph = card_from_dict(sidecar.card), kept_graph(path, sidecar)
    return Model(card, graph, sidecar.head_spec(), BuildSpec("fp32"), args.reference_backend, "latency")
