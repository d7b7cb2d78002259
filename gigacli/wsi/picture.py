"""Pixels of a picture that Pillow opened."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def on_white(image: Image.Image) -> NDArray[np.uint8]:
    """Return a picture as uint8 (h, w, 3), RGB; what is transparent is white."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))
