"""Aggregators against their formulas, written out tile by tile."""

from __future__ import annotations

import pytest
import torch

from gigacli.errors import InvalidInput
from gigacli.nn.aggregators import AGGREGATORS, make_aggregator
from gigacli.nn.views import ViewBatch

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(name, *, width_in=4, seed=0):
    return make_aggregator(name, width_in, generator=seeded(seed))


def batch(b=3, t=5, c=4):
    cells = torch.randint(0, 9, (b, t, 2), generator=seeded(1))
    return ViewBatch(torch.randn(b, t, c, generator=seeded(2), dtype=torch.float64), cells, cells.double())


def test_attention_is_the_gated_attention_of_ilse():
    model, views = make("attention").double(), batch()
    expected = []
    for view in views.features:
        tiles = [torch.relu(model.embed.weight @ f + model.embed.bias) for f in view]
        scores = []
        for h in tiles:
            content = torch.tanh(model.content.weight @ h + model.content.bias)
            gate = 1 / (1 + torch.exp(-(model.gate.weight @ h + model.gate.bias)))
            scores.append((model.score.weight @ (content * gate) + model.score.bias).exp())
        total = sum(scores)
        expected.append(sum(s / total * h for s, h in zip(scores, tiles, strict=True)))
    torch.testing.assert_close(model(views), torch.stack(expected), **EXACT)


def test_mlp_sees_the_mean_of_the_tiles_alone():
    model, views = make("mlp").double().eval(), batch()
    mean = ViewBatch(views.features.mean(1, keepdim=True), views.cells[:, :1])
    torch.testing.assert_close(model(views), model(mean), **EXACT)
    hidden = mean.features[:, 0] @ model.hidden.weight.T + model.hidden.bias
    expected = (hidden / (1 + 1e-5) ** 0.5).clamp(min=0) @ model.last.weight.T + model.last.bias
    torch.testing.assert_close(model(views), expected, **EXACT)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_all_share_one_signature_and_train(name):
    model, views = make(name, width_in=16), batch(c=16)
    views = ViewBatch(views.features.float(), views.cells, views.cells.float())
    with torch.autocast("cpu", torch.bfloat16):
        vectors = model(views)
    assert vectors.shape == (3, model.width)
    assert vectors.dtype == torch.float32
    vectors.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", AGGREGATORS)
def test_weights_are_a_function_of_the_generator_alone(name):
    state = torch.get_rng_state()
    one, same, other = make(name).state_dict(), make(name).state_dict(), make(name, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_what_does_not_exist_is_refused():
    with pytest.raises(InvalidInput, match="no aggregator 'median'"):
        make("median")
    with pytest.raises(InvalidInput, match="no sparse convolutions"):
        make_aggregator("mlp", 4, generator=seeded(), sparse_backend="torch")
    for options in ({"blocks": 1}, {"stride": 1}):
        with pytest.raises(InvalidInput, match=f"`{next(iter(options))}` 1"):
            make_aggregator("attention", 4, generator=seeded(), **options)


def test_depth_and_stride_reach_the_sparse_encoder():
    made = make_aggregator("sparse-resnet", 4, generator=seeded(), blocks=3, stride=1)
    assert (len(made.blocks), made.stride) == (3, 1)
    for name in AGGREGATORS:
        with pytest.raises(InvalidInput, match=r"expected \(views, tiles, 7\)"):
            make(name, width_in=7)(batch())
