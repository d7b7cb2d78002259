"""giga train: Giga-SSL on a bank."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

import gigacli as giga
from gigacli.config import training
from gigacli.config.verbs import TrainConfig
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn import loop
from tests.conftest import copy_store
from tests.helpers import Recorder, launch

SPEC = Path(__file__).parents[2] / "spec"
OPTIONS = {"epochs": 3, "batch_size": 4, "join": False}
SMALL = {"aggregator": "mlp", "join": False}
"""A network of two layers, where it is not the network that counts."""


def weights(path, model="giga"):
    return giga.open(path).model(model).weights()


def test_a_model_with_its_history_and_the_slides_it_saw(chain):
    store = giga.open(chain("train"))
    model = store.model("giga")
    assert model.complete
    assert model.seen().all()
    assert np.isfinite(model.history("loss")).all()
    assert model.history("loss").shape == (3,)
    state = load_safetensors(model.weights())
    assert any(name.startswith("encoder.") for name in state)
    assert any(name.startswith("projector.") for name in state)
    assert model.recipe.inputs == {"bank": store.bank("random-resnet18").fingerprint}


@pytest.mark.slow
def test_starts_from_layer4_of_the_tile_encoder(store_at):
    path = store_at("bank")
    summary = giga.train(path, epochs=1, lr=1e-12, aggregator="sparse-resnet")
    assert summary.initial_weights == "layer4 of encoder 'random-resnet18'"
    store = giga.open(path)
    born = load_safetensors(store.encoder("random-resnet18").weights())["layer4.1.conv2.weight"]
    here = load_safetensors(weights(path))
    kernels = [v for k, v in here.items() if v.shape == (9, 512, 512)]
    expected = born.transpose(2, 3, 1, 0).reshape(9, 512, 512)
    assert any(np.allclose(kernel, expected, atol=1e-6) for kernel in kernels)


def test_one_seed_one_model(chain, store_at):
    path = store_at("bank")
    giga.train(path, **OPTIONS)
    assert weights(path) == weights(chain("train"))
    giga.train(path, **OPTIONS, name="other", seed=1)
    assert weights(path, "other") != weights(path)


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(chain, store_at, monkeypatch):
    path = store_at("bank")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", math.inf)

    def stop_at_second(recorder):
        if sum(steps for steps, _ in recorder.advanced) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        giga.train(path, **OPTIONS, progress=Recorder(stop_at_second))
    assert not giga.open(path).model("giga").complete
    with pytest.raises(NotFound, match="not finished"):
        giga.embed(path)
    summary = giga.train(path, **OPTIONS)
    assert summary.resumed_at == 1
    assert weights(path) == weights(chain("train"))
    ours, theirs = (giga.open(p).model("giga").history("loss") for p in (path, chain("train")))
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.slow
def test_learns_to_tell_slides_apart(store_at):
    path = store_at("bank")
    giga.train(path, epochs=120, batch_size=8, seed=3)
    loss = giga.open(path).model("giga").history("loss")
    assert loss[-20:].mean() < loss[:20].mean() - 0.2


@pytest.mark.slow
def test_slide_augmentation_can_be_left_out(store_at):
    path = store_at("bank")
    giga.train(path, **OPTIONS)
    giga.train(path, **OPTIONS, slide_aug=False, name="flat")
    assert weights(path) != weights(path, "flat")


@pytest.mark.slow
def test_whitening_is_kept_with_the_weights_and_used_by_every_vector(store_at):
    path = store_at("bank")
    giga.train(path, **OPTIONS)
    opened, state = giga.open(path), load_safetensors(weights(path))
    features = opened.features("random-resnet18")
    every = np.concatenate([features.read(row) for row in range(len(opened.slides))]).astype(np.float64)
    np.testing.assert_allclose(state["feature_mean"], every.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state["feature_sd"], every.std(0) + 1e-3, rtol=1e-5)
    bank = opened.bank("random-resnet18").array("vectors")[:].astype(np.float64)  # (slide, a, d, c)
    bank = (bank - every.mean(0)) / (every.std(0) + 1e-3)
    spread = (bank - bank.mean(axis=(1, 2), keepdims=True)).reshape(-1, 256)
    covariance = spread.T @ spread / len(spread)
    wanted = covariance + np.trace(covariance) / 256 * np.eye(256)
    whitened = state["whitening"] @ wanted @ state["whitening"]  # one number times the identity
    np.testing.assert_allclose(whitened / whitened[0, 0], np.eye(256), atol=1e-4)
    inside = (every - every.mean(0)) / (every.std(0) + 1e-3) @ state["whitening"]
    assert np.sqrt(np.square(inside).mean()) == pytest.approx(1, rel=1e-3)
    giga.embed(path, views=2)
    giga.embed(path, views=2, aggregator="random-init")
    vectors = [giga.open(path).embedding(name).array("vectors")[:] for name in ("giga", "random-giga")]
    store = giga.Store.open(path, write=True)
    state = load_safetensors(store.model("giga").weights())
    store.write_bytes("models/giga/weights", save_safetensors({**state, "whitening": np.eye(256, dtype=np.float32)}))
    giga.embed(path, views=2, redo=True)
    giga.embed(path, views=2, aggregator="random-init", redo=True)
    for name, before in zip(("giga", "random-giga"), vectors, strict=True):
        assert np.abs(giga.open(path).embedding(name).array("vectors")[:] - before).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, {"feature_mean", "feature_sd", "whitening"}),
        ({"whitening": "augmentations"}, {"feature_mean", "feature_sd", "whitening"}),
        ({"whiten": False}, {"feature_mean", "feature_sd"}),
        ({"standardise": False}, {"whitening"}),
        ({"preset": "paper"}, set()),
    ],
)
def test_what_features_are_brought_into_is_kept_with_the_weights(store_at, options, kept):
    path = store_at("bank")
    giga.train(path, epochs=1, batch_size=4, **SMALL, **options)
    names = {"feature_mean", "feature_sd", "whitening"}
    assert names & load_safetensors(weights(path)).keys() == kept
    assert giga.train(path, epochs=1, batch_size=4, **SMALL, **options).skipped == 1


def test_the_two_kinds_of_whitening_differ_and_nothing_is_whitened_twice(store_at):
    path = store_at("bank")
    for kind in ("slides", "augmentations"):
        giga.train(path, epochs=1, batch_size=4, **SMALL, whitening=kind, name=kind)
    one, other = (load_safetensors(weights(path, kind))["whitening"] for kind in ("slides", "augmentations"))
    assert np.abs(one - other).max() > 1e-3
    with pytest.raises(InvalidInput, match="nothing is whitened"):
        giga.train(path, whiten=False, whitening="augmentations")
    with pytest.raises(InvalidInput, match="nothing is whitened"):
        giga.train(path, preset="paper", whitening="slides")
    assert giga.train(path, epochs=1, **SMALL, whiten=False, name="augmentations", redo=True).done == 1


def test_a_bank_without_its_plain_features_says_how_to_go_on(store_at):
    path = store_at("bank")
    giga.Store.open(path, write=True).features("random-resnet18").take_back([3])
    with pytest.raises(NotFound, match="lacks un-augmented features") as caught:
        giga.train(path, epochs=1, **SMALL)
    assert "`standardise=False` and `join=False`" in caught.value.hint
    assert giga.train(path, epochs=1, **SMALL, standardise=False).done == 1


def test_health_is_in_the_history_of_the_store_and_said(chain, store_at):
    model = giga.open(chain("train")).model("giga")
    names = {"loss", "chance", "lr", "gradient_norm", "alignment", "uniformity", "rank", "per_second", "waiting"}
    last = {"found", "moved"}
    assert model.histories().keys() == names | last
    for name in last:
        assert np.isfinite(model.history(name)).tolist() == [False, False, True]
    history = {name: model.history(name) for name in names}
    assert all(np.isfinite(values).all() for values in history.values())
    np.testing.assert_allclose(history["chance"], np.log(2 * 4 - 1), rtol=1e-6)  # batches of four slides
    assert (history["rank"] > 1).all()
    assert ((history["waiting"] >= 0) & (history["waiting"] < 1)).all()
    for name in names | last:
        assert f"`{name}`" in (SPEC / "store-0.2.md").read_text(), name


def test_what_a_bank_holds_out_is_never_seen(store_at):
    """The model of a larger bank that holds out an augmentation is that of the bank without."""
    without = store_at("bank")
    path = copy_store(without, without.with_name("more.zarr"))
    giga.bank(path, augmentations=4, held_out=1)
    for one in (without, path):
        giga.train(one, epochs=2, aggregator="mlp")
    assert weights(path) == weights(without)


def test_a_model_that_learns_nothing_says_so_in_words(store_at):
    path, heard = store_at("bank"), Recorder()
    summary = giga.train(path, epochs=12, batch_size=8, lr=1e-12, temperature=50.0, progress=heard)
    assert "nothing has been learnt" in summary.warning
    assert len([line for line in heard.said if "nothing has been learnt" in line]) == 1
    _, note = heard.advanced[-1]
    assert "rank" in note
    assert "loss" in note


@pytest.mark.parametrize("aggregator", ["mlp", "transformer"])
def test_encoders_side_by_side_are_those_of_each_seed_alone(store_at, aggregator):
    path, alone = store_at("bank"), {}
    options = {"aggregator": aggregator, "epochs": 3, "batch_size": 8, "precision": "fp32"}
    for seed in (4, 5):
        giga.train(path, name=f"alone{seed}", seed=seed, join=False, **options)
        alone[seed] = load_safetensors(weights(path, f"alone{seed}"))
    made = giga.train(path, name="both", seed=4, seeds=2, **options)
    both = load_safetensors(weights(path, "both"))
    for name, value in alone[4].items():
        assert np.array_equal(both[name], value)
    for name, value in alone[5].items():
        if name.startswith(("encoder.", "projector.")):
            assert np.array_equal(both[f"twins.0.{name}"], value)
    losses = [giga.open(path).model(f"alone{seed}").history("loss") for seed in (4, 5)]
    assert made.loss == pytest.approx(np.mean([loss[-1] for loss in losses]), rel=1e-6)
    assert made.chance == pytest.approx(giga.open(path).model("alone4").history("chance")[-1])

    for name in ("alone4", "alone5", "both"):
        giga.embed(path, model=name, views=3, seed=1, closed_form=False)
    first, second, together = (giga.open(path).embedding(name).read() for name in ("alone4", "alone5", "both"))
    width = first.shape[1]
    assert together.shape[1] == 2 * width
    for mine, theirs in ((together[:, :width], first), (together[:, width:], second)):
        theirs = theirs[there := np.isfinite(theirs[:, 0])]
        mine = mine[there] / np.linalg.norm(mine[there], axis=1, keepdims=True)
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    giga.embed(path, model="both", name="joined", views=3)
    blocks = giga.open(path).embedding("joined").config["blocks"]
    assert blocks["encoder"] == [0, 2 * width]
    giga.embed(path, model="both", name="born", views=3, aggregator="random-init")
    assert giga.open(path).embedding("born").read().shape == together.shape
    assert giga.validate(path).problems == []


def test_small_cohorts_train_for_enough_steps():
    sparse = TrainConfig(aggregator="sparse-resnet")
    assert sparse.epochs_for(12_032, 47) == 1000
    assert sparse.epochs_for(512, 2) == 1000
    assert sparse.epochs_for(257, 2) == 600  # no jump where a second batch begins
    assert sparse.epochs_for(256, 1) == 1200  # a batch or less
    assert TrainConfig(epochs=3).epochs_for(256, 1) == 3
    transformer = TrainConfig()
    assert transformer.epochs_for(237, 2) == 300
    assert transformer.epochs_for(1280, 10) == 300


def test_steps_are_passes_in_other_words(store_at):
    path = store_at("bank")
    summary = giga.train(path, steps=5, batch_size=4, **SMALL)  # 8 slides: two steps a pass
    assert (summary.epochs, summary.steps) == (3, 6)
    assert giga.train(path, steps=5, batch_size=4, **SMALL).skipped == 1
    assert giga.train(path, epochs=3, batch_size=4, **SMALL).skipped == 1
    with pytest.raises(Mismatch, match="epochs: 3 here, 4 asked for"):
        giga.train(path, steps=7, batch_size=4, **SMALL)
    with pytest.raises(InvalidInput, match="`steps` 5 and `epochs` 3 say the same"):
        giga.train(path, steps=5, epochs=3)
    assert TrainConfig.of({"preset": "paper", "steps": 12}).epochs_for(8, 2) == 6


def test_another_aggregator_does_not_follow_the_length_of_the_first():
    earlier = {
        **TrainConfig().settings(8, 1),
        "aggregator": "transformer",
        "batch_size": 128,
        "epochs": 600,
        "tiles": 9,
    }
    other = TrainConfig.of({"aggregator": "mlp"}).following(earlier)
    assert (other.epochs_for(300, 2), other.regime.batch_size, other.tiles) == (600, 256, None)
    same = TrainConfig.of({"lr": 1e-3}).following({**earlier, "epochs": 77})
    assert (same.epochs_for(300, 3), same.regime.batch_size, same.tiles) == (77, 128, 9)


def test_slides_of_many_tiles_are_seen_by_larger_views(store_at, monkeypatch):
    regime = TrainConfig().regime
    assert [regime.tiles_of_view(n) for n in (34, 99.5, 100, 1000)] == [5, 5, 25, 25]
    assert TrainConfig(aggregator="sparse-resnet").regime.tiles_of_view(1000) == 5
    path = store_at("bank")
    monkeypatch.setattr(training, "MANY_TILES", 1)
    giga.train(path, epochs=1, join=False)
    assert giga.open(path).model("giga").config["tiles"] == 25
    with pytest.raises(Mismatch, match="tiles: 25 here, 9 asked for"):
        giga.train(path, epochs=1, join=False, tiles=9)
    assert giga.train(path, epochs=1, join=False, redo=True, aggregator="mlp").done == 1
    assert giga.open(path).model("giga").config["tiles"] == 5


def test_options_of_the_sparse_cnn_ask_for_it():
    assert TrainConfig.of({"stride": 1}).aggregator == "sparse-resnet"
    assert TrainConfig.of({"stride": 2}).aggregator == "transformer"
    assert TrainConfig.of({"preset": "paper"}).aggregator == "sparse-resnet"


@pytest.mark.slow
def test_a_transformer_is_trained_its_own_way_resumed_and_embedded(store_at, tmp_path, monkeypatch):
    options = {"aggregator": "transformer", "epochs": 3, "precision": "fp32", "join": False}
    path, other = store_at("bank"), store_at("bank", "two.zarr")
    giga.train(path, **options)
    config = giga.open(path).model("giga").config
    assert (config["batch_size"], config["weight_decay"], config["log_scale"]) == (128, 1e-6, 0.3)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", math.inf)

    def stop_at_second(recorder):
        if sum(steps for steps, _ in recorder.advanced) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        giga.train(other, **options, progress=Recorder(stop_at_second))
    assert giga.train(other, **options).resumed_at == 1
    assert weights(other) == weights(path)
    assert giga.embed(path, views=3).width == 256
    giga.export(path, "models/giga", to=tmp_path / "slide.safetensors")
    giga.embed(path, model=str(tmp_path / "slide.safetensors"), views=3)
    vectors = [giga.open(path).embedding(name).array("vectors")[:] for name in ("giga", "slide")]
    np.testing.assert_array_equal(*vectors)
    assert giga.validate(path).problems == []


def test_the_papers_settings_are_a_preset_and_what_is_given_wins(store_at):
    config = TrainConfig.of({"preset": "paper", "lr": 0.01})
    assert (config.temperature, config.epochs, config.tiles, config.lr) == (0.05, 1000, 5, 0.01)
    path = store_at("bank")
    giga.train(path, epochs=1, **SMALL)
    with pytest.raises(Mismatch, match=r"temperature: 0.2 here, 0.05 asked for"):
        giga.train(path, preset="paper", **SMALL)
    assert giga.train(path, epochs=1, preset="paper", **SMALL, redo=True).done == 1
    assert giga.open(path).model("giga").config["temperature"] == 0.05


@pytest.mark.parametrize("column", ["slide_id", "patient_id"])
def test_slides_can_be_excluded(store_at, tmp_path, column):
    path, table = store_at("bank"), tmp_path / "test.csv"
    rows = giga.open(path).slides.rows
    left_out = {rows[2].id} if column == "slide_id" else {r.id for r in rows if r.patient == rows[2].patient}
    table.write_text(f"{column},split\n{rows[2].id + '.svs' if column == 'slide_id' else rows[2].patient},test\n")
    summary = giga.train(path, epochs=1, **SMALL, exclude=table)
    assert (summary.slides, summary.excluded) == (8 - len(left_out), len(left_out))
    seen = giga.open(path).model("giga").seen()
    assert {r.id for r, s in zip(rows, seen, strict=True) if not s} == left_out
    assert giga.train(path, epochs=1, **SMALL, exclude=str(table)).skipped == 1
    with pytest.raises(Mismatch, match="excluded"):
        giga.train(path, epochs=1, **SMALL)


def test_a_table_that_excludes_nothing_is_a_mistake(store_at, tmp_path, chunks):
    path, table = store_at("bank"), tmp_path / "test.csv"
    before = chunks(path)
    table.write_text("slide_id\nsomething-else\n")
    with pytest.raises(InvalidInput, match="names no slide of the store"):
        giga.train(path, exclude=table, allow_missing=True)
    with pytest.raises(NotFound, match="no such file"):
        giga.train(path, exclude="nowhere.csv")
    assert chunks(path) == before


@pytest.mark.parametrize("column", ["slide_id", "patient_id"])
def test_names_to_exclude_that_the_store_does_not_have_are_refused(store_at, tmp_path, chunks, column):
    """Four of five mistyped: without a word this trained on the slides that were to be held out."""
    path, table, said = store_at("bank"), tmp_path / "test.csv", []
    before, rows = chunks(path), giga.open(path).slides.rows
    name = getattr(rows[2], column.replace("slide_id", "id").replace("_id", ""))
    table.write_text("\n".join([column, name, f"{name}x", name.upper(), "y", "z"]))
    with pytest.raises(NotFound, match=rf"4 of 5 {column[:-3]}s that .* not in the store: '{name}x', .*, 'z'") as error:
        giga.train(path, exclude=table)
    assert f"1 differ in capitals only: {name.upper()!r} is {name!r} there" in error.value.message
    assert chunks(path) == before
    progress = SimpleNamespace(say=said.append, start=lambda *_, **__: None, advance=lambda *_, **__: None)
    summary = giga.train(path, epochs=1, exclude=table, allow_missing=True, progress=progress)
    assert summary.excluded == sum(name in (row.id, row.patient) for row in rows)
    assert any(text.startswith("4 of 5") for text in said)


@pytest.mark.parametrize("aggregator", ["attention", "mlp"])
def test_other_aggregators(store_at, aggregator):
    path = store_at("bank")
    summary = giga.train(path, epochs=2, aggregator=aggregator)
    assert summary.initial_weights.startswith("random weights")
    assert giga.embed(path, views=2).done == 8


def test_what_spconv_cannot_train_is_refused_before_anything_is_written(store_at):
    path = store_at("bank")
    with pytest.raises(InvalidInput, match="spconv trains on CUDA only"):
        giga.train(path, sparse_backend="spconv", device="cpu")
    with pytest.raises(InvalidInput, match="no sparse convolutions for `sparse_backend` torch"):
        giga.train(path, sparse_backend="torch", aggregator="mlp")
    assert not (path / "models").exists()


@pytest.mark.slow
def test_depth_and_stride_are_in_the_recipe_and_embed_follows_it(store_at):
    """The recipe alone says which encoder the weights belong to: another stride in it gives other vectors."""
    path = store_at("bank")
    deep = giga.train(path, epochs=2, blocks=3, stride=1, join=False)
    assert "has 2 blocks, the slide encoder 3" in deep.initial_weights
    recipe = giga.open(path).model("giga").config
    assert (recipe["blocks"], recipe["stride"]) == (3, 1)
    assert any(name.startswith("encoder.blocks.2.") for name in load_safetensors(weights(path)))
    assert giga.embed(path, views=2).done == 8
    assert giga.embed(path, views=2, aggregator="random-init").done == 8
    with pytest.raises(Mismatch, match=r"stride: 1 here, 2 asked for"):
        giga.train(path, epochs=2, stride=2, join=False)
    flat = giga.train(path, epochs=2, stride=1, name="flat", join=False)
    assert flat.initial_weights == "layer4 of encoder 'random-resnet18'"
    giga.embed(path, model="flat", views=2)
    store = giga.Store.open(path, write=True)
    before = store.embedding("flat").array("vectors")[:]
    attributes = store.root["models/flat"].attrs
    wrong = attributes["giga"]
    wrong["recipe"]["config"]["stride"] = 2
    attributes["giga"] = wrong
    giga.embed(path, model="flat", views=2, redo=True)
    assert np.abs(giga.open(path).embedding("flat").array("vectors")[:] - before).max() > 1e-3


@pytest.mark.slow
def test_half_precision_is_another_model(store_at):
    path = store_at("bank")
    for precision in ("bf16", "fp32"):
        giga.train(path, epochs=2, precision=precision, name=precision, join=False)
    half, full = (load_safetensors(weights(path, name)) for name in ("bf16", "fp32"))
    for name, value in full.items():
        assert half[name].dtype == value.dtype  # weights themselves are kept in full
        np.testing.assert_allclose(half[name], value, atol=0.3)
    assert weights(path, "bf16") != weights(path, "fp32")
    assert giga.open(path).model("bf16").config["precision"] == "bf16"


def test_tensorboard_is_asked_for_before_anything_is_computed(store_at, tmp_path, monkeypatch, chunks):
    path = store_at("bank")
    before = chunks(path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    with pytest.raises(InvalidInput, match="not installed") as raised:
        giga.train(path, epochs=1, log_dir=tmp_path / "runs")
    assert ".[tensorboard]" in raised.value.hint
    assert chunks(path) == before


def test_every_epoch_goes_to_tensorboard(store_at, tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, epoch):
            written.append((name, epoch))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    giga.train(store_at("bank"), epochs=2, **SMALL, log_dir=tmp_path / "runs")
    assert written[0] == str(tmp_path / "runs")
    assert written[-1] == "closed"
    assert {("loss", 1), ("loss", 2), ("rank", 2), ("waiting", 1)} <= set(written[1:-1])


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(store_at):
    """As torchrun starts them: one result, told once, that one process takes up."""
    options = ["--batch-size", "4", "--precision", "fp32", "--lr", "1e-6", "--json"]  # no step amplifies rounding
    one, two = store_at("bank"), store_at("bank", "two.zarr")
    settings = {"epochs": 3, "batch_size": 4, "precision": "fp32", "lr": 1e-6}
    giga.train(one, **settings)
    out = launch(2, ["-m", "gigacli", "train", str(two), "--epochs", "3", *options])
    assert json.loads(out[0])["done"] == 1
    assert out[1] == ""
    ours, theirs = (load_safetensors(weights(path)) for path in (one, two))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, atol=1e-4, err_msg=name)
    losses = [giga.open(path).model("giga").history("loss") for path in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert giga.train(two, **settings).skipped == 1
    with pytest.raises(AssertionError, match="cannot be split over 5"):
        launch(5, ["-m", "gigacli", "train", str(two), "--name", "five", "--epochs", "3", *options])


@pytest.mark.slow
def test_odd_batches_and_more_tiles_than_draws(store_at):
    path = store_at("bank")
    assert giga.train(path, epochs=2, batch_size=3).done == 1  # 8 slides: 3 + 3 + 2
    assert giga.train(path, epochs=1, tiles=20, name="many").done == 1  # 8 draws a view


@pytest.mark.slow
def test_again_skips_and_other_parameters_are_refused(store_at, chunks):
    path = store_at("train")
    before = chunks(path)
    assert giga.train(path, **OPTIONS).skipped == 1
    with pytest.raises(Mismatch, match="epochs: 3 here, 4 asked for"):
        giga.train(path, **{**OPTIONS, "epochs": 4})
    assert chunks(path) == before
    assert giga.train(path, **{**OPTIONS, "epochs": 4}, redo=True).done == 1


def test_refusals(chain, store_at, tmp_path):
    with pytest.raises(NotFound, match="no banks") as raised:
        giga.train(store_at("tile"))
    assert "giga bank" in raised.value.hint
    path = store_at("bank", "b.zarr")
    with pytest.raises(NotFound, match="nothing"):
        giga.train(path, bank="nothing")
    with pytest.raises(InvalidInput, match="cuda:99"):
        giga.train(path, device="cuda:99")
    with pytest.raises(InvalidInput, match="`epochs` is -1"):
        giga.train(path, epochs=-1)
    store = giga.Store.open(path, write=True)
    store.bank("random-resnet18").array("done")[1:] = 0
    with pytest.raises(InvalidInput, match="at least 2"):
        giga.train(path)
