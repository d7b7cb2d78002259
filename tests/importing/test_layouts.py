"""What is in a file is what is in the store, for every tool: vectors, level-0 corners, edges and resolutions."""

import h5py
import numpy as np
import pytest
import zarr

import gigacli as giga
from gigacli.errors import InvalidInput, NotFound
from gigacli.store.groups import Features
from gigacli.store.validate import validate


def tiles_of(path, row=0, name=None):
    """(store, corners, vectors, edge in level-0 px) of a slide."""
    store = giga.open(path)
    [name] = [name] if name else store.names(Features)
    root = zarr.open_group(path, mode="r")
    n = int(root["tiles/count"][row])
    config = store.tiles.config
    edge_px = config["tile_px"] * config["mpp"] / store.slides[row].mpp
    return store, root["tiles/coords"][row, :n], root[f"features/{name}/vectors"][row, :n], edge_px


def check(path, corners, vectors, *, edge_px, row=0, name=None):
    """The slide in a row has these tiles and vectors, and the store keeps to the specification."""
    store, found, kept, edge = tiles_of(path, row, name)
    np.testing.assert_array_equal(found, corners)
    np.testing.assert_array_equal(kept, vectors.astype(np.float16))
    assert edge == pytest.approx(edge_px)
    assert validate(path).problems == []
    return store


def test_trident(tmp_path, layouts):
    corners, vectors = layouts.drawn(1)
    layouts.trident(tmp_path / "features_uni_v1", "S1", corners, vectors, power=40, target=20)
    made = giga.import_features(tmp_path / "a.zarr", tmp_path / "features_uni_v1")
    assert (made.name, made.tool, made.done, made.mpp, made.mpp_source) == ("uni_v1", "TRIDENT", 1, 0.5, "nominal")
    store = check(tmp_path / "a.zarr", corners, vectors, edge_px=512)
    slide = store.slides[0]
    assert (slide.id, slide.size_px, slide.mpp, slide.mpp_source) == ("S1", layouts.size_px, 0.25, "nominal")
    tiles, features = store.tiles, store.features("uni_v1").recipe
    assert tiles.config == {"mpp": 0.5, "tile_px": 256, "overlap": 0, "tool": "TRIDENT"}
    assert features.config["encoder"] == "uni_v1"
    assert features.inputs == {"tiles": tiles.fingerprint}
    assert np.isnan(store.tiles.tissue(0)).all()


def test_scanners_of_both_magnifications_share_a_grid(tmp_path, layouts):
    for i, power in enumerate((40, 20)):
        layouts.trident(tmp_path / "f", f"S{i}", *layouts.drawn(i), power=power, target=20, overlap=32)
    giga.import_features(tmp_path / "a.zarr", tmp_path / "f")
    store = giga.open(tmp_path / "a.zarr")
    assert [tiles_of(tmp_path / "a.zarr", row)[3] for row in (0, 1)] == [512, 256]
    assert [row.mpp for row in store.slides.rows] == [0.25, 0.5]
    assert store.tiles.config["overlap"] == 32


def test_trident_coordinates_in_a_file_of_their_own(tmp_path, layouts):
    corners, vectors = layouts.drawn(1)
    layouts.trident(tmp_path / "patches", "S1_patches", corners, vectors)
    with h5py.File(tmp_path / "patches" / "S1_patches.h5", "a") as file:
        del file["features"]
    (tmp_path / "features_uni").mkdir()
    with h5py.File(tmp_path / "features_uni" / "S1.h5", "w") as file:
        file["features"] = vectors
    giga.import_features(tmp_path / "a.zarr", [tmp_path / "features_uni", tmp_path / "patches"])
    check(tmp_path / "a.zarr", corners, vectors, edge_px=512, name="uni")  # as its folder is called


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kinds", [("h5",), ("pt",), ("h5", "pt")])
def test_clam(tmp_path, layouts, kinds, old):
    corners, vectors = layouts.drawn(1)
    layouts.clam(tmp_path / "clam", "S1", corners, vectors, kinds=kinds, old=old)
    made = giga.import_features(tmp_path / "a.zarr", tmp_path / "clam", mpp=0.5, name="resnet50")
    assert (made.tool, made.mpp_source, made.slides) == ("CLAM", "option", 1)
    store = check(tmp_path / "a.zarr", corners, vectors, edge_px=512)
    assert store.slides[0].mpp == 0.25
    assert store.slides[0].size_px == layouts.size_px


