"""Slides from one store into another: their chunks as they are, byte for byte, where both stores cut them alike."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from gigacli.store.layout import spec_of
from gigacli.store.shards import Chunks, Place, checksum_bytes, codecs_of, read_chunks
from gigacli.store.unpacked import chunks_of

SLIDES_AT_ONCE = 64
"""Slides that are copied before any of them counts as done: the disk is waited for once for all of them."""

CHUNKS_AT_ONCE, BYTES_AT_ONCE = 16, 2**27
"""Most chunks that are read and written together, and about the most bytes of them."""


def copy_chunks(source: Any, target: Any, rows: NDArray[np.int64], to: NDArray[np.int64]) -> None:
    """Copy slides of an array with a chunk per slide, whose target holds nothing of them.

    Where chunks have the same shape and codecs, they are not decoded, but held against their checksums.

    Args:
        source: The array, packed or not.
        target: The array of the other store, not packed.
        rows: (n,) of the slides in the source.
        to: (n,) of the same slides in the target.

    Raises:
        Mismatch: A chunk is damaged.
    """
    spec = spec_of(target.path)
    if spec is not None and spec.column:
        target.oindex[to] = source.oindex[rows]
    elif source.chunks == target.chunks and codecs_of(source) == codecs_of(target) and source.dtype == target.dtype:
        _copy_bytes(source, target, rows, to)
    else:
        for row, other in zip(rows.tolist(), to.tolist(), strict=True):
            _copy_values(source, target, row, other)


def _copy_bytes(source: Any, target: Any, rows: NDArray[np.int64], to: NDArray[np.int64]) -> None:
    found, grid = chunks_of(source), Chunks(target).grid
    places: list[Place] = []
    keys: list[str] = []
    for row, other in zip(rows.tolist(), to.tolist(), strict=True):
        for (_, *rest), place in found.places_of_slide(row):
            if all(i < n for i, n in zip(rest, grid[1:], strict=True)):  # beyond, there is room and nothing in it
                places.append(place)
                keys.append(str(target.metadata.encode_chunk_key((other, *rest))))
    at, buffer = target.store_path, default_buffer_prototype().buffer

    async def put(some: list[tuple[str, bytes]]) -> None:
        await asyncio.gather(*((at / key).set(buffer.from_bytes(data)) for key, data in some))

    at_once = max(1, min(CHUNKS_AT_ONCE, BYTES_AT_ONCE // (math.prod(source.chunks) * source.dtype.itemsize)))
    waiting: list[tuple[str, bytes]] = []
    for key, data in zip(keys, read_chunks(places, checksum_bytes(source), at_once=at_once), strict=True):
        waiting += [(key, data)] if data is not None else []
        if len(waiting) == at_once:
            sync(put(waiting))
            waiting = []
    sync(put(waiting))


def _copy_values(source: Any, target: Any, row: int, other: int) -> None:
    """Copy a slide of which the two arrays have chunks of different shapes, a chunk of the target at a time."""
    length, step = min(source.shape[1], target.shape[1]), target.chunks[1]
    for start in range(0, length, step):
        stop = min(start + step, target.shape[1])
        values = np.full((stop - start, *target.shape[2:]), target.fill_value, dtype=target.dtype)
        part = source[row, start : min(stop, length)]
        values[: len(part)] = part
        target[other, start:stop] = values  # whole chunks: none is read first
