from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from gigacli.errors import InvalidInput
from gigacli.probing.sites import confounding, leave_one_site_out, site_groups, site_preserved_splits, sites_of
from gigacli.probing.splits import make_splits


def test_sites_come_from_the_labels_or_from_barcodes():
    ids = ["TCGA-A1-A0SP-01Z-00-DX1", "TCGA-A1-A0SQ-01Z-00-DX1", "TCGA-B6-A0X0-01Z-00-DX1", "other"]
    found = sites_of(ids, from_labels=["x", None, "", "y"])
    assert found.names == ("x", f"(only {ids[1]})", f"(only {ids[2]})", "y")
    assert found.source == "2 sites, from the column of the labels; 2 slides without one count as one each"
    for nothing in (None, ["", None, "", ""]):
        found = sites_of(ids, from_labels=nothing)
        assert found.names == ("A1", "A1", "B6", "(only other)")
        assert "TCGA's tissue source site" in found.source


@pytest.mark.parametrize(
    ("ids", "labels", "complaint"),
    [
        (["a", "b"], None, "not known where slides come from"),
        (["a", "b"], ["x", "x"], "all slides come from 'x'"),
        (["TCGA-A1-A0SP", "TCGA-A1-A0SQ"], None, "all slides come from 'A1'"),
    ],
)
def test_one_site_is_none(ids, labels, complaint):
    with pytest.raises(InvalidInput, match=complaint) as error:
        sites_of(ids, from_labels=labels)
    assert error.value.hint


