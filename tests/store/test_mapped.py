"""Imported features in place of a bank: the same rows mapped, copied and in memory, packed or not."""

import numpy as np
import pytest
from zarr.storage import FsspecStore

from gigacli.errors import InvalidInput, Mismatch
from gigacli.store import chunk_rows, mapped, packing
from gigacli.store.pack import pack
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

COUNTS = [1024, 0, 2500, -1, 3]
WIDTH = 5


def write(path):
    """Five slides: one whole chunk, none, three chunks, not done, less than a chunk."""
    store = Store.create(path)
    store.write_slides(SlideTable(tuple(SlideRow(id=f"s{i}", path="", mpp=0.25) for i in range(5))))
    store.tiles.begin(
        Recipe("import", {"mpp": 0.5, "tile_px": 256, "overlap": 0, "tool": "TRIDENT"}, {}), 2500, redo=False
    )
    recipe = Recipe("import", {"encoder": "uni", "tool": "TRIDENT"}, {"tiles": store.tiles.fingerprint})
    features, rng, held = store.features("uni"), np.random.default_rng(0), {}
    features.begin(recipe, WIDTH, redo=False)
    for row, n in enumerate(COUNTS):
        if n >= 0:
            held[row] = rng.standard_normal((n, WIDTH)).astype(np.float16)
            store.tiles.write(row, np.stack([np.arange(n), np.arange(n)], axis=1).astype(np.int32), None)
            features.write(row, held[row])
    return features, held


def not_plain(monkeypatch):
    """As if another program had compressed the chunks."""
    monkeypatch.setattr(mapped, "plain_chunks", lambda array: False)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("way", ["mapped", "a file at a time", "copied", "in memory"])
def test_rows_are_those_of_the_features(tmp_path, monkeypatch, way, packed):
    features, held = write(tmp_path / "a.zarr")
    if packed:
        monkeypatch.setattr(packing, "SHARD_SLIDES", 2)
        pack(tmp_path / "a.zarr")
        features.store.refresh()
    if way == "a file at a time":
        monkeypatch.setattr(chunk_rows, "MOST_MAPPED", 1)
    if way == "copied":
        monkeypatch.setattr(mapped, "LocalStore", FsspecStore)
    if way == "in memory":
        not_plain(monkeypatch)
    bank = features.mapped()
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
    features, held = write(tmp_path / "a.zarr")
    bank = features.mapped(leave_out=np.array([True, False, False, False, False]))
    assert bank.rows.tolist() == [2, 4]
    np.testing.assert_array_equal(bank.vectors[bank.at(np.array([1]), np.array([0]), np.array([1]))], held[4][1:2])


def test_damaged_chunks_are_named(tmp_path):
    features, _ = write(tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / "features" / "uni" / "vectors" / "c" / "2" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(Mismatch, match=r"c/2/1/0 has 100 bytes"):
        features.mapped()


def test_more_than_fits_into_memory_is_refused(tmp_path, monkeypatch):
    features, _ = write(tmp_path / "a.zarr")
    not_plain(monkeypatch)
    monkeypatch.setattr(mapped.os, "sysconf", lambda name: 100)
    with pytest.raises(InvalidInput, match="chunks that cannot be mapped"):
        features.mapped().load()
