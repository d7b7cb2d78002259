"""The tiles a training sees, each once an epoch: read from their slides once, kept in a cache, handed out by number."""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gigacli.config.base import fingerprint
from gigacli.errors import GigaError, reason_of
from gigacli.wsi.slide import Slide
from gigacli.wsi.tile_cache import QUALITY, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from gigacli.wsi.reader import SlideTiles, TileReader
    from gigacli.wsi.tile_cache import Pack, PackWriter, TileCache

OPEN_SLIDES = 32
"""Slides open at once where tiles are read from slides."""


class Grid(NamedTuple):
    """How tiles are read: their edge, their resolution, and whether slides scanned coarser are enlarged."""

    tile_px: int
    mpp: float
    upsample: bool


def keep_tiles(
    slides: Sequence[SlideTiles],
    cache: TileCache | None,
    reader: TileReader,
    pool: Executor,
    *,
    grid: Grid,
    again: bool,
    done: Callable[[SlideTiles, str], None],
) -> list[Pack | None]:
    """Read every tile once, so that what cannot be read is known before anything is trained, and keep what fits.

    Args:
        slides: What to read.
        cache: Where to keep tiles.
        reader: Reads blocks of tiles.
        pool: Threads that compress.
        grid: How it reads them, which belongs to the name of a pack.
        again: These tiles were all read by an earlier run: read only what the cache lacks and has room for.
        done: Told of every slide, with the reason where it cannot be read and "" otherwise.

    Returns:
        The pack of every slide; ``None`` where its tiles must be read from the slide.

    Raises:
        GigaError: The cache cannot be written.
    """
    packs: dict[int, Pack | None] = {}
    names = {id(slide): key_of(slide, grid) for slide in slides}

    def missing() -> Iterator[SlideTiles]:
        for slide in slides:
            pack = cache.open(names[id(slide)], tiles=len(slide.coords)) if cache else None
            if pack is not None or (again and (cache is None or cache.full)):
                packs[id(slide)] = pack
                done(slide, "")
            else:
                yield slide

    writer: PackWriter | None = None
    try:
        for block in reader.blocks(missing()):
            if block.error is None and cache is not None and (writer is not None or not cache.full):
                with _writing(cache):
                    writer = writer or cache.write(names[id(block.slide)])
                    writer.add(block.tiles.transpose(0, 2, 3, 1), pool)
                    if block.last:
                        packs[id(block.slide)] = writer.finish()
            if block.last:
                if block.error is not None and writer is not None:
                    writer.discard()
                writer = None
                done(block.slide, "" if block.error is None else reason_of(block.error))
    finally:
        if writer is not None:
            writer.discard()
    return [packs.get(id(slide)) for slide in slides]


@contextmanager
def _writing(cache: TileCache) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GigaError(
            f"the tile cache {cache.folder} cannot be written: {error}",
            "give it less room with --cache-gb, or another folder with --cache",
        ) from error


def key_of(slide: SlideTiles, grid: Grid) -> str:
    """What a pack is called: a function of the file it was made from, of the tiles, and of how they are read."""
    coords = sha256(np.ascontiguousarray(slide.coords, "<i4").tobytes()).hexdigest()
    return fingerprint([QUALITY, slide.path, slide.mpp, _stamp(Path(slide.path)), coords, list(grid)])


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change; of nothing where the file is not there."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


class KeptTiles:
    """Pixels of tiles of many slides, by number, from wherever they are. Any number of threads may ask at a time.

    Args:
        slides: The slides; tiles are numbered through, slide by slide.
        packs: Their packs, ``None`` for a slide to read from.
        grid: How they are read.
    """

    def __init__(self, slides: Sequence[SlideTiles], packs: Sequence[Pack | None], grid: Grid) -> None:
        self.slides, self.packs, self.grid = slides, packs, grid
        self.starts = np.cumsum([0, *(len(slide.coords) for slide in slides)])
        # A slide that is let go is closed when the last thread that reads from it is through.
        self._opened = lru_cache(OPEN_SLIDES)(self._open)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __call__(self, number: int) -> NDArray[np.uint8]:
        """(tile_px, tile_px, 3) pixels.

        Raises:
            SlideError: A slide cannot be read.
            Mismatch: The cache is damaged.
        """
        slide = int(np.searchsorted(self.starts, number, side="right")) - 1
        tile, pack = number - int(self.starts[slide]), self.packs[slide]
        if pack is not None:
            return decode(pack.read(tile))
        x, y = (int(v) for v in self.slides[slide].coords[tile])
        return decode(encode(self._opened(slide).read(x, y, tile_px=self.grid.tile_px, mpp=self.grid.mpp)))

    def _open(self, slide: int) -> Slide:
        return Slide(self.slides[slide].path, mpp=self.slides[slide].mpp, upsample=self.grid.upsample)
