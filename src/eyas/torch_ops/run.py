"""A deploy graph for one batch size as a list of steps: what does not depend on the pictures is worked out here, once.

Shapes are found by running each step on tensors without data (torch's device "meta"). An operator whose inputs are all
known is run at once, on the CPU, and is a constant from then on; so `Shape` and the arithmetic behind it vanish.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import onnx

from eyas.errors import EyasError
from eyas.graph.builder import opset_of
from eyas.graph.surgery import dims_of, inputs_of
from eyas.torch_ops.fuse import fuse
from eyas.torch_ops.lives import Lives
from eyas.torch_ops.node import Epilogue, Node, Op, Run, Tensor, op_of, refusal
from eyas.torch_ops.pointwise import dtype_of
from eyas.torch_ops.table import OPERATORS


class Graph:
    """A deploy graph, read and fused; its constants on the CPU, and each on the device once, whatever the batch."""

    def __init__(self, torch: Any, model: onnx.ModelProto, device: Any) -> None:
        """device: torch.device. Raises BackendError for what no table entry stands for."""
        self.torch, self.device, self.opset = torch, device, opset_of(model)
        graph = model.graph
        self.known = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.inputs = {v.name: (dims_of(v), dtype_of(torch, v.type.tensor_type.elem_type)) for v in inputs_of(graph)}
        self.outputs = [v.name for v in graph.output]
        ops = []
        for node in graph.node:
            op = op_of(node)
            if op.kind not in OPERATORS:
                raise refusal(f"operator {op.kind} in node {op.name}")
            if op.kind == "Constant":
                self.known[op.outputs[0]] = OPERATORS["Constant"](Node(torch, op, self.opset, []))()
            else:
                ops.append(op)
        bytes_ = {name for name, (_, dtype) in self.inputs.items() if dtype == torch.uint8}
        self.ops = fuse(ops, self.known, bytes_, self.outputs)
        self.lives = Lives(self.ops, self.outputs, {e for e, x in self.known.items() if bool((x >= 0).all())})
        self._uploaded: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}

    @property
    def fixed(self) -> int | None:
        """The only batch size, if there is one."""
        batch = next(iter(self.inputs.values()))[0][0]
        return batch if isinstance(batch, int) else None

    def upload(self, tensor: Tensor, layout: str) -> Tensor:
        """A known tensor on the device; kept, so that programs share it."""
        key = (id(tensor), layout)
        if key not in self._uploaded:
            made = tensor
            if layout == "channels_last":
                made = made.contiguous(memory_format=self.torch.channels_last)
            elif layout == "float32":
                made = made.float()
            self._uploaded[key] = (tensor, made.to(self.device))  # the first keeps its id from being given again
        return self._uploaded[key][1]


class Step(NamedTuple):
    """arguments: edges or tensors; None for what is left out. dead: edges that nobody reads afterwards."""

    run: Run
    arguments: tuple[str | Tensor | None, ...]
    outputs: tuple[str, ...]
    dead: tuple[str, ...]


class Program:
    """The steps for one batch size. `run` may be called from several threads at once."""

    def __init__(self, graph: Graph, batch: int, epilogue: Epilogue = lambda activation: None) -> None:
        """epilogue: see `Node`. Raises BackendError."""
        torch = self._torch = graph.torch
        self._graph = graph
        self.known = dict(graph.known)
        self.meta: dict[str, Tensor] = {}
        for name, (dims, dtype) in graph.inputs.items():
            self.meta[name] = torch.empty([batch, *dims[1:]], dtype=dtype, device="meta")
        bound: list[tuple[int, Run, Node]] = []
        with torch.inference_mode():
            for i, op in enumerate(graph.ops):
                arguments = [(self.known.get(e, self.meta.get(e)) if e else None) for e in op.inputs]
                node = Node(
                    torch,
                    op,
                    graph.opset,
                    arguments,
                    inplace=graph.lives.inplace(i),
                    positive=len(op.inputs) > 1 and op.inputs[1] in graph.lives.positive,
                    epilogue=epilogue,
                )
                if (run := self._bind(node)) is not None:
                    bound.append((i, run, node))
        self.steps = [self._step(graph.ops[i], run, node, graph.lives.dead[i]) for i, run, node in bound]
        self.constants = {name: graph.upload(self.known[name], "plain") for name in graph.outputs if name in self.known}

    def _bind(self, node: Node) -> Run | None:
        """Its function; None where its outputs are known now."""
        op, folds = node.op, not any(node.has(i) and not node.known(i) for i in range(len(node.inputs)))
        folds = folds or op.kind in ("Shape", "Size")
        try:
            run = OPERATORS[op.kind](node)
            given = [None if how == "none" else x for x, how in zip(node.inputs, node.layouts, strict=True)]
            if not folds:
                given = [None if x is None else x.to("meta") for x in given]
            found = run(*given)
        except EyasError:
            raise
        except Exception as error:  # whatever torch says to shapes and types that it does not take
            said = " ".join(str(error).split())[:200]
            raise refusal(f"operator {op.kind} in node {op.name}, for which torch says: {said}") from error
        outputs = [found] if self._torch.is_tensor(found) else list(found)
        place = self.known if folds else self.meta
        place.update({name: x for name, x in zip(op.outputs, outputs, strict=False) if name})
        return None if folds else run

    def _step(self, op: Op, run: Run, node: Node, dead: tuple[str, ...]) -> Step:
        arguments: list[str | Tensor | None] = []
        for i, (x, layout) in enumerate(zip(node.inputs, node.layouts, strict=True)):
            if x is None or layout == "none":
                arguments.append(None)
            else:
                arguments.append(self._graph.upload(x, layout) if node.known(i) else op.inputs[i])
        return Step(run, tuple(arguments), op.outputs, dead)

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs on the graph's device → outputs, which may be views of one another or of the constants."""
        edges = dict(feeds)
        with self._torch.inference_mode():
            for run, arguments, outputs, dead in self.steps:
                found = run(*(edges[a] if isinstance(a, str) else a for a in arguments))
                if self._torch.is_tensor(found):
                    edges[outputs[0]] = found
                else:
                    edges.update(zip(outputs, found, strict=False))
                for edge in dead:
                    edges.pop(edge, None)
        edges |= self.constants
        return {name: edges[name] for name in self._graph.outputs}
