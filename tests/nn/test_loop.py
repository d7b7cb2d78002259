"""The training loop: schedule, resume to the byte, checkpoints, history, refusals."""

import itertools
import math
import time
from dataclasses import replace
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
from gigacli.nn.loop import Schedule, Step, Training, epoch_of, run
from gigacli.nn.tile_encoder import weights_to_bytes
from gigacli.progress import SILENT
from tests.helpers import Recorder

EPOCHS, STEPS = 6, 3

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1.0),
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=1e-4),
}


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    """A checkpoint after every step, on a clock that stands still: speeds are part of a checkpoint."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 0.0))


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

    def step(self, batch):
        self.seen += 1
        out = self.norm(self.layer(batch))
        return Step(out.square().mul(self.layer.weight.sum()).mean(), 1e6, len(batch), out)


def batches(epoch, start=0):
    for step in range(start, STEPS):
        yield torch.randn(8, 4, generator=torch.Generator().manual_seed(1000 * epoch + step))


def figures(value):
    return Step(value, 1e6, 1)


def training_of(kind, seed=0, saved=None, *, data=batches, width=5, epochs=EPOCHS):
    module = Toy(seed, width)
    return Training(
        module=module,
        optimizer=OPTIMIZERS[kind](module.parameters()),
        schedule=Schedule(0.01, 4, STEPS * epochs),
        epochs=epochs,
        batches=data,
        step=module.step,
        save=lambda checkpoint, history: saved.append(checkpoint) if saved is not None else None,
    )


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

    def data(epoch, start):
        return range(5)

    training = Training(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=123.0),
        schedule=schedule,
        epochs=2,
        batches=data,
        step=lambda _: figures(module.weight.sum()),
        save=lambda *_: None,
    )
    history = run(training, SILENT, checkpoint=None)
    assert module.weight.item() == pytest.approx(-sum(schedule(step) for step in range(10)), rel=1e-5)
    assert history["lr"] == [schedule(4), schedule(9)]


# Resume.


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_killed_in_the_middle_of_an_epoch(kind):
    whole, saved = training_of(kind), []
    history = run(whole, SILENT, checkpoint=None)
    killed = training_of(kind, saved=saved)

    def data(epoch, start):
        for i, batch in enumerate(batches(epoch, start), start):
            if (epoch, i) == (3, 1):
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        run(replace(killed, batches=data), SILENT, checkpoint=None)
    assert len(saved) == 3 * STEPS + 1
    progress, resumed = Recorder(), training_of(kind, seed=5)
    assert run(resumed, progress, checkpoint=saved[-1]) == history
    assert weights_to_bytes(resumed.module) == weights_to_bytes(whole.module)
    assert [task[1:] for task in progress.started] == [(EPOCHS, 3)]
    assert sum(steps for steps, _ in progress.advanced) == 3
    assert progress.said == []


def with_figures(training):
    """A figure of every step, a score of every epoch."""

    def step(batch):
        value = training.module.step(batch)
        return replace(value, figures={"mean": batch.mean(), "seen": training.module.seen.double()})

    return replace(
        training,
        step=step,
        scores={"weight": lambda: training.module.layer.weight.sum().item()},
    )


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_resumed_after_any_step_equals_uninterrupted_to_the_byte(kind):
    saved = []
    whole = with_figures(training_of(kind, saved=saved))
    history = run(whole, SILENT, checkpoint=None)
    assert len(saved) == EPOCHS * STEPS
    assert [epoch_of(checkpoint) for checkpoint in saved] == [(i + 1) // STEPS for i in range(EPOCHS * STEPS)]
    assert len({len(checkpoint) for checkpoint in saved}) == 1
    for k in (0, 1, 2, 3, 5, 7, EPOCHS * STEPS - 2):
        again = []
        resumed = with_figures(training_of(kind, seed=99, saved=again))
        assert run(resumed, SILENT, checkpoint=saved[k]) == history
        assert weights_to_bytes(resumed.module) == weights_to_bytes(whole.module)
        assert again == saved[k + 1 :]


def test_a_resumed_epoch_asks_only_for_the_batches_that_are_left():
    saved, asked = [], []
    run(with_figures(training_of("sgd", saved=saved)), SILENT, checkpoint=None)

    def data(epoch, start=0):
        asked.append((epoch, start))
        return batches(epoch, start)

    resumed = replace(with_figures(training_of("sgd")), batches=data)
    run(resumed, SILENT, checkpoint=saved[STEPS + 1])
    assert asked == [(1, 2), (2, 0), (3, 0), (4, 0), (5, 0)]


def test_figures_of_steps_are_averaged_and_scores_taken_after_the_epoch():
    training = with_figures(training_of("sgd", epochs=2))
    history = run(training, SILENT, checkpoint=None)
    assert history["seen"] == [2.0, 5.0]  # steps 1 to 3, then 4 to 6
    means = [torch.stack([b.mean() for b in batches(epoch)]).double().mean().item() for epoch in (0, 1)]
    assert history["mean"] == pytest.approx(means)
    assert history["weight"][-1] == pytest.approx(training.module.layer.weight.sum().item())


def test_a_score_that_another_run_took_is_not_a_number_where_this_one_did_not():
    saved = []
    run(training_of("sgd", saved=saved), SILENT, checkpoint=None)
    history = run(with_figures(training_of("sgd")), SILENT, checkpoint=saved[3 * STEPS - 1])
    assert np.isnan(history["weight"][:3]).all()
    assert np.isfinite(history["weight"][3:]).all()


def test_slow_checkpoints_are_farther_apart(monkeypatch):
    """A step takes a second and a checkpoint four: with a share of a twentieth there are 80 seconds between them."""
    now, saved = [0.0], []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 10.0)

    def save(checkpoint, history):
        saved.append(now[0])
        now[0] += 4

    training = replace(with_figures(training_of("sgd", epochs=60)), save=save)
    inner = training.step

    def step(batch):
        now[0] += 1
        return inner(batch)

    run(replace(training, step=step, schedule=Schedule(1e-9, 1, 60 * STEPS)), SILENT, checkpoint=None)
    assert saved[0] == 11
    assert saved[1] - saved[0] == pytest.approx(4 + 10 + 4 / loop.CHECKPOINT_SHARE, abs=1.1)


def test_killed_after_the_last_checkpoint_has_nothing_left_to_do():
    saved = []
    whole = training_of("adam", saved=saved)
    history = run(whole, SILENT, checkpoint=None)

    def data(epoch, start):
        raise AssertionError("no epoch is left")

    resumed = training_of("adam", seed=3, data=data)
    assert run(resumed, SILENT, checkpoint=saved[-1]) == history
    assert weights_to_bytes(resumed.module) == weights_to_bytes(whole.module)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_checkpoints_have_one_size(kind):
    saved = []
    run(training_of(kind, saved=saved, epochs=12), SILENT, checkpoint=None)
    assert len(saved) == 12 * STEPS
    assert len({len(checkpoint) for checkpoint in saved}) == 1


def test_checkpoints_are_written_when_there_is_enough_to_lose(monkeypatch):
    """Seven seconds an epoch, and checkpoints for more than twenty."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 20.0)
    saved = []
    training = training_of("adam", saved=saved, epochs=10)

    def record(epoch, figures):
        now[0] += 7

    run(replace(training, record=record), SILENT, checkpoint=None)
    assert [epoch_of(checkpoint) for checkpoint in saved] == [3, 6, 9, 10]


