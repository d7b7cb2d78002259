"""Imported features as a bank: the same rows mapped, read one by one, copied and in memory; what stands in for what."""

import numpy as np
import pytest
from gigacli.store.feature_bank import FeatureBank, pick_bank

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store import feature_bank
from gigacli.store.store import Recipe, Store
from gigacli.store.table import SlideRow, SlideTable

COUNTS = [1024, 0, 2500, -1, 3]
WIDTH = 5


def write(path, name="uni", stage="import"):
    """Five slides: one whole chunk, none, three chunks, not done, less than a chunk."""
    store = Store.create(path)
    store.write_slides(SlideTable(tuple(SlideRow(id=f"s{i}", path="", mpp=0.25) for i in range(5))))
    tiles = Recipe("import", {"mpp": 0.5, "tile_px": 256, "overlap": 0, "tool": "TRIDENT"}, {})
    store.begin("tiles", tiles, {"coords": (5, 2500, 2), "tissue": (5, 2500), "count": (5,)})
    recipe = Recipe(stage, {"encoder": name, "tool": "TRIDENT"}, {"tiles": tiles.fingerprint})
    store.begin(f"features/{name}", recipe, {"vectors": (5, 2500, WIDTH), "done": (5,)})
    rng, held = np.random.default_rng(0), {}
    for row, n in enumerate(COUNTS):
        if n > 0:
            held[row] = rng.standard_normal((n, WIDTH)).astype(np.float16)
            store.array("tiles/coords")[row, :n] = np.stack([np.arange(n), np.arange(n)], axis=1)
            store.array(f"features/{name}/vectors")[row, :n] = held[row]
        store.array("tiles/count")[row] = n
        store.array(f"features/{name}/done")[row] = n
    return store, held


def not_plain(monkeypatch):
    """As if another program had compressed the chunks."""
    monkeypatch.setattr(feature_bank, "plain_chunks", lambda array: False)
    monkeypatch.setattr(feature_bank, "chunk_folder", lambda array: None)


@pytest.mark.parametrize("way", ["mapped", "row by row", "copied", "in memory"])
def test_rows_are_those_of_the_features(tmp_path, monkeypatch, way):
    store, held = write(tmp_path / "a.zarr")
    if way == "row by row":
        monkeypatch.setattr(feature_bank, "mappings", lambda: 2)
    if way == "copied":
        monkeypatch.setattr(feature_bank, "chunk_folder", lambda array: None)
    if way == "in memory":
        not_plain(monkeypatch)
    bank = FeatureBank(store, "uni")
    assert bank.rows.tolist() == [0, 2, 4]
    assert bank.counts.tolist() == [1024, 2500, 3]
    assert (bank.augmentations, bank.width) == (1, WIDTH)
    slides, draws = np.array([[1], [0], [2], [1]]), np.array([[0, 2499], [1023, 7], [2, 2], [1024, 1023]])
    rows = bank.vectors[bank.at(slides, np.zeros_like(slides), draws)]
    expected = [held[bank.rows[s]][d] for s, d in zip(slides[:, 0], draws, strict=True)]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(bank.tiles(slides, slides, draws), draws)
    assert [s.shape for s in bank.slides()] == [(400, 1, WIDTH), (400, 1, WIDTH), (3, 1, WIDTH)]
    np.testing.assert_array_equal(next(s for i, s in enumerate(bank.slides()) if i == 2)[:, 0], held[4])
    whole = np.asarray(bank.vectors[:2])
    assert whole.nbytes == bank.vectors[:2].nbytes
    assert [edge for _, edge in bank.grids()] == [512.0] * 3


def test_slides_may_be_left_out(tmp_path):
    store, held = write(tmp_path / "a.zarr")
    bank = FeatureBank(store, "uni", leave_out=np.array([True, False, False, False, False]))
    assert bank.rows.tolist() == [2, 4]
    np.testing.assert_array_equal(bank.vectors[bank.at(np.array([1]), np.array([0]), np.array([1]))], held[4][1:2])


@pytest.mark.parametrize("limit", [2, 10**6])
def test_damaged_chunks_are_named(tmp_path, monkeypatch, limit):
    store, _ = write(tmp_path / "a.zarr")
    monkeypatch.setattr(feature_bank, "mappings", lambda: limit)
    chunk = tmp_path / "a.zarr" / "features" / "uni" / "vectors" / "c" / "2" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])

    def read():
        bank = FeatureBank(store, "uni")
        return bank.vectors[bank.at(np.array([1]), np.array([0]), np.array([1500]))]

    with pytest.raises(Mismatch, match=r"c/2/1/0 has 100 bytes"):
        read()


def test_more_than_fits_into_memory_is_refused(tmp_path, monkeypatch):
    store, _ = write(tmp_path / "a.zarr")
    not_plain(monkeypatch)
    monkeypatch.setattr(feature_bank.os, "sysconf", lambda name: 100)
    with pytest.raises(InvalidInput, match="chunks that cannot be mapped"):
        FeatureBank(store, "uni").load()


def test_what_is_picked(tmp_path):
    store, _ = write(tmp_path / "a.zarr", "made-here", "bank")
    with pytest.raises(NotFound, match="holds no banks"):  # features made here do not stand in for their bank
        pick_bank(store, None)
    write(tmp_path / "a.zarr", "uni")
    assert pick_bank(store, None) == pick_bank(store, "uni") == "features/uni"
    with pytest.raises(NotFound, match="there is uni"):
        pick_bank(store, "made-here")
    write(tmp_path / "a.zarr", "conch")
    with pytest.raises(InvalidInput, match="conch, uni"):
        pick_bank(store, None)


def test_a_bank_is_picked_as_ever(tmp_path):
    store, _ = write(tmp_path / "a.zarr", "moco", "bank")
    recipe = Recipe("bank", {"encoder": "moco", "augmentations": 1, "draws": 2}, {})
    store.begin("banks/moco", recipe, {"vectors": (5, 1, 2, WIDTH), "tile": (5, 1, 2), "done": (5,)})
    assert pick_bank(store, None) == "banks/moco"
    with pytest.raises(NotFound, match="'x'"):
        pick_bank(store, "x")
