"""MoCo (He et al. 2020) with the MLP head of its second version (Chen et al. 2020), in one file.

Batch norm on one device: He et al. shuffle the batch between devices so that the statistics of a batch norm
do not tell the key of a query. On one device there is nothing to shuffle between; the key encoder instead
sees its batch in another order and in groups, each normalised by itself, so that a query and its key are
normalised with different companions.
"""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigacli.nn.losses import info_nce
from gigacli.nn.tile_encoder import ResNet18

WIDTH = 512
HEAD = 128
KEY_GROUPS = 4


class MoCo(nn.Module):
    """Query encoder, key encoder (its moving average) and a queue of earlier keys.

    Args:
        network: ResNet18 to start from.
        queue: Negatives kept.
        momentum: Share of the old key encoder kept at each step.
        temperature: Of InfoNCE.
        seed: Of the head's initial weights and of the queue's first content.
    """

    negatives: Tensor
    pointer: Tensor

    def __init__(self, network: ResNet18, *, queue: int, momentum: float, temperature: float, seed: int) -> None:
        super().__init__()
        self.momentum, self.temperature = momentum, temperature
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, HEAD))
            negatives = F.normalize(torch.randn(queue, HEAD), dim=1)
        self.query = nn.Sequential(network, head)
        self.key = deepcopy(self.query).requires_grad_(False)  # noqa: FBT003 - torch's signature
        self.register_buffer("negatives", negatives)  # (queue, head)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @property
    def network(self) -> ResNet18:
        """The query encoder without its head: what is kept."""
        network = self.query[0]
        assert isinstance(network, ResNet18)
        return network

    def forward(self, first: Tensor, second: Tensor, order: Tensor) -> Tensor:
        """InfoNCE of two views; the key encoder and the queue move on.

        Args:
            first: (n, 3, h, w) queries' images in [0, 1].
            second: (n, 3, h, w) keys' images.
            order: (n,) permutation in which the key encoder sees its batch.

        Returns:
            Scalar loss.
        """
        query = F.normalize(self.query(first).float(), dim=1)  # (n, head)
        with torch.no_grad():
            self._move_key_encoder()
            key = self._keys(second, order)  # (n, head)
        loss = info_nce(query, key, self.negatives, temperature=self.temperature)
        self._enqueue(key)
        return loss

    def _keys(self, images: Tensor, order: Tensor) -> Tensor:
        groups = max(1, min(KEY_GROUPS, len(order) // 2))  # batch norm needs two images
        keys = torch.cat([self.key(group) for group in images[order].tensor_split(groups)])
        return F.normalize(keys.float(), dim=1)[torch.argsort(order)]

    def _move_key_encoder(self) -> None:
        for mine, theirs in zip(self.key.parameters(), self.query.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.momentum)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        size = len(self.negatives)
        keys = keys[-size:]
        rows = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.negatives[rows] = keys
        self.pointer.copy_((self.pointer + len(keys)) % size)
