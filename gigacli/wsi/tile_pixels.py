"""The tiles of a training: read from their slides once, cached, handed out by number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gigacli.config.base import fingerprint
from gigacli.errors import GigaError, reason_of
from gigacli.wsi.patches import open_slide
from gigacli.wsi.reader import SlideTiles, TileReader
from gigacli.wsi.slide import Slide
from gigacli.wsi.slide_files import stamp
from gigacli.wsi.tile_cache import QUALITY, TileCache, TilePack, TilePackWriter, decode, encode

OPEN_SLIDES = 32  # slides open at once where tiles are read from slides


class TileSpec(NamedTuple):
    """How tiles are read: their edge, their resolution, and whether slides scanned coarser are enlarged."""

    tile_px: int
    mpp: float
    upsample: bool


def cache_tiles(
    slides: Sequence[SlideTiles],
    cache: TileCache | None,
    reader: TileReader,
    pool: Executor,
    *,
    spec: TileSpec,
    again: bool,
    done: Callable[[SlideTiles, str], None],
) -> list[TilePack | None]:
    """Read every tile once, so that what cannot be read is known before anything is trained, and keep what fits.

    Args:
        slides: Slides and their tiles.
        cache: Where to keep tiles; None keeps none.
        reader: Reads blocks of tiles.
        pool: Threads that compress.
        spec: How `reader` reads them, which belongs to the name of a pack.
        again: These tiles were all read by an earlier run: read only what the cache lacks and has room for.
        done: Called with every slide and the reason why it cannot be read, "" where it was read.

    Returns:
        The pack of every slide; None where its tiles must be read from the slide.

    Raises:
        GigaError: The cache cannot be written.
    """
    packs: dict[int, TilePack | None] = {}
    names = {id(slide): key_of(slide, spec) for slide in slides}

    def missing() -> Iterator[SlideTiles]:
        for slide in slides:
            pack = cache.open(names[id(slide)], tiles=len(slide.coords)) if cache else None
            if pack is not None or (again and (cache is None or cache.full)):
                packs[id(slide)] = pack
                done(slide, "")
            else:
                yield slide

    writer: TilePackWriter | None = None
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
            "give it less room with `cache_gb`, or another folder with `cache`",
        ) from error


def key_of(slide: SlideTiles, spec: TileSpec) -> str:
    """Return the name of a pack: a function of the slide file, of the tiles, and of how they are read."""
    coords = sha256(np.ascontiguousarray(slide.coords, "<i4").tobytes()).hexdigest()
    return fingerprint([QUALITY, slide.path, slide.mpp, stamp(Path(slide.path)), coords, list(spec)])


class TilePixels:
    """Pixels of the tiles of many slides, numbered through slide by slide. Any number of threads may read.

    They come from the pack of their slide, or from the slide itself where it has none.
    """

    def __init__(self, slides: Sequence[SlideTiles], packs: Sequence[TilePack | None], spec: TileSpec) -> None:
        self.slides, self.packs, self.spec = slides, packs, spec
        self.starts = np.cumsum([0, *(len(slide.coords) for slide in slides)])
        # A slide that is let go is closed when the last thread that reads from it is through.
        self._opened = lru_cache(OPEN_SLIDES)(self._open)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __call__(self, number: int) -> NDArray[np.uint8]:
        """Return the pixels (tile_px, tile_px, 3) of a tile.

        Raises:
            SlideError: A slide cannot be read.
            Mismatch: The cache is damaged.
        """
        slide = int(np.searchsorted(self.starts, number, side="right")) - 1
        tile, pack = number - int(self.starts[slide]), self.packs[slide]
        if pack is not None:
            return decode(pack.read(tile))
        x, y = (int(v) for v in self.slides[slide].coords[tile])
        return decode(encode(self._opened(slide).read(x, y, tile_px=self.spec.tile_px, mpp=self.spec.mpp)))

    def _open(self, slide: int) -> Slide:
        return open_slide(self.slides[slide].path, mpp=self.slides[slide].mpp, upsample=self.spec.upsample)
