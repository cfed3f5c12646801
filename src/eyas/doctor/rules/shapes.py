"""D204 to D207: shapes that are computed at run time although they are known, and axes that are free."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from eyas.doctor.edit import constant, release
from eyas.doctor.rule import Rule
from eyas.doctor.subject import Subject, attribute, name_of
from eyas.extras import need

Found = Iterator[tuple[str, str]]

# onnxslim's fusions change numbers in the last digit; folding shapes does not.
FUSIONS = (
    *("FusionConvAdd", "FusionConvTransposeAdd", "FusionConvBN", "FusionConvTransposeBN", "FusionConvMul"),
    *("FusionConvTransposeMul", "FusionGemm", "FusionGemmMul", "FusionGemmAdd", "FusionPadConv", "FusionReduce"),
)


def _arithmetic(s: Subject) -> Found:
    for node in s.graph.node:
        if node.op_type in ("Shape", "Size"):
            dims = s.shapes.get(node.input[0])
            if dims is not None and all(isinstance(d, int) for d in dims[1:]):
                yield name_of(node), f"asks for a shape that is known: {list(dims)}"


def fold_shapes(model: onnx.ModelProto) -> bool:
    """What follows from known shapes becomes a constant, and Concat(batch, a, b) as a Reshape's target [−1, a, b].

    By onnxslim, without its numerical fusions: arithmetic on whole numbers, so the results stay bit by bit.
    """
    folded = need("onnxslim", "doctor").slim(model, skip_fusion_patterns=list(FUSIONS))
    if len(folded.graph.node) >= len(model.graph.node):
        return False
    model.CopyFrom(folded)
    return True


def _sizes(s: Subject) -> Found:
    for node in s.graph.node:
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            shape = s.shapes.get(node.output[0], ("?",))
            yield name_of(node), f"resizes to sizes (result {list(shape)})"


def scale_resizes(model: onnx.ModelProto) -> bool:
    """Resize(x, sizes) becomes Resize(x, scales), scales = size out / size in on every axis.

    ONNX defines the sampling of both by that quotient. Only where both sizes are known but for the batch, and where
    ⌊in · scale⌋ = out with the scale as float32, so that the result has the same size.
    """
    s, changed = Subject(model), False
    for node in model.graph.node:
        plain = attribute(node, "keep_aspect_ratio_policy", b"stretch") == b"stretch"
        crops = attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
        if node.op_type != "Resize" or len(node.input) < 4 or not node.input[3] or crops or not plain:
            continue
        before, after = s.shapes.get(node.input[0], ()), s.shapes.get(node.output[0], ())
        axes = attribute(node, "axes", list(range(len(before))))
        if len(after) != len(before) or any(type(d) is str for d in (*before[1:], *after[1:])):
            continue
        pairs = [(before[a], after[a]) if a else (1, 1) for a in axes]
        scales = [np.float32(out) / np.float32(into) for into, out in pairs]
        if any(int(np.floor(into * f)) != out for (into, out), f in zip(pairs, scales, strict=True)):
            continue
        name = constant(model.graph, np.array(scales, np.float32), f"{node.output[0]}/scales")
        old = node.input[3]
        node.input[:] = [*node.input[:2], name]
        release(model.graph, [old])
        changed = True
    return changed


def _free_size(s: Subject) -> Found:
    if s.picture is not None and s.size is not None and any(isinstance(d, str) for d in s.size):
        yield s.picture.name, f"height × width is {s.size[0]} × {s.size[1]}"


def _free_axis(s: Subject) -> Found:
    for node in s.graph.node:
        if node.op_type in ("Softmax", "LogSoftmax", "ArgMax", "ArgMin"):
            dims = s.shapes.get(node.input[0], ())
            axis = attribute(node, "axis", -1 if "Softmax" in node.op_type else 0)
            over = dims[axis] if dims and -len(dims) <= axis < len(dims) else 0
            sized = s.size is not None and all(isinstance(d, int) for d in s.size)  # else D206 says it
            if isinstance(over, str) and sized:
                yield name_of(node), f"works over axis {axis} of {list(dims)}, which is not fixed"


RULES = (
    Rule(
        "D204",
        "shape arithmetic that could be a constant",
        "warning",
        "Chains of Shape, Gather, Cast and Concat are copied to the host by some engines and stop fusion in others.",
        "Wrap sizes in int() before export; --fix folds them with onnxslim.",
        _arithmetic,
        fold_shapes,
    ),
    Rule(
        "D205",
        "Resize by sizes, not by scales",
        "warning",
        "Sizes hold the batch and the channels too, and must be computed at run time where the batch is free.",
        "Give interpolate a scale_factor; --fix writes the scales, with the same sampling.",
        _sizes,
        scale_resizes,
    ),
    Rule(
        "D206",
        "height and width are free",
        "warning",
        "Engines choose slower kernels, buffers cannot be planned, and grids are computed anew for every picture.",
        "Export with dynamic_axes on the batch alone; or let eyas fix the size: --imgsz 640.",
        _free_size,
    ),
    Rule(
        "D207",
        "Softmax or ArgMax over an axis that is not fixed",
        "warning",
        "The axis must be a number for most engines; over the batch it mixes pictures.",
        "Check the axis in the exported code.",
        _free_axis,
    ),
)
