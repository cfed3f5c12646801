"""A network that was exported for one picture (or N) becomes one for any number: `free_batch`.

What the result means: `before` is a function of one picture (or of N that do not see each other); `after` is that
function mapped over a batch. So every operator has a rule that says where the images lie (`eyas.graph.replay`):

| pattern | becomes | why |
|---|---|---|
| Reshape to [1, C, h, w] of what has the batch in axis 0 | [0, C, h, w] | the batch is copied |
| Reshape to [1, −1, w], [−1, 49, C], [12, 49, C] | [0, n, w], [−1, 49, C] | one open extent: the batch's |
| Reshape to a target computed from Shape | the same, as a constant | with height and width fixed it is known |
| Expand, Slice whole axis 0 | extent 1, open end | broadcasting gives the rest |
| constant [1, …] in arithmetic | as it is | it broadcasts |
| constant [N, …] whose rows are equal | [1, …] | likewise |
| constant beside images in Concat | Expand to the batch | Concat does not broadcast |
| Resize to sizes [1, C, h, w] | scales [1, 1, h/h₀, w/w₀] | sizes include the batch |
| ReduceMean over axes 0, 2, 3 of one image | over 2, 3 | the mean of one value is that value |
| Squeeze of axis 0; Softmax, ArgMax, TopK, Concat, Split, Gather over it; sums over it | refused | ties images |
| NonMaxSuppression, NonZero, If, Loop, LSTM, Einsum and what is not known here | refused | |

The rules see shapes, never results: nothing is run. `prove_batch` runs both.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from eyas.errors import ModelError, problem
from eyas.graph.replay import Purpose, Walk, refusal
from eyas.graph.replay.axes import BATCH, Atom, Layout, has_batch, layout_of, new_shape
from eyas.graph.surgery import dims_of, inputs_of

NAME = "batch"
FAILURES = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError)


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with a free batch, named "batch"; a copy as it is, where the batch is free already.

    model: opset 11 or newer (`eyas.graph.opset.raise_opset`), one input of known shape, images along axis 0. It is not
    changed. Raises ModelError, naming the node, where images see each other, where an output does not have the batch in
    axis 0, or where that cannot be told.
    """
    inputs = inputs_of(model.graph)
    shape = dims_of(inputs[0]) if inputs else ()
    images = shape[0] if shape and isinstance(shape[0], int) else 0
    purpose = Purpose(
        "batch",
        "the batch cannot be freed",
        "images that do not see each other, from one input to outputs [batch, …]",
        "Export it with a dynamic batch.",
        images,
        _no_grid,
        lambda value, layout, sizes: None,
        resizes=False,
    )
    if len(inputs) == 1 and shape and isinstance(shape[0], str):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    if len(inputs) != 1 or not images:
        raise refusal(purpose, f"{len(inputs)} inputs of shapes {[list(dims_of(i)) for i in inputs]}")
    if any(isinstance(d, str) for d in shape):
        raise refusal(purpose, f"input {inputs[0].name} {list(shape)}, whose extents are not all known")
    source = ((Atom(images, BATCH, "b"),), *layout_of([int(d) for d in shape[1:]]))
    walk = Walk(model, source, purpose)
    result = walk.run()
    for output in result.graph.output:
        layout = walk.layouts.get(output.name, ())
        if not layout or len(layout[0]) != 1 or not has_batch(layout[0]):
            raise refusal(
                purpose, f"output {output.name} {list(dims_of(output))}, which has no batch of its own in axis 0"
            )
    settle_edges(walk, result)
    return result


def _no_grid(value: NDArray[np.generic], layout: Layout) -> NDArray[np.generic]:
    raise ValueError(f"a constant {list(value.shape)} spans the batch")


def settle_edges(walk: Walk, model: onnx.ModelProto) -> None:
    """Write the new shapes of input and outputs, in place, and have ONNX confirm them. Raises ModelError."""
    graph = model.graph
    ends = [*inputs_of(graph), *graph.output]
    for trial in (2, 0):  # what two images give can be worked out wholly; then the free batch
        for value in ends:
            kind = value.type.tensor_type
            kind.ClearField("shape")
            if trial and value not in inputs_of(graph):
                continue
            for extent in new_shape(walk.layouts[value.name]):
                dim = kind.shape.dim.add()
                if extent % BATCH:
                    dim.dim_value = extent
                elif trial:
                    dim.dim_value = trial
                else:
                    dim.dim_param = NAME
        if trial:
            _confirm(walk, model, trial)


def _confirm(walk: Walk, model: onnx.ModelProto, images: int) -> None:
    try:
        found = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except FAILURES as error:
        raise refusal(walk.purpose, (str(error).strip().splitlines() or ["a graph that is not valid"])[0]) from error
    for output in found.graph.output:
        wanted = [d if d % BATCH else images for d in new_shape(walk.layouts[output.name])]
        shape = dims_of(output)
        if any(isinstance(d, int) and d != w for d, w in zip(shape, wanted, strict=False)):
            raise refusal(walk.purpose, f"output {output.name} {list(shape)} where {wanted} was meant")


def prove_batch(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    *,
    batches: tuple[int, ...] = (1, 2, 3, 7),
    tolerance: float = 1e-5,
    seed: int = 0,
) -> float:
    """Run random pictures through both in ONNX Runtime and compare image by image.

    Returns the largest |after − before| as a part of the largest |before| of that output; whole numbers must be equal.
    Raises ModelError where it exceeds `tolerance`, a shape or a NaN differs, or the runtime refuses either graph.
    """
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3  # it warns of shapes that both graphs have in common
    sessions = [InferenceSession(m.SerializeToString(), options, ["CPUExecutionProvider"]) for m in (before, after)]
    (source,) = inputs_of(before.graph)
    shape = dims_of(source)
    chunk = shape[0] if isinstance(shape[0], int) else 1
    dtype = onnx.helper.tensor_dtype_to_np_dtype(source.type.tensor_type.elem_type)
    rest = [int(d) for d in shape[1:]]
    rng = np.random.default_rng(seed)
    worst = 0.0
    for count in batches:
        pictures = rng.uniform(0, 1, (count, *rest)) * (1 if np.issubdtype(dtype, np.floating) else 255)
        pictures = pictures.astype(dtype)
        padded = np.concatenate([pictures, np.zeros((-count % chunk, *rest), dtype)])
        parts = [sessions[0].run(None, {source.name: p}) for p in np.split(padded, len(padded) // chunk)]
        wanted = [np.concatenate(outputs)[:count] for outputs in zip(*parts, strict=True)]
        found = sessions[1].run(None, {inputs_of(after.graph)[0].name: pictures})
        for output, a, b in zip(before.graph.output, found, wanted, strict=True):
            worst = max(worst, _difference(output.name, count, a, b, tolerance))
    return worst


def _difference(name: str, count: int, a: NDArray[np.generic], b: NDArray[np.generic], tolerance: float) -> float:
    alike = a.shape == b.shape and (a.dtype.kind != "f" or bool((np.isnan(a) == np.isnan(b)).all()))
    apart = float("inf")
    if alike and a.size:
        x, y = (np.nan_to_num(v.astype(np.float64)) for v in (a, b))
        apart = float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30)) if (x != y).any() else 0.0
    elif alike:
        apart = 0.0
    if apart > (tolerance if a.dtype.kind == "f" else 0):
        raise ModelError(
            problem(
                "the two graphs do not agree",
                got=f"output {name} {a.shape} off by {apart:.2g} of {b.shape}, batch {count}",
                expected=f"at most {tolerance:g} of the largest value",
                remedy="Keep the graph as it was exported, and report this.",
            )
        )
    return apart
