"""eyas.cascade: order, batches across pictures, what fails or stops; poses and faces; real models in a row."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_predictor import FakeEngine, grey, load_fake, no_thread_left, plain

import eyas
from eyas.annotate import draw
from eyas.batching import QueueSpec
from eyas.cascading import AHEAD, cascade, poses
from eyas.errors import EyasError, ImageError, OptionError
from eyas.faces import Recogniser, align
from eyas.faces.recogniser import face_vectors
from eyas.nms import box_iou
from eyas.outputs import Outputs
from eyas.results import Classification, Detections, Embedding, Prediction, Result
from eyas.types import Frame, Image

__all__ = ["load_fake", "no_thread_left"]  # fixtures
LoadFake = Callable[..., tuple[eyas.Model, FakeEngine]]
pytestmark = pytest.mark.usefixtures("no_thread_left")


# ---- what a first model could have found ----


def found(*boxes: tuple[float, ...], names: tuple[str, ...] = ("person", "bus"), class_id: Any = None) -> Detections:
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    ids = np.zeros(len(xyxy), np.int64) if class_id is None else np.array(class_id, np.int64)
    return Detections(xyxy, np.full(len(xyxy), 0.9, np.float32), ids, names)


def seen(*values: int) -> Prediction:
    """A picture of 8 × 8 tiles side by side, each of one grey value and an object."""
    image = np.hstack([grey(v, 8, 8) for v in values]) if values else grey(0)
    return Prediction(str(values), Frame(image), found(*((8 * i, 0, 8 * i + 8, 8) for i in range(len(values)))))


def tiles(frame: Frame, objects: Detections) -> list[Image]:
    return [frame.image[:, int(x1) : int(x2)] for x1, _, x2, _ in objects.xyxy]


def told(objects: Detections, results: list[Result]) -> Result:
    """The grey values that `null` saw in the pieces, as the objects' confidence; 0 where it found nothing."""
    assert len(results) == len(objects)
    scores = [float(r.confidence[0]) if isinstance(r, Detections) and len(r) else 0.0 for r in results]
    return Detections(objects.xyxy, np.array(scores, np.float32), objects.class_id, objects.names)


def values(prediction: Prediction) -> list[int]:
    assert prediction.detections is not None
    return [round(c * 255) for c in prediction.detections.confidence.tolist()]


@pytest.fixture
def second() -> Iterator[eyas.Model]:
    """`null`: one object a piece, its confidence the piece's grey value / 255."""
    with eyas.load("nanodet", backend="null", batch=4) as model:
        yield model


