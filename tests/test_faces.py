"""eyas.faces: turning faces upright, the gallery and its file, and the two models joined, on made-up ones."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import eyas
from eyas.batching import Pending
from eyas.errors import DataError, EyasError, ImageError, OptionError, SinkError, SourceError
from eyas.faces import Gallery, Match, Recogniser, align
from eyas.faces import gallery as gallery_module
from eyas.faces.align import PLACES, similarity
from eyas.faces.gallery import THRESHOLD, UNKNOWN, open_gallery
from eyas.faces.recogniser import largest
from eyas.results import Detections, Embedding, Prediction
from eyas.source import pictures
from eyas.types import Image, ModelCard, Normalise

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]


# ---- models that are none ----


@dataclass
class FakeModel:
    """Answers each picture with a function of its pixels."""

    card: ModelCard
    answer: Callable[[Image], Any]
    digest: str = "0" * 64
    asked: list[Image] = field(default_factory=list)
    finished: int = 0

    def stream(self, sources: Any, *, conf: float = 0.25) -> Generator[Prediction, None, None]:
        try:
            for picture in pictures(sources):
                try:
                    frame = picture.load()
                except EyasError as error:
                    yield Prediction(picture.source_id, error=error)
                    continue
                self.asked.append(frame.image)
                result = self.answer(frame.image)
                if isinstance(result, Detections):
                    result = result[result.confidence > conf]
                yield Prediction(picture.source_id, frame, result)
        finally:
            self.finished += 1

    def submit(self, source: Image, *, conf: float = 0.25, full: str = "block") -> Pending[Any]:
        (prediction,) = self.stream([source], conf=conf)
        future: Pending[Any] = Pending()
        future.set_result(prediction.result)
        return future

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *args: object) -> None:
        pass


TILE = 64


def tiles_with_faces(image: Image) -> Detections:
    """One face a tile of 64 × 64 that is not black; its confidence is its brightest value / 255."""
    count = image.shape[1] // TILE
    shown = [i for i in range(count) if image[:, i * TILE : (i + 1) * TILE].any()]
    xyxy = [[i * TILE, 0, (i + 1) * TILE, TILE] for i in shown]
    confidence = [image[:, i * TILE : (i + 1) * TILE].max() / 255 for i in shown]
    points = np.zeros((len(shown), 5, 3), np.float32)
    points[..., :2] = PLACES * TILE / 112
    points[..., 0] += TILE * np.array(shown, np.float32)[:, None]
    points[..., 2] = 1
    return Detections(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.array(confidence, np.float32),
        np.zeros(len(shown), np.int64),
        ("face",),
        keypoints=points,
    )


def mean_colour(image: Image) -> Embedding:
    mean = image.astype(np.float32).mean(axis=(0, 1))
    return Embedding(mean / np.linalg.norm(mean))


def card(task: str, size: tuple[int, int] = (112, 112)) -> ModelCard:
    names = () if task == "embed" else ("face",)
    return ModelCard({"pose": "scrfd", "embed": "arcface"}.get(task, "other"), size, Normalise(), names, task=task)


def detector() -> FakeModel:
    return FakeModel(card("pose"), tiles_with_faces)


def embedder(size: tuple[int, int] = (112, 112), digest: str = "e" * 64) -> FakeModel:
    return FakeModel(card("embed", size), mean_colour, digest)


def tiles(*colours: tuple[int, int, int]) -> Image:
    """Side by side, each 64 × 64 of one BGR colour."""
    return np.hstack([np.full((TILE, TILE, 3), colour, np.uint8) for colour in colours])


def vector(*values: float) -> NDArray[np.float32]:
    array = np.array(values, np.float32)
    return array / np.linalg.norm(array)


# ---- align ----


def turned(degrees: float, scale: float, shift: tuple[float, float], size: int = 112) -> NDArray[np.float64]:
    """Where a face whose points lie at PLACES after alignment has them in the picture."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (PLACES - 56) @ turn.T * scale + shift


def dotted(points: NDArray[np.float64], shape: tuple[int, int], sigma: float) -> Image:
    """A picture with a soft dot of a colour of its own at each point."""
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    picture = np.zeros((*shape, 3))
    for (x, y), colour in zip(points, COLOURS, strict=True):
        picture += np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))[..., None] * colour
    return picture.clip(0, 255).astype(np.uint8)


