"""READ FIRST: a network in fp32 → one in int8, fp16 or bf16, in order:

open ─ prepare ─ pictures ─ ranges (cached) ─ rewrite ─ gate (measure; keep layers in float; refuse) ─ write, report
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from eyas.build import open_network
from eyas.errors import OptionError, problem
from eyas.evaluation.dataset import Dataset
from eyas.files import make_folder, write_atomically
from eyas.quantize.collect import Watch, plain_watch
from eyas.quantize.gate import NamesWatch, plain_names
from eyas.quantize.pictures import LEAST, calibration_set
from eyas.quantize.report import Report
from eyas.quantize.work import Settings, Verdict, Work
from eyas.store import resolve


@dataclass(frozen=True, slots=True)
class Watches:
    """Progress bars: over pictures to calibrate on, over layers whose sensitivity is measured."""

    pictures: Watch = plain_watch
    layers: NamesWatch = plain_names


def quantize(
    model: str | PathLike[str],
    images: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    data: Dataset | None = None,
    limit: int | None = None,
    report: Path | None = None,
    cache: Path | None = None,
    backends: Sequence[str] = (),
    watches: Watches | None = None,
    **network: Any,
) -> Report:
    """Write `model` in another precision to `out`, an ONNX file that eyas opens as any other; say what it costs.

    images: pictures to calibrate on (folder, glob, or a list), letterboxed and normalised as in inference; limit:
    at most so many. With settings.max_drop the result is measured: AP .50:.95 on `data` (`open_dataset`), without it
    the share of fp32 detections found again on the pictures; layers that cost too much stay in float, and where that
    does not help nothing is written (`Report.written` is None). report: a folder for report.json, report.md and a
    plot. cache: the folder for calibrations. backends: what measures; of
    several the worst counts (default: the best one here). network: as for `eyas.build.open_network`.
    Raises ModelError, CardError, SourceError, OptionError.
    """
    start = time.perf_counter()
    settings, watches, target = settings or Settings(), watches or Watches(), Path(out)
    source = resolve(model if isinstance(model, str) else Path(model)).path
    _refuse_same(source, target)
    opened = open_network(model if isinstance(model, str) else Path(model), **network)
    chosen = calibration_set(images, limit, LEAST if settings.precision == "int8" else 1)
    work = Work.begin(opened, settings, chosen, cache, watches.pictures)
    verdict = Verdict(work.kept)
    if settings.max_drop is not None:
        with tempfile.TemporaryDirectory() as folder:
            verdict = work.gate(Path(folder), settings.max_drop, data, backends or (None,), watches.layers)
    done = work.finished(verdict.kept)
    content = done.SerializeToString()
    if verdict.good:
        make_folder(target.absolute().parent)
        write_atomically(target, content)
    result = Report(
        model=fspath(model),
        written=str(target) if verdict.good else None,
        precision=settings.precision,
        method=work.settings.method if settings.precision == "int8" else None,
        target=settings.target if settings.precision == "int8" else None,
        pictures=len(chosen.paths),
        layers=len(work.layers),
        kept=verdict.kept,
        bytes_before=source.stat().st_size,
        bytes_after=len(content),
        **work.similarity(done),
        metric=verdict.metric,
        fp32_score=verdict.fp32,
        score=verdict.score,
        drop=verdict.drop,
        max_drop=settings.max_drop,
        trials=verdict.trials,
        sensitivity=verdict.sensitivity,
        seconds=time.perf_counter() - start,
    )
    if report is not None:
        result.save(report)
    return result


def _refuse_same(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        raise OptionError(
            problem(
                "the result would take the place of the model",
                got=f"{target} for both",
                expected="another file to write to",
                remedy=f"For instance {target.with_name(target.stem + '_int8.onnx')}.",
            )
        )
    if target.suffix.lower() != ".onnx" or target.is_dir():
        raise OptionError(
            problem("this is no file to write a model to", got=target, expected="a path ending in .onnx", remedy="")
        )
