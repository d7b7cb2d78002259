"""A local copy of chunks that lie elsewhere, so that they can be mapped into memory."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from zarr.core.sync import sync

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.progress import Progress
from gigacli.store.shards import Place, what_is_wrong

AT_ONCE = 16  # chunks fetched side by side, and held in memory: about 100 MB of a bank as the paper has it
SPARE_BYTES = 2**28  # left free on the disk that takes a copy


def cache_folder(cache: Path | None) -> Path:
    """Return the folder of copies: the one asked for, else ``$GIGA_CACHE``, else that of temporary files.

    Raises:
        NotFound: It is no folder.
    """
    folder = Path(cache or os.environ.get("GIGA_CACHE") or tempfile.gettempdir())
    if not folder.is_dir():
        raise NotFound(f"the cache {folder} is not a folder", f"make it: mkdir -p {folder}")
    return folder


def stage(places: Sequence[Place], *, size: int, checked: int, folder: Path, progress: Progress) -> NDArray[np.uint8]:
    """Copy chunks into a file on a local disk and map it: one read-only array (chunk, byte).

    The file has no name: its space is free again with the last array that looks into it, however the process ends.

    Args:
        places: Of the chunks.
        size: Bytes of the values of each chunk.
        checked: Bytes of its checksum, which is looked at and not copied.
        folder: On the disk that takes the copy.
        progress: Receives progress.

    Raises:
        InvalidInput: The disk has no room.
        Mismatch: A chunk is missing, of another size, or not what its checksum says.
    """
    total = len(places) * size
    free = shutil.disk_usage(folder).free
    if total + SPARE_BYTES > free:
        raise _no_room(folder, total, f"{free / 2**30:.1f} GiB are free")
    if not total:
        return np.empty((len(places), size), dtype=np.uint8)
    progress.start("copying the bank", len(places))
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            for place, data in zip(some, sync(_fetched(some)), strict=True):
                wrong = "is missing" if data is None else what_is_wrong(data, size, checked)
                if data is None or wrong:
                    raise Mismatch(f"{place.name} {wrong}", "see what else is damaged: giga validate STORE")
                try:
                    if file.write(memoryview(data)[:size]) < size:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError as error:
                    raise _no_room(folder, total, str(error)) from error
            progress.advance(len(some))
        mapped = mmap.mmap(file.fileno(), total, prot=mmap.PROT_READ)
    mapped.madvise(mmap.MADV_RANDOM)  # read what is asked for, not what lies around it
    return np.frombuffer(mapped, dtype=np.uint8).reshape(len(places), size)


async def _fetched(places: Sequence[Place]) -> list[bytes | None]:
    return await asyncio.gather(*(place.fetch() for place in places))


def _no_room(folder: Path, total: int, why: str) -> InvalidInput:
    return InvalidInput(
        f"{folder} has no room for a copy of the bank, {total / 2**30:.1f} GiB: {why}",
        "name a folder on a larger local disk: `cache`, or GIGA_CACHE in the environment",
    )
