"""``giga tile --coords``: the tiles that another tool laid, and no others, are what the bank is made of."""

import json
import shutil

import h5py
import numpy as np
import pytest
import zarr

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.importing.coords import look_into
from gigacli.store.info import info
from gigacli.store.validate import validate

EDGE_PX, TILE_PX = 128, 64  # of the drawn slides, 20x, so that tiles are at 10x
SLIDES = 8


@pytest.fixture
def own(chain):
    """A store whose tiles giga found: what other tools lay here is some of these."""
    return giga.open(chain("tile"))


def laid(own, row):
    """Every other tile of a slide in another order, moved by three pixels."""
    return own.tiles.coords(row)[::-2].astype(np.int64) + 3


def trident(own, folder, *, power=20, target=10):
    """``patches/<slide>_patches.h5``, nominal magnifications."""
    folder.mkdir()
    for row, slide in enumerate(own.slides.rows):
        with h5py.File(folder / f"{slide.id}_patches.h5", "w") as file:
            file.create_dataset("coords", data=laid(own, row)).attrs.update(
                {
                    "patch_size": TILE_PX,
                    "patch_size_level0": EDGE_PX,
                    "level0_magnification": power,
                    "target_magnification": target,
                    "overlap": 0,
                    "level0_width": slide.size_px[0],
                    "level0_height": slide.size_px[1],
                }
            )
    return folder


def clam(own, folder):
    """``patches/<slide>.h5``: no resolution anywhere."""
    folder.mkdir()
    for row, slide in enumerate(own.slides.rows):
        with h5py.File(folder / f"{slide.id}.h5", "w") as file:
            coords = file.create_dataset("coords", data=laid(own, row))
            coords.attrs.update({"patch_size": TILE_PX, "patch_level": 0, "downsample": (2.0, 2.0)})
    return folder


