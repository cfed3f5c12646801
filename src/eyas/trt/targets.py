"""For which GPUs a plan is built, and by which word a built plan names them."""

from __future__ import annotations

from typing import Any

from eyas.cuda.device import Gpu, gpus, index_of
from eyas.errors import BackendError, OptionError, problem
from eyas.trt.edition import Edition
from eyas.trt.options import Options
from eyas.types import BuildSpec

PORTABLE = "sm80+sm86+sm89+sm120+sm121"  # what TensorRT-RTX builds for unless told: Ampere and newer
TURING = "sm75"


def known(edition: Edition) -> list[str]:
    """Every target that TensorRT-RTX can build for, such as "sm89"."""
    members: Any = getattr(edition.trt.ComputeCapability, "__members__", {})
    return [name.lower() for name in members if name.startswith("SM")]


def targets_of(edition: Edition, spec: BuildSpec) -> list[str]:
    """The targets asked for, each once, as "smNN" or "current"; none for the edition's own choice.

    Raises OptionError for one that the edition does not know, BackendError where it builds only for its own GPU.
    """
    if not spec.targets:
        return []
    if not edition.rtx:
        here = {gpu.sm for gpu in gpus()[0]} | {"current"}
        if not set(spec.targets) <= here:
            raise BackendError(
                problem(
                    f"{edition.title} builds for the GPU that is here only",
                    got=", ".join(spec.targets),
                    expected=" | ".join(sorted(here)),
                    remedy="Build there, or with --backend tensorrt_rtx.",
                )
            )
        return []
    able = known(edition)
    wanted = able if "all" in spec.targets else list(dict.fromkeys(spec.targets))
    for target in wanted:
        if target not in able and target != "current":
            raise OptionError(
                problem(
                    f"{edition.title} cannot build for {target}",
                    got=target,
                    expected=" | ".join([*able, "all", "current"]),
                    remedy="SM90 (H100, H200) needs --backend tensorrt." if target == "sm90" else "",
                )
            )
    return wanted


def apply_targets(edition: Edition, config: Any, targets: list[str]) -> None:
    """Tell TensorRT-RTX's builder configuration."""
    if not targets:
        return
    config.num_compute_capabilities = len(targets)
    for i, target in enumerate(targets):
        member = getattr(edition.trt.ComputeCapability, target.upper())
        if not config.set_compute_capability(member, i):
            raise BackendError(
                problem(f"{edition.title} refuses a target", got=target, expected="one it knows", remedy="")
            )


def device_key(edition: Edition, spec: BuildSpec, options: Options) -> str:
    """What a plan of this specification runs on; engines are kept apart by it."""
    if edition.rtx:
        targets = targets_of(edition, spec)
        if "current" not in targets:
            return "+".join(targets) or PORTABLE
    index = index_of(spec.device, "TensorRT")
    found = gpus()[0]
    gpu = found[index] if index < len(found) else None
    if gpu is None:
        return "no GPU"
    if edition.rtx or options.hardware == "same":
        return gpu.sm
    return "ampere+" if options.hardware == "ampere+" else f"{gpu.sm} {gpu.name}"


def runs_on(key: str, gpu: Gpu) -> bool:
    """Whether a plan with that device key runs on a GPU."""
    if key == "ampere+":
        return gpu.capability >= (8, 0)
    if " " in key:
        return key == f"{gpu.sm} {gpu.name}"
    return gpu.sm in key.split("+")
