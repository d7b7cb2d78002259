"""A model and an encoder leave their store as files and are used on another cohort."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn.gigassl import gigassl_cells
from gigacli.nn.tile_encoder import weights_hash
from gigacli.nn.views import TilePositions, ViewBatch, draw_rows
from gigacli.randomness import keyed_rng
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.validate import validate
from gigacli.weights.card import WeightsCard
from gigacli.weights.vector_kind import kind_of, same_kind

R18 = "random-resnet18"
TILE = {"mpp": 1.0, "tile_px": 64}
SMALL = {"augmentations": 1, "draws": 4, "precision": "fp32"}


@pytest.fixture(scope="module")
def files(chain, tmp_path_factory):
    """The model and the encoder of the trained store, and their cards."""
    folder = tmp_path_factory.mktemp("files")
    giga.export(chain("train"), "models/giga", to=folder / "giga.safetensors")
    giga.export(chain("train"), "encoders", to=folder / "tile-encoder.safetensors")
    return folder


@pytest.fixture(scope="module")
def made(cohort, files, tmp_path_factory):
    """Another cohort: half of the slides, with a bank of the exported encoder."""
    path = tmp_path_factory.mktemp("other") / "other.zarr"
    giga.tile(path, sorted(map(str, cohort.slides.glob("*.tif")))[:4], **TILE)
    giga.bank(path, encoder=str(files / "tile-encoder.safetensors"), **SMALL)
    return path


@pytest.fixture
def other(made, tmp_path):
    return shutil.copytree(made, tmp_path / "other.zarr")


@pytest.mark.slow
def test_an_encoder_keeps_its_hash(chain, made, files):
    ours, theirs = giga.open(chain("train")), giga.open(made)
    exported = theirs.bank("tile-encoder").recipe.inputs["encoder"]
    assert exported == ours.bank("random-resnet18").recipe.inputs["encoder"]
    assert theirs.read_bytes("encoders/tile-encoder/weights") == ours.read_bytes("encoders/random-resnet18/weights")


@pytest.mark.slow
def test_a_model_gives_the_same_vectors_on_another_cohort(chain, other, files):
    summary = giga.embed(other, model=str(files / "giga.safetensors"), views=5)
    assert (summary.embedding, summary.done, summary.baseline) == ("giga", 4, "mean-tile-encoder")
    ours, theirs = giga.open(chain("embed")), giga.open(other)
    rows = [ours.slides.index[id_] for id_ in theirs.slides.ids]
    np.testing.assert_allclose(
        theirs.root["embeddings/giga/vectors"][:], ours.root["embeddings/giga/vectors"][:][rows], atol=2e-3
    )  # the other store's features were made in other batches
    recipe = theirs.embedding("giga").recipe
    assert recipe.config["model"] == "giga.safetensors"
    assert recipe.config["variant"] == "giga"
    assert recipe.config["features_name"] == "tile-encoder"
    assert recipe.inputs["model"] == ours.model("giga").sha256  # that of the weights, whatever file they came in
    assert same_kind(theirs.embedding("giga"), ours.embedding("giga")) == []
    assert same_kind(theirs.embedding("mean-tile-encoder"), ours.embedding("mean-random-resnet18")) == []
    assert not validate(theirs).problems
    assert giga.embed(other, model=str(files / "giga.safetensors")).done == 0  # views as the store has them
    random = giga.embed(other, model=str(files / "giga.safetensors"), views=2, aggregator="random-init")
    assert (random.embedding, random.done) == ("random-giga", 4)
    assert kind_of(theirs.embedding("random-giga")).start == 0
    # a closed form is fitted on the slides of its own cohort
    [line] = same_kind(*(store.embedding(f"whitened-mean-{n}") for store, n in ((theirs, "tile-encoder"), (ours, R18))))
    assert line.startswith("vectors: found whitened-mean fitted on slides of its own (")


def test_the_card(chain, files):
    store = giga.open(chain("train"))
    with safe_open(files / "giga.safetensors", framework="np") as file:
        card = WeightsCard.from_metadata(file.metadata(), origin="it")
    assert (card.kind, card.variant, card.features, card.width, card.slides) == ("model", "giga", 256, 256, 8)
    assert (card.mpp, card.tile_px, card.encoder) == (1.0, 64, "random-resnet18")
    assert card.encoder_sha256 == store.bank("random-resnet18").recipe.inputs["encoder"]
    assert Recipe(**card.recipes["model"]).fingerprint == store.model("giga").recipe.fingerprint
    assert list(card.recipes) == ["bank", "encoder", "model", "tiles"]
    text = (files / "giga.md").read_text()
    for said in (card.encoder_sha256[:12], "64 px at 1 µm", "8 slides", "| lr | 0.001 |", "--model giga.safetensors"):
        assert said in text
    data = (files / "giga.safetensors").read_bytes()
    assert weights_hash(data) in text
    stored = files / "stored.safetensors"
    stored.write_bytes(store.read_bytes("models/giga/weights"))
    for name, value in load_file(stored).items():
        np.testing.assert_array_equal(load_file(files / "giga.safetensors")[name], value)
    assert "--encoder tile-encoder.safetensors" in (files / "tile-encoder.md").read_text()


def test_the_same_model_is_the_same_file(chain, files, tmp_path):
    giga.export(chain("train"), "models", to=tmp_path / "giga.safetensors")
    assert (tmp_path / "giga.safetensors").read_bytes() == (files / "giga.safetensors").read_bytes()
    with pytest.raises(InvalidInput, match="is there already"):
        giga.export(chain("train"), "models", to=tmp_path / "giga.safetensors")
    (tmp_path / "giga.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"giga\.md is there already"):
        giga.export(chain("train"), "models", to=tmp_path / "giga.safetensors")


def with_card(source, to, **changes):
    """A copy of a weights file with another card."""
    with safe_open(source, framework="np") as file:
        card = json.loads(file.metadata()["giga"])
    save_file(load_file(source), to, metadata={"giga": json.dumps({**card, **changes})})
    return str(to)


def test_what_does_not_belong_together_is_refused_naming_both(other, files, tmp_path, chunks):
    before = chunks(other)
    model = files / "giga.safetensors"
    encoder = giga.open(other).features("tile-encoder").recipe.inputs["encoder"]
    for changes, says in (
        ({"encoder_sha256": "f" * 64, "encoder": "moco"}, f"'moco' (weights {'f' * 12}).*weights {encoder[:12]}"),
        ({"encoder_sha256": ""}, "weights not known"),
        ({"mpp": 0.5}, "64 px at 0.5 µm per px.*64 px at 1 µm"),
        ({"tile_px": 224}, "224 px at 1 µm per px.*64 px"),
        ({"variant": "later"}, "'later'"),
        ({"version": "9"}, "version 9.*reads 0.1"),
        ({"kind": "encoder"}, "not of a model"),
        ({"mpp": None}, "does not say what tiles"),
        ({"features": 12}, "not those its card is about"),
    ):
        with pytest.raises(Mismatch, match=says.replace("(", r"\(").replace(")", r"\)")):
            giga.embed(other, model=with_card(model, tmp_path / "m.safetensors", **changes), views=5)
    with pytest.raises(Mismatch, match="tile encoder, not of a model"):
        giga.embed(other, model=str(files / "tile-encoder.safetensors"))
    assert chunks(other) == before


def test_hints_say_how_to_make_what_is_missing(other, files, tmp_path):
    model = files / "giga.safetensors"
    wrong = {"encoder_sha256": "f" * 64, "encoder": "moco"}
    with pytest.raises(Mismatch) as raised:
        giga.embed(other, model=with_card(model, tmp_path / "m.safetensors", **wrong))
    assert "giga export STORE encoders/moco --to moco.safetensors" in raised.value.hint
    with pytest.raises(Mismatch) as raised:
        giga.embed(other, model=with_card(model, tmp_path / "m.safetensors", **wrong, timm="vit"))
    assert "--encoder timm:vit" in raised.value.hint
    with pytest.raises(Mismatch) as raised:
        giga.embed(other, model=with_card(model, tmp_path / "m.safetensors", encoder_sha256="", encoder="uni"))
    assert "features of 'uni' are needed here" in raised.value.hint


def test_files_that_are_no_models(other, tmp_path):
    (tmp_path / "text.safetensors").write_text("x")
    with pytest.raises(Mismatch, match="not a safetensors file"):
        giga.embed(other, model=str(tmp_path / "text.safetensors"))
    save_file({"a": np.ones(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(Mismatch, match="does not say what it was made from"):
        giga.embed(other, model=str(tmp_path / "bare.safetensors"))
    save_file({"a": np.ones(1)}, tmp_path / "poor.safetensors", metadata={"giga": '{"version": "0.1"}'})
    with pytest.raises(Mismatch, match="its card lacks"):
        giga.embed(other, model=str(tmp_path / "poor.safetensors"))
    with pytest.raises(NotFound, match=r"gone\.safetensors"):
        giga.embed(other, model="gone.safetensors")


def more_features(path, source, name, encoder=None):
    """Other features of the same tiles, by the same tile encoder or by another."""
    shutil.copytree(path / "features" / source, path / "features" / name)
    if encoder is not None:
        group = Store.open(path, write=True).root[f"features/{name}"]
        found = group.attrs["giga"]
        recipe = {**found["recipe"], "inputs": {**found["recipe"]["inputs"], "encoder": encoder}}
        group.attrs["giga"] = {**found, "recipe": recipe}


def test_features_are_named_where_several_fit(other, files):
    more_features(other, "tile-encoder", "again")
    model = str(files / "giga.safetensors")
    with pytest.raises(InvalidInput, match=r"several features .*again, tile-encoder"):
        giga.embed(other, model=model, views=2)
    summary = giga.embed(other, model=model, views=2, features="again")
    assert summary.baseline == "mean-again"
    more_features(other, "tile-encoder", "third", encoder="a" * 64)
    with pytest.raises(Mismatch, match="features 'third'"):
        giga.embed(other, model=model, views=2, features="third", name="x")
    with pytest.raises(NotFound, match="nobody"):
        giga.embed(other, model=model, features="nobody", name="x")
    assert giga.embed(other, aggregator="mean", features="third").embedding == "mean-third"


def test_features_of_its_own_store_can_be_named_too(store_at):
    path = store_at("train")
    more_features(path, "random-resnet18", "again")
    assert giga.embed(path, views=2, features="again").baseline == "mean-again"
    store = giga.open(path)
    assert store.embedding("giga").recipe.config["features_name"] == "again"
    assert not validate(store).problems
    more_features(path, "random-resnet18", "third", encoder="a" * 64)
    with pytest.raises(Mismatch, match="features 'third'"):
        giga.embed(path, views=2, features="third", name="x")


def test_weights_that_cannot_leave(store_at, tmp_path):
    path = store_at("train")
    store = Store.open(path, write=True)
    store.root["models/giga/done"][...] = -1
    with pytest.raises(NotFound, match="not finished"):
        giga.export(path, "models", to=tmp_path / "m.safetensors")
    store.root["models/giga/done"][...] = 1
    group = store.root["encoders/random-resnet18"]
    before, recipe = group.attrs["giga"], store.encoder("random-resnet18").recipe
    group.attrs["giga"] = {**before, "recipe": {**vars(recipe), "config": {**recipe.config, "timm": "vit_tiny"}}}
    with pytest.raises(NotFound, match="which others publish") as raised:
        giga.export(path, "encoders", to=tmp_path / "e.safetensors")
    assert "timm:vit_tiny" in raised.value.hint
    group = store.root["banks/random-resnet18"]
    before, recipe = group.attrs["giga"], store.bank("random-resnet18").recipe
    group.attrs["giga"] = {**before, "recipe": {**vars(recipe), "config": {**recipe.config, "seed": 9}}}
    with pytest.raises(Mismatch, match="another bank"):
        giga.export(path, "models", to=tmp_path / "m.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["cohort.zarr"]


def test_a_checkpoint_of_the_authors(store_at, tmp_path, authors_checkpoint):
    path = store_at("bank")
    file, encoder = authors_checkpoint(tmp_path / "checkpoint.pth")
    summary = giga.embed(path, model=str(file), views=3)
    assert (summary.embedding, summary.done, summary.width) == ("checkpoint", 8, 512)
    for said in ("256 values", "224 px at 10x", "'random-resnet18'", "64 px at 1 µm"):
        assert said in summary.warning
    store = giga.open(path)
    recipe = store.embedding("checkpoint").recipe
    assert {k: recipe.config[k] for k in ("model", "variant", "tiles", "cell_px")} == {
        "model": "checkpoint.pth",
        "variant": "gigassl",
        "tiles": 5,
        "cell_px": 56.0,
    }
    assert recipe.inputs["model"] == weights_hash(file.read_bytes())
    assert not validate(store).problems
    # One slide by hand: level-0 px of a 40x scan, divided by 224 as in their training.
    row = 2
    n = int(store.root["tiles/count"][row])
    edge_px = 64 / store.slides[row].mpp
    positions = TilePositions([(store.root["tiles/coords"][row, :n], edge_px)])
    tiles = draw_rows(keyed_rng(0, "embed", store.slides[row].id), np.full(3, n), 5)
    at_40x = positions(np.zeros(3, dtype=np.int64), tiles) * 64 * 4
    features = store.root["features/random-resnet18/vectors"][row, :n][tiles].astype(np.float32)
    with torch.inference_mode():
        views = encoder.eval()(ViewBatch(torch.from_numpy(features), torch.from_numpy(gigassl_cells(at_40x))))
    mean = views.mean(dim=0)
    np.testing.assert_allclose(store.root["embeddings/checkpoint/vectors"][row], mean / mean.norm(), atol=1e-5)
    with pytest.raises(InvalidInput, match="what its slide encoder started from"):
        giga.embed(path, model=str(file), aggregator="random-init")


def test_a_checkpoint_of_the_authors_wants_their_features(store_at, tmp_path, authors_checkpoint, chunks):
    path = store_at("bank")
    file, _ = authors_checkpoint(tmp_path / "check point.pth", 8, 16)
    before = chunks(path)
    with pytest.raises(Mismatch, match=r"takes 8 values per tile; .*'random-resnet18' with 256"):
        giga.embed(path, model=str(file), name="x")
    with pytest.raises(InvalidInput, match="does not make a name"):
        giga.embed(path, model=str(file))
    assert chunks(path) == before


def test_info_names_the_file_of_an_unfinished_embedding(other, files):
    giga.embed(other, model=str(files / "giga.safetensors"), views=2)
    store = Store.open(other, write=True)
    store.root["embeddings/giga/done"][1] = -1
    from gigacli.store.info import info

    assert re.search(r"giga embed \S+ --model giga\.safetensors --name giga", info(other).next)
