"""giga embed: one vector per slide."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn.giga import GigaSSL
from gigacli.nn.views import TilePositions, draw_rows, make_views
from gigacli.randomness import keyed_rng
from gigacli.stages import embed as embed_stage
from gigacli.store import slide_group
from gigacli.store import tiles as tiles_of_store
from gigacli.store.groups import Embedding
from gigacli.store.validate import validate
from gigacli.weights.joined import split_weights
from gigacli.weights.slide_tiles import tiles_of_slides
from tests.conftest import BANK, EMBED, TRAIN, copy_store


def test_a_vector_is_the_mean_of_its_views_at_unit_length(chain):
    store = giga.open(chain("embed"))
    vectors = store.root["embeddings/giga/vectors"][:]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    method = GigaSSL(256, temperature=1.0, seed=0, standardise=True, whiten=True, aggregator="transformer")
    method.load_state_dict(load_safetensors(store.read_bytes("models/giga/weights")))
    row = 3
    n = int(store.root["tiles/count"][row])
    features = store.root["features/random-resnet18/vectors"][row, :n]
    positions = TilePositions([(store.root["tiles/coords"][row, :n], 64 / store.slides[row].mpp)])
    tiles = draw_rows(keyed_rng(0, "embed", store.slides[row].id), np.full(5, n), 5)  # (views, t)
    with torch.inference_mode():
        views = [
            method.eval().vectors(
                make_views(
                    features[t][None], positions(np.array([0]), t[None]), augmentation=None, device=torch.device("cpu")
                )
            )
            for t in tiles
        ]
    mean = torch.cat(views).mean(dim=0)
    np.testing.assert_allclose(vectors[row], (mean / mean.norm()).numpy(), atol=1e-5)


def test_the_mean_of_tiles_is_written_beside_it(chain):
    store = giga.open(chain("embed"))
    assert store.names(Embedding) == ["giga", "mean-random-resnet18", "whitened-mean-random-resnet18"]
    n = int(store.root["tiles/count"][1])
    expected = store.root["features/random-resnet18/vectors"][1, :n].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(store.root["embeddings/mean-random-resnet18/vectors"][1], expected, rtol=1e-5)


def test_the_recipe_names_model_features_views_and_seed(chain):
    store = giga.open(chain("embed"))
    recipe = store.embedding("giga").recipe
    named = {key: recipe.config[key] for key in ("model", "features_name", "views", "tiles", "seed")}
    assert named == {"model": "giga", "features_name": "random-resnet18", "views": 5, "tiles": 5, "seed": 0}
    features, model = store.features("random-resnet18"), store.model("giga")
    assert recipe.inputs == {"features": features.fingerprint, "model": hashlib.sha256(model.weights()).hexdigest()}


def test_same_command_same_bytes(store_at, chunks):
    path = store_at("embed")
    before = chunks(path, "embeddings")
    assert giga.embed(path, views=5).done == 0
    assert giga.embed(path, views=5, redo=True).done == 8
    assert chunks(path, "embeddings") == before


def test_vectors_do_not_depend_on_the_slides_beside_them(chain, store_at, monkeypatch):
    monkeypatch.setattr(embed_stage, "BLOCK", 3)
    path = store_at("train")
    giga.embed(path, **EMBED)
    for name in ("giga", "mean-random-resnet18"):
        ours, theirs = (giga.open(p).root[f"embeddings/{name}/vectors"][:] for p in (path, chain("embed")))
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_half_precision_gives_the_same_vectors_whatever_is_embedded_with_them(store_at, chain, monkeypatch):
    path, vectors = store_at("train"), []
    for block in (128, 3):
        monkeypatch.setattr(embed_stage, "BLOCK", block)
        giga.embed(path, views=5, precision="bf16", name=f"half-{block}")
        vectors.append(giga.open(path).embedding(f"half-{block}").read())
    np.testing.assert_array_equal(*vectors)
    cosines = (vectors[0] * giga.open(chain("embed")).embedding("giga").read()).sum(axis=1)
    assert 0.9999 < cosines.min() < cosines.max() < 1  # and they are not of fp32
    assert giga.open(path).embedding("half-3").config["precision"] == "bf16"


def test_what_is_added_to_vectors_of_fp32_is_of_fp32(store_at):
    path = store_at("embed")
    assert "precision" not in giga.open(path).embedding("giga").config  # as in stores made before there was a choice
    giga.Store.open(path, write=True).embedding("giga").take_back([2])
    assert giga.embed(path).done == 1
    with pytest.raises(Mismatch, match="precision"):
        giga.embed(path, precision="bf16")


def test_how_many_tiles_slides_have_is_not_asked_for_every_block(store_at, monkeypatch):
    read, times, path = [], [], store_at("train")
    for module in (tiles_of_store, slide_group):
        real = module.read_column
        monkeypatch.setattr(
            module, "read_column", lambda array, *n, real=real: read.append(array.path) or real(array, *n)
        )
    for block in (8, 1):
        read.clear()
        monkeypatch.setattr(embed_stage, "BLOCK", block)
        giga.embed(path, views=5, redo=True)
        times.append(read.count("tiles/count"))
    assert times[0] == times[1]


def test_random_init_is_another_embedding(store_at):
    path = store_at("embed")
    summary = giga.embed(path, views=5, aggregator="random-init")
    assert summary.embedding == "random-giga"
    store = giga.open(path)
    ours, trained = (store.root[f"embeddings/{n}/vectors"][:] for n in ("random-giga", "giga"))
    assert np.abs(ours - trained).max() > 0.01


def test_the_mean_needs_no_model(store_at):
    summary = giga.embed(store_at("bank"), aggregator="mean", name="average")
    assert (summary.embedding, summary.done, summary.width) == ("average", 8, 256)


def test_a_slide_without_tiles_has_no_vector(store_at):
    path = store_at("bank")
    store = giga.Store.open(path, write=True)
    store.tiles.write(4, np.empty((0, 2), dtype=np.int32), None)
    store.features("random-resnet18").write(4, None)
    store.bank("random-resnet18").write_empty(4)
    assert giga.train(path, **TRAIN).slides == 7
    summary = giga.embed(path, views=2)
    assert (summary.done, summary.without_tiles) == (7, 1)
    assert np.isnan(store.root["embeddings/giga/vectors"][4]).all()
    assert store.embedding("giga").done().values[4] == 0


def test_refusals(store_at, chunks):
    with pytest.raises(NotFound, match="no models") as raised:
        giga.embed(store_at("bank"))
    assert "giga train" in raised.value.hint
    path = store_at("embed", "b.zarr")
    before = chunks(path)
    with pytest.raises(Mismatch, match="views: 5 here, 6 asked for"):
        giga.embed(path, views=6)
    with pytest.raises(NotFound, match="nobody"):
        giga.embed(path, model="nobody")
    with pytest.raises(InvalidInput, match="`views` is 0"):
        giga.embed(path, views=0)
    assert chunks(path) == before
    giga.bank(path, encoder="random-resnet18", augmentations=1, draws=4, redo=True)
    with pytest.raises(Mismatch, match="another bank"):
        giga.embed(path, views=5, redo=True)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# ---------------------------------------------------------------------- closed forms

WIDTHS = {"whitened-mean": 256, "mean-std": 512, "view-whitened": 512, "gmm": 16 * 513, "arrangement": 257}


@pytest.mark.parametrize("form", WIDTHS)
def test_a_closed_form_is_an_embedding_of_its_own(store_at, form):
    path = store_at("bank")
    summary = giga.embed(path, aggregator=form)
    store = giga.open(path)
    group = store.embedding(f"{form}-random-resnet18")
    assert (summary.embedding, summary.width, summary.slides) == (group.name, WIDTHS[form], 8)
    assert np.isfinite(group.read()).all()
    assert (group.config["aggregator"], group.config["features_name"]) == (form, "random-resnet18")
    assert {"mean-random-resnet18", "whitened-mean-random-resnet18"} <= set(store.names(Embedding))
    assert validate(path).problems == []
    before = group.read()
    assert giga.embed(path, aggregator=form).done == 0
    assert giga.embed(path, aggregator=form, redo=True).done == 8
    np.testing.assert_array_equal(giga.open(path).embedding(group.name).read(), before)


def test_the_whitened_mean_is_what_its_formula_says(chain):
    """Standardise by all tiles, whiten by how augmentations of a tile differ; mean over tiles, centred, at length 1."""
    store = giga.open(chain("embed"))
    features, bank = store.features("random-resnet18"), store.bank("random-resnet18")
    tiles = [features.read(row).astype(np.float64) for row in range(8)]
    every = np.concatenate(tiles)
    mean, sd = every.mean(axis=0), every.std(axis=0) + 1e-3
    total, rows = np.zeros((256, 256)), 0
    for row in range(8):
        drawn, vectors = bank.array("tile")[row], (bank.array("vectors")[row].astype(np.float64) - mean) / sd
        for tile in np.unique(drawn[0])[:32]:
            copies = vectors[drawn == tile]
            spread = copies - copies.mean(axis=0)
            total, rows = total + spread.T @ spread, rows + len(copies)
    noise = total / rows
    values, directions = np.linalg.eigh(noise + np.trace(noise) / 256 * np.eye(256))
    root = (directions / np.sqrt(values)) @ directions.T
    some = [t[np.unique(np.linspace(0, len(t) - 1, min(len(t), 64)).astype(int))] for t in tiles]
    scale = np.sqrt(np.square((np.concatenate(some) - mean) / sd @ root).mean())
    means = np.stack([((t - mean) / sd @ root).mean(axis=0) for t in tiles]) / scale
    centred = unit(means - means.mean(axis=0))
    wanted = unit(centred - centred.mean(axis=0))
    np.testing.assert_allclose(store.embedding("whitened-mean-random-resnet18").read(), wanted, atol=1e-4)


def test_slides_that_come_later_are_seen_as_the_first_were(store_at):
    """What was learnt is kept, and not learnt anew from more slides: old vectors stay, new ones are comparable."""
    path = store_at("tile")
    giga.bank(path, **BANK, shard="1/2")
    giga.embed(path, aggregator="view-whitened")
    group = giga.open(path).embedding("view-whitened-random-resnet18")
    before, state = group.read(), group.state
    giga.bank(path, **BANK, shard="2/2")
    assert giga.embed(path, aggregator="view-whitened").done == 4
    after = giga.open(path).embedding(group.name)
    assert after.state == state
    np.testing.assert_array_equal(after.read()[::2], before[::2])
    assert np.isfinite(after.read()).all()


def test_closed_forms_without_a_bank(store_at):
    """As of features that were imported: tiles stand for themselves."""
    path = store_at("bank")
    giga.open(path, write=True).bank("random-resnet18").discard()
    for form, width in WIDTHS.items():
        assert giga.embed(path, aggregator=form).width == width
    assert giga.open(path).embedding("gmm-random-resnet18").recipe.inputs.keys() == {"features"}
    assert validate(path).problems == []


# ---------------------------------------------------------------------- joined


@pytest.fixture(scope="module")
def joined_store(chain, tmp_path_factory):
    """A store with a model that keeps a closed form, and its embedding."""
    path = copy_store(chain("bank"), tmp_path_factory.mktemp("joined") / "cohort.zarr")
    giga.train(path, epochs=3, batch_size=4)
    giga.embed(path, views=50)
    return path


def test_the_default_vector_joins_encoder_and_closed_form(joined_store, tmp_path):
    """Each block centred over the slides trained on and at length 1, side by side; centred, at length 1."""
    path = copy_store(joined_store, tmp_path / "cohort.zarr")
    giga.embed(path, views=50, closed_form=False, name="alone")
    store = giga.open(path)
    kept = split_weights(load_safetensors(store.model("giga").weights()))[1]
    slides = tiles_of_slides(store.features("random-resnet18"), np.arange(8), augmented=False)
    blocks = [store.embedding("alone").read(), np.stack([kept.form.transform(slide) for slide in slides])]
    both = np.concatenate([unit(rows - rows.mean(axis=0)) for rows in blocks], axis=1)
    wanted = unit(both - both.mean(axis=0))
    embedding = store.embedding("giga")
    np.testing.assert_allclose(embedding.read(), wanted, atol=1e-5)
    assert embedding.config["blocks"] == {"encoder": [0, 256], "view-whitened": [256, 768]}
    assert validate(path).problems == []


def test_what_joins_goes_with_the_model(joined_store, chain, tmp_path):
    giga.export(joined_store, "models/giga", to=tmp_path / "m.safetensors")
    other = copy_store(chain("bank"), tmp_path / "other.zarr")
    assert giga.embed(other, model=str(tmp_path / "m.safetensors"), views=50).width == 768
    here, there = (giga.open(path).embedding(name).read() for path, name in ((joined_store, "giga"), (other, "m")))
    np.testing.assert_array_equal(here, there)


def test_the_paper_joins_nothing(store_at):
    path = store_at("bank")
    giga.train(path, preset="paper", epochs=2, aggregator="mlp")
    assert giga.embed(path, views=2).width == 512
    assert "blocks" not in giga.open(path).embedding("giga").config
    assert not any(name.startswith("joined.") for name in load_safetensors(giga.open(path).model("giga").weights()))


def test_the_tiles_of_a_joined_vector_are_told_apart(joined_store, cohort, tmp_path):
    slide = giga.open(joined_store).slides.ids[0]
    summary = giga.tile_map(joined_store, slide, cohort.labels_csv, target="label", out=tmp_path, views=20)
    assert summary.similarity > 0.8
    assert summary.views > 0


def test_a_redo_joins_where_the_model_now_can(store_at):
    """What a model had nothing to join with is no choice of the user's, and is not followed."""
    path = store_at("embed")
    assert "blocks" not in giga.open(path).embedding("giga").config
    giga.train(path, epochs=3, batch_size=4, join=True, redo=True)
    assert giga.embed(path, redo=True).width == 768
    giga.embed(path, closed_form=False, redo=True)
    assert giga.embed(path, redo=True).width == 256  # said once, kept


def test_a_rival_that_cannot_be_made_is_said_and_stands_in_no_ones_way(store_at):
    """One tile a slide and no bank: tiles of a slide do not differ, so there is nothing to even out."""
    path = store_at("train")
    store, said = giga.open(path, write=True), []
    store.bank("random-resnet18").discard()
    store.model("giga").discard()
    for row in range(8):
        store.tiles.write(row, store.tiles.coords(row)[:1], None)
        store.features("random-resnet18").write(row, np.full((1, 256), row, dtype=np.float16))
    progress = SimpleNamespace(say=said.append, start=lambda *_, **__: None, advance=lambda *_, **__: None)
    giga.embed(path, aggregator="mean")
    with pytest.raises(InvalidInput, match="nothing to even out"):
        giga.embed(path, aggregator="mean-std", progress=progress)
    assert any("whitened-mean-random-resnet18 cannot be made, and is no rival" in text for text in said)
