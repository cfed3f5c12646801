"""The end of every deploy graph: best score a cell → top-K → boxes of those K → exact NMS, as plain ONNX ops.

Why this order: the class maximum runs over every cell, everything else over K rows only. NMS is written as
Cluster-NMS (Zheng et al., "Enhancing Geometric Factors in Model Learning and Inference for Object Detection and
Instance Segmentation", 2021, algorithm 2): with the matrix `overlap[j, i]` = "j comes before i and would suppress it",

    keep⁰ = valid,   keepᵗ⁺¹[i] = valid[i] and not any_j(overlap[j, i] and keepᵗ[j])

reaches greedy NMS after as many rounds as the longest chain of suppressions is deep, and a fixed point of this
iteration *is* greedy NMS. `ROUNDS` of them are unrolled; the output `converged` says whether the last one changed
nothing. Where it did, the host finishes that image (`eyas.nms`).

No MatMul may appear here: OpenVINO keeps what follows the last convolution or MatMul in fp32, and that is what
keeps coordinates exact when the network itself runs in bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from onnx import TensorProto

from eyas.errors import OptionError, problem
from eyas.graph.builder import Builder
from eyas.graph.surgery import Output
from eyas.types import Task

ROUNDS = 8
MAX_CANDIDATES = 300
CANDIDATES, ORDER = "eyas/head/candidates", "eyas/head/order"  # what NMS starts from; see `eyas.graph.openend`
MOST_IN_GRAPH = 2048  # candidates: above it the K × K overlap costs more than NMS on the host


class Rows(NamedTuple):
    """The chosen cells, as edges. scores: class scores as in `Cells`, [B, C, K] or [B, K, C]. xyxy: [B, K, 4] float32,
    x1 y1 x2 y2 in network-input pixels. extras: [B, K, E] float32, what else is known of each object, or None.
    """

    scores: str
    xyxy: str
    extras: str | None = None


@dataclass(frozen=True, slots=True)
class Cells:
    """What a family makes of the raw outputs: scores for every cell, and the rest on demand for the chosen ones.

    scores: edge [B, C, N] (class_axis 1) or [B, N, C] (class_axis 2), float32, 0…1; or before the sigmoid (logits).
    objectness: edge [B, N] that multiplies the scores, ≥ 0 (a logit too, if they are), or None.
    pick: gives the rows of the chosen cells, edge [B, K] int64.
    suppress: where NMS happens; "never" for networks that report each object once.
    extras: how many columns `Rows.extras` has: key points as x, y, score each (input pixels), the coefficients of a
    mask, or an angle. prototypes: edge [B, extras, h, w] float32 that mask coefficients combine, with (h, w).
    """

    scores: str
    class_axis: int
    count: int
    classes: int
    pick: Callable[[str], Rows]
    objectness: str | None = None
    logits: bool = False
    suppress: Literal["graph", "host", "never"] = "graph"
    extras: int = 0
    prototypes: tuple[str, tuple[int, int]] | None = None

    @property
    def task(self) -> Task:
        """What the extras make of it: masks come with prototypes, an angle is one column, a key point three."""
        if self.prototypes:
            return "segment"
        few: dict[int, Task] = {0: "detect", 1: "obb"}
        return few.get(self.extras, "pose")


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """How detections are chosen. Thresholds are not here: they are inputs of the deploy graph.

    max_candidates: how many of the best enter NMS, and so the most detections a picture can have. Above
    MOST_IN_GRAPH the host does the NMS. classes: only these class ids can be detected, in rising order; None for all.
    agnostic: a box may suppress one of another class. multi_label: a cell may report every class that passes the
    confidence threshold, as evaluation on COCO does, not only its best.
    """

    max_candidates: int = MAX_CANDIDATES
    classes: tuple[int, ...] | None = None
    agnostic: bool = False
    multi_label: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.max_candidates, int) or not 1 <= self.max_candidates <= 100_000:
            raise OptionError(
                problem(
                    "max_candidates (--max-det) is out of range",
                    got=self.max_candidates,
                    expected="1 to 100000",
                    remedy="300 suits most pictures.",
                )
            )


def candidates_of(cells: Cells, spec: HeadSpec) -> int:
    """K: how many rows the deploy graph has."""
    width = cells.classes if spec.classes is None else len(spec.classes)
    return min(spec.max_candidates, cells.count * (width if spec.multi_label else 1))


def append_head(g: Builder, cells: Cells, spec: HeadSpec, thresholds: str) -> list[Output]:
    """Append class maximum, top-K, decode of the chosen cells and NMS.

    thresholds: edge [B, 2] float32 (confidence, IoU). Gives detections [B, K, 6 + E] float32 (x1, y1, x2, y2, score,
    class, extras; score descending, ties by cell, then class), count [B] int32, converged [B] bool, and prototypes.
    """
    width = 6 + cells.extras
    detections, count, converged = _rows(g, cells, spec, thresholds, width)
    outputs = [
        Output("detections", detections, TensorProto.FLOAT, (candidates_of(cells, spec), width)),
        Output("count", count, TensorProto.INT32, ()),
        Output("converged", converged, TensorProto.BOOL, ()),
    ]
    if cells.prototypes:
        edge, size = cells.prototypes
        outputs.append(Output("prototypes", edge, TensorProto.FLOAT, (cells.extras, *size)))
    return outputs


def _rows(g: Builder, cells: Cells, spec: HeadSpec, thresholds: str, width: int) -> tuple[str, str, str]:
    """The edges detections, count, converged."""
    k = candidates_of(cells, spec)
    confidence = g.slice(thresholds, 0, 1, 1)
    iou = g.over_axes("Unsqueeze", g.slice(thresholds, 1, 2, 1), [2])
    choose = _every_class if spec.multi_label else _best_class
    score, order, class_id, rows = choose(g, cells, spec.classes, confidence, k)
    if spec.classes is not None:
        class_id = g.op("Gather", g.const(list(spec.classes), "int64"), class_id)
    columns = [rows.xyxy, g.over_axes("Unsqueeze", score, [2]), g.over_axes("Unsqueeze", g.cast(class_id), [2])]
    columns += [rows.extras] if rows.extras else []
    if cells.suppress == "graph" and k <= MOST_IN_GRAPH:
        table = g.op("Concat", *columns, axis=2, out=CANDIDATES)
        order = g.op("Cast", order, to=TensorProto.FLOAT, out=ORDER)
        return append_nms(g, table, order, iou, spec.agnostic, k, width)
    table = g.op("Concat", *columns, axis=2)
    return _append_sorted(g, table, g.cast(order), k, width, final=cells.suppress == "never")


def _scores(g: Builder, cells: Cells, ids: tuple[int, ...] | None, scores: str) -> str:
    """The wanted classes' scores."""
    return scores if ids is None else g.op("Gather", scores, g.const(list(ids), "int64"), axis=cells.class_axis)


