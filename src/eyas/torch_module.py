"""`eyas.from_torch`: a PyTorch module, compiled by any backend, called as before with torch tensors.

export → proof against the module → repair → operators of `eyas.ops` expanded → engine. Any inputs and outputs, not
pictures only: no stem and no head is added.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
import onnx

from eyas.backends import Engine, choose
from eyas.doctor.repair import repair
from eyas.errors import BackendError, ModelError, OptionError, problem
from eyas.extras import need
from eyas.graph.surgery import inputs_of
from eyas.ops import expand_custom
from eyas.torch_graph import drop_unread, evaluation, examples_of, graph_of, prove, rows, word
from eyas.types import BuildSpec

log = logging.getLogger("eyas")


def from_torch(
    module: Any,
    example: Any,
    *,
    backend: str | None = None,
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto",
    batch: tuple[int, int] | None = None,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> TorchModule:
    """Compile `module` for this machine; the result is called as the module is.

    module: a torch.nn.Module on any device; compiled in evaluation mode, and left as it was, part by part.
    example: its argument, a tensor, or a tuple of them, of one axis at least each. batch: None: only tensors of the
    example's shapes are taken; (smallest, largest): the first axis of every input and output may have any length in
    that range, the same for all. precision, backend, device, options: as in `eyas.load`.

    The graph is proved on the CPU in float32 to give what the module gives; a lower precision then rounds as the
    backend does. Raises ModelError: torch cannot export it, or the graph's results differ; OptionError: the example or
    the range makes no sense; BackendError; EyasError without torch.
    """
    torch = need("torch", "export")
    examples = examples_of(torch, module, example)
    low, high = batch or (1, 1)
    spec = BuildSpec(precision, (low, low, high), device=device, options=options or {})
    name, chosen = choose(backend)
    with evaluation(torch, module) as run:
        outputs, form = torch.utils._pytree.tree_flatten(run(*examples))
        _check_outputs(torch, outputs)
        model = graph_of(torch, run, examples, len(outputs), free=batch is not None)
        counts = sorted({low, min(high, low + 2)})
        draws = [[rows(x, n) for x in examples] for n in counts] if batch else [examples]
        prove(torch, run, model, draws)
        model = repair(model, backend=name).model
        prove(torch, run, model, draws)
    drop_unread(model)
    expand_custom(model, getattr(chosen, "custom_operators", tuple)())
    made = TorchModule(chosen.open_engine(model, spec), model, examples, form, batch)
    log.info("%s compiled: %s", type(module).__name__, made.description)
    return made


def _check_outputs(torch: Any, outputs: Sequence[Any]) -> None:
    if not outputs or not all(isinstance(x, torch.Tensor) for x in outputs):
        raise ModelError(
            problem(
                "the module's result cannot come from an engine",
                got=", ".join(type(x).__name__ for x in outputs) or "nothing",
                expected="tensors, alone or in tuples, lists and dicts",
                remedy="Wrap it in a module whose forward() returns the tensors alone.",
            )
        )


class TorchModule:
    """A compiled module: call it with tensors; use it as a context manager, or `close()` it.

    It may be called from several threads at once, and computes no gradients. Tensors on a GPU go through the CPU, once
    in each direction: that ends when an engine takes device addresses (`enqueue(feeds, stream)`), as CUDA's will.
    """

    def __init__(
        self, engine: Engine, model: onnx.ModelProto, examples: Sequence[Any], form: Any, batch: tuple[int, int] | None
    ) -> None:
        self._torch = need("torch", "export")
        self._engine: Engine | None = engine
        self._names = [f"input{i}" for i in range(len(examples))]
        self._read = {i.name for i in inputs_of(model.graph)}
        self._like = [(tuple(x.shape), x.dtype) for x in examples]
        self._outputs = [o.name for o in model.graph.output]
        self._form, self._batch = form, batch
        self.description = engine.description

    def __call__(self, *tensors: Any) -> Any:
        """The module's outputs in the module's own form (a tensor, tuple, list, dict …), on the first input's device.

        tensors: of the example's types and shapes, but for the first axis where a range was given. A CPU tensor that is
        contiguous is read in place and must not be written to meanwhile; any other is copied once. The outputs are the
        caller's. Raises OptionError where a tensor does not fit, BackendError after `close()`.
        """
        engine = self._engine
        if engine is None:
            raise BackendError(problem("the module is closed", got="a call", expected="none after close()", remedy=""))
        self._check(tensors)
        feeds = {n: x.detach().cpu().contiguous().numpy() for n, x in zip(self._names, tensors, strict=True)}
        found = engine.infer({n: a for n, a in feeds.items() if n in self._read})
        outputs = [self._torch.from_numpy(np.asarray(found[n])) for n in self._outputs]
        home = tensors[0].device
        return self._torch.utils._pytree.tree_unflatten([o.to(home) for o in outputs], self._form)

    def _check(self, tensors: Sequence[Any]) -> None:
        free = self._batch is not None
        got = [(tuple(x.shape), x.dtype) if isinstance(x, self._torch.Tensor) else None for x in tensors]
        fits = len(got) == len(self._like) and all(
            g is not None and g[1] == w[1] and g[0][free:] == w[0][free:] and len(g[0]) == len(w[0])
            for g, w in zip(got, self._like, strict=True)
        )
        counts = {g[0][0] for g in got if g and g[0]} if free else set()
        if fits and (self._batch is None or (len(counts) == 1 and self._batch[0] <= max(counts) <= self._batch[1])):
            return
        first = f"{self._batch[0]}…{self._batch[1]}" if self._batch else ""
        wanted = ([*([first] if free else []), *map(str, shape[free:])] for shape, _ in self._like)
        raise OptionError(
            problem(
                "the tensors do not fit the compiled module",
                got=", ".join(f"{word(g[1])} {list(g[0])}" if g else "no tensor" for g in got) or "none",
                expected=", ".join(f"{word(d)} [{', '.join(w)}]" for w, (_, d) in zip(wanted, self._like, strict=True)),
                remedy="Compile it with an example of that shape, or give a range: batch=(1, 8).",
            )
        )

    def close(self) -> None:
        """Free the engine. A second time does nothing."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> TorchModule:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TorchModule({self.description})"