def dots_of(picture: Image, radius: int) -> NDArray[np.float64]:
    """[5, 2]: the centre of each colour's dot."""
    found = []
    light = picture.astype(np.float64)
    for colour in COLOURS:
        on, off = np.array(colour) > 0, np.array(colour) == 0
        only = (light[..., on].min(axis=2) - light[..., off].max(axis=2)).clip(0)
        y, x = np.unravel_index(only.argmax(), only.shape)
        ys, xs = np.mgrid[y - radius : y + radius + 1, x - radius : x + radius + 1]
        weight = only[y - radius : y + radius + 1, x - radius : x + radius + 1]
        found.append([(weight * xs).sum() / weight.sum(), (weight * ys).sum() / weight.sum()])
    return np.array(found)


@pytest.mark.parametrize("size", [112, 56, 224])
@pytest.mark.parametrize(
    ("degrees", "scale", "shift"),
    [
        (0, 1, (56, 56)),
        (0, 2.5, (200.3, 180.6)),
        (30, 1.7, (190, 230)),
        (-75, 2, (210, 200)),
        (180, 1.5, (180, 220)),
        (140, 3, (250, 250)),
    ],
)
def test_dots_come_back_to_their_places(degrees: float, scale: float, shift: tuple[float, float], size: int):
    points = turned(degrees, scale, shift)
    found = dots_of(align(dotted(points, (500, 480), 2 * scale), points, size), max(3, 6 * size // 112))
    assert np.abs(found - PLACES * size / 112).max() < 0.5


def test_the_third_number_of_a_point_does_not_count():
    points = turned(20, 2, (200, 200))
    picture = dotted(points, (400, 400), 4)
    scored = np.hstack([points, [[0.9], [np.nan], [0], [1], [7]]])
    np.testing.assert_array_equal(align(picture, scored), align(picture, points))
    np.testing.assert_array_equal(align(picture, points.astype(np.float32).tolist()), align(picture, points))


def test_nothing_is_lent_and_nothing_is_changed():
    picture = dotted(PLACES, (112, 112), 2)
    before = picture.copy()
    once = align(picture, PLACES)
    np.testing.assert_array_equal(once, before)
    once[:] = 0
    np.testing.assert_array_equal(picture, before)


coordinate = st.floats(-500, 1500, width=32)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=5, max_size=5))
def test_the_map_is_the_least_squares_one(points: list[tuple[float, float]]):
    start = np.array(points)
    assume(np.ptp(start, axis=0).max() >= 1)
    found = similarity(start, PLACES)
    (x, y), ones, zeros = start.T, np.ones(5), np.zeros(5)
    rows = np.vstack([np.stack([x, -y, ones, zeros], 1), np.stack([y, x, zeros, ones], 1)])
    a, b, tx, ty = np.linalg.lstsq(rows, PLACES.T.ravel(), rcond=None)[0]
    scale = 1e-6 * max(1, np.abs(start).max())
    np.testing.assert_allclose(found, [[a, -b, tx], [b, a, ty]], atol=scale)


def test_faces_are_never_mirrored():
    mirrored = (PLACES - 56) * (-2, 2) + 200
    for points in (mirrored, turned(50, 2, (200, 200)), mirrored[[1, 0, 2, 4, 3]]):
        found = similarity(points, PLACES)
        assert np.linalg.det(found[:, :2]) > 0
    picture = dotted(mirrored, (400, 400), 4)
    assert align(picture, mirrored).shape == (112, 112, 3)


def test_what_lies_beyond_the_picture_is_black():
    picture = np.full((100, 100, 3), 200, np.uint8)
    half = align(picture, PLACES + np.array([50, 0]))  # the right of the face is not in the picture
    assert (half[:90, :45] == 200).all()
    assert (half[:, 55:] == 0).all()
    assert not align(picture, PLACES + 1000).any()
    assert not align(picture, PLACES - 1000).any()


