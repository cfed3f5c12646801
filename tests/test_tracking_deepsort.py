"""DeepSORT: the filter against a textbook's, the assignment against trying everything, and who is matched with whom."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tracking_scenes import Scene, street

from eyas.errors import OptionError
from eyas.results import Detections
from eyas.tracking import motion, open_tracker
from eyas.tracking.appearance import Gallery, cosine_distances
from eyas.tracking.association import assign, iou, iou_of_pairs, pairs_below
from eyas.tracking.boxes import usable
from eyas.tracking.mot import table_of

pytest.importorskip("scipy.optimize", reason="the extra `track` is not installed")

Floats = NDArray[np.float64]
rng = np.random.default_rng(5)


# ---- the filter ----


class Textbook:
    """The 8-dimensional filter of one track with full matrices."""

    def __init__(self, z: Floats) -> None:
        h = z[3]
        self.x = np.r_[z, np.zeros(4)]
        self.p = np.diag(np.square([h / 10, h / 10, 2e-2, h / 10, h / 16, h / 16, 1e-4, h / 16]))
        self.f = np.eye(8) + np.eye(8, k=4)
        self.h = np.eye(4, 8)

    def predict(self) -> None:
        h = self.x[3]
        q = np.diag(np.square([h / 20, h / 20, 1e-2, h / 20, h / 160, h / 160, 1e-5, h / 160]))
        self.x = self.f @ self.x
        self.p = self.f @ self.p @ self.f.T + q

    def innovation(self) -> Floats:
        h = self.x[3]
        return self.h @ self.p @ self.h.T + np.diag(np.square([h / 20, h / 20, 1e-1, h / 20]))

    def update(self, z: Floats) -> None:
        s = self.innovation()
        gain = self.p @ self.h.T @ np.linalg.inv(s)
        self.x = self.x + gain @ (z - self.h @ self.x)
        self.p = self.p - gain @ s @ gain.T

    def distance(self, z: Floats) -> float:
        d = z - self.h @ self.x
        return float(d @ np.linalg.inv(self.innovation()) @ d)


def test_the_filter_of_all_tracks_is_the_textbooks_filter_of_each():
    start = rng.uniform([0, 0, 0.2, 20], [1000, 700, 2, 300], (6, 4))
    states = motion.begin(start)
    textbooks = [Textbook(z) for z in start]
    for step in range(12):
        states = motion.predict(states)
        seen = start + step * rng.normal(0, 3, start.shape) * [1, 1, 0.01, 1]
        for t, z, d in zip(textbooks, seen, motion.squared_mahalanobis(states, seen), strict=True):
            t.predict()
            assert t.distance(z) == pytest.approx(d)
        if step % 3:
            states = motion.update(states, seen)
            for t, z in zip(textbooks, seen, strict=True):
                t.update(z)
    for i, t in enumerate(textbooks):
        np.testing.assert_allclose(np.r_[states[0, i], states[1, i]], t.x, rtol=1e-9, atol=1e-9)
        blocks = t.p[:4, :4], t.p[:4, 4:], t.p[4:, 4:]
        for ours, block in zip(states[2:, i], blocks, strict=True):
            np.testing.assert_allclose(np.diag(ours), block, rtol=1e-7, atol=1e-12)


def test_the_gate_is_the_quantile_of_chi_squared():
    stats = pytest.importorskip("scipy.stats", reason="the extra `track` is not installed")
    assert pytest.approx(stats.chi2.ppf(0.95, df=4), abs=5e-5) == motion.GATE


def test_boxes_there_and_back():
    xyxy = np.array([[10, 20, 40, 100], [-5, -5, 5.5, 1]], np.float64)
    assert motion.from_xyxy(xyxy[:1]).tolist() == [[25, 60, 30 / 80, 80]]
    np.testing.assert_allclose(motion.to_xyxy(motion.from_xyxy(xyxy)), xyxy)


def test_a_height_below_0_is_a_box_without_area():
    assert motion.to_xyxy(np.array([[5.0, 6.0, 0.5, -3.0]])).tolist() == [[5, 6, 5, 6]]


def test_the_boxes_that_stand_for_a_prediction_have_its_mean_and_variance():
    states = motion.predict(motion.begin(rng.uniform([0, 0, 0.2, 20], [1000, 700, 2, 300], (6, 4))))
    found = motion.spread(states)
    assert found.shape == (8, 6, 4)
    np.testing.assert_allclose(found.mean(0), states[0])
    np.testing.assert_allclose(found.var(0), states[2])


# ---- overlap and assignment ----


def test_overlap_is_that_of_single_boxes():
    box = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [30, 30, 30, 30], [0, 0, 5, 10]], np.float64)
    expected = np.eye(4)
    expected[0, 1] = expected[1, 0] = 25 / 175
    expected[0, 3] = expected[3, 0] = 50 / 100
    expected[2, 2] = 0
    np.testing.assert_allclose(iou(box, box), expected)
    np.testing.assert_allclose(iou_of_pairs(box, box[[1, 1, 2, 0]]), expected[[0, 1, 2, 3], [1, 1, 2, 0]])


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(0, 4)), elements=st.floats(0, 1)))
def test_no_other_choice_of_pairs_costs_less(cost: Floats):
    highest, alone = 0.6, 0.6 + 1e-5
    pairs = pairs_below(cost, highest)
    chosen = pairs.where(assign(pairs, highest))
    assert len(set(chosen.row.tolist())) == len(set(chosen.column.tolist())) == len(chosen.row)
    assert (chosen.cost <= highest).all()
    rows, columns = cost.shape
    best = min(
        sum(min(cost[i, j], alone) if j < columns else alone for i, j in enumerate(choice))
        for choice in itertools.permutations(range(columns + rows), rows)
    )
    assert chosen.cost.sum() + alone * (rows - len(chosen.row)) == pytest.approx(best)


def test_a_pair_at_the_limit_is_better_than_none():
    assert len(assign(pairs_below(np.array([[0.7, 0.7]]), 0.7), 0.7)) == 1


def test_a_cost_that_is_no_number_is_never_chosen():
    assert len(pairs_below(np.array([[np.nan, 0.9]]), 0.7).row) == 0


# ---- appearance ----


def unit(*values: float) -> NDArray[np.float32]:
    return (np.array(values) / np.linalg.norm(values)).astype(np.float32)


def test_the_distance_is_to_the_closest_of_the_gallery():
    gallery = Gallery(100)
    gallery.add(unit(1, 0))
    gallery.add(unit(1, 1))
    far = cosine_distances([gallery], np.stack([unit(0, 1), unit(1, 0.1), unit(-1, 0)]))
    assert far[0] == pytest.approx([1 - 0.5**0.5, 1 - 1 / 1.01**0.5, 2 - 1 + 0.5**0.5], abs=1e-6)


def test_a_gallery_keeps_the_latest():
    gallery = Gallery(2)
    for v in (unit(1, 0), unit(0, 1), unit(-1, 0)):
        gallery.add(v)
    assert gallery.rows is not None
    assert sorted(gallery.rows.tolist()) == [[-1, 0], [0, 1]]


def test_embeddings_that_are_no_numbers_are_near_to_nothing():
    empty, gallery = Gallery(3), Gallery(3)
    empty.add(np.full(2, np.nan, np.float32))
    gallery.add(unit(1, 0))
    assert np.isnan(cosine_distances([empty, gallery], np.full((1, 2), np.nan, np.float32))).all()


# ---- the tracker ----


def boxes(
    xyxy: Any, class_id: list[int] | None = None, embedding: list[Any] | None = None, confidence: float = 0.9
) -> Detections:
    array = np.array(xyxy, np.float32).reshape(-1, 4)
    ids = np.array(class_id if class_id is not None else [0] * len(array), np.int64)
    vectors = np.array(embedding, np.float32).reshape(len(array), -1) if embedding is not None else None
    return Detections(array, np.full(len(array), confidence, np.float32), ids, embedding=vectors)


def ids(found: Detections) -> list[int]:
    assert found.tracker_id is not None
    return found.tracker_id.tolist()


A, B = (100, 100, 150, 220), (400, 100, 460, 240)
RED, BLUE = unit(1, 0, 0.1), unit(0, 1, 0.1)


@pytest.mark.parametrize("n_init", [1, 2, 3, 5])
def test_n_init_detections_in_a_row_confirm_a_track(n_init: int):
    tracker = open_tracker("deepsort", n_init=n_init)
    assert [ids(tracker.update(boxes([A]))) for _ in range(6)] == [[]] * (n_init - 1) + [[1]] * (7 - n_init)


def test_a_track_that_is_missed_before_it_is_confirmed_ends():
    tracker = open_tracker("deepsort")
    shown = [ids(tracker.update(boxes(x))) for x in ([A], [A], [], [A], [A], [A])]
    assert shown == [[], [], [], [], [], [1]]


@pytest.mark.parametrize(("unseen", "after"), [(4, [1]), (5, [])])
def test_a_track_lives_for_max_age_frames_unseen(unseen: int, after: list[int]):
    tracker = open_tracker("deepsort", max_age=5)
    for x in [[A]] * 10 + [[]] * unseen:
        tracker.update(boxes(x))
    assert ids(tracker.update(boxes([A]))) == after


def test_weak_detections_are_left_out():
    tracker = open_tracker("deepsort", min_confidence=0.5)
    assert [ids(tracker.update(boxes([A], confidence=0.4))) for _ in range(5)] == [[]] * 5


def test_a_track_does_not_change_its_class():
    tracker = open_tracker("deepsort")
    for _ in range(4):
        first = ids(tracker.update(boxes([A], [0])))
    assert first == [1]
    assert [ids(tracker.update(boxes([A], [1]))) for _ in range(4)] == [[], [], [2], [2]]


def test_classes_do_not_count_if_told_so():
    tracker = open_tracker("deepsort", per_class=False)
    for class_id in (0, 0, 0, 1):
        found = tracker.update(boxes([A], [class_id]))
    assert (ids(found), found.class_id.tolist()) == ([1], [1])


def test_appearance_decides_where_two_change_places():
    near = (115, 100, 165, 220)
    tracker = open_tracker("deepsort")
    for _ in range(5):
        found = tracker.update(boxes([A, near], embedding=[RED, BLUE]))
    assert ids(found) == [1, 2]
    assert ids(tracker.update(boxes([A, near], embedding=[BLUE, RED]))) == [2, 1]


def test_without_appearance_the_place_decides():
    near = (115, 100, 165, 220)
    tracker = open_tracker("deepsort")
    for _ in range(5):
        found = tracker.update(boxes([A, near]))
    assert ids(found) == ids(tracker.update(boxes([near, A])))[::-1]


def test_without_appearance_a_hidden_track_yields_to_one_that_is_seen():
    """The detection overlaps the hidden one's prediction more, but that may be far off by now."""
    near, between = (115, 100, 165, 220), (106, 100, 156, 220)
    tracker = open_tracker("deepsort")
    for x in [[A, near]] * 5 + [[near]] * 3:
        tracker.update(boxes(x))
    assert ids(tracker.update(boxes([between]))) == [2]


