"""Read a model for the doctor: more forgiving than `eyas.graph.network.read_network`, since it is here to be examined.

What is no ONNX at all raises ModelError; everything that parses is for the rules to judge. Weights in external files
are read late, once the rules have found that they lie in the model's folder and are not too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from eyas.errors import ModelError, problem

LIMIT = 2**31 - 1  # bytes: protobuf holds no larger message


def read_model(path: Path) -> onnx.ModelProto:
    """Parse a file, its external weights not read. Raises ModelError: not a file, not ONNX, cut off, too large."""
    try:
        size = path.stat().st_size if path.is_file() else -1
        if size > LIMIT:
            raise _refused(path, f"{size / 1e9:.1f} GB", "at most 2 GB", "Export it with external data.")
        if size < 0:
            got = "a folder" if path.is_dir() else "no such file"
            raise _refused(path, got, "an .onnx file", "Check the path.")
        data = path.read_bytes()
    except OSError as error:
        got = error.strerror or str(error)
        raise _refused(path, got, "a file that can be read", "Check who may read it.") from error
    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        remedy = "It may be cut off or of another kind: copy or export it again."
        raise _refused(path, f"{size} bytes that do not parse", "a complete ONNX file", remedy) from error
    if not model.graph.node or not model.graph.output:
        got = f"{size} bytes with {len(model.graph.node)} operators, {len(model.graph.output)} outputs"
        remedy = "It may be cut off or of another kind: copy or export it again."
        raise _refused(path, got, "a complete ONNX file", remedy)
    if not all(map(_is_text, _names(model.graph))):
        remedy = "The file is damaged: copy or export it again."
        raise _refused(path, "names that are not UTF-8", "a complete ONNX file", remedy)
    return model


def _names(graph: onnx.GraphProto) -> Iterator[object]:
    """Every name in a graph."""
    for value in (*graph.input, *graph.output, *graph.initializer):
        yield value.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            for inner in (attribute.g, *attribute.graphs):
                yield from _names(inner)


def _is_text(name: object) -> bool:
    """Protobuf lets bytes pass that are no text; whatever reads them later fails on them."""
    try:
        return isinstance(name, str) and name.encode() is not None
    except UnicodeEncodeError:
        return False


def _refused(path: Path, got: str, expected: str, remedy: str) -> ModelError:
    return ModelError(problem(f"{path} cannot be examined", got=got, expected=expected, remedy=remedy))


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor: weights, constants of nodes, and those of inner graphs."""
    yield from graph.initializer
    for attribute in (a for node in graph.node for a in node.attribute):
        yield from ([attribute.t] if attribute.HasField("t") else [])
        yield from attribute.tensors
        for inner in (attribute.g, *attribute.graphs):
            yield from tensors(inner)


def external(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors whose data are in other files."""
    return [t for t in tensors(model.graph) if uses_external_data(t)]


def with_weights(model: onnx.ModelProto, path: Path | None) -> onnx.ModelProto:
    """The model itself, or a copy with its external weights read. Raises ModelError where they cannot be."""
    if not external(model):
        return model
    full = onnx.ModelProto()
    full.CopyFrom(model)
    folder = (path or Path()).parent
    try:
        load_external_data_for_model(full, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        remedy = "They may be cut off or of another export: copy or export them again."
        raise _refused(path or Path("model"), str(error), "weights as the model describes", remedy) from error
    return full
