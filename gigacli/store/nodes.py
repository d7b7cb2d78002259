"""Groups and arrays below a path of a zarr hierarchy.

Zarr's own listing stops at a damaged metadata document, and warns of the temporary files that a killed writer leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zarr
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from gigacli.errors import Mismatch
from gigacli.store.bounds import MOST_DOCUMENT_BYTES

DEEPEST = 3  # groups above an array, models/NAME/history/loss: links that lead in a circle are not followed for ever


def document(root: Any, path: str) -> bytes | None:
    """The metadata document of the node at `path`, None where there is no node.

    Whatever it states, and no more than one byte beyond what a document may have.
    """
    at, whole = root.store_path / f"{path}/zarr.json".lstrip("/"), RangeByteRequest(0, MOST_DOCUMENT_BYTES + 1)
    value = sync(at.get(prototype=default_buffer_prototype(), byte_range=whole))
    return None if value is None else bytes(value.to_bytes())


def children(root: Any, path: str) -> list[str]:
    """Paths of everything that lies directly under a group and has a metadata document, in alphabetical order."""
    at = root.store_path / path

    async def names() -> list[str]:
        return [name async for name in at.store.list_dir(at.path)]

    paths = sorted(f"{path}/{name}".lstrip("/") for name in sync(names()) if name != "zarr.json")
    return [child for child in paths if _is_there(root, child)]


def lost(root: Any, path: str) -> list[str]:
    """Paths directly under a group that hold parts of zarr nodes, and have lost the document that says of what."""
    at = root.store_path / path

    async def listed(prefix: str) -> list[str]:
        return [name async for name in at.store.list_dir(prefix)]

    def is_node(child: str) -> bool:
        names = sync(listed(f"{at.path}/{child}".lstrip("/")))
        below = (f"{path}/{child}/{name}".lstrip("/") for name in names)
        return "zarr.json" not in names and ("c" in names or any(_is_there(root, node) for node in below))

    found = [name for name in sync(listed(at.path)) if name not in ("zarr.json", "c") and is_node(name)]
    return sorted(f"{path}/{name}".lstrip("/") for name in found)


def _is_there(root: Any, path: str) -> bool:
    try:
        return document(root, path) is not None
    except Mismatch:  # a pipe or a device in its place: something is
        return True


def arrays(root: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All arrays under a group, with their paths."""
    for child in children(root, path):
        node = root[child]
        if isinstance(node, zarr.Array):
            yield child, node
        elif child.count("/") < DEEPEST:
            yield from arrays(root, child)
