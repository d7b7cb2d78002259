"""A check of TIFF directories: OpenSlide fills in tiles that are missing without a word."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS = 256, 257, 322, 323, 324
_DESCRIPTION = 270
_MOST_DIRECTORIES = 1000


def lacking_tiles(path: Path) -> str:
    """Return what is wrong with the first image that has fewer tiles than its size needs, "" if there is none.

    A file that is no TIFF (6.0 or BigTIFF) lacks nothing, and neither do images in strips.
    """
    with path.open("rb") as file:
        try:
            for tags in _directories(file):
                if {_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS} <= tags.keys():
                    width, length, across, down = (tags[t][1] for t in (_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH))
                    needed, found = -(-width // max(1, across)) * -(-length // max(1, down)), tags[_TILE_OFFSETS][0]
                    if found < needed:
                        return f"an image of {width} x {length} px, which is {needed} tiles, has {found}"
        except struct.error:
            pass  # the file ends here: OpenSlide says so better
    return ""


def description_of(path: Path) -> str | None:
    """Return the beginning of the description of a TIFF's first image; None of a file that is no TIFF, or cut short."""
    with path.open("rb") as file:
        try:
            tags = next(_directories(file), None)
            if tags is None or _DESCRIPTION not in tags:
                return None if tags is None else ""
            length, at = tags[_DESCRIPTION]
            if length <= 8:  # lies in the directory itself
                return ""
            file.seek(at)
            return file.read(min(length, 4096)).decode(errors="replace")
        except (struct.error, OSError, ValueError):
            return None


def _directories(file: BinaryIO) -> Iterator[dict[int, tuple[int, int]]]:
    """Yield the directories of a TIFF: number of values, and the first one or where they are, by tag.

    Raises:
        struct.error: The file ends too early.
    """
    magic = file.read(4)
    order = {b"II": "<", b"MM": ">"}.get(magic[:2], "")
    kind = struct.unpack(order + "H", magic[2:])[0] if order else 0
    if kind not in (42, 43):
        return
    number, offset, start = ("H", "I", 4) if kind == 42 else ("Q", "Q", 8)
    here, seen = _read(file, start, order + offset)[0], set[int]()
    while here and here not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(here)
        count = _read(file, here, order + number)[0]
        if count > 4096:  # no directory
            return
        tags: dict[int, tuple[int, int]] = {}
        for _ in range(count):
            tag, form, values = struct.unpack(order + "HH" + offset, _exactly(file, 4 + struct.calcsize(offset)))
            value = _exactly(file, struct.calcsize(offset))
            pointer = offset if form == 2 else {3: "H", 4: "I", 16: "Q"}.get(form, "B")
            tags.setdefault(tag, (values, struct.unpack_from(order + pointer, value)[0]))
        here = struct.unpack(order + offset, _exactly(file, struct.calcsize(offset)))[0]
        yield tags


def _read(file: BinaryIO, at: int, form: str) -> tuple[int, ...]:
    file.seek(at)
    return struct.unpack(form, _exactly(file, struct.calcsize(form)))


def _exactly(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) < size:
        raise struct.error("end of file")
    return found
