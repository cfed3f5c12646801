"""One operator on its way from ONNX to a function of tensors: `Op` as it is in the graph, `Node` while it is bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from eyas.errors import BackendError, problem

Tensor = Any  # torch.Tensor; torch is not imported here
Run = Callable[..., Any]  # inputs → output, or a sequence of outputs


@dataclass(frozen=True, slots=True)
class Op:
    """A node of the graph. inputs: edges, "" where one is left out. attributes: as Python values."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


Epilogue = Callable[[Op | None], Run | None]


def op_of(node: onnx.NodeProto) -> Op:
    """Strings as str, tensors as TensorProto, inner graphs as GraphProto."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
    return Op(kind, node.name or node.output[0], tuple(node.input), tuple(node.output), attributes)


def refusal(got: str) -> BackendError:
    """For what the interpreter cannot run."""
    remedy = "Another backend may take it (`eyas backends`)."
    return BackendError(problem("PyTorch refuses the model", got=got, expected="a graph it can run", remedy=remedy))


class Node:
    """What a function of the table sees: attributes, shapes, and the inputs' values where they are known.

    inputs: a CPU tensor where the value is known, a tensor without data ("meta") where it is not, None where the input
    is left out. inplace: the first input may be overwritten. epilogue: what adds a convolution's bias and applies an
    activation (or None), as a function of the products and the bias, float32 (or None); None where torch does it.
    """

    def __init__(
        self,
        torch: Any,
        op: Op,
        opset: int,
        inputs: Sequence[Tensor | None],
        *,
        inplace: bool = False,
        positive: bool = False,
        epilogue: Epilogue = lambda activation: None,
    ) -> None:
        """positive: the indices that it takes are known to be ≥ 0."""
        self.torch, self.op, self.opset = torch, op, opset
        self.inputs: list[Any] = list(inputs)
        self.inplace, self.positive, self.epilogue = inplace, positive, epilogue
        self.layouts = ["plain"] * len(inputs)  # how a known input is uploaded, see `eyas.torch_ops.weights`

    @property
    def F(self) -> Any:
        """torch.nn.functional."""
        return self.torch.nn.functional

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.op.attributes.get(name, default)

    def has(self, i: int) -> bool:
        """Whether input i is given."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def shape(self, i: int = 0) -> tuple[int, ...]:
        """Of input i."""
        return tuple(self.inputs[i].shape)

    def axis(self, default: int = 0, name: str = "axis") -> int:
        """The attribute, counted from the front."""
        value = int(self.get(name, default))
        return value + len(self.shape()) if value < 0 else value

    def known(self, i: int) -> bool:
        """Whether input i is given and its value does not depend on the pictures."""
        return self.has(i) and self.inputs[i].device.type != "meta"

    def value(self, i: int) -> Tensor:
        """The value of input i, on the CPU, which then is not passed when it runs. Raises BackendError if unknown."""
        if not self.known(i):
            said = f"{self.op.kind} in node {self.op.name}, whose input {i} depends on the pictures"
            raise refusal(f"operator {said}")
        self.layouts[i] = "none"
        return self.inputs[i]

    def ints(self, i: int) -> list[int]:
        """`value` as whole numbers."""
        return [int(v) for v in self.value(i).flatten().tolist()]

    def number(self, i: int) -> float:
        """`value` of one element."""
        found: float = self.value(i).item()
        return found

    def attach(self, tensor: Tensor) -> int:
        """Pass one more tensor when it runs, behind the inputs; gives its place among the arguments."""
        self.inputs.append(tensor)
        self.layouts.append("plain")
        return len(self.inputs) - 1

    def refuse(self, what: str) -> BackendError:
        """For an attribute or a shape that is not covered."""
        return refusal(f"operator {self.op.kind} in node {self.op.name} with {what}")
