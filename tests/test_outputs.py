"""eyas.outputs: rows, key points, masks and oriented boxes in source pixels, against plain references."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import oracles_rich as oracle
import pytest
from numpy.typing import NDArray

from eyas.graph.head import HeadSpec
from eyas.letterbox import Letterbox
from eyas.outputs import is_full, result_of
from eyas.results import Classification, Detections, Embedding
from eyas.types import ModelCard, Normalise

INPUT = (96, 128)
NAMES = ("ant", "bee", "cow")
# Source (height, width): wide, tall, odd, tiny, larger than the input, as large as it.
SOURCES = [(40, 201), (301, 97), (33, 47), (7, 5), (720, 1280), INPUT]
RULES = ["letterbox", "letterbox-topleft", "stretch"]


def card(task: str) -> ModelCard:
    return ModelCard("any", INPUT, Normalise(), NAMES, task=task)  # type: ignore[arg-type]


def some_rows(count: int, extras: NDArray[np.float32], seed: int = 5) -> NDArray[np.float32]:
    """count rows, best first, boxes anywhere in and a little beyond the input."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, [INPUT[1] * 0.7, INPUT[0] * 0.7], (count, 2))
    high = low + rng.uniform(6, 60, (count, 2))
    score = np.sort(rng.uniform(0.3, 1, count))[::-1]
    return np.column_stack([low, high, score, rng.integers(0, 3, count), extras]).astype(np.float32)


def outputs(rows: NDArray[np.float32], converged: bool = True, empty: int = 3, **more: Any) -> dict[str, NDArray[Any]]:
    """A batch of two, ours second, with empty rows behind it."""
    filled = np.concatenate([rows, np.full((empty, rows.shape[1]), -1, np.float32)])
    found = {
        "detections": np.stack([np.full_like(filled, 7), filled]),
        "count": np.array([0, len(rows)], np.int32),
        "converged": np.array([True, converged]),
    }
    return found | {name: np.stack([np.full_like(value, 7), value]) for name, value in more.items()}


def result(task: str, box: Letterbox, found: dict[str, NDArray[Any]], iou: float = 0.5, agnostic: bool = False):
    return result_of(card(task), HeadSpec(agnostic=agnostic), found, 1, box, iou)


def waves(channels: int, shape: tuple[int, int], seed: int = 1) -> NDArray[np.float32]:
    """Prototypes [M, h, w] smooth enough that a mask is a few blobs, not noise."""
    noise = np.random.default_rng(seed).normal(0, 1, (*shape, channels)).astype(np.float32)
    return np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 2).reshape(*shape, channels).transpose(2, 0, 1))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rule", RULES)
