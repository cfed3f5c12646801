"""READ FIRST. The build, in order:

deploy graph ─ prepare ─ parse ─ profiles ─ flags ─ timing cache ─ build ─► plan (bytes)

What depends on the version is in `edition.py` and `flags.py`, what the graph needs in `prepare.py`.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx

from eyas.cuda.device import open_device
from eyas.errors import OptionError, problem
from eyas.trt import caches
from eyas.trt.device import usable_gpu
from eyas.trt.edition import Edition, new_logger
from eyas.trt.flags import configure, create_network, load_plugins
from eyas.trt.options import Options
from eyas.trt.parse import parse, refuse_build
from eyas.trt.prepare import prepare
from eyas.trt.profiles import add_profiles
from eyas.trt.targets import TURING, device_key, targets_of
from eyas.types import BuildSpec

if TYPE_CHECKING:
    from eyas.wts.weights import Weights

log = logging.getLogger("eyas")


def build_plan(edition: Edition, model: onnx.ModelProto, spec: BuildSpec, weights: Weights | None = None) -> bytes:
    """A plan of a deploy graph, or of any ONNX graph that TensorRT takes. The model is not changed.

    weights: what a deploy graph was made of by `eyas.wts`; its trunk is then built with TensorRT's layer API.

    TensorRT needs the GPU that the plan is for; TensorRT-RTX needs none, but for refitting and stripping (measured with
    1.7.1: the build fails on a CUDA call) and for the target "current". Raises BackendError, ModelError, OptionError.
    """
    options = Options.of(spec)
    targets = targets_of(edition, spec)
    if not edition.rtx or "current" in targets or options.refit or options.strip:
        open_device(usable_gpu(edition, spec.device).index).use()  # TensorRT builds for the thread's current device
    trt, start = edition.trt, time.perf_counter()
    wanted, folded = spec, None
    if weights is not None:
        _check_layer_precision(spec)
        from eyas.wts.graft import fill, hollowed

        model, folded = hollowed(model, weights)
        wanted = replace(spec, precision="fp32")
    ready, precision = prepare(model, wanted, turing=TURING in targets)
    logger = new_logger(trt)
    load_plugins(edition, logger, options)
    builder = trt.Builder(logger)
    network = create_network(edition, builder)
    parse(edition, network, logger, ready)
    if folded is not None:
        precision = "fp32" if spec.precision == "fp32" else "fp16"
        built = fill(
            trt, network, folded, "fp32" if precision == "fp32" else "fp16"
        )  # owns the weights until the plan exists
    config = builder.create_builder_config()
    add_profiles(builder, config, network, spec, options, tuned=not edition.rtx)
    configure(edition, config, network, precision, options, targets)
    timings = caches.timing_file(edition, options, device_key(edition, spec, options))
    if timings:
        caches.attach_timing(config, timings)
    plan = builder.build_serialized_network(network, config)
    if folded is not None:
        del built
    if plan is None:
        refuse_build(edition, ready, logger.errors)
    if timings:
        caches.keep_timing(config, timings)
    seconds = time.perf_counter() - start
    log.info("%s: plan in %s, %.1f MB, %.1f s", edition.title, precision, plan.nbytes / 1e6, seconds)
    return bytes(plan)


def _check_layer_precision(spec: BuildSpec) -> None:
    if spec.precision not in ("auto", "fp32", "fp16"):
        raise OptionError(
            problem(
                "the layer API builds no such precision",
                got=spec.precision,
                expected="auto | fp32 | fp16",
                remedy="Build it from ONNX: `eyas.wts.to_onnx`, then `eyas quantize` or --precision.",
            )
        )
