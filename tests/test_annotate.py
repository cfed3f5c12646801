"""Pictures are drawn on as documented: exact pixels of the boxes, labels within the picture, the input untouched."""

import cv2
import numpy as np
import pytest

from eyas.annotate import OKABE_ITO, UNICODE, class_colour, draw, ink
from eyas.errors import OptionError, SourceError
from eyas.types import Detections, Image

NAMES = ("person", "кошка", "猫", "bad\ud800\nname", "x" * 3000)
SKY_BLUE = [233, 180, 86]  # class 0 in BGR
ORANGE = [0, 159, 230]


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


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(OptionError, match="got 0; expected 1 pixel or more"):
        draw(grey(9, 9), Detections.empty(), line_width=0)
    with pytest.raises(SourceError, match="not an image array"):
        draw(np.zeros((9, 9), np.uint8), Detections.empty())
