"""The compile flow, in order: network → facts → card → rewrites → stem → head → deploy graph.

Everything here is ONNX in, ONNX out; a backend (`eyas.backends`) makes an engine of the result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import onnx

from eyas.card import METADATA_KEY, card_to_dict, settle_card
from eyas.families import family
from eyas.graph.builder import Builder
from eyas.graph.head import HeadSpec, append_head, candidates_of
from eyas.graph.network import Facts, facts_of, read_network
from eyas.graph.rewrite import split_convolutions, unfold_expectation
from eyas.graph.surgery import IMAGES, OUTPUTS, THRESHOLDS, add_stem, finish, free_names
from eyas.types import ModelCard

BUNDLED = {"nanodet": "nanodet_g_416.onnx"}


@dataclass(frozen=True, slots=True)
class Network:
    """A network and what it is: the input of every further step. `model` still has its own inputs and outputs."""

    model: onnx.ModelProto
    facts: Facts
    card: ModelCard


def open_network(
    model: str | Path,
    *,
    family_name: str | None = None,
    names: tuple[str, ...] | None = None,
    size: tuple[int, int] | None = None,
    card: Path | None = None,
) -> Network:
    """Read a bundled model by name or an ONNX file, and settle its card. Raises ModelError or CardError.

    size: (height, width) for a network whose input size is free. The others: see `eyas.card.settle_card`.
    """
    if str(model) in BUNDLED:
        with as_file(files("eyas") / "models" / BUNDLED[str(model)]) as path:
            proto = read_network(path)
    else:
        proto = read_network(Path(model))
    facts = facts_of(proto, size)
    return Network(proto, facts, settle_card(facts, family_name=family_name, names=names, card=card))


def deploy_graph(network: Network, head: HeadSpec) -> onnx.ModelProto:
    """The deploy graph of a network (edges: see `eyas.graph.surgery`), with its card in the metadata.

    The network itself is not changed. Raises CardError where card and graph contradict each other.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    facts, card = network.facts, network.card
    unfold_expectation(model)
    split_convolutions(model)
    renamed = free_names(model.graph, (IMAGES, THRESHOLDS, *OUTPUTS))
    stem, tail = Builder(model, "stem"), Builder(model, "head")
    add_stem(stem, model.graph, card.normalise)
    facts = replace(facts, outputs={renamed.get(name, name): shape for name, shape in facts.outputs.items()})
    cells = family(card.family).decode(tail, card, facts)
    for edge, name in zip(append_head(tail, cells, head, THRESHOLDS), OUTPUTS, strict=True):
        tail.op("Identity", edge, out=name)
    finish(model, stem, tail, card.input_size, facts.batch or "batch", (candidates_of(cells, head), 6 + cells.extras))
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(card_to_dict(card)))
    return model
