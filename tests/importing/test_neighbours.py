"""What the tools around write today, most of it by themselves (``tests/data/import``), and giga's own exports."""

import h5py
import numpy as np
import pytest
import zarr

import gigacli as giga
from gigacli.errors import InvalidInput
from gigacli.store.info import info
from gigacli.store.validate import validate

SLIDE = "CMU-1-Small-Region"


def check(path, corners, vectors, *, name):
    """The only slide has these tiles and vectors, and the store keeps to the specification."""
    store = giga.open(path)
    np.testing.assert_array_equal(store.tiles.coords(0), corners)
    np.testing.assert_array_equal(store.features(name).read(0), np.asarray(vectors).astype(np.float16))
    assert validate(path).problems == []
    return store


def test_lazyslide_keeps_its_tiles_as_squares(tmp_path, written):
    pytest.importorskip("pyarrow")
    root = written("lazyslide")
    made = giga.import_features(tmp_path / "a.zarr", root)
    assert (made.tool, made.name, made.tiles, made.mpp) == ("wsidata", "tiny", 48, 0.5)
    table = zarr.open_group(root / f"{SLIDE}.zarr", mode="r")["tables/tiny_tiles"]
    store = giga.open(tmp_path / "a.zarr")
    corners = store.tiles.coords(0)
    check(tmp_path / "a.zarr", corners, table["X"][:], name="tiny")
    assert corners[[0, 1, 2, -1]].tolist() == [[627, 2369], [627, 2561], [819, 833], [1587, 2369]]  # as geopandas reads
    assert corners.sum(axis=0).tolist() == [53136, 79152]
    assert store.tiles.config["overlap"] == 64


def test_atlaspatch_vectors_of_slides_and_patients(tmp_path, written):
    root = written("atlaspatch")
    made = giga.import_features(tmp_path / "a.zarr", root / "patches", encoder="titan")
    assert (made.kind, made.name, made.tool, made.width) == ("embeddings", "titan", "AtlasPatch", 12)
    with h5py.File(root / "patches" / f"{SLIDE}.h5") as file:
        np.testing.assert_array_equal(
            giga.open(tmp_path / "a.zarr").embedding("titan").read()[0], file["slide_features/titan"]
        )
    made = giga.import_features(tmp_path / "b.zarr", root / "patient_features")
    slide = giga.open(tmp_path / "b.zarr").slides[0]
    assert (made.name, slide.id, slide.patient) == ("moozy", "case_1", "case_1")


def test_raw2features(tmp_path, written):
    root = written("raw2features")
    with pytest.raises(InvalidInput, match=r"3 sets of features: mpp0\.5_px224/mean_uni, slide vectors"):
        giga.import_features(tmp_path / "a.zarr", root)
    made = giga.import_features(tmp_path / "a.zarr", root, encoder="uni")
    assert (made.tool, made.name, made.mpp, made.mpp_source) == ("raw2features", "uni", 0.5, "import")
    grid = zarr.open_group(root / f"{SLIDE}.embeddings.zarr", mode="r")["grids/mpp0.5_px224"]
    store = check(tmp_path / "a.zarr", grid["coords"][:], grid["features/uni"][:], name="uni")
    assert (store.slides[0].id, store.slides[0].size_px) == (SLIDE, (2220, 2967))
    giga.import_features(tmp_path / "a.zarr", root, encoder="mpp0.5_px224/resnet18", name="other")
    made = giga.import_features(tmp_path / "a.zarr", root, encoder="mean_uni")
    assert (made.kind, made.name, made.width) == ("embeddings", "mean_uni", 24)
    assert validate(tmp_path / "a.zarr").problems == []


def test_chunks_of_raw2features_are_looked_at_before_they_are_unpacked(tmp_path, written):
    root = written("raw2features")
    chunk = next(root.glob("*/grids/*/features/uni/0.0"))
    chunk.write_bytes(chunk.read_bytes()[:4] + b"\xff" * 40)
    made = giga.import_features(tmp_path / "a.zarr", root, encoder="uni")
    assert "does not state how large it is" in made.failures[SLIDE] or "holds" in made.failures[SLIDE]


