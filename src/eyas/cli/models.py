"""`eyas models`: which names there are; `pull`, `path` and `remove` for one of them."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eyas.store.manifest import Entry


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command, its own commands and their flags."""
    text = "models by name: list, download, find, remove"
    p = commands.add_parser("models", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("--format", choices=["table", "json"], default="table")
    p.set_defaults(run=run_list)
    inner = copy.deepcopy(common)
    for action in inner._actions:  # unless given again, a flag before the inner command holds
        action.default = argparse.SUPPRESS
    own = p.add_subparsers(title="commands", metavar="COMMAND")

    text = "every name, where it is, size and licence (what `eyas models` alone does, too)"
    p = own.add_parser("list", parents=[inner], help=text, description=text.capitalize() + ".")
    p.add_argument("--format", choices=["table", "json"], default=argparse.SUPPRESS)
    p.set_defaults(run=run_list)
    text = "download a model that a manifest names"
    p = own.add_parser("pull", parents=[inner], help=text, description=text.capitalize() + ".")
    p.add_argument("name", metavar="NAME")
    p.add_argument("--to", metavar="DIR", type=Path, help="into this folder (default: the download folder)")
    p.set_defaults(run=run_pull)
    text = "print the path of a model's file; nothing is downloaded"
    p = own.add_parser("path", parents=[inner], help=text, description=text.capitalize() + ".")
    p.add_argument("name", metavar="NAME")
    p.set_defaults(run=run_path)
    text = "delete a downloaded model"
    p = own.add_parser("remove", parents=[inner], help=text, description=text.capitalize() + ".")
    p.add_argument("name", metavar="NAME")
    p.set_defaults(run=run_remove)


def run_list(args: argparse.Namespace) -> int:
    """Print every name, in the order in which places are asked."""
    from eyas.store import known

    entries = known()
    if args.format == "json":
        print(json.dumps([_fields(e) for e in entries], indent=2, ensure_ascii=False))
        return 0
    rows = [("name", "where", "size", "licence"), *((e.name, _where(e), _size(e), e.licence or "?") for e in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def run_pull(args: argparse.Namespace) -> int:
    """Download one model and print its path."""
    from eyas.store import pull

    with _bar(args.name, quiet=args.quiet) as progress:
        path = pull(args.name, args.to, progress)
    print(path)
    return 0


def run_path(args: argparse.Namespace) -> int:
    """Print where a model is."""
    from eyas.store import resolve

    print(resolve(args.name).path)
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """Delete one model and print the files that are gone."""
    from eyas.store import remove

    for path in remove(args.name):
        print(path)
    return 0


def _fields(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "place": entry.place,
        "path": str(entry.path) if entry.path else None,
        "downloaded": entry.downloaded,
        "outdated": entry.outdated,
        "shadowed": entry.shadowed,
        "size_bytes": entry.size_bytes,
        "licence": entry.licence or None,
        "about": entry.about or None,
        "url": entry.url or None,
        "sha256": entry.sha256 or None,
    }


def _where(entry: Entry) -> str:
    notes = []
    if entry.kind in ("pulled", "manifest"):
        notes.append("downloaded" if entry.downloaded else "not downloaded")
    if entry.outdated:
        notes.append("outdated: pull again")
    if entry.shadowed:
        notes.append("shadowed")
    return f"{entry.place} ({', '.join(notes)})" if notes else entry.place


def _size(entry: Entry) -> str:
    return f"{entry.size_bytes / 1e6:.1f} MB" if entry.size_bytes else "?"


@contextmanager
def _bar(name: str, *, quiet: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """What `pull` tells its progress; it shows a bar on standard error if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    task = bar.add_task(name, total=None)

    def show(done: int, total: int | None) -> None:
        if bar.live.is_started:
            bar.update(task, completed=done, total=total)
        else:  # what an earlier run brought does not count for the speed
            bar.reset(task, completed=done, total=total)
            bar.start()

    try:
        yield show
    finally:
        bar.stop()
