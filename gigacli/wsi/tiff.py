"""Directories of a TIFF, read by hand (spec/decisions/0020): what is missing, and where the tiles of its images lie.

OpenSlide fills in tiles that are missing without a word, and decodes more slowly than the tiles can be decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = 256, 257, 322, 323, 324, 325
_BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION, _SAMPLES, _PLANAR, _JPEG_TABLES = 258, 259, 262, 270, 277, 284, 347
_JPEG = 7  # of the values of _COMPRESSION, after TIFF Technical Note 2
_BELOW, _REDUCED, _EXTRA, _FORMAT = 330, 254, 338, 339
_FORMS = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}  # letter of struct, by type of value
_BEHIND_POINTERS = (2, 5)  # types of value: text and fractions
_MOST_DIRECTORIES = 1000
_MOST_LEVELS = 64
_MOST_TILES = 2**24  # of an image: a million pixels a side in tiles of 256
_MOST_TILE_PX = 2**26
_TILE_PX = range(8, 4097)  # sides of a tile that a scanner writes
_MOST_TABLES = 2**16  # bytes of quantisation and Huffman tables; a JPEG has 600


class Tag(NamedTuple):
    """An entry of a directory."""

    number: int  # of values
    value: int  # the first one, or where they are
    form: str  # letter of struct
    order: str  # "<" or ">"
    raw: bytes  # the values themselves, or where they are, as they stand in the directory


@dataclass(frozen=True, eq=False)
class JpegImage:
    """An image of a TIFF in JPEG tiles of three colours, 8 bits each."""

    size_px: tuple[int, int]  # width and height
    tile_px: tuple[int, int]
    offsets: NDArray[np.int64]  # (tiles,) where each tile lies in the file, row by row; 0 where there is none
    counts: NDArray[np.int64]  # (tiles,) bytes
    tables: bytes  # what its tiles have in common and lack, "" for whole JPEGs
    rgb: bool  # whether they hold red, green and blue rather than luminance and chrominance


def lacking_tiles(path: Path) -> str:
    """Return what is wrong with the first image that has too few tiles for its size, or giant ones, "" without one.

    A file that is no TIFF (6.0 or BigTIFF) lacks nothing, and neither do images in strips.
    """
    with path.open("rb") as file:
        try:
            for tags in directories(file):
                if {_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS} <= tags.keys():
                    needed, found = _tiles_needed(tags), tags[_TILE_OFFSETS].number
                    size = f"{tags[_WIDTH].value} x {tags[_LENGTH].value}"
                    across, down = tags[_TILE_WIDTH].value, tags[_TILE_LENGTH].value
                    if across * down > _MOST_TILE_PX:  # OpenSlide ends the program if it gets no memory for one
                        return f"an image of {size} px has tiles of {across} x {down} px"
                    if found < needed:
                        return f"an image of {size} px, which is {needed} tiles, has {found}"
        except struct.error:
            pass  # the file ends here: OpenSlide says so better
    return ""


def jpeg_images(path: Path) -> list[JpegImage]:
    """Return the images of a TIFF that are made of JPEG tiles; none of a file that is no TIFF."""
    found = []
    with path.open("rb") as file:
        try:
            for tags in list(directories(file)):
                if image := jpeg_image(file, tags):
                    found.append(image)
        except (struct.error, OSError, ValueError):
            return []  # the file ends too early, or an offset is none
    return found


def description_of(path: Path) -> str | None:
    """Return the beginning of the description of a TIFF's first image; None of a file that is no TIFF, or cut short."""
    first = first_image(path)
    return None if first is None else first.description


class FirstImage(NamedTuple):
    """The first image of a TIFF."""

    description: str  # its beginning
    below: bool  # whether it names smaller copies as its own
    plain: bool  # whether its values are unsigned, of 8 bits or less, and of one grey or of colours


def first_image(path: Path) -> FirstImage | None:
    """Look at the first image of a TIFF; None of a file that is no TIFF, or cut short."""
    with path.open("rb") as file:
        try:
            found = directories(file)
            tags = next(found, None)
            if tags is None:
                return None
            tag = tags.get(_DESCRIPTION)
            text = ""
            if tag is not None and tag.number > 8:  # a shorter one lies in the directory itself
                text = values_of(file, tag, most=4096).tobytes().decode(errors="replace")
            return FirstImage(text, _BELOW in tags, _is_plain(file, tags, found))
        except (struct.error, OSError, ValueError):
            return None


def _is_plain(file: BinaryIO, tags: dict[int, Tag], others: Iterator[dict[int, Tag]]) -> bool:
    """Whether OpenSlide gives the pixels of an image, the first one, as they are meant."""
    bits = values_of(file, tags[_BITS], most=64) if _BITS in tags else np.ones(1)
    kinds = values_of(file, tags[_FORMAT], most=64) if _FORMAT in tags else np.ones(1)
    if (bits > 8).any() or (kinds != 1).any():
        return False
    samples, extra, colours = (tags[tag].value if tag in tags else 0 for tag in (_SAMPLES, _EXTRA, _PHOTOMETRIC))
    if colours not in (0, 1):
        return True
    size = [tags[tag].value for tag in (_WIDTH, _LENGTH) if tag in tags]
    planes = (one for one in others if not (_REDUCED in one and one[_REDUCED].value & 1))
    alike = any([one[tag].value for tag in (_WIDTH, _LENGTH) if tag in one] == size for one in planes)
    return samples <= 1 + (extra in (1, 2)) and not alike  # else it is of several stains


