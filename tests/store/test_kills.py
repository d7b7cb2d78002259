"""The write protocol under kills: whatever the last operation on storage was, the store is valid and usable.

A storage that dies stands for a killed process: from its n-th change on, every call fails. A removal it dies in has
removed some of the keys, in no particular order.
"""

import random

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, WrapperStore

from gigacli.store.describe import describe
from gigacli.store.layout import FORMAT, FORMAT_VERSION
from gigacli.store.recipe import CREATED_BY, Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.store.validate import check_description, check_values

TILES = (3, 0, 2)
STRIDE = 13
"""Every how many changes to die; 1 takes minutes."""


class Killed(Exception):
    """The process is gone."""


class Dying(WrapperStore):
    """A storage in memory that dies at its n-th change; None never dies."""

    def __init__(self, keys, at=None, *, read_only=False):
        super().__init__(keys)
        self.at, self.changes = at, 0

    def change(self):
        self.changes += 1
        if self.at is not None and self.changes >= self.at:
            raise Killed

    async def set(self, key, value, *args, **kwargs):
        self.change()
        await super().set(key, value, *args, **kwargs)

    async def set_if_not_exists(self, key, value):
        self.change()
        await super().set_if_not_exists(key, value)

    async def delete(self, key):
        self.change()
        await super().delete(key)

    async def delete_dir(self, prefix):
        keys = [key async for key in self.list_prefix(f"{prefix}/")]
        random.Random(self.at).shuffle(keys)
        for key in keys:
            await self.delete(key)


def opened(keys, at=None):
    storage = Dying(MemoryStore(keys), at)
    giga = {"format": FORMAT, "version": FORMAT_VERSION, "created_by": CREATED_BY}
    return storage, Store(zarr.open_group(storage, mode="a", zarr_format=3, attributes={"giga": giga}), "memory")


def problems(store):
    """What a validation finds in a store that has no address to open it at."""
    description = describe(store)
    return check_description(description) + check_values(store, description)


def work(store):
    """A cohort in steps as the verbs take them; what is done is not done again, so it can be repeated at will."""
    rows = [SlideRow(id=f"s{i}", path=f"/s{i}", size_px=(2000, 2000), mpp=0.5, mpp_source="csv") for i in range(3)]
    for n in (2, 3):
        if store.registered < n:
            store.write_slides(store.slides.with_rows(rows[:n]))
        if store.registered == n:
            tiles(store, n, room=n + 1)
    first = Recipe("bank", {"encoder": "x", "augmentations": 2, "draws": 2}, {"tiles": RECIPE.fingerprint, **WEIGHTS})
    second = Recipe(first.stage, {**first.config, "draws": 3}, first.inputs)
    third = Recipe(first.stage, {**second.config, "augmentations": 3}, first.inputs)
    if store.bank("x").found not in (second, third):
        bank(store, first, redo=False)
    if store.bank("x").found != third:
        bank(store, second, redo=store.bank("x").found != second)
    bank(store, third, redo=False)
    model = store.model("m")
    recipe = Recipe("train", {"bank": "x", "tiles": 5}, {"bank": third.fingerprint})
    if not model.complete:
        model.begin(recipe, np.array([0, 2]), redo=False)
        for epoch in (1, 2):
            model.save(bytes([epoch]) * 10, {"loss": [2.0, 1.0][:epoch]}, epochs=2)
        model.finish(EMPTY_SAFETENSORS, {"loss": [2.0, 1.0]})


RECIPE = Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {})
WEIGHTS = {"encoder": "0" * 64}
EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


def tiles(store, n, room):
    store.tiles.begin(RECIPE, room, redo=False)
    for row in store.tiles.todo(np.ones(n, dtype=bool)):
        count = TILES[row]
        corners = np.full((count, 2), 512, dtype=np.int32) * np.arange(count, dtype=np.int32)[:, None]
        store.tiles.write(row, corners, np.ones(count, dtype=np.float32))
        store.fail("tile", {row: ""})


def bank(store, recipe, *, redo):
    """Once made, once made anew with more draws, once extended by an augmentation."""
    group = store.bank("x")
    group.begin(recipe, 4, redo=redo)
    _, a, d, width = group.shape
    for row in group.todo(store.tiles.done().finished):
        if TILES[row]:
            vectors, drawn = np.full((a, d, width), row, dtype=np.float16), np.ones((a, d), dtype=np.int32)
            group.write(row, vectors, drawn, made=group.missing(row))
        else:
            group.write_empty(row)


@pytest.fixture(scope="module")
def undisturbed():
    keys = {}
    storage, store = opened(keys)
    work(store)
    assert problems(store) == []
    return {key: value.to_bytes() for key, value in keys.items()}, storage.changes


def test_every_step_was_taken(undisturbed):
    keys, changes = undisturbed
    assert changes > 150
    assert "banks/x/vectors/c/2/0/0/0" in keys
    assert not any(key.startswith("banks/x/vectors/c/1/") for key in keys)  # a slide without tissue has no chunk


def test_killed_anywhere_the_store_is_valid_and_the_rest_gives_the_same_bytes(undisturbed):
    wanted, changes = undisturbed
    for at in range(1, changes + 1, STRIDE):
        keys = {}
        with pytest.raises(Killed):
            work(opened(keys, at)[1])
        _, store = opened(keys)
        assert problems(store) == [], f"killed at change {at}"
        work(store)
        assert {key: value.to_bytes() for key, value in keys.items()} == wanted, f"killed at change {at}"


@pytest.mark.parametrize("at", range(1, 40, 3))
def test_killed_twice_in_a_removal(undisturbed, at):
    keys = {}
    work(opened(keys)[1])
    for _ in range(2):
        try:
            opened(keys, at)[1].bank("x").discard()
        except (Killed, KeyError):
            assert problems(opened(keys)[1]) == []
    work(opened(keys)[1])
    assert {key: value.to_bytes() for key, value in keys.items()} == undisturbed[0]


def test_the_table_of_slides_is_not_needed_for_an_empty_store():
    assert problems(opened({})[1]) == []
    assert len(SlideTable(())) == 0
