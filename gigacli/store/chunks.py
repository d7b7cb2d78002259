"""Faster ways to read arrays of stores that are folders of files; the values are those that zarr gives."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding
from zarr.core.sync import sync
from zarr.storage import LocalStore

from gigacli.errors import Mismatch, NotFound

KEYS = DefaultChunkKeyEncoding(separator="/")
CHECKSUM_BYTES = 4
READ = os.O_RDONLY | os.O_NONBLOCK
"""How files are opened: a pipe in the place of a file is empty rather than waited for."""

MAP_FIXED = 0x10
MADV_RANDOM = 1  # the same numbers on Linux and macOS; Python's mmap has no name for the first


def plain_chunks(array: Any) -> bool:
    """Whether the chunks of an array are the bytes of its values under the keys ``c/i/j/...``, wherever it lies.

    A checksum may follow the values: :func:`checksum_bytes`.
    """
    codecs = array.metadata.codecs
    plain = isinstance(codecs[0], BytesCodec) and array.dtype.isnative
    plain = plain and (len(codecs) == 1 or (len(codecs) == 2 and checksum_bytes(array) > 0))
    return bool(plain and array.metadata.chunk_key_encoding == KEYS)


def checksum_bytes(array: Any) -> int:
    """Bytes of the checksum (CRC-32C, little-endian) at the end of each chunk; 0 where there is none."""
    return CHECKSUM_BYTES if isinstance(array.metadata.codecs[-1], Crc32cCodec) else 0


def what_is_wrong(data: bytes, size: int, checked: int) -> str:
    """Say what is wrong with a chunk of `size` bytes of values and `checked` of a checksum; "" where nothing is."""
    if len(data) != size + checked:
        return f"has {len(data)} bytes, expected {size + checked}"
    if checked and google_crc32c.value(data[:size]).to_bytes(checked, "little") != data[size:]:
        return "is not what its checksum says"
    return ""


def chunk_folder(array: Any) -> Path | None:
    """Folder of an array's chunks if they are plain files: local, uncompressed, ``c/i/j/...``; else None."""
    plain = isinstance(array.store, LocalStore) and plain_chunks(array)
    return Path(array.store.root, array.path, "c") if plain else None


def read_chunk(file: Path, size: int, checked: int) -> bytes:
    """A chunk of `size` bytes of values and `checked` of a checksum.

    Raises:
        NotFound: It is missing.
        Mismatch: It is damaged.
    """
    try:
        with open(os.open(file, READ), "rb") as opened:  # noqa: PTH123 - with a flag that Path.open has not
            data = opened.read(size + checked + 1)
    except FileNotFoundError as error:
        raise NotFound(f"{file} is missing", "see what else is: giga validate STORE") from error
    if wrong := what_is_wrong(data, size, checked):
        raise Mismatch(f"{file} {wrong}", "see what else is damaged: giga validate STORE")
    return data


def read_column(array: Any, n: int | None = None) -> NDArray[Any]:
    """``array[:n]`` of an array with one chunk per slide (``done``, ``failures``), which are listed first.

    Zarr takes a quarter of a millisecond per chunk whether it is there or not, which is seconds for 12,000 slides;
    remote storage takes a request.
    """
    if array.ndim == 0 or array.chunks != (1, *array.shape[1:]) or array.metadata.chunk_key_encoding != KEYS:
        return np.asarray(array[:n] if array.ndim else array[()])
    folder = chunk_folder(array)
    length = array.shape[0] if n is None else min(n, array.shape[0])
    rows = _written_rows(array, length)
    values = np.full((length, *array.shape[1:]), array.fill_value, dtype=array.dtype)
    size, checked = values[:1].nbytes, checksum_bytes(array)
    inner = "/0" * (array.ndim - 1)  # the key of a slide's chunk goes on
    if folder is None:
        if rows:
            values[rows] = array.oindex[rows]
        return values
    for row in rows:
        try:
            descriptor = os.open(f"{folder}/{row}{inner}", READ)  # pathlib takes three times as long
        except FileNotFoundError:  # set back to its fill value in this moment
            continue
        data = os.read(descriptor, size + checked + 1)
        os.close(descriptor)
        if what_is_wrong(data, size, checked):
            return np.asarray(array[:n])  # damaged: zarr says what is wrong
        values[row] = np.frombuffer(data, dtype=array.dtype, count=values[row].size).reshape(values[row].shape)
    return values


def read_table(array: Any, n: int) -> NDArray[Any]:
    """``array[:n]`` of an array of which every chunk is stored, in blocks of rows.

    Raises:
        Mismatch: A chunk is missing.
    """
    values = np.asarray(array[:n])
    if lost := missing_blocks(array, values):
        raise Mismatch(
            f"{array.path}/c/{lost[0]} is missing: what it said of {array.chunks[0]} slides is lost",
            "see what else is: giga validate STORE",
        )
    return values


