"""The flags that say which model to open and how; every command that opens one shares them."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from eyas.errors import problem

if TYPE_CHECKING:
    from eyas.predictor import Model


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say what the network is."""
    flags = parser.add_argument_group("what the network is (where its file does not say)")
    flags.add_argument("--family", metavar="NAME", help="how its outputs are decoded: yolov8, yolox, nanodet …")
    flags.add_argument("--names", metavar="FILE", type=Path, help="class names, one a line")
    flags.add_argument("--imgsz", metavar="SIZE", type=size, help="input size, 640 or 384x640 (height x width)")
    flags.add_argument("--card", metavar="FILE", type=Path, help="a JSON model card; its fields win")


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say how to run it."""
    flags = parser.add_argument_group("how it runs")
    flags.add_argument("--backend", metavar="NAME", help="openvino, onnxruntime … (default: the best one here)")
    flags.add_argument("--device", metavar="NAME", help="the backend's own word, such as CPU or GPU")
    flags.add_argument("--precision", choices=["auto", "fp32", "fp16", "bf16"], default="auto")
    flags.add_argument("--half", action="store_const", const="fp16", dest="precision", help="same as --precision fp16")
    flags.add_argument("--batch", type=int, default=1, metavar="N", help="pictures a call (default 1)")
    flags.add_argument("--trust", action="store_true", help="open an engine file that was not built here")
    flags.add_argument("--no-rebuild", action="store_false", dest="rebuild", help="fail where an engine does not fit")
    flags.add_argument("--hint", choices=["latency", "throughput"], help="default: what suits the number of pictures")


def add_head_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say which detections are kept."""
    flags = parser.add_argument_group("which detections")
    flags.add_argument("--conf", type=float, default=0.25, metavar="C", help="keep what scores above C (default 0.25)")
    flags.add_argument("--iou", type=float, metavar="T", help="NMS threshold (default: the model's own)")
    flags.add_argument("--max-det", type=int, default=300, metavar="N", help="most objects a picture (default 300)")
    flags.add_argument("--classes", nargs="+", metavar="CLASS", help="only these, by name or number")
    flags.add_argument("--agnostic-nms", action="store_true", help="a box may suppress one of another class")


def add_trace_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of commands that can record what happens when."""
    what = "record what happens when; eyas trace FILE shows where the time goes"
    parser.add_argument("--trace", metavar="FILE", type=Path, help=what)


def tracing_to(path: Path | None) -> AbstractContextManager[object]:
    """Record the block where a file was named."""
    from eyas.trace import tracing

    return nullcontext() if path is None else tracing(path)


def open_model(args: argparse.Namespace, hint: str | None = None) -> Model:
    """The model that the flags describe. hint: what to compile for unless --hint says."""
    from eyas.card import read_names
    from eyas.loading import load

    options = {
        "backend": args.backend,
        "precision": args.precision,
        "device": args.device,
        "batch": args.batch,
        "hint": args.hint or hint,
        "family": args.family,
        "names": read_names(args.names) if args.names else None,
        "imgsz": args.imgsz,
        "card": args.card,
        "max_det": args.max_det,
        "agnostic_nms": args.agnostic_nms,
        "trust": args.trust,
        "rebuild": args.rebuild,
    }
    return load(args.model, classes=args.classes, **options)


def size(text: str) -> tuple[int, int]:
    """640 → (640, 640); 384x640 → (384, 640)."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(
            problem("not a size", got=text, expected="640 or 384x640", remedy="Height comes first.")
        )
    return int(parts[0]), int(parts[-1])


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(problem("not a count", got=text, expected="1 or more", remedy=""))
    return int(text)
