"""Batches for MoCo: two augmented views of every tile an epoch, each tile with parameters of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gigacli.nn.augment import MOCO, TileAugmentation, augment, draw_augmentation, fold, output_px
from gigacli.nn.distributed import ALONE, Processes
from gigacli.nn.moco import MoCoBatch, Share, share_of
from gigacli.nn.sampler import steps_per_epoch
from gigacli.randomness import keyed_rng

AHEAD = 2  # batches whose tiles are being read before they are augmented
TILES_PER_TASK = 8


@dataclass(frozen=True)
class _Coming:
    """A batch whose tiles are being read."""

    tiles: NDArray[np.int64]  # (n,) numbers
    order: NDArray[np.int64]  # (n,)
    share: Share
    pixels: Tensor  # (read, tile_px, tile_px, 3)
    tasks: list[Future[None]]
    views: tuple[tuple[TileAugmentation, NDArray[np.int64]], ...]  # sets of a view, and which pixels they change


class TileBatches:
    """Batches of an epoch, from any step on; everything is a function of (seed, epoch, step).

    Args:
        read: Returns the pixels (tile_px, tile_px, 3) uint8 of a tile, by its number; called from several threads.
        tiles: Number of tiles.
        tile_px: Edge of a tile.
        batch_size: Tiles per step over all processes.
        seed: Seed of the order and the augmentations.
        device: Where tiles are augmented.
        dtype: Type of the views.
        pool: Threads that read.
        processes: The processes that train together; each one reads what it needs.
    """

    def __init__(
        self,
        read: Callable[[int], NDArray[np.uint8]],
        tiles: int,
        *,
        tile_px: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        pool: Executor,
        processes: Processes = ALONE,
    ) -> None:
        self._read, self._tiles, self._tile_px, self._seed = read, tiles, tile_px, seed
        self._device, self._dtype, self._pool, self._processes = device, dtype, pool, processes
        self.per_epoch = steps_per_epoch(tiles, batch_size)

    def __call__(self, epoch: int, start: int = 0) -> Iterator[MoCoBatch]:
        """The batches of an epoch from step `start` on."""
        order = keyed_rng(self._seed, "order", epoch).permutation(self._tiles)
        parts = np.array_split(order, self.per_epoch)
        steps = iter(range(start, self.per_epoch))
        coming = deque(self._begin(epoch, step, parts[step]) for step in islice(steps, AHEAD))
        while coming:
            coming.extend(self._begin(epoch, step, parts[step]) for step in islice(steps, 1))
            yield self._finish(coming.popleft())

    def _begin(self, epoch: int, step: int, tiles: NDArray[np.int64]) -> _Coming:
        """Draw the random numbers of a batch, and start the reading of its tiles."""
        rng, n = keyed_rng(self._seed, "views", epoch, step), len(tiles)
        # Drawn for the batch of all processes; this one takes its share of places 0 ... n - 1 for its queries, and the
        # same share of the keys' order for its keys. A tile that is in both is read once.
        sets = [draw_augmentation(rng, n, tile_px=self._tile_px, strengths=MOCO) for _ in range(2)]
        order = rng.permutation(n)  # (n,)
        share = share_of(n, *self._processes.part)
        queries, keys = np.arange(share.start, share.stop), order[share.start : share.stop]  # (m,) each
        places, inverse = np.unique(np.concatenate([queries, keys]), return_inverse=True)  # (read,), (2m,)
        shape, pinned = (len(places), self._tile_px, self._tile_px, 3), self._device.type == "cuda"
        with self._here():
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        tasks = [
            self._pool.submit(self._fill, pixels.numpy()[i : i + TILES_PER_TASK], tiles[places[i : i + TILES_PER_TASK]])
            for i in range(0, len(places), TILES_PER_TASK)
        ]
        views = (sets[0][queries], inverse[: len(queries)]), (sets[1][keys], inverse[len(queries) :])
        return _Coming(tiles, order, share, pixels, tasks, views)

    def _fill(self, pixels: NDArray[np.uint8], tiles: NDArray[np.int64]) -> None:
        for place, tile in zip(pixels, tiles.tolist(), strict=True):
            place[:] = self._read(tile)

    def _finish(self, coming: _Coming) -> MoCoBatch:
        for task in coming.tasks:
            task.result()
        with self._here():
            images = coming.pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
            queries, keys = (self._augment(images, *view) for view in coming.views)
            order, tiles = (torch.from_numpy(v).to(self._device) for v in (coming.order, coming.tiles))
            return MoCoBatch(queries, keys, order, tiles, coming.share)

    def _here(self) -> AbstractContextManager[object]:
        """Make the device the current one: every thread begins with GPU 0, and would open a context there."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _augment(self, images: Tensor, sets: TileAugmentation, places: NDArray[np.int64]) -> Tensor:
        """(m, 3, out_px, out_px) views of images (all, 3, tile_px, tile_px), channels last."""
        px = output_px(self._tile_px)
        folded = fold(sets, tile_px=self._tile_px, out_px=px, device=self._device)
        out = torch.empty((len(sets), 3, px, px), dtype=self._dtype, device=self._device)
        out = out.contiguous(memory_format=torch.channels_last)
        return augment(images[torch.from_numpy(places).to(self._device)], folded, out=out)