def missing_blocks(array: Any, values: NDArray[Any]) -> list[int]:
    """Numbers of the chunks, blocks of rows, that hold the first values of an array and are not stored.

    Only those are asked for that read as the fill value.
    """
    fill, step = np.asarray(array.fill_value, dtype=values.dtype), array.chunks[0]
    lost = []
    for i, start in enumerate(range(0, len(values), step)):
        block = values[start : start + step]
        same = np.isnan(block) if values.dtype.kind == "f" and np.isnan(fill) else block == fill
        if np.all(same) and not is_stored(array, (i, *(0 for _ in array.shape[1:]))):
            lost.append(i)
    return lost


def is_stored(array: Any, chunk: tuple[int, ...]) -> bool:
    """Whether a chunk of an array, by its place in the grid of chunks, is there."""
    key = array.metadata.encode_chunk_key(chunk)
    return bool(sync((array.store_path / key).exists()))


def _written_rows(array: Any, length: int) -> list[int]:
    """The first entries of an array with one chunk per entry that have a chunk; the others hold the fill value."""
    if isinstance(array.store, LocalStore):
        folder = Path(array.store.root, array.path, "c")
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    else:
        names = sync(_listed(array.store, f"{array.path}/c"))
    # what has another name is a temporary file of a killed writer
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and int(name) < length)


def stored_chunks(array: Any, row: int) -> set[int]:
    """Which chunks of a slide are stored, by their number along the second axis; others hold only fill values."""
    names = sync(_listed(array.store, f"{array.path}/c/{row}"))
    return {int(name) for name in names if name.isascii() and name.isdecimal()}


async def _listed(store: Any, prefix: str) -> list[str]:
    return [name async for name in store.list_dir(prefix)]


class _Pages:
    """Files mapped one after the other into one range of addresses, each from a page of its own.

    Python's own mmap keeps a file descriptor per mapping (before 3.13), and cannot choose addresses.
    """

    def __init__(self, files: Sequence[Path], size: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._unmap = libc.munmap
        self.stride = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.size = max(1, len(files)) * self.stride
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self.address = _mapped(libc.mmap(None, self.size, mmap.PROT_READ, flags, -1, 0), len(files))
        for i, file in enumerate(files):
            descriptor = _open(file, size)
            try:
                at = self.address + i * self.stride
                _mapped(libc.mmap(at, size, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, descriptor, 0), len(files))
            finally:
                os.close(descriptor)
        libc.madvise(self.address, self.size, MADV_RANDOM)  # read what is asked for, not what lies around it
        self.__array_interface__ = {
            "shape": (len(files), size),
            "strides": (self.stride, 1),
            "typestr": "|u1",
            "data": (self.address, True),
            "version": 3,
        }

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._unmap(self.address, self.size)


def map_files(files: Sequence[Path], *, size: int) -> NDArray[np.uint8]:
    """Files of `size` bytes each as one read-only array (file, byte) in mapped memory, holding none of them open.

    Raises:
        Mismatch: A file is missing or of another size, or there are more than the system can map.
    """
    return np.asarray(_Pages(files, size))


class FileRows:
    """Rows of files, read one by one: for more files than a process may map."""

    def __init__(
        self, files: Sequence[Path], shape: tuple[int, int], dtype: np.dtype[Any], *, checksum_bytes: int
    ) -> None:
        self.shape, self.dtype = (len(files), *shape), dtype  # (files, rows of a file, values of a row)
        self.nbytes = len(files) * shape[0] * shape[1] * dtype.itemsize
        self._files, self._row = files, shape[1] * dtype.itemsize
        self._size = shape[0] * self._row + checksum_bytes

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """``rows[file, row]`` with arrays of numbers, as an array's; or a slice of files, whole."""
        if isinstance(index, slice):
            files = range(len(self._files))[index]
            index = np.array(files)[:, None], np.arange(self.shape[1])
        file, row = np.broadcast_arrays(*index)
        rows = np.empty((file.size, self.shape[2]), dtype=self.dtype)
        order = np.argsort(file, axis=None, kind="stable")
        descriptor, opened = -1, -1
        try:
            for i in order.tolist():
                if file.flat[i] != opened:
                    if descriptor >= 0:
                        os.close(descriptor)
                    opened, descriptor = int(file.flat[i]), -1
                    descriptor = _open(self._files[opened], self._size)
                data = os.pread(descriptor, self._row, int(row.flat[i]) * self._row)
                rows[i] = np.frombuffer(data, dtype=self.dtype)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return rows.reshape(*file.shape, self.shape[2])

    def __len__(self) -> int:
        return len(self._files)


def _open(file: Path, size: int) -> int:
    """A descriptor of a file whose size is right: reading a mapping beyond the end of its file kills the process."""
    try:
        descriptor = os.open(file, READ)
    except FileNotFoundError:
        raise Mismatch(f"{file} is missing", "see what else is: giga validate STORE") from None
    if (found := os.fstat(descriptor).st_size) != size:
        os.close(descriptor)
        raise Mismatch(f"{file} has {found} bytes, expected {size}", "see what else is damaged: giga validate STORE")
    return descriptor


def _mapped(address: int | None, n: int) -> int:
    if address is None or address == ctypes.c_void_p(-1).value:
        raise Mismatch(
            f"{n} files cannot be mapped into memory: {os.strerror(ctypes.get_errno())}",
            "raise the system's limit, for example: sysctl vm.max_map_count=1000000",
        )
    return address
