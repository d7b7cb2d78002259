"""Attention MIL from scratch."""

import numpy as np
import pytest
import torch

from gigacli.nn import abmil
from gigacli.nn.abmil import AttentionMIL, probabilities, train

CPU = torch.device("cpu")


def cohort(seed=0, bags=60):
    """Bags of 20-40 tiles; in those of the second class, whose mean is no different, two tiles lie far out."""
    rng = np.random.default_rng(seed)
    y = np.arange(bags) % 2
    made = []
    for c in y:
        tiles = rng.standard_normal((rng.integers(20, 40), 8))
        tiles[0, 0], tiles[1, 0] = (6, -6) if c else (0, 0)
        made.append(tiles.astype(np.float16))
    return made, y


def test_it_learns_what_the_mean_of_tiles_does_not_hold():
    bags, y = cohort()
    model = train(bags[:40], y[:40], classes=2, seed=0, device=CPU)
    found = probabilities(model, bags[40:])
    assert found.shape == (20, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == y[40:]).mean() > 0.8


def test_the_network_is_the_equation():
    """Equation 9 of Ilse et al. for one bag, in plain numpy."""
    torch.manual_seed(0)
    model = AttentionMIL(5, 3, mean=torch.zeros(5), deviation=torch.ones(5)).double()
    tiles = torch.randn(1, 7, 5, dtype=torch.float64)
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    h = np.maximum(linear("embed.0", tiles[0].numpy()), 0)
    gated = np.tanh(linear("content.0", h)) / (1 + np.exp(-linear("gate.0", h)))
    a = np.exp(linear("attend", gated))
    expected = linear("classify", (a / a.sum() * h).sum(axis=0))
    there = torch.ones(1, 7, dtype=torch.bool)
    np.testing.assert_allclose(model(tiles, there)[0].detach().numpy(), expected, rtol=1e-9)


def test_what_fills_a_bag_up_does_not_count():
    model = AttentionMIL(4, 2, mean=torch.zeros(4), deviation=torch.ones(4))
    tiles = torch.randn(2, 6, 4)
    there = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    alone = model(tiles[1:, :3], there[1:, :3])
    tiles[1, 3:] = 1000
    torch.testing.assert_close(model(tiles, there)[1:], alone)


def test_the_same_seed_gives_the_same_weights(monkeypatch):
    monkeypatch.setattr(abmil, "LEAST_STEPS", 5)
    monkeypatch.setattr(abmil, "EPOCHS", 1)
    bags, y = cohort(bags=20)
    state = torch.get_rng_state()
    first, again, other = (train(bags, y, classes=2, seed=s, device=CPU).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classify.weight"], other["classify.weight"])
    assert torch.equal(torch.get_rng_state(), state)


def test_features_are_standardised_on_the_training_side(monkeypatch):
    monkeypatch.setattr(abmil, "LEAST_STEPS", 1)
    monkeypatch.setattr(abmil, "EPOCHS", 1)
    bags = [np.full((4, 2), [1, 50], np.float16), np.full((8, 2), [3, 50], np.float16)]
    model = train(bags, np.array([0, 1]), classes=2, seed=0, device=CPU)
    assert model.mean.tolist() == [2, 50]
    assert model.deviation.tolist() == pytest.approx([1, 1e-6])
    assert np.isfinite(probabilities(model, bags)).all()
