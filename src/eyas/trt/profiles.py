"""Optimisation profiles: the least, usual and largest shape of each input whose shape is free."""

from __future__ import annotations

from typing import Any

from eyas.errors import BackendError, OptionError, problem
from eyas.trt.options import Options, Shape
from eyas.types import BuildSpec


def shapes_of(network: Any, spec: BuildSpec, options: Options) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Input → its three shapes, for inputs with free dimensions. The first dimension takes `spec.batch`.

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
            low, usual, high = ((batch, *dims[1:]) for batch in spec.batch)
            found[tensor.name] = (low, usual, high)
    return found


def add_profile(builder: Any, config: Any, shapes: dict[str, tuple[Shape, Shape, Shape]]) -> None:
    """One profile for all inputs; none where every shape is fixed."""
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
