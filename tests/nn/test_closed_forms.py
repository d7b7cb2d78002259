"""Vectors without training against their formulas in numpy."""

import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load, save

from gigacli.errors import InvalidInput
from gigacli.nn import closed_forms, whitening
from gigacli.nn.arrangement import Arrangement
from gigacli.nn.closed_forms import MeanStd, SlideTiles, ViewWhitened, WhitenedMean, mean_and_deviation
from gigacli.nn.forms import FORMS, fit_vectors
from gigacli.nn.prototypes import Mixture
from gigacli.nn.views import draw_rows
from gigacli.nn.whitening import FeatureSpace, Standard, augmentation_covariance, spread_of, whitening_matrix
from gigacli.randomness import keyed_rng

C, A, D = 5, 4, 30
FITTED = (ViewWhitened, Mixture, Arrangement)


def slide(number, n=25):
    """Tiles of a slide, and a bank of it whose augmentations move all tiles."""
    rng = np.random.default_rng(number)
    plain = rng.standard_normal((n, C)) * np.linspace(0.5, 3, C) + rng.standard_normal(C) + 7
    moved = plain[rng.integers(0, n, (A, D))] + rng.standard_normal((A, 1, C)) + 0.3 * rng.standard_normal((A, D, C))
    return SlideTiles(
        f"slide-{number}", plain.astype(np.float16), rng.integers(0, 9, (n, 2)) * 1.0, moved.astype(np.float16)
    )


@pytest.fixture(scope="module")
def slides():
    return [slide(i, n) for i, n in enumerate([25, 1, 40, 12, 30])]


@pytest.fixture(scope="module")
def space(slides):
    spread = spread_of(s.plain for s in slides)
    noise = augmentation_covariance(
        ((s.augmented, np.arange(D, dtype=np.int32) + np.zeros((A, 1), np.int32)) for s in slides), spread.standard
    )
    return FeatureSpace(spread.standard, whitening_matrix(noise, spread))


def inside(space, tiles):
    standard = (tiles.astype(np.float64) - space.standard.mean) / space.standard.sd
    return standard @ space.matrix


def pooled(tiles):
    return np.concatenate([tiles.mean(0), np.sqrt(np.square(tiles - tiles.mean(0)).mean(0))])


