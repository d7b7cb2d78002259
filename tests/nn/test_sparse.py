"""Sparse convolutions against masked dense ones: torch's conv2d on a padded grid, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput
from gigacli.nn import sparse
from gigacli.nn.sparse_spconv import convolve_spconv

EXACT = {"rtol": 1e-10, "atol": 1e-10}
LOWEST = -12  # even, so that dense output q of a stride-2 convolution is sparse output q + LOWEST / 2
EDGE = 27


def points(seed, *, views=4, per_view=7, channels=3, low=-6, high=7, dtype=torch.float64):
    """Random points with duplicates, an empty view in the middle, and one view with all its points on one cell."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(views).repeat_interleave(per_view)
    owner[owner == 1] = 0
    cells = torch.randint(low, high, (len(owner), 2), generator=generator)
    cells[owner == views - 1] = cells[-1].clone()
    features = torch.randn(len(owner), channels, generator=generator, dtype=dtype)
    shuffled = torch.randperm(len(owner), generator=generator)
    return features[shuffled], cells[shuffled], owner[shuffled]


def merged(features, cells, owner):
    """Mean per (owner, y, x), by hand, in order."""
    groups = {}
    for i, key in enumerate(zip(owner.tolist(), *cells.T.tolist(), strict=True)):
        groups.setdefault(key, []).append(i)
    return {key: features[groups[key]].mean(0) for key in sorted(groups)}


def dense(features, cells, owner, size):
    """(size, c, EDGE, EDGE) with the mean of the points on each cell, and its mask (size, 1, EDGE, EDGE)."""
    where = (owner, cells[:, 0] - LOWEST, cells[:, 1] - LOWEST)
    count = torch.zeros(size, EDGE, EDGE, dtype=features.dtype)
    count.index_put_(where, torch.ones(len(owner), dtype=features.dtype), accumulate=True)
    grid = torch.zeros(size, EDGE, EDGE, features.shape[1], dtype=features.dtype)
    grid = grid.index_put(where, features / count[where][:, None], accumulate=True)
    return grid.permute(0, 3, 1, 2), (count > 0).to(features.dtype)[:, None]


def dense_kernel(weight):
    """(9, c_in, c_out), row dy * 3 + dx -> (c_out, c_in, 3, 3)."""
    return weight.reshape(3, 3, *weight.shape[1:]).permute(3, 2, 0, 1)


def at_sites(grid, kernel_map, *, lowest):
    y, x = (kernel_map.cells - lowest).T
    return grid[kernel_map.owner, :, y, x]


def sites_of(mask, *, lowest):
    owner, _, y, x = mask.nonzero().T
    return [(o, a + lowest, b + lowest) for o, a, b in zip(owner.tolist(), y.tolist(), x.tolist(), strict=True)]


def keys_of(sites):
    return list(zip(sites.owner.tolist(), *sites.cells.T.tolist(), strict=True))


def weights(seed, taps, c_in, c_out, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(taps, c_in, c_out, generator=generator, dtype=dtype).requires_grad_()


def assert_same_gradients(ours, theirs, inputs):
    """Both results, pulled back through one random functional, give the same gradients."""
    functional = torch.randn(ours.shape, generator=torch.Generator().manual_seed(99), dtype=ours.dtype)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, functional), torch.autograd.grad(theirs, inputs, functional), strict=True
    ):
        torch.testing.assert_close(a, b, **EXACT)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_points_on_one_cell_become_their_mean(seed):
    features, cells, owner = points(seed, high=0)
    expected = merged(features, cells, owner)
    result = sparse.sparse_map(features, cells, owner, size=4)
    assert keys_of(result) == list(expected)
    assert len(expected) < len(features)
    torch.testing.assert_close(result.features, torch.stack(list(expected.values())), **EXACT)