@pytest.mark.parametrize(
    "points",
    [
        PLACES[:4],
        np.vstack([PLACES, PLACES]),
        PLACES.T,
        PLACES.ravel(),
        np.hstack([PLACES, PLACES]),
        PLACES * np.nan,
        np.where(np.arange(10).reshape(5, 2) == 3, np.inf, PLACES),
        np.full((5, 2), 7.0),
        PLACES * 1e-9,
        PLACES * 1e300,
        [[1, 2], [3]],
        [],
        None,
        "face",
        PLACES[None],
    ],
    ids=str,
)
def test_points_that_are_no_face(points: Any):
    with pytest.raises(OptionError, match="the points are not those of a face"):
        align(np.zeros((99, 99, 3), np.uint8), points)


@pytest.mark.parametrize("size", [0, -5, 112.0, None, 5000])
def test_sizes_that_no_face_has(size: Any):
    with pytest.raises(OptionError, match="no face has that size"):
        align(np.zeros((99, 99, 3), np.uint8), PLACES, size)


@pytest.mark.parametrize(
    "image", [None, np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8), "a.jpg"]
)
def test_pictures_that_are_none(image: Any):
    with pytest.raises(SourceError, match="is not an image array"):
        align(image, PLACES)


# ---- the gallery ----

ANN, BOB, MID = vector(1, 0, 0), vector(0, 1, 0), vector(1, 1, 0)


def some() -> Gallery:
    return Gallery("print").add("bob", BOB, "b.jpg").add("ann", ANN, "a1.jpg").add("ann", MID, "a2.jpg")


def test_enrolling_makes_a_new_gallery():
    empty = Gallery("print")
    one = empty.add("ann", ANN, "a.jpg")
    assert (len(empty), len(one), len(some())) == (0, 1, 3)
    assert some().names == ("bob", "ann", "ann")
    assert some().people() == ("ann", "bob")
    assert some().sources == ("b.jpg", "a1.jpg", "a2.jpg")
    assert empty.people() == ()


def test_the_closest_of_all_pictures_counts():
    found = some().match(np.stack([ANN, BOB, MID, vector(3, 4, 0), vector(0, 0, 1)]))
    assert [m.name for m in found] == ["ann", "bob", "ann", "ann", None]
    np.testing.assert_allclose([m.similarity for m in found], [1, 1, 1, 7 / np.sqrt(50), 0], atol=1e-6)
    assert all(type(m.similarity) is float for m in found)


def test_the_threshold_itself_is_not_enough():
    exact = Gallery("print").add("ann", np.array([0.5, 0.5, 0.5, 0.5], np.float32), "")
    probe = np.array([[1, 0, 0, 0]], np.float32)
    assert exact.match(probe, 0.5) == [Match(None, 0.5)]
    assert exact.match(probe, np.nextafter(0.5, 0)) == [Match("ann", 0.5)]
    assert exact.match(probe) == [Match("ann", 0.5)]
    assert THRESHOLD < 0.5
    assert exact.match(-probe, -1) == [Match("ann", -0.5)]


def test_an_empty_gallery_knows_nobody():
    assert Gallery("print").match(np.stack([ANN, BOB])) == [Match(None, -1.0)] * 2
    assert Gallery("print").match(np.zeros((0, 3), np.float32)) == []
    assert some().match(np.zeros((0, 3), np.float32)) == []


def test_zero_vectors_are_like_nobody():
    nothing = np.zeros((1, 3), np.float32)
    assert some().match(nothing) == [Match(None, 0.0)]
    assert some().add("cat", nothing[0], "").match(ANN[None]) == [Match("ann", 1.0)]


def test_of_equals_the_first_that_was_enrolled():
    twins = Gallery("print").add("bob", ANN, "").add("ann", ANN, "")
    assert twins.match(ANN[None]) == [Match("bob", 1.0)]


@pytest.mark.parametrize("name", ["", "  ", "\t", UNKNOWN, "Unknown", " unknown "])
def test_names_that_nobody_has(name: str):
    with pytest.raises(DataError, match="nobody can be called that"):
        some().add(name, ANN, "")


