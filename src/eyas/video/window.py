"""A window on the screen, through OpenCV."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType

import cv2

from eyas.errors import BackendError, problem
from eyas.types import Image

LARGEST = (1280, 720)  # width and height of the window at first, in pixels; it can be made larger
QUIT = (ord("q"), ord("Q"), 27)  # 27 is Esc


class Window:
    """Shows the newest picture; a context manager. `show` may come from any thread, all else from one, best the main.

    open: whether it is still there. It ends with q, Esc, or its own button.
    """

    def __init__(self, title: str = "eyas") -> None:
        """Raises BackendError where there is no display, or an OpenCV without windows (opencv-python-headless)."""
        self.title, self.open = title, True
        self._lock = threading.Lock()
        self._image: Image | None = None
        self._sized = False
        check_display(os.environ, sys.platform)
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            got, expected = str(error).strip().splitlines()[0], "an OpenCV that has them, such as opencv-python"
            raise BackendError(problem("OpenCV opens no window", got=got, expected=expected, remedy=_REMEDY)) from error

    def show(self, image: Image) -> None:
        """The picture that the next `poll` shows (uint8 BGR); it must not be changed afterwards."""
        with self._lock:
            self._image = image

    def poll(self) -> bool:
        """Show what is new and look at the keyboard; whether the window is still wanted."""
        with self._lock:
            image, self._image = self._image, None
        if not self.open or (image is None and not self._sized):
            return self.open
        if image is not None:
            if not self._sized:
                height, width = image.shape[:2]
                scale = min(1, LARGEST[0] / width, LARGEST[1] / height)
                cv2.resizeWindow(self.title, round(width * scale), round(height * scale))
                self._sized = True
            cv2.imshow(self.title, image)
        pressed = cv2.waitKey(1) & 0xFF
        if pressed in QUIT or cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1:
            self.open = False
        return self.open

    def close(self) -> None:
        """Take the window away; a second call does nothing."""
        self.open = False
        with suppress(cv2.error):
            cv2.destroyWindow(self.title)

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


_REMEDY = "Without a screen, --serve 8080 (MjpegServer) shows it in a browser."


def check_display(environment: Mapping[str, str], platform: str) -> None:
    """Raise BackendError where no display is named: some builds of OpenCV end the whole process then."""
    named = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    if platform.startswith("linux") and not any(environment.get(name) for name in named):
        got, expected = "neither DISPLAY nor WAYLAND_DISPLAY", "a screen"
        raise BackendError(problem("there is no display for a window", got=got, expected=expected, remedy=_REMEDY))
