"""Banks: begun, extended, taken back; what training maps is what zarr reads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.bank import pick_bank
from gigacli.store.layout import NOT_DONE
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.store.validate import validate

WIDTH = 4


def recipe(augmentations=2, draws=3, **others):
    return Recipe("bank", {"encoder": "x", "augmentations": augmentations, "draws": draws, **others}, {})


@pytest.fixture
def store(store, tile_slides):
    """A slide with tiles, one without and one with."""
    tile_slides(store, 8, 0, 8)
    return store


def begun(store, *, redo=False, **others):
    bank = store.bank("x")
    bank.begin(recipe(**others), WIDTH, redo=redo)
    return bank


def fill(bank, row, value, *, made=None):
    """Every vector of a slide is `value`, drawn of the tile of that number."""
    _, a, d, width = bank.shape
    made = np.ones((a, d), dtype=bool) if made is None else made
    bank.write(row, np.full((a, d, width), value, np.float16), np.full((a, d), value, np.int32), made=made)


# ---------------------------------------------------------------------- beginning and extending


def test_a_bank_comes_back(store):
    bank = begun(store)
    assert bank.shape == (3, 2, 3, WIDTH)
    assert bank.missing(0).all()
    fill(bank, 0, 7)
    bank.write_empty(1)
    again = Store.open(store.url).bank("x")
    assert again.done().values.tolist() == [2, 0, NOT_DONE]
    assert (again.array("vectors")[0] == 7).all()
    assert (again.array("tile")[0] == 7).all()
    assert not again.has("kept")


def test_more_of_the_same_is_kept_and_gone_on_with(store):
    bank = begun(store)
    fill(bank, 0, 7)
    bank.write_empty(1)
    more = recipe(3, 5)
    assert bank.extends_to(more)
    bank.check(more, redo=False)
    bank.begin(more, WIDTH, redo=False)
    assert bank.recipe == more
    assert bank.shape == (3, 3, 5, WIDTH)
    assert bank.done().values.tolist() == [NOT_DONE] * 3  # nothing of what is asked for now
    assert (bank.array("kept")[:] != NOT_DONE).tolist() == [True, True, False]
    missing = np.ones((3, 5), dtype=bool)
    missing[:2, :3] = False
    np.testing.assert_array_equal(bank.missing(0), missing)
    assert bank.missing(2).all()
    fill(bank, 0, 8, made=missing)
    np.testing.assert_array_equal(bank.array("vectors")[0, :, :, 0], np.where(missing, 8, 7))
    assert bank.done().values.tolist() == [3, NOT_DONE, NOT_DONE]


@pytest.mark.parametrize("other", [recipe(1, 3), recipe(2, 2), recipe(3, 2), recipe(4, 4, seed=1),
                                   Recipe("bank", recipe(4, 4).config, {"tiles": "f"})])  # fmt: skip
def test_less_or_anything_else_is_refused(store, other):
    bank = begun(store)
    fill(bank, 0, 7)
    assert not bank.extends_to(other)
    for refused in (lambda: bank.check(other, redo=False), lambda: bank.begin(other, WIDTH, redo=False)):
        with pytest.raises(Mismatch, match="made with other parameters"):
            refused()
    assert bank.done().values.tolist() == [2, NOT_DONE, NOT_DONE]
    assert not bank.has("kept")


def test_the_same_extends_to_nothing(store):
    bank = begun(store)
    fill(bank, 0, 7)
    assert not bank.extends_to(bank.recipe)
    begun(store)
    assert bank.done().values.tolist() == [2, NOT_DONE, NOT_DONE]
    assert not store.bank("absent").extends_to(recipe())


def test_redo_keeps_nothing(store):
    fill(begun(store), 0, 7)
    bank = begun(store, augmentations=3, draws=5)
    assert bank.has("kept")
    bank = begun(store, augmentations=4, draws=5, redo=True)
    assert not bank.has("kept")
    assert bank.missing(0).all()
    assert np.isnan(bank.array("vectors")[:]).all()


@pytest.mark.parametrize("finished", [False, True])
def test_a_bank_is_extended_again(store, finished):
    fill(begun(store), 0, 1)
    bank = begun(store, augmentations=3)
    if finished:
        fill(bank, 0, 2, made=bank.missing(0))
    bank = begun(store, augmentations=5)
    assert (bank.array("kept")[:] != NOT_DONE).tolist() == [True, False, False]
    assert bank.missing(0).any(axis=1).tolist() == [False, False, not finished, True, True]


def test_an_extension_that_was_cut_short_before_its_recipe_is_gone_on_with(store, monkeypatch):
    bank = begun(store)
    fill(bank, 0, 7)
    monkeypatch.setattr(type(bank), "_make", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        begun(store, augmentations=3)
    monkeypatch.undo()
    again = Store.open(store.url, write=True)
    assert again.bank("x").recipe == recipe()
    assert not again.bank("x").done().finished.any()
    bank = begun(again, augmentations=3)
    assert bank.missing(0).any(axis=1).tolist() == [False, False, True]


def test_what_is_taken_back_was_not_kept_either(store):
    bank = begun(store)
    for row in range(3):
        fill(bank, row, 7)
    bank = begun(store, draws=4)
    assert [bank.missing(row).sum() for row in range(3)] == [2, 2, 2]
    bank.take_back([1])
    assert (bank.array("kept")[:] != NOT_DONE).tolist() == [True, False, True]
    assert [bank.missing(row).sum() for row in range(3)] == [2, 8, 2]
    fill(bank, 0, 8)
    bank.take_back([0])
    assert bank.missing(0).all()
    assert bank.done().values.tolist() == [NOT_DONE] * 3


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans()), max_size=4))
@settings(max_examples=15)
def test_however_often_a_bank_is_extended_it_is_the_one_made_in_one_go(tile_slides, steps):
    """Vector (a, d) of a slide is a function of the slide, a and d alone, as the draws of ``giga bank`` are."""
    store = Store.create("memory://extended.zarr")
    store.write_slides(SlideTable((SlideRow(id="a", path=""),)))
    tile_slides(store, 100)
    a, d, first = 1, 1, True
    for more_a, more_d, fills in [*steps, (0, 0, True)]:
        a, d = a + more_a, d + more_d
        bank = begun(store, augmentations=a, draws=d, redo=first)
        first = False
        if fills and not bank.done().finished[0]:
            numbers = 10 * np.arange(a)[:, None] + np.arange(d)  # (a, d)
            made = bank.missing(0)
            vectors = np.where(made[..., None], numbers[..., None], -1).repeat(WIDTH, axis=2).astype(np.float16)
            bank.write(0, vectors, numbers.astype(np.int32), made=made)
    np.testing.assert_array_equal(bank.array("vectors")[0, :, :, 1], 10 * np.arange(a)[:, None] + np.arange(d))
    [slide] = bank.mapped().slides()
    np.testing.assert_array_equal(slide, bank.array("vectors")[0])


# ---------------------------------------------------------------------- mapped


def test_only_slides_that_are_done_and_have_tiles(tiny):
    bank = Store.open(tiny, write=True).bank("moco")
    mapped = bank.mapped()
    assert mapped.rows.tolist() == [0, 1]
    assert (mapped.augmentations, mapped.draws, mapped.width) == (2, 3, 8)
    bank.take_back([0])
    assert bank.mapped().rows.tolist() == [1]


@pytest.mark.parametrize("where", ["files", "memory"])
def test_rows_are_those_of_the_arrays(tiny, maker, where):
    store = Store.open(tiny)
    if where == "memory":
        store = Store.create("memory://bank.zarr")
        maker.fill(store)
    bank = store.bank("moco")
    mapped = bank.mapped()
    vectors, drawn = bank.array("vectors")[:2], bank.array("tile")[:2]
    assert (mapped.vectors.shape, mapped.vectors.dtype) == ((2, 6, 8), np.float16)
    np.testing.assert_array_equal(np.asarray(mapped.vectors[:]).reshape(vectors.shape), vectors)
    np.testing.assert_array_equal(mapped.tile, drawn)
    np.testing.assert_array_equal(np.stack(list(mapped.slides())), vectors)


def test_slides_can_be_left_out(tiny):
    bank = Store.open(tiny).bank("moco")
    assert bank.mapped(leave_out=np.array([True, False, False, False])).rows.tolist() == [1]
    assert bank.mapped(leave_out=np.ones(4, dtype=bool)).vectors.shape == (0, 6, 8)


def wider(bank, shape):
    """The bank with more augmentations and draws than it was begun with: its chunks keep their shape."""
    rng = np.random.default_rng(1)
    config = {**bank.config, "augmentations": shape[0], "draws": shape[1]}
    bank.begin(Recipe("bank", config, bank.recipe.inputs), 8, redo=False)
    for row in range(2):
        tiles = rng.integers(0, 2, shape, dtype=np.int32)
        bank.write(row, rng.integers(0, 2, (*shape, 8)).astype(np.float16), tiles, made=np.ones(shape, dtype=bool))


@pytest.mark.parametrize("shape", [(5, 3), (2, 4), (7, 8), (4, 6)])
def test_a_bank_that_has_grown_has_several_chunks_a_slide(tiny, shape):
    bank = Store.open(tiny, write=True).bank("moco")
    wider(bank, shape)
    mapped = Store.open(tiny).bank("moco").mapped()
    expected = bank.array("vectors")[:2]
    assert mapped.vectors.shape == (2 * -(-shape[0] // 2) * -(-shape[1] // 3), 6, 8)
    np.testing.assert_array_equal(np.stack(list(mapped.slides())), expected)
    a, d = np.arange(shape[0])[:, None], np.arange(shape[1])
    for slide in range(2):
        np.testing.assert_array_equal(mapped.vectors[mapped.at(np.array(slide), a, d)], expected[slide])


@pytest.mark.parametrize("damage", ["missing", "short", "long"])
def test_damaged_chunks_are_refused_before_they_are_mapped(tiny, damage):
    chunk = tiny / "banks/moco/vectors/c/1/0/0/0"
    if damage == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-2] if damage == "short" else chunk.read_bytes() + b"  ")
    with pytest.raises(Mismatch, match="is missing" if damage == "missing" else "bytes, expected 100"):
        Store.open(tiny).bank("moco").mapped()


@pytest.mark.parametrize("kind", ["banks", "features"])
def test_chunks_without_checksums_are_read_too(tiny, kind):
    """Other programs need not write them."""
    root, path = Store.open(tiny, write=True).root, f"{kind}/moco/vectors"
    old = root[path]
    values, shape = old[:], old.shape
    del root[path]
    new = root.create_array(
        path,
        shape=shape,
        dtype="float16",
        chunks=old.chunks,
        fill_value=float("nan"),
        dimension_names=old.metadata.dimension_names,
        compressors=None,
    )
    new[:] = values
    assert validate(tiny).problems == []
    store = Store.open(tiny)
    if kind == "banks":
        np.testing.assert_array_equal(np.stack(list(store.bank("moco").mapped().slides())), values[:2])
    np.testing.assert_array_equal(store.features("moco").read(0), store.features("moco").array("vectors")[0, :4])


def test_grids_are_those_of_the_slides(tiny):
    for (coords, edge_px), count in zip(Store.open(tiny).bank("moco").mapped().grids(), (4, 2), strict=True):
        assert coords.shape == (count, 2)
        assert edge_px == 512.0  # 256 px at 1 micron per pixel, of a slide at 0.5


# ---------------------------------------------------------------------- picking


def begin_features(store, name, stage="import"):
    store.features(name).begin(Recipe(stage, {"encoder": name, "tool": "TRIDENT"}, {}), WIDTH, redo=False)


def test_what_is_picked(store):
    begin_features(store, "made-here", "bank")
    with pytest.raises(NotFound, match="holds no banks"):  # features made here do not stand in for their bank
        pick_bank(store, None)
    begin_features(store, "uni")
    assert pick_bank(store, None) is pick_bank(store, "uni") is store.features("uni")
    with pytest.raises(NotFound, match="there is uni"):
        pick_bank(store, "made-here")
    begin_features(store, "conch")
    with pytest.raises(InvalidInput, match="conch, uni"):
        pick_bank(store, None)


def test_a_bank_is_picked_as_ever(store):
    begin_features(store, "x", "bank")
    begun(store)
    assert pick_bank(store, None) is store.bank("x")
    with pytest.raises(NotFound, match="'y'"):
        pick_bank(store, "y")
