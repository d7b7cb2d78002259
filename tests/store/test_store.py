"""Stores: register and grow, recipes, bytes, failures, and what concurrency and kills leave."""

import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.config.verbs import TileConfig
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.layout import ARRAYS, NOT_DONE
from gigacli.store.store import Recipe, Store, shard_rows
from gigacli.store.table import SlideRow, SlideTable

RECIPE = Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {})


def rows(*ids, **values):
    return SlideTable(tuple(SlideRow(id=i, path=f"/slides/{i}.svs", **values) for i in ids))


@pytest.fixture
def store(tmp_path):
    store = Store.create(tmp_path / "c.zarr")
    store.write_slides(rows("a", "b", "c", size_px=(4000, 3000), mpp=0.5, mpp_source="openslide"))
    return store


def begin_tiles(store, recipe=RECIPE, *, capacity=4, redo=False):
    n = store.registered
    return store.begin("tiles", recipe, {"coords": (n, capacity, 2), "tissue": (n, capacity), "count": (n,)}, redo=redo)


# ---------------------------------------------------------------------- slides


def test_a_table_comes_back(store):
    unusable = SlideRow(id="Ünlü 7", path="/x/Ünlü 7.tif", patient="p", vendor="aperio", size_px=(10, 20))
    table = store.slides.with_rows([unusable])
    store.write_slides(table)
    assert repr(Store.open(store.url).slides) == repr(table)  # repr, as NaN differs from itself


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
ROW = st.builds(
    SlideRow,
    id=TEXT,
    path=TEXT,
    patient=TEXT,
    vendor=TEXT,
    size_px=st.tuples(*[st.integers(-1, 2**40)] * 2),
    mpp=st.floats(),
    mpp_source=TEXT,
)


@given(st.lists(ROW, min_size=1, max_size=4, unique_by=lambda row: row.id))
@settings(max_examples=20, deadline=None)
def test_any_table_comes_back(listed):
    store = Store.create(f"memory://{uuid.uuid4()}.zarr")
    store.write_slides(SlideTable(tuple(listed)))
    assert repr(store.slides) == repr(SlideTable(tuple(listed)))


def test_every_array_grows_with_the_slides(tiny):
    store = Store.open(tiny, write=True)
    before = {p: n[...] for p, n in arrays_of(store) if (n.metadata.dimension_names or ())[:1] == ("slide",)}
    store.write_slides(store.slides.with_rows([SlideRow(id="new", path="/new.svs")]))
    assert store.registered == 5
    grown = {path.split("/")[0] for path in before}
    assert grown == {"slides", "tiles", "encoders", "features", "banks", "models", "embeddings", "failures"}
    for path, old in before.items():
        new = store.root[path][...]
        assert new.shape == (5, *old.shape[1:])
        np.testing.assert_array_equal(new[:4], old, err_msg=path)
        fill = next(s.fill for s in ARRAYS if s.matches(path))
        if not path.startswith("slides/"):
            np.testing.assert_array_equal(new[4], np.full(old.shape[1:], fill, old.dtype), err_msg=path)


def arrays_of(store):
    return [(path, node) for path, node in store.root.members(max_depth=None) if isinstance(node, zarr.Array)]


@pytest.mark.parametrize("ids", [("a", "b"), ("b", "a", "c"), ("a", "b", "x", "c"), ()])
def test_slides_cannot_be_removed_or_reordered(store, ids):
    with pytest.raises(Mismatch, match="not removed or reordered"):
        store.write_slides(rows(*ids))
    assert store.slides.ids == ["a", "b", "c"]


def test_a_registration_that_was_cut_short_counts_for_nothing(tmp_path, monkeypatch):
    store = Store.create(tmp_path / "c.zarr")
    monkeypatch.setattr(Store, "ensure_array", dies_after(Store.ensure_array, calls=4))
    with pytest.raises(KeyboardInterrupt):
        store.write_slides(rows("a", "b"))
    assert Store.open(store.url).registered == 0
    assert len(Store.open(store.url).slides) == 0
    monkeypatch.undo()
    store.write_slides(rows("a", "b", "c"))
    monkeypatch.setattr(Store, "ensure_array", dies_after(Store.ensure_array, calls=4))
    with pytest.raises(KeyboardInterrupt):
        store.write_slides(rows("a", "b", "c", "d", "e"))
    monkeypatch.undo()
    again = Store.open(store.url, write=True)
    assert again.slides.ids == ["a", "b", "c"]
    again.write_slides(rows("a", "b", "c", "f"))
    assert again.slides.ids == ["a", "b", "c", "f"]
    assert again.array("slides/id").shape == (4,)


