"""OME-TIFF, QPTIFF and TIFFs in strips: pixels as tifffile decodes them, and nothing but clear errors for the rest."""

import contextlib
import io
import tracemalloc

import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gigacli.errors import SlideError
from gigacli.wsi import tile_level
from gigacli.wsi.patches import open_slide
from gigacli.wsi.resolution import resolve_mpp
from gigacli.wsi.slide import Slide
from gigacli.wsi.tiff_pyramid import open_tiff

WIDTH, HEIGHT = 700, 500
QPI = "<PerkinElmer-QPI-ImageDescription><ImageType>{}</ImageType></PerkinElmer-QPI-ImageDescription>"


def smooth(width, height):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


PICTURE = smooth(WIDTH, HEIGHT)


def halved(picture):
    height, width = (side // 2 for side in picture.shape[:2])
    return picture[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3)).round().astype(np.uint8)


def write_ome(path, levels, *, axes="YXS", subifds=True, metadata=None, **options):
    """Write levels as OME-TIFF, the smaller ones in SubIFDs or as directories that follow."""
    about = {"axes": axes, "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, **(metadata or {})}
    order = {"YXS": (0, 1, 2), "CYX": (2, 0, 1), "SYX": (2, 0, 1)}[axes]
    options = {"photometric": "rgb", "tile": (64, 64), **options}
    with tifffile.TiffWriter(path) as tiff:
        first, *smaller = [np.ascontiguousarray(level.transpose(order)) for level in levels]
        tiff.write(first, subifds=len(smaller) if subifds else 0, metadata=about, **options)
        for level in smaller:
            tiff.write(level, subfiletype=1, metadata=None, **options)
    return path


@pytest.fixture(scope="module")
def levels():
    return [PICTURE, halved(PICTURE), halved(halved(PICTURE))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib", "predictor": True},
        {"tile": None, "rowsperstrip": 33},
        {"tile": None, "rowsperstrip": 33, "compression": "zlib"},
        {"axes": "SYX", "planarconfig": "separate", "compression": "zlib"},
        {"axes": "CYX", "photometric": "minisblack"},
        {"subifds": False},
        {"bigtiff": True},
        {"byteorder": ">"},
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()) or "plain",
)
def test_every_level_of_an_ome_tiff_is_what_tifffile_decodes(tmp_path, levels, options):
    writer = {k: options[k] for k in ("bigtiff", "byteorder") if k in options}
    rest = {k: v for k, v in options.items() if k not in writer}
    path = tmp_path / "a.ome.tiff"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tifffile, "TiffWriter", lambda p, make=tifffile.TiffWriter: make(p, **writer))
        write_ome(path, levels, **rest)
    with open_slide(path, mpp=0.25) as slide, tifffile.TiffFile(path) as tiff:
        assert (slide.vendor, slide.size_px) == ("ome-tiff", (WIDTH, HEIGHT))
        assert resolve_mpp(slide.properties).source == "ome"
        decoded = [level.asarray() for level in tiff.series[0].levels] if "subifds" not in options else levels
        assert len(decoded) == 3
        for k, oracle in enumerate(decoded):
            oracle = oracle if oracle.shape[-1] == 3 else oracle.transpose(1, 2, 0)
            found = slide.read(40, 80, tile_px=100, mpp=0.25 * 2**k)
            np.testing.assert_array_equal(found, oracle[80 >> k :, 40 >> k :][:100, :100])


def test_a_resolution_between_levels_averages_the_nearest_finer_one(tmp_path, levels):
    path = write_ome(tmp_path / "a.ome.tiff", levels)
    with open_slide(path, mpp=0.25) as slide:
        eighth = slide.read(0, 0, tile_px=50, mpp=2.0)  # twice the third level
        oracle = levels[2][:100, :100].reshape(50, 2, 50, 2, 3).mean((1, 3))
        assert np.abs(eighth - oracle).max() <= 0.51
        third = slide.read(0, 0, tile_px=50, mpp=0.75)  # one and a half times the second level
        fine = np.repeat(np.repeat(levels[1][:75, :75], 2, 0), 2, 1)  # in halves of its pixels, three of which are one
        assert np.abs(third - fine.reshape(50, 3, 50, 3, 3).mean((1, 3))).max() <= 0.51


