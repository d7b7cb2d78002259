"""The group ``tiles``: where the tissue of every slide lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gigacli.store.identity import ALL, PARTS, UNKNOWN, identity_of
from gigacli.store.layout import NOT_DONE
from gigacli.store.recipe import Recipe
from gigacli.store.slide_group import Done, SlideGroup
from gigacli.store.unpacked import read_column

ROWS_AT_ONCE = 64  # slides whose coordinates are read together: zarr reads the chunks of one request side by side


TILES_AT_ONCE = 2**22
"""Room for tiles of all of them, 32 MiB of coordinates."""


class TileGrid(NamedTuple):
    """The tiles of a slide."""

    coords: NDArray[np.int32]  # (n, 2) int32, (x, y) of the top-left corners, level-0 px
    edge_px: float  # edge of a tile, level-0 px, a fraction in general


class Tiles(SlideGroup):
    """Tiles of every slide. "Done" says how many a slide has, 0 for no tissue."""

    kind, input_name, _mark = "tiles", "tiles", "count"
    _reading_once = False
    _once: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None

    def begin(self, recipe: Recipe, capacity: int, *, redo: bool) -> None:
        """Make room for `capacity` tiles a slide, or for as many as there are; with `redo` what is there goes first.

        Raises:
            Mismatch: There are tiles made with other parameters, and `redo` is off.
        """
        self.forget_opened()  # others may have made more room
        n, room = self.store.registered, max(1, capacity, 0 if redo or self._half_removed() else self.capacity)
        shapes = {"coords": (n, room, 2), "tissue": (n, room), "identity": (n, len(PARTS)), "count": (n,)}
        self._begin(recipe, shapes, redo=redo)

    def write(
        self,
        row: int,
        coords: NDArray[np.int32],
        tissue: NDArray[np.floating] | None,
        *,
        mask: int = UNKNOWN,
        file: int = UNKNOWN,
    ) -> None:
        """Write the tiles of a slide and what it is, then how many there are: this is what "done" means.

        Args:
            row: Of the slide.
            coords: (n, 2) corners, level-0 px; none for a slide without tissue.
            tissue: (n,) share of tissue, 0 to 1; None where it is not known.
            mask: Hash of the tissue mask that was followed, if one was.
            file: Hash of the slide file.
        """
        self.write_corners(row, coords, tissue, mask=mask, file=file)
        self.set_count(row, len(coords))

    def write_corners(
        self,
        row: int,
        coords: NDArray[np.int32],
        tissue: NDArray[np.floating] | None,
        *,
        mask: int = UNKNOWN,
        file: int = UNKNOWN,
    ) -> None:
        """Write the tiles of a slide without saying that it is done, as of one whose features may turn out damaged."""
        self._reopen(np.array([row]))
        n, corners, shares = len(coords), self.array("coords"), self.array("tissue")
        room = corners.shape[1]
        # whole chunks: nothing is left of tiles that there were before
        corners[row] = np.concatenate([coords, np.full((room - n, 2), -1, dtype=np.int32)])
        shares[row] = np.concatenate([np.full(n, np.nan) if tissue is None else tissue, np.full(room - n, np.nan)])
        self.array("identity")[row] = identity_of(coords, tissue, mask=mask, file=file)

    def set_count(self, row: int, count: int) -> None:
        """Say how many tiles a slide has, and so that it is done: written last, when all else is on the disk."""
        self.store.settle()
        self.array("count")[row] = count

    def done(self) -> Done:
        """Read which of the registered slides are done, anew but in `read_once`."""
        return Done(self.marks()[0] if self._reading_once else self._counts())

    def _counts(self) -> NDArray[np.int32]:
        n = self.store.registered
        if not self.has("count"):
            return np.full(n, NOT_DONE, dtype=np.int32)
        self._check_ids()
        counts: NDArray[np.int32] = read_column(self.array("count"), n)
        return counts

    def marks(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(slide) tiles of every slide, -1 where it is not done, and its identity; read anew but in `read_once`."""
        if self._once is not None:
            return self._once
        counts = self._counts()  # before identities, which are written before them
        marks = counts, self.identities()
        if self._reading_once:
            self._once = marks
        return marks

    @contextmanager
    def read_once(self) -> Iterator[None]:
        """While this lasts, what says which slides are done is read once for all that is made from them."""
        self._reading_once = True
        try:
            yield
        finally:
            self._reading_once, self._once = False, None

    def identities(self) -> NDArray[np.int64]:
        """(slide) what everything that is made from a slide repeats; -1 where it has never been tiled."""
        if not self.has("identity"):
            return np.full(self.store.registered, NOT_DONE, dtype=np.int64)
        parts: NDArray[np.int64] = read_column(self.array("identity"), self.store.registered)
        return parts[:, ALL]

    def identity(self, row: int) -> NDArray[np.int64]:
        """(part) what the tiles of a slide were made from; touches no other's chunk."""
        parts: NDArray[np.int64] = self.array("identity")[row]
        return parts

    @property
    def capacity(self) -> int:
        """Tiles of a slide that there is room for; 0 where there are no tiles."""
        return int(self.array("coords").shape[1]) if self.has("coords") else 0

    @property
    def tile_px(self) -> int:
        """Edge of a tile, pixels at :attr:`mpp`."""
        return int(self.config["tile_px"])

    @property
    def mpp(self) -> float:
        """Resolution of the tiles, microns per pixel."""
        return float(self.config["mpp"])

    @property
    def overlap_px(self) -> int:
        """Overlap of neighbours, pixels at :attr:`mpp`."""
        overlap: int = self.config["overlap"]
        return overlap

    @property
    def upsample(self) -> bool:
        """Whether slides that were scanned coarser than the tiles are enlarged."""
        return bool(self.config.get("upsample", False))

    @property
    def edge_um(self) -> float:
        """Edge of a tile, microns."""
        return self.tile_px * self.mpp

    def count(self, row: int) -> int:
        """Tiles of one slide, 0 where it has none or is not done; touches no other's chunk."""
        return max(0, int(self.array("count")[row]))

    def coords(self, row: int) -> NDArray[np.int32]:
        """(n, 2) corners of the tiles of one slide, level-0 px."""
        corners: NDArray[np.int32] = self.array("coords")[row, : self.count(row)]
        return corners

    def tissue(self, row: int) -> NDArray[np.float32]:
        """(n,) share of tissue of the tiles of one slide, NaN where not known."""
        shares: NDArray[np.float32] = self.array("tissue")[row, : self.count(row)]
        return shares

    def grid(self, row: int) -> TileGrid:
        """The tiles of one slide, touching no other's chunks."""
        return TileGrid(self.coords(row), self.edge_um / self.store.slides[row].mpp)

    def grids(self, rows: NDArray[np.int64]) -> Iterator[TileGrid]:
        """The tiles of many slides, in the order of `rows`, read in blocks; how many there are as `read_once` says."""
        counts = self.marks()[0] if self._reading_once else read_column(self.array("count"))
        slides, edge_um = self.store.slides, self.edge_um
        at_once = max(1, min(ROWS_AT_ONCE, TILES_AT_ONCE // max(1, self.capacity)))
        for start in range(0, len(rows), at_once):
            block = rows[start : start + at_once]
            longest = max(0, int(counts[block].max()))
            corners = self.array("coords").oindex[block, slice(0, longest)]  # (block, longest, 2)
            for row, mine in zip(block.tolist(), corners, strict=True):
                yield TileGrid(mine[: max(0, int(counts[row]))], edge_um / slides[row].mpp)
