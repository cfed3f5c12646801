"""`eyas info MODEL` and `eyas backends`: what a network is taken for, and what would run it here."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from eyas.cli.model import add_network_flags


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare both commands and their flags."""
    p = commands.add_parser("info", parents=[common], help="what a model is", description="What a model is.")
    p.add_argument("model", metavar="MODEL", help="an .onnx file or a model's name (`eyas models`)")
    p.add_argument("--format", choices=["table", "json"], default="table", help="json: a card that --card takes")
    add_network_flags(p)
    p.set_defaults(run=run_info)
    text = "what is installed, what would be chosen here and why"
    p = commands.add_parser("backends", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("--format", choices=["table", "json"], default="table")
    p.set_defaults(run=run_backends)


def run_info(args: argparse.Namespace) -> int:
    """Print the card and what the graph says."""
    from eyas.build import open_network
    from eyas.card import card_to_dict, read_names

    network = open_network(
        args.model,
        family_name=args.family,
        names=read_names(args.names) if args.names else None,
        size=args.imgsz,
        card=args.card,
    )
    card, facts = network.card, network.facts
    if args.format == "json":
        print(json.dumps(card_to_dict(card), indent=2, ensure_ascii=False))
        return 0
    shown = ", ".join(card.names[:6]) + (" …" if len(card.names) > 6 else "")
    rows = {
        "model": args.model,
        "family": f"{card.family} ({card.task})",
        "network": facts.describe(),
        "batch": f"fixed to {facts.batch}" if facts.batch else "free",
        "operators": f"{len(network.model.graph.node)}, opset {network.model.opset_import[0].version}",
        "input size": f"{card.input_size[0]} × {card.input_size[1]} (height × width)",
        "resize": f"{card.resize}, padding {card.pad_value}",
        "normalise": f"{card.normalise.colour}, (p − {_short(card.normalise.mean)}) · {_short(card.normalise.scale)}",
        "classes": f"{len(card.names)}: {shown}",
        "NMS threshold": str(card.iou),
        "parameters": json.dumps(card.params) if card.params else "none",
    }
    for key, value in rows.items():
        print(f"{key:<14} {value}")
    return 0


def _short(values: tuple[float, float, float]) -> str:
    return "[" + " ".join(f"{v:.5g}" for v in values) + "]"


def run_backends(args: argparse.Namespace) -> int:
    """Print every backend, best first."""
    from eyas.backends import candidates

    found = candidates()
    if args.format == "json":
        print(json.dumps([asdict(c) for c in found], indent=2))
        return 0
    for i, c in enumerate(found):
        mark = "→" if i == 0 and c.rank > 0 else " "
        print(f"{mark} {c.name:<14} {c.version:<12} {c.reason}")
    return 0
