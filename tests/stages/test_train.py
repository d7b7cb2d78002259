"""giga train: Giga-SSL on a bank."""

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn import loop

OPTIONS = {"epochs": 3, "batch_size": 4}


def weights(path, model="giga"):
    return giga.open(path).read_bytes(f"models/{model}/weights")


def test_a_model_with_its_history_and_the_slides_it_saw(chain):
    store = giga.open(chain("train"))
    assert store.array("models/giga/done")[()] == 1
    assert store.array("models/giga/trained_on")[:].all()
    assert np.isfinite(store.array("models/giga/history/loss")[:]).all()
    assert store.array("models/giga/history/loss").shape == (3,)
    state = load_safetensors(store.read_bytes("models/giga/weights"))
    assert any(name.startswith("encoder.") for name in state)
    assert any(name.startswith("projector.") for name in state)
    recipe = store.require("models/giga")
    assert recipe.inputs["bank"] == store.require("banks/random-resnet18").fingerprint


def test_starts_from_layer4_of_the_tile_encoder(store_at):
    path = store_at("bank")
    summary = giga.train(path, epochs=1, lr=1e-12)
    assert summary.initial_weights == "layer4 of encoder 'random-resnet18'"
    store = giga.open(path)
    born = load_safetensors(store.read_bytes("encoders/random-resnet18/weights"))["layer4.1.conv2.weight"]
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


def test_interrupted_and_resumed_equals_uninterrupted(chain, store_at, monkeypatch):
    path = store_at("bank")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    calls = []

    class Stop:
        def start(self, *args, **kwargs):
            pass

        def advance(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt

        def say(self, message):
            pass

    with pytest.raises(KeyboardInterrupt):
        giga.train(path, **OPTIONS, progress=Stop())
    assert giga.open(path).array("models/giga/done")[()] != 1
    with pytest.raises(NotFound, match="not finished"):
        giga.embed(path)
    summary = giga.train(path, **OPTIONS)
    assert summary.resumed_at == 1
    assert weights(path) == weights(chain("train"))
    ours, theirs = (giga.open(p).array("models/giga/history/loss")[:] for p in (path, chain("train")))
    assert ours.tobytes() == theirs.tobytes()


def test_learns_to_tell_slides_apart(store_at):
    path = store_at("bank")
    giga.train(path, epochs=120, batch_size=8, seed=3)
    loss = giga.open(path).array("models/giga/history/loss")[:]
    assert loss[-20:].mean() < loss[:20].mean() - 0.2


def test_slide_augmentation_can_be_left_out(store_at):
    path = store_at("bank")
    giga.train(path, **OPTIONS)
    giga.train(path, **OPTIONS, slide_aug=False, name="flat")
    assert weights(path) != weights(path, "flat")


def test_whitening_is_kept_with_the_weights_and_used_by_every_vector(store_at):
    path = store_at("bank")
    giga.train(path, **OPTIONS, whiten=True)
    bank = giga.open(path).array("banks/random-resnet18/vectors")[:].astype(np.float64)  # (slide, a, d, c)
    spread = (bank - bank.mean(axis=1, keepdims=True)).reshape(-1, 256)
    covariance = spread.T @ spread / len(spread)
    matrix = load_safetensors(weights(path))["whitening"].astype(np.float64)
    wanted = covariance + np.trace(covariance) / 256 * np.eye(256)
    np.testing.assert_allclose(matrix @ wanted @ matrix, np.eye(256), atol=1e-4)
    giga.embed(path, views=2)
    giga.embed(path, views=2, aggregator="random-init")
    vectors = [giga.open(path).array(f"embeddings/{name}/vectors")[:] for name in ("giga", "random-giga")]
    store = giga.Store.open(path, write=True)
    state = load_safetensors(store.read_bytes("models/giga/weights"))
    store.write_bytes("models/giga/weights", save_safetensors({**state, "whitening": np.eye(256, dtype=np.float32)}))
    giga.embed(path, views=2, redo=True)
    giga.embed(path, views=2, aggregator="random-init", redo=True)
    for name, before in zip(("giga", "random-giga"), vectors, strict=True):
        assert np.abs(giga.open(path).array(f"embeddings/{name}/vectors")[:] - before).max() > 1e-3


def test_odd_batches_and_more_tiles_than_draws(store_at):
    path = store_at("bank")
    assert giga.train(path, epochs=2, batch_size=3).done == 1  # 8 slides: 3 + 3 + 2
    assert giga.train(path, epochs=1, tiles=20, name="many").done == 1  # 8 draws a view


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
    with pytest.raises(InvalidInput, match="--epochs is -1"):
        giga.train(path, epochs=-1)
    store = giga.Store.open(path, write=True)
    store.array("banks/random-resnet18/done")[1:] = 0
    with pytest.raises(InvalidInput, match="at least 2"):
        giga.train(path)
