"""Random weights for YOLOv5 networks, under PyTorch's names, with BatchNorm as a checkpoint has it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.wts.arch import Arch
from eyas.wts.walk import convolutions


def checkpoint(arch: Arch, classes: int = 3, seed: int = 0, anchors: bool = True) -> dict[str, NDArray[Any]]:
    """Every tensor of a state dict, sized so that the values neither die out nor explode."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {}
    for conv in convolutions(arch, classes):
        scale = (1.5 if conv.active else 5) / np.sqrt(conv.inside * conv.kernel**2)
        tensors[f"{conv.stem}.weight"] = rng.normal(0, scale, conv.shape).astype(np.float32)
        if not conv.active:
            tensors[f"{conv.stem}.bias"] = rng.normal(0, 0.5, conv.outside).astype(np.float32)
            continue
        for part, low, high in (("weight", 0.5, 1.1), ("bias", -0.3, 0.3), ("running_mean", -0.2, 0.2)):
            tensors[f"{conv.name}.bn.{part}"] = rng.uniform(low, high, conv.outside).astype(np.float32)
        tensors[f"{conv.name}.bn.running_var"] = rng.uniform(0.8, 1.6, conv.outside).astype(np.float32)
        tensors[f"{conv.name}.bn.num_batches_tracked"] = np.array(7, np.int64)
    if anchors:
        shape = (len(arch.strides), 3, 2)
        tensors[f"model.{arch.head}.anchors"] = rng.uniform(1, 8, shape).astype(np.float32)
    return tensors
