"""Embeddings: vectors of many slides at once, and what they were made from."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.store import layout
from gigacli.store.layout import NOT_DONE
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

MEAN = Recipe("embed", {"aggregator": "mean", "features_name": "x"}, {})


@given(st.lists(st.integers(NOT_DONE, 1), min_size=1, max_size=9), st.integers(1, 4))
@settings(max_examples=12)
def test_what_is_written_in_blocks_comes_back(states, size):
    store = Store.create("memory://embedding.zarr")
    store.write_slides(SlideTable(tuple(SlideRow(id=str(i), path="") for i in range(9))))
    embedding = store.embedding("e")
    embedding.begin(MEAN, 3, redo=True)
    state = np.array(states + [NOT_DONE] * (9 - len(states)))
    wanted = np.where(state[:, None] == 1, np.arange(27, dtype=np.float32).reshape(9, 3), np.float32(np.nan))
    for start in range(0, 9, size):
        rows = np.arange(start, min(9, start + size))
        full, empty = rows[state[rows] == 1], rows[state[rows] == 0]
        embedding.write(full, wanted[full] if len(full) else None, empty=empty)
    np.testing.assert_array_equal(Store.open(store.url).embedding("e").read(), wanted)
    assert embedding.done().values.tolist() == state.tolist()


def test_blocks_are_the_rows_asked_for_chunk_by_chunk(monkeypatch):
    monkeypatch.setattr(layout, "TABLE_ROWS_PER_CHUNK", 4)
    store = Store.create("memory://blocks.zarr")
    store.write_slides(SlideTable(tuple(SlideRow(id=str(i), path="") for i in range(11))))
    embedding, wanted = store.embedding("e"), np.arange(33, dtype=np.float32).reshape(11, 3)
    embedding.begin(MEAN, 3, redo=True)
    embedding.write(np.arange(11), wanted)
    for rows in ([0, 1, 2, 3, 4, 9, 10], [5], [3, 8], []):
        found = list(embedding.blocks(np.array(rows, dtype=np.int64)))
        assert len(found) == len({row // 4 for row in rows})
        np.testing.assert_array_equal(np.concatenate([np.zeros((0, 3)), *found]), wanted[rows])


def test_what_it_holds(tiny):
    store = Store.open(tiny)
    embedding = store.embedding("giga")
    assert embedding.read().shape == (4, 6)
    assert embedding.width == 6
    assert np.isnan(embedding.read()[2:]).all()
    assert embedding.aggregator == "model"
    assert store.embedding("mean-moco").aggregator == "mean"


def test_what_it_was_made_from(tiny):
    store = Store.open(tiny, write=True)
    assert store.embedding("mean-moco").features is store.features("moco")
    assert store.embedding("giga").features is store.features("moco")  # those of the bank of its model
    imported = store.embedding("theirs")
    imported.begin(Recipe("import", {"aggregator": "import", "tool": "TITAN"}, {}), 6, redo=False)
    assert imported.features is None
    store.model("giga").discard()
    assert store.embedding("giga").features is None
