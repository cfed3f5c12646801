"""The pictures that a detector does worst on, side by side, with what was missed and what is not there."""

from __future__ import annotations

import cv2
import numpy as np

from eyas.annotate import draw
from eyas.errors import EyasError
from eyas.evaluation.evaluate import Evaluation
from eyas.evaluation.metrics import Floats, Ints
from eyas.results import Detections
from eyas.source import pictures
from eyas.types import Image

COUNT, COLUMNS = 12, 4
WIDTH, HEIGHT, STRIP, GAP = 480, 400, 30, 8  # pixels: a tile's picture, the line of text under it, between tiles
PAPER, TEXT = (250, 250, 250), (40, 40, 40)
WHITE, BLACK, YELLOW = (255, 255, 255), (0, 0, 0), (0, 235, 255)
DASH = 7  # pixels
FONT, USUAL, SMALL = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 0.36
LEGEND = (
    "dashed, white: an object that was found   dashed, yellow: one that was missed   "
    "thin: a detection that is right   thick, with its score: a false detection"
)


def worst(e: Evaluation, count: int = COUNT) -> Ints:
    """Numbers (in `Evaluation.images`) of the pictures with the most errors at the best-F1 confidence, worst first;
    none without an error."""
    missed, false = e.errors_by_image()
    order = np.argsort(-(missed + false), kind="stable")[:count]
    return np.asarray(order[(missed + false)[order] > 0])


def contact_sheet(e: Evaluation) -> Image | None:
    """uint8 BGR: the worst pictures with their errors drawn in; None if there is no error."""
    chosen = worst(e).tolist()
    if not chosen:
        return None
    columns = min(COLUMNS, len(chosen))
    rows = [_row(e, chosen[i : i + columns], columns) for i in range(0, len(chosen), columns)]
    body = np.vstack(rows)
    head = np.full((STRIP * (1 if columns > 2 else 4), body.shape[1], 3), PAPER, np.uint8)
    parts = [LEGEND] if columns > 2 else LEGEND.split("   ")
    for line, text in enumerate(parts):
        _write(head, text, (GAP, line * STRIP + 20))
    return np.vstack([head, body])


def _row(e: Evaluation, images: list[int], columns: int) -> Image:
    """Tiles side by side, as high as the highest picture, each with its line of text below."""
    drawn = [_picture(e, i) for i in images]
    height = max(picture.shape[0] for picture in drawn)
    row = np.full((height + STRIP + GAP, columns * (WIDTH + GAP) + GAP, 3), PAPER, np.uint8)
    for n, (image, picture) in enumerate(zip(images, drawn, strict=True)):
        missed, false = (int(counts[image]) for counts in e.errors_by_image())
        name = e.data.images[e.images[image]].path.name
        x, y = GAP + n * (WIDTH + GAP) + (WIDTH - picture.shape[1]) // 2, height - picture.shape[0]
        row[y:height, x : x + picture.shape[1]] = picture
        _write(row, _fitted(f"{missed} missed, {false} false   {name}"), (GAP + n * (WIDTH + GAP), height + 20))
    return row


def _picture(e: Evaluation, image: int) -> Image:
    """One picture, scaled to its tile, with its objects and detections; grey if it has gone since."""
    (listed,) = pictures(e.data.images[e.images[image]].path)
    try:
        source = listed.load().image
    except EyasError:
        return np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    scale = min(WIDTH / source.shape[1], HEIGHT / source.shape[0])
    size = (max(1, round(source.shape[1] * scale)), max(1, round(source.shape[0] * scale)))
    small = cv2.resize(source, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return _drawn(e, image, np.asarray(small, np.uint8), scale)


def _drawn(e: Evaluation, image: int, picture: Image, scale: float) -> Image:
    """The errors and what was right on one picture that has been scaled."""
    f, m, t = e.found, e.matches, e.truth
    strong = (f.image == image) & (f.score > e.best_confidence) & ~m.ignored
    right, wrong = (_detections(e, np.flatnonzero(strong & rows), scale) for rows in (m.hit, ~m.hit))
    out = draw(picture, right, labels=False, line_width=1)
    mine = (t.image == image) & ~t.crowd
    hidden = mine & (m.by <= e.best_confidence)
    for rows, colour, width in ((mine & ~hidden, WHITE, 1), (hidden, YELLOW, 2)):
        for box in _corners(t.xywh[rows] * scale).round().astype(int).tolist():
            _dashed(out, box, colour, width)
    out = draw(out, wrong, line_width=3)
    _name_missed(out, [(e.classes.names[t.cls[i]], t.xywh[i] * scale) for i in np.flatnonzero(hidden)])
    return out


def _name_missed(picture: Image, objects: list[tuple[str, Floats]]) -> None:
    """Black on yellow at each object's upper left corner, the large first, where no other name is in the way."""
    taken = np.zeros(picture.shape[:2], np.bool_)
    for name, box in sorted(objects, key=lambda item: -item[1][2] * item[1][3]):
        width = cv2.getTextSize(name, FONT, SMALL, 1)[0][0] + 4
        x, y = (max(0, round(float(v))) for v in box[:2])
        x, y = max(0, min(x, picture.shape[1] - width)), max(0, min(y, picture.shape[0] - 14))
        place = np.s_[y : y + 14, x : x + width]
        if not taken[place].any():
            taken[place] = True
            picture[place] = YELLOW
            _write(picture, name, (x + 2, y + 11), BLACK, SMALL)


def _detections(e: Evaluation, rows: Ints, scale: float) -> Detections:
    boxes = (_corners(e.found.xywh[rows]) * scale).astype(np.float32)
    return Detections(boxes, e.found.score[rows].astype(np.float32), e.found.cls[rows], e.classes.names)


def _corners(xywh: Floats) -> Floats:
    return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])


def _dashed(picture: Image, box: list[int], colour: tuple[int, int, int], width: int) -> None:
    """A rectangle of dashes in `colour` on black, so that it shows on any ground; `width` pixels inwards."""
    height, most = picture.shape[:2]
    for inset in range(width):
        x1, x2 = (min(max(x, 0), most - 1) for x in (box[0] + inset, box[2] - inset))
        y1, y2 = (min(max(y, 0), height - 1) for y in (box[1] + inset, box[3] - inset))
        picture[[y1, y2], x1 : x2 + 1] = BLACK
        picture[y1 : y2 + 1, [x1, x2]] = BLACK
        xs, ys = np.arange(x1, x2 + 1), np.arange(y1, y2 + 1)
        picture[np.ix_([y1, y2], xs[xs // DASH % 2 == 0])] = colour
        picture[np.ix_(ys[ys // DASH % 2 == 0], [x1, x2])] = colour


def _write(
    picture: Image, text: str, at: tuple[int, int], colour: tuple[int, int, int] = TEXT, scale: float = USUAL
) -> None:
    text = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    cv2.putText(picture, text, at, FONT, scale, colour, 1, cv2.LINE_AA)


def _fitted(text: str) -> str:
    while len(text) > 12 and cv2.getTextSize(text, FONT, USUAL, 1)[0][0] > WIDTH:
        text = text[:-2] + "~"
    return text
