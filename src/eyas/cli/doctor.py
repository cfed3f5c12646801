"""`eyas doctor MODEL`: what is wrong with an exported network, and `--fix` what can be mended."""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.errors import OptionError, SinkError, problem

if TYPE_CHECKING:
    from eyas.doctor.proof import Proof
    from eyas.doctor.repair import Repaired
    from eyas.doctor.rule import Finding


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declare the command and its flags."""
    text = "what is wrong with an exported network, and repair it"
    p = commands.add_parser("doctor", parents=[common], help=text, description=text.capitalize() + ".")
    p.add_argument("model", metavar="MODEL", nargs="?", help="an .onnx file or a model's name (`eyas models`)")
    p.add_argument("--fix", metavar="OUT", type=Path, help="repair what can be proved equal, and write it here")
    p.add_argument("--strip-nms", action="store_true", help="with --fix: cut an NMS off, so that boxes and scores come")
    p.add_argument("--backend", metavar="NAME", help="what it is meant for: openvino, onnxruntime, tensorrt …")
    p.add_argument("--json", action="store_true", help="one report for programs")
    p.add_argument("--rules", action="store_true", help="print the table of rules, as Markdown")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine, repair if asked, report. 0: healthy, notes at most; 1: warnings or errors are left."""
    from eyas.doctor.table import markdown

    if args.rules:
        print(markdown())
        return 0
    from eyas.doctor.check import examine
    from eyas.doctor.reading import read_model
    from eyas.store import resolve

    _check(args)
    path = Path(args.model) if Path(args.model).exists() else resolve(args.model).path
    if args.fix:
        _check_output(path, args.fix)
    model = read_model(path)
    if not args.fix:
        found = examine(model, path, args.backend)
        _print(args, found, None)
        return _code(found)
    from eyas.doctor.repair import repair

    repaired = repair(model, path, args.backend, strip_nms=args.strip_nms)
    found = list(repaired.left)
    if _worth_writing(repaired):
        _write(path, args.fix, repaired)
    _print(args, found, repaired)
    return _code(found)


def _check(args: argparse.Namespace) -> None:
    from eyas.doctor.rules.operators import LACKING

    if args.model is None or (args.strip_nms and not args.fix):
        got = "no model" if args.model is None else "--strip-nms without --fix"
        raise OptionError(
            problem("nothing to do", got=got, expected="MODEL, and --fix OUT to write", remedy="See --help.")
        )
    if args.backend is not None and args.backend not in LACKING:
        from eyas import registry

        registry.get("backends", args.backend)  # a third party's is taken; an unknown name is refused


def _check_output(path: Path, out: Path) -> None:
    """Before any work is done. Raises OptionError or SinkError."""
    if out.exists() and out.samefile(path):
        remedy = "Choose another name: the network as it came is worth keeping."
        raise OptionError(problem("--fix names the model itself", got=out, expected="another file", remedy=remedy))
    if out.is_dir() or not out.parent.is_dir():
        got = "a folder" if out.is_dir() else f"no folder {out.parent}"
        raise SinkError(problem(f"cannot write {out}", got=got, expected="a file to write", remedy="Check the path."))


def _worth_writing(repaired: Repaired) -> bool:
    """Not a file that is as broken as it came."""
    return bool(repaired.done) or not any(f.severity == "error" for f in repaired.left)


def _write(path: Path, out: Path, repaired: Repaired) -> None:
    """The mended model; where nothing was mended, the file byte for byte."""
    from eyas.files import write_atomically

    write_atomically(out, repaired.model.SerializeToString() if repaired.done else path.read_bytes())


def _code(found: list[Finding]) -> int:
    return int(any(f.severity != "note" for f in found))


def _print(args: argparse.Namespace, found: list[Finding], repaired: Repaired | None) -> None:
    if args.json:
        report: dict[str, Any] = {"model": args.model, "findings": [asdict(f) for f in found], "exit": _code(found)}
        if repaired:
            report["written"] = str(args.fix) if _worth_writing(repaired) else None
            report["done"] = [asdict(d) for d in repaired.done]
            report["undone"] = [asdict(u) for u in repaired.undone]
            report["proof"] = asdict(repaired.proof) if repaired.proof else None
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for line in [*(_repairs(repaired, args.fix) if repaired else []), *_findings(found, bool(repaired))]:
        print(line)


def _repairs(repaired: Repaired, out: Path) -> list[str]:
    lines = [f"mended    {d.rule}  {d.title}{_times(d.count)}: {_said(d.proof)}" for d in repaired.done]
    lines += [f"not done  {u.rule}  {u.title}: {u.reason}" for u in repaired.undone]
    end = f"written: {out}" if repaired.done else f"not changed, copied byte for byte: {out}"
    return [*lines, end if _worth_writing(repaired) else "nothing could be mended, nothing is written", ""]


def _times(count: int) -> str:
    return f" ({count} ×)" if count > 1 else ""


def _said(proof: Proof | None) -> str:
    if proof is None:
        return "nothing is computed otherwise"
    batches = ", ".join(map(str, proof.batches))
    much = f"largest difference {proof.largest:.2g}" if proof.largest else "equal bit by bit"
    return f"{much} on {proof.pictures} random pictures (batches of {batches})"


def _findings(found: list[Finding], after: bool) -> list[str]:
    """Grouped by severity, then by rule: the first three places of each."""
    from eyas.doctor.rule import SEVERITIES

    lines = []
    for severity in SEVERITIES:
        for rule in dict.fromkeys(f.rule for f in found if f.severity == severity):
            group = [f for f in found if f.rule == rule]
            lines += [f"{severity:<8}  {rule}  {f.node}: {f.what}" for f in group[:3]]
            lines += [f"{'':<16}and {len(group) - 3} more"] if len(group) > 3 else []
            lines += [
                f"{'':<16}{line}" for text in (group[0].why, group[0].remedy) for line in textwrap.wrap(text, 104)
            ]
    counts = {s: sum(f.severity == s for f in found) for s in SEVERITIES}
    fixable = 0 if after else sum(f.repairable for f in found)
    said = ", ".join(f"{n} {s}{'s' * (n != 1)}" for s, n in counts.items())
    return [*lines, f"{said}{' left' * after}" + (f"; --fix OUT tries to mend {fixable}" if fixable else "")]
