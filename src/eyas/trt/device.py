"""Which GPUs TensorRT can use."""

from __future__ import annotations

from eyas.cuda.device import Gpu, gpus, index_of
from eyas.errors import BackendError, problem
from eyas.trt.edition import Edition

# TensorRT-RTX 1.7 refuses every other compute capability (9.0, H100 and H200, among them).
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
__all__ = ["Gpu", "gpus", "usable_gpu", "why_unusable"]
_BUILD = "`eyas build --backend tensorrt_rtx --target sm89` builds for another machine"


def why_unusable(rtx: bool, index: int = 0) -> str | None:
    """Why no engine can run on GPU `index` here; None where one can."""
    found, reason = gpus()
    if index >= len(found):
        return reason or f"{len(found)} GPU{'s' * (len(found) != 1)}, no number {index}"
    gpu = found[index]
    if rtx and gpu.capability not in RTX_CAPABILITIES:
        return f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    return None


def usable_gpu(edition: Edition, device: str | None) -> Gpu:
    """The GPU to run on. Raises BackendError that says why there is none and what to do."""
    index = index_of(device, edition.title)
    if why := why_unusable(edition.rtx, index):
        can = " | ".join(f"{a}.{b}" for a, b in RTX_CAPABILITIES)
        expected = f"an NVIDIA GPU of compute capability {can}" if edition.rtx else "an NVIDIA GPU and its driver"
        remedy = f"{_BUILD}; another backend runs it here (`eyas backends`)."
        raise BackendError(problem(f"{edition.title} cannot run here", got=why, expected=expected, remedy=remedy))
    return gpus()[0][index]
