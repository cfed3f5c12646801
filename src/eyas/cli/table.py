"""How commands show what they found: a table on standard output, and counts of classes in a sentence."""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

NAMED = 6  # classes; the others are counted together
_UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories: controls, lone surrogates, ends of lines, of paragraphs


def printable(text: str) -> str:
    r"""The text in one line: a newline in a file's name is shown as \n, other controls alike."""
    shown = (c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSEEN else c for c in text)
    return "".join(shown)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], style: Callable[[Sequence[str]], str | None] | None = None
) -> None:
    """Print rows under their columns, cells as `printable`. style: rich's word for how a row looks on a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row), style=style(row) if style else None)
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
