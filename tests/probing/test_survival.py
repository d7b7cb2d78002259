from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from gigacli.errors import InvalidInput, NotFound
from gigacli.probing import survival
from gigacli.probing.heads import fit_of
from gigacli.probing.kinds import KINDS
from gigacli.probing.model import score_splits
from gigacli.probing.splits import Split, make_splits
from gigacli.probing.survival import cox, fit_cox, halves, kaplan_meier, log_rank, measure_risks, require_survival
from gigacli.probing.truth import times_of


def known(time, event):
    return times_of([repr(float(t)) for t in time], [str(int(e)) for e in event], time="time", event="event")


def drawn(n=60, features=5, seed=7, *, ties=False):
    """Standardised vectors, and times until an event that depend on two of their values."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, features))
    vectors = (vectors - vectors.mean(0)) / vectors.std(0, ddof=1)
    time, end = rng.exponential(np.exp(-vectors[:, 0] + 0.5 * vectors[:, 1])), rng.exponential(1.5, n)
    seen = time <= end
    time = np.minimum(time, end)
    return vectors, known(np.ceil(4 * time) if ties else time, seen)


def test_cox_equals_lifelines():
    """Coefficients that CoxPHFitter(penalizer=p) of lifelines 0.30.3 gives for the same cohort; it cannot be a
    dependency of the tests, as it wants an older pandas."""
    vectors, truth = drawn()
    assert truth.event.sum() == 36
    for penalizer, expected in (
        (0.1, [0.549301981, -0.414675334, -0.161706285, 0.225779724, 0.036886076]),
        (1.0, [0.19552702, -0.202317502, -0.091980143, 0.083006059, -0.008955681]),
    ):
        weights, converged = cox(vectors, truth, C=1 / (60 * penalizer))
        np.testing.assert_allclose(weights, expected, atol=1e-6)
        assert converged


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(60, 5), (40, 60)])
def test_cox_equals_scikit_survival(shape, ties):
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    vectors, truth = drawn(*shape, ties=ties)
    for c in (0.01, 0.1, 1.0):
        theirs = CoxPHSurvivalAnalysis(alpha=1 / c, tol=1e-12).fit(vectors, Surv.from_arrays(truth.event, truth.y))
        np.testing.assert_allclose(cox(vectors, truth, C=c)[0], theirs.coef_, atol=1e-6)
        model = fit_cox(vectors, truth, None, C=c)
        np.testing.assert_allclose(model.predict(vectors)[:, 0], (vectors - vectors.mean(0)) @ theirs.coef_, atol=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_the_partial_likelihood_is_that_of_the_formula(ties):
    _, truth = drawn(n=15, ties=ties)
    scores = np.random.default_rng(0).normal(size=15)
    by_hand = -sum(scores[i] - np.log(np.exp(scores[truth.y >= truth.y[i]]).sum()) for i in np.flatnonzero(truth.event))
    risks = survival._Risks.of(truth)
    assert risks.loss(scores)[0] == pytest.approx(by_hand)
    assert check_grad(lambda s: risks.loss(s)[0], lambda s: risks.loss(s)[1], scores) < 1e-5
    assert np.isfinite(risks.loss(1000 * scores)[0])


def test_the_elastic_net_is_at_its_optimum():
    """No step away from it lowers the objective of glmnet: -log likelihood / n + alpha (l1 |w| + (1 - l1) w^2 / 2)."""
    vectors, truth = drawn()
    risks = survival._Risks.of(truth)
    model = fit_of("survival", "coxnet", alpha=0.07)(vectors, truth, None)
    x = (vectors - model.mean) / model.deviation

    def objective(w):
        return risks.loss(x @ w)[0] / len(x) + 0.07 * (0.5 * np.abs(w).sum() + 0.25 * (w @ w))

    best = model.weights[0, :-1]
    assert 0 < np.count_nonzero(best) < 5
    steps = 1e-3 * np.random.default_rng(0).normal(size=(200, 5))
    assert all(objective(best) <= objective(best + step) + 1e-7 for step in steps)


def concordance(truth, risk):
    """Harrell's c-index by its definition."""
    pairs, right = 0, 0.0
    for i in np.flatnonzero(truth.event):
        for j in np.flatnonzero((truth.y > truth.y[i]) | ((truth.y == truth.y[i]) & ~truth.event)):
            pairs += 1
            right += 0.5 if risk[i] == risk[j] else float(risk[i] > risk[j])
    return right / pairs


