"""Two threads that let reading, finding and writing overlap: one reads ahead, one writes behind.

Both hold a few items only, so who reads or writes slower than the rest makes the rest wait; but for live streams, whose
writers lose what they are too slow for.

Both speak to their thread through SimpleQueue alone. A signal (Ctrl-C) may raise in the main thread between any two
steps of Python code; in the middle of a Condition's notify, of which Queue and Semaphore are made, it loses wake-ups
for good, and closing would wait for ever.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from eyas import trace

T = TypeVar("T")
WAITING = 4  # items; of a 1080p video 6 MB each
_END: Any = object()


def read_ahead(items: Iterable[T], most: int = WAITING) -> Generator[T, None, None]:
    """The items, of which up to `most` are fetched ahead on a thread; what is raised there comes at its turn.

    Closing it waits for the item that is being fetched: not for sources that may block for long.
    """
    room, fetched, stop = _tokens(most), queue.SimpleQueue[Any](), threading.Event()

    def fetch() -> None:
        error: BaseException | None = None
        try:
            for item in trace.each("decode", items):
                fetched.put((item, None))
                room.get()
                if stop.is_set():
                    return
        except BaseException as raised:
            error = raised
        fetched.put((_END, error))

    thread = threading.Thread(target=fetch, name="eyas reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = fetched.get()
            if error:
                raise error
            if item is _END:
                return
            room.put(None)
            yield item
    finally:
        stop.set()
        room.put(None)
        thread.join()


class WriteBehind:
    """Calls `handle` with what is put, on a thread of its own, in order. For one caller.

    After an error the items that follow are thrown away, and the next `put`, else `close`, raises it.
    dropped: how many waiting items newer ones have pushed out (lossy).
    """

    def __init__(self, handle: Callable[..., object], name: str, most: int = WAITING, *, lossy: bool = False) -> None:
        """most: how many items may wait. name: the thread's, after "eyas ". lossy: `put` never waits."""
        self._handle, self._items, self._room = handle, queue.SimpleQueue[Any](), _tokens(most)
        self._lossy, self.dropped = lossy, 0
        self._error: BaseException | None = None
        self._told = self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"eyas {name}", daemon=True)
        self._thread.start()

    def put(self, *item: Any) -> None:
        """Queue one item, the arguments of `handle`. Raises what an earlier one raised.

        While too many wait: waits too, or, lossy, drops the one that has waited longest.
        """
        self._tell()
        while True:
            with suppress(queue.Empty):
                self._room.get(block=not self._lossy)
                break
            with suppress(queue.Empty):  # else the writer was quicker
                self._items.get_nowait()
                self.dropped += 1
                break
        self._items.put(item)

    def close(self) -> None:
        """Wait until all items are done, and end the thread; a second call does nothing. Raises as `put`."""
        if not self._closed:
            self._closed = True
            self._items.put(_END)
            self._thread.join()
            self._tell()

    def _tell(self) -> None:
        if self._error and not self._told:
            self._told = True
            raise self._error

    def _run(self) -> None:
        while (item := self._items.get()) is not _END:
            self._room.put(None)
            if self._error is None:
                try:
                    with trace.span("sink"):
                        self._handle(*item)
                except BaseException as raised:
                    self._error = raised


def _tokens(count: int) -> queue.SimpleQueue[None]:
    """One for each item that may wait: taken before it is put, given back when it is taken."""
    tokens = queue.SimpleQueue[None]()
    for _ in range(count):
        tokens.put(None)
    return tokens
