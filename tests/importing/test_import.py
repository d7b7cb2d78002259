"""Imports can be stopped, repeated, added to and replaced; what does not belong together is refused at the door."""

from pathlib import Path

import h5py
import numpy as np
import pytest

import gigacli as giga
from gigacli.cohort.registration import file_problem
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.importing import features as module
from gigacli.store.groups import Features
from gigacli.store.info import info
from gigacli.store.pack import pack
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.validate import validate
from tests.helpers import run_giga


def edit(file, change):
    with h5py.File(file, "a") as opened:
        change(opened)


def attribute(key, value):
    return lambda file: file["coords"].attrs.__setitem__(key, value)


def test_the_bytes_do_not_depend_on_workers_or_interruptions(tmp_path, features, chunks, monkeypatch):
    giga.import_features(tmp_path / "whole.zarr", features, workers=1)
    giga.import_features(tmp_path / "wide.zarr", features, workers=4)
    real, calls = module.write_features, []

    def stops(*arguments, **options):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_features", stops)
        with pytest.raises(KeyboardInterrupt):
            giga.import_features(tmp_path / "cut.zarr", features, workers=1)
    assert validate(tmp_path / "cut.zarr").problems == []
    assert info(tmp_path / "cut.zarr").next.startswith("giga import")
    again = giga.import_features(tmp_path / "cut.zarr", features)
    assert (again.done, again.skipped) == (5, 3)
    whole = chunks(tmp_path / "whole.zarr")
    assert whole == chunks(tmp_path / "wide.zarr")
    assert whole == chunks(tmp_path / "cut.zarr")


def test_patients_come_from_barcodes_and_from_the_table(tmp_path, features):
    giga.import_features(tmp_path / "a.zarr", features)
    assert giga.open(tmp_path / "a.zarr").slides[0].patient == "TCGA-AA-1000"
    first = giga.open(tmp_path / "a.zarr").slides[0].id
    (tmp_path / "s.csv").write_text(f"path,patient_id\nslides/{first}.svs,someone\n")
    giga.import_features(tmp_path / "b.zarr", features, csv=tmp_path / "s.csv")
    slide = giga.open(tmp_path / "b.zarr").slides[0]
    assert slide.patient == "someone"
    assert slide.path == str(tmp_path / "slides" / f"{first}.svs")
    giga.import_features(tmp_path / "a.zarr", features, csv=tmp_path / "s.csv")
    assert giga.open(tmp_path / "a.zarr").slides[0].path == slide.path


