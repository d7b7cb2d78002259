"""Pixels of a level of a slide, cut out of tiles that are decoded once and kept for a while."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CACHE_BYTES = 256 * 2**20
"""Decoded tiles kept, of all open slides together: two rows of 680 tiles of 256 px, so that a grid that does not lie
on the tiles of a file, and cuts each of them four times, decodes it once."""


@dataclass(eq=False)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    pixels: NDArray[np.uint8] | None = None
    bytes: int = 0


class _Decoded:
    """The decoded tiles that were used last, of all slides of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[int, int], _Entry] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[int, int], size: int, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return a tile of `size` bytes; of threads that want it at the same time, one decodes it."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                entry = _Entry(bytes=size)
                self._bytes += size
            self._entries[key] = entry
            while self._bytes > CACHE_BYTES and len(self._entries) > 1:
                self._bytes -= self._entries.popitem(last=False)[1].bytes
        with entry.lock:
            if entry.pixels is None:
                entry.pixels = decode()
            return entry.pixels

    def forget(self, owner: int) -> None:
        """Drop the tiles of a level."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == owner]:
                self._bytes -= self._entries.pop(key).bytes


_DECODED = _Decoded()
_OWNERS = itertools.count()


class TileFile:
    """A file that threads read at once; closed with the last that knows it, if not before."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        self.close()

    def read(self, count: int, offset: int) -> bytes:
        """Return at most `count` bytes from `offset` on: fewer where the file ends."""
        return os.pread(self._descriptor, count, offset)

    def close(self) -> None:
        """Close it. Nothing can be read afterwards."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class TileLevel:
    """One level of a slide, in tiles of one size; those at its right and lower border may hold less than that.

    Any number of threads may read.

    Args:
        size_px: Width and height of the level.
        tile_px: The same of a tile.

    Attributes:
        size_px: As given.
        tile_px: As given.
    """

    def __init__(self, size_px: tuple[int, int], tile_px: tuple[int, int]) -> None:
        self.size_px, self.tile_px = size_px, tile_px
        self._owner = next(_OWNERS)
        self._across = -(-size_px[0] // tile_px[0])
        self._shape = (tile_px[1], tile_px[0], 3)
        self._size = 3 * tile_px[0] * tile_px[1]  # bytes of a decoded tile

    def close(self) -> None:
        """Forget what was decoded. Nothing can be read afterwards."""
        _DECODED.forget(self._owner)

    def region(
        self, corner: tuple[int, int], size: tuple[int, int], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8] | None:
        """Return pixels from `corner` on, white beyond the level; None where a tile is missing or damaged.

        Args:
            corner: Column and row of the first pixel.
            size: Columns and rows.
            out: Where to put them, if given, (rows, columns, 3), contiguous.
        """
        if out is None:
            out = np.empty((size[1], size[0], 3), np.uint8)
        tile = self.tile_px
        first = [max(0, c) // t for c, t in zip(corner, tile, strict=True)]
        end = [min(c + n, whole) for c, n, whole in zip(corner, size, self.size_px, strict=True)]
        if min(corner) < 0 or end != [c + n for c, n in zip(corner, size, strict=True)]:
            out[:] = 255
        if any(e <= max(0, c) for c, e in zip(corner, end, strict=True)):  # beyond the level altogether
            return out
        try:
            for row in range(first[1], -(-end[1] // tile[1])):
                for column in range(first[0], -(-end[0] // tile[0])):
                    self._put(row, column, corner, end, out)
        except ValueError:  # of the decoder, or there is no such tile
            return None
        return out

    def _put(self, row: int, column: int, corner: tuple[int, int], end: list[int], out: NDArray[np.uint8]) -> None:
        """Copy the part of a tile that lies between `corner` and `end` to its place."""
        width, height = self.tile_px
        left, top = column * width, row * height
        x0, y0 = max(left, corner[0]), max(top, corner[1])
        x1, y1 = min(left + width, end[0]), min(top + height, end[1])
        part = out[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
        number = row * self._across + column
        if part.shape == self._shape == out.shape:  # the tile itself is what is wanted, and no other needs it
            self._decode(number, out)
            return
        pixels = _DECODED.get((self._owner, number), self._size, lambda: self._decode(number))
        part[:] = pixels[y0 - top : y1 - top, x0 - left : x1 - left]

    def _decode(self, number: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return a tile, uint8 (rows, columns, 3), which is `out` if that is given.

        Raises:
            ValueError: It is missing or damaged.
        """
        raise NotImplementedError
