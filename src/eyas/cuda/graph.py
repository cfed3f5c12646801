"""CUDA graphs: what a piece of work enqueues on a stream, recorded once, launched again with one call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from eyas.cuda.device import CudaDevice


def captured(device: CudaDevice, stream: Any, work: Callable[[], object]) -> Callable[[], None]:
    """A function that enqueues, on `stream`, what `work` enqueues there now; addresses and shapes stay as they are.

    work: must have run before on this thread, so that it allocates nothing and waits for nothing. What it uses must
    live as long as the function. Other threads are not disturbed. Raises what `work` raises, or BackendError.
    """
    driver, check = device.driver, device.check
    check(driver.cuStreamBeginCapture(stream.handle, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
    try:
        work()
    except BaseException:
        driver.cuStreamEndCapture(stream.handle)  # which reports the same failure once more
        raise
    graph = check(driver.cuStreamEndCapture(stream.handle))
    executable = check(driver.cuGraphInstantiate(graph, 0))
    check(driver.cuGraphDestroy(graph))
    launch, passed, handles = device.quick.cuGraphLaunch, device.passed, (int(executable), int(stream.handle))

    def run() -> None:
        passed(launch(*handles))

    weakref.finalize(run, driver.cuGraphExecDestroy, executable)
    return run


def captured_sizes(
    device: CudaDevice, stream: Any, sizes: Sequence[int], work: Callable[[int], object]
) -> Callable[[int], None]:
    """`captured` for each batch size: a function of a count, which enqueues what `work(size)` enqueues for the smallest
    size that holds it. work: is run once for each size before it is recorded.
    """
    runs: dict[int, Callable[[], None]] = {}
    for size in sizes:
        work(size)
        stream.sync()
        runs[size] = captured(device, stream, partial(work, size))

    def run(count: int) -> None:
        runs[fitting(sizes, count)]()

    return run


def fitting(sizes: Sequence[int], count: int) -> int:
    """The smallest of the rising sizes that holds `count` images."""
    return next(size for size in sizes if size >= count)
