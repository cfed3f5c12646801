"""What was done and what it costs, for people and for programs: JSON, Markdown, a plot of sensitivities."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from eyas.extras import need
from eyas.files import make_folder, write_atomically
from eyas.quantize.gate import Sensitivity, Trial

MOST = 40  # layers that the plot can show legibly


@dataclass(frozen=True, slots=True)
class Report:
    """How a model became one of another precision.

    written: the file, None where the model was refused. layers: how many could be narrowed; kept: names of those that
    stayed in float, and why. metric: what the scores are, None where nothing was measured. drop = fp32_score − score.
    sqnr_db, cosine: of the raw values behind the last products, on some calibration pictures; None where ONNX Runtime
    cannot run the result.
    """

    model: str
    written: str | None
    precision: str
    method: str | None
    target: str | None
    pictures: int
    layers: int
    kept: dict[str, str]
    bytes_before: int
    bytes_after: int
    sqnr_db: float | None = None
    cosine: float | None = None
    metric: str | None = None
    fp32_score: float | None = None
    score: float | None = None
    drop: float | None = None
    max_drop: float | None = None
    trials: tuple[Trial, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [asdict(s) | {"sqnr_db": s.sqnr_db} for s in self.sensitivity]
        return asdict(self) | {"sensitivity": rows}

    def summary(self) -> str:
        """One line."""
        verdict = f"written to {self.written}" if self.written else "refused, not written"
        size = f"{self.bytes_before / 1e6:.1f} → {self.bytes_after / 1e6:.1f} MB"
        stay = f"{self.layers - len(self.kept)} of {self.layers} layers in {self.precision}"
        cost = ""
        if self.drop is not None and self.score is not None and self.fp32_score is not None:
            cost = f", {self.metric} {self.fp32_score:.4f} → {self.score:.4f} (drop {self.drop:.4f})"
        return f"{stay}, {size}{cost}: {verdict}"

    def save(self, folder: Path) -> Path:
        """report.json, report.md and, where sensitivities were measured, sensitivity.png. Raises SinkError."""
        make_folder(folder)
        write_atomically(folder / "report.json", json.dumps(self.to_dict(), indent=1, ensure_ascii=False).encode())
        write_atomically(folder / "report.md", markdown(self).encode())
        if self.sensitivity:
            write_atomically(folder / "sensitivity.png", plot(self))
        return folder


def markdown(report: Report) -> str:
    """The report as tables."""
    r = report
    lines = [f"# {Path(r.model).name} in {r.precision}", "", r.summary() + ".", "", "| | |", "|---|---|"]
    rows: dict[str, Any] = {"method": r.method, "target": r.target, "calibration pictures": r.pictures}
    rows |= {"SQNR behind the last products, dB": _number(r.sqnr_db, 1), "cosine there": _number(r.cosine, 5)}
    rows |= {"measured by": r.metric, "fp32": _number(r.fp32_score, 4), r.precision: _number(r.score, 4)}
    rows |= {"drop": _number(r.drop, 4), "drop allowed": _number(r.max_drop, 4), "seconds": f"{r.seconds:.0f}"}
    lines += [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    if r.trials:
        lines += ["", "## Search", "", "| layers in float | score | drop |", "|---:|---:|---:|"]
        lines += [f"| {t.kept} | {t.score:.4f} | {t.drop:.4f} |" for t in r.trials]
    if r.kept:
        lines += ["", "## In float", "", "| layer | why |", "|---|---|"]
        lines += [f"| `{name}` | {why} |" for name, why in r.kept.items()]
    if r.sensitivity:
        lines += ["", "## Sensitivity", "", "Each layer narrowed alone, the most sensitive first.", ""]
        lines += ["![sensitivity](sensitivity.png)", "", "| layer | operator | SQNR, dB |", "|---|---|---:|"]
        lines += [f"| `{s.layer}` | {s.op} | {s.sqnr_db:.1f} |" for s in r.sensitivity]
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def plot(report: Report) -> bytes:
    """PNG: the most sensitive layers' signal to noise in decibels, those that stayed in float in orange."""
    shown = report.sensitivity[:MOST]
    size = (9, 1.4 + 0.22 * len(shown))
    figure = need("matplotlib.figure", "quantize").Figure(figsize=size, layout="constrained", dpi=120)
    axes = figure.add_subplot()
    colours = ["#d55e00" if s.layer in report.kept else "#0072b2" for s in shown]
    axes.barh(range(len(shown)), [s.sqnr_db for s in shown], color=colours, height=0.7)
    axes.set_yticks(range(len(shown)), [_short(s.layer) for s in shown], fontsize=7)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.invert_yaxis()
    axes.set_xlabel("signal to noise at the network's ends, dB; this layer alone narrowed")
    title = f"{Path(report.model).name}: the {len(shown)} most sensitive of {report.layers} layers (orange: in float)"
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    out = BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"…{name[-47:]}"
