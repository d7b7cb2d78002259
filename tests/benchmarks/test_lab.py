"""The measures of benchmarks/lab.py, on vectors that hold a lab, a label or nothing."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PATIENTS = 24
COLUMNS = {
    "label": [("a", "b")[i // 2 % 2] for i in range(2 * PATIENTS)],
    "lab": [f"lab{i // 4 % 3}" for i in range(2 * PATIENTS)],
    "patient_id": [f"p{i // 2}" for i in range(2 * PATIENTS)],
}


@pytest.fixture(scope="module")
def lab():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)  # as for a script
        return import_module("lab")


@pytest.fixture(scope="module")
def cohort():
    return SimpleNamespace(name="drawn", seed=0, stain=0.0, column=COLUMNS.__getitem__)


def one_hot(column):
    return np.unique(COLUMNS[column], return_inverse=True)[1][:, None] == np.arange(3)


def noise(seed):
    return 0.01 * np.random.default_rng(seed).standard_normal((2 * PATIENTS, 8))


def test_vectors_of_the_lab_tell_it_and_not_the_label(lab, cohort):
    row = lab.judged(cohort, "x", np.concatenate([one_hot("lab") + 0.0, noise(0)], axis=1))
    assert (row.lab, row.balanced, row.neighbours) == (1, 1, 1)
    assert row.between > 0.95
    assert row.chance == pytest.approx((PATIENTS / 3 - 1) / (PATIENTS - 1))
    assert row.label < 0.7


def test_vectors_of_the_label_tell_it_in_every_lab_and_not_the_lab(lab, cohort):
    row = lab.judged(cohort, "x", np.concatenate([one_hot("label") + 0.0, noise(1)], axis=1))
    assert (row.label, row.few, row.across) == (1, 1, 1)
    assert row.between < 0.05
    assert row.balanced < 0.6
    assert row.neighbours < 0.6


def test_without_the_mean_of_its_lab_a_vector_is_of_no_lab(lab):
    rows = np.concatenate([one_hot("lab") + 0.0, noise(2)], axis=1)
    means = lab.of_labs(rows, COLUMNS["lab"])
    for name in set(COLUMNS["lab"]):
        mine = np.array(COLUMNS["lab"]) == name
        np.testing.assert_allclose(means[mine], np.tile(rows[mine].mean(axis=0), (mine.sum(), 1)))
    np.testing.assert_allclose((rows - means)[:, :3], 0, atol=1e-12)
