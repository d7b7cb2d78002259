"""A store in a folder of this machine, that writes nowhere else: not through symbolic links below its root.

Links are read like what they point to. Writing through one would change another store, or anything else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore

from gigacli.errors import Mismatch
from gigacli.store.bounded import Bounded
from gigacli.store.bounds import HINT
from gigacli.store.durable import DurableStore
from gigacli.store.layout import NAMED_GROUPS

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


class Folder(Bounded, DurableStore):
    """Zarr's store of files; the root may be a link, nothing below it that is written or removed.

    What is read is looked at first: :mod:`gigacli.store.bounds`.

    Raises:
        Mismatch: When something is to be written or removed through a link.
    """

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file."""
        self._refuse(key)
        await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file where there is none."""
        self._refuse(key)
        await super().set_if_not_exists(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a file."""
        self._refuse(key)
        super().set_sync(key, value)

    async def delete(self, key: str) -> None:
        """Remove a file."""
        self._refuse(key)
        await super().delete(key)

    def delete_sync(self, key: str) -> None:
        """Remove a file."""
        self._refuse(key)
        super().delete_sync(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove a folder; links in it are removed, and not followed."""
        self._refuse(prefix)
        await super().delete_dir(prefix)

    async def _limited(self, key: str, prototype: Any, byte_range: Any, most: int | None) -> Any:
        try:
            found = os.stat(f"{self.root}/{key}")  # noqa: PTH116 - pathlib takes three times as long
        except OSError:
            return await self._storage.get(key, prototype, byte_range)
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise Mismatch(f"{key} is no file", HINT)  # a pipe, or a device without end
        if most is not None and found.st_size > most:
            raise Mismatch(f"{key} has {found.st_size} bytes; expected at most {most}", HINT)
        return await self._storage.get(key, prototype, byte_range)

    def _refuse(self, key: str) -> None:
        if (link := _link_on_the_way(self.root, key)) is not None:
            raise is_a_link(link)


def links(root: Any, path: str = "", *, chunks: bool = False) -> Iterator[str]:
    """Paths of the symbolic links at and below a path of a store, and on the way to it; none where it is remote.

    Args:
        root: Root group of the store.
        path: A group.
        chunks: Look among the chunks of arrays too, of which there may be very many.
    """
    if not isinstance(root.store, LocalStore):
        return
    folder = Path(root.store.root)
    if (link := _link_on_the_way(folder, path)) is not None:
        yield link.relative_to(folder).as_posix()
        return
    for at, folders, files in os.walk(folder / path):
        here = Path(at).relative_to(folder)
        yield from (
            (here / name).as_posix() for name in sorted([*folders, *files]) if (folder / here / name).is_symlink()
        )
        if not chunks and here.as_posix() not in NAMED_GROUPS and "c" in folders:  # zarr's folder of chunks
            folders.remove("c")
        folders.sort()


def is_a_link(path: str | Path) -> Mismatch:
    """The error of writing through a link."""
    return Mismatch(
        f"{path} is a symbolic link: writing there would change what lies elsewhere",
        "replace the link by a copy of what it points to, or remove it",
    )


def _link_on_the_way(root: Path, key: str) -> Path | None:
    """The first link below the root on the way to a key."""
    at = str(root)
    for part in key.split("/"):
        at = f"{at}/{part}"
        if os.path.islink(at):  # noqa: PTH114 - pathlib takes three times as long
            return Path(at)
    return None
