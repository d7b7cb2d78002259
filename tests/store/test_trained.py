"""Encoders and models: begun, saved, resumed, finished, replaced."""

import numpy as np
import pytest

from gigacli.errors import Mismatch
from gigacli.store.store import Recipe, Store
from gigacli.store.table import SlideRow
from gigacli.store.trained import Trained

RECIPE = Recipe("train", {"bank": "moco", "tiles": 7}, {})
ROWS = np.array([0, 1])


@pytest.fixture
def model(tiny):
    return Trained(Store.open(tiny, write=True), "models/new")


def test_a_run_that_was_cut_short_goes_on(model):
    assert not model.done
    assert model.begin(RECIPE, ROWS, redo=False) is None
    model.save(b"epoch 1", {"loss": [2.0]}, epochs=2)
    assert np.isnan(model.history("loss")).tolist() == [False, True]
    model.save(b"epoch 2", {"loss": [2.0, 1.5]}, epochs=2)
    assert model.begin(RECIPE, ROWS, redo=False) == b"epoch 2"
    assert not model.done
    model.finish(b"weights", {"loss": [2.0, 1.5]})
    assert model.done
    assert model.store.read_bytes("models/new/weights") == b"weights"
    assert model.history("loss").tolist() == [2.0, 1.5]
    assert model.store.array("models/new/trained_on")[:].tolist() == [True, True, False, False]


def test_other_slides_or_parameters_are_refused(model):
    model.begin(RECIPE, ROWS, redo=False)
    with pytest.raises(Mismatch, match="begun on 2 slides; there are 3 now"):
        model.begin(RECIPE, np.array([0, 1, 2]), redo=False)
    with pytest.raises(Mismatch, match="tiles: 7 here, 5 asked for"):
        model.begin(Recipe("train", {"bank": "moco", "tiles": 5}, {}), ROWS, redo=False)


def test_redo_starts_afresh(model):
    model.begin(RECIPE, ROWS, redo=False)
    model.save(b"checkpoint", {"loss": [2.0]}, epochs=2)
    model.save_best(b"best")
    model.finish(b"weights", {"loss": [2.0, 1.5]})
    assert model.begin(RECIPE, np.array([0]), redo=True) is None
    assert not model.done
    assert "models/new/weights" not in model.store.root
    assert "models/new/best" not in model.store.root
    assert "models/new/history" not in model.store.root


def test_slides_that_are_registered_later_are_not_trained_on(model):
    model.begin(RECIPE, ROWS, redo=False)
    store = model.store
    store.write_slides(store.slides.with_rows([SlideRow(id="late", path="/late")]))
    assert store.array("models/new/trained_on")[:].tolist() == [True, True, False, False, False]
    assert model.begin(RECIPE, ROWS, redo=False) is None


def test_a_kill_before_the_first_checkpoint_was_written_starts_from_nothing(model):
    model.begin(RECIPE, ROWS, redo=False)
    model.store.ensure_array("models/new/checkpoint", (10,))
    assert not model.begin(RECIPE, ROWS, redo=False)
