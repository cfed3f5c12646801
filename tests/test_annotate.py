"""Pictures are drawn on as documented: exact pixels of the boxes, labels within the picture, the input untouched."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from eyas import annotate
from eyas.annotate import OKABE_ITO, UNICODE, Pen, class_colour, draw, ink, place_label
from eyas.errors import OptionError, SourceError
from eyas.nms import rotated_corners
from eyas.results import Classification, Detections, Embedding
from eyas.skeleton import COCO_LIMBS, SIDE_BGR
from eyas.types import Image

NAMES = ("person", "кошка", "猫", "bad\ud800\nname", "x" * 3000)
SKY_BLUE = [233, 180, 86]  # class 0 in BGR
ORANGE = [0, 159, 230]


@pytest.fixture(autouse=True)
def _fresh_labels() -> Iterator[None]:
    """None that a test before or after wrote otherwise."""
    annotate._tile.cache_clear()
    yield
    annotate._tile.cache_clear()


def found(*rows: list[float], ids: list[int] | None = None) -> Detections:
    """Rows of x1, y1, x2, y2, confidence, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    tracker_id = None if ids is None else np.array(ids)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), NAMES, tracker_id)


def grey(height: int, width: int) -> Image:
    return np.full((height, width, 3), 77, np.uint8)


def coloured(picture: Image, colour: list[int]) -> np.ndarray:
    return (picture == colour).all(axis=2)


def inked(picture: Image) -> np.ndarray:
    """Pixels of black text: dark, also where anti-aliased (one-pixel strokes are never quite black), and not grey."""
    return (picture.max(axis=2) < 150) & ~coloured(picture, [77, 77, 77])


def test_a_box_of_one_pixel_outlines_exactly_the_pixels_it_covers() -> None:
    expected = grey(40, 50)
    expected[10:31, 5:26] = SKY_BLUE
    expected[11:30, 6:25] = 77
    drawn = draw(grey(40, 50), found([5, 10, 26, 31, 0.9, 0]), labels=False, line_width=1)
    np.testing.assert_array_equal(drawn, expected)


def test_a_thick_line_is_centred_on_the_edge_and_stays_in_the_picture() -> None:
    drawn = draw(grey(60, 60), found([20, 20, 40, 40, 0.9, 0]), labels=False, line_width=4)
    np.testing.assert_array_equal(np.flatnonzero(coloured(drawn, SKY_BLUE)[30]), [18, 19, 20, 21, 38, 39, 40, 41])
    drawn = draw(grey(60, 60), found([-9, -9, 99, 99, 0.9, 0]), labels=False, line_width=3)
    np.testing.assert_array_equal(np.flatnonzero(coloured(drawn, SKY_BLUE)[30]), [0, 1, 2, 57, 58, 59])


def test_a_box_thinner_than_its_line_is_filled() -> None:
    expected = grey(60, 60)
    expected[18:42, 28:34] = SKY_BLUE
    drawn = draw(grey(60, 60), found([30, 20, 32, 40, 0.9, 0]), labels=False, line_width=5)
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("first", [0, 1])
def test_the_more_confident_box_and_label_are_on_top(first: int) -> None:
    rows = [[20, 40, 120, 120, 0.9, 0], [20, 40, 120, 120, 0.3, 1]]
    drawn = draw(grey(160, 200), found(rows[first], rows[1 - first]))
    assert coloured(drawn, SKY_BLUE)[80, 20]
    assert coloured(drawn, SKY_BLUE)[30].any(), "the best label is above its box"
    assert coloured(drawn, ORANGE).any(), "the other label has moved to where it can be read"


def test_the_input_is_not_written_to_and_the_result_is_its_own() -> None:
    image = grey(100, 100)
    image.flags.writeable = False
    drawn = draw(image[:, ::-1], found([10, 30, 90, 90, 0.9, 0]))
    assert (image == 77).all()
    assert drawn.flags.c_contiguous
    assert not np.shares_memory(drawn, image)
    assert not coloured(drawn, [77, 77, 77]).all()


def test_without_objects_the_picture_stays_as_it_is() -> None:
    np.testing.assert_array_equal(draw(grey(50, 50), Detections.empty(NAMES)), grey(50, 50))


