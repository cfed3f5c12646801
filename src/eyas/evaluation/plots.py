"""Pictures of an evaluation's curves and confusions, as PNG; matplotlib comes with the extra `val`."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any

import numpy as np

from eyas.annotate import OKABE_ITO
from eyas.diff import Difference
from eyas.evaluation.evaluate import CONFUSION, Evaluation
from eyas.evaluation.pairs import Verification
from eyas.extras import need

DPI = 150
BLUE, ORANGE, GREEN = ("#0072b2", "#d55e00", "#009e73")  # of Okabe and Ito, as in `eyas.annotate`
GREY, RULE = "#666666", "#dddddd"
FEW = 7  # classes that a plot can name in its colours
MOST = 24  # classes that a confusion matrix can show legibly; the rest become one


def pr_curve(e: Evaluation) -> bytes:
    """Precision over recall at IoU .5: the mean of all classes, over each class's own."""
    figure, axes = _axes("recall", "precision", f"Precision and recall at IoU 0.5 · mAP50 {_share(e.coco.ap(iou=50))}")
    recall = np.linspace(0, 1, 101)
    tables = {i: e.coco.precision[0, :, i, 0, -1] for i in range(len(e.classes.names))}
    tables = {i: table for i, table in tables.items() if (table > -1).all()}
    named = sorted(tables, key=lambda i: -int(((e.truth.cls == i) & ~e.truth.crowd).sum()))[: FEW - 1]
    for i, table in tables.items():
        if i not in named:
            axes.plot(recall, table, color="#bbbbbb", linewidth=0.6, alpha=0.6, zorder=1)
    for i, (r, g, b) in zip(named, OKABE_ITO, strict=False):
        label = f"{e.classes.names[i]} {_share(e.coco.ap(i, 50))}"
        axes.plot(recall, tables[i], color=(r / 255, g / 255, b / 255), linewidth=1.3, label=label)
    if len(tables) > 1:
        mean = np.mean(list(tables.values()), axis=0)
        label = f"mean of {len(tables)} classes {_share(e.coco.ap(iou=50))}"
        axes.plot(recall, mean, color="black", linewidth=2.6, label=label)
    others = len(tables) - len(named)
    _legend(axes, f"AP50; grey: {others} other classes" if others else "AP50")
    return _png(figure)


