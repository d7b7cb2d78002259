"""Features of the tiles of one slide: as they are, and under the augmentations of its views (paper, step 1).

A batch may mix a slide's augmentations but never slides, so that no byte depends on how slides were spread over
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gigacli.nn.augment import SHARED, Folded, TileAugmentation, augment, draw_augmentation, fold, output_px, unchanged
from gigacli.randomness import keyed_rng


class TileEncoder(Protocol):
    """A frozen encoder of tiles."""

    device: torch.device  # where it computes
    dtype: torch.dtype  # type it computes in
    features: int  # values per tile
    input_px: int | None  # edge of the images it takes; ``None`` for any
    fixed_batch: bool  # whether every batch must have the same number of images to be fast

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, features) float32."""


@dataclass(frozen=True)
class BankViews:
    """One slide's rows of a bank before they are encoded: which tiles, and how each is augmented."""

    tiles: NDArray[np.int32]  # (augmentation, draw) numbers of tiles, drawn with replacement
    sets: TileAugmentation  # a parameter set per augmentation; per draw where they are independent
    independent: bool  # whether each draw has a set of its own (the paper's ablation NS)
    missing: NDArray[np.bool_]  # (augmentation, draw) bool: which rows are to be encoded


def draw_bank_views(
    seed: int,
    slide_id: str,
    *,
    count: int,
    augmentations: int,
    draws: int,
    tile_px: int,
    independent: bool,
    stain: float = 0.0,
) -> BankViews:
    """Draw the rows of a slide: functions of (seed, slide, augmentation), so that a larger bank begins with the same.

    Args:
        seed: Seed of the bank.
        slide_id: Id of the slide.
        count: Number of its tiles.
        augmentations: Number of augmentations, each with parameters of its own.
        draws: Tiles per augmentation, with replacement.
        tile_px: Edge of a tile.
        independent: Draw parameters for every tile.
        stain: How much the stains are jittered.
    """
    tiles, sets, strengths = [], [], replace(SHARED, stain=stain)
    for a in range(augmentations):
        tiles.append(keyed_rng(seed, "draws", slide_id, a).integers(0, count, draws, dtype=np.int32))
        rng = keyed_rng(seed, "augmentation", slide_id, a)
        sets.append(draw_augmentation(rng, draws if independent else 1, tile_px=tile_px, strengths=strengths))
    chosen = np.stack(tiles)
    joined = TileAugmentation(**{k: np.concatenate([vars(s)[k] for s in sets]) for k in vars(sets[0])})
    return BankViews(chosen, joined, independent, np.ones(chosen.shape, dtype=bool))


def draw_calibration(
    seed: int, slide_id: str, *, count: int, stains: Sequence[float], draws: int, tile_px: int
) -> BankViews:
    """Draw some tiles of a slide without replacement, each to be encoded under the same sets of parameters.

    Unlike those of a bank's augmentations, a set's parameters are a function of (seed, set): the same for all slides.

    Args:
        seed: Seed of the bank.
        slide_id: Id of the slide.
        count: Number of its tiles; where they are fewer than `draws`, the rest of the rows have tile -1.
        stains: How much each set jitters the stains, (sets,).
        draws: Tiles.
        tile_px: Edge of a tile.
    """
    chosen = np.full(draws, -1, dtype=np.int32)
    drawn = calibration_tiles(seed, slide_id, count=count, draws=draws)
    chosen[: len(drawn)] = drawn
    each = [
        draw_augmentation(keyed_rng(seed, "calibration", k), 1, tile_px=tile_px, strengths=replace(SHARED, stain=stain))
        for k, stain in enumerate(stains)
    ]
    joined = TileAugmentation(**{k: np.concatenate([vars(s)[k] for s in each]) for k in vars(each[0])})
    tiles = np.tile(chosen, (len(stains), 1))
    return BankViews(tiles, joined, independent=False, missing=tiles >= 0)


def calibration_tiles(seed: int, slide_id: str, *, count: int, draws: int) -> NDArray[np.int32]:
    """Numbers of the tiles of a slide that operators are learnt from: `draws` of `count`, ascending; all if fewer."""
    return np.sort(keyed_rng(seed, "calibration", slide_id).permutation(count)[:draws]).astype(np.int32)


def no_views(*, tile_px: int) -> BankViews:
    """No rows at all, of a slide whose tiles are only to be encoded as they are."""
    empty = np.empty((0, 0), dtype=np.int32)
    return BankViews(empty, unchanged(tile_px), independent=False, missing=empty >= 0)


