"""Ctrl-C and SIGTERM, raised in the main thread only where no thread can be left waiting for ever.

Python raises KeyboardInterrupt between any two steps of the main thread. In the middle of a hand-over to another
thread, as in `Condition.notify`, that loses a wake-up or a place of a batch, and closing then waits for what never
comes. So a signal that arrives there is looked at again a little later. A thread that stands still there is in a wait,
which may be left.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

HANDING_OVER = (
    "concurrent.futures",
    "eyas.batching",
    "eyas.pending",
    "eyas.video.live",
    "eyas.video.overlap",
    "queue",
    "threading",
)
LOOK_S = 0.005
STILL = 10  # looks that find the main thread at one place
PATIENCE_S = 1.0


class Terminated(KeyboardInterrupt):
    """SIGTERM: a service manager's Ctrl-C."""


@contextmanager
def raised_between_hand_overs() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt in the block, and SIGTERM Terminated, so that files are finished and threads
    end. What was set before is back after it; in other threads than the main one it does nothing.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    arrived: type[KeyboardInterrupt] | None = None
    until, still, place, timer = 0.0, 0, None, None

    def begin(number: int, frame: FrameType | None) -> None:
        nonlocal arrived, until, still
        arrived = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        until, still = time.monotonic() + PATIENCE_S, 0
        look(number, frame)

    def look(_number: int, frame: FrameType | None) -> None:
        nonlocal arrived, still, place, timer
        if arrived is None:  # somebody else's alarm
            if callable(others):
                others(_number, frame)
            return
        here = frame and (frame.f_code, frame.f_lasti)
        still, place = still + 1 if here == place else 1, here
        if _hands_over(frame) and still < STILL and time.monotonic() < until:
            before = signal.setitimer(signal.ITIMER_REAL, LOOK_S)
            timer = timer or before
            return
        error, arrived = arrived, None
        raise error

    others = signal.getsignal(signal.SIGALRM)
    handlers = {signal.SIGTERM: begin, signal.SIGALRM: look}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = begin
    with ExitStack() as stack:
        for number, handler in handlers.items():
            stack.callback(signal.signal, number, signal.signal(number, handler))
        stack.callback(lambda: timer and signal.setitimer(signal.ITIMER_REAL, *timer))  # off, or as it was
        yield
        if arrived is not None:
            raise arrived


def _hands_over(frame: FrameType | None) -> bool:
    """Whether the code that runs, or any that called it, passes things between threads."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(HANDING_OVER):
            return True
        frame = frame.f_back
    return False
