"""Giga-SSL: positions, views, the loss of a batch, slide vectors, and a toy problem it must learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.nn.giga import GigaSSL, embed_views
from gigacli.nn.losses import nt_xent
from gigacli.nn.views import (
    TilePositions,
    ViewBatch,
    augment_positions,
    cells_of,
    draw_slide_augmentation,
    make_views,
)
from gigacli.nn.whitening import FeatureSpace, Standard

CPU = torch.device("cpu")
WIDTH = 16


def rng_of(seed):
    return np.random.default_rng(seed)


def positions_of(coords, *, tile_l0_px):
    """All tiles of one slide (n, 2)."""
    return TilePositions([(coords, tile_l0_px)])(np.array([0]), np.arange(len(coords))[None])[0]


def drawn(seed, b, t=5):
    """Features (b, t, WIDTH) float16 and positions (b, t, 2)."""
    rng = rng_of(seed)
    return rng.standard_normal((b, t, WIDTH)).astype(np.float16), rng.integers(0, 12, (b, t, 2)).astype(np.float64)


def views_of(seed, b, t=5):
    return make_views(*drawn(seed, b, t), augmentation=None, device=CPU)


@pytest.fixture(scope="module")
def encoder():
    """A slide encoder in eval mode whose running statistics are not those of its birth."""
    method = GigaSSL(WIDTH, temperature=0.2, seed=1)
    for seed in range(3):
        method([views_of(seed, 8)])
    return method.encoder.eval()


# Positions and views.


def test_positions_count_tiles_from_the_smallest_corner():
    coords = np.array([[1000, 512], [2024, 512], [1000, 2560], [1512, 1024]], dtype=np.int32)
    expected = [[0, 0], [2, 0], [0, 4], [1, 1]]
    np.testing.assert_array_equal(positions_of(coords, tile_l0_px=512.0), expected)


@given(st.integers(0, 1000), st.integers(-(2**31), 2**31 - 2**20), st.floats(16, 4096))
@settings(max_examples=60, deadline=None)
def test_positions_do_not_depend_on_where_the_slide_lies(seed, offset, tile_l0_px):
    coords = rng_of(seed).integers(0, 2**19, (6, 2)).astype(np.int32)
    moved = (coords.astype(np.int64) + offset).astype(np.int32)
    expected = positions_of(coords, tile_l0_px=tile_l0_px)
    np.testing.assert_array_equal(positions_of(moved, tile_l0_px=tile_l0_px), expected)
    assert expected.dtype == np.float64
    assert expected.min() == 0


def test_corners_at_both_ends_of_int32_do_not_overflow():
    coords = np.array([[-(2**31), 0], [2**31 - 1, 0]], dtype=np.int32)
    np.testing.assert_array_equal(positions_of(coords, tile_l0_px=1.0), [[0, 0], [2**32 - 1, 0]])


def test_views_without_a_generator_leave_the_slide_as_it_lies():
    features, positions = drawn(0, 6)
    views = make_views(features, positions, augmentation=None, device=CPU)
    assert views.features.dtype == torch.float32
    np.testing.assert_array_equal(views.features.numpy(), features)
    np.testing.assert_array_equal(views.cells.numpy(), cells_of(positions))


def test_views_with_a_generator_move_the_tiles_and_not_their_features():
    features, positions = drawn(1, 6)
    views = make_views(features, positions, augmentation=draw_slide_augmentation(6, rng_of(7)), device=CPU)
    expected = cells_of(augment_positions(positions, draw_slide_augmentation(6, rng_of(7))))
    np.testing.assert_array_equal(views.cells.numpy(), expected)
    np.testing.assert_array_equal(views.features.numpy(), features)
    assert (views.cells.numpy() != cells_of(positions)).any()
    other = make_views(features, positions, augmentation=draw_slide_augmentation(6, rng_of(8)), device=CPU)
    assert not torch.equal(other.cells, views.cells)


# Slide vectors.


def test_a_slide_vector_is_the_mean_of_its_views_at_unit_length(encoder):
    features, positions = drawn(2, 6)
    with torch.inference_mode():
        each = [
            encoder(make_views(features[i : i + 1], positions[i : i + 1], augmentation=None, device=CPU))[0]
            for i in range(6)
        ]
    means = [torch.stack(part).double().mean(0) for part in (each[:3], each[3:4], each[4:])]
    expected = torch.stack([mean / mean.norm() for mean in means]).float()
    actual = embed_views(encoder, make_views(features, positions, augmentation=None, device=CPU), [3, 1, 2])
    assert actual.shape == (3, 512)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(actual.norm(dim=1), torch.ones(3))


def test_a_slide_vector_does_not_depend_on_the_slides_beside_it(encoder):
    features, positions = drawn(3, 24)

    def embedded(rows):
        views = make_views(features[rows], positions[rows], augmentation=None, device=CPU)
        return embed_views(encoder, views, [4] * (len(rows) // 4))

    together = embedded(np.arange(24))
    for size in (4, 8, 12):
        parts = [embedded(rows) for rows in np.split(np.arange(24), 24 // size)]
        torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=1e-6)
    swapped = embedded(np.roll(np.arange(24), 8))
    torch.testing.assert_close(swapped, together.roll(2, dims=0), rtol=0, atol=1e-6)
    assert (together @ together.T - torch.eye(6)).abs().max() < 0.9999  # slides do differ


def test_the_number_of_views_must_be_that_of_the_counts(encoder):
    with pytest.raises(RuntimeError, match="split"):
        embed_views(encoder, views_of(0, 4), [3])


# Training.


def test_the_method_is_a_function_of_its_seed():
    before = torch.get_rng_state()
    first, again, other = (GigaSSL(WIDTH, temperature=0.2, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    weights = [name for name, value in first.items() if value.is_floating_point() and value.std() > 0]
    assert any(name.startswith("encoder.") for name in weights)
    assert any(name.startswith("projector.") for name in weights)
    assert not any(torch.equal(first[name], other[name]) for name in weights if first[name].numel() > 1)


def test_features_are_standardised_then_whitened_before_the_encoder():
    rng, views = rng_of(0), views_of(1, 4)
    mean, sd = rng.standard_normal(WIDTH).astype(np.float32), rng.uniform(0.5, 2, WIDTH).astype(np.float32)
    matrix = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    method = GigaSSL(WIDTH, temperature=0.2, seed=1, aggregator="mlp").eval()
    method.enter(FeatureSpace(Standard(mean, sd), matrix))
    state = method.state_dict()
    for name, value in {"feature_mean": mean, "feature_sd": sd, "whitening": matrix}.items():
        np.testing.assert_array_equal(state[name].numpy(), value)
    inside = torch.from_numpy(((views.features.numpy() - mean) / sd) @ matrix)
    torch.testing.assert_close(method.vectors(views), method.encoder(ViewBatch(inside, views.cells)))
    again = GigaSSL(WIDTH, temperature=0.2, seed=2, aggregator="mlp", standardise=True, whiten=True).eval()
    again.load_state_dict(state)
    assert torch.equal(again.vectors(views), method.vectors(views))


def test_the_papers_features_enter_as_they_are():
    method, views = GigaSSL(WIDTH, temperature=0.2, seed=1, aggregator="mlp").eval(), views_of(1, 4)
    method.enter(FeatureSpace(None, None))
    assert not {"feature_mean", "feature_sd", "whitening"} & method.state_dict().keys()
    assert torch.equal(method.vectors(views), method.encoder(views))


def test_the_loss_pairs_view_i_with_view_n_plus_i():
    method = GigaSSL(WIDTH, temperature=0.3, seed=0).eval()
    views = views_of(4, 10)
    with torch.inference_mode():
        projections = method.projector(method.encoder(views))
        assert projections.shape == (10, 256)
        expected = nt_xent(projections[:5], projections[5:], temperature=0.3)
        assert method([views]).loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
def test_learns_to_tell_slides_apart():
    """Eight slides of one kind of tissue each: two views of one slide look alike, of two slides they do not."""
    n, t = 8, 5
    kinds = rng_of(0).standard_normal((n, WIDTH))

    def batch(step, pairs):
        rng = rng_of((1, step))
        slides = np.concatenate([np.arange(n), pairs])
        features = (kinds[slides][:, None] + rng.standard_normal((2 * n, t, WIDTH))).astype(np.float32)
        positions = rng.uniform(0, 20, (2 * n, t, 2))
        return make_views(features, positions, augmentation=draw_slide_augmentation(2 * n, rng), device=CPU)

    method = GigaSSL(WIDTH, temperature=0.2, seed=0)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    losses = []
    for step in range(10):
        loss = method([batch(step, np.arange(n))]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    with torch.inference_mode():
        right, wrong = (method([batch(99, pairs)]) for pairs in (np.arange(n), np.roll(np.arange(n), 1)))
    assert right.loss < 0.5 * wrong.loss  # slides, not views, are what it knows
