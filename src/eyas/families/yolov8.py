"""YOLOv8 and the families that kept its output: v9, v11, v12.

One output [B, 4 + C, N]: centre x, centre y, width, height in input pixels, then C class scores in 0…1; N cells of
the strides 8, 16, 32. Input: RGB / 255, centred letterbox, padding 114. Format: docs.ultralytics.com, "Export".
"""

from __future__ import annotations

import onnx
from onnx import helper

from eyas.families import RGB_UNIT, Guess, cells_at, check_outputs, corners
from eyas.graph.builder import Builder
from eyas.graph.head import Cells, Rows
from eyas.graph.network import Facts
from eyas.types import ModelCard

STRIDES = (8, 16, 32)


def recognise(facts: Facts) -> list[Guess]:
    """One output [B, 4 + C, N] with as many cells as the three grids have; boxes that are turned are `yolov8_obb`'s."""
    turned = {"Cos", "Sin"} <= facts.ops and "task" not in facts.metadata
    found = columns(facts) if len(facts.outputs) == 1 and not turned else {}
    return [Guess(width - 4, RGB_UNIT) for width in found.values() if width > 4]


def columns(facts: Facts) -> dict[str, int]:
    """The outputs [B, W, N] with as many cells as the three grids have: name → W."""
    count = cells_at(facts.size, STRIDES)
    flat = {n: s[1] for n, s in facts.outputs.items() if len(s) == 3 and s[2] == count}
    return {name: width for name, width in flat.items() if isinstance(width, int)}


def decode(g: Builder, card: ModelCard, facts: Facts) -> Cells:
    """Scores as they are; boxes from centre and extent: centre ∓ extent / 2.

    Where the output is Concat(boxes, Sigmoid(logits)), as Ultralytics writes it, its parts are read instead: the
    sigmoid is then applied to the best class of each cell only (it is monotonic), and nothing is concatenated.
    """
    classes = len(card.names)
    count = cells_at(card.input_size, STRIDES)
    ((name, shape),) = facts.outputs.items() if len(facts.outputs) == 1 else (("", ()),)
    check_outputs(card, shape[1:] == (4 + classes, count), facts, f"one output [B, {4 + classes}, {count}]")
    parts = _parts(g.model, name)
    if parts:
        boxes, scores = (g.cast(edge) for edge in parts)
    else:
        raw = g.cast(name)
        boxes, scores = raw, g.slice(raw, 4, 4 + classes, 1)

    def pick(index: str) -> Rows:
        rows = g.take(boxes, index, 4 if parts else 4 + classes, 2)
        box = g.op("Transpose", g.slice(rows, 0, 4, 1), perm=[0, 2, 1])
        chosen = g.take(scores, index, classes, 2) if parts else g.slice(rows, 4, 4 + classes, 1)
        return Rows(chosen, corners(g, box))

    return Cells(scores, 1, count, classes, pick, logits=parts is not None)


def _parts(model: onnx.ModelProto, output: str) -> tuple[str, str] | None:
    """The edges of boxes and class logits if the output is Concat(boxes, Sigmoid(logits)) and both are float."""
    producer = {edge: node for node in model.graph.node for edge in node.output}
    concat = producer.get(output)
    if concat is None or concat.op_type != "Concat" or len(concat.input) != 2:
        return None
    sigmoid = producer.get(concat.input[1])
    if sigmoid is None or sigmoid.op_type != "Sigmoid" or helper.get_node_attr_value(concat, "axis") not in (1, -2):
        return None
    return concat.input[0], sigmoid.input[0]
