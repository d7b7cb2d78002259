"""MoCo (He et al. 2020) with the MLP head of its second version (Chen et al. 2020), in one file (spec/decisions/0013).

Batch norm must not tell the key of a query by the statistics they share. So the query encoder sees the whole batch,
over all processes, and the key encoder sees it in another order and in groups, each normalised by itself. The queue
holds the tiles' numbers beside their keys: a key of the query's own tile, of the epoch before, is no negative.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigacli.nn.distributed import ALONE
from gigacli.nn.loop import Step
from gigacli.nn.losses import info_nce, info_nce_chance_level
from gigacli.nn.tile_encoder import ResNet18

WIDTH = 512
HEAD = 128
KEY_GROUPS = 4
NO_TILE = -1


@dataclass(frozen=True)
class Share:
    """One process's share of a batch of n tiles: queries ``start:stop``, and the same places of the keys' order."""

    start: int  # first place
    stop: int  # last place + 1
    sizes: tuple[int, ...]  # number of keys in each of this process's groups; they add up to ``stop - start``


def share_of(n: int, rank: int, count: int) -> Share:
    """The share of process `rank` among `count`, which must have at least two tiles each: batch norm needs them."""
    # As many groups as one process would have, if each can belong to one process; else a group per process. Fewer where
    # a group would have less than two tiles, but a multiple of the processes still.
    groups = KEY_GROUPS if KEY_GROUPS % count == 0 else count
    groups = max(count, min(groups, n // 2 // count * count))
    sizes = [n // groups + (i < n % groups) for i in range(groups)]  # as torch.tensor_split cuts
    bounds = [0, *accumulate(sizes)]
    first, last = rank * groups // count, (rank + 1) * groups // count
    return Share(bounds[first], bounds[last], tuple(sizes[first:last]))


@dataclass(frozen=True)
class MoCoBatch:
    """Two views of the tiles of a batch: of n tiles in all, m of which are this process's."""

    queries: Tensor  # (m, 3, h, w) images in [0, 1] of this process's queries
    keys: Tensor  # (m, 3, h, w) images of the keys that this process computes: in the keys' order, not the queries'
    order: Tensor  # (n,) int64, the keys' order: key i of the order is of tile ``order[i]`` of the batch
    tiles: Tensor  # (n,) int64, a number for every tile, the same in every epoch
    share: Share  # this process's share of the batch


class MoCo(nn.Module):
    """Query encoder, key encoder (its moving average) and a queue of earlier keys.

    Args:
        network: ResNet18 to start from.
        queue: Number of negatives kept.
        momentum: Share of the old key encoder kept at each step.
        temperature: Temperature of InfoNCE.
        seed: Seed of the head's initial weights and of the queue's first content.
    """

    negatives: Tensor
    owners: Tensor
    pointer: Tensor

    def __init__(self, network: ResNet18, *, queue: int, momentum: float, temperature: float, seed: int) -> None:
        super().__init__()
        self.momentum, self.temperature = momentum, temperature
        self.processes = ALONE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, HEAD))
            negatives = F.normalize(torch.randn(queue, HEAD), dim=1)
        self.query = nn.Sequential(network, head)
        self.key = deepcopy(self.query).requires_grad_(False)  # noqa: FBT003 - torch's signature
        self.register_buffer("negatives", negatives)  # (queue, head)
        self.register_buffer("owners", torch.full((queue,), NO_TILE, dtype=torch.int64))  # tiles of the negatives
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @property
    def network(self) -> ResNet18:
        """The query encoder without its head: what is kept."""
        network = self.query[0]
        assert isinstance(network, ResNet18)
        return network

    def forward(self, batch: MoCoBatch) -> Step:
        """InfoNCE of two views; moves the key encoder and the queue on.

        The step's figure ``queue_accuracy`` is the share of the queries whose key is nearer than all negatives.
        """
        query = self.query(batch.queries)  # (m, head)
        query = F.normalize(query.to(torch.promote_types(query.dtype, torch.float32)), dim=1)
        with torch.no_grad():
            self._move_key_encoder()
            key = self._keys(batch)  # (n, head)
        hidden = self.owners == batch.tiles[:, None]  # (n, queue)
        loss, found = info_nce(
            self.processes.gather(query), key, self.negatives, temperature=self.temperature, hidden=hidden
        )
        self._enqueue(key, batch.tiles)
        mine = key[batch.share.start : batch.share.stop]  # (m, head)
        chance = info_nce_chance_level(len(self.negatives))
        return Step(loss, chance, len(batch.tiles), torch.cat([query.detach(), mine]), {"queue_accuracy": found})

    def _keys(self, batch: MoCoBatch) -> Tensor:
        """Keys (n, head) of the batch of all processes, in the order of its tiles."""
        # One call per group: batch norm then takes its statistics over the group alone.
        keys = torch.cat([self.key(group) for group in torch.split(batch.keys, list(batch.share.sizes))])  # (m, head)
        keys = F.normalize(keys.to(torch.promote_types(keys.dtype, torch.float32)), dim=1)
        # Gathered they stand in the keys' order, place i being of tile order[i]; argsort is its inverse.
        return self.processes.gather(keys)[torch.argsort(batch.order)]  # (n, head)

    def _move_key_encoder(self) -> None:
        for mine, theirs in zip(self.key.parameters(), self.query.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.momentum)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, tiles: Tensor) -> None:
        """Write keys (n, head) over the oldest ones in the queue, a ring; of more than fit, the last."""
        size = len(self.negatives)
        keys, tiles = keys[-size:], tiles[-size:]
        rows = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.negatives[rows] = keys.to(self.negatives.dtype)
        self.owners[rows] = tiles
        self.pointer.copy_((self.pointer + len(keys)) % size)
