"""The builder's configuration, by version: what 8.6 still needs as flags is the graph's affair since 10."""

from __future__ import annotations

from typing import Any

from eyas.errors import BackendError, problem
from eyas.trt.edition import Edition
from eyas.trt.options import Options
from eyas.trt.targets import apply_targets

HARDWARE = {"ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}
OURS = "eyas/"  # the stem's and the head's layers


def create_network(edition: Edition, builder: Any) -> Any:
    """A network of explicit batch, strongly typed where the edition knows that."""
    flag = "STRONGLY_TYPED" if edition.strongly_typed else "EXPLICIT_BATCH"
    member = edition.member("NetworkDefinitionCreationFlag", flag)
    return builder.create_network(0 if member is None else 1 << int(member))


def configure(
    edition: Edition, config: Any, network: Any, precision: str, options: Options, targets: list[str]
) -> None:
    """Set everything but profiles and caches. precision: what the graph holds. Raises BackendError."""
    trt = edition.trt
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimisation_level is not None:
        config.builder_optimization_level = options.optimisation_level
    if options.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_flags(edition, config, options)
    _set_compatibility(edition, config, options)
    if options.dla_core is not None:
        _set_dla(edition, config, options)
    if not edition.strongly_typed:
        _set_precision(edition, config, network, precision)
    apply_targets(edition, config, targets)


def _set_flags(edition: Edition, config: Any, options: Options) -> None:
    if not options.tf32:  # on by default, and 10 bits are not fp32
        config.clear_flag(edition.trt.BuilderFlag.TF32)
    if options.sparse:
        config.set_flag(edition.need("BuilderFlag", "SPARSE_WEIGHTS", "sparse weights"))
    if options.refit:
        config.set_flag(edition.need("BuilderFlag", "REFIT", "refitting"))
    if options.strip:
        config.set_flag(edition.need("BuilderFlag", "STRIP_PLAN", "stripping weights"))


def _set_compatibility(edition: Edition, config: Any, options: Options) -> None:
    if options.version_compatible:
        if edition.rtx:
            edition.refuse("version-compatible plans", "no lean runtime in its package", "Build again after an update.")
        config.set_flag(edition.need("BuilderFlag", "VERSION_COMPATIBLE", "version-compatible plans"))
        if options.plugins:
            config.plugins_to_serialize = list(options.plugins)
    if options.hardware:
        if edition.rtx:
            remedy = "Its plans run on every GPU from Ampere on; --target adds or narrows."
            edition.refuse("hardware compatibility", "plans that are portable anyway", remedy)
        level = edition.need("HardwareCompatibilityLevel", HARDWARE[options.hardware], f"hardware={options.hardware}")
        config.hardware_compatibility_level = level


def _set_dla(edition: Edition, config: Any, options: Options) -> None:
    if edition.rtx:
        edition.refuse("DLA", "an edition for PCs", "On a Jetson use --backend tensorrt.")
    config.default_device_type = edition.need("DeviceType", "DLA", "DLA")
    config.DLA_core = options.dla_core
    if options.gpu_fallback:
        config.set_flag(edition.need("BuilderFlag", "GPU_FALLBACK", "the GPU for what DLA lacks"))


def _set_precision(edition: Edition, config: Any, network: Any, precision: str) -> None:
    """Before 10: allow the type, and keep the builder from narrowing the head as well."""
    if precision == "fp32":
        return
    if precision == "int8":  # explicit Q/DQ: no calibrator is needed
        config.set_flag(edition.need("BuilderFlag", "INT8", "int8"))
        return
    config.set_flag(edition.need("BuilderFlag", precision.upper(), precision))
    config.set_flag(edition.need("BuilderFlag", "OBEY_PRECISION_CONSTRAINTS", "an exact head"))
    wide = edition.trt.float32
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        outputs = [layer.get_output(k) for k in range(layer.num_outputs)]
        if layer.name.startswith(OURS) and outputs and all(t.dtype == wide for t in outputs):
            layer.precision = wide


def load_plugins(edition: Edition, logger: Any, options: Options) -> None:
    """Register TensorRT's own plug-ins and the libraries that the user lists. Raises BackendError."""
    edition.trt.init_libnvinfer_plugins(logger, "")
    for path in options.plugins:
        if edition.trt.get_plugin_registry().load_library(path) is None:
            raise BackendError(
                problem(
                    f"{edition.title} cannot load a plug-in library",
                    got=path,
                    expected="a shared library that registers TensorRT plug-ins, built for this version",
                    remedy="`ldd` shows what it lacks; it must be linked against the same TensorRT.",
                )
            )
