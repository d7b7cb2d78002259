"""Reading a bank fast: its chunks are uncompressed and are mapped into memory, remote ones from a local copy."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.errors import Mismatch, NotFound
from gigacli.progress import SILENT
from gigacli.store.chunks import checksum_bytes, chunk_folder, map_files, plain_chunks, read_column, what_is_wrong
from gigacli.store.local_copy import cache_folder, stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from gigacli.progress import Progress
    from gigacli.store.store import Store

ROWS_AT_ONCE = 64
"""Slides whose coordinates are read together: zarr reads the chunks of one request side by side."""


class BankReader:
    """The slides of a bank that are done and have tiles, mapped into memory.

    Attributes:
        rows: (s,) their rows in the slide table.
        augmentations: Augmentations per slide.
        draws: Tiles per augmentation.
        counts: (s,) the same per slide, for those who ask banks of any kind.
        width: Features of a tile.
        vectors: (s, a / ca, d / cd, ca, cd, width) float16: chunks of ca augmentations by cd draws.
            One a slide where the bank was made in one go. Read-only. Those of a remote store are copied to a local disk
            when they are first asked for, or by :meth:`load`.
        tile: (s, augmentations, draws) int32, which tile of its slide a row of `vectors` is.
    """

    def __init__(self, store: Store, bank: str, *, leave_out: NDArray[np.bool_] | None = None) -> None:
        """Open a bank.

        Args:
            store: The cohort store.
            bank: Name of the bank.
            leave_out: (slide) bool, slides of the table that are not wanted.

        Raises:
            Mismatch: A chunk is missing or damaged, or chunks are not stored as they must be (rule BANKS-2).
        """
        self.store, path = store, f"banks/{bank}"
        self._array = store.array(f"{path}/vectors")
        if not plain_chunks(self._array):
            raise Mismatch(f"{store.url}/{path}/vectors is compressed", f"run: giga validate {store.url}")
        _, self.augmentations, self.draws, self.width = self._array.shape
        done = read_column(store.array(f"{path}/done"))
        wanted = done > 0 if leave_out is None else (done > 0) & ~leave_out[: len(done)]
        self.rows: NDArray[np.int64] = np.flatnonzero(wanted)
        self.counts = np.full(len(self.rows), self.draws)
        if chunk_folder(self._array):
            self.load()
        tile = store.array(f"{path}/tile")[:]
        self.tile: NDArray[np.int32] = tile if len(self.rows) == len(tile) else tile[self.rows]

    @cached_property
    def vectors(self) -> NDArray[np.float16]:
        """(s, a / ca, d / cd, ca, cd, width), see the class."""
        return self._mapped(None, SILENT)

    def load(self, *, cache: Path | None = None, progress: Progress = SILENT) -> None:
        """Map the vectors, those of a remote store after copying them; once.

        Args:
            cache: Folder on a local disk that takes the copy; default: ``$GIGA_CACHE``, else that of temporary files.
            progress: Who listens.

        Raises:
            NotFound: The cache is no folder.
            InvalidInput: It has no room.
            Mismatch: A chunk is missing or damaged.
        """
        if "vectors" not in self.__dict__:
            self.vectors = self._mapped(cache, progress)

    def _mapped(self, cache: Path | None, progress: Progress) -> NDArray[np.float16]:
        array, folder = self._array, chunk_folder(self._array)
        _, ca, cd, c = array.chunks
        size = ca * cd * c * array.dtype.itemsize  # bytes of the values of a chunk
        across = (-(-self.augmentations // ca), -(-self.draws // cd))
        inner = ["/".join(map(str, (*ij, 0))) for ij in itertools.product(*map(range, across))]
        names = [f"{row}/{name}" for row in self.rows for name in inner]
        if folder is not None:
            mapped = map_files([folder / name for name in names], size=size + checksum_bytes(array))[:, :size]
        else:
            keys = [f"c/{name}" for name in names]
            mapped = stage(array, keys, size=size, folder=cache_folder(cache), progress=progress)
        return mapped.view(array.dtype).reshape(len(self.rows), *across, ca, cd, c)

    def at(self, slide: NDArray[np.int64], augmentation: NDArray[np.int64], draw: NDArray[np.int64]) -> tuple[Any, ...]:
        """Where in `vectors` rows of slides (by their number in the order of :attr:`rows`) are, as an index."""
        _, _, _, ca, cd, _ = self.vectors.shape
        return slide, augmentation // ca, draw // cd, augmentation % ca, draw % cd

    def tiles(
        self, slide: NDArray[np.int64], augmentation: NDArray[np.int64], draw: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Which tile of its slide such a row is of."""
        return self.tile[slide, augmentation, draw]

    def slide(self, i: int) -> NDArray[np.float16]:
        """All features of one slide (augmentation, draw, width), by its number in the order of :attr:`rows`."""
        _, na, nd, ca, cd, c = self.vectors.shape
        whole = self.vectors[i].swapaxes(1, 2).reshape(na * ca, nd * cd, c)  # (na, ca, nd, cd, c) in between
        return whole[: self.augmentations, : self.draws]

    def slides(self) -> Iterator[NDArray[np.float16]]:
        """Features of each slide (augmentation, draw, width)."""
        return (self.slide(i) for i in range(len(self.rows)))

    def grids(self) -> Iterator[tuple[NDArray[np.int32], float]]:
        """Per slide: coordinates of its tiles (n, 2), level-0 px, and the edge of a tile in level-0 px."""
        return grids_of(self.store, self.rows)


