"""How far vectors move when slides are seen under other augmentations."""

from dataclasses import replace

import numpy as np
import pytest

from gigacli.probing import robust
from gigacli.probing.linear import score
from gigacli.probing.robust import robustness
from gigacli.probing.splits import make_splits


@pytest.mark.parametrize("scale", [False, True])
def test_found_and_moved_are_what_brute_force_says(scale, monkeypatch):
    monkeypatch.setattr(robust, "AT_ONCE", 7)
    rng = np.random.default_rng(0)
    clean = rng.standard_normal((30, 4)) * [1, 2, 3, 9]
    augmented = clean[:, None] + rng.standard_normal((30, 3, 4))
    one = clean / clean.std(axis=0) if scale else clean
    other = augmented / clean.std(axis=0) if scale else augmented
    apart = np.mean([np.linalg.norm(a - b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j])
    nearest = [[np.linalg.norm(one - other[i, a], axis=1).argmin() == i for a in range(3)] for i in range(30)]
    moved = np.linalg.norm(other - one[:, None], axis=2).mean() / apart
    result = robustness(clean, augmented, scale=scale)
    assert result.found == pytest.approx(np.mean(nearest))
    assert result.moved == pytest.approx(moved)


def test_what_does_not_move_is_found():
    clean = np.random.default_rng(1).standard_normal((20, 5)).astype(np.float32)
    result = robustness(clean, np.repeat(clean[:, None], 2, axis=1), scale=False)
    assert (result.found, result.moved) == (1.0, pytest.approx(0, abs=1e-6))


@pytest.mark.parametrize("c", [10.0, "auto"])
@pytest.mark.parametrize("scale", [False, True])
def test_test_sides_are_judged_by_the_classifier_of_slides_as_they_are(c, scale):
    rng = np.random.default_rng(2)
    labels = np.array(["a", "b"] * 30)
    clean = rng.standard_normal((60, 4)) + (labels == "b")[:, None]
    splits, _ = make_splits(labels, None, folds=3)
    options = {"C": c, "scale": scale}
    same = score(clean, labels, splits, augmented=clean[:, None], **options)
    plain = score(clean, labels, splits, **options)
    assert [fold.augmented[0] for fold in same] == [(fold.auc, fold.auc) for fold in plain]
    assert all(fold.augmented == () for fold in plain)
    noise = score(clean, labels, splits, augmented=rng.standard_normal((60, 2, 4)), **options)
    assert [fold.auc for fold in noise] == [fold.auc for fold in plain]
    assert np.mean([fold.augmented for fold in noise], axis=(0, 1))[1] < 0.7 < np.mean([fold.auc for fold in plain])


def test_slides_that_are_not_seen_otherwise_do_not_count():
    rng = np.random.default_rng(4)
    labels = np.array(["a", "b"] * 30)
    clean = rng.standard_normal((60, 4)) + (labels == "b")[:, None]
    moved = clean + 0.3 * rng.standard_normal((60, 4))
    some = np.arange(60) % 3 > 0
    seen = np.where(some[:, None], moved, np.nan)[:, None]  # (60, 1, 4)
    result, every = robustness(clean, seen, scale=False), robustness(clean, moved[:, None], scale=False)
    assert (result.slides, every.slides) == (40, 60)
    distance = np.linalg.norm(clean[:, None] - clean, axis=-1)
    near = np.linalg.norm(moved[some, None] - clean, axis=-1).argmin(axis=1)
    assert result.found == pytest.approx((near == np.flatnonzero(some)).mean())
    by_hand = np.linalg.norm(moved - clean, axis=1)[some].mean() / (distance.sum() / (60 * 59))
    assert result.moved == pytest.approx(by_hand)

    splits, _ = make_splits(labels, None, folds=3)
    for fold, split in zip(score(clean, labels, splits, augmented=seen, C=10.0, scale=False), splits, strict=True):
        inside = replace(split, test=split.test[some[split.test]])
        [alone] = score(clean, labels, [inside], augmented=moved[:, None], C=10.0, scale=False)
        assert fold.augmented == alone.augmented
        assert fold.augmented[0][0] == alone.auc
    nobody = score(clean, labels, splits, augmented=np.full((60, 1, 4), np.nan), C=10.0, scale=False)
    assert np.isnan([fold.augmented for fold in nobody]).all()
