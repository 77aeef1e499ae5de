from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from model.errors import ImageError
from pipeline.images import decode_image, image_extension
from pipeline.settings import ImageSettings

LIMITS = ImageSettings()


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corners() -> Image.Image:
    """48 x 32, a colour of its own in each quarter, so that any turn shows."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:] = (250, 0, 0), (0, 250, 0)
    pixels[16:, :24], pixels[16:, 24:] = (0, 0, 250), (250, 250, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encode(corners(), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))

    pixels = decode_image(data, LIMITS)

    assert pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]
    assert pixels.flags["WRITEABLE"]
    assert pixels.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    np.testing.assert_array_equal(pixels, expected)


def test_an_avif_is_turned_as_browsers_turn_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encode(corners(), "AVIF", exif=exif), LIMITS).shape == (48, 32, 3)


def test_what_browsers_do_not_turn_by_is_not_turned_by() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    webp = encode(corners(), "WEBP", exif=exif, lossless=True)
    np.testing.assert_array_equal(decode_image(webp, LIMITS), np.asarray(corners()))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    assert decode_image(encode(corners(), "JPEG", xmp=xmp), LIMITS).shape == (32, 48, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_makes_no_sense_is_none(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert decode_image(encode(corners(), exif=exif), LIMITS).shape == (32, 48, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's; worth a line in a log
def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    data = encode(corners(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x99\x99")
    assert decode_image(data, LIMITS).shape == (32, 48, 3)


def test_grey_and_black_and_white_become_rgb() -> None:
    grey = Image.new("L", (4, 3), 77)
    np.testing.assert_array_equal(decode_image(encode(grey), LIMITS), np.full((3, 4, 3), 77))
    np.testing.assert_array_equal(
        decode_image(encode(grey.convert("1", dither=Image.Dither.NONE)), LIMITS), 0
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_lies_over_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 2, 4))
    kind = "TIFF" if mode == "PA" else "PNG"
    image = clear.quantize() if mode == "P" else clear.convert(mode)
    try:
        data = encode(image, kind)
    except OSError:
        pytest.skip(f"this Pillow does not write {mode}")
    pixels = decode_image(data, LIMITS)
    assert (pixels[:, :2] == 0).all() and (pixels[:, 2:] == 255).all()


def test_a_transparent_colour_lies_over_white() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    pixels = decode_image(encode(image, transparency=(1, 2, 3)), LIMITS)
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_half_transparent_pixel_is_half_white() -> None:
    pixels = decode_image(encode(Image.new("RGBA", (1, 1), (0, 0, 0, 128))), LIMITS)
    assert abs(int(pixels[0, 0, 0]) - 127) <= 1


def test_a_palette_becomes_its_colours() -> None:
    pixels = decode_image(encode(corners().quantize(8)), LIMITS)
    np.testing.assert_array_equal(pixels, np.asarray(corners()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_high_byte(kind: str) -> None:
    samples = np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], np.uint16)
    pixels = decode_image(encode(Image.fromarray(samples), kind), LIMITS)
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 0x7F, 0xFF]


def test_floats_are_stretched_and_survive_what_is_not_finite() -> None:
    samples = np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)
    pixels = decode_image(encode(Image.fromarray(samples), "TIFF"), LIMITS)
    assert pixels[0, :, 1].tolist() == [0, 128, 255, 0]
    flat = decode_image(encode(Image.fromarray(np.full((2, 2), 7, np.int32)), "TIFF"), LIMITS)
    assert (flat == 0).all()


def test_cmyk_becomes_rgb() -> None:
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = decode_image(data, LIMITS)[4, 4]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_strips_leave_no_seams(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pictures are worked on strip by strip."""
    rng = np.random.default_rng(0)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(rng.integers(0, 60_000, (31, 20)).astype(kind))
    else:
        image = Image.fromarray(rng.integers(0, 255, (31, 20, 4), np.uint8)).convert(mode)
    data = encode(image, "TIFF")
    whole = decode_image(data, LIMITS)
    for pixels in (7 * 20, 1):  # seven rows; less than one
        monkeypatch.setattr("pipeline.images._STRIP", pixels)
        assert np.array_equal(decode_image(data, LIMITS), whole)


def test_an_animation_gives_its_first_frame() -> None:
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    data = encode(first, "GIF", save_all=True, append_images=[second])
    assert decode_image(data, LIMITS)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 64, "not an image"),
    ],
)
def test_what_is_no_image_is_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence) as caught:
        decode_image(data, LIMITS)
    assert str(caught.value).endswith(".")
    with pytest.raises(ImageError):
        image_extension(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_off_file_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(ImageError):
        decode_image(data[: int(len(data) * share)], LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_damaged_bytes_give_pixels_or_an_image_error(kind: str) -> None:
    random = np.random.default_rng(1)
    whole = np.frombuffer(encode(corners(), kind), np.uint8)
    for _ in range(60):
        damaged = whole.copy()
        damaged[random.integers(0, len(whole), 6)] = random.integers(0, 256, 6)
        try:
            pixels = decode_image(damaged.tobytes(), ImageSettings(max_pixels=4_000_000))
        except ImageError:
            continue
        assert pixels.ndim == 3 and pixels.shape[2] == 3


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageError, match=r"pixels"):
        decode_image(png_header(side, side), LIMITS)


def test_the_limits_hold_to_the_pixel_and_the_byte() -> None:
    data = encode(corners())
    decode_image(data, ImageSettings(max_pixels=48 * 32, max_bytes=len(data)))
    with pytest.raises(ImageError, match="48 x 32 pixels"):
        decode_image(data, ImageSettings(max_pixels=48 * 32 - 1))
    with pytest.raises(ImageError, match="bytes"):
        decode_image(data, ImageSettings(max_bytes=len(data) - 1))


def test_extensions_follow_the_bytes() -> None:
    assert image_extension(encode(corners(), "JPEG")) == "jpg"
    assert image_extension(encode(corners(), "WEBP")) == "webp"
