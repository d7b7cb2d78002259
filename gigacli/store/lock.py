"""Who uses a store in a folder: packing is refused while somebody writes, and removes nothing while somebody reads.

Two bytes of the root's metadata document are locked, one by all who have the store open, one by those who write; the
document is written once, when the store is made. The system forgets the locks of a process that ends, however it ends.
Stores elsewhere have none, nor have systems without locks of open files (Linux has them, on most shared disks, too).
"""

from __future__ import annotations

import os
import struct
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigacli.errors import Mismatch

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

LOCKED = "zarr.json"
USERS, WRITERS = 0, 1
"""The bytes that are locked."""

PATIENCE_S = 2.0
"""How long is waited for others to stop reading."""

F_UNLCK, F_RDLCK, F_WRLCK = (getattr(fcntl, name, None) for name in ("F_UNLCK", "F_RDLCK", "F_WRLCK"))
F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", None)


@dataclass
class _Document:
    """A document that this process has open once, however many of its stores are open.

    Attributes:
        users: How many there are for each byte.
        alone: Bytes that this process has for itself.
    """

    descriptor: int
    users: list[int] = field(default_factory=lambda: [0, 0])
    alone: set[int] = field(default_factory=set)


_documents: dict[tuple[int, int], _Document] = {}  # (device, inode) -> what is open of it


def share(owner: Any, url: str, *, write: bool) -> None:
    """Lock the store at a path together with all who use it, as long as the object `owner` lives.

    Raises:
        Mismatch: It is being packed, and `owner` is to write.
    """
    if (key := _opened(url)) is None:
        return
    for byte in (USERS, *([WRITERS] if write else [])):
        here = _documents[key]
        here.users[byte] += 1
        weakref.finalize(owner, _let_go, key, byte)
        if byte not in here.alone and _lock(here.descriptor, byte, F_RDLCK) is False and byte == WRITERS:
            raise Mismatch(f"{url} is being packed by another process", "wait until that has finished")


@contextmanager
def alone_writing(url: str) -> Iterator[bool]:
    """Keep other processes from writing; says whether that could be made sure of.

    Raises:
        Mismatch: One is writing.
    """
    with _alone(url, WRITERS) as locked:
        if locked is False:
            raise Mismatch(
                f"another process writes to {url}, or has it open to write",
                "wait until it has finished; giga pack can be run at any time",
            )
        yield locked is True


@contextmanager
def nobody_reading(url: str) -> Iterator[bool]:
    """Whether no other process has the store open."""
    with _alone(url, USERS, patience_s=PATIENCE_S) as locked:
        yield locked is not False


@contextmanager
def _alone(url: str, byte: int, *, patience_s: float = 0.0) -> Iterator[bool | None]:
    """Whether a byte is locked for this process alone; None where there are no locks."""
    key = _opened(url)
    if key is None:
        yield None
        return
    here, until = _documents[key], time.monotonic() + patience_s
    here.users[byte] += 1
    descriptor = os.open(Path(url, LOCKED), os.O_RDWR)  # nobody can be kept out by who may not write
    _lock(here.descriptor, byte, F_UNLCK)
    try:
        while (locked := _lock(descriptor, byte, F_WRLCK)) is False and time.monotonic() < until:
            time.sleep(0.05)
        if locked:
            here.alone.add(byte)
        yield locked
    finally:
        here.alone.discard(byte)
        os.close(descriptor)
        _lock(here.descriptor, byte, F_RDLCK)
        _let_go(key, byte)


def _opened(url: str) -> tuple[int, int] | None:
    """The root's document of the store at a path, opened once by this process; None where it cannot be locked."""
    if F_OFD_SETLK is None:
        return None
    try:
        descriptor = os.open(Path(url, LOCKED), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    found = os.fstat(descriptor)
    key = (found.st_dev, found.st_ino)
    if key in _documents:
        os.close(descriptor)  # locks belong to the descriptor that took them
    else:
        _documents[key] = _Document(descriptor)
    return key


def _lock(descriptor: int, byte: int, how: Any) -> bool | None:
    """Lock a byte, or unlock it; False where another process keeps it, None where it cannot be locked."""
    wanted = struct.pack("hhqqi4x", how, os.SEEK_SET, byte, 1, 0)  # struct flock
    try:
        fcntl.fcntl(descriptor, F_OFD_SETLK, wanted)  # type: ignore[arg-type]
    except BlockingIOError:
        return False
    except PermissionError:  # what some systems say in place of that
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _let_go(key: tuple[int, int], byte: int) -> None:
    here = _documents[key]
    here.users[byte] -= 1
    if not here.users[byte]:
        _lock(here.descriptor, byte, F_UNLCK)
    if not any(here.users):
        del _documents[key]
        os.close(here.descriptor)
