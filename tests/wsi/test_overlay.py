"""A slide in small, and its tiles on it."""

import numpy as np
import pytest

from gigacli.errors import InvalidInput, SlideError
from gigacli.wsi.overlay import Thumbnail, draw_grid, thumbnail


def test_a_real_slide_in_small(shared):
    small = thumbnail(shared / "slides" / "CMU-1-Small-Region.svs", mpp=0.499, long_px=300)
    assert max(small.pixels.shape) == 300
    assert small.scale == pytest.approx(300 / 2967)
    assert small.origin_px == (0, 0)
    assert 100 < small.pixels.mean() < 250


def test_a_slide_is_not_enlarged(shared):
    small = thumbnail(shared / "slides" / "CMU-1-Small-Region.svs", mpp=0.499, long_px=100_000)
    assert small.pixels.shape == (2967, 2220, 3)
    assert small.scale == 1


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(SlideError):
        thumbnail(tmp_path / "gone.svs", mpp=0.5, long_px=100)
    with pytest.raises(InvalidInput, match="0 px"):
        thumbnail(tmp_path / "gone.svs", mpp=0.5, long_px=0)


@pytest.mark.parametrize(("level", "faded"), [(200, 230), (20, 9)])
def test_what_no_tile_covers_is_faded(level, faded):
    small = Thumbnail(np.full((40, 60, 3), level, np.uint8), origin_px=(100, 200), scale=0.1)
    coords = np.array([[100, 200], [300, 200]], np.int32)  # on the picture: (0, 0) and (20, 0), 20 px each
    drawn = np.asarray(draw_grid(small, coords, edge_px=200.0)).astype(int)
    assert (drawn[5, 10] == level).all()
    assert (drawn[10, 30] == level).all()
    assert (drawn[30, 30] == faded).all()
    assert (drawn[5, 50] == faded).all()
    assert (drawn[0, 5] != level).any()  # the grid's line
    assert (drawn[5, 20] != level).any()


def test_small_tiles_have_no_lines():
    small = Thumbnail(np.full((40, 60, 3), 200, np.uint8), origin_px=(0, 0), scale=0.1)
    drawn = np.asarray(draw_grid(small, np.array([[100, 100]], np.int32), edge_px=40.0))
    assert (drawn[10:14, 10:14] == 200).all()
