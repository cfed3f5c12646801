"""`eyas cache list` and `eyas cache prune`: the engines that `eyas.load` keeps."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from typing import Any

from eyas.errors import problem

UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
PERIODS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare both commands and their flags."""
    text = "the engines that are kept between runs"
    p = commands.add_parser("cache", help=text, description=text.capitalize() + ".")
    inner = p.add_subparsers(title="commands", required=True, metavar="COMMAND")
    show = inner.add_parser("list", parents=[common], help="what is kept", description="What is kept.")
    show.add_argument("--format", choices=["table", "json"], default="table")
    show.set_defaults(run=run_list)
    tidy = inner.add_parser("prune", parents=[common], help="delete engines", description="Delete engines.")
    tidy.add_argument("--max-size", type=size, metavar="SIZE", help="keep at most 500M, 2G: the most recently used")
    tidy.add_argument("--older-than", type=period, metavar="TIME", help="delete what was not used for 30d, 12h")
    tidy.set_defaults(run=run_prune)


def run_list(args: argparse.Namespace) -> int:
    """Print every cached engine, most recently used first."""
    from eyas.engines.cache import entries
    from eyas.engines.folder import cache_folder

    found = entries()
    if args.format == "json":
        rows = [
            {"path": str(e.path), "bytes": e.size, "used": round(e.used), "backend": e.sidecar.backend}
            | {"version": e.sidecar.backend_version, "device": e.sidecar.device_key, "spec": e.sidecar.spec}
            for e in found
        ]
        print(json.dumps(rows, indent=2))
        return 0
    for e in found:
        days = (time.time() - e.used) / PERIODS["d"]
        s = e.sidecar
        print(
            f"{e.path.stem:<33} {e.size / 1e6:8.1f} MB {days:6.1f} d  {s.backend} {s.backend_version}, {s.device_key}"
        )
    print(
        f"{len(found)} engine{'s' * (len(found) != 1)}, {sum(e.size for e in found) / 1e6:.1f} MB in {cache_folder()}"
    )
    return 0


def run_prune(args: argparse.Namespace) -> int:
    """Delete, and say how much."""
    from eyas.engines.cache import prune
    from eyas.errors import OptionError

    if args.max_size is None and args.older_than is None:
        raise OptionError(
            problem("nothing to do", got="no limit", expected="--max-size or --older-than", remedy="0M deletes all.")
        )
    gone = prune(args.max_size, args.older_than)
    if not args.quiet:
        print(f"eyas: {len(gone)} file{'s' * (len(gone) != 1)} deleted", file=sys.stderr)
    return 0


def size(text: str) -> int:
    """500M → 500,000,000 bytes."""
    return int(_with_unit(text, UNITS, "500M or 2G"))


def period(text: str) -> float:
    """12h → seconds."""
    return _with_unit(text, PERIODS, "30d or 12h")


def _with_unit(text: str, units: dict[str, Any], expected: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z])b?", text.lower())
    if not match or match[2] not in units:
        raise argparse.ArgumentTypeError(problem("not a limit", got=text, expected=expected, remedy=""))
    return float(match[1]) * float(units[match[2]])