@pytest.mark.parametrize(("part", "tiles"), [("tumor", 48), ("stroma", 24)])
def test_slide2vec_class_by_class(tmp_path, written, part, tiles):
    root = written("slide2vec-annotated")
    with pytest.raises(InvalidInput, match=r"2 sets of features: stroma/resnet18, tiles, slide2vec: 1; tumor/resnet18"):
        giga.import_features(tmp_path / "a.zarr", root)
    made = giga.import_features(tmp_path / "a.zarr", root / "tile_embeddings" / part)
    coordinates = np.load(root / "tiles" / part / f"{SLIDE}.coordinates.npz")
    assert (made.tool, made.name, made.tiles, made.width) == ("slide2vec", "resnet18", tiles, 8)
    np.testing.assert_array_equal(giga.open(tmp_path / "a.zarr").tiles.coords(0)[:, 0], coordinates["x"])
    whole = giga.import_features(tmp_path / "b.zarr", root, encoder=f"{part}/resnet18")
    assert whole.tiles == tiles


def test_old_trident_files_are_called_after_their_folder(tmp_path, layouts):
    for kind, write in (("features_uni_v1", layouts.trident), ("slide_features_titan", layouts.trident_slide)):
        corners, vectors = layouts.drawn(1)
        write(tmp_path / kind, "S1", *((corners, vectors) if write is layouts.trident else (vectors[0],)))
        with h5py.File(tmp_path / kind / "S1.h5", "a") as file:
            del file["features"].attrs["encoder"]
        made = giga.import_features(tmp_path / "a.zarr", tmp_path / kind)
        assert (made.name, made.tool) == (kind.partition("features_")[2], "TRIDENT")


def chunked(slide, corners, vectors, *, at_once, **about):
    """Rows of a Parquet file: a chunk of tiles each."""
    return [
        {"slide_id": slide, "coords": corners[i : i + at_once].tolist(), "features": vectors[i : i + at_once].tolist()}
        | about
        for i in range(0, len(corners), at_once)
    ]


