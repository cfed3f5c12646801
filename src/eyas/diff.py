"""Two graphs, two backends or two precisions side by side: which layer departs first, and by how much.

Both sides become deploy graphs whose inner edges are outputs too; edges are paired by name. So what is compared is
what runs, but for one thing: a runtime cannot fuse two layers when it must show what passes between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from eyas.backends import Engine, backend, choose
from eyas.build import Network, deploy_graph
from eyas.errors import DataError, OptionError, problem
from eyas.graph.head import HeadSpec
from eyas.graph.surgery import IMAGES, THRESHOLDS
from eyas.letterbox import prepare
from eyas.types import BuildSpec, Frame, ModelCard

HEAD = HeadSpec(max_candidates=1)  # the head is not compared: its first top-K would order the two sides differently
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a network and how it runs. precision and device: see `eyas.types.BuildSpec`."""

    network: Network
    backend: str | None = None
    precision: str = "auto"
    device: str | None = None


@dataclass(slots=True)
class Layer:
    """One edge that both have, and what was seen of it over all pictures.

    name: of the edge. op: of the operator that writes it on the first side. error, power: Σ(a − b)², Σa².
    largest: max |a − b|. scale: max |a|. bad: values that are finite on one side only.
    """

    name: str
    op: str
    error: float = 0.0
    power: float = 0.0
    largest: float = 0.0
    scale: float = 0.0
    bad: int = 0

    @property
    def relative(self) -> float:
        """‖a − b‖ / ‖a‖, infinite where a value is finite on one side only."""
        if self.bad:
            return float("inf")
        return float(np.sqrt(self.error / self.power)) if self.power > 0 else float(np.sqrt(self.error))

    @property
    def sqnr_db(self) -> float:
        """Signal to noise, 10 · log₁₀(Σa² / Σ(a − b)²), in decibels."""
        return float("inf") if self.relative == 0 else float(-20 * np.log10(self.relative))

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Take in one picture's values; where both are not finite in the same way, they agree."""
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        finite = np.isfinite(x) & np.isfinite(y)
        self.bad += int(((~finite) & ~((x == y) | (np.isnan(x) & np.isnan(y)))).sum())
        x, y = x[finite], y[finite]
        apart = np.abs(x - y)
        self.error += float((apart**2).sum())
        self.power += float((x**2).sum())
        self.largest = max(self.largest, float(apart.max(initial=0)))
        self.scale = max(self.scale, float(np.abs(x).max(initial=0)))


@dataclass(frozen=True, slots=True)
class Difference:
    """What came out. layers: in the first side's order. a, b: what ran. pictures: how many. unpaired: edges of the
    first side that the second does not have."""

    layers: tuple[Layer, ...]
    a: str
    b: str
    pictures: int
    unpaired: int
    threshold: float
    outputs: tuple[str, ...] = field(default=())

    def first(self) -> Layer | None:
        """The first layer whose relative error is over the threshold."""
        return next((layer for layer in self.layers if layer.relative > self.threshold), None)

    def report(self) -> dict[str, Any]:
        """All figures as plain JSON values; null stands for infinity."""
        first = self.first()
        return {
            "a": self.a,
            "b": self.b,
            "pictures": self.pictures,
            "threshold": self.threshold,
            "first_to_depart": first.name if first else None,
            "unpaired": self.unpaired,
            "layers": [_row(layer) for layer in self.layers],
        }


def _row(layer: Layer) -> dict[str, Any]:
    figures = {
        "relative_error": layer.relative,
        "sqnr_db": layer.sqnr_db,
        "largest": layer.largest,
        "scale": layer.scale,
    }
    plain = {key: value if np.isfinite(value) else None for key, value in figures.items()}
    return {"name": layer.name, "op": layer.op, **plain, "not_finite": layer.bad}


