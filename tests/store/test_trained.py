"""Encoders and models: begun, saved, resumed, finished, replaced."""

import errno
from unittest import mock

import numpy as np
import pytest

from gigacli.errors import Mismatch, NotFound
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow

RECIPE = Recipe("train", {"bank": "moco", "tiles": 7}, {})
ROWS = np.array([0, 1])


@pytest.fixture
def model(tiny):
    return Store.open(tiny, write=True).model("new")


def test_a_run_that_was_cut_short_goes_on(model):
    assert not model.complete
    assert model.begin(RECIPE, ROWS, redo=False) is None
    model.save(b"epoch 1", {"loss": [2.0]}, epochs=2)
    assert np.isnan(model.history("loss")).tolist() == [False, True]
    model.save(b"epoch 2", {"loss": [2.0, 1.5]}, epochs=2)
    assert model.begin(RECIPE, ROWS, redo=False) == b"epoch 2"
    assert not model.complete
    model.finish(b"weights", {"loss": [2.0, 1.5]})
    assert model.complete
    assert model.weights() == b"weights"
    assert model.history("loss").tolist() == [2.0, 1.5]
    assert model.seen().tolist() == [True, True, False, False]


def test_other_slides_or_parameters_are_refused(model):
    model.begin(RECIPE, ROWS, redo=False)
    with pytest.raises(Mismatch, match="begun on 2 slides; there are 3 now"):
        model.begin(RECIPE, np.array([0, 1, 2]), redo=False)
    with pytest.raises(Mismatch, match="tiles: 7 here, 5 asked for"):
        model.begin(Recipe("train", {"bank": "moco", "tiles": 5}, {}), ROWS, redo=False)


def test_redo_starts_afresh(model):
    model.begin(RECIPE, ROWS, redo=False)
    model.save(b"checkpoint", {"loss": [2.0]}, epochs=2)
    model.finish(b"weights", {"loss": [2.0, 1.5]})
    assert model.begin(RECIPE, np.array([0]), redo=True) is None
    assert not model.complete
    assert not model.has("weights")
    assert not model.has("history")
    assert model.history("loss") is None


def test_slides_that_are_registered_later_are_not_trained_on(model):
    model.begin(RECIPE, ROWS, redo=False)
    store = model.store
    store.write_slides(store.slides.with_rows([SlideRow(id="late", path="/late")]))
    assert model.seen().tolist() == [True, True, False, False, False]
    assert model.begin(RECIPE, ROWS, redo=False) is None


def test_a_kill_before_the_first_checkpoint_was_written_starts_from_nothing(model):
    model.begin(RECIPE, ROWS, redo=False)
    model.store.ensure_array("models/new/checkpoint", (10,))
    assert not model.begin(RECIPE, ROWS, redo=False)


def test_what_an_unfinished_registration_left_is_no_slide(model):
    model.begin(RECIPE, ROWS, redo=False)
    model.array("trained_on").resize((7,))
    assert model.seen().tolist() == [True, True, False, False]
    assert model.begin(RECIPE, ROWS, redo=False) is None


def test_what_only_an_unfinished_training_needs_goes_when_it_is_finished(model):
    model.begin(RECIPE, ROWS, redo=False)
    model.save(b"checkpoint", {"loss": [2.0]}, epochs=1)
    assert model.begin(RECIPE, ROWS, redo=False) == b"checkpoint"
    model.finish(b"weights", {"loss": [2.0]})
    assert not model.has("checkpoint")
    assert model.weights() == b"weights"
    model.store.write_bytes("models/new/checkpoint", b"a kill came before it was deleted")
    model.drop_checkpoint()
    model.drop_checkpoint()
    assert not model.has("checkpoint")


def test_a_history_may_come_out_shorter_than_it_was_begun(model):
    model.begin(RECIPE, ROWS, redo=False)
    model.save(b"epoch 1", {"loss": [2.0]}, epochs=9)
    assert model.history("loss").shape == (9,)
    model.finish(b"weights", {"loss": [2.0, 1.0]})
    assert model.history("loss").tolist() == [2.0, 1.0]


