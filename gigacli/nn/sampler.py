"""The views of a training batch, all slides at once: which rows of the bank, where they lie, moved how.

Everything random is drawn for the whole batch from a generator keyed by (seed, epoch, step), so that a resumed run and
any number of processes see the same views; each process gathers its part.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gigacli.nn.operators import AppliedOperators, Drawn
from gigacli.nn.views import SlideAugmentation, TilePositions, ViewBatch, draw_rows, draw_slide_augmentation, make_views
from gigacli.randomness import keyed_rng

DEVICE_SHARE = 0.6  # share of the free memory of a CUDA device that a bank may take; the rest is for the network
UPLOAD_BYTES = 2**28  # bytes of a bank that are copied to the device at once


class ViewSource(Protocol):
    """What views are drawn from: a bank, or features that were imported, in :mod:`gigacli.store`.

    Attributes:
        augmentations: Augmentations per slide.
        counts: (s,) int64, draws of each slide per augmentation.
    """

    augmentations: int
    counts: NDArray[np.int64]

    @property
    def vectors(self) -> Any:
        """(..., c) float16 in the order of the file, slide after slide along the first axis; read when first used."""

    def at(self, slide: NDArray[np.int64], augmentation: NDArray[np.int64], draw: NDArray[np.int64]) -> tuple[Any, ...]:
        """Indices into `vectors`, one array per axis but the last, of such draws; the arguments broadcast."""

    def tiles(
        self, slide: NDArray[np.int64], augmentation: NDArray[np.int64], draw: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Numbers, within their slides, of the tiles of such draws."""


class Sampler:
    """Batches of slides and their views.

    Args:
        bank: What views are drawn from.
        operators: Move the features of a view by an augmentation drawn for it; None: they are augmented, or stay.
        positions: Positions of the tiles of the bank's slides, in its order.
        tiles: T, tiles per view.
        slide_aug: Whether positions are flipped, rotated and scaled (paper, step 4).
        log_scale: Range of the scales, as in :func:`~gigacli.nn.views.draw_slide_augmentation`; None: the paper's.
        seed: Seed of everything random.
        batch_size: Most slides per step; batches differ by one slide at most.
        device: Where the views go.
        part: (r, k): this process is the r-th of k, and gathers its part of each batch.

    Attributes:
        note: Whether the bank is in the device's memory, in words; "" on a CPU, where there is no choice.
    """

    def __init__(
        self,
        bank: ViewSource,
        positions: TilePositions,
        *,
        operators: AppliedOperators | None = None,
        tiles: int,
        slide_aug: bool,
        log_scale: float | None = None,
        seed: int,
        batch_size: int,
        device: torch.device,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.bank, self.positions, self.operators = bank, positions, operators
        self.tiles, self.slide_aug, self.log_scale, self.seed = tiles, slide_aug, log_scale, seed
        self.device, self.part = device, part
        self.slides = len(bank.counts)
        self.steps = steps_per_epoch(self.slides, batch_size)
        room, size = _room(device), bank.vectors.nbytes
        self._on_device = _upload(bank.vectors, device) if size < room else None
        self.note = _whereabouts(device, size, room)

    def of_seed(self, seed: int) -> Self:
        """The same with another seed; what lies on a device is shared."""
        other = copy(self)
        other.seed = seed
        return other

    def __call__(self, epoch: int, start: int = 0) -> Iterator[ViewBatch]:
        """The batches of an epoch from step `start` on."""
        order = keyed_rng(self.seed, "order", epoch).permutation(self.slides)
        for step, slides in list(enumerate(np.array_split(order, self.steps)))[start:]:
            yield self.views(slides, keyed_rng(self.seed, "views", epoch, step))

    def views(self, slides: NDArray[np.int64], rng: np.random.Generator) -> ViewBatch:
        """Views of a batch of slides (n,): the first views of this process's m slides, then their second: (2m, t, ...).

        The two views of a slide have augmentations (of the bank and of the positions) and tiles drawn independently.
        """
        # Drawn for the whole batch, then cut: however many processes there are, they see the same views between them.
        twice = np.concatenate([slides, slides])  # (2n,), the loss pairs i with n + i
        augmentation = rng.integers(0, self.bank.augmentations, len(twice))  # (2n,), one for all tiles of a view
        draws = draw_rows(rng, self.bank.counts[twice], self.tiles)  # (2n, t)
        moved = draw_slide_augmentation(len(twice), rng, log_scale=self.log_scale) if self.slide_aug else None
        drawn = self.operators.draw(rng, len(twice), self.tiles) if self.operators is not None else None
        mine = np.array_split(np.arange(len(slides)), self.part[1])[self.part[0]]  # (m,)
        mine = np.concatenate([mine, len(slides) + mine])  # (2m,), both views of a slide in one process
        if moved is not None:
            moved = SlideAugmentation(moved.flip[mine], moved.angle_rad[mine], moved.scale[mine])
        return self._gather(twice[mine], augmentation[mine], draws[mine], moved, drawn and drawn.part(mine))

    def _gather(
        self,
        slides: NDArray[np.int64],
        augmentation: NDArray[np.int64],
        draws: NDArray[np.int64],
        moved: SlideAugmentation | None,
        drawn: Drawn | None,
    ) -> ViewBatch:
        s, a = slides[:, None], augmentation[:, None]  # (b, 1), beside draws (b, t)
        at = self.bank.at(s, a, draws)  # one index array per axis of the bank's layout, together (b, t)
        positions = self.positions(slides, self.bank.tiles(s, a, draws))  # (b, t, 2)
        features = self._rows(at)  # (b, t, c)
        if self.operators is not None and drawn is not None:
            features = self.operators(features, drawn)
        return make_views(features, positions, augmentation=moved, device=self.device)

    def _rows(self, at: tuple[Any, ...]) -> NDArray[np.float16] | Tensor:
        if self._on_device is None:
            rows: NDArray[np.float16] = self.bank.vectors[at]
            return rows
        # On the device the bank is one matrix of rows: the same index, flattened in the order of the file.
        flat = np.ravel_multi_index(np.broadcast_arrays(*at), self.bank.vectors.shape[:-1])  # (b, t)
        return self._on_device[torch.from_numpy(flat).to(self.device)]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Number of batches that hold all slides or tiles, each of at most `batch_size`."""
    return -(-examples // batch_size)


def _room(device: torch.device) -> float:
    """Bytes of the device's own memory that a bank may take: batches of one that lives there cost no transfer."""
    return DEVICE_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0.0


def _whereabouts(device: torch.device, size: int, room: float) -> str:
    if device.type == "cpu":
        return ""
    if size < room:
        return f"the bank ({size / 2**30:.1f} GiB) lies in the memory of {device}"
    return (
        f"the bank ({size / 2**30:.1f} GiB) stays on the host: it may take {room / 2**30:.1f} GiB of the memory of "
        f"{device}. A smaller bank would fit: giga bank STORE --augmentations N"
    )


def _upload(vectors: Any, device: torch.device) -> Tensor:
    """The vectors (..., c) as a matrix (rows, c) on the device, rows in the order of the file."""
    per_slide = vectors[:1].nbytes
    step = max(1, UPLOAD_BYTES // max(1, per_slide))
    rows = torch.empty(int(np.prod(vectors.shape[:-1])), vectors.shape[-1], dtype=torch.float16, device=device)
    for start, target in zip(
        range(0, len(vectors), step), torch.split(rows, step * int(np.prod(vectors.shape[1:-1]))), strict=True
    ):
        block = np.ascontiguousarray(vectors[start : start + step])
        target.copy_(torch.from_numpy(block).view_as(target))
    return rows