def _squash(g: Builder, cells: Cells, edge: str) -> str:
    return g.op("Sigmoid", edge) if cells.logits else edge


def _above(g: Builder, score: str, confidence: str) -> str:
    """NaN and everything at or below the threshold sink to −1, so that top-K has a defined order.

    "Less" on purpose: OpenVINO's "Greater" is true for NaN.
    """
    return g.op("Where", g.op("Less", confidence, score), score, g.const(-1.0))


def _best_class(
    g: Builder, cells: Cells, ids: tuple[int, ...] | None, confidence: str, k: int
) -> tuple[str, str, str, Rows]:
    """Score, order, class (all [B, K]) and rows of the K best cells, each with its best class."""
    scores = _scores(g, cells, ids, cells.scores)
    best = _squash(g, cells, g.over_axes("ReduceMax", scores, [cells.class_axis], keepdims=0))
    if cells.objectness:
        best = g.op("Mul", best, _squash(g, cells, cells.objectness))
    best = _above(g, best, confidence)
    index = _top_k(g, best, cells.count, k)
    rows = cells.pick(index)
    class_id = g.op("ArgMax", _scores(g, cells, ids, rows.scores), axis=cells.class_axis, keepdims=0)
    return g.op("GatherElements", best, index, axis=1), index, class_id, rows


