"""Ctrl-C and SIGTERM reach the main thread, but not in the middle of a hand-over to another."""

from __future__ import annotations

import dis
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count, pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from eyas.batching import Batcher
from eyas.video.overlap import WriteBehind, read_ahead

CASES = [
    "a_hand_over_is_finished_first 2",
    "a_hand_over_is_finished_first 15",
    "other_code_is_left_at_once",
    "a_wait_is_left 2",
    "a_wait_is_left 15",
    "a_hand_over_without_end_is_left_too",
    "a_signal_at_the_very_end_counts",
    "handlers_are_put_back",
    "somebody_elses_alarm_rings",
    "somebody_elses_ctrl_c_stays",
    "other_threads_set_no_handlers",
]


@pytest.mark.parametrize("case", CASES)
def test_a_signal_in_a_process_of_its_own(case: str):
    command = [sys.executable, str(Path(__file__).with_name("interrupt_cases.py")), *case.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


# What overlaps must end wherever a plain Ctrl-C comes: a program of its own has no such handler

FILES = ("/overlap.py", "/queue.py", "/threading.py")


@cache
def places(code: CodeType) -> frozenset[int]:
    """Where Python looks for signals: after calls, and where loops begin again."""
    steps = list(dis.get_instructions(code))
    after = {b.offset for a, b in pairwise(steps) if a.opname.startswith(("CALL", "RESUME"))}
    return frozenset(after | {s.argval for s in steps if s.opname.startswith("JUMP_BACKWARD")})


def interrupted(nth: int, run: Callable[[], object], files: tuple[str, ...] = FILES) -> bool:
    """Run, with a KeyboardInterrupt at the nth such place of these files; whether there are so many."""
    left, raised = nth, False

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left, raised
        if event == "call":
            frame.f_trace_opcodes = True
            return trace if frame.f_code.co_filename.endswith(files) else None
        if event == "opcode" and not raised and frame.f_lasti in places(frame.f_code):
            left -= 1
            if left < 0:
                raised = True
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        assert raised
    finally:
        sys.settrace(before)
    return raised


def ends(act: Callable[[], None]) -> bool:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


def slow_append(kept: list[int], item: int) -> None:
    time.sleep(0.0005)
    kept.append(item)


@pytest.mark.parametrize("lossy", [False, True])
def test_writing_behind_can_be_closed_after_a_ctrl_c_anywhere(lossy: bool):
    def put(behind: WriteBehind) -> None:
        for i in range(6):
            behind.put(i)

    for nth in count():
        written: list[int] = []
        behind = WriteBehind(partial(slow_append, written), "test", 2, lossy=lossy)
        reached = interrupted(nth, partial(put, behind))
        assert ends(behind.close), f"place {nth}"
        assert written == sorted(set(written))
        if not reached:
            break
    assert nth > 20


def test_reading_ahead_can_be_closed_after_a_ctrl_c_anywhere():
    def slowly() -> Iterator[int]:
        for i in range(6):
            time.sleep(0.0002)
            yield i

    for nth in count():
        threads = threading.active_count()
        ahead = read_ahead(slowly(), 2)
        next(ahead)  # the thread runs
        reached = interrupted(nth, partial(deque, (time.sleep(0.0005) for _ in ahead)))
        assert ends(ahead.close), f"place {nth}"
        if not reached:
            break
    assert nth > 10
    assert threading.active_count() <= threads


class Echo:
    """Stages that give items back. at_once: callers prepare them."""

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once

    def ready(self, item: int) -> bool:
        return self._at_once

    def memory(self, batch: int) -> None:
        return None

    def load(self, item: int) -> int:
        return item

    def place(self, loaded: int, memory: None, place: int) -> int:
        return loaded

    def run(self, engine: int, memory: None, places: object, items: list[int], placed: object) -> list[int]:
        return list(items)


def submitted(batcher: Batcher[int, int]) -> None:
    assert [future.result(10) for future in [batcher.submit(i) for i in range(4)]] == [0, 1, 2, 3]


def called(batcher: Batcher[int, int]) -> None:
    assert [batcher.call(i) for i in range(2)] == [0, 1]


@pytest.mark.parametrize(("work", "at_once"), [(submitted, True), (submitted, False), (called, False)])
def test_after_a_ctrl_c_anywhere_in_a_callers_thread_the_batcher_serves_and_closes(
    work: Callable[[Batcher[int, int]], None], at_once: bool
):
    for nth in count():
        batcher = Batcher(Echo(at_once), batch=2, preparers=2)
        reached = interrupted(nth, partial(work, batcher), ("/batching.py", "/pending.py"))
        served: list[int] = []
        assert ends(lambda b=batcher, s=served: s.append(b.submit(7).result(10) + b.call(1))), f"place {nth}"
        assert served == [8]
        assert ends(batcher.close), f"place {nth}"
        if not reached:
            break
    assert nth > 20
