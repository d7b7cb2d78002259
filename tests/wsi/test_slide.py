import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from gigacli.errors import InvalidInput, SlideError
from gigacli.wsi import slide as module
from gigacli.wsi.slide import Slide

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (300, 420, 3), dtype=np.uint8)


def overlaps(start, step, count, size):
    """(count, size): the share of each output pixel that each input pixel fills, densely, from the definition."""
    low, high = start + step * np.arange(count)[:, None], start + step * np.arange(1, count + 1)[:, None]
    pixel = np.arange(size)[None, :]
    return np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, 1)


def area_average(image, x, y, *, step, shape):
    """The exact area average of an image of constant pixels, cut off at its border."""
    rows = overlaps(y, step, shape[0], image.shape[0])
    columns = overlaps(x, step, shape[1], image.shape[1])
    total = np.stack([rows @ image[..., c].astype(float) @ columns.T for c in range(3)], -1)
    return total / (rows.sum(1)[:, None] * columns.sum(1)[None, :])[..., None]


def smooth(height, width):
    """A picture with details no smaller than 160 pixels and slopes of up to 4 grey levels per pixel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + 0.3 * c) * np.cos(y / b) for c, (a, b) in enumerate([(36, 56), (48, 32), (28, 44)])]
    return (127.5 + 120 * np.stack(waves, -1)).round().astype(np.uint8)


def halved(image):
    """The next level as writers make it: means of 2 x 2, an odd last row or column dropped."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    import tifffile

    path = tmp_path_factory.mktemp("flat") / "flat.tif"
    tifffile.imwrite(path, NOISE, tile=(64, 64), photometric="rgb", resolution=(40_000, 40_000), resolutionunit=3)
    with Slide(path, mpp=0.25) as slide:
        yield slide


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.integers(0, 280), st.integers(1, 40), st.floats(0.24, 2.5))
def test_read_is_the_exact_area_average(flat, x, y, tile_px, mpp):
    side = tile_px * mpp / 0.25
    assume(x + side <= 420 and y + side <= 300)
    found = flat.read(x, y, tile_px=tile_px, mpp=mpp)
    expected = area_average(NOISE, x, y, step=mpp / 0.25, shape=(tile_px, tile_px))
    assert found.shape == (tile_px, tile_px, 3)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.5 + 1e-3  # rounding to whole grey levels, nothing else


def test_read_at_the_scanned_resolution_is_the_slide_itself(flat):
    assert (flat.read(11, 7, tile_px=200, mpp=0.25) == NOISE[7:207, 11:211]).all()


# A level stores rounded averages, and a tile may begin in the middle of its pixels: up to 2.1 grey levels in a picture
# with slopes of 4 per pixel, far less than the 8 of one pixel of level 1 in the wrong place. OpenSlide interpolates odd
# levels, which it places at fractions, and at the slide's own border their last pixel is missing.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "inside", "border"), [((512, 640), 2.1, 2.1), ((511, 643), 2.5, 10), ((303, 2001), 2.5, 10)]
)
@pytest.mark.parametrize("mpp", [0.25, 0.37, 0.5, 0.505, 0.75, 1.0])
def test_pyramids_give_the_same_as_their_first_level(write_tiff, size, inside, border, mpp):
    image = smooth(*size)
    levels = [image, halved(image), halved(halved(image))]
    side = 64 * mpp / 0.25
    with Slide(write_tiff(*levels), mpp=0.25) as slide:
        for x, y in [(0, 0), (37, 41), (int(size[1] - side), int(size[0] - side))]:
            found = slide.read(x, y, tile_px=64, mpp=mpp)
            error = np.abs(found - area_average(image, x, y, step=mpp / 0.25, shape=(64, 64)))
            assert error[:-1, :-1].max() <= inside
            assert error.max() <= border


class FakeSlide:
    """An OpenSlide whose pixels are given, with transparency, broken handles and a record of what was read."""

    def __init__(self, images, downsamples=None, properties=None):
        self.images = images  # RGBA
        self.level_dimensions = tuple((image.shape[1], image.shape[0]) for image in images)
        self.level_downsamples = downsamples or tuple(self.level_dimensions[0][0] / w for w, _ in self.level_dimensions)
        self.dimensions = self.level_dimensions[0]
        self.properties = {"openslide.vendor": "fake", **(properties or {})}
        self.read = []
        self.errors = 0

    def read_region(self, location, level, size):
        self.read.append((location, level, size))
        if self.errors:
            raise openslide.OpenSlideError("tile 7 is broken")
        result = np.zeros((size[1], size[0], 4), np.uint8)
        x, y = (round(v / self.level_downsamples[level]) for v in location)
        part = self.images[level][y : y + size[1], x : x + size[0]]
        result[: part.shape[0], : part.shape[1]] = part
        return Image.fromarray(result)

    def close(self):
        pass


