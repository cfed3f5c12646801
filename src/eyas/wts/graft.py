"""A whole deploy graph as a TensorRT network whose trunk is built with the layer API.

TensorRT's parser cannot put one ONNX graph behind another network. So the deploy graph is parsed without its trunk: in
the place of each raw map stands one strided 1 × 1 convolution of zeros, a stub of the same shape. Then the trunk is
built onto the stem, and whatever read a stub reads the raw map instead; TensorRT drops what nobody reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from eyas.errors import BackendError, ModelError, problem
from eyas.graph.surgery import edges_read
from eyas.trt.prepare import cast_before_transposing
from eyas.wts.trt_network import Built, Precision, TensorRtOps, is_typed
from eyas.wts.walk import convolutions, forward
from eyas.wts.weights import Weights

STUB = "eyas/wts/stub_"


def graft(trt: Any, network: Any, deploy: onnx.ModelProto, weights: Weights, precision: Precision = "fp32") -> Built:
    """Fill an empty network with a deploy graph made of `to_onnx(weights)`, which has eyas' own edges.

    deploy: in fp32, as `eyas.build.deploy_graph` gives it. precision: of the trunk; stem and head are fp32.
    Raises ModelError: `deploy` is of another network; BackendError: TensorRT refuses it.
    """
    hollow, folded = hollowed(deploy, weights)
    cast_before_transposing(hollow.graph)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse(hollow.SerializeToString()):
        said = "; ".join(parser.get_error(i).desc().splitlines()[0] for i in range(parser.num_errors))
        raise BackendError(
            problem(
                f"{trt.__name__} {trt.__version__} refuses stem or head of the deploy graph",
                got=said or "no reason",
                expected="operators that it knows",
                remedy="`eyas doctor` may know why.",
            )
        )
    return fill(trt, network, folded, precision)


def hollowed(deploy: onnx.ModelProto, weights: Weights) -> tuple[onnx.ModelProto, Weights]:
    """The deploy graph with stubs for its trunk, and the trunk's weights as they are in that graph.

    They may differ from `weights`: the stem's 1/255 and colour order are folded into the first convolution.
    """
    wanted = convolutions(weights.arch, weights.classes)
    nodes = {n.input[1]: n for n in deploy.graph.node if n.op_type == "Conv"}
    if not nodes.keys() >= {f"{conv.stem}.weight" for conv in wanted}:
        raise ModelError(
            problem(
                "the deploy graph is of another network than the weights",
                got=f"{len(nodes)} convolutions",
                expected=f"the {len(wanted)} of {weights.arch.describe()}, by name",
                remedy="Make it of to_onnx(weights).",
            )
        )
    stem = nodes[f"{wanted[0].stem}.weight"].input[0]
    maps = [nodes[f"{conv.stem}.weight"].output[0] for conv in wanted if not conv.active]
    stored = {t.name: t for t in deploy.graph.initializer}
    folded = replace(weights, convs={conv.name: _stored(nodes[f"{conv.stem}.weight"], stored) for conv in wanted})
    hollow = onnx.ModelProto()
    hollow.CopyFrom(deploy)
    graph = hollow.graph
    stubs = []
    for i, (edge, stride) in enumerate(zip(maps, weights.arch.strides, strict=True)):
        zeros = np.zeros((3 * (5 + weights.classes), 3, 1, 1), np.float32)
        graph.initializer.append(numpy_helper.from_array(zeros, f"{STUB}{i}_weight"))
        inputs, steps = [stem, f"{STUB}{i}_weight"], [stride] * 2
        stubs.append(helper.make_node("Conv", inputs, [edge], f"{STUB}{i}", kernel_shape=[1, 1], strides=steps))
    _keep(graph, stem, stubs, maps)
    return hollow, folded


def _stored(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> tuple[Any, Any]:
    weight, bias = (numpy_helper.to_array(stored[name]).astype(np.float32) for name in node.input[1:3])
    return weight, bias


def _keep(graph: onnx.GraphProto, stem: str, stubs: list[onnx.NodeProto], maps: list[str]) -> None:
    """Put the stubs behind the stem, and take out of the graph what no output needs then."""
    needed = {o.name for o in graph.output} | {stem}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output) and not set(maps) & set(node.output):
            kept.append(node)
            needed.update(edges_read([node]))
    kept.reverse()
    at = next((i for i, node in enumerate(kept) if stem in node.output), -1) + 1
    kept[at:at] = stubs
    needed |= {name for stub in stubs for name in stub.input}
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in needed]
    for field, values in ((graph.node, nodes), (graph.initializer, tensors), (graph.value_info, [])):
        del field[:]
        field.extend(values)


def fill(trt: Any, network: Any, weights: Weights, precision: Precision = "fp32") -> Built:
    """Build the trunk into a network that was parsed from a hollow deploy graph, in the place of its stubs."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    stubs = {layer.name: layer for layer in layers if layer.name.startswith(STUB)}
    ops = TensorRtOps(trt, network, weights, precision == "fp16" and is_typed(trt, network))
    stem = stubs[f"{STUB}0"].get_input(0)
    maps = [ops.widened(e) for e in forward(ops, weights.arch, weights.classes, ops.narrowed(stem))]
    instead = {stubs[f"{STUB}{i}"].get_output(0).name: edge for i, edge in enumerate(maps)}
    for layer in layers:
        for i in range(layer.num_inputs):
            read = layer.get_input(i)
            if read is not None and read.name in instead:
                layer.set_input(i, instead[read.name])
    outputs = tuple(network.get_output(i).name for i in range(network.num_outputs))
    return Built(network, outputs, tuple(ops.arrays))
