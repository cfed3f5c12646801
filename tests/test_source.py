"""eyas.source: what a user can name, which pictures come of it, in which order, and what is said where none can."""

import io
import os
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from eyas.errors import EyasError, ImageError, SourceError
from eyas.source import Picture, is_single, pictures
from eyas.types import Frame


def _colour(value: int) -> np.ndarray:
    """A picture [4, 6, 3] by whose pixels one can tell which it is."""
    return np.full((4, 6, 3), (value, 255 - value, 7), np.uint8)


def _png(value: int) -> bytes:
    return cv2.imencode(".png", _colour(value))[1].tobytes()


def _values(found: list[Picture]) -> list[int]:
    return [int(p.load().image[0, 0, 0]) for p in found]


def _fails(picture: Picture, words: str, kind: type[EyasError] = SourceError) -> None:
    with pytest.raises(EyasError, match=words) as caught:
        picture.load()
    assert type(caught.value) is kind
    assert ": got " in str(caught.value)
    assert "; expected " in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """img1, img2, img10 (and an upper-case suffix) beside things that are to be passed over."""
    pics = tmp_path / "pics"
    (pics / "sub").mkdir(parents=True)
    for name, value in {"img10.png": 10, "img2.PNG": 2, "img1.png": 1, "Img3.bmp": 3}.items():
        (pics / name).write_bytes(_png(value))
    (pics / ".hidden.png").write_bytes(_png(99))
    (pics / "notes.txt").write_text("no picture")
    (pics / "sub" / "deep.png").write_bytes(_png(50))
    return pics


def test_one_file(folder: Path) -> None:
    path = folder / "img10.png"
    for source in (path, str(path)):
        (picture,) = pictures(source)
        assert (picture.source_id, picture.index) == (str(path), 0)
        frame = picture.load()
        assert (frame.source_id, frame.index, frame.pts_s) == (str(path), 0, None)
        assert np.array_equal(frame.image, _colour(10))
        assert is_single(source)


def test_source_id_is_the_path_as_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert [p.source_id for p in pictures(["./pics/img1.png", "pics"])][:2] == ["./pics/img1.png", "pics/img1.png"]


def test_folder_in_natural_order(folder: Path) -> None:
    for source in (folder, f"{folder}/"):
        found = list(pictures(source))
        assert [Path(p.source_id).name for p in found] == ["img1.png", "img2.PNG", "Img3.bmp", "img10.png"]
        assert [p.index for p in found] == [0, 1, 2, 3]
        assert _values(found) == [1, 2, 3, 10]
        assert found[3].load().index == 3
        assert not is_single(source)


def test_the_suffix_does_not_decide_for_a_named_file(tmp_path: Path) -> None:
    (tmp_path / "no_suffix").write_bytes(_png(5))
    assert _values(list(pictures(tmp_path / "no_suffix"))) == [5]


@pytest.mark.parametrize(
    ("pattern", "values"),
    [("*.png", [1, 10]), ("img?.*", [1, 2]), ("img[12]*", [1, 2, 10]), ("*", [1, 2, 3, 10]), ("**/*.png", [1, 10, 50])],
)
def test_globs(folder: Path, pattern: str, values: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _values(list(pictures(str(folder / pattern)))) == values
    assert _values(list(pictures(folder / pattern))) == values
    monkeypatch.chdir(folder)
    assert _values(list(pictures(pattern))) == values
    assert not is_single(pattern)


def test_an_existing_name_is_no_glob(tmp_path: Path) -> None:
    for name, value in {"a[1].png": 1, "a1.png": 2}.items():
        (tmp_path / name).write_bytes(_png(value))
    source = str(tmp_path / "a[1].png")
    assert _values(list(pictures(source))) == [1]
    assert is_single(source)


def test_bytes_and_arrays_are_named_by_their_index() -> None:
    sources = [_png(1), bytearray(_png(2)), memoryview(_png(3)), _colour(4)]
    found = list(pictures(sources))
    assert [p.source_id for p in found] == ["bytes 0", "bytes 1", "bytes 2", "array 3"]
    assert _values(found) == [1, 2, 3, 4]
    assert found[3].load().image is sources[3]
    assert all(is_single(s) for s in sources)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
def test_grey_arrays_are_replicated(shape: tuple[int, ...]) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(shape)
    (picture,) = pictures(grey)
    assert np.array_equal(picture.load().image, np.repeat(grey.reshape(4, 6, 1), 3, 2))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 3), np.float32),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((0, 6), np.uint8),
        np.zeros((), np.uint8),
    ],
)
def test_wrong_arrays(array: np.ndarray) -> None:
    (picture,) = pictures(array)
    _fails(picture, "array 0 is not an image array")


def test_a_frame_keeps_its_name_and_time_and_gets_the_runs_index() -> None:
    frame = Frame(_colour(1), 77, "camera 1", 2.5)
    found = list(pictures([_png(0), frame]))[1]
    loaded = found.load()
    assert (found.source_id, loaded.source_id, loaded.index, loaded.pts_s) == ("camera 1", "camera 1", 1, 2.5)
    assert loaded.image is frame.image
    assert is_single(frame)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(_png(9))))
    first, second, third = pictures(["-", _png(1), "-"])
    assert first.source_id == "stdin"
    assert _values([first, second]) == [9, 1]
    _fails(third, "only once")
    assert is_single("-")


