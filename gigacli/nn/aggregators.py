"""Aggregators, which make one vector of a view, by name. All are `forward(batch: ViewBatch) -> (b, width)`."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from gigacli.errors import InvalidInput
from gigacli.nn.slide_encoder import Projector, SlideEncoder, check_width, make_linear
from gigacli.nn.transformer import DistanceTransformer, ShortProjector
from gigacli.nn.views import ViewBatch

AGGREGATORS = ("sparse-resnet", "transformer", "attention", "mlp")


def make_aggregator(
    name: str, width_in: int, *, generator: Generator, blocks: int = 2, stride: int = 2, sparse_backend: str = "auto"
) -> Aggregator:
    """The aggregator `name` of :data:`AGGREGATORS`, with weights from `generator`.

    Raises:
        InvalidInput: There is no such aggregator, or it has no sparse convolutions for the depth, stride or backend
            asked for.
    """
    if name == "sparse-resnet":
        return SlideEncoder(width_in, blocks=blocks, stride=stride, backend=sparse_backend, generator=generator)
    if name not in AGGREGATORS:
        raise InvalidInput(f"there is no aggregator {name!r}; it must be one of {', '.join(AGGREGATORS)}")
    if (blocks, stride, sparse_backend) != (2, 2, "auto"):
        raise InvalidInput(
            f"aggregator {name!r} has no sparse convolutions for `blocks` {blocks} `stride` {stride} "
            f"`sparse_backend` {sparse_backend}",
            "Leave them out.",
        )
    if name == "transformer":
        return DistanceTransformer(width_in, generator=generator)
    return (GatedAttention if name == "attention" else MeanMLP)(width_in, generator=generator)


def make_projector(name: str, width_in: int, *, generator: Generator) -> Projector | ShortProjector:
    """The projector that goes with aggregator `name`, on vectors of `width_in` values."""
    return (ShortProjector if name == "transformer" else Projector)(width_in, generator=generator)


class GatedAttention(nn.Module):
    """Gated attention over the tiles of a view (Ilse et al. 2018, equation 9; paper, figure 3 C); blind to cells.

    h = relu(W f + b), of `width` values; a = softmax over tiles of w (tanh(V h + v) * sigmoid(U h + u)), a gate of
    `hidden` values; the vector is sum of a h.
    """

    def __init__(self, width_in: int, *, width: int = 512, hidden: int = 128, generator: Generator) -> None:
        super().__init__()
        self.width_in, self.width = width_in, width
        self.embed = make_linear(width_in, width, generator)
        self.content = make_linear(width, hidden, generator)
        self.gate = make_linear(width, hidden, generator)
        self.score = make_linear(hidden, 1, generator)

    def forward(self, batch: ViewBatch) -> Tensor:
        """Slide vectors (b, width), in float32 or better."""
        check_width(batch, self.width_in)
        h = torch.relu(self.embed(batch.features))  # (b, t, width)
        scores = self.score(torch.tanh(self.content(h)) * torch.sigmoid(self.gate(h)))  # (b, t, 1)
        wide = torch.promote_types(h.dtype, torch.float32)
        return (torch.softmax(scores.to(wide), dim=1) * h.to(wide)).sum(dim=1)


class MeanMLP(nn.Module):
    """An MLP with one hidden layer, as wide as the vector, on the mean of the view's tiles; blind to cells."""

    def __init__(self, width_in: int, *, width: int = 512, generator: Generator) -> None:
        super().__init__()
        self.width_in, self.width = width_in, width
        self.hidden = make_linear(width_in, width, generator)
        self.norm = nn.BatchNorm1d(width)
        self.last = make_linear(width, width, generator)

    def forward(self, batch: ViewBatch) -> Tensor:
        """Slide vectors (b, width), in float32 or better."""
        check_width(batch, self.width_in)
        vectors: Tensor = self.last(torch.relu(self.norm(self.hidden(batch.features.mean(dim=1)))))
        return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


Aggregator = SlideEncoder | DistanceTransformer | GatedAttention | MeanMLP
