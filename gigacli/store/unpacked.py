"""Packed groups: shards of many slides, and what was written since beside them, one slide a chunk.

A slide lies beside the shards where the group's array ``unpacked/done`` (of tiles ``unpacked/count``) says anything of
it but :data:`~gigacli.store.layout.AS_PACKED`. A writer says so before it writes anything of a slide; shards are
written by ``giga pack`` alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.storage import LocalStore

from gigacli.store.chunks import read_chunk_column, read_table
from gigacli.store.layout import UNPACKED, spec_of
from gigacli.store.shards import Chunks, Place, read_simple, simple_codecs


class Unpacked:
    """Which slides of a packed group lie beside its shards.

    Attributes:
        marks: The array that says so, as zarr's.
        packed: How many slides there were when the group was packed: the table of what is done is whole up to there.
    """

    def __init__(self, marks: Any) -> None:
        self.marks = marks
        self.packed = int(marks.attrs["giga"]["packed"])
        self._known: NDArray[Any] | None = None

    @classmethod
    def of(cls, root: Any, group: str, mark: str) -> Self | None:
        """That of the group at a path, by the name of what says that slides are done; None where it is not packed."""
        marks = root.get(f"{group}/{UNPACKED}/{mark}")
        return None if marks is None else cls(marks)

    def read(self, n: int) -> NDArray[Any]:
        """(slide) what is said of each slide, read anew."""
        self._known = read_chunk_column(self.marks, n)
        return self._known

    def lie(self, rows: Any) -> Any:
        """Whether slides, by their rows, lie beside the shards, as far as was known when this was last read."""
        known = self._known
        if known is None or (np.size(rows) and np.max(rows) >= len(known)):
            known = self.read(self.marks.shape[0])
        return known[rows] != self.marks.fill_value

    def look(self, row: int) -> Any:
        """What is said of one slide, read anew."""
        said = self.marks[row]
        self.note(row, said)
        return said

    def note(self, rows: Any, values: Any) -> None:
        """Take over what was written or read of slides."""
        if self._known is not None:
            self.lie(rows)  # there may be more slides by now
            self._known[rows] = values


class PackedArray:
    """An array of a packed group, read as one and written beside the shards.

    Attributes:
        packed: Its shards or, of what says that slides are done, a table.
        beside: The same for slides that were written since.
    """

    def __init__(self, packed: Any, beside: Any, unpacked: Unpacked) -> None:
        self.packed, self.beside, self.unpacked = packed, beside, unpacked
        self.path, self.chunks, self.dtype, self.fill_value = (
            packed.path,
            beside.chunks,
            packed.dtype,
            packed.fill_value,
        )
        self.metadata, self.store, self.ndim, self.shape = packed.metadata, packed.store, packed.ndim, packed.shape
        spec = spec_of(packed.path)
        self._is_column = spec is not None and spec.column
        self._table: NDArray[Any] | None = None
        self._chunks = Chunks(packed), Chunks(beside)
        local = isinstance(packed.store, LocalStore) and packed.shards is not None
        self._simple = local and math.prod(self._chunks[0].grid[1:]) == 1 and simple_codecs(packed)

    @property
    def oindex(self) -> Self:
        """It is indexed by rows, one or many, and slices after them."""
        return self

    def column(self, n: int | None = None) -> NDArray[Any]:
        """(slide, ...) what is said of the first `n` slides, read anew.

        Raises:
            Mismatch: A part of the table is lost.
        """
        n = self.shape[0] if n is None else min(n, self.shape[0])
        self._table = None
        values = self._packed_values(n)
        if self.beside is self.unpacked.marks:
            later = self.unpacked.read(n)
            changed = later != self.beside.fill_value
            values[changed] = later[changed]
        elif len(rows := np.flatnonzero(self.unpacked.lie(np.arange(n)))):
            values[rows] = read_chunk_column(self.beside, n)[rows]
        return values

    def __getitem__(self, index: Any) -> Any:
        first, rest = _parted(index)
        one = isinstance(first, int | np.integer)
        if one and self._is_column:
            later = self.unpacked.look(first) != self.unpacked.marks.fill_value
            return self.beside[(first, *rest)] if later else self._packed_values(first + 1)[(first, *rest)]
        if one and self.unpacked.lie(first):
            return self.beside[(first, *rest)]
        if one:
            return self._packed_slide(first)[rest] if self._simple else self.packed[(first, *rest)]
        rows = np.arange(self.shape[0])[first]
        if not len(rows):
            return np.empty((0, *self.shape[1:]), dtype=self.dtype)[(slice(None), *rest)]
        if self._is_column:
            return self.column(int(rows.max()) + 1)[(rows, *rest)]
        later = self.unpacked.lie(rows)
        if self._simple:
            values = np.stack([self._packed_slide(row)[rest] for row in rows.tolist()])
        else:
            values = self.packed.oindex[(rows, *rest)]
        if later.any():
            values[later] = self.beside.oindex[(rows[later], *rest)]
        return values

    def _packed_slide(self, row: int) -> NDArray[Any]:
        """The values of a slide, of which zarr would read the index of the shard anew."""
        place = self._chunks[0].place((row, *(0 for _ in self.shape[1:])))
        values = None if place is None else read_simple(self.packed, place)
        if values is None:
            return np.full(self.shape[1:], self.fill_value, dtype=self.dtype)
        inside = tuple(slice(0, n) for n in self.shape[1:])  # the chunk may reach over the end
        return np.array(values[0][inside])

    def _packed_values(self, n: int) -> NDArray[Any]:
        """(slide, ...) what the table says of the first `n` slides; slides that came later have the fill value."""
        if self._table is None:
            known = min(self.unpacked.packed, self.shape[0])
            swapped = self.packed.chunks[0] != 1  # not yet where a `giga pack` was killed
            self._table = read_table(self.packed, known) if swapped else read_chunk_column(self.packed, known)
        values = np.full((n, *self.shape[1:]), self.fill_value, dtype=self._table.dtype)
        known = min(n, len(self._table))
        values[:known] = self._table[:known]
        return values

    def __setitem__(self, index: Any, value: Any) -> None:
        first, rest = _parted(index)
        if isinstance(first, int | np.integer):
            self.beside[(first, *rest)] = value
        elif len(first := np.arange(self.shape[0])[first]):
            self.beside.oindex[(first, *rest)] = value
        if self.beside is self.unpacked.marks:
            self.unpacked.note(first, value)

    def place(self, chunk: tuple[int, ...]) -> Place | None:
        """Where a chunk is, by its place in the grid of chunks; None where its shard is not there or says it is not."""
        return self._of(chunk[0]).place(chunk)

    def places_of_slide(self, row: int) -> Iterator[tuple[tuple[int, ...], Place]]:
        """The chunks of a slide that may be there, by their place in the grid of chunks."""
        return self._of(row).places_of_slide(row)

    def stored_of_slide(self, row: int) -> set[int]:
        """Which chunks of a slide along the second axis are stored; others hold only fill values."""
        return self._of(row).stored_of_slide(row)

    def _of(self, row: int) -> Chunks:
        return self._chunks[bool(self.unpacked.lie(row))]


def chunks_of(array: Any) -> Chunks | PackedArray:
    """What says where the chunks of an array lie."""
    return array if isinstance(array, PackedArray) else Chunks(array)


def read_column(array: Any, n: int | None = None) -> NDArray[Any]:
    """``array[:n]`` of an array that says something of each slide, such as what is done, packed or not."""
    return array.column(n) if isinstance(array, PackedArray) else read_chunk_column(array, n)


def _parted(index: Any) -> tuple[Any, tuple[Any, ...]]:
    """The rows of an index, and the rest of it."""
    first, *rest = index if isinstance(index, tuple) else (index,)
    if first is Ellipsis:
        first = slice(None)
    return np.asarray(first, dtype=np.int64) if isinstance(first, list) else first, tuple(rest)
