"""Image files of every kind become RGB or one clear refusal."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.images import noise_image, progressive_scans, sequential_scans
from vqr1.data import images
from vqr1.data.images import (
    decode_image,
    decoded_at,
    jpeg_scans,
    load_image,
    load_thumbnail,
    resize_short_edge,
    upright,
)
from vqr1.data.inspection import undecodable
from vqr1.errors import DataError
from vqr1.policy.families._llava_images import FixedRule
from vqr1.policy.families._qwen_images import AreaRule


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_unchanged(tmp_path: Path) -> None:
    image = noise_image(1)
    loaded = load_image(save(image, tmp_path / "a.png"))
    assert np.array_equal(np.asarray(loaded), np.asarray(image))


def test_alpha_is_shown_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    image.putpixel((1, 0), (100, 0, 50, 128))
    loaded = load_image(save(image, tmp_path / "a.png"))
    assert pixel(loaded) == (255, 255, 255)
    # 255 + (100 - 255) * 128/255 = 177.2; 255 - 255 * 128/255 = 127; 255 - 205 * 128/255 = 152.1
    assert pixel(loaded, 1) == (177, 127, 152)


def test_transparent_palette_is_shown_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    assert pixel(load_image(save(image, tmp_path / "a.png"))) == (10, 20, 30)
    assert pixel(load_image(save(image, tmp_path / "b.png", transparency=0))) == (255, 255, 255)


@pytest.mark.parametrize(("value", "expected"), [(65535, 255), (32896, 128), (256, 1), (0, 0)])
def test_16_bit_grey_is_scaled_not_clipped(value: int, expected: int, tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((2, 2), value, dtype=np.uint16))
    for name in ("a.png", "a.tiff"):
        assert pixel(load_image(save(grey, tmp_path / name))) == (expected,) * 3


def png(depth: int, colour: int, row: bytes, transparent: bytes) -> io.BytesIO:
    """A PNG of two pixels in one row, of a form that Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0))
    rest = chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + rest + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "expected"),
    [
        # The transparent pixel is on white; the other is 0x3456 = 13398 of 65535: 52.1 of 255.
        (16, 0, struct.pack(">HH", 0, 0x3456), struct.pack(">H", 0), (255, 52)),
        (16, 0, struct.pack(">HH", 0x1234, 0x3456), struct.pack(">H", 0x1234), (255, 52)),
        (16, 2, struct.pack(">6H", *[0x1234] * 3, *[0x3456] * 3),
         struct.pack(">3H", *[0x1234] * 3), (255, 52)),
        (8, 0, bytes((7, 52)), struct.pack(">H", 7), (255, 52)),
        (4, 0, bytes((0x3A,)), struct.pack(">H", 3), (255, 170)),
        (2, 0, bytes((0b01100000,)), struct.pack(">H", 1), (255, 170)),
        (1, 0, bytes((0b01000000,)), struct.pack(">H", 0), (255, 255)),
    ],
)  # fmt: skip
def test_a_transparent_colour_of_any_depth_is_shown_on_white(
    depth: int, colour: int, row: bytes, transparent: bytes, expected: tuple[int, int]
) -> None:
    found = decode_image(png(depth, colour, row, transparent), "it")
    assert (pixel(found), pixel(found, 1)) == ((expected[0],) * 3, (expected[1],) * 3)


def test_grey_and_one_bit(tmp_path: Path) -> None:
    assert pixel(load_image(save(Image.new("L", (2, 2), 77), tmp_path / "l.png"))) == (77,) * 3
    assert pixel(load_image(save(Image.new("1", (2, 2), 1), tmp_path / "b.png"))) == (255,) * 3
    grey_alpha = Image.new("LA", (1, 1), (0, 0))
    assert pixel(load_image(save(grey_alpha, tmp_path / "la.png"))) == (255,) * 3


def test_cmyk(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red, green, blue = pixel(load_image(save(cyan, tmp_path / "a.jpg", quality=100)))
    assert red < 10
    assert min(green, blue) > 245


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), (255, 0, 0))
    image.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    loaded = load_image(save(image, tmp_path / "a.png", exif=exif))
    assert loaded.size == (2, 4)
    assert pixel(loaded, 1, 0) == (0, 0, 255)  # top left has become top right


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(load_image(tmp_path / "a.gif")) == (255, 0, 0)


def test_short_edge(tmp_path: Path) -> None:
    path = save(noise_image(1, 40, 30), tmp_path / "a.png")
    assert load_image(path, short_edge=15).size == (20, 15)
    assert load_image(path, short_edge=60).size == (80, 60)
    assert resize_short_edge(noise_image(1, 30, 100), 15).size == (15, 50)
    assert resize_short_edge(noise_image(1, 30, 30), 30).size == (30, 30)


def truncated(path: Path) -> None:
    noise_image(1, 200, 200).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:3000])


