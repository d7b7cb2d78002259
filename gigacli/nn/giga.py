"""Giga-SSL (paper, section 3.1): slide encoder, projector and loss, and the views they see, in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gigacli.errors import InvalidInput
from gigacli.nn.aggregators import make_aggregator, make_projector
from gigacli.nn.distributed import ALONE
from gigacli.nn.loop import Step
from gigacli.nn.losses import chance_level, nt_xent
from gigacli.nn.views import ViewBatch

WHITENING_DRAWS = 8
"""Draws per augmentation that the whitening looks at: 400 rows a slide are plenty for a covariance over a cohort."""


class GigaSSL(nn.Module):
    """Slide encoder and projector under NT-Xent.

    Args:
        width_in: Features of a tile.
        temperature: Temperature of NT-Xent.
        seed: Seed of the initial weights.
        whiten: Whether features are multiplied by a matrix first, from :func:`whitening_matrix`; it is kept with the
            weights, so that whoever uses the encoder uses it too.
        aggregator: Name of the aggregator, which makes a vector of a view.
        blocks: Residual blocks of a sparse aggregator.
        stride: Stride of the first of these blocks.
        sparse_backend: Backend of a sparse aggregator's convolutions.

    Attributes:
        processes: The processes that train together; the loss is over the views of all.
    """

    whitening: Tensor | None

    def __init__(
        self,
        width_in: int,
        *,
        temperature: float,
        seed: int,
        whiten: bool = False,
        aggregator: str = "sparse-resnet",
        blocks: int = 2,
        stride: int = 2,
        sparse_backend: str = "auto",
    ) -> None:
        super().__init__()
        self.register_buffer("whitening", torch.eye(width_in) if whiten else None)  # (c, c)
        generator = torch.Generator().manual_seed(seed)
        self.encoder = make_aggregator(
            aggregator, width_in, generator=generator, blocks=blocks, stride=stride, sparse_backend=sparse_backend
        )
        self.projector = make_projector(aggregator, self.encoder.width, generator=generator)
        self.temperature = temperature
        self.processes = ALONE

    @classmethod
    def of_recipe(cls, width_in: int, recipe: Mapping[str, Any], *, seed: int, sparse_backend: str = "auto") -> Self:
        """The untrained method that a model's recipe describes; what an older one lacks has the default of its time."""
        names = ("temperature", "whiten", "aggregator", "blocks", "stride")
        stated = {"temperature": 1.0} | {name: recipe[name] for name in names if name in recipe}
        return cls(width_in, seed=seed, sparse_backend=sparse_backend, **stated)

    def forward(self, views: ViewBatch) -> Step:
        """NT-Xent of 2n views, the first views of n slides, then their second views: one sparse batch for both."""
        vectors = self.vectors(views)  # (2n, width), of this process
        first, second = self.processes.gather_views(self.projector(vectors)).chunk(2)  # (slides, c) of all processes
        loss, slides = nt_xent(first, second, temperature=self.temperature), len(first)
        return Step(loss, chance_level(slides), slides, vectors)

    def vectors(self, views: ViewBatch) -> Tensor:
        """Slide vectors (b, width) of b views: whiten their features, encode them."""
        if self.whitening is not None:
            views = replace(views, features=views.features @ self.whitening)
        vectors: Tensor = self.encoder(views)
        return vectors


def whitening_matrix(slides: Iterable[NDArray[np.float16]]) -> Tensor:
    """A matrix that makes the spread of features within slides alike in all directions (whitening).

    N is the covariance of a slide's augmented features (augmentation, draw, c) about their mean, pooled over slides;
    features f become f (N + tr(N)/c I)^(-1/2). Directions in which tiles and augmentations of one slide differ most say
    least about which slide it is.

    Returns:
        (c, c) float32, symmetric.

    Raises:
        InvalidInput: Features do not differ within any slide, or are not finite.
    """
    total, rows = 0.0, 0
    for slide in slides:
        features = slide[:, :WHITENING_DRAWS].astype(np.float64)  # (a, d, c)
        spread = (features - features.mean(axis=(0, 1))).reshape(-1, features.shape[2])  # (a * d, c)
        total, rows = total + spread.T @ spread, rows + len(spread)
    covariance = np.asarray(total) / rows  # (c, c)
    width = len(covariance)
    if not 0 < np.trace(covariance) < np.inf:
        raise InvalidInput(
            f"features spread by {np.trace(covariance):g} within slides, so there is nothing to even out",
            "look at them, or train with `whiten=False`",
        )
    values, directions = np.linalg.eigh(covariance + np.trace(covariance) / width * np.eye(width))
    return torch.from_numpy((directions / np.sqrt(values)) @ directions.T).float()


TILES_AT_ONCE = 2048
"""Tiles that the encoder sees in one call when it only embeds: they and what becomes of them fit the caches."""


@torch.inference_mode()
def embed_views(encoder: Callable[[ViewBatch], Tensor], views: ViewBatch, counts: Sequence[int]) -> Tensor:
    """Slide vectors: the mean of each slide's views, scaled to unit length (paper, section 4.2).

    `views` are those of all slides, `counts` (s,) of each, one slide after the other; `encoder` is in eval mode, so
    that no view depends on another.

    Returns:
        (s, width) float32.
    """
    per_call = max(1, TILES_AT_ONCE // views.cells.shape[1])
    starts = range(0, len(views.cells), per_call)
    vectors = torch.cat([encoder(views.part(i, i + per_call)) for i in starts]).double()  # (sum of counts, width)
    means = torch.stack([v.mean(dim=0) for v in torch.split(vectors, list(counts))])  # (s, width)
    return torch.nn.functional.normalize(means, dim=1).float()
