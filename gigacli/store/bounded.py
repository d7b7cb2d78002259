"""Storage of zarr whose documents and chunks are looked at before memory is taken; for a folder, see ``folder.py``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore

from gigacli.errors import Mismatch
from gigacli.store.bounds import (
    HINT,
    MOST_DOCUMENT_BYTES,
    MOST_UNPACKED_BYTES,
    ChunkBounds,
    check_chunk,
    check_shard,
    chunk_bounds,
)
from gigacli.store.layout import spec_of

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

DOCUMENT = re.compile(r"(?:(.*)/)?zarr\.json")
CHUNK = re.compile(r"(.*)/c(?:[/.]\d+)*")


class Bounded:
    """Looks at what a storage of zarr gives and takes; a base beside the class that does the rest."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # array -> what its chunks may hold, or why none is read where the array is of no format that giga knows
        self._chunks: dict[str, ChunkBounds | Mismatch | None] = {}

    @property
    def _storage(self) -> Any:
        """This storage as it is without bounds."""
        return super()

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes under a key, None where there are none.

        Raises:
            Mismatch: A document or chunk is beyond its bounds.
        """
        prototype = prototype or default_buffer_prototype()
        bounds, most = None, None
        if byte_range is None and DOCUMENT.fullmatch(key):
            most = MOST_DOCUMENT_BYTES
        elif byte_range is None and (chunk := CHUNK.fullmatch(key)):
            bounds = await self._bounds_of(chunk[1])
            most = bounds.most_bytes if bounds else None
        elif isinstance(byte_range, RangeByteRequest) and (chunk := CHUNK.fullmatch(key)):  # a chunk of a shard
            bounds = await self._bounds_of(chunk[1])
            bounds = bounds if bounds and bounds.shard else None
            if bounds is not None and byte_range.end - byte_range.start > bounds.stored_bytes:
                raise Mismatch(f"{key} says of a chunk that it has more than {bounds.stored_bytes} bytes", HINT)
        value: Buffer | None = await self._limited(key, prototype, byte_range, most)
        if byte_range is None and (document := DOCUMENT.fullmatch(key)):
            self._note(document[1] or "", value)
        elif bounds is not None:
            self._look(key, value, bounds, whole=byte_range is None)
        return value

    async def set(self, key: str, value: Buffer, *others: Any, **named: Any) -> None:
        """Keep bytes under a key.

        Raises:
            Mismatch: A document states more than readers accept.
        """
        if document := DOCUMENT.fullmatch(key):
            self._note(document[1] or "", value)
        await self._storage.set(key, value, *others, **named)

    async def _limited(self, key: str, prototype: Any, byte_range: Any, most: int | None) -> Any:
        raise NotImplementedError

    async def _bounds_of(self, path: str) -> ChunkBounds | None:
        if path not in self._chunks:
            await self.get(f"{path}/zarr.json")
        bounds = self._chunks.get(path)
        if isinstance(bounds, Mismatch):
            raise bounds
        return bounds

    def _note(self, path: str, value: Buffer | None) -> None:
        try:
            self._chunks[path] = None if value is None else chunk_bounds(path, value.to_bytes())
        except Mismatch as error:
            if spec_of(path) is not None or path == "slides":
                raise
            self._chunks[path] = error

    def _look(self, key: str, value: Buffer | None, bounds: ChunkBounds, *, whole: bool) -> None:
        if value is not None:
            check = check_shard if bounds.shard and whole else check_chunk
            check(key, value.as_numpy_array().data.cast("B"), bounds)
        elif not bounds.shard and self._storage.read_only and bounds.values_bytes > MOST_UNPACKED_BYTES:
            raise Mismatch(f"{key} is missing", HINT)  # zarr would make one of fill values, at its full size


class BoundedRemote(Bounded, FsspecStore):
    """Objects under a URL: one byte more than may be there is asked for, in the same request."""

    async def _limited(self, key: str, prototype: Any, byte_range: Any, most: int | None) -> Any:
        asked = RangeByteRequest(0, most + 1) if most is not None else byte_range
        value = await self._storage.get(key, prototype, asked)
        if most is not None and value is not None and len(value) > most:
            raise Mismatch(f"{key} has more than the {most} bytes expected", HINT)
        return value
