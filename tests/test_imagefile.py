"""eyas.imagefile: every kind of picture file gives pixels known beforehand, every kind of broken one an error."""

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageOps

from eyas.errors import ImageError
from eyas.imagefile import MAX_PIXELS, picture_format, read_image

HEIGHT, WIDTH = 24, 40


def _smooth() -> np.ndarray:
    """BGR [24, 40, 3], smooth (kind to JPEG), another value in each channel, not symmetric in any direction."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 6, y * 9 + 10, 255 - x * 3 - y * 3], axis=-1).clip(0, 255).astype(np.uint8)


BGR = _smooth()
RGB = Pil.fromarray(np.ascontiguousarray(BGR[..., ::-1]))
ALPHA = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
RGBA = Pil.fromarray(np.dstack([BGR[..., ::-1], ALPHA]))


def _save(picture: Pil.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def _encode(suffix: str, array: np.ndarray) -> bytes:
    return cv2.imencode(suffix, array)[1].tobytes()


def _worst(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    assert a.dtype == np.uint8
    return int(np.abs(a.astype(int) - b).max())


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


LOSSLESS = {
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
    "JPEG2000": {},
}


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_give_the_very_pixels(form: str) -> None:
    image = read_image(_save(RGB, form, **LOSSLESS[form]), "x")
    assert _worst(image, BGR) == 0
    assert image.flags.c_contiguous


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}])
def test_jpeg(options: dict[str, object]) -> None:
    assert _worst(read_image(_save(RGB, "JPEG", quality=98, **options), "x"), BGR) <= 6


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(compression: str) -> None:
    assert _worst(read_image(_save(RGB, "TIFF", compression=compression), "x"), BGR) == 0


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF", "JPEG2000"])
def test_alpha_is_dropped_not_blended(form: str) -> None:
    assert _worst(read_image(_save(RGBA, form, **LOSSLESS[form]), "x"), BGR) == 0


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_alpha_beside_grey_is_dropped(form: str) -> None:
    picture = Pil.fromarray(np.dstack([BGR[..., 0], ALPHA]))
    assert picture.mode == "LA"
    assert _worst(read_image(_save(picture, form), "x"), np.repeat(BGR[..., :1], 3, 2)) == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG2000"])
def test_grey_is_replicated(form: str) -> None:
    image = read_image(_save(Pil.fromarray(BGR[..., 0]), form), "x")
    assert _worst(image, np.repeat(BGR[..., :1], 3, 2)) <= (3 if form == "JPEG" else 0)
    assert (image[..., :1] == image).all()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_one_bit_becomes_black_and_white(form: str) -> None:
    bits = ALPHA > 127
    expected = np.repeat(bits[..., None] * np.uint8(255), 3, 2)
    assert _worst(read_image(_save(Pil.fromarray(bits), form), "x"), expected) == 0


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("PNG", {"transparency": 3}), ("BMP", {}), ("TIFF", {})])
def test_palette_gives_its_colours(form: str, options: dict[str, object]) -> None:
    _check_palette(form, options)


@pytest.mark.parametrize("options", [{}, {"transparency": 3}])
def test_palette_of_a_gif(options: dict[str, object]) -> None:
    _check_palette("GIF", options)


def _check_palette(form: str, options: dict[str, object]) -> None:
    colours = np.random.default_rng(2).integers(0, 256, (8, 3), np.uint8)
    indices = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 8
    picture = Pil.fromarray(indices)
    picture.putpalette(colours.tobytes())
    assert picture.mode == "P"
    assert _worst(read_image(_save(picture, form, **options), "x"), colours[indices][..., ::-1]) == 0


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_of_16_bits_the_high_byte_stays(suffix: str, channels: int) -> None:
    deep = np.random.default_rng(3).integers(0, 65536, (HEIGHT, WIDTH, channels), np.uint16)
    expected = (deep >> 8).astype(np.uint8)
    expected = np.repeat(expected, 3, 2) if channels == 1 else expected[..., :3]
    assert _worst(read_image(_encode(suffix, deep), "x"), expected) == 0


def test_16_bit_ppm() -> None:
    deep = np.random.default_rng(3).integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
    grey = read_image(_encode(".pgm", deep[..., 0]), "x")
    assert _worst(grey, np.repeat((deep[..., :1] >> 8), 3, 2)) == 0
    assert _worst(read_image(_encode(".ppm", deep), "x"), deep >> 8) <= 1


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form: str) -> None:
    data = _save(RGB.convert("CMYK"), form, **({"quality": 98} if form == "JPEG" else {}))
    image = read_image(data, "x")
    assert _worst(image, BGR) <= 8
    assert _worst(image, np.asarray(Pil.open(io.BytesIO(data)).convert("RGB"))[..., ::-1]) <= 2


def test_cmyk_with_black() -> None:
    inks = np.random.default_rng(4).integers(0, 256, (3, 5, 4), np.uint8).repeat(8, 0).repeat(8, 1)
    data = _save(Pil.fromarray(inks, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data
    expected = (255 - inks[..., 2::-1].astype(int)) * (255 - inks[..., 3:].astype(int)) // 255
    assert _worst(read_image(data, "x"), expected) <= 4


@pytest.mark.parametrize("mode", [np.float32, np.int32])
def test_samples_of_32_bits_are_refused(mode: type, capfd: pytest.CaptureFixture[str]) -> None:
    data = _save(Pil.fromarray(BGR[..., 0].astype(mode)), "TIFF")
    with pytest.raises(ImageError, match=r"samples of 32 bits.*8 or 16 bits a channel"):
        read_image(data, "x")
    with pytest.raises(ImageError):
        read_image(_encode(".tiff", BGR.astype(mode)), "x")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(form: str, orientation: int) -> None:
    exif = Pil.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    data = _save(RGB, form, exif=exif, **options.get(form, LOSSLESS.get(form, {})))
    turned = {
        1: BGR,
        2: BGR[:, ::-1],
        3: BGR[::-1, ::-1],
        4: BGR[::-1],
        5: BGR.transpose(1, 0, 2),
        6: BGR[::-1].transpose(1, 0, 2),
        7: BGR[::-1, ::-1].transpose(1, 0, 2),
        8: BGR.transpose(1, 0, 2)[::-1],
    }
    image = read_image(data, "x")
    assert _worst(image, turned[orientation]) <= {"JPEG": 6, "AVIF": 6}.get(form, 0)
    assert image.shape[:2] == ImageOps.exif_transpose(Pil.open(io.BytesIO(data))).size[::-1]


def test_broken_exif_does_not_matter() -> None:
    data = _save(RGB, "WEBP", exif=b"Exif\0\0nonsense", **LOSSLESS["WEBP"])
    assert _worst(read_image(data, "x"), BGR) == 0


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_first_frame_of_an_animation(form: str) -> None:
    red, green = Pil.new("RGB", (20, 10), "red"), Pil.new("RGB", (20, 10), "lime")
    image = read_image(_save(red, form, save_all=True, append_images=[green]), "x")
    assert _worst(image, np.full((10, 20, 3), (0, 0, 255))) <= 8


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1)])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_extreme_shapes(size: tuple[int, int], suffix: str) -> None:
    image = np.full((*size, 3), (10, 200, 90), np.uint8)
    assert _worst(read_image(_encode(suffix, image), "x"), image) <= 3


# Broken files


BROKEN = {
    "JPEG": {"quality": 95},
    "JPEG progressive": {"quality": 95, "progressive": True},
    **LOSSLESS,
    "TIFF lzw": {"compression": "tiff_lzw"},
    "GIF": {},
    "AVIF": {},
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on a cut TIFF
def test_a_cut_file_never_gives_part_of_a_picture(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    form = what.split()[0]
    picture = Pil.fromarray(noise)
    data = _save(picture.quantize(64) if form == "GIF" else picture, form, **BROKEN[what])
    whole = read_image(data, "x")
    errors = 0
    for length in sorted({*range(0, len(data), max(1, len(data) // 60)), *range(len(data) - 20, len(data))}):
        try:
            image = read_image(data[:length], "cut.x")
        except ImageError:
            errors += 1
        else:
            assert np.array_equal(image, whole), length
    assert errors >= 60
    if form in ("JPEG", "PNG"):  # here even the end marker has to be there
        for length in range(len(data) - 12, len(data)):
            with pytest.raises(ImageError, match=r"cut short or damaged.*Copy or download it again"):
                read_image(data[:length], "x")
    assert capfd.readouterr() == ("", "")


def test_the_end_of_a_thumbnail_does_not_count() -> None:
    thumbnail = _save(RGB.resize((8, 8)), "JPEG")
    assert thumbnail.endswith(b"\xff\xd9")
    data = _save(RGB, "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert data.count(b"\xff\xd9") == 2
    assert read_image(data, "x").shape == BGR.shape
    with pytest.raises(ImageError, match="before the end marker"):
        read_image(data[:-2], "x")


def test_an_end_marker_inside_a_later_segment_does_not_count() -> None:
    data = _save(RGB, "JPEG", progressive=True)
    second = data.rindex(b"\xff\xda")
    comment = b"\xff\xfe\x00\x06\xff\xd9ab"
    data = data[:second] + comment + data[second:]
    assert read_image(data, "x").shape == BGR.shape
    for length in (data.index(b"\xff\xd9ab") + 2, len(data) - 2):
        with pytest.raises(ImageError, match="before the end marker"):
            read_image(data[:length], "x")


def test_what_follows_the_end_is_ignored() -> None:
    for form in ("JPEG", "PNG"):
        assert read_image(_save(RGB, form) + b"\0" * 1000, "x").shape == BGR.shape


def test_a_flipped_bit_in_a_png_is_found_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(_save(RGB, "PNG"))
    data[data.index(b"IDAT") + 20] ^= 4
    with pytest.raises(ImageError, match="cut short or damaged"):
        read_image(bytes(data), "x")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_raises_nothing_foreign(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for form in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"):
        data = np.frombuffer(_save(RGB.quantize(32) if form == "GIF" else RGB, form), np.uint8).copy()
        data[rng.integers(2, len(data), 6)] = rng.integers(0, 256, 6)
        try:
            image = read_image(data.tobytes(), "x", max_pixels=1_000_000)
        except ImageError:
            continue
        assert image.dtype == np.uint8


STRANGERS = {
    b"": "0 bytes",
    b"\0" * 100: "zero bytes only",
    b"hello, this is no picture\n": "text",
    "naïve text — of more than ASCII\n".encode(): "text",
    b"BMW makes cars, and this is text": "text",
    b"<!DOCTYPE html><html><body>404</body></html>": "HTML",
    b"\n <HTML><head>": "HTML",
    b'<?xml version="1.0"?>\n<svg xmlns="x">': "SVG",
    b"%PDF-1.7\n%\xe2\xe3\xcf\xd3": "PDF",
    b"PK\x03\x04\x14\0": "ZIP",
    b"version https://git-lfs.github.com/spec/v1\noid": "git lfs pull",
    b"\x93NUMPY\x01\0": "NumPy",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "HEIC",
    b"\0\0\0\x18ftypisom\0\0\0\0": "video",
    b"RIFF\0\0\0\0AVI LIST": "video",
    b"\x7fELF\x02\x01\x01\0": "no known picture format",
}


@pytest.mark.parametrize(("data", "words"), STRANGERS.items(), ids=STRANGERS.values())
def test_what_is_no_picture_is_named(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read_image(data, "odd.jpg")
    assert str(caught.value).startswith("odd.jpg is not a picture: got ")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_formats_are_known_by_content(form: str) -> None:
    assert picture_format(_save(RGB, form)[:512], "x") == form


# Size limits


def test_a_huge_header_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(ImageError, match=r"30000 × 30000 = 900,000,000 pixels; expected at most 178,956,970"):
        read_image(_png_header(30000, 30000) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b""), "x")
    assert MAX_PIXELS == 178_956_970


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_the_limit_is_the_callers(form: str) -> None:
    data = _save(RGB, form)
    assert read_image(data, "x", max_pixels=HEIGHT * WIDTH).shape == BGR.shape
    with pytest.raises(ImageError, match=r"40 × 24 = 960 pixels; expected at most 959"):
        read_image(data, "x", max_pixels=HEIGHT * WIDTH - 1)


def test_pillows_own_limit_does_not_interfere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pil, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF"):
            assert read_image(_save(RGB, form), "x").shape == BGR.shape
        assert _worst(read_image(_save(RGB, "TIFF", compression="tiff_lzw"), "x"), BGR) == 0


@pytest.mark.parametrize(("width", "height"), [(40000, 30000), (2_000_000, 1)])
def test_opencvs_own_limits_raise_nothing_foreign(width: int, height: int) -> None:
    data = _png_header(width, height) + _chunk(b"IDAT", zlib.compress(b"\0")) + _chunk(b"IEND", b"")
    with pytest.raises(ImageError):
        read_image(data, "x", max_pixels=1 << 40)


def test_a_size_of_zero_is_damage() -> None:
    with pytest.raises(ImageError, match="no usable size"):
        read_image(_png_header(0, 5) + _chunk(b"IEND", b""), "x")