@pytest.fixture
def open_fake(monkeypatch, tmp_path):
    """Slide(...) over fakes, one per time the file is opened (the last one again and again)."""

    def open_fake(*fakes, mpp=0.5):
        path = tmp_path / "fake.mrxs"
        path.touch()
        left = list(fakes)
        monkeypatch.setattr(module.openslide, "OpenSlide", lambda _: left.pop(0) if len(left) > 1 else left[0])
        return Slide(path, mpp=mpp)

    return open_fake


def opaque(rgb):
    return np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 255, np.uint8)], 2)


@pytest.mark.parametrize(
    ("downsamples", "mpp", "level"),
    [
        ((1, 2.0003, 4.001), 1.0, 1),  # 2.0003 counts as 2
        ((1, 2.0003, 4.001), 0.99, 1),  # 1 % finer than the level: not worth reading four times as many pixels
        ((1, 2.0003, 4.001), 0.94, 0),  # 6 % finer: it is
        ((1, 2.0003, 4.001), 1.9, 1),
        ((1, 2.0003, 4.001), 1.96, 2),
        ((1, 2.0003, 4.001), 80.0, 2),
        ((1, 2.0003, 4.001), 0.48, 0),
    ],
)
def test_reads_the_coarsest_level_that_is_fine_enough(open_fake, downsamples, mpp, level):
    image = opaque(np.full((4001, 4001, 3), 9, np.uint8))
    fake = FakeSlide([image, image[:2000, :2000], image[:1000, :1000]], downsamples)
    with open_fake(fake) as slide:
        slide.read(100, 100, tile_px=8, mpp=mpp)
    assert [r[1] for r in fake.read] == [level]


def test_finer_than_scanned_is_refused_beyond_five_percent(flat):
    assert flat.read(0, 0, tile_px=8, mpp=0.2401).shape == (8, 8, 3)
    with pytest.raises(SlideError, match=r"scanned at 0\.25 microns per pixel; 0\.2 is finer") as caught:
        flat.read(0, 0, tile_px=8, mpp=0.2)
    assert "flat.tif" in caught.value.message
    assert "--mpp 0.25" in caught.value.hint
    with pytest.raises(SlideError, match="finer"):
        flat.thumbnail(0.2)


def test_transparency_becomes_white(open_fake):
    image = opaque(np.full((64, 64, 3), 40, np.uint8))
    image[:, 32:, 3] = 0
    image[:, :8, 3] = 128
    with open_fake(FakeSlide([image])) as slide:
        tile = slide.read(0, 0, tile_px=64, mpp=0.5)
    assert (tile[:, 32:] == 255).all()
    assert (tile[:, 8:32] == 40).all()
    assert np.abs(tile[:, :8].astype(int) - (255 * 127 + 40 * 128) / 255).max() <= 1


def test_outside_of_the_slide_is_white(write_tiff):
    with Slide(write_tiff(np.full((100, 100, 3), 40, np.uint8)), mpp=0.25) as slide:
        tile = slide.read(90, -10, tile_px=20, mpp=0.25)
    assert (tile[10:, :10] == 40).all()
    assert (tile[:10] == 255).all()
    assert (tile[:, 10:] == 255).all()


@pytest.mark.parametrize("size", [(255, 333), (256, 330), (129, 67)])
def test_no_white_creeps_in_at_the_border_of_odd_levels(write_tiff, size):
    image = np.full((*size, 3), 40, np.uint8)
    with Slide(write_tiff(image, halved(image), halved(halved(image))), mpp=0.25) as slide:
        for mpp in (0.25, 0.5, 0.6, 1.0):
            side = 16 * mpp / 0.25
            tile = slide.read(int(size[1] - side), int(size[0] - side), tile_px=16, mpp=mpp)
            assert (tile == 40).all()
            assert (slide.thumbnail(mpp) == 40).all()


def test_bounds(open_fake):
    image = opaque(np.zeros((80, 100, 3), np.uint8))
    names = ("x", "y", "width", "height")

    def bounds_of(values):
        properties = {f"openslide.bounds-{n}": str(v) for n, v in zip(names, values, strict=False)}
        with open_fake(FakeSlide([image], properties=properties)) as slide:
            assert slide.size_px == (100, 80)
            assert slide.vendor == "fake"
            return slide.bounds_px

    assert bounds_of((10, 20, 30, 40)) == (10, 20, 30, 40)
    assert bounds_of(()) == (0, 0, 100, 80)
    assert bounds_of((10, 20, 30)) == (0, 0, 100, 80)
    assert bounds_of((90, 70, 30, 40)) == (90, 70, 10, 10)
    assert bounds_of((200, 0, 30, 40)) == (0, 0, 100, 80)


