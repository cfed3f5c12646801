"""The command `eyas`: one module per group of commands, each with `add(subparsers)` that names its `run(args)`.

Nothing heavy is imported before a command runs, so that `eyas --help` is quick. Results go to standard output,
everything said about them to standard error. Exit codes: 0 all went well; 1 some pictures failed; 2 nothing could
be done; 130 interrupted (Ctrl-C), 143 ended (SIGTERM).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from eyas import __version__
from eyas.cli import (
    bench,
    build,
    cache,
    diff,
    doctor,
    export,
    faces,
    info,
    inspect,
    models,
    predict,
    quantize,
    trace,
    track,
    val,
    verify,
)
from eyas.cli.interrupts import Terminated, raised_between_hand_overs
from eyas.cli.table import printable
from eyas.errors import EyasError

GROUPS = (
    predict,
    track,
    val,
    bench,
    trace,
    faces,
    info,
    doctor,
    export,
    build,
    inspect,
    verify,
    cache,
    quantize,
    diff,
    models,
)


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = argparse.ArgumentParser(prog="eyas", description="Make a trained vision network fast, and run it.")
    top.add_argument("--version", action="version", version=f"eyas {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    loudness = common.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="say nothing but results and errors")
    loudness.add_argument("-v", "--verbose", action="store_true", help="say more, and show tracebacks")
    for group in GROUPS:
        group.add(commands, common)
    return top


class _OneLine(logging.Formatter):
    """A message a line, whatever the names of files in it hold; a traceback stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line."""
        return printable(super().formatMessage(record))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = parser().parse_args(argv)
    level = logging.WARNING if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("eyas: %(message)s"))
    logger = logging.getLogger("eyas")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
    try:
        with raised_between_hand_overs():
            code = int(args.run(args))
        sys.stdout.flush()
        return code
    except EyasError as error:
        if args.verbose:
            raise
        print("\n".join(map(printable, f"eyas: {error}".split("\n"))), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("eyas: interrupted; what was finished is kept", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except BrokenPipeError:  # `eyas … | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