def test_what_is_not_begun_has_seen_nothing(tiny):
    store = Store.open(tiny)
    assert store.model("absent").seen() is None
    assert store.model("giga").seen().tolist() == [True, True, False, False]


def test_only_what_is_finished_can_be_used(model):
    with pytest.raises(NotFound, match="holds no models/new"):
        _ = model.finished
    model.begin(RECIPE, ROWS, redo=False)
    with pytest.raises(NotFound, match=r"model 'new' in .* is not finished") as caught:
        _ = model.usable
    assert "giga train" in caught.value.hint
    assert "--name new" in caught.value.hint


def test_a_model_belongs_to_what_it_was_trained_on(tiny):
    store = Store.open(tiny, write=True)
    model, bank = store.model("giga"), store.bank("moco")
    assert model.source is bank
    assert model.usable == model.finished == model.recipe
    bank.begin(Recipe("bank", {**bank.config, "seed": 1}, bank.recipe.inputs), 8, redo=True)
    with pytest.raises(Mismatch, match="was trained on another bank 'moco' than the one"):
        _ = model.usable
    bank.discard()
    with pytest.raises(NotFound, match="holds no banks/moco"):
        _ = model.usable


def test_features_may_stand_in_for_its_bank(tiny):
    store = Store.open(tiny, write=True)
    features, model = store.features("moco"), store.model("new")
    recipe = Recipe("train", {"bank": "moco", "tiles": 5}, {features.input_name: features.fingerprint})
    model.begin(recipe, ROWS, redo=False)
    model.finish(b"weights", {"loss": [2.0]})
    assert model.source is features
    assert model.usable == recipe
    features.begin(Recipe("bank", {"encoder": "other"}, {}), 8, redo=True)
    with pytest.raises(Mismatch, match="was trained on other features/moco than those"):
        _ = model.usable


def test_an_encoder_from_elsewhere_is_kept(tiny):
    encoder = Store.open(tiny, write=True).encoder("resnet")
    recipe = Recipe("bank", {"weights_sha256": "a" * 64}, {})
    for _ in range(2):
        encoder.keep(recipe, b"weights")
        assert encoder.complete
        assert encoder.weights() == b"weights"
    other = Recipe("bank", {"timm": "vit", "weights_sha256": "b" * 64}, {})
    encoder.keep(other, b"")  # of timm no weights are kept
    assert encoder.finished == other
    assert not encoder.has("weights")


def test_a_checkpoint_that_another_process_touches_is_left_to_it(model, monkeypatch):
    model.begin(RECIPE, ROWS, redo=False)
    model.store.write_bytes(f"{model.path}/checkpoint", b"state")
    for error in (OSError(errno.ENOTEMPTY, "Directory not empty"), FileNotFoundError("gone"), KeyError("gone")):
        with monkeypatch.context() as patch:
            patch.setattr(Store, "delete_bytes", mock.Mock(side_effect=error))
            model.drop_checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete_bytes", mock.Mock(side_effect=PermissionError(errno.EACCES, "no")))
        with pytest.raises(PermissionError):
            model.drop_checkpoint()
    model.drop_checkpoint()
    assert not model.has("checkpoint")


@pytest.mark.parametrize("lost", [FileNotFoundError("a file of its folder"), KeyError("checkpoint")])
def test_another_process_may_finish_while_a_checkpoint_is_written(model, monkeypatch, lost):
    """It deletes the folder that this one writes into; an unfinished training's folder is taken away by nobody."""
    model.begin(RECIPE, ROWS, redo=False)
    other = Store.open(model.store.url, write=True).model("new")

    def write(path, data, finishes=True):
        if finishes:
            monkeypatch.undo()
            other.finish(b"weights", {"loss": [2.0, 1.5]})
        raise lost

    monkeypatch.setattr(model.store, "write_bytes", lambda *given: write(*given, finishes=False))
    with pytest.raises(type(lost)):
        model.save(b"epoch 1", {"loss": [2.0]}, epochs=2)
    monkeypatch.setattr(model.store, "write_bytes", write)
    model.save(b"epoch 1", {"loss": [2.0]}, epochs=2)
    model.finish(b"weights", {"loss": [2.0, 1.5]})
    assert (model.complete, model.weights(), model.has("checkpoint")) == (True, b"weights", False)
