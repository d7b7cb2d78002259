"""giga pretrain-tiles: MoCo on the cohort's own tiles."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn import loop
from gigacli.nn.tile_encoder import random_resnet18, weights_to_bytes
from gigacli.store.store import Store
from gigacli.weights.resnet18 import resnet18_from_bytes
from tests.helpers import Recorder, launch

OPTIONS = {"epochs": 2, "max_tiles": 32, "batch_size": 8, "queue": 64}
"""Eight steps; of the queue only 32 keys are used, one per tile."""


def weights(path, name="moco"):
    return giga.open(path).encoder(name).weights()


def history(path, name):
    return giga.open(path).encoder("moco").history(name)


@pytest.fixture(scope="module")
def trained(chain, tmp_path_factory):
    """A store with an encoder."""
    import shutil

    path = shutil.copytree(chain("tile"), tmp_path_factory.mktemp("moco") / "cohort.zarr")
    return path, giga.pretrain_tiles(path, **OPTIONS)


def test_an_encoder_with_its_history(trained):
    path, summary = trained
    encoder = giga.open(path).encoder("moco")
    assert (summary.encoder, summary.tiles, summary.slides, summary.done) == ("moco", 32, 8, 1)
    assert encoder.complete
    assert encoder.seen().all()
    names = ("loss", "chance", "queue_accuracy", "lr", "gradient_norm", "alignment", "uniformity", "rank", "waiting")
    assert all(np.isfinite(history(path, name)).all() for name in (*names, "per_second"))
    assert (summary.queue, summary.steps) == (32, 8)
    np.testing.assert_allclose(history(path, "chance"), math.log(33), rtol=1e-6)
    assert 0 <= summary.queue_accuracy == history(path, "queue_accuracy")[-1] <= 1
    assert encoder.config["queue"] == 32
    learnt = resnet18_from_bytes(weights(path)).state_dict()  # torchvision's names, all of them
    born = random_resnet18(0).state_dict()
    assert not np.allclose(learnt["layer4.1.conv2.weight"], born["layer4.1.conv2.weight"])


def test_a_bank_uses_it_by_name_and_a_model_starts_from_it(trained, tmp_path):
    import shutil

    path = shutil.copytree(trained[0], tmp_path / "cohort.zarr")
    assert giga.bank(path, augmentations=2, draws=4).bank == "moco"  # the only encoder need not be named
    trained_on_it = giga.train(path, epochs=1, aggregator="sparse-resnet")
    assert trained_on_it.initial_weights == "layer4 of encoder 'moco'"


@pytest.mark.parametrize("saves", [2, 5])
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
    assert (summary.tiles, summary.slides) == (12, 3)
    assert giga.open(path).encoder("moco").seen().sum() == 3


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


def test_the_cache_changes_nothing_and_is_used_again(trained, store_at, tmp_path, monkeypatch):
    """Without a cache, and with one that an earlier training left."""
    path, cache = store_at("tile"), tmp_path / "kept"
    summary = giga.pretrain_tiles(path, **OPTIONS, cache_gb=0)
    assert summary.cache == ""
    assert not list(path.parent.glob("*-tiles"))
    assert weights(path) == weights(trained[0])
    giga.pretrain_tiles(path, **{**OPTIONS, "epochs": 1}, name="first", cache=cache)
    assert len(list(cache.glob("*.tiles"))) == 8
    monkeypatch.setattr("gigacli.wsi.reader.open_slide", None)  # whoever opens a slide fails
    monkeypatch.setattr("gigacli.wsi.tile_pixels.open_slide", None)
    second = giga.pretrain_tiles(path, **{**OPTIONS, "epochs": 1}, name="second", cache=cache)
    assert (second.slides, second.failed, second.cache) == (8, 0, str(cache))
    assert weights(path, "first") == weights(path, "second")


def test_a_slide_that_cannot_be_read_is_left_out_and_said(store_at, cohort, tmp_path):
    path = store_at("tile")
    store = giga.open(path, write=True)
    ids = store.slides.ids
    broken, gone = tmp_path / "broken.tif", tmp_path / "gone.tif"
    broken.write_bytes(b"\0" * store.slides[2].file_bytes)
    paths = store.root["slides/path"][:]
    paths[2], paths[5] = str(broken), str(gone)
    store.root["slides/path"][:] = paths
    listener = Recorder()
    summary = giga.pretrain_tiles(path, **{**OPTIONS, "epochs": 1}, progress=listener)
    assert (summary.slides, summary.tiles, summary.failed, summary.done) == (6, 24, 2, 1)
    assert set(summary.failures) == {ids[2], ids[5]}
    reasons = giga.open(path).failures("pretrain-tiles")
    assert [bool(reason) for reason in reasons] == [i in (2, 5) for i in range(8)]
    assert "is not there" in reasons[5]
    assert giga.open(path).encoder("moco").seen().sum() == 6
    assert any(f"{ids[2]} failed and is left out" in line for line in listener.said)
    again = giga.pretrain_tiles(path, **{**OPTIONS, "epochs": 1})
    assert (again.skipped, again.slides) == (1, 6)


def test_not_one_slide_to_read_changes_nothing(store_at):
    path = store_at("tile")
    store = giga.open(path, write=True)
    store.root["slides/path"][:] = np.array([f"/nowhere/{i}.tif" for i in range(8)], dtype=object)
    with pytest.raises(InvalidInput, match="none of the 8 slides can be read"):
        giga.pretrain_tiles(path, **OPTIONS)
    assert "encoders" not in giga.open(path).root


def test_neighbours_are_scored_where_there_are_labels(store_at, cohort, tmp_path, monkeypatch):
    path, listener, recorded = store_at("tile"), Recorder(), {}
    writer = SimpleNamespace(
        add_scalar=lambda name, value, epoch: recorded.update({name: (value, epoch)}), close=lambda: None
    )
    board = SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    options = {**OPTIONS, "epochs": 1, "log_dir": tmp_path / "board"}
    giga.pretrain_tiles(path, **options, labels=cohort.labels_csv, target="lab", progress=listener)
    (score,) = history(path, "knn")
    assert 0 <= score <= 1
    assert any("scored by lab: chance is 0.50" in line for line in listener.said)
    assert recorded["knn"] == (pytest.approx(score), 1)
    assert recorded.keys() >= {"loss", "queue_accuracy", "rank", "per_second"}
    with pytest.raises(InvalidInput, match="nothing"):
        giga.pretrain_tiles(path, **OPTIONS, name="b", labels=cohort.labels_csv, target="nothing")
    assert "encoders/b" not in giga.open(path).root


@pytest.mark.parametrize(
    ("wrap", "report"),
    [
        (lambda w: w, "tensors have a ResNet18's names"),
        (lambda w: {"state_dict": {f"module.encoder_q.{k}": v for k, v in w.items()}}, "prefix module.encoder_q."),
        (lambda w: {"state_dict": {f"model.resnet.{k}": v for k, v in w.items()}, "epoch": 3}, "prefix model.resnet."),
    ],
    ids=["torchvision", "moco", "ciga"],
)
def test_what_became_of_a_weights_file_is_said(store_at, tmp_path, wrap, report):
    file = tmp_path / "start.pt"
    torch.save(wrap(random_resnet18(5).state_dict()), file)
    path, listener = store_at("tile"), Recorder()
    options = {"epochs": 1, "max_tiles": 8, "batch_size": 8, "queue": 8}
    summary = giga.pretrain_tiles(path, **options, init=str(file), progress=listener)
    assert report in summary.initial_weights
    assert f"tile encoder starts from {summary.initial_weights}" in listener.said


def test_two_processes_train_the_encoder_of_one(store_at):
    """As torchrun starts them: one result, told once, that one process takes up."""
    one, two = store_at("tile"), store_at("tile", "two.zarr")
    options = {"epochs": 1, "max_tiles": 24, "batch_size": 12, "lr": 1e-4, "precision": "fp32"}
    given = [word for k, v in options.items() for word in (f"--{k.replace('_', '-')}", str(v))]
    giga.pretrain_tiles(one, **options)
    out = launch(2, ["-m", "gigacli", "pretrain-tiles", str(two), *given, "--json"])
    said = json.loads(out[0])
    assert (said["done"], said["tiles"], said["failed"]) == (1, 24, 0)
    assert out[1] == ""
    ours, theirs = (resnet18_from_bytes(weights(path)).state_dict() for path in (one, two))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4, msg=name)
    np.testing.assert_allclose(history(two, "loss"), history(one, "loss"), rtol=1e-3)
    assert giga.pretrain_tiles(two, **options).skipped == 1