def dies_after(function, *, calls):
    """The function, interrupted before its call number `calls`."""
    left = iter(range(calls - 1))

    def dying(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*args)

    return dying


# ---------------------------------------------------------------------- recipes and groups


def test_a_fingerprint_depends_on_everything_and_on_no_order():
    same = Recipe("tile", {"overlap": 0, "tile_px": 256, "mpp": 1.0}, {})
    assert same.fingerprint == RECIPE.fingerprint
    assert len(same.fingerprint) == 32
    others = [
        Recipe("bank", RECIPE.config, {}),
        Recipe("tile", {**RECIPE.config, "mpp": 0.5}, {}),
        Recipe("tile", RECIPE.config, {"tiles": "0" * 32}),
    ]
    assert len({recipe.fingerprint for recipe in (same, *others)}) == 4


def test_a_recipe_comes_back(store):
    recipe = Recipe("tile", TileConfig(mpp=0.25).recipe(), {})
    begin_tiles(store, recipe)
    assert Store.open(store.url).require("tiles") == recipe


def test_begin_makes_the_arrays_of_the_format(tiny):
    for path, array in arrays_of(Store.open(tiny)):
        [spec] = [s for s in ARRAYS if s.matches(path)]
        assert (array.metadata.dimension_names or ()) == spec.dims
        assert spec.chunks(array.shape) == array.chunks
        codecs = [type(codec).__name__ for codec in array.metadata.codecs]
        assert ("ZstdCodec" in codecs) == spec.compressed, path
        assert codecs[-1] == "Crc32cCodec", path


def test_beginning_twice_changes_nothing(store):
    begin_tiles(store)
    store.array("tiles/count")[0] = 0
    begin_tiles(Store.open(store.url, write=True))
    assert store.array("tiles/count")[:].tolist() == [0, NOT_DONE, NOT_DONE]


def test_a_group_grows_when_it_is_begun_with_more_room(store):
    begin_tiles(store)
    store.array("tiles/coords")[0, :4] = np.arange(8).reshape(4, 2)
    begin_tiles(store, capacity=9)
    assert store.array("tiles/coords").shape == (3, 9, 2)
    assert store.array("tiles/coords")[0, :5].ravel().tolist() == [*range(8), -1, -1]


def test_other_parameters_are_refused_by_name(store):
    begin_tiles(store)
    store.array("tiles/count")[0] = 0
    other = Recipe("tile", {**RECIPE.config, "mpp": 0.5, "min_tissue": 0.1}, {"tiles": "f" * 32})
    with pytest.raises(Mismatch) as caught:
        begin_tiles(store, other)
    for line in ("mpp: 1.0 here, 0.5 asked for", "min_tissue: None here, 0.1 asked for", "tiles: None here, ffff"):
        assert line in caught.value.message
    assert "overlap" not in caught.value.message
    assert "--redo" in caught.value.hint
    assert store.array("tiles/count")[0] == 0
    begin_tiles(store, other, redo=True)
    assert store.require("tiles") == other
    assert store.array("tiles/count")[:].tolist() == [NOT_DONE] * 3


def test_redo_leaves_nothing_of_what_was_there(store):
    begin_tiles(store, capacity=9)
    store.array("tiles/coords")[:] = 5
    begin_tiles(store, Recipe("tile", {"mpp": 2.0}, {}), capacity=3, redo=True)
    assert store.array("tiles/coords").shape == (3, 3, 2)
    assert (store.array("tiles/coords")[:] == -1).all()


def test_an_array_the_format_does_not_know(store):
    with pytest.raises(InvalidInput, match="tiles/masks is not an array of format"):
        store.ensure_array("tiles/masks", (3,))


def test_what_is_not_there(store):
    with pytest.raises(NotFound, match="holds no tiles") as caught:
        store.require("tiles")
    assert "giga tile" in caught.value.hint
    with pytest.raises(NotFound, match="holds no tiles/count"):
        store.array("tiles/count")
    assert store.recipe("banks/x") is None
    assert store.names("banks") == []
    assert store.progress() == {}


