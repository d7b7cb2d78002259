"""Features: written whole or in blocks, read chunk by chunk, never shown as they were before."""

import numpy as np
import pytest

from gigacli.errors import Mismatch, NotFound
from gigacli.store.features import TILES_AT_ONCE
from gigacli.store.layout import NOT_DONE
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store

TILES = Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {})
RECIPE = Recipe("import", {"encoder": "x", "tool": "TRIDENT"}, {})
WIDTH = 3


def begun(store, capacity, *counts):
    """Features begun in a store whose slides have so many tiles, each as many as there is room for."""
    store.tiles.begin(TILES, capacity, redo=False)
    for row, n in enumerate(counts or (capacity,) * 3):
        store.tiles.write(row, np.zeros((n, 2), dtype=np.int32), None)
    store.features("x").begin(RECIPE, WIDTH, redo=False)
    return store.features("x")


def vectors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, WIDTH)).astype(np.float16)


@pytest.mark.parametrize("n", [1, 1023, 1024, 1025, 2500])
def test_features_lie_in_several_chunks(store, n):
    features = begun(store, 2500, n, n, n)
    assert features.array("vectors").chunks == (1, 1024, WIDTH)
    features.write(1, vectors(n))
    np.testing.assert_array_equal(features.read(1), vectors(n))
    np.testing.assert_array_equal(features.read(1), features.array("vectors")[1, :n])
    features.array("done")[0] = store.tiles.identities()[0]  # although nothing was written
    features.forget_opened()
    with pytest.raises(NotFound, match="is missing"):
        features.read(0)


@pytest.mark.parametrize("n", [1, 1024, TILES_AT_ONCE - 1, TILES_AT_ONCE, TILES_AT_ONCE + 5])
def test_blocks_give_what_is_written_at_once(store, n):
    features, whole = begun(store, TILES_AT_ONCE + 7, n, n), vectors(n)
    features.write(0, whole)
    blocks = (whole[start : start + TILES_AT_ONCE] for start in range(0, n, TILES_AT_ONCE))
    features.write_blocks(1, n, blocks)
    assert features.done().values.tolist() == [n, n, NOT_DONE]
    np.testing.assert_array_equal(features.array("vectors")[1], features.array("vectors")[0])


def test_a_slide_that_is_cut_short_in_its_blocks_is_not_done(store):
    features = begun(store, 2 * TILES_AT_ONCE)

    def blocks():
        yield vectors(TILES_AT_ONCE)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.write_blocks(0, 2 * TILES_AT_ONCE, blocks())
    assert features.done().values.tolist() == [NOT_DONE] * 3
    assert features.read(0).shape == (0, WIDTH)


def test_rows_are_those_of_the_arrays(tiny, maker):
    remote = Store.create("memory://features.zarr")
    maker.fill(remote)
    for store in (Store.open(tiny), remote):
        features = store.features("moco")
        assert features.width == 8
        for row, n in ((0, 4), (1, 2), (2, 0), (3, 0)):
            np.testing.assert_array_equal(features.read(row), features.array("vectors")[row, :n])


def test_what_is_read_is_what_is_there_now(store):
    features = begun(store, 9, 5)
    other = Store.open(store.url, write=True).features("x")
    assert features.read(0).shape == (0, WIDTH)
    features.write(0, vectors(5))
    np.testing.assert_array_equal(features.read(0), vectors(5))
    features.take_back([0])
    assert features.read(0).shape == (0, WIDTH)
    store.tiles.write(0, np.ones((7, 2), dtype=np.int32), None)
    other.write(0, vectors(7, seed=1))
    assert features.done().counts.tolist() == [7, 0, 0]
    np.testing.assert_array_equal(features.read(0), vectors(7, seed=1))


def test_a_slide_without_tissue(store):
    features = begun(store, 9, 4, 0)
    features.write(1, None)
    assert features.done().values.tolist() == [NOT_DONE, 0, NOT_DONE]
    assert features.read(1).shape == (0, WIDTH)


def test_damaged_features_are_refused(tiny):
    chunk = tiny / "features/moco/vectors/c/0/0/0"
    sound, features = chunk.read_bytes(), Store.open(tiny).features("moco")
    assert features.read(0).shape == (4, 8)
    for data, wrong in (
        (bytes([sound[0] ^ 1]) + sound[1:], "is not what its checksum says"),
        (sound[:-1], "bytes, expected"),
        (sound + b"1", "bytes, expected"),
    ):
        chunk.write_bytes(data)
        with pytest.raises(Mismatch, match=wrong):
            features.read(0)


def test_features_grow_with_the_tiles(store):
    features = begun(store, 4)
    features.write(0, vectors(4))
    store.tiles.begin(TILES, 9, redo=False)
    features.begin(RECIPE, WIDTH, redo=False)
    assert features.array("vectors").shape == (3, 9, WIDTH)
    np.testing.assert_array_equal(features.read(0), vectors(4))


def test_who_made_them(store):
    assert not store.features("absent").imported
    assert begun(store, 4).imported
    store.features("here").begin(Recipe("bank", {"encoder": "x"}, {}), WIDTH, redo=False)
    assert not store.features("here").imported
