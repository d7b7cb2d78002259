"""Taking the site (hospital, laboratory, scanner) out of vectors: fitted on training slides, applied to any.

None of these knows the label. Where sites differ in how often they see a class, what they take out with the site is
also a part of the class: the uncorrected score belongs beside the corrected one.

A slide of a site that was not in training is left as it is by ``combat`` and ``center``: its own mean and spread would
have to come from the test side. ``erase`` asks no slide for its site when it is applied, so it treats all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from gigacli.config.probe import Harmonise
from gigacli.errors import InvalidInput

Vectors = NDArray[np.floating]
Places = NDArray[np.int64]
Apply = Callable[[Vectors, Places], Vectors]
Transform = Callable[[Vectors, Places], Apply]

STEPS: Final = 1000
"""At most so many steps of ComBat's iteration; it takes some ten."""
TOLERANCE: Final = 1e-8
"""Largest relative change at which ComBat's iteration ends."""
_NO_DIFFERENCE: Final = 1e-6  # between means of whitened vectors: rounding


class Harmoniser(Protocol):
    """What is learnt of sites from training slides, and taken out of others."""

    def fit(self, vectors: Vectors, sites: Sequence[str]) -> Self:
        """Learn from training vectors (n, features) and the site of each, (n,); returns itself."""
        ...

    def transform(self, vectors: Vectors, sites: Sequence[str]) -> Vectors:
        """Return vectors (m, features) of slides of `sites` (m,) without their site, in their own precision."""
        ...


class Centre:
    """Every site's mean is moved to the mean of all training slides."""

    def fit(self, vectors: Vectors, sites: Sequence[str]) -> Self:
        """Learn the mean of every site from vectors (n, features) and the site of each, (n,)."""
        rows, overall = _checked(vectors, sites), vectors.mean(axis=0, dtype=np.float64)
        self._shift = {site: overall - rows[where].mean(axis=0) for site, where in _places(sites).items()}
        return self

    def transform(self, vectors: Vectors, sites: Sequence[str]) -> Vectors:
        """Move vectors (m, features) of `sites` (m,); those of sites that were not in training stay."""
        moved = _checked(vectors, sites).copy()
        for site, where in _places(sites).items():
            moved[where] += self._shift.get(site, 0.0)
        return moved.astype(vectors.dtype)


class Combat:
    """Location and scale of every feature in every site, shrunk towards those of the site's other features.

    ComBat: Johnson, Li and Rabinovic, Adjusting batch effects in microarray expression data using empirical Bayes
    methods, Biostatistics 8 (2007), parametric priors, no covariates. A site with one training slide has no spread of
    its own: it is moved only. A feature that is the same on all training slides is left as it is.
    """

    def fit(self, vectors: Vectors, sites: Sequence[str]) -> Self:
        """Learn location and scale of every site from vectors (n, features) and the site of each, (n,)."""
        rows, places = _checked(vectors, sites), _places(sites)
        residual = rows.copy()
        for where in places.values():
            residual[where] -= rows[where].mean(axis=0)
        self._mean = rows.mean(axis=0)  # (features,)
        deviation = np.sqrt(np.square(residual).mean(axis=0))  # within sites, (features,)
        # A feature that is constant within sites, up to rounding, has no scale to speak of.
        self._varies = deviation > 10 * np.finfo(vectors.dtype).eps * np.abs(rows).max(axis=0)
        self._deviation = np.where(self._varies, deviation, 1.0)
        standard = ((rows - self._mean) / self._deviation)[:, self._varies]  # (n, varying features)
        self._effect = {site: _site_effect(standard[where]) for site, where in places.items()}
        return self

    def transform(self, vectors: Vectors, sites: Sequence[str]) -> Vectors:
        """Adjust vectors (m, features) of `sites` (m,); those of sites that were not in training stay."""
        adjusted = _checked(vectors, sites).copy()
        mean, deviation = self._mean[self._varies], self._deviation[self._varies]
        for site, where in _places(sites).items():
            if site in self._effect:
                location, scale = self._effect[site]
                rows = (adjusted[where][:, self._varies] - mean) / deviation
                adjusted[np.ix_(where, self._varies)] = (rows - location) / scale * deviation + mean
        return adjusted.astype(vectors.dtype)


class Erase:
    """No linear classifier can tell the sites of the training slides apart any more, at the least change of vectors.

    LEACE: Belrose et al., LEACE: Perfect linear concept erasure in closed form, NeurIPS 2023, theorem 4.3. With W the
    whitening of the vectors and U an orthonormal basis of the columns of W Cov(x, site), a vector loses
    W^-1 U U^T W (x - mean). That holds of any W, but with few slides for many features the sample's own whitening
    blows up whatever it saw little of: the covariance is shrunk first (:func:`oracle_shrinkage`), as the authors' code
    does. The sites of other slides stay readable as far as training slides do not tell how they look.
    """

    def fit(self, vectors: Vectors, sites: Sequence[str]) -> Self:
        """Learn the directions of the sites from vectors (n, features) and the site of each, (n,)."""
        rows = _checked(vectors, sites)
        self._mean = rows.mean(axis=0)
        # (n, directions), (directions,), (directions, features); all else happens along the directions of `right`
        left, size, right = np.linalg.svd(rows - self._mean, full_matrices=False)
        seen = size > max(rows.shape) * np.finfo(vectors.dtype).eps * size.max(initial=0.0)
        left, size, right = left[:, seen], size[seen], right[seen]
        variance = np.square(size) / len(rows)
        rho = oracle_shrinkage(variance, n=len(rows), features=rows.shape[1])
        scale = np.sqrt((1 - rho) * variance + rho * variance.sum() / rows.shape[1])  # (directions,)
        white = left * size / scale  # (n, directions), of mean 0
        means = np.stack([white[where].mean(axis=0) for where in _places(sites).values()])  # (sites, directions)
        _, apart, basis = np.linalg.svd(means, full_matrices=False)
        basis = basis[apart > _NO_DIFFERENCE]  # (sites - 1, directions)
        self._into = (right.T / scale) @ basis.T  # (features, sites - 1)
        self._out = (basis * scale) @ right  # (sites - 1, features)
        return self

    def transform(self, vectors: Vectors, sites: Sequence[str]) -> Vectors:
        """Take the directions out of vectors (m, features), whatever their `sites` (m,)."""
        rows = _checked(vectors, sites)
        return (rows - ((rows - self._mean) @ self._into) @ self._out).astype(vectors.dtype)


