"""Reading ahead: the same pixels in the same order, whoever reads them."""

import threading

import numpy as np
import pytest

from gigacli.errors import SlideError
from gigacli.wsi import reader as reader_module
from gigacli.wsi.reader import SlideTiles, TileReader
from gigacli.wsi.slide import Slide


@pytest.fixture
def slides(cohort):
    paths = sorted(cohort.slides.glob("*.tif"))[:3]
    grid = np.array([(x, y) for y in range(0, 512, 128) for x in range(0, 512, 128)], dtype=np.int32)
    return [SlideTiles(i, str(path), 0.5, grid[: 5 + 4 * i]) for i, path in enumerate(paths)]


def reading(**options):
    return TileReader(tile_px=64, mpp=1.0, upsample=False, **{"workers": 2, **options})


@pytest.mark.parametrize(("workers", "block"), [(1, 4), (3, 4), (2, 100)])
def test_every_tile_in_order(slides, workers, block, monkeypatch):
    monkeypatch.setattr(reader_module, "BLOCK_BYTES", block * 3 * 64 * 64)
    monkeypatch.setattr(reader_module, "AHEAD_BYTES", 3 * block * 3 * 64 * 64)
    with reading(workers=workers) as reader:
        blocks = list(reader.blocks(slides))
    for slide in slides:
        own = [b for b in blocks if b.slide is slide]
        assert [b.start for b in own] == list(range(0, len(slide.coords), block))
        assert [b.last for b in own] == [False] * (len(own) - 1) + [True]
        with Slide(slide.path, mpp=0.5) as opened:
            expected = [opened.read(int(x), int(y), tile_px=64, mpp=1.0) for x, y in slide.coords]
        assert (np.concatenate([b.tiles for b in own]) == np.stack(expected).transpose(0, 3, 1, 2)).all()
    assert [b.slide.key for b in blocks] == sorted(b.slide.key for b in blocks)


def test_no_more_is_read_ahead_than_fits(slides, monkeypatch):
    monkeypatch.setattr(reader_module, "BLOCK_BYTES", 4 * 3 * 64 * 64)
    monkeypatch.setattr(reader_module, "AHEAD_BYTES", 8 * 3 * 64 * 64)
    asked = []
    with reading(allocate=lambda shape: (asked.append(shape[0]), np.empty(shape, np.uint8))[1]) as reader:
        for used, _ in enumerate(reader.blocks(slides), 1):
            assert sum(asked) <= 4 * used + 8 + 4


def test_slides_that_wait_to_be_used_are_closed(slides, monkeypatch):
    """A handle keeps decoded tiles: hundreds of small slides would fill the memory."""
    opened, most, lock = set(), [0], threading.Lock()
    start, close = Slide.__init__, Slide.close

    def count(self, *arguments, **options):
        start(self, *arguments, **options)
        with lock:
            opened.add(id(self))
            most[0] = max(most[0], len(opened))

    def leave(self):
        close(self)
        with lock:
            opened.discard(id(self))

    monkeypatch.setattr(Slide, "__init__", count)
    monkeypatch.setattr(Slide, "close", leave)
    many = [SlideTiles(i, slides[i % 3].path, 0.5, slides[i % 3].coords) for i in range(30)]
    with reading() as reader:
        blocks = reader.blocks(many)  # all of them fit into what is read ahead
        next(blocks)
        waiting = list(blocks)
    assert len(waiting) == 29
    assert most[0] <= 3  # two threads, and one slide that is just being opened
    assert not opened


def test_a_slide_that_fails_half_way_ends_there(slides, monkeypatch):
    read = Slide.read

    def broken(self, x, y, **options):
        if str(self.path) == slides[1].path and y >= 256:
            raise SlideError("a damaged tile")
        return read(self, x, y, **options)

    monkeypatch.setattr(Slide, "read", broken)
    monkeypatch.setattr(reader_module, "BLOCK_BYTES", 4 * 3 * 64 * 64)
    with reading() as reader:
        blocks = list(reader.blocks(slides))
    failed = [b for b in blocks if b.error is not None]
    assert [(b.slide.key, str(b.error), b.last, len(b.tiles)) for b in failed] == [(1, "a damaged tile", True, 0)]
    assert [b.slide.key for b in blocks if b.last] == [0, 1, 2]


def test_all_threads_hang_and_the_next_slide_is_read(slides, monkeypatch):
    read, wake = Slide.read, threading.Event()

    def hang(self, x, y, **options):
        if str(self.path) == slides[0].path:
            wake.wait(60)
        return read(self, x, y, **options)

    monkeypatch.setattr(Slide, "read", hang)
    with reading(workers=1, timeout_s=0.3) as reader:
        blocks = list(reader.blocks(slides))
        wake.set()
    assert [(b.slide.key, b.error is None) for b in blocks] == [(0, False), (1, True), (2, True)]
    assert "has not come back for 0.3 seconds, at level-0 pixels [0, 0]" in str(blocks[0].error)
    assert reader.waited_s >= 0.3
