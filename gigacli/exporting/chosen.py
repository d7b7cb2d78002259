"""What of a store is exported, and the slides it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.errors import InvalidInput, NotFound
from gigacli.store.bank import tile_grid_of
from gigacli.store.chunks import read_column
from gigacli.store.layout import NOT_DONE
from gigacli.store.store import CREATED_BY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gigacli.store.store import Recipe, Store
    from gigacli.store.table import SlideRow


@dataclass(frozen=True)
class Chosen:
    """A group of a store that has a result per slide.

    Attributes:
        store: The cohort store.
        path: Of the group, for example ``embeddings/giga``.
        rows: (n,) slides that have a result, rows of the slide table.
        empty: Slides that are done and have none, for want of tissue.
        pending: Slides that are not done.
    """

    store: Store
    path: str
    rows: NDArray[np.int64]
    empty: int
    pending: int

    @classmethod
    def of(cls, store: Store, path: str) -> Chosen:
        """Look at what is done.

        Raises:
            NotFound: Nothing is.
        """
        store.require(path)
        done = read_column(store.array("tiles/count" if path == "tiles" else f"{path}/done"))[: store.registered]
        rows = np.flatnonzero(done > 0)
        if not len(rows):
            raise NotFound(f"{store.url}/{path} holds nothing yet", f"see what to run next: giga info {store.url}")
        return cls(store, path, rows, int((done == 0).sum()), int((done == NOT_DONE).sum()))

    @property
    def recipe(self) -> Recipe:
        """How the group was made."""
        return self.store.require(self.path)

    @property
    def slides(self) -> list[SlideRow]:
        """Rows of the slide table that have a result."""
        table = self.store.slides
        return [table[int(row)] for row in self.rows]

    @property
    def note(self) -> dict[str, Any]:
        """Where an export comes from, for the file or beside it; the same for every export of the same results."""
        return {"created_by": CREATED_BY, "group": self.path, "recipe": vars(self.recipe)}

    def named(self) -> Iterator[tuple[int, SlideRow]]:
        """Row and slide of each that has a result, its id fit for the name of a file.

        Raises:
            InvalidInput: An id is not.
        """
        slides = self.slides
        for slide in slides:
            if slide.id in (".", "..") or "/" in slide.id or "\0" in slide.id:
                raise InvalidInput(
                    f"slide {slide.id!r} cannot give a file its name",
                    "export a table of all slides: --format csv, parquet or h5ad",
                )
        yield from zip(self.rows.tolist(), slides, strict=True)


@dataclass(frozen=True)
class Grid:
    """The tiles of a slide, and what other tools want to know about them.

    Attributes:
        coords: (n, 2) int32, (x, y) of the top-left corners, level-0 px.
        edge_px: Edge of a tile, level-0 px, a fraction in general.
        tile_px: Edge of a tile, pixels at `mpp`.
        mpp: Resolution of the tiles, microns per pixel.
        overlap_px: Overlap of neighbours, pixels at `mpp`.
    """

    coords: NDArray[np.int32]
    edge_px: float
    tile_px: int
    mpp: float
    overlap_px: int

    @classmethod
    def of(cls, store: Store, row: int) -> Grid | None:
        """The tiles of a slide; None in a store without tiles."""
        tiles = store.recipe("tiles")
        if tiles is None:
            return None
        coords, edge_px = tile_grid_of(store, row)
        return cls(coords, edge_px, tiles.config["tile_px"], tiles.config["mpp"], tiles.config["overlap"])