def test_no_checkpoint_is_epoch_0():
    assert epoch_of(None) == 0


# History and refusals.


def test_history_is_the_mean_loss_and_the_last_rate_of_every_epoch():
    values, progress = itertools.count(1), Recorder()
    module = nn.Linear(1, 1)

    def step(batch):
        return Step(module.weight.sum() * 0 + next(values), 100.0, 1)

    training = Training(
        module=module,
        optimizer=torch.optim.Adam(module.parameters()),
        schedule=Schedule(0.1, 2, 4 * STEPS),
        epochs=4,
        batches=lambda epoch, start: range(STEPS),
        step=step,
        save=lambda *_: None,
    )
    history = run(training, progress, checkpoint=None)
    assert history["loss"] == [2.0, 5.0, 8.0, 11.0]
    assert history["lr"] == [Schedule(0.1, 2, 12)(step) for step in (2, 5, 8, 11)]
    assert [task[1:] for task in progress.started] == [(4, 0)]
    assert [steps for steps, _ in progress.advanced] == [0, 0, 0, 1] * 4
    assert progress.advanced[0][1] == "step 1 of 3"
    assert progress.advanced[7][1] == "loss 5.0000 (chance 100.00)"
    assert progress.advanced[8][1] == "loss 5.0000 (chance 100.00); step 1 of 3"
    assert progress.said == []