def truncated_png(path: Path) -> None:
    noise_image(1, 200, 200).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such image"),
        (lambda path: path.mkdir(), "is a folder, not an image"),
        (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda path: path.write_text("a text in an image's coat"), "does not decode .*cannot id"),
        (truncated, "does not decode .*truncated"),
        (truncated_png, "does not decode"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50), "does not decode"),
        (
            lambda path: Image.fromarray(np.zeros((2, 2), np.float32)).save(path, format="TIFF"),
            "floating-point pixels",
        ),
        (
            lambda path: Image.fromarray(np.full((2, 2), 70000, np.int32)).save(path, "TIFF"),
            "at most 16 bits",
        ),
    ],
)
def test_refusals_name_path_and_reason(make: object, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    make(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=reason) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "own"),
    [(progressive_scans, 10), (sequential_scans, 2), (partial(progressive_scans, form="MPO"), 10)],
)
def test_a_jpeg_of_endless_scans_is_refused(
    make: Callable[[int], bytes], own: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(make(100 - own))
    assert load_image(path).size == (40, 32)
    path.write_bytes(make(101 - own))
    with pytest.raises(DataError, match="a JPEG of more than 100 scans is not decoded"):
        load_image(path)


def test_only_scans_of_the_image_count() -> None:
    """Neither those in a comment nor those after the image's end, in a motion photo's film."""
    mark = b"\xff\xda"
    whole = sequential_scans(1)
    comment = b"\xff\xfe" + (2 + 600).to_bytes(2, "big") + mark * 300
    assert jpeg_scans(whole, "a") == 3
    assert jpeg_scans(whole[:2] + comment + whole[2:] + mark * 300, "a") == 3


def test_formats_are_known_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("RGB", (16, 16), (200, 30, 30))
    for name in ("a.avif", "b.jfif", "c.jp2", "d.tif", "e.webp", "f.ppm"):
        form = "JPEG" if name == "b.jfif" else None
        red, green, blue = pixel(load_image(save(image, tmp_path / name, format=form)), 8, 8)
        assert red > 180, name
        assert max(green, blue) < 50, name
    # Pillow would start another program for it.
    image.save(tmp_path / "g.png", format="EPS")
    with pytest.raises(DataError, match="cannot identify its format"):
        load_image(tmp_path / "g.png")
    monkeypatch.setattr(images, "_register_heif", lambda: False)
    (tmp_path / "h.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    with pytest.raises(DataError, match="HEIC needs the package pillow-heif"):
        load_image(tmp_path / "h.heic")


def test_a_jpeg_of_too_many_pixels_is_decoded_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shape = noise_image(3, 20, 20).resize((640, 480))
    plain = save(shape, tmp_path / "a.jpg", quality=95)
    progressive = save(shape, tmp_path / "b.jpg", quality=95, progressive=True)
    monkeypatch.setenv("VQR1_MAX_IMAGE_PIXELS", "20000")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # beyond Pillow's own refusal
    loaded = load_image(plain)
    assert loaded.size == (160, 120)  # 320 x 240 are 76,800 pixels
    assert decoded_at(loaded) == decoded_at(load_image(plain, short_edge=30)) == "160x120"
    assert "a.jpg: 640 x 480 pixels, more than 20000: decoded at 160 x 120" in caplog.text
    expected = np.asarray(shape.reduce(4), np.float64)
    assert np.abs(np.asarray(loaded, np.float64) - expected).mean() < 3
    # 307,200 pixels are more than 4 x 20,000: its coefficients alone would need more memory.
    with pytest.raises(DataError, match="640 x 480 pixels; more than 20000 are not decoded"):
        load_image(progressive)
    # A thumbnail is decoded from the same coefficients.
    assert load_thumbnail(plain, 32).size == (80, 60)
    with pytest.raises(DataError, match="640 x 480 pixels; more than 20000 are not decoded"):
        load_thumbnail(progressive, 32)
    monkeypatch.setenv("VQR1_MAX_IMAGE_PIXELS", "4000")  # 80 x 60 at 1/8 are still too many
    with pytest.raises(DataError, match="more than 4000 are not decoded"):
        load_image(plain)


def test_decompression_bombs_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(Image.new("1", (400, 300)), tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 119_999)
    refusal = (
        r"a\.png: 400 x 300 pixels; more than 119999 are not decoded, and PNG cannot be decoded "
        r"smaller, as JPEG can \(the environment variable VQR1_MAX_IMAGE_PIXELS raises the limit\)$"
    )
    with pytest.raises(DataError, match=refusal):
        load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own refusal, on opening
    with pytest.raises(DataError, match=refusal.replace("119999", "1000")):
        load_image(path)
    frames = [Image.new("RGB", (400, 300), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "b.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"b\.webp: .*more than 1000 are not decoded"):
        load_image(tmp_path / "b.webp")
    with path.open("rb") as stream, pytest.raises(DataError, match=r"^it: .* more than 9 are not"):
        decode_image(stream, "it", max_pixels=9)


def test_the_limit_that_is_set_holds_beyond_that_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    image = noise_image(1, 40, 30)
    for name in ("a.png", "a.tif", "a.webp", "a.avif", "a.jp2", "a.gif", "a.bmp", "a.ppm", "a.jpg"):
        loaded = load_image(save(image, tmp_path / name))
        assert (loaded.size, decoded_at(loaded)) == ((40, 30), None), name


EXIF = (b"Exif\0\0garbage", b"no EXIF at all", b"Exif\0\0II*\0\xff\xff\xff\xff")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", EXIF, ids=["garbage", "words", "cut"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_is_as_none(form: str, exif: bytes, tmp_path: Path) -> None:
    file = tmp_path / "image"
    Image.new("RGB", (40, 20), (9, 90, 200)).save(file, form, exif=exif)
    assert load_image(file).size == (40, 20)
    with Image.open(file) as opened:
        opened.load()
        assert upright(opened).size == (40, 20)


@pytest.mark.parametrize(
    ("size", "allowed"), [((2276, 10), False), ((2000, 10), True), ((10, 2001), False)]
)
def test_inspect_asks_what_a_model_asks(
    size: tuple[int, int], allowed: bool, tmp_path: Path
) -> None:
    file = tmp_path / "narrow.png"
    Image.new("L", size).save(file)
    problem = undecodable(file)
    assert (problem is None) == allowed
    rules = (AreaRule(28, 784, 10**6), FixedRule(None, 336, 336))
    for rule in rules:
        if allowed:
            rule.size(*size)
        else:
            with pytest.raises(DataError) as refused:
                rule.size(*size)
            assert problem == f"{file}: {refused.value}"
