"""eyas.nms: greedy suppression equals the definition, spelt out in exact arithmetic."""

from fractions import Fraction

import numpy as np
import oracles_rich
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from eyas.nms import area_within, greedy_nms, greedy_nms_rotated, rotated_corners

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


# ---- turned boxes: against polygons clipped in plain Python ----

SIDE = st.floats(0, 40, width=32)
ANGLE = st.one_of(
    st.floats(-7, 7, width=32), st.sampled_from([0.0, np.pi / 2, -np.pi / 2, np.pi, -np.pi, np.pi / 4, 1e-9])
)
PLACE = st.floats(-30, 30, width=32)
EXTENT = st.one_of(st.tuples(SIDE, SIDE), SIDE.map(lambda s: (s, s)), SIDE.map(lambda s: (s, s / 64)))
TURNED = st.tuples(PLACE, PLACE, EXTENT, ANGLE, st.integers(0, 1))
Turned = tuple[float, float, tuple[float, float], float, int]


def arrays(crowd: list[Turned]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, (w, h), _, _ in crowd]
    angle, cls = ([item[i] for item in crowd] for i in (3, 4))
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(angle, np.float32), np.array(cls, np.float32)


@settings(max_examples=300)
@given(TURNED, TURNED)
@example((0, 0, (10, 4), 0.0, 0), (0, 0, (10, 4), 0.0, 0))  # identical
@example((3, 1, (10, 10), 0.3, 0), (3, 1, (10, 10), 0.3 + np.pi / 2, 0))  # a square, turned to itself
@example((0, 0, (10, 4), np.pi, 0), (0, 0, (10, 4), -np.pi, 0))
@example((0, 0, (40, 0.5), 0.7, 0), (0, 0, (40, 0.5), 0.7 + np.pi / 2, 0))  # thin ones that cross
@example((0, 0, (20, 20), 0.1, 0), (1, 1, (2, 2), 0.9, 0))  # one within the other
@example((0, 0, (10, 10), 0.0, 0), (10, 0, (10, 10), 0.0, 0))  # side by side
@example((0, 0, (10, 10), 0.0, 0), (0, 0, (10, 0), 0.5, 0))  # no area
def test_the_area_that_turned_boxes_share(a: Turned, b: Turned) -> None:
    boxes, angle, _ = arrays([a, b])
    corners = rotated_corners(boxes, angle)
    cos, sin = np.cos(angle[0], dtype=np.float64), np.sin(angle[0], dtype=np.float64)
    seen = (corners[1:] - corners[0].mean(axis=0)) @ np.array([[cos, -sin], [sin, cos]])
    (shared,) = area_within(seen, np.diff(boxes[0].astype(np.float64).reshape(1, 2, 2), axis=1)[:, 0] / 2)
    polygons = [oracles_rich.turned(box, float(t)) for box, t in zip(boxes, angle, strict=True)]
    np.testing.assert_allclose(corners, polygons, atol=1e-9)
    assert shared == pytest.approx(oracles_rich.shared_area(*polygons), abs=1e-7)


@settings(max_examples=200, deadline=None)
@given(st.lists(TURNED, max_size=12), st.floats(0.05, 0.95), st.booleans())
def test_turned_boxes_equal_the_definition(crowd: list[Turned], iou: float, agnostic: bool) -> None:
    boxes, angle, cls = arrays(crowd)
    overlap = [[oracles_rich.rotated_iou(a, t, b, u) for b, u in zip(boxes, angle, strict=True)]
               for a, t in zip(boxes, angle, strict=True)]  # fmt: skip
    assume(all(abs(o - iou) > 1e-6 for row in overlap for o in row))  # at the brink, rounding decides
    left, stay = list(range(len(crowd))), []
    while left:
        best = left.pop(0)
        stay.append(best)
        left = [i for i in left if not (overlap[best][i] > iou and (agnostic or cls[i] == cls[best]))]
    assert greedy_nms_rotated(boxes, angle, cls, iou, agnostic).tolist() == stay


@given(CROWD, st.sampled_from([0.1037, 0.4013, 0.7531]), st.booleans())
def test_unturned_boxes_are_suppressed_as_upright_ones(
    crowd: list[tuple[Box, int]], iou: float, agnostic: bool
) -> None:
    """No ratio of areas this small equals these thresholds, so that rounding decides nothing."""
    xyxy = np.array([box for box, _ in crowd], np.float32).reshape(-1, 4)
    cls = np.array([cls for _, cls in crowd], np.float32)
    turned = greedy_nms_rotated(xyxy, np.zeros(len(crowd), np.float32), cls, iou, agnostic)
    assert turned.tolist() == reference(crowd, iou, agnostic)


def test_turned_boxes_of_no_area_stay_and_remove_nothing() -> None:
    boxes = np.array([[5, 0, 5, 9], [5, 0, 5, 9], [0, 0, 9, 9], [9, 9, 0, 0], [0, 0, 9, 9]], np.float32)
    assert greedy_nms_rotated(boxes, np.zeros(5, np.float32), np.zeros(5, np.float32), 0.0).tolist() == [0, 1, 2, 3]
    assert greedy_nms_rotated(boxes[:0], boxes[:0, 0], boxes[:0, 0], 0.5).tolist() == []


def test_a_turned_chain_and_far_from_the_origin() -> None:
    """Every second box stays; the same at coordinates where float32 has no fraction of a hundredth left."""
    along = np.arange(60) * 3.0
    for shift in (0.0, 60_000.0):
        centre = np.stack([along * np.cos(0.5), along * np.sin(0.5)], axis=1) + shift
        boxes = np.concatenate([centre - 5, centre + 5], axis=1).astype(np.float32)
        stay = greedy_nms_rotated(boxes, np.full(60, 0.5, np.float32), np.zeros(60, np.float32), 0.5)
        assert stay.tolist() == list(range(0, 60, 2))
        assert stay.dtype == np.intp


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.5])
def test_turned_boxes_that_overlap_at_their_ends(angle: float) -> None:
    """40 long and 25 apart: 15 of 65 in common, though their centres are far from each other."""
    boxes = np.array([[-20, -0.5, 20, 0.5], [-20, -0.5, 20, 0.5]], np.float32)
    boxes[1] += np.tile([25 * np.cos(angle), 25 * np.sin(angle)], 2).astype(np.float32)
    for iou, stay in ((0.22, [0]), (0.24, [0, 1])):
        assert greedy_nms_rotated(boxes, np.full(2, angle, np.float32), np.zeros(2, np.float32), iou).tolist() == stay


def test_many_turned_boxes() -> None:
    """More than are compared at a time, with chains from one group to the next."""
    rng = np.random.default_rng(4)
    centre, extent = rng.uniform(0, 120, (150, 2)), rng.uniform(5, 40, (150, 2))
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1).astype(np.float32)
    angle, cls = rng.uniform(-4, 4, 150).astype(np.float32), rng.integers(0, 2, 150).astype(np.float32)
    for iou in (0.05, 0.2, 0.5):
        stay: list[int] = []
        for i in range(150):
            rivals = [j for j in stay if cls[i] == cls[j]]
            if not any(oracles_rich.rotated_iou(boxes[i], angle[i], boxes[j], angle[j]) > iou for j in rivals):
                stay.append(i)
        assert 32 < len(stay) < 150
        assert greedy_nms_rotated(boxes, angle, cls, iou).tolist() == stay
