"""Files that appear as a whole or not at all: written beside their place, then renamed.

A process that is killed leaves what it had written under its temporary name; the next one that writes into the folder
removes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

if sys.platform == "darwin":
    import fcntl

PARTIAL = ".partial"  # the ending of files that are still being written, or were left by a process that was killed

_NAME = re.compile(rf"\.(.+)\.([0-9a-f]{{8}})-(\d+)-[0-9a-f]{{8}}{re.escape(PARTIAL)}", re.DOTALL)

ABANDONED_S = 86400.0
"""What a process of another machine has not touched for so long was left by one that was killed."""


_looked_in: set[Path] = set()
"""Folders that this process has looked for abandoned files in: once is enough, and listing many files takes time."""


def partial_path(path: Path) -> Path:
    """Return a name beside `path` to write its contents under, another one on every call; its folder is made.

    The name says which process of which machine it belongs to. Files that killed processes left in the folder are
    removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in _looked_in:
        _looked_in.add(path.parent)
        for left in abandoned(path.parent):
            if left.is_file():
                with suppress(OSError):  # it only takes room
                    left.unlink()
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there when the block ends well replaces `path`, otherwise it is removed."""
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def to_disk(descriptor: int) -> None:
    """Wait until what was written to an open file, or the entries of an open folder, are on the disk.

    Raises:
        OSError: The disk failed, or the file system cannot wait for a folder.
    """
    if sys.platform == "darwin":  # its fsync leaves them in the memory of the disk
        with suppress(OSError):  # of file systems that do not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def abandoned(folder: Path, *, name: str | None = None) -> list[Path]:
    """Temporary files and folders, of names that only giga gives, whose processes were killed.

    Those of this machine whose process is gone, and those of other machines that nobody has written to for a day.

    Args:
        folder: Where they lie.
        name: Only those of the file or folder of this name.
    """
    found = []
    for left in folder.glob(f".*{PARTIAL}"):
        match = _NAME.fullmatch(left.name)
        if match is None or left.is_symlink() or name not in (None, match[1]):
            continue
        mine = match[2] == _machine()
        if (mine and not _alive(int(match[3]))) or (not mine and time.time() - _touched(left) > ABANDONED_S):
            found.append(left)
    return found


@cache
def _machine() -> str:
    """What tells machines, and containers with process numbers of their own, apart: 8 hex digits."""
    space = Path("/proc/self/ns/pid")
    numbers = space.readlink() if space.exists() else ""
    return hashlib.sha256(f"{socket.gethostname()} {numbers}".encode()).hexdigest()[:8]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def _touched(path: Path) -> float:
    """When a file, or the last one in a folder, was written to; now, where that cannot be told."""
    try:
        return max(p.stat().st_mtime for p in (path, *path.rglob("*")))
    except OSError:
        return time.time()