def test_parquet_shards(tmp_path, layouts):
    """As TRACE publishes them: encoder and magnification in the path, slides that go on in the next file."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "data" / "TCGA-X" / "uni2" / "20x"
    folder.mkdir(parents=True)
    rows, tiles = [], {}
    for i in range(3):
        tiles[f"S{i}"] = layouts.drawn(i, tiles=10 + i)
        rows += chunked(f"S{i}", *tiles[f"S{i}"], at_once=4, patch_size=256, patch_size_level0=512)
    for i, part in enumerate((rows[:4], rows[4:])):
        parquet.write_table(arrow.Table.from_pylist(part), folder / f"part-{i}.parquet", row_group_size=2)
    made = giga.import_features(tmp_path / "a.zarr", tmp_path / "data")
    assert (made.tool, made.name, made.slides, made.tiles, made.mpp) == ("Parquet", "uni2", 3, 33, 0.5)
    store = giga.open(tmp_path / "a.zarr")
    for row, (corners, vectors) in enumerate(tiles.values()):
        np.testing.assert_array_equal(store.tiles.coords(row), corners)
        np.testing.assert_array_equal(store.features("uni2").read(row), vectors.astype(np.float16))
    assert validate(tmp_path / "a.zarr").problems == []


def test_parquet_that_states_more_than_it_holds(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    n = 2**24 + 2**18  # 65 MiB of zeros, of which next to nothing is stored
    zeros = arrow.FixedSizeListArray.from_arrays(arrow.array(np.zeros(n, dtype=np.float32)), n)
    columns = {"slide_id": ["S1"], "x": [0], "y": [0], "features": zeros}
    parquet.write_table(arrow.table(columns), tmp_path / "bomb.parquet")
    with pytest.raises(InvalidInput, match="bytes are stored"):
        giga.import_features(tmp_path / "a.zarr", tmp_path / "bomb.parquet", tile_px=256, mpp=0.5, slide_mpp=0.25)


def test_parquet_with_a_row_per_tile(tmp_path, layouts):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    corners, vectors = layouts.drawn(1)
    columns = {"slide_id": ["S1"] * 12, "x": corners[:, 0], "y": corners[:, 1], "embedding": list(vectors)}
    parquet.write_table(arrow.table(columns), tmp_path / "tiles.parquet")
    options = {"tile_px": 256, "mpp": 0.5, "slide_mpp": 0.25}
    giga.import_features(tmp_path / "a.zarr", tmp_path / "tiles.parquet", name="uni", **options)
    check(tmp_path / "a.zarr", corners, vectors, name="uni")
    parquet.write_table(arrow.table({"slide_id": ["S1"], "embedding": [[1.0]]}), tmp_path / "bare.parquet")
    with pytest.raises(InvalidInput, match=r"bare\.parquet cannot be used: it has vectors but no coordinates"):
        giga.import_features(tmp_path / "b.zarr", tmp_path / "bare.parquet", **options)


@pytest.mark.parametrize("written_as", ["csv", "parquet", "h5ad"])
def test_what_giga_exports_comes_back(tmp_path, chain, written_as):
    pytest.importorskip({"parquet": "pyarrow", "h5ad": "anndata"}.get(written_as, "numpy"))
    store = giga.open(chain("embed"))
    to = tmp_path / f"giga.{written_as}"
    giga.export(store, "embeddings/giga", to=to, format=written_as)
    made = giga.import_features(tmp_path / "a.zarr", to)
    assert (made.kind, made.name, made.done) == ("embeddings", "giga", 8)
    back = giga.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(back.embedding("giga").read(), store.embedding("giga").read())
    assert [row.patient for row in back.slides.rows] == [row.patient for row in store.slides.rows]


TABLES = {
    "no ids": ("name,v0,v1\nS1,1,2\n", "no column slide_id"),
    "no vectors": ("slide_id,age\nS1,1\n", "no columns of vectors"),
    "texts": ("slide_id,v0,v1\nS1,1,high\n", "holds no number"),
    "twice": ("slide_id,v0,v1\nS1,1,2\nS1,1,2\n", "1 slides more than once: S1"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_hold_no_vectors(tmp_path, name):
    text, says = TABLES[name]
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InvalidInput, match=says):
        giga.import_features(tmp_path / "a.zarr", tmp_path / "t.csv")
    assert not (tmp_path / "a.zarr").exists()


def test_tiles_that_are_there_twice_are_named(tmp_path, layouts):
    corners, vectors = layouts.drawn(1)
    corners[7] = corners[2]
    layouts.trident(tmp_path / "f", "S1", corners, vectors)
    made = giga.import_features(tmp_path / "a.zarr", tmp_path / "f")
    assert f"1 of its 12 tiles are there twice: tiles 2 and 7 both lie at {corners[2].tolist()}" in made.failures["S1"]
    assert info(tmp_path / "a.zarr").next.startswith("giga import")
    assert info(tmp_path / "a.zarr").retry == [f"giga import {tmp_path / 'a.zarr'} FILES"]


def test_values_beyond_float16_can_be_made_smaller(tmp_path, layouts):
    corners, vectors = layouts.drawn(1)
    vectors[3, 5] = -150_000
    layouts.trident(tmp_path / "f", "S1", corners, vectors)
    path = tmp_path / "a.zarr"
    made = giga.import_features(path, tmp_path / "f")
    assert "the largest found is 150000" in made.failures["S1"]
    assert "--scale 0.25 --redo" in made.failures["S1"]
    assert giga.import_features(path, tmp_path / "f", scale=0.25, redo=True).done == 1
    store = check(path, corners, vectors * 0.25, name="uni_v1")
    config = store.features("uni_v1").config
    assert (config["scale"], config["encoder"]) == (0.25, "uni_v1-x0.25")  # nothing takes them for those of uni_v1


def test_values_that_overflowed_where_they_were_written(tmp_path, layouts):
    corners, vectors = layouts.drawn(1)
    vectors[3, 5] = np.inf
    layouts.stamp(tmp_path / "f", "S1", corners, vectors)
    made = giga.import_features(tmp_path / "a.zarr", tmp_path / "f", slide_mpp=0.25)
    assert "1 of its values are infinite, stored as float16" in made.failures["S1"]
