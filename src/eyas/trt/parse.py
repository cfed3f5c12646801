"""ONNX → TensorRT's network, and what its parser and builder complain of → messages that name node and rule."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import onnx

from eyas.errors import BackendError, problem
from eyas.trt.edition import Edition

MOST = 3  # complaints shown; further ones are mostly consequences
_NO_PLUGIN = "Plugin not found"


def parse(edition: Edition, network: Any, logger: Any, model: onnx.ModelProto) -> None:
    """Read the model into the network. Raises BackendError with every complaint of the parser, up to three."""
    parser = edition.trt.OnnxParser(network, logger)
    if parser.parse(model.SerializeToString()):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    complaints = [_complaint(edition, model, *_where(model, error), error.desc()) for error in errors[:MOST]]
    if len(errors) > MOST:
        complaints.append(f"and {len(errors) - MOST} more")
    refuse(edition, "; ".join(complaints) or "no reason given")


def refuse_build(edition: Edition, model: onnx.ModelProto, errors: list[str]) -> NoReturn:
    """Raise BackendError for a build that gave no plan. errors: what the logger heard."""
    text = next((e for e in errors if "Cannot compile" in e or "Could not find any implementation" in e), None)
    text = text or (errors[-1] if errors else "no reason given")
    named = [n for n in model.graph.node if n.name and n.name in text]
    node = max(named, key=lambda n: len(n.name), default=None)
    if node is None and (op := re.search(r"operation '([^']+)'", text)):
        node = next((n for n in model.graph.node if n.name and op.group(1).endswith(n.name)), None)
    remedy = ""
    if "SM75" in text or "Turing" in text:
        remedy = "Turing lacks it in fp32: --precision fp16, or leave SM75 out of --target."
    elif "CUDA_SUCCESS" in text or "Cuda Runtime" in text:
        remedy = "This option needs a GPU while building (refit, stripping and the target `current` do)."
    if node is None:
        refuse(edition, _short(text), remedy)
    refuse(edition, _complaint(edition, model, node.name, node.op_type, text), remedy)


def refuse(edition: Edition, got: str, remedy: str = "") -> NoReturn:
    """Raise the BackendError."""
    remedy = remedy or "`eyas doctor --backend` says more; another backend may take it (`eyas backends`)."
    what = f"{edition.title} refuses the model"
    raise BackendError(problem(what, got=got, expected="a graph it can run", remedy=remedy))


def _where(model: onnx.ModelProto, error: Any) -> tuple[str, str]:
    """Node name and operator. TensorRT before 10 gives the node's number only."""
    index = error.node()
    node = model.graph.node[index] if 0 <= index < len(model.graph.node) else None
    name, op = (getattr(error, f, lambda: "")() for f in ("node_name", "node_operator"))
    if node is None:
        return name, op
    return name or node.name or node.output[0], op or node.op_type


def _complaint(edition: Edition, model: onnx.ModelProto, name: str, op: str, text: str) -> str:
    said = "it knows no such operator, and no plug-in of that name is loaded" if _NO_PLUGIN in text else _short(text)
    return f"{op or 'the graph'} (node {name or 'unknown'}): {said}{_rule(edition, model, name, op)}"


def _rule(edition: Edition, model: onnx.ModelProto, name: str, op: str) -> str:
    """The doctor's rule that knows of it, in brackets; nothing where no rule does."""
    from eyas.doctor.check import examine

    backend = "tensorrt_rtx" if edition.rtx else "tensorrt"
    found = [f for f in examine(model, backend=backend) if f.severity == "error"]
    here = [f for f in found if name and f.node == name] or [f for f in found if op and re.search(rf"\b{op}\b", f.what)]
    return f" [doctor rule {here[0].rule}: {here[0].what}]" if here else ""


def _short(text: str) -> str:
    """The first sentence that says something, without source files and line breaks."""
    line = next((part for part in text.splitlines() if "Error Code" in part), text.strip().splitlines()[0])
    line = re.sub(r"^.*?Error Code \d+: ", "", line)
    line = re.sub(r"\s*In \w+ at /\S+", "", line)
    return line[:300].strip()
