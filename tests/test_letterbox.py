"""eyas.letterbox: the forward map and its inverse are exact, and pixels are written where the map says they are."""

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eyas.errors import OptionError
from eyas.letterbox import Letterbox
from eyas.types import RESIZES, Image, Resize

Size = tuple[int, int]

ANY_SIDE = st.integers(1, 1200)
SOURCES = st.one_of(
    st.tuples(ANY_SIDE, ANY_SIDE),
    st.tuples(st.integers(1, 20), st.integers(1, 8000)),
    st.tuples(st.integers(1, 8000), st.integers(1, 20)),
    st.sampled_from([(1, 1), (8000, 20), (20, 8000), (1, 8000), (8000, 1)]),
)
INPUT_SIDE = st.integers(32, 1280)
TARGETS = st.one_of(INPUT_SIDE.map(lambda s: (s, s)), st.tuples(INPUT_SIDE, INPUT_SIDE))
RULES = st.sampled_from(RESIZES)
KEEPING = st.sampled_from(["letterbox", "letterbox-topleft"])


def noise(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(SOURCES, TARGETS, RULES, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_inverse_undoes_the_forward_map(
    source: Size, target: Size, rule: Resize, shares: list[tuple[float, float]]
) -> None:
    box = Letterbox.fit(source, target, rule)
    xy = np.array(shares) * (source[1], source[0])
    np.testing.assert_allclose(box.inverse(box.forward(xy)), xy, rtol=0, atol=1e-3)
    inside = np.array(shares) * (target[1], target[0])
    np.testing.assert_allclose(box.forward(box.inverse(inside)), inside, rtol=0, atol=1e-3)


@given(SOURCES, TARGETS, RULES)
def test_the_scaled_picture_lies_within_the_input(source: Size, target: Size, rule: Resize) -> None:
    box = Letterbox.fit(source, target, rule)
    for side, room, place in zip(box.resized, target, box.offset, strict=True):
        assert side >= 1
        assert place >= 0
        assert place + side <= room
    if rule in ("stretch", "crop"):
        assert (box.resized, box.offset) == (target, (0, 0))
    elif rule == "letterbox-topleft":
        assert box.offset == (0, 0)
    else:  # centred, and an odd pixel goes below or right
        assert [t - r - 2 * o for t, r, o in zip(target, box.resized, box.offset, strict=True)] in (
            [0, 0],
            [0, 1],
            [1, 0],
            [1, 1],
        )


@given(SOURCES, TARGETS, KEEPING)
@example((1, 8000), (640, 640), "letterbox")
def test_letterboxes_keep_the_aspect_ratio_within_a_pixel_and_fill_one_side(
    source: Size, target: Size, rule: Resize
) -> None:
    box = Letterbox.fit(source, target, rule)
    ratio = min(target[0] / source[0], target[1] / source[1])
    for side, original in zip(box.resized, source, strict=True):
        assert abs(side - original * ratio) < 1
    assert box.resized[0] == target[0] or box.resized[1] == target[1]


@given(SOURCES, TARGETS, RULES)
def test_corners_map_to_the_corners_of_the_scaled_picture(source: Size, target: Size, rule: Resize) -> None:
    box = Letterbox.fit(source, target, rule)
    (top, left), (height, width) = box.offset, box.resized
    y, x, taken_height, taken_width = box.window
    corners = box.forward(np.array([[x, y, x + taken_width, y + taken_height]]))
    np.testing.assert_allclose(corners, [[left, top, left + width, top + height]], rtol=0, atol=1e-6)
    assert corners.dtype == np.float64


def test_the_map_written_out_for_one_case() -> None:
    """600 × 400 in 640 × 640: 1.0666…, 640 × 427, of the 213 rows of padding 106 above."""
    box = Letterbox.fit((400, 600), (640, 640))
    assert (box.resized, box.offset) == ((427, 640), (106, 0))
    assert box.scale == (427 / 400, 640 / 600)
    np.testing.assert_allclose(box.forward(np.array([300.0, 200.0])), [320, 106 + 213.5])
    assert Letterbox.fit((400, 600), (640, 640), "letterbox-topleft").offset == (0, 0)


def own_letterbox(image: Image, target: Size, rule: Resize, pad_value: int) -> Image:
    """Written independently: the whole canvas filled first, the picture pasted on it."""
    height, width = image.shape[:2]
    if rule == "crop":
        share = min(height / target[0], width / target[1])
        h, w = max(1, round(target[0] * share)), max(1, round(target[1] * share))
        image = image[(height - h) // 2 :][:h, (width - w) // 2 :][:, :w]
        height, width = h, w
    if rule in ("stretch", "crop"):
        new_h, new_w = target
    else:
        ratio = min(target[0] / height, target[1] / width)
        new_h, new_w = max(1, round(height * ratio)), max(1, round(width * ratio))
    scaled = image
    if (new_h, new_w) != (height, width):
        shrinks = rule == "crop" and new_h < height
        scaled = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    canvas = np.full((*target, 3), pad_value, np.uint8)
    top, left = ((target[0] - new_h) // 2, (target[1] - new_w) // 2) if rule == "letterbox" else (0, 0)
    canvas[top : top + new_h, left : left + new_w] = scaled
    return canvas


SMALL = st.one_of(st.tuples(st.integers(1, 160), st.integers(1, 160)), st.sampled_from([(1, 1), (1, 900), (900, 1)]))
SMALL_TARGETS = st.tuples(st.integers(32, 160), st.integers(32, 160))


@settings(deadline=None)
@given(SMALL, SMALL_TARGETS, RULES, st.integers(0, 255), st.integers(0, 9))
@example((48, 64), (48, 64), "letterbox", 114, 0)
def test_apply_writes_every_pixel_and_equals_an_independent_letterbox(
    source: Size, target: Size, rule: Resize, pad_value: int, seed: int
) -> None:
    image = noise(*source, seed)
    before = image.copy()
    image.flags.writeable = False
    expected = own_letterbox(image, target, rule, pad_value)
    box = Letterbox.fit(source, target, rule)
    for garbage in (0, 255):  # a pixel that is left out shows in at least one of the two
        out = np.full((*target, 3), garbage, np.uint8)
        assert box.apply(image, out, pad_value) is out
        np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("rule", RESIZES)
def test_apply_takes_pictures_and_canvases_of_any_memory_layout(rule: Resize) -> None:
    image = noise(60, 90)
    batch = np.full((3, 64, 96, 3), 7, np.uint8)
    for view in (image[::2, ::3], image[..., ::-1], image[::-1, ::-1], image.transpose(1, 0, 2), image[:, :1]):
        box = Letterbox.fit(view.shape[:2], (64, 96), rule)
        box.apply(view, batch[1])
        np.testing.assert_array_equal(batch[1], own_letterbox(np.ascontiguousarray(view), (64, 96), rule, 114))
    assert (batch[[0, 2]] == 7).all()  # the neighbours in the batch


def test_padding_is_114_unless_told() -> None:
    out = np.empty((40, 80, 3), np.uint8)
    Letterbox.fit((10, 10), (40, 80)).apply(np.zeros((10, 10, 3), np.uint8), out)
    assert (out[:, :20] == 114).all()
    assert (out[:, 60:] == 114).all()
    assert (out[:, 20:60] == 0).all()


@pytest.mark.parametrize("rule", [r for r in RESIZES if r != "crop"])
@pytest.mark.parametrize("source", [(300, 400), (401, 299), (97, 640), (900, 700)])
@pytest.mark.parametrize("target", [(416, 416), (320, 512)])
def test_a_bright_square_seen_in_the_input_maps_back_onto_itself(source: Size, target: Size, rule: Resize) -> None:
    square = np.array([30, 20, 90, 70], np.float32)
    image = np.zeros((*source, 3), np.uint8)
    image[20:70, 30:90] = 255
    box = Letterbox.fit(source, target, rule)
    seen = box.apply(image, np.empty((*target, 3), np.uint8), pad_value=0)[..., 0] >= 128
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    found = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    sy, sx = box.scale
    # An edge is found to the half of one input pixel, which covers 1/scale source pixels where the picture shrinks.
    margin = np.maximum(1, 0.5 / np.array([sx, sy, sx, sy]) + 0.01)
    assert (np.abs(box.boxes_to_source(found)[0] - square) <= margin).all()


def test_boxes_are_clipped_to_the_picture() -> None:
    box = Letterbox.fit((100, 200), (64, 64))
    wild = np.array([[-50, -50, 500, 500], [0, 16, 32, 48], [-9, -9, -5, -5]], np.float32)
    clipped = box.boxes_to_source(wild)
    np.testing.assert_allclose(clipped, [[0, 0, 200, 100], [0, 0, 100, 100], [0, 0, 0, 0]], atol=1e-4)
    assert clipped.dtype == np.float32
    np.testing.assert_allclose(box.inverse(wild)[0], [-156.25, -206.25, 1562.5, 1512.5])  # the inverse does not clip
    assert wild[0, 0] == -50  # only read


def test_no_boxes_are_no_boxes() -> None:
    box = Letterbox.fit((100, 200), (64, 64))
    assert box.boxes_to_source(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert box.forward(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ((0, 10), (64, 64), "letterbox"),
        ((10, 0), (64, 64), "stretch"),
        ((10, -1), (64, 64), "letterbox"),
        ((10, 10), (0, 64), "letterbox-topleft"),
        ((10, 10), (64, -64), "letterbox"),
        ((10, 10), (64, 64), "centre"),
        ((10, 10), (64, 64), ""),
    ],
)
def test_wrong_sizes_and_rules_are_refused(source: Size, target: Size, rule: Resize) -> None:
    with pytest.raises(OptionError) as caught:
        Letterbox.fit(source, target, rule)
    message = str(caught.value)
    assert f"got picture {source}, input {target}, rule {rule!r}" in message
    assert "letterbox | letterbox-topleft | stretch" in message


@given(SOURCES, TARGETS, st.floats(0.01, 1))
def test_a_crop_is_the_middle_of_the_picture_at_the_inputs_aspect(source: Size, target: Size, crop: float) -> None:
    box = Letterbox.fit(source, target, "crop", crop)
    top, left, height, width = box.window
    assert 0 <= top <= source[0] - height
    assert 0 <= left <= source[1] - width
    assert abs(2 * top + height - source[0]) <= 1
    assert abs(2 * left + width - source[1]) <= 1
    share = crop * min(source[0] / target[0], source[1] / target[1])  # source pixels an input pixel
    for taken, side in zip((height, width), target, strict=True):
        assert abs(taken - max(1, side * share)) <= 0.5 + 1e-9  # where it is a half, either is right


def test_imagenets_crop_is_that_of_pillow_within_the_smoothing() -> None:
    """Resize the shorter side to 256, cut 224 × 224 from the middle, as torchvision does it with Pillow."""
    image = cv2.GaussianBlur(noise(480, 640), (0, 0), 3)
    pil = PIL.Image.fromarray(image).resize((341, 256), PIL.Image.Resampling.BILINEAR)
    wanted = np.asarray(pil)[16:240, 58:282].astype(int)
    box = Letterbox.fit((480, 640), (224, 224), "crop", 0.875)
    got = box.apply(image, np.empty((224, 224, 3), np.uint8)).astype(int)
    assert np.abs(got - wanted).mean() < 2
    assert np.abs(got - wanted).max() <= 12
