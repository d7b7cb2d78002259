"""Loose patches are a cohort: pixel for pixel what the slide would have given, without the slide."""

import numpy as np
import pytest
from PIL import Image

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.validate import validate
from gigacli.wsi.overlay import thumbnail
from gigacli.wsi.patches import Patches
from gigacli.wsi.slide import Slide

MPP, PATCH_PX = 1.0, 64


@pytest.fixture(scope="module")
def cut(chain, tmp_path_factory):
    """``slide_x0_y0.png`` of all tiles of a slide of a store, in a folder of their own, and that store, with a bank."""
    store, folder = giga.open(chain("bank")), tmp_path_factory.mktemp("patches")
    for row, slide in enumerate(store.slides.rows[:1]):
        (folder / slide.id).mkdir()
        with Slide(slide.path, mpp=slide.mpp) as opened:
            for x, y in store.tiles.coords(row).tolist():
                pixels = opened.read(x, y, tile_px=PATCH_PX, mpp=MPP)
                Image.fromarray(pixels).save(folder / slide.id / f"{slide.id}_x{x}_y{y}.png", compress_level=1)
    return folder, store


def test_the_bank_of_patches_is_the_bank_of_their_slides(tmp_path, cut):
    folder, own = cut
    path, counts = tmp_path / "a.zarr", own.tiles.done().counts
    made = giga.tile(path, patches=folder, mpp=MPP, slide_mpp=own.slides[0].mpp)
    store = giga.open(path)
    assert (made.slides, made.failed, made.tiles) == (1, 0, counts[0])
    assert (store.tiles.tile_px, store.slides[0].mpp_source) == (PATCH_PX, "import")
    giga.bank(path, encoder="random-resnet18", augmentations=1, draws=4, precision="fp32")
    for row in range(1):
        np.testing.assert_array_equal(store.tiles.coords(row), own.tiles.coords(row))
        found, expected = (of.features("random-resnet18").read(row) for of in (store, own))
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-3)  # float16, other batches
    assert validate(path).problems == []
    assert giga.tile(path).skipped == 1  # the lists beside the store are its slides
    small = thumbnail(store.slides[0].path, mpp=store.slides[0].mpp, long_px=64)
    assert max(small.pixels.shape) == 64


def flat(folder, corners, *, px=PATCH_PX, slide="S1", ending="png"):
    folder.mkdir(exist_ok=True)
    for i, (x, y) in enumerate(corners):
        Image.new("RGB", (px, px), (200, 10 * i, 120)).save(folder / f"{slide}_x{x}_y{y}.{ending}")
    return folder


@pytest.mark.parametrize(
    ("corners", "edge_px"),
    [
        ([(0, 0), (128, 0), (256, 0), (0, 128)], 128),  # cut at half the resolution
        ([(0, 0), (64, 0), (0, 64)], 64),
        ([(0, 0), (32, 0), (64, 0)], 64),  # overlapping
        ([(7, 9)], 64),
        ([(0, 0), (128, 0), (256, 0), (5, 20), (133, 20)], 128),  # two grids
    ],
)
def test_how_large_patches_are_on_their_slide(tmp_path, corners, edge_px):
    giga.tile(tmp_path / "a.zarr", patches=flat(tmp_path / "p", corners), mpp=MPP)
    store = giga.open(tmp_path / "a.zarr")
    assert store.tiles.grid(0).edge_px == pytest.approx(edge_px)
    assert store.slides[0].mpp == pytest.approx(MPP * PATCH_PX / edge_px)
    assert sorted(map(tuple, store.tiles.coords(0).tolist())) == sorted(corners)


