"""Single images, as stills."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from tokenlab.data.media.files import MediaError, check_file, reason_of
from tokenlab.data.samples import Frames

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is taken for an image; Pillow knows others, some of which start programs or read further files."""

MAX_IMAGE_PIXELS = 89_478_485
"""A quarter of a gibibyte in RGB: what Pillow takes for a decompression bomb beyond."""

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Two tags of TIFF 6.0, section 8, and a value of the second."""


def read_image(path: Path, max_pixels: int = MAX_IMAGE_PIXELS) -> Frames:
    """Reads an image, upright and in RGB; of an animation the first picture.

    What is transparent shows white, as the processors of transformers make it; 16-bit grey becomes 8-bit.

    Raises:
        MediaError: If the file is missing, damaged, no image of these `FORMATS`, has numbers for pixels that nobody
            scales, or has more than `max_pixels`.
    """
    check_file(path, "image")
    try:
        with _bomb_limit(max_pixels), Image.open(path, formats=FORMATS) as image:
            grey = _grey_of_16_bits(image, path)  # before a turn, which loses the tags
            pixels = on_white(ImageOps.exif_transpose(image if grey is None else grey))
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise MediaError(f"image {str(path)!r} cannot be read: it is damaged, or none of {formats}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(
            f"image {str(path)!r} has more than {max_pixels} pixels: data.max_image_pixels says how many are taken"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"image {str(path)!r} cannot be read: {reason_of(error)}") from error
    return Frames(pixels[None], (0,), np.zeros(1), is_image=True)


def on_white(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Converts an image to RGB, whatever is transparent on white (`transformers.image_transforms.convert_to_rgb`)."""
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _grey_of_16_bits(image: Image.Image, path: Path) -> Image.Image | None:
    """More than 8 bits of grey as 8: Pillow's own conversion clips them. None where there are not more.

    Raises:
        MediaError: If the pixels are floats, or whole numbers of 32 bits.
    """
    if image.mode in ("F", "I"):
        numbers = "floating-point numbers" if image.mode == "F" else "signed or 32-bit whole numbers"
        raise MediaError(
            f"image {str(path)!r} holds {numbers}, and nothing says which of them is white: save it with 8 or 16 bits"
        )
    if not image.mode.startswith("I;16"):
        return None
    tags = getattr(image, "tag_v2", {})
    values = np.array(image).astype(np.uint16)
    grey = (values >> (tags.get(BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow heeds it with 8 bits only
        grey = 255 - grey
    see_through = image.info.get("transparency")
    alpha = np.full_like(grey, 255) if see_through is None else np.where(values == see_through, 0, 255).astype(np.uint8)
    eight = Image.fromarray(np.stack([grey, alpha], axis=-1))
    eight.getexif().update(image.getexif())
    return eight


@contextmanager
def _bomb_limit(pixels: int) -> Iterator[None]:
    """Lets Pillow open up to so many pixels; its own limit belongs to the process."""
    usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual
