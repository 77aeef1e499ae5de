"""Tests of the module ``decode``.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from model.errors import ImageError
from pipeline.images.decode import decode_image, image_extension
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


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 255, 0), (0, 255, 0)),
        ((0, 0, 0, 128), (127, 127, 127)),
        ((0, 0, 0, 0), (255, 255, 255)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(ink: tuple[int, ...], colour: tuple[int, int, int], kind: str) -> None:
    data = encode(Image.new("CMYK", (8, 8), ink), kind, **{"JPEG": {"quality": 95}}.get(kind, {}))
    assert np.abs(decode_image(data, LIMITS)[4, 4].astype(int) - colour).max() < 15


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
        monkeypatch.setattr("pipeline.images.decode._STRIP", pixels)
        assert np.array_equal(decode_image(data, LIMITS), whole)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    first, second = Image.new("RGB", (16, 16), (250, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 250))
    data = encode(first, kind, save_all=True, append_images=[second])
    assert np.abs(decode_image(data, LIMITS).astype(int) - (250, 0, 0)).max() < 8


def test_a_jpeg_with_more_pictures_behind_it_gives_its_first() -> None:
    """As telephones write them; Pillow calls it MPO."""
    second = Image.new("RGB", (48, 32), (0, 0, 250))
    data = encode(corners(), "MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(decode_image(data, LIMITS).astype(int) - np.asarray(corners()))[8, 8].max() < 8
    assert image_extension(data) == "jpg"


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


def png(width: int, height: int, kind: int, rows: bytes, *, bits: int = 8, **more: bytes) -> bytes:
    """A PNG by hand: ``kind`` as its header says it, ``more`` chunks by their names."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    between = b"".join(chunk(name.encode(), body) for name, body in more.items())
    body = between + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def sixteen(*samples: int) -> bytes:
    """One row of a PNG of 16 bits."""
    return b"\0" + struct.pack(f">{len(samples)}H", *samples)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            png(2, 1, 2, sixteen(0xFFFF, 0x8000, 0x100, 0, 0xFF, 0x4000), bits=16),
            [[255, 128, 1], [0, 0, 64]],
            id="RGB of 16 bits",
        ),
        pytest.param(
            png(2, 1, 6, sixteen(0xFFFF, 0x8000, 0x100, 0xFFFF, 0, 0, 0, 0), bits=16),
            [[255, 128, 1], [255, 255, 255]],
            id="RGBA of 16 bits",
        ),
        pytest.param(
            png(2, 1, 4, sixteen(0x8000, 0xFFFF, 0, 0), bits=16),
            [[128, 128, 128], [255, 255, 255]],
            id="grey and alpha of 16 bits",
        ),
        pytest.param(
            png(2, 1, 0, sixteen(0x8000, 0x1234), bits=16, tRNS=b"\x12\x34"),
            [[128, 128, 128], [255, 255, 255]],
            id="grey of 16 bits, one of them transparent",
        ),
        pytest.param(
            png(2, 1, 0, b"\0\x0a\x14", tRNS=b"\0\x14"),
            [[10, 10, 10], [255, 255, 255]],
            id="grey, one of them transparent",
        ),
        pytest.param(
            png(4, 1, 0, b"\0\x1b", bits=2),
            [[0, 0, 0], [85, 85, 85], [170, 170, 170], [255, 255, 255]],
            id="grey of 2 bits",
        ),
        pytest.param(
            png(3, 1, 3, b"\0\0\1\2", PLTE=bytes(range(10, 100, 10)), tRNS=b"\xff\0"),
            [[10, 20, 30], [255, 255, 255], [70, 80, 90]],
            id="palette, one of it transparent",
        ),
    ],
)
def test_a_png_shows_what_a_browser_shows(data: bytes, expected: list[list[int]]) -> None:
    assert decode_image(data, LIMITS)[0].tolist() == expected


@pytest.mark.parametrize(
    ("samples", "options", "expected"),
    [
        (np.array([[0, 0x8000]], np.uint16), {"byteorder": ">"}, [0, 128]),
        (np.array([[0, 0xFFFF]], np.uint16), {"photometric": "miniswhite"}, [255, 0]),
        (np.array([[0, 0xFF]], np.uint8), {"photometric": "miniswhite"}, [255, 0]),
        (np.array([[-5, 0, 5]], np.int16), {}, [0, 128, 255]),
        (np.array([[0, 2**31, 2**32 - 1]], np.uint32), {}, [0, 128, 255]),
        (np.array([[0, 10]], np.float32), {"photometric": "miniswhite"}, [255, 0]),
        (np.array([[[9, 7], [9, 7]], [[99, 99], [99, 99]]], np.uint8), {}, [9, 7]),  # two pages
    ],
)
def test_a_tiff_of_a_microscope(
    samples: np.ndarray, options: dict[str, str], expected: list[int]
) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **{"photometric": "minisblack", **options})
    assert decode_image(file.getvalue(), LIMITS)[0, :, 0].tolist() == expected


def test_fifty_million_pixels_are_read() -> None:
    data = encode(Image.new("L", (10_000, 5_000), 77), compress_level=1)
    pixels = decode_image(data, LIMITS)
    assert pixels.shape == (5_000, 10_000, 3) and (pixels[::999, ::999] == 77).all()


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageError, match=r"pixels"):
        decode_image(png(side, side, 2, b"\0" * 100), LIMITS)


@pytest.mark.parametrize("place", ["zTXt", "iCCP", "IDAT"])
def test_what_is_packed_into_a_small_file_is_not_unpacked_whole(place: str) -> None:
    """A hundred megabytes of zeros, where a header would not tell."""
    zeros = bytes(100_000_000)
    if place == "IDAT":  # a picture of 4 x 4 that goes on
        data = png(4, 4, 2, zeros)
    else:
        data = png(4, 4, 2, b"\0" * 52, **{place: b"a\0\0" + zlib.compress(zeros)})
    tracemalloc.start()
    try:
        decode_image(data, LIMITS)
    except ImageError as error:
        assert str(error).endswith(".")
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 20_000_000


def test_a_gif_whose_canvas_is_a_bomb() -> None:
    data = bytearray(encode(corners(), "GIF"))
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(ImageError, match="pixels"):
        decode_image(bytes(data), LIMITS)


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
