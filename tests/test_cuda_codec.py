"""JPEG on the GPU: which files go there, the way back to the host; and, on a GPU with nvImageCodec, the pixels."""

from __future__ import annotations

import io
import logging
import re
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import SAMPLES
from fake_cuda import Machine, machine
from PIL import Image as Pillow

import eyas
from eyas.cuda import codec
from eyas.cuda.codec import GpuDecoder, open_decoder, takes
from eyas.cuda.device import CudaDevice, open_device, why_missing
from eyas.cuda.memory import copy
from eyas.cuda.stages import DeviceStages
from eyas.errors import BackendError, EyasError, ImageError, OptionError
from eyas.graph.head import HeadSpec
from eyas.imagefile import read_image
from eyas.source import only_picture, pictures
from eyas.stages import Job
from eyas.types import DeviceImage, Image, ModelCard, Normalise

__all__ = ["machine"]
PHOTO = SAMPLES / "chelsea.jpg"


def encoded(form: str = "JPEG", size: tuple[int, int] = (123, 77), mode: str = "RGB", **options: Any) -> bytes:
    """A photo of (width, height), as a file."""
    data = io.BytesIO()
    with Pillow.open(PHOTO) as photo:
        photo.convert("RGB").resize(size).convert(mode).save(data, form, **options)
    return data.getvalue()


