"""Levels of tiles over any slide: each is the area average that the reader gives, whole at its borders."""

import math

import numpy as np
import pytest
from PIL import Image

from gigacli.errors import NotFound, SlideError
from gigacli.wsi import zoom as module
from gigacli.wsi.patches import Patches, index_text, open_slide
from gigacli.wsi.slide import Slide
from gigacli.wsi.zoom import TILE_PX, Zoom

RNG = np.random.default_rng(0)


def smooth(height, width):
    """Blobs: neighbours differ, and averages differ less."""
    small = RNG.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def level_of(zoom, level):
    """All tiles of a level side by side."""
    width, height = (math.ceil(side / 2 ** (zoom.last - level)) for side in zoom.size_px)
    rows = [
        np.hstack([zoom.tile(level, column, row) for column in range(-(-width // TILE_PX))])
        for row in range(-(-height // TILE_PX))
    ]
    return np.vstack(rows)


@pytest.fixture
def slide(write_tiff):
    pixels = smooth(1300, 1700)
    path = write_tiff(pixels, np.asarray(Image.fromarray(pixels).reduce(4)), mpp=0.5)
    with Slide(path, mpp=0.5) as opened:
        yield pixels, opened


@pytest.mark.parametrize("overview_px", [512, 4096])
def test_every_level_is_the_average_of_level_0(slide, overview_px, monkeypatch):
    monkeypatch.setattr(module, "OVERVIEW_PX", overview_px)
    pixels, opened = slide
    zoom = Zoom(opened)
    assert (zoom.last, zoom.first, zoom.origin_px, zoom.size_px) == (11, 8, (0, 0), (1700, 1300))
    for level in range(zoom.first, zoom.last + 1):
        scale, found = 2 ** (zoom.last - level), level_of(zoom, level)
        assert found.shape == (math.ceil(1300 / scale), math.ceil(1700 / scale), 3)
        expected = np.asarray(Image.fromarray(pixels).reduce(scale)).astype(int)
        whole = (slice(None, 1300 // scale), slice(None, 1700 // scale))  # a last pixel that is cut is read part white
        assert np.abs(found[whole] - expected[whole]).max() <= 2


def test_what_is_shown_is_what_was_scanned(slide):
    pixels, opened = slide
    opened.bounds_px = (100, 200, 700, 500)
    zoom = Zoom(opened)
    assert (zoom.origin_px, zoom.size_px, zoom.last) == ((100, 200), (700, 500), 10)
    np.testing.assert_array_equal(level_of(zoom, 10), pixels[200:700, 100:800])
    assert zoom.overview().shape == (500, 700, 3)
    assert not zoom.dark


@pytest.mark.parametrize("place", [(7, 0, 0), (12, 0, 0), (11, 7, 0), (11, 0, 6), (8, 1, 0), (11, -1, 0), (11, 0, -1)])
def test_what_lies_beyond_is_not_there(slide, place):
    with pytest.raises(NotFound, match="has no"):
        Zoom(slide[1]).tile(*place)


def test_a_square_is_not_enlarged(slide):
    pixels, opened = slide
    zoom = Zoom(opened)
    np.testing.assert_array_equal(
        zoom.square(300, 400, edge_px=40.7, px=160), zoom.square(300, 400, edge_px=40.7, px=40)
    )
    np.testing.assert_array_equal(zoom.square(300, 400, edge_px=64, px=160), pixels[400:464, 300:364])


def test_a_small_picture_without_levels(tmp_path):
    pixels = smooth(90, 130)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    with open_slide(tmp_path / "small.png", mpp=1.0) as opened:
        zoom = Zoom(opened)
        assert (zoom.first, zoom.last) == (8, 8)
        np.testing.assert_array_equal(zoom.tile(8, 0, 0), pixels)


@pytest.fixture
def patches(tmp_path):
    """Patches of a picture, all but one, and the picture on white."""
    pixels, listed = smooth(640, 960).copy(), []
    for y in range(0, 640, 64):
        for x in range(0, 960, 64):
            if (x, y) == (128, 64):
                pixels[64:128, 128:192] = 255
                continue
            Image.fromarray(pixels[y : y + 64, x : x + 64]).save(tmp_path / f"{x}_{y}.png")
            listed.append((f"{x}_{y}.png", x, y, 1))
    path = tmp_path / "one.patches"
    path.write_text(index_text(folder=tmp_path, patch_px=64, edge_px=64.0, mpp=0.5, patches=listed))
    return pixels, path


@pytest.mark.parametrize("overview_px", [256, 4096])
def test_patches_are_put_together(patches, overview_px, monkeypatch):
    monkeypatch.setattr(module, "OVERVIEW_OF_FLAT_PX", overview_px)
    pixels, path = patches
    zoom = Zoom(Patches(path, mpp=0.5))
    np.testing.assert_array_equal(level_of(zoom, zoom.last), pixels)
    expected = np.asarray(Image.fromarray(pixels).reduce(4)).astype(int)
    assert np.abs(level_of(zoom, zoom.last - 2) - expected).max() <= 1
    (path.parent / "0_0.png").unlink()
    with pytest.raises(SlideError, match="cannot be read"):
        Zoom(Patches(path, mpp=0.5)).tile(zoom.last, 0, 0)
