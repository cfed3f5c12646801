"""An engine's outputs while they are still on the GPU, for other libraries: by DLPack, without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from eyas.cuda.memory import DeviceArray
from eyas.cuda.stages import DeviceStages
from eyas.errors import BackendError, problem
from eyas.letterbox import Letterbox
from eyas.predictor import CONFIDENCE, Model
from eyas.source import pictures
from eyas.stages import Job


@contextmanager
def device_outputs(
    model: Model, frames: Sequence[Any], *, conf: float = CONFIDENCE, iou: float | None = None
) -> Iterator[tuple[dict[str, DeviceArray], list[Letterbox]]]:
    """The deploy graph's outputs for up to a batch of pictures, as they lie on the GPU, and how each was letterboxed.

    frames: as `Model.predict` takes them one by one. The arrays (see `eyas.graph.surgery`; rows are in pixels of the
    network's input) are finished and borrowed: they hold until the block ends, during which the lane serves nobody
    else. `torch.from_dlpack(outputs["detections"])` makes a tensor of one. Raises BackendError where the engine is not
    on a GPU or the batch is too large for it.
    """
    stages, engine = model.stages("throughput"), model.engine("throughput")
    if not isinstance(stages, DeviceStages) or len(frames) > stages.engines[0].largest:
        got = f"{len(frames)} pictures for {engine.description}"
        expected = "an engine on a GPU, and at most its batch"
        remedy = "eyas.load(…, device='cuda', batch=…) opens one."
        raise BackendError(problem("no outputs on a GPU", got=got, expected=expected, remedy=remedy))
    conf, iou = model.thresholds(conf, iou)
    memory = stages.memory(len(frames))
    jobs = [Job(picture, conf, iou, whole=False) for picture in pictures(frames)]
    placed = [stages.place(stages.load(job), memory, i) for i, job in enumerate(jobs)]
    with stages.on_lane(0, memory, jobs, placed) as lane:
        lane.lane.stream.sync()
        outputs = {name: array.first(len(jobs)) for name, array in lane.lane.outputs.items()}
        yield outputs, [p.box for p in placed]