def test_broken_files_are_failures_of_their_slides(tmp_path, features):
    files = sorted(features.glob("*.h5"))
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:600])
    result = run_giga("import", "a.zarr", features, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert files[2].stem in result.stdout
    store = giga.open(tmp_path / "a.zarr")
    row = store.slides.index[files[2].stem]
    assert str(files[2]) in store.failures("import")[row]
    assert not store.tiles.done().finished[row]
    assert validate(store).problems == []
    files[2].write_bytes(whole)
    again = giga.import_features(tmp_path / "a.zarr", features)
    assert (again.done, again.skipped, again.failed) == (1, 7, 0)
    assert giga.open(tmp_path / "a.zarr").failures("import") == [""] * 8


VALUES = {
    "overflow": (
        lambda f: f["features"].__setitem__((1, 2), 7e4),
        "1 of its values are beyond what float16 holds, 65504: the largest found is 70000",
    ),
    "nan": (lambda f: f["features"].__setitem__((1, 2), np.nan), "not numbers"),
    "outside": (lambda f: f["coords"].__setitem__(1, (90000, 0)), "outside the slide of 9000 x 7000 px"),
    "negative": (lambda f: f["coords"].__setitem__(1, (-512, 0)), "outside the slide"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_cannot_be_stored_fail_their_slide(tmp_path, features, name):
    change, says = VALUES[name]
    file = sorted(features.glob("*.h5"))[4]
    edit(file, change)
    made = giga.import_features(tmp_path / "a.zarr", features)
    assert list(made.failures) == [file.stem]
    assert says in made.failures[file.stem]
    assert made.done == 7
    store = giga.open(tmp_path / "a.zarr")
    row = store.slides.index[file.stem]
    assert not store.tiles.done().finished[row]
    assert not store.features("uni_v1").done().finished[row]
    assert validate(store).problems == []


def shorter(file):
    kept = file["coords"][:-1]
    attributes = dict(file["coords"].attrs)
    del file["coords"]
    file.create_dataset("coords", data=kept).attrs.update(attributes)


def test_vectors_without_a_tile_fail_their_slide(tmp_path, features):
    file = sorted(features.glob("*.h5"))[4]
    edit(file, shorter)
    assert (
        "14 feature vectors but 13 coordinates"
        in giga.import_features(tmp_path / "a.zarr", features).failures[file.stem]
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (attribute("target_magnification", 10), "1 microns per pixel"),
        (attribute("patch_size", 224), "224 px"),
        (attribute("overlap", 64), "overlapping by 64"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, features, change, says):
    file = sorted(features.glob("*.h5"))[5]
    edit(file, change)
    with pytest.raises(InvalidInput, match="do not belong together") as caught:
        giga.import_features(tmp_path / "a.zarr", features)
    assert says in str(caught.value)
    assert file.name in str(caught.value)
    assert not (tmp_path / "a.zarr").exists()


def test_other_widths_and_slides_twice_are_refused(tmp_path, features, layouts):
    layouts.trident(features, "wide", *layouts.drawn(1, width=24))
    with pytest.raises(InvalidInput, match=r"16 values per tile, wide \(wide\.h5\) has 24"):
        giga.import_features(tmp_path / "a.zarr", features)
    (features / "wide.h5").unlink()
    layouts.trident(tmp_path / "more", sorted(features.glob("*.h5"))[0].stem, *layouts.drawn(1))
    with pytest.raises(InvalidInput, match="two files of features"):
        giga.import_features(tmp_path / "a.zarr", [features, tmp_path / "more"])
    assert not (tmp_path / "a.zarr").exists()


def test_slides_without_tiles_are_done(tmp_path, features, layouts):
    corners, vectors = layouts.drawn(1)
    layouts.trident(features, "empty", corners[:0], vectors[:0])
    made = giga.import_features(tmp_path / "a.zarr", features)
    store = giga.open(tmp_path / "a.zarr")
    row = store.slides.index["empty"]
    assert made.done == 9
    assert store.tiles.done().values[row] == store.features("uni_v1").done().values[row] == 0
    assert validate(store).problems == []


def test_more_slides_may_come_later_and_be_larger(tmp_path, features, layouts):
    giga.import_features(tmp_path / "a.zarr", features)
    corners, vectors = layouts.drawn(99, tiles=100)
    layouts.trident(features, "later", corners, vectors)
    made = giga.import_features(tmp_path / "a.zarr", features)
    assert (made.done, made.skipped) == (1, 8)
    store = giga.open(tmp_path / "a.zarr")
    row = store.slides.index["later"]
    np.testing.assert_array_equal(store.tiles.coords(row), corners)
    np.testing.assert_array_equal(store.features("uni_v1").read(row), vectors.astype(np.float16))
    assert validate(store).problems == []


def test_other_features_of_the_same_tiles_are_put_in_their_order(tmp_path, features, layouts):
    giga.import_features(tmp_path / "a.zarr", features)
    other, shuffled = tmp_path / "features_conch", {}
    for i, file in enumerate(sorted(features.glob("*.h5"))):
        corners, vectors = layouts.drawn(i, tiles=10 + i, width=24)
        order = np.random.default_rng(i).permutation(len(corners))
        layouts.trident(other, file.stem, corners[order], vectors[order], encoder="conch")
        shuffled[file.stem] = vectors
    made = giga.import_features(tmp_path / "a.zarr", other)
    assert (made.name, made.done, made.failed) == ("conch", 8, 0)
    store = giga.open(tmp_path / "a.zarr")
    for row, slide in enumerate(store.slides.ids):
        np.testing.assert_array_equal(store.features("conch").read(row), shuffled[slide].astype(np.float16))
    assert validate(store).problems == []


def test_features_of_other_tiles_are_not_mixed_in(tmp_path, features, layouts):
    giga.import_features(tmp_path / "a.zarr", features)
    slide = giga.open(tmp_path / "a.zarr").slides.ids[0]
    layouts.trident(tmp_path / "moved", slide, *layouts.drawn(77), encoder="conch")
    failed = giga.import_features(tmp_path / "a.zarr", tmp_path / "moved").failures[slide]
    assert "12 tiles, which are not the 10 tiles that the store has" in failed
    layouts.trident(tmp_path / "coarse", slide, *layouts.drawn(0), encoder="gigapath", target=10)
    with pytest.raises(Mismatch, match=r"tiles of 128 microns \(256 px at 0.5\)"):
        giga.import_features(tmp_path / "a.zarr", tmp_path / "coarse")
    assert giga.open(tmp_path / "a.zarr").names(Features) == ["conch", "uni_v1"]


def test_replacing_makes_what_was_trained_on_it_stale(tmp_path, features):
    path = tmp_path / "a.zarr"
    giga.import_features(path, features)
    giga.train(path, epochs=1, aggregator="mlp")
    giga.embed(path, views=2)
    assert validate(path).problems == []
    for file in features.glob("*.h5"):
        edit(file, lambda opened: opened["features"].__setitem__(0, 1.0))
    assert giga.import_features(path, features).skipped == 8
    made = giga.import_features(path, features, redo=True)
    assert made.done == 8
    assert giga.open(path).features("uni_v1").read(0)[0].tolist() == [1.0] * 16
    assert {(p.rule, p.path) for p in validate(path).problems} == {
        ("RECIPE-3", name)
        for name in ("models/giga", "embeddings/giga", "embeddings/mean-uni_v1", "embeddings/whitened-mean-uni_v1")
    }
    with pytest.raises(Mismatch, match="trained on other features/uni_v1"):
        giga.embed(path)
    assert giga.import_features(path, features).skipped == 8


def test_features_for_a_store_that_was_tiled_here(tmp_path, store_at, layouts):
    path = store_at("tile")
    store = giga.open(path)
    counts = store.tiles.done().counts
    for row, slide in enumerate(store.slides.ids):
        corners = store.tiles.coords(row)
        vectors = np.full((counts[row], 4), row, dtype=np.float32)
        layouts.trident(tmp_path / "f", slide, corners, vectors, power=20, target=10, patch_size=64)
    edge_px = 64 / store.slides[0].mpp
    for file in (tmp_path / "f").glob("*.h5"):
        for key, value in (("patch_size_level0", edge_px), ("level0_width", 10**6), ("level0_height", 10**6)):
            edit(file, attribute(key, value))
    before = store.tiles.fingerprint
    assert giga.import_features(path, tmp_path / "f").done == 8
    assert giga.open(path).tiles.fingerprint == before
    assert validate(path).problems == []
    layouts.trident(tmp_path / "f", "stranger", *layouts.drawn(1, width=4), power=20, target=10, patch_size=64)
    with pytest.raises(InvalidInput, match=r"slides that .* does not have, such as stranger"):
        giga.import_features(path, tmp_path / "f")


def test_what_giga_made_is_not_replaced(tmp_path, features):
    path = tmp_path / "a.zarr"
    giga.import_features(path, features, name="imported")
    store = Store.open(path, write=True)
    tiles = store.tiles.fingerprint
    made = Recipe("bank", {"encoder": "uni_v1"}, {"tiles": tiles, "encoder": "0" * 64})
    store.features("uni_v1").begin(made, 16, redo=False)
    with pytest.raises(Mismatch, match="of the name 'uni_v1' of its own"):
        giga.import_features(path, features, redo=True)
    assert giga.open(path).features("uni_v1").recipe == made


def test_training_is_the_same_packed_or_not(tmp_path, features):
    weights = []
    for packed in (False, True):
        path = tmp_path / f"{packed}.zarr"
        giga.import_features(path, features)
        if packed:
            pack(path)
        giga.train(path, epochs=2, batch_size=3, tiles=20, aggregator="mlp", whiten=True)
        weights.append(giga.open(path).model("giga").weights())
    assert weights[0] == weights[1]


def test_tiles_of_an_import_are_not_taken_for_those_of_giga_tile(tmp_path, features, cohort):
    giga.import_features(tmp_path / "a.zarr", features)
    with pytest.raises(Mismatch, match="made by: giga import here, giga tile asked for"):
        giga.tile(tmp_path / "a.zarr", cohort.slides)
    assert "its slide file is not known" in file_problem(giga.open(tmp_path / "a.zarr").slides[0])


def test_a_table_that_names_slides_which_are_not_there_is_refused(tmp_path, features):
    """A mistyped id would leave the slide without its patient, and say nothing."""
    first, second = sorted(path.stem for path in features.iterdir())[:2]
    (tmp_path / "s.csv").write_text(f"slide_id,patient_id\n{first},p\n{second.lower()},q\nother,r\n")
    with pytest.raises(NotFound, match=r"2 of 3 slides that .*s.csv names are neither .*: '.*', 'other'; 1 differ in"):
        giga.import_features(tmp_path / "a.zarr", features, csv=tmp_path / "s.csv")
    assert not (tmp_path / "a.zarr").exists()
    made = giga.import_features(tmp_path / "a.zarr", features, csv=tmp_path / "s.csv", allow_missing=True)
    assert made.done == 8
    assert giga.open(tmp_path / "a.zarr").slides[0].patient == "p"
    np.save(tmp_path / "embeddings.npy", np.ones((1, 4), dtype=np.float32))
    np.save(tmp_path / "ids.npy", np.array(["other2"]))
    files = [tmp_path / "embeddings.npy", tmp_path / "ids.npy"]
    with pytest.raises(NotFound, match="3 of 3 slides"):
        giga.import_features(tmp_path / "b.zarr", files, csv=tmp_path / "s.csv")


def test_files_that_are_no_features(tmp_path, features):
    (features / "model.pt").write_bytes(b"not a tensor")
    made = giga.import_features(tmp_path / "a.zarr", features)
    assert (made.done, list(made.failures)) == (8, ["model"])
    with h5py.File(features / "else.h5", "w") as file:
        file["x"] = 1
    (features / "model.pt").unlink()
    assert giga.import_features(tmp_path / "b.zarr", features).failed == 0
    with pytest.raises(InvalidInput, match="no dataset `features`"):
        giga.import_features(tmp_path / "c.zarr", features / "else.h5")
    with pytest.raises(NotFound, match="does not exist"):
        giga.import_features(tmp_path / "c.zarr", features / "gone")
    with pytest.raises(InvalidInput, match="no files were named"):
        giga.import_features(tmp_path / "c.zarr", [])


def test_a_tensor_file_that_holds_code_is_not_run(tmp_path, layouts):
    import torch

    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    layouts.clam(tmp_path / "clam", "S1", *layouts.drawn(1), kinds=("pt",))
    torch.save(Harm(), tmp_path / "clam" / "pt_files" / "S1.pt")
    with pytest.raises(InvalidInput, match="cannot be read as a tensor"):
        giga.import_features(tmp_path / "a.zarr", tmp_path / "clam", mpp=0.5)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("name\nx\n", "no column slide_id or path"),
        ("slide_id,mpp\nS1,fast\n", "mpp of S1 is 'fast'"),
        ("slide_id\nS1\nS1.svs\n", "names the slide S1 twice"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, features, table, says):
    (tmp_path / "s.csv").write_text(table)
    with pytest.raises(InvalidInput, match=says):
        giga.import_features(tmp_path / "a.zarr", features, csv=tmp_path / "s.csv")
    assert not (tmp_path / "a.zarr").exists()