@pytest.mark.parametrize("size", [100, 500, 3000])
def test_the_label_grows_with_the_picture(size: int) -> None:
    box = [0.1 * size, 0.5 * size, 0.9 * size, 0.9 * size, 0.87, 0]
    plain, labelled = (draw(grey(size, size), found(box), labels=labels) for labels in (False, True))
    rows = np.flatnonzero((plain != labelled).any(axis=(1, 2)))
    height = len(rows)
    assert max(15, 0.02 * size) <= height <= max(16, 0.05 * size)
    assert rows[-1] < box[1], "it is above the box"
    black = inked(labelled)
    assert black.sum() > 0.05 * height**2, "there is text on it"


def test_the_tracker_s_number_is_written() -> None:
    box = [10.0, 100, 390, 390, 0.87, 0]
    plain, numbered = draw(grey(400, 400), found(box)), draw(grey(400, 400), found(box, ids=[12]))
    assert coloured(numbered, SKY_BLUE)[90].sum() > coloured(plain, SKY_BLUE)[90].sum()


@pytest.mark.parametrize(
    "box", [[0, 0, 60, 60], [240, 0, 300, 60], [0, 240, 60, 300], [240, 240, 300, 300], [0, 0, 300, 300]]
)
def test_labels_stay_in_the_picture(box: list[float]) -> None:
    apart = draw(grey(300, 300), found([100, 100, 160, 160, 0.87, 0]))
    whole = draw(grey(300, 300), found([*box, 0.87, 0]))
    text = inked(apart).sum()
    assert text > 100
    assert inked(whole).sum() == text, "as much ink as on a label with room on every side"


def test_labels_do_not_cover_each_other_where_there_is_room() -> None:
    rows = [[50, 100, 250, 250, 0.9 - i / 10, 0] for i in range(4)]
    one = inked(draw(grey(300, 300), found(rows[0]))).sum()
    shapes = [inked(draw(grey(300, 300), found(*rows[:n]))).sum() for n in (2, 3, 4)]
    assert shapes == pytest.approx([2 * one, 3 * one, 4 * one], rel=0.15)


def test_a_label_wider_than_the_picture_is_cut_at_its_edge() -> None:
    box = [20.0, 60, 80, 90, 0.9, 4]
    cut, whole = (draw(grey(100, width), found(box))[:60] for width in (100, 2000))  # what is above the box
    assert coloured(cut, list(class_colour(4)))[:, 99].any()
    np.testing.assert_array_equal(cut, whole[:, 20:120])


@pytest.mark.parametrize("name", ["ggjjpqy", "ÅÉÎ|"])
def test_letters_do_not_reach_over_their_label(name: str) -> None:
    one = replace(found([50, 100, 250, 250, 0.9, 0]), names=(name,))
    rows, columns = np.nonzero((draw(grey(300, 300), one) != draw(grey(300, 300), one, labels=False)).any(axis=2))
    pen = Pen.fitting(grey(300, 300))
    assert pen is not None
    label = pen.label(name, " 0.90", (255, 255, 255), 300)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == label.shape[:2]


def test_a_label_takes_the_first_place_that_is_free() -> None:
    taken: list[tuple[int, ...]] = []
    for top in (40, 50, 90):  # above the box, inside it, below it
        assert place_label([50, 50, 90, 90], (10, 30), 0, (200, 200), taken) == (50, top, 80, top + 10)
        taken.append((0, top, 200, top + 10))


def test_where_no_place_is_free_a_label_covers_the_fewest_pixels() -> None:
    taken = [(0, 0, 200, 200), (0, 0, 200, 55), (55, 0, 90, 200)]
    assert place_label([50, 50, 90, 90], (10, 30), 0, (200, 200), taken) == (50, 90, 80, 100), "below"
    taken.append((50, 90, 60, 200))
    assert place_label([50, 50, 90, 90], (10, 30), 0, (200, 200), taken) == (60, 90, 90, 100), "and to the left"


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 1), (64, 64), (40, 3000)])
def test_no_shape_and_no_box_crashes(shape: tuple[int, int]) -> None:
    height, width = shape
    rows = [[0, 0, width, height, 0.9, 0], [-9, -9, 1e9, 1e9, 0.5, 3], [np.nan, np.inf, -np.inf, 3, 0.4, 4]]
    drawn = draw(grey(*shape), found(*rows, [9, 9, 2, 2, 0.3, 99], [0, 0, 0, 0, 0.3, 2], ids=[1, 2, 3, 4, 5]))
    assert drawn.shape == (*shape, 3)
    assert coloured(drawn, SKY_BLUE).any()


