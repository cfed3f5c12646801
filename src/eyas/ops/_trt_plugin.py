"""An operator as a plug-in of TensorRT 10 or newer, in Python: IPluginV3 with its three capabilities, and its creator.

`trt` is the module: `tensorrt`, or one with the same names. TensorRT-RTX 1.7.1 has the classes and the registry, and
its ONNX parser finds the creator and asks it for a plug-in, but then ends the process (std::terminate); and its
networks have no `add_plugin_v3`. There the operators are expanded instead (`usable` says so).

An engine with such a plug-in runs only where eyas is: the plug-ins are registered before it is read (`register`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.errors import BackendError, problem
from eyas.ops import Key, Operator, _kernel, inputs_of, operators

VERSION = "1"
_CREATORS: dict[tuple[str, str, str], Any] = {}  # TensorRT keeps no reference to a creator of Python's


def usable(trt: Any) -> bool:
    """Whether this TensorRT can build a network with a plug-in of ours: 10 or newer, and not TensorRT-RTX."""
    return hasattr(trt, "IPluginV3") and hasattr(trt.INetworkDefinition, "add_plugin_v3")


def register(trt: Any) -> frozenset[Key]:
    """Make every operator of `eyas.ops` known to TensorRT, once a process; what `expand_custom(keep=…)` then leaves.

    Empty where this TensorRT takes no plug-ins of ours. To be called before a network is parsed or an engine is read.
    """
    if not usable(trt):
        return frozenset()
    for op in operators().values():
        _register(trt, op)
    return frozenset(operators())


def _register(trt: Any, op: Operator) -> Any:
    """The creator of one operator in TensorRT's registry, under the operator's domain as its namespace."""
    key = (trt.__name__, op.DOMAIN, op.NAME)
    if key not in _CREATORS:
        creator = classes(trt, op)[1]()
        if not trt.get_plugin_registry().register_creator(creator, op.DOMAIN):
            raise BackendError(
                problem(
                    f"TensorRT takes no plug-in for {op.DOMAIN}::{op.NAME}",
                    got=f"one of that name, version {VERSION}, is registered already",
                    expected="a free name",
                    remedy="Unload the library that brings it, or rename the operator.",
                )
            )
        _CREATORS[key] = creator
    return _CREATORS[key]


def address(model: onnx.ModelProto, keep: Collection[Key]) -> int:
    """State namespace and version on each node that a plug-in of ours runs, in place. Returns how many.

    Parsers differ in whether they look for a plug-in under the node's domain; under these attributes all of them do.
    """
    count = 0
    for node in model.graph.node:
        if (node.domain, node.op_type) in keep:
            others = [a for a in node.attribute if a.name not in ("plugin_namespace", "plugin_version")]
            del node.attribute[:]
            node.attribute.extend(others)
            for name, text in (("plugin_namespace", node.domain), ("plugin_version", VERSION)):
                node.attribute.append(onnx.helper.make_attribute(name, text))
            count += 1
    return count


@cache
def classes(trt: Any, op: Operator) -> tuple[Any, Any]:
    """(plug-in class, creator class) of an operator; made here since their bases are TensorRT's."""
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    def prepared(self: Any) -> None:
        for base in bases:
            base.__init__(self)

    def created(self: Any) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_namespace, self.plugin_version = op.NAME, op.DOMAIN, VERSION
        self.arrays = _arrays(op.ATTRIBUTES)
        self.field_names = _fields(trt, self.arrays)

    def create_plugin(self: Any, name: str, fields: Any, phase: Any) -> Any:
        found = {f.name: float(np.ravel(f.data)[0]) for f in fields if f.name in op.ATTRIBUTES}
        return plugin(trt, op, dict(op.ATTRIBUTES) | found)

    return (
        type(f"{op.NAME}Plugin", (_Plugin, *bases), {"bases_init": prepared}),
        type(f"{op.NAME}Creator", (trt.IPluginCreatorV3One,), {"__init__": created, "create_plugin": create_plugin}),
    )


def plugin(trt: Any, op: Operator, numbers: dict[str, float]) -> Any:
    """One plug-in object; numbers: every attribute."""
    return classes(trt, op)[0](trt, op, numbers)


def _arrays(numbers: Mapping[str, float]) -> dict[str, NDArray[np.float32]]:
    """The attributes as TensorRT stores them in an engine: float32, one each."""
    return {name: np.array([value], np.float32) for name, value in numbers.items()}


def _fields(trt: Any, arrays: Mapping[str, NDArray[np.float32]]) -> Any:
    """Fields that point into the arrays: whoever has them keeps the arrays too, since TensorRT holds no reference."""
    kind = trt.PluginFieldType.FLOAT32
    return trt.PluginFieldCollection([trt.PluginField(name, array, kind) for name, array in arrays.items()])


class _Plugin:
    """All three capabilities in one object; TensorRT's own classes are bases of the class that `classes` makes."""

    bases_init: Any

    def __init__(self, trt: Any, op: Operator, numbers: dict[str, float]) -> None:
        self.bases_init()
        self.trt, self.op, self.numbers = trt, op, numbers
        self.plugin_name, self.plugin_namespace, self.plugin_version = op.NAME, op.DOMAIN, VERSION
        self.num_outputs = 1
        self.timing_cache_id = repr(sorted(numbers.items()))
        self.arrays = _arrays(numbers)
        self.fields = _fields(trt, self.arrays)  # read after get_fields_to_serialize has returned

    def get_capability_interface(self, type: Any) -> _Plugin:
        """Core, build and runtime alike."""
        return self

    def clone(self) -> Any:
        """Another one with the same attributes; compiled kernels are shared by all."""
        return plugin(self.trt, self.op, dict(self.numbers))

    # build

    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        """The inputs' type."""
        return [input_types[0]]

    def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
        """The operator's rule on TensorRT's symbolic dimensions."""
        axes = self.op.shape(*([dims[i] for i in range(len(dims))] for dims in inputs))
        found = [builder.constant(axis) if isinstance(axis, int) else axis for axis in axes]
        return [self.trt.DimsExprs(found)]

    def supports_format_combination(self, pos: int, in_out: Sequence[Any], num_inputs: int) -> bool:
        """Rows one after the other, float32 or float16, all of one type."""
        mine = in_out[pos].desc
        able = mine.type in (self.trt.DataType.FLOAT, self.trt.DataType.HALF)
        same = mine.type == in_out[0].desc.type
        return bool(able and same and mine.format == self.trt.TensorFormat.LINEAR and num_inputs == len(self._inputs))

    def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Nothing depends on shapes."""

    # runtime

    def get_fields_to_serialize(self) -> Any:
        """The attributes: `create_plugin` makes the same plug-in of them when the engine is read."""
        return self.fields

    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Compile here: `enqueue` may be called while a CUDA graph is captured."""
        _kernel.prepare(self.op, self._dtype(inputs[0]))

    def attach_to_context(self, context: Any) -> Any:
        """Each execution context has a plug-in of its own."""
        return self.clone()

    def set_tactic(self, tactic: int) -> None:
        """There is one kernel."""

    def enqueue(
        self,
        input_desc: Sequence[Any],
        output_desc: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        """Launch the kernel on TensorRT's stream; addresses and stream are whole numbers."""
        dtype, count = self._dtype(output_desc[0]), prod(output_desc[0].dims)
        _kernel.launch(self.op, dtype, list(inputs), outputs[0], count, stream, **self.numbers)

    @property
    def _inputs(self) -> list[str]:
        return inputs_of(self.op)

    def _dtype(self, desc: Any) -> type:
        return np.float16 if desc.type == self.trt.DataType.HALF else np.float32
