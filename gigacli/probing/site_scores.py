"""Is it the disease or the lab? What vectors know of the site, and what is left of a score within sites.

Predictions come as those of an evaluation: for each split the slides of the test side and the probabilities that the
model, which has not seen them, gives to each class, (n_test, classes).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gigacli.errors import InvalidInput
from gigacli.probing.logistic import fit
from gigacli.probing.metrics import auc
from gigacli.probing.model import Transform
from gigacli.probing.sites import Confounding
from gigacli.probing.splits import make_splits
from gigacli.probing.standardise import moments, standardise

Tested = Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]

READING_C: Final = 10.0
"""Inverse regularisation of the probe of sites: that of the paper."""
LEAST_PATIENTS: Final = 5
"""Patients (or slides, where these are not known) that a site needs to be read: one for each fold."""
NOTHING: Final = 0.05
"""A score is nothing to explain that is less than this above chance."""


@dataclass(frozen=True)
class SiteReading:
    """How well vectors read the site: chance is .5 for the AUC, 1 / sites for the balanced accuracy."""

    auc: float  # mean over sites, each against the rest, and over splits
    balanced_accuracy: float  # share of a site's slides that are given to it, mean over sites and splits
    sites: int  # told apart; those with fewer than :data:`LEAST_PATIENTS` are left out
    slides: int  # of these

    @property
    def chance(self) -> float:
        """Balanced accuracy of who knows nothing."""
        return 1 / self.sites


@dataclass(frozen=True)
class Within:
    """The score among slides of one site, all sites together."""

    auc: float  # share of pairs of slides of two classes in the right order: from one site, and one test side
    low: float | None  # its 95 % interval; None where fewer than two test sides have such pairs
    high: float | None
    pairs: int  # such pairs
    sites: int  # that have any
    slides: int  # of these sites


@dataclass(frozen=True, eq=False)
class SiteScore:
    """Predictions of the slides of one site."""

    site: str
    slides: int
    auc: float | None  # as :class:`Within`; None where the site has one class
    observed: NDArray[np.float64]  # share of each class, (classes,)
    predicted: NDArray[np.float64]  # mean probability of each class, (classes,)
    # how far the two may lie apart by chance if all probabilities are right: 95 % limit, (classes,)
    limit: NDArray[np.float64]
    brier: float  # mean squared error of the probability of the second of two classes; for more, summed over all


def read_sites(
    vectors: NDArray[np.floating],
    sites: Sequence[str],
    patients: Sequence[str] | None,
    *,
    scale: bool,
    seed: int = 0,
    transform: Transform | None = None,
) -> SiteReading | None:
    """Predict the site from vectors, with the same head and the same care for patients as the label.

    Args:
        vectors: (slides, features), finite.
        sites: The site of each, (slides,).
        patients: The patient of each, (slides,), or None.
        scale: Standardise first, as for the label.
        seed: Of the splits.
        transform: Changes vectors, fitted on every training side anew.

    Returns:
        What is read; None where fewer than two sites have enough patients.
    """
    names = np.asarray(sites)
    who = np.arange(len(names)) if patients is None else np.asarray(patients)
    per_site = Counter(site for site, _ in set(zip(names.tolist(), who.tolist(), strict=True)))
    kept = np.array([per_site[site] >= LEAST_PATIENTS for site in names.tolist()])
    classes, y = np.unique(names[kept], return_inverse=True)
    if len(classes) < 2:
        return None
    rows, places, aucs, shares = vectors[kept], np.flatnonzero(kept), [], []
    try:
        splits, _ = make_splits(names[kept], who[kept], folds=LEAST_PATIENTS, seed=seed)
    except InvalidInput:  # patients who have been at several sites each
        return None
    with threadpool_limits(1):
        for split in splits:
            train, test = rows[split.train], rows[split.test]
            if transform is not None:
                change = transform(train, places[split.train])
                train, test = change(train, places[split.train]), change(test, places[split.test])
            if scale:
                fitted = moments(train)
                train, test = standardise(train, *fitted), standardise(test, *fitted)
            found = fit(train, y[split.train], C=READING_C).probabilities(test)  # (n_test, sites)
            truth, hit = y[split.test], found.argmax(axis=1) == y[split.test]
            aucs.append(auc(truth, found))
            shares.append(np.mean([hit[truth == c].mean() for c in range(len(classes))]))
    return SiteReading(float(np.mean(aucs)), float(np.mean(shares)), len(classes), int(kept.sum()))


def within_sites(y: NDArray[np.int64], tested: Tested, sites: Sequence[str]) -> Within | None:
    """Score predictions within sites only, where knowing the site is of no use.

    The AUC is the share of pairs of slides of two classes that are in the right order; here pairs are of one site, and
    of one test side: between the models of two splits there are shifts, and pairs across them would count up to .07 too
    little where there is nothing to lose. For more than two classes it is the mean over each against the rest.

    Args:
        y: Classes 0 ... k - 1, (slides,).
        tested: The slides of every test side and their probabilities.
        sites: The site of each slide, (slides,).

    Returns:
        The score; None where no test side has two classes of one site.
    """
    site, k = np.unique(np.asarray(sites), return_inverse=True)[1], tested[0][1].shape[1]
    scored = [1] if k == 2 else list(range(k))
    # Pairs, and those in the right order, of each test side, site and class against the rest.
    pairs, right = np.zeros((2, len(tested), site.max() + 1, len(scored)))
    for i, (places, probabilities) in enumerate(tested):
        for number in np.unique(site[places]).tolist():
            here = site[places] == number
            for j, c in enumerate(scored):
                mine = y[places][here] == c
                pairs[i, number, j] = int(mine.sum()) * int((~mine).sum())
                if pairs[i, number, j]:
                    right[i, number, j] = pairs[i, number, j] * _share_in_order(mine, probabilities[here, c])
    if not pairs.any():
        return None
    judged, counted = np.flatnonzero(pairs.any(axis=(0, 2))), pairs.any(axis=(0, 1))
    of, good = pairs.sum(axis=1)[:, counted], right.sum(axis=1)[:, counted]  # (test sides, classes)
    shares = good.sum(axis=0) / of.sum(axis=0)
    # How far each test side moves the score: a ratio of sums, to first order.
    moves = ((good - shares * of) / of.sum(axis=0)).mean(axis=1)
    score, n_test = float(shares.mean()), float(np.mean([len(places) for places, _ in tested]))
    low, high = _interval(score, moves[of.any(axis=1)], n_test / max(1.0, len(y) - n_test))
    return Within(score, low, high, int(pairs.sum()), len(judged), int(np.isin(site, judged).sum()))


def score_sites(
    y: NDArray[np.int64], tested: Tested, sites: Sequence[str], *, train: Sequence[NDArray[np.int64]] | None
) -> list[SiteScore]:
    """Judge the predictions of each site: what is right on average may be too high here and too low there.

    There is no calibration error by bins: with the slides of one site its bins hold one or two. The mean probability
    beside the share of the class, and how far chance can take them apart, is what ten slides can say.

    Args:
        y: Classes 0 ... k - 1, (slides,).
        tested: The slides of every test side and their probabilities.
        sites: The site of each slide, (slides,).
        train: The slides of every training side, where probabilities are of a method that weighs classes equally, as
            the linear one does: they are then turned into those of a cohort with the classes as frequent as there.
            None: probabilities are taken as they are.

    Returns:
        One score per site, in sorted order; sites without a tested slide are left out.
    """
    if train is not None:
        tested = [
            (places, as_frequent(probabilities, np.bincount(y[side], minlength=probabilities.shape[1])))
            for (places, probabilities), side in zip(tested, train, strict=True)
        ]
    places = np.concatenate([part for part, _ in tested])  # a slide comes as often as it is tested
    probabilities = np.concatenate([part for _, part in tested])
    truth, where = np.eye(probabilities.shape[1])[y[places]], np.asarray(sites)[places]
    scores = []
    for site in np.unique(where).tolist():
        here = where == site
        p, slides = probabilities[here], len(set(places[here].tolist()))
        parts = [(part[mine], found[mine]) for part, found in tested if (mine := np.asarray(sites)[part] == site).any()]
        alone = within_sites(y, parts, sites)
        scores.append(
            SiteScore(
                site,
                slides,
                None if alone is None else alone.auc,
                truth[here].mean(axis=0),
                p.mean(axis=0),
                1.96 * np.sqrt((p * (1 - p)).mean(axis=0) / slides),
                float(np.square(p - truth[here]).sum(axis=1).mean()) / (2 if p.shape[1] == 2 else 1),
            )
        )
    return scores


def as_frequent(probabilities: NDArray[np.float64], counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Probabilities (n, classes) of equally frequent classes, turned into those of classes as frequent as `counts`."""
    odds = probabilities * counts
    return odds / np.maximum(odds.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)


