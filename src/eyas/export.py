"""From a PyTorch module to an ONNX network that every backend takes: only the batch is free, one output for the decode.

torch is an extra (`pip install 'eyas[export]'`). The rules are those that deployments break on: height and width
fixed, so that no shape is computed at run time; the batch the only free axis, and −1 in no other; what the network
decodes in pieces joined into one output; what `eyas doctor` mends, mended; results proved equal to the module's on
batches of 1, 2 and 3.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from eyas.card import METADATA_KEY, card_to_dict, settle_card
from eyas.doctor.repair import repair
from eyas.errors import CardError, ModelError, OptionError, problem
from eyas.extras import need
from eyas.files import make_folder, write_atomically
from eyas.graph.network import facts_of
from eyas.ops import expanded
from eyas.ops._torch import translations
from eyas.types import ModelCard

OPSET = 18
PROOF = (1, 2, 3)  # batch sizes
TOLERANCE = 1e-3  # of the largest value of an output, between torch's and ONNX Runtime's kernels
log = logging.getLogger("eyas")


def export(
    module: Any,
    out: str | Path,
    *,
    size: tuple[int, int] = (640, 640),
    names: Sequence[str] | None = None,
    family: str | None = None,
    card: Mapping[str, Any] | None = None,
) -> ModelCard | None:
    """Write `module` as an ONNX network with input `images` float32 [batch, 3, height, width].

    module: a torch.nn.Module, a torch.export.ExportedProgram made with a free batch, or a ScriptModule. It is used in
    evaluation mode and left as it was. names, family, card: what it is, where its outputs do not tell (see
    `eyas.load`). Returns the card that was written with it; None (and a warning) where no family fits.
    Raises ModelError: torch cannot export it, or the result differs from the module; OptionError, SinkError.
    """
    out = Path(out)
    if out.suffix.lower() != ".onnx":
        raise OptionError(problem("that is no ONNX file", got=out, expected="a name ending in .onnx", remedy=""))
    torch = need("torch", "export")
    with evaluating(module):
        model = _exported(torch, module, size)
        _prove(torch, module, model, size)
    written = _add_card(model, size, names, family, card)
    make_folder(out.parent)
    write_atomically(out, model.SerializeToString())
    return written


def load_module(source: Path, factory: str | None = None) -> Any:
    """A module from a file: TorchScript (torch.jit.save), an exported program (.pt2), or weights for a `factory`.

    factory: "package.module:callable" that makes the module whose weights (a state dict, or a checkpoint that holds
    one as "state_dict", "model_state_dict" or "model") the file has. Nothing in a file is executed but TorchScript.
    Raises ModelError, OptionError.
    """
    torch = need("torch", "export")
    if not source.is_file():
        raise ModelError(problem(f"there is no file {source}", got="none", expected="a checkpoint", remedy=""))
    if factory:
        return _with_weights(_made(factory), _weights(torch, source), source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(source) if source.suffix == ".pt2" else torch.jit.load(source, map_location="cpu")
    except Exception as error:  # torch raises what it likes at files of another kind
        raise ModelError(
            problem(
                f"{source} holds no module that can be opened alone",
                got=str(error).strip().splitlines()[0][:200],
                expected="TorchScript, or an exported program (.pt2)",
                remedy="For weights say with --factory package.module:callable what they belong to. Pickled modules "
                "are not opened: they can run any code.",
            )
        ) from error


def _made(factory: str) -> Any:
    module, _, name = factory.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise OptionError(
            problem(
                f"the factory {factory} makes no module",
                got=f"{type(error).__name__}: {error}",
                expected="package.module:callable, which needs no arguments",
                remedy="Write a function of your own that makes the network.",
            )
        ) from error


def load_weights(source: Path) -> Mapping[str, Any]:
    """The state dict in a checkpoint (see `load_module`). Raises ModelError."""
    torch = need("torch", "export")
    if not source.is_file():
        raise ModelError(problem(f"there is no file {source}", got="none", expected="a checkpoint", remedy=""))
    return _weights(torch, source)


def _weights(torch: Any, source: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            problem(
                f"{source} holds more than weights, or none",
                got=str(error).strip().splitlines()[0][:200],
                expected="a state dict",
                remedy="Save one with torch.save(model.state_dict(), …): a pickled module could run any code here.",
            )
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        got = f"{type(found).__name__} of {', '.join(list(map(str, found))[:4])}" if found else type(found).__name__
        raise ModelError(problem(f"{source} holds no weights", got=got, expected="a state dict", remedy=""))
    return found


def _with_weights(module: Any, weights: Mapping[str, Any], source: Path) -> Any:
    names = {name.removeprefix("module."): tensor for name, tensor in weights.items()}  # as DataParallel saves them
    try:
        module.load_state_dict(names)
    except RuntimeError as error:
        raise ModelError(
            problem(
                f"the weights of {source} do not fit the module",
                got=" ".join(str(error).split())[:400],
                expected=f"the {len(module.state_dict())} tensors of {type(module).__name__}",
                remedy="Check the factory: depth, width and number of classes are those of the training.",
            )
        ) from error
    return module


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The module in evaluation mode; each of its parts is in its own mode again afterwards."""
    parts = [] if _is_program(module) else [(part, part.training) for part in module.modules()]
    try:
        for part, _ in parts:
            part.training = False
        yield
    finally:
        for part, training in parts:
            part.training = training


def _is_program(module: Any) -> bool:
    return type(module).__name__ == "ExportedProgram"


