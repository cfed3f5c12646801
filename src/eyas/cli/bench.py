"""`eyas bench MODEL`: what a model costs on this machine, alone or beside another."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.cli.model import add_engine_flags, add_head_flags, add_network_flags, count
from eyas.errors import OptionError, problem

if TYPE_CHECKING:
    from eyas.bench.measure import Plan, Side

QUICK = {"batch": (1, 4), "concurrency": (1, 4), "rounds": 2, "seconds": 0.3, "warmup": 0.1}
FULL = {"batch": (1, 2, 4, 8), "concurrency": (1, 2, 4, 8), "rounds": 5, "seconds": 1.0, "warmup": 0.2}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "measure what a model costs on this machine"
    # "resolve": --batch takes a list here
    p = commands.add_parser(
        "bench", parents=[common], help=text, description=text.capitalize() + ".", conflict_handler="resolve"
    )
    p.add_argument("model", metavar="MODEL", help="an .onnx file, a built engine or a model's name (`eyas models`)")
    p.add_argument("--images", nargs="+", metavar="SOURCE", help="files, folders or globs (default: synthetic ones)")
    p.add_argument("--limit", type=count, default=100, metavar="N", help="only the first N pictures (default 100)")
    p.add_argument("--format", choices=["table", "json"], default="table")
    p.add_argument("--json", metavar="FILE", type=Path, help="write the report")
    p.add_argument("--plot", metavar="DIR", type=Path, help="write latency.png and throughput.png")
    how = p.add_argument_group("what is measured, and for how long")
    how.add_argument("--concurrency", type=counts, metavar="N,…", help="callers in the closed loop (default 1,2,4,8)")
    how.add_argument(
        "--rate",
        type=rates,
        default=((0.5, 0.7, 0.9), True),
        metavar="R,…",
        help="arrivals in the open loop, images/s"
        " (20,40) or shares of what the closed loop reached (default 50%%,70%%,90%%)",
    )
    how.add_argument("--rounds", type=count, metavar="N", help="how often everything is measured (default 5)")
    how.add_argument("--seconds", type=positive, metavar="S", help="of one measurement (default 1)")
    how.add_argument("--warmup", type=positive, metavar="S", help="of each before the first round (default 0.2)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the arrivals (default 0)")
    how.add_argument("--quick", action="store_true", help="a rough picture: few sizes, two rounds of 0.3 s")
    versus = p.add_argument_group("against another, in turn (any of these)")
    versus.add_argument("--vs", metavar="MODEL", help="another model; it says itself what it is (default: the same)")
    versus.add_argument("--vs-backend", metavar="NAME", help="what runs the other (default: the same)")
    versus.add_argument("--vs-precision", choices=["auto", "fp32", "fp16", "bf16"], help="default: the same")
    add_head_flags(p)
    add_network_flags(p)
    add_engine_flags(p)
    p.add_argument("--batch", type=counts, metavar="N,…", help="pictures a call (default 1,2,4,8)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print and save; 1 where a request failed."""
    import cv2

    from eyas.bench import inputs, machine, plots, tables
    from eyas.bench.measure import measure
    from eyas.bench.report import failed, report
    from eyas.extras import need
    from eyas.files import make_folder, write_atomically

    if args.plot:
        need("matplotlib", "val")
    for folder in ([args.plot] if args.plot else []) + ([args.json.parent] if args.json else []):
        make_folder(folder)  # what cannot be written says so before the long work
    cv2.setNumThreads(1)  # one picture a thread: OpenCV's own threads would only get in the way
    about = machine.about()  # before the work begins: the load average is others'
    pictures = inputs.from_files(args.images, args.limit) if args.images else inputs.synthetic()
    asked = _sides(args)
    plan = _plan(args, [title for title, _ in asked])
    with ExitStack() as stack:
        sides = [stack.enter_context(_side(plan.batches, *one)) for one in asked]
        with _progress(args, plan, len(sides)) as watch:
            start = machine.moment()
            measured = measure(sides, pictures, plan, watch)
            meanwhile = machine.meanwhile(start, machine.moment())
        result = report(measured, sides, about, meanwhile, pictures.about)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    sys.stdout.write(text + "\n" if args.format == "json" else tables.text(result))
    if args.json:
        write_atomically(args.json, text.encode())
    if args.plot:
        write_atomically(args.plot / "latency.png", plots.latency(measured, result))
        write_atomically(args.plot / "throughput.png", plots.throughput(result))
    return 1 if failed(result) else 0


