"""Packing of a group: what is done goes into shards, written beside the chunks there are, which are then swapped.

Whatever a kill leaves, every array reads as before, since each step relies on what is on the disk already:

1. shards and tables are written under keys of their own, ``c.i.j`` beside ``c/i/j``, where no reader looks;
2. the arrays for what will be written later are made, the one that says what is done last: from then on, writers write
   there, and shards are as good as the chunks;
3. the metadata document of each array is replaced by one that leads to the shards;
4. the chunks are removed.

A group that is packed already takes in what was written since: shards with such slides are written anew as a whole,
then the table of what is done, then what lies beside them is removed.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from zarr.core.array import Array, AsyncArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from gigacli.progress import Progress
from gigacli.store.bounds import EMPTY
from gigacli.store.chunks import read_chunk_column
from gigacli.store.layout import AS_PACKED, AS_PACKED_TEXT, TABLE_ROWS_PER_CHUNK, UNPACKED, beside, spec_of
from gigacli.store.nodes import arrays, document
from gigacli.store.shards import CHECKSUM_BYTES, Chunks, Place, checksum_bytes, read_chunks, remove_chunks
from gigacli.store.store import Store
from gigacli.store.unpacked import PackedArray, Unpacked

SHARD_SLIDES, SHARD_BYTES = 64, 2**28
"""Most slides of a shard, and about the most bytes."""

SHARD_BLOCKS = 64
"""Most chunks of a slide in one shard, along its second axis: its index has a place for each."""

SAMPLE = 256
"""Slides whose size is looked at to find how many a shard takes."""

Chunk = tuple[int, ...]


class Packable:
    """A group whose arrays have a chunk per slide, or the reasons why slides failed in one stage.

    Args:
        store: The store, to be written to.
        path: Of the group.
        mark: Name of the array that says what is done, or why it is not.
    """

    def __init__(self, store: Store, path: str, mark: str) -> None:
        self.store, self.path, self.mark = store, path, mark
        here = [(name, f"{path}/{name}") for name in _names(store.root, path) if path != "failures" or name == mark]
        self.names = [name for name, at in here if (spec := spec_of(at)) is not None and spec.chunk == "slide"]
        self.columns = {name for name in self.names if (spec := spec_of(f"{path}/{name}")) is not None and spec.column}

    def pack(self, progress: Progress) -> int:
        """Pack what is not packed; returns how many slides that were.

        Raises:
            Mismatch: A chunk is damaged.
        """
        root, n = self.store.root, self.store.registered
        packed = 0
        if Unpacked.of(root, self.path, self.mark) is None:
            marks = self._array(self.mark)
            rows = np.flatnonzero(read_chunk_column(marks, n) != marks.fill_value)
            if not len(rows):
                return 0
            self._write_first(rows, progress)
            packed = len(rows)
        self._swap()
        return packed + self._take_in(progress)

    def _array(self, name: str) -> Any:
        return self.store.root[f"{self.path}/{name}"]

    # what is not packed yet

    def _write_first(self, rows: NDArray[np.int64], progress: Progress) -> None:
        documents = {}
        for name in self.names:
            array = self._array(name)
            remove_chunks(array, separator=".")  # of a packing that was killed: they may be of other values
            if name in self.columns:
                documents[name] = self._document(name, None)
                _write_table(_with(array, documents[name]), read_chunk_column(array))
            else:
                documents[name] = self._document(name, shards := _shards(array, rows))
                target = Chunks(_with(array, documents[name]))
                progress.start(f"packing {self.path}/{name}", -(-array.shape[0] // shards[0]))
                source = Chunks(array)
                for start in range(0, array.shape[0], shards[0]):
                    mine = rows[(rows >= start) & (rows < start + shards[0])]
                    _write_shards(target, ((row, source) for row in mine.tolist()))
                    progress.advance()
        self.store.settle()
        self.store.ensure_group(f"{self.path}/{UNPACKED}")
        for name in sorted(self.names, key=lambda name: name == self.mark):
            shards = documents[name]["chunk_grid"]["configuration"]["chunk_shape"]
            self.store.settle()
            self._set_document(beside(f"{self.path}/{name}"), self._beside_document(name, shards))
        self.store.settle()

    def _document(self, name: str, shards: Chunk | None) -> dict[str, Any]:
        """The metadata document of an array in shards of this shape or, without one, in a table."""
        here = self._array(name)
        old = json.loads(document(self.store.root, here.path) or b"{}")
        new = {**old, "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}}
        if shards is None:
            new["chunk_grid"] = _grid((TABLE_ROWS_PER_CHUNK, *here.shape[1:]))
            return new
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        inner = {"chunk_shape": list(here.chunks), "codecs": old["codecs"], "index_codecs": index}
        settings = {**inner, "index_location": "end"}
        return {
            **new,
            "chunk_grid": _grid(shards),
            "codecs": [{"name": "sharding_indexed", "configuration": settings}],
        }

    def _beside_document(self, name: str, shards: list[int]) -> dict[str, Any]:
        """That of the array for what is written later."""
        old = json.loads(document(self.store.root, f"{self.path}/{name}") or b"{}")
        giga: dict[str, Any] = {"shards": shards}
        if name == self.mark:
            old["fill_value"] = AS_PACKED_TEXT if old["data_type"] == "string" else AS_PACKED
            giga["packed"] = self.store.registered
        return {**old, "attributes": {"giga": giga}}

    def _set_document(self, path: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2).encode()
        where = self.store.root.store_path / f"{path}/zarr.json"
        sync(where.set(default_buffer_prototype().buffer.from_bytes(text)))

    # swapping

    def _swap(self) -> None:
        """Replace the documents that do not lead to the shards yet."""
        for name in self.names:
            array = self._array(name)
            if self._is_plain(array):
                said = self.store.root[beside(array.path)].attrs["giga"]["shards"]
                shards = None if name in self.columns else tuple(said)
                self._set_document(array.path, self._document(name, shards))
        self.store.settle()

    def remove_chunks(self) -> None:
        """Remove the chunks that shards stand for."""
        for name in self.names:
            if not self._is_plain(self._array(name)):
                remove_chunks(self._array(name), separator="/")
        self.store.settle()

    def _is_plain(self, array: Any) -> bool:
        return array.shards is None and array.chunks[0] == 1

    # what was written since

    def _take_in(self, progress: Progress) -> int:
        unpacked = Unpacked.of(self.store.root, self.path, self.mark)
        assert unpacked is not None
        said = unpacked.read(unpacked.marks.shape[0])
        changed = said != unpacked.marks.fill_value
        if not changed.any():
            self._tidy(unpacked)
            return 0
        marks = self._overlaid(self.mark, unpacked)
        not_done = marks.fill_value
        before = unpacked.packed
        held = np.asarray(marks.packed[:])
        if (held[changed] != not_done).any():  # so that nobody takes new vectors for those of what they were before
            _write_table(marks.packed, np.where(changed, not_done, held))
            self.store.settle()
        rows = np.flatnonzero(changed & (said != not_done))
        for name in (name for name in self.names if name != self.mark):
            array = self._overlaid(name, unpacked)
            if name in self.columns:
                _write_table(array.packed, array.column())
            else:
                self._take_in_shards(array, np.flatnonzero(changed), {*rows.tolist()}, progress)
        self.store.settle()
        _write_table(marks.packed, np.where(changed, said, held))
        self.store.settle()
        if before < self.store.registered:
            content = json.loads(document(self.store.root, unpacked.marks.path) or b"{}")
            content["attributes"]["giga"]["packed"] = self.store.registered
            self._set_document(unpacked.marks.path, content)
            self.store.settle()
        remove_chunks(unpacked.marks)
        self.store.settle()
        self._tidy(unpacked)
        return len(rows)

    def _overlaid(self, name: str, unpacked: Unpacked) -> PackedArray:
        array = self._array(name)
        later = unpacked.marks if name == self.mark else self.store.root[beside(array.path)]
        return PackedArray(array, later, unpacked)

    def _take_in_shards(
        self, array: PackedArray, changed: NDArray[np.int64], done: set[int], progress: Progress
    ) -> None:
        """Write anew the shards with slides that have changed, of which some are done."""
        chunks, later, lie = Chunks(array.packed), Chunks(array.beside), {*changed.tolist()}
        assert chunks.per_shard is not None
        step = chunks.per_shard[0]
        blocks = np.unique(changed // step).tolist()
        progress.start(f"packing {array.path}", len(blocks))
        for block in blocks:
            rows = range(block * step, min((block + 1) * step, array.shape[0]))
            slides = ((row, later if row in lie else chunks) for row in rows if row not in lie or row in done)
            written = _write_shards(chunks, slides)
            across = [range(-(-n // per)) for n, per in zip(chunks.grid[1:], chunks.per_shard[1:], strict=True)]
            for gone in {(block, *rest) for rest in itertools.product(*across)} - written:
                sync((chunks.at / chunks.key(gone)).delete())
            progress.advance()

    def _tidy(self, unpacked: Unpacked) -> None:
        """Remove what lies beside the shards of slides that do not: a kill may have left it."""
        for _, array in arrays(self.store.root, f"{self.path}/{UNPACKED}"):
            if self.path != "failures" and array.path != unpacked.marks.path:
                remove_chunks(array)
        self.store.settle()


def _names(root: Any, path: str) -> list[str]:
    """Names of the arrays directly in a group."""
    found = (at for at, _ in arrays(root, path)) if path in root else ()
    return [at.rpartition("/")[2] for at in found if at.rpartition("/")[0] == path]


def _grid(chunks: Any) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}


def _with(array: Any, content: dict[str, Any]) -> Any:
    """An array in the same place as another, with a metadata document that is not there yet."""
    return Array(AsyncArray(content, array.store_path))  # type: ignore[call-overload]


def _shards(array: Any, rows: NDArray[np.int64]) -> Chunk:
    """The shape of shards for an array: so many slides as have about `SHARD_BYTES`."""
    chunks = Chunks(array)
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(np.int64))]
    sizes = [sum(map(_size, chunks.places_of_slide(row))) for row in some.tolist()]
    slides = int(np.clip(SHARD_BYTES // max(1, int(np.mean(sizes))), 1, SHARD_SLIDES))
    across = [min(n, SHARD_BLOCKS) if axis == 0 else n for axis, n in enumerate(chunks.grid[1:])]
    return (slides, *(c * max(1, n) for c, n in zip(array.chunks[1:], across, strict=True)))


def _size(stored: tuple[Chunk, Place]) -> int:
    data = next(read_chunks([stored[1]], 0))
    return 0 if data is None else len(data)


def _write_table(array: Any, values: NDArray[Any]) -> None:
    """Write a column in blocks, those of fill values, too: one that is missing is lost."""
    array.with_config({"write_empty_chunks": True})[: len(values)] = values


def _write_shards(target: Chunks, slides: Iterator[tuple[int, Chunks]]) -> set[Chunk]:
    """Write the shards with the chunks of slides, each from where it lies now; returns which there are."""
    per, parts = target.per_shard, defaultdict[Chunk, list[tuple[int, Place]]](list)
    assert per is not None
    for row, source in slides:
        for chunk, place in source.places_of_slide(row):
            shard = tuple(i // n for i, n in zip(chunk, per, strict=True))
            within = np.ravel_multi_index([i % n for i, n in zip(chunk, per, strict=True)], per)
            parts[shard].append((int(within), place))
    checked, written = checksum_bytes(target.array), set()
    for shard, places in parts.items():
        index, pieces, end = np.full((int(np.prod(per)), 2), EMPTY, dtype="<u8"), [], 0
        found = read_chunks([place for _, place in places], checked)
        for (within, _), data in zip(places, found, strict=True):
            if data is not None:
                index[within] = end, len(data)
                end += len(data)
                pieces.append(data)
        if pieces:
            whole = b"".join([*pieces, _checked(index.tobytes())])
            sync((target.at / target.key(shard)).set(default_buffer_prototype().buffer.from_bytes(whole)))
            written.add(shard)
    return written


def _checked(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(CHECKSUM_BYTES, "little")