HARMONISERS: Final[dict[str, Callable[[], Harmoniser]]] = {"combat": Combat, "center": Centre, "erase": Erase}
"""By the name of the option; those of :data:`Harmonise`."""


def harmonising(method: Harmonise, sites: Sequence[str]) -> Transform:
    """What takes the site out of both sides of a split as it is learnt from the training side alone.

    Args:
        method: `combat`, `center` or `erase`.
        sites: Of each unit, (units,).

    Returns:
        A function that is fitted to a training side, its vectors (n, features) and their places among the units, and
        returns another that takes vectors and their places, and gives them back without their site.

    Raises:
        InvalidInput: No such method; or, when it is fitted, a training side of one site.
    """
    if method not in HARMONISERS:
        raise InvalidInput(f"`harmonise` is {method!r}", f"expected one of {', '.join(get_args(Harmonise))}")
    names = np.asarray(sites)

    def fit(train: Vectors, places: Places) -> Apply:
        mine = names[places].tolist()
        if len(set(mine)) < 2:
            raise InvalidInput(
                f"all {len(mine)} training slides are of the site {mine[0]!r}",
                "There is nothing to take out: leave `harmonise` out, or take splits with several sites in training.",
            )
        fitted = HARMONISERS[method]().fit(train, mine)
        return lambda vectors, places: fitted.transform(vectors, names[places].tolist())

    return fit


def oracle_shrinkage(variance: NDArray[np.float64], *, n: int, features: int) -> float:
    """How far to shrink a covariance to a multiple of the identity: 0 not at all, 1 all the way.

    The oracle approximating estimate of Chen, Wiesel, Eldar and Hero, Shrinkage algorithms for MMSE covariance
    estimation, IEEE Transactions on Signal Processing 58 (2010), equation 23.

    Args:
        variance: Eigenvalues of the covariance of `n` vectors, those that are not 0, (directions,).
        n: Number of vectors.
        features: Of each vector.
    """
    squares, square = float(np.square(variance).sum()), float(variance.sum()) ** 2
    unequal = squares - square / features
    if unequal <= 0:
        return 1.0
    return min(1.0, ((1 - 2 / features) * squares + square) / ((n + 1 - 2 / features) * unequal))


def _site_effect(standard: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior location and scale (features,) of the standardised vectors (n, features) of one site.

    The priors are fitted to the site's own features by the method of moments: normal for the locations, inverse gamma
    for the variances; the two posterior means are iterated until they agree (Johnson et al., section 3.1).
    """
    n, location = len(standard), standard.mean(axis=0)
    if n == 1 or standard.shape[1] < 2:  # no variance, or no other feature to learn from
        return location, np.ones_like(location)
    variance = standard.var(axis=0, ddof=1)
    mean, spread = location.mean(), location.var(ddof=1)  # prior of the locations
    m, s2 = variance.mean(), variance.var(ddof=1)
    if s2 <= 0 or spread <= 0:  # all features agree: nothing to shrink
        return location, np.sqrt(variance)
    shape, rate = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2  # prior of the variances
    # Sum of squares about any location g is `about` + n (g - mean)^2.
    g, d, about = location, variance, np.square(standard - location).sum(axis=0)
    for _ in range(STEPS):
        new_g = (n * spread * location + d * mean) / (n * spread + d)
        new_d = (rate + (about + n * np.square(new_g - location)) / 2) / (n / 2 + shape - 1)
        # the relative change of a location next to 0 says nothing: it is seen beside the deviation
        change = max(np.max(np.abs(new_g - g) / np.sqrt(new_d)), np.max(np.abs(new_d - d) / new_d))
        g, d = new_g, new_d
        if change <= TOLERANCE:
            break
    return g, np.sqrt(d)


def _checked(vectors: Vectors, sites: Sequence[str]) -> NDArray[np.float64]:
    if vectors.ndim != 2 or len(vectors) != len(sites):
        raise InvalidInput(f"vectors of shape {vectors.shape} for {len(sites)} sites", "Give one site for each vector.")
    return vectors.astype(np.float64)


def _places(sites: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Where each site is, in sorted order."""
    names, index = np.unique(np.asarray(sites), return_inverse=True)
    return {str(name): np.flatnonzero(index == i) for i, name in enumerate(names)}