def test_beyond_the_slide_is_white(tmp_path, levels):
    with open_slide(write_ome(tmp_path / "a.ome.tiff", levels), mpp=0.25) as slide:
        found = slide.read(WIDTH - 10, HEIGHT - 10, tile_px=20, mpp=0.25)
        np.testing.assert_array_equal(found[:10, :10], PICTURE[-10:, -10:])
        assert (found[10:] == 255).all()
        assert (found[:, 10:] == 255).all()


def encoded_tiles(picture, encode):
    height, width = (-(-side // 64) * 64 for side in picture.shape[:2])
    whole = np.pad(picture, ((0, height - len(picture)), (0, width - picture.shape[1]), (0, 0)), mode="edge")
    return [
        encode(np.ascontiguousarray(whole[y : y + 64, x : x + 64]))
        for y in range(0, height, 64)
        for x in range(0, width, 64)
    ]


def j2k(tile):
    file = io.BytesIO()
    Image.fromarray(tile).save(file, "JPEG2000", no_jp2=True)
    return file.getvalue()


def lzw(tile):
    file = io.BytesIO()
    Image.fromarray(tile).save(file, "TIFF", compression="tiff_lzw", tiffinfo={278: 64})
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        (offset,), (count,) = tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts
    return file.getvalue()[offset : offset + count]


@pytest.mark.parametrize(
    ("compression", "encode", "apart"),
    [(7, lambda tile: simplejpeg.encode_jpeg(tile, quality=95), 24), (34712, j2k, 0), (33003, j2k, 0), (5, lzw, 0)],
)
def test_tiles_of_other_compressions(tmp_path, compression, encode, apart):
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
    about = {"axes": "YXS", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm"}
    path = tmp_path / "a.ome.tiff"
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate((PICTURE, halved(PICTURE))):
            more = {"subfiletype": 1} if number else {"subifds": 1, "metadata": about}
            tiff.write(iter(encoded_tiles(level, encode)), shape=level.shape, dtype=np.uint8, **options, **more)
    with tifffile.TiffFile(path, mode="r+") as tiff:  # which writes no such tiles itself
        for page in (tiff.pages[0], tiff.pages[0].pages[0]):
            page.tags[259].overwrite(compression)
            page.tags[262].overwrite(6 if compression == 7 else 2)
    with open_slide(path, mpp=0.5) as slide:
        assert resolve_mpp(slide.properties).mpp == 0.5
        for k, level in enumerate((PICTURE, halved(PICTURE))):
            found = slide.read(0, 0, tile_px=150, mpp=0.5 * 2**k).astype(int)
            assert np.abs(found - level[:150, :150]).max() <= apart


def test_the_largest_image_is_the_slide(tmp_path, levels):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(PICTURE[:50, :60], photometric="rgb", metadata={"axes": "YXS", "Name": "label"})
        tiff.write(
            levels[0], photometric="rgb", tile=(64, 64), subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 0.5}
        )
        tiff.write(levels[1], photometric="rgb", tile=(64, 64), subfiletype=1)
    with open_slide(path, mpp=0.5) as slide:
        np.testing.assert_array_equal(slide.read(8, 8, tile_px=64, mpp=0.5), PICTURE[8:72, 8:72])
        assert slide._levels[1][0] == (WIDTH // 2, HEIGHT // 2)


@pytest.mark.parametrize(
    ("unit", "value", "mpp"), [("nm", 250, 0.25), ("mm", 0.00025, 0.25), ("µm", 0.25, 0.25), ("pixel", 1, None)]
)
def test_units_of_the_physical_size(tmp_path, levels, unit, value, mpp):
    about = {"PhysicalSizeX": value, "PhysicalSizeXUnit": unit, "PhysicalSizeY": value, "PhysicalSizeYUnit": unit}
    path = write_ome(tmp_path / "a.ome.tiff", levels[:1], metadata=about)
    with open_slide(path) as slide:
        if mpp is None:
            with pytest.raises(SlideError, match="no resolution"):
                resolve_mpp(slide.properties)
        else:
            assert resolve_mpp(slide.properties).mpp == pytest.approx(mpp)


@pytest.mark.parametrize(
    ("picture", "axes", "said"),
    [
        (PICTURE.astype(np.uint16), "YXS", "16 bits"),
        (np.zeros((4, 64, 64), np.uint8), "CYX", "4 channels"),
        (np.zeros((5, 64, 64), np.uint8), "ZYX", "stack of 5"),
    ],
)
def test_what_is_no_rgb_of_8_bits_is_refused(tmp_path, picture, axes, said):
    kind = "rgb" if axes == "YXS" else "minisblack"
    tifffile.imwrite(tmp_path / "a.ome.tif", picture, photometric=kind, metadata={"axes": axes}, ome=True)
    with pytest.raises(SlideError, match=said) as caught:
        open_slide(tmp_path / "a.ome.tif")
    assert "8 bits" in caught.value.hint


STAINS = {"Channel": {"Name": ["DAPI", "CD3", "CD8"]}}


@pytest.mark.parametrize(
    ("picture", "options", "said"),
    [
        (PICTURE[..., 0].astype(np.uint16), {}, "with values of 16 bits; expected 8"),
        (PICTURE.astype(np.uint16), {"photometric": "rgb"}, "with values of 16 bits"),
        (PICTURE[..., 0].astype(np.float32), {}, "with values of 32 bits"),
        (PICTURE[..., :2], {"planarconfig": "contig"}, "with 2 grey values per pixel, as of several stains"),
        (PICTURE.transpose(2, 0, 1)[:2], {}, r"2 grey images of 700 x 500 px, as of several stains"),
        (
            PICTURE.transpose(2, 0, 1),
            {"ome": True, "metadata": {"axes": "CYX", **STAINS}},
            "3 channels: DAPI, CD3, CD8;",
        ),
    ],
)
@pytest.mark.parametrize("tile", [(128, 128), None])
def test_deep_and_stained_pictures_are_refused_whether_openslide_reads_them_or_not(
    tmp_path, picture, options, said, tile
):
    """OpenSlide gives the upper eight bits of tiles of sixteen, and the first of several stains, without a word."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture, tile=tile, **{"photometric": "minisblack", "metadata": None, **options})
    with pytest.raises(SlideError, match=said) as caught:
        open_slide(path)
    assert "red, green and blue of 8 bits: export it so" in caught.value.hint


@pytest.mark.parametrize("names", [["red", "Green", "B"], ["Channel:0:0", "Channel:0:1", "Channel:0:2"], ["", "", ""]])
def test_channels_that_are_colours_or_only_counted(tmp_path, names):
    path, about = tmp_path / "a.ome.tif", {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(path, PICTURE.transpose(2, 0, 1), tile=(128, 128), photometric="minisblack", metadata=about)
    with open_slide(path, mpp=0.5) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, tile_px=100, mpp=0.5), PICTURE[:100, :100])


@pytest.mark.parametrize("options", [{}, {"extrasamples": ["unassalpha"], "planarconfig": "contig"}])
def test_grey_in_tiles_is_still_read_by_openslide(tmp_path, options):
    picture = PICTURE[..., 0] if not options else np.dstack([PICTURE[..., 0], np.full_like(PICTURE[..., 0], 255)])
    tifffile.imwrite(tmp_path / "a.tif", picture, tile=(128, 128), photometric="minisblack", metadata=None, **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.vendor == "generic-tiff"


def test_xml_that_lies(tmp_path, levels):
    path = write_ome(tmp_path / "a.ome.tiff", levels)
    data = path.read_bytes()
    for old, new, said in [
        (b'SizeX="700"', b'SizeX="900"', "OME-XML says"),
        (b"Pixels", b"Pixles", "describes no image"),
        (b"</OME>", b"</OMF>", "cannot be read"),
        (b'IFD="0"', b'IFD="7"', "number 7"),
        (b'encoding="UTF-8"', b'encoding="UTF-J"', "cannot be read"),
    ]:
        assert old in data
        path.write_bytes(data.replace(old, new))
        with pytest.raises(SlideError, match=said):
            open_slide(path)


def write_qptiff(path, kinds):
    """The layout that PerkinElmer and Bio-Formats describe: a directory per level, each of which says what it is."""
    with tifffile.TiffWriter(path) as tiff:
        for kind, image in kinds:
            tiff.write(
                image,
                photometric="rgb",
                tile=(64, 64),
                resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER",
                subfiletype=int(kind != "FullResolution"),
                description=QPI.format(kind),
                metadata=None,
            )
    return path


def test_a_qptiff(tmp_path, levels):
    kinds = ["FullResolution", "Thumbnail", "ReducedResolution", "ReducedResolution", "Overview"]
    images = [levels[0], levels[2][:90, :90], levels[1], levels[2], levels[1][:60]]
    path = write_qptiff(tmp_path / "a.qptiff", list(zip(kinds, images, strict=True)))
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.vendor, [size for size, _ in slide._levels]) == ("qptiff", [(700, 500), (350, 250), (175, 125)])
        assert resolve_mpp(slide.properties).mpp == pytest.approx(0.5)
        np.testing.assert_array_equal(slide.read(0, 0, tile_px=100, mpp=1.0), levels[1][:100, :100])
    write_qptiff(tmp_path / "b.qptiff", [("FullResolution", PICTURE)] * 2)
    with pytest.raises(SlideError, match="2 channels"):
        open_slide(tmp_path / "b.qptiff")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "zstd", "packbits", "jpeg", "tiff_deflate"])
def test_a_tiff_in_strips(tmp_path, compression):
    path = tmp_path / "a.tif"
    Image.fromarray(PICTURE).save(path, compression=compression, dpi=(50_800, 50_800))
    with open_slide(path, mpp=0.5) as slide, Image.open(path) as oracle:
        assert slide.vendor == "tiff"
        assert resolve_mpp(slide.properties).source == "tiff"
        np.testing.assert_array_equal(slide.read(5, 7, tile_px=200, mpp=0.5), np.asarray(oracle)[7:207, 5:205])


@pytest.mark.parametrize(
    ("name", "levels", "apart"),
    [
        ("TCGA-CR-7395-01A-01-TS1.svs", 1, 0),  # JPEG 2000
        ("CMU-1-Small-Region.svs", 1, 4),  # JPEG of red, green and blue; its thumbnail lies in strips
        ("CMU-1-Small-Region.pyramid.tif", 4, 4),
        ("CMU-1-Small-Region.wrong-mpp.tiff", 1, 4),
    ],
)
def test_real_tiffs_have_the_pixels_that_openslide_gives(slides, name, levels, apart):
    with open_tiff(slides / name, mpp=0.5) as ours, Slide(slides / name, mpp=0.5) as theirs:
        assert len(ours._levels) == levels
        assert ours.size_px == theirs.size_px
        for mpp in (0.5, 1.3)[: 1 + (levels > 1)]:
            for x, y in ((0, 0), (1111, 777), (ours.size_px[0] - 100, ours.size_px[1] - 100)):
                found, oracle = (one.read(x, y, tile_px=200, mpp=mpp).astype(int) for one in (ours, theirs))
                assert np.abs(found - oracle).max() <= apart


def test_a_slide_is_read_in_bounded_memory(tmp_path, monkeypatch):
    """A thumbnail of a slide without a pyramid holds no more than a block and what is kept of tiles."""
    monkeypatch.setattr(tile_level, "CACHE_BYTES", 2**20)
    monkeypatch.setattr("gigacli.wsi.slide._BLOCK_PX", 512)
    picture = np.tile(PICTURE, (6, 4, 1))  # 25 MB
    path = write_ome(tmp_path / "a.ome.tiff", [picture], tile=(256, 256))
    with open_slide(path, mpp=0.25) as slide:
        tracemalloc.start()
        found = slide.thumbnail(2.0)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < picture.nbytes / 4
    block = picture[: 8 * (len(picture) // 8), : 8 * (picture.shape[1] // 8)]
    oracle = block.reshape(block.shape[0] // 8, 8, block.shape[1] // 8, 8, 3).mean((1, 3))
    assert np.abs(found[: len(oracle), : oracle.shape[1]] - oracle).max() <= 0.51


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_gives_clear_errors(tmp_path, levels, data):
    path = tmp_path / "a.ome.tiff"
    if not path.exists():
        write_ome(path, [level[:200, :200] for level in levels], compression="zlib")
        (tmp_path / "whole").write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "whole").read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(8, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "b.ome.tiff").write_bytes(content)
    with contextlib.suppress(SlideError), open_slide(tmp_path / "b.ome.tiff", mpp=0.25) as slide:
        slide.read(0, 0, tile_px=64, mpp=1.0)
        slide.read(50, 50, tile_px=64, mpp=0.25)
