"""`eyas trace FILE`: where the time of a recorded run went, what bounds its throughput, and a picture of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.errors import OptionError, problem

if TYPE_CHECKING:
    from eyas.timeline import Report


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "where the time of a recorded run went, and what bounds its throughput"
    p = commands.add_parser("trace", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("trace", metavar="TRACE", type=Path, help="what eyas.trace.tracing wrote (.json)")
    p.add_argument("--plot", metavar="PNG", type=Path, help="draw the timeline (needs eyas[val])")
    p.add_argument("--from-s", metavar="A", type=float, help="look at what came after A seconds only")
    p.add_argument("--to-s", metavar="B", type=float, help="look at what came before B seconds only")
    p.add_argument("--format", choices=["table", "json"], default="table")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, draw, print."""
    from eyas.timeline import analyse
    from eyas.trace_file import read

    if args.plot and args.plot.suffix.lower() != ".png":
        raise OptionError(problem("--plot is no picture", got=args.plot, expected="a .png file", remedy=""))
    recording = read(args.trace)
    report = analyse(recording, args.from_s, args.to_s)
    if args.plot:
        from eyas.files import make_folder, write_atomically
        from eyas.timeline_plot import draw

        picture = draw(recording, args.from_s, args.to_s)
        make_folder(args.plot.parent)
        write_atomically(args.plot, picture)
    print(json.dumps(asdict(report), indent=1, ensure_ascii=False) if args.format == "json" else _table(report))
    return 0


def _table(r: Report) -> str:
    from eyas.timeline import BOUNDS

    seconds = r.to_s - r.from_s
    cold = ", after the cold start (the first engine call)" if r.cold_start_s else ""
    bounds = " and ".join(BOUNDS[name] for name in r.bounds) or "not known"
    lines = [
        f"part          {r.from_s:.3f} s to {r.to_s:.3f} s of {r.recorded_s:.3f} s{cold}",
        f"throughput    {r.frames_s:.1f} frames/s: {r.pictures} pictures in {seconds:.3f} s",
        f"bounded by    {bounds}",
        *(f"{'':<14}{line}" for line in r.why),
        "",
        f"{'stage':<15} {'':<7} {'count':>6} {'total ms':>9} {'mean':>8} {'p50':>8} {'p95':>8} {'max':>8}",
    ]
    for s in r.stages:
        times = "".join(f" {ms:>8.2f}" for ms in (s.mean_ms, s.p50_ms, s.p95_ms, s.max_ms))
        lines.append(f"{s.name:<15} {s.kind:<7} {s.count:>6} {s.total_ms:>9.1f}{times}")
    width = max(len(lane.name) for lane in r.lanes)
    lines += ["", f"{'thread':<{width}} {'role':<8} {'busy':>6} {'waiting':>8}"]
    lines += [f"{x.name:<{width}} {x.role:<8} {x.busy:>6.1%} {x.waiting:>8.1%}" for x in r.lanes]
    lines.append(f"{'CPU cores':<{width}} {r.cores:<8} {r.cpu_share:>6.1%}  (over the whole trace)")
    b = r.bubbles
    lines += ["", f"bubbles       {b.count} over {b.threshold_ms:.2f} ms, {b.share:.1%} of the engine threads' time"]
    if b.count:
        lines[-1] += f": {b.total_ms:.1f} ms, the longest {b.longest_ms:.1f} ms"
    lines += [f"{ms:>10.1f} ms {cause}" for cause, ms in b.causes.items() if ms >= 0.05]
    return "\n".join(lines)
