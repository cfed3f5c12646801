"""TensorRT-RTX: builds for any RTX GPU on any machine, runs on GeForce and RTX cards. All of it: `eyas.trt`."""

from __future__ import annotations

import onnx

from eyas.backends import Engine, Fitness
from eyas.trt.plugin import Plugin
from eyas.types import BuildSpec

PLUGIN = Plugin("tensorrt_rtx", extra="rtx", rank=80)
CACHED = True


def missing() -> str | None:
    """The package is an extra."""
    return PLUGIN.missing()


def version() -> str:
    """Of the installed package."""
    return PLUGIN.version()


def fitness() -> Fitness:
    """First choice where a GPU can run it; asks the driver only."""
    return PLUGIN.fitness()


def compile(model: onnx.ModelProto, spec: BuildSpec) -> bytes:
    """A plan; options: see `eyas.trt.options.Options`."""
    return PLUGIN.compile(model, spec)


def load_engine(plan: bytes, spec: BuildSpec) -> Engine:
    """Needs a GPU, its driver and cuda-core."""
    return PLUGIN.load_engine(plan, spec)


def open_engine(model: onnx.ModelProto, spec: BuildSpec) -> Engine:
    """Build and load."""
    return PLUGIN.open_engine(model, spec)


def device_key(spec: BuildSpec) -> str:
    """The GPUs that a plan of this specification runs on."""
    return PLUGIN.device_key(spec)
