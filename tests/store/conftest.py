"""The golden store as today's code writes it: every kind of group once, in a few kilobytes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from spec.golden import make_golden


@pytest.fixture(scope="session")
def maker():
    """The module that writes the golden store."""
    return make_golden


@pytest.fixture(scope="session")
def tiny_once(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.zarr"
    make_golden.build(path)
    return path


@pytest.fixture
def tiny(tiny_once, tmp_path):
    """Path of a small store with everything in it, to write into."""
    return Path(shutil.copytree(tiny_once, tmp_path / "tiny.zarr"))


@pytest.fixture(scope="session")
def table_of():
    """A slide table of some ids."""
    return lambda *ids, **values: SlideTable(tuple(SlideRow(id=i, path=f"/slides/{i}.svs", **values) for i in ids))


@pytest.fixture
def store(tmp_path, table_of):
    """A store with the slides a, b and c, of which nothing is made yet."""
    store = Store.create(tmp_path / "c.zarr")
    store.write_slides(table_of("a", "b", "c", size_px=(4000, 3000), mpp=0.5, mpp_source="openslide"))
    return store


@pytest.fixture(scope="session")
def tile_slides():
    """``tile_slides(store, 4, 0, 2)``: that many tiles for each slide, None for one that is not tiled."""

    def tile(store, *counts, seed=0):
        config = {"mpp": 1.0, "tile_px": 256, "overlap": 0, "seed": seed}
        store.tiles.begin(Recipe("tile", config, {}), max([n or 0 for n in counts], default=0), redo=False)
        for row, n in enumerate(counts):
            if n is not None:
                corners = np.stack([np.arange(n) + seed, np.zeros(n)], axis=1).astype(np.int32)
                store.tiles.write(row, corners, np.ones(n, dtype=np.float32))

    return tile
