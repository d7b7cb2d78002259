"""Recipes: one fingerprint for one way of making something."""

from gigacli.config.verbs import TileConfig
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store

RECIPE = Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {})


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


def test_differences_are_named_one_by_one():
    other = Recipe("import", {**RECIPE.config, "mpp": 0.5}, {"tiles": "f"})
    assert RECIPE.differences(RECIPE) == []
    assert RECIPE.differences(other) == [
        "made by: giga tile here, giga import asked for",
        "mpp: 1.0 here, 0.5 asked for",
        "tiles: None here, f asked for",
    ]


def test_a_recipe_comes_back(store):
    recipe = Recipe("tile", TileConfig(mpp=0.25).recipe(), {})
    store.tiles.begin(recipe, 4, redo=False)
    tiles = Store.open(store.url).tiles
    assert tiles.recipe == tiles.found == recipe
    assert tiles.config == recipe.config
    assert tiles.fingerprint == recipe.fingerprint
