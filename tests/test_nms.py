"""eyas.nms: greedy suppression equals the definition, spelt out in exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eyas.nms import greedy_nms

# Whole corners and thresholds of sixty-fourths are exact in float32, so that the reference can demand equality.
CORNER = st.integers(-4, 24)
BOX = st.tuples(CORNER, CORNER, CORNER, CORNER)
CROWD = st.lists(st.tuples(BOX, st.integers(0, 2)), max_size=24)
THRESHOLD = st.integers(0, 64).map(lambda n: n / 64)
Box = tuple[int, int, int, int]


def area(box: Box) -> int:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def suppresses(a: Box, b: Box, iou: float) -> bool:
    shared = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - shared
    return shared > Fraction(iou) * union


def reference(crowd: list[tuple[Box, int]], iou: float, agnostic: bool) -> list[int]:
    """The best that is left stays and removes what it suppresses, until none is left."""
    left, stay = list(range(len(crowd))), []
    while left:
        best = left.pop(0)
        stay.append(best)
        (box, cls) = crowd[best]
        left = [i for i in left if not ((agnostic or crowd[i][1] == cls) and suppresses(box, crowd[i][0], iou))]
    return stay


def run(crowd: list[tuple[Box, int]], iou: float, agnostic: bool) -> list[int]:
    xyxy = np.array([box for box, _ in crowd], np.float32).reshape(-1, 4)
    return greedy_nms(xyxy, np.array([cls for _, cls in crowd], np.float32), iou, agnostic).tolist()


@settings(max_examples=300)
@given(CROWD, THRESHOLD, st.booleans())
@example([((0, 0, 10, 10), 0), ((0, 0, 10, 5), 0)], 0.5, False)  # exactly at the threshold: stays
@example([((0, 0, 10, 10), 0), ((5, 0, 15, 10), 0), ((10, 0, 20, 10), 0)], 0.25, True)  # the removed removes nothing
@example([((5, 5, 5, 9), 0), ((5, 5, 5, 9), 0)], 0.0, True)  # without area: neither removes nor is removed
@example([((9, 9, 0, 0), 0), ((0, 0, 9, 9), 0)], 0.0, True)  # inside out
def test_equals_the_definition(crowd: list[tuple[Box, int]], iou: float, agnostic: bool) -> None:
    assert run(crowd, iou, agnostic) == reference(crowd, iou, agnostic)


@given(CROWD, THRESHOLD, st.booleans())
def test_what_stays_stays_when_run_again(crowd: list[tuple[Box, int]], iou: float, agnostic: bool) -> None:
    stay = run(crowd, iou, agnostic)
    assert run([crowd[i] for i in stay], iou, agnostic) == list(range(len(stay)))


@given(CROWD, st.booleans())
def test_at_a_threshold_of_one_everything_stays(crowd: list[tuple[Box, int]], agnostic: bool) -> None:
    assert run(crowd, 1.0, agnostic) == list(range(len(crowd)))


@pytest.mark.parametrize("agnostic", [False, True])
def test_a_long_chain(agnostic: bool) -> None:
    """Each box would remove the next; so every second one stays, however deep the chain."""
    chain = [((3 * i, 0, 3 * i + 10, 10), 0) for i in range(60)]
    assert run(chain, 0.5, agnostic) == list(range(0, 60, 2))


def test_classes_suppress_each_other_only_if_agnostic() -> None:
    twins = [((0, 0, 8, 8), 0), ((0, 0, 8, 8), 1), ((0, 0, 8, 8), 0)]
    assert run(twins, 0.5, False) == [0, 1]
    assert run(twins, 0.5, True) == [0]


def test_nothing_in_nothing_out_and_nothing_written() -> None:
    assert run([], 0.5, False) == []
    xyxy, ids = np.array([[0, 0, 8, 8], [0, 0, 8, 7]], np.float32), np.zeros(2, np.float32)
    xyxy.flags.writeable = ids.flags.writeable = False
    stay = greedy_nms(xyxy, ids, 0.5)
    assert stay.tolist() == [0]
    assert stay.dtype == np.intp
