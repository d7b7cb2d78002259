"""Slides that are looked at: a few stay open, and the tiles that were seen last stay encoded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from gigacli.parallel import worker_count
from gigacli.store.table import SlideRow
from gigacli.wsi.patches import open_slide
from gigacli.wsi.zoom import Zoom

MOST_OPEN = 8
"""Slides that stay open: each keeps its overview, and OpenSlide tens of megabytes of what it decoded."""

ENCODED_BYTES = 64 * 2**20
"""Encoded tiles kept, of all slides: some 4,000."""

QUALITY = 85


@dataclass(eq=False)
class _Open:
    lock: threading.Lock = field(default_factory=threading.Lock)
    zoom: Zoom | None = None
    users: int = 0
    forgotten: bool = False

    def close(self) -> None:
        if self.zoom is not None:
            self.zoom.slide.close()


class OpenSlides:
    """Slides by whatever they are called, opened when they are first read. Any number of threads may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._encoded: OrderedDict[tuple[int, ...], bytes] = OrderedDict()
        self._bytes = 0
        self._reading = threading.BoundedSemaphore(2 * worker_count(None))  # each holds what it decodes in memory

    @contextmanager
    def zoom(self, key: int, slide: SlideRow) -> Iterator[Zoom]:
        """A slide to read while this lasts.

        Args:
            key: What it is called here.
            slide: Where it is, and its resolution.

        Raises:
            SlideError: It cannot be opened.
        """
        with self._lock:
            one = self._open.pop(key, None) or _Open()
            self._open[key] = one
            one.users += 1
            while len(self._open) > MOST_OPEN:
                self._forget(next(iter(self._open)))
        try:
            with one.lock:
                if one.zoom is None:
                    one.zoom = Zoom(open_slide(slide.path, mpp=slide.mpp))
            yield one.zoom
        finally:
            with self._lock:
                one.users -= 1
                if one.forgotten and not one.users:
                    one.close()

    def tile(self, key: int, slide: SlideRow, level: int, column: int, row: int) -> bytes:
        """A tile as JPEG; arguments and errors are those of :meth:`zoom` and :meth:`Zoom.tile`."""
        place = (key, level, column, row)
        with self._lock:
            if place in self._encoded:
                self._encoded.move_to_end(place)
                return self._encoded[place]
        with self.zoom(key, slide) as zoom, self._reading:
            data = encode(zoom.tile(level, column, row))
        with self._lock:
            self._bytes += len(data) - len(self._encoded.pop(place, b""))
            self._encoded[place] = data
            while self._bytes > ENCODED_BYTES:
                self._bytes -= len(self._encoded.popitem(last=False)[1])
        return data

    def close(self) -> None:
        """Close all slides, those that are being read when that is over."""
        with self._lock:
            for key in list(self._open):
                self._forget(key)

    def _forget(self, key: int) -> None:
        one = self._open.pop(key)
        one.forgotten = True
        if not one.users:  # closing under a thread that still reads would crash it
            one.close()


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Compress pixels (h, w, 3) to a JPEG."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY, colorsubsampling="422")
    return data