@pytest.mark.skipif(not UNICODE, reason="OpenCV 4 writes ASCII only")
def test_letters_beyond_ascii_are_drawn_and_not_replaced() -> None:
    drawn = [draw(grey(200, 300), found([20, 50, 280, 190, 0.9, i]))[:50] for i in (1, 2)]
    question = Detections(np.float32([[20, 50, 280, 190]]), np.float32([0.9]), np.array([2]), ("", "", "?"))
    assert (drawn[1] != draw(grey(200, 300), question)[:50]).any()
    assert len({d.tobytes() for d in drawn}) == 2


def test_opencv_4_writes_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("eyas.annotate.UNICODE", False)
    monkeypatch.setattr(cv2, "putText", lambda tile, text, *rest: written.append(text))
    draw(grey(200, 300), found([20, 50, 280, 190, 0.9, 1]))
    assert written == ["????? 0.90"]


def test_a_label_that_comes_again_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw(grey(200, 300), found([20, 50, 280, 190, 0.9, 0]))
    monkeypatch.setattr(cv2, "putText", lambda *_: pytest.fail("written again"))
    np.testing.assert_array_equal(draw(grey(200, 300), found([20, 50, 280, 190, 0.9, 0])), first)


def test_colours_are_fixed_and_told_apart() -> None:
    assert class_colour(0) == OKABE_ITO[0][::-1] == tuple(SKY_BLUE)
    lab = cv2.cvtColor(np.float32([[class_colour(i) for i in range(20)]]) / 255, cv2.COLOR_BGR2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab, axis=2) + 1000 * np.eye(20)
    assert apart.min() > 25
    assert len({class_colour(i) for i in range(-5, 500)}) > 450


def test_text_contrasts_with_every_colour() -> None:
    def luminance(bgr: tuple[int, ...]) -> float:
        c = np.array(bgr) / 255
        return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.0722, 0.7152, 0.2126))

    assert (ink((255, 255, 255)), ink((0, 0, 0))) == ((0, 0, 0), (255, 255, 255))
    for colour in map(class_colour, range(200)):
        dark, light = sorted([luminance(colour), luminance(ink(colour))])
        assert (light + 0.05) / (dark + 0.05) >= 4.5


# Masks


def with_masks(detections: Detections, *areas: tuple[slice, slice], size: tuple[int, int] = (100, 120)) -> Detections:
    masks = np.zeros((len(areas), *size), np.bool_)
    for mask, area in zip(masks, areas, strict=True):
        mask[area] = True
    return replace(detections, mask=masks)


def tinted(colour: list[int]) -> list[int]:
    return [round(0.55 * 77 + 0.45 * c) for c in colour]


def test_a_mask_tints_what_it_covers_and_nothing_else() -> None:
    area = (slice(30, 70), slice(40, 90))
    drawn = draw(grey(100, 120), with_masks(found([5, 5, 115, 95, 0.9, 0]), area), labels=False, line_width=1)
    expected = draw(grey(100, 120), found([5, 5, 115, 95, 0.9, 0]), labels=False, line_width=1)
    expected[area] = tinted(SKY_BLUE)
    outline = np.zeros((100, 120), np.bool_)  # and what its anti-aliasing may reach
    outline[29:71, 39:91] = True
    outline[32:68, 42:88] = False
    np.testing.assert_array_equal(drawn[~outline], expected[~outline])
    brighter = drawn[30:70, 40].astype(int) - expected[30:70, 40]
    assert (brighter[:, 0] > 40).all(), "the outline is in the full colour"


