"""Which tiles are drawn: by seed, evenly, and scored only where there is a label."""

import numpy as np
import pytest

from gigacli.cohort.tile_sample import MAX_SCORED_TILES, check_batches, draw_labelled_tiles, draw_tiles
from gigacli.errors import InvalidInput
from gigacli.probing.labels import read_labels
from gigacli.store.table import SlideRow, SlideTable
from gigacli.wsi.reader import SlideTiles


def test_tiles_are_spread_evenly_and_small_slides_give_all():
    counts = np.array([100, 3, 0, 0, 50, 80])
    drawn = draw_tiles(counts, seed=0, max_slides=10, max_tiles=90)
    assert {row: len(tiles) for row, tiles in drawn.items()} == {1: 3, 4: 29, 5: 29, 0: 29}
    for row, tiles in drawn.items():
        assert len(set(tiles.tolist())) == len(tiles)
        assert (np.diff(tiles) > 0).all()
        assert tiles.max() < counts[row]
    again = draw_tiles(counts, seed=0, max_slides=10, max_tiles=90)
    assert all(np.array_equal(tiles, again[row]) for row, tiles in drawn.items())
    other = draw_tiles(counts, seed=1, max_slides=10, max_tiles=90)
    assert not np.array_equal(other[0], drawn[0])


def test_no_more_slides_or_tiles_than_asked_for():
    counts = np.full(20, 10)
    assert len(draw_tiles(counts, seed=0, max_slides=7, max_tiles=1000)) == 7
    few = draw_tiles(counts, seed=0, max_slides=20, max_tiles=5)
    assert sum(map(len, few.values())) == 5
    assert draw_tiles(np.array([0, 0]), seed=0, max_slides=5, max_tiles=5) == {}


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "labels.csv").write_text("slide_id,label\na,x\nb,y\nd,x\n")
    return read_labels(tmp_path / "labels.csv")


def drawn_from(*tiles):
    """The tiles to read of slides a, b, c, d, so many each, and the slide table."""
    table = SlideTable(tuple(SlideRow(id=id_, path="", patient=p) for id_, p in zip("abcd", "1221", strict=True)))
    return [SlideTiles(row, "", 1.0, np.zeros((n, 2), np.int32)) for row, n in enumerate(tiles) if n], table


def test_scored_tiles_are_of_labelled_slides_with_their_classes_and_patients(labels):
    slides, table = drawn_from(4, 3, 5, 2)
    numbers, classes, patients = draw_labelled_tiles(labels, slides, table=table, seed=0)
    assert numbers.tolist() == [0, 1, 2, 3, 4, 5, 6, 12, 13]  # c has no label
    assert classes.tolist() == [0] * 4 + [1] * 3 + [0] * 2
    assert patients.tolist() == [0] * 4 + [1] * 3 + [0] * 2  # a and d are one patient's
    many, table = drawn_from(*[3 * MAX_SCORED_TILES] * 4)
    numbers, classes, _ = draw_labelled_tiles(labels, many, table=table, seed=0)
    assert len(numbers) == MAX_SCORED_TILES
    assert np.array_equal(classes, np.array([0, 1, -1, 0])[numbers // (3 * MAX_SCORED_TILES)])


def test_labels_of_one_class_say_nothing(labels):
    slides, table = drawn_from(4, 0, 0, 4)
    with pytest.raises(InvalidInput, match="same 'label'"):
        draw_labelled_tiles(labels, slides, table=table, seed=0)


def test_batches_too_small_for_so_many_processes_are_refused():
    check_batches(24, 12, processes=6, url="c.zarr")
    with pytest.raises(InvalidInput, match="batches of 12 tiles cannot be split over 7 processes") as caught:
        check_batches(24, 12, processes=7, url="c.zarr")
    assert "--nproc-per-node 6" in caught.value.hint
    with pytest.raises(InvalidInput, match="holds 1 tiles"):
        check_batches(1, 12, processes=1, url="c.zarr")
