"""NMS by a kernel of our own behind a lane whose graph ends at its candidates (`eyas.graph.openend`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from eyas.cuda.device import CudaDevice
from eyas.cuda.graph import captured_sizes
from eyas.cuda.lane import Lane
from eyas.cuda.memory import new_array
from eyas.graph.head import CANDIDATES, ORDER
from eyas.graph.openend import OpenEnd
from eyas.graph.surgery import THRESHOLDS


class NmsLane:
    """See `eyas.cuda.lane.Lane`: the lane, then the kernel."""

    def __init__(self, device: CudaDevice, lane: Lane, end: OpenEnd) -> None:
        self._device, self._lane, self._end = device, lane, end
        self.stream, self.inputs, self.sizes = lane.stream, lane.inputs, lane.sizes
        batch = lane.inputs[THRESHOLDS].shape[0]
        self._found = {
            "detections": new_array(device, self.stream, (batch, end.rows, end.width), np.float32),
            "count": new_array(device, self.stream, (batch,), np.int32),
            "converged": new_array(device, self.stream, (batch,), np.bool_),
        }
        others = {name: array for name, array in lane.outputs.items() if name not in (CANDIDATES, ORDER)}
        self.outputs = self._found | others
        self._kernel = device.kernel("nms.cu", "nms", K=end.rows, WIDTH=end.width)
        self._threads = -(-end.rows // 32) * 32
        from_lane = [lane.outputs[CANDIDATES].address, lane.outputs[ORDER].address, lane.inputs[THRESHOLDS].address]
        self._arguments: tuple[Any, ...] = (
            *from_lane,
            np.int32(end.agnostic),
            *(a.address for a in self._found.values()),
        )
        self._suppress = captured_sizes(device, self.stream, self.sizes, self._enqueue)

    def launch(self, count: int) -> None:
        """See `Lane`."""
        self._lane.launch(count)
        self._suppress(count)

    def _enqueue(self, size: int) -> None:
        config = self._device.core.LaunchConfig(grid=size, block=self._threads)
        self._device.core.launch(self.stream, config, self._kernel, *self._arguments)

    def close(self) -> None:
        """See `Lane`."""
        for array in self._found.values():
            array.block.close()
        self._lane.close()