@pytest.mark.parametrize("mpp", [1.0, 0.8, 1.7])
def test_thumbnail_shows_the_bounds_at_a_physical_resolution(open_fake, mpp):
    bounds = {"openslide.bounds-x": "21", "openslide.bounds-y": "33"}
    bounds |= {"openslide.bounds-width": "301", "openslide.bounds-height": "202"}
    with open_fake(FakeSlide([opaque(NOISE)], properties=bounds), mpp=0.25) as slide:
        found = slide.thumbnail(mpp)
    step = mpp / 0.25
    assert found.shape[:2] == (int(np.ceil(202 / step)), int(np.ceil(301 / step)))
    # Pixel (r, c) begins at bounds + step * (c, r); the last ones average what is left of the bounds.
    inside = NOISE[33 : 33 + 202, 21 : 21 + 301]
    assert np.abs(found - area_average(inside, 0, 0, step=step, shape=found.shape[:2])).max() <= 0.51


@pytest.mark.parametrize("block", [1, 37, 128])
def test_thumbnail_does_not_depend_on_its_blocks(monkeypatch, write_tiff, block):
    image = smooth(301, 422)
    path = write_tiff(image, halved(image))
    with Slide(path, mpp=0.25) as slide:
        whole = slide.thumbnail(3.1)
        monkeypatch.setattr(module, "_BLOCK_PX", block)
        change = np.abs(slide.thumbnail(3.1).astype(int) - whole)
    assert change[:-1, :-1].max() <= 2  # OpenSlide interpolates at other fractions of the odd level
    assert change.max() <= 4  # and what is left of its last column is less than half a pixel


@pytest.mark.parametrize("mpp", [3.0, 3.1, 2.5])
def test_a_last_block_that_the_level_lacks_has_the_colour_of_the_border(monkeypatch, write_tiff, mpp):
    image = np.full((301, 501, 3), 40, np.uint8)  # at 3 mpp row 25 is level-0 row 300, which level 1 dropped
    monkeypatch.setattr(module, "_BLOCK_PX", 1)
    with Slide(write_tiff(image, halved(image)), mpp=0.25) as slide:
        assert (slide.thumbnail(mpp) == 40).all()


def test_thumbnail_memory_is_bounded(monkeypatch, open_fake):
    fake = FakeSlide([opaque(np.zeros((900, 1100, 3), np.uint8))])
    monkeypatch.setattr(module, "_BLOCK_PX", 256)
    with open_fake(fake) as slide:
        slide.thumbnail(8.0)
    assert max(w * h for _, _, (w, h) in fake.read) <= 257 * 257
    assert sum(w * h for _, _, (w, h) in fake.read) < 1.1 * 900 * 1100


def test_a_poisoned_handle_is_replaced_once(open_fake):
    image = opaque(NOISE)
    broken, fresh = FakeSlide([image]), FakeSlide([image])
    broken.errors = 1
    with open_fake(broken, fresh) as slide:
        assert (slide.read(0, 0, tile_px=64, mpp=0.5) == NOISE[:64, :64]).all()
        slide.read(0, 0, tile_px=64, mpp=0.5)
    assert len(broken.read) == 1
    assert len(fresh.read) == 2


def test_a_second_error_is_reported_and_the_next_tile_read(open_fake):
    image = opaque(NOISE)
    broken, still, fresh = FakeSlide([image]), FakeSlide([image]), FakeSlide([image])
    broken.errors = still.errors = 1
    with open_fake(broken, still, fresh) as slide:
        with pytest.raises(SlideError, match=r"fake\.mrxs cannot be read at level-0 pixel \(5, 6\): tile 7 is broken"):
            slide.read(5, 6, tile_px=64, mpp=0.5)
        assert (slide.read(0, 0, tile_px=64, mpp=0.5) == NOISE[:64, :64]).all()


def test_threads_that_meet_one_poisoned_handle_open_one_fresh_one(open_fake):
    image = opaque(NOISE)
    everyone = threading.Barrier(4)

    class Poisoned(FakeSlide):
        def read_region(self, *args):
            everyone.wait(timeout=10)
            raise openslide.OpenSlideError("poisoned")

    fresh, never = FakeSlide([image]), FakeSlide([image])
    with open_fake(Poisoned([image]), fresh, never) as slide, ThreadPoolExecutor(4) as pool:
        tiles = list(pool.map(lambda _: slide.read(0, 0, tile_px=64, mpp=0.5), range(4)))
    assert all((tile == NOISE[:64, :64]).all() for tile in tiles)
    assert len(fresh.read) == 4
    assert not never.read


