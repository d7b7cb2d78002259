"""Banks mapped into memory, to draw views from, or features that were imported and stand in for one.

Nothing is copied: chunks are not compressed, and the files they lie in are mapped, one a slide or, of a packed group,
one for many. Those of a remote store are copied to a local disk first. Both classes are what
:class:`gigacli.nn.sampler.ViewSource` describes.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from gigacli.errors import InvalidInput, Mismatch
from gigacli.progress import SILENT, Progress
from gigacli.store.chunk_rows import ChunkRows
from gigacli.store.local_copy import cache_folder, stage
from gigacli.store.shards import Place, checksum_bytes, plain_chunks
from gigacli.store.tiles import TileGrid
from gigacli.store.unpacked import chunks_of

if TYPE_CHECKING:
    from gigacli.store.bank import Bank
    from gigacli.store.features import Features

MEMORY_SHARE = 0.8  # share of the machine's memory that features which cannot be mapped may take

ROWS_OF_A_SLIDE = 400
"""Tiles of a slide that say enough about how its features spread: as many as are looked at in a bank."""


class _Mapped:
    """Slides that are done and have tiles; their vectors are mapped when they are first asked for.

    Attributes:
        rows: (s,) their rows in the slide table.
        width: Features of a tile.
        vectors: (chunks, rows of a chunk, width) float16, slide after slide: an array, or what gives rows of it.
            Read-only.
    """

    def __init__(self, group: Bank | Features, *, leave_out: NDArray[np.bool_] | None) -> None:
        self.group, self._array = group, group.array("vectors")
        self.done = group.done()
        wanted = self.done.filled if leave_out is None else self.done.filled & ~leave_out
        self.rows: NDArray[np.int64] = np.flatnonzero(wanted)
        self.width: int = self._array.shape[-1]

    def _look(self) -> None:
        """Look at once at what lies on this machine: damage is found before anything is written."""
        if isinstance(self._array.store, LocalStore) and plain_chunks(self._array):
            self.load()

    @cached_property
    def vectors(self) -> Any:
        """See the class."""
        return self._mapped(None, SILENT)

    def load(self, *, cache: Path | None = None, progress: Progress = SILENT) -> None:
        """Map the vectors, those of a remote store after copying them; once.

        Args:
            cache: Folder on a local disk that takes the copy; default: ``$GIGA_CACHE``, else that of temporary files.
            progress: Receives progress.

        Raises:
            NotFound: The cache is no folder.
            InvalidInput: It has no room.
            Mismatch: A chunk is missing or damaged.
        """
        if "vectors" not in self.__dict__:
            self.vectors = self._mapped(cache, progress)

    def _mapped(self, cache: Path | None, progress: Progress) -> Any:
        raise NotImplementedError

    def _rows(self, wanted: Iterable[tuple[int, ...]], *, cache: Path | None, progress: Progress) -> Any:
        """(chunk, row, value) the values of chunks, by their places in the grid of chunks.

        Raises:
            Mismatch: One is missing or too short; of those that are copied also where its checksum says otherwise.
        """
        array, chunks, places = self._array, chunks_of(self._array), list[Place]()
        for chunk in wanted:
            if (place := chunks.place(chunk)) is None:
                slide = self.group.store.slides[chunk[0]].id
                raise Mismatch(
                    f"{self.group.store.url}/{array.path}: the chunk {chunk} of slide {slide!r} is in no shard",
                    "see what else is damaged: giga validate STORE",
                )
            places.append(place)
        shape, checked = (math.prod(array.chunks[1:-1]), self.width), checksum_bytes(array)
        if isinstance(array.store, LocalStore):
            return ChunkRows(places, shape, array.dtype, checked=checked)
        size = math.prod(shape) * array.dtype.itemsize
        copied = stage(places, size=size, checked=checked, folder=cache_folder(cache), progress=progress)
        return copied.view(array.dtype).reshape(len(places), *shape)

    def grids(self) -> Iterator[TileGrid]:
        """The tiles of each slide."""
        return self.group.store.tiles.grids(self.rows)


class MappedBank(_Mapped):
    """The slides of a bank.

    Attributes:
        augmentations: Augmentations per slide, without those held out, which are the last.
        draws: Tiles per augmentation.
        counts: (s,) the same per slide.
        tile: (s, augmentations, draws) int32, which tile of its slide a row of `vectors` is of.
    """

    def __init__(self, group: Bank, *, leave_out: NDArray[np.bool_] | None) -> None:
        super().__init__(group, leave_out=leave_out)
        if not plain_chunks(self._array):
            url = group.store.url
            raise Mismatch(f"{url}/{group.path}/vectors is compressed", f"run: giga validate {url}")
        _, self._stored, self.draws, _ = self._array.shape
        self.augmentations = self._stored - group.held_out
        self.counts = np.full(len(self.rows), self.draws)
        self._look()
        tile, whole = group.array("tile"), len(self.rows) == len(self.done.values)  # what is not done is not read
        tile = tile[: len(self.rows)] if whole else tile.oindex[self.rows]
        self.tile: NDArray[np.int32] = tile[:, : self.augmentations]

    @cached_property
    def _across(self) -> tuple[int, int]:
        """Chunks of a slide, along augmentations and draws: one where the bank was made in one go."""
        _, ca, cd, _ = self._array.chunks
        return -(-self._stored // ca), -(-self.draws // cd)

    def _mapped(self, cache: Path | None, progress: Progress) -> Any:
        inner = list(itertools.product(*map(range, self._across)))
        return self._rows(((row, *ij, 0) for row in self.rows.tolist() for ij in inner), cache=cache, progress=progress)

    def at(self, slide: NDArray[np.int64], augmentation: NDArray[np.int64], draw: NDArray[np.int64]) -> tuple[Any, ...]:
        """Where in `vectors` rows of slides (by their number in the order of :attr:`rows`) are, as an index."""
        (na, nd), (_, ca, cd, _) = self._across, self._array.chunks
        return (slide * na + augmentation // ca) * nd + draw // cd, augmentation % ca * cd + draw % cd

    def tiles(
        self, slide: NDArray[np.int64], augmentation: NDArray[np.int64], draw: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Which tile of its slide such a row is of."""
        return self.tile[slide, augmentation, draw]

    def slides(self) -> Iterator[NDArray[np.float16]]:
        """Features of each slide (augmentation, draw, width)."""
        (na, nd), (_, ca, cd, c) = self._across, self._array.chunks
        for i in range(len(self.rows)):
            chunks = np.asarray(self.vectors[i * na * nd : (i + 1) * na * nd]).reshape(na, nd, ca, cd, c)
            whole = chunks.swapaxes(1, 2).reshape(na * ca, nd * cd, c)  # the last chunks may reach over the end
            yield whole[: self.augmentations, : self.draws]