def compare(a: Side, b: Side, frames: Iterable[Frame], threshold: float = 0.01) -> Difference:
    """Run both on the same pictures. threshold: the relative error over which a layer departs.

    Raises OptionError where the two take other inputs or share no layer, DataError without a picture.
    """
    if not 0 < threshold < 1:
        raise OptionError(problem("--threshold is no share", got=threshold, expected="between 0 and 1", remedy=""))
    cards = a.network.card, b.network.card
    if _input_of(cards[0]) != _input_of(cards[1]):
        raise OptionError(
            problem(
                "the two do not take the same pictures",
                got=f"{_input_of(cards[0])} and {_input_of(cards[1])}",
                expected="the same input size, resize rule and padding",
                remedy="Compare two forms of one network; `eyas val A --vs B` compares two networks.",
            )
        )
    graphs = [deploy_graph(side.network, HEAD) for side in (a, b)]
    made = [_edges(graph) for graph in graphs]
    shared = [name for name in made[0] if name in made[1]]
    if not shared:
        raise OptionError(
            problem(
                "the two have no layer in common",
                got=f"{len(made[0])} and {len(made[1])} layers, no name of one in the other",
                expected="two forms of one network",
                remedy="`eyas val A --vs B` compares what two networks find.",
            )
        )
    layers = {name: Layer(name, made[0][name].op_type) for name in shared}
    engines: list[Engine] = []
    count = 0
    try:
        for side, graph, edges in zip((a, b), graphs, made, strict=True):
            engines.append(_open(side, graph, {name: edges[name].element for name in shared}))
        for images in _inputs(cards[0], frames):
            count += 1
            values = [engine.infer(_feeds(graph, images)) for engine, graph in zip(engines, graphs, strict=True)]
            for name, layer in layers.items():
                if values[0][name].shape == values[1][name].shape:
                    layer.add(values[0][name], values[1][name])
    finally:
        for engine in engines:
            engine.close()
    if not count:
        raise DataError(problem("there is nothing to compare on", got="no picture", expected="at least one", remedy=""))
    used = tuple(layer for layer in layers.values() if layer.power or layer.error or layer.bad)
    names = tuple(a.network.facts.outputs)
    about = [engine.description for engine in engines]
    return Difference(used, about[0], about[1], count, len(made[0]) - len(shared), threshold, names)


def _input_of(card: ModelCard) -> tuple[Any, ...]:
    return card.input_size, card.resize, card.crop, card.pad_value


class _Edge(NamedTuple):
    """Who writes an edge, and its element type."""

    op_type: str
    element: int


def _edges(graph: onnx.ModelProto) -> dict[str, _Edge]:
    """Float edges that depend on the picture, before our head, in graph order."""
    inferred = onnx.shape_inference.infer_shapes(graph, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    moving = {IMAGES}
    found: dict[str, _Edge] = {}
    for node in graph.graph.node:
        if moving.isdisjoint(node.input):
            continue
        moving.update(node.output)
        if node.name.startswith("eyas/head/") or node.op_type in ("Shape", "Size"):
            continue
        found.update({e: _Edge(node.op_type, types[e]) for e in node.output if types.get(e) in FLOATS})
    return found


def _open(side: Side, graph: onnx.ModelProto, edges: Mapping[str, int]) -> Engine:
    """An engine of the deploy graph whose outputs are `edges`, each of the element type it has."""
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    del watched.graph.output[:]
    for name, element in edges.items():
        watched.graph.output.append(helper.make_tensor_value_info(name, element, None))
    module = choose()[1] if side.backend is None else backend(side.backend)
    spec = BuildSpec(side.precision, device=side.device)  # type: ignore[arg-type] # checked there
    return module.open_engine(watched, spec)


def _feeds(graph: onnx.ModelProto, images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
    feeds: dict[str, NDArray[Any]] = {IMAGES: images, THRESHOLDS: np.array([[0.25, 0.5]], np.float32)}
    return {i.name: feeds[i.name] for i in graph.graph.input}


def _inputs(card: ModelCard, frames: Iterable[Frame]) -> Iterator[NDArray[np.uint8]]:
    for frame in frames:
        images = np.empty((1, *card.input_size, 3), np.uint8)
        prepare(frame.image, card, images[0])
        yield images
