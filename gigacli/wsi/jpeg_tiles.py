"""Pixels of a level cut out of the JPEG tiles of a TIFF, each of which is decoded once.

OpenSlide decodes the same bytes with the same library, libjpeg-turbo, and then draws them onto a canvas with an alpha
channel, which costs several times as much as the decoding. Where it draws them at whole pixels the result is the same.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from gigacli.wsi.tiff import JpegImage, jpeg_images

CACHE_BYTES = 256 * 2**20
"""Decoded tiles kept, of all open slides together: two rows of 680 tiles of 256 px, so that a grid that does not lie
on the tiles of a file, and cuts each of them four times, decodes it once."""

_START = b"\xff\xd8"  # of every JPEG
_ADOBE = (
    b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # then 0 for red, green and blue, 1 for luminance and chrominance
)


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


class _File:
    """A file that threads read at once; closed with the last that knows it, if not before."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        self.close()

    def read(self, count: int, offset: int) -> bytes:
        return os.pread(self._descriptor, count, offset)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class JpegLevel:
    """One level of a slide, in JPEG tiles. Any number of threads may read.

    Args:
        file: The slide.
        image: Where its tiles lie.
    """

    def __init__(self, file: _File, image: JpegImage) -> None:
        self._file, self._image, self._owner = file, image, next(_OWNERS)
        self._across = -(-image.size_px[0] // image.tile_px[0])
        self._shape = (image.tile_px[1], image.tile_px[0], 3)
        self._head = _START + image.tables[2:-2] + _ADOBE + (b"\0" if image.rgb else b"\1")
        self._size = 3 * image.tile_px[0] * image.tile_px[1]  # bytes of a decoded tile
        self._most_bytes = 2 * self._size + 2**16  # of one in the file: more is damage

    def close(self) -> None:
        """Close the file. Nothing can be read afterwards."""
        _DECODED.forget(self._owner)
        self._file.close()

    def richest(self, count: int) -> list[tuple[int, int]]:
        """Return the top-left corners of the `count` whole tiles with the most bytes, which hold the most detail."""
        columns, rows = (side // tile for side, tile in zip(self._image.size_px, self._image.tile_px, strict=True))
        counts = self._image.counts.reshape(-1, self._across)[:rows, :columns]
        best = np.argsort(-counts, axis=None, kind="stable")[:count]
        width, height = self._image.tile_px
        return [(int(i % columns) * width, int(i // columns) * height) for i in best]

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
        tile = self._image.tile_px
        first = [max(0, c) // t for c, t in zip(corner, tile, strict=True)]
        end = [min(c + n, whole) for c, n, whole in zip(corner, size, self._image.size_px, strict=True)]
        if min(corner) < 0 or end != [c + n for c, n in zip(corner, size, strict=True)]:
            out[:] = 255
        if any(e <= max(0, c) for c, e in zip(corner, end, strict=True)):  # beyond the level altogether
            return out
        try:
            for row in range(first[1], -(-end[1] // tile[1])):
                for column in range(first[0], -(-end[0] // tile[0])):
                    self._put(row, column, corner, end, out)
        except ValueError:  # of simplejpeg, or there is no such tile
            return None
        return out

    def _put(self, row: int, column: int, corner: tuple[int, int], end: list[int], out: NDArray[np.uint8]) -> None:
        """Copy the part of a tile that lies between `corner` and `end` to its place."""
        width, height = self._image.tile_px
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
        offset, count = int(self._image.offsets[number]), int(self._image.counts[number])
        if offset <= 0 or not 4 <= count <= self._most_bytes:
            raise ValueError("no tile")
        data = self._file.read(count, offset)
        # with memory of this size at hand, a tile that says it is larger is refused before anything is decoded
        out = np.empty(self._shape, np.uint8) if out is None else out
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(self._head + data[2:], buffer=out)
        if len(data) < count or pixels.shape != self._shape:
            raise ValueError("another tile than the directory says")
        return pixels


def jpeg_levels(path: Path, sizes: list[tuple[int, int]]) -> list[JpegLevel | None]:
    """Open the levels of these sizes; None for one that is not, or not without doubt, an image in JPEG tiles."""
    images, levels = jpeg_images(path), list[JpegLevel | None]()
    if not images:
        return [None] * len(sizes)
    file = _File(path)
    for size in sizes:
        found = [image for image in images if image.size_px == size]
        levels.append(JpegLevel(file, found[0]) if len(found) == sizes.count(size) == 1 else None)
    return levels