def _every_class(
    g: Builder, cells: Cells, ids: tuple[int, ...] | None, confidence: str, k: int
) -> tuple[str, str, str, Rows]:
    """Score, order, class (all [B, K]) and rows of the K best pairs of a cell and a class."""
    width = cells.classes if ids is None else len(ids)
    scores = _squash(g, cells, _scores(g, cells, ids, cells.scores))
    if cells.class_axis == 1:
        scores = g.op("Transpose", scores, perm=[0, 2, 1])
    if cells.objectness:
        scores = g.op("Mul", scores, g.over_axes("Unsqueeze", _squash(g, cells, cells.objectness), [2]))
    flat = g.op("Reshape", scores, g.const([0, cells.count * width], "int64"))
    flat = _above(g, flat, confidence)
    pair = _top_k(g, flat, cells.count * width, k)
    cell = g.op("Div", pair, g.const(width, "int64"))
    class_id = g.op("Sub", pair, g.op("Mul", cell, g.const(width, "int64")))
    return g.op("GatherElements", flat, pair, axis=1), pair, class_id, cells.pick(cell)


def _append_sorted(g: Builder, table: str, order: str, k: int, width: int, final: bool) -> tuple[str, str, str]:
    """Rows without NMS. final: they are the result; else converged is false and the host goes on.

    Rows are in order (see `append_nms`), empty ones (score −1) last. Where K × K is too much, the rows that hold
    something are in index order instead, so that a stable sort by score on the host gives that order.
    """
    score = g.over_axes("Squeeze", g.slice(table, 4, 5, 2), [2])
    valid = g.cast(g.op("Less", g.const(0.0), score))
    if k <= MOST_IN_GRAPH:
        place = g.over_axes("ReduceSum", _before(g, score, order), [1], keepdims=0)
        _, row = g.ops("TopK", g.op("Neg", place), g.const([k], "int64"), outs=[g.name("place"), g.name("row")], axis=1)
    else:
        key = g.op("Sub", g.op("Mul", g.op("Sub", valid, g.const(1.0)), g.const(2.0**24)), order)
        _, row = g.ops("TopK", key, g.const([k], "int64"), outs=[g.name("key"), g.name("row")], axis=1)
    count = g.cast(g.over_axes("ReduceSum", valid, [1], keepdims=0), TensorProto.INT32)
    done = g.op("Less", g.cast(count), g.const(float(k + 1) if final else -1.0))
    return g.take(table, row, width, 1), count, done


def _top_k(g: Builder, best: str, count: int, k: int) -> str:
    """The K best of N cells as edge [B, K] int64, in no order; of equal scores at the brink, the lower index.

    ONNX promises that for TopK itself, but OpenVINO keeps the promise only with an option that is 100 times slower,
    and TensorRT makes none. So a second TopK, over unique keys, settles who is in: all above the K-th best score,
    then those equal to it by index. Any index is exact in float32 below 2²⁴.
    """
    if k == count:
        every = g.op("Add", g.op("Mul", best, g.const(0.0)), g.const(np.arange(k)[None]))
        return g.cast(every, TensorProto.INT64)
    value, _ = g.ops("TopK", best, g.const([k], "int64"), outs=[g.name("value"), g.name("unused")], axis=1)
    brink = g.slice(value, k - 1, k, 1)
    by_index = g.op("Where", g.op("Equal", best, brink), g.const(-np.arange(count)[None]), g.const(-count - 1.0))
    key = g.op("Where", g.op("Less", brink, best), g.const(1.0), by_index)
    return g.ops("TopK", key, g.const([k], "int64"), outs=[g.name("unused"), g.name("index")], axis=1)[1]


