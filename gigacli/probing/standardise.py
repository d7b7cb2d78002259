"""Standardisation: every feature with mean 0 and standard deviation 1, as scikit-learn's StandardScaler does it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating)


def moments(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every feature of vectors (n, features), (features,) each.

    The deviation of a constant feature is given as 1, so that it becomes 0; a spread that is only rounding is none.
    """
    mean, deviation = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    constant = deviation <= 10 * np.finfo(vectors.dtype).eps * np.abs(mean)
    return mean, np.where(constant | (deviation == 0), 1.0, deviation)


def standardise(vectors: NDArray[Float], mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[Float]:
    """Vectors (n, features) minus `mean`, divided by `deviation`, in their own precision.

    They are rounded after each step, as scikit-learn's scaler does.
    """
    result = vectors.copy()
    result -= mean
    result /= deviation
    return result


Moments = NDArray[np.float64] | None


def spread(vectors: NDArray[np.floating], *, scale: bool, centre: bool) -> tuple[Moments, Moments]:
    """What :func:`prepared` is to subtract and to divide by, of vectors (n, features); None, None for neither.

    `scale` standardises; `centre` alone subtracts the mean.
    """
    if not (scale or centre):
        return None, None
    mean, deviation = moments(vectors)
    return mean, deviation if scale else np.ones_like(deviation)


def prepared(vectors: NDArray[Float], mean: Moments, deviation: Moments) -> NDArray[Float]:
    """Vectors (n, features) as they are fitted: standardised, or as they are where there is nothing to subtract."""
    return vectors if mean is None or deviation is None else standardise(vectors, mean, deviation)