def jpeg_image(file: BinaryIO, tags: dict[int, Tag]) -> JpegImage | None:
    """Return the image of a directory, None where it is not made of JPEG tiles of three colours."""
    values = {tag: tags[tag].value for tag in (_COMPRESSION, _SAMPLES, _PHOTOMETRIC) if tag in tags}
    values[_PLANAR] = tags[_PLANAR].value if _PLANAR in tags else 1
    kind = (values.get(_COMPRESSION), values.get(_SAMPLES), values[_PLANAR])
    needed_tags = {_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS}
    if kind != (_JPEG, 3, 1) or values.get(_PHOTOMETRIC) not in (2, 6) or not needed_tags <= tags.keys():
        return None
    bits = values_of(file, tags[_BITS], most=3) if _BITS in tags else np.ones(1)
    needed, tables = _tiles_needed(tags), tags.get(_JPEG_TABLES)
    if not 0 < needed <= _MOST_TILES or any(tags[tag].number != needed for tag in (_TILE_OFFSETS, _TILE_COUNTS)):
        return None
    if (bits != 8).any() or any(tags[tag].value not in _TILE_PX for tag in (_TILE_WIDTH, _TILE_LENGTH)):
        return None
    return JpegImage(
        size_px=(tags[_WIDTH].value, tags[_LENGTH].value),
        tile_px=(tags[_TILE_WIDTH].value, tags[_TILE_LENGTH].value),
        offsets=values_of(file, tags[_TILE_OFFSETS], most=needed).astype(np.int64),
        counts=values_of(file, tags[_TILE_COUNTS], most=needed).astype(np.int64),
        tables=b"" if tables is None else values_of(file, tables, most=_MOST_TABLES).tobytes(),
        rgb=values[_PHOTOMETRIC] == 2,
    )


def _tiles_needed(tags: dict[int, Tag]) -> int:
    width, length, across, down = (tags[t].value for t in (_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH))
    return -(-width // max(1, across)) * -(-length // max(1, down))


def values_of(file: BinaryIO, tag: Tag, *, most: int) -> NDArray[np.integer]:
    """Return the values of a tag, at most as many as that."""
    kind = np.dtype(tag.order + tag.form)
    data = tag.raw
    if tag.number * kind.itemsize > len(tag.raw):
        file.seek(struct.unpack(tag.order + ("I" if len(tag.raw) == 4 else "Q"), tag.raw)[0])
        data = _exactly(file, min(tag.number, most) * kind.itemsize)
    return np.frombuffer(data, kind, min(tag.number, most))


def directories(file: BinaryIO) -> Iterator[dict[int, Tag]]:
    """Yield the entries of each directory of a TIFF by tag.

    Raises:
        struct.error: The file ends too early.
    """
    magic = file.read(4)
    order = {b"II": "<", b"MM": ">"}.get(magic[:2], "")
    kind = struct.unpack(order + "H", magic[2:])[0] if order else 0
    if kind not in (42, 43):
        return
    start, offset = (4, "I") if kind == 42 else (8, "Q")
    here, seen = _read(file, start, order + offset)[0], set[int]()
    while here and here not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(here)
        found = _directory(file, here, order, offset)
        if found is None:
            return
        tags, here = found
        yield tags


def directories_below(file: BinaryIO, tags: dict[int, Tag]) -> list[dict[int, Tag]]:
    """Return the directories that a directory names as its own: smaller copies of its image.

    Raises:
        struct.error: The file ends too early.
    """
    if _BELOW not in tags:
        return []
    tag = tags[_BELOW]
    offset = "I" if len(tag.raw) == 4 else "Q"
    found = (_directory(file, int(at), tag.order, offset) for at in values_of(file, tag, most=_MOST_LEVELS))
    return [below[0] for below in found if below is not None]


def _directory(file: BinaryIO, here: int, order: str, offset: str) -> tuple[dict[int, Tag], int] | None:
    """Return the entries of a directory and where the next one is, None where there is no directory."""
    count = _read(file, here, order + ("H" if offset == "I" else "Q"))[0]
    if count > 4096:
        return None
    tags: dict[int, Tag] = {}
    for _ in range(count):
        tag, form, values = struct.unpack(order + "HH" + offset, _exactly(file, 4 + struct.calcsize(offset)))
        raw = _exactly(file, struct.calcsize(offset))
        letter = _FORMS.get(form, "B")
        pointer = offset if form in _BEHIND_POINTERS else letter
        tags.setdefault(tag, Tag(values, struct.unpack_from(order + pointer, raw)[0], letter, order, raw))
    return tags, struct.unpack(order + offset, _exactly(file, struct.calcsize(offset)))[0]


def _read(file: BinaryIO, at: int, form: str) -> tuple[int, ...]:
    file.seek(at)
    return struct.unpack(form, _exactly(file, struct.calcsize(form)))


def _exactly(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) < size:
        raise struct.error("end of file")
    return found
