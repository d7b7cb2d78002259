"""Contrastive losses: NT-Xent for slides (paper, equation 1) and InfoNCE with a queue for tiles (MoCo)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gigacli.errors import InvalidInput


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """NT-Xent (paper, equation 1), averaged over all 2N views.

    For a view x with partner x+: -log(exp(sim(x, x+)/t) / sum over the 2N-1 other views y of exp(sim(x, y)/t)), sim
    being the cosine. Computed in float32 or better whatever autocast says: a bfloat16 cosine near one, divided by a
    temperature of 0.05, is off by up to 0.04.

    Args:
        first: (N, c) projections of one view of each slide.
        second: (N, c) projections of the other views, in the same order.
        temperature: t, positive.

    Returns:
        A scalar; :func:`chance_level` where nothing has been learnt.

    Raises:
        InvalidInput: Fewer than two slides, shapes that differ, or a temperature that is not positive.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise InvalidInput(f"views have shapes {tuple(first.shape)} and {tuple(second.shape)}, expected (N, c) twice")
    n = _at_least_two(len(first))
    with torch.autocast(first.device.type, enabled=False):
        views = _unit(torch.cat([first, second]))  # (2N, c)
        logits = views @ views.T / _positive(temperature)  # (2N, 2N)
        itself = torch.eye(2 * n, dtype=torch.bool, device=logits.device)
        partner = torch.arange(2 * n, device=logits.device).roll(n)
        return F.cross_entropy(logits.masked_fill(itself, -math.inf), partner)


def chance_level(n: int) -> float:
    """NT-Xent of `n` slides whose views all look alike: log(2n - 1)."""
    return math.log(2 * _at_least_two(n) - 1)


def info_nce(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """InfoNCE of MoCo (He et al. 2020, equation 1), averaged over the queries.

    -log(exp(sim(q, k+)/t) / (exp(sim(q, k+)/t) + sum over the queue of exp(sim(q, k)/t))), sim being the cosine, in
    float32 or better. Gradients flow to whatever asks for them: compute keys without.

    Args:
        query: (n, c).
        key: (n, c), the positive of each query.
        queue: (k, c), the negatives of all queries.
        temperature: t, positive.
        hidden: (n, k) bool, which negatives are none for a query; all are where it is left out.

    Returns:
        The loss, and the share of the queries whose positive is nearer than every negative: two scalars.

    Raises:
        InvalidInput: Fewer than two queries, an empty queue, shapes that do not agree, or a temperature that is not
            positive.
    """
    if query.shape != key.shape or query.ndim != 2 or queue.shape[1:] != query.shape[1:] or len(queue) == 0:
        raise InvalidInput(
            f"query, key and queue have shapes {tuple(query.shape)}, {tuple(key.shape)}, {tuple(queue.shape)}; "
            "expected (n, c), (n, c), (k, c) with k >= 1"
        )
    n = _at_least_two(len(query))
    with torch.autocast(query.device.type, enabled=False):
        query, key, queue = _unit(query), _unit(key), _unit(queue)
        positive = (query * key).sum(1, keepdim=True)  # (n, 1)
        negative = query @ queue.T  # (n, k)
        if hidden is not None:
            negative = negative.masked_fill(hidden, -math.inf)
        logits = torch.cat([positive, negative], dim=1) / _positive(temperature)  # (n, 1 + k)
        found = (positive.detach() > negative.detach().amax(dim=1, keepdim=True)).float().mean()
        return F.cross_entropy(logits, torch.zeros(n, dtype=torch.int64, device=logits.device)), found


def info_nce_chance_level(k: int) -> float:
    """InfoNCE with a queue of `k` keys when everything looks alike: log(1 + k)."""
    return math.log1p(k)


def _unit(rows: Tensor) -> Tensor:
    """Rows of length one, in float32 or better."""
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)


def _at_least_two(n: int) -> int:
    if n < 2:
        raise InvalidInput(
            f"a contrastive loss needs at least 2 slides or tiles to tell apart, got {n}", "Raise the batch size."
        )
    return n


def _positive(temperature: float) -> float:
    if not temperature > 0:
        raise InvalidInput(f"the temperature is {temperature}, expected a positive number")
    return temperature
