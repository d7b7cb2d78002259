"""Which tiles are drawn: by seed, evenly, and scored only where there is a label."""

from types import SimpleNamespace

import numpy as np
import pytest

from gigacli.cohort.tile_sample import SCORED_TILES, draw_scored, draw_tiles
from gigacli.errors import InvalidInput
from gigacli.probing.labels import read_labels
from gigacli.store.table import SlideRow


def store_of(*counts):
    return SimpleNamespace(array=lambda path: {"tiles/count": np.array(counts)}[path])


def test_tiles_are_spread_evenly_and_small_slides_give_all():
    store = store_of(100, 3, -1, 0, 50, 80)
    drawn = draw_tiles(store, seed=0, max_slides=10, max_tiles=90)
    assert {row: len(tiles) for row, tiles in drawn.items()} == {1: 3, 4: 29, 5: 29, 0: 29}
    for row, tiles in drawn.items():
        assert len(set(tiles.tolist())) == len(tiles)
        assert (np.diff(tiles) > 0).all()
        assert tiles.max() < (100, 3, 0, 0, 50, 80)[row]
    again = draw_tiles(store, seed=0, max_slides=10, max_tiles=90)
    assert all(np.array_equal(tiles, again[row]) for row, tiles in drawn.items())
    other = draw_tiles(store, seed=1, max_slides=10, max_tiles=90)
    assert not np.array_equal(other[0], drawn[0])


def test_no_more_slides_or_tiles_than_asked_for():
    store = store_of(*[10] * 20)
    assert len(draw_tiles(store, seed=0, max_slides=7, max_tiles=1000)) == 7
    few = draw_tiles(store, seed=0, max_slides=20, max_tiles=5)
    assert sum(map(len, few.values())) == 5
    assert draw_tiles(store_of(0, -1), seed=0, max_slides=5, max_tiles=5) == {}


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "labels.csv").write_text("slide_id,label\na,x\nb,y\nd,x\n")
    return read_labels(tmp_path / "labels.csv")


def test_scored_tiles_are_of_labelled_slides_with_their_classes_and_patients(labels):
    slides = [(SlideRow(id=id_, path="", patient=who), n) for id_, who, n in
              (("a", "p1", 4), ("b", "p2", 3), ("c", "p2", 5), ("d", "p1", 2))]  # fmt: skip
    numbers, classes, owners = draw_scored(labels, slides, seed=0)
    assert numbers.tolist() == [0, 1, 2, 3, 4, 5, 6, 12, 13]  # c has no label
    assert classes.tolist() == [0] * 4 + [1] * 3 + [0] * 2
    assert owners.tolist() == [0] * 4 + [1] * 3 + [0] * 2  # a and d are one patient's
    many = [(row, 3 * SCORED_TILES) for row, _ in slides]
    numbers, classes, _ = draw_scored(labels, many, seed=0)
    assert len(numbers) == SCORED_TILES
    assert np.array_equal(classes, np.array([0, 1, -1, 0])[numbers // (3 * SCORED_TILES)])


def test_labels_of_one_class_say_nothing(labels):
    with pytest.raises(InvalidInput, match="same 'label'"):
        draw_scored(labels, [(SlideRow(id=id_, path=""), 4) for id_ in "ad"], seed=0)
