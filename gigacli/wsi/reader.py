"""Tiles of many slides, read by threads ahead of their use."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import SlideError
from gigacli.wsi.patches import open_slide
from gigacli.wsi.slide import Slide

BLOCK_BYTES = 1024 * 3 * 256 * 256  # pixels of a block: 1,024 tiles of 256 px, 200 MB
AHEAD_BYTES = 3 * BLOCK_BYTES  # pixels read and not yet used, of as many slides as that is
TILES_PER_TASK = 8  # tiles a thread reads at a time: neighbours, which often share a compressed tile of the file


@dataclass(frozen=True)
class SlideTiles:
    """A slide and the tiles to read of it."""

    key: Any  # whatever the caller knows the slide by
    path: str  # the slide's file
    mpp: float  # its resolution at level 0
    coords: NDArray[np.int32]  # (n, 2) level-0 px of the tiles' top-left corners


@dataclass(frozen=True)
class Block:
    """Consecutive tiles of one slide, or why the slide cannot be read: nothing more of it follows then."""

    slide: SlideTiles  # whose tiles these are
    start: int  # number of the first one
    tiles: NDArray[np.uint8]  # (m, 3, tile_px, tile_px) uint8, the three values of a pixel side by side in memory
    error: Exception | None  # the reason, where there is one; `tiles` is then empty
    last: bool  # whether this is all of the slide


@dataclass(eq=False)
class _Source:
    """A slide that is opened by the first thread that needs it, and closed when the last one is through with it."""

    slide: SlideTiles
    upsample: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    handle: Slide | None = None
    error: Exception | None = None
    tasks: int = 0  # submitted and not finished
    complete: bool = False  # all its tiles are submitted
    finished: bool = False  # given up, or its last block was used
    at: dict[int, int] = field(default_factory=dict)  # thread -> tile it works on

    def get(self) -> Slide:
        with self.lock:
            if self.handle is None:
                self.handle = open_slide(self.slide.path, mpp=self.slide.mpp, upsample=self.upsample)
            return self.handle

    def submit(self, tasks: int, *, last: bool) -> None:
        with self.lock:
            self.tasks += tasks
            self.complete = last

    def finish(self) -> None:
        with self.lock:
            self.finished = True
            self._close_if_idle()

    def leave(self, thread: int) -> None:
        with self.lock:
            del self.at[thread]
            self.tasks -= 1
            self._close_if_idle()

    def _close_if_idle(self) -> None:  # closing under a thread that still reads would crash it
        # a handle keeps tens of megabytes of decoded tiles, and hundreds of small slides may wait to be used
        if (self.complete or self.finished) and not self.tasks and self.handle is not None:
            self.handle.close()
            self.handle = None


@dataclass(eq=False)
class _Reading:
    """A block being read."""

    source: _Source
    start: int
    tiles: NDArray[np.uint8]  # (m, tile_px, tile_px, 3)
    last: bool
    left: int  # tasks
    moved: float = 0.0
    ready: threading.Event = field(default_factory=threading.Event)


class TileReader:
    """Reads blocks of tiles with threads, in the order of the slides, some way ahead.

    Decoding gives the interpreter lock back, so threads are enough, and none of them is ever forked.
    They are daemons: one that never comes back from a broken file system does not keep the program from ending.

    Args:
        tile_px: Edge of a tile.
        mpp: Its resolution.
        upsample: Enlarge slides that were scanned coarser.
        workers: Reading threads.
        timeout_s: A slide none of whose tiles arrives for so long is given up.
        allocate: Makes the memory of a block, (m, tile_px, tile_px, 3) uint8.
    """

    def __init__(
        self,
        *,
        tile_px: int,
        mpp: float,
        upsample: bool,
        workers: int,
        timeout_s: float = 600,
        allocate: Callable[[tuple[int, ...]], NDArray[np.uint8]] = lambda shape: np.empty(shape, np.uint8),
    ) -> None:
        self._tile_px, self._mpp, self._upsample, self._timeout_s = tile_px, mpp, upsample, timeout_s
        self._allocate = allocate
        self._tasks: queue.SimpleQueue[tuple[_Reading, int] | None] = queue.SimpleQueue()
        self._workers, self._stopped = 0, False
        self.waited_s = 0.0
        for _ in range(workers):
            self._add_worker()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        for _worker in range(self._workers):
            self._tasks.put(None)

    @property
    def block_tiles(self) -> int:
        """Number of tiles in a block: a function of the tile's size, so that blocks never depend on who reads them."""
        return max(1, BLOCK_BYTES // (3 * self._tile_px**2))

    def blocks(self, slides: Iterable[SlideTiles]) -> Iterator[Block]:
        """Yield the tiles of slides, block by block, in order; the time spent waiting for them adds up in `waited_s`.

        A slide that cannot be read, or does not answer, gives one block with an error, and the others go on.
        """
        coming, running = self._readings(slides), deque[_Reading]()
        more, ahead_bytes = True, 0
        while True:
            while more and (not running or ahead_bytes < AHEAD_BYTES):
                reading = next(coming, None)
                if more := reading is not None:
                    self._submit(reading)
                    running.append(reading)
                    ahead_bytes += reading.tiles.nbytes
            if not running:
                return
            head = running.popleft()
            ahead_bytes -= head.tiles.nbytes
            source = head.source
            if source.finished:  # given up with an earlier block
                continue
            error = self._wait(head)
            if last := head.last or error is not None:
                source.finish()
            tiles = (head.tiles if error is None else head.tiles[:0]).transpose(0, 3, 1, 2)
            yield Block(source.slide, head.start, tiles, error, last=last)

    def _readings(self, slides: Iterable[SlideTiles]) -> Iterator[_Reading]:
        size = self.block_tiles
        for slide in slides:
            source, n = _Source(slide, self._upsample), len(slide.coords)
            for start in range(0, n, size):
                m = min(size, n - start)
                pixels = self._allocate((m, self._tile_px, self._tile_px, 3))
                yield _Reading(source, start, pixels, last=start + m == n, left=-(-m // TILES_PER_TASK))

    def _submit(self, reading: _Reading) -> None:
        reading.source.submit(reading.left, last=reading.last)
        for first in range(0, len(reading.tiles), TILES_PER_TASK):
            self._tasks.put((reading, first))

    def _wait(self, reading: _Reading) -> Exception | None:
        """Wait for a block; return why it will not come, None if it is there."""
        started = reading.moved = time.monotonic()  # before its turn it may have waited behind other slides
        while not reading.ready.wait(min(1.0, self._timeout_s / 4)):
            if time.monotonic() - reading.moved >= self._timeout_s:
                self._give_up(reading.source)
                break
        self.waited_s += time.monotonic() - started
        return reading.source.error

    def _give_up(self, source: _Source) -> None:
        with source.lock:
            stuck = sorted(source.at.values())
            corners = [source.slide.coords[i].tolist() for i in stuck[:3]]
            source.error = SlideError(
                f"reading {source.slide.path} has not come back for {self._timeout_s:g} seconds"
                + (f", at level-0 pixels {', '.join(map(str, corners))}" if stuck else ""),
                "look whether its file system answers, or allow more: giga bank STORE --read-timeout SECONDS",
            )
        for _ in stuck:  # their threads may never come back
            self._add_worker()

    def _add_worker(self) -> None:
        self._workers += 1
        threading.Thread(target=self._work, name=f"giga-reader-{self._workers}", daemon=True).start()

    def _work(self) -> None:
        me = threading.get_ident()
        while (task := self._tasks.get()) is not None:
            reading, first = task
            source = reading.source
            with source.lock:
                source.at[me] = reading.start + first
            try:
                if source.error is None and not self._stopped:
                    self._read(reading, first)
            except Exception as error:
                with source.lock:
                    source.error = source.error or error
            source.leave(me)
            with source.lock:
                reading.left -= 1
                if not reading.left:
                    reading.ready.set()

    def _read(self, reading: _Reading, first: int) -> None:
        slide = reading.source.get()
        stop = min(first + TILES_PER_TASK, len(reading.tiles))
        for i in range(first, stop):
            x, y = (int(v) for v in reading.source.slide.coords[reading.start + i])
            slide.read(x, y, tile_px=self._tile_px, mpp=self._mpp, out=reading.tiles[i])
            reading.moved = time.monotonic()
