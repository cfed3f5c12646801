"""The CUDA path's parts on a GPU: arrays, the letterbox kernel, frames of other libraries; skipped without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from eyas.cuda.device import CudaDevice, open_device, why_missing
from eyas.cuda.letterbox import Layout, LetterboxKernel, Nv12, Out, Source
from eyas.cuda.memory import Block, copy, device_image, is_pinned, new_array, on_device, pinned
from eyas.cuda.nms import NmsLane
from eyas.errors import BackendError, SourceError
from eyas.graph.head import CANDIDATES, ORDER
from eyas.graph.openend import OpenEnd
from eyas.graph.surgery import THRESHOLDS
from eyas.letterbox import Letterbox
from eyas.nms import greedy_nms
from eyas.types import RESIZES, Image, Normalise

if reason := why_missing():
    pytest.skip(f"needs a GPU: {reason}", allow_module_level=True)
pytest.importorskip("cuda.core", reason="the extra `cuda` is not installed")


@pytest.fixture
def device() -> CudaDevice:
    opened = open_device(0)
    opened.use()
    return opened


def picture(seed: int, height: int, width: int) -> Image:
    """Smooth areas and noise, so that a shift of half a pixel shows."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, 3)
    noise = rng.integers(-20, 21, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def upload(device: CudaDevice, stream: Any, image: Image, row_bytes: int | None = None) -> tuple[Block, Source]:
    height, width, _ = image.shape
    row = row_bytes or width * 3
    padded = np.full((height, row), 77, np.uint8)
    padded[:, : width * 3] = image.reshape(height, -1)
    block = Block(device, stream, padded.nbytes)
    copy(device, block.address, padded.ctypes.data, padded.nbytes, stream)
    stream.sync()
    return block, Source(block.address, row)


def run(
    device: CudaDevice,
    images: list[Image],
    boxes: list[Letterbox],
    rows: list[int | None] | None = None,
    **options: Any,
) -> Any:
    """What the kernel makes of pictures."""
    stream = device.stream()
    size = boxes[0].target
    kernel = LetterboxKernel(device, stream, len(images), size, **options)
    dtype = options.get("out", "uint8")
    planar = options.get("layout") == "nchw"
    shape = (len(images), 3, *size) if planar else (len(images), *size, 3)
    out = new_array(device, stream, shape, dtype)
    out.block.buffer.fill(0xAB, stream=stream)
    none = [None] * len(images)
    kept = [upload(device, stream, image, row) for image, row in zip(images, rows or none, strict=True)]
    kernel([source for _, source in kept], boxes, out.address)
    host = pinned(device, shape, dtype)
    copy(device, host.ctypes.data, out.address, host.nbytes, stream)
    stream.sync()
    return host


def assert_close(got: Image, wanted: Image) -> None:
    """At most 1 grey level in 99.9% of the pixels, never over 2."""
    difference = np.abs(got.astype(int) - wanted.astype(int))
    assert difference.max() <= 2
    assert (difference <= 1).mean() >= 0.999


SIZES = [(1080, 1920), (427, 640), (1, 1), (1, 500), (500, 1), (640, 640), (33, 47), (300, 451), (2160, 3840)]


@pytest.mark.parametrize("rule", RESIZES)
@pytest.mark.parametrize("target", [(640, 640), (416, 416), (112, 112), (383, 641), (7, 5)])
def test_pixels_are_those_of_the_cpu(device: CudaDevice, rule: Any, target: tuple[int, int]) -> None:
    images = [picture(i, *size) for i, size in enumerate(SIZES)]
    boxes = [Letterbox.fit(image.shape[:2], target, rule, 0.875) for image in images]
    got = run(device, images, boxes, pad_value=114)
    for image, box, mine in zip(images, boxes, got, strict=True):
        wanted = box.apply(image, np.empty((*target, 3), np.uint8), 114)
        if box.smooth:
            assert_close(mine, wanted)
        else:
            np.testing.assert_array_equal(mine, wanted)  # to the bit


def test_rows_may_be_padded(device: CudaDevice) -> None:
    image = picture(5, 101, 203)
    box = Letterbox.fit((101, 203), (64, 96))
    rows: list[int | None] = [203 * 3, 203 * 3 + 1, 640, 1024]
    for got in run(device, [image] * 4, [box] * 4, rows):
        np.testing.assert_array_equal(got, box.apply(image, np.empty((64, 96, 3), np.uint8)))


@pytest.mark.parametrize("out", ["float16", "float32"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_floats_are_normalised(device: CudaDevice, out: Out, layout: Layout, colour: Any) -> None:
    images = [picture(i, 90 + i, 120) for i in range(3)]
    boxes = [Letterbox.fit(image.shape[:2], (64, 66)) for image in images]
    norm = Normalise(colour, (103.5, 116.3, 123.7), (1 / 57.4, 1 / 57.1, 1 / 58.4))
    got = run(device, images, boxes, out=out, layout=layout, normalise=norm).astype(np.float32)
    got = got.transpose(0, 2, 3, 1) if layout == "nchw" else got
    for image, box, mine in zip(images, boxes, got, strict=True):
        plain = box.apply(image, np.empty((64, 66, 3), np.uint8)).astype(np.float32)
        plain = plain[..., ::-1] if colour == "rgb" else plain
        wanted = (plain - np.float32(norm.mean)) * np.float32(norm.scale)
        assert np.abs(mine - wanted).max() <= 2e-3


def test_nv12_frames(device: CudaDevice) -> None:
    """Against OpenCV's BT.601, limited range, and then the plain letterbox."""
    height, width = 128, 194
    bgr = cv2.resize(picture(3, 16, 24), (width, height), interpolation=cv2.INTER_CUBIC)
    i420 = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    luma, u, v = i420[:height], *i420[height:].reshape(2, height // 2, width // 2)
    chroma = np.stack([u, v], axis=-1).reshape(height // 2, width)
    wanted_bgr = cv2.cvtColorTwoPlane(luma, chroma.reshape(height // 2, width // 2, 2), cv2.COLOR_YUV2BGR_NV12)
    stream = device.stream()
    both = np.concatenate([luma, chroma])
    block = Block(device, stream, both.nbytes)
    copy(device, block.address, both.ctypes.data, both.nbytes, stream)
    source = Source(block.address, width, Nv12(block.address + height * width, width, "bt601"))
    box = Letterbox.fit((height, width), (96, 96))
    kernel = LetterboxKernel(device, stream, 1, (96, 96))
    out = new_array(device, stream, (1, 96, 96, 3), np.uint8)
    kernel([source], [box], out.address)
    got = pinned(device, (96, 96, 3))
    copy(device, got.ctypes.data, out.address, got.nbytes, stream)
    stream.sync()
    difference = np.abs(got.astype(int) - box.apply(wanted_bgr, np.empty((96, 96, 3), np.uint8)).astype(int))
    assert difference.max() <= 3
    assert (difference <= 1).mean() > 0.98


def test_pinned_memory_is_known_as_such(device: CudaDevice) -> None:
    array = pinned(device, (4, 5, 3))
    assert is_pinned(device, array.ctypes.data)
    assert is_pinned(device, array[1:].ctypes.data)
    assert not is_pinned(device, np.empty((4, 5, 3), np.uint8).ctypes.data)
    array[:] = 7
    view = array[2:]
    del array
    assert (view == 7).all()


def test_too_much_memory_is_a_clear_error(device: CudaDevice) -> None:
    with pytest.raises(BackendError, match=r"no memory on GPU 0 for \d+ bytes"):
        Block(device, device.stream(), 1 << 45)
    assert new_array(device, device.stream(), (16,), np.uint8).nbytes == 16  # and the device is well


def test_a_gpu_that_is_not_there(device: CudaDevice) -> None:
    with pytest.raises(BackendError, match=r"GPU 99 cannot be used: got .*, no number 99"):
        open_device(99)


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_frames_of_other_libraries_are_borrowed(device: CudaDevice, library: str) -> None:
    module = pytest.importorskip(library)
    image = picture(1, 30, 41)
    theirs: Any = module.as_tensor(image).cuda() if library == "torch" else module.asarray(image)
    assert on_device(theirs)
    frame = device_image(theirs, "a tensor")
    assert frame.shape == (30, 41, 3)
    assert frame.row_bytes == 123
    back = np.empty_like(image)
    copy(device, back.ctypes.data, frame.address, back.nbytes, device.stream())
    device.device.sync()
    np.testing.assert_array_equal(back, image)
    device.device.sync()
    part = device_image(theirs[3:, 5:30], "a part")
    assert (part.shape, part.row_bytes) == ((27, 25, 3), 123)
    for bad in (theirs[:, :, 0], theirs.transpose(0, 2) if library == "torch" else theirs.T):
        with pytest.raises(SourceError, match="channels last and next to one another"):
            device_image(bad, "a tensor")


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_results_are_lent_to_other_libraries(device: CudaDevice, library: str) -> None:
    module = pytest.importorskip(library)
    stream = device.stream()
    array = new_array(device, stream, (3, 5), np.float32)
    values = np.arange(15, dtype=np.float32).reshape(3, 5)
    copy(device, array.address, values.ctypes.data, values.nbytes, stream)
    stream.sync()
    for theirs in (module.from_dlpack(array), module.as_tensor(array, device="cuda") if library == "torch" else None):
        if theirs is not None:
            back = theirs.cpu().numpy() if library == "torch" else module.asnumpy(theirs)
            np.testing.assert_array_equal(back, values)
    assert on_device(array.first(2))
    assert array.first(2).shape == (2, 5)


def candidates(rng: np.random.Generator, batch: int, rows: int, width: int) -> tuple[Any, Any]:
    """Long chains of overlapping boxes with ties among the scores, boxes without area, and empty rows."""
    table = np.zeros((batch, rows, width), np.float32)
    x = np.cumsum(rng.uniform(2, 15, (batch, rows)), axis=1) % 380
    table[..., :4] = np.stack([x, x / 2, x + rng.choice([0, 36, 50], (batch, rows)), x / 2 + 100], axis=-1)
    table[..., 4] = rng.integers(1, 40, (batch, rows)) / 40
    table[..., 5] = rng.integers(0, 3, (batch, rows))
    table[..., 6:] = rng.normal(size=(batch, rows, width - 6))
    for i in range(batch):
        table[i, rng.permutation(rows)[: rng.integers(0, rows + 1)], 4] = -1
    order = np.stack([rng.permutation(5000)[:rows] for _ in range(batch)]).astype(np.float32)
    return table, order


def nms_of(device: CudaDevice, table: Any, order: Any, limits: Any, agnostic: bool = False) -> dict[str, Any]:
    """What the kernel makes of candidates: its outputs by name. Tables lie one behind the other, nothing between."""
    batch, rows, width = table.shape
    stream = device.stream()
    given = {CANDIDATES: table, ORDER: order, THRESHOLDS: limits}
    arrays = {name: new_array(device, stream, a.shape, a.dtype) for name, a in given.items()}
    for name, array in given.items():
        copy(device, arrays[name].address, array.ctypes.data, array.nbytes, stream)
    lane: Any = SimpleNamespace(
        stream=stream,
        inputs={THRESHOLDS: arrays.pop(THRESHOLDS)},
        outputs=arrays,
        sizes=(batch,),
        launch=lambda count: None,
    )
    nms = NmsLane(device, lane, OpenEnd(rows, width, agnostic))
    for array in nms.outputs.values():
        array.block.buffer.fill(0xAB, stream=stream)
    nms.launch(batch)
    got = {}
    for name, array in nms.outputs.items():
        got[name] = np.empty(array.shape, array.dtype)
        copy(device, got[name].ctypes.data, array.address, got[name].nbytes, stream)
    stream.sync()
    return got


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(300, 6), (1, 6), (33, 6), (512, 6), (300, 57), (100, 7)])
def test_nms_is_greedy_nms(device: CudaDevice, rows: int, width: int, agnostic: bool) -> None:
    rng = np.random.default_rng(rows * width)
    batch = 37
    table, order = candidates(rng, batch, rows, width)
    limits = np.stack([np.full(batch, 0.1), rng.uniform(0.1, 0.9, batch)], axis=1).astype(np.float32)
    got = nms_of(device, table, order, limits, agnostic)
    assert got["converged"].all()
    for i in range(batch):
        best_first = table[i][np.lexsort((order[i], -table[i, :, 4]))]
        real = best_first[best_first[:, 4] > 0]
        stay = greedy_nms(real[:, :4], real[:, 5], float(limits[i, 1]), agnostic)
        assert got["count"][i] == len(stay)
        np.testing.assert_array_equal(got["detections"][i, : len(stay)], real[stay])
        gone = np.delete(real, stay, axis=0)
        np.testing.assert_array_equal(got["detections"][i, len(stay) : len(real)], gone)
        assert (got["detections"][i, len(real) :, 4] == -1).all()


@pytest.mark.parametrize("rows", [40, 300, 512])
def test_a_network_that_says_nan_costs_its_rows_alone(device: CudaDevice, rows: int) -> None:
    """A score that is no number has no place in an order: the row is empty. Of other pictures nothing changes."""
    rng = np.random.default_rng(rows)
    table, order = candidates(rng, 9, rows, 6)
    limits = np.tile(np.array([0.1, 0.5], np.float32), (9, 1))
    whole = nms_of(device, table, order, limits)
    broken, without = table.copy(), table.copy()
    bad = rng.permutation(rows)[: rows // 3]
    for i in (0, 4, 8):  # the first and the last: what is read beside a table is not another picture's
        broken[i, bad, 4] = np.nan
        without[i, bad, 4] = -1
    broken[2, :, :] = np.nan
    without[2, :, 4] = -1
    got, expected = nms_of(device, broken, order, limits), nms_of(device, without, order, limits)
    assert got["count"][2] == 0
    for i in range(9):
        np.testing.assert_array_equal(got["count"][i], expected["count"][i])
        kept = slice(0, int(got["count"][i]))
        np.testing.assert_array_equal(got["detections"][i, kept], expected["detections"][i, kept])
    for i in (1, 3, 5, 6, 7):
        np.testing.assert_array_equal(got["detections"][i], whole["detections"][i])
