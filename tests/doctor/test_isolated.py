"""A check in a process of its own: what it returns, raises, or dies of."""

import operator
import os
import time

import pytest

from gigacli.doctor.isolated import IsolatedCall


@pytest.mark.parametrize(
    ("check", "arguments", "timeout_s", "value", "error"),
    [
        (operator.add, (2, 3), 60, 5, ""),
        (operator.truediv, (2, 0), 60, None, "ZeroDivisionError: division by zero"),
        (os.abort, (), 60, None, "its process was killed by SIGABRT"),
        (os._exit, (3,), 60, None, "its process ended with exit code 3"),
        (time.sleep, (60,), 2, None, "no answer in 2 s"),
    ],
)
def test_outcomes(check, arguments, timeout_s, value, error):
    outcome = IsolatedCall(check, *arguments).outcome(timeout_s=timeout_s)
    assert (outcome.value, outcome.error) == (value, error)
