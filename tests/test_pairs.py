"""eyas.evaluation.pairs: reading labelled pairs, and the figures against brute force."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eyas.errors import DataError
from eyas.evaluation.pairs import Pair, Verification, read_pairs, verification

HEADER = "file_x,file_y,Decision\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "c, d.jpg", "ž 李.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "pairs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---- reading ----


@pytest.mark.parametrize(
    ("yes", "no"),
    [("yes", "no"), ("Yes", "No"), ("1", "0"), ("TRUE", "False"), ("same", "different"), ("match", "mismatch")],
)
def test_words_for_yes_and_no(yes: str, no: str, folder: Path):
    found = read_pairs(written(folder, f"{HEADER}a.jpg,b.jpg,{yes}\nb.jpg,a.jpg, {no} \n"))
    assert found == [
        Pair(folder / "a.jpg", folder / "b.jpg", True),
        Pair(folder / "b.jpg", folder / "a.jpg", False),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ways_to_write_a_csv_file(mark: str, end: str, folder: Path):
    lines = ["x,y,same", "", 'a.jpg,"c, d.jpg",no', " ž 李.jpg , b.jpg ,yes", "  "]
    found = read_pairs(written(folder, mark + (end or "\n").join(lines) + end))
    assert [(p.a.name, p.b.name, p.same) for p in found] == [
        ("a.jpg", "c, d.jpg", False),
        ("ž 李.jpg", "b.jpg", True),
    ]


def test_pictures_elsewhere(folder: Path):
    (folder / "lists").mkdir()
    path = written(folder / "lists", f"{HEADER}a.jpg,b.jpg,yes\na.jpg,../b.jpg,no\n")
    with pytest.raises(DataError, match=r"names a picture that is not there: got line 2: .*a\.jpg.*--images"):
        read_pairs(path)
    (folder / "pics").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / "pics" / name).touch()
    assert [p.b for p in read_pairs(path, folder / "pics")] == [
        folder / "pics" / "b.jpg",
        folder / "pics" / ".." / "b.jpg",
    ]
    absolute = written(folder / "lists", f"{HEADER}{folder}/a.jpg,{folder}/b.jpg,yes\n{folder}/a.jpg,a.jpg,no\n")
    assert read_pairs(absolute, folder)[0].a == folder / "a.jpg"


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "0 pairs"),
        (HEADER, "0 pairs"),
        (f"{HEADER}a.jpg,b.jpg,yes\n", "1 pairs, all the same"),
        (f"{HEADER}a.jpg,b.jpg,no\nb.jpg,a.jpg,no\n", "2 pairs, all different"),
        (f"{HEADER}a.jpg,b.jpg,yes\n\na.jpg,b.jpg,perhaps\n", "line 4: a.jpg,b.jpg,perhaps"),
        (f"{HEADER}a.jpg,b.jpg\n", "line 2: a.jpg,b.jpg"),
        (f"{HEADER}a.jpg,b.jpg,yes,0.7\n", "line 2: a.jpg,b.jpg,yes,0.7"),
        (f"{HEADER}a.jpg,b.jpg,\n", "line 2: a.jpg,b.jpg,"),
        ("a;b;same\na.jpg;b.jpg;yes\n", "line 1: a;b;same"),
        ("a,b,c,d\na.jpg,b.jpg,yes\n", "line 1: a,b,c,d"),
        ("a.jpg,b.jpg,yes\na.jpg,b.jpg,no\n", "a pair instead of a header in line 1: a.jpg,b.jpg,yes"),
        (f'{HEADER}"a.jpg,b.jpg,yes\n', "unexpected end of data"),
        (b"a,b,same\n\xff\xfe.jpg,b.jpg,yes\n", "can't decode"),
    ],
)
def test_files_that_hold_no_pairs(text: str | bytes, got: str, folder: Path):
    with pytest.raises(DataError, match=rf"pairs\.csv holds no pairs: got .*{re.escape(got)}"):
        read_pairs(written(folder, text))


@pytest.mark.parametrize("name", ["none.jpg", "", ".", "x" * 300, "x\0y"])
def test_pictures_that_are_not_there(name: str, folder: Path):
    with pytest.raises(DataError):
        read_pairs(written(folder, f"{HEADER}a.jpg,b.jpg,no\na.jpg,{name},yes\n"))


def test_files_that_cannot_be_read(folder: Path):
    for path in (folder, folder / "none.csv"):
        with pytest.raises(DataError, match="holds no pairs"):
            read_pairs(path)


def test_the_pairs_that_are_there(real_data: Path):
    found = read_pairs(real_data / "data" / "face_pairs" / "pairs.csv")
    assert (len(found), sum(p.same for p in found)) == (150, 19)


# ---- figures ----

HAND = Verification(np.array([0.9, 0.5, 0.7, 0.3, 0.5]), np.array([True, True, False, False, False]))


def test_a_case_by_hand():
    assert [HAND.accuracy(t) for t in (1, 0.8, 0.7, 0.6, 0.5, 0.4, 0)] == [0.6, 0.8, 0.8, 0.6, 0.6, 0.6, 0.4]
    # of the six (same, different) pairs, .9 beats all three, .5 beats .3, ties with .5, loses to .7
    assert HAND.auc() == pytest.approx(4.5 / 6)
    thresholds, false, true = HAND.roc()
    np.testing.assert_array_equal(thresholds, [np.inf, 0.9, 0.7, 0.5, 0.3, -np.inf])
    np.testing.assert_allclose(false, [0, 0, 0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(true, [0, 0, 0.5, 0.5, 1, 1])
    assert HAND.best_threshold() == pytest.approx(0.8)


def test_the_report_by_hand():
    report = HAND.report(0.6)
    assert report == {
        "pairs": 5,
        "same_person": 2,
        "threshold": 0.6,
        "accuracy": 0.6,
        "false_match_rate": pytest.approx(1 / 3),
        "false_non_match_rate": 0.5,
        "best_threshold": pytest.approx(0.8),
        "best_accuracy": 0.8,
        "auc": pytest.approx(0.75),
        "least_alike_same": 0.5,
        "most_alike_different": 0.7,
    }
    assert json.loads(json.dumps(report)) == report
    at = HAND.report(0.5)
    assert (at["false_match_rate"], at["false_non_match_rate"]) == (pytest.approx(1 / 3), 0.5), "over, not at"


def test_kinds_that_lie_apart():
    apart = Verification(np.array([0.8, 0.5, 0.4, -0.1]), np.array([True, True, False, False]))
    assert apart.best_threshold() == pytest.approx(0.45)
    assert (apart.auc(), apart.accuracy(0.45)) == (1, 1)
    reverse = Verification(-apart.similarity, apart.same)
    assert reverse.auc() == 0
    assert reverse.accuracy(reverse.best_threshold()) == 0.5


def test_of_equally_good_gaps_the_widest_counts():
    kinds = np.array([True, False, True, False])  # three are right between the first two, and between the last two
    assert Verification(np.array([0.95, 0.8, 0.5, 0.4]), kinds).best_threshold() == pytest.approx(0.875)
    assert Verification(np.array([0.85, 0.8, 0.5, 0.4]), kinds).best_threshold() == pytest.approx(0.45)


def test_ties():
    same = np.array([True, False, True, False])
    all_one = Verification(np.full(4, 0.5), same)
    assert all_one.auc() == 0.5
    thresholds, false, true = all_one.roc()
    np.testing.assert_array_equal(np.stack([false, true]), [[0, 0, 1], [0, 0, 1]])
    assert thresholds[1] == 0.5
    assert all_one.accuracy(all_one.best_threshold()) == 0.5


def test_where_all_or_none_should_match():
    mostly = np.array([True, True, True, False])
    v = Verification(np.array([0.1, 0.2, 0.3, 0.9]), mostly)
    assert v.accuracy(v.best_threshold()) == 0.75
    assert v.best_threshold() < 0.1
    v = Verification(np.array([0.1, 0.7, 0.8, 0.9]), ~mostly[::-1])
    assert v.accuracy(v.best_threshold()) == 0.75


def area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


cosines = st.lists(st.tuples(st.integers(-10, 10), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: len({same for _, same in rows}) == 2
)


@given(cosines)
def test_against_brute_force(rows: list[tuple[int, bool]]):
    v = Verification(np.array([c / 10 for c, _ in rows]), np.array([s for _, s in rows]))
    values = [(c / 10, s) for c, s in rows]
    same, other = ([c for c, s in values if s is kind] for kind in (True, False))
    won = sum((a > b) + (a == b) / 2 for a in same for b in other)
    assert v.auc() == pytest.approx(won / (len(same) * len(other)))
    thresholds, false, true = v.roc()
    assert list(thresholds) == sorted(thresholds, reverse=True)
    for t, f, r in zip(thresholds, false, true, strict=True):
        assert f == pytest.approx(sum(c > t for c in other) / len(other))
        assert r == pytest.approx(sum(c > t for c in same) / len(same))
        assert v.accuracy(t) == pytest.approx(sum((c > t) == s for c, s in values) / len(values))
    assert area(false, true) == pytest.approx(v.auc())
    edges = sorted({c for c, _ in values})
    tried = [edges[0] - 1, *[(a + b) / 2 for a, b in pairwise(edges)], edges[-1]]
    best = max(sum((c > t) == s for c, s in values) for t in tried)
    assert v.accuracy(v.best_threshold()) == pytest.approx(best / len(values))
    assert math.isfinite(v.best_threshold())


def test_hundreds_of_thousands_of_pairs():
    rng = np.random.default_rng(3)
    same = np.arange(300_000) % 3 == 0
    v = Verification(rng.normal(0, 0.1, len(same)) + 0.4 * same, same)
    report = v.report(0.2)  # normal distributions at 0 and .4, deviation .1: two deviations to either side
    assert report["false_match_rate"] == pytest.approx(0.02275, abs=2e-3)
    assert report["false_non_match_rate"] == pytest.approx(0.02275, abs=2e-3)
    assert report["auc"] == pytest.approx(0.99766, abs=1e-3)
    assert report["best_threshold"] == pytest.approx(0.2 + 0.01 * math.log(2) / 0.4, abs=0.02)
    thresholds, false, true = v.roc()
    assert area(false, true) == pytest.approx(report["auc"])
    assert len(thresholds) > 290_000


# ---- from vectors ----

A, B, C, D = (Path(n) for n in "abcd")
VECTORS = {
    A: np.array([1, 0], np.float32),
    B: np.array([0.6, 0.8], np.float32),
    C: np.array([0, 1], np.float32),
}


def test_cosines_of_pairs():
    v = verification([Pair(A, B, True), Pair(A, C, False), Pair(D, A, True), Pair(C, B, False)], VECTORS)
    np.testing.assert_allclose(v.similarity, [0.6, 0, 0.8], atol=1e-7)
    np.testing.assert_array_equal(v.same, [True, False, False])
    assert v.similarity.dtype == np.float64


@pytest.mark.parametrize(
    ("pairs", "got"),
    [
        ([Pair(A, B, True), Pair(A, D, False)], "1 of one person and 0 of two, of 2"),
        ([Pair(A, D, True), Pair(A, B, False), Pair(B, C, False)], "0 of one person and 2 of two, of 3"),
        ([Pair(D, D, True)], "0 of one person and 0 of two, of 1"),
    ],
)
def test_too_few_pairs_are_left(pairs: list[Pair], got: str):
    with pytest.raises(DataError, match=f"too few pairs are left: got {got}"):
        verification(pairs, VECTORS)


# ---- the picture ----


def test_the_roc_curve_is_a_picture():
    pytest.importorskip("matplotlib", reason="the extra `val` is not installed")
    from eyas.evaluation.plots import roc_curve

    pngs = {t: roc_curve(HAND, t) for t in (-1, 0.6, 0.8)}
    assert len(set(pngs.values())) == 3, "the threshold shows"
    for png in pngs.values():
        assert png.startswith(b"\x89PNG")
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert min(picture.shape[:2]) > 400
    shown = cv2.imdecode(np.frombuffer(pngs[0.8], np.uint8), cv2.IMREAD_COLOR).astype(int)
    orange = (shown[..., 2] - shown[..., 0]) > 100
    y, x = np.argwhere(orange).mean(axis=0)
    assert x < shown.shape[1] * 0.2, "no false match at .8"
    assert 0.3 < y / shown.shape[0] < 0.7, "half of the true ones"