def test_key_points(source: tuple[int, int], rule: str):
    rng = np.random.default_rng(2)
    points = np.concatenate([rng.uniform(-20, 150, (6, 5, 2)), rng.uniform(0, 1, (6, 5, 1))], axis=2)
    rows = some_rows(6, points.reshape(6, 15))
    found = result("pose", Letterbox.fit(source, INPUT, rule), outputs(rows))
    assert isinstance(found, Detections)
    want = oracle.to_source(points[:, :, :2], source, INPUT, rule)
    assert found.keypoints.dtype == np.float32
    np.testing.assert_allclose(found.keypoints[:, :, :2], want, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(found.keypoints[:, :, 2], points[:, :, 2].astype(np.float32))
    np.testing.assert_allclose(
        found.xyxy, oracle.boxes_to_source(rows[:, :4], source, INPUT, rule), rtol=1e-5, atol=1e-3
    )
    assert (found.keypoints[:, :, 0] < 0).any(), "a point may lie outside the picture"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rule", RULES)
def test_masks(source: tuple[int, int], rule: str):
    height, width = INPUT
    prototypes, rng = waves(4, (height // 4, width // 4)), np.random.default_rng(3)
    rows = some_rows(16, rng.normal(0, 1, (16, 4)))
    found = result("segment", Letterbox.fit(source, INPUT, rule), outputs(rows, prototypes=prototypes))
    assert found.mask.shape == (16, *source)
    assert found.mask.dtype == np.bool_
    checked = 0
    for mask, row, box in zip(found.mask, rows, found.xyxy, strict=True):
        values = oracle.mask_values(row[6:], prototypes, source, INPUT, rule)
        area = oracle.inside(box, source)
        want = (values > 0) & area
        assert not (mask & ~area).any(), "nothing outside the box"
        sure = np.abs(values) > 1e-5  # nearer to 0, float32 may fall on either side
        np.testing.assert_array_equal(mask[sure], want[sure])
        assert (~sure).sum() < 1e-3 * mask.size + 2
        if want.sum() > 100:
            assert (mask & want).sum() / (mask | want).sum() > 0.99
            checked += 1
    assert checked > 2 or source in [(33, 47), (7, 5)]


def test_a_mask_covers_what_the_network_saw():
    """A disc in a picture, seen through the letterbox by prototypes that are the disc, comes back where it was."""
    source, centre, radius = (360, 640), (400, 150), 70
    picture = np.zeros((*source, 3), np.uint8)
    cv2.circle(picture, centre, radius, (255, 255, 255), -1)
    box = Letterbox.fit(source, INPUT)
    seen = box.apply(picture, np.empty((*INPUT, 3), np.uint8), 0)[:, :, 0]
    prototypes = cv2.resize(seen.astype(np.float32), (INPUT[1] // 4, INPUT[0] // 4), interpolation=cv2.INTER_AREA)
    around = [[centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius]]
    corners = box.forward(np.array(around, np.float32))
    rows = np.column_stack([corners, [[0.9, 1, 1, -127.5]]]).astype(np.float32)
    prototypes = np.stack([prototypes, np.ones_like(prototypes)])
    found = result("segment", box, outputs(rows, prototypes=prototypes))
    disc = picture[:, :, 0] > 0
    assert (found.mask[0] & disc).sum() / (found.mask[0] | disc).sum() > 0.97
    rows_, columns = np.nonzero(found.mask[0])
    assert abs(columns.mean() - centre[0]) < 1
    assert abs(rows_.mean() - centre[1]) < 1


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rule", RULES)
def test_oriented_boxes(source: tuple[int, int], rule: str):
    rows = some_rows(7, np.linspace(-np.pi, np.pi, 7)[:, None])
    found = result("obb", Letterbox.fit(source, INPUT, rule), outputs(rows))
    assert found.xyxyxyxy.dtype == found.xyxy.dtype == np.float32
    for row, corners, upright in zip(rows, found.xyxyxyxy, found.xyxy, strict=True):
        want = oracle.to_source(np.array(oracle.turned(row[:4], float(row[6]))), source, INPUT, rule)
        np.testing.assert_allclose(corners, want, rtol=1e-5, atol=2e-3)
        around = np.clip([*want.min(axis=0), *want.max(axis=0)], 0, [source[1], source[0]] * 2)
        np.testing.assert_allclose(upright, around, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize(("task", "extras"), [("detect", 0), ("pose", 51), ("segment", 32), ("obb", 1)])
def test_nothing_found(task: str, extras: int):
    rows = np.zeros((0, 6 + extras), np.float32)
    more = {"prototypes": np.zeros((32, 24, 32), np.float32)} if task == "segment" else {}
    found = result(task, Letterbox.fit((50, 70), INPUT), outputs(rows, **more))
    assert isinstance(found, Detections)
    assert len(found) == 0
    arrays = {"pose": found.keypoints, "segment": found.mask, "obb": found.xyxyxyxy}
    shapes = {"pose": (0, 17, 3), "segment": (0, 50, 70), "obb": (0, 4, 2)}
    assert {name: a.shape for name, a in arrays.items() if a is not None} == {
        name: shape for name, shape in shapes.items() if name == task
    }


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 6])
def test_a_row_with_a_value_that_is_no_number_is_dropped(column: int, value: float):
    rows = some_rows(4, np.zeros((4, 1)))
    rows[2, column] = value
    found = result("obb", Letterbox.fit((50, 70), INPUT), outputs(rows))
    np.testing.assert_array_equal(found.confidence, rows[[0, 1, 3], 4])


def test_a_box_without_area_has_an_empty_mask():
    rows = some_rows(3, np.ones((3, 4)))
    rows[1, 2:4] = rows[1, :2]
    rows[2, :4] = [-30, -30, -20, -20]  # wholly outside the picture
    found = result(
        "segment", Letterbox.fit((96, 128), INPUT), outputs(rows, prototypes=np.ones((4, 24, 32), np.float32))
    )
    assert found.mask.sum(axis=(1, 2))[1:].tolist() == [0, 0]
    assert found.mask[0].sum() == oracle.inside(found.xyxy[0], (96, 128)).sum() > 0


CROSS = np.array([[20, 40, 80, 50, 0.9, 0, 0], [20, 40, 80, 50, 0.8, 0, np.pi / 2]], np.float32)


def test_the_host_suppresses_what_the_graph_left():
    """Two bars that cross: the same unrotated box, but little in common."""
    rows = np.concatenate([CROSS, CROSS[:1] * [1, 1, 1, 1, 0.5, 1, 1]]).astype(np.float32)
    box = Letterbox.fit(INPUT, INPUT)
    assert result("obb", box, outputs(rows, converged=False)).confidence.tolist() == pytest.approx([0.9, 0.8])
    assert len(result("obb", box, outputs(rows, converged=True))) == 3
    assert len(result("pose", box, outputs(np.pad(rows, ((0, 0), (0, 2))), converged=False))) == 1
    rows[1, 5] = 1
    assert len(result("obb", box, outputs(rows, converged=False), iou=0.01)) == 2
    assert len(result("obb", box, outputs(rows, converged=False), iou=0.01, agnostic=True)) == 1


def test_rows_that_come_unsorted_are_sorted_with_their_extras():
    rows = CROSS[::-1].copy()
    found = result("obb", Letterbox.fit(INPUT, INPUT), outputs(rows, converged=False), iou=0.9)
    assert found.confidence.tolist() == pytest.approx([0.9, 0.8])
    assert np.ptp(found.xyxyxyxy[0, :, 0]) == pytest.approx(60)
    assert np.ptp(found.xyxyxyxy[1, :, 0]) == pytest.approx(10)


def test_whole_pictures():
    box, chances = Letterbox.fit((50, 70), INPUT), np.array([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]], np.float32)
    said = result("classify", box, {"probabilities": chances})
    assert isinstance(said, Classification)
    np.testing.assert_array_equal(said.probabilities, chances[1])
    vector = result("embed", box, {"embedding": chances})
    assert isinstance(vector, Embedding)
    np.testing.assert_array_equal(vector.vector, chances[1])


def test_full_means_that_the_last_row_passes():
    full = outputs(some_rows(4, np.zeros((4, 0))), empty=0)
    last = float(full["detections"][1, -1, 4])
    assert is_full(full, [9.0, last - 0.01])
    assert not is_full(full, [9.0, last])
    assert not is_full(outputs(some_rows(4, np.zeros((4, 0)))), [9.0, 0.0])
    assert not is_full({"probabilities": np.ones((2, 3), np.float32)}, [0.0, 0.0])


def test_nothing_of_the_outputs_is_shared_or_changed():
    found = outputs(some_rows(3, np.zeros((3, 3))))
    for array in found.values():
        array.flags.writeable = False
    kept = result("pose", Letterbox.fit((50, 70), INPUT), found)
    for array in (kept.xyxy, kept.confidence, kept.class_id, kept.keypoints):
        assert array.flags.writeable
        assert not np.shares_memory(array, found["detections"])