def test_without_appearance_a_hidden_track_goes_before_one_that_is_not_confirmed():
    """Who comes out from behind another is first seen in part: that part's track must not take the rest."""
    tracker = open_tracker("deepsort")
    for x in [[A]] * 5 + [[]] * 3:
        tracker.update(boxes(x))
    emerging = [(100 + shift, 100, 150 + shift, 220) for shift in (30, 24)]  # the first: IoU 0.25 with A
    assert [ids(tracker.update(boxes([x]))) for x in emerging] == [[], [1]]


def test_appearance_alone_does_not_reach_beyond_the_gate():
    tracker = open_tracker("deepsort")
    for _ in range(5):
        tracker.update(boxes([A], embedding=[RED]))
    assert ids(tracker.update(boxes([B], embedding=[RED]))) == []


def test_one_who_looks_like_nobody_is_still_matched_by_overlap():
    tracker = open_tracker("deepsort")
    for _ in range(5):
        tracker.update(boxes([A], embedding=[RED]))
    assert ids(tracker.update(boxes([A], embedding=[BLUE]))) == [1]


def test_overlap_alone_does_not_bring_back_one_who_was_missed_before():
    tracker = open_tracker("deepsort")
    for _ in range(5):
        tracker.update(boxes([A], embedding=[RED]))
    tracker.update(boxes([]))
    assert ids(tracker.update(boxes([A], embedding=[BLUE]))) == []


