"""From the tensors of a .wts file to the weights of a network: names and counts checked, BatchNorm folded.

Per convolution a file holds either its weights and the BatchNorm behind it, as a checkpoint does, or weights and bias,
as a fused model does. Folding (Ioffe and Szegedy, "Batch Normalization", 2015, §3.1; YOLOv5 trains with ε = 10⁻³):

    w' = w · γ / √(σ² + ε)      b' = β − μ · γ / √(σ² + ε)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError, problem
from eyas.families.yolov5 import ANCHORS
from eyas.wts.arch import ARCHES, Arch
from eyas.wts.fit import Tensors, fitting
from eyas.wts.walk import ANCHORS_A_CELL, Conv, convolutions

EPSILON = 1e-3
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
Floats = NDArray[np.float32]
_FEW = 3  # names in a message


@dataclass(frozen=True, slots=True)
class Weights:
    """All that a network needs. convs: name of `Conv` → weights [out, in, k, k] and bias [out], float32, folded.

    anchors: [strides, 3, 2], width and height in pixels of the input.
    """

    arch: Arch
    classes: int
    convs: Mapping[str, tuple[Floats, Floats]]
    anchors: Floats


def settle(tensors: Tensors, arch: Arch | None = None, classes: int | None = None) -> Weights:
    """The weights of `arch` (None: the one that fits) with `classes` classes (None: as many as the weights have).

    tensors: as `read_wts` gives them, flat, or with PyTorch's shapes. Nothing of them is left over or made up. Raises
    ModelError: another architecture (with the one that fits), another number of classes, a tensor too many or too few,
    one of another shape.
    """
    tensors = plain_names(tensors)
    arch = arch or fitting(tensors)
    if arch is None:
        raise ModelError(
            problem(
                "these weights are no YOLOv5 of release 6.0 to 7.0",
                got=_summary(tensors),
                expected="the tensors of a detector whose first convolution is 6 × 6",
                remedy=_hint(tensors),
            )
        )
    found = _check_classes(tensors, arch, classes)
    wanted, fused = convolutions(arch, found), not any(".bn." in name for name in tensors)
    names = expected(wanted, fused)
    _check_names(tensors, arch, names)
    for name, shape in names.items():
        _check_shape(name, tensors[name], shape, arch, tensors)
    folded = {conv.name: _fold(conv, tensors, fused) for conv in wanted}
    return Weights(arch, found, folded, _anchors(tensors, arch))


def plain_names(tensors: Tensors) -> Tensors:
    """With names from "model.0." on: wrappers (DataParallel, AutoShape …) put "module." or "model." before them."""
    end = "0.conv.weight"
    first = min((n for n in tensors if n == end or n.endswith(f".{end}")), key=len, default=f"model.{end}")
    before = first.removesuffix(end)
    if before == "model.":
        return tensors
    return {f"model.{n.removeprefix(before)}" if n.startswith(before) else n: t for n, t in tensors.items()}


def expected(wanted: list[Conv], fused: bool) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor that the convolutions need."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in wanted:
        shapes[f"{conv.stem}.weight"] = conv.shape
        if fused or not conv.active:
            shapes[f"{conv.stem}.bias"] = (conv.outside,)
        else:
            shapes |= {f"{conv.name}.bn.{part}": (conv.outside,) for part in BATCH_NORM}
    return shapes


def _ignored(name: str, arch: Arch) -> bool:
    """Buffers that a network at rest does not need, and the anchors, which are read apart."""
    return name.endswith(".num_batches_tracked") or name in [f"model.{arch.head}.{n}" for n in _ANCHOR_NAMES]


_ANCHOR_NAMES = ("anchor_grid", "anchors", "stride")


def _check_classes(tensors: Tensors, arch: Arch, classes: int | None) -> int:
    """The number of classes that the Detect layer has. Raises ModelError where it is none, or not `classes`."""
    name = f"model.{arch.head}.m.0.bias"
    if name not in tensors:
        raise _other(arch, tensors, f"no {name} among {len(tensors)} tensors")
    outside = tensors[name].size
    found, rest = outside // ANCHORS_A_CELL - 5, outside % ANCHORS_A_CELL
    if rest or found < 1 or classes not in (None, found):
        has = f"= 3 · (5 + {found}): {found} classes" if not rest and found > 0 else "which is not 3 · (5 + classes)"
        width = "" if classes is None else f"{ANCHORS_A_CELL * (5 + classes)} = 3 · (5 + {classes}) channels: "
        raise ModelError(
            problem(
                "the number of classes does not fit the weights",
                got=f"a Detect layer of {outside} channels {has}",
                expected=f"{width}{classes} classes, as you say" if classes else "3 · (5 + classes) channels",
                remedy="Leave the number (--num-classes) out to take the weights' number."
                if found > 0 and not rest
                else _hint(tensors),
            )
        )
    return found


def _check_names(tensors: Tensors, arch: Arch, names: Mapping[str, tuple[int, ...]]) -> None:
    missing = [n for n in names if n not in tensors]
    surplus = [n for n in tensors if n not in names and not _ignored(n, arch)]
    if not missing and not surplus:
        return
    if fitting(tensors, arch) not in (None, arch):
        raise _other(arch, tensors, f"{len(missing)} tensors missing, {len(surplus)} too many")
    seen = [f"{len(n)} {kind} ({_few(n)})" for n, kind in ((missing, "missing"), (surplus, "surplus")) if n]
    raise ModelError(
        problem(
            f"the weights are not those of {arch.describe()}",
            got=" and ".join(seen),
            expected=f"the {len(names)} tensors of that network, and no others",
            remedy=_hint(tensors),
        )
    )


def _check_shape(name: str, tensor: NDArray[Any], shape: tuple[int, ...], arch: Arch, tensors: Tensors) -> None:
    fits = tensor.shape == shape or (tensor.ndim == 1 and tensor.size == np.prod(shape))
    if not fits:
        got = f"{name} with {tensor.size} values" if tensor.ndim == 1 else f"{name} of shape {list(tensor.shape)}"
        dims = " × ".join(map(str, shape))
        raise _other(arch, tensors, got, f"{int(np.prod(shape))} ({dims})")


def _other(arch: Arch, tensors: Tensors, got: str, expected: str = "the tensors of that network") -> ModelError:
    """The error for weights of another network, which names that network if it is known."""
    fits, remedy = fitting(tensors, arch), _hint(tensors)
    if fits is not None and fits != arch:
        base = "yolov5s6" if len(fits.strides) == 4 else "yolov5s"
        custom = f"{base} --gd {fits.depth:g} --gw {fits.width:g}"
        remedy = f"They fit --arch {fits.name if fits.name in ARCHES else custom}."
    return ModelError(
        problem(f"the weights are not those of {arch.describe()}", got=got, expected=expected, remedy=remedy)
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:_FEW]) + (" …" if len(names) > _FEW else "")


def _summary(tensors: Tensors) -> str:
    return f"{len(tensors)} tensors ({_few(list(tensors))})"


def _hint(tensors: Tensors) -> str:
    if "model.0.conv.conv.weight" in tensors:
        return "This is YOLOv5 before 6.0 (Focus): export it to ONNX, which eyas takes."
    if any(".proto." in name for name in tensors) or "model.9.linear.weight" in tensors:
        return "Of YOLOv5 only detectors are built from a .wts file: export it to ONNX, which eyas takes."
    return "Write the file again from the checkpoint (`eyas export --wts`), or export the network to ONNX."


def _fold(conv: Conv, tensors: Tensors, fused: bool) -> tuple[Floats, Floats]:
    """The convolution's weights and bias, with the BatchNorm behind it folded in, computed in float64."""
    weight = np.asarray(tensors[f"{conv.stem}.weight"], np.float32).reshape(conv.shape)
    if fused or not conv.active:
        return np.ascontiguousarray(weight), np.ascontiguousarray(tensors[f"{conv.stem}.bias"], np.float32)
    parts = (np.asarray(tensors[f"{conv.name}.bn.{part}"], np.float64) for part in BATCH_NORM)
    gamma, beta, mean, variance = parts
    if not (variance + EPSILON > 0).all():
        raise ModelError(
            problem(
                f"{conv.name}.bn.running_var is no variance",
                got=f"{variance.min():.3g}",
                expected="numbers of at least 0",
                remedy=_hint(tensors),
            )
        )
    factor = gamma / np.sqrt(variance + EPSILON)
    folded = (weight.astype(np.float64) * factor[:, None, None, None]).astype(np.float32)
    return folded, (beta - mean * factor).astype(np.float32)


def _anchors(tensors: Tensors, arch: Arch) -> Floats:
    """In pixels: "anchor_grid" as tensorrtx writes it, or "anchors" as checkpoints hold it, in strides; or COCO's."""
    shape = (len(arch.strides), ANCHORS_A_CELL, 2)
    for name, unit in (("anchor_grid", [1] * len(arch.strides)), ("anchors", arch.strides)):
        full = f"model.{arch.head}.{name}"
        if full in tensors:
            _check_shape(full, np.asarray(tensors[full]).reshape(-1), shape, arch, tensors)
            return np.asarray(tensors[full], np.float32).reshape(shape) * np.array(unit, np.float32)[:, None, None]
    return np.array(ANCHORS[arch.strides], np.float32)
