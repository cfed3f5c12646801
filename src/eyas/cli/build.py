"""`eyas build MODEL -o FILE`: a model as an engine file, for this machine or, with TensorRT-RTX, for others."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from eyas.cli.model import add_network_flags, count
from eyas.errors import problem

if TYPE_CHECKING:
    from eyas.backends import Backend
    from eyas.engines.build import Recipe


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "build an engine file"
    p = commands.add_parser("build", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("model", metavar="MODEL", help="an .onnx or .wts file or a model's name (`eyas models`)")
    p.add_argument(
        "-o", "--out", metavar="FILE", type=Path, required=True, help="such as yolov8n.plan; FILE.json beside"
    )
    p.add_argument("--backend", metavar="NAME", help="tensorrt_rtx, tensorrt, openvino … (default: the best one here)")
    p.add_argument("--precision", choices=["auto", "fp32", "fp16", "bf16", "int8"], default="auto")
    p.add_argument(
        "--batch", type=batches, default=(1, 1, 1), metavar="MIN:OPT:MAX", help="pictures a call; 8 is 1:8:8"
    )
    p.add_argument("--device", metavar="NAME", help="the backend's own word, such as CPU or cuda:1")
    p.add_argument("--hint", choices=["latency", "throughput"], default="latency")
    head = p.add_argument_group("what it reports (fixed in the engine)")
    head.add_argument("--max-det", type=int, default=300, metavar="N", help="most objects a picture (default 300)")
    head.add_argument("--classes", nargs="+", metavar="CLASS", help="only these, by name or number")
    head.add_argument("--agnostic-nms", action="store_true", help="a box may suppress one of another class")
    add_network_flags(p)
    wts = p.add_argument_group("a .wts file of a YOLOv5 (each is found from the weights, and checked if given)")
    wts.add_argument("--arch", metavar="NAME", help="yolov5n … yolov5x, yolov5n6 … yolov5x6")
    wts.add_argument("--gd", type=float, metavar="F", help="with --arch: another depth multiple")
    wts.add_argument("--gw", type=float, metavar="F", help="with --arch: another width multiple")
    wts.add_argument("--num-classes", type=count, metavar="N", help="how many classes it was trained on")
    _add_tensorrt_flags(p)
    p.set_defaults(run=run)


def _add_tensorrt_flags(p: argparse.ArgumentParser) -> None:
    t = p.add_argument_group("TensorRT and TensorRT-RTX")
    t.add_argument("--target", nargs="+", type=target, metavar="SM", default=[], help="sm75 … sm121, all, current")
    t.add_argument(
        "--workspace", type=count, metavar="MIB", dest="workspace_mib", help="most scratch memory on the GPU"
    )
    t.add_argument(
        "--level", type=int, metavar="0-5", dest="optimisation_level", help="effort of the build (default 3)"
    )
    t.add_argument("--version-compatible", action="store_true", help="runs on later versions of the same major too")
    t.add_argument("--hardware", choices=["ampere+", "same"], help="runs on other GPUs too")
    t.add_argument("--refit", action="store_true", help="weights can be replaced")
    t.add_argument("--strip", action="store_true", help="leave the weights out")
    t.add_argument("--sparse", action="store_true", help="use 2:4 sparse weights")
    t.add_argument("--tf32", action="store_true", help="round inputs of fp32 products to 10 bits")
    t.add_argument("--dla-core", type=int, metavar="N", help="run on this DLA core of a Jetson")
    t.add_argument("--no-gpu-fallback", action="store_false", dest="gpu_fallback", help="fail where DLA lacks a layer")
    t.add_argument("--plugins", nargs="+", metavar="LIB", help="libraries of plug-ins to load")
    t.add_argument("--timing-cache", metavar="FILE", help="default: one in the cache folder")


def run(args: argparse.Namespace) -> int:
    """Build, write, say what was written."""
    from eyas.engines.build import build_file

    recipe = recipe_of(args)
    sidecar = build_file(recipe, args.out)
    if not args.quiet:
        size, seconds = sidecar.plan_bytes / 1e6, sidecar.seconds
        what = f"{sidecar.backend} {sidecar.backend_version}, for {sidecar.device_key}"
        print(f"eyas: {args.out}: {size:.1f} MB in {seconds:.1f} s, {what}", file=sys.stderr)
    return 0


def recipe_of(args: argparse.Namespace) -> Recipe:
    """What the flags ask for. Raises OptionError, ModelError, CardError, BackendError."""
    from eyas.backends import choose
    from eyas.build import deploy_graph, open_network
    from eyas.card import class_ids, read_names
    from eyas.engines.build import Recipe
    from eyas.graph.head import HeadSpec
    from eyas.types import BuildSpec

    name, module = choose(args.backend)
    names = read_names(args.names) if args.names else None
    if str(args.model).lower().endswith(".wts"):
        from eyas.wts.layers import ByLayers
        from eyas.wts.open import open_wts

        said = {"arch": args.arch, "depth": args.gd, "width": args.gw, "classes": args.num_classes}
        network, weights = open_wts(Path(args.model), names=names, size=args.imgsz, **said)
        if name.startswith("tensorrt"):
            module = cast("Backend", ByLayers(module, weights))
    else:
        _refuse_wts_flags(args)
        network = open_network(
            args.model, family_name=args.family, names=names, size=args.imgsz, card=args.card, batch=args.batch[2]
        )
    head = HeadSpec(args.max_det, class_ids(args.classes, network.card.names), args.agnostic_nms)
    graph = deploy_graph(network, head)
    precision = _quantised(args, graph)
    batch = (network.facts.batch,) * 3 if network.facts.batch else args.batch
    spec = BuildSpec(precision, batch, args.hint, args.device, _options(args, name), tuple(args.target))
    return Recipe(name, module, graph, head, spec, args.model, network.digest)


def _refuse_wts_flags(args: argparse.Namespace) -> None:
    from eyas.errors import OptionError

    given = [f"--{f.replace('_', '-')}" for f in ("arch", "gd", "gw", "num_classes") if getattr(args, f) is not None]
    if given:
        raise OptionError(
            problem("these flags are for .wts files", got=", ".join(given), expected="an ONNX model alone", remedy="")
        )


def _options(args: argparse.Namespace, backend: str) -> dict[str, Any]:
    """What differs from TensorRT's defaults. Raises OptionError where it is for another backend."""
    from eyas.errors import OptionError

    flags: tuple[str, ...] = (
        "workspace_mib",
        "optimisation_level",
        "version_compatible",
        "hardware",
        "refit",
        "strip",
        "sparse",
        "tf32",
    )
    flags += ("dla_core", "plugins", "timing_cache")
    found = {f: v for f in flags if (v := getattr(args, f)) is not None and v is not False}  # 0 is a DLA core
    found |= {} if args.gpu_fallback else {"gpu_fallback": False}
    if (found or args.target) and not backend.startswith("tensorrt"):
        got = ", ".join(["target"] * bool(args.target) + sorted(found))
        raise OptionError(
            problem(f"{backend} has no such settings", got=got, expected="TensorRT or TensorRT-RTX", remedy="")
        )
    return found


