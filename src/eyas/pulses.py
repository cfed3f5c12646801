"""Pictures and predictions of sources that pause, such as cameras: None among them says that nothing new has come.

Where `Model.pulses` meets a None, it hands over what is done, so that no result waits for the next frame.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, TypeVar

from eyas.source import Picture, pictures
from eyas.types import Frame

T = TypeVar("T")


def picture_of(frame: Frame) -> Picture:
    """A frame as a picture, with the index that it has."""
    return Picture(frame.source_id, frame.index, partial(_itself, frame), frame.image)


def _itself(frame: Frame, decode: object = None) -> Frame:
    return frame


def listed(sources: Any, max_pixels: int) -> Iterator[Picture | None]:
    """`pictures`; of a video (`eyas.video`), numbered in the same way, with None wherever a live one pauses."""
    if not hasattr(sources, "pulses"):
        yield from pictures(sources, max_pixels)
        return
    numbers = count()
    for frame in sources.pulses():
        yield None if frame is None else picture_of(replace(frame, index=next(numbers)))


def without_pulses(found: Generator[T | None, None, None]) -> Generator[T, None, None]:
    """What is not None; closes `found`."""
    with closing(found):
        for item in found:
            if item is not None:
                yield item
