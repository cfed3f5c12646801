"""An ONNX network's weights under the names that PyTorch gave them, from its convolutions in the order they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from eyas.errors import ModelError, problem
from eyas.graph.surgery import edges_read
from eyas.wts.arch import ARCHES, Arch
from eyas.wts.walk import Conv, convolutions

_REMEDY = "Only YOLOv5 detectors of release 6.0 to 7.0 go this way; of others write the PyTorch state dict."


def tensors_from_onnx(model: onnx.ModelProto, arch: Arch | None = None) -> dict[str, NDArray[np.float32]]:
    """Name → values with PyTorch's names and shapes, BatchNorm folded as exporters do; the reverse of `to_onnx`.

    arch: None for the named one that fits. The initialisers' own names do not matter: exporters and optimisers change
    them. Anchors are not looked for: the file says nothing of them, which means COCO's. Raises ModelError where
    the convolutions are not those of the architecture, in number, order, shape, stride or activation.
    """
    stored = {t.name: t for t in model.graph.initializer}
    found = [n for n in model.graph.node if n.op_type == "Conv"]
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for edge in edges_read([node]):
            readers.setdefault(edge, set()).add(node.op_type)
    if not found or any(len(n.input) < 3 or not stored.keys() >= set(n.input[1:3]) for n in found):
        raise _unlike(f"{len(found)} convolutions, not all with weights and bias stored", "YOLOv5")
    shapes = [tuple(stored[n.input[1]].dims) for n in found]
    arch = arch or _by_shapes(shapes)
    if arch is None:
        raise _unlike(f"{len(found)} convolutions, the first of shape {list(shapes[0])}", " | ".join(ARCHES))
    wanted = _all_of(arch, shapes)
    if len(wanted) != len(shapes):
        got = f"{len(shapes)} convolutions, the last with {shapes[-1][0]} channels"
        raise _unlike(got, f"{len(wanted) or 'its'} convolutions, as {arch.describe()} has")
    tensors: dict[str, NDArray[np.float32]] = {}
    for conv, node, shape in zip(wanted, found, shapes, strict=True):
        seen = _attributes(node)
        active = {"Sigmoid", "Mul"} <= readers.get(node.output[0], set()) or "Swish" in readers.get(node.output[0], ())
        ok = shape == conv.shape and seen["strides"] == [conv.stride] * 2 and seen["pads"] == [conv.pad] * 4
        if not ok or seen["group"] != 1 or (conv.active and not active):
            what = f"{node.name or node.output[0]}: {list(shape)}, strides {seen['strides']}, pads {seen['pads']}"
            end = "" if active or not conv.active else ", no SiLU"
            raise _unlike(what + end, f"{conv.name}: {list(conv.shape)}, stride {conv.stride}, pad {conv.pad}")
        tensors[f"{conv.stem}.weight"] = _array(stored[node.input[1]])
        tensors[f"{conv.stem}.bias"] = _array(stored[node.input[2]])
    return tensors


def tensors_from_state_dict(state: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Name → values of a PyTorch state dict (torch is not imported): every tensor as float32, as gen_wts.py does."""
    return {name: np.asarray(tensor.detach().cpu().float().numpy(), np.float32) for name, tensor in state.items()}


def _array(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    return numpy_helper.to_array(tensor).astype(np.float32)


def _unlike(got: str, expected: str) -> ModelError:
    what = "the network's convolutions are not those of the architecture"
    return ModelError(problem(what, got=got, expected=expected, remedy=_REMEDY))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Strides, pads and group, with ONNX's defaults."""
    given = {a.name: list(a.ints) if a.type == onnx.AttributeProto.INTS else a.i for a in node.attribute}
    return {"strides": [1, 1], "pads": [0, 0, 0, 0], "group": 1} | given


def _by_shapes(shapes: list[tuple[int, ...]]) -> Arch | None:
    """The named architecture whose convolutions have these shapes in this order."""
    return next((a for a in ARCHES.values() if [c.shape for c in _all_of(a, shapes)] == shapes), None)


def _all_of(arch: Arch, shapes: list[tuple[int, ...]]) -> list[Conv]:
    """The architecture's convolutions, for as many classes as the last shape has channels for; none if that is odd."""
    classes, rest = shapes[-1][0] // 3 - 5, shapes[-1][0] % 3
    return convolutions(arch, classes) if classes > 0 and not rest else []
