"""Standardisation is that of scikit-learn."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from gigacli.probing.standardise import moments, standardise


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_are_those_of_scikit_learn(dtype):
    vectors = (np.random.default_rng(0).normal(size=(60, 12)) * np.arange(1, 13) + 5).astype(dtype)
    train, test = vectors[:40], vectors[40:]
    found, theirs = standardise(test, *moments(train)), StandardScaler().fit(train).transform(test)
    assert found.dtype == theirs.dtype
    np.testing.assert_allclose(found, theirs, rtol=0, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("value", [0.0, 3.0, 7.3, 1e6])
def test_a_constant_feature_becomes_zero(value):
    vectors = np.full((60, 1), value, dtype=np.float32)
    mean, deviation = moments(vectors)
    assert deviation == 1
    np.testing.assert_allclose(standardise(vectors.astype(np.float64), mean, deviation), 0, atol=1e-6)
