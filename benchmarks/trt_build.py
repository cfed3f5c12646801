"""Build every real model as a full deploy graph with TensorRT-RTX, in each precision and for each target; no GPU.

    python benchmarks/trt_build.py [--out benchmarks/results/trt_build.json] [--markdown]

Models: those of the folder that EYAS_TEST_DATA names (default: shared/ beside the repository). int8 models are made
with `eyas quantize --target tensorrt` on its pictures; where that fails, the reason stands in the table. Seconds are
those of one build, prepare and parse included. `--load` measures something else: what a stored engine saves on this
CPU, as a ratio to compiling in the same run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from eyas.backends import backend, tensorrt_rtx
from eyas.build import deploy_graph, open_network
from eyas.errors import EyasError
from eyas.files import write_atomically
from eyas.graph.head import HeadSpec
from eyas.types import BuildSpec

ROOT = Path(__file__).parents[1]
TARGETS = ("sm75", "sm86", "sm89", "sm120", "all")
BATCH = (1, 8, 32)


def build(path: Path, precision: str, target: str) -> dict[str, Any]:
    """One row."""
    row: dict[str, Any] = {"model": path.stem.removesuffix("_int8"), "precision": precision, "target": target}
    try:
        network = open_network(path, batch=BATCH[2])
        batch = (network.facts.batch,) * 3 if network.facts.batch else BATCH
        graph = deploy_graph(network, HeadSpec())
        wanted = "auto" if precision == "int8" else precision
        start = time.perf_counter()
        plan = tensorrt_rtx.compile(graph, BuildSpec(wanted, batch, targets=(target,)))  # type: ignore[arg-type]
        row |= {"seconds": round(time.perf_counter() - start, 2), "bytes": len(plan), "batch": list(batch)}
    except EyasError as error:
        row["error"] = str(error)
    return row


def quantised(path: Path, folder: Path, pictures: Path) -> Path | str:
    """An int8 twin, or why there is none."""
    try:
        from eyas.quantize import Settings, quantize

        out = folder / f"{path.stem}_int8.onnx"
        quantize(path, pictures, out, settings=Settings("int8", "minmax", "tensorrt"), limit=16, cache=folder)
        return out
    except (EyasError, ImportError, TypeError) as error:
        return str(error)


def load_times(rounds: int = 7) -> None:
    """Print the medians of opening nanodet from its deploy graph and from a stored engine, taken in turns."""
    graph = deploy_graph(open_network("nanodet"), HeadSpec())
    for name in ("openvino", "onnxruntime"):
        module, spec = backend(name), BuildSpec()
        plan = module.compile(graph, spec)
        compiling, loading = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            module.open_engine(graph, spec).close()
            half = time.perf_counter()
            module.load_engine(plan, spec).close()
            compiling.append(half - start)
            loading.append(time.perf_counter() - half)
        a, b = median(compiling), median(loading)
        print(f"{name}: {a:.3f} s from the graph, {b:.3f} s from {len(plan) / 1e6:.1f} MB ({b / a:.0%})")


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table: one line a model and precision, one column a target."""
    lines = [f"| model | precision | {' | '.join(TARGETS)} |", "|---" * (2 + len(TARGETS)) + "|"]
    for key in dict.fromkeys((r["model"], r["precision"]) for r in rows):
        cells = {r["target"]: r for r in rows if (r["model"], r["precision"]) == key}
        shown = [
            f"{c['bytes'] / 1e6:.1f} MB, {c['seconds']:.1f} s" if "bytes" in c else "no" if c else ""
            for c in (cells.get(t, {}) for t in TARGETS)
        ]
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/trt_build.json")
    parser.add_argument("--markdown", action="store_true", help="print the table of the stored results, build nothing")
    parser.add_argument("--load", action="store_true", help="measure what a stored engine saves, build nothing")
    args = parser.parse_args()
    if args.load:
        load_times()
        return
    if args.markdown:
        print(markdown(json.loads(args.out.read_text())["rows"]))
        return
    logging.getLogger("eyas").setLevel(logging.ERROR)
    data = Path(os.environ.get("EYAS_TEST_DATA", ROOT.parent / "shared"))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for path in sorted((data / "models").glob("*.onnx")):
            int8 = quantised(path, Path(name), data / "data" / "coco_val" / "images")
            for precision, model in (("fp32", path), ("fp16", path), ("int8", int8)):
                if isinstance(model, str):
                    rows += [{"model": path.stem, "precision": precision, "target": t, "error": model} for t in TARGETS]
                else:
                    rows += [build(model, precision, target) for target in TARGETS]
                print(markdown(rows).splitlines()[-1], flush=True)
    version = tensorrt_rtx.version()
    result = {"tensorrt_rtx": version, "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    write_atomically(args.out, (json.dumps(result | {"rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
