"""giga pretrain-tiles: MoCo on the cohort's own tiles."""

import math

import numpy as np
import pytest

import gigacli as giga
from gigacli.errors import Mismatch, NotFound
from gigacli.nn import loop
from gigacli.nn.tile_encoder import random_resnet18, resnet18_from_bytes, weights_to_bytes
from gigacli.store.store import Store

OPTIONS = {"epochs": 2, "max_tiles": 32, "batch_size": 8, "queue": 64}
"""Eight steps; of the queue only 32 keys are used, one per tile."""


def weights(path, name="moco"):
    return giga.open(path).read_bytes(f"encoders/{name}/weights")


def history(path, name):
    return giga.open(path).array(f"encoders/moco/history/{name}")[:]


@pytest.fixture(scope="module")
def trained(chain, tmp_path_factory):
    """A store with an encoder."""
    import shutil

    path = shutil.copytree(chain("tile"), tmp_path_factory.mktemp("moco") / "cohort.zarr")
    return path, giga.pretrain_tiles(path, **OPTIONS)


def test_an_encoder_with_its_history(trained):
    path, summary = trained
    store = giga.open(path)
    assert (summary.encoder, summary.tiles, summary.slides, summary.done) == ("moco", 32, 8, 1)
    assert store.array("encoders/moco/done")[()] == 1
    assert store.array("encoders/moco/trained_on")[:].all()
    assert np.isfinite(store.array("encoders/moco/history/loss")[:]).all()
    learnt = resnet18_from_bytes(weights(path)).state_dict()  # torchvision's names, all of them
    born = random_resnet18(0).state_dict()
    assert not np.allclose(learnt["layer4.1.conv2.weight"], born["layer4.1.conv2.weight"])


def test_a_bank_uses_it_by_name_and_a_model_starts_from_it(trained, tmp_path):
    import shutil

    path = shutil.copytree(trained[0], tmp_path / "cohort.zarr")
    assert giga.bank(path, augmentations=2, draws=4).bank == "moco"  # the only encoder need not be named
    assert giga.train(path, epochs=1).initial_weights == "layer4 of encoder 'moco'"


@pytest.mark.parametrize("saves", [1, 2, 5])
def test_interrupted_and_resumed_equals_uninterrupted(trained, store_at, monkeypatch, saves):
    """Inside the first epoch of four steps, and inside the second: a checkpoint after every step."""
    path = store_at("tile")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", math.inf)
    save, left = Store.write_bytes, [saves]

    def save_and_stop(self, where, data):
        save(self, where, data)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "write_bytes", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        giga.pretrain_tiles(path, **OPTIONS)
    monkeypatch.undo()
    assert giga.pretrain_tiles(path, **OPTIONS).resumed_at == saves // 4
    assert weights(path) == weights(trained[0])
    for name in ("loss", "queue_accuracy", "rank"):
        np.testing.assert_array_equal(history(path, name), history(trained[0], name))


def test_tiles_are_spread_over_slides(store_at):
    path = store_at("tile")
    summary = giga.pretrain_tiles(path, epochs=1, max_tiles=12, max_slides=3, batch_size=8, queue=16)
    store = giga.open(path)
    assert (summary.tiles, summary.slides) == (12, 3)
    assert store.array("encoders/moco/trained_on")[:].sum() == 3


def test_initial_weights_from_a_file(store_at, tmp_path):
    file = tmp_path / "start.safetensors"
    file.write_bytes(weights_to_bytes(random_resnet18(5)))
    path = store_at("tile")
    giga.pretrain_tiles(path, **{**OPTIONS, "epochs": 1, "lr": 1e-12}, init=str(file))
    started, ended = (resnet18_from_bytes(b).state_dict() for b in (file.read_bytes(), weights(path)))
    np.testing.assert_allclose(ended["conv1.weight"], started["conv1.weight"], atol=1e-6)
    with pytest.raises(NotFound, match="gone"):
        giga.pretrain_tiles(path, **OPTIONS, name="b", init=str(tmp_path / "gone.safetensors"))


def test_again_skips_and_other_parameters_are_refused(trained):
    path, _ = trained
    assert giga.pretrain_tiles(path, **OPTIONS).skipped == 1
    with pytest.raises(Mismatch, match="queue: 32 here, 16 asked for"):
        giga.pretrain_tiles(path, **{**OPTIONS, "queue": 16})


def test_a_store_without_tiles_names_the_command(tmp_path):
    Store.create(tmp_path / "a.zarr")
    with pytest.raises(NotFound, match="giga tile"):
        giga.pretrain_tiles(tmp_path / "a.zarr")
