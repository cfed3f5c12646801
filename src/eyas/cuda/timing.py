"""When things happened on the device, for `eyas.trace`: events on a stream, read after it has passed them."""

from __future__ import annotations

from typing import Any

from eyas import trace
from eyas.cuda.device import CudaDevice


class DeviceClock:
    """Marks on one stream. Events are made once; the device's clock is tied to the host's when the clock is made."""

    def __init__(self, device: CudaDevice, stream: Any) -> None:
        self._device, self._stream = device, stream
        self._options = device.core.EventOptions(timing_enabled=True)
        idle = device.stream()
        self._zero = idle.record(options=self._options)
        event, quick = int(self._zero.handle), device.quick
        device.passed(quick.cuEventRecord(event, int(idle.handle)))
        device.passed(quick.cuEventSynchronize(event))  # microseconds, and Python's lock is not given up meanwhile
        self._zero_ns = trace.clock()
        self._events: list[Any] = []
        self._names: list[str] = []

    def mark(self, name: str) -> None:
        """Here begins `name`, and ends what was marked before."""
        if len(self._events) == len(self._names):
            self._events.append(self._stream.record(options=self._options))
        else:
            self._stream.record(self._events[len(self._names)])
        self._names.append(name)

    def record(self, lane: str, pictures: int) -> None:
        """Add the spans between the marks to the trace, and forget them. The stream must have passed them."""
        times = [self._zero_ns + int((event - self._zero) * 1e6) for event in self._events[: len(self._names)]]
        if record := trace.current:
            for name, start, end in zip(self._names, times, times[1:], strict=False):
                record.add(name, start, end, lane, pictures=pictures)
        self.clear()

    def clear(self) -> None:
        """Forget the marks."""
        self._names.clear()