@pytest.mark.parametrize("stdin", [None, SimpleNamespace(isatty=lambda: True)])
def test_standard_input_without_a_picture(stdin: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    _fails(next(pictures("-")), "nothing comes on standard input")


def test_index_counts_across_sources(folder: Path) -> None:
    found = list(pictures((folder, _colour(8), str(folder / "*.png"))))
    assert [p.index for p in found] == list(range(7))
    assert found[4].source_id == "array 4"
    assert _values(found) == [1, 2, 3, 10, 8, 1, 10]


def test_a_generator_stays_lazy(folder: Path) -> None:
    made = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            made.append(1)
            yield _colour(len(made))

    source = endless()
    assert not is_single(source)
    found = pictures(source)
    assert made == []
    assert _values([next(found), next(found)]) == [1, 2]
    assert len(made) == 2


def test_nothing_is_decoded_before_load(folder: Path) -> None:
    (picture,) = pictures(folder / "img1.png")
    (folder / "img1.png").write_bytes(_png(123))
    assert _values([picture]) == [123]


def test_picture_is_frozen() -> None:
    (picture,) = pictures(_colour(1))
    with pytest.raises(FrozenInstanceError):
        picture.index = 5  # type: ignore[misc]


def test_max_pixels_reaches_files_bytes_and_stdin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(_png(9))))
    for picture in pictures([folder, str(folder / "*.png"), folder / "img1.png", _png(1), "-"], max_pixels=23):
        _fails(picture, "24 pixels; expected at most 23", ImageError)


# What cannot be used


def test_a_missing_file_fails_alone_and_suggests(folder: Path) -> None:
    found = list(pictures([folder / "img1.png", folder / "imgg10.png", folder / "img2.PNG"]))
    assert _values([found[0], found[2]]) == [1, 2]
    assert [p.index for p in found] == [0, 1, 2]
    _fails(found[1], r"imgg10\.png.*No such file.*Did you mean .*img10\.png")
    assert is_single(folder / "imgg10.png")


@pytest.mark.parametrize(
    "source", ["", "no/such/folder/x.jpg", "a\0b.jpg", "a\0b/*.jpg", "x" * 5000, "**/[", Path("nope"), Path("n/*.png")]
)
def test_hopeless_paths(source: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(pictures(source))
    assert len(found) == 1
    _fails(found[0], "cannot be used|holds no picture|cannot be listed")
    assert is_single(source) == (not any(c in str(source) for c in "*["))


@pytest.mark.parametrize("url", ["http://example.org/a.jpg", "https://example.org/a.jpg?w=1", "rtsp://camera/1"])
def test_urls(url: str) -> None:
    (picture,) = pictures(url)
    assert picture.source_id == url
    _fails(picture, "is a URL.*Download it first")


def test_videos(tmp_path: Path) -> None:
    (tmp_path / "film.MP4").write_bytes(b"\0\0\0\x18ftypisom")
    _fails(next(pictures(tmp_path / "film.MP4")), "is a video.*open_video")
    (tmp_path / "film").write_bytes(b"\0\0\0\x18ftypisom")
    _fails(next(pictures(tmp_path / "film")), "a video", ImageError)


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    _fails(next(pictures(tmp_path)), "nothing at all")
    for name in ("a.txt", "b.txt", "c.mp4", "README"):
        (tmp_path / name).write_text("x")
    (tmp_path / "sub").mkdir()
    for source in (tmp_path, tmp_path / "*"):
        (picture,) = pictures(source)
        _fails(picture, r"holds no picture: got 5 of other kinds \(2 × \.txt")
        _fails(picture, r"1 × folder")


def test_a_glob_without_match(folder: Path) -> None:
    (picture,) = pictures(str(folder / "*.webp"))
    assert picture.source_id == str(folder / "*.webp")
    _fails(picture, "the glob .* holds no picture: got nothing at all")


@pytest.mark.parametrize("source", [5, None, 1.5, {"a": 1}, io.BytesIO(b"x"), SimpleNamespace(__array__=1)])
def test_unsupported_types(source: object) -> None:
    assert is_single(source)
    (picture,) = pictures(source)
    _fails(picture, "this is no picture source: got .*expected a path, a folder")
    bad, good = pictures([source, _png(3)])
    _fails(bad, "no picture source")
    assert (good.source_id, good.load().index) == ("bytes 1", 1)


def test_a_list_in_a_list_is_refused() -> None:
    _fails(next(pictures([["a.jpg"]])), "builtins.list")
    assert list(pictures([])) == []


def test_files_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "folder.jpg").mkdir()
    (folder / "gone.png").symlink_to(folder / "nowhere")
    found = {Path(p.source_id).name: p for p in pictures(folder)}
    _fails(found["folder.jpg"], "cannot be read: got Is a directory", ImageError)
    _fails(found["gone.png"], "cannot be read: got No such file", ImageError)
    (folder / "img1.png").unlink()
    _fails(found["img1.png"], "cannot be read: got No such file", ImageError)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    _fails(found["img10.png"], "cannot be read: got Permission denied", ImageError)


def test_a_folder_that_cannot_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    _fails(next(pictures(folder)), "cannot be listed: got Permission denied")


def test_text_named_jpg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    (tmp_path / "b.jpg").write_bytes(b"")
    text, empty = pictures(tmp_path)
    _fails(text, r"a\.jpg is not a picture: got what looks like text", ImageError)
    _fails(empty, r"b\.jpg is not a picture: got 0 bytes", ImageError)


def test_what_is_no_picture_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_text("many gigabytes")
    monkeypatch.setattr("eyas.source.read_image", lambda *_: pytest.fail("the whole file was read"))
    _fails(next(pictures(tmp_path / "model.onnx")), "is not a picture", ImageError)


def test_a_named_pipe_works(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, _png(6))
    os.close(write)
    try:
        assert _values(list(pictures(f"/dev/fd/{read}"))) == [6]
    finally:
        os.close(read)