def test_threads_read_what_one_thread_reads(flat):
    places = [(int(x), int(y)) for x, y in RNG.integers(0, 200, (64, 2))]

    def read(place):
        return flat.read(*place, tile_px=32, mpp=0.6)

    with ThreadPoolExecutor(4) as pool:
        assert all((a == b).all() for a, b in zip(pool.map(read, places), map(read, places), strict=True))


@pytest.mark.parametrize("content", [b"", b"not a slide at all", b"II*\0\x08\0\0\0"])
def test_what_is_no_slide(tmp_path, content):
    path = tmp_path / "broken.svs"
    path.write_bytes(content)
    with pytest.raises(SlideError, match=rf"broken\.svs \({len(content)} bytes\) is no slide"):
        Slide(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(SlideError, match="is not there"):
        Slide(tmp_path / "gone.svs")
    with pytest.raises(SlideError, match="is a folder"):
        Slide(tmp_path)


def test_truncated_files(write_tiff):
    path = write_tiff(NOISE)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(SlideError, match=r"slide\.tif"), Slide(path, mpp=0.25) as slide:
        slide.thumbnail(1.0)


def test_resolutions_that_are_none(write_tiff):
    path = write_tiff(NOISE)
    with Slide(path) as slide:
        assert slide.size_px == (420, 300)
        assert slide.properties["openslide.mpp-x"] == "0.25"
        with pytest.raises(InvalidInput, match="opened without a resolution"):
            slide.read(0, 0, tile_px=8, mpp=1.0)
    with pytest.raises(InvalidInput, match="resolution of -1"):
        Slide(path, mpp=-1)
    with Slide(path, mpp=0.25) as slide, pytest.raises(InvalidInput, match="resolution of 0"):
        slide.read(0, 0, tile_px=8, mpp=0)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.75, 1.0, 1.25])
def test_whole_factors_are_averaged_like_all_others(flat, mpp):
    step = mpp / 0.25
    expected = area_average(NOISE, 0, 0, step=step, shape=(int(np.ceil(300 / step)), int(np.ceil(420 / step))))
    assert np.abs(flat.thumbnail(mpp) - expected).max() <= 0.5 + 1e-3


class Header(FakeSlide):
    """A slide that has sizes and no pixels."""

    def __init__(self, *sizes, properties=None):
        super().__init__([opaque(np.zeros((4, 4, 3), np.uint8))], properties=properties)
        self.level_dimensions = sizes
        self.dimensions = sizes[0]
        self.level_downsamples = tuple(sizes[0][0] / max(1, size[0]) for size in sizes)

    def read_region(self, *args):
        raise AssertionError("nothing may be read")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(2**31 - 1, 2048)], "2147483647 x 2048 px; expected 1 to 4000000 a side"),
        ([(0, 2048)], "0 x 2048 px"),
        ([(40_000, 30_000), (40_000, 1_000)], "a level of 40000 x 1000 px for a slide of 40000 x 30000 px"),
        ([(40_000, 30_000), (90_000, 67_500)], "a level of 90000 x 67500 px"),
    ],
)
def test_sizes_that_lie_are_refused(open_fake, sizes, message):
    with pytest.raises(SlideError, match=message):
        open_fake(Header(*sizes))


def test_levels_padded_to_whole_tiles_are_accepted(open_fake):
    with open_fake(Header((40_000, 30_000), (10_240, 7_680), (1_024, 512))) as slide:
        assert slide.size_px == (40_000, 30_000)


def test_thumbnails_beyond_any_slide_are_refused_before_anything_is_read(open_fake):
    with (
        open_fake(Header((3_000_000, 2_000_000), (30_000, 20_000)), mpp=5.0) as slide,
        pytest.raises(SlideError, match=r"would be 15000 x 10000 mm, 3000000 x 2000000 px of 5 microns"),
    ):
        slide.thumbnail(16.0)
    with (
        open_fake(Header((300_000, 200_000)), mpp=0.25) as slide,
        pytest.raises(SlideError, match="no level coarser than 300000 x 200000 px"),
    ):
        slide.thumbnail(16.0)


def test_a_property_whose_name_is_broken_is_left_out(open_fake):
    class Broken(dict):
        def __getitem__(self, name):
            if "\ufffd" in name:
                raise KeyError  # OpenSlide cannot find the name again
            return super().__getitem__(name)

    fake = FakeSlide([opaque(NOISE)])
    fake.properties = Broken({"openslide.vendor": "fake", "hamamatsu.M\ufffd": "1"})
    with open_fake(fake) as slide:
        assert slide.properties == {"openslide.vendor": "fake"}


def test_an_image_with_fewer_tiles_than_its_size_needs_is_refused(write_tiff):
    path = write_tiff(NOISE)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ImageLength"].overwrite(900)
    with pytest.raises(SlideError, match="an image of 420 x 900 px, which is 105 tiles, has 35"):
        Slide(path)
