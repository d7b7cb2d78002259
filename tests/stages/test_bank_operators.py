"""giga bank --mode operators: what augmentation does to features, learnt from a few tiles."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import gigacli as giga
from gigacli.config.bank import BankConfig
from gigacli.demo.cohort import write_cohort
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn import operators
from gigacli.nn.augment import SHARED, augment, draw_augmentation, fold, output_px
from gigacli.nn.device import pick_device
from gigacli.nn.frozen import FrozenTileEncoder
from gigacli.randomness import keyed_rng
from gigacli.store.groups import Embedding
from gigacli.store.layout import NOT_DONE
from gigacli.weights.operators import applied, read_operators, with_mode
from gigacli.weights.resnet18 import resnet18_from_bytes
from gigacli.wsi.slide import Slide
from tests.conftest import copy_store

OPTIONS = {
    "encoder": "random-resnet18",
    "mode": "operators",
    "sets": 8,
    "held_out": 4,  # two as they are drawn, one with lightly and one with strongly jittered stains
    "calibration_tiles": 144,
    "precision": "fp32",
}
NAME = "random-resnet18"
SLIDES = 12


@pytest.fixture(scope="session")
def dozen(shared_folder):
    """A store of twelve small slides with tiles, and the tables they came with."""
    with shared_folder("dozen") as folder:
        made = write_cohort(folder, slides=SLIDES, patients=6, labs=2, seed=1, size_px=(1536, 1152))
        path = folder / "cohort.zarr"
        if not (folder / "done").exists():
            giga.tile(path, csv=made.cohort_csv, mpp=1.0, tile_px=64)
            (folder / "done").touch()
    return path, made


@pytest.fixture(scope="session")
def learnt(dozen, shared_folder):
    """The same with operators."""
    with shared_folder("learnt") as folder:
        path = folder / "cohort.zarr"
        if not (folder / "done").exists():
            copy_store(dozen[0], path)
            giga.bank(path, **OPTIONS)
            (folder / "done").touch()
    return path


def test_calibration_tiles_are_encoded_under_sets_that_all_slides_share(learnt):
    store = giga.open(learnt)
    network = resnet18_from_bytes(store.read_bytes(f"encoders/{NAME}/weights"))
    encoder = FrozenTileEncoder(network, device=pick_device("cpu"), precision="fp32")
    bank, features = store.bank(NAME), store.features(NAME)
    assert bank.calibrates.sum() == SLIDES
    assert bank.shape == (SLIDES, 8, 12, 256)
    for row in (0, 7):
        tile = bank.array("tile")[row]
        assert (tile == tile[0]).all()
        assert len(set(tile[0].tolist())) == 12
        slide = store.slides[row]
        with Slide(slide.path, mpp=slide.mpp) as opened:
            coords = store.tiles.coords(row)[tile[0]]
            images = [opened.read(*map(int, at), tile_px=64, mpp=1.0) for at in coords]
        pixels = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
        np.testing.assert_allclose(
            features.read(row)[tile[0]], encoder(pixels.float() / 255).numpy(), rtol=2e-3, atol=2e-3
        )
        for k, stain in ((0, 0.0), (5, 0.0), (6, 0.05), (7, 0.2)):
            strengths = replace(SHARED, stain=stain)
            parameters = draw_augmentation(keyed_rng(0, "calibration", k), 1, tile_px=64, strengths=strengths)
            folded = fold(parameters, tile_px=64, out_px=output_px(64), device=torch.device("cpu"))
            expected = encoder(augment(pixels, folded)).numpy()
            np.testing.assert_allclose(bank.array("vectors")[row, k], expected, rtol=2e-3, atol=2e-3)
    assert giga.validate(learnt).problems == []


def test_what_is_kept_is_what_moves_features(learnt):
    """The stored arrays, by the formula of the specification."""
    bank = giga.open(learnt).bank(NAME)
    kept = bank.operators()
    f = giga.open(learnt).features(NAME).read(3)[:4].astype(np.float64)
    x = (f - kept["feature_mean"]) / kept["feature_sd"] @ kept["whitening"]
    for k in (0, 7):
        y = x + kept["shift"][k] + (x - kept["centre"]) @ kept["left"] @ kept["core"][k] @ kept["right"]
        back = y @ np.linalg.inv(kept["whitening"].astype(np.float64)) * kept["feature_sd"] + kept["feature_mean"]
        ours = applied(bank, device=torch.device("cpu")).under(f.astype(np.float32), k)
        np.testing.assert_allclose(ours, back, rtol=1e-3, atol=1e-4)
    assert read_operators(bank).gate.words(residuals=True).startswith("on slides left out, operators foresee")


@pytest.mark.slow
def test_shards_a_kill_and_another_run_make_the_same_bytes(dozen, learnt, tmp_path, chunks, monkeypatch):
    path = copy_store(dozen[0], tmp_path / "sharded.zarr")
    for shard in ("2/2", "1/2"):
        assert not giga.open(path).bank(NAME).fitted
        made = giga.bank(path, **OPTIONS, shard=shard)
    assert made.notes[0].startswith("on slides left out")
    assert chunks(path) == chunks(learnt)
    assert giga.open(path).bank(NAME).fitted == giga.open(learnt).bank(NAME).fitted

    before = chunks(path)
    again = giga.bank(path)  # and what was left out is as it was
    assert (again.done, again.tiles) == (0, 0)
    assert chunks(path) == before

    from gigacli.store.bank import Bank

    killed, write = copy_store(dozen[0], tmp_path / "killed.zarr"), Bank.write

    def stop(self, row, *args, **options):
        if row == 6:
            raise KeyboardInterrupt
        write(self, row, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Bank, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            giga.bank(killed, **OPTIONS)
    with pytest.raises(NotFound, match="has no operators yet"):
        giga.train(killed, epochs=1)
    giga.bank(killed, **OPTIONS)
    assert chunks(killed) == chunks(learnt)


def test_slides_that_come_later_leave_operators_as_they_are(dozen, learnt, tmp_path, chunks):
    path, more = copy_store(learnt, tmp_path / "cohort.zarr"), tmp_path / "late"
    later = write_cohort(more, slides=2, patients=2, labs=1, seed=9, size_px=(1536, 1152))
    table = later.cohort_csv.read_text().replace("slide_", "late_")
    (later.cohort_csv).write_text(table.replace("demo", "late"))
    store = giga.open(path)
    kept = chunks(path, f"banks/{NAME}/operators")
    names = {p.stem: p for p in later.slides.iterdir()}
    lines = ["path,slide_id", *(f"{p},late-{stem}" for stem, p in sorted(names.items()))]
    (more / "late.csv").write_text("\n".join(lines) + "\n")
    giga.tile(path, csv=more / "late.csv")
    made = giga.bank(path)
    assert made.done == 2
    store = giga.open(path)
    assert store.bank(NAME).calibrates.sum() == SLIDES
    assert store.bank(NAME).done().filled.sum() == SLIDES + 2
    assert chunks(path, f"banks/{NAME}/operators") == kept
    assert giga.validate(path).problems == []


@pytest.mark.parametrize("whitening", ["slides", "augmentations"])
def test_an_encoder_is_trained_on_views_by_operators_joined_and_embedded(learnt, tmp_path, whitening):
    path = copy_store(learnt, tmp_path / "cohort.zarr")
    options = {"aggregator": "mlp", "steps": 4, "precision": "fp32", "whitening": whitening}
    giga.train(path, **options)
    giga.train(path, name="again", **options)
    store = giga.open(path)
    assert store.model("giga").weights() == store.model("again").weights()
    giga.embed(path, model="giga", views=3)
    giga.embed(path, aggregator="view-whitened")
    assert giga.open(path).embedding("giga").done().filled.all()
    assert giga.validate(path).problems == []


def test_what_does_not_go_together_is_refused(dozen, learnt, store_at, tmp_path):
    path = copy_store(dozen[0], tmp_path / "cohort.zarr")
    with pytest.raises(InvalidInput, match="`mode` is operators, which takes no `draws`"):
        giga.bank(path, **OPTIONS, draws=4)
    with pytest.raises(InvalidInput, match="`mode` is tiles, which takes no `rank`"):
        giga.bank(path, encoder="random-resnet18", mode="tiles", rank=4)
    with pytest.raises(InvalidInput, match="8 have tiles"):
        giga.bank(store_at("tile", "eight.zarr"), **OPTIONS)
    again = copy_store(learnt, tmp_path / "learnt.zarr")
    with pytest.raises(Mismatch, match="sets: 8 here, 9 asked for"):
        giga.bank(again, sets=9)
    with pytest.raises(Mismatch, match="mode"):
        giga.bank(again, mode="tiles", augmentations=3)
    with pytest.raises(NotFound, match="holds no features"):
        giga.bank(path, **{**OPTIONS, "features": "uni"})
    with pytest.raises(InvalidInput, match="`name` is 'b', and operators of `features` 'uni'"):
        giga.bank(path, **{**OPTIONS, "features": "uni", "name": "b"})


def test_operators_that_are_made_anew_depend_on_nothing_that_was(dozen, learnt, tmp_path, chunks):
    """Another seed chooses other slides and tiles, whatever the bank before it chose."""
    whole, other = copy_store(dozen[0], tmp_path / "whole.zarr"), copy_store(learnt, tmp_path / "other.zarr")
    few = {"calibration_tiles": 100, "seed": 3, "encoder": NAME}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gigacli.config.bank_sizes.LEAST_CALIBRATING", 10)
        giga.bank(other, redo=True, **few)
        store = giga.open(learnt)
        giga.export(learnt, f"encoders/{NAME}", to=tmp_path / f"{NAME}.safetensors")
        giga.bank(whole, **{**OPTIONS, **few, "encoder": str(tmp_path / f"{NAME}.safetensors")})
    assert store.bank(NAME).calibrates.sum() == SLIDES
    assert giga.open(whole).bank(NAME).calibrates.sum() == 10
    assert chunks(other, "banks") == chunks(whole, "banks")
    assert giga.validate(other).problems == []


def test_a_changed_calibration_slide_is_learnt_from_anew(learnt, tmp_path):
    path = copy_store(learnt, tmp_path / "cohort.zarr")
    before = giga.open(path).bank(NAME).fitted["learnt_from"]
    store = giga.open(path, write=True)
    store.tiles.write(0, store.tiles.coords(0)[:-2], None)
    done = store.bank(NAME).done()
    assert done.values[0] == NOT_DONE
    assert done.stale.tolist() == [True] + [False] * (SLIDES - 1)
    made = giga.bank(path)
    assert made.done == 1
    assert giga.open(path).bank(NAME).fitted["learnt_from"] != before


@pytest.fixture
def imported(dozen, learnt, tmp_path):
    """A store of the same features, as if another tool had made them, whose slides are known."""
    giga.export(learnt, f"features/{NAME}", to=tmp_path / "files")
    path = tmp_path / "imported.zarr"
    giga.import_features(path, tmp_path / "files", name="theirs", csv=dozen[1].cohort_csv)
    return path


def test_imported_features_have_operators_of_the_encoder_that_made_them(imported, learnt):
    weights = imported.parent / "encoder.safetensors"
    giga.export(learnt, f"encoders/{NAME}", to=weights)
    options = {**OPTIONS, "features": "theirs", "encoder": str(weights)}
    made = giga.bank(imported, **options)
    store = giga.open(imported)
    bank = store.bank("theirs")
    assert made.tiles == SLIDES * 12 * 8  # and no tile as it is
    assert made.read == SLIDES * 12
    ours = giga.open(learnt).bank(NAME)
    order = [store.slides.index[name] for name in giga.open(learnt).slides.ids]
    np.testing.assert_array_equal(bank.array("tile")[:][order], ours.array("tile")[:])
    np.testing.assert_array_equal(bank.array("vectors")[:][order], ours.array("vectors")[:])
    assert giga.validate(imported).problems == []
    giga.train(imported, aggregator="mlp", steps=2)
    again = giga.bank(imported, features="theirs")
    assert (again.done, again.read) == (0, 0)


def test_an_encoder_that_did_not_make_imported_features_is_refused(imported):
    with pytest.raises(Mismatch, match="does not make features/theirs: mean cosine"):
        giga.bank(imported, **{**OPTIONS, "features": "theirs", "seed": 5})


@pytest.mark.parametrize("kind", ["operators", "tiles"])
def test_slides_are_embedded_and_probed_as_seen_otherwise(dozen, learnt, tmp_path, kind):
    path = copy_store(learnt, tmp_path / "cohort.zarr")
    name = NAME
    if kind == "tiles":
        path, name = copy_store(dozen[0], tmp_path / "tiles.zarr"), "b"
        giga.bank(path, name=name, encoder=NAME, augmentations=3, draws=8, held_out=1, precision="fp32")
    giga.train(path, bank=name, aggregator="mlp", steps=3)
    labels = dozen[1].labels_csv
    giga.embed(path, views=2)
    gone = copy_store(path, tmp_path / "gone.zarr")
    giga.Store.open(gone, write=True).bank(name).take_back([2])
    with pytest.raises(NotFound, match=f"banks/{name} lacks 1 slides of features/{name}"):
        giga.embed(gone, model="giga", name="seen", views=2, augmented=2)
    assert not giga.open(gone).embedding("seen").found
    with pytest.raises(NotFound, match="seen under other augmentations"):
        giga.probe(path, labels, target="label", folds=2, robust=True)
    made = giga.embed(path, views=2, augmented=2, redo=True)
    assert ("trained on 1 of the 2" in made.warning) is (kind == "tiles")
    store = giga.open(path)
    for embedding in ("giga", f"mean-{name}", f"whitened-mean-{name}"):
        group = store.embedding(embedding)
        vectors, others = group.read(), group.read_augmented()
        assert group.stains == ([0, 0, 0.05, 0.2] if kind == "operators" else [0, 0])
        assert others.shape == (SLIDES, len(group.stains), vectors.shape[1])
        assert np.isfinite(others).all()  # all twelve calibrate
        assert not np.allclose(others[:, 0], vectors, atol=1e-3)
        assert all(not np.allclose(others[:, 0], other, atol=1e-3) for other in others.swapaxes(0, 1)[1:])
    if kind == "tiles":  # by hand: the last augmentation of the bank, each of its tiles once
        bank = store.bank(name)
        tile, vector = bank.array("tile")[4, 2], bank.array("vectors")[4, 2].astype(np.float64)
        _, first = np.unique(tile, return_index=True)
        mean = store.embedding(f"mean-{name}").read_augmented()[4, 0]
        np.testing.assert_allclose(mean, vector[first].mean(axis=0), rtol=1e-3, atol=1e-4)
    giga.embed(path, aggregator="view-whitened")  # leaves the baselines as they are
    assert giga.open(path).embedding(f"mean-{name}").read_augmented() is not None
    result = giga.probe(path, labels, target="label", folds=2, robust=True)
    rows = {row.embedding: row for row in result.scores}
    assert [seen.stain for seen in rows["giga"].robust] == ([0, 0.05, 0.2] if kind == "operators" else [0])
    assert all(seen.moved > 0 and 0 <= seen.found <= 1 for seen in rows["giga"].robust)
    assert rows[f"view-whitened-{name}"].robust == ()
    assert all(row.robust == () for row in giga.probe(path, labels, target="label", folds=2).scores)
    unseen = giga.Store.open(copy_store(path, tmp_path / "unseen.zarr"), write=True)
    for group in unseen.groups(Embedding):
        if group.has("augmented"):
            group.array("augmented")[:] = np.nan  # as where no slide with a label is seen otherwise
    found = giga.probe(unseen, labels, target="label", folds=2, robust=True)
    assert all(row.robust == () for row in found.scores)
    assert any("no slide with a label is seen under other augmentations" in text for text in found.warnings)
    if kind == "operators":
        with pytest.raises(InvalidInput, match="hold out 2 augmentations of stains jittered by 0; 3 are asked for"):
            giga.embed(path, views=2, augmented=3, redo=True)
    assert giga.validate(path).problems == []
    giga.Store.open(path, write=True).bank(name).discard()
    changed = (
        {"sets": 9, "mode": "operators", "calibration_tiles": 144} if kind == "operators" else {"augmentations": 2}
    )
    giga.bank(path, name=name, encoder=NAME, precision="fp32", **changed)
    assert any(f"made from banks/{name}" in why for why in giga.open(path).embedding(f"mean-{name}").stale)


def test_what_would_make_imported_features_is_found_out(imported, learnt):
    """Features of tiles whose red and blue were exchanged."""
    store, made = giga.open(imported, write=True), giga.open(learnt)
    network = resnet18_from_bytes(made.read_bytes(f"encoders/{NAME}/weights"))
    encoder = FrozenTileEncoder(network, device=pick_device("cpu"), precision="fp32")
    features = store.features("theirs")
    for row in range(SLIDES):
        slide, coords = store.slides[row], store.tiles.coords(row)
        with Slide(slide.path, mpp=slide.mpp) as opened:
            images = np.stack([opened.read(*map(int, at), tile_px=64, mpp=1.0) for at in coords])
        pixels = torch.from_numpy(images[..., ::-1].transpose(0, 3, 1, 2).copy())
        features.write(row, encoder(pixels.float() / 255).half().numpy())
    with pytest.raises(Mismatch, match="does not make features/theirs") as caught:
        giga.bank(imported, **{**OPTIONS, "features": "theirs"})
    assert "it does with red and blue exchanged (mean cosine 1.000" in caught.value.hint


def test_a_plan_prices_both_kinds_and_writes_nothing(dozen, learnt, tmp_path, chunks, monkeypatch):
    from gigacli.weights import bank_price

    monkeypatch.setattr(bank_price, "MEASURED_SECONDS", 0.05)
    path = copy_store(dozen[0], tmp_path / "cohort.zarr")
    before = chunks(path)
    counts = giga.open(path).tiles.done().counts
    found = giga.bank(path, encoder=NAME, augmentations=50, draws=256, precision="fp32", plan=True)
    assert chunks(path) == before
    assert found.tiles == counts.sum()
    distinct = 50 * sum(n * (1 - (1 - 1 / n) ** 256) for n in counts.tolist())
    assert found.tiles_encodings == pytest.approx(distinct + counts.sum(), abs=1)
    calibration = min(2000, max(360, 5 * int(counts.sum()) // 64))
    assert found.operators_encodings == 64 * calibration + counts.sum()
    assert found.rate > 0
    assert found.tiles_hours == pytest.approx(found.tiles_encodings / found.rate / 3600, rel=1e-4)
    assert found.tiles_gib > found.operators_gib > 0
    path = copy_store(learnt, tmp_path / "learnt.zarr")  # and of what is there in the other mode
    assert giga.bank(path, mode="tiles", encoder=NAME, precision="fp32", plan=True).tiles_encodings > 0


def test_operators_are_the_default_where_slides_are_enough(dozen, store_at, tmp_path):
    """Unless an option of the other mode says what is meant, or the paper is asked for."""
    store = giga.open(dozen[0])
    assert with_mode(BankConfig.of({}).following(None), store).mode == "operators"
    assert with_mode(BankConfig.of({}).following(None), giga.open(store_at("tile"))).mode == "tiles"  # eight slides
    assert BankConfig.of({"draws": 4}).following(None).mode == "tiles"
    assert BankConfig.of({"sets": 8}).following(None).mode == "operators"
    paper = BankConfig.of({"preset": "paper"}).following(None)
    assert (paper.mode, paper.augmentations, paper.draws) == ("tiles", 50, 256)
    assert BankConfig.of({}).following({**paper.recipe(), "draws": 9}).mode == "tiles"  # as it was
    with pytest.raises(InvalidInput, match="`mode` is operators, which takes no `draws`"):
        BankConfig.of({"draws": 4, "sets": 8, "mode": "operators"}).following(None)
    few = giga.bank(store_at("tile", "few.zarr"), encoder=NAME, precision="fp32", preset="default")
    assert few.notes == ["augmented tiles were encoded: operators, the default, want 10 slides with tiles"]
    assert giga.bank(store_at("tile", "asked.zarr"), encoder=NAME, augmentations=1, draws=2).notes == []
    path = copy_store(dozen[0], tmp_path / "dozen.zarr")
    made = giga.bank(path, **{k: v for k, v in OPTIONS.items() if k != "mode"})
    assert made.notes[0].startswith("on slides left out")


def test_where_operators_cannot_stand_in_it_is_said_what_to_run(dozen, tmp_path, monkeypatch):
    path = copy_store(dozen[0], tmp_path / "cohort.zarr")
    monkeypatch.setattr(operators, "BEYOND_SHIFT", 2.0)
    monkeypatch.setattr(operators, "ALL_FORESEEN", 2.0)
    with pytest.raises(Mismatch, match="too little about tissue to stand in for augmented tiles") as raised:
        giga.bank(path, **{k: v for k, v in OPTIONS.items() if k != "mode"})
    assert raised.value.hint == (
        f"encode augmented tiles instead: giga bank {path} --encoder random-resnet18 --name random-resnet18 "
        "--redo --mode tiles"
    )
    assert giga.bank(path, encoder=NAME, redo=True, mode="tiles", augmentations=1, draws=2).done == SLIDES
    assert giga.validate(path).problems == []
