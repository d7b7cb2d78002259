"""Files that appear as a whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"  # the ending of files that are still being written, or were left by a process that was killed


def partial_path(path: Path) -> Path:
    """Return a name beside `path` to write its contents under, another one on every call; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there when the block ends well replaces `path`, otherwise it is removed."""
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
