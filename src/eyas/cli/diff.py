"""`eyas diff A [B]`: two graphs, backends or precisions side by side, and the layer where they part."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.cli.model import add_network_flags, count
from eyas.errors import OptionError, problem

if TYPE_CHECKING:
    from eyas.build import Network
    from eyas.diff import Difference, Layer

SHOWN = 12


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "find the layer where two graphs or backends part"
    p = commands.add_parser("diff", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("a", metavar="A", help="an .onnx file or a model's name")
    p.add_argument("b", metavar="B", nargs="?", help="another form of the same network (default: A itself)")
    p.add_argument("--images", metavar="SOURCE", nargs="+", required=True, help="pictures, folders or globs")
    p.add_argument("--limit", type=count, default=8, metavar="N", help="only the first N pictures (default 8)")
    p.add_argument("--backend", metavar="NAME", help="what runs A (default: the best one here)")
    p.add_argument("--vs-backend", metavar="NAME", help="what runs B (default: the same)")
    p.add_argument("--precision", choices=["auto", "fp32", "fp16", "bf16"], default="fp32", help="of A (default fp32)")
    p.add_argument("--vs-precision", choices=["auto", "fp32", "fp16", "bf16"], help="of B (default: the same)")
    p.add_argument(
        "--threshold", type=float, default=0.01, metavar="T", help="relative error of a layer that departs (0.01)"
    )
    p.add_argument("--plot", metavar="FILE", type=Path, help="the errors of all layers, as .png")
    p.add_argument("--format", choices=["table", "json"], default="table")
    p.add_argument("--json", action="store_const", const="json", dest="format", help="same as --format json")
    add_network_flags(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and show; 1 where a layer departs."""
    from itertools import islice

    from eyas.diff import Side, compare
    from eyas.extras import need
    from eyas.files import make_folder, write_atomically
    from eyas.source import pictures

    if args.plot:
        if args.plot.suffix.lower() != ".png":
            raise OptionError(problem("--plot is no picture", got=args.plot, expected="a .png file", remedy=""))
        need("matplotlib", "val")
    if args.b is None and args.vs_backend in (None, args.backend) and args.vs_precision in (None, args.precision):
        raise OptionError(
            problem(
                "both sides are the same",
                got=f"{args.a} alone",
                expected="a second model, --vs-backend or --vs-precision",
                remedy=f"For instance: eyas diff {args.a} --vs-precision bf16 --images …",
            )
        )
    first = _network(args, args.a)
    second = first if args.b is None else _network(args, args.b)
    a = Side(first, args.backend, args.precision)
    b = Side(second, args.vs_backend or args.backend, args.vs_precision or args.precision)
    frames = (picture.load() for picture in islice(pictures(args.images), args.limit))
    result = compare(a, b, frames, args.threshold)
    if args.plot:
        from eyas.evaluation.plots import layer_errors

        make_folder(args.plot.parent)
        write_atomically(args.plot, layer_errors(result))
    if args.format == "json":
        print(json.dumps(result.report(), indent=1, ensure_ascii=False))
    else:
        sys.stdout.write(_table(result))
    return 1 if result.first() else 0


def _network(args: argparse.Namespace, model: str) -> Network:
    from eyas.build import open_network
    from eyas.card import read_names

    names = read_names(args.names) if args.names else None
    return open_network(model, family_name=args.family, names=names, size=args.imgsz, card=args.card)


def _table(result: Difference) -> str:
    """The first layers that depart, the network's outputs, and what was compared."""
    first = result.first()
    start = result.layers.index(first) if first else len(result.layers)
    shown = [*result.layers[start : start + SHOWN], *(r for r in result.layers[start + SHOWN :] if _is_end(result, r))]
    shown = shown if first else [layer for layer in result.layers if _is_end(result, layer)]
    lines = [
        f"A  {result.a}",
        f"B  {result.b}",
        f"{len(result.layers)} layers on {result.pictures} pictures; {result.unpaired} of A's are not in B",
        f"first to depart: {first.name} ({first.op})" if first else f"no layer departs by over {result.threshold:g}",
        f"{'layer':<52} {'operator':<14} {'rel. error':>10} {'SQNR dB':>8} {'largest':>10} {'of':>10}",
    ]
    for layer in shown:
        name = layer.name if len(layer.name) <= 52 else "…" + layer.name[-51:]
        lines.append(
            f"{name:<52} {layer.op:<14} {layer.relative:>10.5f} {layer.sqnr_db:>8.1f} "
            f"{layer.largest:>10.4g} {layer.scale:>10.4g}"
        )
    return "\n".join(lines) + "\n"


def _is_end(result: Difference, layer: Layer) -> bool:
    return layer.name in result.outputs
