"""How commands show what they found: a table on standard output, and counts of classes in a sentence."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

NAMED = 6  # classes; the others are counted together


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], style: Callable[[Sequence[str]], str | None] | None = None
) -> None:
    """Print rows under their columns. style: rich's word for how a row looks on a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row), style=style(row) if style else None)
    console = Console()
    if not console.is_terminal:  # a pipe or a file has no width to wrap at
        console = Console(width=1_000_000)
    with console.capture() as shown:  # rich itself would end with its own exit code where the reader has gone
        console.print(table)
    sys.stdout.write(shown.get())


def counted(found: Counter[str]) -> str:
    """The commonest classes and how many of each: "2 person, 1 dog"; "nothing"."""
    what = ", ".join(f"{n} {name}" for name, n in found.most_common(NAMED)) or "nothing"
    return what + (f" and {len(found) - NAMED} other classes" if len(found) > NAMED else "")
