"""Pixels of a level cut out of the JPEG tiles of a TIFF, each of which is decoded once.

OpenSlide decodes the same bytes with the same library, libjpeg-turbo, and then draws them onto a canvas with an alpha
channel, which costs several times as much as the decoding. Where it draws them at whole pixels the result is the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from gigacli.wsi.tiff import JpegImage, jpeg_images
from gigacli.wsi.tile_level import TileFile, TileLevel

_START = b"\xff\xd8"  # of every JPEG
_ADOBE = (
    b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # then 0 for red, green and blue, 1 for luminance and chrominance
)


class JpegLevel(TileLevel):
    """One level of a slide, in JPEG tiles. Any number of threads may read.

    Args:
        file: The slide.
        image: Where its tiles lie.
    """

    def __init__(self, file: TileFile, image: JpegImage) -> None:
        super().__init__(image.size_px, image.tile_px)
        self._file, self._image = file, image
        self._head = _START + image.tables[2:-2] + _ADOBE + (b"\0" if image.rgb else b"\1")
        self._most_bytes = 2 * self._size + 2**16  # of one in the file: more is damage

    def close(self) -> None:
        """Close the file. Nothing can be read afterwards."""
        super().close()
        self._file.close()

    def richest(self, count: int) -> list[tuple[int, int]]:
        """Return the top-left corners of the `count` whole tiles with the most bytes, which hold the most detail."""
        columns, rows = (side // tile for side, tile in zip(self._image.size_px, self._image.tile_px, strict=True))
        counts = self._image.counts.reshape(-1, self._across)[:rows, :columns]
        best = np.argsort(-counts, axis=None, kind="stable")[:count]
        width, height = self._image.tile_px
        return [(int(i % columns) * width, int(i // columns) * height) for i in best]

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
    file = TileFile(path)
    for size in sizes:
        found = [image for image in images if image.size_px == size]
        levels.append(JpegLevel(file, found[0]) if len(found) == sizes.count(size) == 1 else None)
    return levels
