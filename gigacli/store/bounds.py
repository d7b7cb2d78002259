"""What a reader looks at before it takes memory: sizes that a store states, against the format's bounds and its files.

A store may come from strangers. A document of a hundred bytes can state an array of terabytes, and a chunk of a hundred
bytes can grow to gigabytes; so every document and chunk is looked at as it comes from the storage, by the classes of
:mod:`gigacli.store.bounded`. The numbers are those of ``spec/store-0.2.md``, "Bounds".
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numcodecs import Zstd

from gigacli.errors import Mismatch
from gigacli.store.documents import chunk_shape, chunks_of_a_shard, codec_names, sharding, sizes
from gigacli.store.layout import ArraySpec, spec_of

MOST_FILE_BYTES = 2**32
"""Of an array of bytes, such as weights."""

MOST = {
    "slide": 2**20,
    "tile": 2**22,
    "xy": 2,
    "part": 4,
    "augmentation": 2**12,
    "draw": 2**16,
    "feature": 2**18,
    "value": 2**18,
    "rank": 2**18,
    "rank_out": 2**18,
    "score": 16,
    "calibration_tile": 2**24,
    "piece": 2**20,
    "epoch": 2**20,
    "byte": MOST_FILE_BYTES,
    "checkpoint_byte": MOST_FILE_BYTES,
}
"""The longest that a dimension may be."""

MOST_DOCUMENT_BYTES = 2**22
"""Of a metadata document."""

MOST_CHUNK_BYTES = 2**30
"""Values of a chunk that is not compressed, and of a slide as far as the chunk reaches along its second axis."""

MOST_CHUNKS = 2**12
"""Of a slide, or of an array whose chunks hold more than one slide."""

MOST_SHARD_CHUNKS = 2**16
"""Of a shard."""

MOST_UNPACKED_BYTES = 2**27
"""Values of a chunk that is compressed."""

TEXT_BYTES, TEXT_CHUNK_BYTES, TEXT_RATIO = 2**12, 2**20, 2**8
"""Texts of a chunk: 4 KiB each and 1 MiB together, and 256 times the bytes in storage beyond that."""

MOST_TEXTS = 2**22
"""Of a chunk."""

KEYS = ({"name": "default"}, *({"name": "default", "configuration": {"separator": c}} for c in "/."))
TYPES = ("bool", "string", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
         "float16", "float32", "float64")  # fmt: skip
PACKINGS = ("zstd", "gzip", "blosc")
HINT = "see what else is damaged: giga validate STORE"
ZSTD_MAGIC, ZSTD_SKIPPED = 0xFD2FB528, 0x184D2A50  # first bytes of a frame; of one without content, but for 4 bits
ZSTD_REPEATED = 1  # kind of a block that is one byte, many times
STEP_BYTES = 2**20
EMPTY = 2**64 - 1  # place and length of a chunk that is not there, in the index of a shard


@dataclass(frozen=True)
class ChunkBounds:
    """What a chunk of an array may hold.

    Attributes:
        values_bytes: Of its numbers; 0 for texts.
        texts: How many texts it holds; 0 for numbers.
        packing: ``zstd``, ``gzip``, ``blosc``, or "" where it is not compressed.
        inner: Checksums that are compressed with the values.
        outer: Checksums after that.
        shard: How many of these chunks a shard has room for; 0 where chunks lie on their own.
    """

    values_bytes: int
    texts: int
    packing: str
    inner: int
    outer: int
    shard: int = 0

    @property
    def index_bytes(self) -> int:
        """Of the end of a shard, which says where its chunks are, with its checksum."""
        return 16 * self.shard + 4

    @property
    def most_bytes(self) -> int:
        """The most bytes that a file or object of the array may have."""
        return self.shard * self.stored_bytes + self.index_bytes if self.shard else self.stored_bytes

    def unpacked_bytes(self, stored: int) -> int:
        """The most bytes that a chunk of `stored` bytes may become."""
        if not self.texts:
            return self.values_bytes + 4 * self.inner
        return min(4 + TEXT_BYTES * self.texts, TEXT_CHUNK_BYTES) + TEXT_RATIO * stored + 4 * self.inner

    @property
    def stored_bytes(self) -> int:
        """The most bytes that it may have in storage: compression may add a little."""
        most = self.values_bytes or MOST_UNPACKED_BYTES
        return most + 4 * (self.inner + self.outer) + (most // 128 + 1024 if self.packing else 0)


def excess(path: str, document: Any) -> str:
    """What a metadata document states that is beyond the format's bounds, "" where nothing is."""
    if not isinstance(document, dict):
        return ""
    if path == "slides":
        giga = (document.get("attributes") or {}).get("giga") if isinstance(document.get("attributes"), dict) else None
        n = giga.get("registered") if isinstance(giga, dict) else None
        return f"it states {n} slides; at most {MOST['slide']}" if isinstance(n, int) and n > MOST["slide"] else ""
    spec, shape, chunks = spec_of(path), document.get("shape"), chunk_shape(document)
    if spec is None or document.get("node_type") != "array" or not sizes(shape) or not sizes(chunks):
        return ""
    for name, size in zip(spec.dims, shape, strict=False):
        if size > MOST[name]:
            return f"dimension {name} has size {size}; at most {MOST[name]}"
    if len(spec.dims) != len(shape) or len(shape) != len(chunks):
        return ""
    if (number := chunks_of_a_shard(document)) > MOST_SHARD_CHUNKS:
        return f"a shard holds {number} chunks; at most {MOST_SHARD_CHUNKS}"
    return _excess_of_chunks(spec, shape, chunks, packed=any(name in PACKINGS for name in codec_names(document)))


