"""Operators against explicit ridge regression, known affine maps, and the formulas of a view."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from gigacli.errors import InvalidInput
from gigacli.nn import whitening
from gigacli.nn.closed_forms import SlideTiles, ViewWhitened
from gigacli.nn.operators import DRAWN, AppliedOperators, Drawn, Gate, Operators
from gigacli.nn.operators_fit import FOLDS, LAMBDAS, Calibration, fit_operators, operator_space
from gigacli.nn.sampler import Sampler
from gigacli.nn.views import TilePositions, draw_rows, draw_slide_augmentation
from gigacli.nn.whitening import FeatureSpace, augmentation_covariance, spread_of, whitening_matrix
from gigacli.randomness import keyed_rng, keyed_seed

CPU = torch.device("cpu")
D, K, SLIDES, TILES = 6, 5, 15, 12
MIXING = np.random.default_rng(99).standard_normal((D, D))


def tiles_of(rng, n):
    """Features whose mean is many times their spread, and whose spread is not round."""
    return rng.standard_normal((n, D)) @ MIXING + 3 * np.arange(D)


def maps_of(sets=K):
    """Affine maps, like augmentations that differ in how far they go."""
    rng = np.random.default_rng(5)
    return 0.2 * rng.standard_normal((sets, D, D)), rng.standard_normal((sets, D))


def calibration_of(noise, *, shrunk=1.0, order=None, sets=K):
    """Tiles of slides that differ in their mean, moved by the maps, times `shrunk`, and noise."""
    linear, shift = maps_of(sets)
    plain, augmented, names = [], [], []
    for number in range(SLIDES) if order is None else order:
        rng = np.random.default_rng(number)
        x = tiles_of(rng, TILES) + rng.standard_normal(D)
        moved = shrunk * (np.einsum("nd,kde->nke", x, linear) + shift)
        plain.append(x)
        augmented.append(x[:, None] + moved + noise * rng.standard_normal((TILES, sets, D)))
        names += [f"slide-{number}"] * TILES
    return Calibration(np.concatenate(plain), np.concatenate(augmented), np.array(names))


def fitted(calibration, *, rank=D, **options):
    spread = spread_of(np.split(calibration.plain, calibration.first[1:-1]))
    return fit_operators(calibration, operator_space(calibration, spread), rank=rank, **options)


def applied(operators, precision="fp32"):
    return AppliedOperators(operators, device=CPU, precision=precision)


@pytest.fixture(scope="module")
def noisy():
    return calibration_of(1.0)


@pytest.fixture(scope="module")
def learnt(noisy):
    return fitted(noisy)


def ridge(x, moved, penalty):
    """(c, mu, D) by the normal equations."""
    c, mu = x.mean(axis=0), moved.mean(axis=0)
    covariance = (x - c).T @ (x - c) / len(x)
    damped = covariance + penalty * np.trace(covariance) / D * np.eye(D)
    return c, mu, np.linalg.solve(damped, (x - c).T @ (moved - mu) / len(x))


def brute_force(calibration, space, penalty, seed=0):
    """What is left of each tile (n, k, d) by the ridge of the other folds, and where a set only adds its shift."""
    x, y = (space(a).astype(np.float64) for a in (calibration.plain, calibration.augmented))
    names = sorted(set(calibration.slide), key=lambda name: keyed_seed(seed, "operators", name))
    fold = np.array([names.index(name) % FOLDS for name in calibration.slide])
    left, shifted = np.empty_like(y), np.empty_like(y)
    for f in range(FOLDS):
        for k in range(y.shape[1]):
            c, mu, linear = ridge(x[fold != f], (y[:, k] - x)[fold != f], penalty)
            moved = (y[:, k] - x)[fold == f]
            left[fold == f, k] = moved - mu - (x[fold == f] - c) @ linear
            shifted[fold == f, k] = moved - mu
    return x, y - x[:, None], left, shifted


def test_it_is_ridge_regression_towards_the_identity(noisy, learnt):
    space = learnt.space
    errors = [np.square(brute_force(noisy, space, penalty)[2]).sum() for penalty in LAMBDAS]
    assert learnt.penalty == LAMBDAS[int(np.argmin(errors))]
    x, moved, _, _ = brute_force(noisy, space, learnt.penalty)
    new = tiles_of(np.random.default_rng(77), 9)
    for k in range(K):
        c, mu, linear = ridge(x, moved[:, k], learnt.penalty)
        inside = space(new) + mu + (space(new) - c) @ linear
        got = applied(learnt).under(new, k)
        np.testing.assert_allclose(space(got), inside, atol=2e-4)
        np.testing.assert_allclose(learnt.left @ learnt.core[k] @ learnt.right, linear, atol=1e-5)


def test_r2_are_those_of_slides_left_out(noisy, learnt):
    _, moved, left, shifted = brute_force(noisy, learnt.space, learnt.penalty)
    means = [a.reshape(SLIDES, TILES, K, D).mean(axis=1) for a in (moved, left, shifted)]
    square = [np.square(a).sum(axis=(0, 2)) for a in (moved, left, *means)]  # (k,) each
    r2 = np.stack([1 - square[1] / square[0], 1 - square[3] / square[2], 1 - square[4] / square[2]], axis=1)
    np.testing.assert_allclose(learnt.r2, r2, atol=1e-4)
    total = [s.sum() for s in square]
    expected = (1 - total[1] / total[0], 1 - total[3] / total[2], 1 - total[4] / total[2])
    np.testing.assert_allclose((learnt.gate.tile, learnt.gate.slide, learnt.gate.shift), expected, atol=1e-4)


def test_the_space_is_standardised_and_whitened_by_augmentations(noisy):
    spread = spread_of(np.split(noisy.plain, noisy.first[1:-1]))
    pairs = [
        (noisy.augmented[i : i + TILES].swapaxes(0, 1), np.tile(np.arange(TILES), (K, 1))) for i in noisy.first[:-1]
    ]
    matrix = whitening_matrix(augmentation_covariance(pairs, spread.standard), spread)
    np.testing.assert_allclose(operator_space(noisy, spread).matrix, matrix, rtol=1e-6)


def test_affine_maps_are_recovered():
    linear, shift = maps_of()
    operators = fitted(calibration_of(0.0))
    assert operators.penalty == LAMBDAS[0]
    assert min(operators.gate.tile, operators.gate.slide) > 0.999
    assert operators.gate.outcome == "operators"
    new = tiles_of(np.random.default_rng(77), 9)
    for k in range(K):
        truth = new @ linear[k] + shift[k]
        np.testing.assert_allclose(applied(operators).under(new, k) - new, truth, atol=0.05 * np.abs(truth).max())


@pytest.mark.parametrize("far", [0.0, 0.3])
def test_noise_and_mere_shifts_are_refused(far):
    one = calibration_of(1.0, shrunk=0.0)
    gate = fitted(Calibration(one.plain, one.augmented + far * maps_of()[1], one.slide)).gate
    assert gate.outcome == "refused"
    assert abs(gate.slide - gate.shift) < 0.1
    assert (gate.shift > 0.3) == (far > 0)


def test_mere_shifts_will_do_where_there_is_nothing_else():
    one = calibration_of(1.0, shrunk=0.0)
    gate = fitted(Calibration(one.plain, one.augmented + 5 * maps_of()[1], one.slide)).gate
    assert gate.shift > 0.9
    assert gate.outcome == "operators"


@pytest.mark.parametrize(
    ("gate", "outcome", "words"),
    [
        (
            Gate(0.4, 0.9, 0.5),
            "operators",
            "foresee 0.40 of how augmentation moves tiles and 0.90 of how it moves slides",
        ),
        (Gate(0.35, 0.9, 0.5), "residuals", "what they cannot foresee is added from the calibration tiles"),
        (Gate(0.1, 0.9, 0.5), "residuals", "a bank of tiles is safer"),
        (Gate(0.5, 0.54, 0.5), "refused", "adding one vector a set foresees 0.50"),
        (Gate(0.5, 0.55, 0.5), "operators", "0.55 of how it moves slides"),
        (Gate(0.9, 0.95, 0.95), "operators", "0.95 of how it moves slides"),
        (Gate(-0.2, -0.1, 0.0), "refused", "too little about tissue"),
    ],
)
def test_the_gate(gate, outcome, words):
    assert gate.outcome == outcome
    said = gate.words(residuals=outcome == "residuals")
    assert words in said
    assert ("safer" in said) == (gate.tile < 0.3 and outcome == "residuals")
    assert ("left out, though it is much" in gate.words(residuals=False)) == (outcome == "residuals")


def view_by_formula(operators, features, which, z):
    """h = fbar + 3^(-1/2) sum_j z_j (f_kj - fbar) of tiles (t, d), from the operators one by one."""
    under = np.stack([applied(operators).under(features, k) for k in range(K)]).astype(np.float64)  # (k, t, d)
    mean = under.mean(axis=0)
    return mean + sum(z_j * (under[k] - mean) for k, z_j in zip(which, z, strict=True)) / np.sqrt(DRAWN)


@pytest.mark.parametrize("rank", [D, 3])
def test_views_are_those_of_the_formula(noisy, rank):
    operators = fitted(noisy, rank=rank)
    rng = np.random.default_rng(3)
    features, drawn = tiles_of(rng, 7 * 4).reshape(7, 4, D), operators.draw(rng, 7, 4)
    got = applied(operators)(features, drawn)
    assert got.shape == (7, 4, D)
    assert got.dtype == torch.float32
    for view in range(7):
        z = drawn.weight[view] * np.sqrt(DRAWN)
        expected = view_by_formula(operators, features[view], drawn.which[view], z)
        np.testing.assert_allclose(got[view], expected, atol=1e-3)


def test_an_augmentation_is_shared_by_the_tiles_of_a_view(learnt):
    rng = np.random.default_rng(4)
    drawn = learnt.draw(rng, 6, 5)
    same = applied(learnt)(np.broadcast_to(tiles_of(rng, 1), (6, 5, D)), drawn).numpy()
    np.testing.assert_allclose(same, same[:, :1].repeat(5, axis=1), atol=1e-5)
    assert np.abs(same[:, None] - same).max(axis=(2, 3))[~np.eye(6, dtype=bool)].min() > 0.01


def test_new_augmentations_have_the_mean_and_the_covariance_of_the_learnt_ones(learnt):
    n, tile = 40_000, tiles_of(np.random.default_rng(8), 2)
    drawn = learnt.draw(np.random.default_rng(9), n, 2)
    new = applied(learnt)(np.broadcast_to(tile, (n, 2, D)), drawn).numpy().astype(np.float64).reshape(n, -1)
    known = np.stack([applied(learnt).under(tile, k) for k in range(K)]).astype(np.float64).reshape(K, -1)
    scale = known.std(axis=0).max()
    np.testing.assert_allclose(new.mean(axis=0), known.mean(axis=0), atol=0.03 * scale)
    # Over both tiles at once: how the tiles of a view move together, too.
    np.testing.assert_allclose(np.cov(new.T), np.cov(known.T, bias=True), atol=0.05 * scale**2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.integers(1, D + 2))
def test_views_do_not_depend_on_each_other(seed, views, tiles, rank):
    rng = np.random.default_rng(seed)
    core = rng.standard_normal((K, min(rank, D), min(rank, D)))
    operators = Operators(
        space=FeatureSpace(None, None),
        centre=rng.standard_normal(D).astype(np.float32),
        shift=rng.standard_normal((K, D)).astype(np.float32),
        left=rng.standard_normal((D, min(rank, D))).astype(np.float32),
        core=core.astype(np.float32),
        right=rng.standard_normal((min(rank, D), D)).astype(np.float32),
        gate=Gate(1, 1, 0),
        r2=np.zeros((K, 3), dtype=np.float32),
        penalty=1.0,
        kept=1.0,
    )
    features, drawn = rng.standard_normal((views, tiles, D)), operators.draw(rng, views, tiles)
    together = applied(operators)(features, drawn)
    for view in range(views):
        at = np.array([view])
        alone = applied(operators)(features[at], drawn.part(at))[0]
        np.testing.assert_allclose(together[view], alone, atol=1e-3, rtol=1e-4)
        z = drawn.weight[view] * np.sqrt(DRAWN)
        expected = view_by_formula(operators, features[view], drawn.which[view], z)
        np.testing.assert_allclose(alone, expected, atol=1e-3, rtol=1e-4)


def test_the_same_seed_draws_the_same(learnt):
    features = tiles_of(np.random.default_rng(1), 6).reshape(2, 3, D)
    one, other = (applied(learnt)(features, learnt.draw(keyed_rng(0, "a"), 2, 3)).numpy() for _ in range(2))
    assert one.tobytes() == other.tobytes()


def test_the_order_of_slides_leaves_no_trace(noisy, learnt):
    again = fitted(calibration_of(1.0, order=range(SLIDES)[::-1]))
    for name, value in learnt.state().items():
        assert value.tobytes() == again.state()[name].tobytes(), name


def test_directions_are_shared_and_few():
    rng = np.random.default_rng(2)
    thin = np.einsum(
        "dr,krs,se->kde", rng.standard_normal((D, 2)), rng.standard_normal((K, 2, 2)), rng.standard_normal((2, D))
    )
    one = calibration_of(0.0, shrunk=0.0)
    moved = Calibration(one.plain, one.augmented + 0.1 * np.einsum("nd,kde->nke", one.plain, thin), one.slide)
    whole, few = fitted(moved), fitted(moved, rank=2)
    assert few.kept > 0.999
    assert few.left.shape == (D, 2)
    assert few.core.shape == (K, 2, 2)
    for k in range(K):
        np.testing.assert_allclose(applied(few).under(one.plain, k), applied(whole).under(one.plain, k), atol=0.05)


def test_more_directions_keep_more(noisy, learnt):
    kept = [fitted(noisy, rank=rank).kept for rank in (1, 2, 4, D + 3)]
    assert kept == sorted(kept)
    assert kept[0] < 0.9
    assert kept[-1] == learnt.kept == 1.0


def test_residuals_are_what_others_could_not_foresee(noisy):
    operators = fitted(noisy, residuals=True)
    _, _, left, _ = brute_force(noisy, operators.space, operators.penalty)
    residuals = operators.residuals
    assert residuals is not None
    back = np.linalg.inv(operators.space.matrix.astype(np.float64)) * operators.space.standard.sd
    np.testing.assert_allclose(residuals.values, left @ back, atol=5e-3)
    drawn = operators.draw(np.random.default_rng(0), 30, 4)
    assert drawn.tile is not None
    assert all(len(set(view // TILES)) == 1 for view in drawn.tile)  # one slide a view
    features = np.broadcast_to(tiles_of(np.random.default_rng(1), 1), (30, 4, D))
    bare = applied(operators)(features, Drawn(drawn.which, drawn.weight, None))
    added = residuals.values[drawn.tile, drawn.which[:, :1]]
    np.testing.assert_allclose(applied(operators)(features, drawn) - bare, added, atol=1e-4)


@pytest.mark.parametrize("residuals", [False, True])
def test_all_tiles_of_a_slide_are_moved_some_at_a_time(noisy, residuals, monkeypatch):
    operators = applied(fitted(noisy, residuals=residuals))
    plain = tiles_of(np.random.default_rng(2), 50).astype(np.float16)
    at_once = operators(plain[None], operators.draw(np.random.default_rng(3), 1, 50))[0].numpy()
    monkeypatch.setattr(whitening, "VALUES_AT_ONCE", 7 * D)
    real, seen = AppliedOperators.__call__, []
    monkeypatch.setattr(
        AppliedOperators, "__call__", lambda self, f, drawn: seen.append(f.shape) or real(self, f, drawn)
    )
    in_parts = operators.whole(plain, np.random.default_rng(3))
    np.testing.assert_allclose(in_parts, at_once, rtol=1e-3, atol=1e-3)
    assert seen == [(1, 7, D)] * 7 + [(1, 1, D)]


@pytest.mark.parametrize("residuals", [False, True])
def test_what_is_kept_comes_back(noisy, residuals):
    operators = fitted(noisy, rank=4, residuals=residuals)
    said = {"gate": operators.gate, "penalty": operators.penalty, "kept": operators.kept}
    again = Operators.from_state(load(save(operators.state())), **said)
    assert again.gate == operators.gate
    assert (again.penalty, again.kept) == (operators.penalty, operators.kept)
    features = tiles_of(np.random.default_rng(1), 6).reshape(2, 3, D)
    one, other = (applied(o)(features, o.draw(keyed_rng(0), 2, 3)).numpy() for o in (operators, again))
    assert one.tobytes() == other.tobytes()


def test_half_precision_is_near(learnt):
    rng = np.random.default_rng(1)
    features, drawn = tiles_of(rng, 60).reshape(12, 5, D), learnt.draw(rng, 12, 5)
    one, half = applied(learnt)(features, drawn), applied(learnt, "bf16")(features, drawn)
    assert half.dtype == torch.float32
    assert (one - half).square().mean() < 1e-3 * (one - torch.from_numpy(features)).square().mean()


def test_a_bank_of_a_slide(learnt):
    plain = tiles_of(np.random.default_rng(1), 9).astype(np.float16)
    features, tile = applied(learnt).bank(plain, keyed_rng(0), augmentations=7, draws=5)
    assert features.shape == (7, 5, D)
    assert (tile == tile[0]).all()
    assert len(set(tile[0].tolist())) == 5
    assert applied(learnt).bank(plain, keyed_rng(0), augmentations=7, draws=50)[0].shape == (7, 9, D)
    drawn = keyed_rng(0)
    drawn.permutation(9)
    expected = applied(learnt)(np.broadcast_to(plain[tile[0]], (7, 5, D)), learnt.draw(drawn, 7, 5))
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-2)


def test_closed_forms_take_augmentations_from_operators(learnt):
    slides = []
    for number in range(6):
        plain = tiles_of(np.random.default_rng(number), 20).astype(np.float16)
        features, tile = applied(learnt).bank(plain, keyed_rng("bank", number), augmentations=8, draws=16)
        slides.append(SlideTiles(f"{number}", plain, None, features, tile))
    vector = ViewWhitened.fit(slides, learnt.space, seed=0).transform(slides[0])
    assert vector.shape == (2 * D,)
    assert np.isfinite(vector).all()


class Tiles:
    """Un-augmented tiles of slides, as a ViewSource."""

    augmentations = 1

    def __init__(self, counts):
        self.counts = np.array(counts)
        self.first = np.cumsum([0, *counts[:-1]])
        self.vectors = tiles_of(np.random.default_rng(0), sum(counts)).astype(np.float16)

    def at(self, slide, augmentation, draw):
        return (self.first[slide] + draw,)

    def tiles(self, slide, augmentation, draw):
        return draw.astype(np.int32)


def views_of(source, operators, part=(0, 1)):
    grids = [(np.stack([np.arange(n), np.zeros(n)], axis=1).astype(np.int32), 1.0) for n in source.counts]
    options = {"tiles": 3, "slide_aug": True, "seed": 0, "batch_size": 8, "device": CPU, "part": part}
    sampler = Sampler(source, TilePositions(grids), operators=operators, **options)
    return sampler.views(np.arange(len(source.counts)), keyed_rng(0, "views"))


def test_a_sampler_moves_what_it_drew(learnt):
    source = Tiles([4, 9, 6])
    still, moved = views_of(source, None), views_of(source, applied(learnt))
    assert torch.equal(still.positions, moved.positions)
    assert torch.equal(still.cells, moved.cells)
    rng = keyed_rng(0, "views")  # operators are drawn after all else
    rng.integers(0, source.augmentations, 6)
    draw_rows(rng, np.tile(source.counts, 2), 3)
    draw_slide_augmentation(6, rng)
    torch.testing.assert_close(moved.features, applied(learnt)(still.features, learnt.draw(rng, 6, 3)))


def test_processes_see_the_views_of_one(learnt):
    source = Tiles([4, 9, 6, 5])
    whole = views_of(source, applied(learnt))
    parts = [views_of(source, applied(learnt), (r, 2)) for r in range(2)]
    first = torch.cat([p.features[:2] for p in parts])
    second = torch.cat([p.features[2:] for p in parts])
    torch.testing.assert_close(torch.cat([first, second]), whole.features)


def test_a_calibration_that_cannot_be_used_is_refused(noisy):
    plain, augmented, slide = noisy.plain, noisy.augmented, noisy.slide
    with pytest.raises(InvalidInput, match=r"180 tiles of 6 features come with augmented features of shape"):
        Calibration(plain, augmented[:, 0], slide)
    with pytest.raises(InvalidInput, match=r"expected \(180, sets, 6\) and 180"):
        Calibration(plain, augmented, slide[1:])
    with pytest.raises(InvalidInput, match="sort them by slide"):
        Calibration(plain, augmented, np.roll(slide, 3))
    few = 9 * TILES
    with pytest.raises(InvalidInput, match="tiles of 9 slides and judged on slides left out, which takes 10"):
        Calibration(plain[:few], augmented[:few], slide[:few])


def test_features_that_are_not_finite_are_refused(noisy, learnt):
    broken = noisy.augmented.copy()
    broken[3, 2, 1] = np.nan
    with pytest.raises(InvalidInput, match="not finite"):
        fit_operators(Calibration(noisy.plain, broken, noisy.slide), learnt.space, rank=D)
