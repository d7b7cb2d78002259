"""The bank as training reads it: mapped files and zarr's own reading give the same."""

import numpy as np
import pytest

from gigacli.store.bank import BankReader, tile_grid_of
from gigacli.store.layout import NOT_DONE
from gigacli.store.store import Store


def test_only_slides_that_are_done_and_have_tiles(tiny):
    store = Store.open(tiny, write=True)
    reader = BankReader(store, "moco")
    assert reader.rows.tolist() == [0, 1]
    assert (reader.augmentations, reader.draws, reader.width) == (2, 3, 8)
    store.array("banks/moco/done")[0] = NOT_DONE
    assert BankReader(store, "moco").rows.tolist() == [1]


@pytest.mark.parametrize("where", ["files", "memory"])
def test_rows_are_those_of_the_arrays(tiny, maker, where):
    store = Store.open(tiny)
    if where == "memory":
        store = Store.create("memory://bank.zarr")
        maker.fill(store)
    reader = BankReader(store, "moco")
    assert all(isinstance(v, np.memmap) == (where == "files") for v in reader._vectors)
    slides, augmentation = np.array([1, 0, 1]), np.array([0, 1, 1])
    draws = np.array([[2, 0], [1, 1], [0, 2]])
    features, tiles = reader.take(slides, augmentation, draws)
    assert (features.shape, features.dtype) == ((3, 2, 8), np.float16)
    vectors, drawn = store.array("banks/moco/vectors")[:], store.array("banks/moco/tile")[:]
    for i, (slide, a) in enumerate(zip(slides, augmentation, strict=True)):
        np.testing.assert_array_equal(features[i], vectors[slide, a, draws[i]])
        np.testing.assert_array_equal(tiles[i], drawn[slide, a, draws[i]])


def test_grids_are_in_level_0_pixels(tiny):
    store = Store.open(tiny)
    for (coords, edge_px), count in zip(BankReader(store, "moco").grids(), (4, 2), strict=True):
        assert coords.shape == (count, 2)
        assert edge_px == 512.0  # 256 px at 1 micron per pixel, of a slide at 0.5
    coords, _ = tile_grid_of(store, 3)  # not done
    assert coords.shape == (0, 2)
