"""The groups ``features/<name>``: one vector per tile, without augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from gigacli.errors import Mismatch, NotFound
from gigacli.store.identity import ALL
from gigacli.store.layout import FEATURE_TILES_PER_CHUNK, NOT_DONE
from gigacli.store.mapped import MappedFeatures
from gigacli.store.recipe import Recipe
from gigacli.store.shards import Chunks, checksum_bytes, plain_chunks, read_place
from gigacli.store.slide_group import Done, SlideGroup
from gigacli.store.unpacked import PackedArray, chunks_of

TILES_AT_ONCE = 4 * FEATURE_TILES_PER_CHUNK
"""Vectors of a slide that an import has in memory at once: whole chunks, so that none is written twice."""


class Features(SlideGroup):
    """Features of all tiles; a slide that is done has as many as tiles."""

    kind, input_name = "features", "features"
    _remembered: ClassVar[tuple[str, ...]] = (*SlideGroup._remembered, "_chunks", "_counts")

    def begin(self, recipe: Recipe, width: int, *, redo: bool) -> None:
        """Make room for the features, `width` values each, of all tiles; with `redo` what is there goes first.

        Raises:
            Mismatch: There are features of this name made otherwise, and `redo` is off.
        """
        n = self.store.registered
        self._begin(recipe, {"vectors": (n, self.store.tiles.capacity, width), "done": (n,)}, redo=redo)

    def write(self, row: int, vectors: NDArray[np.float16] | None) -> None:
        """Write the features (n, width) of a slide, then mark it done; None for a slide without tissue."""
        self._empty(row)
        if vectors is not None:
            self.array("vectors")[row, : len(vectors)] = vectors
        self._set_done(row)

    def write_blocks(
        self,
        row: int,
        count: int,
        blocks: Iterable[NDArray[np.float16]],
        *,
        corners: NDArray[np.int32] | None = None,
        tissue: NDArray[np.float32] | None = None,
    ) -> None:
        """Write the features of a slide block by block, then mark it done: a slide need not fit into memory.

        Args:
            row: Of the slide.
            count: Its tiles.
            blocks: (:data:`TILES_AT_ONCE`, width) each, the last one what is left.
            corners: (count, 2) of its tiles, level-0 px, where the store has not got them: they are written first, and
                marked done once their features are there, but before these are.
            tissue: (count,) share of tissue, 0 to 1; None where it is not known.
        """
        array, start, tiles = self.array("vectors"), 0, self.store.tiles
        capacity, width = array.shape[1:]
        self._empty(row)
        if corners is not None:
            tiles.write_corners(row, corners, tissue)
        for block in blocks:
            whole = min(capacity, start + -(-len(block) // FEATURE_TILES_PER_CHUNK) * FEATURE_TILES_PER_CHUNK)
            padded = np.full((whole - start, width), np.nan, dtype=np.float16)  # whole chunks: none is read first
            padded[: len(block)] = block
            array[row, start:whole] = padded
            start += len(block)
        if corners is not None:
            tiles.set_count(row, count)
        self._set_done(row, origin=None if corners is None else int(tiles.identity(row)[ALL]))

    @property
    def width(self) -> int:
        """Values of a vector."""
        return int(self.array("vectors").shape[2])

    def numbers(self, row: int) -> NDArray[np.int64]:
        """(n,) numbers of the tiles of a slide."""
        return np.arange(int(self._counts[row]))

    def read(self, row: int) -> NDArray[np.float16]:
        """The vectors (n, width) of all tiles of a slide.

        Raises:
            NotFound: A chunk that should hold them is missing.
            Mismatch: It is damaged.
        """
        n, array = int(self._counts[row]), self.array("vectors")
        if n > array.shape[1]:
            raise Mismatch(
                f"{self.path}: a slide has {n} vectors; there is room for {array.shape[1]}", "run: giga validate STORE"
            )
        _, tiles, c = array.chunks
        chunks = self._chunks
        if chunks is None:
            return np.asarray(array[row, :n])
        vectors, checked = (
            np.empty((-(-n // tiles) * tiles, c), dtype=array.dtype),
            checksum_bytes(array),
        )  # whole chunks
        for i in range(0, len(vectors), tiles):
            part, place = vectors[i : i + tiles], chunks.place((row, i // tiles, 0))
            if place is None:
                raise NotFound(
                    f"{self.store.url}/{array.path}: the shard with slide {self.store.slides[row].id!r} is missing, or "
                    "says that the slide is not in it",
                    "see what else is: giga validate STORE",
                )
            data = read_place(place, part.nbytes, checked)
            part[:] = np.frombuffer(data, dtype=part.dtype, count=part.size).reshape(part.shape)
        return vectors[:n]

    def mapped(self, *, leave_out: NDArray[np.bool_] | None = None) -> MappedFeatures:
        """Map the slides that are done and have tiles, and are none of `leave_out` (slide,), to stand in for a bank.

        Raises:
            InvalidInput: They cannot be mapped and are too large for this machine's memory.
            Mismatch: A chunk is missing or damaged.
        """
        return MappedFeatures(self, leave_out=leave_out)

    @property
    def imported(self) -> bool:
        """Whether another tool made them: such features may stand in for a bank."""
        recipe = self.found
        return recipe is not None and recipe.stage == "import"

    @cached_property
    def _chunks(self) -> Chunks | PackedArray | None:
        """Where chunks lie that are the bytes of whole vectors, on this machine; None of others."""
        array = self.array("vectors")
        plain = isinstance(array.store, LocalStore) and plain_chunks(array) and array.chunks[2] == self.width
        return chunks_of(array) if plain else None

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return super().done().counts

    def done(self) -> Done:
        """Read anew which of the registered slides are done, for :meth:`read` too."""
        done = super().done()
        self._counts = done.counts
        return done

    def _amounts(self, counts: NDArray[np.int32] | None) -> NDArray[np.integer]:
        return np.full(self.store.registered, NOT_DONE) if counts is None else counts

    def _empty(self, row: int) -> None:
        """Remove what there is of a slide that was done before, which may have had more tiles."""
        if len(self._reopen(np.array([row]))):
            self.array("vectors")[row] = np.nan

    def _set_done(self, row: int, *, origin: int | None = None) -> None:
        super()._set_done(row, origin=origin)
        self.__dict__.pop("_counts", None)

    def take_back(self, rows: Sequence[int] | None = None) -> None:
        """Say that slides are not done; :meth:`read` finds nothing of them then."""
        super().take_back(rows)
        self.__dict__.pop("_counts", None)
