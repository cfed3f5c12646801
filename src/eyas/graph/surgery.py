"""Turn a network into a deploy graph: put the stem before it, the family's decode and NMS behind it.

The deploy graph's edges, the same for every family and backend (B is the batch, H × W the network's input size):

    in   images         uint8   [B, H, W, 3]  BGR, already letterboxed

of a network that finds objects (E columns hold key points, mask coefficients or an angle):

    in   thresholds     float32 [B, 2]        confidence and IoU, each image its own
    out  detections     float32 [B, K, 6 + E] x1, y1, x2, y2 (network-input pixels), score, class id, extras
    out  count          int32   [B]           how many rows hold something
    out  converged      bool    [B]           false: the rows are candidates that the host must still suppress
    out  prototypes     float32 [B, E, h, w]  with masks only: what each object's coefficients combine

of one that describes the picture as a whole, either of

    out  probabilities  float32 [B, C]
    out  embedding      float32 [B, D]        of unit length
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from eyas.graph.builder import Builder
from eyas.types import Normalise

IMAGES, THRESHOLDS = "images", "thresholds"
PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
OUTPUTS = ("detections", "count", "converged", "prototypes", "probabilities", "embedding")


class Output(NamedTuple):
    """An output of the deploy graph: its name, the edge that holds it, its element type, its shape after the batch."""

    name: str
    edge: str
    element: int
    shape: tuple[int, ...]


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The graph's real inputs: old exports list their weights among them."""
    weights = {t.name for t in graph.initializer}
    return [i for i in graph.input if i.name not in weights]


def dims_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """The shape of a graph input or output; a name (or "?") where an axis is not fixed (some exporters write −1)."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in dims)


def edges_read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Every edge that the nodes read, those of their inner graphs (If, Loop) included."""
    read = set()
    for node in nodes:
        read.update(node.input)
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                read |= edges_read(inner.node) | {o.name for o in inner.output}
    return read


def feeding_products(graph: onnx.GraphProto) -> set[str]:
    """First outputs of the nodes that some convolution or matrix product depends on."""
    producer = {edge: node for node in graph.node for edge in node.output}
    found: set[str] = set()
    todo = [edge for node in graph.node if node.op_type in PRODUCTS for edge in edges_read([node])]
    while todo:
        node = producer.get(todo.pop())
        if node is not None and node.output[0] not in found:
            found.add(node.output[0])
            todo.extend(edges_read([node]))
    return found


def free_names(graph: onnx.GraphProto, taken: Iterable[str]) -> dict[str, str]:
    """Rename the graph's own edges that carry one of our names; returns old → new for each name in `taken`."""
    used = edges_read(graph.node) | {edge for node in graph.node for edge in node.output}
    renamed = {}
    for name in taken:
        renamed[name] = f"net/{name}"
        while renamed[name] in used:
            renamed[name] += "_"
    _rename(graph, renamed)
    return renamed


def _rename(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    """Rename edges, those of inner graphs (If, Loop) included: ONNX allows no name twice in any of them."""
    for item in [*graph.input, *graph.output, *graph.initializer, *graph.value_info]:
        item.name = renamed.get(item.name, item.name)
    for node in graph.node:
        for edges in (node.input, node.output):
            edges[:] = [renamed.get(edge, edge) for edge in edges]
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                _rename(inner, renamed)


def takes_channels_last(value: onnx.ValueInfoProto) -> bool:
    """Whether an input is [B, H, W, 3], as networks that come from TensorFlow have it, and not [B, 3, H, W]."""
    dims = dims_of(value)
    return len(dims) == 4 and dims[3] == 3 and dims[1] != 3


def add_stem(g: Builder, graph: onnx.GraphProto, normalise: Normalise) -> None:
    """Feed the network's input from `images`: NHWC → NCHW (if it wants that), cast, colour order, (x − mean) · scale.

    Scale and colour order move into the first convolution's weights where it is the input's only reader
    (a linear map before a linear map: exact but for rounding); a mean cannot, because that convolution pads
    with zeros *after* the subtraction.
    """
    source = inputs_of(graph)[0]
    element = source.type.tensor_type.elem_type
    last = takes_channels_last(source)
    folded = not last and _fold_into_convolution(graph, source.name, normalise)
    x = g.cast(IMAGES if last else g.op("Transpose", IMAGES, perm=[0, 3, 1, 2]))
    shape, axis = ((1, 1, 1, 3), 3) if last else ((1, 3, 1, 1), 1)
    mean, scale = (np.asarray(v, np.float32) for v in (normalise.mean, normalise.scale))
    if normalise.colour == "rgb" and not folded:
        x = g.op("Gather", x, g.const([2, 1, 0], "int64"), axis=axis)
    if normalise.colour == "rgb" and folded:
        mean = mean[::-1]
    if mean.any():
        x = g.op("Sub", x, g.const(mean.reshape(shape)))
    if not folded and (scale != 1).any():
        x = g.op("Mul", x, g.const(scale.reshape(shape)))
    g.op("Cast", x, to=element, out=source.name)
    graph.input.remove(source)


def _fold_into_convolution(graph: onnx.GraphProto, edge: str, normalise: Normalise) -> bool:
    """Scale (and flip) the input channels of the convolution that alone reads `edge`; False if there is none."""
    readers = [n for n in graph.node if edge in edges_read([n])]
    weights = {t.name: t for t in graph.initializer}
    if len(readers) != 1 or readers[0].op_type != "Conv" or readers[0].input[1] not in weights:
        return False
    name = readers[0].input[1]
    if sum(name in edges_read([n]) for n in graph.node) != 1:
        return False
    weight = numpy_helper.to_array(weights[name])
    if weight.ndim != 4 or weight.shape[1] != 3:
        return False
    scaled = weight.astype(np.float32) * np.asarray(normalise.scale, np.float32).reshape(1, 3, 1, 1)
    if normalise.colour == "rgb":
        scaled = scaled[:, ::-1]
    if np.abs(scaled).max() < 1e-3 and weight.dtype == np.float16:
        return False  # it would lose precision in the subnormal range of fp16
    weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(scaled.astype(weight.dtype)), name))
    return True


def finish(
    model: onnx.ModelProto,
    stem: Builder,
    head: Builder,
    size: tuple[int, int],
    batch: int | str,
    outputs: Sequence[Output],
) -> None:
    """Wire stem and head into the model in place, declare its inputs and outputs, drop weights that nothing reads."""
    graph = model.graph
    for output in outputs:
        head.op("Identity", output.edge, out=output.name)
    nodes = [*stem.nodes, *graph.node, *head.nodes]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    read = edges_read(nodes)
    weights = [t for t in (*graph.initializer, *stem.initializers, *head.initializers) if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    shapes = {IMAGES: (TensorProto.UINT8, [batch, *size, 3]), THRESHOLDS: (TensorProto.FLOAT, [batch, 2])}
    graph.input.extend(helper.make_tensor_value_info(n, t, s) for n, (t, s) in shapes.items() if n in read)
    graph.output.extend(helper.make_tensor_value_info(o.name, o.element, [batch, *o.shape]) for o in outputs)