def test_pick(store):
    with pytest.raises(NotFound, match="holds no banks") as caught:
        store.pick("banks", None)
    assert "giga bank" in caught.value.hint
    recipe = Recipe("bank", {"encoder": "x"}, {})
    store.begin("banks/one", recipe, {"done": (3,)})
    assert store.pick("banks", None) == "one"
    store.begin("banks/another", recipe, {"done": (3,)})
    with pytest.raises(InvalidInput, match="several banks: another, one"):
        store.pick("banks", None)
    assert store.pick("banks", "another") == "another"
    with pytest.raises(NotFound, match="'third'"):
        store.pick("banks", "third")


def test_a_group_without_a_recipe_is_not_there(store):
    store.ensure_array("banks/begun/done", (3,))
    assert store.names("banks") == []
    assert store.progress() == {}
    with pytest.raises(NotFound):
        store.require("banks/begun")


# ---------------------------------------------------------------------- bytes and failures


def test_bytes_come_back_and_are_replaced(store):
    for data in (b"\x00first\xff" * 1000, b"\x01other\x00" * 1000, b"short", b"x" * 70_000):
        store.write_bytes("models/m/weights", data)
        assert Store.open(store.url).read_bytes("models/m/weights") == data
        assert store.array("models/m/weights").chunks == (len(data),)


def test_bytes_of_the_same_length_are_replaced_as_a_whole(store):
    store.write_bytes("models/m/checkpoint", b"1" * 5000)
    [chunk] = [p for p in Path(store.url, "models/m/checkpoint").rglob("*") if p.is_file() and p.name != "zarr.json"]
    before = chunk.stat().st_ino
    store.write_bytes("models/m/checkpoint", b"2" * 5000)
    assert chunk.read_bytes()[:5000] == b"2" * 5000
    assert chunk.stat().st_ino != before  # a new file took its place, the old one was not written into


def test_bytes_that_were_never_written_are_none(store):
    store.ensure_array("models/m/checkpoint", (100,))  # a kill came between the array and its bytes
    assert store.read_bytes("models/m/checkpoint") == b""


def test_failures(store):
    assert store.failures("tile") == ["", "", ""]
    store.fail("tile", {})
    assert "failures" not in store.root
    store.fail("tile", {1: "no resolution", 2: ""})
    assert Store.open(store.url).failures("tile") == ["", "no resolution", ""]
    store.fail("tile", {1: ""})
    assert store.failures("tile") == ["", "", ""]
    assert store.failures("bank") == ["", "", ""]


def test_progress_and_repr(tiny):
    store = Store.open(tiny)
    assert store.progress()["banks/moco"] == 3
    assert repr(store).startswith(f"<giga store {tiny}: 4 slides, tiles: 3 done, encoders/moco: 1 done")


# ---------------------------------------------------------------------- shards and processes


@given(st.lists(st.integers(0, 500), unique=True), st.integers(1, 20))
def test_shards_share_out_the_slides(listed, total):
    shards = [shard_rows(listed, (i, total)) for i in range(total)]
    assert sorted(row for shard in shards for row in shard) == sorted(listed)
    fewer = [row for row in listed if row % 3]  # what is done does not move slides between shards
    for i, shard in enumerate(shards):
        assert set(shard_rows(fewer, (i, total))) <= set(shard)


BEGIN_AT_ONCE = """
import sys, time
from gigacli.store.store import Recipe, Store
url, start, me = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
for i in range(12):
    store = Store.open(url, write=True)
    recipe = Recipe("bank", {"encoder": "x", "augmentations": 2, "draws": 2}, {})
    shapes = {"vectors": (3, 2, 2, 4), "tile": (3, 2, 2), "done": (3,)}
    time.sleep(max(0, start + 0.1 * i - time.time()))
    store.begin(f"banks/b{i}", recipe, shapes)
    store.array(f"banks/b{i}/vectors")[me] = me + 1
    store.array(f"banks/b{i}/done")[me] = 2
    store.fail("bank", {me: f"by process {me}"})
"""


def test_processes_begin_the_same_groups_at_once_and_write_different_slides(store):
    start = str(time.time() + 3)
    running = [subprocess.Popen([sys.executable, "-c", BEGIN_AT_ONCE, store.url, start, str(me)]) for me in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert store.names("banks") == sorted(f"b{i}" for i in range(12))
    for name in store.names("banks"):
        assert store.array(f"banks/{name}/done")[:].tolist() == [2, 2, 2]
        for row in range(3):
            assert (store.array(f"banks/{name}/vectors")[row] == row + 1).all()
    assert store.failures("bank") == [f"by process {me}" for me in range(3)]
