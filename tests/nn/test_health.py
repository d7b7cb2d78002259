"""Health against its formulas, transcribed; warnings."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.nn.health import health_of, training_warning


def vectors(seed, n, c):
    return torch.randn(2 * n, c, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.integers(2, 7), st.integers(2, 20))
@settings(max_examples=40)
def test_the_formulas(seed, n, c):
    x = vectors(seed, n, c)
    units = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    found = health_of(x)
    alignment = np.mean([np.sum((units[i] - units[n + i]) ** 2) for i in range(n)])
    spread = [math.exp(-2 * np.sum((a - b) ** 2)) for a, b in itertools.combinations(units, 2)]
    singular = np.linalg.svd(units[:n], compute_uv=False)
    share = singular[singular > 1e-12] / singular.sum()
    assert found.alignment == pytest.approx(alignment, rel=1e-4)
    assert found.uniformity == pytest.approx(math.log(np.mean(spread)), rel=1e-4, abs=1e-5)
    assert found.rank == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=5e-3)


def test_extremes():
    alike = health_of(torch.ones(12, 5))
    assert alike.rank == pytest.approx(1, abs=0.02)
    assert [alike.alignment, alike.uniformity] == pytest.approx([0, 0], abs=1e-6)
    apart = health_of(torch.eye(8))
    assert apart.rank == pytest.approx(4, rel=1e-5)
    assert apart.alignment == pytest.approx(2)
    assert apart.uniformity == pytest.approx(-4)


def history(loss, rank, n):
    return {"loss": [loss] * n, "chance": [5.0] * n, "rank": [rank] * n}


@pytest.mark.parametrize(
    ("loss", "rank", "words"),
    [(4.0, 30.0, ""), (4.99, 30.0, "nothing has been learnt"), (6.0, 30.0, "nothing"), (5.0, 1.2, "collapsed")],
)
def test_what_is_wrong_is_said_in_words(loss, rank, words):
    warning = training_warning(history(loss, rank, 50), epochs=100)
    assert words in warning
    assert bool(warning) == bool(words)
    if warning:
        assert "`lr`" in warning


def test_every_training_begins_at_chance():
    assert training_warning(history(5.0, 1.0, 29), epochs=100) == ""
    assert training_warning(history(5.0, 1.0, 30), epochs=100) != ""
    assert training_warning({"loss": [5.0], "chance": [5.0]}, epochs=1) != ""  # where there are no vectors
    assert training_warning(history(5.0, 30.0, 79), epochs=100, warmup=0.5) == ""
    assert training_warning(history(5.0, 30.0, 80), epochs=100, warmup=0.5) != ""
    assert training_warning(history(5.0, 30.0, 99), epochs=100, warmup=1.0) == ""
    assert training_warning(history(5.0, 30.0, 100), epochs=100, warmup=1.0) != ""  # at its end whatever the schedule


def test_a_loss_is_judged_over_a_tenth_of_the_training():
    """One epoch beyond the others, up or down, says nothing."""
    learning, failing = history(4.0, 30.0, 50), history(5.0, 30.0, 50)
    learning["loss"][-1], failing["loss"][-1] = 5.5, 4.6
    assert training_warning(learning, epochs=100) == ""
    assert "nothing has been learnt: the loss is 4.960" in training_warning(failing, epochs=100)


def test_a_training_that_learns_late_is_not_warned_of():
    """As the demo's: above chance until 15 % of the training, below it from 25 % on."""
    share = np.arange(400) / 400
    loss = 5 * np.interp(share, [0, 0.1, 0.15, 0.25, 1], [1, 1.035, 1.03, 0.97, 0.86])
    whole = {"loss": loss.tolist(), "chance": [5.0] * 400, "rank": [20.0] * 400}
    for n in range(1, 401):
        assert training_warning({k: v[:n] for k, v in whole.items()}, epochs=400, warmup=0.05) == ""
    stuck = {**whole, "loss": [5.0 * 1.02] * 400}
    said = [n for n in range(1, 401) if training_warning({k: v[:n] for k, v in stuck.items()}, epochs=400, warmup=0.05)]
    assert said == list(range(140, 401))
