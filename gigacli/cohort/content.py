"""Content of slide files and tissue masks: hashes that tell whether a file is still what it was when it was tiled."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from gigacli.cohort.registration import file_problem
from gigacli.store.identity import FILE, MASK, UNKNOWN, digest
from gigacli.store.store import Store
from gigacli.store.table import SlideRow
from gigacli.wsi.slide_files import size_and_time, slide_files

BLOCK_BYTES = 65536
INNER_BLOCKS = 16
"""Blocks between the first and the last one of a sample, spread evenly."""

STEP_BYTES = 2**22


def hash_of_slide(path: Path, *, whole: bool) -> int:
    """A hash of the size and of a sample of the bytes of a slide: its first and last 64 KB, and 16 blocks between.

    A slide of several files (MIRAX, and the folder beside it) is what they are one after the other, in the order of
    their names; the size is that of each. Of an OME-Zarr image it is the files that describe it and some of its chunks.

    Args:
        path: The slide file, or its folder.
        whole: Hash all bytes.
    """
    files = slide_files(path, whole=whole)
    sizes = [file.stat().st_size for file in files]
    total = sum(sizes)
    if whole or total <= (INNER_BLOCKS + 2) * BLOCK_BYTES:
        spans: Iterator[tuple[int, int]] = ((at, min(STEP_BYTES, total - at)) for at in range(0, total, STEP_BYTES))
    else:
        last = total - BLOCK_BYTES
        spans = ((last * i // (INNER_BLOCKS + 1), BLOCK_BYTES) for i in range(INNER_BLOCKS + 2))
    return digest([str(sizes).encode(), *(_read(files, sizes, at, n) for at, n in spans)])


def hash_of_mask(path: str) -> int:
    """A hash of the bytes of a tissue mask; :data:`~gigacli.store.identity.UNKNOWN` for a slide without one."""
    if not path:
        return UNKNOWN
    with Path(path).open("rb") as opened:
        return digest(iter(lambda: opened.read(STEP_BYTES), b""))


def slide_problem(store: Store, row: int) -> str:
    """What is wrong with a slide file now, "" if nothing is: it must be there, and hold what was tiled."""
    slide = store.slides[row]
    return file_problem(slide) or _other_bytes(store, row, slide)


def changes(store: Store, rows: Sequence[int]) -> dict[int, str]:
    """What has changed of slides that are tiled, by row: the bytes of their masks, or of files that were written since.

    A file of the size and time it was registered with is taken to be the same.
    """
    tiled, found = store.tiles.done().finished, {}
    for row in (row for row in rows if tiled[row]):
        slide = store.slides[row]
        path = Path(slide.path)
        if slide.path and path.exists() and size_and_time(path)[1] != slide.modified_ns:
            found[row] = _other_bytes(store, row, slide)
        if slide.mask and not found.get(row):
            found[row] = _other_mask(store, row, slide)
    return {row: why for row, why in found.items() if why}


def _other_bytes(store: Store, row: int, slide: SlideRow) -> str:
    known = int(store.tiles.identity(row)[FILE])
    if known <= UNKNOWN:
        return ""
    whole = bool(store.tiles.config.get("hash", False))
    if hash_of_slide(Path(slide.path), whole=whole) == known:
        return ""
    return f"{slide.path} holds other bytes than when it was tiled; {_as_it_is(slide)}"


def _other_mask(store: Store, row: int, slide: SlideRow) -> str:
    if not Path(slide.mask).is_file():
        return f"its mask {slide.mask} is not there; name it in a table with a column mask: giga tile STORE --csv"
    if hash_of_mask(slide.mask) == int(store.tiles.identity(row)[MASK]):
        return ""
    return f"its mask {slide.mask} has changed since it was tiled; {_as_it_is(slide)}"


def _as_it_is(slide: SlideRow) -> str:
    return f"giga tile STORE --redo --slide {shlex.quote(slide.id)} takes it as it is"


def _read(files: Sequence[Path], sizes: Sequence[int], start: int, n: int) -> bytes:
    """`n` bytes of files that lie one after the other."""
    parts, at = [], 0
    for file, size in zip(files, sizes, strict=True):
        first, last = max(start, at), min(start + n, at + size)
        if first < last:
            with file.open("rb") as opened:
                opened.seek(first - at)
                parts.append(opened.read(last - first))
        at += size
    return b"".join(parts)
