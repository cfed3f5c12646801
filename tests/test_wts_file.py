"""The .wts text file: what is written, what is read, and what is refused."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from eyas.errors import ModelError, SinkError
from eyas.wts import file as wts_file
from eyas.wts import read_wts, write_wts

TENSORS = {
    "model.0.conv.weight": np.array([[1.0, -0.5], [3.25, 1e-40]], np.float32),
    "model.0.bn.num_batches_tracked": np.array(12, np.int64),
    "model.0.bn.bias": np.array([0.0, np.float32(np.pi), np.finfo(np.float32).max], np.float32),
}
TEXT = "2\na 2  3f800000 bf000000\nb 1  00000000\n"


def as_tensorrtx(tensors: dict[str, np.ndarray]) -> str:
    """The file as gen_wts.py writes it, value by value."""
    lines = [f"{len(tensors)}\n"]
    for name, array in tensors.items():
        flat = array.reshape(-1)
        words = "".join(" " + struct.pack(">f", float(v)).hex() for v in flat)
        lines.append(f"{name} {len(flat)} {words}\n")
    return "".join(lines)


def test_writes_byte_for_byte_what_tensorrtx_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.wts"
    write_wts(path, TENSORS)
    assert path.read_text() == as_tensorrtx(TENSORS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("block", [9 << 17, 1, 9, 10, 25])
def test_reads_back_every_bit_whatever_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    path = tmp_path / "a.wts"
    path.write_text(as_tensorrtx(TENSORS))
    monkeypatch.setattr(wts_file, "BLOCK", block)
    found = read_wts(path)
    assert list(found) == list(TENSORS)
    for name, array in TENSORS.items():
        assert found[name].dtype == np.float32
        assert found[name].tobytes() == array.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip(),
        TEXT.replace("\n", "\r\n"),
        TEXT + "\n \n",
        TEXT.replace("  ", " "),
        TEXT.replace("3f800000 ", "3F800000   "),
    ],
)
def test_spacing_and_case_do_not_matter(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.wts"
    path.write_bytes(text.encode())
    found = {name: values.tolist() for name, values in read_wts(path).items()}
    assert found == {"a": [1.0, -0.5], "b": [0.0]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no .wts file: got a first line b''; expected the number of tensors"),
        ("PK\x03\x04rubbish", "no .wts file"),
        ("two\na 1  00000000\n", "no .wts file"),
        (TEXT[:-4], "line 3: got 7 bytes to the end; expected 1 values of b: the file is cut off"),
        (TEXT[:-12], "line 3: got b'b '; expected a name, a count and the values"),
        (TEXT.replace("b 1  00000000\n", ""), "line 3: got 1 tensors; expected 2 tensors, as line 1 says"),
        (TEXT.replace("a 2 ", "a 3 "), "line 2: got 2 values of a; expected 3, as the line says"),
        (TEXT.replace("a 2 ", "a 1 "), "line 2: got more than 1 values of a; expected 1"),
        (TEXT.replace("a 2 ", "a 99999999999 "), "the file is cut off"),
        (TEXT.replace("a 2 ", "a -2 "), "expected a name, a count and the values"),
        (TEXT.replace("a 2 ", "a "), "line 2: got b'a  3f800000"),
        (TEXT.replace("bf000000", "bf00000g"), "line 2: got b'bf00000g' as value 2 of a; expected eight hexa"),
        (TEXT.replace("bf000000", "bf00000"), "line 2: got b'bf00000' as value 2 of a"),
        (TEXT.replace("3f800000 bf000000", "3f8000000 f000000"), "line 2: got b'3f8000000' as value 1 of a"),
        (TEXT.replace("b 1", "a 1"), "line 3: got a a second time; expected each tensor once"),
        (TEXT.replace("bf000000", "7fc00000"), "line 2: got nan as value 2 of a; expected finite numbers"),
        (TEXT.replace("bf000000", "ff800000"), "line 2: got -inf as value 2 of a"),
        ("1" + TEXT[1:], "line 3: got more text (b'b 1  00000000'…); expected 1 tensors, as line 1 says"),
        ("3" + TEXT[1:], "line 4: got 2 tensors; expected 3 tensors"),
        (TEXT.replace("\nb", "\n\nb"), "line 3: got an empty line"),
        (TEXT.replace("b 1", "b\xff\xfe 1"), "line 3"),
    ],
)
def test_refuses_with_line_got_and_expected(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.wts"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"^[^:]+a\.wts") as error:
        read_wts(path)
    assert said in str(error.value)


def test_refuses_a_file_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wts", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            read_wts(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wts"
    whole = as_tensorrtx(TENSORS).encode()
    for size in range(len(whole) - 1):  # without the last line break it is whole
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            read_wts(path)


def test_holds_little_more_than_the_result(tmp_path: Path) -> None:
    path, count = tmp_path / "a.wts", 3_000_000
    path.write_text(f"1\na {count} " + " 3f800000" * count + "\n")
    tracemalloc.start()
    found = read_wts(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["a"].size == count
    assert peak < 4 * count + count + 8 * wts_file.BLOCK  # the values, which of them are finite, some blocks


@pytest.mark.parametrize(
    ("name", "value"), [("", 1.0), ("a b", 1.0), ("a\nb", 1.0), ("a", np.nan), ("a", np.inf), ("a", 1e300)]
)
def test_writes_nothing_that_could_not_be_read(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(ModelError, match=r"fit no \.wts file"):
        write_wts(tmp_path / "a.wts", {name: np.array([value])})
    assert not list(tmp_path.iterdir())


def test_says_why_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="cannot write"):
        write_wts(tmp_path / "none" / "a.wts", TENSORS)
