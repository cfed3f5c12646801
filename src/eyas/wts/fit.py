"""Which architecture some weights belong to: width from the first convolution, depth from the blocks that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from numpy.typing import NDArray

from eyas.wts.arch import ARCHES, Arch
from eyas.wts.walk import convolutions

Tensors = Mapping[str, NDArray[Any]]

_BLOCK = re.compile(r"model\.(\d+)\.m\.(\d+)\.cv1\.conv\.weight")
_MULTIPLES = tuple(n / 100 for n in range(1, 401))


def fitting(tensors: Tensors, wanted: Arch | None = None) -> Arch | None:
    """`wanted` if it fits, else a named architecture, else a custom one, else None.

    What counts is names and sizes of the convolutions' weights.
    """
    sizes = {name: tensor.size for name, tensor in tensors.items()}
    first = [] if wanted is None else [wanted]
    return next((arch for arch in chain(first, _candidates(sizes)) if _fits(arch, sizes)), None)


def _fits(arch: Arch, sizes: dict[str, int]) -> bool:
    outside = sizes.get(f"model.{arch.head}.m.0.bias", 0)
    if outside < 18 or outside % 3:
        return False
    wanted = {f"{conv.stem}.weight": conv for conv in convolutions(arch, outside // 3 - 5)}
    heads = tuple(f"model.{arch.head}.m.{i}.weight" for i in range(len(arch.strides)))
    present = {name for name in sizes if name.endswith((".conv.weight", *heads))}
    return present == wanted.keys() and all(
        sizes[name] == c.outside * c.inside * c.kernel**2 for name, c in wanted.items()
    )


def _candidates(sizes: dict[str, int]) -> Iterator[Arch]:
    """Named ones, then those multiples in steps of 1/100 that would give the widths and repeats seen."""
    yield from ARCHES.values()
    blocks: dict[int, int] = {}
    for found in filter(None, map(_BLOCK.fullmatch, sizes)):
        blocks[int(found[1])] = max(blocks.get(int(found[1]), 0), int(found[2]) + 1)
    for base in (ARCHES["yolov5s"], ARCHES["yolov5s6"]):
        head = base.rows[: base.head]
        if f"model.{base.head}.m.0.bias" not in sizes:
            continue
        wide = {i: sizes.get(f"model.{i}.conv.weight", 0) for i, row in enumerate(head) if row[2] == "Conv"}
        for depth in (0.33, 0.67, 1.0, 1.33, *_MULTIPLES):
            deep = replace(base, name="custom", depth=depth)
            if all(deep.repeats(row[1]) == blocks.get(i, 0) for i, row in enumerate(head) if row[2] == "C3"):
                break
        else:
            continue
        for width in (0.25, 0.5, 0.75, 1.0, 1.25, *_MULTIPLES):
            arch = replace(deep, name=f"custom P{len(base.strides) + 2}", width=width)
            first = arch.channels(64)
            if wide[0] == first * 3 * 36 and wide[1] == arch.channels(128) * first * 9:
                yield arch
