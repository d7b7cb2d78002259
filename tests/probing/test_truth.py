from __future__ import annotations

import numpy as np
import pytest

from gigacli.errors import InvalidInput
from gigacli.probing.truth import guess_kind, levels_of, numbers_of, times_of


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a", "b"], "classification"),
        (["0", "1", "1"], "classification"),
        ([str(i) for i in range(20)], "classification"),
        ([str(i) for i in range(21)], "regression"),
        ([f"{i}.5" for i in range(10)], "classification"),
        ([f"{i}.5" for i in range(11)], "regression"),
        ([*(f"{i}.5" for i in range(11)), "high"], "classification"),
    ],
)
def test_the_kind_of_task_is_guessed_from_the_labels(labels, kind):
    assert guess_kind(labels)[0] == kind


def test_levels_go_by_their_number():
    truth = levels_of(["G10", "G2", "G1", "G2"], column="grade")
    assert truth.classes == ("G1", "G2", "G10")
    assert truth.y.tolist() == [2, 1, 0, 1]
    with pytest.raises(InvalidInput, match=r"order of the labels of 'grade' is not known.*'high', 'low'"):
        levels_of(["low", "high"], column="grade")
    with pytest.raises(InvalidInput, match="same number: '1', 'G1'"):
        levels_of(["1", "G1"], column="grade")


def test_numbers_are_shared_out_from_low_to_high():
    truth = numbers_of([str(i) for i in range(20)], column="age")
    assert np.unique(truth.strata, return_counts=True)[1].tolist() == [5, 5, 5, 5]
    assert len(set(truth.strata[:5])) == 1
    zeros = numbers_of([*["0"] * 30, "1", "2", "3"], column="age")
    assert np.unique(zeros.strata, return_counts=True)[1].tolist() == [30, 3]
    with pytest.raises(InvalidInput, match="1 different labels of 'age' are no numbers: 'old'"):
        numbers_of(["1", "old"], column="age")
    with pytest.raises(InvalidInput, match="all 2 labels of 'age' are 3"):
        numbers_of(["3", "3.0"], column="age")


def times(times, events):
    return times_of(times, events, time="t", event="e")


def test_times_share_events_or_early_and_late():
    truth = times([str(i) for i in range(20)], ["1", "no"] * 10)
    assert set(truth.strata) == {"event", "censored"}
    assert truth.event.tolist() == [True, False] * 10
    hardly_censored = times([str(i) for i in range(20)], ["0"] * 2 + ["1"] * 18)
    assert set(hardly_censored.strata) == {"part 1 of 2", "part 2 of 2"}
    taken = truth.take(np.array([3, 0]))
    assert (taken.y.tolist(), taken.event.tolist(), taken.strata.tolist()) == (
        [3, 0],
        [False, True],
        ["censored", "event"],
    )


@pytest.mark.parametrize(
    ("time", "event", "says"),
    [
        (["1", "-2"], ["1", "0"], "1 times of 't' are negative, the least -2"),
        (["1", "soon"], ["1", "0"], "'soon'"),
        (["1", "2"], ["1", "2"], "'e' holds '2'"),
        (["1", "2"], ["0", "0"], "none of 2 units has an event"),
    ],
)
def test_times_that_cannot_be_used(time, event, says):
    with pytest.raises(InvalidInput, match=says):
        times(time, event)
