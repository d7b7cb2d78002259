"""What all groups share: begun, refused, redone, removed; what is done; handles that never go stale."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import Mismatch, NotFound
from gigacli.store.groups import NAMED
from gigacli.store.layout import ARRAYS, NOT_DONE
from gigacli.store.recipe import Recipe
from gigacli.store.slide_group import Done, shard_rows
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

RECIPE = Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {})
FEATURES = Recipe("bank", {"encoder": "x"}, {})
CORNERS = np.arange(8, dtype=np.int32).reshape(4, 2)
SHARE = np.ones(4, dtype=np.float32)


def half_removed(group):
    """As a removal leaves it that is killed after the recipe was taken away."""
    group.store.root[group.path].attrs["giga"] = {}


# ---------------------------------------------------------------------- beginning


def test_begin_makes_the_arrays_of_the_format(tiny):
    members = zarr.open_group(tiny, mode="r").members(max_depth=None)
    for path, array in ((path, node) for path, node in members if isinstance(node, zarr.Array)):
        [spec] = [s for s in ARRAYS if s.matches(path)]
        assert (array.metadata.dimension_names or ()) == spec.dims
        assert spec.chunks(array.shape) == array.chunks
        codecs = [type(codec).__name__ for codec in array.metadata.codecs]
        assert ("ZstdCodec" in codecs) == spec.compressed, path
        assert codecs[-1] == "Crc32cCodec", path


def test_beginning_twice_changes_nothing(store):
    store.tiles.begin(RECIPE, 4, redo=False)
    store.tiles.write(0, CORNERS[:0], SHARE[:0])
    again = Store.open(store.url, write=True).tiles
    again.begin(RECIPE, 4, redo=False)
    assert again.done().values.tolist() == store.tiles.done().values.tolist() == [0, NOT_DONE, NOT_DONE]


def test_other_parameters_are_refused_by_name(store):
    tiles = store.tiles
    tiles.begin(RECIPE, 4, redo=False)
    tiles.write(0, CORNERS, SHARE)
    other = Recipe("tile", {**RECIPE.config, "mpp": 0.5, "min_tissue": 0.1}, {"tiles": "f" * 32})
    for refused in (lambda: tiles.begin(other, 4, redo=False), lambda: tiles.check(other, redo=False)):
        with pytest.raises(Mismatch) as caught:
            refused()
        for line in ("mpp: 1.0 here, 0.5 asked for", "min_tissue: None here, 0.1 asked for", "tiles: None here, ffff"):
            assert line in caught.value.message
        assert "overlap" not in caught.value.message
        assert "`redo`" in caught.value.hint
        assert tiles.count(0) == 4
    tiles.check(RECIPE, redo=False)
    tiles.check(other, redo=True)
    assert tiles.recipe == RECIPE  # looking changes nothing
    tiles.begin(other, 4, redo=True)
    assert tiles.recipe == other
    assert tiles.done().values.tolist() == [NOT_DONE] * 3


@pytest.mark.parametrize("recipe", [RECIPE, Recipe("tile", {"mpp": 2.0}, {})], ids=["the same", "another"])
def test_redo_leaves_nothing_of_what_was_there(store, recipe):
    tiles = store.tiles
    tiles.begin(RECIPE, 9, redo=False)
    tiles.array("coords")[:] = 5
    tiles.write(1, CORNERS, SHARE)
    tiles.begin(recipe, 3, redo=True)
    assert tiles.array("coords").shape == (3, 3, 2)
    assert (tiles.array("coords")[:] == -1).all()
    assert not tiles.done().finished.any()


def test_redo_of_what_is_not_there_begins_it(store):
    store.tiles.begin(RECIPE, 4, redo=True)
    assert store.tiles.recipe == RECIPE


@pytest.mark.parametrize("redo", [False, True])
def test_a_removal_that_was_cut_short_is_finished_first(store, redo):
    features = store.features("x")
    store.tiles.begin(RECIPE, 9, redo=False)
    store.tiles.write(0, CORNERS, SHARE)
    features.begin(FEATURES, 5, redo=False)
    features.write(0, np.ones((4, 5), dtype=np.float16))
    for group in (store.tiles, features):
        half_removed(group)
        assert group.found is None
    assert store.progress() == {}
    store.tiles.begin(RECIPE, 2, redo=redo)
    features.begin(FEATURES, 7, redo=redo)
    assert features.array("vectors").shape == (3, 2, 7)
    assert np.isnan(features.array("vectors")[:]).all()
    assert not features.done().finished.any()


def test_what_was_begun_without_a_recipe_is_gone_on_with(store):
    store.ensure_array("features/x/done", (3,))  # killed after its first array
    features = store.features("x")
    assert features.found is None
    store.tiles.begin(RECIPE, 4, redo=False)
    features.begin(FEATURES, 5, redo=False)
    assert features.recipe == FEATURES
    assert features.width == 5


def test_what_is_removed_is_not_there(tiny):
    store = Store.open(tiny, write=True)
    groups = [store.tiles, *(group for kind in NAMED for group in store.groups(kind))]
    assert len(groups) == 7
    for group in groups:
        group.discard()
        assert group.found is None
        assert not (tiny / group.path).exists()
        with pytest.raises(NotFound):
            group.array("done")
    assert store.progress() == {}


def test_what_is_not_there_says_what_to_run(store):
    with pytest.raises(NotFound, match="holds no tiles") as caught:
        _ = store.tiles.recipe
    assert "giga tile" in caught.value.hint
    with pytest.raises(NotFound, match="holds no tiles/count"):
        store.tiles.array("count")
    with pytest.raises(NotFound, match="holds no embeddings/x") as caught:
        _ = store.embedding("x").config
    assert "giga embed" in caught.value.hint
    assert store.features("x").done().values.tolist() == [NOT_DONE] * 3
    assert not store.model("x").complete


# ---------------------------------------------------------------------- what is done


@given(st.lists(st.integers(-1, 5), max_size=30))
def test_the_ways_to_ask_what_is_done_agree(values):
    done = Done(np.array(values, dtype=np.int32))
    assert done.finished.tolist() == [n != NOT_DONE for n in values]
    assert done.filled.tolist() == [n > 0 for n in values]
    assert done.rows.tolist() == [row for row, n in enumerate(values) if n > 0]
    assert done.counts.tolist() == [max(0, n) for n in values]
    assert (done.counts.dtype, done.rows.dtype) == (np.int64, np.int64)


@given(st.lists(st.integers(0, 500), unique=True), st.integers(1, 20))
def test_shards_share_out_the_slides(listed, total):
    shards = [shard_rows(listed, (i, total)) for i in range(total)]
    assert sorted(row for shard in shards for row in shard) == sorted(listed)
    fewer = [row for row in listed if row % 3]  # what is done does not move slides between shards
    for i, shard in enumerate(shards):
        assert set(shard_rows(fewer, (i, total))) <= set(shard)


def test_done_is_what_was_marked(tiny):
    store = Store.open(tiny)
    assert store.tiles.done().values.tolist() == [4, 2, 0, NOT_DONE]
    assert store.features("moco").done().values.tolist() == [4, 2, 0, NOT_DONE]
    assert store.bank("moco").done().values.tolist() == [2, 2, 0, NOT_DONE]
    assert store.embedding("giga").done().values.tolist() == [1, 1, 0, NOT_DONE]
    assert store.bank("moco").done().finished.tolist() == [True, True, True, False]


def test_done_counts_registered_slides_alone(store):
    store.features("x").begin(FEATURES, 4, redo=False)
    store.root["features/x/done"].resize((7,))  # a registration that was cut short
    assert store.features("x").done().values.tolist() == [NOT_DONE] * 3


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=6, max_size=6), st.integers(1, 4))
@settings(max_examples=12)
def test_what_is_to_do_is_ready_and_not_done_and_in_one_shard(tile_slides, slides, total):
    store = Store.create("memory://todo.zarr")
    store.write_slides(SlideTable(tuple(SlideRow(id=str(i), path="") for i in range(6))))
    tile_slides(store, *[0] * 6)
    group = store.features("x")
    group.begin(FEATURES, 4, redo=True)
    for row, (_, done) in enumerate(slides):
        if done:
            group.write(row, None)
    ready = np.array([ready for ready, _ in slides])
    wanted = [row for row, (ready, done) in enumerate(slides) if ready and not done]
    assert group.todo(ready) == wanted
    shards = [group.todo(ready, (i, total)) for i in range(total)]
    assert sorted(row for shard in shards for row in shard) == wanted
    assert all(row % total == i for i, shard in enumerate(shards) for row in shard)


def test_slides_are_taken_back(tiny):
    store = Store.open(tiny, write=True)
    group = store.features("moco")
    group.take_back([])
    assert group.done().values.tolist() == [4, 2, 0, NOT_DONE]
    group.take_back([0, 2])
    assert group.done().values.tolist() == [NOT_DONE, 2, NOT_DONE, NOT_DONE]
    assert not np.isnan(group.array("vectors")[0, 0]).any()  # it stays until it is replaced
    group.take_back()
    assert group.done().values.tolist() == [NOT_DONE] * 4
    store.features("absent").take_back([0])
    assert not (tiny / "features/absent").exists()


# ---------------------------------------------------------------------- handles


def test_handles_are_opened_anew_after_a_registration(store, table_of):
    features, embedding = store.features("x"), store.embedding("e")
    store.tiles.begin(RECIPE, 4, redo=False)
    features.begin(FEATURES, 2, redo=False)
    embedding.begin(Recipe("embed", {"aggregator": "mean", "features_name": "x"}, {}), 2, redo=False)
    before = features.array("vectors")
    assert features.array("vectors") is before
    assert embedding.read().shape == (3, 2)
    store.write_slides(table_of("a", "b", "c", "d"))
    assert features.array("vectors").shape == (4, 4, 2)
    store.tiles.write(3, CORNERS, SHARE)
    features.write(3, np.ones((4, 2), dtype=np.float16))
    embedding.write(np.array([3]), np.ones((1, 2), dtype=np.float32))
    again = Store.open(store.url)
    assert again.features("x").done().values.tolist() == [NOT_DONE] * 3 + [4]
    assert (features.read(3) == 1).all()
    assert again.tiles.coords(3).tolist() == CORNERS.tolist()
    assert embedding.read().shape == (4, 2)
    assert again.embedding("e").done().rows.tolist() == [3]


def test_handles_are_opened_anew_when_a_group_is_begun_again(store):
    store.tiles.begin(RECIPE, 4, redo=False)
    store.tiles.write(0, CORNERS, SHARE)
    features = store.features("x")
    features.begin(FEATURES, 2, redo=False)
    features.write(0, np.ones((4, 2), dtype=np.float16))
    assert features.read(0).shape == (4, 2)
    features.begin(Recipe("bank", {"encoder": "y"}, {}), 3, redo=True)
    assert features.width == 3
    assert features.read(0).shape == (0, 3)
