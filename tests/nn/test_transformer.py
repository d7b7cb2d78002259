"""The transformer against its formula in numpy, and what must not change its vectors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput
from gigacli.nn.aggregators import make_projector
from gigacli.nn.transformer import FARTHEST, DistanceTransformer, ShortProjector, tile_distances
from gigacli.nn.views import ViewBatch

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
WIDTH = 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(seed=0):
    """In eval mode, every parameter and statistic away from where it is born; float64."""
    model, generator = DistanceTransformer(WIDTH, generator=seeded(seed)).double(), seeded(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        model.norm.running_mean.normal_(generator=generator)
        model.norm.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def views_at(positions, seed=3):
    """Views of tiles at (b, t, 2), with random features; cells are not looked at."""
    positions = torch.as_tensor(positions, dtype=torch.float64)
    features = torch.randn(*positions.shape[:2], WIDTH, generator=seeded(seed), dtype=torch.float64)
    return ViewBatch(features, torch.zeros(positions.shape, dtype=torch.int64), positions)


def places(seed, b=3, t=5):
    return np.random.default_rng(seed).integers(0, 12, (b, t, 2)).astype(np.float64)


def layer_norm(h, norm):
    mean, var = h.mean(-1, keepdims=True), h.var(-1, keepdims=True)
    return (h - mean) / np.sqrt(var + 1e-5) * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def linear(x, layer):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def distances_by_hand(places):
    """(t, t), tile by tile."""
    apart = np.array([[math.dist(p, q) for q in places] for p in places])
    nearest = [min((d for d in row if d > 0), default=None) for row in apart.tolist()]
    if None in nearest:
        return np.zeros_like(apart)
    return np.minimum(apart / np.mean(nearest), 20.0)


def vector_by_hand(model, tiles, places):
    """The vector of one view, head by head and tile by tile."""
    h, apart = linear(tiles, model.embed), distances_by_hand(places)
    x = layer_norm(h, model.norm_attention)
    q, k, v = (linear(x, layer) for layer in (model.query, model.key, model.value))
    heads = []
    for head, slope in enumerate(model.slope.tolist()):
        mine = slice(64 * head, 64 * head + 64)
        weights = np.exp(q[:, mine] @ k[:, mine].T / 8 - abs(slope) * apart)
        heads.append(weights / weights.sum(1, keepdims=True) @ v[:, mine])
    h = h + linear(np.concatenate(heads, axis=1), model.merge)
    h = h + linear(np.maximum(linear(layer_norm(h, model.norm_hidden), model.hidden), 0), model.last)
    norm = model.norm
    mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
    scaled = (h.mean(0) - mean) / np.sqrt(var + norm.eps)
    return np.maximum(scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy(), 0)


@pytest.mark.parametrize("tiles", [1, 2, 5, 40])
def test_it_is_the_formula(tiles):
    model, views = make(), views_at(places(0, t=tiles))
    expected = [
        vector_by_hand(model, *view) for view in zip(views.features.numpy(), views.positions.numpy(), strict=True)
    ]
    np.testing.assert_allclose(model(views).detach().numpy(), expected, **CLOSE)


@given(st.integers(0, 1000), st.permutations(range(5)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_tiles_changes_nothing(seed, order):
    model, views = make(), views_at(places(seed))
    moved = ViewBatch(views.features[:, order], views.cells, views.positions[:, order])
    torch.testing.assert_close(model(moved), model(views), **CLOSE)


@given(st.integers(0, 1000), st.floats(-4, 4), st.floats(1e-3, 1e3), st.tuples(st.booleans(), st.booleans()))
@settings(max_examples=30, deadline=None)
def test_turning_mirroring_moving_and_enlarging_a_view_changes_nothing(seed, angle, size, flip):
    model, views = make(), views_at(places(seed))
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    mirror = torch.tensor([-1.0 if side else 1.0 for side in flip]).double()
    moved = ViewBatch(views.features, views.cells, size * (views.positions * mirror) @ turn.T)
    torch.testing.assert_close(model(moved), model(views), rtol=1e-6, atol=1e-6)


def test_where_tiles_lie_matters():
    model = make()
    views, elsewhere = views_at(places(0)), views_at(places(1))
    assert (model(views) - model(elsewhere)).abs().max() > 1e-3
    stretched = ViewBatch(views.features, views.cells, views.positions * torch.tensor([1.0, 3.0]).double())
    assert (model(views) - model(stretched)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "where",
    [
        [[0, 0], [0, 0], [0, 0]],  # one tile, drawn three times
        [[2, 1], [2, 1], [5, 5]],
        [[0, 0], [0, 0], [7, 7], [7, 7]],  # every tile has a copy of itself
        [[0, 0], [1, 0], [5000, 0]],
        [[3, 3]],
    ],
)
def test_tiles_on_one_place_stay_finite(where):
    model, views = make().train(), views_at([where, where])
    views.features.requires_grad_()
    vectors = model(views)
    vectors.square().sum().backward()
    assert torch.isfinite(vectors).all()
    assert all(torch.isfinite(p.grad).all() for p in [views.features, *model.parameters()])
    np.testing.assert_allclose(tile_distances(views.positions)[0].numpy(), distances_by_hand(where))


def test_distances_have_an_end_and_copies_are_no_neighbours():
    apart = tile_distances(torch.tensor([[[0.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 200.0]]]))[0]
    unit = (2 + 2 + 2 + 200) / 4  # the copy does not make it smaller
    torch.testing.assert_close(apart[0], torch.tensor([0, 2 / unit, 2 / unit, 200 / unit]))
    line = torch.arange(30.0)[None, :, None] * torch.tensor([1.0, 0.0])
    assert tile_distances(line).max() == FARTHEST


def test_slopes_are_learnt_but_for_the_head_that_sees_all_alike():
    model, views = DistanceTransformer(WIDTH, generator=seeded()).double(), views_at(places(0, b=8))
    (model(views) * torch.randn(8, 256, generator=seeded(5), dtype=torch.float64)).sum().backward()
    assert model.slope.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert model.slope.grad[0] == 0
    assert (model.slope.grad[1:] != 0).all()


def test_views_that_do_not_say_where_tiles_lie_are_refused():
    views = views_at(places(0))
    with pytest.raises(InvalidInput, match="do not say where their tiles lie"):
        make()(ViewBatch(views.features, views.cells))


def test_its_projector_is_short():
    projector = make_projector("transformer", 256, generator=seeded())
    assert isinstance(projector, ShortProjector)
    kinds = [type(layer).__name__ for layer in projector]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [tuple(projector[i].weight.shape) for i in (0, 3)] == [(256, 256), (128, 256)]
