"""The tables of `eyas val`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

SIZES = {"small": "under 32² px", "medium": "32² to 96² px", "large": "over 96² px"}
WIDTH = 110  # columns where the output is no terminal


def print_report(report: dict[str, Any]) -> str:
    """The tables of a report as text, with colours on a terminal."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    parts = [_overall(report), _sizes(report), _classes(report)]
    if "vs" in report:
        parts = [_who(report), _versus(report), _versus_classes(report)]
    with console.capture() as shown:  # rich itself would end with its own exit code where the reader has gone
        for i, part in enumerate(parts):
            console.print(*([] if i == 0 else [""]), part, sep="\n")
    return "\n".join(line.rstrip() for line in shown.get().splitlines()) + "\n"


def _overall(r: dict[str, Any]) -> Table:
    rows = [
        ("mAP50-95", r["mAP50-95"], f"{r['images']} pictures, {r['instances']} objects, classes: {len(r['classes'])}"),
        ("mAP50", r["mAP50"], f"{r['data']} ({r['data_format']})"),
        ("mAP75", r["mAP75"], f"{r['model']} ({r['family']})"),
        *((f"AR{n}", r[f"AR{n}"], r["engine"] if n == 1 else "") for n in (1, 10, 100)),
        ("best F1", r["best_f1"], _at_best(r)),
    ]
    return _table(("measure", "value", ""), ((name, _share(value), note) for name, value, note in rows))


def _at_best(r: dict[str, Any]) -> str:
    return f"at --conf {r['best_f1_confidence']:.3f}: precision {_share(r['precision'])}, recall {_share(r['recall'])}"


def _sizes(r: dict[str, Any]) -> Table:
    rows = ((name, _share(r[f"mAP_{name}"]), _share(r[f"AR_{name}"]), note) for name, note in SIZES.items())
    return _table(("object size", "mAP50-95", "AR100", ""), rows)


def _classes(r: dict[str, Any]) -> Table:
    head = ("class", "pictures", "objects", "mAP50-95", "mAP50", "mAP75", "precision", "recall", "F1")
    shares = ("mAP50-95", "mAP50", "mAP75", "precision", "recall", "f1")
    best = sorted(r["classes"], key=lambda c: (-(c["mAP50-95"] or 0), c["name"]))
    rows = ((c["name"], str(c["images"]), str(c["instances"]), *(_share(c[k]) for k in shares)) for c in best)
    return _table(head, rows)


def _who(r: dict[str, Any]) -> Table:
    both = (("A", r), ("B", r["vs"]))
    rows = ((letter, Path(x["model"]).name, x["engine"], f"{x['seconds']:.1f} s") for letter, x in both)
    return _table(("", "model", "engine", "took"), rows)


def _versus(r: dict[str, Any]) -> Table:
    vs = r["vs"]
    names = {k: k for k in vs["difference"]} | {
        "best_f1": "best F1",
        "best_f1_confidence": "at confidence",
        "precision": "precision there",
        "recall": "recall there",
    }
    rows = [(names[k], _share(r[k]), _share(vs[k]), _signed(d)) for k, d in vs["difference"].items()]
    return _table(("measure", "A", "B", "B − A"), rows)


def _versus_classes(r: dict[str, Any]) -> Table:
    rows = (
        (c["name"], str(c["instances"]), _share(c["a"]), _share(c["b"]), _signed(c["difference"]))
        for c in r["vs"]["classes"]
    )
    return _table(("class", "objects", "A mAP50-95", "B mAP50-95", "B − A"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(head):
        table.add_column(
            name, justify="left" if i == 0 or name in ("", "model", "engine") else "right", no_wrap=bool(name)
        )
    for row in rows:
        table.add_row(*map(_escaped, row))
    return table


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"
