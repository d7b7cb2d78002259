"""Pixels of a picture that Pillow opened."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Modes of Pillow whose values are of 8 bits or one: others it clips without a word."""


def kind_of_pixels(image: Image.Image) -> str:
    """What is wrong with the pixels of a picture, of which nothing is decoded yet, in words; "" where nothing is."""
    if image.mode not in EIGHT_BITS:
        return f"pixels of the kind {image.mode!r}; expected 8 bits, in colours or grey"
    sixteen = any("16" in str(getattr(tile, "args", "")) for tile in getattr(image, "tile", ()))  # PNG: "RGB;16B"
    return "values of 16 bits; expected 8" if sixteen else ""


def on_white(image: Image.Image) -> NDArray[np.uint8]:
    """Return a picture as uint8 (h, w, 3), RGB; what is transparent is white.

    Raises:
        ValueError: Its values are not of 8 bits.
    """
    if problem := kind_of_pixels(image):
        raise ValueError(f"it has {problem}")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))
