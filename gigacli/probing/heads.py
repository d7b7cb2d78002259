"""Methods by which vectors are judged, by the kind of task; those of this file are scikit-learn's, or need no fit."""
# ruff: noqa: N803 - C is what scikit-learn and everyone else calls it

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from gigacli.config.probe import METHODS, Method, TaskKind
from gigacli.errors import InvalidInput
from gigacli.probing.linear import fit_logistic
from gigacli.probing.model import Fit, Model, Vectors
from gigacli.probing.standardise import prepared, spread
from gigacli.probing.truth import Truth

HIDDEN: Final = 128
"""Units of the hidden layer of the multi-layer perceptron."""
EPOCHS: Final = 100
WEIGHT_DECAY: Final = 10.0
"""Much: vectors have hundreds of values that say nothing of the label, and a hidden layer learns them by heart."""
TEMPERATURE: Final = 0.1
"""By which cosines of the nearest class mean are divided before they become probabilities: it does not touch ranks."""


def fit_of(
    kind: TaskKind,
    method: Method,
    *,
    C: float | Literal["auto"] = "auto",
    alpha: float = 0.0,
    scale: bool = False,
    seed: int = 0,
    converged: bool = False,
) -> Fit:
    """How a method is fitted to a training side.

    Args:
        kind: What is predicted.
        method: But "abmil", which is for tiles.
        C: Inverse regularisation of "linear", "auto": chosen inside.
        alpha: Strength of "coxnet".
        scale: Whether to standardise vectors first, as the mean of tiles is; others have length 1.
        seed: Of whatever is random.
        converged: Fit the logistic regression to the optimum.

    Raises:
        InvalidInput: A method that does not predict such a thing.
    """
    if method not in METHODS[kind] or method == "abmil":
        raise InvalidInput(f"{method!r} does not predict {kind} from vectors", f"one of {', '.join(METHODS[kind])}")
    if method == "linear" and kind != "classification":
        return _regression(kind, C=C, scale=scale, seed=seed)
    if method == "linear":
        return partial(fit_logistic, C=C, scale=scale, seed=seed, converged=converged)
    if method == "coxnet":
        from gigacli.probing.survival import fit_coxnet

        return partial(fit_coxnet, alpha=alpha)
    if method == "mlp":
        return partial(fit_perceptron, seed=seed)
    return partial(fit_neighbours if method == "knn" else fit_class_means, scale=scale)


def _regression(kind: TaskKind, **options: Any) -> Fit:
    if kind == "survival":
        from gigacli.probing.survival import fit_cox

        return partial(fit_cox, **options)
    from gigacli.probing.ridge import fit_levels, fit_numbers

    return partial(fit_levels if kind == "ordinal" else fit_numbers, **options)


def fit_perceptron(vectors: Vectors, truth: Truth, _: NDArray[np.str_] | None, *, seed: int = 0) -> Model:
    """Fit scikit-learn's MLP with one hidden layer to vectors (n, features); both standardised first."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    mean, deviation = spread(vectors, scale=True, centre=True)
    train = prepared(vectors.astype(np.float64), mean, deviation)
    options = {"hidden_layer_sizes": (HIDDEN,), "alpha": WEIGHT_DECAY, "max_iter": EPOCHS, "random_state": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is meant
        if truth.kind == "classification":
            return Model(MLPClassifier(**options).fit(train, truth.y).predict_proba, None, mean, deviation)
        centre, spread_of_y = float(truth.y.mean()), float(truth.y.std())
        model = MLPRegressor(**options).fit(train, (truth.y - centre) / spread_of_y)
    return Model(lambda x: (model.predict(x) * spread_of_y + centre)[:, None], None, mean, deviation)


def fit_neighbours(vectors: Vectors, truth: Truth, _: NDArray[np.str_] | None, *, scale: bool = False) -> Model:
    """Take the share, or the mean, of the k nearest by cosine, k the square root of how many there are."""
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    mean, deviation = spread(vectors, scale=scale, centre=True)
    train = _unit(prepared(vectors, mean, deviation))
    k = max(1, round(len(train) ** 0.5))
    if truth.kind == "classification":
        classifier = KNeighborsClassifier(k).fit(train, truth.y)
        return Model(lambda x: classifier.predict_proba(_unit(x)), None, mean, deviation)
    regressor = KNeighborsRegressor(k).fit(train, truth.y)
    return Model(lambda x: regressor.predict(_unit(x))[:, None], None, mean, deviation)


def fit_class_means(vectors: Vectors, truth: Truth, _: NDArray[np.str_] | None, *, scale: bool = False) -> Model:
    """Take the class whose mean is nearest by cosine, after vectors are centred and scaled to length 1.

    SimpleShot (Wang et al. 2019): nothing is chosen and little can be overfitted, so it is for few labels.
    """
    mean, deviation = spread(vectors, scale=scale, centre=True)
    train = _unit(prepared(vectors, mean, deviation))
    means = _unit(
        np.stack([train[truth.y == c].mean(axis=0) for c in range(len(truth.classes))])
    )  # (classes, features)

    def shares(x: Vectors) -> NDArray[np.float64]:
        scores = _unit(x) @ means.T / TEMPERATURE
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    return Model(shares, None, mean, deviation)


def _unit(vectors: Vectors) -> NDArray[np.float64]:
    """Vectors (n, features) at length 1; one of zeros stays as it is."""
    rows = vectors.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
