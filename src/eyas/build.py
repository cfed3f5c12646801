"""The compile flow, in order: network → opset, size, batch → facts → card → rewrites → stem → head → deploy graph.

Everything here is ONNX in, ONNX out; a backend (`eyas.backends`) makes an engine of the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx

from eyas.card import METADATA_KEY, card_to_dict, read_card, settle_card
from eyas.errors import CardError, ModelError, problem
from eyas.families import family
from eyas.graph.batch import free_batch
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, HeadSpec, append_head
from eyas.graph.imgsz import resize_input
from eyas.graph.network import Facts, facts_of, read_network
from eyas.graph.openend import KEY as HEAD_KEY
from eyas.graph.opset import raise_opset
from eyas.graph.rewrite import split_convolutions, unfold_expectation
from eyas.graph.surgery import IMAGES, OUTPUTS, THRESHOLDS, Output, add_stem, finish, free_names
from eyas.graph.vector import Scores, Vector, append_scores, append_vector
from eyas.ops import Key, expand_custom, expanded
from eyas.store import resolve
from eyas.types import ModelCard


@dataclass(frozen=True, slots=True)
class Network:
    """A network and what it is: the input of every further step. `model` still has its own inputs and outputs.

    digest: SHA-256 of the model as it was read, in hexadecimal; it names the network wherever results depend on it.
    """

    model: onnx.ModelProto
    facts: Facts
    card: ModelCard
    digest: str = ""


def open_network(
    model: str | Path,
    *,
    family_name: str | None = None,
    names: tuple[str, ...] | None = None,
    size: tuple[int, int] | None = None,
    card: Path | None = None,
    batch: int = 1,
) -> Network:
    """Read a model by name (see `eyas.store`) or an ONNX file, and settle its card. Raises ModelError or CardError.

    size: (height, width), for a network whose input size is free or is to be another one than it was exported for.
    batch: pictures a call; a network exported for another number is freed of that where its graph allows. card: a JSON
    file whose fields win over those that the store keeps beside the model. The others: see `eyas.card.settle_card`.
    """
    located = resolve(model)
    if located.path.suffix.lower() == ".wts":
        from eyas.wts.open import open_wts  # which builds on this module

        return open_wts(located.path, names=names, size=size)[0]
    proto = read_network(located.path)
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    proto = raise_opset(proto, str(model), size)
    if size is not None:
        proto = resize_input(expanded(proto), size)
    facts = facts_of(proto, size)
    if facts.batch not in (None, batch):
        with suppress(ModelError):  # its images depend on each other: it stays as it is
            proto = free_batch(expanded(proto))
            facts = facts_of(proto, size)
    said = {**located.card, **(read_card(card) if card else {})}
    return Network(proto, facts, settle_card(facts, said, family_name=family_name, names=names), digest)


def deploy_graph(network: Network, head: HeadSpec, keep: Collection[Key] = ()) -> onnx.ModelProto:
    """The deploy graph of a network (edges: see `eyas.graph.surgery`), with its card in the metadata.

    keep: custom operators that the backend has plug-ins for; the others become plain ones (see `eyas.ops`).
    The network itself is not changed. Raises CardError where card and graph contradict each other.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    facts, card = network.facts, network.card
    expand_custom(model, keep)
    unfold_expectation(model)
    split_convolutions(model)
    renamed = free_names(model.graph, (IMAGES, THRESHOLDS, *OUTPUTS))
    stem, tail = Builder(model, "stem"), Builder(model, "head")
    add_stem(stem, model.graph, card.normalise)
    facts = replace(facts, outputs={renamed.get(name, name): shape for name, shape in facts.outputs.items()})
    found = family(card.family).decode(tail, card, facts)
    finish(model, stem, tail, card.input_size, facts.batch or "batch", _append_end(tail, found, head, card))
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(card_to_dict(card)))
    model.metadata_props.add(key=HEAD_KEY, value=json.dumps(asdict(head)))
    return model


def _append_end(g: Builder, found: Cells | Scores | Vector, head: HeadSpec, card: ModelCard) -> list[Output]:
    """What comes behind a family's decode, by what it found. Raises CardError where the card's task is another."""
    if card.task != found.task:
        raise CardError(
            problem(
                "the card's task is not what its family does",
                got=f"task {card.task} with family {card.family}",
                expected=f"task {found.task}",
                remedy="Correct the task in the card, or --family.",
            )
        )
    if isinstance(found, Scores):
        return append_scores(g, found)
    if isinstance(found, Vector):
        return append_vector(g, found)
    return append_head(g, found, head, THRESHOLDS)