def f1_curve(e: Evaluation) -> bytes:
    """Precision, recall and F1 over the confidence threshold, and where F1 is best."""
    figure, axes = _axes("confidence threshold", "all objects counted together", "Which confidence to use (IoU 0.5)")
    fine = e.curve(np.linspace(0, 1, 501))
    best = e.curve(np.array([e.best_confidence]))
    axes.plot(fine.confidence, fine.precision, color=BLUE, linewidth=1.3, label="precision")
    axes.plot(fine.confidence, fine.recall, color=ORANGE, linewidth=1.3, label="recall")
    axes.plot(fine.confidence, fine.f1, color="black", linewidth=2.6, label="F1")
    axes.axvline(e.best_confidence, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.plot([e.best_confidence], best.f1, "o", color="black", markersize=7)
    right = e.best_confidence < 0.6
    figures = {"F1": best.f1[0], "at": e.best_confidence, "precision": best.precision[0], "recall": best.recall[0]}
    text = "{} {:.3f} {} {:.3f}\n{} {:.3f}\n{} {:.3f}".format(*(part for pair in figures.items() for part in pair))
    axes.annotate(
        text,
        (e.best_confidence, 0.02),
        xytext=(8 if right else -8, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="bottom",
        fontsize=9,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )
    _legend(axes, None)
    return _png(figure)


def confusion_matrix(e: Evaluation) -> bytes:
    """Shares of each true class by what it was taken for, with counts; the rarest of many classes become one."""
    names, table = few_classes([*e.classes.names], e.confusion)
    size = len(names)
    side = max(4.5, 2.6 + 0.36 * size)
    figure = need("matplotlib.figure", "val").Figure(figsize=(side + 0.8, side), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = 6.5 if size > 8 else 9
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, table[row, column], ha="center", va="center", color=colour, fontsize=small)
    for axis, setter in ((axes.xaxis, axes.set_xticks), (axes.yaxis, axes.set_yticks)):
        last = "missed" if axis is axes.xaxis else "not there"
        setter(range(size), [*names[:-1], last], fontsize=8, parse_math=False)
        axis.set_tick_params(length=0)
    axes.tick_params(axis="x", rotation=90)
    axes.set_xticks(np.arange(size) + 0.5, minor=True)
    axes.set_yticks(np.arange(size) + 0.5, minor=True)
    axes.grid(which="minor", color="#eeeeee", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    for line in (axes.axhline, axes.axvline):  # the background stands apart: it is no class
        line(size - 1.5, color=GREY, linewidth=1)
    axes.set_xlabel("found")
    axes.set_ylabel("true")
    axes.set_title(f"Confusions at confidence {CONFUSION['conf']}, IoU {CONFUSION['iou']}", fontsize=10, loc="left")
    bar = figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02, aspect=30)
    bar.set_label("share of the row", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    axes.spines[:].set_visible(False)
    return _png(figure)


def layer_errors(d: Difference) -> bytes:
    """Each layer's relative error, in the graph's order, and the first that departs."""
    figure = need("matplotlib.figure", "val").Figure(figsize=(9, 5), layout="constrained", dpi=DPI)
    axes = figure.add_subplot(xlabel="layer, in the order of the graph", ylabel="relative error ‖a − b‖ / ‖a‖")
    errors = np.array([layer.relative if np.isfinite(layer.relative) else np.nan for layer in d.layers])
    floor = 1e-8  # what is equal to the bit has no place on a logarithmic axis
    axes.semilogy(np.maximum(errors, floor), color=BLUE, linewidth=1.2, marker=".", markersize=3)
    axes.axhline(d.threshold, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    first = d.first()
    if first is not None:
        at = d.layers.index(first)
        height = errors[at] if np.isfinite(errors[at]) else d.threshold
        axes.plot([at], [height], "o", color=ORANGE, markersize=8)
        name = first.name if len(first.name) < 50 else "…" + first.name[-48:]
        axes.set_title(f"first over {d.threshold:g}: {name}", loc="left", fontsize=10, parse_math=False)
    axes.set_ylim(bottom=floor / 2)
    axes.grid(color=RULE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"A: {d.a}\nB: {d.b}", fontsize=9, x=0.01, ha="left", parse_math=False)
    return _png(figure)


def roc_curve(v: Verification, threshold: float) -> bytes:
    """Which share of true pairs is matched over which share of false ones, and where `threshold` stands."""
    figure, axes = _axes(
        "false match rate (different people)", "true match rate (same person)", f"ROC · area {v.auc():.4f}"
    )
    _, false, true = v.roc()
    axes.plot(false, true, color="black", linewidth=2.2, drawstyle="steps-post")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    at = tuple(float((v.similarity[kind] > threshold).mean()) for kind in (~v.same, v.same))
    right, low = at[0] > 0.5, at[1] < 0.2
    axes.plot(*[[rate] for rate in at], "o", color=ORANGE, markersize=9, clip_on=False, zorder=5)
    axes.annotate(
        f"threshold {threshold:.2f}: accuracy {v.accuracy(threshold):.3f}\n"
        f"{len(v.same)} pairs, {int(v.same.sum())} of one person",
        at,
        xytext=(-12 if right else 12, 12 if low else -12),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom" if low else "top",
        fontsize=9,
    )
    return _png(figure)


def few_classes(names: list[str], table: Any, most: int = MOST) -> tuple[list[str], Any]:
    """A confusion table of at most `most` classes, those with the most objects first, and "background" last.

    names: of the classes. table: [classes + 1, classes + 1], the background last. Classes that occur nowhere are left
    out; of too many, the rarest become one.
    """
    classes = len(names)
    some = [i for i in range(classes) if table[i].any() or table[:, i].any()]
    order = sorted(some, key=lambda i: (-int(table[i].sum()), i))
    kept, rest = (order, []) if len(order) <= most else (order[: most - 1], order[most - 1 :])
    groups = [[i] for i in kept] + ([rest] if rest else []) + [[classes]]
    merged = np.array([[table[np.ix_(a, b)].sum() for b in groups] for a in groups])
    return [names[i] for i in kept] + ([f"{len(rest)} other classes"] if rest else []) + ["background"], merged


def _axes(x: str, y: str, title: str) -> tuple[Any, Any]:
    figure = need("matplotlib.figure", "val").Figure(figsize=(8, 5), layout="constrained", dpi=DPI)
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Any, title: str | None) -> None:
    box = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9, title=title)
    box.get_title().set_fontsize(9)
    for text in box.get_texts():
        text.set_parse_math(False)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _png(figure: Any) -> bytes:
    out = BytesIO()
    with warnings.catch_warnings():  # a name in a script that the font lacks shows as boxes; nothing else is lost
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(out, format="png")
    return out.getvalue()
