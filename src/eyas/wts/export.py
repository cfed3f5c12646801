"""An ONNX network or a PyTorch state dict as a .wts file: what `eyas export --wts` does."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.card import METADATA_KEY
from eyas.errors import ModelError, OptionError, problem
from eyas.extras import need
from eyas.files import make_folder
from eyas.graph.network import facts_of
from eyas.wts.arch import Arch
from eyas.wts.file import write_wts
from eyas.wts.names import tensors_from_onnx, tensors_from_state_dict
from eyas.wts.onnx_network import to_onnx
from eyas.wts.walk import ANCHORS_A_CELL
from eyas.wts.weights import BATCH_NORM, EPSILON, Weights, plain_names, settle

TOLERANCE = 1e-3  # of the largest value, as `eyas export` has it
Floats = NDArray[np.float32]
log = logging.getLogger("eyas")


def export_wts(source: onnx.ModelProto | Mapping[str, Any], out: Path, arch: Arch | None = None) -> Weights:
    """Write the weights of a YOLOv5 detector (see `names`), and return them as `settle` reads them.

    source: an ONNX network, which is rebuilt from the file's tensors and proved equal on ONNX Runtime, or a state
    dict, which is written whole, as gen_wts.py does. Either way the file suits tensorrtx itself, which wants a
    BatchNorm behind each convolution. arch: None for the one that fits. Raises ModelError: another architecture, or
    a rebuilt network that gives other results; OptionError, SinkError.
    """
    if out.suffix.lower() != ".wts":
        raise OptionError(problem("that is no .wts file", got=out, expected="a name ending in .wts", remedy=""))
    tensors: dict[str, Floats]
    if isinstance(source, onnx.ModelProto):
        tensors = tensors_from_onnx(source, arch)
        tensors = unfolded(tensors) | _proved_anchors(source, tensors, arch)
    else:
        tensors = dict(plain_names(tensors_from_state_dict(source)))
    weights = settle(tensors, arch)
    make_folder(out.parent)
    write_wts(out, tensors)
    return weights


def unfolded(tensors: Mapping[str, Floats]) -> dict[str, Floats]:
    """With a BatchNorm that only adds what was the convolution's bias: γ = 1, μ = 0, σ² = 1 − ε, β = bias."""
    parts: dict[str, Floats] = {}
    for name, tensor in tensors.items():
        if name.endswith(".conv.bias"):
            norm, ones = f"{name.removesuffix('conv.bias')}bn", np.ones_like(tensor)
            values = (ones, tensor, 0 * ones, ones * np.float32(1 - EPSILON))
            parts |= {f"{norm}.{part}": value for part, value in zip(BATCH_NORM, values, strict=True)}
        else:
            parts[name] = tensor
    return parts


def _proved_anchors(model: onnx.ModelProto, tensors: Mapping[str, Floats], arch: Arch | None) -> dict[str, Floats]:
    """The anchors, as tensorrtx names them, after a proof that the tensors make the network that they came from."""
    weights, facts = settle(tensors, arch), facts_of(model)
    name = f"model.{weights.arch.head}.anchor_grid"
    blob = np.random.default_rng(0).random((facts.batch or 1, 3, *facts.size), np.float32)
    theirs = _run(model, blob)
    maps = _run(to_onnx(weights, size=facts.size, batch=len(blob)), blob)
    rows = [t for t in theirs if t.ndim == 3 and t.shape[2] == 5 + weights.classes]
    if not rows:
        _compare(sorted(theirs, key=np.size), sorted(maps, key=np.size))
        return {name: anchors} if (anchors := _from_card(model, weights)) is not None else {}
    anchors = _from_rows(rows[0], maps, weights)
    rebuilt = to_onnx(settle({**tensors, name: anchors}, weights.arch), size=facts.size, batch=len(blob), decoded=True)
    _compare(rows[:1], _run(rebuilt, blob))
    return {name: anchors}


def _from_rows(rows: Floats, maps: list[Floats], weights: Weights) -> Floats:
    """Anchors [strides, 3, 2] such that wh = (2σ)² · anchor: the median over the cells of wh / (2σ)²."""
    found, start = [], 0
    for raw in maps:
        cells = raw.shape[2] * raw.shape[3]
        level = rows[:, start : start + ANCHORS_A_CELL * cells, 2:4].reshape(len(rows), ANCHORS_A_CELL, cells, 2)
        logits = raw.reshape(len(raw), ANCHORS_A_CELL, -1, cells)[:, :, 2:4].transpose(0, 1, 3, 2)
        squashed = (2 / (1 + np.exp(-logits.astype(np.float64)))) ** 2
        found.append(np.median(level / np.maximum(squashed, 1e-9), axis=(0, 2)))
        start += ANCHORS_A_CELL * cells
    anchors = np.array(found)
    whole = np.round(anchors * 8) / 8  # checkpoints hold halves at their finest; what is left is rounding
    return np.where(np.abs(anchors - whole) < 1e-5 * anchors, whole, anchors).astype(np.float32)


def _from_card(model: onnx.ModelProto, weights: Weights) -> Floats | None:
    """Raw maps say nothing of anchors; a card of eyas may."""
    text = next((p.value for p in model.metadata_props if p.key == METADATA_KEY), "{}")
    anchors = json.loads(text).get("params", {}).get("anchors")
    if anchors is None:
        log.warning("the network has raw maps and no card: the anchors are taken to be YOLOv5's own for COCO")
        return None
    return np.asarray(anchors, np.float32).reshape(weights.anchors.shape)


def _run(model: onnx.ModelProto, blob: Floats) -> list[Floats]:
    ort = need("onnxruntime", "ort")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[Floats] = session.run(None, {session.get_inputs()[0].name: blob})
    return outputs


def _compare(theirs: list[Floats], mine: list[Floats]) -> None:
    for reference, found in zip(theirs, mine, strict=False):
        same = reference.size == found.size
        if same and reference.ndim == 5:  # [B, 3, h, w, 5 + C], as some exporters leave it
            reference = reference.transpose(0, 1, 4, 2, 3)
        apart = float(np.abs(reference.reshape(-1) - found.reshape(-1)).max()) if same else float("inf")
        if len(theirs) != len(mine) or not apart <= TOLERANCE * max(1.0, float(np.abs(reference).max())):
            raise ModelError(
                problem(
                    "the network rebuilt from the weights gives other results",
                    got=f"outputs {[list(t.shape) for t in mine]}, {apart:.3g} apart",
                    expected=f"{[list(t.shape) for t in theirs]} within {TOLERANCE:g} of the largest value",
                    remedy="It is no YOLOv5 detector of release 6.0 to 7.0: keep to ONNX.",
                )
            )