def _exported(torch: Any, module: Any, size: tuple[int, int]) -> onnx.ModelProto:
    """torch's exporter: torch.export for modules and programs, the TorchScript one for ScriptModules."""
    example = torch.zeros(2, 3, *size)  # a batch of 1 would be taken for a constant
    names = {"input_names": ["images"], "opset_version": OPSET, "custom_translation_table": translations()}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if isinstance(module, torch.jit.ScriptModule):
                return _from_script(torch, module, example)
            if _is_program(module):
                program = torch.onnx.export(module, dynamo=True, verbose=False, **names)
            else:
                shapes = ({0: torch.export.Dim("batch")},)
                wrapped = _wrapper(torch, module)
                program = torch.onnx.export(
                    wrapped, (example,), dynamo=True, verbose=False, dynamic_shapes=shapes, **names
                )
        model = program.model_proto
    except Exception as error:  # torch.export raises a dozen unrelated types
        raise ModelError(
            problem(
                "torch cannot export the module",
                got=_reason(error),
                expected=f"a module that takes [batch, 3, {size[0]}, {size[1]}] for any batch",
                remedy="Take Python's decisions on tensor values and fixed batch sizes out of forward().",
            )
        ) from error
    _name_batch(model)
    return repair(onnx.load_from_string(model.SerializeToString())).model


def _reason(error: Exception) -> str:
    """What went wrong in the module; torch.export wraps it in advice on torch."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _from_script(torch: Any, module: Any, example: Any) -> onnx.ModelProto:
    file = io.BytesIO()
    with torch.no_grad():
        count = len(_flat(torch, module(example)))
    axes = {name: {0: "batch"} for name in ("images", *(f"output{i}" for i in range(count)))}
    outputs = [f"output{i}" for i in range(count)]
    torch.onnx.export(
        module,
        (example,),
        file,
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        output_names=outputs,
        dynamic_axes=axes,
    )
    return repair(onnx.load_from_string(file.getvalue())).model


def _name_batch(model: onnx.ModelProto) -> None:
    """One name for the free axis: torch calls it s77 where the program was made elsewhere."""
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    old = first.dim_param
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if old and dim.dim_param == old:
                dim.dim_param = "batch"


def _wrapper(torch: Any, module: Any) -> Any:
    """The module with its outputs joined where that loses nothing."""

    class Joined(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, images: Any) -> Any:
            return joined(torch, self.module(images))

    return Joined().eval()


def joined(torch: Any, outputs: Any) -> Any:
    """What a network gives, as the tensors that a decode wants.

    (decoded, [raw maps]), as YOLOv5 and v8 give in evaluation: the first alone. Several [B, n, W] of one width, as
    anchor-free heads give a stride: one [B, Σn, W]. All else as it is, in order.
    """
    pair = isinstance(outputs, (tuple, list)) and len(outputs) == 2 and isinstance(outputs[0], torch.Tensor)
    if pair and isinstance(outputs[1], (tuple, list, dict)):
        return outputs[0]
    flat = _flat(torch, outputs)
    if len(flat) > 1 and all(t.dim() == 3 and t.shape[2] == flat[0].shape[2] for t in flat):
        return torch.cat(flat, 1)
    return flat[0] if len(flat) == 1 else tuple(flat)


def _flat(torch: Any, outputs: Any) -> list[Any]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [tensor for value in values for tensor in _flat(torch, value)]


def _prove(torch: Any, module: Any, model: onnx.ModelProto, size: tuple[int, int]) -> None:
    """Raise ModelError unless ONNX Runtime gives what the module gives, for every batch of `PROOF`."""
    ort = need("onnxruntime", "ort")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    data = expanded(model).SerializeToString()  # ONNX Runtime does not know the operators of eyas.ops
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    run = module.module() if _is_program(module) else module
    whole = isinstance(module, torch.jit.ScriptModule) or _is_program(module)
    for batch in PROOF:
        images = torch.from_numpy(np.random.default_rng(batch).random((batch, 3, *size), np.float32))
        with torch.no_grad():
            try:
                outputs = run(images)
            except RuntimeError as error:
                raise ModelError(
                    problem(
                        f"the module refuses a batch of {batch}",
                        got=_reason(error),
                        expected="any number of pictures",
                        remedy="Put −1 on the batch axis of views and reshapes, and numbers on the others.",
                    )
                ) from error
        wanted = _flat(torch, outputs if whole else joined(torch, outputs))
        got = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        for name, mine, theirs in zip([o.name for o in session.get_outputs()], got, wanted, strict=True):
            reference = theirs.numpy()
            apart = float(np.abs(mine - reference).max()) if mine.shape == reference.shape else float("inf")
            if not apart <= TOLERANCE * max(1.0, float(np.abs(reference).max())):
                raise ModelError(
                    problem(
                        "the exported network differs from the module",
                        got=f"output {name}, batch {batch}: shape {list(mine.shape)}, {apart:.3g} apart",
                        expected=f"{list(reference.shape)} within {TOLERANCE:g} of its largest value",
                        remedy="Look for decisions on tensor values or sizes in forward(), and for random layers.",
                    )
                )


def _add_card(
    model: onnx.ModelProto,
    size: tuple[int, int],
    names: Sequence[str] | None,
    family: str | None,
    said: Mapping[str, Any] | None,
) -> ModelCard | None:
    try:
        card = settle_card(facts_of(model, size), said, family_name=family, names=tuple(names) if names else None)
    except CardError as error:
        if family or names or said:
            raise
        log.warning("no card is written: %s", error)
        return None
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(card_to_dict(card)))
    return card
