"""eyas bench: loads count every request, quantiles are only given where they are known, and reports add up."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLES

import eyas
from eyas.bench import inputs, machine, tables
from eyas.bench.load import Load, closed, open_loop, poisson, quantile
from eyas.bench.measure import Case, Plan, Side, _order, measure
from eyas.bench.report import failed, figures, report
from eyas.cli import main
from eyas.cli.bench import counts, rates
from eyas.errors import BusyError, OptionError, SourceError

TINY = Plan(batches=(1, 2), concurrency=(1, 2), rates=(0.5,), rounds=2, seconds=0.02, warmup_s=0.01)
FAST = ["--rounds", "1", "--seconds", "0.02", "--warmup", "0.01", "--batch", "1", "--concurrency", "2", "-q"]


def done(value: Any = None) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def wrong(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def load_of(latency_ms: list[float], seconds: float = 1.0, **more: Any) -> Load:
    count = len(latency_ms)
    return Load(np.array(latency_ms), seconds, count, cpu_s=0.5, sent=count, **more)


# Loads


def test_a_closed_loop_has_as_many_calls_going_as_callers() -> None:
    going, most, lock = 0, 0, threading.Lock()

    def call(_: int) -> None:
        nonlocal going, most
        with lock:
            going += 1
            most = max(most, going)
        time.sleep(0.002)
        with lock:
            going -= 1

    load = closed(call, 3, 0.05)
    assert most == 3
    assert load.sent == load.pictures == len(load.latency_ms) > 0
    assert (load.latency_ms >= 2).all()


def test_a_closed_loop_counts_a_call_that_takes_longer_than_the_measurement() -> None:
    load = closed(lambda _: time.sleep(0.03), 1, 0.001, pictures=4)
    assert (load.sent, load.pictures) == (1, 4)
    assert load.seconds >= 0.03


def test_a_closed_loop_counts_errors_and_goes_on() -> None:
    def call(i: int) -> None:
        time.sleep(0.001)
        if i % 3 == 0:
            raise ValueError
        if i % 3 == 1:
            raise BusyError("full")

    load = closed(call, 1, 0.05)
    assert set(load.failed) == {"ValueError"}
    assert load.refused > 0
    assert load.pictures + load.refused + sum(load.failed.values()) == load.sent


def test_an_open_loop_counts_latency_from_when_a_request_was_due() -> None:
    """The first submit blocks: the second can only be sent late, and its waiting counts."""
    load = open_loop(lambda i: done(time.sleep(0.05 if i == 0 else 0)), np.array([0.0, 0.001]))
    assert load.latency_ms[1] >= 48
    assert load.late >= 1


def test_an_open_loop_loses_no_request() -> None:
    def submit(i: int) -> Future[Any]:
        if i == 0:
            raise BusyError("full")
        if i == 1:
            raise OptionError("no")
        return [done(), wrong(BusyError("pushed out")), wrong(ValueError())][i % 3]

    load = open_loop(submit, np.linspace(0, 0.01, 12))
    assert (load.sent, load.refused) == (12, 4)
    assert load.failed == Counter({"ValueError": 4, "OptionError": 1}) - Counter({"ValueError": 0})
    assert load.pictures + load.refused + sum(load.failed.values()) == load.sent


def test_an_open_loop_does_not_wait_for_answers_before_it_sends() -> None:
    futures: list[Future[Any]] = []

    def submit(i: int) -> Future[Any]:
        futures.append(Future())
        if i == 9:  # the last: all the others are still waiting
            assert not any(f.done() for f in futures)
            threading.Timer(0.01, lambda: [f.set_result(None) for f in futures]).start()
        return futures[-1]

    assert open_loop(submit, np.linspace(0, 0.01, 10)).pictures == 10


def test_arrivals_are_random_and_repeatable_and_fill_their_time() -> None:
    due_s = poisson(100, 5000, np.random.default_rng(1))
    assert (due_s == poisson(100, 5000, np.random.default_rng(1))).all()
    assert due_s[0] > 0
    assert 49 < due_s[-1] < 50
    gaps = np.diff(due_s)
    assert gaps.mean() == pytest.approx(0.01, rel=0.01)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential: both are 1 / rate


@pytest.mark.parametrize(("share", "least"), [(0.5, 7), (0.9, 44), (0.99, 459), (0.999, 4603)])
def test_a_quantile_takes_enough_samples(share: float, least: int) -> None:
    samples = np.arange(least, dtype=np.float64)
    assert quantile(samples, share) == pytest.approx(np.quantile(samples, share))
    assert quantile(samples[1:], share) is None
    assert quantile(samples[:0], share) is None


# Figures and reports


def test_latencies_are_pooled_and_throughputs_are_not() -> None:
    f = figures([load_of([1.0] * 4), load_of([3.0] * 6, seconds=2.0), load_of([2.0] * 90, failed=Counter(E=1))])
    assert f["images_s"] == {"median": 4, "min": 3, "max": 90, "rounds": [4, 3, 90]}
    assert f["samples"] == 100
    assert f["latency_ms"] == {
        "mean": pytest.approx(2.02),
        "p50": 2,
        "p90": pytest.approx(2),
        "p99": None,
        "p99.9": None,
    }
    assert f["cpu_ms"] == pytest.approx(500 / 6)
    assert f["failed"] == {"E": 1}


def test_where_every_request_failed_there_are_no_figures() -> None:
    f = figures([Load(np.empty(0), 1.0, 0, 0.1, 3, Counter(ValueError=3))])
    assert (f["cpu_ms"], f["latency_ms"]["mean"], f["latency_ms"]["p50"]) == (None, None, None)
    assert f["failed"] == {"ValueError": 3}


def test_the_order_of_the_two_changes_from_round_to_round() -> None:
    assert [list(_order(2, i)) for i in range(3)] == [[0, 1], [1, 0], [0, 1]]


@pytest.fixture(scope="module")
def compared() -> dict[str, Any]:
    """A whole report of `null` beside itself."""
    pictures = inputs.synthetic(2)
    steps: list[tuple[int, int]] = []
    with eyas.load("nanodet", backend="null", batch=2) as model:
        sides = [Side("nanodet", {1: model, 2: model}), Side("other.onnx", {1: model, 2: model})]
        measured = measure(sides, pictures, TINY, lambda i, n: steps.append((i, n)))
        start = machine.moment()
        result = report(measured, sides, machine.about(), machine.meanwhile(start, machine.moment()), pictures.about)
    assert steps[-1] == (len(steps), len(steps))
    return result


def test_a_report_has_every_case_once_a_round(compared: dict[str, Any]) -> None:
    rows = [Case(*(row[name] for name in Case._fields)) for row in compared["rows"]]
    assert rows[:-1] == TINY.cases()
    assert rows[-1][:3] == ("open", "files", rows[-1].batch)
    assert rows[-1].rate == pytest.approx(0.5 * compared["settings"]["capacity"])
    for row in compared["rows"]:
        assert len(row["a"]["images_s"]["rounds"]) == len(row["b"]["images_s"]["rounds"]) == TINY.rounds
    assert not failed(compared)


def test_ratios_are_of_the_same_round(compared: dict[str, Any]) -> None:
    for row in compared["rows"]:
        a, b = (row[letter]["images_s"]["rounds"] for letter in "ab")
        ratios = [y / x for x, y in zip(a, b, strict=True)]
        got = row["b_over_a"]["images_s"]
        assert [got["min"], got["max"]] == pytest.approx([min(ratios), max(ratios)])


def test_the_limit_is_the_lower_of_engine_and_cores(compared: dict[str, Any]) -> None:
    for row in compared["limits"]:
        limit = row["a"]
        assert limit["images_s"] == min(limit["engine_images_s"], limit["cpu_images_s"])
        assert limit["cpu_images_s"] == pytest.approx(compared["machine"]["cores"] * 1e3 / limit["cpu_ms"])
    with_decode, without = (compared["limits"][i]["a"]["cpu_ms"] for i in (0, 1))
    assert with_decode > without


def test_a_report_is_plain_json_and_tables_can_be_made_of_it_again(compared: dict[str, Any]) -> None:
    shown = tables.text(json.loads(json.dumps(compared)))
    assert "model B    other.onnx" in shown
    assert "B beside A" in shown
    assert all(title in shown for title in tables.PARTS.values())


def test_plots_are_png(compared: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `val` is not installed")
    from eyas.bench import plots

    assert plots.throughput(compared).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.01234, "0.012"), (1.234, "1.23"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12346")],
)
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert tables.number(value) == shown


# What it is measured on and with


def test_the_clock_of_a_machine_that_says_nothing_is_unknown(tmp_path: Path) -> None:
    facts = machine.clock_facts(tmp_path)
    assert facts["governor"] is None
    assert "not visible" in facts["caveat"]


@pytest.mark.parametrize(
    ("governor", "no_turbo", "caveat"),
    [("powersave", "0", "follows the load"), ("performance", "0", "not pinned"), ("performance", "1", "pinned")],
)
def test_the_clock_is_read_from_sysfs(tmp_path: Path, governor: str, no_turbo: str, caveat: str) -> None:
    cpu = tmp_path / "sys/devices/system/cpu"
    for path, text in (
        ("cpu0/cpufreq/scaling_governor", governor),
        ("cpu0/cpufreq/scaling_max_freq", "3500000"),
        ("intel_pstate/no_turbo", no_turbo),
    ):
        (cpu / path).parent.mkdir(parents=True, exist_ok=True)
        (cpu / path).write_text(text + "\n")
    facts = machine.clock_facts(tmp_path)
    assert (facts["governor"], facts["max_mhz"], facts["turbo"]) == ([governor], 3500, no_turbo == "0")
    assert caveat in facts["caveat"]


def test_a_control_group_may_allow_less_than_the_cores(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    quota = tmp_path / "sys/fs/cgroup/cpu.max"
    quota.write_text("50000 100000\n")
    assert machine.cores(tmp_path) == 0.5
    quota.write_text("max 100000\n")
    assert machine.cores(tmp_path) == machine.cores(tmp_path / "elsewhere") >= 1


def test_what_others_did_is_what_the_process_did_not() -> None:
    start, end = machine.Moment(0.0, 1.0, 10.0, 0.0), machine.Moment(10.0, 3.0, 13.0, 0.5)
    whole = 10.0 * (machine.os.cpu_count() or 1)
    assert machine.meanwhile(start, end) == {"others": pytest.approx(1 / whole), "stolen": pytest.approx(0.5 / whole)}
    assert machine.meanwhile(start._replace(busy=None), end) == {"others": None, "stolen": None}


def test_synthetic_pictures_are_the_same_every_time() -> None:
    one, two = inputs.synthetic(2), inputs.synthetic(2)
    assert one.files == two.files
    assert one.images[0].shape == (480, 640, 3)
    assert one.files[0] != one.files[1]


def test_pictures_come_from_files_up_to_the_limit() -> None:
    found = inputs.from_files([str(SAMPLES)], 2)
    assert found.files == tuple((SAMPLES / name).read_bytes() for name in ("astronaut.jpg", "chelsea.jpg"))
    assert [image.shape[:2] for image in found.images] == [(512, 512), (300, 451)]
    with pytest.raises(SourceError):
        inputs.from_files([str(SAMPLES / "nothing")], 2)


# The command


def test_rates_are_pictures_a_second_or_shares() -> None:
    assert rates("40,20") == ((20.0, 40.0), False)
    assert rates("50%,90%") == ((0.5, 0.9), True)
    assert counts("8,1,8") == (1, 8)


@pytest.mark.parametrize(
    "flags", [["--rate", "50%,20"], ["--rate", "0"], ["--rate", "nan"], ["--seconds", "0"], ["--batch", "1,x"]]
)
def test_flags_out_of_range_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "nanodet", *flags])
    assert "expected" in capsys.readouterr().err


def test_one_report_on_standard_output_and_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `val` is not installed")
    flags = ["--backend", "null", "--format", "json", "--json", str(tmp_path / "a" / "r.json"), "--rate", "50"]
    flags += ["--vs-precision", "fp32", "--plot", str(tmp_path / "plots"), "--images", str(SAMPLES)]
    assert main(["bench", "nanodet", *flags, *FAST]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got == json.loads((tmp_path / "a" / "r.json").read_text())
    assert [got["models"][letter]["engines"]["1"]["latency"]["parallel"] for letter in "ab"] == [1, 1]
    assert len(got["models"]["a"]["sha256"]) == 64
    assert [row["rate"] for row in got["rows"]][-1] == 50
    assert got["pictures"].startswith("3 pictures")
    for name in ("latency.png", "throughput.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_what_cannot_work_at_all_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nanodet", "--backend", "null", "--conf", "2", *FAST]) == 2
    assert "conf is out of range" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilefacenet.onnx", "person_reid_0287.onnx"])
def test_embedders_are_measured_too(name: str, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(real_data / "models" / name), "--backend", "null", "--format", "json", *FAST]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["a"]["task"] == "embed"
