"""One network on its way to another precision: its layers, their ranges, what stays in float, and the gate."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from eyas.build import Network
from eyas.card import METADATA_KEY, card_to_dict
from eyas.errors import ModelError, OptionError, problem
from eyas.evaluation.dataset import Dataset
from eyas.graph.precision import OPSETS, narrowable, to_narrow
from eyas.quantize.collect import Watch, collect
from eyas.quantize.compare import Backends, Judge, Reference, judge_by_agreement, judge_by_labels, mean_cosine, sqnr_db
from eyas.quantize.gate import NamesWatch, Sensitivity, Trial, search, sensitivities
from eyas.quantize.histogram import METHODS, Histogram, Method
from eyas.quantize.pictures import CalibrationSet, load_input
from eyas.quantize.prepare import PER_CHANNEL, asked_for, layers_of, prepare, watched
from eyas.quantize.qdq import TARGETS, Target, insert_qdq, unquantisable

Precision = Literal["int8", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "bf16")
NOTE_KEY = "eyas-quantisation"
PROBES = 4  # pictures on which sensitivities are measured
AGREE_ON = 50  # pictures on which detections are compared where there are no labels
log = logging.getLogger("eyas")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to narrow. keep: names of layers that stay in fp32 (`*` and `?` allowed).

    method: how ranges follow from values (`eyas.quantize.histogram`); "auto" takes the one with the least noise behind
    the last products. target: see `eyas.quantize.qdq.insert_qdq`. max_drop: the largest accepted loss, 0…1; None
    measures nothing.
    """

    precision: Precision = "int8"
    method: Method | Literal["auto"] = "auto"
    target: Target = "cpu"
    keep: tuple[str, ...] = ()
    max_drop: float | None = None

    def __post_init__(self) -> None:
        choices = {"precision": PRECISIONS, "method": ("auto", *METHODS), "target": TARGETS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                got = repr(getattr(self, name))
                raise OptionError(problem(f"unknown {name}", got=got, expected=" | ".join(allowed), remedy=""))
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            expected = "0 up to, not including, 1"
            raise OptionError(problem("max_drop is out of range", got=self.max_drop, expected=expected, remedy=""))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says. kept: layer → why it stays in float. good: whether the model may be handed over."""

    kept: dict[str, str]
    good: bool = True
    metric: str | None = None
    fp32: float | None = None
    score: float | None = None
    trials: tuple[Trial, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()

    @property
    def drop(self) -> float | None:
        """fp32 − score."""
        return None if self.fp32 is None or self.score is None else self.fp32 - self.score


@dataclass(frozen=True, slots=True)
class Work:
    """A prepared network with what a rewrite needs. layers: (name, operator) of what can be narrowed.

    kept: layer → why it stays in float, before any gate.
    """

    network: Network
    settings: Settings
    pictures: CalibrationSet
    histograms: Mapping[str, Histogram]
    layers: tuple[tuple[str, str], ...]
    kept: dict[str, str]
    _probe: list[Reference] = field(default_factory=list)

    @classmethod
    def begin(
        cls, opened: Network, settings: Settings, pictures: CalibrationSet, cache: Path | None, watch: Watch
    ) -> Work:
        """Prepare the network, measure its ranges, and find what cannot be narrowed or shall not be."""
        precision = settings.precision
        network = prepare(opened, PER_CHANNEL if precision == "int8" else OPSETS[precision])
        able = layers_of(network.model)
        layers = tuple((x.name, x.op) for x in able) if precision == "int8" else narrowable(network.model, precision)
        edges = (
            tuple(dict.fromkeys(e for x in able for e in x.reads)) if precision == "int8" else watched(network.model)
        )
        if precision == "int8" and settings.target == "onnxruntime":
            edges = tuple(dict.fromkeys((*edges, *(x.name for x in able))))
        histograms = collect(network, edges, pictures, cache=cache, watch=watch) if precision != "bf16" else {}
        kept = dict.fromkeys(asked_for(settings.keep, network.model, layers), "asked for")
        if precision == "int8":
            kept |= dict.fromkeys(unquantisable(able, histograms), "its input has no range on these pictures")
        work = cls(network, settings, pictures, histograms, layers, kept)
        if len(kept) == len(layers):
            raise ModelError(
                problem(
                    f"no layer is left to run in {precision}",
                    got=f"{len(layers)} that could, {len(kept)} of them kept in float",
                    expected="at least one",
                    remedy="Keep fewer layers, calibrate on other pictures, or leave the model as it is.",
                )
            )
        return replace(work, settings=replace(settings, method=work._least_noisy()))

    def _least_noisy(self) -> Method:
        """The asked method, or the one with the least noise behind the last products with all layers narrow."""
        if self.settings.method != "auto" or self.settings.precision != "int8":
            return "minmax" if self.settings.method == "auto" else self.settings.method
        noise = {
            m: self._reference().noise(replace(self, settings=replace(self.settings, method=m)).build(self.kept))
            for m in METHODS
        }
        return min(METHODS, key=lambda m: noise[m])

    def build(self, kept: Collection[str]) -> onnx.ModelProto:
        """The network with these layers in float and the others narrow."""
        settings = self.settings
        if settings.precision == "int8":
            layers = [x for x in layers_of(self.network.model) if x.name not in kept]
            method: Method = "minmax" if settings.method == "auto" else settings.method  # settled in `begin`
            return insert_qdq(self.network.model, layers, self.histograms, method, settings.target)
        model = onnx.ModelProto()
        model.CopyFrom(self.network.model)
        to_narrow(model, settings.precision, keep=kept, largest={e: h.largest for e, h in self.histograms.items()})
        return model

    def finished(self, kept: Mapping[str, str]) -> onnx.ModelProto:
        """`build`, with the card and what was done in the metadata."""
        model = self.build(kept)
        settings = self.settings
        note: dict[str, Any] = {"precision": settings.precision, "pictures": len(self.pictures.paths)}
        if settings.precision == "int8":
            note |= {"method": settings.method, "target": settings.target}
        note |= {"kept": dict(kept), "layers": len(self.layers), "from": self.network.digest}
        texts = {METADATA_KEY: json.dumps(card_to_dict(self.network.card)), NOTE_KEY: json.dumps(note)}
        rest = [(p.key, p.value) for p in model.metadata_props if p.key not in texts]
        del model.metadata_props[:]
        for key, value in (*rest, *texts.items()):
            model.metadata_props.add(key=key, value=value)
        return model

    def gate(
        self, folder: Path, max_drop: float, data: Dataset | None, backends: Backends, watch: NamesWatch
    ) -> Verdict:
        """Measure, and keep what must be kept. folder: for models that are measured and thrown away."""
        plain = folder / "fp32.onnx"
        plain.write_bytes(_with_card(self.network).SerializeToString())
        judge, fp32, metric = self._judge(plain, data, backends)
        first = folder / "narrow.onnx"

        def score(kept: Mapping[str, str]) -> float:
            first.write_bytes(self.finished(kept).SerializeToString())
            return judge(first)

        got = score(self.kept)
        log.info("%s: fp32 %.4f, %s %.4f", metric, fp32, self.settings.precision, got)
        if fp32 - got <= max_drop:
            return Verdict(self.kept, True, metric, fp32, got, (Trial(0, got, fp32 - got),))
        if self.settings.precision == "bf16":  # sensitivities need ONNX Runtime, which has no bf16 on a CPU
            return Verdict(self.kept, False, metric, fp32, got, (Trial(0, got, fp32 - got),))
        free = [pair for pair in self.layers if pair[0] not in self.kept]
        ranked = sensitivities(lambda kept: self.build({*kept, *self.kept}), free, self._reference(), watch)

        def with_best(k: int) -> dict[str, str]:
            return self.kept | {s.layer: f"sensitive ({s.sqnr_db:.1f} dB)" for s in ranked[:k]}

        known = {0: got}

        def at(k: int) -> float:
            if k not in known:
                known[k] = score(with_best(k))
                log.info("%d layers in float: %.4f", k, known[k])
            return known[k]

        k, trials = search(at, len(free), fp32, max_drop)
        best = max(trials, key=lambda t: t.score).kept if k is None else k
        return Verdict(with_best(best), k is not None, metric, fp32, known[best], tuple(trials), ranked)

    def _judge(self, plain: Path, data: Dataset | None, backends: Backends) -> tuple[Judge, float, str]:
        """(judge, the fp32 network's own score, what it is)."""
        if data is not None:
            wide = judge_by_labels(data, backends, "fp32")
            return judge_by_labels(data, backends, "auto"), wide(plain), "mAP50-95"
        return judge_by_agreement(plain, _some(self.pictures.paths, AGREE_ON), backends), 1.0, "agreement with fp32"

    def _reference(self) -> Reference:
        if not self._probe:
            paths = _some(self.pictures.paths, PROBES)
            inputs = [load_input(p, self.network.card, self.network.model) for p in paths]
            self._probe.append(Reference.of(self.network.model, inputs))
        return self._probe[0]

    def similarity(self, model: onnx.ModelProto) -> dict[str, float | None]:
        """sqnr_db and cosine of a result; None each where ONNX Runtime's CPU provider cannot run it (bf16)."""
        if self.settings.precision == "bf16":
            return {"sqnr_db": None, "cosine": None}
        reference = self._reference()
        return {"sqnr_db": sqnr_db(reference.noise(model)), "cosine": mean_cosine(reference, model)}


def _some(paths: tuple[Path, ...], count: int) -> list[Path]:
    """At most so many, evenly spaced."""
    return [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, count).round().astype(int))]


def _with_card(network: Network) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    for found in [p for p in model.metadata_props if p.key == METADATA_KEY]:
        model.metadata_props.remove(found)
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(card_to_dict(network.card)))
    return model
