"""`eyas inspect ENGINE|MODEL`: layers, precisions, sizes, memory; of an engine also what was fused and who built it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.cli.model import count

if TYPE_CHECKING:
    from eyas.engines.report import Inspection

SHOWN = 20


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "what is inside an engine or a model"
    p = commands.add_parser("inspect", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("model", metavar="ENGINE|MODEL", help="an engine file, an .onnx file or a model's name")
    p.add_argument("--json", action="store_true", help="everything, every layer, for programs")
    p.add_argument("--plot", metavar="PNG", type=Path, help="draw where weights and results are (needs eyas[val])")
    p.add_argument("--batch", type=count, default=1, metavar="N", help="of a model: pictures a call (default 1)")
    p.add_argument("--all", action="store_true", help="every layer, not only the largest")
    p.add_argument("--trust", action="store_true", help="open an engine that was not built here")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, print, draw."""
    from eyas.engines.report import inspect

    found = inspect(args.model, batch=args.batch, trust=args.trust)
    if args.plot:
        from eyas.engines.picture import draw_layers

        draw_layers(found, args.plot)
    if args.json:
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
        return 0
    for line in _table(found, args.all):
        print(line)
    return 0


def _table(found: Inspection, everything: bool) -> list[str]:
    from eyas.engines.layers import by_kind, by_precision

    lines = [f"{key:<12} {value}" for key, value in found.facts.items()]
    if not found.layers:
        return lines
    lines.append(f"{'layers':<12} {len(found.layers)}, {found.source}")
    for word, counts in (("operators", by_kind(found.layers)), ("precision", by_precision(found.layers))):
        shown = ", ".join(f"{n} {name}" for name, n in list(counts.items())[:8])
        lines.append(f"{word:<12} {shown}{' …' if len(counts) > 8 else ''}")
    rows = found.layers
    if not everything and len(rows) > SHOWN:
        rows = sorted(rows, key=lambda r: -(r.weight_bytes + r.output_bytes + len(r.fused)))[:SHOWN]
        lines.append(f"\nthe {SHOWN} largest (--all shows every one)")
    lines.append(f"{'layer':<44} {'operator':<18} {'type':<7} {'weights':>9} {'results':>9}  shape; fused")
    for r in rows:
        shape = "×".join(map(str, r.shape)) if r.shape else "-"
        fused = f"; {len(r.fused)} nodes" if len(r.fused) > 1 else ""
        sizes = f"{_kb(r.weight_bytes):>9} {_kb(r.output_bytes):>9}"
        lines.append(f"{r.name[-44:]:<44} {r.kind[:18]:<18} {r.precision:<7} {sizes}  {shape}{fused}")
    return lines


def _kb(size: int) -> str:
    return f"{size / 1e3:.1f} kB" if size else "-"
