from __future__ import annotations

import numpy as np

from gigacli.config.probe import ProbeConfig
from gigacli.probing.budgets import DRAWS, draw_shots, make_budgets
from gigacli.probing.scores import Fold, interval, score_interval
from gigacli.probing.splits import make_splits

LABELS = np.array(["a", "b", "b"] * 20)
SPLITS, _ = make_splits(LABELS, None, folds=4)


def test_every_class_has_so_many_labels_in_every_draw():
    draws = list(draw_shots(SPLITS, LABELS, 5, seed=0))
    assert len(draws) == DRAWS == 50
    for i, draw in enumerate(draws):
        assert np.unique(LABELS[draw.train], return_counts=True)[1].tolist() == [5, 5]
        assert np.isin(draw.train, SPLITS[i % 4].train).all()
        assert draw.test is SPLITS[i % 4].test
        assert (draw.pool, draw.draw_of) == (45, i % 4)
    assert len({draw.train.tobytes() for draw in draws}) == 50
    again = draw_shots(SPLITS, LABELS, 5, seed=0)
    assert [draw.train.tolist() for draw in again] == [draw.train.tolist() for draw in draws]
    for small, large in zip(draw_shots(SPLITS, LABELS, 2, seed=0), draws, strict=True):
        assert np.isin(small.train, large.train).all()


def test_more_splits_than_draws_are_drawn_from_once():
    many = SPLITS * 20
    assert len(list(draw_shots(many, LABELS, 1, seed=0))) == 80


def test_budgets_that_cannot_be_met_are_said():
    config = ProbeConfig(shots=(1, 20), fraction=(0.5,), n_train=(10, 50))
    budgets, short, notes = make_budgets(SPLITS, LABELS, config)
    assert list(budgets) == ["50 %", "10", "50", "1 per class", "20 per class"]
    assert [len(budget) for budget in budgets.values()] == [4, 4, 4, 50, 50]
    assert len(short) == 2
    assert "20 labels per class were asked for, but a split has only 15 of one" in short[1]
    assert notes[0] == "1 labels per class: 50 draws from the training sides of 4 splits"
    assert list(make_budgets(SPLITS, LABELS, ProbeConfig())[0]) == ["all"]


def test_draws_from_one_split_count_as_one_in_an_interval():
    draws = list(draw_shots(SPLITS, LABELS, 5, seed=0))
    scores = np.random.default_rng(0).uniform(size=50)
    folds = [Fold(draw, np.zeros((15, 2)), {}, score) for draw, score in zip(draws, scores, strict=True)]
    means = [scores[i::4].mean() for i in range(4)]
    np.testing.assert_allclose(score_interval(folds), interval(means, n_train=45, n_test=15))
