"""What `eyas.backends.tensorrt` and `eyas.backends.tensorrt_rtx` share: each is one `Plugin`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

import onnx

from eyas.backends import Fitness
from eyas.cuda.device import open_device
from eyas.errors import BackendError, problem
from eyas.trt import caches
from eyas.trt.builder import build_plan
from eyas.trt.device import gpus, usable_gpu, why_unusable
from eyas.trt.edition import Edition, new_logger
from eyas.trt.executor import Executor
from eyas.trt.flags import load_plugins
from eyas.trt.lane import runtime_config
from eyas.trt.options import Options
from eyas.trt.targets import device_key, runs_on
from eyas.types import BuildSpec

if TYPE_CHECKING:
    from eyas.wts.weights import Weights


def cuda_core_missing() -> str | None:
    """None where cuda-core is installed, else the pip line; looks for it, imports nothing of CUDA."""
    return None if find_spec("cuda") and find_spec("cuda.core") else "pip install 'eyas[cuda]'"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One edition by its module's name. extra: which of eyas' extras brings it. rank: where a GPU can run it."""

    module: str
    extra: str
    rank: int

    def missing(self) -> str | None:
        """None where it is installed, else the pip line."""
        return None if find_spec(self.module) else f"pip install 'eyas[{self.extra}]'"

    def version(self) -> str:
        """From the package's metadata, without loading it; Debian's package on a Jetson has none."""
        try:
            return metadata.version(self.module)
        except metadata.PackageNotFoundError:
            return str(import_module(self.module).__version__)

    def edition(self) -> Edition:
        """Imports the library."""
        return Edition.of(import_module(self.module))

    def fitness(self) -> Fitness:
        """Asks the driver only; loads neither TensorRT nor CUDA's runtime."""
        why = why_unusable(self.module == "tensorrt_rtx")
        if why is None and (pip := cuda_core_missing()):
            why = f"no cuda-core: {pip}"
        if why:
            return Fitness(-1, f"builds engines, runs none here: {why}" if self.extra == "rtx" else f"not here: {why}")
        gpu = gpus()[0][0]
        return Fitness(self.rank, f"fastest on an NVIDIA GPU: {gpu.name} ({gpu.sm})")

    def compile(self, model: onnx.ModelProto, spec: BuildSpec, weights: Weights | None = None) -> bytes:
        """A plan. See `eyas.trt.builder`."""
        return build_plan(self.edition(), model, spec, weights)

    def device_key(self, spec: BuildSpec) -> str:
        """The GPUs that the plan runs on."""
        return device_key(self.edition(), spec, Options.of(spec))

    def load_engine(self, plan: bytes, spec: BuildSpec) -> Executor:
        """Deserialise on the GPU that spec.device names. Raises BackendError before that where it cannot run."""
        edition, options = self.edition(), Options.of(spec)
        gpu = usable_gpu(edition, spec.device)
        key = device_key(edition, spec, options)
        if not runs_on(key, gpu):
            raise BackendError(
                problem(
                    "the engine is for another GPU",
                    got=f"{gpu.name} ({gpu.sm})",
                    expected=key,
                    remedy=f"Build it with --target {gpu.sm}, or on this machine.",
                )
            )
        device = open_device(gpu.index)
        device.use()
        trt, logger = edition.trt, new_logger(edition.trt)
        load_plugins(edition, logger, options)
        runtime = trt.Runtime(logger)
        if options.dla_core is not None:
            runtime.DLA_core = options.dla_core
        if options.version_compatible:  # such plans carry a runtime of their own, as host code
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(
                problem(
                    f"{edition.title} refuses the engine",
                    got=" / ".join(logger.errors[-2:]) or "no reason given",
                    expected=f"a plan of this version for {gpu.sm}",
                    remedy="Build it again: `eyas build`.",
                )
            )
        new_context, keep = None, None
        if edition.rtx:
            config = runtime_config(edition, engine)
            new_context = partial(engine.create_execution_context, config)
            if file := caches.runtime_file(options, gpu, hashlib.sha256(plan).hexdigest()):
                keep = partial(caches.keep_runtime_cache, caches.attach_runtime_cache(config, file), file)
        several = spec.hint == "throughput" and edition.shares_profiles
        return Executor(
            edition,
            runtime,
            engine,
            device,
            description=f"{edition.title}, {gpu.name} ({gpu.sm}), {spec.precision}",
            lanes=options.contexts or (2 if several else 1),
            counts=options.sizes,
            new_context=new_context,
            keep=keep,
        )

    def open_engine(self, model: onnx.ModelProto, spec: BuildSpec) -> Executor:
        """Build and load. The GPU is asked for first: a build that cannot run here is wasted."""
        usable_gpu(self.edition(), spec.device)
        return self.load_engine(self.compile(model, spec), spec)
