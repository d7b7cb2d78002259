"""The training loop: schedule, resume to the byte, checkpoints, history, refusals."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from torch import nn

from gigacli.errors import Diverged, Mismatch
from gigacli.nn import loop
from gigacli.nn.loop import Schedule, Training, epoch_of, run
from gigacli.nn.tile_encoder import weights_to_bytes
from gigacli.progress import SILENT

EPOCHS, STEPS = 6, 3

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1.0),
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=1e-4),
}


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """A checkpoint after every epoch."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)


class Toy(nn.Module):
    """A layer, a batch norm and a counter; the data are a function of (epoch, step)."""

    def __init__(self, seed, width=5):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layer = nn.Linear(4, width)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.normal_(generator=generator)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def steps(self, epoch):
        for step in range(STEPS):
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            self.seen += 1
            yield (
                self.norm(self.layer(torch.randn(8, 4, generator=generator)))
                .square()
                .mul(self.layer.weight.sum())
                .mean()
            )


def training_of(kind, seed=0, saved=None, *, steps=None, width=5, epochs=EPOCHS):
    module = Toy(seed, width)
    return Training(
        module=module,
        optimizer=OPTIMIZERS[kind](module.parameters()),
        schedule=Schedule(0.01, 4, STEPS * epochs),
        epochs=epochs,
        steps=steps or module.steps,
        save=(saved if saved is not None else []).append,
    )


class Recorder:
    """Progress that remembers."""

    def __init__(self):
        self.started, self.notes = [], []

    def start(self, what, total, *, done=0):
        self.started.append((total, done))

    def advance(self, steps=1, *, note=""):
        self.notes.append((steps, note))

    def say(self, message):
        raise AssertionError(message)


# Schedule.


@given(st.integers(1, 50), st.integers(1, 500), st.floats(1e-5, 1))
@settings(max_examples=60, deadline=None)
def test_a_line_to_the_peak_and_a_cosine_to_nothing(warmup, rest, peak):
    rates = np.array([Schedule(peak, warmup, warmup + rest)(step) for step in range(warmup + rest)])
    np.testing.assert_allclose(rates[:warmup], peak * np.arange(1, warmup + 1) / warmup)
    assert rates[warmup] == pytest.approx(peak)
    assert (np.diff(rates[warmup:]) < 0).all()
    # 1 + cos(pi (1 - 1/n)) = 2 sin(pi / 2n)^2
    assert rates[-1] == pytest.approx(peak * math.sin(math.pi / (2 * rest)) ** 2)
    halfway = Schedule(peak, warmup, warmup + 2 * rest)(warmup + rest)
    assert halfway == pytest.approx(peak / 2)


