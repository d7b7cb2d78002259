"""Reading a bank fast: its chunks are uncompressed, one per slide, and are mapped into memory where they are files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gigacli.store.store import Store


class BankReader:
    """The slides of a bank that are done and have tiles.

    Attributes:
        rows: (s,) their rows in the slide table.
        augmentations: Augmentations per slide.
        draws: Tiles per augmentation.
        width: Features of a tile.
    """

    def __init__(self, store: Store, bank: str) -> None:
        self.store, self.path = store, f"banks/{bank}"
        vectors = store.array(f"{self.path}/vectors")
        _, self.augmentations, self.draws, self.width = vectors.shape
        self.rows: NDArray[np.int64] = np.flatnonzero(store.array(f"{self.path}/done")[:] > 0)
        self._vectors = [self._open(vectors, int(row)) for row in self.rows]
        tile = store.array(f"{self.path}/tile")
        self._tiles = [tile[int(row)] for row in self.rows]

    def _open(self, vectors: Any, row: int) -> NDArray[np.float16]:
        """(augmentation, draw, feature) of one slide."""
        chunk = Path(self.store.url, vectors.path, "c", str(row), "0", "0", "0")
        if vectors.chunks[1:] == vectors.shape[1:] and chunk.is_file():
            return np.memmap(chunk, dtype=vectors.dtype, mode="r", shape=vectors.shape[1:])
        return vectors[row]

    def take(
        self, slides: NDArray[np.int64], augmentation: NDArray[np.int64], draws: NDArray[np.int64]
    ) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
        """Rows of the bank.

        Args:
            slides: (b,) numbers in :attr:`rows`' order.
            augmentation: (b,) one augmentation per view.
            draws: (b, t) which of its tiles.

        Returns:
            Features (b, t, width), and the tiles' numbers in their slides (b, t).
        """
        chosen = list(zip(slides, augmentation, draws, strict=True))
        features = np.stack([self._vectors[s][a].take(d, axis=0) for s, a, d in chosen])
        return features, np.stack([self._tiles[s][a].take(d) for s, a, d in chosen])

    def slides(self) -> Iterator[NDArray[np.float16]]:
        """Features of each slide (augmentation, draw, width)."""
        yield from self._vectors

    def grids(self) -> Iterator[tuple[NDArray[np.int32], float]]:
        """Per slide: coordinates of its tiles (n, 2), level-0 px, and the edge of a tile in level-0 px."""
        yield from (tile_grid_of(self.store, int(row)) for row in self.rows)


def tile_grid_of(store: Store, row: int) -> tuple[NDArray[np.int32], float]:
    """Coordinates of a slide's tiles (n, 2), level-0 px, and the edge of a tile in level-0 px."""
    config = store.require("tiles").config
    count = int(store.array("tiles/count")[row])
    coords = store.array("tiles/coords")[row, : max(0, count)]
    return coords, config["tile_px"] * config["mpp"] / float(store.array("slides/mpp")[row])