def grids_of(store: Store, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int32], float]]:
    """Per slide of the table: coordinates of its tiles (n, 2), level-0 px, and the edge of a tile in level-0 px."""
    config = store.require("tiles").config
    counts, mpp = read_column(store.array("tiles/count")), store.array("slides/mpp")[:]
    edges_px = config["tile_px"] * config["mpp"] / mpp  # (slide)
    coords = store.array("tiles/coords")
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE]
        longest = max(0, int(counts[block].max()))
        for row, corners in zip(block, coords.oindex[block, slice(0, longest)], strict=True):
            yield corners[: max(0, int(counts[row]))], float(edges_px[row])


def tile_grid_of(store: Store, row: int) -> tuple[NDArray[np.int32], float]:
    """The same of one slide, touching no other's chunks."""
    config = store.require("tiles").config
    count = int(store.array("tiles/count")[row])
    coords = store.array("tiles/coords")[row, : max(0, count)]
    return coords, config["tile_px"] * config["mpp"] / float(store.array("slides/mpp")[row])


class FeatureReader:
    """Un-augmented features: the vectors of all tiles of a slide."""

    def __init__(self, store: Store, features: str) -> None:
        self.array = store.array(f"features/{features}/vectors")
        self.width: int = self.array.shape[2]
        self._folder, self._checked = chunk_folder(self.array), checksum_bytes(self.array)

    def __call__(self, row: int, n: int) -> NDArray[np.float16]:
        """The first `n` vectors (n, width) of the slide in a row of the table.

        Raises:
            NotFound: A chunk that should hold them is missing.
            Mismatch: It is damaged.
        """
        _, tiles, c = self.array.chunks
        if self._folder is None or c != self.width:
            return np.asarray(self.array[row, :n])
        vectors = np.empty((-(-n // tiles) * tiles, c), dtype=self.array.dtype)
        for i in range(0, len(vectors), tiles):
            file = self._folder / str(row) / str(i // tiles) / "0"
            try:
                data = file.read_bytes()
            except FileNotFoundError as error:
                raise NotFound(f"{file} is missing", "see what else is: giga validate STORE") from error
            part = vectors[i : i + tiles]
            if wrong := what_is_wrong(data, part.nbytes, self._checked):
                raise Mismatch(f"{file} {wrong}", "see what else is damaged: giga validate STORE")
            part[:] = np.frombuffer(data, dtype=part.dtype, count=part.size).reshape(part.shape)
        return vectors[:n]