def test_a_hole_in_a_mask_stays_as_it_is_and_has_an_outline() -> None:
    one = with_masks(found([0, 0, 120, 100, 0.9, 0]), (slice(20, 80), slice(20, 100)))
    one.mask[0, 40:60, 40:80] = False  # type: ignore[index]
    drawn = draw(grey(100, 120), one, labels=False)
    assert coloured(drawn, [77, 77, 77])[41:59, 41:79].all()
    assert (drawn[39, 45:75, 0] > tinted(SKY_BLUE)[0] + 40).all()
    assert coloured(drawn, tinted(SKY_BLUE))[30, 25:95].all()


@pytest.mark.parametrize("first", [0, 1])
def test_the_more_confident_mask_is_on_top_in_its_own_colour(first: int) -> None:
    rows = [[0, 0, 120, 100, 0.9, 0], [0, 0, 120, 100, 0.3, 1]]
    areas = (slice(20, 80), slice(20, 70)), (slice(20, 80), slice(50, 100))
    both = with_masks(found(*rows), *areas)[[first, 1 - first]]
    drawn = draw(grey(100, 120), both, labels=False)
    assert coloured(drawn, tinted(SKY_BLUE))[22:78, 22:68].all()
    assert coloured(drawn, tinted(ORANGE))[22:78, 72:98].all()


def test_boxes_are_over_masks() -> None:
    rows = [[0, 0, 120, 100, 0.9, 0], [30, 30, 60, 60, 0.3, 1]]
    everywhere = (slice(None), slice(None))
    drawn = draw(grey(100, 120), with_masks(found(*rows), everywhere, everywhere), labels=False, line_width=1)
    assert coloured(drawn, ORANGE)[30, 30:60].all()


def test_masks_of_another_picture_are_refused() -> None:
    masks = with_masks(found([0, 0, 9, 9, 0.9, 0]), (slice(9), slice(9)))
    with pytest.raises(
        OptionError, match=r"masks are of another picture: got 120 × 100 pixels; expected 60 × 50 pixels"
    ):
        draw(grey(50, 60), masks)
    np.testing.assert_array_equal(draw(grey(50, 60), masks[:0]), grey(50, 60))


# Key points


def posed(points: Any, box: tuple[float, ...] = (0, 0, 400, 400)) -> Detections:
    """One object of class 0 with these key points x, y, score."""
    return replace(found([*box, 0.9, 0]), keypoints=np.array([points], np.float32))


def changes(points: Any, size: tuple[int, int] = (400, 400), **options: Any) -> np.ndarray:
    """Pixels that the key points change, bool [H, W]."""
    with_points = draw(grey(*size), posed(points, (0, 0, *size[::-1])), labels=False, **options)
    return (with_points != draw(grey(*size), posed(np.zeros((1, 3)), (0, 0, *size[::-1])), labels=False)).any(axis=2)


# Seen from the front: the person's left is on the right of the picture.
PERSON = np.float32(
    [
        *([200, 60], [215, 50], [185, 50], [235, 60], [165, 60]),
        *([260, 120], [140, 120], [290, 190], [110, 190], [300, 260], [100, 260]),
        *([235, 250], [165, 250], [240, 320], [160, 320], [245, 385], [155, 385]),
    ]
)


def person(**scores: float) -> np.ndarray:
    """COCO's 17 points; p5=0.2 gives point 5 another score than 1."""
    points = np.hstack([PERSON, np.ones((17, 1), np.float32)])
    for name, score in scores.items():
        points[int(name[1:]), 2] = score
    return points


def test_a_person_is_a_skeleton_with_a_colour_per_side() -> None:
    points = person() * (3, 3, 1)
    drawn = draw(grey(1200, 1200), posed(points, (0, 0, 1200, 1200)), labels=False)
    limbs = {(5, 7): "left", (14, 16): "right", (5, 6): "middle", (1, 2): "middle", (0, 1): "left", (4, 6): "right"}
    for (a, b), side in limbs.items():
        x, y = ((points[a] + points[b]) / 2).astype(int)[:2]
        assert (b, a) in COCO_LIMBS or (a, b) in COCO_LIMBS
        assert coloured(drawn[y - 2 : y + 3, x - 2 : x + 3], list(SIDE_BGR[side])).any(), (a, b)
    for i, (x, y, _) in enumerate(points.astype(int)):
        side = "middle" if i == 0 else ("right", "left")[i % 2]
        assert coloured(drawn, list(SIDE_BGR[side]))[y, x], i


