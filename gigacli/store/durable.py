"""Zarr's store of files, kept to the disk: a power cut leaves every file whole or not there (rules WRITE-8, WRITE-10).

A file is written under another name, waited for, and renamed. The folders it was renamed, made or removed in are
remembered, and waited for together, by :meth:`DurableStore.settle`: a slide is settled once, and not file by file.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zarr.storage import LocalStore

from gigacli.files import to_disk
from gigacli.store.layout import NAMED_GROUPS

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

AT_ONCE = 16
"""Folders that are waited for side by side: a disk does with one flush what is asked for at a time."""

NO_SUCH_THING = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems say that cannot wait for folders: they need not, or nothing can be done."""


class Unsettled:
    """Folders below a root whose entries may not be on the disk; any number of threads may use it.

    Attributes:
        waits: Whether anything is waited for at all.
    """

    def __init__(self, root: str, *, waits: bool = True) -> None:
        self.waits = waits
        self._root = root
        self._folders: set[str] = set()
        # Folders that were remembered once, with all that leads to them: another process may have made a folder and
        # have been killed before it settled.
        self._known: set[str] = set()
        self._first = True
        self._adding, self._settling = threading.Lock(), threading.Lock()

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """What a pickle makes in another process: it has written nothing yet."""
        return partial(Unsettled, waits=self.waits), (self._root,)

    def changed(self, folder: str) -> None:
        """Remember a folder, after its entries have changed; when first heard of, with all folders that lead to it."""
        if not self.waits:
            return
        with self._adding:
            self._folders.add(folder)
            while folder not in self._known and len(folder) >= len(self._root):
                self._known.add(folder)
                folder = os.path.dirname(folder)  # noqa: PTH120 - pathlib takes several times as long
                self._folders.add(folder)

    def removed(self, folder: str) -> None:
        """Take a folder for unknown that is no more: the next one of its name is another."""
        with self._adding:
            self._known = {path for path in self._known if path != folder and not path.startswith(f"{folder}/")}
        self.changed(os.path.dirname(folder))  # noqa: PTH120

    def settle(self) -> None:
        """Wait until the entries of all folders that were remembered before this call are on the disk."""
        if not self.waits:
            return
        with self._settling:  # another thread may be waiting for folders of this one
            with self._adding:
                folders, self._folders = self._folders, set()
            if self._first:
                folders |= _folders_of_nodes(self._root)
            if not folders:
                return
            try:
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    list(pool.map(self._wait_for, folders))
            except BaseException:
                with self._adding:
                    self._folders |= folders
                raise
            self._first = False

    def _wait_for(self, folder: str) -> None:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):  # removed: its own folder is remembered
            return
        except PermissionError:
            if len(folder) < len(self._root):  # a folder of others, in which stores may be made, but not listed
                return
            raise
        try:
            to_disk(descriptor)
        except OSError as error:
            if error.errno not in NO_SUCH_THING:
                raise
        finally:
            os.close(descriptor)


def _folders_of_nodes(root: str) -> set[str]:
    """Folders of groups, arrays and their chunks: a process that was killed may not have waited for what is in them."""
    found = set()
    for at, folders, _ in os.walk(root):
        found.add(at)
        if "c" in folders and os.path.relpath(at, root) not in NAMED_GROUPS:
            folders.remove("c")  # of chunks there may be very many; what relies on one writes it
            found.add(f"{at}/c")
    return found


class DurableStore(LocalStore):
    """Zarr's store of files, whose writes can be waited for."""

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        # absolute, so that a root without folders before it has one to be an entry of
        self.unsettled = Unsettled(os.path.abspath(self.root))  # noqa: PTH100 - not where links lead

    def with_read_only(self, read_only: bool = False) -> Self:  # noqa: FBT001, FBT002 - zarr's
        """The same store, to be written to or not."""
        other = super().with_read_only(read_only)
        other.unsettled = self.unsettled
        return other

    def settle(self) -> None:
        """Wait until all that was written, renamed and removed so far is on the disk.

        Raises:
            OSError: The disk failed.
        """
        self.unsettled.settle()

    async def _open(self, **options: Any) -> None:
        if not self.read_only:
            self._make_folder(self._path(""))
        await super()._open(**options)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file."""
        await self._in_a_thread(self._put, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file where there is none."""
        await self._in_a_thread(self._put, key, value, new=True)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a file."""
        self._ensure_open_sync()
        self._check_writable()
        self._put(key, value)

    async def delete(self, key: str) -> None:
        """Remove a file, or a folder."""
        await self._in_a_thread(self._remove, key)

    def delete_sync(self, key: str) -> None:
        """Remove a file, or a folder."""
        self._ensure_open_sync()
        self._check_writable()
        self._remove(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove a folder."""
        await self._in_a_thread(self._remove, prefix)

    async def _in_a_thread(self, work: Any, *arguments: Any, **named: Any) -> None:
        if not self._is_open:
            await self._open()
        self._check_writable()
        await asyncio.to_thread(work, *arguments, **named)

    def _path(self, key: str) -> str:
        return os.path.join(os.path.abspath(self.root), key).rstrip("/")  # noqa: PTH100, PTH118

    def _put(self, key: str, value: Buffer, *, new: bool = False) -> None:
        path = self._path(key)
        folder = os.path.dirname(path)  # noqa: PTH120
        self._make_folder(folder)
        partial = f"{path}.{uuid.uuid4().hex}.partial"
        try:
            with open(partial, "xb") as file:  # noqa: PTH123
                file.write(value.as_buffer_like())
                if self.unsettled.waits:
                    file.flush()
                    to_disk(file.fileno())
            if new:
                os.link(partial, path)
                os.unlink(partial)  # noqa: PTH108
            else:
                os.replace(partial, path)  # noqa: PTH105
        except BaseException as error:
            Path(partial).unlink(missing_ok=True)
            if new and isinstance(error, FileExistsError):
                return
            raise
        finally:
            self.unsettled.changed(folder)

    def _remove(self, key: str) -> None:
        path = self._path(key)
        if os.path.isdir(path):  # noqa: PTH112
            try:
                shutil.rmtree(path)
            finally:
                self.unsettled.removed(path)
        else:
            Path(path).unlink(missing_ok=True)
            # where it is not there, too: a killed process may have removed it and not have waited
            self.unsettled.changed(os.path.dirname(path))  # noqa: PTH120

    def _make_folder(self, folder: str) -> None:
        """Make a folder and those that lead to it, and remember each that was not there."""
        if os.path.isdir(folder):  # noqa: PTH112
            return
        above = os.path.dirname(folder)  # noqa: PTH120
        if above != folder:
            self._make_folder(above)
        Path(folder).mkdir(exist_ok=True)
        self.unsettled.changed(above)
