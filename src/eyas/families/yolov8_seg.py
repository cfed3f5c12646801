"""YOLOv8's and v11's segmentation networks: a box and a mask for every object.

Two outputs: [B, 4 + C + M, N] of centre x, centre y, width, height in input pixels, C class scores in 0…1 and M mask
coefficients; and prototypes [B, M, H / 4, W / 4]. An object's mask is the sigmoid of Σ coefficient · prototype (Bolya
et al., "YOLACT: Real-time Instance Segmentation", 2019, §3.1), which `eyas.outputs` works out for the objects that
stay. N cells of the strides 8, 16, 32. Input and boxes: as `yolov8`. Format: docs.ultralytics.com, "Segmentation".
"""

from __future__ import annotations

from eyas.families import RGB_UNIT, Guess, cells_at, check_outputs, corners
from eyas.families.yolov8 import STRIDES, columns
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard

SHRINK = 4  # input pixels a prototype cell


def recognise(facts: Facts) -> list[Guess]:
    """An output of cells, wider than the prototypes are many."""
    found = _outputs(facts)
    return [Guess(found[1], RGB_UNIT, task="segment")] if found else []


def prototypes(facts: Facts) -> dict[str, int]:
    """The outputs [B, M, H / 4, W / 4]: name → M."""
    size = tuple(-(-side // SHRINK) for side in facts.size)
    maps = {n: s[1] for n, s in facts.outputs.items() if len(s) == 4 and s[2:] == size}
    return {name: many for name, many in maps.items() if isinstance(many, int)}


def _outputs(facts: Facts) -> tuple[str, int, str, int] | None:
    """The output of cells, its classes, that of prototypes, how many they are; None if they do not fit."""
    cells, maps = columns(facts), prototypes(facts)
    if len(facts.outputs) != 2 or len(cells) != 1 or len(maps) != 1:
        return None
    ((name, width),), ((edge, many),) = cells.items(), maps.items()
    return (name, width - 4 - many, edge, many) if width > 4 + many else None


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Boxes as in `yolov8`; coefficients and prototypes as they are."""
    found, classes, count = _outputs(facts), len(card.names), cells_at(card.input_size, STRIDES)
    expected = f"[B, 4 + {classes} + M, {count}] and prototypes [B, M, H / {SHRINK}, W / {SHRINK}]"
    check_outputs(card, found is not None and found[1] == classes, facts, expected)
    name, _, edge, many = found or ("", 0, "", 0)
    raw, width = g.cast(name), 4 + classes + many

    def pick(index: str) -> Rows:
        rows = g.take(raw, index, width, 2)  # taken whole, then cut: see `eyas.families.detr`
        box, coefficients = (
            g.op("Transpose", g.slice(rows, *part, 1), perm=[0, 2, 1]) for part in ((0, 4), (4 + classes, width))
        )
        return Rows(g.slice(rows, 4, 4 + classes, 1), corners(g, box), coefficients)

    size = int(facts.outputs[edge][2]), int(facts.outputs[edge][3])
    scores = g.slice(raw, 4, 4 + classes, 1)
    return Cells(scores, 1, count, classes, pick, extras=many, prototypes=(g.cast(edge), size))