class SlideFeatures:
    """Features of one slide: of the rows `views` of its bank, and with `plain` of all its tiles; made block by block.

    Attributes:
        vectors: (augmentation, draw, feature) float16 on the encoder's device, NaN where nothing is encoded yet.
        plain: (tile, feature) float16 on that device, without augmentation, or ``None``.
    """

    def __init__(self, batches: Batches, views: BankViews, *, count: int, plain: bool) -> None:
        self.batches, self.views = batches, views
        encoder = batches.encoder
        empty = torch.tensor(torch.nan, dtype=torch.float16, device=encoder.device)
        self.vectors = empty.repeat(*views.tiles.shape, encoder.features)
        self.plain = empty.repeat(count, encoder.features) if plain else None
        self._folded: Folded | None = None

    def add(self, tiles: NDArray[np.uint8], start: int) -> int:
        """Encode all that needs the tiles (m, 3, tile_px, tile_px) from number `start` on; the number of encodings."""
        images = torch.from_numpy(tiles).to(self.batches.encoder.device, non_blocking=True)
        made = 0
        if self.plain is not None:
            for rows, features in self.batches.plain(images):
                self.plain[start + rows.start : start + rows.stop] = features
            made += len(tiles)
        return made + self._add_views(images, start)

    def _add_views(self, images: Tensor, start: int) -> int:
        views = self.views
        flat = views.tiles.ravel()  # (a * d,), the tile of each row of the slide's bank
        wanted = np.flatnonzero(views.missing.ravel() & (flat >= start) & (flat < start + len(images)))
        if not len(wanted):
            return 0
        tile = flat[wanted].astype(np.int64) - start  # (w,), numbers within this block
        owner = wanted if views.independent else wanted // views.tiles.shape[1]  # the parameter set of each
        # A tile drawn twice under one set is encoded once. Keys of (set, tile) sort by set first, so that tiles that
        # share a set lie side by side and are augmented together.
        work, inverse = np.unique(owner * len(images) + tile, return_inverse=True)  # (k,), (w,)
        owner, tile = work // len(images), work % len(images)  # (k,) each
        device, width = images.device, self.vectors.shape[-1]
        encoded = torch.empty((len(work), width), dtype=torch.float16, device=device)
        size = self.batches.augmented_px
        for rows, features in self.batches.run(
            len(work), size, lambda rows, out: self._augment(images, owner, tile, rows, out)
        ):
            encoded[rows] = features
        index, order = torch.from_numpy(wanted).to(device), torch.from_numpy(inverse).to(device)
        self.vectors.view(-1, width)[index] = encoded[order]  # (w, feature)
        return len(work)

    def _augment(
        self, images: Tensor, owner: NDArray[np.int64], tile: NDArray[np.int64], rows: slice, out: Tensor
    ) -> None:
        """Fill `out` (m, 3, h, w) with tiles under their sets: a run of tiles that share one at a time."""
        chosen = images[torch.from_numpy(tile[rows]).to(images.device)]
        owner = owner[rows]
        if self.views.independent:
            augment(chosen, self._fold(self.views.sets[owner], images, out), out=out)
            return
        if self._folded is None:
            self._folded = self._fold(self.views.sets, images, out)
        ends = [*(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
        for first, last in zip([0, *ends[:-1]], ends, strict=True):
            own = int(owner[first])
            augment(chosen[first:last], self._folded.of(slice(own, own + 1)), out=out[first:last])

    def _fold(self, sets: TileAugmentation, images: Tensor, out: Tensor) -> Folded:
        return fold(sets, tile_px=images.shape[-1], out_px=out.shape[-1], device=images.device)


class Batches:
    """Feeds an encoder `size` tiles at a time; when a device lacks memory for them, half from then on, and says so."""

    def __init__(self, encoder: TileEncoder, *, tile_px: int, size: int, say: Callable[[str], None]) -> None:
        self.encoder, self.size, self._say = encoder, size, say
        self.augmented_px = encoder.input_px or output_px(tile_px)
        self.plain_px = encoder.input_px or tile_px
        self._buffers: dict[int, Tensor] = {}
        same = encoder.input_px in (None, tile_px)
        resize = fold(unchanged(tile_px), tile_px=tile_px, out_px=self.plain_px, device=encoder.device)
        self._resize = None if same else resize

    def plain(self, images: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Features (m, features) float16 of un-augmented tiles (n, 3, tile_px, tile_px) uint8, batch by batch."""

        def fill(rows: slice, out: Tensor) -> None:
            if self._resize is None:
                out.copy_(images[rows]).div_(255) if out.dtype == torch.float32 else out.copy_(images[rows] / 255)
            else:
                augment(images[rows], self._resize, out=out)

        yield from self.run(len(images), self.plain_px, fill)

    def run(self, n: int, size_px: int, fill: Callable[[slice, Tensor], None]) -> Iterator[tuple[slice, Tensor]]:
        """Encode n images that `fill` puts into a buffer, some rows at a time."""
        start = 0
        while start < n:
            rows = slice(start, min(start + self.size, n))
            try:
                features = self._encode(rows, size_px, fill)
            except torch.OutOfMemoryError:
                self._halve()
                continue
            yield rows, features
            start = rows.stop

    def _encode(self, rows: slice, size_px: int, fill: Callable[[slice, Tensor], None]) -> Tensor:
        if size_px not in self._buffers:
            shape = (self.size, 3, size_px, size_px)
            buffer = torch.zeros(shape, dtype=self.encoder.dtype, device=self.encoder.device)
            self._buffers[size_px] = buffer.contiguous(memory_format=torch.channels_last)
        buffer, m = self._buffers[size_px], rows.stop - rows.start
        fill(rows, buffer[:m])
        # What an earlier batch left in the rest of the buffer is encoded in vain: cheaper than compiling anew.
        return self.encoder(buffer if self.encoder.fixed_batch else buffer[:m])[:m].half()

    def _halve(self) -> None:
        if self.size == 1:
            raise
        self.size //= 2
        self._buffers.clear()
        if self.encoder.device.type == "cuda":
            torch.cuda.empty_cache()
        self._say(f"the device is out of memory: from here on {self.size} tiles per batch instead of {self.size * 2}")