def test_every_figure_of_every_epoch_is_kept_and_recorded():
    recorded = []
    training = replace(training_of("adam"), record=lambda epoch, figures: recorded.append((epoch, dict(figures))))
    history = run(training, SILENT, checkpoint=None)
    assert set(history) == {
        *("loss", "chance", "lr", "gradient_norm"),
        *("alignment", "uniformity", "rank", "per_second", "waiting"),
    }
    assert [epoch for epoch, _ in recorded] == list(range(EPOCHS))
    for name, values in history.items():
        assert values == [figures[name] for _, figures in recorded]
    norms = [p.grad.norm().item() for p in training.module.parameters()]
    assert history["gradient_norm"][-1] == pytest.approx(math.hypot(*norms))


def test_speed_and_waiting_are_measured(monkeypatch):
    """Batches that take long to make, steps that take none: all of the time is waiting."""
    monkeypatch.setattr(loop, "time", time)
    training = training_of("sgd", epochs=1)

    def slow(epoch, start):
        for batch in batches(epoch):
            time.sleep(0.05)
            yield batch

    history = run(replace(training, batches=slow), SILENT, checkpoint=None)
    assert history["waiting"][0] > 0.5
    # the first batch is begun before the clock of the epoch is
    assert 0 < history["per_second"][0] < 8 * STEPS / (0.05 * (STEPS - 1))


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

    def step(batch):
        good = training.module.step(batch)
        return replace(good, loss=good.loss * bad) if training.module.seen == 3 * STEPS else good

    with pytest.raises(Diverged, match="in epoch 3") as caught:
        run(replace(training, step=step), SILENT, checkpoint=None)
    assert "`lr`" in caught.value.hint
    assert "`redo=True`" in caught.value.hint  # another rate is another recipe
    assert [epoch_of(checkpoint) for checkpoint in saved] == [0, 0, 1, 1, 1, 2, 2, 2]


def test_a_checkpoint_of_something_else_is_a_mismatch():
    saved = []
    run(training_of("adam", saved=saved, width=7), SILENT, checkpoint=None)
    with pytest.raises(Mismatch, match=r"(?s)does not fit: .*layer\.weight") as caught:
        run(training_of("adam"), SILENT, checkpoint=saved[0])
    assert "`redo=True`" in caught.value.hint


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


# Warnings.


def said_in(states, epochs):
    """What is said where an epoch is "x" (nothing learnt), "c" (collapsed) or "." (well)."""
    said = []
    warnings = loop._Warnings(SimpleNamespace(say=said.append), epochs)
    for epoch, state in enumerate(states, start=1):
        warnings.hear({"x": "nothing learnt: 5", "c": "collapsed: 1", ".": ""}[state], epoch, f"loss {epoch}")
    return said


def test_a_warning_is_taken_back_when_it_is_no_longer_true():
    assert said_in("..x.", 4) == ["warning: nothing learnt: 5", "no longer so in epoch 4: nothing learnt; now loss 4"]
    assert said_in("xc...", 100) == ["warning: nothing learnt: 5", "warning: collapsed: 1"]
    assert said_in("xc" + 10 * ".", 100)[2:] == ["no longer so in epoch 12: nothing learnt, collapsed; now loss 12"]
    assert said_in("x" + 3 * ".", 100) == ["warning: nothing learnt: 5"]
    assert said_in("xxx", 3) == ["warning: nothing learnt: 5"]
    assert said_in("...", 3) == []


def test_warnings_do_not_flicker():
    assert len(said_in("x....x...." * 20, 200)) == 2
    assert said_in("x" + 20 * "." + 20 * "x" + 159 * ".", 200)[2] == "warning: nothing learnt: 5"


def test_a_long_training_says_its_price_once_after_its_first_steps(monkeypatch):
    def told(step_seconds, total):
        now, progress = [0.0], Recorder()
        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
        price = loop._Price(SimpleNamespace(schedule=Schedule(1.0, 1, total)), progress)
        for number in range(total):
            now[0] += 7.0 if number < 3 else step_seconds  # warming up is slow
            price.step(number, torch.zeros(()))
        return progress.said

    assert told(0.5, 100) == ["87 steps to go at 500 ms each: about 44 s"]
    assert told(2.0, 1013) == ["1,000 steps to go at 2,000 ms each: about 33 min"]
    assert told(0.01, 100) == []
    assert told(5.0, 12) == []


def test_a_run_hears_its_price(monkeypatch):
    ticking, progress = itertools.count(), Recorder()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(ticking))))
    run(training_of("adam"), progress, checkpoint=None)
    (line,) = [line for line in progress.said if "steps to go" in line]
    assert line.startswith(f"{EPOCHS * STEPS - 13} steps to go")


@pytest.mark.parametrize(("seconds", "words"), [(12.3, "12 s"), (150, "2 min"), (5940, "99 min"), (90_000, "25.0 h")])
def test_durations_in_words(seconds, words):
    assert loop._duration(seconds) == words
