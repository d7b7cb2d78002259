"""Pyramidal tiled JPEG TIFF files: what a scanner writes, from an array.

The container is written here, by hand, from the TIFF 6.0 specification and its JPEG supplement (Adobe, 1992 and 2002):
tifffile takes JPEG tiles that are already encoded only where the optional imagecodecs package is installed.
"""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gigacli.errors import InvalidInput

LAST_LEVEL_PX = 512
"""Levels are added until the long side of the last one is at most this, unless their number is given."""

_SHORT, _LONG, _RATIONAL = (3, "H"), (4, "I"), (5, "II")
_JPEG, _YCBCR, _CENTIMETRE = 7, 6, 3

_Type = tuple[int, str]
_Tag = tuple[int, _Type, list[int]]


def write_pyramid(
    path: str | Path,
    image: NDArray[np.uint8],
    *,
    mpp: float,
    tile_px: int = 256,
    quality: int = 85,
    levels: int | None = None,
) -> None:
    """Write an image as a pyramidal, tiled TIFF that OpenSlide opens as `generic-tiff`.

    Each level halves the one before by the mean over 2 x 2 pixels (an odd last row or column is averaged over the
    pixels that are there). Tiles are baseline JPEG, YCbCr 4:2:0. The bytes depend on nothing but the arguments: no
    date, no software tag.

    Args:
        path: Where to write; an existing file is replaced.
        image: (height, width, 3) uint8, RGB.
        mpp: Microns per pixel of `image`, written as 10000 / mpp pixels per centimetre.
        tile_px: Side of a tile in pixels, a multiple of 16.
        quality: JPEG quality, 1 to 95.
        levels: Number of levels; by default as many as bring the long side down to `LAST_LEVEL_PX`.

    Raises:
        InvalidInput: The image is not (height, width, 3) uint8, or another argument is out of range.
    """
    _check(image, mpp=mpp, tile_px=tile_px, quality=quality, levels=levels)
    if levels is None:
        levels = 1 + max(0, int(np.ceil(np.log2(max(image.shape[:2]) / LAST_LEVEL_PX))))
    with Path(path).open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 0))
        pointer = 4  # where the offset of the next directory has to be written
        level = np.ascontiguousarray(image)
        for index in range(levels):
            if index:
                level = np.asarray(Image.fromarray(level).reduce(2))
            tiles = _write_tiles(file, level, tile_px=tile_px, quality=quality)
            tags = _tags(level, tiles, mpp=mpp * 2**index, tile_px=tile_px, reduced=index > 0)
            pointer = _write_directory(file, tags, pointer=pointer)


def _check(image: NDArray[np.uint8], *, mpp: float, tile_px: int, quality: int, levels: int | None) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InvalidInput(
            f"image is {image.dtype} of shape {image.shape}, expected uint8 of shape (height, width, 3)",
            "Pass an RGB array with values 0 to 255.",
        )
    if not 0.01 <= mpp <= 1000:
        raise InvalidInput(f"mpp = {mpp}, expected microns per pixel in 0.01..1000", "A 20x scan has 0.5.")
    if tile_px < 16 or tile_px % 16:
        raise InvalidInput(f"tile_px = {tile_px}, expected a positive multiple of 16", "256 is usual.")
    if not 1 <= quality <= 95:
        raise InvalidInput(f"quality = {quality}, expected 1..95", "Scanners use 70 to 90.")
    if levels is not None and not 1 <= levels <= 1 + int(np.log2(min(image.shape[:2]))):
        raise InvalidInput(
            f"levels = {levels} for {image.shape[1]} x {image.shape[0]} px, expected 1 or more, none of them empty",
            "Leave levels out to have it chosen.",
        )


def _write_tiles(file: BinaryIO, image: NDArray[np.uint8], *, tile_px: int, quality: int) -> list[tuple[int, int]]:
    """Append the tiles of one level in row order; return (offset, size) in bytes of each."""
    height, width = image.shape[:2]
    # The border is repeated outwards so that no edge appears inside a JPEG block of the last tiles.
    padded = np.pad(image, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge")
    written = []
    for y in range(0, height, tile_px):
        for x in range(0, width, tile_px):
            buffer = io.BytesIO()
            tile = Image.fromarray(padded[y : y + tile_px, x : x + tile_px])
            tile.save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
            written.append((file.tell(), file.write(buffer.getvalue())))
    return written


def _tags(
    image: NDArray[np.uint8], tiles: list[tuple[int, int]], *, mpp: float, tile_px: int, reduced: bool
) -> list[_Tag]:
    """The directory of one level, in ascending order of tag number as TIFF demands."""
    resolution = Fraction(10_000 / mpp).limit_denominator(1000)
    per_cm = [resolution.numerator, resolution.denominator]
    return [
        (254, _LONG, [int(reduced)]),  # NewSubfileType: bit 0 = a reduced version of another image of the file
        (256, _LONG, [image.shape[1]]),  # ImageWidth
        (257, _LONG, [image.shape[0]]),  # ImageLength
        (258, _SHORT, [8, 8, 8]),  # BitsPerSample
        (259, _SHORT, [_JPEG]),  # Compression
        (262, _SHORT, [_YCBCR]),  # PhotometricInterpretation
        (277, _SHORT, [3]),  # SamplesPerPixel
        (282, _RATIONAL, per_cm),  # XResolution
        (283, _RATIONAL, per_cm),  # YResolution
        (284, _SHORT, [1]),  # PlanarConfiguration: interleaved
        (296, _SHORT, [_CENTIMETRE]),  # ResolutionUnit
        (322, _LONG, [tile_px]),  # TileWidth
        (323, _LONG, [tile_px]),  # TileLength
        (324, _LONG, [offset for offset, _ in tiles]),  # TileOffsets
        (325, _LONG, [size for _, size in tiles]),  # TileByteCounts
        (530, _SHORT, [2, 2]),  # YCbCrSubSampling
        (532, _RATIONAL, [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]),  # ReferenceBlackWhite: full range
    ]


def _write_directory(file: BinaryIO, tags: list[_Tag], *, pointer: int) -> int:
    """Append a directory, link it at `pointer`, and return where the offset of the one after it belongs."""
    file.write(b"\0" * (file.tell() % 2))  # directories and long values begin on an even byte
    start = file.tell()
    end = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for number, (code, letters), data in tags:
        packed = struct.pack(f"<{len(data)}{letters[0]}", *data)
        if len(packed) <= 4:
            value = packed.ljust(4, b"\0")
        else:  # a value that does not fit stands after the directory
            value = struct.pack("<I", end + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        entries += struct.pack("<HHI", number, code, len(data) // len(letters)) + value
    file.write(struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + values)
    file.seek(pointer)
    file.write(struct.pack("<I", start))
    file.seek(0, io.SEEK_END)
    return end - 4