@pytest.mark.parametrize("form", [WhitenedMean, MeanStd, ViewWhitened])
def test_slides_of_very_many_tiles_are_pooled_in_parts(slides, space, monkeypatch, form):
    def seen():
        made = ViewWhitened.fit(slides, space, seed=0) if form is ViewWhitened else form(space)
        vectors = [made.transform(one) for one in slides]
        weights = np.linspace(-1, 1, len(vectors[0]))
        return [spread_of(s.plain for s in slides).standard.sd, *vectors, *(made.scores(s, weights) for s in slides)]

    whole = seen()
    monkeypatch.setattr(whitening, "VALUES_AT_ONCE", 7 * C)
    for ours, theirs in zip(seen(), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_very_many_tiles_take_little_more_memory_than_they_have(space):
    one = SlideTiles("large", np.ones((2_000_000, C), dtype=np.float16))
    for work in (MeanStd(space).transform, lambda s: spread_of([s.plain])):
        tracemalloc.start()
        work(one)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken < 90 * 2**20  # at once, 114 and 152 MB


def test_whitened_mean_and_deviation(slides, space):
    for one in slides:
        expected = pooled(inside(space, one.plain))
        np.testing.assert_allclose(WhitenedMean(space).transform(one), expected[:C], atol=1e-5)
        np.testing.assert_allclose(MeanStd(space).transform(one), expected, atol=1e-5)


def test_deviations_are_over_the_tiles():
    tiles = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_allclose(mean_and_deviation(tiles), [pooled(tiles[0]), pooled(tiles[1])])


def spread_of_views(slides, space):
    """N, view by view."""
    total, count = np.zeros((2 * C, 2 * C)), 0
    for one in slides:
        rng = keyed_rng(3, "view-whitened", one.id)
        augmentation = rng.integers(0, A, 24)
        rows = draw_rows(rng, np.full(24, D), 10)
        assert all(len(set(view.tolist())) == 10 for view in rows)
        views = np.stack([pooled(inside(space, one.augmented[a, r])) for a, r in zip(augmentation, rows, strict=True)])
        for view in views:
            total, count = total + np.outer(view - views.mean(0), view - views.mean(0)), count + 1
    return total / count


def test_views_are_whitened_by_how_they_differ(slides, space):
    covariance = spread_of_views(slides, space)
    values, directions = np.linalg.eigh(covariance + 0.3 * np.trace(covariance) / (2 * C) * np.eye(2 * C))
    root = directions / np.sqrt(values) @ directions.T
    form = ViewWhitened.fit(slides, space, seed=3)
    for one in slides:
        np.testing.assert_allclose(form.transform(one), pooled(inside(space, one.plain)) @ root, rtol=1e-3, atol=1e-4)


def test_of_wide_features_the_first_directions_are_told_apart(slides, space, monkeypatch):
    monkeypatch.setattr(closed_forms, "DIRECTIONS", 3)
    covariance = spread_of_views(slides, space)
    values, directions = np.linalg.eigh(covariance)
    values[:-3] = values[:-3].mean()
    root = directions / np.sqrt(values + 0.3 * np.trace(covariance) / (2 * C)) @ directions.T
    form = ViewWhitened.fit(slides, space, seed=3)
    assert form.directions.shape == (2 * C, 3)
    for one in slides:
        np.testing.assert_allclose(form.transform(one), pooled(inside(space, one.plain)) @ root, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", FITTED, ids=lambda form: form.name)
def test_the_order_of_slides_leaves_no_trace(slides, space, form):
    one, other = (form.fit(iter(order), space, seed=1) for order in (slides, slides[::-1]))
    for name, value in one.state().items():
        assert value.tobytes() == other.state()[name].tobytes(), name
    for each in slides:
        assert one.transform(each).tobytes() == other.transform(each).tobytes()


def test_blocks_of_slides_are_added_as_one(slides, space, monkeypatch):
    whole = ViewWhitened.fit(slides, space, seed=1)
    monkeypatch.setattr(closed_forms, "SLIDES_AT_ONCE", 2)
    parts = ViewWhitened.fit(slides, space, seed=1)
    assert whole.directions.tobytes() == parts.directions.tobytes()


@pytest.mark.parametrize("form", FITTED[:2], ids=lambda form: form.name)
def test_another_seed_draws_otherwise(slides, space, form):
    one, other = (form.fit(slides, space, seed=seed).transform(slides[0]) for seed in (1, 2))
    assert np.abs(one - other).max() > 1e-6


@pytest.mark.parametrize("form", [WhitenedMean, MeanStd, *FITTED], ids=lambda form: form.name)
def test_what_is_kept_in_a_file_gives_the_same_vectors(slides, space, form):
    made = form.fit(slides, space, seed=1) if hasattr(form, "fit") else form(space)
    back = form.from_state(load(save(made.state())))
    for one in slides:
        assert back.transform(one).tobytes() == made.transform(one).tobytes()
        assert back.transform(one).dtype == np.float32


@pytest.mark.parametrize("kept", [FeatureSpace(None, None), FeatureSpace(Standard(np.ones(3), np.ones(3)), None)])
def test_a_space_without_parts_is_kept_too(kept):
    features = np.arange(12.0).reshape(4, 3).astype(np.float16)
    np.testing.assert_array_equal(FeatureSpace.from_state(kept.state())(features), kept(features))


def test_a_constant_slide_and_a_slide_of_one_tile_have_finite_vectors(slides, space):
    constant = SlideTiles(
        "constant", np.full((6, C), 2, np.float16), np.zeros((6, 2)), np.full((A, D, C), 2, np.float16)
    )
    for form in FITTED:
        fitted = form.fit([*slides, constant], space, seed=1)
        for one in (constant, slides[1]):
            assert np.isfinite(fitted.transform(one)).all()


def test_what_cannot_be_fitted_is_refused(slides, space):
    bare = SlideTiles("bare", slides[0].plain)
    with pytest.raises(InvalidInput, match="'bare' has no augmented tiles"):
        ViewWhitened.fit([bare], space, seed=0)
    with pytest.raises(InvalidInput, match="'bare' does not say where"):
        Arrangement.fit([bare], space, seed=0)
    with pytest.raises(InvalidInput, match="views of 0 slides do not differ"):
        ViewWhitened.fit([], space, seed=0)
    with pytest.raises(InvalidInput, match="no slides whose arrangement"):
        Arrangement.fit([], space, seed=0)
    with pytest.raises(InvalidInput, match="1 tiles are too few for 16 prototypes"):
        Mixture.fit([slides[1]], space, seed=0)


def fitted(kind, slides, space):
    return kind.fit(slides, space, seed=1) if hasattr(kind, "fit") else kind(space)


@pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)
def test_the_scores_of_tiles_add_up(slides, space, kind):
    """What a tile adds to a score: the mean over tiles is the score, whatever the weights."""
    form, rng = fitted(kind, slides, space), np.random.default_rng(3)
    for one in slides:
        vector = form.transform(one).astype(np.float64)
        weights = rng.normal(size=len(vector))
        scores = form.scores(one, weights)
        assert scores.shape == (len(one.plain),)
        assert scores.mean() == pytest.approx(vector @ weights, rel=1e-4, abs=1e-5 * np.linalg.norm(vector))


@pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)
def test_scores_go_with_their_tiles_in_any_order(slides, space, kind):
    form, one = fitted(kind, slides, space), slides[2]
    order = np.random.default_rng(4).permutation(len(one.plain))
    mixed = SlideTiles(one.id, one.plain[order], one.positions[order])
    weights = np.random.default_rng(3).normal(size=len(form.transform(one)))
    np.testing.assert_allclose(form.scores(mixed, weights), form.scores(one, weights)[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)
def test_a_score_tells_how_the_vector_changes_without_the_tile(space, kind):
    """n times the change, to first order; to the last digit for a mean."""
    n = 400
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2) * 1.0
    plain = (rng.standard_normal((n, C)) + 7 + np.sin(grid[:, :1] / 4)).astype(np.float32)
    plain[0] += 2  # a tile that is unlike the others, in the corner
    whole = SlideTiles("whole", plain, grid, plain[None])
    form = fitted(kind, [whole, *(slide(i, 30) for i in range(3))], space)
    vector = form.transform(whole).astype(np.float64)
    weights = rng.normal(size=len(vector))
    pulls, tiles = form.scores(whole, weights) - vector @ weights, [0, 1, 21, 210, 399]
    left = [SlideTiles("whole", np.delete(plain, i, 0), np.delete(grid, i, 0)) for i in tiles]
    changes = np.array([n * (vector - form.transform(one)) @ weights for one in left])
    np.testing.assert_allclose(pulls[tiles], changes, atol=0.05 * np.abs(changes).max())


@pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)
def test_scores_of_joined_vectors_are_those_of_their_weights(slides, space, kind):
    """With the length held fixed, what is above the mean over tiles is what moves the vector along the weights."""
    vectors = fit_vectors(kind.name, lambda: iter(slides), seed=1)
    one = slides[2]
    weights = np.random.default_rng(3).normal(size=len(vectors.transform([one])[0]))
    found = vectors.scores(one, weights)
    raw = vectors.form.transform(one).astype(np.float64)
    if vectors.join is None:
        np.testing.assert_array_equal(found, vectors.form.scores(one, weights))
        return
    # one block: (raw - mean) / its length, less the centre, / its length
    centred = raw - vectors.join.means[kind.name]
    length = np.linalg.norm(centred)
    whole = np.linalg.norm(centred / length - vectors.join.centre)
    np.testing.assert_allclose(found, vectors.form.scores(one, weights) / length / whole, rtol=1e-5, atol=1e-6)
