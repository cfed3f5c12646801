"""Optimisation profiles: the least, usual and largest shape of each input whose shape is free.

TensorRT chooses kernels for a profile's usual shape, so each batch size that lanes run gets a profile of its own, which
also covers the batches between it and the next smaller one.
"""

from __future__ import annotations

from typing import Any

from eyas.cuda.lane import sizes
from eyas.errors import BackendError, OptionError, problem
from eyas.trt.options import Options, Shape
from eyas.types import BuildSpec

Batches = tuple[int, int, int]


def batches_of(spec: BuildSpec, tuned: bool) -> list[Batches]:
    """The least, usual and largest batch of each profile. tuned: whether kernels are chosen while building.

    Raises OptionError for the option `sizes`.
    """
    named, low = sizes(spec, None), spec.batch[0]
    if not tuned:
        return [(min(low, named[0]), *spec.batch[1:])]
    return [(min(low, size) if i == 0 else named[i - 1] + 1, size, size) for i, size in enumerate(named)]


def shapes_of(network: Any, batches: Batches, options: Options) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Input → its three shapes, for inputs with free dimensions. The first dimension takes `batches`.

    Raises OptionError where another dimension is free and `options.shapes` does not say what it may be, or where it
    contradicts the network.
    """
    found = {}
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        dims = tuple(tensor.shape)
        if -1 not in dims:
            continue
        if tensor.name in options.shapes:
            three = options.shapes[tensor.name]
            fits = len(three[0]) == len(dims)
            if not fits or any(d not in (-1, v) for s in three for d, v in zip(dims, s, strict=True)):
                _refuse(f"the shapes given for {tensor.name} do not fit it", three, f"shapes like {_shown(dims)}")
            found[tensor.name] = three
        elif -1 in dims[1:]:
            _refuse(f"the input {tensor.name} has free sizes", _shown(dims), "a range for them")
        else:
            low, usual, high = ((batch, *dims[1:]) for batch in batches)
            found[tensor.name] = (low, usual, high)
    return found


def add_profiles(builder: Any, config: Any, network: Any, spec: BuildSpec, options: Options, tuned: bool) -> None:
    """A profile for each of `batches_of`; one where `options.shapes` gives shapes, none where every shape is fixed."""
    for batches in batches_of(spec, tuned and not options.shapes):
        shapes = shapes_of(network, batches, options)
        if not shapes:
            return
        profile = builder.create_optimization_profile()
        for name, (low, usual, high) in shapes.items():
            profile.set_shape(name, low, usual, high)
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(
                problem("TensorRT refuses the range of shapes", got=shapes, expected="a valid profile", remedy="")
            )


def _shown(dims: Shape) -> str:
    return "[" + ", ".join("free" if d == -1 else str(d) for d in dims) + "]"


def _refuse(what: str, got: object, expected: str) -> None:
    remedy = "options={'shapes': {'input': ((1, 3, 320, 320), (1, 3, 640, 640), (1, 3, 960, 960))}} gives them."
    raise OptionError(problem(what, got=got, expected=expected, remedy=remedy))
