"""A plan on a GPU as an engine of lanes: runtime, engine and contexts made once, then nothing but launches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from eyas.cuda.device import CudaDevice
from eyas.cuda.lane import Lane, LanedEngine, sizes
from eyas.engines.layers import Layer
from eyas.trt.edition import Edition
from eyas.trt.inspect import engine_layers
from eyas.trt.lane import TrtLane, tensors_of
from eyas.types import BuildSpec

log = logging.getLogger("eyas")


class Executor(LanedEngine):
    """TensorRT's engine and runtime live as long as their lanes. keep: called when it closes, for the runtime cache."""

    def __init__(
        self,
        edition: Edition,
        runtime: Any,
        engine: Any,
        device: CudaDevice,
        *,
        description: str,
        lanes: int = 1,
        counts: Sequence[int] = (),
        new_context: Callable[[], Any] | None = None,
        keep: Callable[[], None] | None = None,
    ) -> None:
        """counts: the batch sizes that get contexts; empty: the usual ones of several profiles, else those of `sizes`.
        new_context: makes one execution context. Raises BackendError, OptionError.
        """
        self._edition, self._runtime, self._engine, self._keep = edition, runtime, engine, keep
        self.tensors = tensors_of(edition, engine)
        batches = next(t for t in self.tensors if t.is_input).batches
        least, most = min(low for low, _, _ in batches), max(high for _, _, high in batches)
        if lanes > 1 and any(t.free for t in self.tensors) and not edition.shares_profiles:
            why = "optimisation profiles, which two contexts cannot share before 10"
            edition.refuse(f"{lanes} contexts of a free batch", why, "Leave `contexts` out.")
        named = counts or (tuple(usual for _, usual, _ in batches) if len(batches) > 1 else ())
        spec = BuildSpec(batch=(least, batches[0][1], most), options={"sizes": named} if named else {})
        counts = sizes(spec, None)
        new_context = new_context or engine.create_execution_context
        made: list[Lane] = [TrtLane(device, edition, self.tensors, counts, new_context) for _ in range(lanes)]
        super().__init__(device, made, most, description)

    def layers(self) -> list[Layer]:
        """What TensorRT has made of the graph."""
        return engine_layers(self._edition, self._engine)

    def close(self) -> None:
        """Free the lanes, then engine and runtime; also where the device has gone."""
        try:
            if self._keep:
                self._keep()
            super().close()
        except Exception as error:  # the device's, of many types
            log.warning("GPU %d: the engine could not be freed: %s", self.device.index, error)
        self.all, self._keep, self._engine, self._runtime = [], None, None, None