@st.composite
def cohorts(draw):
    """Labels, sites and patients; a few patients have been at two sites."""
    n = draw(st.integers(8, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    sites = rng.integers(0, draw(st.integers(3, 9)), n).astype(str)
    patients = np.char.add(sites, rng.integers(0, 6, n).astype(str))
    moved = rng.random(n) < 0.05
    patients[moved] = rng.choice(patients, moved.sum())
    return rng.integers(0, 2, n).astype(str), sites, patients


@settings(deadline=None, max_examples=60)
@given(cohorts(), st.integers(0, 2**31))
def test_neither_sites_nor_patients_are_divided(cohort, seed):
    labels, sites, patients = cohort
    group = np.array(site_groups(sites.tolist(), patients.tolist()))
    for of in (sites, patients):
        assert all(len(set(group[of == name])) == 1 for name in set(of))
    try:
        splits, _ = site_preserved_splits(labels, sites.tolist(), patients.tolist(), folds=3, seed=seed)
    except InvalidInput:
        return
    for split in splits:
        for of in (sites, patients):
            assert not set(of[split.train]) & set(of[split.test])
        assert set(labels[split.train]) == set(labels[split.test]) == {"0", "1"}


def test_sites_without_patients():
    assert site_groups(["a", "b", "a"], None) == ("a", "b", "a")
    assert site_groups(["a", "b", "c", "a"], ["p", "p", "q", "r"]) == ("a+b", "a+b", "c", "a+b")


def test_classes_are_spread_nearly_as_evenly_as_they_can_be():
    """Beside the best of all ways to deal nine sites into three folds; a random way is far off."""
    rng, ways = np.random.default_rng(0), np.array(list(itertools.product(range(3), repeat=9)))

    def uneven(fold_of_site, counts):
        held = np.stack([(counts * (fold_of_site == f)[:, None]).sum(axis=0) for f in range(3)])
        return float(np.square(held / counts.sum(axis=0) - 1 / 3).sum())

    ours, best, random = [], [], []
    for seed in range(10):
        counts = rng.integers(1, 30, (9, 2))
        sites = np.repeat(np.arange(9), counts.sum(axis=1)).astype(str)
        labels = np.repeat(np.tile(["a", "b"], 9), counts.ravel())
        splits, _ = site_preserved_splits(labels, sites.tolist(), None, folds=3, seed=seed)
        fold = np.empty(9, dtype=int)
        for f, split in enumerate(splits):
            fold[np.unique(sites[split.test]).astype(int)] = f
        every = np.array([uneven(way, counts) for way in ways[rng.permutation(len(ways))[:2000]]])
        best.append(every.min())
        random.append(np.median(every))
        ours.append(uneven(fold, counts))
    assert np.mean(ours) < 0.15 * np.mean(random)
    assert np.mean(ours) < np.mean(best) + 0.02


def test_messages_speak_of_sites():
    with pytest.raises(InvalidInput, match="at least 2 sites to be in training and test: 'b' has 1"):
        site_preserved_splits(list("aabb"), list("xyxx"), None, folds=2)


def test_leave_one_site_out():
    labels = np.array(list("aabb" * 3 + "aaab"))
    sites = ["x"] * 4 + ["y"] * 4 + ["z"] * 4 + ["w"] * 4
    patients = [str(i) for i in range(15)] + ["0"]  # the last slide, of w, is of a patient of x
    splits, notes = leave_one_site_out(labels, sites, patients)
    assert list(splits) == ["x", "y", "z"]
    assert splits["x"].test.tolist() == [0, 1, 2, 3]
    assert splits["x"].train.tolist() == list(range(4, 15))
    assert splits["y"].train.tolist() == [0, 1, 2, 3, *range(8, 16)]
    assert notes == ["1 sites have fewer than 2 slides of a class and are in training only: w"]
    assert list(leave_one_site_out(labels, sites, None, least=1)[0]) == ["w", "x", "y", "z"]


def test_sites_of_one_class_each_cannot_be_left_out():
    with pytest.raises(InvalidInput, match="none of 2 sites has 2 slides of every class"):
        leave_one_site_out(list("aabb"), list("xxyy"), None)
    with pytest.raises(InvalidInput, match="with all classes at others, too"):
        leave_one_site_out(list("aabbaa"), list("xxxxyy"), None)


def cohort_of_sites(shares, *, patients, seed=0):
    """Classes and sites of patients with two slides each; each site has so large a share of the second class."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(len(shares)), patients)
    y = (rng.random(len(site)) < np.array(shares)[site]).astype(np.int64)
    order = rng.permutation(len(site))
    return np.repeat(y[order], 2), np.repeat(site[order], 2).astype(str), np.repeat(np.arange(len(site)), 2).astype(str)


def test_the_label_from_the_site_alone():
    """By hand: the share of the second class among training slides of the site, scored by scikit-learn."""
    y, sites, patients = cohort_of_sites([0.2, 0.8, 0.5], patients=20)
    splits, _ = make_splits(y.astype(str), patients, folds=5)
    aucs = []
    for split in splits:
        overall = y[split.train].mean()
        share = {}
        for site in set(sites):
            mine = y[split.train][sites[split.train] == site]
            share[site] = (mine.sum() + overall) / (len(mine) + 1)
        aucs.append(roc_auc_score(y[split.test], [share[site] for site in sites[split.test]]))
    found = confounding(y, sites.tolist(), splits, patients.tolist(), permutations=99)
    assert found.auc == pytest.approx(np.mean(aucs), abs=1e-12)
    assert found.found
    assert found.p == 1 / 100


def test_sites_that_differ_by_chance_do_not_predict_the_label():
    """p-values are uniform, or nearly."""
    found = []
    for seed in range(60):
        y, sites, patients = cohort_of_sites([0.5] * 10, patients=4, seed=seed)
        splits, _ = make_splits(y.astype(str), patients, folds=5, seed=seed)
        found.append(confounding(y, sites.tolist(), splits, patients.tolist(), permutations=19, seed=seed))
    assert abs(np.mean([one.auc for one in found]) - 0.5) < 0.05
    assert kstest(np.array([one.p for one in found]) - 1 / 40, "uniform").pvalue > 0.01
    assert sum(one.found for one in found) <= 7


def test_sites_of_exactly_the_same_shares_are_below_chance():
    y, sites = np.tile([0, 1], 40), np.repeat(np.arange(20), 4).astype(str).tolist()
    found = confounding(y, sites, make_splits(y.astype(str), None, folds=5)[0], None, permutations=19)
    assert found.auc < 0.4
    assert not found.found


def test_three_classes_from_the_site_alone():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0, 1, 2], 20))
    sites = np.where(rng.random(60) < 0.8, y, rng.integers(0, 3, 60)).astype(str)
    splits, _ = make_splits(y.astype(str), None, folds=5)
    found = confounding(y, sites.tolist(), splits, None, permutations=49)
    assert found.auc > 0.8
    assert found.p == 1 / 50