def test_of_two_alike_the_one_seen_last_goes_first():
    """The older track is just as near and looks more alike: without the cascade it would win."""
    near = (115, 100, 165, 220)
    less = unit(1, 0.3, 0.1)
    tracker = open_tracker("deepsort")
    for _ in range(4):
        tracker.update(boxes([A, near], embedding=[RED, less]))
    for _ in range(3):
        tracker.update(boxes([near], embedding=[less]))
    assert ids(tracker.update(boxes([A], embedding=[RED]))) == [2]


def test_frames_with_and_without_embeddings_may_take_turns():
    tracker = open_tracker("deepsort")
    for i in range(8):
        found = tracker.update(boxes([A, B], embedding=[RED, BLUE] if i % 2 else None))
    assert ids(found) == [1, 2]


def test_embeddings_of_another_length_are_refused():
    tracker = open_tracker("deepsort")
    tracker.update(boxes([A], embedding=[[1, 0]]))
    with pytest.raises(OptionError, match=r"not of one network: got 3 values, after 2.*reset\(\)"):
        tracker.update(boxes([A], embedding=[[1, 0, 0]]))


def test_an_empty_frame_may_have_embeddings_of_no_length():
    tracker = open_tracker("deepsort")
    tracker.update(boxes([A], embedding=[[1, 0]]))
    empty = Detections.empty()
    none = Detections(empty.xyxy, empty.confidence, empty.class_id, embedding=np.zeros((0, 0), np.float32))
    assert ids(tracker.update(none)) == []