def _sides(args: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """The models to measure, each with what `eyas.load` takes besides; of --vs and its like, two."""
    from eyas.bench.measure import QUEUE
    from eyas.card import read_names

    same = ("backend", "precision", "device", "hint", "max_det", "classes", "agnostic_nms", "trust", "rebuild")
    own = ("family", "imgsz", "card")
    options = {name: getattr(args, name) for name in same + own} | {"queue": QUEUE}
    options["names"] = read_names(args.names) if args.names else None
    if args.vs is None and args.vs_backend is None and args.vs_precision is None:
        return [(args.model, options)]
    other = options if args.vs is None else options | dict.fromkeys((*own, "names"))
    changed = {"backend": args.vs_backend, "precision": args.vs_precision}
    other = other | {name: value for name, value in changed.items() if value is not None}
    return [(args.model, options), (args.vs or args.model, other)]


@contextmanager
def _side(batches: tuple[int, ...], title: str, options: dict[str, Any]) -> Iterator[Side]:
    """One model for each batch size; of a built engine, the one that it has."""
    from eyas.bench.measure import Side
    from eyas.engines.open import is_engine
    from eyas.graph.head import HeadSpec
    from eyas.loading import load

    built = is_engine(Path(title))
    with ExitStack() as stack:
        models = {b: stack.enter_context(load(title, batch=1 if built else b, **options)) for b in batches}
        yield Side(title, models, HeadSpec(agnostic=options["agnostic_nms"]))


def _plan(args: argparse.Namespace, titles: list[str]) -> Plan:
    """What the flags ask for; a built engine settles the batch size."""
    from eyas.bench.measure import Plan
    from eyas.engines.open import checked_sidecar, is_engine

    usual = QUICK if args.quick else FULL
    chosen: dict[str, Any] = {k: usual[k] if getattr(args, k) is None else getattr(args, k) for k in usual}
    fixed = {checked_sidecar(p, args.trust).build_spec().batch[2] for p in map(Path, titles) if is_engine(p)}
    if len(fixed) > 1 or (fixed and args.batch not in (None, tuple(fixed))):
        asked = [] if args.batch is None else [f"--batch {','.join(map(str, args.batch))}"]
        got = " and ".join([*asked, *(f"an engine of batch {b}" for b in sorted(fixed))])
        raise OptionError(problem("the batch sizes differ", got=got, expected="one", remedy="Leave --batch out."))
    rate, shares = args.rate
    return Plan(
        batches=tuple(fixed) or chosen["batch"],
        concurrency=chosen["concurrency"],
        rates=rate,
        shares=shares,
        rounds=chosen["rounds"],
        seconds=chosen["seconds"],
        warmup_s=chosen["warmup"],
        conf=args.conf,
        seed=args.seed,
    )


@contextmanager
def _progress(args: argparse.Namespace, plan: Plan, sides: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else one line on how long it takes."""
    if args.quiet:
        yield lambda done, total: None
        return
    minutes = sides * plan.seconds_a_side() / 60
    print(f"eyas: this takes about {minutes:.1f} minutes; leave the machine alone meanwhile", file=sys.stderr)
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, refresh_per_second=1) as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def counts(text: str) -> tuple[int, ...]:
    """1,2,8 → (1, 2, 8): rising, each once."""
    return tuple(sorted({count(part) for part in text.split(",")}))


def positive(text: str) -> float:
    """A number above 0, up to 3600."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        message = problem("not a length of time", got=text, expected="seconds, above 0, up to 3600", remedy="")
        raise argparse.ArgumentTypeError(message)
    return value


def rates(text: str) -> tuple[tuple[float, ...], bool]:
    """20,40 → ((20.0, 40.0), False): pictures a second; 50%,90% → ((0.5, 0.9), True): shares of the capacity."""
    parts = text.split(",")
    shares = all(part.endswith("%") for part in parts)
    try:
        values = sorted({float(part.removesuffix("%") if shares else part) for part in parts})
    except ValueError:
        values = []
    if not values or not all(0 < value <= 1e6 for value in values):
        message = problem("not a list of rates", got=text, expected="20,40 (images/s) or 50%,90%", remedy="")
        raise argparse.ArgumentTypeError(message)
    return tuple(value / 100 if shares else value for value in values), shares
