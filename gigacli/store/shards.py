"""Where the chunks of an array lie: each in a file of its own, or many in a shard, whose index says where.

A shard is zarr's codec ``sharding_indexed``: chunks one after the other, then an index of the place and length of each
in the order of the array (little-endian uint64), then its CRC-32C.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from gigacli.errors import Mismatch, NotFound
from gigacli.store.bounds import EMPTY, MOST_CHUNK_BYTES, zstd_bytes

CHECKSUM_BYTES = 4
INDEXES = 64
"""Indexes of shards that are kept in memory, of one array."""

AT_ONCE = 64
"""Chunks that are read side by side."""

READ = os.O_RDONLY | os.O_NONBLOCK
"""How files are opened: a pipe in the place of a file is empty rather than waited for."""

SEE = "see what else is damaged: giga validate STORE"


class Place(NamedTuple):
    """Where the bytes of a chunk are."""

    at: Any  # zarr's path of the array in its storage
    key: str  # of the file or object, below the array
    start: int  # first byte of it
    length: int | None  # bytes of it; None for all of them
    behind: int = 0  # bytes at the end of the file that are no chunk's

    @property
    def file(self) -> str | None:
        """The file, where it is one of this machine."""
        store = self.at.store  # pathlib takes as long as reading the file
        return f"{store.root}/{self.at.path}/{self.key}" if isinstance(store, LocalStore) else None

    @property
    def name(self) -> str:
        """What messages call it."""
        where = self.file or f"{self.at.path}/{self.key}"
        return where if self.length is None else f"{where}, bytes {self.start} to {self.start + self.length},"

    def read(self, most: int) -> bytes | None:
        """Its bytes, or the first `most` of them, of a file of this machine; None where there is none.

        At once: a turn in zarr's thread takes longer than the reading.
        """
        file = self.file
        assert file is not None
        try:
            descriptor = os.open(file, READ)
        except FileNotFoundError:
            return None
        try:
            return os.pread(descriptor, min(most, self.length or os.fstat(descriptor).st_size), self.start)
        finally:
            os.close(descriptor)

    async def fetch(self) -> bytes | None:
        """Its bytes; None where there are none."""
        asked = None if self.length is None else RangeByteRequest(self.start, self.start + self.length)
        value = await (self.at / self.key).get(prototype=default_buffer_prototype(), byte_range=asked)
        return None if value is None else bytes(value.to_bytes())


class Chunks:
    """The chunks of an array of zarr.

    Attributes:
        grid: How many chunks there are along each axis.
        per_shard: How many chunks a shard has along each axis; None where there are no shards.
    """

    def __init__(self, array: Any) -> None:
        self.array, self.at = array, array.store_path
        self.grid = tuple(-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True))
        self.per_shard = None
        if array.shards is not None:
            self.per_shard = tuple(o // c for o, c in zip(array.shards, array.chunks, strict=True))
        self.index = lru_cache(INDEXES)(self._index)

    def key(self, file: tuple[int, ...]) -> str:
        """The key of a shard, or of a chunk that lies on its own, below the array."""
        return str(self.array.metadata.encode_chunk_key(file))

    def place(self, chunk: tuple[int, ...]) -> Place | None:
        """Where a chunk is, by its place in the grid of chunks; None where its shard has not got it, or is missing."""
        if self.per_shard is None:
            return Place(self.at, self.key(chunk), 0, None)
        shard = tuple(i // n for i, n in zip(chunk, self.per_shard, strict=True))
        index = self.index(shard)
        if index is None:
            return None
        within = [i % n for i, n in zip(chunk, self.per_shard, strict=True)]
        start, length = index[np.ravel_multi_index(within, self.per_shard)].tolist()
        return None if start == EMPTY else Place(self.at, self.key(shard), start, length, self._index_bytes)

    @property
    def _index_bytes(self) -> int:
        return 16 * math.prod(self.per_shard or ()) + CHECKSUM_BYTES

    def places_of_slide(self, row: int) -> Iterator[tuple[tuple[int, ...], Place]]:
        """The chunks of a slide that may be there, by their place in the grid; in shards, those that are."""
        one = math.prod(self.grid[1:]) == 1  # then it is not looked whether it is there
        for rest in itertools.product(*([range(1)] * (len(self.grid) - 1) if one else self._stored_of(row))):
            if (place := self.place((row, *rest))) is not None:
                yield (row, *rest), place

    def stored_of_slide(self, row: int) -> set[int]:
        """Which chunks of a slide along the second axis are stored; others hold only fill values."""
        if self.per_shard is None:
            return set(self._stored_of(row)[0]) if len(self.grid) > 1 else set()
        return {chunk[1] for chunk, _ in self.places_of_slide(row)}

    def _stored_of(self, row: int) -> list[Any]:
        """Numbers of chunks of a slide along each axis after the first; of the second only what is listed."""
        rest: list[Any] = [range(n) for n in self.grid[1:]]
        if self.per_shard is None and rest:
            folder = f"{self.at.path}/{self.key((row, *(0 for _ in rest))).rsplit('/', len(rest))[0]}"
            names = listed(self.at.store, folder)
            # what has another name is a temporary file of a killed writer
            rest[0] = sorted(int(name) for name in names if name.isascii() and name.isdecimal())
        return rest

    def _index(self, shard: tuple[int, ...]) -> NDArray[np.uint64] | None:
        """(chunk, 2) place and length of the chunks of a shard in the order of the array; None without the shard.

        Raises:
            Mismatch: It is damaged.
        """
        size, key = self._index_bytes, self.key(shard)
        at = self.at / key
        value = sync(at.get(prototype=default_buffer_prototype(), byte_range=SuffixByteRequest(size)))
        if value is None:
            return None
        data = bytes(value.to_bytes())
        if wrong := what_is_wrong(data, size - CHECKSUM_BYTES, CHECKSUM_BYTES):
            raise Mismatch(f"the index of the shard {self.array.path}/{key} {wrong}", SEE)
        return np.frombuffer(data[:-CHECKSUM_BYTES], dtype="<u8").reshape(-1, 2)


def remove_chunks(array: Any, *, separator: str = "") -> None:
    """Remove the chunks of an array, all of them or those whose keys have a separator: ``c/i/j`` or ``c.i.j``."""
    at = array.store_path
    if separator != ".":
        sync((at / "c").delete_dir())
    if separator != "/":
        for name in listed(at.store, at.path):
            if name.startswith("c."):
                sync((at / name).delete())


def empty_slide(array: Any, row: int) -> None:
    """Remove the chunks of a slide of an array whose chunks lie on their own."""
    sync((array.store_path / f"c/{row}").delete_dir())  # zarr's folder of them


def listed(store: Any, prefix: str) -> list[str]:
    """Names of what lies directly under a prefix of a storage; none where there is nothing."""
    if isinstance(store, LocalStore):
        try:
            return os.listdir(f"{store.root}/{prefix}")  # noqa: PTH208 - pathlib takes three times as long
        except (FileNotFoundError, NotADirectoryError):
            return []

    async def names() -> list[str]:
        return [name async for name in store.list_dir(prefix)]

    return sync(names())


def codecs_of(array: Any) -> tuple[Any, ...]:
    """The codecs of the chunks of an array, within shards or not."""
    codecs: tuple[Any, ...] = tuple(array.metadata.codecs)
    return tuple(codecs[0].codecs) if isinstance(codecs[0], ShardingCodec) else codecs


def plain_chunks(array: Any) -> bool:
    """Whether the chunks of an array are the bytes of its values, wherever they lie.

    A checksum may follow the values: :func:`checksum_bytes`.
    """
    codecs = codecs_of(array)
    plain = isinstance(codecs[0], BytesCodec) and array.dtype.isnative
    return bool(plain and (len(codecs) == 1 or (len(codecs) == 2 and checksum_bytes(array) > 0)))


def checksum_bytes(array: Any) -> int:
    """Bytes of the checksum (CRC-32C, little-endian) at the end of each chunk; 0 where there is none."""
    return CHECKSUM_BYTES if isinstance(codecs_of(array)[-1], Crc32cCodec) else 0


def what_is_wrong(data: bytes, size: int, checked: int) -> str:
    """Say what is wrong with a chunk of `size` bytes of values and `checked` of a checksum; "" where nothing is."""
    if len(data) != size + checked:
        return f"has {len(data)} bytes, expected {size + checked}"
    if checked and google_crc32c.value(data[:size]).to_bytes(checked, "little") != data[size:]:
        return "is not what its checksum says"
    return ""


def simple_codecs(array: Any) -> bool:
    """Whether chunks are the bytes of values, compressed with zstd or not, then a checksum or not."""
    names = [type(codec) for codec in codecs_of(array)]
    ends = [[], [ZstdCodec], [Crc32cCodec], [ZstdCodec, Crc32cCodec]]
    return names[:1] == [BytesCodec] and names[1:] in ends and array.dtype.isnative and array.dtype.kind in "iuf"


def read_simple(array: Any, place: Place) -> NDArray[Any] | None:
    """The values of a chunk of an array with such codecs, on this machine; None where it is not there.

    Raises:
        Mismatch: It is damaged.
    """
    size, checked = math.prod(array.chunks) * array.dtype.itemsize, checksum_bytes(array)
    if (data := place.read(MOST_CHUNK_BYTES)) is None:
        return None
    body = data[: len(data) - checked]
    wrong = what_is_wrong(data, len(body), checked)
    if not wrong and any(isinstance(codec, ZstdCodec) for codec in codecs_of(array)):
        if (found := zstd_bytes(memoryview(body), size)) != size:
            raise Mismatch(f"{place.name} holds {found} bytes; expected {size}", SEE)
        body = Zstd().decode(body)
    if wrong or len(body) != size:
        raise Mismatch(f"{place.name} {wrong or f'has {len(body)} bytes, expected {size}'}", SEE)
    return np.frombuffer(body, dtype=array.dtype).reshape(array.chunks)


def read_place(place: Place, size: int, checked: int) -> bytes:
    """The bytes of a chunk of `size` bytes of values and `checked` of a checksum.

    Raises:
        NotFound: It is missing.
        Mismatch: It is damaged.
    """
    most = size + checked + 1
    data = sync(place.fetch()) if place.file is None else place.read(most)
    if data is None:
        raise NotFound(f"{place.name} is missing", "see what else is: giga validate STORE")
    if wrong := what_is_wrong(data, size, checked):
        raise Mismatch(f"{place.name} {wrong}", SEE)
    return data


def read_chunks(places: Sequence[Place], checked: int, *, at_once: int = AT_ONCE) -> Iterator[bytes | None]:
    """The bytes of chunks as they are stored, `at_once` of them in memory; None of one that is not there.

    Raises:
        Mismatch: One is not what the `checked` bytes of its checksum say.
    """

    async def fetched(some: Sequence[Place]) -> list[bytes | None]:
        return await asyncio.gather(*(place.fetch() for place in some))

    for start in range(0, len(places), at_once):
        some = places[start : start + at_once]
        local = isinstance(some[0].at.store, LocalStore)
        found = [place.read(MOST_CHUNK_BYTES) for place in some] if local else sync(fetched(some))
        for place, data in zip(some, found, strict=True):
            if data is not None and checked:
                wrong = google_crc32c.value(data[:-checked]).to_bytes(checked, "little") != data[-checked:]
                if len(data) <= checked or wrong:
                    raise Mismatch(f"{place.name} is not what its checksum says", SEE)
            yield data
