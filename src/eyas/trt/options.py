"""What TensorRT can be told beyond `BuildSpec`'s own fields: `spec.options`, by name, checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from eyas.cuda.lane import sizes
from eyas.errors import OptionError, problem
from eyas.types import BuildSpec

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """One build.

    workspace_mib: most scratch memory on the GPU, None for all. optimisation_level: 0 (fast build) to 5, None for 3.
    tf32: let fp32 products round their inputs to 10 bits. sparse: use 2:4 sparse weights. detailed: keep what
    `eyas inspect` shows of each layer. version_compatible: the plan also runs on later versions of the same major.
    hardware: "ampere+" or "same" (compute capability) makes a plan that other GPUs can run. refit: weights can be
    replaced. strip: leave the weights out (they come back with a refit). dla_core: run on that core of a Jetson;
    gpu_fallback: layers that it lacks run on the GPU. plugins: libraries to load. timing_cache, runtime_cache: files;
    None for one in the cache folder, "" for none. shapes: input → (least, usual, largest) shape, where more than the
    batch is free. sizes: the batches that get a context, and in TensorRT a profile; see `eyas.cuda.lane.sizes`.
    contexts: executions side by side; None for 2 with the hint "throughput", else 1.
    """

    workspace_mib: int | None = None
    optimisation_level: int | None = None
    tf32: bool = False
    sparse: bool = False
    detailed: bool = True
    version_compatible: bool = False
    hardware: Literal["ampere+", "same"] | None = None
    refit: bool = False
    strip: bool = False
    dla_core: int | None = None
    gpu_fallback: bool = True
    plugins: tuple[str, ...] = ()
    timing_cache: str | None = None
    runtime_cache: str | None = None
    shapes: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    contexts: int | None = None

    @classmethod
    def of(cls, spec: BuildSpec) -> Options:
        """From `spec.options`. Raises OptionError for an unknown name or a value out of its range."""
        known = {f.name for f in fields(cls)}
        for name in spec.options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                remedy = f"Did you mean {near[0]}?" if near else ""
                _refuse("unknown option of TensorRT", repr(name), " | ".join(sorted(known)), remedy)
        values: dict[str, Any] = dict(spec.options)
        if "plugins" in values:
            values["plugins"] = tuple(map(str, values["plugins"]))
        if "sizes" in values:
            values["sizes"] = sizes(spec, None)
        if "shapes" in values:
            values["shapes"] = {n: tuple(tuple(s) for s in three) for n, three in values["shapes"].items()}
        return cls(**values)

    def __post_init__(self) -> None:
        limits: dict[str, tuple[int, int]] = {
            "workspace_mib": (1, 1 << 24),
            "optimisation_level": (0, 5),
            "dla_core": (0, 7),
            "contexts": (1, 64),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or not low <= value <= high):
                _refuse(f"{name} is out of range", value, f"a whole number from {low} to {high}", "")
        if self.hardware not in (None, "ampere+", "same"):
            _refuse("unknown hardware compatibility", repr(self.hardware), "ampere+ | same", "")
        if missing := [p for p in self.plugins if not Path(p).is_file()]:
            _refuse("a plug-in library is not there", missing[0], "the path of a shared library", "Check the path.")
        for name, three in self.shapes.items():
            ordered = len(three) == 3 and len({len(s) for s in three}) == 1
            if not ordered or not all(1 <= a <= b <= c for a, b, c in zip(*three, strict=True)):
                _refuse(f"the shapes of {name} are wrong", three, "least ≤ usual ≤ largest in every dimension", "")


def _refuse(what: str, got: object, expected: str, remedy: str) -> None:
    raise OptionError(problem(what, got=got, expected=expected, remedy=remedy))