def _quantised(args: argparse.Namespace, graph: Any) -> Any:
    """int8 is in the graph or nowhere: then the graph's own precision is kept. Raises OptionError."""
    from eyas.errors import OptionError

    if args.precision != "int8":
        return args.precision
    if not any(n.op_type == "QuantizeLinear" for n in graph.graph.node):
        remedy = "`eyas quantize MODEL --images DIR --target tensorrt -o OUT.onnx` makes one."
        raise OptionError(
            problem("int8 needs a quantised model", got=args.model, expected="one with Q/DQ nodes", remedy=remedy)
        )
    return "auto"


def batches(text: str) -> tuple[int, int, int]:
    """8 → (1, 8, 8); 1:8:32 → (1, 8, 32)."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(p.isdecimal() and int(p) for p in parts):
        raise argparse.ArgumentTypeError(problem("not a batch", got=text, expected="8 or 1:8:32", remedy=""))
    numbers = [int(p) for p in parts]
    return (1, numbers[0], numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1], numbers[2])


def target(text: str) -> str:
    """sm89, SM89, 8.9 and 89 → "sm89"; all and current as they are."""
    word = text.lower().replace(".", "").replace("_", "")
    word = f"sm{word}" if word.isdecimal() else word
    if not re.fullmatch(r"sm\d{2,3}|all|current", word):
        expected = "sm89, 8.9, all or current"
        raise argparse.ArgumentTypeError(problem("not a target", got=text, expected=expected, remedy=""))
    return word