def test_the_skeleton_joins_every_point_to_the_rest() -> None:
    assert len({frozenset(limb) for limb in COCO_LIMBS}) == 19
    reached = {0}
    for _ in COCO_LIMBS:
        reached |= {p for limb in COCO_LIMBS if reached & set(limb) for p in limb}
    assert reached == set(range(17))


def test_a_weak_point_is_left_out_with_its_limbs() -> None:
    x, y = PERSON[9].astype(int)  # the left wrist, the end of one limb
    box = np.s_[y - 25 : y + 25, x - 15 : x + 15]
    assert changes(person())[box].any()
    for score in (0.5, 0.2, np.nan):
        assert not changes(person(p9=score))[box].any(), score
    assert changes(person(p9=0.51))[box].any()
    assert changes(person(p9=0.2), point_score=0.1)[box].any()
    assert not changes(person(p9=0.9), point_score=0.95)[box].any()
    assert changes(person(p9=0.2))[PERSON[7, 1].astype(int), PERSON[7, 0].astype(int)], "the elbow stays"


def test_points_that_are_nowhere_are_left_out() -> None:
    for place in ([np.nan, 60], [60, np.inf], [np.nan, np.nan]):
        points = person()
        points[9, :2] = place
        np.testing.assert_array_equal(changes(points), changes(person(p9=0)))


@pytest.mark.parametrize("number", [1, 2, 6, 16, 18])
def test_other_numbers_of_points_are_dots_in_the_object_s_colour(number: int) -> None:
    points = [[20 + 20 * i, 200 + 5 * i, 1] for i in range(number)]
    drawn = draw(grey(400, 400), posed(points), labels=False)
    dots, _ = cv2.connectedComponents(changes(points).astype(np.uint8))
    assert dots - 1 == number
    assert all(coloured(drawn, SKY_BLUE)[y, x] for x, y, _ in points)


def test_a_face_is_five_dots_that_tell_the_sides_apart() -> None:
    points = [[150, 150, 1], [250, 150, 1], [200, 200, 1], [160, 250, 1], [240, 250, 1]]
    drawn = draw(grey(400, 400), posed(points), labels=False)
    dots, _ = cv2.connectedComponents(changes(points).astype(np.uint8))
    assert dots - 1 == 5
    sides = [next(side for side, c in SIDE_BGR.items() if coloured(drawn, list(c))[y, x]) for x, y, _ in points]
    assert sides == ["right", "left", "middle", "right", "left"], "of the person"


def test_a_dot_is_where_the_point_is() -> None:
    """Point (200, 100) is the corner where four pixels meet: the dot is symmetric about it, also by half pixels."""
    for x, y in ((200, 100), (200.5, 100.5), (150, 100.5)):
        rows, columns = np.nonzero(changes([[x, y, 1], [300, 300, 1]])[:200])
        assert (columns.mean() + 0.5, rows.mean() + 0.5) == (pytest.approx(x, abs=0.1), pytest.approx(y, abs=0.1))


def test_dots_grow_with_the_picture_and_the_object() -> None:
    def dot(size: int, object_share: float = 1) -> int:
        point, box = [[size / 2, size / 2, 1]], (0, 0, object_share * size, object_share * size)
        pictures = [draw(grey(size, size), posed(p, box), labels=False) for p in (point, [[0, 0, 0]])]
        return int((pictures[0] != pictures[1]).any(axis=2).sum())

    small, large, huge = dot(100), dot(1000), dot(3000)
    assert 9 <= small < large < huge < 0.002 * 3000**2
    assert 9 <= dot(1000, 0.05) < large


# Oriented boxes


def turned(box: list[float], degrees: float) -> Detections:
    """One object of class 0; its upright box encloses the turned one."""
    corners = rotated_corners(np.float32([box]), np.float32([np.deg2rad(degrees)]))
    upright = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    return replace(found([0, 0, 9, 9, 0.9, 0]), xyxy=upright, xyxyxyxy=corners.astype(np.float32))


