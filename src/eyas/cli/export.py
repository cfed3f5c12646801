"""`eyas export FILE`: a PyTorch module as an ONNX network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from eyas.cli.model import size


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "turn a PyTorch module into an ONNX network"
    p = commands.add_parser("export", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("file", metavar="FILE", type=Path, help="TorchScript, an exported program (.pt2), or weights")
    p.add_argument("--factory", metavar="MODULE:CALLABLE", help="makes the module that the weights in FILE belong to")
    p.add_argument("-o", "--out", metavar="FILE", type=Path, help="the .onnx file (default: beside FILE)")
    p.add_argument("--imgsz", metavar="SIZE", type=size, default=(640, 640), help="640 or 384x640 (default 640)")
    p.add_argument("--family", metavar="NAME", help="how its outputs are decoded: yolov8, yolox, nanodet …")
    p.add_argument("--names", metavar="FILE", type=Path, help="class names, one a line")
    p.add_argument("--card", metavar="FILE", type=Path, help="a JSON model card; its fields win")
    wts = p.add_argument_group("the other way: weights as text (docs/wts.md)")
    wts.add_argument("--wts", action="store_true", help="write a .wts file of a YOLOv5, from ONNX or a state dict")
    wts.add_argument("--arch", metavar="NAME", help="yolov5n … yolov5x6 (default: what the weights fit)")
    wts.add_argument("--gd", type=float, metavar="F", help="with --arch: another depth multiple")
    wts.add_argument("--gw", type=float, metavar="F", help="with --arch: another width multiple")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, prove, write."""
    from eyas.card import read_card, read_names
    from eyas.export import PROOF, export, load_module

    if args.wts:
        return _run_wts(args)
    out = args.out or args.file.with_suffix(".onnx")
    card = export(
        load_module(args.file, args.factory),
        out,
        size=args.imgsz,
        names=read_names(args.names) if args.names else None,
        family=args.family,
        card=read_card(args.card) if args.card else None,
    )
    if not args.quiet:
        what = f"family {card.family}, {len(card.names)} classes" if card else "of no known family"
        batches = ", ".join(map(str, PROOF))
        print(f"eyas: {out}: {what}; equal to the module on batches of {batches}", file=sys.stderr)
    return 0


def _run_wts(args: argparse.Namespace) -> int:
    """Write the weights of an ONNX network or a state dict as a .wts file."""
    from eyas.export import load_weights
    from eyas.graph.network import read_network
    from eyas.wts.export import export_wts
    from eyas.wts.open import wanted_arch

    out = args.out or args.file.with_suffix(".wts")
    source = read_network(args.file) if args.file.suffix.lower() == ".onnx" else load_weights(args.file)
    weights = export_wts(source, out, wanted_arch(args.arch, args.gd, args.gw))
    if not args.quiet:
        print(f"eyas: {out}: {weights.arch.name}, {weights.classes} classes", file=sys.stderr)
    return 0