@pytest.mark.parametrize(
    "wrong",
    [np.ones(3), np.array([1, 0]), np.array([np.nan, 0, 0]), np.array([np.inf, 0, 0]), np.ones((1, 3)), np.array(1.0)],
    ids=str,
)
def test_vectors_that_do_not_fit(wrong: NDArray[Any]):
    with pytest.raises(DataError, match="the vectors do not fit the gallery"):
        some().add("ann", wrong, "")
    with pytest.raises(DataError, match="the vectors do not fit the gallery"):
        some().match(np.asarray(wrong, np.float32)[None])
    if wrong.size != 2:
        with pytest.raises(DataError, match="the vectors do not fit the gallery"):
            Gallery("print").add("ann", wrong if wrong.ndim else wrong * 2, "")


def test_vectors_of_another_type_become_float32(tmp_path: Path):
    one = Gallery("print").add("ann", np.array([0.6, 0.8]), "")
    one.save(tmp_path / "g.npz")
    assert open_gallery(tmp_path / "g.npz", "print").vectors.dtype == np.float32


def test_faces_with_peoples_names():
    faces = tiles_with_faces(tiles((9, 9, 9), (8, 8, 8), (7, 7, 7)))
    named = some().named(faces, [Match("bob", 0.7), Match(None, -0.3), Match("ann", 1.0000001)])
    assert named.names == ("ann", "bob", UNKNOWN)
    assert named.class_name == ["bob", UNKNOWN, "ann"]
    np.testing.assert_allclose(named.confidence, [0.7, 0, 1])
    assert (named.class_id.dtype, named.confidence.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(named.xyxy, faces.xyxy)
    np.testing.assert_array_equal(named.keypoints, faces.keypoints)
    nobody = Gallery("print").named(faces, Gallery("print").match(np.stack([ANN] * 3)))
    assert nobody.class_name == [UNKNOWN] * 3


# ---- its file ----


def test_a_gallery_comes_back(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "g.npz"
    whole = some().add("Žofie Ångström 李", vector(0, 0, 1), "bilder/ž 李.jpg")
    whole.save(path)
    again = open_gallery(path, "print")
    assert (again.names, again.sources, again.embedder) == (whole.names, whole.sources, "print")
    np.testing.assert_array_equal(again.vectors, whole.vectors)
    assert again.match(vector(0, 0, 1)[None]) == [Match("Žofie Ångström 李", 1.0)]
    assert [p.name for p in path.parent.iterdir()] == ["g.npz"]
    assert len(again.add("bob", BOB, "")) == 5


def test_an_empty_gallery_comes_back(tmp_path: Path):
    Gallery("print").save(tmp_path / "g.npz")
    again = open_gallery(tmp_path / "g.npz", "print")
    assert (len(again), again.vectors) == (0, None)
    assert len(again.add("ann", ANN, "")) == 1


def test_the_name_is_taken_as_it_is(tmp_path: Path):
    some().save(tmp_path / "people")  # numpy itself would add .npz
    assert [p.name for p in tmp_path.iterdir()] == ["people"]


def test_galleries_of_another_embedder(tmp_path: Path):
    some().save(tmp_path / "g.npz")
    with pytest.raises(DataError, match="another embedder: got fingerprint print; expected other"):
        open_gallery(tmp_path / "g.npz", "other")


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_files_that_are_cut_off(share: float, tmp_path: Path):
    path = tmp_path / "g.npz"
    some().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"g\.npz is no gallery"):
        open_gallery(path, "print")


def test_every_byte_that_is_wrong_is_an_error_or_does_no_harm(tmp_path: Path):
    path = tmp_path / "g.npz"
    some().save(path)
    content = path.read_bytes()
    refused = 0
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            np.testing.assert_array_equal(open_gallery(path, "print").vectors, some().vectors)
        except DataError:
            refused += 1
    assert refused > len(content) / 6


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def parts(**other: Any) -> dict[str, Any]:
    good = {"names": ["ann"], "vectors": ANN[None], "sources": ["a.jpg"], "embedder": "print"}
    return {k: np.asarray(v) for k, v in (good | other).items() if v is not None}


@pytest.mark.parametrize(
    "content",
    [
        parts(names=np.array([Trap()], object)),
        parts(vectors=np.array([[Trap()]], object)),
        parts(embedder=np.array(Trap(), object)),
        parts(names=None),
        parts(embedder=None),
        parts(names=["ann", "bob"]),
        parts(sources=[]),
        parts(names="a", sources="b"),
        parts(names=[["ann"]]),
        parts(names=[1]),
        parts(names=[b"ann"]),
        parts(names=["unknown"]),
        parts(names=[""]),
        parts(vectors=ANN),
        parts(vectors=ANN[None, None]),
        parts(vectors=ANN[None].astype(np.float64)),
        parts(vectors=ANN[None] * 2),
        parts(vectors=ANN[None] * np.float32(np.nan)),
        parts(vectors=np.array([[np.inf, 0, 0]], np.float32)),
        parts(vectors=np.zeros((1, 0), np.float32)),
        parts(vectors=np.zeros((0, 3), np.float32)),
        parts(vectors=np.float32(1)),
    ],
    ids=lambda p: " ".join(f"{k}:{v.dtype.kind}{list(v.shape)}" for k, v in p.items()),
)
def test_files_that_hold_something_else(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    np.savez("g.npz", **content)
    with pytest.raises(DataError, match=r"g\.npz is no gallery: .*expected a file of eyas faces"):
        open_gallery(Path("g.npz"), "print")
    assert [p.name for p in tmp_path.iterdir()] == ["g.npz"], "nothing in a file may run"


def test_the_trap_of_these_tests_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Trap()))  # noqa: S301 - our own
    assert Path("sprung").exists()


