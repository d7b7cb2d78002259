"""Operators of parameter sets that slides do not share, for `benchmarks/operators.py`: of idc there are no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.nn.operators import Gate, Operators

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gigacli.nn.operators_fit import Calibration
    from gigacli.nn.whitening import FeatureSpace

FAMILY, ROUNDS, RIDGE = 16, 3, (0.3, 0.01)
"""Matrices that all sets have in common; rounds; ridges of the matrices and of what each set takes of them."""


def family_of(ones: list[Calibration], space: FeatureSpace) -> Operators:
    """Operators of sets that no two slides share: D_k = sum_q u_kq B_q, with few B that all sets have in common.

    u by least squares from the tiles of the one slide, B from all; alternately, from ridge regressions of each set.
    """
    tiles = [space(one.plain).astype(np.float64) for one in ones]
    centre = np.mean([x.mean(axis=0) for x in tiles], axis=0)
    moved = [space(one.augmented).astype(np.float64) - x[:, None] for one, x in zip(ones, tiles, strict=True)]
    rows = [np.column_stack([np.ones(len(x)), x - centre]) for x in tiles]  # (n, p)
    p, d = rows[0].shape[1], moved[0].shape[2]
    squares = [x.T @ x for x in rows]
    crosses = [np.einsum("np,nad->apd", x, y) for x, y in zip(rows, moved, strict=True)]
    own = []
    for square, cross in zip(squares, crosses, strict=True):
        damping = np.diag(np.trace(square) / p * np.append(0.01, np.ones(p - 1)))
        own.append(np.linalg.solve((square + damping)[None], cross))
    mean = sum(square / len(x) for square, x in zip(squares, rows, strict=True)) / len(ones)
    root = np.linalg.cholesky(mean + 1e-3 * np.eye(p))
    scores, spread, _ = np.linalg.svd(
        np.einsum("pr,kpd->krd", root, np.concatenate(own)).reshape(-1, p * d), full_matrices=False
    )
    codes, sets = scores[:, :FAMILY] * spread[:FAMILY], moved[0].shape[1]
    for _ in range(ROUNDS):
        codes = codes / codes.std(axis=0)
        of = np.split(codes, len(ones))
        system = sum(np.kron(u.T @ u, square) for u, square in zip(of, squares, strict=True))
        target = sum(np.einsum("aq,apd->qpd", u, cross) for u, cross in zip(of, crosses, strict=True))
        system[np.diag_indices_from(system)] += RIDGE[0] * np.trace(system) / len(system)
        basis = np.linalg.solve(system, target.reshape(-1, d)).reshape(FAMILY, p, d)
        found = []
        for x, y in zip(rows, moved, strict=True):
            foreseen = np.einsum("np,qpd->qnd", x, basis).reshape(FAMILY, -1)
            gram = foreseen @ foreseen.T
            gram[np.diag_indices_from(gram)] += RIDGE[1] * np.trace(gram) / FAMILY
            found.append(np.linalg.solve(gram, foreseen @ y.swapaxes(0, 1).reshape(sets, -1).T).T)
        codes = np.concatenate(found)
    whole = np.einsum("kq,qpd->kpd", codes, basis)
    return dense(space, centre, whole[:, 0], whole[:, 1:])


def dense(space: FeatureSpace, centre: NDArray[Any], shift: NDArray[Any], linear: NDArray[Any]) -> Operators:
    """Operators from whole matrices (k, d, d), with nothing said of how good they are."""
    eye, unknown = np.eye(len(centre), dtype=np.float32), np.full((len(shift), 3), np.nan, dtype=np.float32)
    learnt = {"centre": centre, "shift": shift, "core": linear}
    arrays = {name: value.astype(np.float32) for name, value in learnt.items()}
    gate = Gate(*[float("nan")] * 3)
    return Operators(space=space, left=eye, right=eye, **arrays, gate=gate, r2=unknown, penalty=0.0, kept=1.0)


def side_by_side(parts: list[Operators]) -> Operators:
    """The operators of several slides as one collection, about one centre."""
    centre = np.mean([part.centre for part in parts], axis=0, dtype=np.float64)
    linear = [part.left.astype(np.float64) @ part.core @ part.right for part in parts]  # (k, d, d)
    # mu + (x - c_slide) D = [mu + (c - c_slide) D] + (x - c) D
    shift = [part.shift + (centre - part.centre) @ d for part, d in zip(parts, linear, strict=True)]
    return dense(parts[0].space, centre, np.concatenate(shift), np.concatenate(linear))
