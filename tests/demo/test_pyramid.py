"""Pyramids: what OpenSlide, Pillow and tifffile read back is what was written."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gigacli.demo.pyramid import LAST_LEVEL_PX, write_pyramid
from gigacli.errors import InvalidInput


def smooth_image(height, width):
    """Slow colour gradients: JPEG keeps them within a few grey values, and any mix-up of channels shows."""
    y, x = np.indices((height, width)) / 1600
    return np.stack((30 + 200 * x, 220 - 150 * y, 60 + 120 * x * y), -1).round().astype(np.uint8)


def read_level(path, level):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB")).astype(int)


def halve(image):
    """Mean over 2 x 2 pixels, over those that exist at an odd border: the definition, in floats."""
    height, width = image.shape[:2]
    padded = np.full((height + height % 2, width + width % 2, 3), np.nan)
    padded[:height, :width] = image
    return np.nanmean(padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, 3), (1, 3))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    image = smooth_image(1203, 1537)
    path = tmp_path_factory.mktemp("pyramid") / "slide.tif"
    write_pyramid(path, image, mpp=0.2525)
    return path, image


def test_openslide_sees_levels_and_resolution(written):
    path, _ = written
    assert openslide.OpenSlide.detect_format(path) == "generic-tiff"
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((1537, 1203), (769, 602), (385, 301))
        np.testing.assert_allclose(slide.level_downsamples, [1, 2, 4], rtol=2e-3)
        for axis in "xy":
            assert float(slide.properties[f"openslide.mpp-{axis}"]) == pytest.approx(0.2525, rel=1e-9)
        assert slide.properties["openslide.level[0].tile-width"] == "256"


@pytest.mark.parametrize("level", [0, 1, 2])
def test_pixels_read_back_within_jpeg_error(written, level):
    path, image = written
    expected = image.astype(float)
    for _ in range(level):
        expected = halve(expected)
    error = np.abs(read_level(path, level) - expected)
    assert error.mean() < 1
    assert error.max() < 8


def test_levels_are_means_not_samples(tmp_path):
    image = np.zeros((600, 600, 3), np.uint8)
    image[:, ::2], image[:, 1::2] = 40, 200
    write_pyramid(tmp_path / "stripes.tif", image, mpp=1)
    assert np.abs(read_level(tmp_path / "stripes.tif", 1) - 120).max() <= 2


def test_pillow_and_tifffile_agree_with_openslide(written):
    path, _ = written
    with Image.open(path) as image:
        for level in range(3):
            image.seek(level)
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - read_level(path, level)).max() <= 1
    with tifffile.TiffFile(path) as file:
        assert [page.is_reduced for page in file.pages] == [False, True, True]
        assert [page.shape for page in file.pages] == [(1203, 1537, 3), (602, 769, 3), (301, 385, 3)]
        tags = file.pages[0].tags
        assert tags["XResolution"].value[0] / tags["XResolution"].value[1] == pytest.approx(10_000 / 0.2525)
        assert tags["PhotometricInterpretation"].value == tifffile.PHOTOMETRIC.YCBCR
        assert "Software" not in tags
        assert "DateTime" not in tags


@pytest.mark.parametrize("colour", [(255, 255, 255), (200, 30, 30), (30, 160, 60), (40, 40, 200), (214, 130, 180)])
def test_colours_are_not_mixed_up(tmp_path, colour):
    write_pyramid(tmp_path / "flat.tif", np.full((300, 280, 3), colour, np.uint8), mpp=1)
    assert np.abs(read_level(tmp_path / "flat.tif", 0) - colour).max() <= 3


@settings(max_examples=15, deadline=None)
@given(
    width=st.integers(1, 1300),
    height=st.integers(1, 700),
    mpp=st.floats(0.05, 8),
    tile_px=st.sampled_from([16, 240, 512]),
)
def test_any_size(tmp_path_factory, width, height, mpp, tile_px):
    path = tmp_path_factory.mktemp("any") / "slide.tif"
    image = smooth_image(height, width)
    write_pyramid(path, image, mpp=mpp, tile_px=tile_px)
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (width, height)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-6)
        assert max(slide.level_dimensions[-1]) <= LAST_LEVEL_PX
        assert all(max(size) > LAST_LEVEL_PX for size in slide.level_dimensions[:-1])
    assert np.abs(read_level(path, 0) - image).mean() < 3


def test_levels_can_be_asked_for(tmp_path):
    write_pyramid(tmp_path / "one.tif", smooth_image(900, 900), mpp=1, levels=1)
    with openslide.OpenSlide(tmp_path / "one.tif") as slide:
        assert slide.level_count == 1


def test_same_bytes(tmp_path):
    image = smooth_image(300, 700)
    for name, mpp in (("a", 0.5), ("b", 0.5), ("c", 0.25)):
        write_pyramid(tmp_path / name, image, mpp=mpp)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("image", "options", "found"),
    [
        (np.zeros((8, 8), np.uint8), {}, r"\(8, 8\)"),
        (np.zeros((8, 8, 3)), {}, "float64"),
        (np.zeros((0, 8, 3), np.uint8), {}, r"\(0, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), {"mpp": 0}, "mpp = 0"),
        (np.zeros((8, 8, 3), np.uint8), {"mpp": float("nan")}, "mpp = nan"),
        (np.zeros((8, 8, 3), np.uint8), {"tile_px": 100}, "tile_px = 100"),
        (np.zeros((8, 8, 3), np.uint8), {"quality": 0}, "quality = 0"),
        (np.zeros((8, 8, 3), np.uint8), {"levels": 5}, "levels = 5"),
    ],
)
def test_refuses(tmp_path, image, options, found):
    with pytest.raises(InvalidInput, match=found):
        write_pyramid(tmp_path / "slide.tif", image, **({"mpp": 0.5} | options))
    assert not list(tmp_path.iterdir())