def append_nms(
    g: Builder, table: str, order: str, iou: str, agnostic: bool, k: int, width: int = 6
) -> tuple[str, str, str]:
    """Exact NMS of K candidates in any order. See the module's head for the maths.

    table [B, K, width]: x1 y1 x2 y2, score (−1 for "no candidate"), class, extras. order [B, K] float32: ties go by it.
    iou [B, 1, 1]. A candidate comes before another if its score is higher, or equal and its order lower. Box i is
    suppressed by a kept box j before it, of its class, when intersection > iou · union; a box without area neither
    suppresses nor is suppressed. Returns the edges detections, count and converged; rows beyond count are the
    suppressed candidates, then the empty rows. Where converged is false, the rows are all the candidates in order,
    before any suppression, and count is their number.
    """
    xyxy = g.slice(table, 0, 4, 2)
    score, class_id = (g.over_axes("Squeeze", g.slice(table, i, i + 1, 2), [2]) for i in (4, 5))
    valid = g.cast(g.op("Less", g.const(0.0), score))
    before = _before(g, score, order)
    overlap = g.op("Mul", before, _overlap(g, xyxy, class_id, iou, agnostic))
    keep = previous = valid
    for _ in range(ROUNDS):
        previous = keep
        hit = g.op("Mul", overlap, g.over_axes("Unsqueeze", keep, [2]))
        hit = g.over_axes("ReduceMax", hit, [1], keepdims=0)
        keep = g.op("Mul", valid, g.op("Sub", g.const(1.0), hit))
    changed = g.over_axes("ReduceMax", g.op("Abs", g.op("Sub", keep, previous)), [1], keepdims=1)
    keep = g.op("Max", keep, g.op("Mul", valid, changed))
    # Kept rows first, then the suppressed, then the empty, each in order: keys 3K…2K+1, 2K…K+1, K…1, all different.
    place = g.op("Sub", g.const(float(k)), g.over_axes("ReduceSum", before, [1], keepdims=0))
    key = g.op("Add", g.op("Mul", g.op("Add", keep, valid), g.const(float(k))), place)
    _, row = g.ops("TopK", key, g.const([k], "int64"), outs=[g.name("key"), g.name("row")], axis=1)
    count = g.cast(g.over_axes("ReduceSum", keep, [1], keepdims=0), TensorProto.INT32)
    converged = g.op("Less", g.over_axes("Squeeze", changed, [1]), g.const(0.5))
    return g.take(table, row, width, 1), count, converged


def _before(g: Builder, score: str, index: str) -> str:
    """[B, K, K] float32: 1 where row j comes before column i."""
    row, column = (g.over_axes("Unsqueeze", score, [axis]) for axis in (2, 1))
    first = g.op("Less", *(g.over_axes("Unsqueeze", index, [axis]) for axis in (2, 1)))
    tie = g.op("And", g.op("Equal", row, column), first)
    return g.cast(g.op("Or", g.op("Less", column, row), tie))


def _overlap(g: Builder, xyxy: str, class_id: str, iou: str, agnostic: bool) -> str:
    """[B, K, K] float32: 1 where boxes j and i overlap too much for both to stay, else 0."""
    x1, y1, x2, y2 = (g.slice(xyxy, i, i + 1, 2) for i in range(4))  # [B, K, 1]: the suppressors, as rows
    across = [g.op("Transpose", edge, perm=[0, 2, 1]) for edge in (x1, y1, x2, y2)]  # [B, 1, K]: columns
    zero = g.const(0.0)

    def extent(low: str, high: str) -> str:
        return g.op("Max", g.op("Sub", high, low), zero)

    area = g.op("Mul", extent(x1, x2), extent(y1, y2))
    area_across = g.op("Transpose", area, perm=[0, 2, 1])
    width = extent(g.op("Max", x1, across[0]), g.op("Min", x2, across[2]))
    height = extent(g.op("Max", y1, across[1]), g.op("Min", y2, across[3]))
    intersection = g.op("Mul", width, height)
    union = g.op("Sub", g.op("Add", area, area_across), intersection)
    overlap = g.op("Less", g.op("Mul", iou, union), intersection)
    if not agnostic:
        same = g.op("Equal", *(g.over_axes("Unsqueeze", class_id, [axis]) for axis in (2, 1)))
        overlap = g.op("And", overlap, same)
    return g.cast(overlap)
