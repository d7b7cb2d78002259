"""Attention-based multiple instance learning from scratch: the paper's DeepMIL, for comparison.

The network is the gated attention of Ilse, Tomczak and Welling, Attention-based Deep Multiple Instance Learning (2018),
equation 9, on frozen tile features. The recipe is fixed, and nothing is chosen on the test side: theirs (Adam, learning
rate 5e-4, weight decay 1e-4, 128 attention units), except that a step sees 16 slides of at most 256 tiles, so that the
learning rate is doubled; 50 epochs, at least 150 steps, falling to zero along a cosine instead of early stopping, which
would cost a small training set some of its labels. Classes count alike in the loss, as in the linear probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gigacli.randomness import keyed_rng, keyed_seed

HIDDEN: Final = 128
EPOCHS: Final = 50
LEAST_STEPS: Final = 150
BAGS: Final = 16  # slides per step
TILES: Final = 256  # tiles of a slide in a step, drawn anew every time. Probabilities are computed from all tiles
LEARNING_RATE: Final = 1e-3
WEIGHT_DECAY: Final = 1e-4


class AttentionMIL(nn.Module):
    """Tiles to class scores: embed each, weigh them by gated attention, classify the weighted mean.

    Args:
        width_in: Features of a tile.
        classes: Number of classes.
        mean: (width_in,) mean of the tiles' features on the training side.
        deviation: (width_in,) their standard deviation.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width_in: int, classes: int, *, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.embed = nn.Sequential(nn.Linear(width_in, HIDDEN), nn.ReLU())
        self.content = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        self.gate = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Sigmoid())
        self.attend = nn.Linear(HIDDEN, 1)
        self.classify = nn.Linear(HIDDEN, classes)

    def forward(self, tiles: Tensor, is_tile: Tensor) -> Tensor:
        """Class scores (b, classes) of bags.

        Args:
            tiles: (b, t, width_in), shorter bags filled up with anything finite.
            is_tile: (b, t) bool, which of them are tiles; at least one of a bag.
        """
        embedded = self.embed((tiles - self.mean) / self.deviation)  # (b, t, HIDDEN)
        logits = self.attend(self.content(embedded) * self.gate(embedded)).squeeze(2)  # (b, t)
        weights = logits.masked_fill(~is_tile, -torch.inf).softmax(dim=1)
        scores: Tensor = self.classify(torch.einsum("bt,bth->bh", weights, embedded))
        return scores


def train(
    bags: Sequence[NDArray[np.float16]], y: NDArray[np.int64], *, classes: int, seed: int, device: torch.device
) -> AttentionMIL:
    """Train on labelled bags.

    Args:
        bags: Tile features of each slide, (tiles, features), at least one tile.
        y: Their classes, 0 ... classes - 1, (bags,), each at least once.
        classes: Number of classes.
        seed: Seed of the initial weights, the order of the slides and the tiles drawn.
        device: Where to train.
    """
    mean, deviation = _moments(bags)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(seed, "abmil"))
        model = AttentionMIL(bags[0].shape[1], classes, mean=mean, deviation=deviation).to(device)
    weight = torch.from_numpy(len(y) / (classes * np.bincount(y, minlength=classes))).float().to(device)  # (classes,)
    per_epoch = -(-len(bags) // BAGS)
    steps = max(LEAST_STEPS, EPOCHS * per_epoch)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = keyed_rng(seed, "abmil", "tiles")
    queue: list[NDArray[np.int64]] = []
    for _ in range(steps):
        queue = queue or np.array_split(rng.permutation(len(bags)), per_epoch)
        chosen = queue.pop()
        drawn = [bags[i][rng.permutation(len(bags[i]))[:TILES]] for i in chosen]
        loss = nn.functional.cross_entropy(
            model(*_padded(drawn, device)), torch.from_numpy(y[chosen]).to(device), weight=weight
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def probabilities(model: AttentionMIL, bags: Sequence[NDArray[np.float16]]) -> NDArray[np.float64]:
    """Probabilities of the classes, (bags, classes) float64, from all tiles of each bag."""
    device = model.mean.device
    scores = [model(*_padded([bag], device)).double().softmax(dim=1) for bag in bags]
    return torch.cat(scores).cpu().numpy()


def _moments(bags: Sequence[NDArray[np.float16]]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the features, (features,) each, every bag counting alike."""
    first = np.mean([bag.mean(axis=0, dtype=np.float64) for bag in bags], axis=0)
    second = np.mean([np.square(bag, dtype=np.float64).mean(axis=0) for bag in bags], axis=0)
    deviation = np.sqrt(np.maximum(second - first**2, 1e-12))
    return torch.from_numpy(first).float(), torch.from_numpy(deviation).float()


def _padded(bags: Sequence[NDArray[np.float16]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tiles (b, t, features) float32, t that of the largest bag, and which of them are tiles and no padding, (b, t)."""
    sizes = np.array([len(bag) for bag in bags])
    tiles = np.zeros((len(bags), sizes.max(), bags[0].shape[1]), dtype=np.float16)
    for row, bag in zip(tiles, bags, strict=True):
        row[: len(bag)] = bag
    is_tile = np.arange(sizes.max()) < sizes[:, None]  # (b, t)
    return torch.from_numpy(tiles).to(device).float(), torch.from_numpy(is_tile).to(device)