def sampled(factor: int, size: tuple[int, int] = (123, 77)) -> bytes:
    """4:4:0 and the like, which Pillow does not write."""
    photo = cv2.resize(cv2.imread(str(PHOTO)), size)
    return cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def exif(orientation: int, order: str = "<") -> bytes:
    """An APP1 segment that holds nothing else."""
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    entry = struct.pack(order + "HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    return segment(0xE1, b"Exif\0\0" + start + entry)


def after_start(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


COMMON: dict[str, Callable[[], bytes]] = {
    "4:4:4": partial(encoded, subsampling=0, quality=90),
    "4:2:2": partial(encoded, subsampling=1, quality=90),
    "4:2:0": partial(encoded, subsampling=2, quality=90),
    "4:4:0": partial(sampled, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "grey": partial(encoded, mode="L", quality=90),
    "progressive": partial(encoded, progressive=True, quality=90),
    "progressive grey": partial(encoded, mode="L", progressive=True),
    "restarts": partial(encoded, restart_marker_blocks=3),
    "1 × 1": partial(encoded, size=(1, 1)),
    "1 × 300": partial(encoded, size=(1, 300)),
    "301 × 1": partial(encoded, size=(301, 1)),
    "17 × 31": partial(encoded, size=(17, 31)),
    "1021 × 767": partial(encoded, size=(1021, 767)),
    "fill bytes": lambda: after_start(encoded(), b"\xff\xff", exif(6)),
}
OTHERS: dict[str, Callable[[], bytes]] = {
    "CMYK": partial(encoded, mode="CMYK"),
    "RGB stored as such": partial(encoded, keep_rgb=True, subsampling=0),
    "4:1:1": partial(sampled, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "two Exif segments": lambda: after_start(encoded(), exif(6), exif(3)),
    "stray bytes": lambda: encoded()[:20] + b"stray" + encoded()[20:],  # behind the first segment
    "a second frame": lambda: after_start(encoded(), segment(0xC0, bytes(15))),
    "12 bits": lambda: encoded().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    "arithmetic": lambda: encoded().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc9\x00\x11\x08"),
    "PNG": partial(encoded, "PNG"),
    "WebP": partial(encoded, "WEBP"),
}
BROKEN: dict[str, Callable[[], bytes]] = {
    "cut": lambda: encoded()[:-200],
    "header alone": lambda: encoded()[:200],
    "no size": lambda: encoded().replace(struct.pack(">HH", 77, 123), bytes(4)),
    "text": lambda: b"no picture at all",
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("kind", COMMON)
def test_common_files_go_to_the_gpu(kind: str) -> None:
    assert takes(COMMON[kind]())


@pytest.mark.parametrize("kind", [*OTHERS, *BROKEN])
def test_all_others_stay_on_the_host(kind: str) -> None:
    assert not takes((OTHERS | BROKEN)[kind]())


def test_every_sample_goes_to_the_gpu() -> None:
    files = sorted(SAMPLES.glob("*.jpg"))
    assert files
    assert all(takes(file.read_bytes()) for file in files)


def test_no_end_of_a_header_is_read_beyond() -> None:
    whole = encoded(subsampling=1)
    header = whole[: whole.index(b"\xff\xda") + 14]
    assert takes(whole)
    assert not any(takes(header[:end]) for end in range(len(header)))
    for at in range(2, len(header)):
        takes(whole[:at] + b"\xff" + whole[at + 1 :])  # raises nothing


def test_a_baseline_file_of_several_scans_stays_on_the_host() -> None:
    """As `cjpeg -scans` writes it: each component by itself."""
    data = encoded()
    at = data.index(b"\xff\xda")
    single = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00")
    assert not takes(data[:at] + single + data[at + 14 :])


def test_the_limit_of_pixels_counts() -> None:
    assert takes(encoded(), max_pixels=123 * 77)
    assert not takes(encoded(), max_pixels=123 * 77 - 1)


# What is done with the library, which an object stands for here.


class Library:
    """nvidia.nvimgcodec, as far as it is used; decodes with OpenCV, into memory at its real address."""

    ColorSpec = SimpleNamespace(SRGB="srgb")
    SampleFormat = SimpleNamespace(I_BGR="bgr")
    BackendKind = SimpleNamespace(HW_GPU_ONLY=4, GPU_ONLY=2, HYBRID_CPU_GPU=3, CPU_ONLY=1)

    def __init__(self) -> None:
        self.decoders: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[bytes], Any] = self.decoded

    def Backend(self, kind: int) -> int:
        return kind

    def CodeStream(self, data: bytes) -> bytes:
        return data

    def DecodeParams(self, **options: Any) -> dict[str, Any]:
        return options

    def Decoder(self, **options: Any) -> Any:
        def decode(data: bytes, *, params: Any, cuda_stream: int) -> Any:
            assert not decoder.busy, "one call at a time"
            decoder.busy = True
            try:
                self.asked.append({**params, "stream": cuda_stream})
                return self.answer(data)
            finally:
                decoder.busy = False

        decoder = SimpleNamespace(decode=decode, options=options, busy=False)
        self.decoders.append(decoder)
        return decoder

    def decoded(self, data: bytes) -> Any:
        pixels = read_image(data, "x")
        lent = {"data": (pixels.ctypes.data, False)}
        return SimpleNamespace(shape=pixels.shape, strides=pixels.strides, __cuda_array_interface__=lent, pixels=pixels)


def fail(data: bytes) -> Any:
    raise RuntimeError("Unhandled CUDA error:\n invalid argument")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setattr(codec, "need", lambda module, extra: {("nvidia.nvimgcodec", "nvimgcodec"): made}[module, extra])
    return made


@pytest.fixture
def decoder(machine: Machine, library: Library) -> GpuDecoder:
    made = GpuDecoder(open_device(0))
    library.asked.clear()
    return made


def test_a_picture_is_lent_with_its_event_and_its_owner(decoder: GpuDecoder, library: Library) -> None:
    image = decoder.decode(encoded(), "x")
    assert isinstance(image, DeviceImage)
    assert (image.shape, image.row_bytes, image.index) == ((77, 123, 3), 123 * 3, 0)
    stream, owner = image.owner
    assert image.address == owner.pixels.ctypes.data
    assert image.ready.stream is stream
    (asked,) = library.asked
    assert asked["stream"] == stream.handle
    assert (asked["color_spec"], asked["sample_format"], asked["apply_exif_orientation"]) == ("srgb", "bgr", True)


def test_the_cpu_of_the_library_is_not_asked(decoder: GpuDecoder, library: Library) -> None:
    assert library.decoders[0].options["backends"] == [4, 2, 3]
    assert library.decoders[0].options["device_id"] == 0


def outcome(read: Callable[[bytes, str], Image], data: bytes) -> Any:
    """The pixels, or what is said of the file."""
    try:
        return read(data, "x").tolist()
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("kind", [*OTHERS, *BROKEN])
def test_other_files_are_read_on_the_host(decoder: GpuDecoder, library: Library, kind: str) -> None:
    data = (OTHERS | BROKEN)[kind]()
    assert outcome(decoder.read, data) == outcome(read_image, data)
    assert not library.asked


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_an_error(decoder: GpuDecoder, kind: str) -> None:
    with pytest.raises(ImageError, match=r"x is (cut short or damaged|damaged|not a picture)"):
        decoder.read(BROKEN[kind](), "x")


def test_too_many_pixels_are_the_usual_error(decoder: GpuDecoder) -> None:
    with pytest.raises(ImageError, match="x is too large: got 123 × 77"):
        decoder.read(encoded(), "x", 9000)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (fail, "Unhandled CUDA error: invalid argument"),
        (lambda data: None, "no reason given"),
        (lambda data: SimpleNamespace(shape=(3, 4, 5), strides=(20, 5, 1)), r"pixels of shape \(3, 4, 5\)"),
    ],
)
def test_where_the_library_fails_the_host_decodes_and_says_so_once(
    decoder: GpuDecoder, library: Library, caplog: pytest.LogCaptureFixture, answer: Any, why: str
) -> None:
    library.answer = answer
    with caplog.at_level(logging.WARNING, "eyas"):
        for name in ("a.jpg", "b.jpg"):
            np.testing.assert_array_equal(decoder.read(encoded(), name), read_image(encoded(), name))
    (record,) = caplog.records
    assert "a.jpg: nvImageCodec fails" in record.getMessage()
    assert re.search(why, record.getMessage())
    library.answer = library.decoded
    assert isinstance(decoder.decode(encoded(), "c.jpg"), DeviceImage)


def test_calls_at_the_same_time_have_a_decoder_each(decoder: GpuDecoder, library: Library) -> None:
    together = threading.Barrier(4)

    def answer(data: bytes) -> Any:
        together.wait(10)
        return library.decoded(data)

    library.answer = answer
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            images = list(pool.map(decoder.decode, [encoded()] * 4, "abcd"))
            assert all(isinstance(image, DeviceImage) for image in images)
    assert len(library.decoders) == 4
    assert len({asked["stream"] for asked in library.asked}) == 4


def test_a_library_that_decodes_nothing_is_an_error(machine: Machine, library: Library) -> None:
    library.answer = lambda data: None
    with pytest.raises(BackendError, match=r"nvImageCodec decodes no JPEG on GPU 0: .*eyas\[nvimgcodec\]"):
        GpuDecoder(open_device(0))


def test_the_option(machine: Machine, library: Library) -> None:
    device = open_device(0)
    assert open_decoder({}, device) is None
    assert open_decoder({"decode": "host"}, None) is None
    assert isinstance(open_decoder({"decode": "gpu"}, device), GpuDecoder)
    with pytest.raises(OptionError, match=r"unknown decode: got 'cpu'; expected host \| gpu"):
        open_decoder({"decode": "cpu"}, device)
    with pytest.raises(OptionError, match="got an engine on the host"):
        open_decoder({"decode": "gpu"}, None)


def test_stages_decode_there_what_is_not_given_back(machine: Machine, library: Library) -> None:
    card = ModelCard("yolov8", (4, 4), Normalise("rgb"), ("thing",))
    engine: Any = SimpleNamespace(device=open_device(0), all=[], largest=1, parallel=1)
    array = np.zeros((4, 5, 3), np.uint8)
    jpeg, png, mine = pictures([encoded(), encoded("PNG"), array])
    for decode, kind in (("gpu", DeviceImage), ("host", np.ndarray)):
        stages = DeviceStages(card, HeadSpec(), [engine], {"decode": decode})
        assert isinstance(stages.load(Job(jpeg, 0.3, 0.5, whole=False)).image, kind)
        assert isinstance(stages.load(Job(jpeg, 0.3, 0.5, whole=True)).image, np.ndarray)
        assert isinstance(stages.load(Job(png, 0.3, 0.5, whole=False)).image, np.ndarray)
        assert stages.load(Job(mine, 0.3, 0.5, whole=False)).image is array


def test_an_engine_on_the_host_refuses_the_option() -> None:
    with (
        eyas.load(backend="null", options={"decode": "gpu"}) as model,
        pytest.raises(OptionError, match="got an engine on the host"),
    ):
        model.predict(PHOTO)


def test_without_the_package_its_extra_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[nvimgcodec\]'"):
        open_decoder({"decode": "gpu"}, open_device(0))


def test_pictures_that_are_encoded_take_another_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(encoded())
    seen: list[tuple[int, str, int]] = []

    def decode(data: bytes, name: str, max_pixels: int) -> Image:
        seen.append((len(data), name, max_pixels))
        return np.full((2, 3, 3), 7, np.uint8)

    stdin = SimpleNamespace(buffer=io.BytesIO(encoded()), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", stdin)
    array = np.zeros((4, 5, 3), np.uint8)
    found = list(pictures([file, tmp_path, encoded(), "-", array, tmp_path / "none.jpg"], max_pixels=99))
    frames = [picture.load(decode) for picture in found[:-1]]
    assert [f.size for f in frames] == [(2, 3)] * 4 + [(4, 5)]
    assert [name for _, name, _ in seen] == [str(file), str(file), "bytes 2", "stdin"]
    assert {rest for size, _, rest in seen if size == len(encoded())} == {99}
    with pytest.raises(EyasError, match=r"none\.jpg"):
        found[-1].load(decode)
    assert only_picture(array).load(decode).image is array


# On a GPU.


@pytest.fixture(scope="module")
def gpu() -> tuple[CudaDevice, GpuDecoder]:
    open_device.cache_clear()
    if reason := why_missing():
        pytest.skip(f"needs a GPU: {reason}")
    for needed in ("cuda.core", "nvidia.nvimgcodec"):
        pytest.importorskip(needed, reason="the extra `nvimgcodec` is not installed")
    device = open_device(0)
    return device, GpuDecoder(device)


def on_host(device: CudaDevice, image: DeviceImage | None) -> Image:
    """Its pixels, once they are ready."""
    assert image is not None, "the library failed: see the log"
    device.use()
    height, width, _ = image.shape
    stream = device.stream()
    stream.wait(image.ready)
    host = np.empty((height, image.row_bytes), np.uint8)
    copy(device, host.ctypes.data, image.address, image.row_bytes * (height - 1) + width * 3, stream)
    stream.sync()
    return host[:, : width * 3].reshape(height, width, 3)


def assert_alike(ours: Image, usual: Image) -> None:
    """Mean difference under 1.5 grey levels, 99% of the samples within 8: another inverse DCT and interpolation."""
    assert ours.shape == usual.shape
    difference = np.abs(ours.astype(int) - usual)
    assert difference.mean() < 1.5, f"mean {difference.mean():.2f}, most {difference.max()}"
    assert (difference <= 8).mean() >= 0.99, f"{(difference > 8).mean():.1%} over 8, most {difference.max()}"


@pytest.mark.parametrize("kind", COMMON)
def test_pixels_are_those_of_the_host(gpu: tuple[CudaDevice, GpuDecoder], kind: str) -> None:
    device, decoder = gpu
    data = COMMON[kind]()
    ours, usual = on_host(device, decoder.decode(data, kind)), read_image(data, kind)
    assert_alike(ours, usual)
    if kind in ("4:4:4", "grey", "progressive grey"):  # nothing to interpolate
        assert (np.abs(ours.astype(int) - usual) <= 3).mean() >= 0.999


@pytest.mark.parametrize("file", sorted(SAMPLES.glob("*.jpg")), ids=lambda file: file.name)
def test_samples_on_a_gpu(gpu: tuple[CudaDevice, GpuDecoder], file: Path) -> None:
    device, decoder = gpu
    data = file.read_bytes()
    assert_alike(on_host(device, decoder.decode(data, file.name)), read_image(data, file.name))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("progressive", [False, True])
def test_pictures_are_turned_upright(
    gpu: tuple[CudaDevice, GpuDecoder], orientation: int, order: str, progressive: bool
) -> None:
    device, decoder = gpu
    data = after_start(encoded(quality=90, progressive=progressive), exif(orientation, order))
    assert_alike(on_host(device, decoder.decode(data, "x")), read_image(data, "x"))


def test_threads_and_their_memory_on_a_gpu(gpu: tuple[CudaDevice, GpuDecoder]) -> None:
    """Pictures of several sizes at once, each kept while others come and go."""
    device, decoder = gpu
    files = [encoded(size=(100 + 37 * i, 400 - 23 * i), quality=90) for i in range(12)]

    def check(i: int) -> None:
        image = decoder.decode(files[i % 12], str(i))
        others = [decoder.decode(files[(i + n) % 12], str(i)) for n in (1, 2)]
        del others
        assert_alike(on_host(device, image), read_image(files[i % 12], str(i)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(96)))


@pytest.mark.parametrize("progressive", [False, True])
def test_damage_that_no_header_shows_does_no_harm(gpu: tuple[CudaDevice, GpuDecoder], progressive: bool) -> None:
    """Coded data with wrong bytes: some picture of the right size, or none; and the next one is right."""
    device, decoder = gpu
    good = encoded(quality=90, progressive=progressive)
    start = good.index(b"\xff\xda") + 14
    rng = np.random.default_rng(1)
    for _ in range(20):
        bad = np.frombuffer(good, np.uint8).copy()
        bad[rng.integers(start, len(bad) - 2, 5)] = rng.integers(0, 255, 5)
        image = decoder.decode(bad.tobytes(), "x")
        assert image is None or on_host(device, image).shape == (77, 123, 3)
        assert_alike(on_host(device, decoder.decode(good, "x")), read_image(good, "x"))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_on_a_gpu(gpu: tuple[CudaDevice, GpuDecoder], kind: str) -> None:
    assert gpu[1].decode(OTHERS[kind](), kind) is None


def test_detections_are_those_of_the_host(gpu: tuple[CudaDevice, GpuDecoder], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `ort-gpu` is not installed")
    open_model = partial(eyas.load, backend="onnxruntime", device="cuda", precision="fp32", batch=4)
    files = sorted(SAMPLES.glob("*.jpg"))
    found: list[list[Any]] = []
    lent: list[DeviceImage | None] = []
    decode_it = GpuDecoder.decode
    monkeypatch.setattr(GpuDecoder, "decode", lambda *args: lent.append(decode_it(*args)) or lent[-1])
    for decode in ("host", "gpu"):
        with open_model(options={"decode": decode}) as model:
            one = [model.predict(file) for file in files]
            many = list(model.predict([*files, files[0].read_bytes()]))
            later = [future.result() for future in [model.submit(file) for file in files]]
            found.append([*one, *many, *later])
    assert len(lent) == len(found[1])  # each of the second model's, none of the first's
    assert all(image is not None for image in lent)
    objects = 0
    for usual, ours in zip(*found, strict=True):
        sure = usual.confidence > 0.35
        objects += int(sure.sum())
        for box, kind in zip(usual.xyxy[sure], usual.class_id[sure], strict=True):
            rivals = ours.xyxy[ours.class_id == kind]
            inner = np.minimum(box[2:], rivals[:, 2:]) - np.maximum(box[:2], rivals[:, :2])
            both = inner.clip(0).prod(axis=1)
            area = (box[2:] - box[:2]).prod() + (rivals[:, 2:] - rivals[:, :2]).prod(axis=1) - both
            assert len(rivals)
            assert (both / area).max() > 0.95
    assert objects


def test_a_stream_gives_frames_on_the_host(gpu: tuple[CudaDevice, GpuDecoder]) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `ort-gpu` is not installed")
    with eyas.load(backend="onnxruntime", device="cuda", options={"decode": "gpu"}) as model:
        for prediction in model.stream(SAMPLES):
            assert prediction.frame is not None
            assert isinstance(prediction.frame.image, np.ndarray)
