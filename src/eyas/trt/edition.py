"""Which TensorRT this is, and what it can do. Everything that depends on the version asks here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from eyas.errors import BackendError, problem

log = logging.getLogger("eyas")
Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Edition:
    """One installed TensorRT.

    trt: the module. name: for people. version: (major, minor, patch). rtx: whether it is TensorRT-RTX, which compiles
    kernels where they run and so builds without a GPU.
    """

    trt: Any
    name: str
    version: Version
    rtx: bool

    @classmethod
    def of(cls, trt: Any) -> Edition:
        """The edition of a trt module. Raises BackendError below 8.6."""
        version = tuple(int(part) for part in str(trt.__version__).split(".")[:3] if part.isdecimal())
        rtx = str(trt.__name__).startswith("tensorrt_rtx")
        name = "TensorRT-RTX" if rtx else "TensorRT"
        if not rtx and version < (8, 6):
            raise BackendError(
                problem(
                    f"this {name} is too old",
                    got=trt.__version__,
                    expected="8.6 or newer",
                    remedy="Install a newer one: JetPack 6 brings 8.6, `pip install 'eyas[tensorrt]'` the latest.",
                )
            )
        return cls(trt, name, version, rtx)

    @property
    def title(self) -> str:
        """Name and version, such as "TensorRT-RTX 1.7.1"."""
        return f"{self.name} {'.'.join(map(str, self.version))}"

    @property
    def strongly_typed(self) -> bool:
        """Whether precision is the graph's alone. Since 10; in 11 nothing else is left."""
        return self.rtx or self.version >= (10,)

    @property
    def shares_profiles(self) -> bool:
        """Whether several contexts may use one optimisation profile at once. Since 10."""
        return self.rtx or self.version >= (10,)

    def member(self, enum: str, name: str) -> Any:
        """A member of one of the module's enumerations, None where this version lacks it."""
        return getattr(getattr(self.trt, enum, None), name, None)

    def need(self, enum: str, name: str, what: str) -> Any:
        """The same, but BackendError where it is missing. what: the option that asked for it."""
        found = self.member(enum, name)
        if found is None:
            self.refuse(what, f"no {enum}.{name}")
        return found

    def refuse(self, what: str, why: str, remedy: str = "Leave it out, or choose another edition.") -> None:
        """Raise BackendError: this edition cannot do what an option asks for."""
        raise BackendError(
            problem(f"{self.title} cannot do {what}", got=why, expected="another edition", remedy=remedy)
        )


def new_logger(trt: Any) -> Any:
    """A logger for TensorRT that hands everything to the log "eyas" and keeps the errors in its list `errors`."""

    class Collector(trt.ILogger):  # type: ignore[misc] # the base is only known at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= 1:  # INTERNAL_ERROR, ERROR
                self.errors.append(msg)
            if int(severity) <= 2:
                log.debug("%s: %s", trt.__name__, msg)

    return Collector()
