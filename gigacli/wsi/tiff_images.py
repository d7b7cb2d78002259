"""Images of a TIFF that OpenSlide does not read, or not with their pyramid, and their pixels.

The directories are read by hand (spec/decisions/0020). JPEG tiles of three colours are decoded as those of all slides;
any other tile is handed to Pillow as a TIFF of its own, whose libtiff knows the compressions.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, Jpeg2KImagePlugin, TiffImagePlugin

from gigacli.wsi.jpeg_tiles import JpegLevel
from gigacli.wsi.picture import on_white
from gigacli.wsi.tiff import JpegImage, Tag, directories, directories_below, jpeg_image, values_of
from gigacli.wsi.tile_level import TileFile, TileLevel

_REDUCED, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION = 254, 256, 257, 258, 259, 262, 270
_STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _STRIP_COUNTS, _ACROSS, _DOWN, _PLANAR = 273, 277, 278, 279, 282, 283, 284
_UNIT, _PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = 296, 317, 322, 323, 324, 325
_EXTRA, _FORMAT, _JPEG_TABLES = 338, 339, 347
_ALPHA = (1, 2)  # of the values of _EXTRA: how opaque a pixel is
_UNITS = {2: "inch", 3: "centimeter"}
_COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 50000: "zstd"}
_JPEG_2000 = (33003, 33004, 33005, 34712)
_MOST_TILES = 2**24  # of a file
_MOST_TEXT = 2**25  # bytes of the first description: OME-XML names every plane
_SOME_TEXT = 2**16  # of another
_MOST_TABLES = 2**16
MAX_PICTURE_PX = 2**27
"""Pixels that are decoded at once where a file has no tiles, 400 MB."""


@dataclass(frozen=True, eq=False)
class TiffImage:
    """One image of a TIFF, in tiles; a strip is a tile as wide as the image."""

    size_px: tuple[int, int]  # width and height
    tile_px: tuple[int, int]
    offsets: NDArray[np.int64]  # (planes * tiles,) where each tile lies in the file, row by row
    counts: NDArray[np.int64]  # (planes * tiles,) bytes
    values: dict[int, int]  # first value of the tags that say how its tiles are made
    whole_bytes: bool  # whether its values are unsigned, of 8 bits
    tables: bytes  # what its JPEG tiles have in common and lack
    description: str
    resolution: tuple[float, float]  # pixels per unit along x and y, 0 where nothing is said
    unit: str  # inch, centimeter or ""
    reduced: bool  # a smaller copy of another image
    strips: bool
    jpeg: JpegImage | None  # the same where it is made of JPEG tiles of three colours
    smaller: tuple[TiffImage, ...] = ()  # its own smaller copies

    @property
    def samples(self) -> int:
        """Values per pixel."""
        return self.values[_SAMPLES]

    @property
    def planes(self) -> int:
        """In how many planes its values lie: one, or one per value of a pixel."""
        return self.samples if self.values[_PLANAR] == 2 else 1

    @property
    def grey(self) -> bool:
        """Whether its values say how bright pixels are, and not their colours."""
        return self.values[_PHOTOMETRIC] in (0, 1)

    @property
    def problem(self) -> str:
        """Why its pixels cannot be read, in words; "" where they can."""
        compression, colours = self.values[_COMPRESSION], self.values[_PHOTOMETRIC]
        tiles = self.planes * _tiles(self.size_px, self.tile_px)
        if not self.whole_bytes:
            bits = self.values[_BITS]
            return f"values of {bits} bits; expected 8"
        if not 1 <= self.samples <= 4:
            return f"{self.samples} values per pixel; expected red, green and blue, or grey"
        if self.grey and self.samples > 1 + (self.values[_EXTRA] in _ALPHA):
            return f"{self.samples} grey values per pixel, as of several stains; expected red, green and blue, or grey"
        if compression not in _COMPRESSIONS and compression not in _JPEG_2000:
            return (
                f"the compression {compression}; expected {', '.join(dict.fromkeys(_COMPRESSIONS.values()))}, JPEG 2000"
            )
        if colours not in (0, 1, 2) and not (colours == 6 and compression == 7):
            return f"colours of the kind {colours}; expected grey, RGB, or YCbCr in JPEG"
        if self.tile_px[0] * self.tile_px[1] > MAX_PICTURE_PX:
            return f"tiles of {self.tile_px[0]} x {self.tile_px[1]} px; expected at most {MAX_PICTURE_PX} pixels"
        if len(self.offsets) != tiles or len(self.counts) != tiles:
            return f"{min(len(self.offsets), len(self.counts))} tiles; its size needs {tiles}"
        return ""


def tiff_images(path: Path) -> list[TiffImage]:
    """Return the images of a TIFF with their smaller copies; none of a file that is no TIFF, or is cut short."""
    images, left = list[TiffImage](), _MOST_TILES
    with path.open("rb") as file:
        try:
            for tags in list(directories(file)):
                family = list[TiffImage | None]()
                for one in (tags, *directories_below(file, tags)):
                    image = _image(file, one, most_text=_SOME_TEXT if images or family else _MOST_TEXT)
                    left -= 0 if image is None else len(image.offsets)
                    if left < 0:  # many directories that point to one list
                        return []
                    family.append(image)
                if (first := family[0]) is not None:
                    images.append(replace(first, smaller=tuple(one for one in family[1:] if one is not None)))
        except (struct.error, OSError, ValueError, OverflowError):
            return []
    return images


def _image(file: BinaryIO, tags: dict[int, Tag], *, most_text: int) -> TiffImage | None:
    """Return the image of a directory, None where it holds none."""
    if not {_WIDTH, _LENGTH} <= tags.keys():
        return None
    size = (tags[_WIDTH].value, tags[_LENGTH].value)
    strips = _TILE_WIDTH not in tags
    if strips:
        needed = (_STRIP_OFFSETS, _STRIP_COUNTS)
        rows = tags[_STRIP_ROWS].value if _STRIP_ROWS in tags else size[1]
        tile = (size[0], min(size[1], rows))
    else:
        needed = (_TILE_OFFSETS, _TILE_COUNTS)
        tile = (tags[_TILE_WIDTH].value, tags[_TILE_LENGTH].value if _TILE_LENGTH in tags else 0)
    if not set(needed) <= tags.keys() or min(*size, *tile) < 1:
        return None
    defaults = {_COMPRESSION: 1, _PHOTOMETRIC: 1, _SAMPLES: 1, _PLANAR: 1, _PREDICTOR: 1, _EXTRA: 0, _BITS: 1}
    bits = values_of(file, tags[_BITS], most=64) if _BITS in tags else np.ones(1)
    kinds = values_of(file, tags[_FORMAT], most=64) if _FORMAT in tags else np.ones(1)
    text = values_of(file, tags[_DESCRIPTION], most=most_text).tobytes() if _DESCRIPTION in tags else b""
    offsets, counts = (values_of(file, tags[tag], most=_MOST_TILES).astype(np.int64) for tag in needed)
    return TiffImage(
        size_px=size,
        tile_px=tile,
        offsets=offsets,
        counts=counts,
        values={tag: tags[tag].value if tag in tags else value for tag, value in defaults.items()}
        | {_BITS: int(bits.max())},
        whole_bytes=bool((bits == 8).all() and (kinds == 1).all()),
        tables=values_of(file, tags[_JPEG_TABLES], most=_MOST_TABLES).tobytes() if _JPEG_TABLES in tags else b"",
        description=text.split(b"\0")[0].decode(errors="replace"),
        resolution=(_fraction(file, tags.get(_ACROSS)), _fraction(file, tags.get(_DOWN))),
        unit=_UNITS.get(tags[_UNIT].value if _UNIT in tags else 2, ""),
        reduced=_REDUCED in tags and bool(tags[_REDUCED].value & 1),
        strips=strips,
        jpeg=jpeg_image(file, tags),
    )


def _fraction(file: BinaryIO, tag: Tag | None) -> float:
    if tag is None:
        return 0.0
    raw = tag.raw
    if len(raw) == 4:
        file.seek(struct.unpack(tag.order + "I", raw)[0])
        raw = file.read(8)
    above, below = struct.unpack(tag.order + "II", raw)
    return above / below if below else 0.0


def _tiles(size: tuple[int, int], tile: tuple[int, int]) -> int:
    return -(-size[0] // tile[0]) * -(-size[1] // tile[1])


def tiff_level(path: Path, planes: tuple[TiffImage, ...]) -> TileLevel:
    """Open a level: one image, or red, green and blue as three grey ones."""
    first = planes[0]
    if len(planes) == 1 and first.jpeg is not None:
        return JpegLevel(TileFile(path), first.jpeg)
    return _TiffLevel(TileFile(path), planes)


class _TiffLevel(TileLevel):
    """A level whose tiles Pillow decodes."""

    def __init__(self, file: TileFile, planes: tuple[TiffImage, ...]) -> None:
        super().__init__(planes[0].size_px, planes[0].tile_px)
        self._file, self._planes = file, planes

    def close(self) -> None:
        super().close()
        self._file.close()

    def _decode(self, number: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        parts = [
            self._part(image, number + plane * _tiles(image.size_px, image.tile_px), number // self._across)
            for image in self._planes
            for plane in range(image.planes)
        ]
        if len(parts) == 2:  # grey, and how opaque it is
            parts = [Image.merge("LA", parts)]
        elif len(parts) > 2:
            parts = [Image.merge("RGB" if len(parts) == 3 else "RGBA", parts)]
        pixels = on_white(parts[0])
        out = np.empty(self._shape, np.uint8) if out is None else out
        out[: len(pixels)] = pixels
        return out

    def _part(self, image: TiffImage, number: int, row: int) -> Image.Image:
        """Decode one tile of one plane."""
        offset, count = int(image.offsets[number]), int(image.counts[number])
        width, height = image.tile_px
        if image.strips:
            height = min(height, image.size_px[1] - row * height)
        if offset <= 0 or not 0 < count <= 8 * self._size + 2**16:
            raise ValueError("no tile")
        data = self._file.read(count, offset)
        if len(data) < count:
            raise ValueError("the file ends before the tile")
        try:
            found: Image.Image
            if image.values[_COMPRESSION] in _JPEG_2000:
                found = Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(data))
            else:
                found = TiffImagePlugin.TiffImageFile(io.BytesIO(_alone(image, data, (width, height))))
            if found.size != (width, height):
                raise ValueError("another tile than the directory says")
            found.load()
        except (OSError, SyntaxError, KeyError, TypeError, IndexError, struct.error) as error:
            raise ValueError(str(error)) from error
        return found


def _alone(image: TiffImage, data: bytes, size: tuple[int, int]) -> bytes:
    """Make a TIFF that holds one tile only."""
    parted = image.planes > 1
    samples = 1 if parted else image.samples
    at = 512 + len(image.tables)
    tags = [
        (_WIDTH, 4, 1, size[0]),
        (_LENGTH, 4, 1, size[1]),
        (_BITS, 3, samples, 8 if samples == 1 else 8 | 8 << 16 if samples == 2 else 504),
        (_COMPRESSION, 3, 1, image.values[_COMPRESSION]),
        (_PHOTOMETRIC, 3, 1, 1 if parted else image.values[_PHOTOMETRIC]),
        (_STRIP_OFFSETS, 4, 1, at),
        (_SAMPLES, 3, 1, samples),
        (_STRIP_ROWS, 4, 1, size[1]),
        (_STRIP_COUNTS, 4, 1, len(data)),
        (_PLANAR, 3, 1, 1),
        (_PREDICTOR, 3, 1, image.values[_PREDICTOR]),
    ]
    if samples in (2, 4):
        tags.append((_EXTRA, 3, 1, image.values[_EXTRA]))
    if image.tables:
        tags.append((_JPEG_TABLES, 7, len(image.tables), 512))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    head = b"II*\0" + struct.pack("<I", 8) + directory
    return head.ljust(504, b"\0") + struct.pack("<4H", 8, 8, 8, 8) + image.tables + data