def test_every_step_is_taken_at_its_rate():
    """A loss with a gradient of one: plain SGD goes down by exactly the rates."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    schedule = Schedule(0.5, 4, 10)

    def steps(epoch):
        return (module.weight.sum() for _ in range(5))

    training = Training(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=123.0),
        schedule=schedule,
        epochs=2,
        steps=steps,
        save=lambda _: None,
    )
    history = run(training, SILENT, checkpoint=None)
    assert module.weight.item() == pytest.approx(-sum(schedule(step) for step in range(10)), rel=1e-5)
    assert history["lr"] == [schedule(4), schedule(9)]


# Resume.


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_resumed_after_any_epoch_equals_uninterrupted_to_the_byte(kind):
    saved = []
    whole = training_of(kind, saved=saved)
    history = run(whole, SILENT, checkpoint=None)
    assert len(saved) == EPOCHS
    assert [epoch_of(checkpoint) for checkpoint in saved] == [1, 2, 3, 4, 5, 6]
    assert len(set(saved)) == EPOCHS
    for k, checkpoint in enumerate(saved, start=1):
        again = []
        resumed = training_of(kind, seed=99, saved=again)  # other initial weights: the checkpoint's count
        assert run(resumed, SILENT, checkpoint=checkpoint) == history
        assert weights_to_bytes(resumed.module) == weights_to_bytes(whole.module)
        assert again == saved[k:]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_killed_in_the_middle_of_an_epoch(kind):
    whole, saved = training_of(kind), []
    history = run(whole, SILENT, checkpoint=None)
    killed = training_of(kind, saved=saved)

    def steps(epoch):
        for i, loss in enumerate(killed.module.steps(epoch)):
            if (epoch, i) == (3, 1):
                raise KeyboardInterrupt
            yield loss

    with pytest.raises(KeyboardInterrupt):
        run(training_of_module(killed, steps), SILENT, checkpoint=None)
    assert len(saved) == 3
    progress, resumed = Recorder(), training_of(kind, seed=5)
    assert run(resumed, progress, checkpoint=saved[-1]) == history
    assert weights_to_bytes(resumed.module) == weights_to_bytes(whole.module)
    assert progress.started == [(EPOCHS, 3)]
    assert len(progress.notes) == 3


def training_of_module(training, steps):
    return Training(**{**vars(training), "steps": steps})


def test_killed_after_the_last_checkpoint_has_nothing_left_to_do():
    saved = []
    whole = training_of("adam", saved=saved)
    history = run(whole, SILENT, checkpoint=None)

    def steps(epoch):
        raise AssertionError("no epoch is left")

    resumed = training_of("adam", seed=3, steps=steps)
    assert run(resumed, SILENT, checkpoint=saved[-1]) == history
    assert weights_to_bytes(resumed.module) == weights_to_bytes(whole.module)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_checkpoints_have_one_size(kind):
    saved = []
    run(training_of(kind, saved=saved, epochs=12), SILENT, checkpoint=None)
    assert len(saved) == 12
    assert len({len(checkpoint) for checkpoint in saved}) == 1


def test_checkpoints_are_written_when_there_is_enough_to_lose(monkeypatch):
    """A clock that moves on by seven seconds an epoch, and checkpoints for more than twenty."""
    clock = itertools.count(0, 7)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 20.0)
    saved = []
    run(training_of("adam", saved=saved, epochs=10), SILENT, checkpoint=None)
    assert [epoch_of(checkpoint) for checkpoint in saved] == [3, 6, 9, 10]


def test_no_checkpoint_is_epoch_0():
    assert epoch_of(None) == 0


# History and refusals.


def test_history_is_the_mean_loss_and_the_last_rate_of_every_epoch():
    values, progress = itertools.count(1), Recorder()
    module = nn.Linear(1, 1)

    def steps(epoch):
        return (module.weight.sum() * 0 + next(values) for _ in range(STEPS))

    training = Training(
        module=module,
        optimizer=torch.optim.Adam(module.parameters()),
        schedule=Schedule(0.1, 2, 4 * STEPS),
        epochs=4,
        steps=steps,
        save=lambda _: None,
    )
    history = run(training, progress, checkpoint=None)
    assert history["loss"] == [2.0, 5.0, 8.0, 11.0]
    assert history["lr"] == [Schedule(0.1, 2, 12)(step) for step in (2, 5, 8, 11)]
    assert progress.started == [(4, 0)]
    assert [steps for steps, _ in progress.notes] == [1, 1, 1, 1]
    assert "5.0000" in progress.notes[1][1]


def test_trains_in_training_mode():
    training = training_of("adam")
    training.module.eval()
    run(training, SILENT, checkpoint=None)
    assert training.module.training
    assert training.module.norm.num_batches_tracked == EPOCHS * STEPS


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training(bad):
    saved = []
    training = training_of("sgd", saved=saved)

    def steps(epoch):
        for i, loss in enumerate(training.module.steps(epoch)):
            yield loss * bad if (epoch, i) == (2, STEPS - 1) else loss

    with pytest.raises(Diverged, match="in epoch 3") as caught:
        run(training_of_module(training, steps), SILENT, checkpoint=None)
    assert "--lr" in caught.value.hint
    assert "--redo" in caught.value.hint  # another rate is another recipe
    assert [epoch_of(checkpoint) for checkpoint in saved] == [1, 2]


def test_a_checkpoint_of_something_else_is_a_mismatch():
    saved = []
    run(training_of("adam", saved=saved, width=7), SILENT, checkpoint=None)
    with pytest.raises(Mismatch, match=r"(?s)does not fit: .*layer\.weight") as caught:
        run(training_of("adam"), SILENT, checkpoint=saved[0])
    assert "--redo" in caught.value.hint


@pytest.mark.parametrize(
    "checkpoint",
    [b"no safetensors file at all", save_safetensors({"weight": torch.zeros(2)})],
    ids=["garbage", "other"],
)
def test_what_is_no_checkpoint_is_a_mismatch(checkpoint):
    with pytest.raises(Mismatch, match="cannot be read"):
        run(training_of("adam"), SILENT, checkpoint=checkpoint)
    with pytest.raises(Mismatch, match="cannot be read"):
        epoch_of(checkpoint)
