"""What is written of a followed stream: pictures that several threads draw come out as one thread would draw them."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest

from eyas.results import Detections, Prediction
from eyas.tracking.output import Output
from eyas.types import Image
from eyas.video.frames import VideoFrame
from eyas.video.overlap import WriteBehind


def predictions(count: int) -> list[Prediction]:
    """Three objects that walk, each with its trail, over a noisy picture."""
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (120, 200, 3), dtype=np.uint8)
    at = rng.uniform(20, 90, (3, 2))
    made = []
    for i in range(count):
        at += rng.uniform(-3, 5, at.shape)
        boxes = np.hstack([at, at + 25]).astype(np.float32)
        found = Detections(boxes, np.full(3, 0.5, np.float32), np.arange(3), ("a", "b", "c"), np.arange(1, 4))
        made.append(Prediction("cam", VideoFrame(image, i, "cam", i / 25, 0), found))
    return made


def drawn(count: int, drawers: int) -> list[tuple[Image, float | None]]:
    seen: list[tuple[Image, float | None]] = []
    encoder = WriteBehind(lambda image, pts_s: seen.append((image, pts_s)), "encoder")
    with closing(encoder), closing(Output("cam", encoders=[encoder], drawers=drawers)) as output:
        for prediction in predictions(count):
            output.put(prediction)
    return seen


def test_several_threads_draw_what_one_draws_in_order():
    one, several = drawn(60, 0), drawn(60, 3)
    assert [pts_s for _, pts_s in several] == [i / 25 for i in range(60)]
    for (a, _), (b, _) in zip(one, several, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({image.tobytes() for image, _ in one}) == 60


def test_a_picture_that_cannot_be_drawn_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> Image:
        raise RuntimeError("no brush")

    monkeypatch.setattr("eyas.tracking.draw.draw_objects", fail)
    with pytest.raises(RuntimeError, match="no brush"):
        drawn(20, 3)


def test_no_more_are_drawn_ahead_than_there_are_threads(monkeypatch: pytest.MonkeyPatch):
    """Where the encoder loses what it is too slow for, the frames wait for who draws all the same."""
    go, begun = threading.Event(), threading.Semaphore(0)

    def slow(*_: object) -> None:
        begun.release()
        assert go.wait(60)

    monkeypatch.setattr("eyas.tracking.draw.draw_objects", slow)
    encoder = WriteBehind(lambda image, pts_s: None, "encoder", lossy=True)
    with closing(encoder), closing(Output("cam", encoders=[encoder], drawers=2)) as output:
        for prediction in predictions(6):
            output.put(prediction)
        assert begun.acquire(timeout=60)
        assert begun.acquire(timeout=60)
        assert not begun.acquire(timeout=0.2)
        assert len(output._drawing) <= 2
        go.set()


def test_others_see_the_pictures_in_order_too():
    shown: list[float | None] = []
    with closing(Output("cam", shows=[lambda image, pts_s: shown.append(pts_s)], drawers=3)) as output:
        for prediction in predictions(10):
            output.put(prediction)
    assert shown == [i / 25 for i in range(10)]