def test_clam_says_no_resolution(tmp_path, layouts):
    layouts.clam(tmp_path / "clam", "S1", *layouts.drawn(1))
    with pytest.raises(InvalidInput, match="resolution") as caught:
        giga.import_features(tmp_path / "a.zarr", tmp_path / "clam")
    assert "`slide_mpp`" in caught.value.hint
    with pytest.raises(InvalidInput, match="how large its tiles are"):
        giga.import_features(tmp_path / "a.zarr", tmp_path / "clam" / "h5_files", mpp=0.5)
    with pytest.raises(InvalidInput, match="no coordinates"):
        giga.import_features(tmp_path / "a.zarr", tmp_path / "clam" / "pt_files", mpp=0.5)
    assert not (tmp_path / "a.zarr").exists()


def test_the_resolution_of_slides_from_a_table_or_an_option(tmp_path, layouts):
    for i in range(2):
        layouts.clam(tmp_path / "clam", f"S{i}", *layouts.drawn(i))
    (tmp_path / "s.csv").write_text("slide_id,mpp,case_id\nS0,0.2525,P0\nS1.svs,0.2475,P1\n")
    made = giga.import_features(tmp_path / "a.zarr", tmp_path / "clam", csv=tmp_path / "s.csv")
    slides = giga.open(tmp_path / "a.zarr").slides
    assert made.mpp == pytest.approx(0.505)
    assert [row.patient for row in slides.rows] == ["P0", "P1"]
    assert slides[0].mpp == 0.2525
    assert slides[0].mpp_source == slides[1].mpp_source == "csv"
    assert [tiles_of(tmp_path / "a.zarr", row)[3] for row in (0, 1)] == [512, 512]
    giga.import_features(tmp_path / "b.zarr", tmp_path / "clam", slide_mpp=0.25)
    assert giga.open(tmp_path / "b.zarr").tiles.config["mpp"] == 0.5


def test_stamp(tmp_path, layouts):
    corners, vectors = layouts.drawn(1)
    layouts.stamp(tmp_path / "uni2-abc", "S1", corners, vectors, slide_mpp=0.25)
    with pytest.raises(InvalidInput, match="resolution of its slide"):
        giga.import_features(tmp_path / "a.zarr", tmp_path / "uni2-abc")
    made = giga.import_features(tmp_path / "a.zarr", tmp_path / "uni2-abc", slide_mpp=0.25)
    assert (made.tool, made.name, made.mpp) == ("STAMP", "uni2", 128 / 224)
    store = check(tmp_path / "a.zarr", corners, vectors, edge_px=512)
    assert store.slides[0].size_px == (-1, -1)
    assert store.features("uni2").config["tool_version"] == "2.4.0"


def test_stamp_before_2_1_is_refused(tmp_path, layouts):
    layouts.stamp(tmp_path / "f", "S1", *layouts.drawn(1), version="2.0.3")
    with pytest.raises(InvalidInput, match=r"STAMP 2\.0\.3"):
        giga.import_features(tmp_path / "a.zarr", tmp_path / "f", slide_mpp=0.25)


