from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from gigacli.probing.linear import score
from gigacli.probing.permutations import holm, null_aucs, null_scores, p_value, permuted
from gigacli.probing.splits import make_splits


@st.composite
def cohorts(draw):
    """Labels of slides and their patients, some of them with slides of several classes."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=15))
    patients = np.repeat(np.arange(len(sizes)), sizes).astype(str)
    pure = draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    labels = []
    for size, one in zip(sizes, pure, strict=True):
        mine = draw(st.lists(st.sampled_from("abc"), min_size=size, max_size=size))
        labels += [mine[0]] * size if one else mine
    order = draw(st.permutations(range(len(labels))))
    return np.array(labels)[list(order)], patients[list(order)]


@settings(deadline=None, max_examples=100)
@given(cohorts(), st.integers(0, 2**31))
def test_patients_exchange_their_labels(cohort, seed):
    labels, patients = cohort
    order = permuted(labels, patients, np.random.default_rng(seed))
    after = labels[order]

    def described(names):
        """Of every patient its labels; of those with one label how many, of the others what they are."""
        of = [names[patients == p].tolist() for p in dict.fromkeys(patients.tolist())]
        pure = Counter(mine[0] for mine in of if len(set(mine)) == 1)
        return pure, Counter(tuple(sorted(mine)) for mine in of if len(set(mine)) > 1)

    assert described(after) == described(labels)
    for p in set(patients.tolist()):  # who has one label keeps one
        assert (len(set(labels[patients == p])) == 1) == (len(set(after[patients == p])) == 1)


def test_every_permutation_is_as_likely():
    """Four patients of one slide: 24 orders; without patients the same."""
    for patients in (list("wxyz"), None):
        rng = np.random.default_rng(0)
        values = np.array([0.5, 1.5, 2.5, 3.5])
        found = Counter(tuple(permuted(values, patients, rng).tolist()) for _ in range(4800))
        assert set(found) == set(permutations(range(4)))
        assert min(found.values()) > 140
        assert max(found.values()) < 260


def test_in_a_design_of_pairs_every_patient_keeps_one_of_each():
    labels, patients = np.array(["tumour", "normal"] * 10), np.repeat(np.arange(10), 2)
    after = labels[permuted(labels, patients, np.random.default_rng(0))]
    assert all(set(after[patients == p]) == {"tumour", "normal"} for p in range(10))
    assert 0 < (after == labels).sum() < 20


def test_rows_of_values_stay_together():
    """Time and event go to another patient as one."""
    values = np.column_stack([np.repeat(np.arange(8.0), 2), np.repeat([0, 1] * 4, 2)])
    after = values[permuted(values, np.repeat(np.arange(8), 2), np.random.default_rng(1))]
    assert {tuple(row) for row in after.tolist()} == {tuple(row) for row in values.tolist()}
    assert (after[::2] == after[1::2]).all()


def sides_of(vectors, splits):
    return [(vectors[split.train], vectors[split.test]) for split in splits]


def test_the_score_of_the_true_labels_is_that_of_the_probe(monkeypatch):
    rng = np.random.default_rng(0)
    vectors, y = rng.standard_normal((40, 6)).astype(np.float32), np.tile([0, 1], 20)
    splits, _ = make_splits(y.astype(str), None, folds=4)
    probed = np.mean([fold.auc for fold in score(vectors, y.astype(str), splits, C=0.3)])
    monkeypatch.setattr("gigacli.probing.permutations.permuted", lambda values, *_: np.arange(len(values)))
    null = null_aucs(sides_of(vectors, splits), y, splits, [0.3] * 4, None, permutations=2, seed=0)
    assert null.tolist() == [probed] * 2
    assert p_value(float(probed), null) == 1.0


def test_more_permutations_begin_with_the_same():
    def value(order):
        return float(order[0])

    few = null_scores(value, np.arange(50), None, permutations=5, seed=3)
    assert null_scores(value, np.arange(50), None, permutations=9, seed=3)[:5].tolist() == few.tolist()
    assert null_scores(value, np.arange(50), None, permutations=5, seed=4).tolist() != few.tolist()


def noise(seed, *, slides):
    """Vectors in which slides of a patient are alike, and labels that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(24), slides)
    vectors = np.repeat(rng.standard_normal((24, 4)), slides, axis=0) + 0.3 * rng.standard_normal((24 * slides, 4))
    y = np.repeat(rng.permutation(np.tile([0, 1], 12)), slides)
    return vectors.astype(np.float32), y, patients