def test_the_smallest_file_that_is_a_gallery(tmp_path: Path):
    np.savez(tmp_path / "g.npz", **parts())
    assert open_gallery(tmp_path / "g.npz", "print").names == ("ann",)


def test_files_of_another_kind(tmp_path: Path):
    np.save(tmp_path / "a.npy", ANN)
    (tmp_path / "a.txt").write_text("ann")
    (tmp_path / "a.pickle").write_bytes(pickle.dumps({"names": ["ann"]}))
    (tmp_path / "folder").mkdir()
    for name in ("a.npy", "a.txt", "a.pickle", "folder", "none.npz"):
        with pytest.raises(DataError, match=rf"{name} is no gallery"):
            open_gallery(tmp_path / name, "print")


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_old_file(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "g.npz"
    some().save(path)
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, method, full)
        with pytest.raises(SinkError, match=r"cannot write .*No space left"):
            some().add("cat", MID, "").save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["g.npz"], "nothing half-written stays"


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot write"):
        some().save(tmp_path / "file" / "g.npz")


# ---- both models joined ----


def joined() -> Recogniser:
    return Recogniser(detector(), embedder())


RED, GREEN, BLACK, DARK = (0, 0, 250), (0, 250, 0), (0, 0, 0), (0, 0, 100)


@pytest.mark.parametrize("task", ["detect", "segment", "embed", "classify"])
def test_detectors_of_another_task(task: str):
    with pytest.raises(OptionError, match=f"the detector is of another kind: .*task {task}; expected a face detector"):
        Recogniser(FakeModel(card(task), tiles_with_faces), embedder())


@pytest.mark.parametrize("task", ["detect", "pose", "classify"])
def test_embedders_of_another_task(task: str):
    with pytest.raises(OptionError, match=f"the embedder is of another kind: .*task {task}; expected a face embedder"):
        Recogniser(detector(), FakeModel(card(task), mean_colour))


def test_an_embedder_of_whole_persons():
    with pytest.raises(OptionError, match="does not take faces: got family arcface, input 256 × 128"):
        Recogniser(detector(), embedder((256, 128)))


@pytest.mark.parametrize("points", [17, 4, None])
@pytest.mark.parametrize("shown", [RED, BLACK])
def test_key_points_that_are_not_a_faces(points: int | None, shown: tuple[int, int, int]):
    def persons(image: Image) -> Detections:
        found = tiles_with_faces(image)
        keypoints = None if points is None else np.ones((len(found), points, 3), np.float32)
        return Detections(found.xyxy, found.confidence, found.class_id, keypoints=keypoints)

    pose = FakeModel(card("pose"), persons)
    with pytest.raises(OptionError, match=f"not a face's: got {points or 0} points an object; expected 5"):
        list(Recogniser(pose, embedder()).stream(tiles(shown)))
    assert pose.finished == 1


