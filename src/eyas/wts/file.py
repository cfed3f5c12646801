"""The `.wts` text file in which tensorrtx and its relatives hand weights over: a count, then one tensor a line.

    2
    model.0.conv.bias 3  3f800000 00000000 bf800000
    model.0.conv.weight 2  …

Line 1 is the number of tensors. Each further line is a name, the number of values, and the values as IEEE 754 float32,
big-endian, eight hexadecimal digits each (`struct.pack(">f", v).hex()`). Shapes are not written: whoever reads the file
knows the network. What the writer makes equals byte for byte what tensorrtx's `gen_wts.py` makes of the same tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError, problem
from eyas.files import replacing

Values = NDArray[np.float32]
BLOCK = 9 << 17  # bytes of text held at once; 9 a value
HEADER = 512  # most bytes of a name and a count
_DIGITS = 8
_AGAIN = "Write the file again from the checkpoint (`eyas export --wts`), or copy it again."


def read_wts(path: Path) -> dict[str, Values]:
    """Name → values, float32 [n], in the file's order; bytes that cannot be weights are refused with their line.

    Beside the result about a megabyte of text is held. Raises ModelError: no such file, not a .wts file, cut off, a
    count that does not fit, digits that are none, a name twice, values that are not finite.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(file, path, size)
    except OSError as error:
        raise ModelError(
            problem(f"{path} cannot be read", got=error.strerror or error, expected="a .wts file", remedy="")
        ) from error


def _read(file: BinaryIO, path: Path, size: int) -> dict[str, Values]:
    first = file.readline(HEADER)
    if not first.strip().isdigit():
        raise ModelError(
            problem(
                f"{path} is no .wts file",
                got=f"a first line {first[:32]!r}",
                expected="the number of tensors, as text",
                remedy="`eyas export --wts` writes one from an ONNX network or a PyTorch state dict.",
            )
        )
    declared, tensors = int(first), dict[str, Values]()
    for line in range(2, declared + 2):
        name, count = _header(file, path, line, declared)
        if name in tensors:
            raise _bad(path, line, f"{name} a second time", "each tensor once")
        if count * (_DIGITS + 1) > (left := size - file.tell()):
            raise _bad(path, line, f"{left} bytes to the end", f"{count} values of {name}: the file is cut off")
        tensors[name] = _values(file, path, line, name, count)
    if rest := file.read(HEADER).strip():
        raise _bad(path, declared + 2, f"more text ({rest[:24]!r}…)", f"{declared} tensors, as line 1 says")
    return tensors


def _bad(path: Path, line: int, got: str, expected: str) -> ModelError:
    return ModelError(problem(f"{path}, line {line}", got=got, expected=expected, remedy=_AGAIN))


def _header(file: BinaryIO, path: Path, line: int, declared: int) -> tuple[str, int]:
    """A line's name and count; the file is left at the first of its values."""
    start = file.tell()
    text = file.readline(HEADER)
    if not text.strip():
        got = f"{line - 2} tensors" if not text else "an empty line"
        raise _bad(path, line, got, f"{declared} tensors, as line 1 says")
    words = text.split(maxsplit=2)
    try:
        name, count = words[0].decode(), int(words[1])
        if count < 0 or not words[1].isdigit():
            raise ValueError
    except (IndexError, ValueError) as error:
        raise _bad(path, line, repr(text[:40]), "a name, a count and the values") from error
    used = text.index(words[0]) + len(words[0])
    file.seek(start + text.index(words[1], used) + len(words[1]))
    return name, count


def _values(file: BinaryIO, path: Path, line: int, name: str, count: int) -> Values:
    """The values up to the end of the line."""
    values, done, carry = np.empty(count, np.float32), 0, b""
    for text in _blocks(file):
        text, carry = carry + text, b""
        if not text.endswith(b"\n"):  # the block may end within a word
            cut = text.rfind(b" ") + 1
            text, carry = text[:cut], text[cut:]
        done = _fill(values, done, text, path, line, name)
    done = _fill(values, done, carry, path, line, name)
    if done != count:
        raise _bad(path, line, f"{done} values of {name}", f"{count}, as the line says")
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise _bad(path, line, f"{values[wrong[0]]} as value {wrong[0] + 1} of {name}", "finite numbers")
    return values


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """What is left of the line, piece by piece."""
    while text := file.readline(BLOCK):
        yield text
        if text.endswith(b"\n"):
            return


def _fill(values: Values, done: int, text: bytes, path: Path, line: int, name: str) -> int:
    """Put the words of `text` behind the first `done` values; how many there are then."""
    words: list[bytes] = []
    try:
        digits = _evenly_spaced(text)
        if digits is None:
            words = text.split()
            if any(len(word) != _DIGITS for word in words):
                raise ValueError
            digits = b"".join(words)
        part = np.frombuffer(bytes.fromhex(digits.decode("ascii")), ">f4")
    except ValueError as error:
        words = words or text.split()
        at, word = next((i, w) for i, w in enumerate(words) if not _is_value(w))
        got = f"{word[:24]!r} as value {done + at + 1} of {name}"
        raise _bad(path, line, got, "eight hexadecimal digits") from error
    if done + len(part) > len(values):
        raise _bad(path, line, f"more than {len(values)} values of {name}", f"{len(values)}, as the line says")
    values[done : done + len(part)] = part
    return done + len(part)


def _evenly_spaced(text: bytes) -> bytes | None:
    """The digits alone, where they stand in eights with one space between them, as writers do; else None."""
    text = text.strip() + b" "
    if len(text) % (_DIGITS + 1):
        return None
    grid = np.frombuffer(text, np.uint8).reshape(-1, _DIGITS + 1)
    even = (grid[:, _DIGITS] == ord(" ")).all() and (grid[:, :_DIGITS] > ord(" ")).all()
    return grid[:, :_DIGITS].tobytes() if even else None


def _is_value(word: bytes) -> bool:
    return len(word) == _DIGITS and all(digit in b"0123456789abcdefABCDEF" for digit in word)


def write_wts(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write name → values (any shape, row by row; any number type, as float32) whole or not at all.

    Raises ModelError for a name with white space or a value that is not finite in float32; SinkError.
    """
    for name, array in tensors.items():
        with np.errstate(over="ignore"):
            finite = bool(np.isfinite(np.asarray(array, np.float32)).all())
        if not finite or not name or name.split() != [name]:
            got = f"the name {name!r}" if finite else f"{name} with values that are not"
            expected = "names without white space, values that are finite in float32"
            raise ModelError(problem("these weights fit no .wts file", got=got, expected=expected, remedy=""))
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{len(tensors)}\n")
        for name, array in tensors.items():
            flat = np.asarray(array, ">f4").reshape(-1)
            file.write(f"{name} {flat.size} ")
            for at in range(0, flat.size, BLOCK):
                file.write(" " + flat[at : at + BLOCK].tobytes().hex(" ", 4))
            file.write("\n")
