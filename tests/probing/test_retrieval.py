"""Retrieval: neighbours of other patients, and measures of them, beside what a loop gives."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigacli.errors import InvalidInput
from gigacli.probing.retrieval import agreement, judge, nearest, retrieve


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32) * np.arange(1, 13)


def test_neighbours_are_those_of_all_cosines(vectors, monkeypatch):
    monkeypatch.setattr("gigacli.probing.retrieval.ROWS_AT_ONCE", 7)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = units @ units.T
    np.fill_diagonal(cosine, -2)
    places, similar = nearest(vectors, 4)
    assert (places == np.argsort(-cosine, axis=1)[:, :4]).all()
    np.testing.assert_allclose(similar, -np.sort(-cosine, axis=1)[:, :4], atol=1e-5)


def test_neighbours_of_another_patient(vectors):
    groups = [f"p{i // 20}" for i in range(60)]
    places, _ = nearest(vectors, 3, groups=groups)
    assert not (places // 20 == np.arange(60)[:, None] // 20).any()
    alone, _ = nearest(vectors[:4], 2, groups=["p"] * 4)
    assert (alone == -1).all()


def test_agreement_counts_known_pairs_and_says_what_chance_gives():
    values, patients = ["a", "a", "b", "", "b"], ["p1", "p2", "p3", "p4", "p5"]
    neighbour = np.array([1, 3, 4, 0, 0])  # a-a, a-unknown, b-b, unknown-a, b-a
    share, chance = agreement(values, patients, neighbour)
    assert share == pytest.approx(2 / 3)
    assert chance == pytest.approx(1 / 3)  # of three known slides of others, one is alike
    assert agreement(["a", "a", ""], ["1", "2", "3"], np.array([1, 0, 0])) is None


def test_neighbours_of_a_few_are_those_of_all(vectors):
    groups = [f"p{i // 3}" for i in range(60)]
    every, similar = nearest(vectors, 4, groups=groups)
    some = np.array([41, 7])
    places, near = nearest(vectors, 4, groups=groups, queries=some)
    np.testing.assert_array_equal(places, every[some])
    np.testing.assert_allclose(near, similar[some], atol=1e-6)


def by_hand(vectors, labels, groups, k):
    """Slide, hit, majority, average precision of every slide that has one of another patient."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i in range(len(units)):
        others = [j for j in range(len(units)) if groups[j] != groups[i]]
        ranked = sorted(others, key=lambda j: -float(units[i] @ units[j]))[:k]
        if not ranked:
            continue
        right = [labels[j] == labels[i] for j in ranked]
        counts = Counter(labels[j] for j in ranked)
        vote = next(labels[j] for j in ranked if counts[labels[j]] == max(counts.values()))
        precisions = [sum(right[: at + 1]) / (at + 1) for at in range(len(right)) if right[at]]
        yield i, any(right), vote == labels[i], float(np.mean(precisions)) if precisions else 0.0


@given(
    slides=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), min_size=2, max_size=25).filter(
        lambda rows: len({patient for _, patient in rows}) > 1
    ),
    k=st.integers(1, 7),
)
def test_the_measures_are_those_of_a_loop(slides, k):
    vectors = np.random.default_rng(len(slides)).normal(size=(len(slides), 4))
    labels, groups = [label for label, _ in slides], [str(patient) for _, patient in slides]
    [found] = retrieve(vectors, labels, ks=(k,), groups=groups)
    expected = list(by_hand(vectors, labels, groups, k))
    assert found.queries.tolist() == [i for i, *_ in expected]
    assert found.hit.tolist() == [hit for _, hit, _, _ in expected]
    assert found.majority.tolist() == [vote for *_, vote, _ in expected]
    np.testing.assert_allclose(found.precision, [p for *_, p in expected])
    assert found.accuracy == pytest.approx(np.mean([hit for _, hit, _, _ in expected]))
    assert found.majority_accuracy == pytest.approx(np.mean([vote for *_, vote, _ in expected]))
    assert found.mean_average_precision == pytest.approx(np.mean([p for *_, p in expected]))
    assert found.alone == sum(
        not any(lb == labels[i] and g != groups[i] for lb, g in zip(labels, groups, strict=True)) for i, *_ in expected
    )


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_chance_is_that_of_every_way_to_draw(k):
    labels, groups = list("aabbbc"), list("112345")
    found = judge(labels, np.array([[5], [5], [0], [0], [0], [0]]), groups, k=k)
    for i, chance in enumerate(found.chance):
        others = [j for j in range(6) if groups[j] != groups[i]]
        ways = list(itertools.combinations(others, min(k, len(others))))
        assert chance == pytest.approx(np.mean([any(labels[j] == labels[i] for j in way) for way in ways]))


def test_neighbours_that_tell_nothing_are_at_chance():
    rng = np.random.default_rng(0)
    for found in retrieve(rng.normal(size=(600, 8)), rng.choice(list("aab"), 600)):
        assert abs(found.accuracy - found.chance_accuracy) < 0.05


def test_neighbours_that_tell_all():
    vectors = np.repeat(np.eye(3), 8, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(24, 3))
    groups = [f"p{i // 2}" for i in range(24)]
    for found in retrieve(vectors, np.repeat(list("abc"), 8), ks=(1, 3, 5), groups=groups):
        assert (found.accuracy, found.majority_accuracy, found.mean_average_precision) == (1, 1, 1)
    # the label of one patient alone is not to be found, though his other slide lies nearest
    [found] = retrieve(vectors, ["z", "z", *["a"] * 22], ks=(1,), groups=groups)
    assert (found.alone, found.hit[:2].tolist()) == (2, [False, False])


def test_what_cannot_be_judged_is_refused(vectors):
    with pytest.raises(InvalidInput, match=r"\[0\] neighbours"):
        retrieve(vectors, ["a"] * 60, ks=(0,))
    with pytest.raises(InvalidInput, match="all 60 slides are of one patient"):
        retrieve(vectors, ["a"] * 60, groups=["p"] * 60)
    with pytest.raises(InvalidInput, match="not finite"):
        retrieve(np.full((2, 2), np.nan), ["a", "b"])
