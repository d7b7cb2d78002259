"""Operators of sets that slides do not share, against the truth they are made from."""

import numpy as np
import pytest
import torch

from benchmarks.operator_families import family_of, side_by_side
from gigacli.nn.operators import AppliedOperators
from gigacli.nn.operators_fit import Calibration, fit_operators
from gigacli.nn.whitening import FeatureSpace

D, SETS, TILES, SLIDES, MAPS = 5, 4, 24, 24, 3


@pytest.fixture(scope="module")
def made():
    """Calibrations of slides with sets of their own, all combinations of three affine maps, and those sets."""
    rng = np.random.default_rng(0)
    maps, moves = 0.3 * rng.standard_normal((MAPS, D, D)), rng.standard_normal((MAPS, D))
    codes = rng.standard_normal((SLIDES, SETS, MAPS))
    calibrations = []
    for of_slide in codes:
        x = rng.standard_normal((TILES, D)) + 0.5 * rng.standard_normal(D)
        linear, shift = np.einsum("aq,qde->ade", of_slide, maps), of_slide @ moves
        y = x[:, None] + np.einsum("nd,ade->nae", x, linear) + shift
        calibrations.append(Calibration(x, y + 0.5 * rng.standard_normal(y.shape), np.arange(TILES)))
    return calibrations, maps, moves, codes.reshape(-1, MAPS)


def missed(operators, maps, moves, codes):
    """Share of the displacement of new tiles that operators do not foresee."""
    applied, new = (
        AppliedOperators(operators, device=torch.device("cpu")),
        np.random.default_rng(1).standard_normal((50, D)),
    )
    truth = np.stack([new @ np.einsum("q,qde->de", u, maps) + u @ moves for u in codes])
    found = np.stack([applied.under(new, k) - new for k in range(len(codes))])
    return np.square(found - truth).sum() / np.square(truth).sum()


def test_what_sets_have_in_common_is_learnt_from_all_slides(made):
    calibrations, *truth = made
    space = FeatureSpace(None, None)
    alone = missed(side_by_side([fit_operators(one, space, rank=D) for one in calibrations]), *truth)
    together = missed(family_of(calibrations, space), *truth)
    assert alone < 0.2
    assert together < 0.5 * alone
