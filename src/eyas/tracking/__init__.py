"""Which object is which from frame to frame: trackers, all used alike, and the MOT text format.

    tracker = open_tracker("deepsort", frame_rate=30)
    tracked = tracker.update(detections, frame, pts_s)

A tracker keeps the state of one source and is for one thread.
"""

from __future__ import annotations

from typing import Any, Protocol

from eyas.errors import OptionError, problem
from eyas.results import Detections
from eyas.tracking.options import build
from eyas.types import Image

# name → what it goes by
TRACKERS = {
    "deepsort": "motion, and appearance where detections carry embeddings",
    "sort": "motion and overlap",
    "bytetrack": "motion and overlap; weak detections continue tracks",
    "ocsort": "motion corrected by what was seen; direction",
    "botsort": "as bytetrack; the camera's motion is taken out",
    "cbiou": "overlap of enlarged boxes, for objects that jump",
}


class Tracker(Protocol):
    """What every tracker does. looks: whether `update` must be given the picture too."""

    looks: bool

    def update(self, detections: Detections, frame: Image | None = None, pts_s: float | None = None) -> Detections:
        """The detections of the next frame → those that belong to a confirmed track, with `tracker_id` set.

        Rows keep their order and all else that they hold. tracker_id: int64 [N], from 1, no two alike in a frame, none
        ever given to another object by this tracker. Boxes that are not finite or have no area are left out.
        frame: uint8 [H, W, 3] BGR, where the tracker `looks`; others ignore it.
        pts_s: the frame's time in seconds; counts where the tracker was opened with a frame rate (see `clock`).
        Raises OptionError where pts_s falls.
        """
        ...

    def reset(self) -> None:
        """Forget all tracks, at a cut or a camera's gap; ids go on and are never given again."""
        ...


def open_tracker(name: str, **options: Any) -> Tracker:
    """A tracker by name, one of TRACKERS; options are its own, and frame_rate those of all.

    frame_rate: pictures a second that the options count in. With it, time between frames comes from pts_s, in whole
    frames, so that gaps count; without, each update is one frame.
    Raises OptionError for an unknown name or option or a value out of range, EyasError without the extra `track`.
    """
    if name not in TRACKERS:
        raise OptionError(problem("unknown tracker", got=repr(name), expected=" | ".join(TRACKERS), remedy=""))
    if name == "deepsort":
        from eyas.tracking.deepsort import DeepSort, Settings

        return DeepSort(build(name, Settings, options))
    from eyas.tracking.library import LibraryTracker

    return LibraryTracker(name, options)
