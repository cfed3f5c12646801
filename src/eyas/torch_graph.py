"""A PyTorch module with any inputs and outputs → an ONNX graph that gives the same: what `eyas.from_torch` compiles.

`eyas.export` is for networks of pictures, which get a card; here the graph is the module's alone.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx

from eyas.errors import ModelError, OptionError, problem
from eyas.export import OPSET, TOLERANCE, evaluating
from eyas.extras import need
from eyas.graph.surgery import edges_read
from eyas.ops import expanded
from eyas.ops._torch import translations


@contextmanager
def evaluation(torch: Any, module: Any) -> Iterator[Any]:
    """The module on the CPU, in evaluation mode and without gradients; each part's mode is as it was afterwards.

    A module on another device is copied, one on the CPU is not.
    """
    tensors = [*module.parameters(), *module.buffers()]
    run = module if all(t.device.type == "cpu" for t in tensors) else copy.deepcopy(module).cpu()
    with evaluating(run), torch.no_grad():
        yield run


def examples_of(torch: Any, module: Any, example: Any) -> list[Any]:
    """The example's tensors on the CPU. Raises OptionError where module or example is not what it should be."""
    found = list(example) if isinstance(example, (tuple, list)) else [example]
    plain = (torch.float32, torch.float16, torch.float64, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
    fits = [isinstance(x, torch.Tensor) and x.dim() > 0 and x.numel() > 0 and x.dtype in plain for x in found]
    if not isinstance(module, torch.nn.Module) or not found or not all(fits):
        got = [f"{word(x.dtype)} {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__ for x in found]
        raise OptionError(
            problem(
                "from_torch cannot use these arguments",
                got=f"{type(module).__name__} with the example ({', '.join(got)})",
                expected="a torch.nn.Module and a tensor or several, none empty or without axes, of float16, float32, "
                "float64, whole numbers or bool",
                remedy="Give what forward() takes, in order; bfloat16 as float32 (the backend chooses its precision).",
            )
        )
    return [x.detach().cpu() for x in found]


def graph_of(torch: Any, module: Any, examples: Sequence[Any], outputs: int, free: bool) -> onnx.ModelProto:
    """Inputs `input0` …, outputs `output0` …; free: the first axis of every input may have any length."""
    arguments = [rows(x, max(2, len(x))) for x in examples] if free else list(examples)
    shapes = {"dynamic_shapes": tuple({0: torch.export.Dim("batch")} for _ in examples)} if free else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(arguments),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[f"input{i}" for i in range(len(examples))],
                output_names=[f"output{i}" for i in range(outputs)],
                custom_translation_table=translations(),
                **shapes,
            )
    except Exception as error:  # torch.export raises a dozen unrelated types
        raise ModelError(
            problem(
                "torch cannot export the module",
                got=_reason(error),
                expected="a forward() whose graph does not depend on values" + (", for any first axis" if free else ""),
                remedy="Take Python's decisions on tensor values out of forward()"
                + (", and fixed numbers of rows; or leave batch= out." if free else "."),
            )
        ) from error
    return onnx.load_from_string(program.model_proto.SerializeToString())


def prove(torch: Any, module: Any, model: onnx.ModelProto, draws: Sequence[Sequence[Any]]) -> None:
    """Raise ModelError unless ONNX Runtime gives what the module gives, for each draw of inputs."""
    ort = need("onnxruntime", "ort")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        expanded(model).SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    read = {i.name for i in session.get_inputs()}
    for tensors in draws:
        feeds = {f"input{i}": x.numpy() for i, x in enumerate(tensors) if f"input{i}" in read}
        try:
            flat, _ = torch.utils._pytree.tree_flatten(module(*tensors))
            found = session.run(None, feeds)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelError(
                problem(
                    f"the module or its graph refuses {len(tensors[0])} rows",
                    got=_reason(error),
                    expected="any number of them in the range",
                    remedy="Put −1 on the first axis of views and reshapes, numbers on others; or leave batch= out.",
                )
            ) from error
        for i, (mine, wanted) in enumerate(zip(found, flat, strict=True)):
            apart = _difference(np.asarray(mine), wanted.numpy())
            if not apart <= TOLERANCE:
                raise ModelError(
                    problem(
                        "the exported graph differs from the module",
                        got=f"output {i}: {word(wanted.dtype)} {list(np.shape(mine))}, {apart:.3g} apart",
                        expected=f"{list(wanted.shape)} within {TOLERANCE:g} of its largest value",
                        remedy="Look for random layers, and for decisions on tensor values or sizes, in forward().",
                    )
                )


def drop_unread(model: onnx.ModelProto) -> None:
    """Take inputs that no node reads out of the graph, in place: OpenVINO does so itself and then misses them.

    Raises ModelError where none would be left.
    """
    read = edges_read(model.graph.node)
    unread = [i for i in model.graph.input if i.name not in read]
    if len(unread) == len(model.graph.input):
        raise ModelError(
            problem("the module reads none of its inputs", got="a constant", expected="a function of them", remedy="")
        )
    for value in unread:
        model.graph.input.remove(value)


def _difference(mine: Any, wanted: Any) -> float:
    """The largest difference in parts of the largest value; infinite for another shape or type. NaN equals NaN."""
    if mine.shape != wanted.shape or mine.dtype != wanted.dtype:
        return float("inf")
    a, b = mine.astype(np.float64), wanted.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0, np.abs(a - b))
    largest = np.abs(b[np.isfinite(b)]).max(initial=1.0)
    return float(np.nan_to_num(off, nan=np.inf).max(initial=0) / largest)


def rows(tensor: Any, count: int) -> Any:
    """`count` rows of a tensor, from the first again where they run out."""
    return tensor[[i % len(tensor) for i in range(count)]]


def word(dtype: Any) -> str:
    """A torch type's name."""
    return str(dtype).removeprefix("torch.")


def _reason(error: Exception) -> str:
    """What went wrong in the module; torch.export wraps it in advice on torch."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
