"""Trails of tracked objects: which of a track's points they join."""

from typing import Any

import numpy as np
import pytest

from eyas.results import Detections
from eyas.tracking.draw import Painter
from eyas.types import DeviceImage, Image
from eyas.video.frames import VideoFrame


def drawn(painter: Painter, x: float, pts_s: float, y: float = 80) -> Image:
    """An object of 20 pixels, its lower edge at `y`, in a black picture of 100 × 200."""
    box = np.array([[x, 60, x + 20, y]], np.float32)
    found = Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64), ("thing",), np.array([1]))
    return painter.draw(VideoFrame(np.zeros((100, 200, 3), np.uint8), 0, "a", pts_s, 0), found)


def test_a_trail_through_a_point_that_is_nowhere_is_not_drawn_until_that_has_passed() -> None:
    painter = Painter(trail_s=2, labels=False)
    drawn(painter, 20, 0)
    drawn(painter, 20, 1, y=np.nan)
    assert not drawn(painter, 150, 2)[:, 80:140].any()
    drawn(painter, 40, 3)
    assert drawn(painter, 150, 3.5)[80, 60:140].any(axis=1).all()


def test_a_trail_is_bounded_where_times_do_not_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyas.tracking.draw.MOST", 5)
    painter = Painter(labels=False)
    for x in (0, 100, 110, 100, 110):
        drawn(painter, x, 0)
    assert not drawn(painter, 150, 0)[:, 20:90].any(), "the first of six points is forgotten"


def test_points_that_are_close_are_one_of_a_trail_which_still_ends_at_the_object() -> None:
    painter = Painter(labels=False)
    for x in (20, 60, 61, 62, 63, 64, 65):
        picture = drawn(painter, x, 0)
        assert picture[80, 35 : x + 10].any(axis=1).all()
    assert list(painter._trails[1].xy[::2]) == [x * 16 for x in (29.5, 69.5, 71.5, 73.5)]


@pytest.mark.parametrize("masked", [False, True], ids=["boxes", "masks"])
def test_a_frame_on_a_gpu_is_drawn_as_one_on_the_host(masked: bool) -> None:
    image = np.random.default_rng(0).integers(0, 255, (100, 200, 3), np.uint8)
    there: Any = DeviceImage(0, image.shape, 600, 0, None, None, lambda _: image.copy())
    box, mask = np.array([[50, 20, 90, 80]], np.float32), np.zeros((1, 100, 200), bool)
    mask[0, 30:70, 60:80] = True
    found = Detections(
        box, np.ones(1, np.float32), np.zeros(1, np.int64), ("a",), np.array([1]), mask=mask if masked else None
    )
    drawn = [Painter().draw(VideoFrame(pixels, 0, "a", 0.0, 0), found) for pixels in (image, there)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != image).any()
