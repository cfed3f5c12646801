"""Several streams on one picture, side by side, for a window or a browser."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np

from eyas.types import Image
from eyas.video.sink import fitted

SIZE = (1080, 1920)  # height and width of a wall of several, in pixels


class Wall:
    """The newest picture of each stream in a tile of its own; a single stream's as it is. Safe from several threads."""

    def __init__(self, names: Sequence[str], size: tuple[int, int] = SIZE) -> None:
        """names: of the streams, in the order of their tiles, row by row."""
        self._columns = math.ceil(math.sqrt(len(names)))
        rows = math.ceil(len(names) / self._columns)
        self._tile = size[0] // rows, size[1] // self._columns
        self._places = {name: divmod(i, self._columns) for i, name in enumerate(names)}
        self._wall = np.zeros((rows * self._tile[0], self._columns * self._tile[1], 3), np.uint8)
        self._lock = threading.Lock()

    def put(self, name: str, image: Image) -> Image:
        """Hang a new picture up, fitted into its tile; the whole wall, which changes no more."""
        if len(self._places) == 1:
            return image
        tile = fitted(image, self._tile)
        (row, column), (height, width) = self._places[name], self._tile
        with self._lock:
            self._wall[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
            return self._wall.copy()