def test_atlaspatch(tmp_path, written):
    folder = written("atlaspatch")
    with pytest.raises(InvalidInput, match=r"3 sets of features: resnet18, tiles.*; titan, slide vectors.*; uni_v1"):
        giga.import_features(tmp_path / "a.zarr", folder / "patches")
    with pytest.raises(NotFound, match="there are those of moozy, resnet18, titan, uni_v1"):
        giga.import_features(tmp_path / "a.zarr", folder, encoder="conch")
    for name in ("uni_v1", "resnet18"):
        made = giga.import_features(tmp_path / "a.zarr", folder, encoder=name)
        assert (made.tool, made.name, made.tiles) == ("AtlasPatch", name, 20)
        with h5py.File(folder / "patches" / "CMU-1-Small-Region.h5") as file:
            corners, vectors = file["coords"][:, :2], file[f"features/{name}"][:]
        store = check(tmp_path / "a.zarr", corners, vectors, edge_px=512, name=name)
    assert store.slides[0].size_px == (2220, 2967)
    assert store.slides[0].path == "/slides/CMU-1-Small-Region.svs"
    assert store.slides[0].mpp_source == "nominal"  # its tiles of 512 px are those of 0.5, not of its 0.499


@pytest.mark.parametrize("folder", ["", "tile_embeddings"])
def test_slide2vec(tmp_path, written, folder):
    import torch

    root = written("slide2vec")
    made = giga.import_features(tmp_path / "a.zarr", root / folder)
    assert (made.tool, made.name, made.mpp, made.mpp_source) == ("slide2vec", "resnet18", 0.5, "import")
    tiles = np.load(root / "tiles" / "CMU-1-Small-Region.coordinates.npz")
    vectors = torch.load(root / "tile_embeddings" / "CMU-1-Small-Region.pt", weights_only=True).numpy()
    corners = np.stack([tiles["x"], tiles["y"]], axis=1)
    store = check(tmp_path / "a.zarr", corners, vectors, edge_px=256 * 0.5 / 0.499)
    np.testing.assert_array_equal(store.tiles.tissue(0), tiles["tissue_fractions"])
    assert store.slides[0].mpp == 0.499


def test_wsidata(tmp_path, written):
    root = written("wsidata")
    made = giga.import_features(tmp_path / "a.zarr", root)
    assert (made.tool, made.name, made.tiles, made.mpp) == ("wsidata", "resnet18", 20, 1.0)
    table = zarr.open_group(root / "CMU-1-Small-Region.zarr", mode="r")["tables/resnet18_tiles"]
    corners = [(x, y) for y in range(0, 2967 - 513, 513) for x in range(0, 2220 - 513, 513)]
    store = check(tmp_path / "a.zarr", corners, table["X"][:], edge_px=256 / 0.499)
    assert store.slides[0].id == "CMU-1-Small-Region"


def test_slide_vectors_of_trident(tmp_path, layouts):
    vectors = [layouts.drawn(i)[1][0] for i in range(3)]
    for i, vector in enumerate(vectors):
        layouts.trident_slide(tmp_path / "slide_features_titan", f"S{i}", vector)
    made = giga.import_features(tmp_path / "a.zarr", tmp_path / "slide_features_titan")
    assert (made.kind, made.name, made.done, made.width) == ("embeddings", "titan", 3, 16)
    store = giga.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(store.embedding("titan").read(), vectors)
    assert validate(tmp_path / "a.zarr").problems == []
    assert giga.import_features(tmp_path / "a.zarr", tmp_path / "slide_features_titan").skipped == 3


def test_features_are_as_wide_as_4096_values(tmp_path, layouts):
    corners, vectors = layouts.drawn(1, width=4096)
    layouts.trident(tmp_path / "f", "S1", corners, vectors)
    giga.import_features(tmp_path / "a.zarr", tmp_path / "f")
    check(tmp_path / "a.zarr", corners, vectors, edge_px=512)


def test_slides_of_many_chunks(tmp_path, layouts):
    rng = np.random.default_rng(0)
    corners = np.stack([np.arange(5000), np.arange(5000) % 7], axis=1)
    vectors = rng.standard_normal((5000, 5)).astype(np.float32)
    layouts.trident(tmp_path / "f", "S1", corners, vectors)
    layouts.trident(tmp_path / "f", "S2", corners[:1024], vectors[:1024])
    giga.import_features(tmp_path / "a.zarr", tmp_path / "f")
    check(tmp_path / "a.zarr", corners, vectors, edge_px=512)
    check(tmp_path / "a.zarr", corners[:1024], vectors[:1024], edge_px=512, row=1)
