"""The tiles of slides: written, made room for, read in level-0 pixels."""

import numpy as np
import pytest

from gigacli.store.layout import NOT_DONE
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.tiles import ROWS_AT_ONCE

RECIPE = Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 32}, {})
CORNERS = np.arange(8, dtype=np.int32).reshape(4, 2)


def test_tiles_come_back(store):
    tiles = store.tiles
    tiles.begin(RECIPE, 6, redo=False)
    share = np.linspace(0.5, 1, 4, dtype=np.float32)
    tiles.write(0, CORNERS, share)
    tiles.write(1, CORNERS[:2], None)
    tiles.write(2, CORNERS[:0], share[:0])
    again = Store.open(store.url).tiles
    assert again.done().values.tolist() == [4, 2, 0]
    assert [again.count(row) for row in range(3)] == [4, 2, 0]
    np.testing.assert_array_equal(again.coords(0), CORNERS)
    np.testing.assert_array_equal(again.tissue(0), share)
    assert np.isnan(again.tissue(1)).all()
    assert again.coords(2).shape == (0, 2)


def test_what_they_measure(store):
    assert store.tiles.capacity == 0
    store.tiles.begin(RECIPE, 6, redo=False)
    tiles = store.tiles
    assert (tiles.capacity, tiles.tile_px, tiles.mpp, tiles.overlap_px, tiles.edge_um) == (6, 256, 1.0, 32, 256.0)
    assert not tiles.upsample
    tiles.begin(Recipe("tile", {**RECIPE.config, "upsample": True}, {}), 0, redo=True)
    assert tiles.upsample
    assert tiles.capacity == 1


def test_a_group_grows_when_it_is_begun_with_more_room(store):
    tiles = store.tiles
    tiles.begin(RECIPE, 4, redo=False)
    tiles.write(0, CORNERS, None)
    tiles.begin(RECIPE, 9, redo=False)
    assert tiles.array("coords").shape == (3, 9, 2)
    assert tiles.array("coords")[0, :5].ravel().tolist() == [*range(8), -1, -1]


def test_room_that_is_there_stays_there(store):
    other = Store.open(store.url, write=True).tiles
    store.tiles.begin(RECIPE, 4, redo=False)
    assert other.capacity == 4
    store.tiles.begin(RECIPE, 9, redo=False)
    store.tiles.write(0, np.arange(18, dtype=np.int32).reshape(9, 2), None)
    other.begin(RECIPE, 6, redo=False)  # another process, which knows of 4 only
    assert other.capacity == 9
    assert other.coords(0)[8].tolist() == [16, 17]


def test_grids_are_in_level_0_pixels(tiny):
    tiles = Store.open(tiny).tiles
    for (coords, edge_px), count in zip(tiles.grids(np.array([0, 1])), (4, 2), strict=True):
        assert coords.shape == (count, 2)
        assert edge_px == 512.0  # 256 px at 1 micron per pixel, of a slide at 0.5
    coords, edge_px = tiles.grid(1)
    np.testing.assert_array_equal(coords, tiles.coords(1))
    assert edge_px == 512.0
    assert tiles.grid(3).coords.shape == (0, 2)  # not done
    assert list(tiles.grids(np.array([], dtype=np.int64))) == []


def test_grids_come_in_the_order_asked_for_across_blocks(tmp_path, table_of):
    n = ROWS_AT_ONCE + 3
    store = Store.create(tmp_path / "many.zarr")
    store.write_slides(table_of(*map(str, range(n)), mpp=0.25))
    store.tiles.begin(RECIPE, 3, redo=False)
    for row in range(n):
        store.tiles.write(row, np.full((row % 4 if row % 4 < 3 else 1, 2), row, dtype=np.int32), None)
    rows = np.array([*range(n)][::-1])
    for row, (coords, edge_px) in zip(rows, store.tiles.grids(rows), strict=True):
        assert edge_px == 1024.0
        np.testing.assert_array_equal(coords, store.tiles.coords(row))
        assert (coords == row).all()


def test_what_says_done_is_written_last(store, monkeypatch):
    store.tiles.begin(RECIPE, 4, redo=False)
    monkeypatch.setattr(type(store.tiles), "set_count", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        store.tiles.write(0, CORNERS, None)
    again = Store.open(store.url).tiles
    assert again.array("coords")[0].tolist() == CORNERS.tolist()
    assert again.done().values.tolist() == [NOT_DONE] * 3