def squares(own, folder):
    """``<slide>.geojson``, as QuPath and giga write it."""
    folder.mkdir()
    for row, slide in enumerate(own.slides.rows):
        ring = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * EDGE_PX
        shapes = [{"type": "Polygon", "coordinates": [(ring + xy).tolist()]} for xy in laid(own, row)]
        features = [{"type": "Feature", "geometry": shape, "properties": {}} for shape in shapes]
        (folder / f"{slide.id}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return folder


@pytest.mark.parametrize("write", [trident, clam, squares])
def test_the_tiles_are_those_of_the_files(tmp_path, own, cohort, write):
    files, path = write(own, tmp_path / "files"), tmp_path / "a.zarr"
    options = {"tile_px": TILE_PX} if write is squares else {}
    made = giga.tile(path, csv=cohort.cohort_csv, coords=files, **options)
    store = giga.open(path)
    assert (made.done, made.failed) == (SLIDES, 0)
    for row, slide in enumerate(store.slides.rows):
        grid = store.tiles.grid(row)
        np.testing.assert_array_equal(grid.coords, laid(own, own.slides.index[slide.id]))
        assert grid.edge_px == pytest.approx(EDGE_PX, abs=1)
    assert 0 <= np.nanmin(store.tiles.tissue(0)) < np.nanmax(store.tiles.tissue(0)) <= 1
    assert store.tiles.config["coords"] == {trident: "TRIDENT", clam: "CLAM", squares: "GeoJSON"}[write]
    assert (store.tiles.config["min_tissue"], store.tiles.tile_px) == (0, TILE_PX)
    assert validate(path).problems == []
    assert giga.tile(path, coords=files).skipped == SLIDES


def test_shards_and_a_folder_that_holds_features_too(tmp_path, own, cohort):
    """What is laid is in one file of a slide, though CLAM repeats it beside its features."""
    path, root = tmp_path / "a.zarr", tmp_path / "clam"
    root.mkdir()
    clam(own, root / "patches")
    for row, slide in enumerate(own.slides.ids):
        (root / "h5_files").mkdir(exist_ok=True)
        with h5py.File(root / "h5_files" / f"{slide}.h5", "w") as file:
            file["coords"], file["features"] = laid(own, row), np.zeros((len(laid(own, row)), 4), dtype=np.float32)
    giga.tile(path, csv=cohort.cohort_csv, coords=root, plan=True)
    for shard in ("1/2", "2/2"):
        giga.tile(path, coords=root, shard=shard)
    assert giga.open(path).tiles.done().counts.sum() == sum(len(laid(own, row)) for row in range(SLIDES))
    assert validate(path).problems == []


def test_features_of_the_same_tiles_are_imported_beside_them(tmp_path, own, layouts):
    path = tmp_path / "a.zarr"
    for row, slide in enumerate(own.slides.rows[:1]):
        vectors = np.full((len(laid(own, row)), 4), row, dtype=np.float32)
        layouts.trident(tmp_path / "f", slide.id, laid(own, row), vectors, power=20, target=10, patch_size=TILE_PX)
        with h5py.File(tmp_path / "f" / f"{slide.id}.h5", "a") as file:
            file["coords"].attrs.update({"level0_width": slide.size_px[0], "level0_height": slide.size_px[1]})
    giga.tile(path, own.slides[0].path, coords=tmp_path / "f")
    assert giga.import_features(path, tmp_path / "f").done == 1
    assert len(giga.open(path).features("uni_v1").read(0)) == len(laid(own, 0))
    assert validate(path).problems == []


def test_what_does_not_fit_fails_its_slide(tmp_path, own, cohort):
    files = trident(own, tmp_path / "files")
    paths = sorted(files.iterdir())
    with h5py.File(paths[0], "a") as file:
        file["coords"].attrs["level0_width"] = 5
    with h5py.File(paths[1], "a") as file:
        file["coords"][0] = file["coords"][1]
    paths[2].write_bytes(b"nothing")
    paths[3].unlink()
    shutil.copy(paths[4], files / "stranger_patches.h5")
    made = giga.tile(tmp_path / "a.zarr", csv=cohort.cohort_csv, coords=files)
    reasons = [made.failures[path.name.removesuffix("_patches.h5")] for path in paths[:4]]
    says = [
        "its tiles were laid on a slide of (5, ",
        "are there twice",
        "_patches.h5: ",
        "no file says where",
    ]
    assert all(text in reason for text, reason in zip(says, reasons, strict=True)), reasons
    assert made.done == SLIDES - 4
    assert validate(tmp_path / "a.zarr").problems == []
    assert info(tmp_path / "a.zarr").retry == [f"giga tile {tmp_path / 'a.zarr'} --coords FILES"]


def two_grids(own, folder, *, rows):
    """``<slide>.embeddings.zarr`` of raw2features with the tiles of two resolutions."""
    for row in rows:
        slide = own.slides[row]
        root = zarr.open_group(folder / f"{slide.id}.embeddings.zarr", mode="w", zarr_format=3)
        for name, tile_px, step in (("fine", TILE_PX // 2, 1), ("coarse", TILE_PX, 2)):
            corners, mpp = laid(own, row)[::step], EDGE_PX * slide.mpp / TILE_PX
            grid = root.create_group(f"grids/{name}")
            patching = {"patch_px": tile_px, "target_mpp": mpp, "level0_patch": EDGE_PX * tile_px / TILE_PX}
            source = {"slide_id": slide.id, "mpp_level0": slide.mpp, "level_dimensions": [list(slide.size_px)]}
            grid.attrs["raw2features"] = {"patching": patching, "source": source}
            grid["coords"] = corners
            grid["features/uni"] = np.zeros((len(corners), 4), dtype=np.float32)
    return folder


def test_one_of_several_tilings_is_chosen_by_its_name(tmp_path, own, cohort):
    files, path = two_grids(own, tmp_path / "r2f", rows=(0, 1)), tmp_path / "a.zarr"
    said = r"is cut into tiles in 2 ways, called coarse, fine; the first is in .*\.embeddings\.zarr"
    with pytest.raises(InvalidInput, match=said) as caught:
        giga.tile(path, csv=cohort.cohort_csv, coords=files)
    assert caught.value.hint == "choose one: `tiling` coarse"
    with pytest.raises(NotFound, match="has no tiles 'other'; it has coarse, fine"):
        giga.tile(path, csv=cohort.cohort_csv, coords=files, tiling="other")
    with pytest.raises(InvalidInput, match="no files of `coords` are named"):
        giga.tile(path, csv=cohort.cohort_csv, tiling="fine")
    assert not path.exists()
    made = giga.tile(path, [own.slides[0].path], coords=files, tiling="coarse")
    tiles = giga.open(path).tiles
    assert (made.done, tiles.config["tiling"], tiles.tile_px) == (1, "coarse", TILE_PX)
    np.testing.assert_array_equal(tiles.coords(0), laid(own, 0)[::2])
    assert giga.tile(path, [own.slides[1].path], coords=files).done == 1  # as before
    with pytest.raises(Mismatch):
        giga.tile(path, coords=files, tiling="fine")
    assert validate(path).problems == []


def test_refusals(tmp_path, own, cohort):
    files, path = trident(own, tmp_path / "files"), tmp_path / "a.zarr"
    both = [files, squares(own, tmp_path / "squares")]
    with pytest.raises(InvalidInput, match="is cut into tiles by 2 files"):
        giga.tile(path, csv=cohort.cohort_csv, coords=both)
    (tmp_path / "other").mkdir()
    shutil.copy(next(files.iterdir()), tmp_path / "other" / "stranger.h5")
    with pytest.raises(NotFound, match="none is of the 8 slides here"):
        giga.tile(path, csv=cohort.cohort_csv, coords=tmp_path / "other")
    with pytest.raises(InvalidInput, match="give one of them"):
        giga.tile(path, coords=files, patches=files, mpp=1.0)
    with pytest.raises(NotFound, match=r"_patches\.h5: it holds tiles and no features; .* --coords FILES"):
        giga.import_features(path, files)
    assert not path.exists()
    giga.tile(path, csv=cohort.cohort_csv, coords=files)
    with pytest.raises(InvalidInput, match="are where TRIDENT laid them"):
        giga.tile(path)
    shutil.rmtree(files)
    trident(own, tmp_path / "files", power=10, target=5)
    with pytest.raises(Mismatch, match=r"64 px at 1 microns per pixel; those of .* are 64 px at 2"):
        giga.tile(path, coords=files)


def test_tiles_of_hs2p_lazyslide_and_raw2features(written):
    """Files that these tools wrote; where features of several encoders share their tiles, these are there once."""
    pytest.importorskip("pyarrow")
    for tool, glob, count in (
        ("slide2vec", "tiles/*.npz", 72),
        ("lazyslide", "*.zarr", 48),
        ("wsidata", "*.zarr", 20),
        ("raw2features", "*.zarr", 78),
        ("atlaspatch", "patches/*.h5", 20),
    ):
        [file] = written(tool).glob(glob)
        [one] = look_into(file)
        with one.read() as content:
            assert (one.id, one.tiles, one.width, content.coords.shape) == ("CMU-1-Small-Region", count, 0, (count, 2))


def test_giga_reads_its_own_tiles_back(tmp_path, written, slides):
    svs, path = slides / "CMU-1-Small-Region.svs", tmp_path / "a.zarr"
    giga.tile(path, svs, coords=written("slide2vec") / "tiles")
    before = giga.open(path).tiles
    giga.export(path, "tiles", to=tmp_path / "geojson")
    with pytest.raises(NotFound) as caught:
        giga.import_features(tmp_path / "none.zarr", tmp_path / "geojson")
    assert caught.value.hint.endswith("go to giga tile STORE SLIDES --coords FILES")
    giga.tile(tmp_path / "again.zarr", svs, coords=tmp_path / "geojson", mpp=0.5)
    again = giga.open(tmp_path / "again.zarr").tiles
    np.testing.assert_array_equal(again.coords(0), before.coords(0))
    np.testing.assert_array_equal(again.tissue(0), before.tissue(0))
    assert again.config | {"coords": ""} == before.config | {"coords": ""}