def test_every_face_has_its_vector():
    (prediction,) = joined().stream(tiles(RED, BLACK, GREEN))
    faces = prediction.detections
    assert len(faces) == 2
    assert faces.embedding.dtype == np.float32
    np.testing.assert_allclose(faces.embedding, [vector(*RED), vector(*GREEN)], atol=0.01)
    np.testing.assert_allclose(faces.xyxy[1], [128, 0, 192, 64])


def test_the_embedder_is_given_faces_of_its_size():
    small = embedder((40, 40))
    (prediction,) = Recogniser(detector(), small).stream(tiles(RED, GREEN))
    assert [image.shape for image in small.asked] == [(40, 40, 3)] * 2
    faces, image = prediction.detections, prediction.frame.image
    for crop, points in zip(small.asked, faces.keypoints, strict=True):
        np.testing.assert_array_equal(crop, align(image, points, 40))


def test_pictures_without_faces_are_not_embedded():
    model = joined()
    (prediction,) = model.stream(tiles(BLACK))
    assert (len(prediction.detections), prediction.detections.embedding) == (0, None)
    assert model.embedder.asked == []


def test_errors_come_through_in_order(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), tiles(RED))
    (tmp_path / "b.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "c.png"), tiles(BLACK))
    cv2.imwrite(str(tmp_path / "d.png"), tiles(GREEN))
    found = list(joined().stream(tmp_path))
    assert [Path(p.source_id).name for p in found] == ["a.png", "b.png", "c.png", "d.png"]
    assert [type(p.error) for p in found] == [type(None), ImageError, type(None), type(None)]
    assert [len(p.detections) if p.detections else 0 for p in found] == [1, 0, 0, 1]


def test_the_detectors_confidence_is_the_callers():
    image = tiles(RED, DARK)
    counts = [len(next(joined().stream(image, conf=c)).detections) for c in (0.3, 0.5, 0.99)]
    assert counts == [2, 1, 0]


def test_a_stream_that_is_left_ends_the_detectors():
    model = joined()
    stream = model.stream([tiles(RED)] * 5)
    next(stream)
    stream.close()
    assert model.detector.finished == 1
    assert len(model.detector.asked) == 1


def test_the_largest_face_is_the_one_of_a_picture():
    def faces(image: Image) -> Detections:
        found = tiles_with_faces(image)
        found.xyxy[1] = [64, -10, 128, 64]
        return found

    model = Recogniser(FakeModel(card("pose"), faces), embedder())
    got = model.embed(tiles(RED, GREEN, RED))
    assert isinstance(got, Embedding)
    np.testing.assert_allclose(got.vector, vector(*GREEN), atol=0.01)
    assert largest(tiles_with_faces(tiles(RED, GREEN))) == 0, "of equals the first, which is the surest"


def test_embedding_what_has_no_face(tmp_path: Path):
    with pytest.raises(DataError, match=r"no face in array.*got nothing over 0\.5"):
        joined().embed(tiles(BLACK))
    with pytest.raises(DataError, match=r"nothing over 0\.9"):
        joined().embed(tiles(DARK), conf=0.9)
    with pytest.raises(SourceError, match="cannot be used"):
        joined().embed(tmp_path / "none.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ImageError):
        joined().embed(tmp_path / "b.png")
    for many in (tmp_path, str(tmp_path / "*.png"), [tiles(RED)]):
        with pytest.raises(SourceError, match="embed takes one picture"):
            joined().embed(many)


def test_real_people(real_data: Path):
    models, folder = real_data / "models", real_data / "data" / "face_pairs"
    with (
        eyas.load(models / "scrfd_500m_kps.onnx") as finder,
        eyas.load(models / "mobilefacenet.onnx") as describer,
    ):
        model = Recogniser(finder, describer)
        a, b, c = (model.embed(folder / f"img{i}.jpg") for i in (20, 21, 24))
        everyone = list(model.stream(real_data / "data" / "images" / "many_face.png"))
    assert a.similarity(b) > THRESHOLD > a.similarity(c)
    assert everyone[0].detections.embedding.shape == (6, 128)
    np.testing.assert_allclose(np.linalg.norm(everyone[0].detections.embedding, axis=1), 1, atol=1e-5)
    assert gallery_module.are_units(everyone[0].detections.embedding)
