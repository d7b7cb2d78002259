"""Decoding the JPEG tiles of a file gives what OpenSlide gives, or OpenSlide is asked."""

import io
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from unittest.mock import patch

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gigacli.demo.pyramid import write_pyramid
from gigacli.errors import SlideError
from gigacli.wsi import slide as slide_module
from gigacli.wsi import tiff, tile_level
from gigacli.wsi.jpeg_tiles import JpegLevel, jpeg_levels
from gigacli.wsi.slide import Slide
from gigacli.wsi.tiff import jpeg_images

RNG = np.random.default_rng(0)


def picture(height, width):
    """Waves with some noise, in colour."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / a) * np.cos(y / b) for a, b in ((7, 11), (13, 5), (9, 17))], -1)
    return np.clip(128 + 90 * waves + RNG.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    """A slide of 700 x 500 px in tiles of 64, and two levels more, the last of odd size."""
    path = tmp_path_factory.mktemp("pyramid") / "slide.tif"
    write_pyramid(path, picture(500, 700), mpp=0.25, tile_px=64, levels=3)
    return path


def level_of(path, level):
    """All pixels of a level, put together by Pillow from the tiles of the file."""
    with tifffile.TiffFile(path) as opened, path.open("rb") as file:
        page = opened.pages[level]
        side, across = page.tilewidth, -(-page.imagewidth // page.tilewidth)
        whole = np.empty((-(-page.imagelength // side) * side, across * side, 3), np.uint8)
        for i, (offset, size) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
            file.seek(offset)
            y, x = i // across * side, i % across * side
            whole[y : y + side, x : x + side] = np.asarray(Image.open(io.BytesIO(file.read(size))))
        return whole[: page.imagelength, : page.imagewidth]


@cache
def on_white(path):
    """The second level at (100, 100) of a white picture."""
    whole = np.full((1000, 1000, 3), 255, np.uint8)
    whole[100:350, 100:450] = level_of(path, 1)
    return whole


def both(path, places, *, mpp, tile_px, slide_mpp):
    """Tiles as decoded here and as OpenSlide gives them, (n, tile_px, tile_px, 3) each."""
    found = []
    for formats in (slide_module._DIRECT, ()):
        with patch.object(slide_module, "_DIRECT", formats), Slide(path, mpp=slide_mpp) as slide:
            assert slide.decodes(mpp) == bool(formats)
            found.append(np.stack([slide.read(x, y, tile_px=tile_px, mpp=mpp) for x, y in places]).astype(int))
    return found


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-40, 360), st.integers(-40, 260), st.integers(1, 200), st.integers(1, 200))
def test_a_region_is_cut_out_of_the_level_and_white_beyond_it(pyramid, x, y, width, height):
    level = jpeg_levels(pyramid, [(350, 250)])[0]
    expected = on_white(pyramid)
    found = level.region((x, y), (width, height))
    assert (found == expected[100 + y : 100 + y + height, 100 + x : 100 + x + width]).all()
    level.close()


@pytest.mark.parametrize(
    ("name", "mpp"),
    [("CMU-1-Small-Region.svs", 0.499), ("CMU-1-Small-Region.svs", 1.0), ("CMU-1-Small-Region.pyramid.tif", 0.499)],
)
def test_real_slides_are_decoded_to_the_same_pixels(slides, name, mpp):
    """Tables apart from the tiles and red, green and blue in them; whole JPEGs of luminance and chrominance."""
    side = round(200 * mpp / 0.499)
    places = [(x, y) for y in range(37, 2960, 3 * side) for x in range(11, 2210, 2 * side)]  # over the border, too
    ours, theirs = both(slides / name, places, mpp=mpp, tile_px=200, slide_mpp=0.499)
    assert (ours == theirs).all()


def test_a_level_that_openslide_interpolates_is_given_as_it_is_in_the_file(slides):
    """Of 2220 x 2967 px, the second level has 1110 x 1483: OpenSlide places its pixels 2.0003 apart, and blurs them."""
    path = slides / "CMU-1-Small-Region.pyramid.tif"
    places = [(2 * x, 2 * y) for x, y in ((0, 0), (256, 512), (640, 900), (854, 1227))]
    ours, theirs = both(path, places, mpp=0.998, tile_px=256, slide_mpp=0.499)
    level = level_of(path, 1)
    assert all((tile == level[y // 2 :, x // 2 :][:256, :256]).all() for tile, (x, y) in zip(ours, places, strict=True))
    assert np.abs(ours - theirs).mean() < 2.5
    assert np.abs(ours - theirs).max() <= 70


def test_what_is_not_made_of_jpeg_tiles_is_left_to_openslide(slides, write_tiff):
    (dicom,) = sorted((slides / "dicom").iterdir())[:1]
    others = [slides / "TCGA-CR-7395-01A-01-TS1.svs", slides / "hamamatsu_test3-DAPI-2-387.ndpi", dicom]
    for path in [
        *others,
        write_tiff(picture(100, 100)),
    ]:  # JPEG 2000, one JPEG for a whole level, DICOM, no compression
        with Slide(path, mpp=0.5) as slide:
            assert not slide.decodes(0.5)


def test_tiles_that_do_not_decode_to_what_openslide_gives_are_left_to_it(pyramid, tmp_path):
    """Tiles whose header says luminance and chrominance, in an image that says red, green and blue."""
    path = tmp_path / "lies.tif"
    path.write_bytes(pyramid.read_bytes())
    with tifffile.TiffFile(path, mode="r+b") as opened:
        opened.pages[0].tags["PhotometricInterpretation"].overwrite(2)
    with Slide(path, mpp=0.25) as slide, openslide.OpenSlide(path) as theirs:
        assert not slide.decodes(0.25)
        assert slide.decodes(0.5)
        expected = np.asarray(theirs.read_region((64, 64), 0, (64, 64)).convert("RGB"))
        assert (slide.read(64, 64, tile_px=64, mpp=0.25) == expected).all()


@pytest.mark.parametrize("value", [0, 3])
def test_a_tile_that_is_missing_is_what_openslide_makes_of_it(pyramid, tmp_path, value):
    path = tmp_path / "sparse.tif"
    path.write_bytes(pyramid.read_bytes())
    with tifffile.TiffFile(path, mode="r+b") as opened:
        counts = list(opened.pages[0].databytecounts)
        counts[12] = value  # of 11 tiles in a row: from pixel (64, 64) on
        opened.pages[0].tags["TileByteCounts"].overwrite(counts)
    with Slide(path, mpp=0.25) as slide:
        assert slide.decodes(0.25)
        whole = slide.read(128, 64, tile_px=64, mpp=0.25)
        assert (whole == level_of(pyramid, 0)[64:128, 128:192]).all()
        if value:
            with pytest.raises(SlideError, match="cannot be read at level-0 pixel"):
                slide.read(64, 64, tile_px=64, mpp=0.25)
        else:
            assert (slide.read(64, 64, tile_px=64, mpp=0.25) == 255).all()


def decoded(path, places, monkeypatch, *, threads, cache_bytes):
    """Tiles read by threads, and how often each tile of the file was decoded."""
    monkeypatch.setattr(tile_level, "CACHE_BYTES", cache_bytes)
    often, decode = [], JpegLevel._decode
    monkeypatch.setattr(JpegLevel, "_decode", lambda self, i, out=None: (often.append(i), decode(self, i, out))[1])
    with Slide(path, mpp=0.25) as slide, ThreadPoolExecutor(threads) as pool:
        assert slide.decodes(0.25)
        often.clear()
        tiles = list(pool.map(lambda p: slide.read(*p, tile_px=64, mpp=0.25), places))
    monkeypatch.undo()
    return np.stack(tiles), often


@pytest.mark.parametrize(("threads", "kept"), [(1, 24), (3, 1000)])  # two rows of 11 are enough for one thread
def test_a_grid_that_cuts_the_tiles_of_the_file_decodes_each_once(pyramid, monkeypatch, threads, kept):
    places = [(x, y) for y in range(10, 430, 64) for x in range(20, 630, 64)]
    once, often = decoded(pyramid, places, monkeypatch, threads=threads, cache_bytes=3 * 64 * 64 * kept)
    assert len(often) == len(set(often))
    again, more = decoded(pyramid, places, monkeypatch, threads=3, cache_bytes=0)
    assert len(more) > 2 * len(often)
    assert (once == again).all()


def test_a_grid_that_lies_on_the_tiles_of_the_file_keeps_none(pyramid, monkeypatch):
    places = [(x, y) for y in range(0, 448, 64) for x in range(0, 640, 64)]
    tiles, often = decoded(pyramid, places, monkeypatch, threads=2, cache_bytes=2**30)
    assert sorted(often) == sorted(y // 64 * 11 + x // 64 for x, y in places)
    assert not tile_level._DECODED._entries
    assert (tiles[0] == level_of(pyramid, 0)[:64, :64]).all()


def test_tiles_go_where_they_are_wanted(pyramid):
    block = np.zeros((2, 64, 64, 3), np.uint8)
    with Slide(pyramid, mpp=0.25) as slide:
        for i, (place, mpp) in enumerate([((64, 64), 0.25), ((3, 5), 0.6)]):
            assert slide.read(*place, tile_px=64, mpp=mpp, out=block[i]).base is block
            assert (block[i] == slide.read(*place, tile_px=64, mpp=mpp)).all()


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_images_of_a_tiff(tmp_path, order, big):
    """tifffile writes tiles that are given compressed only with imagecodecs: here they stand for JPEGs."""
    path = tmp_path / "images.tif"
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as writer:
        for size in ((130, 200), (65, 100)):
            writer.write(np.zeros((*size, 3), np.uint8), tile=(64, 64), photometric="rgb")
    assert jpeg_images(path) == []
    with patch.object(tiff, "_JPEG", 1):
        found = jpeg_images(path)
    assert [image.size_px for image in found] == [(200, 130), (100, 65)]
    with tifffile.TiffFile(path) as opened:
        for image, page in zip(found, opened.pages, strict=True):
            assert (image.tile_px, image.rgb, image.tables) == ((64, 64), True, b"")
            assert image.offsets.tolist() == list(page.dataoffsets)
            assert image.counts.tolist() == list(page.databytecounts)
