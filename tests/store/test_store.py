"""Stores: register and grow, pick, bytes, failures, and what concurrency and kills leave."""

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

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.groups import Bank, Model
from gigacli.store.layout import ARRAYS
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

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
def test_slides_cannot_be_removed_or_reordered(store, table_of, ids):
    with pytest.raises(Mismatch, match="not removed or reordered"):
        store.write_slides(table_of(*ids))
    assert store.slides.ids == ["a", "b", "c"]


def test_a_registration_that_was_cut_short_counts_for_nothing(tmp_path, table_of, monkeypatch):
    store = Store.create(tmp_path / "c.zarr")
    monkeypatch.setattr(Store, "ensure_array", dies_after(Store.ensure_array, calls=4))
    with pytest.raises(KeyboardInterrupt):
        store.write_slides(table_of("a", "b"))
    assert Store.open(store.url).registered == 0
    assert len(Store.open(store.url).slides) == 0
    monkeypatch.undo()
    store.write_slides(table_of("a", "b", "c"))
    monkeypatch.setattr(Store, "ensure_array", dies_after(Store.ensure_array, calls=4))
    with pytest.raises(KeyboardInterrupt):
        store.write_slides(table_of("a", "b", "c", "d", "e"))
    monkeypatch.undo()
    again = Store.open(store.url, write=True)
    assert again.slides.ids == ["a", "b", "c"]
    again.write_slides(table_of("a", "b", "c", "f"))
    assert again.slides.ids == ["a", "b", "c", "f"]
    assert again.root["slides/id"].shape == (4,)


def dies_after(function, *, calls):
    """The function, interrupted before its call number `calls`."""
    left = iter(range(calls - 1))

    def dying(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*args)

    return dying


def test_slides_that_another_process_registered_meanwhile_are_not_lost(store, table_of):
    other = Store.open(store.url, write=True)
    assert other.slides.ids == ["a", "b", "c"]
    store.write_slides(table_of("a", "b", "c", "d"))
    with pytest.raises(Mismatch, match="not removed or reordered"):
        other.write_slides(table_of("a", "b", "c", "e"))
    assert other.slides.ids == ["a", "b", "c", "d"]


def test_arrays_made_meanwhile_are_long_enough_for_them(store, table_of, tile_slides):
    tile_slides(store, 0, 0, 0)
    other = Store.open(store.url, write=True)
    assert other.registered == 3
    other.features("there").begin(Recipe("bank", {"encoder": "x"}, {}), 4, redo=False)
    store.write_slides(table_of("a", "b", "c", "d", "e"))
    for name in ("there", "new"):
        other.features(name).begin(Recipe("bank", {"encoder": "x"}, {}), 4, redo=False)
        assert store.features(name).array("vectors").shape[0] == 5
        other.features(name).write(2, None)
        assert other.features(name).done().values.tolist() == [-1, -1, 0]
        assert store.features(name).done().values.tolist() == [-1, -1, 0, -1, -1]
    other.fail("tile", {0: "broken"})
    assert store.failures("tile") == ["broken", "", "", "", ""]


def test_the_table_is_read_once(tiny, monkeypatch):
    store = Store.open(tiny)
    table = store.slides
    monkeypatch.setattr(zarr.Array, "__getitem__", lambda *_: pytest.fail("the table was read again"))
    assert store.slides is table
    assert store.slides.ids is table.ids
    assert store.slides.index is table.index


def test_a_store_that_is_refreshed_shows_what_others_wrote(store, table_of):
    other = Store.open(store.url, write=True)
    assert (store.registered, other.registered) == (3, 3)
    other.write_slides(table_of("a", "b", "c", "d"))
    assert store.registered == 3
    store.refresh()
    assert store.slides.ids == ["a", "b", "c", "d"]


# ---------------------------------------------------------------------- groups, by name


def begin_bank(store, name):
    recipe = Recipe("bank", {"encoder": "x", "augmentations": 1, "draws": 1}, {})
    store.bank(name).begin(recipe, 2, redo=False)


def test_an_array_the_format_does_not_know(store):
    with pytest.raises(InvalidInput, match="tiles/masks is not an array of format"):
        store.ensure_array("tiles/masks", (3,))


