"""Makes parade.mp4 and its truth gt.txt: six people who are known exactly and hide each other at times.

    python samples/make_clip.py            # writes both beside itself; the same on each run

Cut-outs of a sample picture walk behind two walls that are drawn here; a pillar stands on the upper one. The truth is
in the format of MOT16: frame, id, x, y, w, h, counts (1 or 0), class (1: pedestrian), visibility. A box is that of the
pixels that are seen; a row of which less than 30% of the whole figure is seen does not count. Needs PyAV
(`pip install 'eyas[video]'`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
WIDTH, HEIGHT, RATE, FRAMES = 768, 432, 25, 250
UPPER, LOWER = 196, 408  # where the two walls begin that hide what is below; each is LEDGE high
LEDGE = 24
PILLAR = (240, 256)  # from, to: hides who walks behind the upper wall
SEEN = 0.3  # the share of a figure that must be seen for its row to count
Pixels = NDArray[np.float32]

PICTURE = HERE / "astronaut.jpg"
OUTLINE = """
    251,19 226,16 200,24 184,39 157,57 154,63 155,99 179,133 178,146 153,151 141,157 130,168 121,184 122,203
    110,207 90,227 63,248 45,280 26,342 25,375 19,390 19,418 24,431 25,480 40,511 297,511 284,490 276,464
    275,439 281,413 295,388 312,370 335,355 361,346 360,328 352,300 352,290 341,264 302,230 290,204 256,172
    256,166 269,140 295,109 300,94 300,78 296,59 288,43 274,30
"""  # of the person without the helmet, in pixels of the picture: x,y …


@dataclass(frozen=True)
class Figure:
    """One that walks. start: the frame (from 0) in which its left edge is at x; speed: pixels a frame, to the right.

    wall: UPPER or LOWER. height: pixels. hue: degrees by which the colour of its clothes is turned. gain: brightness.
    """

    wall: int
    height: int
    start: int
    x: float
    speed: float
    hue: int = 0
    gain: float = 1.0
    mirrored: bool = False

    def place(self, frame: int) -> tuple[float, float]:
        """Its upper left corner."""
        t = frame - self.start
        step = math.sin(2 * math.pi * t / 20)  # a step takes 0.8 s
        return self.x + self.speed * t, self.wall - self.height + 2 + 1.5 * step


# By depth, the farthest first; ids are places in this list, from 1.
FIGURES = (
    Figure(UPPER, 148, 0, 690, -4.5, hue=200, mirrored=True),
    Figure(UPPER, 148, 92, 772, -5.0, hue=150, gain=0.85, mirrored=True),
    Figure(UPPER, 152, 0, 60, 5.0),
    Figure(LOWER, 150, 0, 120, 4.4, hue=260, gain=1.1),
    Figure(LOWER, 150, 75, -108, 5.0, hue=100, gain=1.1),
    Figure(LOWER, 156, 10, 770, -4.6, hue=150, gain=0.85, mirrored=True),
)


@cache
def sprite(figure: Figure) -> Pixels:
    """float32 [h, w, 4]: BGR 0…255 times cover, and how much it covers, 0…1; cut out, coloured, at its own size."""
    image = cv2.imread(str(PICTURE))
    points = np.array([p.split(",") for p in OUTLINE.split()], np.int32)
    cover = cv2.fillPoly(np.zeros(image.shape[:2], np.uint8), [points], 255)
    if figure.hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        clothes = (hsv[..., 1] > 150) & (np.arange(len(image)) > 150)[:, None]  # not the hair
        hsv[..., 0] = np.where(clothes, (hsv[..., 0].astype(int) + figure.hue // 2) % 180, hsv[..., 0])
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    x, y, w, h = cv2.boundingRect(points)
    both = np.dstack([image * figure.gain, cover / 255]).astype(np.float32)[y : y + h, x : x + w]
    both[..., :3] = both[..., :3].clip(0, 255) * both[..., 3:]  # so that the cut's outside does not bleed in
    both = cv2.resize(both, (round(w * figure.height / h), figure.height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(both[:, ::-1]) if figure.mirrored else both


@lru_cache(64)  # the picture and the truth ask in turn
def placed(figure: Figure, frame: int) -> Pixels:
    """float32 [HEIGHT, WIDTH, 4]: the sprite where it is in this frame, without what wall and pillar hide."""
    x, y = figure.place(frame)
    whole = cv2.warpAffine(sprite(figure), np.array([[1, 0, x], [0, 1, y]]), (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    whole[figure.wall :] = 0
    if figure.wall == UPPER:
        whole[:, slice(*PILLAR)] = 0
    return whole


@cache
def scenery() -> Pixels:
    """float32 [HEIGHT, WIDTH, 3]: sky, pillar and wall, with a texture."""
    down = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    picture = np.array([225, 215, 200], np.float32) * (1 - 0.25 * down) * np.ones((HEIGHT, WIDTH, 1), np.float32)
    across = np.linspace(-1, 1, PILLAR[1] - PILLAR[0], dtype=np.float32)[None, :, None]
    picture[:UPPER, slice(*PILLAR)] = np.array([150, 160, 165], np.float32) * (1 - 0.25 * across**2)
    for top in (UPPER, LOWER):
        picture[top : top + LEDGE] = (110, 150, 110)
        picture[top : top + 4] = (130, 175, 130)
    noise = np.random.default_rng(0).normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32)
    return picture + 18 * cv2.GaussianBlur(noise, (0, 0), 3)[..., None]


def picture(frame: int) -> NDArray[np.uint8]:
    """uint8 BGR [HEIGHT, WIDTH, 3]: frame 0 … FRAMES − 1."""
    out = scenery().copy()
    for figure in FIGURES:
        layer = placed(figure, frame)
        out = out * (1 - layer[..., 3:]) + layer[..., :3]
    return out.round().clip(0, 255).astype(np.uint8)


def truth(frame: int) -> list[tuple[int, int, int, int, int, int, int, int, float]]:
    """The rows of a frame (from 0), of those of whom anything is seen: see the head of this file."""
    rows, free = [], np.ones((HEIGHT, WIDTH), np.float32)
    for number in range(len(FIGURES), 0, -1):  # the nearest first: what it covers is not free for the others
        figure = FIGURES[number - 1]
        cover = placed(figure, frame)[..., 3]
        seen = cover * free
        free *= 1 - cover
        ys, xs = np.nonzero(seen > 0.5)
        if not len(xs):
            continue
        share = float(seen.sum() / sprite(figure)[..., 3].sum())
        x, y, w, h = int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
        rows.append((frame + 1, number, x, y, w, h, int(share >= SEEN), 1, round(min(share, 1), 2)))
    return sorted(rows)


def truth_lines() -> str:
    """The whole of gt.txt."""
    return "".join(",".join(map(str, row)) + "\n" for frame in range(FRAMES) for row in truth(frame))


def main() -> None:
    """Write both files."""
    from eyas.video import VideoSink

    (HERE / "gt.txt").write_text(truth_lines(), encoding="utf-8")
    options = {"crf": "24", "preset": "slow", "bf": "0", "forced-idr": "1"}
    with VideoSink(HERE / "parade.mp4", rate=RATE, encoder="libx264", options=options) as sink:
        for frame in range(FRAMES):
            sink.add(picture(frame), frame / RATE)


if __name__ == "__main__":
    main()
