"""Decodes the bytes of any uploaded image file to the pixels that a browser shows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL.TiffImagePlugin import TiffImageFile

from model.errors import ImageError
from pipeline.settings import ImageSettings

Pixels = npt.NDArray[np.uint8]

# Formats of photographs, by Pillow's name, with the extension that their files get. Other formats
# are refused: Pillow starts Ghostscript for EPS, and every further parser could be attacked.
EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
}
_ORIENTATION = 0x0112  # EXIF tag
_PHOTOMETRIC, _SAMPLE_FORMAT = 0x0106, 0x0153  # TIFF tags
_STRIP = 2**22  # pixels converted at a time; one more copy of 50 million would take 150 MB
_WIDE = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}  # modes whose values Pillow clips at 255
_LONGEST_REASON = 200  # characters of Pillow's own message


def decode_image(data: bytes, settings: ImageSettings) -> Pixels:
    """Decode an image file to uint8 [H, W, 3], RGB, upright, contiguous and writable.

    The image is turned as its EXIF orientation says, and transparency is drawn over white. Of an
    animation the first frame is decoded. 16-bit samples keep their high byte; integers and floats
    without a fixed range are stretched from their smallest to their largest value. Colour profiles
    are not applied.

    Raises:
        ImageError: the file is not an image, has an unsupported format, is damaged or cut off, or
            is over ``max_bytes`` or ``max_pixels``.
    """
    if len(data) > settings.max_bytes:
        raise ImageError(
            f"The image has {len(data):,} bytes, over the limit of {settings.max_bytes:,}; "
            "make it smaller or raise images.max_bytes."
        )
    with closing(_open(data)) as image:
        width, height = image.size
        if width * height > settings.max_pixels:
            raise ImageError(
                f"The image has {width} x {height} pixels, over the limit of "
                f"{settings.max_pixels:,}; make it smaller or raise images.max_pixels."
            )
        orientation = _orientation(image)
        try:
            pixels = _rgb(image)
        except Exception as error:  # On damaged bytes Pillow raises many kinds of errors.
            raise ImageError(
                f"The image is damaged or cut off ({_reason(error)}); upload the file again."
            ) from error
    return np.ascontiguousarray(_turn(pixels, orientation))


def image_extension(data: bytes) -> str:
    """The extension, without a dot, that fits the image's format. Raises ImageError."""
    with _open(data) as image:
        # MPO is Pillow's name for a JPEG that is followed by further pictures.
        return EXTENSIONS["JPEG" if image.format in (None, "MPO") else image.format]


def _open(data: bytes) -> Pillow.Image:
    """Read the header only."""
    if not data:
        raise ImageError("The image file is empty; upload the file again.")
    try:
        return Pillow.open(io.BytesIO(data), formats=tuple(EXTENSIONS))
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise ImageError(
            "The image claims more pixels than any photograph has; make it smaller."
        ) from error
    except Exception as error:
        raise ImageError(
            f"The file is not an image that can be read; use one of {', '.join(EXTENSIONS)}."
        ) from error


def _orientation(image: Pillow.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or it is not valid.

    The image must look as the annotator sees it. Chromium turns an image by the EXIF block of JPEG,
    PNG and AVIF, but not by that of WebP and not by XMP, which Pillow's ``getexif`` would use too.
    (No browser shows TIFF. Pillow turns its pixels itself.)
    """
    block = image.info.get("exif")
    if not isinstance(block, bytes) or image.format in ("TIFF", "WEBP"):
        return 1
    exif = Pillow.Exif()
    try:
        exif.load(block)
        value = exif.get(_ORIENTATION, 1)
    except Exception:  # The picture itself may be fine.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rgb(image: Pillow.Image) -> Pixels:
    image.load()  # This also turns a TIFF.
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    if image.mode in _WIDE:
        _fill_grey(pixels, *_samples(image))
        return pixels
    for rows in _strips(height, width):
        strip = image.crop((0, rows.start, width, rows.stop))
        pixels[rows] = np.asarray(_opaque(strip).convert("RGB"))
    return pixels


def _opaque(image: Pillow.Image) -> Pillow.Image:
    """The image, drawn over white if any of it is transparent."""
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):  # Colours are already multiplied by alpha.
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        white = Pillow.new("RGBA", image.size, (255, 255, 255, 255))
        image = Pillow.alpha_composite(white, image.convert("RGBA"))
    return image


def _samples(image: Pillow.Image) -> tuple[npt.NDArray[np.generic], int | None, bool]:
    """Grey samples [H, W] of 16 or 32 bits, which value is transparent, and whether 0 is white.

    Pillow handles transparent values and white zeros itself for 8 bits, but not for more.
    """
    samples: npt.NDArray[np.generic] = np.asarray(image)
    clear = image.info.get("transparency") if image.mode.startswith("I;16") else None
    if not isinstance(image, TiffImageFile):
        return samples, clear, False
    if image.mode == "I" and image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 1:
        samples = samples.view(np.uint32)  # Pillow reads unsigned samples as signed.
    return samples, clear, image.tag_v2.get(_PHOTOMETRIC) == 0


def _fill_grey(
    pixels: Pixels, samples: npt.NDArray[np.generic], clear: int | None, inverted: bool
) -> None:
    """Write grey samples [H, W] of 16 or 32 bits to all channels of ``pixels``, uint8 [H, W, 3]."""
    strips = list(_strips(*samples.shape))
    if samples.dtype.itemsize == 2:
        for rows in strips:
            pixels[rows] = (samples[rows].astype(np.uint16) >> 8)[..., None]
            if inverted:
                np.subtract(255, pixels[rows], out=pixels[rows])
            if clear is not None:
                pixels[rows][samples[rows] == clear] = 255
        return
    ends = [(values.min(), values.max()) for values in (_finite(samples[rows]) for rows in strips)]
    low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
    for rows in strips:
        values = (_finite(samples[rows]) - low) * (255.0 / ((high - low) or 1.0))
        pixels[rows] = (255 - values if inverted else values).round()[..., None]


def _finite(samples: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(samples.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _strips(height: int, width: int) -> Iterator[slice]:
    """The rows of an image in strips of about ``_STRIP`` pixels."""
    step = max(_STRIP // width, 1)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation. From 5 on, rows and columns are swapped."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):  # The first row is at the bottom.
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):  # The first column is at the right.
        pixels = pixels[:, ::-1]
    return pixels


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:_LONGEST_REASON]
