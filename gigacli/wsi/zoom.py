"""A slide as a viewer zooms through it: levels of small tiles that halve one another, whatever levels its file has.

Tiles are read as those of the tiling are, colours and all, so that what is looked at is what is learnt from. The
smallest levels come out of one overview, which is kept: a file without smaller levels is then decoded whole once, in
blocks, and not once a tile.
"""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import NotFound
from gigacli.wsi.advice import FLAT_PX
from gigacli.wsi.area import area_average
from gigacli.wsi.patches import Patches
from gigacli.wsi.slide import Slide

TILE_PX = 256
"""Edge of a tile."""

OVERVIEW_PX = 2048
"""The longer side of an overview, at most."""

OVERVIEW_OF_FLAT_PX = 4096
"""The same of a slide without smaller levels, or of patches: 48 MB."""

_DARK = 90  # of 255: fluorescence lies below, stained tissue above


class Zoom:
    """The scanned region of a slide, in levels of tiles, numbered as DeepZoom numbers them.

    A pixel of level n is ``2**(last - n)`` level-0 pixels wide. Any number of threads may read.

    Args:
        slide: Open, with a resolution; closed by whoever opened it.

    Attributes:
        slide: As given.
        origin_px: Level-0 x and y of the top-left corner of what is shown.
        size_px: Its width and height in level-0 pixels.
        first: Number of the level that is one tile, and the smallest that there is.
        last: Number of the level whose pixels are those of level 0.
    """

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        left, top, width, height = slide.bounds_px
        self.origin_px, self.size_px = (left, top), (width, height)
        self.last = (max(width, height) - 1).bit_length()
        self.first = min(self.last, TILE_PX.bit_length() - 1)
        flat = isinstance(slide, Patches) or slide.flat_px > FLAT_PX
        longest = OVERVIEW_OF_FLAT_PX if flat else OVERVIEW_PX
        self._overview_level = min(self.last, longest.bit_length() - 1)
        self._lock, self._overview = threading.Lock(), None  # type: tuple[threading.Lock, NDArray[np.uint8] | None]

    def tile(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """Read a tile: uint8 (rows, columns, 3), as many as lie within the level, at most :data:`TILE_PX` a side.

        Raises:
            NotFound: There is no such level or tile.
            SlideError: It cannot be read.
        """
        if not self.first <= level <= self.last:
            raise NotFound(f"{self.slide.path} has no level {level}; there are {self.first} to {self.last}")
        scale = 2 ** (self.last - level)  # level-0 pixels of one of this level
        size = [math.ceil(side / scale) for side in self.size_px]
        corner = (column * TILE_PX, row * TILE_PX)
        shape = [min(TILE_PX, whole - at) for whole, at in zip(size, corner, strict=True)]  # columns, rows
        if min(*corner, *(s - 1 for s in shape)) < 0:
            raise NotFound(
                f"{self.slide.path} has no tile {column}, {row} on level {level} of {size[0]} x {size[1]} px"
            )
        if level > self._overview_level:
            x, y = (at * scale + begin for at, begin in zip(corner, self.origin_px, strict=True))
            return self._read(x, y, px=TILE_PX, scale=scale)[: shape[1], : shape[0]]
        step, small = 2 ** (self._overview_level - level), self.overview()
        part = small[corner[1] * step : (corner[1] + TILE_PX) * step, corner[0] * step : (corner[0] + TILE_PX) * step]
        spans = ((0.0, float(part.shape[1])), (0.0, float(part.shape[0])))
        return area_average(part, spans, step=(step, step), shape=(shape[1], shape[0]))

    def square(self, x: int, y: int, *, edge_px: float, px: int) -> NDArray[np.uint8]:
        """Read the square from (`x`, `y`) of `edge_px` level-0 pixels, at most `px` pixels a side and never enlarged.

        Returns:
            uint8 (n, n, 3), RGB.

        Raises:
            SlideError: It cannot be read.
        """
        px = max(1, min(px, math.floor(edge_px)))
        return self._read(x, y, px=px, scale=edge_px / px)

    def overview(self) -> NDArray[np.uint8]:
        """The whole of it, small: uint8 (h, w, 3); read once.

        Raises:
            SlideError: It cannot be read.
        """
        with self._lock:
            if self._overview is None:
                self._overview = self.slide.thumbnail(self.slide.mpp * 2 ** (self.last - self._overview_level))
            return self._overview

    @property
    def dark(self) -> bool:
        """Whether it is bright on dark, as fluorescence is."""
        return float(np.median(self.overview() @ np.array([0.299, 0.587, 0.114]))) < _DARK

    def _read(self, x: int, y: int, *, px: int, scale: float) -> NDArray[np.uint8]:
        mpp = self.slide.mpp * scale
        if isinstance(self.slide, Patches):
            return self.slide.mosaic(x, y, size=(px, px), mpp=mpp)
        return self.slide.read(x, y, tile_px=px, mpp=mpp)