def test_what_is_not_there(store):
    assert store.bank("x").found is None
    assert store.names(Bank) == []
    assert store.groups(Model) == []
    assert store.progress() == {}


def test_pick(store):
    with pytest.raises(NotFound, match="holds no banks") as caught:
        store.pick(Bank, None)
    assert "giga bank" in caught.value.hint
    begin_bank(store, "one")
    assert store.pick(Bank, None) is store.bank("one")
    begin_bank(store, "another")
    assert store.groups(Bank) == [store.bank("another"), store.bank("one")]
    with pytest.raises(InvalidInput, match="several banks: another, one"):
        store.pick(Bank, None)
    assert store.pick(Bank, "another") is store.bank("another")
    with pytest.raises(NotFound, match="'third'"):
        store.pick(Bank, "third")


def test_a_group_without_a_recipe_is_not_there(store):
    store.ensure_array("banks/begun/done", (3,))
    assert store.names(Bank) == []
    assert store.progress() == {}
    with pytest.raises(NotFound):
        _ = store.bank("begun").recipe


def test_what_was_made_from_tiles_is_done_as_long_as_they_are_there(tiny):
    store = Store.open(tiny, write=True)
    made = (store.features("moco"), store.bank("moco"), store.embedding("giga"))
    corners, share = store.tiles.coords(0), store.tiles.tissue(0)
    store.tiles.take_back([])
    assert store.progress()["tiles"] == 3
    store.tiles.take_back([0, 2])
    for group in (store.tiles, *made):
        assert np.flatnonzero(group.done().finished).tolist() == [1], group
        assert group.stale == []
    assert store.model("giga").complete  # it has learnt, whatever becomes of the slide
    store.tiles.write(0, corners, share, file=7)
    for group in made:
        assert np.flatnonzero(group.done().finished).tolist() == [1], group
        assert group.stale == ["1 slides have other tiles, masks or files now"]
    assert store.model("giga").stale == ["trained on 1 slides that have other tiles, masks or files now"]
    with pytest.raises(Mismatch, match="embeddings/giga is stale"):
        store.embedding("giga").refuse_stale()
    with pytest.raises(Mismatch, match="trained on 1 slides that have other tiles"):
        _ = store.model("giga").usable
    store.tiles.write(0, corners, share)  # the file is put back
    for group in made:
        assert np.flatnonzero(group.done().finished).tolist() == [0, 1], group
        assert group.stale == []
    _ = store.model("giga").usable


# ---------------------------------------------------------------------- bytes and failures


def test_bytes_come_back_and_are_replaced(store):
    for data in (b"\x00first\xff" * 1000, b"\x01other\x00" * 1000, b"short", b"x" * 70_000):
        store.write_bytes("models/m/weights", data)
        assert Store.open(store.url).read_bytes("models/m/weights") == data
        assert store.root["models/m/weights"].chunks == (len(data),)


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


# ---------------------------------------------------------------------- processes


BEGIN_AT_ONCE = """
import sys, time
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
import numpy as np
url, start, me = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
for i in range(12):
    store = Store.open(url, write=True)
    recipe = Recipe("bank", {"encoder": "x", "augmentations": 2, "draws": 2}, {})
    bank = store.bank(f"b{i}")
    time.sleep(max(0, start + 0.1 * i - time.time()))
    bank.begin(recipe, 4, redo=False)
    vectors, tiles = np.full((2, 2, 4), me + 1, dtype=np.float16), np.zeros((2, 2), dtype=np.int32)
    bank.write(me, vectors, tiles, made=np.ones((2, 2), dtype=bool))
    store.fail("bank", {me: f"by process {me}"})
"""


@pytest.mark.slow
def test_processes_begin_the_same_groups_at_once_and_write_different_slides(store, tile_slides):
    tile_slides(store, 1, 1, 1)
    start = str(time.time() + 3)
    running = [subprocess.Popen([sys.executable, "-c", BEGIN_AT_ONCE, store.url, start, str(me)]) for me in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert store.names(Bank) == sorted(f"b{i}" for i in range(12))
    for bank in store.groups(Bank):
        assert bank.done().values.tolist() == [2, 2, 2]
        for row in range(3):
            assert (bank.array("vectors")[row] == row + 1).all()
    assert store.failures("bank") == [f"by process {me}" for me in range(3)]
