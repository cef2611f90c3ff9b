"""Single images, as stills."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tokenlab.data.media.files import MediaError
from tokenlab.data.samples import Frames

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is taken for an image; Pillow knows others, some of which start programs or read further files."""


def read_image(path: Path) -> Frames:
    """An image, upright and in RGB; of an animation the first picture.

    Raises:
        MediaError: If the file is missing, damaged, no image, or too large to be one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise MediaError(f"image {str(path)!r} cannot be read: {reason}") from error
    return Frames(pixels[None], (0,), np.zeros(1), is_image=True)