def verdict(score: float, within: Within | None, alone: Confounding) -> tuple[bool, str]:
    """Whether the site may be what a score comes from, and why, in one sentence.

    It explains the label where it predicts it, and the score within sites is not half as far above chance as it is over
    all; where no site has two classes, nothing can be said for the vectors.

    Args:
        score: Mean AUC over splits.
        within: The same within sites, or None where there is none.
        alone: The label predicted from the site alone.
    """
    site = f"the site alone predicts the label with an AUC of {alone.auc:.3f}"
    if within is None:
        return True, f"disease and site cannot be told apart: no site has two classes on one test side; {site}"
    reach = "" if within.low is None else f" ({within.low:.2f} to {within.high:.2f})"
    inside = f"within sites the vectors' AUC is {within.auc:.3f}{reach}, {score:.3f} over all"
    if not alone.found:
        return False, f"the site does not explain the label, which it hardly predicts; {inside}"
    if score - 0.5 < NOTHING:
        return False, f"{site}; there is nothing to explain: {inside}"
    if within.auc - 0.5 < (score - 0.5) / 2:
        return True, f"the site explains the label: {site}, and {inside}"
    return False, f"{site}, but it does not explain the score: {inside}"


def _interval(score: float, moves: NDArray[np.float64], ratio: float) -> tuple[float | None, float | None]:
    """95 % interval of a score from what each test side moves it by, widened as :func:`scores.interval` does."""
    from scipy.special import stdtrit

    n = len(moves)
    if n < 2:
        return None, None
    error = np.sqrt((1 + n * ratio) * n / (n - 1) * np.square(moves).sum())
    reach = float(stdtrit(n - 1, 0.975) * error)
    return max(0.0, score - reach), min(1.0, score + reach)


def _share_in_order(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    return auc(positive.astype(np.int64), np.column_stack([1 - scores, scores]))
