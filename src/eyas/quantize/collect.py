"""Calibration: run the float network over the pictures and keep a histogram of each edge, on disk as it grows.

One picture is in memory at a time, with its activations; the histograms take 32 KiB an edge. Their file is named by
all that they depend on (network, card, pictures, edges, how values are counted), so a second run, another method
or a search reads it, and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from eyas.build import Network
from eyas.card import card_to_dict
from eyas.errors import SinkError
from eyas.extras import need
from eyas.files import make_folder, write_atomically
from eyas.graph.surgery import inputs_of
from eyas.quantize.histogram import HALF, SAMPLES, Histogram
from eyas.quantize.pictures import CalibrationSet, load_input
from eyas.store.manifest import xdg

Watch = Callable[[Iterable[Path], int, int], Iterable[Path]]
EVERY = 20  # pictures between two writes of the file
VERSION = 1
log = logging.getLogger("eyas")


def plain_watch(paths: Iterable[Path], done: int, total: int) -> Iterable[Path]:
    """No progress bar."""
    return paths


def collect(
    network: Network,
    edges: Sequence[str],
    chosen: CalibrationSet,
    *,
    cache: Path | None = None,
    watch: Watch = plain_watch,
) -> dict[str, Histogram]:
    """A histogram for each of `edges`, over all pictures. network: as `prepare` made it.

    cache: the folder for the files, by default eyas/calibration in XDG_CACHE_HOME. watch: wraps the paths that are
    left, with how many are done and how many there are in all. An interruption or an error keeps what is done.
    """
    path = (cache or xdg("XDG_CACHE_HOME", ".cache") / "calibration") / f"{key_of(network, edges, chosen)}.npz"
    make_folder(path.parent)
    histograms, done = _read(path, edges)
    if done:
        log.info("calibration: %d of %d pictures are in %s", done, len(chosen.paths), path)
    if done == len(chosen.paths):
        return histograms
    run = runner(network.model, edges)
    whole = True  # every histogram has counted the same pictures
    try:
        for file in watch(chosen.paths[done:], done, len(chosen.paths)):
            values = run(load_input(file, network.card, network.model))
            whole = False
            for name, value in values.items():
                histograms[name].add(value)
            done, whole = done + 1, True
            if done % EVERY == 0:
                _write(path, histograms, done)
    except BaseException:
        if whole and done:  # else the file of a few pictures ago stands
            _write(path, histograms, done)
            log.warning("calibration stopped: %d pictures are kept in %s; the same command goes on", done, path)
        raise
    _write(path, histograms, done)
    return histograms


def key_of(network: Network, edges: Sequence[str], chosen: CalibrationSet) -> str:
    """SHA-256 over all that the histograms depend on."""
    parts = {
        "version": [VERSION, HALF, SAMPLES],
        "network": hashlib.sha256(network.model.SerializeToString(deterministic=True)).hexdigest(),
        "digest": network.digest,
        "card": card_to_dict(network.card),
        "edges": list(edges),
        "pictures": list(chosen.digests),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def runner(model: onnx.ModelProto, edges: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
    """A function from the network's input to the value of each edge."""
    ort = need("onnxruntime", "quantize")
    source = inputs_of(model.graph)[0].name
    wanted = [e for e in edges if e != source]
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    there = {o.name for o in seen.graph.output}
    seen.graph.output.extend(
        helper.make_tensor_value_info(e, TensorProto.FLOAT, None) for e in wanted if e not in there
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # plans memory for all edges at once; they are freed as soon as they are read
    session = ort.InferenceSession(seen.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(x: Any) -> dict[str, Any]:
        found = dict(zip(wanted, session.run(wanted, {source: x}), strict=True)) if wanted else {}
        return found | ({source: x} if source in edges else {})

    return run


def _write(path: Path, histograms: dict[str, Histogram], done: int) -> None:
    rows = list(histograms.values())
    out = io.BytesIO()
    np.savez_compressed(
        out,
        done=done,
        counts=np.stack([h.counts for h in rows]),
        exponent=np.array([np.nan if h.exponent is None else h.exponent for h in rows]),
        low=np.array([h.low for h in rows]),
        high=np.array([h.high for h in rows]),
        odd=np.array([h.odd for h in rows]),
    )
    write_atomically(path, out.getvalue())


def _read(path: Path, edges: Sequence[str]) -> tuple[dict[str, Histogram], int]:
    """What the file holds, and of how many pictures; nothing where it is missing or cannot be read."""
    empty = {e: Histogram() for e in edges}
    if not path.is_file():
        return empty, 0
    try:
        with np.load(io.BytesIO(path.read_bytes())) as data:
            columns = {k: data[k] for k in ("counts", "exponent", "low", "high", "odd")}
            done = int(data["done"])
        found = {
            edge: Histogram(
                columns["counts"][i].copy(),
                None if np.isnan(columns["exponent"][i]) else int(columns["exponent"][i]),
                float(columns["low"][i]),
                float(columns["high"][i]),
                int(columns["odd"][i]),
            )
            for i, edge in enumerate(edges)
        }
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile, SinkError) as error:
        log.warning("the calibration file %s cannot be read (%s): it is made again", path, error)
        return empty, 0
    return found, done