def test_metrics_of_risks():
    vectors, truth = drawn(n=120)
    test, train = truth.take(np.arange(60)), truth.take(np.arange(60, 120))
    risk = vectors[:60, 0].round(1)
    found = measure_risks(test, risk, train)
    assert found["c_index"] == pytest.approx(concordance(test, risk))
    assert found["c_index_uno"] == pytest.approx(found["c_index"], abs=0.1)
    assert 0.5 < found["auc_over_time"] <= 1
    turned = measure_risks(test, -risk, train)
    assert turned["c_index"] == pytest.approx(1 - found["c_index"])


def test_without_censoring_unos_index_is_harrells():
    vectors, truth = drawn(n=80)
    everyone = known(truth.y, np.ones(80))
    test, train = everyone.take(np.arange(40)), everyone.take(np.arange(40, 80))
    early = test.take(np.flatnonzero(test.y < train.y.max()))
    found = measure_risks(early, vectors[:40, 0][test.y < train.y.max()], train)
    assert found["c_index_uno"] == pytest.approx(found["c_index"])


def test_events_after_the_last_of_training_are_left_out_and_not_an_error():
    train = known([1, 2, 3, 4], [1, 0, 1, 0])
    late = measure_risks(known([5, 6, 7], [1, 1, 0]), np.array([3.0, 2.0, 1.0]), train)
    assert late["c_index"] == 1
    assert np.isnan(late["c_index_uno"])
    assert np.isnan(late["auc_over_time"])
    some = measure_risks(known([2.5, 6, 7], [1, 1, 0]), np.array([3.0, 2.0, 1.0]), train)
    assert some["c_index_uno"] == 1


def test_halves_and_their_log_rank_test_equal_lifelines():
    """p of logrank_test, and survival of KaplanMeierFitter, of lifelines 0.30.3 for the same cohort."""
    vectors, truth = drawn()
    tested = [(np.arange(60), vectors[:, :1])]
    assert log_rank(truth, tested) == pytest.approx(0.11440449250384718)
    _, share = kaplan_meier(truth)
    np.testing.assert_allclose(share[[10, 30, 50]], [0.8963346939456934, 0.6331219943651274, 0.38397153095760067])
    known_once, high = halves(truth, [*tested, (np.array([3]), np.array([[9.0]]))])
    assert len(known_once) == 60
    assert high.sum() == (vectors[:, 0] > np.median(vectors[:, 0])).sum() - (vectors[3, 0] > np.median(vectors[:, 0]))
    assert np.isnan(log_rank(truth, [(np.arange(60), np.zeros((60, 1)))]))


def test_risks_are_found_over_splits_that_share_events():
    vectors, truth = drawn(n=150, features=20)
    splits, _ = make_splits(truth.strata, None, folds=5)
    events = [truth.event[split.test].sum() for split in splits]
    assert max(events) - min(events) <= 1
    folds = score_splits(vectors, truth, splits, fit_of("survival", "linear", scale=True))
    assert np.mean([fold.score for fold in folds]) > 0.65
    assert all(fold.C in survival.GRID and not fold.note for fold in folds)
    assert folds[0].predicted.shape == (30, 1)


def test_refusals(monkeypatch):
    check = KINDS["survival"].check
    truth = known([1, 2, 3, 4, 5, 6], [1, 0, 1, 0, 0, 1])
    with pytest.raises(InvalidInput, match=r"none of the 2 units on the training side .* has an event"):
        check(truth, Split(train=np.array([1, 3]), test=np.array([0, 2])))
    with pytest.raises(InvalidInput, match=r"\(2 units, 1 events\) has no event that comes before"):
        check(truth, Split(train=np.array([0, 1]), test=np.array([3, 5])))
    check(truth, Split(train=np.array([0, 1]), test=np.array([2, 3])))
    monkeypatch.setattr(survival, "find_spec", lambda name: None)
    with pytest.raises(NotFound, match="scikit-survival") as caught:
        require_survival()
    assert "[survival]" in str(caught.value.hint)