def test_an_oriented_box_is_drawn_in_place_of_the_upright_one() -> None:
    one = turned([50, 80, 150, 120], 30)
    drawn = draw(grey(200, 200), one, labels=False, line_width=4)
    assert one.xyxyxyxy is not None
    corners = one.xyxyxyxy[0]
    for middle in (corners + np.roll(corners, 1, axis=0)) / 2:
        x, y = middle.round().astype(int)
        assert coloured(drawn, SKY_BLUE)[y - 1 : y + 1, x - 1 : x + 1].any()
    x1, y1 = one.xyxy[0, :2].astype(int)
    assert coloured(drawn, [77, 77, 77])[y1 - 2 : y1 + 8, x1 - 2 : x1 + 8].all(), "no upright corner"
    assert coloured(drawn, [77, 77, 77])[100, 100]


def test_a_box_that_is_not_turned_is_centred_on_the_same_edges() -> None:
    level = turned([20, 30, 80, 60], 0)
    for width in (1, 2, 3, 4):
        row = draw(grey(100, 100), level, labels=False, line_width=width)[45, :, 0].astype(int) - 77
        edges = [np.average(np.arange(50) + 0.5, weights=row[half]) for half in (slice(0, 50), slice(99, 49, -1))]
        assert edges == pytest.approx([20, 20], abs=0.1)
        assert row.sum() / 2 / (SKY_BLUE[0] - 77) == pytest.approx(width, abs=1.5), "about as wide as asked for"


def level_box(one: Detections) -> Detections:
    return replace(one, xyxyxyxy=None)


def test_the_label_is_at_the_upright_box() -> None:
    one = turned([100, 200, 300, 240], 45)
    labelled, plain = (draw(grey(400, 400), one, labels=labels) for labels in (True, False))
    rows, columns = np.nonzero((labelled != plain).any(axis=2))
    x1, y1 = one.xyxy[0, :2]
    assert rows.max() < y1
    assert y1 - rows.max() < 6
    assert abs(columns.min() - x1) < 6


def test_an_oriented_box_with_a_corner_that_is_nowhere_is_drawn_upright() -> None:
    one = turned([50, 80, 150, 120], 30)
    one.xyxyxyxy[0, 2, 0] = np.nan  # type: ignore[index]
    drawn = draw(grey(200, 200), one, labels=False, line_width=2)
    np.testing.assert_array_equal(drawn, draw(grey(200, 200), level_box(one), labels=False, line_width=2))


def test_a_thin_oriented_box_has_a_thin_line() -> None:
    drawn = draw(grey(900, 900), turned([100, 440, 800, 450], 45), labels=False)
    thick = draw(grey(900, 900), turned([100, 340, 800, 550], 45), labels=False)
    assert (drawn[450] != 77).any(axis=1).sum() < (thick[450] != 77).any(axis=1).sum()


# Classification


CLASSES = Classification(np.float32([0.02, 0.6, 0.2, 0.1, 0.05, 0.03]), ("a", "cat", "dog", "hen", "cow", "pig"))


def written(monkeypatch: pytest.MonkeyPatch, image: Image, result: Classification) -> list[str]:
    lines: list[str] = []
    real = cv2.putText
    monkeypatch.setattr(cv2, "putText", lambda tile, text, *rest: (lines.append(text), real(tile, text, *rest)))
    draw(image, result)
    return lines


def test_the_top_five_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written(monkeypatch, grey(300, 300), CLASSES)
    assert lines == ["cat 0.60", "dog 0.20", "hen 0.10", "cow 0.05", "pig 0.03"]


@pytest.mark.parametrize("size", [120, 500, 3000])
def test_the_panel_is_at_the_upper_left_and_grows_with_the_picture(size: int) -> None:
    white = np.full((size, size, 3), 255, np.uint8)
    changed = (draw(white, CLASSES) != white).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (rows[0], columns[0]) == (0, 0)
    assert max(70, 0.08 * size) < len(rows) < max(90, 0.3 * size)
    assert len(columns) < 0.7 * size
    panel = draw(white, CLASSES)[: len(rows), : len(columns)]
    assert 0.03 < (panel > 200).mean() < 0.4, "there is text on it"
    assert np.median(panel) <= 77, "and it is dark, also on a white picture"
    black = draw(np.zeros_like(white), CLASSES)
    assert (black[: len(rows), : len(columns)] > 200).mean() > 0.03


