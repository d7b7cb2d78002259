"""Imported features as what views are drawn from: a bank with one augmentation that holds all tiles of a slide.

Nothing is copied: the chunks of ``features/<name>`` are uncompressed files, as those of a bank are, and are mapped.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.errors import InvalidInput, NotFound
from gigacli.progress import SILENT
from gigacli.store.bank import BankReader, FeatureReader, grids_of
from gigacli.store.chunks import FileRows, checksum_bytes, chunk_folder, map_files, plain_chunks, read_column
from gigacli.store.local_copy import cache_folder, stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gigacli.progress import Progress
    from gigacli.store.store import Store

MAPS_FILE = Path("/proc/sys/vm/max_map_count")
MAPS_SHARE = 0.75
"""Of the mappings that the system allows a process; libraries need some, too."""

MEMORY_SHARE = 0.8
"""Of the machine's memory, that features which cannot be mapped may take."""

ROWS_OF_A_SLIDE = 400
"""Tiles of a slide that say enough about how its features spread: as many as are looked at in a bank."""

INPUT_OF = {"banks": "bank", "features": "features"}
"""Group a slide encoder is trained on -> its name among the inputs of the recipe."""


class FeatureBank:
    """The slides of features that are done and have tiles, mapped into memory or read row by row.

    Attributes:
        rows: (s,) their rows in the slide table.
        augmentations: 1.
        counts: (s,) tiles of each.
        width: Features of a tile.
        vectors: (chunks, tiles of a chunk, width) float16, or what gives rows of it; slide after slide. Those of a
            remote store are copied to a local disk when they are first asked for, or by :meth:`load`.
    """

    augmentations = 1

    def __init__(self, store: Store, name: str, *, leave_out: NDArray[np.bool_] | None = None) -> None:
        """Open features.

        Args:
            store: The cohort store.
            name: Name of the features.
            leave_out: (slide) bool, slides of the table that are not wanted.

        Raises:
            InvalidInput: The features cannot be mapped and are too large for this machine's memory.
            Mismatch: A chunk is missing or damaged.
        """
        self.store, self._read = store, FeatureReader(store, name)
        array, done = self._read.array, read_column(store.array(f"features/{name}/done"))
        wanted = done > 0 if leave_out is None else (done > 0) & ~leave_out[: len(done)]
        self.rows: NDArray[np.int64] = np.flatnonzero(wanted)
        self.counts: NDArray[np.int64] = done[self.rows].astype(np.int64)
        self.width: int = self._read.width
        self._mappable = plain_chunks(array) and array.chunks[2] == self.width
        self._per_chunk = int(array.chunks[1]) if self._mappable else 1
        self._chunks = -(-self.counts // self._per_chunk)  # (s,)
        self._first = np.concatenate([[0], np.cumsum(self._chunks)[:-1]])  # (s,), each slide's first chunk
        if chunk_folder(array):
            self.load()

    @cached_property
    def vectors(self) -> Any:
        """(chunks, tiles of a chunk, width), see the class."""
        return self._opened(None, SILENT)

    def load(self, *, cache: Path | None = None, progress: Progress = SILENT) -> None:
        """Map the vectors, those of a remote store after copying them; once (as :meth:`BankReader.load`)."""
        if "vectors" not in self.__dict__:
            self.vectors = self._opened(cache, progress)

    def _opened(self, cache: Path | None, progress: Progress) -> Any:
        array, folder = self._read.array, chunk_folder(self._read.array)
        if not self._mappable:
            return self._in_memory()
        slides = zip(self.rows.tolist(), self._chunks.tolist(), strict=True)
        names = [f"{row}/{i}/0" for row, n in slides for i in range(n)]
        shape = (self._per_chunk, self.width)
        size = self._per_chunk * self.width * array.dtype.itemsize  # bytes of the values of a chunk
        checked = checksum_bytes(array)
        if folder is None:
            keys = [f"c/{name}" for name in names]
            mapped = stage(array, keys, size=size, folder=cache_folder(cache), progress=progress)  # (chunks, bytes)
        elif len(names) > mappings():
            return FileRows([folder / name for name in names], shape, array.dtype, checksum_bytes=checked)
        else:
            mapped = map_files([folder / name for name in names], size=size + checked)[:, :size]
        return mapped.view(array.dtype).reshape(len(names), *shape)

    def _in_memory(self) -> NDArray[np.float16]:
        """Chunks of another shape, or compressed: another program wrote them."""
        shape = (int(self.counts.sum()), 1, self.width)
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if (size := int(np.prod(shape)) * 2) > MEMORY_SHARE * memory:
            raise InvalidInput(
                f"{self.store.url}: the features have {size / 2**30:.1f} GiB in chunks that cannot be mapped; this "
                f"machine has {memory / 2**30:.1f} GiB of memory",
                "import them again with this giga",
            )
        loaded = np.empty(shape, dtype=np.float16)
        for row, start, n in zip(self.rows, self._first, self.counts, strict=True):
            loaded[start : start + n, 0] = self._read(int(row), int(n))
        return loaded

    def at(self, slide: NDArray[np.int64], augmentation: NDArray[np.int64], draw: NDArray[np.int64]) -> tuple[Any, ...]:
        """Where in `vectors` tiles of slides (by their number in the order of :attr:`rows`) are, as an index."""
        return self._first[slide] + draw // self._per_chunk, draw % self._per_chunk

    def tiles(
        self, slide: NDArray[np.int64], augmentation: NDArray[np.int64], draw: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Which tile of its slide such a row is of: a draw is a tile."""
        return draw.astype(np.int32)

    def slides(self) -> Iterator[NDArray[np.float16]]:
        """Features of tiles spread over each slide, (tiles, 1, width): as if each were an augmentation of one draw."""
        for i, n in enumerate(self.counts.tolist()):
            draw = np.unique(np.linspace(0, n - 1, min(n, ROWS_OF_A_SLIDE)).astype(np.int64))
            yield np.asarray(self.vectors[self.at(np.full_like(draw, i), draw, draw)])[:, None]

    def grids(self) -> Iterator[tuple[NDArray[np.int32], float]]:
        """Per slide: coordinates of its tiles (n, 2), level-0 px, and the edge of a tile in level-0 px."""
        return grids_of(self.store, self.rows)


def mappings() -> int:
    """How many files this process may map; systems other than Linux set no such limit."""
    limit = int(MAPS_FILE.read_text()) if MAPS_FILE.exists() else 10**9
    return int(limit * MAPS_SHARE)


def pick_bank(store: Store, name: str | None) -> str:
    """Path of the bank to train on, or of features that were imported: the one named, or the only one there is.

    Features made by ``giga bank`` never stand in for their bank.

    Raises:
        NotFound: There is none, or none of that name.
        InvalidInput: There are several and none was named.
    """
    banks = store.names("banks")
    imported = [
        n for n in store.names("features") if n not in banks and store.require(f"features/{n}").stage == "import"
    ]
    names = sorted([*banks, *imported])
    if not imported or (name is None and not names):
        return f"banks/{store.pick('banks', name)}"
    if name is None and len(names) > 1:
        raise InvalidInput(
            f"{store.url} holds several to train on: {', '.join(names)}", "name the one to use: --bank NAME"
        )
    chosen = name or names[0]
    if chosen not in names:
        raise NotFound(f"{store.url} holds no {chosen!r} to train on; there is {', '.join(names)}")
    return f"banks/{chosen}" if chosen in banks else f"features/{chosen}"


def open_bank(store: Store, path: str, *, leave_out: NDArray[np.bool_] | None = None) -> BankReader | FeatureBank:
    """What is at a path from :func:`pick_bank`."""
    kind, _, name = path.partition("/")
    return (BankReader if kind == "banks" else FeatureBank)(store, name, leave_out=leave_out)
