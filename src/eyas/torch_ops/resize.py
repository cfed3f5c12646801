"""Resize: nearest and linear, at the very positions of the ONNX specification; and GridSample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from eyas.torch_ops.node import Node, Run, Tensor
from eyas.torch_ops.shapes import indexed

Floats = NDArray[np.float32]
# Where an output's element i lies in the input. s: output size / input size; n, m: the input's and the output's size.
PLACES: dict[str, Callable[[Floats, np.float32, int, int], Floats]] = {
    "half_pixel": lambda i, s, n, m: (i + np.float32(0.5)) / s - np.float32(0.5),
    "pytorch_half_pixel": lambda i, s, n, m: (i + np.float32(0.5)) / s - np.float32(0.5) if m > 1 else i * 0,
    "align_corners": lambda i, s, n, m: i * np.float32(n - 1) / np.float32(m - 1) if m > 1 else i * 0,
    "asymmetric": lambda i, s, n, m: i / s,
}
ROUND: dict[str, Callable[[Floats], Floats]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def resize(n: Node) -> Run:
    """Whole-number nearest and the usual bilinear are torch's kernels; all else is worked out axis by axis."""
    mode, place = n.get("mode", "nearest"), n.get("coordinate_transformation_mode", "half_pixel")
    said = f"mode {mode}, coordinates {place}"
    if mode not in ("nearest", "linear") or place not in PLACES or n.get("antialias", 0):
        raise n.refuse(said + (", antialias" if n.get("antialias", 0) else ""))
    if n.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise n.refuse(f"{said}, {n.get('keep_aspect_ratio_policy')}")
    sizes, scales = _target(n)
    have = n.shape()
    changed = [i for i in range(len(have)) if sizes[i] != have[i] or scales[i] != 1]
    if mode == "nearest":
        return _nearest(n, sizes, scales, changed, place)
    if changed == [2, 3] and len(have) == 4 and _as_torch(have, sizes, scales, place):
        corners = place == "align_corners"
        return lambda x, *_: n.F.interpolate(x, sizes[2:], mode="bilinear", align_corners=corners)
    taps = {i: _taps(PLACES[place](_range(sizes[i]), scales[i], have[i], sizes[i]), have[i]) for i in changed}
    return _blended(n, taps)


def _target(n: Node) -> tuple[list[int], list[np.float32]]:
    """Sizes and scales of every axis."""
    have = n.shape()
    for i, unused in enumerate(n.inputs):
        if i and unused is not None and n.known(i):
            n.value(i)  # none of them is read when it runs
    axes = [a % len(have) for a in n.get("axes", range(len(have)))]
    sizes, scales = list(have), [np.float32(1)] * len(have)
    if n.has(3) and n.shape(3) != (0,):
        for axis, size in zip(axes, n.ints(3), strict=True):
            sizes[axis], scales[axis] = size, np.float32(size) / np.float32(have[axis])
        return sizes, scales
    at = 2 if len(n.inputs) > 2 else 1
    for axis, scale in zip(axes, n.value(at).tolist(), strict=True):
        sizes[axis], scales[axis] = int(np.floor(np.float32(have[axis]) * np.float32(scale))), np.float32(scale)
    return sizes, scales


def _range(size: int) -> Floats:
    return np.arange(size, dtype=np.float32)


def _nearest(n: Node, sizes: list[int], scales: list[np.float32], changed: list[int], place: str) -> Run:
    rounded = ROUND.get(n.get("nearest_mode", "round_prefer_floor"))
    if rounded is None:
        raise n.refuse(f"nearest_mode {n.get('nearest_mode')}")
    have, index = n.shape(), {}
    for i in changed:
        at = rounded(PLACES[place](_range(sizes[i]), scales[i], have[i], sizes[i]))
        index[i] = np.clip(at, 0, have[i] - 1).astype(np.int64)
    plain = all(np.array_equal(ix, np.arange(sizes[i]) * have[i] // sizes[i]) for i, ix in index.items())
    whole = all(sizes[i] % have[i] == 0 for i in changed)
    if plain and whole and len(have) == 4 and all(i >= 2 for i in changed):
        return lambda x, *_: n.F.interpolate(x, sizes[2:], mode="nearest")
    return indexed(n, index)


def _as_torch(have: tuple[int, ...], sizes: list[int], scales: list[np.float32], place: str) -> bool:
    """Whether torch's positions are these: it divides the sizes, whatever scale was asked for."""
    exact = all(np.isclose(sizes[i], have[i] * float(scales[i]), rtol=1e-6, atol=0) for i in (2, 3))
    single = any(sizes[i] == 1 for i in (2, 3))  # pytorch_half_pixel and align_corners have rules of their own
    return (
        place == "align_corners"
        or (exact and place == "half_pixel")
        or (exact and place == "pytorch_half_pixel" and not single)
    )


def _taps(at: Floats, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The two neighbours along an axis, and the second one's weight."""
    at = np.clip(at, 0, size - 1)
    low = np.floor(at)
    return low.astype(np.int64), np.minimum(low + 1, size - 1).astype(np.int64), (at - low).astype(np.float32)


def _blended(n: Node, taps: dict[int, tuple[NDArray[np.int64], NDArray[np.int64], Floats]]) -> Run:
    torch, rank = n.torch, len(n.shape())
    places = []
    for axis, (low, high, weight) in taps.items():
        numbers = torch.from_numpy(weight).to(n.inputs[0].dtype)
        shaped = numbers.reshape([-1 if i == axis else 1 for i in range(rank)])
        places.append((axis, *(n.attach(t) for t in (torch.from_numpy(low), torch.from_numpy(high), shaped))))

    def run(*args: Tensor) -> Tensor:
        x = args[0]
        for axis, low, high, weight in places:
            x = torch.lerp(x.index_select(axis, args[low]), x.index_select(axis, args[high]), args[weight])
        return x

    return run


def grid_sample(n: Node) -> Run:
    """Its modes are torch's, by other names."""
    modes = {"linear": "bilinear", "cubic": "bicubic"}
    mode = n.get("mode", "linear")
    settings = {"padding_mode": n.get("padding_mode", "zeros"), "align_corners": bool(n.get("align_corners", 0))}
    return lambda x, grid: n.F.grid_sample(x, grid, mode=modes.get(mode, mode), **settings)


RESIZES: dict[str, Callable[[Node], Run]] = {"Resize": resize, "GridSample": grid_sample}
