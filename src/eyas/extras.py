"""Packages that only some commands need: fetched on use, with the pip line where one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from eyas.errors import EyasError, problem


def need(module: str, extra: str) -> Any:
    """The module, which eyas' `extra` brings. Raises EyasError with the line that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise EyasError(
            problem(
                "a package is missing",
                got=str(error),
                expected=f"what the extra `{extra}` brings",
                remedy=f"pip install 'eyas[{extra}]'",
            )
        ) from error
