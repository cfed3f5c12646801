"""Write a network again for an input of another shape: the walk that `batch` and `imgsz` share.

The graph is gone through once, in order, in two worlds (see `axes`). Each operator has a rule that says what its
outputs' axes are made of and corrects the node: the target of a Reshape, the end of a Slice, the axes of a reduction, a
constant that is laid out over the cells. The rules for the batch are those of a map over images: what is written for
one image (or N) is said for any number, and whatever would let one image see another has no rule and is refused. So is
every operator that is not known here. Shapes that were computed in the graph become constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from eyas.errors import ModelError, problem
from eyas.graph.builder import PREFIX, Builder
from eyas.graph.replay.axes import Layout, batch_at, changes, has_batch, new, new_shape, old, old_shape, on_cells
from eyas.graph.replay.statics import Statics, Unknown
from eyas.graph.surgery import edges_read, inputs_of

Remake = Callable[[NDArray[Any], Layout], NDArray[Any]]
Rule = Callable[["Walk", onnx.NodeProto, dict[str, Any]], list[Layout]]
RULES: dict[str, Rule] = {}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(op_types, function))
        return function

    return register


@dataclass(frozen=True, slots=True)
class Purpose:
    """What the walk is for. what, expected, remedy: of every refusal. images: the old batch where it becomes free, or
    0. remake: gives a constant anew that is laid out over axes which change, ValueError if it cannot be explained.
    check: raises ValueError for a small constant that may depend on the input's size, given the layout that it meets
    and the extents over the cells anywhere.
    """

    part: str
    what: str
    expected: str
    remedy: str
    images: int
    remake: Remake
    check: Callable[[NDArray[Any], Layout, set[int]], None]
    resizes: bool


class Walk:
    """The state of one walk. Rules use the methods below `run`."""

    def __init__(self, model: onnx.ModelProto, source: Layout, purpose: Purpose) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.purpose = purpose
        self.layouts: dict[str, Layout] = {inputs_of(model.graph)[0].name: source}
        self.statics = Statics(self.model, lambda edge: old_shape(self.layouts[edge]))
        self.becoming = Statics(self.model, lambda edge: new_shape(self.layouts[edge]))
        self.g = Builder(self.model, _unused(model.graph, purpose.part))
        self.opset = self.g.opset
        self.sizes = {old(axis) for axis in source if changes(axis)}

    def run(self) -> onnx.ModelProto:
        """The model as it shall be; its outputs' shapes are still the old ones. Raises ModelError."""
        graph = self.model.graph
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if self._is_static(node):
                self.statics.add(node)
                self.becoming.add(node)
                nodes.append(node)
                continue
            found = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if found is None:
                self.fail(node, f"the operator {node.op_type} has no rule here")
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            try:
                layouts = found(self, copy, {a.name: helper.get_attribute_value(a) for a in node.attribute})
            except (Unknown, ValueError, KeyError, IndexError) as error:
                self.fail(node, str(error))
            self._note(node, layouts)
            self._bake(copy)
            nodes += [*self.g.take_nodes(), copy]
        self._finish(nodes)
        return self.model

    def _is_static(self, node: onnx.NodeProto) -> bool:
        return node.op_type in ("Shape", "Size") or self.layouts.keys().isdisjoint(edges_read([node]))

    def _note(self, node: onnx.NodeProto, layouts: Sequence[Layout]) -> None:
        for edge, layout in zip(node.output, layouts, strict=False):
            if self.purpose.images and batch_at(layout) is None:
                self.fail(node, f"{edge} does not carry the batch")
            self.layouts[edge] = layout
            sizes = [old(axis) for axis in layout if on_cells(axis) and not has_batch(axis)]
            self.sizes.update((*sizes, prod(sizes)))
        for edge in node.output[len(layouts) :]:
            if edge:
                self.fail(node, f"the output {edge} has no rule here")

    def _bake(self, node: onnx.NodeProto) -> None:
        """Replace what the node still reads of computed shapes by what they are."""
        for i, edge in enumerate(node.input):
            if edge and self.statics.derived(edge):
                value = self.value(edge)
                node.input[i] = self.const(value, value.dtype.name)

    def _finish(self, nodes: list[onnx.NodeProto]) -> None:
        """Put nodes and constants in, without those that nothing reads any more."""
        graph = self.model.graph
        read = {o.name for o in graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(nodes):
            if not read.isdisjoint(node.output):
                kept.append(node)
                read |= edges_read([node])
        weights = [t for t in (*graph.initializer, *self.g.initializers) if t.name in read]
        listed = {t.name for t in graph.initializer} - read
        inputs = [i for i in graph.input if i.name not in listed]
        del graph.node[:], graph.initializer[:], graph.value_info[:], graph.input[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(weights)
        graph.input.extend(inputs)

    def fail(self, node: onnx.NodeProto, why: str) -> NoReturn:
        """Refuse, naming the node and the shapes that it reads."""
        shapes = ", ".join(f"{e} {list(old_shape(self.layouts[e]))}" for e in node.input if e in self.layouts)
        raise refusal(
            self.purpose, f"{why}, at {node.op_type} {node.name or node.output[0]} of {shapes or 'constants'}"
        )

    def layout(self, edge: str) -> Layout:
        """The layout of an edge that depends on the picture. Raises ValueError for another."""
        if edge not in self.layouts:
            raise ValueError(f"{edge or 'an input left out'} is a constant")
        return self.layouts[edge]

    def fixed(self, node: onnx.NodeProto, i: int) -> bool:
        """Whether the node has an input i that does not depend on the picture."""
        return len(node.input) > i and node.input[i] != "" and node.input[i] not in self.layouts

    def value(self, edge: str) -> NDArray[Any]:
        """What a static edge holds. Raises Unknown (also for one that depends on the picture)."""
        if edge in self.layouts:
            raise Unknown(f"{edge} depends on the picture")
        return self.statics.value(edge)

    def check(self, edge: str, layout: Layout) -> None:
        """Refuse a small constant that is read as a number, where it depends on the input's size. Raises ValueError."""
        value = self.value(edge)
        if self.statics.derived(edge) and not np.array_equal(value, self.becoming.value(edge)):
            raise ValueError(f"the number {value.ravel()[:4].tolist()} is computed from the input's size")
        self.purpose.check(value, layout, self.sizes)

    def ints(self, node: onnx.NodeProto, i: int) -> list[int] | None:
        """The whole numbers on input i, None if it is left out."""
        if len(node.input) <= i or not node.input[i]:
            return None
        return [int(v) for v in self.value(node.input[i]).ravel()]

    def const(self, value: NDArray[Any] | Sequence[float], dtype: str = "int64") -> str:
        """A new constant."""
        return self.g.const(value, dtype)

    def axes(self, node: onnx.NodeProto, attributes: Mapping[str, Any], rank: int, place: int = 1) -> list[int] | None:
        """Axes from attribute or input, counted from the front; None if the node names none."""
        found = attributes.get("axes", self.ints(node, place))
        return None if found is None else [a % rank for a in found]

    def same(self, node: onnx.NodeProto, *layouts: Layout) -> None:
        """Refuse layouts whose extents differ in either world."""
        for axes in zip(*layouts, strict=True):
            if len({(old(a), new(a), has_batch(a)) for a in axes}) > 1:
                self.fail(node, "its inputs no longer fit each other")


def refusal(purpose: Purpose, got: str) -> ModelError:
    """The error with which a pass gives up."""
    return ModelError(problem(purpose.what, got=got, expected=purpose.expected, remedy=purpose.remedy))


def _unused(graph: onnx.GraphProto, part: str) -> str:
    """A name for our own edges that no earlier pass over this graph took."""
    edges = edges_read(graph.node)
    count = 0
    while any(edge.startswith(f"{PREFIX}{part}{count}/") for edge in edges):
        count += 1
    return f"{part}{count}"


def single_row(value: NDArray[Any], axis: int) -> NDArray[Any]:
    """The one row of a constant whose rows along `axis` are all the same. Raises ValueError if they are not."""
    row = np.take(value, [0], axis)
    if not (value == row).all():
        raise ValueError("a constant treats the images of a batch differently")
    return row
