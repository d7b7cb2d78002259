"""Reading a bank fast: its chunks are uncompressed and are mapped into memory where they are files."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.errors import InvalidInput, NotFound
from gigacli.store.fast import chunk_folder, map_files, read_column

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gigacli.store.store import Store

ROWS_AT_ONCE = 64
"""Slides whose coordinates are read together: zarr reads the chunks of one request side by side."""

MEMORY_SHARE = 0.8
"""Of the machine's memory, that a bank which cannot be mapped may take."""


class BankReader:
    """The slides of a bank that are done and have tiles, all in memory or mapped into it.

    Attributes:
        rows: (s,) their rows in the slide table.
        augmentations: Augmentations per slide.
        draws: Tiles per augmentation.
        counts: (s,) the same per slide, for those who ask banks of any kind.
        width: Features of a tile.
        vectors: (s, a / ca, d / cd, ca, cd, width) float16: chunks of ca augmentations by cd draws.
            One a slide where the bank was made in one go. Read-only, mapped; a bank that is not made of files is read
            into memory as a whole.
        tile: (s, augmentations, draws) int32, which tile of its slide a row of `vectors` is.
    """

    def __init__(self, store: Store, bank: str, *, leave_out: NDArray[np.bool_] | None = None) -> None:
        """Open a bank.

        Args:
            store: The cohort store.
            bank: Name of the bank.
            leave_out: (slide) bool, slides of the table that are not wanted.

        Raises:
            InvalidInput: The bank lies where nothing can be mapped, and is too large for this machine's memory.
            Mismatch: A chunk is missing or damaged.
        """
        self.store, path = store, f"banks/{bank}"
        vectors = store.array(f"{path}/vectors")
        _, self.augmentations, self.draws, self.width = vectors.shape
        done = read_column(store.array(f"{path}/done"))
        wanted = done > 0 if leave_out is None else (done > 0) & ~leave_out[: len(done)]
        self.rows: NDArray[np.int64] = np.flatnonzero(wanted)
        self.counts = np.full(len(self.rows), self.draws)
        self.vectors: NDArray[np.float16] = self._map(vectors) if chunk_folder(vectors) else self._load(vectors)
        tile = store.array(f"{path}/tile")[:]
        self.tile: NDArray[np.int32] = tile if len(self.rows) == len(tile) else tile[self.rows]

    def _map(self, vectors: Any) -> NDArray[np.float16]:
        folder = chunk_folder(vectors)
        assert folder is not None
        _, ca, cd, c = vectors.chunks
        across = (-(-self.augmentations // ca), -(-self.draws // cd))
        inner = ["/".join(map(str, (*ij, 0))) for ij in itertools.product(*map(range, across))]
        files = [folder / str(row) / name for row in self.rows for name in inner]
        mapped = map_files(files, size=ca * cd * c * vectors.dtype.itemsize)  # (files, bytes of a chunk)
        return mapped.view(vectors.dtype).reshape(len(self.rows), *across, ca, cd, c)

    def _load(self, vectors: Any) -> NDArray[np.float16]:
        shape = (len(self.rows), 1, 1, *vectors.shape[1:])
        size = int(np.prod(shape)) * vectors.dtype.itemsize
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if size > MEMORY_SHARE * memory:
            raise InvalidInput(
                f"{self.store.url}: the bank has {size / 2**30:.1f} GiB and is not made of local files that could be "
                f"mapped; this machine has {memory / 2**30:.1f} GiB of memory",
                "copy the store to a local disk first",
            )
        loaded = np.empty(shape, dtype=vectors.dtype)
        for i, row in enumerate(self.rows):
            loaded[i, 0, 0] = vectors[int(row)]
        return loaded

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
        self._folder = chunk_folder(self.array)

    def __call__(self, row: int, n: int) -> NDArray[np.float16]:
        """The first `n` vectors (n, width) of the slide in a row of the table.

        Raises:
            NotFound: A chunk that should hold them is missing.
        """
        _, tiles, c = self.array.chunks
        if self._folder is None or c != self.width:
            return np.asarray(self.array[row, :n])
        vectors = np.empty((-(-n // tiles) * tiles, c), dtype=self.array.dtype)
        for i in range(0, len(vectors), tiles):
            file = self._folder / str(row) / str(i // tiles) / "0"
            try:
                vectors[i : i + tiles] = np.fromfile(file, dtype=self.array.dtype).reshape(tiles, c)
            except (FileNotFoundError, ValueError) as error:
                raise NotFound(f"{file} cannot be read: {error}", "see what else is: giga validate STORE") from error
        return vectors[:n]
