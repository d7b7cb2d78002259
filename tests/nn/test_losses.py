"""NT-Xent and InfoNCE against their formulas, transcribed with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput
from gigacli.nn.losses import chance_level, info_nce, info_nce_chance_level, nt_xent

TEMPERATURES = st.floats(0.05, 2.0)


def rows(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    aa, bb, ab = (sum(x * y for x, y in zip(u, v, strict=True)) for u, v in ((a, a), (b, b), (a, b)))
    return ab / math.sqrt(aa * bb)


def paper_equation_1(first, second, temperature):
    """The paper's equation (1) for every view, averaged."""
    n = len(first)
    views = first.tolist() + second.tolist()
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        numerator = math.exp(cosine(views[i], views[partner]) / temperature)
        denominator = sum(math.exp(cosine(views[i], views[j]) / temperature) for j in range(2 * n) if j != i)
        total += -math.log(numerator / denominator)
    return total / (2 * n)


def moco_equation_1(query, key, queue, temperature):
    total = 0.0
    for q, k in zip(query.tolist(), key.tolist(), strict=True):
        positive = math.exp(cosine(q, k) / temperature)
        total += -math.log(positive / (positive + sum(math.exp(cosine(q, n) / temperature) for n in queue.tolist())))
    return total / len(query)


@given(st.integers(0, 10_000), st.integers(2, 6), TEMPERATURES)
@settings(max_examples=40, deadline=None)
def test_nt_xent_is_equation_1(seed, n, temperature):
    first, second = rows(seed, 2, n, 5)
    loss = nt_xent(first, second, temperature=temperature)
    assert loss.item() == pytest.approx(paper_equation_1(first, second, temperature), rel=1e-10)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 7), TEMPERATURES)
@settings(max_examples=40, deadline=None)
def test_info_nce_is_mocos_equation_1(seed, n, k, temperature):
    query, key = rows(seed, 2, n, 5)
    queue = rows(seed + 1, k, 5)
    loss, _ = info_nce(query, key, queue, temperature=temperature)
    assert loss.item() == pytest.approx(moco_equation_1(query, key, queue, temperature), rel=1e-10)


def test_hidden_negatives_are_as_if_they_were_not_there():
    query, key, queue = rows(0, 3, 5), rows(1, 3, 5), rows(2, 6, 5)
    hidden = torch.tensor([[1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 1]], dtype=torch.bool)
    loss, found = info_nce(query, key, queue, temperature=0.3, hidden=hidden)
    expected, nearer = [], []
    for i in range(3):
        left = queue[~hidden[i]]
        expected.append(moco_equation_1(query[i : i + 1], key[i : i + 1], left, 0.3))
        nearer.append(cosine(query[i], key[i]) > max(cosine(query[i], other) for other in left))
    assert loss.item() == pytest.approx(sum(expected) / 3)
    assert found.item() == pytest.approx(sum(nearer) / 3)


@pytest.mark.parametrize("n", [2, 3, 17])
def test_views_that_all_look_alike_give_the_chance_level(n):
    same = rows(0, 1, 8).expand(n, 8)
    assert nt_xent(same, same, temperature=0.1).item() == pytest.approx(math.log(2 * n - 1))
    assert chance_level(n) == pytest.approx(math.log(2 * n - 1))


@pytest.mark.parametrize("k", [1, 64])
def test_keys_that_all_look_alike_give_the_chance_level(k):
    same = rows(0, 1, 8)
    loss, found = info_nce(same.expand(3, 8), same.expand(3, 8), same.expand(k, 8), temperature=0.1)
    assert found == 0  # no positive is nearer than all negatives
    assert loss.item() == pytest.approx(math.log(1 + k))
    assert info_nce_chance_level(k) == pytest.approx(math.log(1 + k))


def test_orthogonal_slides_with_identical_views_have_a_closed_form():
    n, temperature = 4, 0.5
    slides = torch.eye(n, dtype=torch.float64)
    expected = -1 / temperature + math.log(math.exp(1 / temperature) + 2 * n - 2)
    assert nt_xent(slides, slides, temperature=temperature).item() == pytest.approx(expected)
    # Opposite partners: cosine -1 with the partner, 0 with all others.
    expected = 1 / temperature + math.log(math.exp(-1 / temperature) + 2 * n - 2)
    assert nt_xent(slides, -slides, temperature=temperature).item() == pytest.approx(expected)


def test_only_directions_count_and_views_and_slides_are_exchangeable():
    first, second = rows(1, 2, 6, 4)
    loss = nt_xent(first, second, temperature=0.2)
    lengths = torch.linspace(0.1, 50, 6, dtype=torch.float64)[:, None]
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for other in (
        nt_xent(first * lengths, second / lengths, temperature=0.2),
        nt_xent(second, first, temperature=0.2),
        nt_xent(first[order], second[order], temperature=0.2),
    ):
        torch.testing.assert_close(other, loss, rtol=1e-12, atol=1e-12)
    assert abs(nt_xent(first, second[order], temperature=0.2) - loss) > 1e-3


def test_gradients():
    first, second = (r.clone().requires_grad_() for r in rows(2, 2, 3, 4))
    queue = rows(3, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.3), (first, second))
    assert torch.autograd.gradcheck(lambda a, b, c: info_nce(a, b, c, temperature=0.3)[0], (first, second, queue))


def test_extreme_temperatures_and_zero_rows_stay_finite():
    first, second = rows(4, 2, 5, 3).float()
    first[0] = 0
    first.requires_grad_()
    for loss in (
        nt_xent(first, second, temperature=1e-4),
        info_nce(first, second, second, temperature=1e-4)[0],
    ):
        (gradient,) = torch.autograd.grad(loss, first)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_half_precision_and_autocast_still_compute_in_float32():
    first, second = rows(5, 2, 8, 16).bfloat16()
    queue = rows(6, 9, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(first, second, temperature=0.05)
        nce, _ = info_nce(first, second, queue, temperature=0.05)
    assert loss.dtype == nce.dtype == torch.float32
    assert loss.item() == pytest.approx(paper_equation_1(first, second, 0.05), rel=1e-5)
    assert nce.item() == pytest.approx(moco_equation_1(first, second, queue, 0.05), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nt_xent(torch.ones(1, 3), torch.ones(1, 3), temperature=0.1), "at least 2"),
        (lambda: chance_level(1), "at least 2"),
        (lambda: nt_xent(torch.ones(2, 3), torch.ones(3, 3), temperature=0.1), "\\(2, 3\\) and \\(3, 3\\)"),
        (lambda: nt_xent(torch.ones(2, 3), torch.ones(2, 3), temperature=0.0), "temperature is 0.0"),
        (lambda: nt_xent(torch.ones(2, 3), torch.ones(2, 3), temperature=math.nan), "temperature is nan"),
        (lambda: info_nce(torch.ones(1, 3), torch.ones(1, 3), torch.ones(4, 3), temperature=0.1), "at least 2"),
        (lambda: info_nce(torch.ones(2, 3), torch.ones(2, 3), torch.ones(0, 3), temperature=0.1), "k >= 1"),
        (lambda: info_nce(torch.ones(2, 3), torch.ones(2, 3), torch.ones(4, 2), temperature=0.1), "\\(4, 2\\)"),
        (lambda: info_nce(torch.ones(2, 3), torch.ones(2, 3), torch.ones(4, 3), temperature=-1.0), "temperature is -1"),
    ],
)
def test_what_is_no_contrast_is_refused(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
