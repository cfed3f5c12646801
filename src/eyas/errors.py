"""Every exception that eyas raises on purpose.

    EyasError
    ├── SourceError      a path, folder, glob, stream or array that cannot be used
    │   └── ImageError   one picture that cannot be read (others of the same run still can)
    ├── ModelError       a model file that cannot be read or understood
    │   └── CardError    what the network is could not be settled, or contradicts its graph
    ├── BackendError     a runtime that is missing, refuses the model, or fails on it
    ├── SinkError        a result that cannot be written
    ├── DataError        labels that cannot be read or do not fit the model
    ├── BusyError        a request that was refused or pushed out, because too many wait
    ├── DeadlineError    a request whose time was over before an engine was free
    └── OptionError      a setting out of its range

Each message says what was got, what was expected and what to do: `problem()` writes it so.
"""

from __future__ import annotations


class EyasError(Exception):
    """Root of the tree; the command line prints it without a traceback."""


class SourceError(EyasError):
    """A path, folder, glob, stream or array cannot be used."""


class ImageError(SourceError):
    """One picture cannot be read."""


class ModelError(EyasError):
    """A model file cannot be read or understood."""


class CardError(ModelError):
    """What the network is could not be settled, or contradicts its graph."""


class BackendError(EyasError):
    """A runtime is missing, refuses the model, or fails on it."""


class SinkError(EyasError):
    """A result cannot be written."""


class DataError(EyasError):
    """Labelled data cannot be read, contradicts itself, or does not fit the model."""


class BusyError(EyasError):
    """Too many requests wait: this one was refused, or pushed out by a newer one."""


class DeadlineError(EyasError, TimeoutError):
    """A request's time was over before an engine was free."""


class OptionError(EyasError, ValueError):
    """A setting is out of its range."""


def problem(what: str, *, got: object, expected: str, remedy: str) -> str:
    """One message in the shape that every error of eyas has."""
    return f"{what}: got {got}; expected {expected}. {remedy}".rstrip()
