"""A slide whose levels are read without OpenSlide."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import SlideError
from gigacli.wsi.advice import COPY
from gigacli.wsi.header import check_sizes, reduction
from gigacli.wsi.slide import Slide, check_mpp
from gigacli.wsi.tile_level import TileLevel


class Pyramid(Slide):
    """A slide of levels in tiles, which are decoded as they are needed.

    Args:
        path: The slide.
        levels: Its levels, the largest first. They are closed with it, and if this fails.
        vendor: Name of the format.
        properties: What its header says, under the names that :func:`gigacli.wsi.resolution.resolve_mpp` knows.
        mpp: As for :class:`Slide`.
        upsample: As for :class:`Slide`.

    Raises:
        SlideError: Its levels have sizes that no slide has.
    """

    def __init__(
        self,
        path: Path,
        levels: list[TileLevel],
        *,
        vendor: str,
        properties: dict[str, str],
        mpp: float | None = None,
        upsample: bool = False,
    ) -> None:
        self.path, self.vendor, self.properties = path, vendor, properties
        self._mpp, self._upsample, self._lock = check_mpp(path, mpp), upsample, threading.Lock()
        self._tiles = levels
        self.size_px = levels[0].size_px
        self.bounds_px = (0, 0, *self.size_px)
        try:
            check_sizes(path, [level.size_px for level in levels])
        except SlideError:
            self.close()
            raise
        self._factors = [
            (reduction(self.size_px[0], level.size_px[0]), reduction(self.size_px[1], level.size_px[1]))
            for level in levels
        ]
        self._levels = [(level.size_px, max(f)) for level, f in zip(levels, self._factors, strict=True)]

    def close(self) -> None:
        """Close the file. Nothing can be read afterwards."""
        for level in self._tiles:
            level.close()

    def _direct(self, level: int) -> TileLevel:
        return self._tiles[level]

    def _region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Say that a region cannot be read: its tiles were tried."""
        raise SlideError(
            f"{self.path} cannot be read in the {size[0]} x {size[1]} px of its level {level} from level-0 pixel "
            f"{location}: a tile is missing or damaged",
            COPY,
        )