def test_a_picture_with_little_room_has_fewer_lines_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(monkeypatch, grey(60, 300), CLASSES) == ["cat 0.60", "dog 0.20", "hen 0.10"]
    for shape in ((1, 1), (44, 300), (300, 44)):
        np.testing.assert_array_equal(draw(grey(*shape), CLASSES), grey(*shape))
    np.testing.assert_array_equal(draw(grey(300, 300), CLASSES, labels=False), grey(300, 300))


@pytest.mark.parametrize("unicode", [True, False])
def test_a_name_too_long_is_cut_and_its_probability_stays(monkeypatch: pytest.MonkeyPatch, unicode: bool) -> None:
    monkeypatch.setattr("eyas.annotate.UNICODE", unicode)
    long = Classification(np.float32([0.9, 0.1]), ("ice cream " * 99, "bad\ud800\nname"))
    first, second = written(monkeypatch, grey(100, 160), long)
    assert first.startswith("ice cream")
    assert first.endswith("… 0.90" if unicode else "... 0.90")
    assert len(first) < 45
    assert second == "bad??name 0.10"


# All of them


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (64, 64), (40, 300)])
@pytest.mark.parametrize("points", [0, 1, 5, 17])
def test_no_shape_and_no_coordinate_crashes(shape: tuple[int, int], points: int) -> None:
    rows = [[0, 0, 9, 9, 0.9, 0], [np.nan] * 4 + [np.nan, -7], [-9, -9, 1e9, 1e9, 0.5, 10**9], [9, 9, 2, 2, 0.3, 3]]
    rng = np.random.default_rng(0)
    xy = rng.choice(np.float32([0, 30, -5, 1e9, -3e38, np.nan, np.inf, -np.inf]), (4, points, 2))
    keypoints = np.concatenate([xy, rng.choice(np.float32([1, 1, np.nan]), (4, points, 1))], axis=2)
    corners = np.float32([[[0, 0], [1e9, 3], [30, 30], [-3e38, 9]], *np.full((3, 4, 2), np.nan)])
    masks = np.ones((4, *shape), np.bool_)
    masks[1:3] = False
    everything = replace(found(*rows), keypoints=keypoints, mask=masks, xyxyxyxy=corners)
    drawn = draw(grey(*shape), everything)
    assert drawn.shape == (*shape, 3)
    assert not coloured(drawn, [77, 77, 77]).all()


@pytest.mark.parametrize("points", [5, 17, 3])
def test_no_objects_with_every_array(points: int) -> None:
    keypoints, masks = np.zeros((0, points, 3), np.float32), np.zeros((0, 50, 60), np.bool_)
    none = replace(Detections.empty(), keypoints=keypoints, mask=masks, xyxyxyxy=np.zeros((0, 4, 2), np.float32))
    np.testing.assert_array_equal(draw(grey(50, 60), none), grey(50, 60))


def test_a_mirrored_read_only_picture_can_be_tinted() -> None:
    """A view with negative strides, which OpenCV does not write to."""
    image = np.arange(50 * 60 * 3, dtype=np.uint8).reshape(50, 60, 3)
    image.flags.writeable = False
    before = image.copy()
    one = with_masks(posed(np.hstack([PERSON / 8, np.ones((17, 1))])), (slice(5, 45), slice(5, 55)), size=(50, 60))
    np.testing.assert_array_equal(draw(image[::-1, ::-1], one), draw(image[::-1, ::-1].copy(), one))
    np.testing.assert_array_equal(image, before)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(OptionError, match="got 0; expected 1 pixel or more"):
        draw(grey(9, 9), Detections.empty(), line_width=0)
    with pytest.raises(SourceError, match="not an image array"):
        draw(np.zeros((9, 9), np.uint8), Detections.empty())
    for score in (-0.1, 1.1, np.nan):
        with pytest.raises(OptionError, match=r"no such point score: got .*; expected a number 0 to 1"):
            draw(grey(9, 9), Detections.empty(), point_score=score)
    with pytest.raises(OptionError, match="got Embedding; expected Detections or Classification"):
        draw(grey(9, 9), Embedding(np.float32([1])))  # type: ignore[arg-type]
