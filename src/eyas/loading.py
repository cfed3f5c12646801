"""From a model's name or file to a `Model`: what the network is, its deploy graph, and how it will run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from eyas.build import deploy_graph, open_network
from eyas.card import class_ids
from eyas.engines.open import is_engine, open_file
from eyas.errors import OptionError, problem
from eyas.graph.head import HeadSpec
from eyas.pending import QueueSpec
from eyas.predictor import Hint, Model, Precision
from eyas.types import BuildSpec

log = logging.getLogger("eyas")


def load(
    model: str | PathLike[str] = "nanodet",
    *,
    backend: str | None = None,
    precision: Precision = "auto",
    device: str | None = None,
    batch: int = 1,
    hint: Hint | None = None,
    options: dict[str, Any] | None = None,
    family: str | None = None,
    names: Sequence[str] | None = None,
    imgsz: int | tuple[int, int] | None = None,
    card: str | PathLike[str] | None = None,
    max_det: int = 300,
    classes: Sequence[int | str] | int | str | None = None,
    agnostic_nms: bool = False,
    multi_label: bool = False,
    trust: bool = False,
    rebuild: bool = True,
    queue: QueueSpec | None = None,
) -> Model:
    """Open a model by name ("nanodet" is bundled, `eyas models` lists more) or an ONNX file, ready to predict.

    Or a built engine (`eyas build`), whose backend, card and batch are settled; it takes device, trust and rebuild
    only (see `eyas.engines.open.open_file`).

    backend: "openvino", "onnxruntime" …; None for the best one here. precision, device, options: see `BuildSpec`.
    batch: pictures a call in `stream`. hint: None compiles for latency in `predict` of one picture and for
    throughput in `stream`; naming one compiles once, for both. imgsz: another input size than the file's, one side or
    (height, width). family, names, card (a JSON file): what the network is, where its file does not say.
    max_det: the most objects a picture. classes: only this one or these, by id or name. agnostic_nms: a box may
    suppress one of another class. multi_label: a cell may report every class that passes, not only its best (for
    evaluation). queue: how requests wait for the engine and for one another.
    Raises ModelError, CardError, OptionError or BackendError.
    """
    if is_engine(Path(model)):
        asked: dict[str, Any] = {"backend": backend, "family": family, "names": names, "imgsz": imgsz, "card": card}
        asked |= {"precision": precision != "auto", "batch": batch != 1, "options": options, "classes": classes}
        asked |= {"max_det": max_det != 300, "agnostic_nms": agnostic_nms, "multi_label": multi_label}
        return _built(Path(model), [name for name, value in asked.items() if value], device, trust, rebuild, queue)
    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    network = open_network(
        os.fspath(model),
        family_name=family,
        names=tuple(names) if names is not None else None,
        size=size,
        card=Path(card) if card else None,
        batch=batch,
    )
    head = HeadSpec(max_det, class_ids(classes, network.card.names), agnostic_nms, multi_label)
    spec = BuildSpec(precision, (1, batch, batch), device=device, options=options or {})
    if network.facts.batch and network.facts.batch != batch:
        log.warning("the model's batch is fixed to %d: it runs %d at a time", *[network.facts.batch] * 2)
    return Model(network.card, deploy_graph(network, head), head, spec, backend, hint, network.digest, queue=queue)


def _built(
    path: Path, asked: list[str], device: str | None, trust: bool, rebuild: bool, queue: QueueSpec | None
) -> Model:
    """A model around an engine file."""
    if asked:
        raise OptionError(
            problem(
                f"{path} is a built engine",
                got=", ".join(asked),
                expected="only what can still be chosen: device, trust, rebuild, conf, iou",
                remedy="Build another engine with these (`eyas build`).",
            )
        )
    found = open_file(path, trust=trust, rebuild=rebuild, device=device)
    model = Model(
        found.card,
        found.graph,
        found.head,
        found.spec,
        found.backend,
        found.spec.hint,
        found.digest,
        found.engine,
        queue,
    )
    log.info("engine %s: %s", path, found.engine.description)
    return model
