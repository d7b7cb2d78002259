"""Giga-SSL (paper, section 3.1): slide encoder, projector and loss, and the views they see, in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from gigacli.nn.aggregators import make_aggregator, make_projector
from gigacli.nn.distributed import ALONE
from gigacli.nn.loop import Step
from gigacli.nn.losses import chance_level, nt_xent
from gigacli.nn.views import ViewBatch
from gigacli.nn.whitening import FeatureSpace


class GigaSSL(nn.Module):
    """Slide encoder and projector under NT-Xent.

    Args:
        width_in: Features of a tile.
        temperature: Temperature of NT-Xent.
        seed: Seed of the initial weights.
        standardise: Whether features are standardised first. Mean and deviation are kept with the weights, so that
            whoever uses the encoder uses them too.
        whiten: Whether features are then multiplied by a matrix, kept likewise. See :meth:`enter`.
        aggregator: Name of the aggregator, which makes a vector of a view.
        blocks: Residual blocks of a sparse aggregator.
        stride: Stride of the first of these blocks.
        sparse_backend: Backend of a sparse aggregator's convolutions.

    Attributes:
        processes: The processes that train together; the loss is over the views of all.
    """

    feature_mean: Tensor | None
    feature_sd: Tensor | None
    whitening: Tensor | None

    def __init__(
        self,
        width_in: int,
        *,
        temperature: float,
        seed: int,
        standardise: bool = False,
        whiten: bool = False,
        aggregator: str = "sparse-resnet",
        blocks: int = 2,
        stride: int = 2,
        sparse_backend: str = "auto",
    ) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(width_in) if standardise else None)  # (c,)
        self.register_buffer("feature_sd", torch.ones(width_in) if standardise else None)  # (c,)
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
        names = ("temperature", "standardise", "whiten", "aggregator", "blocks", "stride")
        stated = {"temperature": 1.0} | {name: recipe[name] for name in names if name in recipe}
        return cls(width_in, seed=seed, sparse_backend=sparse_backend, **stated)

    def enter(self, space: FeatureSpace) -> None:
        """Bring features into this space from now on."""
        standard, matrix = space.standard, space.matrix
        self.feature_mean = None if standard is None else torch.from_numpy(standard.mean)
        self.feature_sd = None if standard is None else torch.from_numpy(standard.sd)
        self.whitening = None if matrix is None else torch.from_numpy(matrix)

    def forward(self, views: ViewBatch) -> Step:
        """NT-Xent of 2n views, the first views of n slides, then their second views: one sparse batch for both."""
        vectors = self.vectors(views)  # (2n, width), of this process
        first, second = self.processes.gather_views(self.projector(vectors)).chunk(2)  # (slides, c) of all processes
        loss, slides = nt_xent(first, second, temperature=self.temperature), len(first)
        return Step(loss, chance_level(slides), slides, vectors)

    def vectors(self, views: ViewBatch) -> Tensor:
        """Slide vectors (b, width) of b views: standardise and whiten their features, encode them."""
        if self.feature_mean is not None and self.feature_sd is not None:
            views = replace(views, features=(views.features - self.feature_mean) / self.feature_sd)
        if self.whitening is not None:
            views = replace(views, features=views.features @ self.whitening)
        vectors: Tensor = self.encoder(views)
        return vectors


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
