from __future__ import annotations

import numpy as np
import pytest

from gigacli.errors import InvalidInput
from gigacli.probing.heads import fit_of
from gigacli.probing.linear import score
from gigacli.probing.model import score_splits
from gigacli.probing.splits import make_splits
from gigacli.probing.truth import classes_of, numbers_of


def cohort(n=60, classes=2, features=8):
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    vectors = rng.normal(size=(n, features)).astype(np.float32)
    vectors[np.arange(n), y] += 1.5
    return vectors, np.array([f"class {c}" for c in y])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", ["linear", "mlp", "knn", "simpleshot"])
def test_every_method_finds_classes(method, classes):
    vectors, labels = cohort(classes=classes)
    splits, _ = make_splits(labels, None, folds=3)
    fit = fit_of("classification", method, C=10.0)
    folds = score_splits(vectors, classes_of(labels), splits, fit)
    assert np.mean([fold.score for fold in folds]) > 0.75
    for fold in folds:
        np.testing.assert_allclose(fold.predicted.sum(axis=1), 1, atol=1e-6)
        assert fold.predicted.shape == (len(fold.split.test), classes)
    again = score_splits(vectors, classes_of(labels), splits, fit)
    assert [fold.score for fold in again] == [fold.score for fold in folds]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_simpleshot_is_the_nearest_class_mean_by_cosine():
    vectors, labels = cohort()
    train, test = vectors[:40].astype(np.float64), vectors[40:].astype(np.float64)
    model = fit_of("classification", "simpleshot")(vectors[:40], classes_of(labels[:40]), None)
    centre = train.mean(axis=0)
    means = [unit(np.mean([unit(v - centre) for v in train[labels[:40] == c]], axis=0)) for c in ("class 0", "class 1")]
    nearest = [int(np.argmax([unit(v - centre) @ mean for mean in means])) for v in test]
    assert model.predict(vectors[40:]).argmax(axis=1).tolist() == nearest
    one_each = fit_of("classification", "simpleshot")(vectors[:2], classes_of(labels[:2]), None)
    assert one_each.predict(vectors[:2]).argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_knn_asks_as_many_neighbours_as_the_root(kind):
    vectors, labels = cohort()
    numbers = vectors[:, 0] + vectors[:, 1]
    truth = classes_of(labels) if kind == "classification" else numbers_of([str(v) for v in numbers], column="age")
    model = fit_of(kind, "knn")(vectors[:49], truth.take(np.arange(49)), None)
    centred = unit(vectors.astype(np.float64) - vectors[:49].mean(axis=0, dtype=np.float64))
    nearest = np.argsort(-centred[49:] @ centred[:49].T, axis=1)[:, :7]
    np.testing.assert_allclose(model.predict(vectors[49:])[:, -1], truth.y[nearest].mean(axis=1))


def test_a_perceptron_finds_numbers():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 6)).astype(np.float32)
    y = 100 + 20 * vectors[:, 0] * vectors[:, 1]  # nothing a line could find
    truth = numbers_of([str(v) for v in y], column="age")
    splits, _ = make_splits(truth.strata, None, folds=2)
    scores = {m: score_splits(vectors, truth, splits, fit_of("regression", m)) for m in ("mlp", "linear")}
    assert np.mean([fold.score for fold in scores["mlp"]]) > 0.05 > np.mean([fold.score for fold in scores["linear"]])


def test_a_method_that_makes_no_sense_is_refused():
    with pytest.raises(InvalidInput, match="'simpleshot' does not predict regression"):
        fit_of("regression", "simpleshot")
    with pytest.raises(InvalidInput, match="'abmil' does not predict classification from vectors"):
        fit_of("classification", "abmil")


@pytest.mark.parametrize("c", [10.0, "auto"])
def test_vectors_are_changed_by_what_the_training_side_says_alone(c):
    """A transform that centres: by hand the same, shown the training side alone, and the test side changes nothing."""
    vectors, labels = cohort()
    splits, _ = make_splits(labels, None, folds=3)
    shown = []

    def centring(train, places):
        shown.append(places)
        mean = train.mean(axis=0)
        return lambda some, _: some - mean

    fit = fit_of("classification", "linear", C=c)
    truth = classes_of(labels)
    folds = score_splits(vectors, truth, splits, fit, transform=centring, augmented=vectors[:, None] + 1)
    assert [places.tolist() for places in shown] == [split.train.tolist() for split in splits]
    for split, fold in zip(splits, folds, strict=True):
        [by_hand] = score(vectors - vectors[split.train].mean(axis=0), labels, [split], C=c)
        np.testing.assert_allclose(by_hand.predicted, fold.predicted, atol=1e-6)
        moved = vectors.copy()
        moved[split.test[1:]] += 100
        [other] = score_splits(moved, truth, [split], fit, transform=centring)
        np.testing.assert_array_equal(other.predicted[0], fold.predicted[0])
