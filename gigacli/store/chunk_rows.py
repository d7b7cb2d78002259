"""Rows of uncompressed chunks, read through maps of the files they lie in: one a slide, or one for many slides."""

from __future__ import annotations

import mmap
import os
import resource
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import Mismatch
from gigacli.store.shards import READ, SEE, Place

MOST_MAPPED = 512
"""Files that are mapped at once; Python holds each of them open."""


class ChunkRows:
    """What :data:`vectors` of a bank is: an array (chunk, row of the chunk, value) that lies in files.

    Attributes:
        shape: (chunks, rows of a chunk, values of a row).
        nbytes: Bytes of all values.
    """

    def __init__(self, places: Sequence[Place], shape: tuple[int, int], dtype: np.dtype[Any], *, checked: int) -> None:
        """Look at all files: damage is found before anything is drawn.

        Args:
            places: Of the chunks, on this machine.
            shape: Rows of a chunk, values of a row.
            dtype: Of a value.
            checked: Bytes of the checksum after each chunk.

        Raises:
            Mismatch: A file is missing or too short.
        """
        self.shape, self.dtype = (len(places), *shape), dtype
        self._row = shape[1] * dtype.itemsize
        self._chunk = shape[0] * self._row
        self.nbytes = len(places) * self._chunk
        numbers: dict[tuple[Any, str], int] = {}  # a path is made for each file, and not for each chunk
        self._of = np.array([numbers.setdefault((id(p.at), p.key), len(numbers)) for p in places], dtype=np.int64)
        self._start = np.array([p.start for p in places], dtype=np.int64)
        first = dict(zip(self._of[::-1].tolist(), places[::-1], strict=True))
        self._files = [_file(first[number]) for number in range(len(numbers))]
        ends = np.zeros(len(numbers), dtype=np.int64)
        np.maximum.at(ends, self._of, self._start + self._chunk + checked)
        for place, end in zip((first[number] for number in range(len(numbers))), ends.tolist(), strict=True):
            _check(_file(place), end + place.behind, exactly=place.length is None)
        wrong = next((p for p in places if p.length not in (None, self._chunk + checked)), None)
        if wrong is not None:
            raise Mismatch(f"{wrong.name} expected {self._chunk + checked} bytes", SEE)
        most = min(MOST_MAPPED, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._mapped = lru_cache(max(1, most))(self._map)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """``rows[chunk, row]`` with arrays of numbers, as an array's; or a slice of chunks, whole."""
        if isinstance(index, slice):
            return self._whole(range(len(self))[index])
        chunk, row = np.broadcast_arrays(*index)
        start = (self._start[chunk] + row * self._row).ravel()
        of, rows = self._of[chunk].ravel(), np.empty((start.size, self._row), dtype=np.uint8)
        order = np.argsort(of, kind="stable")
        cuts = np.flatnonzero(np.diff(of[order])) + 1
        for some in np.split(order, cuts) if len(order) else ():
            rows[some] = self._mapped(int(of[some[0]]))[start[some]]
        return rows.view(self.dtype).reshape(*chunk.shape, self.shape[2])

    def _whole(self, chunks: range) -> NDArray[Any]:
        values = np.empty((len(chunks), self._chunk), dtype=np.uint8)
        for i, chunk in enumerate(chunks):
            start = int(self._start[chunk])
            rows = self._mapped(int(self._of[chunk]))[start : start + self._chunk : self._row]
            values[i] = rows.reshape(-1)
        return values.view(self.dtype).reshape(-1, *self.shape[1:])

    def _map(self, file: int) -> NDArray[np.uint8]:
        """(first byte, byte) every run of bytes of a file as long as a row."""
        descriptor = os.open(self._files[file], READ)
        try:
            mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        mapped.madvise(mmap.MADV_RANDOM)  # read what is asked for, not what lies around it
        shape = (len(mapped) - self._row + 1, self._row)
        return np.ndarray(shape, dtype=np.uint8, buffer=mapped, strides=(1, 1))


def _file(place: Place) -> str:
    file = place.file
    assert file is not None
    return file


def _check(file: str, size: int, *, exactly: bool) -> None:
    """Refuse a file that is too short: reading a map beyond the end of its file kills the process."""
    try:
        found = os.stat(file).st_size  # noqa: PTH116 - pathlib takes longer
    except FileNotFoundError:
        raise Mismatch(f"{file} is missing", "see what else is: giga validate STORE") from None
    if found < size or (exactly and found != size):
        raise Mismatch(f"{file} has {found} bytes, expected {size}", SEE)
