"""What Ctrl-C and SIGTERM do to a command: test_interrupts runs each case in a process of its own, by its name.

A signal that comes at another time than it should ends the process, not the run of all tests.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from eyas.cli import interrupts
from eyas.cli.interrupts import Terminated, raised_between_hand_overs

SIGNALS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
STEPS = "def steps(number, seconds, done):\n signal.raise_signal(number)\n end = time.monotonic() + seconds\n"
STEPS += " while time.monotonic() < end:\n" + "  sum(range(20))\n" * 9 + " done.append(1)\n"


def steps_in(module: str) -> Callable[..., None]:
    """A function of that module that is signalled at its beginning, and then goes on for a while."""
    place: dict[str, Any] = {"__name__": module, "signal": signal, "time": time}
    exec(STEPS, place)  # noqa: S102 - the module's name is what is tested
    return place["steps"]  # type: ignore[no-any-return]


def a_hand_over_is_finished_first(number: signal.Signals):
    done: list[int] = []
    steps = steps_in("eyas.batching")
    with pytest.raises(SIGNALS[number]) as raised, raised_between_hand_overs():
        steps(number, 0.1, done) or time.sleep(5)  # which it interrupts
    assert done == [1]
    assert raised.type is SIGNALS[number]


def other_code_is_left_at_once():
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), raised_between_hand_overs():
        steps_in("eyas.results")(signal.SIGINT, 0.1, done)
    assert done == []


def a_wait_is_left(number: signal.Signals):
    def wait() -> None:
        threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, number)).start()
        threading.Event().wait(10)

    begin = time.monotonic()
    with pytest.raises(SIGNALS[number]), raised_between_hand_overs():
        wait()
    assert time.monotonic() - begin < 5


def a_hand_over_without_end_is_left_too():
    interrupts.PATIENCE_S = 0.05
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), raised_between_hand_overs():
        steps_in("threading")(signal.SIGINT, 5, done)
    assert done == []


def a_signal_at_the_very_end_counts():
    with pytest.raises(Terminated), raised_between_hand_overs():
        steps_in("queue")(signal.SIGTERM, 0, [])
    time.sleep(0.02)  # no timer is left


def handlers_are_put_back():
    before = [signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)]
    with raised_between_hand_overs():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)] == before


def somebody_elses_alarm_rings():
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt), raised_between_hand_overs():
            steps_in("queue")(signal.SIGINT, 0.1, [])
        with raised_between_hand_overs():
            end = time.monotonic() + 10
            while not rung and time.monotonic() < end:
                time.sleep(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
    assert rung == [signal.SIGALRM]


def somebody_elses_ctrl_c_stays():
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        with raised_between_hand_overs():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def other_threads_set_no_handlers():
    before = signal.getsignal(signal.SIGTERM)
    inside: list[Any] = []

    def run() -> None:
        with raised_between_hand_overs():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    case = globals()[sys.argv[1]]
    case(*(signal.Signals(int(number)) for number in sys.argv[2:]))
