from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.labels import read_labels
from gigacli.probing.splits import Split, leaking_patients, make_splits, read_splits, subsample


@st.composite
def cohorts(draw):
    """Labels and patients: every class has at least two patients of its own, some patients have slides of two."""
    sizes = draw(st.lists(st.integers(2, 15), min_size=2, max_size=4))
    labels, groups = [], []
    for c, size in enumerate(sizes):
        for p in range(size):
            n = draw(st.integers(1, 3))
            labels += [f"class {c}"] * n
            groups += [f"patient {c}-{p}"] * n
            if n == 3 and draw(st.booleans()):
                labels.append(f"class {(c + 1) % len(sizes)}")
                groups.append(f"patient {c}-{p}")
    order = draw(st.permutations(range(len(labels))))
    return np.array(labels)[list(order)], np.array(groups)[list(order)]


def same(a, b):
    return all(np.array_equal(x.train, y.train) and np.array_equal(x.test, y.test) for x, y in zip(a, b, strict=True))


@settings(deadline=None, max_examples=60)
@given(cohorts(), st.integers(2, 12), st.integers(0, 2**31), st.booleans())
def test_splits_are_fair(cohort, folds, seed, by_patient):
    labels, groups = cohort
    groups = groups if by_patient else None
    splits, notes = make_splits(labels, groups, folds=folds, seed=seed)
    units = np.arange(len(labels)) if groups is None else groups
    assert len(splits) == folds
    for split in splits:
        assert sorted([*split.train, *split.test]) == list(range(len(labels)))
        assert not set(units[split.train]) & set(units[split.test])
        assert set(labels[split.train]) == set(labels[split.test]) == set(labels)
        assert leaking_patients(split, units) == 0
    # k as promised, and each run of k splits is a partition of the slides
    pairs = {(str(label), str(unit)) for label, unit in zip(labels, units, strict=True)}
    k = min(folds, *Counter(label for label, _ in pairs).values())
    for start in range(0, folds - k + 1, k):
        tested = np.concatenate([split.test for split in splits[start : start + k]])
        assert sorted(tested) == list(range(len(labels)))
    assert bool(notes) == (k < folds)
    assert all(f"repeated {k}-fold" in note for note in notes)
    assert same(splits, make_splits(labels, groups, folds=folds, seed=seed)[0])


def test_the_seed_and_the_repetition_matter():
    labels = np.array(["a", "b"] * 20)
    first, _ = make_splits(labels, None, folds=5, seed=0)
    assert not same(first, make_splits(labels, None, folds=5, seed=1)[0])
    few = np.array(["a"] * 4 + ["b"] * 30)
    splits, _ = make_splits(few, None, folds=8, seed=0)
    assert not same(splits[:4], splits[4:])


def test_patients_with_slides_of_both_classes_are_split_into_ten():
    """A design of pairs: a tumour and a normal slide of each of forty patients; then three with a tumour alone."""
    labels, patients = np.array(["tumour", "normal"] * 40), np.repeat(np.arange(40), 2).astype(str)
    splits, warnings = make_splits(labels, patients)
    assert warnings == []
    assert all(Counter(labels[split.test]) == {"tumour": 4, "normal": 4} for split in splits)
    kept = np.ones(80, dtype=bool)
    kept[[1, 3, 5]] = False
    splits, warnings = make_splits(labels[kept], patients[kept])
    assert warnings == []
    for split in splits:
        counts = Counter(labels[kept][split.test])
        assert 3 <= counts["normal"] <= 4 <= counts["tumour"] + 1
        assert not set(patients[kept][split.train]) & set(patients[kept][split.test])


def test_slides_of_a_class_are_spread_as_evenly_as_by_scikit_learn():
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for seed in range(20):
        counts = rng.integers(0, 5, (60, 3)) * (rng.random((60, 3)) < 0.6)
        counts[0] = 1
        labels = np.repeat(np.tile(list("abc"), 60), counts.ravel())
        groups = np.repeat(np.arange(60), counts.sum(axis=1)).astype(str)

        def spread(tests, labels=labels):
            shares = np.array([[(labels[test] == c).sum() / (labels == c).sum() for c in "abc"] for test in tests])
            return float(shares.std(axis=0).mean())

        splits, warnings = make_splits(labels, groups, folds=5, seed=seed)
        assert warnings == []
        ours.append(spread([split.test for split in splits]))
        sklearn = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        theirs.append(spread([test for _, test in sklearn.split(labels, labels, groups)]))
    assert np.mean(ours) <= np.mean(theirs)


def test_groups_too_mixed_to_be_split_are_refused():
    """Each class is in two of three patients, and no two sides have all three."""
    with pytest.raises(InvalidInput, match="3 patients have their classes so mixed"):
        make_splits(list("acabbc"), list("uuvvww"))


def test_splits_keep_the_proportion_of_classes():
    labels = np.array(["a"] * 20 + ["b"] * 80)
    for split in make_splits(labels, None)[0]:
        assert Counter(labels[split.test]) == {"a": 2, "b": 8}


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "complaint"),
    [
        (["a", "b"] * 9, None, 1, "1 folds"),
        (["a"] * 9, None, 10, "all 9 slides have the same label"),
        (["a"] * 9 + ["b"], None, 10, "at least 2 slides .*'b' has 1, 'a' has 9"),
        (["a"] * 6 + ["b"] * 3, list("uvwxyzsss"), 10, r"at least 2 patients .*'b' has 1 \(3 slides\), 'a' has 6"),
        (["a"] * 4 + ["b"], list("uuvvu"), 10, r"'b' has 1 \(1 slides\)"),
    ],
)
def test_impossible_splits_say_why(labels, groups, folds, complaint):
    with pytest.raises(InvalidInput, match=complaint) as error:
        make_splits(labels, groups, folds=folds)
    assert error.value.hint


