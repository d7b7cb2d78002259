"""Groups with a result per slide, and what says that one is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import Mismatch
from gigacli.progress import SILENT, Progress
from gigacli.store.chunks import read_table, written_rows
from gigacli.store.copying import SLIDES_AT_ONCE, copy_chunks
from gigacli.store.group import Group
from gigacli.store.identity import ALL, UNKNOWN
from gigacli.store.layout import NOT_DONE, UNPACKED, beside, spec_of
from gigacli.store.nodes import arrays
from gigacli.store.shards import empty_slide
from gigacli.store.unpacked import PackedArray, Unpacked, read_column


@dataclass(frozen=True, eq=False)
class Done:
    """Which slides of a group are done."""

    # (slide) int32: how much there is of a slide (tiles, augmentations, or 1), 0 where there is nothing to have for
    # want of tissue, -1 where it is not done
    values: NDArray[np.int32]

    changed: NDArray[np.bool_] | None = None

    @cached_property
    def stale(self) -> NDArray[np.bool_]:
        """(slide) whether it was done, but from other tiles, another mask or another file than the store has now."""
        return np.zeros(len(self.values), dtype=bool) if self.changed is None else self.changed

    @cached_property
    def finished(self) -> NDArray[np.bool_]:
        """(slide) whether nothing is left to do: "no tissue" is a result."""
        return self.values != NOT_DONE

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """(slide) whether there is a result."""
        return self.values > 0

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the slides that have a result, ascending."""
        return np.flatnonzero(self.filled)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(slide) how much there is; 0 where it is not done."""
        return np.maximum(self.values, 0).astype(np.int64)


class SlideGroup(Group):
    """A group with a result per slide; row i of its arrays is slide i of the table.

    What says that a slide is done is the identity of what it was made from: it is done as long as that is there.
    """

    _mark: ClassVar[str] = "done"
    _remembered: ClassVar[tuple[str, ...]] = ("_origins", "unpacked")

    @cached_property
    def unpacked(self) -> Unpacked | None:
        """Which slides lie beside its shards; None where it is not packed."""
        return Unpacked.of(self.store.root, self.path, self._mark)

    @property
    def beside_shards(self) -> int | None:
        """How many slides lie beside its shards; None where it is not packed."""
        return None if self.unpacked is None else int(self.unpacked.lie(np.arange(self.store.registered)).sum())

    def array(self, name: str) -> Any:
        """The array of this name, opened once; of a packed group one that reads and writes as if it were not.

        Raises:
            NotFound: It is not there.
        """
        if name not in self._open:
            self._open[name] = self._overlaid(name, super().array(name))
        return self._open[name]

    def _ensure(self, name: str, shape: tuple[int, ...]) -> Any:
        array = super()._ensure(name, shape)
        if self.unpacked is not None and _by_slide(array.path):
            self.store.ensure_array(beside(array.path), array.shape)
        self._open[name] = self._overlaid(name, array)
        return self._open[name]

    def _overlaid(self, name: str, array: Any) -> Any:
        if self.unpacked is None or not _by_slide(array.path):
            return array
        marks = self.unpacked.marks
        return PackedArray(array, marks if name == self._mark else self.store.opened(beside(array.path)), self.unpacked)

    def done(self) -> Done:
        """Read anew which of the registered slides are done.

        Raises:
            Mismatch: The rows belong to other slides, or what says so is lost.
        """
        marks, tiles = self._marks(), self.store.tiles
        marked = marks != NOT_DONE
        if not marked.any():
            return Done(np.full(len(marked), NOT_DONE, dtype=np.int32))
        if not self._from_tiles() or tiles.found is None:  # removed: nothing is known of what it was made from
            return Done(np.where(marked, self._amounts(None), NOT_DONE).astype(np.int32))
        counts, now = tiles.marks()
        tiled = counts != NOT_DONE
        fresh = marked & tiled & (marks == now)
        return Done(np.where(fresh, self._amounts(counts), NOT_DONE).astype(np.int32), marked & tiled & ~fresh)

    @property
    def stale(self) -> list[str]:
        """What it was made from and is not there any more, in words."""
        return self.stale_by(self.done()) if self.found is not None else []

    def stale_by(self, done: Done) -> list[str]:
        """The same, by what is known to be done."""
        changed = int(done.stale.sum())
        return [*self.replaced, *([f"{changed} slides have other tiles, masks or files now"] if changed else [])]

    def _marks(self) -> NDArray[np.int64]:
        """(slide) identities of what slides were made from, -1 where they are not done."""
        n = self.store.registered
        if not self.has(self._mark):
            return np.full(n, NOT_DONE, dtype=np.int64)
        self._check_ids()
        array = self.array(self._mark)
        spec = spec_of(array.path)
        if spec is None or not spec.whole:
            return read_column(array, n)
        bound = min(n, int(self.attributes.get("ids", {}).get("slides", 0)))
        return np.concatenate([read_table(array, bound), np.asarray(array[bound:n])])

    def _amounts(self, counts: NDArray[np.int32] | None) -> NDArray[np.integer]:
        """(slide) how much there is of a slide that is done, by its number of tiles; None where that is not known."""
        raise NotImplementedError

    def _from_tiles(self) -> bool:
        """Whether it was made from the store's tiles, and not from vectors that another tool made."""
        return True

    @cached_property
    def _origins(self) -> NDArray[np.int64]:
        """(slide) identities of what is about to be worked on, as they were before it was read."""
        return self.store.tiles.identities()

    def _origin(self, row: int) -> int:
        """The identity that says that a slide is done.

        Raises:
            Mismatch: It is not tiled.
        """
        tiles = self.store.tiles
        if not self._from_tiles() or tiles.found is None:
            return UNKNOWN
        known = int(self._origins[row]) if row < len(self._origins) else NOT_DONE
        known = known if known != NOT_DONE else int(tiles.identity(row)[ALL])
        if known == NOT_DONE:
            raise Mismatch(
                f"{self.path}: slide {self.store.slides[row].id!r} is not tiled, so nothing can be made from its tiles",
                f"run: giga tile {self.store.url}",
            )
        return known

    def _origins_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same of many slides: the documents that it takes are read once for all that were tiled at first."""
        if not self._from_tiles() or self.store.tiles.found is None:
            return np.full(len(rows), UNKNOWN, dtype=np.int64)
        there = rows < len(self._origins)
        known = np.where(there, self._origins[np.where(there, rows, 0)], NOT_DONE)
        for i in np.flatnonzero(known == NOT_DONE).tolist():
            known[i] = self._origin(int(rows[i]))
        return known

    def todo(self, ready: NDArray[np.bool_], shard: tuple[int, int] = (0, 1)) -> list[int]:
        """Rows of one shard that are ready and not done, ascending.

        Args:
            ready: (slide) whether what it is made from is there.
            shard: Index and number of shards, from :func:`~gigacli.config.base.parse_shard`.
        """
        self.__dict__.pop("_origins", None)  # read before the tiles are: a change in between leaves the slide stale
        _ = self._origins
        return shard_rows(np.flatnonzero(ready & ~self.done().finished).tolist(), shard)

    def take_back(self, rows: Sequence[int] | None = None) -> None:
        """Say that slides (all of them, without `rows`) are not done; what was written stays until it is replaced."""
        self._take_back(self._mark, rows)

    def _take_back(self, name: str, rows: Sequence[int] | None) -> None:
        if not self.has(name) or (rows is not None and not len(rows)):
            return
        array = self.array(name)
        if isinstance(array, PackedArray):
            rows = np.flatnonzero(array.column() != NOT_DONE).tolist() if rows is None else rows
            for row in rows:  # what a killed `giga pack` may have left there is not the slide's
                if not array.unpacked.lie(row):
                    self._empty_beside(row)
            self.store.settle()
        array.oindex[slice(None) if rows is None else list(rows)] = NOT_DONE
        self.store.settle()

    def copy_from(
        self, source: Self, rows: NDArray[np.int64], to: NDArray[np.int64], progress: Progress = SILENT
    ) -> list[int]:
        """Copy slides that are done from the same group of another store, what says so last.

        Args:
            source: That group; who writes into it meanwhile does no harm.
            rows: (n,) of the slides there.
            to: (n,) of the same slides here, where the group is not packed.
            progress: Is told of every slide.

        Returns:
            Rows, there, of slides that were changed while they were copied: they are not done here.

        Raises:
            Mismatch: A chunk is damaged.
        """
        marks, changed = source._marks(), []
        names = [at.rpartition("/")[2] for at, _ in arrays(self.store.root, self.path) if _by_slide(at)]
        names.remove(self._mark)
        mine = read_column(self.array(self._mark))
        self.take_back(to[mine[to] != NOT_DONE].tolist())
        for name in names:  # of a run that was killed, before the slide was changed there
            array = self.array(name)
            for row in to[np.isin(to, written_rows(array))].tolist():
                empty_slide(array, row)
        for block in (slice(i, i + SLIDES_AT_ONCE) for i in range(0, len(rows), SLIDES_AT_ONCE)):
            theirs, ours = rows[block], to[block]
            for name in names:
                copy_chunks(source.array(name), self.array(name), theirs, ours)
            self.store.settle()
            now = np.asarray(source.array(self._mark).oindex[theirs])
            same = (now == marks[theirs]) & (now != NOT_DONE)
            self.array(self._mark).oindex[ours[same]] = now[same]
            changed += theirs[~same].tolist()
            progress.advance(len(theirs))
        return changed

    def _empty_beside(self, row: int) -> None:
        for _, array in arrays(self.store.root, f"{self.path}/{UNPACKED}"):
            if array.ndim > 1:
                empty_slide(array, row)

    def _reopen(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Say that slides are not done before anything of them is replaced; returns those that were.

        In a packed group they lie beside the shards from now on.
        """
        marked = rows[self.array(self._mark).oindex[rows] != NOT_DONE]
        changed = marked
        if self.unpacked is not None:
            changed = np.union1d(marked, rows[~self.unpacked.lie(rows)])
        self.take_back(changed.tolist())
        return marked

    def _set_done(self, row: int, *, origin: int | None = None) -> None:
        """The last thing that is written of a slide, when all else is on the disk; `origin`: it was tiled only now."""
        self.store.settle()
        self.array(self._mark)[row] = self._origin(row) if origin is None else origin


def shard_rows(rows: Sequence[int], shard: tuple[int, int]) -> list[int]:
    """The rows of one shard: every n-th slide of the table, whatever is done."""
    index, total = shard
    return [row for row in rows if row % total == index]


def _by_slide(path: str) -> bool:
    """Whether the array at a path has a chunk per slide, where it is not packed."""
    spec = spec_of(path)
    return spec is not None and spec.chunk == "slide"
