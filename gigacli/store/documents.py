"""What zarr's metadata documents say of chunks, read as they lie in the store: any of it may be damaged."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def sharding(document: dict[str, Any]) -> dict[str, Any] | None:
    """The configuration of the shards of an array, by its metadata document; None where it has none."""
    codecs = document.get("codecs")
    first = codecs[0] if isinstance(codecs, list) and len(codecs) == 1 else None
    if not isinstance(first, dict) or first.get("name") != "sharding_indexed":
        return None
    settings = first.get("configuration")
    return settings if isinstance(settings, dict) else {}


def shard_shape(document: dict[str, Any]) -> Any:
    """The shape of the shards of an array, else of its chunks."""
    grid = document.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, dict) and grid.get("name") == "regular" else None
    return settings.get("chunk_shape") if isinstance(settings, dict) else None


def chunk_shape(document: dict[str, Any]) -> Any:
    """The shape of the chunks, those within shards where there are any."""
    shards = sharding(document)
    return shard_shape(document) if shards is None else shards.get("chunk_shape")


def chunks_of_a_shard(document: dict[str, Any]) -> int:
    """How many chunks a shard has room for; 0 where there are no shards, or not as giga reads them."""
    settings, outer, inner = sharding(document), shard_shape(document), chunk_shape(document)
    if settings is None or not (sizes(outer) and sizes(inner) and len(outer) == len(inner)):
        return 0
    index = settings.get("index_codecs")
    index = [c.get("name") if isinstance(c, dict) else c for c in index] if isinstance(index, list) else []
    if index != ["bytes", "crc32c"] or settings.get("index_location", "end") != "end":
        return 0
    if not all(i > 0 and o % i == 0 for o, i in zip(outer, inner, strict=True)):
        return 0
    return math.prod(o // i for o, i in zip(outer, inner, strict=True))


def sizes(value: Any) -> TypeGuard[list[int]]:
    """Whether a value is a list of numbers that may be sizes."""
    return isinstance(value, list) and all(isinstance(n, int) and n >= 0 for n in value)


def codec_names(document: dict[str, Any]) -> list[str]:
    """Names of the codecs, those within shards where there are any."""
    shards = sharding(document)
    codecs = document.get("codecs") if shards is None else shards.get("codecs")
    return [str(c.get("name") if isinstance(c, dict) else c) for c in codecs] if isinstance(codecs, list) else []