@pytest.mark.parametrize(
    "option",
    [
        {"n_init": 0},
        {"n_init": True},
        {"max_age": 1.5},
        {"max_age": 1_000_000},
        {"budget": 0},
        {"budget": 10**12},
        {"max_cosine_distance": -0.1},
        {"max_iou_distance": "wide"},
        {"max_iou_distance": np.nan},
        {"min_confidence": 2},
        {"min_confidence": True},
        {"per_class": "maybe"},
    ],
)
def test_options_out_of_their_range_are_refused(option: dict[str, Any]):
    with pytest.raises(OptionError, match=f"{next(iter(option))} is wrong"):
        open_tracker("deepsort", **option)


def test_options_may_be_numbers_of_numpy():
    tracker = open_tracker("deepsort", n_init=np.int64(2), max_iou_distance=np.float32(0.5), frame_rate=np.float64(25))
    assert [ids(tracker.update(boxes([A]), pts_s=i / 25)) for i in range(2)] == [[], [1]]


def test_lost_frames_move_a_track_on_where_time_counts():
    """25 pixels a frame and boxes 60 wide: after three lost frames only the prediction still overlaps."""

    def last(**options: Any) -> list[int]:
        tracker = open_tracker("deepsort", **options)
        for i in range(10):
            tracker.update(boxes([(25 * i, 100, 25 * i + 60, 240)]), pts_s=i / 25)
        return ids(tracker.update(boxes([(325, 100, 385, 240)]), pts_s=13 / 25))

    assert last(frame_rate=25) == [1]
    assert last() == []


def test_lost_frames_do_not_end_a_track_that_is_new():
    tracker = open_tracker("deepsort", frame_rate=30)
    assert [ids(tracker.update(boxes([A]), pts_s=i / 10)) for i in range(4)] == [[], [], [1], [1]]


# ---- scenes ----


def tracks_of(scene: Scene, **options: Any) -> list[Detections]:
    tracker = open_tracker("deepsort", **options)
    return [tracker.update(d) for d in scene.frames]


@pytest.mark.parametrize("embedding", [0, 32])
@pytest.mark.parametrize("seed", [1, 6])
def test_walkers_who_pass_each_other_keep_their_ids(seed: int, embedding: int):
    sc = pytest.importorskip("eyas.evaluation.tracks")
    pytest.importorskip("trackers.eval", reason="the extra `track` is not installed")
    scene = street(seed=seed, walkers=4, frames=100, embedding=embedding)
    hidden = scene.truth.confidence == 0
    assert hidden.sum() > 50, "nobody is ever hidden in this scene"
    result = table_of(enumerate(tracks_of(scene), 1))
    assert sc.score(scene.truth, result).idf1 >= 0.95


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10), embedding=st.sampled_from([0, 8]), order=st.randoms(use_true_random=False))
def test_the_order_of_detections_does_not_matter(seed: int, embedding: int, order: Any):
    scene = street(seed=seed, walkers=8, frames=25, embedding=embedding, false=1)
    tracker = open_tracker("deepsort")
    for plain, frame in zip(tracks_of(scene), scene.frames, strict=True):
        rows = list(range(len(frame)))
        order.shuffle(rows)
        found = tracker.update(frame[rows])
        corners = [sorted(zip(ids(d), d.xyxy.tolist(), strict=True)) for d in (plain, found)]
        assert corners[0] == corners[1]


def test_the_rows_that_can_be_used_come_in_an_order_of_their_own():
    found = boxes([B, A, A, (1, 1, 1, 9)], [0, 1, 0, 0])
    assert usable(found).tolist() == [2, 1, 0]


def test_an_ended_tracks_id_never_comes_back():
    scene = street(seed=1, walkers=10, frames=120, missed=0.3, false=2)
    shown: dict[int, list[int]] = {}
    for frame, found in enumerate(tracks_of(scene, max_age=3)):
        for i in ids(found):
            shown.setdefault(i, []).append(frame)
    assert len(shown) > 10
    assert all(np.diff(frames).max(initial=0) <= 3 for frames in shown.values())
    assert list(shown) == sorted(shown)


def test_thousands_of_objects_are_followed():
    x, y = np.meshgrid(np.arange(60) * 30.0, np.arange(35) * 60.0)
    low = np.column_stack([x.ravel(), y.ravel()])
    tracker = open_tracker("deepsort")
    for i in range(4):
        found = tracker.update(boxes(np.hstack([low + 2 * i, low + 2 * i + [20, 50]])))
    assert len(found) == 2100
    assert len(set(ids(found))) == 2100