def of_noise(seed, *, exchanged):
    """The p-value of a quick probe of noise, patients of two slides; `exchanged` are patients or slides."""
    vectors, y, patients = noise(seed, slides=2)
    splits, _ = make_splits(y.astype(str), patients, folds=3, seed=seed)

    def nearest_mean(order):
        labels, aucs = y[order], []
        for split in splits:
            train, mine = vectors[split.train], labels[split.train]
            towards = train[mine == 1].mean(axis=0) - train[mine == 0].mean(axis=0)
            aucs.append(area(labels[split.test], vectors[split.test] @ towards))
        return np.mean(aucs)

    groups = patients if exchanged == "patients" else None
    return p_value(
        nearest_mean(np.arange(len(y))), null_scores(nearest_mean, y, groups, permutations=19, seed=seed + 1)
    )


def area(y, scores):
    above = scores[y == 1][:, None] - scores[y == 0]
    return ((above > 0) + 0.5 * (above == 0)).mean() if above.size else 0.5


def test_p_values_of_noise_are_uniform():
    """And they would not be, were slides exchanged in place of patients."""
    # p-values are multiples of 1 / 20: moved to the middle of their step they are compared with the uniform
    found = np.array([of_noise(seed, exchanged="patients") for seed in range(200)])
    assert kstest(found - 1 / 40, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(found <= 0.05) < 0.09
    wrong = np.array([of_noise(seed, exchanged="slides") for seed in range(200)])
    assert np.mean(wrong <= 0.05) > 0.11


def test_p_values_of_a_probe_of_noise_are_uniform():
    found = []
    for seed in range(40):
        vectors, y, patients = noise(seed, slides=1)
        splits, _ = make_splits(y.astype(str), patients, folds=3, seed=seed)
        probed = np.mean([fold.auc for fold in score(vectors, y.astype(str), splits, C=1.0)])
        null = null_aucs(sides_of(vectors, splits), y, splits, [1.0] * 3, patients, permutations=9, seed=seed)
        found.append(p_value(float(probed), null))
    assert kstest(np.array(found) - 1 / 20, "uniform").pvalue > 0.01


def test_what_is_there_is_found():
    vectors, y, patients = noise(0, slides=2)
    vectors[:, 0] += 2.0 * y
    splits, _ = make_splits(y.astype(str), patients, folds=4)
    null = null_aucs(sides_of(vectors, splits), y, splits, [1.0] * 4, patients, permutations=39, seed=0)
    probed = np.mean([fold.auc for fold in score(vectors, y.astype(str), splits, C=1.0)])
    assert p_value(float(probed), null) == 1 / 40
    assert abs(null.mean() - 0.5) < 0.1


def test_splits_that_lose_a_class_do_not_count():
    """Two patients a test side: some permutations leave one class there. All sides without one: chance."""
    vectors, y = np.arange(8.0)[:, None].astype(np.float32), np.array([0, 1] * 4)
    splits, _ = make_splits(y.astype(str), None, folds=4)
    null = null_aucs(sides_of(vectors, splits), y, splits, [1.0] * 4, None, permutations=200, seed=0)
    assert np.isfinite(null).all()
    assert null.min() >= 0
    assert null.max() <= 1


def test_p_values():
    assert p_value(0.9, [0.5] * 199) == 1 / 200
    assert p_value(0.5, [0.4, 0.5, 0.6]) == 3 / 4
    assert p_value(0.1, [0.4, 0.5, 0.6]) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_as_its_steps_do(values):
    """Step down: the smallest at alpha / n, the next at alpha / (n - 1), until one is not."""
    p, corrected = np.array(values), holm(values)
    assert (corrected >= p).all()
    for alpha in (0.01, 0.05, 0.2):
        rejected, order = set(), np.argsort(p, kind="stable")
        for step, i in enumerate(order.tolist()):
            if p[i] * (len(p) - step) > alpha:
                break
            rejected.add(i)
        assert set(np.flatnonzero(corrected <= alpha).tolist()) == rejected
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