class Gate:
    """An engine's function that waits until the gate is open."""

    def __init__(self) -> None:
        self.inside, self.open = threading.Event(), threading.Event()

    def __call__(self, images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        self.inside.set()
        assert self.open.wait(30)
        return plain(images, thresholds)


# ---- the stream ----


def test_every_picture_gets_the_results_of_its_own_pieces_in_order(second: eyas.Model) -> None:
    rng = np.random.default_rng(0)
    wanted = [rng.integers(70, 256, rng.integers(1, 7)).tolist() for _ in range(50)]
    got = list(cascade([seen(*row) for row in wanted], second, tiles, told))
    assert [p.source_id for p in got] == [str(tuple(row)) for row in wanted]
    assert [values(p) for p in got] == wanted


def test_two_models_in_a_row_from_files(second: eyas.Model, tmp_path: Path) -> None:
    for value in (100, 150, 200):
        cv2.imwrite(str(tmp_path / f"{value}.png"), grey(value))
    with eyas.load("nanodet", backend="null") as first:
        got = list(cascade(first.stream(tmp_path), second, lambda frame, _: [frame.image // 2], told, conf=0.1))
    assert [values(p) for p in got] == [[50], [75], [100]]


@pytest.mark.parametrize("batch", [2, 4])
def test_pieces_of_several_pictures_run_in_one_batch(load_fake: LoadFake, batch: int) -> None:
    calls: list[list[int]] = []

    def keep(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        calls.append(sorted(images[:, 208, 208, 0].tolist()))
        return plain(images, thresholds)

    # Nothing leaves before its batch is full, unless a minute has passed.
    model, _ = load_fake(keep, batch=batch, queue=QueueSpec(linger_s=60))
    pictures = [seen(100 + i) for i in range(8)]
    with model:
        assert [values(p) for p in cascade(pictures, model, tiles, told, ahead=batch)] == [[100 + i] for i in range(8)]
    assert calls == [list(range(100 + i, 100 + i + batch)) for i in range(0, 8, batch)]


def test_one_picture_at_a_time_shares_no_batch(load_fake: LoadFake) -> None:
    sizes: list[int] = []

    def keep(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        sizes.append(len(images))
        return plain(images, thresholds)

    model, _ = load_fake(keep, batch=4)
    with model:
        assert len(list(cascade([seen(200)] * 6, model, tiles, told, ahead=1))) == 6
    assert sizes == [1] * 6


def test_errors_and_pictures_without_objects_pass_unchanged_at_their_turn(second: eyas.Model) -> None:
    broken, empty = Prediction("b", error=ImageError("b is broken")), seen()
    vector = Prediction("v", Frame(grey(1)), Embedding(np.ones(1, np.float32)))

    def crop(frame: Frame, objects: Detections) -> list[Image]:
        assert len(objects)
        return tiles(frame, objects)

    got = list(cascade([seen(100), broken, seen(110, 120), empty, vector, seen(130)], second, crop, told))
    assert (got[1], got[3], got[4]) == (broken, empty, vector)
    assert got[3] is empty
    assert [values(got[i]) for i in (0, 2, 5)] == [[100], [110, 120], [130]]


def test_objects_of_which_nothing_is_cut_are_joined_too(second: eyas.Model) -> None:
    (got,) = cascade([seen(100, 110)], second, lambda *_: [], lambda objects, results: objects[: len(results)])
    assert got.detections is not None
    assert len(got.detections) == 0


def test_conf_is_the_second_models(second: eyas.Model) -> None:
    picture = seen(100, 200)
    got = [values(p) for c in (0.1, 0.5, 0.9) for p in cascade([picture], second, tiles, told, conf=c)]
    assert got == [[100, 200], [0, 200], [0, 0]]


@pytest.mark.parametrize("ahead", [1, 3, 8])
def test_only_so_many_pictures_are_under_way(load_fake: LoadFake, ahead: int) -> None:
    gate, pulled = Gate(), 0

    def endless() -> Iterator[Prediction]:
        nonlocal pulled
        while True:
            pulled += 1
            if pulled == ahead:
                gate.open.set()  # the first result comes only now
            yield seen(200)

    model, _ = load_fake(gate)
    with model:
        got = cascade(endless(), model, tiles, told, ahead=ahead)
        assert pulled == 0  # nothing before the first result is asked for
        for n in range(1, 20):
            next(got)
            assert n <= pulled < n + ahead
        got.close()


def test_a_result_that_is_there_does_not_wait_for_others(second: eyas.Model) -> None:
    pulled = itertools.count()
    empties = ((next(pulled), seen())[1] for _ in range(100))
    got = cascade(empties, second, tiles, told)
    next(got)
    got.close()
    assert next(pulled) == 1


@pytest.mark.parametrize("ahead", [0, -1, 1.5, "2", None])
def test_numbers_of_pictures_that_are_none(second: eyas.Model, ahead: Any) -> None:
    with pytest.raises(OptionError, match="ahead is wrong"):
        cascade([], second, tiles, told, ahead=ahead)  # at once, not at the first result


def test_three_models_in_a_row(second: eyas.Model) -> None:
    with eyas.load("nanodet", backend="null") as first, eyas.load("nanodet", backend="null") as third:
        halves = cascade(
            first.stream([grey(v) for v in (160, 200, 240)]), second, lambda f, _: [f.image // 2], told, conf=0.0
        )
        got = list(cascade(halves, third, lambda f, _: [f.image // 4], told, conf=0.0))
    assert [values(p) for p in got] == [[40], [50], [60]]


# ---- stopping and failing ----


def test_leaving_cancels_what_waits_and_closes_the_first_stream(load_fake: LoadFake) -> None:
    calls_allowed, closed = threading.Semaphore(0), threading.Event()

    def infer(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        assert calls_allowed.acquire(timeout=30)
        return plain(images, thresholds)

    def first() -> Generator[Prediction, None, None]:
        try:
            for value in range(100, 200):
                if value == 159:  # the sixtieth, which makes `ahead` full
                    calls_allowed.release(20)  # more than there are preparers: they may overtake one another
                yield seen(value)
        finally:
            closed.set()

    model, engine = load_fake(infer)
    with model:
        got = cascade(first(), model, tiles, told, ahead=60)
        assert values(next(got)) == [100]
        got.close()
        assert closed.is_set()
        calls_allowed.release(100)
    assert engine.calls <= 25  # what was with the engine already, and no more
    assert list(got) == []


@pytest.mark.parametrize("where", ["first", "crop", "engine", "join"])
def test_what_is_raised_comes_at_its_turn(load_fake: LoadFake, where: str) -> None:
    ended = threading.Event()

    def first() -> Generator[Prediction, None, None]:
        try:
            for value in (100, 110, 5, 120, 130):
                if where == "first" and value == 5:
                    raise ZeroDivisionError("too dark")
                yield seen(value, value)
        finally:
            ended.set()

    def crop(frame: Frame, objects: Detections) -> Iterator[Image]:
        first_piece, second_piece = tiles(frame, objects)
        yield first_piece
        if where == "crop" and frame.image.max() < 10:
            raise ZeroDivisionError("too dark")
        yield second_piece

    def infer(images: Image, thresholds: NDArray[np.float32]) -> Outputs:
        if where == "engine" and images.min() < 10:
            raise ZeroDivisionError("too dark")
        return plain(images, thresholds)

    def join(objects: Detections, results: list[Result]) -> Result:
        if where == "join" and not all(len(r) for r in results if isinstance(r, Detections)):
            raise ZeroDivisionError("too dark")
        return told(objects, results)

    model, _ = load_fake(infer, batch=2)
    with model:
        got = cascade(first(), model, crop, join)  # type: ignore[arg-type] # an iterator does too
        assert [values(next(got)) for _ in range(2)] == [[100, 100], [110, 110]]
        with pytest.raises(ZeroDivisionError, match="too dark"):
            next(got)
        assert ended.is_set()
        assert list(got) == []


def test_pieces_of_a_picture_that_is_not_cut_to_the_end_are_cancelled() -> None:
    submitted: list[Future[Any]] = []

    class Slow:
        def submit(self, piece: Image, *, conf: float, full: str) -> Future[Any]:
            submitted.append(Future())
            return submitted[-1]

    def crop(frame: Frame, objects: Detections) -> Iterator[Image]:
        yield frame.image
        raise ZeroDivisionError("too dark")

    model: Any = Slow()
    with pytest.raises(ZeroDivisionError):
        list(cascade([seen(100)], model, crop, told))  # type: ignore[arg-type] # an iterator does too
    assert [future.cancelled() for future in submitted] == [True]


def test_a_second_model_that_is_closed_says_so() -> None:
    model = eyas.load("nanodet", backend="null")
    model.close()
    with pytest.raises(EyasError, match="the model is closed"):
        list(cascade([seen(100)], model, tiles, told))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("capacity", [1, 256])
@pytest.mark.parametrize("ahead", [1, AHEAD])
def test_a_model_may_be_its_own_second(batch: int, capacity: int, ahead: int) -> None:
    with eyas.load("nanodet", backend="null", batch=batch, queue=QueueSpec(capacity=capacity)) as model:
        first = model.stream(grey(v) for v in range(200, 240))
        got = list(cascade(first, model, lambda f, _: [f.image // 2] * 5, _all_same, conf=0.1, ahead=ahead))
    assert [values(p) for p in got] == [[v // 2] for v in range(200, 240)]


def _all_same(objects: Detections, results: list[Result]) -> Result:
    assert len({round(float(r.confidence[0]) * 255) for r in results if isinstance(r, Detections)}) == 1
    return told(objects, results[:1])


def test_a_full_queue_that_waits_loses_nothing() -> None:
    wanted = [[100 + i] * 7 for i in range(40)]
    with eyas.load("nanodet", backend="null", batch=2, queue=QueueSpec(capacity=1)) as model:
        assert [values(p) for p in cascade([seen(*w) for w in wanted], model, tiles, told)] == wanted


@pytest.mark.parametrize("full", ["fail", "drop-oldest"])
def test_a_queue_that_refuses_or_drops_others_loses_no_piece(full: Any) -> None:
    wanted = [[100 + i] * 7 for i in range(40)]
    with eyas.load("nanodet", backend="null", batch=2, queue=QueueSpec(capacity=1, full=full)) as model:
        assert [values(p) for p in cascade([seen(*w) for w in wanted], model, tiles, told)] == wanted


def test_one_request_as_futures(second: eyas.Model) -> None:
    async def answer(image: Image) -> list[Result]:
        with eyas.load("nanodet", backend="null") as first:
            objects = await first.submit(image)
        assert isinstance(objects, Detections)
        return list(await asyncio.gather(*(second.submit(image // n) for n in (1, 2))))

    results = asyncio.run(answer(grey(200)))
    assert [round(float(r.confidence[0]) * 255) for r in results if isinstance(r, Detections)] == [200, 100]


# ---- poses ----


def person(x1: float, y1: float, x2: float, y2: float, confidence: float = 0.9) -> tuple[float, ...]:
    return x1, y1, x2, y2, confidence


def posed(*persons: tuple[float, ...]) -> Detections:
    """As a pose model says it: each person's three points are two corners and the middle of the box."""
    rows = np.array(persons, np.float32).reshape(-1, 5)
    corners = [rows[:, :2], rows[:, 2:4], (rows[:, :2] + rows[:, 2:4]) / 2]
    points = np.stack([np.column_stack([c, rows[:, 4]]) for c in corners], axis=1)
    return Detections(rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int64), ("person",), keypoints=points)


def test_pieces_are_views_with_a_margin_inside_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    crop, _ = poses(margin=0.1)
    pieces = crop(Frame(image), found((50, 40, 70, 80), (0, 0, 200, 100), (190.2, 90.7, 199.9, 99.1)))
    expected = [image[36:84, 48:72], image, image[89:100, 189:200]]
    for piece, part in zip(pieces, expected, strict=True):
        assert np.shares_memory(piece, image)
        np.testing.assert_array_equal(piece, part)


def test_only_the_named_classes_are_cut_out() -> None:
    objects, frame = found((0, 0, 9, 9), (5, 5, 8, 8), (1, 1, 3, 3), class_id=[0, 1, 0]), Frame(grey(1, 20, 20))
    shapes = [[p.shape[:2] for p in poses(c, 0)[0](frame, objects)] for c in (None, "person", 1, ["bus", 0])]
    assert shapes == [[(9, 9), (3, 3), (2, 2)], [(9, 9), (2, 2)], [(3, 3)], [(9, 9), (3, 3), (2, 2)]]


def test_key_points_come_back_to_where_they_are_in_the_picture() -> None:
    _, join = poses(margin=0.5)
    objects = found((100.5, 40, 140.5, 80), (10, 10, 20, 20))
    # The pieces begin at (80, 20) and (5, 5).
    got = join(objects, [posed(person(20, 20, 60, 60)), posed(person(4, 5, 16, 15, 0.6))])
    assert isinstance(got, Detections)
    assert got.keypoints is not None
    assert got.keypoints.dtype == np.float32
    np.testing.assert_allclose(got.keypoints[0], [[100, 40, 0.9], [140, 80, 0.9], [120, 60, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(got.keypoints[1], [[9, 10, 0.6], [21, 20, 0.6], [15, 15, 0.6]], rtol=1e-6)
    np.testing.assert_array_equal(got.xyxy, objects.xyxy)


def test_of_several_persons_in_a_piece_the_one_in_the_box() -> None:
    _, join = poses(margin=0.5)
    neighbour, meant = person(0, 0, 12, 20, 0.95), person(10, 6, 30, 30, 0.5)
    got = join(found((30, 30, 50, 50)), [posed(neighbour, meant)])
    assert isinstance(got, Detections)
    assert got.keypoints is not None
    np.testing.assert_allclose(got.keypoints[0, 0], [30, 26, 0.5])


def test_nobody_is_all_zeros_which_no_one_draws_or_counts() -> None:
    _, join = poses("person", margin=0)
    objects = found((10, 10, 30, 30), (40, 40, 60, 60), (70, 5, 90, 30), class_id=[0, 1, 0])
    aside = posed(person(50, 50, 60, 60))  # beside the object's box
    got = join(objects, [posed(), aside])
    assert isinstance(got, Detections)
    np.testing.assert_array_equal(got.keypoints, np.zeros((3, 3, 3)))
    image = grey(90, 100, 100)
    np.testing.assert_array_equal(draw(image, got), draw(image, objects))
    assert [row["keypoints"] for row in got.to_coco(1)] == [[0.0] * 9] * 3


def test_a_picture_of_other_classes_has_no_key_points() -> None:
    crop, join = poses("person")
    objects = found((10, 10, 30, 30), class_id=[1])
    assert crop(Frame(grey(1)), objects) == []
    assert join(objects, []) is objects


boxes = st.tuples(*[st.floats(-50, 80, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 3e38])] * 4)


@given(st.lists(boxes, max_size=6), st.floats(0, 1), st.integers(1, 40), st.integers(1, 40))
def test_pieces_of_any_box_are_pictures_and_as_many_as_are_joined(
    corners: list[tuple[float, ...]], margin: float, height: int, width: int
) -> None:
    objects, (crop, join) = found(*corners), poses(margin=margin)
    with np.errstate(over="ignore", invalid="ignore"):
        pieces = crop(Frame(grey(7, height, width)), objects)
        got = join(objects, [posed(person(0, 0, *p.shape[1::-1])) for p in pieces])
    assert all(p.size for p in pieces)
    assert isinstance(got, Detections)
    assert (got.keypoints is None) == (not pieces)


@pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan"), "0.1", None])
def test_margins_that_are_none(margin: Any) -> None:
    with pytest.raises(OptionError, match="the margin is wrong"):
        poses(margin=margin)


def test_classes_and_models_that_do_not_fit(second: eyas.Model) -> None:
    picture = seen(100)
    with pytest.raises(OptionError, match="got persn"):
        list(cascade([picture], second, *poses("persn")))
    with pytest.raises(OptionError, match="the second model finds no key points: got objects"):
        list(cascade([picture], second, *poses()))
    with pytest.raises(OptionError, match="no key points: got Classification"):
        poses()[1](found((0, 0, 8, 8)), [Classification(np.ones(1, np.float32))])


# ---- faces ----


def test_vectors_of_what_gives_none(second: eyas.Model) -> None:
    face = Detections(
        np.array([[0, 0, 9, 9]], np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        keypoints=np.random.default_rng(0).uniform(0, 9, (1, 5, 3)).astype(np.float32),
    )
    with pytest.raises(OptionError, match="the second model gives no vectors: got Detections"):
        list(cascade([Prediction("p", Frame(grey(1)), face)], second, *face_vectors()))
    with pytest.raises(OptionError, match="not a face's: got 0 points an object"):
        list(cascade([seen(100)], second, *face_vectors()))


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["scrfd_500m_kps", "retinaface_mnet025"])
@pytest.mark.parametrize("batch", [1, 4])
def test_real_faces_have_the_vectors_of_one_picture_at_a_time(real_data: Path, detector: str, batch: int) -> None:
    models, images = real_data / "models", sorted((real_data / "data" / "images").glob("*"))
    with (
        eyas.load(models / f"{detector}.onnx", precision="fp32") as finder,
        eyas.load(models / "mobilefacenet.onnx", precision="fp32", batch=batch) as describer,
        eyas.load(models / "mobilefacenet.onnx", precision="fp32") as alone,
    ):
        got = list(Recogniser(finder, describer).stream(images))
        assert [p.source_id for p in got] == [str(path) for path in images]
        faces = 0
        for p in got:
            assert p.frame is not None
            assert p.detections is not None
            assert p.detections.keypoints is not None
            for i, points in enumerate(p.detections.keypoints):
                assert p.detections.embedding is not None
                one = alone.predict(align(p.frame.image, points))
                assert isinstance(one, Embedding)
                np.testing.assert_allclose(p.detections.embedding[i], one.vector, atol=1e-5)
                faces += 1
    assert faces >= 18  # two in zidane and s_l, six in many_face, eight in biubug6_faces


@pytest.mark.slow
def test_real_persons_have_the_poses_of_the_whole_picture(real_data: Path) -> None:
    models, images = real_data / "models", real_data / "data" / "images"
    with (
        eyas.load(models / "yolov8n.onnx", precision="fp32") as detector,
        eyas.load(models / "yolov8n-pose.onnx", precision="fp32", batch=4) as pose,
    ):
        sources = [images / "bus.jpg", images / "zidane.jpg"]
        got = list(cascade(detector.stream(sources, conf=0.5), pose, *poses("person")))
        whole = list(pose.predict(sources, conf=0.5))
    persons = 0
    for p, w in zip(got, whole, strict=True):
        assert p.detections is not None
        assert p.detections.keypoints is not None
        assert isinstance(w, Detections)
        assert w.keypoints is not None
        for box, points, name in zip(p.detections.xyxy, p.detections.keypoints, p.detections.class_name, strict=True):
            if name != "person":
                assert not points.any()
                continue
            other = w.keypoints[box_iou(box, w.xyxy).argmax()]
            both = (points[:, 2] > 0.5) & (other[:, 2] > 0.5)
            assert both.sum() >= 8
            apart = np.linalg.norm((points - other)[both, :2], axis=1) / np.linalg.norm(box[2:] - box[:2])
            assert np.median(apart) < 0.03
            persons += 1
    assert persons == 5


@pytest.mark.slow
def test_what_the_page_shows_runs_on_real_models(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"scrfd": "scrfd_500m_kps", "mobilefacenet": "mobilefacenet", "yolov8n": "yolov8n"}
    known["yolov8n-pose"] = "yolov8n-pose"
    for name, file in known.items():
        (tmp_path / f"{name}.onnx").symlink_to(real_data / "models" / f"{file}.onnx")
    (tmp_path / "pictures").mkdir()
    for name in ("bus.jpg", "zidane.jpg"):
        (tmp_path / "pictures" / name).symlink_to(real_data / "data" / "images" / name)
    monkeypatch.chdir(tmp_path)
    page: dict[str, Any] = {}
    text = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, page)  # noqa: S102
    page["draw_poses"]("pictures", "out")
    assert sorted(p.name for p in Path("out").iterdir()) == ["bus.jpg", "zidane.jpg"]
    page["print_faces"]("pictures")
    assert "zidane.jpg (2, 128)" in capsys.readouterr().out
    vectors = asyncio.run(page["vectors_of"](cv2.imread("pictures/zidane.jpg")))
    assert [v.vector.shape for v in vectors] == [(128,)] * 2
    assert [len(r) for r in page["rates"]("pictures", 2, 1).values()] == [1] * 4
