"""giga export: what comes out, read back by the libraries it is meant for."""

import csv
import json
import shutil
import subprocess
import sys
import tracemalloc
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import zarr

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound, SlideError
from gigacli.exporting import tiles
from gigacli.exporting import vectors as vectors_module
from gigacli.exporting.export import FILES, FORMATS, KINDS, WRITERS, formats_of
from gigacli.exporting.geojson import tile_feature, write_collection
from gigacli.exporting.origin import note_of
from gigacli.exporting.output import export_folder
from gigacli.files import PARTIAL
from gigacli.probing import head_card
from gigacli.probing.head import _tensors
from gigacli.store.groups import Embedding, Model
from gigacli.store.table import SlideRow, SlideTable
from gigacli.weights.card import CARD_VERSION, WeightsCard


@pytest.fixture
def store(chain):
    return giga.open(chain("embed"))


@pytest.fixture
def vectors(store):
    return store.embedding("giga").read()


def test_npy_is_the_authors_layout(store, vectors, tmp_path):
    summary = giga.export(store, "embeddings/giga", to=tmp_path / "out" / "giga")
    assert (summary.format, summary.slides, summary.empty, summary.pending) == ("npy", 8, 0, 0)
    found = np.load(tmp_path / "out" / "giga" / "embeddings.npy")
    ids = np.load(tmp_path / "out" / "giga" / "ids.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors)
    assert ids.dtype.kind == "U"
    assert ids.tolist() == store.slides.ids
    note = json.loads((tmp_path / "out" / "giga" / "giga.json").read_text())
    assert note["group"] == "embeddings/giga"
    assert note["recipe"] == vars(store.embedding("giga").recipe)
    assert summary.bytes > found.nbytes


@pytest.mark.parametrize("name", ["v.csv", "v.parquet"])
def test_tables_read_back_exactly(store, vectors, tmp_path, name):
    giga.export(store, "embeddings/giga", to=tmp_path / name)
    path = tmp_path / name
    if name.endswith("csv"):
        table = pd.read_csv(path, dtype={"slide_id": str, "patient_id": str})
        with path.open(newline="") as file:
            assert next(csv.reader(file))[:4] == ["slide_id", "patient_id", "v0", "v1"]
    else:
        table = pd.read_parquet(path)
        assert table["v0"].dtype == np.float32
        metadata = pyarrow.parquet.read_schema(path).metadata
        assert json.loads(metadata[b"giga"])["group"] == "embeddings/giga"
    assert table["slide_id"].tolist() == store.slides.ids
    assert table["patient_id"].tolist() == [row.patient for row in store.slides.rows]
    np.testing.assert_array_equal(table.filter(regex="^v").to_numpy(np.float32), vectors)


@pytest.mark.parametrize("name", ["out", "v.csv"])
def test_vectors_are_never_all_in_memory(chain, vectors, tmp_path, monkeypatch, name):
    giga.export(chain("embed"), "embeddings/giga", to=tmp_path / "whole" / name)
    monkeypatch.setattr(Embedding, "read", lambda self: pytest.fail("all vectors are read at once"))
    monkeypatch.setattr(Embedding, "blocks", lambda self, rows: iter(np.split(vectors[rows], [3, 6])))
    giga.export(chain("embed"), "embeddings/giga", to=tmp_path / "blocks" / name)
    for file in ("embeddings.npy", "ids.npy") if name == "out" else ("",):
        ours, theirs = (tmp_path / folder / name / file for folder in ("blocks", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_ids_that_a_spreadsheet_would_compute_are_counted(store, tmp_path, monkeypatch):
    assert giga.export(store, "embeddings/giga", to=tmp_path / "v.csv").warning == ""
    monkeypatch.setattr(vectors_module, "FORMULA", (store.slides.ids[0],))
    summary = giga.export(store, "embeddings/giga", to=tmp_path / "w.csv")
    assert summary.warning.startswith("1 ids or patients begin with one of")
    assert (tmp_path / "w.csv").read_bytes() == (tmp_path / "v.csv").read_bytes()


def test_anndata_opens_h5ad(store, vectors, tmp_path):
    giga.export(store, "embeddings/giga", to=tmp_path / "v.h5ad")
    data = anndata.read_h5ad(tmp_path / "v.h5ad")
    np.testing.assert_array_equal(data.X, vectors)
    assert data.obs_names.tolist() == store.slides.ids
    assert data.var_names[:2].tolist() == ["v0", "v1"]
    assert data.obs["patient_id"].tolist() == [row.patient for row in store.slides.rows]
    assert data.obs["tiles"].tolist() == store.tiles.done().values.tolist()
    np.testing.assert_array_equal(data.obs["mpp"], [row.mpp for row in store.slides.rows])
    assert json.loads(data.uns["giga"])["recipe"]["stage"] == "embed"


def test_h5_is_tridents_layout(store, vectors, tmp_path):
    giga.export(store, "embeddings/giga", to=tmp_path / "slides", format="h5")
    giga.export(store, "features", to=tmp_path / "tiles")
    features = store.features("random-resnet18")
    for row, slide in enumerate(store.slides.rows):
        coords = store.tiles.coords(row)
        with h5py.File(tmp_path / "slides" / f"{slide.id}.h5") as file:
            np.testing.assert_array_equal(file["features"][:], vectors[row])
            np.testing.assert_array_equal(file["coords"][:], coords)
        with h5py.File(tmp_path / "tiles" / f"{slide.id}.h5") as file:
            assert (file["features"].dtype, file["coords"].dtype) == (np.float32, np.int64)
            np.testing.assert_array_equal(file["features"][:], features.read(row).astype(np.float32))
            np.testing.assert_array_equal(file["coords"][:], coords)
            about = dict(file["coords"].attrs)
            assert file["features"].attrs["encoder"] == "random-resnet18"
        assert about["name"] == slide.id
        assert (about["patch_size"], about["overlap"], about["target_magnification"]) == (64, 0, 10)
        assert about["patch_size_level0"] == round(64 * 1.0 / slide.mpp)
        assert about["level0_magnification"] == round(10 / slide.mpp)
        assert (about["level0_width"], about["level0_height"]) == slide.size_px
        assert about["edge_level0_px"] == 64 * 1.0 / slide.mpp


def test_what_was_exported_is_imported_as_it_was(store, tmp_path):
    giga.export(store, "features", to=tmp_path / "uni")
    giga.import_features(tmp_path / "again.zarr", [tmp_path / "uni"])
    again = giga.open(tmp_path / "again.zarr")
    assert again.tiles.config["tool"] == "giga"
    rows = [again.slides.ids.index(name) for name in store.slides.ids]
    assert {again.slides[row].mpp_source for row in rows} == {"import"}
    for row, slide in zip(rows, store.slides.rows, strict=True):
        assert again.slides[row].mpp == pytest.approx(slide.mpp, rel=1e-12)
        assert again.slides[row].size_px == slide.size_px
    capacity = again.tiles.capacity
    for path in ("tiles/coords", "tiles/count", "features/random-resnet18/vectors"):
        there, here = zarr.open_group(store.url)[path][:], zarr.open_group(again.url)[path][:][rows]
        np.testing.assert_array_equal(here, there[:, :capacity] if there.ndim > 1 else there)


def test_features_as_npy(store, tmp_path):
    giga.export(store, "features/random-resnet18", to=tmp_path / "f", format="npy")
    name = f"{store.slides[2].id}.npy"
    features = store.features("random-resnet18").read(2)
    np.testing.assert_array_equal(np.load(tmp_path / "f" / "features" / name), features)
    np.testing.assert_array_equal(np.load(tmp_path / "f" / "coords" / name), store.tiles.coords(2))
    made = giga.import_features(tmp_path / "again.zarr", tmp_path / "f")
    assert (made.kind, made.name, made.tool, made.done, made.failed) == ("features", "random-resnet18", "giga", 8, 0)
    again = giga.open(tmp_path / "again.zarr")
    row = again.slides.index[store.slides[2].id]
    np.testing.assert_array_equal(again.features("random-resnet18").read(row), features)
    np.testing.assert_array_equal(again.tiles.coords(row), store.tiles.coords(2))
    assert (again.slides[row].mpp, again.slides[row].size_px) == (store.slides[2].mpp, store.slides[2].size_px)
    (tmp_path / "f" / "coords" / name).with_suffix(".json").unlink()  # as earlier versions wrote it
    made = giga.import_features(tmp_path / "other.zarr", tmp_path / "f")
    assert list(made.failures) == [store.slides[2].id]
    assert "which says how large its tiles are" in made.failures[store.slides[2].id]


def test_geojson_for_qupath(store, tmp_path):
    summary = giga.export(store, "tiles", to=tmp_path / "tiles")
    assert (summary.format, summary.slides, summary.warning) == ("geojson", 8, "")
    row, slide = 5, store.slides[5]
    collection = json.loads((tmp_path / "tiles" / f"{slide.id}.geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == store.tiles.count(row)
    edge = 64 / slide.mpp
    for feature, (x, y), share in zip(
        collection["features"], store.tiles.coords(row), store.tiles.tissue(row), strict=True
    ):
        [ring] = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1] == [x, y]
        np.testing.assert_allclose(ring[2], [x + edge, y + edge], atol=0.01)
        assert feature["properties"]["objectType"] == "tile"
        assert feature["properties"]["measurements"]["tissue"] == pytest.approx(share, abs=1e-4)


def test_slides_that_qupath_crops_are_counted_from_their_bounds(store_at, tmp_path, monkeypatch):
    path = store_at("tile")
    root = zarr.open_group(path)
    root["slides/vendor"][1] = "mirax"
    root["slides/vendor"][2] = "mirax"
    root["slides/path"][2] = "gone.mrxs"
    root["slides/vendor"][3] = ""  # as of tiles that another tool made
    root["slides/path"][3] = ""
    store = giga.open(path)

    def opened(path):
        if path in ("gone.mrxs", ""):
            raise SlideError("gone")
        return nullcontext(SimpleNamespace(bounds_px=(100, 40, 1000, 1000)))

    monkeypatch.setattr(tiles, "open_slide", opened)
    summary = giga.export(store, "tiles", to=tmp_path / "tiles")
    assert summary.warning.startswith("2 slides could not be opened")
    assert store.slides[2].id in summary.warning
    for row, origin in ((0, (0, 0)), (1, (100, 40)), (2, (0, 0)), (3, (0, 0))):
        found = json.loads((tmp_path / "tiles" / f"{store.slides[row].id}.geojson").read_text())
        assert found["origin_px"] == list(origin)
        corner = found["features"][0]["geometry"]["coordinates"][0][0]
        assert corner == (store.tiles.coords(row)[0] - np.array(origin)).tolist()


def test_slides_without_a_result_are_left_out_and_counted(store_at, tmp_path):
    path = store_at("embed")
    store = giga.open(path)
    giga.open(path, write=True).embedding("giga").take_back([5])
    giga.open(path, write=True).tiles.take_back([3])
    summary = giga.export(path, "embeddings/giga", to=tmp_path / "v.csv")
    assert (summary.slides, summary.empty, summary.pending) == (6, 0, 2)
    ids = pd.read_csv(tmp_path / "v.csv")["slide_id"].tolist()
    assert ids == [id_ for i, id_ in enumerate(store.slides.ids) if i not in (3, 5)]


def test_an_embedding_of_slides_without_a_resolution(store_at, tmp_path):
    """As where slide vectors were imported into a store with tiles."""
    path = store_at("embed")
    zarr.open_group(path)["slides/mpp"][2] = np.nan
    giga.export(path, "embeddings/giga", to=tmp_path / "h", format="h5")
    for row, slide in enumerate(giga.open(path).slides.ids):
        with h5py.File(tmp_path / "h" / f"{slide}.h5") as file:
            assert ("coords" in file) == (row != 2)


def test_an_embedding_without_tiles(store_at, tmp_path):
    """As in a store that was made from vectors alone."""
    path = store_at("embed")
    for group in ("tiles", "features", "banks", "models"):
        shutil.rmtree(path / group)
    giga.export(path, "embeddings/giga", to=tmp_path / "h", format="h5")
    with h5py.File(sorted((tmp_path / "h").glob("*.h5"))[0]) as file:
        assert set(file) == {"features"}
    giga.export(path, "embeddings/giga", to=tmp_path / "v.h5ad")
    assert "tiles" not in anndata.read_h5ad(tmp_path / "v.h5ad").obs


@pytest.mark.parametrize(("kind", "kind_of_file"), [(kind.kind, name) for kind, name in WRITERS])
def test_same_results_same_bytes(store, tmp_path, chunks, kind, kind_of_file):
    what = "embeddings/giga" if kind == "embeddings" else kind
    name = f"x.{kind_of_file}" if kind_of_file in ("csv", "parquet", "h5ad") else "x"
    found = []
    for _ in range(2):
        giga.export(store, what, to=tmp_path / name, format=kind_of_file, redo=True)
        path = tmp_path / name
        found.append(path.read_bytes() if path.is_file() else chunks(path))
    assert found[0] == found[1]
    assert len(list(tmp_path.iterdir())) == 1  # nothing is left beside it


def test_what_is_there_is_replaced_on_request_only(store, tmp_path):
    giga.export(store, "embeddings/giga", to=tmp_path / "v.csv")
    before = (tmp_path / "v.csv").read_bytes()
    with pytest.raises(InvalidInput, match="is there already") as raised:
        giga.export(store, "embeddings/mean-random-resnet18", to=tmp_path / "v.csv")
    assert "`redo=True`" in raised.value.hint
    assert (tmp_path / "v.csv").read_bytes() == before
    giga.export(store, "embeddings/mean-random-resnet18", to=tmp_path / "v.csv", redo=True)
    assert (tmp_path / "v.csv").read_bytes() != before


def test_a_folder_of_someone_else_is_never_replaced(store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for redo in (False, True):
        with pytest.raises(InvalidInput, match="did not write"):
            giga.export(store, "tiles", to=tmp_path / "mine", redo=redo)
    giga.export(store, "tiles", to=tmp_path / "ours")
    (tmp_path / "ours" / "thesis.txt").write_text("x")
    with pytest.raises(InvalidInput, match=r"also holds thesis\.txt"):
        giga.export(store, "tiles", to=tmp_path / "ours", redo=True)
    assert (tmp_path / "ours" / "thesis.txt").exists()
    (tmp_path / "empty").mkdir()
    giga.export(store, "tiles", to=tmp_path / "empty")
    (tmp_path / "v.csv").mkdir()
    with pytest.raises(InvalidInput, match="is a folder; a file is written"):
        giga.export(store, "embeddings/giga", to=tmp_path / "v.csv", redo=True)


@pytest.mark.parametrize("redo", [False, True])
def test_an_interrupted_export_leaves_what_was_there(store, tmp_path, monkeypatch, redo):
    to = tmp_path / "tiles"
    if redo:
        giga.export(store, "tiles", to=to)
    before = {p.name: p.read_bytes() for p in to.iterdir()} if redo else {}

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiles, "write_collection", stop)
    with pytest.raises(KeyboardInterrupt):
        giga.export(store, "tiles", to=to, redo=redo)
    assert ({p.name: p.read_bytes() for p in to.iterdir()} if redo else {}) == before
    assert [p.name for p in tmp_path.iterdir()] == (["tiles"] if redo else [])


@pytest.mark.parametrize("moment", ["while it writes", "while it replaces"])
def test_what_a_killed_export_left_is_removed_by_the_next(store, tmp_path, moment):
    to = tmp_path / "vectors"
    giga.export(store, "embeddings/giga", to=to, format="npy")
    before = {p.name: p.read_bytes() for p in to.iterdir()}
    code = (
        "import os, sys; import gigacli as giga; from gigacli.exporting import output\n"
        "from pathlib import Path; rename = Path.rename\n"
        "def die(path, to):\n"
        "    if sys.argv[3] == 'while it writes' or path.name == 'new': os.kill(os.getpid(), 9)\n"
        "    return rename(path, to)\n"
        "Path.rename = die\n"
        "giga.export(sys.argv[1], 'embeddings/giga', to=sys.argv[2], format='npy', redo=True)"
    )
    subprocess.run([sys.executable, "-c", code, store.url, str(to), moment], check=False)
    [left] = [p for p in tmp_path.iterdir() if p.suffix == PARTIAL]
    assert to.exists() is (moment == "while it writes")

    def fail():
        with export_folder(to, {}):
            assert not left.exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {p.name: p.read_bytes() for p in to.iterdir()} == before
    giga.export(store, "embeddings/giga", to=to, format="npy", redo=True)
    assert [p.name for p in tmp_path.iterdir()] == ["vectors"]


def test_a_full_disk_is_said(store, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(giga.GigaError, match="No space left"):
        giga.export(store, "embeddings/giga", to=tmp_path / "v")
    assert not list(tmp_path.iterdir())


def test_refusals(chain, store, store_at, tmp_path):
    for what, to, options, error, says in (
        (None, "v.csv", {}, InvalidInput, "several embeddings: giga, mean-random-resnet18"),
        ("embeddings/nobody", "v.csv", {}, NotFound, "nobody"),
        ("banks/random-resnet18", "v.csv", {}, InvalidInput, "nothing that can be exported"),
        ("tiles/x", "v", {}, InvalidInput, "nothing that can be exported"),
        ("embeddings/giga", "v.cvs", {}, InvalidInput, r"ends in \.cvs"),
        ("embeddings/giga", "v", {"format": "xlsx"}, InvalidInput, "xlsx"),
        ("embeddings/giga", "v", {"format": "csv"}, InvalidInput, "csv is one file"),
        ("embeddings/giga", "v.csv", {"format": "npy"}, InvalidInput, "npy is a folder"),
        ("embeddings/giga", "v.npy", {}, InvalidInput, "npy is a folder"),
        ("embeddings/giga", "v", {"format": "geojson"}, InvalidInput, "cannot be written as geojson"),
        ("tiles", "v.csv", {}, InvalidInput, "cannot be written as csv"),
        ("models", "giga", {}, InvalidInput, "safetensors is one file"),
        ("embeddings/giga", "s3://bucket/v.csv", {}, InvalidInput, "this machine"),
    ):
        with pytest.raises(error, match=says):
            giga.export(store, what, to=to if "://" in to else tmp_path / to, **options)
    with pytest.raises(NotFound, match="no embeddings"):
        giga.export(chain("train"), to=tmp_path / "v.csv")
    path = store_at("embed")
    store = giga.open(path, write=True)
    store.embedding("giga").take_back()
    with pytest.raises(NotFound, match="holds nothing yet"):
        giga.export(path, "embeddings/giga", to=tmp_path / "v.csv")
    other = giga.Store.create("memory://names.zarr")
    other.write_slides(SlideTable((SlideRow(id="a/b", path=""),)))
    other.tiles.begin(store.tiles.recipe, 1, redo=False)
    other.tiles.write(0, np.zeros((1, 2), dtype=np.int32), None)
    with pytest.raises(InvalidInput, match="cannot give a file its name"):
        giga.export(other, "tiles", to=tmp_path / "v")
    with pytest.raises(Mismatch):
        giga.export(tmp_path, "tiles", to=tmp_path / "v")
    assert [p.name for p in tmp_path.iterdir()] == ["cohort.zarr"]


def test_a_library_that_is_not_installed_is_named(store, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name.partition(".")[0])

    monkeypatch.setattr("gigacli.exporting.vectors.import_module", missing)
    for to, extra in (("v.parquet", "parquet"), ("v.h5ad", "anndata")):
        with pytest.raises(NotFound) as raised:
            giga.export(store, "embeddings/giga", to=tmp_path / to)
        assert f"pip install '.[{extra}]'" in raised.value.hint
    assert not list(tmp_path.iterdir())


def test_formats():
    assert set(FORMATS) == {"npy", "csv", "parquet", "h5", "h5ad", "geojson", "safetensors"}
    assert formats_of(Model) == ["safetensors"]
    assert formats_of(Embedding)[0] == "npy"


def test_a_kill_between_the_renames_loses_nothing(store, tmp_path):
    """What was there stands aside until the new folder is in its place."""
    giga.export(store, "tiles", to=tmp_path / "t")
    with export_folder(tmp_path / "t", note_of(store.tiles)) as folder:
        (folder / "x").write_text("new")
        assert len(list((tmp_path / "t").iterdir())) == 9
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["giga.json", "x"]


def test_the_page_of_exports_lists_every_format_and_every_member_of_the_card():
    text, heads = (Path(__file__).parents[2] / "spec" / "exports.md").read_text().split("## Heads")
    rows = rows_of(text)
    formats = {(row[0], row[1]): row[2] for row in rows if len(row) == 4 and row[0] in {kind.kind for kind in KINDS}}
    assert set(formats) == {
        *((kind.kind, name) for kind, name in WRITERS),
        ("models", "safetensors"),
        ("encoders", "safetensors"),
    }
    assert all(to == ("file" if name in FILES else "folder") for (_, name), to in formats.items())
    members = [row[0].strip("`") for row in rows if len(row) == 3 and row[0].startswith("`")]
    assert members == [field.name for field in fields(WeightsCard)]
    assert f"of this card: `{CARD_VERSION}`" in text
    members = [row[0].strip("`") for row in rows_of(heads) if len(row) == 3 and row[0].startswith("`")]
    assert members == ["kind", "version", *(field.name for field in fields(head_card.HeadCard))]
    assert f"of this card: `{head_card.CARD_VERSION}`" in heads
    assert f"{{{', '.join(field.name for field in fields(head_card.VectorKind))}}}" in heads
    assert [row[0] for row in rows_of(heads) if len(row) == 4][2:] == [f"`{name}`" for name in _tensors("levels")]


def rows_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_features_of_a_collection_are_written_one_after_the_other(tmp_path):
    large = (tile_feature(i, (i, 0, i + 1, 1)) for i in range(2000))
    tracemalloc.start()
    write_collection(tmp_path / "c.geojson", large, origin_px=[0, 0])
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    read = json.loads((tmp_path / "c.geojson").read_text())
    assert [feature["properties"]["name"] for feature in read["features"]] == [f"tile {i}" for i in range(2000)]
    assert taken < 2**19  # as one object, 3 MB
    write_collection(tmp_path / "none.geojson", [], of="nothing")
    assert json.loads((tmp_path / "none.geojson").read_text()) == {
        "type": "FeatureCollection",
        "of": "nothing",
        "features": [],
    }
