"""Another cohort: what is chosen on one is judged on the other, and how sure that is."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gigacli.errors import InvalidInput
from gigacli.probing.external import SCORES, Cohort, bootstrap, ends, score_external
from gigacli.probing.heads import fit_of
from gigacli.probing.kinds import KINDS
from gigacli.probing.truth import classes_of, levels_of, numbers_of, times_of
from gigacli.randomness import keyed_rng

PAPER = fit_of("classification", "linear", C=10.0)


def cohort(n, seed, *, classes=2, shift=0.0, patients=None):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    vectors = rng.normal(size=(n, 8)).astype(np.float32) + np.float32(shift)
    vectors[:, :classes] += np.eye(classes)[y]
    groups = None if patients is None else np.array([f"{seed}-{i % patients}" for i in range(n)])
    return Cohort(vectors, classes_of(np.array(list("abc"))[y]), groups)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("c", [10.0, "auto"])
@pytest.mark.parametrize("scale", [False, True])
def test_the_score_is_that_of_a_fit_to_the_first_cohort(classes, c, scale):
    train, test = cohort(90, 0, classes=classes, patients=30), cohort(70, 1, classes=classes, patients=35)
    fit = fit_of("classification", "linear", C=c, scale=scale, seed=2)
    found, fitted = score_external(train, test, fit), fit(train.vectors, train.truth, train.groups)
    said = fitted.predict(test.vectors)
    np.testing.assert_array_equal(found.fold.predicted, said)
    assert found.fold.C == fitted.C
    scores = said[:, 1] if classes == 2 else said
    assert found.fold.score == pytest.approx(roc_auc_score(test.truth.y, scores, multi_class="ovr"))
    assert found.low < found.fold.score < found.high
    assert found.drawn.shape == (1000,)
    again = score_external(train, test, fit)
    assert (again.low, again.high) == (found.low, found.high)


def test_nothing_is_chosen_on_the_second_cohort():
    """Other labels and another place of the second cohort change neither C nor what is said of a slide of it."""
    train, test = cohort(80, 0, patients=40), cohort(60, 1)
    fit = fit_of("classification", "linear", C="auto", scale=True)
    first = score_external(train, test, fit, draws=10)
    turned = Cohort(np.concatenate([test.vectors[:30], 100 + test.vectors[30:]]), test.truth.take(np.arange(60)[::-1]))
    second = score_external(train, turned, fit, draws=10)
    assert second.fold.C == first.fold.C
    np.testing.assert_array_equal(second.fold.predicted[:30], first.fold.predicted[:30])


@pytest.mark.parametrize("task", ["regression", "ordinal", "survival"])
def test_other_tasks_are_judged_by_their_own_metric(task):
    def known(n, seed):
        one, rng = cohort(n, seed, patients=n // 2), np.random.default_rng(seed)
        number = one.vectors[:, 0] + 0.3 * rng.normal(size=n)
        if task == "regression":
            return Cohort(one.vectors, numbers_of([str(v) for v in number], column="age"), one.groups)
        if task == "ordinal":
            return Cohort(one.vectors, levels_of([str(v) for v in np.digitize(number, [0, 1])], column="g"), one.groups)
        times, events = [str(v) for v in np.exp(-number)], ["1", "0", "1", "1"] * (n // 4)
        return Cohort(one.vectors, times_of(times, events, time="t", event="e"), one.groups)

    train, test = known(80, 0), known(60, 1)
    found = score_external(train, test, fit_of(task, "linear"), draws=100)
    kind = KINDS[task]
    assert found.fold.score == pytest.approx(SCORES[task](test.truth, found.fold.predicted))
    assert found.fold.score == kind.measure(test.truth, found.fold.predicted, train.truth)[kind.metric]
    assert found.fold.score > kind.chance + 0.2
    assert found.low < found.fold.score < found.high


def test_the_draws_are_those_of_a_loop():
    values, groups = np.random.default_rng(0).normal(size=30), np.array([f"p{i // 4}" for i in range(30)])
    found = bootstrap(lambda drawn: float(values[drawn].mean()), groups, draws=200, seed=5)
    rng, expected = keyed_rng(5, "bootstrap"), []
    for _ in range(200):
        names = [f"p{i}" for i in rng.integers(8, size=8)]
        expected.append(np.mean([v for name in names for v in values[groups == name]]))
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(ends(found), np.quantile(expected, [0.025, 0.975]))


def test_the_interval_covers_the_truth_and_patients_count_not_slides():
    """Of a mean over patients with four equal slides each: slides drawn one by one would be too sure."""
    rng, inside, narrow = np.random.default_rng(0), 0, 0
    for trial in range(60):
        values = np.repeat(rng.normal(size=40), 4)
        mean = lambda drawn, values=values: float(values[drawn].mean())  # noqa: E731
        low, high = ends(bootstrap(mean, np.repeat(np.arange(40), 4).astype(str), draws=200, seed=trial))
        inside += low < 0 < high
        low, high = ends(bootstrap(mean, np.arange(160).astype(str), draws=200, seed=trial))
        narrow += low < 0 < high
    assert inside >= 52
    assert narrow < 48


def test_too_few_patients_have_no_interval():
    train, rare = cohort(40, 0, patients=20), cohort(40, 1)
    found = score_external(train, Cohort(rare.vectors, classes_of(["b"] + ["a"] * 39)), PAPER)
    assert (found.low, found.high) == (None, None)
    assert 500 < np.isfinite(found.drawn).sum() < 750  # a third of all draws are without the one slide
    assert ends(bootstrap(lambda drawn: 0.0, ["p"] * 5)) == (None, None)


def test_cohorts_that_do_not_go_together_are_refused():
    train, test = cohort(40, 0), cohort(40, 1)
    with pytest.raises(InvalidInput, match="has the classes a, b; the test cohort has a, b, c"):
        score_external(train, cohort(40, 1, classes=3), PAPER)
    with pytest.raises(InvalidInput, match="vectors of 8 values, and 5 in the test cohort"):
        score_external(train, Cohort(test.vectors[:, :5], test.truth), PAPER)
    with pytest.raises(InvalidInput, match="not finite"):
        score_external(train, Cohort(np.full_like(test.vectors, np.nan), test.truth), PAPER)
