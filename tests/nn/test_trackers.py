"""Trackers of trainings beside TensorBoard, with stand-ins of their modules."""

import sys
from types import SimpleNamespace

import pytest

from gigacli.config.verbs import TrainConfig
from gigacli.errors import InvalidInput
from gigacli.nn.trackers import Trackers


@pytest.fixture
def told(monkeypatch):
    """What the stand-ins were told, in order."""
    told = []

    def note(*what):
        told.append(what)

    run = SimpleNamespace(
        log=lambda figures, step: note("log", step, figures), finish=lambda exit_code: note("finish", exit_code)
    )

    def init(**options):
        note("init", options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    mlflow = SimpleNamespace(
        start_run=lambda run_name: note("start_run", run_name),
        log_params=lambda params: note("log_params", params),
        log_metrics=lambda figures, step: note("log_metrics", step, figures),
        end_run=lambda status: note("end_run", status),
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return told


def trackers(say=None, **options):
    return Trackers(TrainConfig(**options), name="models/giga of c.zarr", recipe={"lr": 0.1, "seed": 0}, say=say)


def test_weights_and_biases_is_told(told, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with trackers(tracker="wandb") as log:
        log(0, {"loss": 2.0})
        log(1, {"loss": 1.5})
    assert told == [
        ("init", {"project": "giga", "name": "models/giga of c.zarr", "config": {"lr": 0.1, "seed": 0}}),
        ("log", 1, {"loss": 2.0}),
        ("log", 2, {"loss": 1.5}),
        ("finish", 0),
    ]


def test_mlflow_is_told(told):
    with trackers(tracker="mlflow") as log:
        log(0, {"loss": 2.0})
    assert told == [
        ("start_run", "models/giga of c.zarr"),
        ("log_params", {"lr": 0.1, "seed": 0}),
        ("log_metrics", 1, {"loss": 2.0}),
        ("end_run", "FINISHED"),
    ]


def test_a_training_that_fails_is_called_so(told):
    with pytest.raises(KeyboardInterrupt), trackers(tracker="mlflow"):
        raise KeyboardInterrupt
    assert told[-1] == ("end_run", "FAILED")


def test_a_tracker_that_fails_is_left_out(told, monkeypatch):
    said = []

    def away(figures, step):
        raise ConnectionError("the server is away")

    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", away)
    with trackers(said.append, tracker="mlflow") as log:
        log(0, {"loss": 2.0})
        log(1, {"loss": 1.0})
    assert said == ["mlflow records no more of this training: the server is away"]


def test_what_is_not_installed_or_cannot_begin(told, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InvalidInput, match="needs TensorBoard"):
        trackers(log_dir=tmp_path, tracker="wandb")
    assert told == []
    board = SimpleNamespace(close=lambda: told.append("closed"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=lambda folder: board))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InvalidInput, match="`tracker` needs wandb, which is not installed") as raised:
        trackers(log_dir=tmp_path, tracker="wandb")
    assert ".[wandb]" in raised.value.hint
    assert told == ["closed"]

    def refuse(run_name):
        raise OSError("no such server")

    monkeypatch.setattr(sys.modules["mlflow"], "start_run", refuse)
    with pytest.raises(InvalidInput, match="mlflow cannot begin a run: no such server"):
        trackers(tracker="mlflow")


def test_nobody_is_told_where_nobody_is_asked_for():
    with Trackers(None, name="", recipe={}, say=lambda _: None) as log:
        log(0, {"loss": 1.0})
