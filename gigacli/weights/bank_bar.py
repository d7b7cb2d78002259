"""The progress of ``giga bank``: tiles of all slides, block by block, and what an interrupt costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from gigacli.progress import Progress


class TileBar:
    """Counts tiles that are done, of those of all slides.

    Args:
        progress: Receives progress.
        counts: (slide,) tiles that are read of every slide of the cohort.
        rows: Slides of this run.
        todo: Those that are still to be done.
    """

    def __init__(self, progress: Progress, counts: NDArray[np.int64], rows: Sequence[int], todo: Sequence[int]) -> None:
        self._progress, self._counts = progress, counts
        self._row, self._here = -1, 0  # the slide that is being encoded, and its tiles so far
        total, left = (int(counts[np.asarray(some, np.int64)].sum()) for some in (rows, todo))
        progress.start("bank", total, done=total - left)

    def enter(self, row: int) -> None:
        """Begin with some tiles of a slide, or with all of it."""
        self._row, self._here = row, self._here if row == self._row else 0

    def add(self, tiles: int, *, note: str, last: bool) -> None:
        """Count tiles of the slide as encoded; with the last of them nothing of it can be lost any more."""
        self._here += tiles
        if last:
            self._row = -1
        self._progress.advance(tiles, note=note)

    def skip(self, row: int) -> None:
        """Count what is left of a slide that failed, as it will not be done."""
        left = int(self._counts[row])
        if row == self._row:
            left, self._row = left - self._here, -1
        self._progress.advance(left)

    @contextmanager
    def telling_of_loss(self, name: Callable[[int], str]) -> Iterator[None]:
        """Say what an interrupt in the middle of a slide costs: a slide is written when all of it is encoded."""
        try:
            yield
        except KeyboardInterrupt:
            if self._row >= 0:
                self._progress.say(
                    f"{name(self._row)} was interrupted after {self._here:,} of {self._counts[self._row]:,} tiles, "
                    "which the next run encodes anew; all slides before it are kept"
                )
            raise
