"""Tiles of many slides for many epochs: decoded once, then read one by one from small files (spec/decisions/0014).

A tile is kept as a JPEG of quality 95 without chroma subsampling, and passed through this form whether it is kept or
not: what is trained never depends on the cache.
"""

from __future__ import annotations

import io
import os
import time
import zlib
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gigacli.errors import InvalidInput, Mismatch
from gigacli.files import PARTIAL, partial_path, to_disk
from gigacli.wsi.slide_files import stamp

QUALITY = 95

MAGIC = b"GIGATILE"  # the last bytes of a pack, before them the number of tiles: a file cut short does not end so
SUFFIX = ".tiles"

ABANDONED_S = 3600.0
"""A partial file that nobody has written to for so long was left by a process that was killed, and is removed."""


def encode(tile: NDArray[np.uint8]) -> bytes:
    """Compress pixels (tile_px, tile_px, 3) to a JPEG."""
    file = io.BytesIO()
    Image.fromarray(tile).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG to pixels (tile_px, tile_px, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)))


@dataclass(frozen=True, eq=False)
class TilePack:
    """The cached tiles of one slide: a file of JPEGs, one after the other, and where they begin."""

    path: Path
    offsets: NDArray[np.int64]  # (n + 1,) int64, the byte at which tile i begins; the last is where the last tile ends
    checksums: NDArray[np.uint32]  # (n,) uint32, CRC-32 of every JPEG

    def read(self, tile: int) -> bytes:
        """Return the JPEG of a tile.

        Raises:
            Mismatch: The file is not what was written.
        """
        start, stop = int(self.offsets[tile]), int(self.offsets[tile + 1])
        try:
            with self.path.open("rb", buffering=0) as file:  # not kept open: there may be thousands
                data = os.pread(file.fileno(), stop - start, start)
        except OSError as error:
            raise Mismatch(f"the tile cache lost {self.path}: {error}", "run the same command again") from error
        if zlib.crc32(data) != self.checksums[tile]:
            raise Mismatch(f"{self.path} of the tile cache is damaged", "delete it and run the same command again")
        return data


class TileCache:
    """A folder of packs whose files never take more than `limit_bytes`. Any number of processes may use it at a time.

    A pack appears as a whole or not at all (without `sync`, not so after a power cut), under a name that says what is
    in it; two processes that make the same one make the same bytes. Nothing but what a killed process left unfinished
    is ever deleted.

    Raises:
        InvalidInput: The folder cannot be made.
    """

    def __init__(self, folder: Path, *, limit_bytes: float, sync: bool = True) -> None:
        self.folder, self.limit_bytes, self.sync = folder, limit_bytes, sync
        self.full = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"the tile cache {folder} cannot be made: {error}", "name another with `cache`"
            ) from error
        for left in folder.glob(f"*{PARTIAL}"):
            if time.time() - stamp(left)[1] / 1e9 > ABANDONED_S:
                left.unlink(missing_ok=True)

    @property
    def bytes(self) -> int:
        """Bytes of all files in the folder."""
        return sum(stamp(path)[0] for path in self.folder.iterdir())

    def path(self, key: str) -> Path:
        """Return where the pack of this key lies or would lie."""
        return self.folder / f"{key}{SUFFIX}"

    def open(self, key: str, *, tiles: int) -> TilePack | None:
        """Open the pack of this key and so many tiles; None if there is no whole one."""
        footer = 4 + 8 + len(MAGIC)
        index = 8 * (tiles + 1) + 4 * tiles
        try:
            with self.path(key).open("rb") as file:
                file.seek(-(index + footer), os.SEEK_END)
                data = file.read()
        except OSError:  # not there, or too short
            return None
        checksum, count = int.from_bytes(data[index : index + 4], "little"), int.from_bytes(data[-16:-8], "little")
        if data[-8:] != MAGIC or count != tiles or zlib.crc32(data[:index]) != checksum:
            return None
        offsets = np.frombuffer(data, "<i8", tiles + 1)
        return TilePack(self.path(key), offsets, np.frombuffer(data, "<u4", tiles, offset=offsets.nbytes))

    def write(self, key: str) -> TilePackWriter:
        """Begin a pack."""
        partial = partial_path(self.path(key))
        return TilePackWriter(self, self.path(key), partial, partial.open("wb"))


@dataclass(eq=False)
class TilePackWriter:
    """Writes a pack, which is not there before :meth:`finish`."""

    cache: TileCache
    path: Path
    partial: Path
    file: BinaryIO
    offsets: list[int] = field(default_factory=lambda: [0])
    checksums: list[int] = field(default_factory=list)

    def add(self, tiles: NDArray[np.uint8], pool: Executor) -> None:
        """Append tiles (n, tile_px, tile_px, 3)."""
        for data in pool.map(encode, tiles):
            self.file.write(data)
            self.offsets.append(self.offsets[-1] + len(data))
            self.checksums.append(zlib.crc32(data))

    def finish(self) -> TilePack | None:
        """Put the pack in its place; return None, and call the cache full, if that would pass its limit."""
        offsets, checksums = np.array(self.offsets, "<i8"), np.array(self.checksums, "<u4")
        index = offsets.tobytes() + checksums.tobytes()
        self.file.write(index + zlib.crc32(index).to_bytes(4, "little"))
        self.file.write(len(checksums).to_bytes(8, "little") + MAGIC)
        if self.cache.sync:
            self.file.flush()
            to_disk(self.file.fileno())
        self.file.close()
        if self.cache.bytes > self.cache.limit_bytes:
            self.cache.full = True
            self.discard()
            return None
        self.partial.replace(self.path)
        return TilePack(self.path, offsets, checksums)

    def discard(self) -> None:
        """Remove the unfinished pack."""
        self.file.close()
        self.partial.unlink(missing_ok=True)
