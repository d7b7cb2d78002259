"""Thumbnails of slides, and their tiles drawn on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gigacli.errors import InvalidInput
from gigacli.wsi.patches import open_slide

_SMALLEST_TILE_PX = 5  # lines of smaller tiles would hide the slide
_FADE = 0.55  # of what no tile covers, towards white, or black in a dark picture
_DARK = 90  # of 255: fluorescence lies below, stained tissue above
_LINE_ON_PALE, _LINE_ON_DARK = (20, 30, 90, 120), (255, 255, 255, 110)


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """The scanned region of a slide, small."""

    pixels: NDArray[np.uint8]  # uint8 (h, w, 3)
    origin_px: tuple[int, int]  # level-0 x and y of its top-left corner
    scale: float  # its pixels per level-0 pixel


def thumbnail(path: str | Path, *, mpp: float, long_px: int) -> Thumbnail:
    """Read a thumbnail at most `long_px` pixels long of a slide of `mpp` microns per level-0 pixel; none is enlarged.

    Raises:
        SlideError: The file is missing or cannot be read.
    """
    if long_px < 1:
        raise InvalidInput(f"a thumbnail of {long_px} px; expected at least 1")
    with open_slide(path, mpp=mpp) as slide:
        left, top, width, height = slide.bounds_px
        factor = max(1.0, max(width, height) / long_px)
        return Thumbnail(slide.thumbnail(mpp * factor), (left, top), 1 / factor)


def draw_grid(small: Thumbnail, coords: NDArray[np.int32], *, edge_px: float) -> Image.Image:
    """Draw tiles, from corners (n, 2) and an edge in level-0 px, as a thin grid; what no tile covers is faded."""
    low = (coords - np.asarray(small.origin_px)) * small.scale  # (n, 2), pixels of the picture
    boxes = np.rint(np.hstack([low, low + edge_px * small.scale])).astype(int)  # (n, 4)
    picture = Image.fromarray(small.pixels)
    dark = float(np.median(small.pixels @ np.array([0.299, 0.587, 0.114]))) < _DARK
    covered = Image.new("L", picture.size, round(255 * _FADE))
    lines = Image.new("RGBA", picture.size)
    fill, draw = ImageDraw.Draw(covered), ImageDraw.Draw(lines)
    for left, top, right, bottom in boxes.tolist():
        fill.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=0)
        if edge_px * small.scale >= _SMALLEST_TILE_PX:
            draw.rectangle((left, top, right, bottom), outline=_LINE_ON_DARK if dark else _LINE_ON_PALE)
    picture.paste("black" if dark else "white", (0, 0), covered)
    picture.paste(lines, (0, 0), lines)
    return picture
