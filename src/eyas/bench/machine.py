"""What a measurement was made on, and what else the machine did meanwhile: figures without these mean little.

Everything comes from Linux's /proc and /sys; where they are silent the report says that it is not known.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from eyas import __version__, cpu

QUIET = 0.1  # a load average above this share of the cores, or others' CPU share while measuring, is worth a warning


def about() -> dict[str, Any]:
    """CPU, cores, clock, memory, load average and versions, as plain JSON values; None for what is not known."""
    cpu = _read("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in cpu.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    total = next((line.split()[1] for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), None)
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "cores_of_machine": os.cpu_count(),
        "virtual": "hypervisor" in fields.get("flags", "").split() if fields else None,
        "memory_gib": round(int(total) / 2**20, 1) if total else None,
        "clock": clock_facts(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "versions": {
            "eyas": __version__,
            "Python": platform.python_version(),
            "NumPy": np.__version__,
            "OpenCV": cv2.__version__,
        },
    }


def cores(root: Path = Path("/")) -> float:
    """How many this process may use: by affinity, and by a control group's quota (cgroup v2, "cpu.max")."""
    mine = float(cpu.cores())
    quota, _, period = _read("sys/fs/cgroup/cpu.max", root).partition(" ")
    return min(mine, int(quota) / int(period)) if quota.isdecimal() and period.strip().isdecimal() else mine


def clock_facts(root: Path = Path("/")) -> dict[str, Any]:
    """What Linux tells of the cores' frequency. caveat: what that means for a measurement."""
    base = root / "sys/devices/system/cpu"
    governors = sorted({text for p in base.glob("cpu[0-9]*/cpufreq/scaling_governor") if (text := _read(p))})
    tops = [int(text) for p in base.glob("cpu[0-9]*/cpufreq/scaling_max_freq") if (text := _read(p)).isdecimal()]
    no_turbo, boost = _read(base / "intel_pstate/no_turbo"), _read(base / "cpufreq/boost")
    turbo = no_turbo == "0" if no_turbo else boost == "1" if boost else None
    if not governors:
        caveat = "not visible here: the clock may have changed while measuring"
    elif governors != ["performance"]:
        caveat = "the clock follows the load: short measurements are slower than long ones"
    elif turbo is not False:
        caveat = "not pinned: the turbo clock depends on temperature and on the other cores"
    else:
        caveat = "pinned"
    return {"governor": governors or None, "max_mhz": max(tops) // 1000 if tops else None, "turbo": turbo} | {
        "caveat": caveat
    }


class Moment(NamedTuple):
    """Seconds: of the clock, of this process's CPU time, of all cores' busy time and of what a host took from them."""

    clock: float
    own: float
    busy: float | None
    stolen: float | None


def moment() -> Moment:
    """Now. Jiffies are those of /proc/stat: user nice system idle iowait irq softirq steal (proc(5))."""
    fields = _read("/proc/stat").splitlines()[:1]
    jiffies = [int(text) for text in fields[0].split()[1:9]] if fields else []
    hertz = os.sysconf("SC_CLK_TCK") if jiffies else 1
    busy = sum(jiffies[i] for i in (0, 1, 2, 5, 6)) / hertz if len(jiffies) == 8 else None
    return Moment(time.perf_counter(), time.process_time(), busy, jiffies[7] / hertz if len(jiffies) == 8 else None)


def meanwhile(start: Moment, end: Moment) -> dict[str, float | None]:
    """Shares of the machine's CPU time between two moments: others: of other processes; stolen: of the host."""
    whole = (end.clock - start.clock) * (os.cpu_count() or 1)
    if start.busy is None or end.busy is None or start.stolen is None or end.stolen is None or not whole:
        return {"others": None, "stolen": None}
    others = max(0.0, end.busy - start.busy - (end.own - start.own))
    return {"others": others / whole, "stolen": (end.stolen - start.stolen) / whole}


def _read(path: str | Path, root: Path = Path("/")) -> str:
    """A file's text, "" where it cannot be read."""
    try:
        return (root / path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
