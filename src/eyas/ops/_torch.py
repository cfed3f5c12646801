"""The operators in PyTorch (2.6 or newer): functions that can be trained, and how torch's exporter writes them.

Each is a `torch.library.custom_op`, so that torch.export keeps it as one call; its kernel is the operator's formula, so
that it runs on every device of torch's, and its gradient is that of the formula.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from eyas.extras import need
from eyas.ops import Operator, inputs_of, operators


@cache
def symbol_of(op: Operator) -> Any:
    """The operator as a torch function; registered once. Raises EyasError without torch."""
    torch = need("torch", "export")
    inputs = inputs_of(op)

    def value(*arguments: Any) -> Any:
        return op.formula(torch, *arguments[: len(inputs)], **_numbers(op, arguments))

    def fake(*arguments: Any) -> Any:
        tensors = arguments[: len(inputs)]
        return tensors[0].new_empty(op.shape(*(t.shape for t in tensors)))

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[: len(inputs) - len(op.ATTRIBUTES)])
        ctx.numbers = inputs[len(inputs) - len(op.ATTRIBUTES) :]

    def backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
        _, pulled = torch.func.vjp(lambda *tensors: value(*tensors, *ctx.numbers), *ctx.saved_tensors)
        return (*pulled(gradient), *(None for _ in ctx.numbers))

    defaults = [f"float {name}={default!r}" for name, default in op.ATTRIBUTES.items()]
    schema = f"({', '.join([*(f'Tensor {name}' for name in inputs), *defaults])}) -> Tensor"
    made = torch.library.custom_op(f"{op.DOMAIN}::{op.NAME.lower()}", value, mutates_args=(), schema=schema)
    made.register_fake(fake)
    made.register_autograd(backward, setup_context=keep)
    return made


def translations() -> dict[Any, Any]:
    """torch's operator → a function that writes it as its ONNX node: for torch.onnx.export's custom_translation_table.

    Empty where none of the operators has been asked for by `symbol`: then no module can hold one.
    """
    torch = need("torch", "export")
    found = {}
    for op in operators().values():
        packet = getattr(getattr(torch.ops, op.DOMAIN), op.NAME.lower(), None)
        if packet is not None:
            found[packet.default] = _writer(op)
    return found


def _writer(op: Operator) -> Any:
    """What onnxscript calls with the inputs' values; it needs a schema to tell inputs from attributes."""
    values = need("onnxscript.values", "export")
    schema = need("onnx.defs", "export").OpSchema
    floats = ["tensor(float)", "tensor(float16)", "tensor(double)"]
    described = schema(
        op.NAME,
        op.DOMAIN,
        1,
        inputs=[schema.FormalParameter(name, "T") for name in inputs_of(op)],
        outputs=[schema.FormalParameter("out", "T")],
        type_constraints=[("T", floats, "")],
        attributes=[schema.Attribute(name, schema.AttrType.FLOAT, required=False) for name in op.ATTRIBUTES],
    )
    node = values.Op(values.Opset(op.DOMAIN, 1), op.NAME, described)
    count = len(inputs_of(op))

    def write(*arguments: Any, **said: float) -> Any:
        return node(*arguments[:count], **(_numbers(op, arguments) | said))

    return write


def _numbers(op: Operator, arguments: tuple[Any, ...]) -> dict[str, float]:
    """The attributes by name, of a call's arguments; those that it leaves out are as the operator has them."""
    given = arguments[len(inputs_of(op)) :]
    return dict(op.ATTRIBUTES) | dict(zip(op.ATTRIBUTES, given, strict=False))
