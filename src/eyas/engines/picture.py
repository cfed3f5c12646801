"""A picture of an engine's or model's layers: bytes of weights and results from input to output, by precision."""

from __future__ import annotations

import io
from pathlib import Path

from eyas.engines.report import Inspection
from eyas.errors import ModelError, problem
from eyas.extras import need
from eyas.files import write_atomically

COLOURS = {"fp32": "#4063d8", "fp16": "#389826", "bf16": "#9558b2", "int8": "#cb3c33", "uint8": "#cb3c33"}
OTHER = "#999999"


def draw_layers(found: Inspection, out: Path) -> None:
    """Write a PNG. Raises ModelError where there are no layers, EyasError without matplotlib, SinkError."""
    if not found.layers:
        raise ModelError(
            problem(
                "nothing to draw", got="no layers", expected="an engine or a model whose layers are known", remedy=""
            )
        )
    need("matplotlib", "val")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(12, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    places = range(len(found.layers))
    colours = [COLOURS.get(layer.precision, OTHER) for layer in found.layers]
    above.bar(places, [max(r.weight_bytes, 0) / 1e6 for r in found.layers], color=colours, width=1.0)
    above.set_ylabel("weights, MB")
    below.bar(places, [r.output_bytes / 1e6 for r in found.layers], color=colours, width=1.0)
    below.set_ylabel("results, MB")
    below.set_xlabel(f"layers {found.source}, from input to output")
    words = sorted({r.precision for r in found.layers})
    above.legend(handles=[Patch(color=COLOURS.get(w, OTHER), label=w) for w in words], fontsize=8)
    figure.suptitle(str(next(iter(found.facts.values()), "")))
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    write_atomically(out, data.getvalue())