def _excess_of_chunks(spec: ArraySpec, shape: list[int], chunks: list[int], *, packed: bool) -> str:
    across = [math.ceil(n / max(1, c)) for n, c in zip(shape, chunks, strict=True)]
    if spec.dims and (number := math.prod(across[1:] if spec.chunk == "slide" else across)) > MOST_CHUNKS:
        return f"it has {number} chunks{' a slide' if spec.chunk == 'slide' else ''}; at most {MOST_CHUNKS}"
    if spec.dtype == "string":
        cells, most = math.prod(chunks), MOST_TEXTS
        return f"a chunk holds {cells} texts; at most {most}" if cells > most else ""
    most = MOST_UNPACKED_BYTES if packed else MOST_FILE_BYTES if spec.dtype == "uint8" else MOST_CHUNK_BYTES
    wide = math.prod(chunks[:2]) * math.prod(map(max, shape[2:], chunks[2:])) if spec.chunk == "slide" else 0
    size = max(math.prod(chunks), wide) * _width(spec)
    return f"a chunk holds {size} bytes; at most {most}" if size > most else ""


def chunk_bounds(path: str, data: bytes) -> ChunkBounds | None:
    """What the chunks of an array may hold, by its metadata document; None for a group, and for unknown arrays.

    Raises:
        Mismatch: The document states sizes beyond the bounds, or an array that is not as the format says.
    """
    where = f"{path}/zarr.json".lstrip("/")
    if len(data) > MOST_DOCUMENT_BYTES:
        raise Mismatch(f"{where} has more than {MOST_DOCUMENT_BYTES} bytes", HINT)
    try:
        document = json.loads(data)
    except RecursionError:
        raise Mismatch(f"{where} is nested too deep", HINT) from None
    except ValueError:
        return None  # zarr says what is wrong
    if why := excess(path, document):
        raise Mismatch(f"{where}: {why}", HINT)
    spec = spec_of(path)
    if not isinstance(document, dict) or document.get("node_type") != "array":
        return None
    shape, chunks, names = document.get("shape"), chunk_shape(document), codec_names(document)
    spec = spec or _of_another_format(where, document)
    if not (sizes(shape) and sizes(chunks) and len(shape) == len(chunks)):
        raise Mismatch(f"{where}: shape {str(shape)[:80]}, chunks {str(chunks)[:80]}; expected sizes", HINT)
    if document.get("chunk_key_encoding") not in KEYS:
        raise Mismatch(f"{where}: keys of chunks are not c/i/j/... or c.i.j...", "write the array again with those")
    if sharding(document) is not None and not chunks_of_a_shard(document):
        raise Mismatch(f"{where}: shards are not whole numbers of chunks with an index at the end", HINT)
    if document.get("data_type") != spec.dtype:
        raise Mismatch(f"{where}: data type {str(document.get('data_type'))[:80]}; expected {spec.dtype}", HINT)
    if why := _excess_of_chunks(spec, shape, chunks, packed=any(name in PACKINGS for name in names)):
        raise Mismatch(f"{where}: {why}", HINT)
    bounds = _bounds(where, spec, math.prod(chunks), names)
    return replace(bounds, shard=chunks_of_a_shard(document)) if sharding(document) is not None else bounds


def _of_another_format(where: str, document: dict[str, Any]) -> ArraySpec:
    """What is known of an array of another tool's store: the type of its values."""
    name = document.get("data_type")
    if name not in TYPES:
        raise Mismatch(f"{where}: values of type {str(name)[:80]} are not read", "write numbers or texts")
    return ArraySpec(where, (), name, None, "all")


