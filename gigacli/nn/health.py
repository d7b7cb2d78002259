"""Health of a contrastive training: geometry of its vectors, and warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

COLLAPSED_RANK = 1.5
"""Vectors of an effective rank below this are all alike, even where a batch holds only a few slides."""

AT_CHANCE = 0.98  # a loss above this share of its chance level has told no slide from another

MARGIN = 0.3
"""Share of the training, after the warm-up, in which these call for no warning: it is how trainings begin. The loss of
the demo's slides, which are learnt in the end, lies above its chance level until 15 % and below it from 25 % on."""

SETTLED = 0.1
"""Share of the training over which a loss is judged, and for which all must be well before a warning is taken back."""


@dataclass(frozen=True)
class Health:
    """Geometry of the vectors of one batch, scaled to unit length."""

    alignment: float  # mean squared distance of the two views of a slide (Wang and Isola 2020); 0 is best
    # log of the mean of exp(-2 d^2) over pairs of views (Wang and Isola 2020); 0 where all are alike, lower where
    # they spread
    uniformity: float
    # exp of the entropy of the singular values of the first views (Roy and Vetterli 2007): 1 where all are alike, at
    # most the number of slides
    rank: float


@torch.no_grad()
def health_of(vectors: Tensor) -> Health:
    """The health of vectors (2n, c): n first views, then their second views in the same order."""
    units = F.normalize(vectors.detach().float(), dim=1)
    first, second = units.chunk(2)
    gram = units @ units.T  # (2n, 2n)
    pairs = gram[torch.triu(torch.ones_like(gram, dtype=torch.bool), diagonal=1)]
    n, width = first.shape
    small = gram[:n, :n] if n <= width else first.T @ first
    values = torch.linalg.eigvalsh(small).clamp(min=0).sqrt()  # singular values of the first views
    share = values / values.sum()
    return Health(
        alignment=float((first - second).square().sum(1).mean()),
        uniformity=float((-2 * (2 - 2 * pairs)).exp().mean().log()),
        rank=float(torch.exp(-torch.special.xlogy(share, share).sum())),
    )


def training_warning(history: Mapping[str, Sequence[float]], *, epochs: int, warmup: float = 0.0) -> str:
    """A warning in words if a history shows that training fails; "" if it does not, or if it is too early to say.

    Args:
        history: Values per epoch under "loss" and "chance", and under "rank" where it is known.
        epochs: Of the whole training.
        warmup: Share of the training in which the learning rate rises.
    """
    if len(history["loss"]) < min(1.0, warmup + MARGIN) * epochs:
        return ""
    recent = slice(-max(1, round(SETTLED * epochs)), None)
    loss, chance = (fmean(history[name][recent]) for name in ("loss", "chance"))
    rank = history["rank"][-1] if "rank" in history else math.nan
    if rank < COLLAPSED_RANK:
        return (
            f"the vectors have collapsed: their effective rank is {rank:.1f}, so all look alike. "
            "Try a smaller `lr` or a higher `temperature`"
        )
    if loss > AT_CHANCE * chance:
        return (
            f"nothing has been learnt: the loss is {loss:.3f}, and {chance:.3f} where views tell nothing. "
            "Try another `lr`, or more tiles"
        )
    return ""
