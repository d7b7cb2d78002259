"""Whether an encoder makes the features that another tool has made, and what differs where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gigacli.errors import Mismatch, NotFound
from gigacli.nn.tile_features import Batches, TileEncoder
from gigacli.store.groups import Features
from gigacli.wsi.reader import SlideTiles, TileReader

ALIKE, ALIKE_ABOUT_MEAN = 0.99, 0.9
"""Mean cosine from which features count as made by the encoder (half precision and other decoders leave .999); and
about their mean, for the features of some encoders all point in nearly one direction, whatever the tile."""

Colours = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation that pixels are normalised with, per colour."""

TRIED_SLIDES, TRIED_TILES = 5, 10

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class _Attempt:
    """A way in which the features may have been made."""

    words: str
    zoom: float = 1.0  # resolution, as a multiple of that of the store's tiles
    pixels: Callable[[Tensor], Tensor] | None = None  # what is done to images in [0, 1] before the encoder


def check_reproduces(features: Features, encoder: TileEncoder, *, name: str, rows: NDArray[np.int64]) -> None:
    """Refuse an encoder that does not make imported features of some tiles of these slides, and say what would.

    Raises:
        Mismatch: The mean cosine of its features with the imported ones is below :data:`ALIKE`, or too low about their
            mean.
        NotFound: None of the slides can be read.
    """
    as_is = _compare(features, encoder, rows, _Attempt("as the store's tiles are"))
    if as_is.alike:
        return
    others = [(_compare(features, encoder, rows, attempt), attempt.words) for attempt in _attempts(encoder)]
    best, words = max(others, key=lambda other: other[0].about_mean)
    hint = (
        f"it does {words} ({best.words}): tile, or choose the encoder, accordingly"
        if best.alike
        else f"the nearest of what was tried is {words} ({best.words}); give the encoder that made them, or tile as "
        "their tool did"
    )
    raise Mismatch(
        f"encoder {name!r} does not make {features.path}: {as_is.words}, expected {ALIKE} and {ALIKE_ABOUT_MEAN}", hint
    )


@dataclass(frozen=True)
class _Likeness:
    """How alike features are."""

    cosine: float  # mean over tiles
    about_mean: float  # the same, of features less the mean of the imported ones

    @property
    def alike(self) -> bool:
        return self.cosine >= ALIKE and self.about_mean >= ALIKE_ABOUT_MEAN

    @property
    def words(self) -> str:
        return f"mean cosine {self.cosine:.3f}, about the mean {self.about_mean:.3f}"


def _attempts(encoder: TileEncoder) -> Iterator[_Attempt]:
    yield _Attempt("at half the microns per pixel", zoom=0.5)
    yield _Attempt("at twice the microns per pixel", zoom=2.0)
    yield _Attempt("with red and blue exchanged", pixels=lambda images: images.flip(1))
    own: Colours = (getattr(encoder, "mean", IMAGENET[0]), getattr(encoder, "std", IMAGENET[1]))
    for words, (mean, std) in {
        "with pixels normalised by ImageNet's mean and deviation": IMAGENET,
        "with pixels normalised by 0.5 and 0.5": ((0.5,) * 3, (0.5,) * 3),
        "with pixels from 0 to 1, not normalised": ((0.0,) * 3, (1.0,) * 3),
    }.items():
        if (mean, std) != own:
            yield _Attempt(words, pixels=partial(_renormalised, wanted=(mean, std), own=own))


def _renormalised(images: Tensor, *, wanted: Colours, own: Colours) -> Tensor:
    """Images that the encoder, normalising as it does, sees as if it normalised in the wanted way."""
    (mean, std), (own_mean, own_std) = (
        (torch.tensor(one, device=images.device).view(1, 3, 1, 1) for one in pair) for pair in (wanted, own)
    )
    return (images.float() - mean) / std * own_std + own_mean


class _Altered:
    """An encoder whose images are changed first."""

    def __init__(self, encoder: TileEncoder, pixels: Callable[[Tensor], Tensor]) -> None:
        self._encoder, self._pixels = encoder, pixels
        self.device, self.dtype, self.features = encoder.device, encoder.dtype, encoder.features
        self.input_px, self.fixed_batch = encoder.input_px, encoder.fixed_batch

    def __call__(self, images: Tensor) -> Tensor:
        return self._encoder(self._pixels(images))


def _compare(features: Features, encoder: TileEncoder, rows: NDArray[np.int64], attempt: _Attempt) -> _Likeness:
    """Compare what the encoder makes of some tiles with their features."""
    store, table = features.store, features.store.slides
    tiles, chosen = store.tiles, dict[int, NDArray[np.int64]]()
    ours, theirs = list[NDArray[np.float64]](), list[NDArray[np.float64]]()
    altered = encoder if attempt.pixels is None else _Altered(encoder, attempt.pixels)
    batches = Batches(altered, tile_px=tiles.tile_px, size=TRIED_TILES, say=lambda words: None)

    def slides() -> Iterator[SlideTiles]:
        for row in rows.tolist():
            coords = tiles.coords(row)
            chosen[row] = np.unique(np.linspace(0, len(coords) - 1, min(len(coords), TRIED_TILES)).astype(np.int64))
            # A tile of another resolution has its centre where the store's has it.
            edge_px = tiles.tile_px * tiles.mpp / table[row].mpp
            moved = coords[chosen[row]] + round(edge_px * (1 - attempt.zoom) / 2)
            yield SlideTiles(row, table[row].path, table[row].mpp, moved.astype(np.int32))

    with TileReader(tile_px=tiles.tile_px, mpp=tiles.mpp * attempt.zoom, upsample=True, workers=1) as reader:
        read = 0
        for block in reader.blocks(slides()):
            if block.error is not None:
                continue
            images = torch.from_numpy(block.tiles).to(encoder.device)
            made = torch.cat([values for _, values in batches.plain(images)]).double().cpu().numpy()
            row = block.slide.key
            ours.append(made)
            theirs.append(features.read(row)[chosen[row][block.start : block.start + len(made)]].astype(np.float64))
            read += block.last
            if read == TRIED_SLIDES:
                break
    if not ours:
        raise NotFound(
            f"none of {len(rows)} slides of {store.url} can be read, so it cannot be seen whether the encoder made "
            f"{features.path}",
            "say where they are: giga tile STORE --slide-root FOLDER",
        )
    one, other = np.concatenate(ours), np.concatenate(theirs)
    mean = other.mean(axis=0)
    return _Likeness(_cosine(one, other), _cosine(one - mean, other - mean))


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Mean cosine of rows."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())