def test_read_splits(csv):
    csv("train,test\na,c\nb,\n", "split_0.csv")
    csv(",Train,val,test\n0,gone,x,b.svs\n1,c,,gone too\n2,c,,\n", "split_10.csv")
    folder = csv("test,train\na,c\n,b\n", "split_2.csv").parent
    csv("not a split", "other.csv")
    with pytest.raises(NotFound, match="2 of the 11 names in the splits have no label or vector: 'gone', 'gone too'"):
        read_splits(folder, ["a", "b", "c"])
    splits, notes = read_splits(folder, ["a", "b", "c"], allow_missing=True)
    assert [(s.train.tolist(), s.test.tolist()) for s in splits] == [([0, 1], [2]), ([2, 1], [0]), ([2], [1])]
    assert all(side.dtype == np.int64 for s in splits for side in (s.train, s.test))
    assert notes == [
        "2 of the 11 names in the splits have no label or vector: 'gone', 'gone too'",
        "1 names in the splits are on neither side, for validation, and are left out.",
        "1 names stand twice on one side of a split and count once.",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("train,test\na,b\nb,c\n", "1 slides in both train and test: b"),
        ("train,test\na,b\nb.svs,c\n", "1 slides in both train and test: b"),
        ("train,val\na,b\n", "no column 'test': found 'train', 'val'"),
        ("train,test\na,x\n", "no slide on the test side"),
        ("train,test\nx,a\n", "no slide on the train side"),
        ("", "is empty"),
    ],
)
def test_unusable_splits_say_why(csv, text, complaint):
    path = csv(text, "split_0.csv")
    with pytest.raises(InvalidInput, match=complaint) as error:
        read_splits(path.parent, ["a", "b", "c"], allow_missing=True)
    assert "split_0.csv" in error.value.message
    assert error.value.hint


def test_no_splits_to_read(tmp_path):
    with pytest.raises(NotFound, match="no files `split_"):
        read_splits(tmp_path, ["a"])
    with pytest.raises(NotFound, match="not a folder"):
        read_splits(tmp_path / "gone", ["a"])


def test_leaking_patients_counts_test_slides():
    split = Split(train=np.array([0, 1, 2]), test=np.array([3, 4, 5, 6]))
    assert leaking_patients(split, ["p", "q", "q", "q", "q", "r", "p"]) == 3


@pytest.mark.parametrize(
    ("name", "percent"),
    [("lung", 10.4), ("brca", 10.5), ("kidney", 5.3), ("tnbc", 0.0), ("mhrd", 10.2), ("thrd", 15.8)],
)
def test_the_published_splits_leak_patients(tcga, name, percent):
    labels = read_labels(tcga / "tables" / f"{name}.csv")
    splits, notes = read_splits(tcga / "splits" / name / "full", labels.slide_id, allow_missing=True)
    assert len(splits) == 10
    assert [note.split(" names")[0] for note in notes] == (["70 of the 9310"] if name == "kidney" else [])
    share = np.mean([leaking_patients(split, labels.patient_id) / len(split.test) for split in splits])
    assert 100 * share == pytest.approx(percent, abs=0.05)


@settings(deadline=None, max_examples=60)
@given(cohorts(), st.integers(0, 2**31), st.data())
def test_budgets_are_stratified_and_nested(cohort, seed, data):
    labels, _ = cohort
    split = make_splits(labels, None, folds=2)[0][0]
    available = Counter(labels[split.train])
    sizes = sorted(data.draw(st.lists(st.integers(len(available), len(labels) + 5), min_size=2, max_size=5)))
    before = set()
    for n in sizes:
        part = subsample(split, labels, n_train=n, seed=seed)
        taken = Counter(labels[part.train])
        assert len(set(part.train)) == len(part.train) == min(n, len(split.train))
        assert set(part.train) <= set(split.train)
        assert before <= set(part.train)
        assert set(taken) == set(available)
        assert np.array_equal(part.test, split.test)
        before = set(part.train)


def test_budgets_keep_proportions():
    labels = np.array(["a"] * 100 + ["b"] * 300 + ["c"] * 8 + ["t"])
    split = Split(train=np.arange(408), test=np.array([408]))
    assert Counter(labels[subsample(split, labels, n_train=102, seed=3).train]) == {"a": 25, "b": 75, "c": 2}
    assert Counter(labels[subsample(split, labels, fraction=0.25, seed=3).train]) == {"a": 25, "b": 75, "c": 2}
    assert Counter(labels[subsample(split, labels, n_train=3, seed=3).train]) == {"a": 1, "b": 1, "c": 1}
    assert np.array_equal(subsample(split, labels, fraction=1, seed=3).train, split.train)
    assert len(subsample(split, labels, fraction=0.001, seed=3).train) == 3  # one of every class


def test_budgets_depend_on_the_seed_and_not_on_the_order_of_a_file():
    labels = np.array(["a", "b"] * 50)
    split = Split(train=np.arange(80), test=np.arange(80, 100))
    part = subsample(split, labels, n_train=20, seed=0)
    shuffled = Split(train=split.train[::-1], test=split.test)
    assert np.array_equal(part.train, subsample(shuffled, labels, n_train=20, seed=0).train)
    assert not np.array_equal(part.train, subsample(split, labels, n_train=20, seed=1).train)


@pytest.mark.parametrize(
    "budget", [{}, {"fraction": 0.5, "n_train": 5}, {"fraction": 0.0}, {"fraction": 1.5}, {"n_train": 1}]
)
def test_impossible_budgets(budget):
    split = Split(train=np.arange(8), test=np.arange(8, 10))
    with pytest.raises(InvalidInput):
        subsample(split, ["a", "b"] * 5, **budget, seed=0)
