"""What a backend module defines. One file each; `eyas.registry` finds them; the smallest is `null.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas import registry
from eyas.errors import BackendError, problem
from eyas.types import BuildSpec, Image

log = logging.getLogger("eyas")


class Fitness(NamedTuple):
    """How well a backend suits this machine: the highest rank is chosen; 0 is never chosen unasked."""

    rank: int
    reason: str


@dataclass(frozen=True, slots=True)
class Outputs:
    """A deploy graph's results, owned by the caller: [B, K, 6] float32, [B] int32, [B] bool."""

    detections: NDArray[np.float32]
    count: NDArray[np.int32]
    converged: NDArray[np.bool_]


class Engine(Protocol):
    """A deploy graph ready to run. `infer` may be called from several threads at once."""

    @property
    def parallel(self) -> int:
        """How many calls of `infer` side by side keep the device busy."""

    @property
    def description(self) -> str:
        """Runtime, version, device and precision, in one line."""

    def infer(self, images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        """images uint8 [B, H, W, 3] and thresholds float32 [B, 2] → results; inputs are only read."""

    def close(self) -> None:
        """Free what the engine holds; it cannot be used afterwards."""


class Backend(Protocol):
    """A module with these functions."""

    def missing(self) -> str | None:
        """None where the runtime is installed, else the pip line that installs it."""

    def version(self) -> str:
        """The installed runtime's version; imports it."""

    def fitness(self) -> Fitness:
        """How well it suits this machine; imports the runtime."""

    def open_engine(self, model: onnx.ModelProto, spec: BuildSpec) -> Engine:
        """Compile a deploy graph for this machine. Raises BackendError."""


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
    best = candidates()[0]
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
    run: Callable[[Image, NDArray[np.float32]], Sequence[NDArray[Any]]],
    images: Image,
    thresholds: NDArray[np.float32],
    fixed: int | None,
) -> Outputs:
    """Run any number of images on a graph of a fixed batch; the last step is filled up and what it adds is cut off."""
    step = fixed or len(images)
    parts = []
    for i in range(0, len(images), step):
        now, limits = images[i : i + step], thresholds[i : i + step]
        if short := step - len(now):
            now = np.concatenate([now, np.repeat(now[-1:], short, axis=0)])
            limits = np.concatenate([limits, np.repeat(limits[-1:], short, axis=0)])
        parts.append([output[: step - short] for output in run(now, limits)])
    return Outputs(*(parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))))
