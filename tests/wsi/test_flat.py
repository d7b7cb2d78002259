"""Pictures without a pyramid, and overviews: read as they are, and said to be what they are."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

import gigacli as giga
from gigacli.cohort.discovery import find_slides
from gigacli.errors import NotFound, SlideError
from gigacli.progress import Silent
from gigacli.store.store import Store
from gigacli.wsi import advice, flat
from gigacli.wsi.patches import open_slide

RNG = np.random.default_rng(0)
PICTURE = np.asarray(
    Image.fromarray(RNG.integers(0, 255, (9, 11, 3), dtype=np.uint8)).resize((220, 180), Image.Resampling.BICUBIC)
)


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


def section(height, width):
    """White glass around something pink."""
    picture = np.full((height, width, 3), 240, np.uint8)
    inner = picture[height // 6 : -height // 6, width // 6 : -width // 6]
    inner[:] = (180, 60, 140)
    inner += RNG.integers(0, 30, inner.shape, dtype=np.uint8)
    return picture


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_pictures_are_what_pillow_decodes_on_white(tmp_path, name, mode):
    kinds = {"a.png": ("RGB", "L", "P", "RGBA", "1"), "a.jpg": ("RGB", "L", "CMYK")}
    if mode not in kinds[name]:
        return
    image = Image.fromarray(PICTURE).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.linspace(0, 255, 180 * 220).reshape(180, 220).astype(np.uint8)))
    image.save(tmp_path / name)
    with Image.open(tmp_path / name) as saved:
        oracle = saved.convert("RGBA")
        oracle = np.asarray(Image.alpha_composite(Image.new("RGBA", oracle.size, "white"), oracle).convert("RGB"))
    with open_slide(tmp_path / name, mpp=0.5) as slide:
        assert slide.vendor == {"a.png": "png", "a.jpg": "jpeg"}[name]
        np.testing.assert_array_equal(slide.read(30, 20, tile_px=100, mpp=0.5), oracle[20:120, 30:130])
        half = oracle[20:120, 30:130].reshape(50, 2, 50, 2, 3).mean((1, 3))
        assert np.abs(slide.read(30, 20, tile_px=50, mpp=1.0) - half).max() <= 0.51


def png_of_16_bits(picture):
    """A PNG in colours of 16 bits."""

    def part(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = picture.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in picture)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def test_pictures_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((10, 10), np.uint16)).save(path)
    with pytest.raises(SlideError, match="expected 8 bits") as caught:
        open_slide(path)
    assert "red, green and blue of 8 bits" in caught.value.hint
    path.write_bytes(png_of_16_bits(PICTURE))  # Pillow leaves out half of each value
    with pytest.raises(SlideError, match="values of 16 bits; expected 8"):
        open_slide(path)
    Image.fromarray(PICTURE).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_slide(path, mpp=0.5) as slide, pytest.raises(SlideError, match="missing or damaged"):
        slide.read(0, 0, tile_px=100, mpp=0.5)
    path.write_bytes(data[:20])
    with pytest.raises(SlideError, match="no PNG that can be read"):
        open_slide(path)
    path.write_bytes(data)
    monkeypatch.setattr(flat, "MAX_PICTURE_PX", 1000)
    with pytest.raises(SlideError, match="decoded whole; expected at most 1000") as caught:
        open_slide(path)
    assert "vips tiffsave a.png" in caught.value.hint


def test_a_flat_slide_is_tiled_and_says_what_it_costs(tmp_path, monkeypatch):
    monkeypatch.setattr(advice, "FLAT_PX", 10_000)
    Image.fromarray(section(600, 900)).save(tmp_path / "a.png")
    heard, store = Heard(), tmp_path / "cohort.zarr"
    assert giga.tile(store, [tmp_path / "a.png"], mpp=1.0, tile_px=64, slide_mpp=0.5, progress=heard).done == 1
    assert any("no smaller levels" in said and "vips tiffsave" in said for said in heard.said)
    row = Store.open(store).slides[0]
    assert (row.vendor, row.mpp, row.mpp_source) == ("png", 0.5, "option")
    assert Store.open(store).tiles.done().values[0] > 0


@pytest.mark.parametrize("tile_mpp", [29.0, 58.0])
def test_an_overview_is_used_as_it_is_where_tiles_are_as_coarse(tmp_path, tile_mpp):
    about = {"axes": "YXS", "PhysicalSizeX": 29.0, "PhysicalSizeY": 29.0}
    tifffile.imwrite(tmp_path / "a.ome.tif", section(600, 900), photometric="rgb", tile=(64, 64), metadata=about)
    fine = giga.tile(tmp_path / "fine.zarr", [tmp_path], mpp=1.0, tile_px=64)
    assert (fine.done, fine.failed) == (0, 1)
    assert "29 microns per pixel; expected 0.08 to 5" in Store.open(tmp_path / "fine.zarr").failures("tile")[0]
    store = tmp_path / "coarse.zarr"
    assert giga.tile(store, [tmp_path / "a.ome.tif"], mpp=tile_mpp, tile_px=32, min_tissue=1.0).done == 1
    (grid,) = Store.open(store).tiles.grids(np.array([0]))
    factor = tile_mpp / 29.0
    inside = (grid.coords >= np.array([150, 100]) - 2) & (grid.coords + 32 * factor <= np.array([750, 500]) + 2)
    assert len(grid.coords) > 10
    assert inside.all()


def test_a_folder_search_names_what_it_passes_over(tmp_path):
    for name in ("a.svs", "b.png", "c.PNG", "notes.txt", ".hidden.png", "m.mrxs", "m/Data0.dat", "d/readme"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    heard = Heard()
    assert [path.name for path in find_slides([tmp_path], progress=heard)] == ["a.svs", "m.mrxs"]
    (said,) = heard.said
    assert "2 .png, 1 .txt, 1 without extension" in said
    assert "a picture that is a slide has to be named itself" in said
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    with pytest.raises(NotFound, match=r"found 1 \.png"):
        find_slides([tmp_path / "pictures"])
