"""The benchmark of a camera wall in short: eight cameras, of which one dies and returns and one changes its size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "camera_wall.py"

pytest.importorskip("av", reason="the extra `video` (PyAV) is not installed")
pytest.importorskip("trackers", reason="the extra `track` is not installed")


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not here")
def test_a_wall_is_fair_and_outlives_its_cameras(tmp_path: Path):
    flags = ["--seconds", "20", "--cameras", "8", "--every", "2", "--out", str(tmp_path / "wall.json")]
    done = subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "wall.json").read_text())
    assert found["errors"] == 0
    assert found["fairness_max_over_min_minus_1"] <= 0.1
    assert found["threads"]["after"] == found["threads"]["before"]
    killed, resized, *others = found["streams"].values()
    assert [epoch for *_, epoch in killed["gaps"]] == [1]
    assert killed["reconnects"] == 1
    assert resized["sizes"] == [[180, 320], [360, 640]]
    assert [s["gaps"] for s in (resized, *others)] == [[]] * 7
    assert {str(s["sizes"]) for s in (killed, *others)} == {"[[360, 640]]"}
    assert all(s["latency_ms"]["p99"] > 0 for s in found["streams"].values())
