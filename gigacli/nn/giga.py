"""Giga-SSL (paper, section 3.1): slide encoder, projector and loss, and the views they see, in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from gigacli.nn.aggregators import Aggregator, make_aggregator, make_projector
from gigacli.nn.distributed import ALONE
from gigacli.nn.loop import Step
from gigacli.nn.losses import chance_level, nt_xent
from gigacli.nn.slide_encoder import Projector
from gigacli.nn.transformer import ShortProjector
from gigacli.nn.views import ViewBatch
from gigacli.nn.whitening import FeatureSpace
from gigacli.randomness import keyed_seed


class GigaSSL(nn.Module):
    """Slide encoder and projector under NT-Xent.

    Args:
        width_in: Features of a tile.
        temperature: Temperature of NT-Xent.
        seed: Seed of the initial weights.
        twins: Seeds of the initial weights of further encoders that are trained beside it, each on views of its own.
            Nothing passes between them: each is what it would be alone. The vector of a view has theirs side by side.
        standardise: Whether features are standardised first. Mean and deviation are kept with the weights, so that
            whoever uses the encoder uses them too.
        whiten: Whether features are then multiplied by a matrix, kept likewise. See :meth:`enter`.
        aggregator: Name of the aggregator, which makes a vector of a view.
        blocks: Residual blocks of a sparse aggregator.
        stride: Stride of the first of these blocks.
        sparse_backend: Backend of a sparse aggregator's convolutions.

    Attributes:
        width: Values of a vector, of all encoders together.
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
        twins: Sequence[int] = (),
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
        options: dict[str, Any] = {"blocks": blocks, "stride": stride, "sparse_backend": sparse_backend}
        self.encoder, self.projector = _networks(aggregator, width_in, seed, options)
        self.twins = nn.ModuleList()
        for number in twins:
            encoder, projector = _networks(aggregator, width_in, number, options)
            self.twins.append(nn.ModuleDict({"encoder": encoder, "projector": projector}))
        self.width = self.encoder.width * (1 + len(twins))
        self.temperature = temperature
        self.processes = ALONE

    @classmethod
    def of_recipe(
        cls, width_in: int, recipe: Mapping[str, Any], *, seed: int, stream: str, sparse_backend: str = "auto"
    ) -> Self:
        """The untrained method that a model's recipe describes; what an older one lacks has the default of its time.

        Args:
            width_in: Features of a tile.
            recipe: Settings of the training.
            seed: Of the first encoder; further ones have those after it.
            stream: What the weights are drawn for: seeds of one number are others for another stream.
            sparse_backend: Backend of a sparse aggregator's convolutions.
        """
        names = ("temperature", "standardise", "whiten", "aggregator", "blocks", "stride")
        stated = {"temperature": 1.0} | {name: recipe[name] for name in names if name in recipe}
        first, *twins = (keyed_seed(one, stream) for one in seeds_of(seed, recipe.get("seeds", 1)))
        return cls(width_in, seed=first, twins=twins, sparse_backend=sparse_backend, **stated)

    def enter(self, space: FeatureSpace) -> None:
        """Bring features into this space from now on."""
        standard, matrix = space.standard, space.matrix
        self.feature_mean = None if standard is None else torch.from_numpy(standard.mean)
        self.feature_sd = None if standard is None else torch.from_numpy(standard.sd)
        self.whitening = None if matrix is None else torch.from_numpy(matrix)

    @property
    def encoders(self) -> list[Aggregator]:
        """The encoder and its twins."""
        return [encoder for encoder, _ in self._pairs()]

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        yield self.encoder, self.projector
        for twin in self.twins.children():
            yield twin.get_submodule("encoder"), twin.get_submodule("projector")

    def forward(self, batches: Sequence[ViewBatch]) -> Step:
        """NT-Xent, the mean over encoders, of a batch of views for each.

        A batch has 2n views, the first views of n slides, then their second views: one sparse batch for both.
        """
        steps = [self._step(e, p, views) for (e, p), views in zip(self._pairs(), batches, strict=True)]
        # Minimised is the sum, so that the gradient of each encoder is that of its own loss; said is the mean.
        total = torch.stack([step.loss for step in steps]).sum()
        return replace(steps[0], loss=total, figures={"loss": total.detach() / len(steps)})

    def _step(self, encoder: Aggregator, projector: nn.Module, views: ViewBatch) -> Step:
        vectors: Tensor = encoder(self._entered(views))  # (2n, width), of this process
        first, second = self.processes.gather_views(projector(vectors)).chunk(2)  # (slides, c) of all processes
        loss, slides = nt_xent(first, second, temperature=self.temperature), len(first)
        return Step(loss, chance_level(slides), slides, vectors)

    def vectors(self, views: ViewBatch) -> Tensor:
        """Slide vectors (b, width) of b views: standardise and whiten their features, encode them."""
        entered = self._entered(views)
        return torch.cat([encoder(entered) for encoder in self.encoders], dim=1)

    def _entered(self, views: ViewBatch) -> ViewBatch:
        if self.feature_mean is not None and self.feature_sd is not None:
            views = replace(views, features=(views.features - self.feature_mean) / self.feature_sd)
        if self.whitening is not None:
            views = replace(views, features=views.features @ self.whitening)
        return views


def is_of_encoder(name: str) -> bool:
    """Whether a tensor of this name is of the encoder or of one of its twins, and not of a projector or the space."""
    return name.split(".")[2 if name.startswith("twins.") else 0] == "encoder"


def seeds_of(seed: int, count: int) -> list[int]:
    """The seeds of `count` encoders that are trained side by side: that of the first, and those after it."""
    return [(seed + i) % 2**32 for i in range(count)]


def _networks(
    aggregator: str, width_in: int, seed: int, options: Mapping[str, Any]
) -> tuple[Aggregator, Projector | ShortProjector]:
    """An encoder and its projector, with weights of a seed."""
    generator = torch.Generator().manual_seed(seed)
    encoder = make_aggregator(aggregator, width_in, generator=generator, **options)
    return encoder, make_projector(aggregator, encoder.width, generator=generator)


TILES_AT_ONCE = 2048
"""Tiles that the encoder sees in one call when it only embeds: they and what becomes of them fit the caches."""


@torch.inference_mode()
def embed_views(
    encoder: Callable[[ViewBatch], Tensor], views: ViewBatch, counts: Sequence[int], *, precision: str = "fp32"
) -> Tensor:
    """Slide vectors: the mean of each slide's views, scaled to unit length (paper, section 4.2).

    `views` are those of all slides, `counts` (s,) of each, one slide after the other; `encoder` is in eval mode, so
    that no view depends on another. With `precision` bf16 products are of bfloat16, which takes a quarter of the time
    where a processor computes in it; a vector stays the same to a cosine of .9999, and means are of float64.

    Returns:
        (s, width) float32.
    """
    per_call = max(1, TILES_AT_ONCE // views.cells.shape[1])
    starts = range(0, len(views.cells), per_call)
    with torch.autocast(views.cells.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        parts = [encoder(views.part(i, i + per_call)) for i in starts]
    vectors = torch.cat(parts).double()  # (sum of counts, width)
    means = torch.stack([v.mean(dim=0) for v in torch.split(vectors, list(counts))])  # (s, width)
    return torch.nn.functional.normalize(means, dim=1).float()