def test_the_order_of_points_does_not_matter():
    features, cells, owner = points(1)
    order = torch.randperm(len(owner), generator=torch.Generator().manual_seed(5))
    one = sparse.sparse_map(features, cells, owner, size=4)
    other = sparse.sparse_map(features[order], cells[order], owner[order], size=4)
    assert keys_of(one) == keys_of(other)
    torch.testing.assert_close(one.features, other.features, rtol=0, atol=1e-14)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_submanifold_convolution_equals_the_masked_dense_one(seed):
    features, cells, owner = points(seed)
    features.requires_grad_()
    weight = weights(seed, 9, 3, 5)
    sites = sparse.sparse_map(features, cells, owner, size=4)
    kernel_map = sparse.submanifold_map(sites)
    assert keys_of(kernel_map) == keys_of(sites)
    ours = sparse.convolve(sites.features, weight, kernel_map)
    grid, _ = dense(features, cells, owner, 4)
    theirs = at_sites(F.conv2d(grid, dense_kernel(weight), padding=1), kernel_map, lowest=LOWEST)
    torch.testing.assert_close(ours, theirs, **EXACT)
    assert_same_gradients(ours, theirs, (features, weight))


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_strided_convolution_equals_the_masked_dense_one(seed):
    features, cells, owner = points(seed)
    features.requires_grad_()
    weight = weights(seed, 9, 3, 5)
    sites = sparse.sparse_map(features, cells, owner, size=4)
    kernel_map = sparse.strided_map(sites)
    ours = sparse.convolve(sites.features, weight, kernel_map)
    grid, mask = dense(features, cells, owner, 4)
    reached = F.conv2d(mask, torch.ones(1, 1, 3, 3, dtype=mask.dtype), stride=2)
    assert keys_of(kernel_map) == sites_of(reached, lowest=LOWEST // 2)
    theirs = at_sites(F.conv2d(grid, dense_kernel(weight), stride=2), kernel_map, lowest=LOWEST // 2)
    torch.testing.assert_close(ours, theirs, **EXACT)
    assert_same_gradients(ours, theirs, (features, weight))


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_window_sum_equals_a_dense_box_filter(seed):
    features, cells, owner = points(seed)
    features.requires_grad_()
    sites = sparse.sparse_map(features, cells, owner, size=4)
    kernel_map = sparse.strided_map(sites)
    ours = sparse.window_sum(sites.features, kernel_map)
    grid, _ = dense(features, cells, owner, 4)
    theirs = at_sites(9 * F.avg_pool2d(grid, 3, stride=2), kernel_map, lowest=LOWEST // 2)
    torch.testing.assert_close(ours, theirs, **EXACT)
    assert_same_gradients(ours, theirs, (features,))


@pytest.mark.parametrize(
    ("cell", "outputs"),
    [
        ((0, 0), [(-1, -1), (-1, 0), (0, -1), (0, 0)]),
        ((1, 1), [(0, 0)]),
        ((2, 2), [(0, 0), (0, 1), (1, 0), (1, 1)]),
        ((3, 4), [(1, 1), (1, 2)]),
        ((-1, -2), [(-1, -2), (-1, -1)]),
    ],
)
def test_stride_reaches_every_window_and_clips_none(cell, outputs):
    sites = sparse.sparse_map(torch.ones(1, 1), torch.tensor([cell]), torch.tensor([0]), size=1)
    assert [tuple(c) for c in sparse.strided_map(sites).cells.tolist()] == outputs


def test_ends_of_rows_and_of_views_are_no_neighbours():
    # Flattened row by row these cells follow each other: the end of a row and the next one, in one view and across two.
    cells = torch.tensor([[0, 4], [1, 0], [1, 4], [0, 0]])
    owner = torch.tensor([0, 0, 0, 1])
    sites = sparse.sparse_map(torch.ones(4, 1), cells, owner, size=2)
    ours = sparse.convolve(sites.features, torch.ones(9, 1, 1), sparse.submanifold_map(sites))
    assert ours[:, 0].tolist() == [2, 1, 2, 1]  # only (0, 4) and (1, 4) touch


def test_pointwise_map_is_a_matrix_product():
    features, cells, owner = points(2)
    sites = sparse.sparse_map(features, cells, owner, size=4)
    weight = weights(2, 1, 3, 5)
    result = sparse.convolve(sites.features, weight, sparse.pointwise_map(sites))
    torch.testing.assert_close(result, sites.features @ weight[0], **EXACT)


@pytest.mark.parametrize("build", [sparse.submanifold_map, sparse.strided_map, sparse.pointwise_map])
def test_gradients_of_the_function_itself(build):
    features, cells, owner = points(3, views=3, per_view=4, low=0, high=4)
    sites = sparse.sparse_map(features, cells, owner, size=3)
    kernel_map = build(sites)
    weight = weights(3, len(kernel_map.pairs), 3, 2)
    inputs = (sites.features.detach().requires_grad_(), weight)
    assert torch.autograd.gradcheck(lambda f, w: sparse.convolve(f, w, kernel_map), inputs)


@pytest.mark.parametrize("build", [sparse.submanifold_map, sparse.strided_map])
def test_spconv_equals_torch_and_refuses_what_it_cannot(build):
    features, cells, owner = points(8, dtype=torch.float32, channels=16)
    sites = sparse.sparse_map(features, cells, owner, size=4)
    weight, kernel_map = weights(8, 9, 16, 8, dtype=torch.float32), build(sites)
    ours = sparse.convolve(sites.features, weight, kernel_map)
    with torch.no_grad():
        theirs = convolve_spconv(sites.features, weight, kernel_map)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    with pytest.raises(InvalidInput, match="neither trains"):
        convolve_spconv(sites.features, weight, kernel_map)
    with pytest.raises(InvalidInput, match="bfloat16"), torch.no_grad():
        convolve_spconv(sites.features.bfloat16(), weight, kernel_map)


@pytest.mark.slow
def test_spconv_is_right_whatever_the_number_of_threads():
    """By itself it is not: with two threads on two cores two of three of these convolutions come out wrong."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for seed in range(5):
            cells = torch.randint(0, 9, (300, 2), generator=torch.Generator().manual_seed(seed))
            features, owner = torch.randn(300, 64, dtype=torch.float64), torch.arange(60).repeat_interleave(5)
            sites = sparse.sparse_map(features, cells, owner, size=60)
            weight, kernel_map = torch.randn(9, 64, 256, dtype=torch.float64), sparse.strided_map(sites)
            with torch.no_grad():
                ours = sparse.convolve(sites.features, weight, kernel_map)
                theirs = convolve_spconv(sites.features, weight, kernel_map)
            torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-9)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_mean_pool_averages_sites_and_leaves_an_empty_view_at_zero():
    features, cells, owner = points(4)
    sites = sparse.sparse_map(features, cells, owner, size=5)
    pooled = sparse.mean_pool(sites)
    assert pooled.shape == (5, 3)
    for view in (0, 2, 3):
        torch.testing.assert_close(pooled[view], sites.features[sites.owner == view].mean(0), **EXACT)
    assert pooled[[1, 4]].abs().max() == 0  # views 1 and 4 have no point


def test_half_precision_sums_in_float32():
    # 256 in the middle and eight ones around: bfloat16 has no 257, so a sum kept in it would stay at 256.
    cells = torch.tensor(list(itertools.product(range(3), range(3))))
    values = torch.ones(9, 1, dtype=torch.bfloat16)
    values[4] = 256
    sites = sparse.sparse_map(values, cells, torch.zeros(9, dtype=torch.int64), size=1)
    ones = torch.ones(9, 1, 1, dtype=torch.bfloat16)
    centre = sparse.convolve(sites.features, ones, sparse.submanifold_map(sites))[4]
    assert centre.dtype == torch.bfloat16
    assert centre.item() == 264
    window = sparse.window_sum(sites.features, sparse.strided_map(sites))
    assert 264 in window[:, 0].tolist()
    assert sparse.mean_pool(sites).item() == pytest.approx(264 / 9)
    stacked = sparse.sparse_map(values, torch.zeros_like(cells), torch.zeros(9, dtype=torch.int64), size=1)
    assert stacked.features.item() == torch.tensor(264 / 9).bfloat16().item()


def test_autocast_computes_in_bfloat16_and_keeps_float32_gradients():
    features, cells, owner = points(5, dtype=torch.float32, channels=16)
    features.requires_grad_()
    weight = weights(5, 9, 16, 8, dtype=torch.float32)
    sites = sparse.sparse_map(features, cells, owner, size=4)
    kernel_map = sparse.submanifold_map(sites)
    full = sparse.convolve(sites.features, weight, kernel_map)
    with torch.autocast("cpu", torch.bfloat16):
        half = sparse.convolve(sites.features, weight, kernel_map)
    assert half.dtype == torch.bfloat16
    close = 0.02 * full.detach().abs().max()
    torch.testing.assert_close(half.float(), full, rtol=0, atol=close.item())
    for inputs in (features, weight):
        exact, rough = (torch.autograd.grad(out.float().sum(), inputs, retain_graph=True)[0] for out in (full, half))
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, exact, rtol=0, atol=0.02 * exact.abs().max().item())


def test_same_input_gives_the_same_bytes():
    features, cells, owner = points(6, views=40, per_view=20, channels=32, dtype=torch.float32)
    weight = weights(6, 9, 32, 32, dtype=torch.float32)

    def run():
        sites = sparse.sparse_map(features, cells, owner, size=40)
        result = sparse.convolve(sites.features, weight, sparse.strided_map(sites))
        return result, torch.autograd.grad(result.square().sum(), weight)[0]

    for a, b in zip(run(), run(), strict=True):
        assert torch.equal(a, b)


def test_cells_far_apart_still_have_exact_keys():
    far = 2**29
    cells = torch.tensor([[far, -far], [far, -far + 1], [-far, far], [-far, far]])
    sites = sparse.sparse_map(torch.eye(4), cells, torch.tensor([6, 6, 0, 6]), size=7)
    assert keys_of(sites) == [(0, -far, far), (6, -far, far), (6, far, -far), (6, far, -far + 1)]
    touching = [len(pair[0]) for pair in sparse.submanifold_map(sites).pairs if pair is not None]
    assert touching == [0, 0, 0, 1, 1, 0, 0, 0]


def good_points():
    return {
        "features": torch.ones(2, 3),
        "cells": torch.tensor([[0, 0], [1, 1]]),
        "owner": torch.tensor([0, 1]),
        "size": 2,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cells": torch.tensor([[0, -(2**62)], [2**20, 2**62]])}, "2\\*\\*63"),
        ({"owner": torch.tensor([0, 2])}, "from 0 to 2"),
        ({"owner": torch.tensor([-1, 1])}, "from -1 to 1"),
        ({"owner": torch.tensor([0])}, "owner \\(1,\\)"),
        ({"cells": torch.tensor([[0.0, 0.0], [1.5, 1.0]])}, "expected int64"),
        ({"features": torch.ones(3)}, "expected \\(points, channels\\)"),
        ({"features": torch.ones(0, 3), "cells": torch.ones(0, 2), "owner": torch.ones(0)}, "at least one point"),
    ],
)
def test_points_that_make_no_map_are_refused(changed, message):
    with pytest.raises(InvalidInput, match=message):
        sparse.sparse_map(**(good_points() | changed))
