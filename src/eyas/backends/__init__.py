"""What a backend module defines. One file each; `eyas.registry` finds them; the smallest is `null.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas import registry
from eyas.errors import BackendError, problem
from eyas.types import BuildSpec

log = logging.getLogger("eyas")


class Fitness(NamedTuple):
    """How well a backend suits this machine: the highest rank is chosen; 0 is never chosen unasked.

    A negative rank: it is installed but runs nothing here. The automatic choice passes it by and says so.
    """

    rank: int
    reason: str


Feeds = Mapping[str, NDArray[Any]]  # a deploy graph's inputs by name, each [B, …]; see `eyas.graph.surgery`


class Engine(Protocol):
    """A deploy graph ready to run. `infer` may be called from several threads at once."""

    @property
    def parallel(self) -> int:
        """How many calls of `infer` side by side keep the device busy."""

    @property
    def description(self) -> str:
        """Runtime, version, device and precision, in one line."""

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """The graph's inputs → its outputs, by name. Inputs are only read; outputs are the caller's."""

    def close(self) -> None:
        """Free what the engine holds; it cannot be used afterwards."""


class Backend(Protocol):
    """A module with these functions.

    Where compiling takes long it also says `CACHED = True`: `eyas.load` then keeps what `compile` gives.
    """

    def missing(self) -> str | None:
        """None where the runtime is installed, else the pip line that installs it."""

    def version(self) -> str:
        """The installed runtime's version; imports it."""

    def fitness(self) -> Fitness:
        """How well it suits this machine; imports the runtime."""

    def compile(self, model: onnx.ModelProto, spec: BuildSpec) -> bytes:
        """Compile a deploy graph into what can be stored and loaded later. Raises BackendError."""

    def load_engine(self, plan: bytes, spec: BuildSpec) -> Engine:
        """Make an engine of what `compile` gave for the same specification. A plan is executable code: whoever calls
        this has checked where it comes from (`eyas.engines`). Raises BackendError.
        """

    def open_engine(self, model: onnx.ModelProto, spec: BuildSpec) -> Engine:
        """Compile a deploy graph for this machine and load it. Raises BackendError."""

    def device_key(self, spec: BuildSpec) -> str:
        """A word for the devices that a plan of this specification runs on; plans are kept apart by it."""


def backend(name: str) -> Backend:
    """One backend by name. Raises OptionError if unknown, BackendError if its runtime is not installed."""
    module = cast(Backend, registry.get("backends", name))
    if remedy := module.missing():
        raise BackendError(
            problem(f"backend {name} is not installed", got="no such package", expected="its runtime", remedy=remedy)
        )
    return module


@dataclass(frozen=True, slots=True)
class Candidate:
    """One line of `eyas backends`."""

    name: str
    version: str
    rank: int
    reason: str


def candidates() -> list[Candidate]:
    """Every backend with what it would do here, best first."""
    found = []
    for name in registry.names("backends"):
        try:
            module = cast(Backend, registry.get("backends", name))
            if remedy := module.missing():
                found.append(Candidate(name, "-", -1, f"not installed: {remedy}"))
            else:
                found.append(Candidate(name, module.version(), *module.fitness()))
        except Exception as error:  # a broken runtime may raise anything and must not hide the others
            found.append(Candidate(name, "-", -1, f"broken: {error}"))
    return sorted(found, key=lambda c: -c.rank)


def choose(name: str | None = None) -> tuple[str, Backend]:
    """The backend that was asked for, else the fittest installed one; the choice and its reason are logged."""
    if name is not None:
        log.info("backend %s: asked for", name)
        return name, backend(name)
    found = candidates()
    best = found[0]
    for c in found:
        if c.rank < 0 and c.version != "-":  # installed and whole, but nothing for this machine
            log.info("backend %s: passed by: %s", c.name, c.reason)
    if best.rank <= 0:
        raise BackendError(
            problem("no backend is installed", got="none", expected="at least one", remedy="pip install openvino")
        )
    log.info("backend %s: %s", best.name, best.reason)
    return best.name, backend(best.name)


def check_precision(spec: BuildSpec, able: Mapping[str, Any], where: str) -> None:
    """Raise BackendError unless the precision asked for is among `able` (or "auto")."""
    if spec.precision != "auto" and spec.precision not in able:
        raise BackendError(
            problem(
                f"{where} cannot run {spec.precision}",
                got=f"--precision {spec.precision}",
                expected=" | ".join(["auto", *able]),
                remedy="Leave the precision out, or choose another backend (`eyas backends`).",
            )
        )


def infer_in_steps(
    run: Callable[[Feeds], dict[str, NDArray[Any]]], feeds: Feeds, fixed: int | None
) -> dict[str, NDArray[Any]]:
    """Run any number of images on a graph of a fixed batch; the last step is filled up and what it adds is cut off."""
    count = len(next(iter(feeds.values())))
    if fixed in (None, count):
        return run(feeds)
    parts = []
    for i in range(0, count, fixed):
        now = {name: array[i : i + fixed] for name, array in feeds.items()}
        if short := i + fixed - count if i + fixed > count else 0:
            now = {name: np.concatenate([a, np.repeat(a[-1:], short, axis=0)]) for name, a in now.items()}
        parts.append({name: array[: fixed - short] for name, array in run(now).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
