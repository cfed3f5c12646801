"""A .wts file as a network of eyas: what `eyas build FILE.wts` opens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from eyas.build import Network
from eyas.card import settle_card
from eyas.errors import OptionError, problem
from eyas.graph.network import facts_of
from eyas.wts.arch import Arch, architecture
from eyas.wts.file import read_wts
from eyas.wts.onnx_network import to_onnx
from eyas.wts.weights import Weights, settle


def wanted_arch(name: str | None, depth: float | None = None, width: float | None = None) -> Arch | None:
    """What --arch, --gd and --gw say; None where they say nothing, and the weights tell. Raises OptionError."""
    if name is None and (depth is not None or width is not None):
        raise OptionError(
            problem(
                "--gd and --gw change a known architecture",
                got="no --arch",
                expected="--arch yolov5s for three strides, yolov5s6 for four",
                remedy="Or leave them out: they are found from the weights.",
            )
        )
    return None if name is None else architecture(name, depth, width)


def open_wts(
    path: Path,
    *,
    arch: str | None = None,
    depth: float | None = None,
    width: float | None = None,
    classes: int | None = None,
    names: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    batch: int | str = "batch",
) -> tuple[Network, Weights]:
    """Read, check and build. arch, depth (--gd), width (--gw), classes: each left out is found from the weights.

    size: (height, width), by default 640, for P6 1280. The network's outputs are raw maps, its card says the rest;
    the weights are for `eyas.wts.graft` and `eyas.wts.build_network`. Raises ModelError, CardError, OptionError.
    """
    wanted = wanted_arch(arch, depth, width)
    weights = settle(read_wts(path), wanted, classes)
    side = 640 if len(weights.arch.strides) == 3 else 1280
    model = to_onnx(weights, size=size or (side, side), batch=batch, names=names)
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    facts = facts_of(model)
    return Network(model, facts, settle_card(facts), digest), weights
