"""Groups and arrays below a path of a zarr hierarchy.

Zarr's own listing stops at a damaged metadata document, and warns of the temporary files that a killed writer leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync


def document(root: Any, path: str) -> bytes | None:
    """The metadata document of the node at `path`, None where there is no node."""
    at = root.store_path / f"{path}/zarr.json".lstrip("/")
    value = sync(at.get(prototype=default_buffer_prototype()))
    return None if value is None else bytes(value.to_bytes())


def children(root: Any, path: str) -> list[str]:
    """Paths of everything that lies directly under a group and has a metadata document, in alphabetical order."""
    at = root.store_path / path

    async def names() -> list[str]:
        return [name async for name in at.store.list_dir(at.path)]

    paths = sorted(f"{path}/{name}".lstrip("/") for name in sync(names()) if name != "zarr.json")
    return [child for child in paths if document(root, child) is not None]


def arrays(root: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All arrays under a group, with their paths."""
    for child in children(root, path):
        node = root[child]
        if isinstance(node, zarr.Array):
            yield child, node
        else:
            yield from arrays(root, child)