def _bounds(where: str, spec: ArraySpec, cells: int, names: list[str]) -> ChunkBounds:
    """Of a chunk of so many values, by the names of its codecs."""
    text = spec.dtype == "string"
    serial = "vlen-utf8" if text else "bytes"
    after = names[names.index(serial) + 1 :] if serial in names else []
    before = names[: len(names) - len(after) - 1]
    packings = [name for name in after if name in PACKINGS]
    unknown = {*before} - {"transpose"} or {*after} - {*PACKINGS, "crc32c"}
    if serial not in names or unknown or len(packings) > 1:
        raise Mismatch(
            f"{where}: codecs {', '.join(names)[:80]}; giga reads {serial}, then {', '.join(PACKINGS)} or nothing, "
            "and crc32c",
            "write the array again with those",
        )
    packing = packings[0] if packings else ""
    inner = after[: after.index(packing)].count("crc32c") if packing else 0
    texts = cells if text else 0
    return ChunkBounds(0 if text else cells * _width(spec), texts, packing, inner, after.count("crc32c") - inner)


def check_chunk(where: str, data: memoryview, bounds: ChunkBounds) -> None:
    """Hold a chunk against what its array says, before it is decoded.

    Raises:
        Mismatch: It is longer, or becomes more, or says that it holds more texts.
    """
    if len(data) > bounds.stored_bytes:
        raise Mismatch(f"{where} has {len(data)} bytes; expected at most {bounds.stored_bytes}", HINT)
    body, most = data[: max(0, len(data) - 4 * bounds.outer)], bounds.unpacked_bytes(len(data))
    size = _UNPACKED[bounds.packing](body, most)
    if size is None:
        raise Mismatch(f"{where} does not state how large it is, or is damaged", HINT)
    if size > most:
        raise Mismatch(f"{where} holds {size} bytes or more; expected at most {most}", HINT)
    if bounds.texts:
        content = _unpacked_texts(where, body, bounds.packing)
        texts = int.from_bytes(content[:4], "little")
        if texts != bounds.texts:
            raise Mismatch(f"{where} holds {texts} texts; expected {bounds.texts}", HINT)


def check_shard(where: str, data: memoryview, bounds: ChunkBounds) -> None:
    """Hold the chunks of a whole shard against what its array says, as far as its index leads into it.

    Raises:
        Mismatch: One is beyond its bounds.
    """
    if len(data) < bounds.index_bytes:
        raise Mismatch(f"{where} has {len(data)} bytes; the index of its chunks has {bounds.index_bytes}", HINT)
    for offset, length in np.frombuffer(data[-bounds.index_bytes : -4], dtype="<u8").reshape(-1, 2).tolist():
        if offset != EMPTY:
            check_chunk(where, data[offset : offset + length], bounds)


def _unpacked_texts(where: str, body: memoryview, packing: str) -> bytes:
    if packing not in ("", "zstd"):
        raise Mismatch(
            f"{where} is compressed with {packing}; texts are read plain or with zstd", "write it again with zstd"
        )
    try:
        return bytes(Zstd().decode(body)) if packing else bytes(body[:4])
    except (RuntimeError, ValueError) as error:
        raise Mismatch(f"{where} cannot be read: {error}", HINT) from error


def zstd_bytes(data: memoryview, most: int) -> int | None:
    """What frames of zstd (RFC 8878) become together, as they state; None where one does not, or is damaged."""
    total, at = 0, 0
    while at < len(data):
        magic = int.from_bytes(data[at : at + 4], "little")
        if magic & ~0xF == ZSTD_SKIPPED:
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        if magic != ZSTD_MAGIC or at + 5 > len(data):
            return None
        flags = data[at + 4]
        single, checksum, width = flags >> 5 & 1, flags >> 2 & 1, (0, 2, 4, 8)[flags >> 6]
        if not width and not single:
            return None
        at += 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
        width = max(1, width)
        total += int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
        at, last = at + width, 0
        while not last:  # blocks, each with a header of three bytes
            if at + 3 > len(data):
                return None
            block = int.from_bytes(data[at : at + 3], "little")
            last, kind = block & 1, block >> 1 & 3
            at += 3 + (1 if kind == ZSTD_REPEATED else block >> 3)
        at += 4 * checksum
    return total if at == len(data) else None


def _gzip_bytes(data: memoryview, most: int) -> int:
    """What gzip becomes, unpacked step by step and thrown away; no further than one step beyond `most`."""
    total, rest = 0, bytes(data)
    try:
        while rest and total <= most:
            member = zlib.decompressobj(wbits=31)
            while rest and not member.eof and total <= most:
                total += len(member.decompress(rest, STEP_BYTES))
                rest = member.unconsumed_tail
            rest = member.unused_data
    except zlib.error:
        return 0  # decoding says so
    return total


def _blosc_bytes(data: memoryview, most: int) -> int:
    return int.from_bytes(data[4:8], "little")


_UNPACKED = {"": lambda data, most: len(data), "zstd": zstd_bytes, "gzip": _gzip_bytes, "blosc": _blosc_bytes}


def _width(spec: ArraySpec) -> int:
    """Bytes of a number; 0 of a text."""
    return 0 if spec.dtype == "string" else np.dtype(spec.dtype).itemsize