def test_a_table_of_patches(tmp_path):
    flat(tmp_path / "p", [(0, 0), (64, 0)])
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    table = tmp_path / "patches.csv"
    table.write_text("path,slide_id,x,y\n" + "".join(f"p/{name},A,{i * 64},64\n" for i, name in enumerate(names)))
    (tmp_path / "slides.csv").write_text("slide_id,patient_id\nA,p\n")
    giga.tile(tmp_path / "a.zarr", patches=table, mpp=MPP, csv=tmp_path / "slides.csv")
    store = giga.open(tmp_path / "a.zarr")
    assert (store.slides.ids, store.tiles.coords(0).tolist()) == (["A"], [[0, 64], [64, 64]])
    assert store.slides[0].patient == "p"
    with Patches(store.slides[0].path, mpp=MPP) as patches:
        assert patches.read(64, 64, tile_px=PATCH_PX, mpp=MPP)[0, 0].tolist() == [200, 10, 120]
        assert patches.read(64, 64, tile_px=16, mpp=4 * MPP).shape == (16, 16, 3)
        with pytest.raises(giga.errors.SlideError, match=r"no patch at level-0 pixel \(1, 64\)"):
            patches.read(1, 64, tile_px=PATCH_PX, mpp=MPP)
        with pytest.raises(
            giga.errors.SlideError, match="patches are 64 px of 64 microns; asked for were 64 px of 128"
        ):
            patches.read(64, 64, tile_px=PATCH_PX, mpp=2 * MPP)
    Image.fromarray(np.zeros((PATCH_PX, PATCH_PX), np.uint16)).save(tmp_path / "p" / names[1])
    with (
        Patches(store.slides[0].path, mpp=MPP) as patches,
        pytest.raises(giga.errors.SlideError, match="it has pixels of the kind 'I;16'; expected 8 bits"),
    ):
        patches.read(64, 64, tile_px=PATCH_PX, mpp=MPP)
    (tmp_path / "p" / names[1]).unlink()
    with pytest.raises(NotFound, match=r"1 of 2 patches that .* names are not there"):
        giga.tile(tmp_path / "a.zarr", patches=table, mpp=MPP)
    with (
        Patches(store.slides[0].path, mpp=MPP) as patches,
        pytest.raises(giga.errors.SlideError, match="cannot be read"),
    ):
        patches.read(64, 64, tile_px=PATCH_PX, mpp=MPP)


def test_new_patches_are_another_slide(tmp_path):
    folder, path = flat(tmp_path / "p", [(0, 0), (64, 0)]), tmp_path / "a.zarr"
    giga.tile(path, patches=folder, mpp=MPP)
    assert giga.tile(path, patches=folder, mpp=MPP).skipped == 1
    with pytest.raises(Mismatch, match="has tiles of 64 px at 1 microns per pixel; the patches are 64 px at 2"):
        giga.tile(path, patches=folder, mpp=2.0)
    assert giga.tile(path).failed == 0
    flat(folder, [(0, 64), (64, 64), (128, 64)])
    assert giga.tile(path, patches=folder, mpp=MPP).failures["S1"].count("has changed") == 1
    assert giga.tile(path, patches=folder, mpp=MPP, redo=True).tiles == 5
    assert validate(path).problems == []


def test_refusals(tmp_path):
    folder, path = flat(tmp_path / "p", [(0, 0)]), tmp_path / "a.zarr"
    with pytest.raises(InvalidInput, match="nothing says their resolution"):
        giga.tile(path, patches=folder)
    with pytest.raises(InvalidInput, match="`tile_px` is 32, but the patches are 64 px"):
        giga.tile(path, patches=folder, mpp=MPP, tile_px=32)
    with pytest.raises(NotFound, match="does not exist"):
        giga.tile(path, patches=tmp_path / "gone", mpp=MPP)
    with pytest.raises(InvalidInput, match="is remote"):
        giga.tile("s3://bucket/a.zarr", patches=folder, mpp=MPP)
    flat(folder, [(0, 0)], ending="jpg")
    with pytest.raises(InvalidInput, match=r"1 corners with several patches; \(0, 0\)"):
        giga.tile(path, patches=folder, mpp=MPP)
    with pytest.raises(InvalidInput, match="numbers of columns and rows"):
        giga.tile(path, patches=flat(tmp_path / "q", [(0, 0), (1, 0), (2, 0)]), mpp=MPP)
    with pytest.raises(InvalidInput, match="squares of one size"):
        giga.tile(path, patches=flat(flat(tmp_path / "r", [(0, 0)]), [(0, 0)], px=32, slide="S2"), mpp=MPP)
    Image.new("RGB", (8, 8)).save(tmp_path / "s.png")
    (tmp_path / "s").mkdir()
    (tmp_path / "s.png").rename(tmp_path / "s" / "picture.png")
    with pytest.raises(NotFound, match=r"1 images, such as picture\.png; patches are called SLIDE_x512_y1024\.png"):
        giga.tile(path, patches=tmp_path / "s", mpp=MPP)
    assert not path.exists()
