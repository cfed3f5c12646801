"""Packets → pictures, by libav on the host. On a GPU: `eyas.cuda.video`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from eyas.errors import EyasError, problem
from eyas.extras import need
from eyas.types import Image

PYAV = 17  # the oldest that works: 14 to 16 crash where options meet a format whose streams appear late (flv)


class BrokenPacket(Exception):
    """A decoder that is not libav's could not use a packet."""


class Decoded(NamedTuple):
    """A picture that has been decoded. size: (height, width) as stored. at: its time on the container's clock, in
    seconds. picture: makes it a uint8 BGR image, upright; to be called before the next packet is decoded.
    """

    size: tuple[int, int]
    at: Fraction | None
    picture: Callable[[], Image]


class Decoder(Protocol):
    """What turns packets (av.Packet) into pictures."""

    def decode(self, packet: Any) -> Sequence[Decoded]:
        """Those that a packet completes, in the order in which they are shown; an empty packet: all that are left.

        Raises BrokenPacket, av.FFmpegError.
        """

    def close(self) -> None:
        """Let go of everything."""


def pyav() -> Any:
    """PyAV. Raises EyasError where it is missing or too old."""
    av = need("av", "video")
    if int(av.__version__.partition(".")[0]) < PYAV:
        expected, remedy = f"{PYAV} or newer", "pip install --upgrade 'eyas[video]'"
        raise EyasError(problem("PyAV is too old", got=av.__version__, expected=expected, remedy=remedy))
    return av


class HostDecoder:
    """libav's decoder of the packet's own stream."""

    def __init__(self) -> None:
        self._converter = pyav().video.reformatter.VideoReformatter()  # one for all: setting it up outlasts its work

    def decode(self, packet: Any) -> Sequence[Decoded]:
        """See `Decoder`."""
        return self.told(packet.decode())

    def told(self, frames: Sequence[Any]) -> list[Decoded]:
        """What libav's frames (av.VideoFrame) are."""
        return [
            Decoded(
                (frame.height, frame.width),
                None if frame.pts is None else frame.pts * frame.time_base,
                partial(upright, frame, self._converter),
            )
            for frame in frames
        ]

    def close(self) -> None:
        """The container closes it."""


def upright(frame: Any, converter: Any) -> Image:
    """The frame as uint8 BGR [H, W, 3], turned and mirrored as its display matrix says, to the next right angle."""
    image: Image = converter.reformat(frame, format="bgr24", threads=1).to_ndarray()
    turned, flip_y, flip_x = turn_of(frame)
    if turned:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def turn_of(frame: Any) -> tuple[bool, bool, bool]:
    """What makes a frame upright: whether to transpose it, and then to mirror its rows (up and down) and columns.

    The matrix (a b u; c d v; x y w) maps (p, q) to (a p + c q + x, b p + d q + y), in 16.16 fixed point (ISO/IEC
    14496-12, 8.2.2.3), so an upright picture has a = d = 1, b = c = 0.
    """
    # Not frame.side_data, which the frame and its data keep alive in a circle, until the garbage collector comes.
    matrix = pyav().sidedata.sidedata.SideDataContainer(frame).get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d, _, *_ = np.frombuffer(bytes(matrix), "<i4").tolist()
    turned = abs(a) + abs(d) < abs(b) + abs(c)
    if turned:
        a, d = c, b
    return turned, d < 0, a < 0