class MappedFeatures(_Mapped):
    """The slides of features, each with one augmentation that holds all its tiles.

    Attributes:
        augmentations: 1.
        counts: (s,) tiles of each.
    """

    augmentations = 1

    def __init__(self, group: Features, *, leave_out: NDArray[np.bool_] | None) -> None:
        super().__init__(group, leave_out=leave_out)
        self._features = group
        self.counts: NDArray[np.int64] = self.done.counts[self.rows]
        self._mappable = plain_chunks(self._array) and self._array.chunks[2] == self.width
        self._per_chunk = int(self._array.chunks[1]) if self._mappable else 1
        self._of_slide = -(-self.counts // self._per_chunk)  # (s,) chunks
        self._first = np.concatenate([[0], np.cumsum(self._of_slide)[:-1]])  # (s,), each slide's first chunk
        self._look()

    def _mapped(self, cache: Path | None, progress: Progress) -> Any:
        if not self._mappable:
            return self._in_memory()
        slides = zip(self.rows.tolist(), self._of_slide.tolist(), strict=True)
        return self._rows(((row, i, 0) for row, n in slides for i in range(n)), cache=cache, progress=progress)

    def _in_memory(self) -> NDArray[np.float16]:
        """Chunks of another shape, or compressed: another program wrote them."""
        shape = (int(self.counts.sum()), 1, self.width)
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if (size := int(np.prod(shape)) * 2) > MEMORY_SHARE * memory:
            raise InvalidInput(
                f"{self.group.store.url}: the features have {size / 2**30:.1f} GiB in chunks that cannot be mapped; "
                f"this machine has {memory / 2**30:.1f} GiB of memory",
                "import them again with this giga",
            )
        loaded = np.empty(shape, dtype=np.float16)
        for row, start, n in zip(self.rows, self._first, self.counts, strict=True):
            loaded[start : start + n, 0] = self._features.read(int(row))
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
