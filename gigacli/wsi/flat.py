"""PNG and JPEG: pictures without a pyramid, without tiles, and mostly without a resolution."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from gigacli.errors import SlideError
from gigacli.wsi.advice import COPY, RGB, convert
from gigacli.wsi.picture import kind_of_pixels, on_white
from gigacli.wsi.pyramid import Pyramid
from gigacli.wsi.tiff_images import MAX_PICTURE_PX
from gigacli.wsi.tile_level import TileLevel

PICTURES = {b"\x89PNG": ("png", PngImagePlugin.PngImageFile), b"\xff\xd8\xff": ("jpeg", JpegImagePlugin.JpegImageFile)}
"""First bytes of the files, the name of their format, and who reads it. (`Image.open` warns of large pictures.)"""


def open_picture(path: Path, *, mpp: float | None = None, upsample: bool = False) -> Pyramid:
    """Open a PNG or JPEG; arguments and errors are those of :class:`~gigacli.wsi.slide.Slide`.

    It is decoded whole, once as long as it stays among the tiles that were used last.
    """
    vendor, _ = PICTURES[_magic(path)]
    try:
        with _opened(path) as image:
            size, problem = image.size, kind_of_pixels(image)
    except ValueError as error:
        raise SlideError(f"{path} is no {vendor.upper()} that can be read: {error}", COPY) from error
    if size[0] * size[1] > MAX_PICTURE_PX:
        raise SlideError(
            f"{path} is a {vendor.upper()} of {size[0]} x {size[1]} px, which is decoded whole; expected at most "
            f"{MAX_PICTURE_PX} pixels",
            convert(path),
        )
    if problem:
        raise SlideError(f"{path} has {problem}", RGB)
    return Pyramid(path, [_Whole(path, size)], vendor=vendor, properties={}, mpp=mpp, upsample=upsample)


class _Whole(TileLevel):
    """A picture as the only tile of a level."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        super().__init__(size, size)
        self._path = path

    def _decode(self, number: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        with _opened(self._path) as image:
            if image.size != self.size_px:
                raise ValueError("another picture than was opened")
            try:
                pixels = on_white(image)
            except (OSError, SyntaxError, struct.error) as error:
                raise ValueError(str(error)) from error
        if out is None:
            return pixels
        out[:] = pixels
        return out


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(8)
    return next(magic for magic in PICTURES if head.startswith(magic))


def _opened(path: Path) -> Image.Image:
    """Read the header of a picture.

    Raises:
        ValueError: It is damaged, or has changed into something else.
    """
    try:
        return PICTURES[_magic(path)][1](path)
    except (OSError, SyntaxError, StopIteration, struct.error, KeyError, IndexError) as error:
        raise ValueError(str(error) or "another file than was opened") from error
