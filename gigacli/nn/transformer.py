"""A transformer of one layer over the tiles of a view, whose attention falls with distance: beyond the paper."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from gigacli.errors import InvalidInput
from gigacli.nn.slide_encoder import check_width, make_linear
from gigacli.nn.views import ViewBatch

FARTHEST = 20.0  # distances beyond are all alike: exp(-20) of a weight is none

SLOPES = (0.0, 0.5, 1.0, 1.5)
"""Of each head at the start. A head of slope 0 sees all tiles alike, and stays so: |m| has no gradient at 0."""

HEADS, HEAD_WIDTH = len(SLOPES), 64


class DistanceTransformer(nn.Module):
    """One layer of attention with a distance bias, then the mean over tiles; blind to cells.

    h = W f + b, of `width` values. With x = LayerNorm(h), head k adds softmax over tiles j of
    (q_i . k_j / sqrt(64) - |m_k| D_ij) times v_j; the heads side by side, times O, are added to h; then
    h <- h + Linear(relu(Linear(LayerNorm(h)))). The vector is relu(BatchNorm(mean over tiles of h)). D are distances,
    of :func:`tile_distances`, so places may be turned, mirrored, moved and enlarged, and change nothing.

    Args:
        width_in: Features of a tile.
        width: Values of the slide vector.
        generator: Source of the initial weights.
    """

    def __init__(self, width_in: int, *, width: int = 256, generator: Generator) -> None:
        super().__init__()
        self.width_in, self.width = width_in, width
        inner = HEADS * HEAD_WIDTH
        self.embed = make_linear(width_in, width, generator)
        self.norm_attention = nn.LayerNorm(width)
        self.query = make_linear(width, inner, generator)
        self.key = make_linear(width, inner, generator)
        self.value = make_linear(width, inner, generator)
        self.merge = make_linear(inner, width, generator)
        self.slope = nn.Parameter(torch.tensor(SLOPES))  # (heads,)
        self.norm_hidden = nn.LayerNorm(width)
        self.hidden = make_linear(width, width, generator)
        self.last = make_linear(width, width, generator)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, batch: ViewBatch) -> Tensor:
        """Slide vectors (b, width), in float32 or better.

        Raises:
            InvalidInput: The views are of another width, or do not say where their tiles lie.
        """
        check_width(batch, self.width_in)
        if batch.positions is None:
            raise InvalidInput("these views do not say where their tiles lie, which a transformer looks at")
        h = self.embed(batch.features)  # (b, t, width)
        h = h + self._attend(self.norm_attention(h), tile_distances(batch.positions))
        h = h + self.last(torch.relu(self.hidden(self.norm_hidden(h))))
        wide = torch.promote_types(h.dtype, torch.float32)
        vectors: Tensor = torch.relu(self.norm(h.to(wide).mean(dim=1)))
        return vectors

    def _attend(self, x: Tensor, distances: Tensor) -> Tensor:
        """(b, t, width) of what each tile takes from the others and itself."""
        b, t, _ = x.shape
        q, k, v = (
            layer(x).view(b, t, HEADS, HEAD_WIDTH).transpose(1, 2)  # (b, heads, t, 64)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(HEAD_WIDTH)  # (b, heads, t, t)
        scores = scores - self.slope.abs()[:, None, None] * distances[:, None]  # float32 or better: distances are
        taken = torch.softmax(scores, dim=-1).to(v.dtype) @ v  # (b, heads, t, 64)
        merged: Tensor = self.merge(taken.transpose(1, 2).reshape(b, t, -1))
        return merged


class ShortProjector(nn.Sequential):
    """Linear -> BatchNorm1d -> ReLU -> Linear: (b, width_in) -> (b, width). The loss sees only its output."""

    def __init__(self, width_in: int, *, hidden: int = 256, width: int = 128, generator: Generator) -> None:
        super().__init__(
            make_linear(width_in, hidden, generator),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            make_linear(hidden, width, generator),
        )


def tile_distances(positions: Tensor) -> Tensor:
    """Distances between the tiles of each view, in units of its mean distance to the nearest other place.

    A tile that was drawn twice is no place of its own: it does not make the unit smaller. Distances are at most
    :data:`FARTHEST`; where all tiles lie on one place they are 0.

    Args:
        positions: (b, t, 2), in any unit.

    Returns:
        (b, t, t), symmetric.
    """
    apart = positions[:, :, None] - positions[:, None]  # (b, t, t, 2)
    distances = apart.square().sum(-1).sqrt()
    nearest = distances.masked_fill(distances == 0, math.inf).amin(dim=2)  # (b, t), inf where all lie on one place
    unit = nearest.mean(dim=1)[:, None, None]  # (b, 1, 1); inf makes all distances 0
    return (distances / unit).clamp(max=FARTHEST)
