"""Augmentation of tiles, with parameters that a whole view shares (paper, step 1).

Every step of the chain is linear for given parameters, so the chain folds into three small operators:
crop, resize, flips, quarter turns and blur into one matrix on the left and one on the right of a tile;
brightness, contrast, saturation, hue and grayscale into one 3x3 colour matrix and one offset per tile. Values are
clamped to [0, 1] once, at the end. Hue is a rotation in YIQ, not in HSV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Strengths of the authors' released code (Democratizing/gigassl): RandomResizedCrop(scale .5-1),
# ColorJitter(.4, .4, .4, .2, p .8), grayscale p .2, 5x5 blur of sigma .1-1 with p .5; flips and right-angle
# rotations as the paper lists them (section 3.1). The crop's ratio is the usual 3/4-4/3.
CROP_SCALE = (0.5, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
JITTER = 0.4
HUE = 0.2
JITTER_P = 0.8
GRAY_P = 0.2
BLUR_P = 0.5
BLUR_SIGMA_PX = (0.1, 1.0)
BLUR_TAPS = 5

CHUNK = 16
"""Tiles worked on at once on a CPU, so that they stay in its cache."""

BLOCK_ROWS = 32
"""Rows of a matrix multiplied at once on a CPU: they look at some 45 pixels of the tile's 256."""

LUMA = (0.299, 0.587, 0.114)
RGB_TO_YIQ = np.array([LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])


def output_px(tile_px: int) -> int:
    """Edge of an augmented tile: 224 of 256, in proportion for other sizes (paper's crop)."""
    return tile_px * 7 // 8


@dataclass(frozen=True)
class TileAugmentation:
    """n parameter sets, one per view (shared) or per tile (independent). All arrays begin with axis n.

    Attributes:
        crop: (n, 4) top, left, height, width of the crop, in pixels of the tile.
        flip: (n, 2) bool, upside down and left to right.
        quarter_turns: (n,) rotation by that many times 90 degrees.
        brightness: (n,) factor.
        contrast: (n,) factor about the tile's mean luma.
        saturation: (n,) factor about luma.
        hue: (n,) rotation, in turns.
        gray: (n,) bool.
        blur_px: (n,) sigma of the Gaussian in output pixels, 0 for none.
    """

    crop: np.ndarray
    flip: np.ndarray
    quarter_turns: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray
    gray: np.ndarray
    blur_px: np.ndarray

    def __len__(self) -> int:
        return len(self.gray)

    def __getitem__(self, index: slice | np.ndarray) -> TileAugmentation:
        return TileAugmentation(**{name: values[index] for name, values in vars(self).items()})


def draw_augmentation(rng: np.random.Generator, n: int, *, tile_px: int) -> TileAugmentation:
    """Draw n parameter sets."""
    jitter = rng.random(n) < JITTER_P
    factors = 1 + JITTER * rng.uniform(-1, 1, (3, n)) * jitter
    return TileAugmentation(
        crop=_draw_crop(rng, n, tile_px),
        flip=rng.random((n, 2)) < 0.5,
        quarter_turns=rng.integers(0, 4, n),
        brightness=factors[0],
        contrast=factors[1],
        saturation=factors[2],
        hue=HUE * rng.uniform(-1, 1, n) * jitter,
        gray=rng.random(n) < GRAY_P,
        blur_px=rng.uniform(*BLUR_SIGMA_PX, n) * (rng.random(n) < BLUR_P),
    )


def _draw_crop(rng: np.random.Generator, n: int, tile_px: int) -> np.ndarray:
    """(n, 4) crops of uniform area share and log-uniform ratio, clipped to the tile."""
    area = rng.uniform(*CROP_SCALE, n) * tile_px**2
    ratio = np.exp(rng.uniform(np.log(CROP_RATIO[0]), np.log(CROP_RATIO[1]), n))
    size = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=1)  # height, width
    size = np.clip(np.rint(size), 1, tile_px)
    corner = np.floor(rng.random((n, 2)) * (tile_px - size + 1))
    return np.concatenate([corner, size], axis=1).astype(np.int64)


def augment(tiles: Tensor, parameters: TileAugmentation, *, out_px: int) -> Tensor:
    """Augment tiles: all with the one parameter set there is, or tile i with set i.

    Args:
        tiles: (n, 3, tile_px, tile_px) uint8.
        parameters: One set, shared by all n tiles, or n sets.
        out_px: Edge of the result, at least 3 (the reach of the blur).

    Returns:
        (n, 3, out_px, out_px) float32 in [0, 1], on the tiles' device.
    """
    n, _, _, tile_px = tiles.shape
    if len(parameters) not in (1, n):
        raise ValueError(f"{len(parameters)} parameter sets for {n} tiles; expected 1 or {n}")
    matrices = _matrices(parameters, tile_px, out_px)
    out = torch.empty((n, 3, out_px, out_px), device=tiles.device)
    chunk = CHUNK if tiles.device.type == "cpu" else n
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        own = matrices if len(parameters) == 1 else _Matrices(*(values[rows] for values in matrices))
        out[rows] = _augment_chunk(tiles[rows], own)
    return out


class _Matrices(NamedTuple):
    """The chain of n sets as float32 operators: colour @ (left @ tile @ right.T) + pull * mean luma of the tile."""

    left: np.ndarray  # (n, out, tile)
    right: np.ndarray  # (n, out, tile)
    transposed: np.ndarray  # (n,) bool: of the tile's transpose
    colour: np.ndarray  # (n, 3, 3)
    pull: np.ndarray  # (n,)


def _matrices(parameters: TileAugmentation, tile_px: int, out_px: int) -> _Matrices:
    """A quarter turn is a flip and a transpose; transposing the result swaps left and right."""
    turns = parameters.quarter_turns
    flip = parameters.flip ^ np.stack([(turns == 2) | (turns == 3), (turns == 1) | (turns == 2)], axis=1)
    transposed = turns % 2 == 1
    rows_from = transposed.astype(np.int64)  # the axis of the tile that becomes the result's rows
    return _Matrices(
        left=_axis_matrices(parameters, flip, rows_from, tile_px, out_px) / np.float32(255),
        right=_axis_matrices(parameters, flip, 1 - rows_from, tile_px, out_px),
        transposed=transposed,
        colour=_colour_matrices(parameters),
        pull=((1 - parameters.contrast) * parameters.brightness).astype(np.float32),
    )


def _augment_chunk(tiles: Tensor, matrices: _Matrices) -> Tensor:
    x = tiles.float()  # (n, 3, tile, tile)
    if matrices.transposed.all():
        x = x.mT
    elif matrices.transposed.any():
        x = torch.where(torch.from_numpy(matrices.transposed).to(x.device)[:, None, None, None], x.mT, x)
    x = _multiply(matrices.left, _multiply(matrices.right, x.mT).mT)  # (n, 3, out, out)
    luma = torch.einsum("nchw,c->n", x, x.new_tensor(LUMA)) / x[0, 0].numel()
    colour = torch.tensor(matrices.colour, device=x.device)
    pull = torch.tensor(matrices.pull, device=x.device)
    x = torch.matmul(colour, x.flatten(2)).view_as(x)
    return x.add_((pull * luma).view(-1, 1, 1, 1)).clamp_(0, 1)  # contrast pulls towards the tile's own mean luma


def _multiply(matrix: np.ndarray, x: Tensor) -> Tensor:
    """Multiply (1 or n, out, size) with (n, 3, size, width), block of rows by block: most of a matrix is zeros."""
    # copied into torch's own memory: products may differ in the last bit with the alignment of what numpy gives
    factor = torch.tensor(matrix, device=x.device)[:, None]  # (1 or n, 1, out, size)
    out = matrix.shape[1]
    y = x.new_empty((*x.shape[:2], out, x.shape[3]))
    block = BLOCK_ROWS if x.device.type == "cpu" else out
    for start in range(0, out, block):
        rows = slice(start, start + block)
        used = np.flatnonzero(matrix[:, rows].any(axis=(0, 1)))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        y[:, :, rows] = torch.matmul(factor[:, :, rows, columns], x[:, :, columns])
    return y


def _axis_matrices(parameters: TileAugmentation, flip: np.ndarray, axis: np.ndarray, size: int, out: int) -> np.ndarray:
    """(n, out, size) float32: crop and resize (bilinear, pixel centres), then flip, then blur, along an axis of each.

    The blur is a Gaussian of five taps, mirrored about the first and the last pixel; a sigma of 0 leaves one tap.
    """
    n, i = np.arange(len(parameters)), np.arange(out)
    start, length = parameters.crop[n, axis, None], parameters.crop[n, axis + 2, None]  # (n, 1)
    position = np.clip((i + 0.5) * length / out - 0.5, 0, length - 1)  # (n, out), in pixels of the crop
    position = np.where(flip[n, axis, None], position[:, ::-1], position)
    lower = np.floor(position).astype(np.int64)
    upper = np.minimum(lower + 1, length - 1)
    share = position - lower
    taps = np.arange(-(BLUR_TAPS // 2), BLUR_TAPS // 2 + 1)
    weights = np.exp(-0.5 * (taps / np.maximum(parameters.blur_px, 1e-3)[:, None]) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)  # (n, taps)
    matrix = np.zeros((len(parameters), out, size), dtype=np.float32)
    for tap, weight in zip(taps, weights.T[:, :, None], strict=True):
        source = np.abs(i + tap)
        source = np.minimum(source, 2 * (out - 1) - source)
        matrix[n[:, None], i, start + lower[:, source]] += weight * (1 - share[:, source])
        matrix[n[:, None], i, start + upper[:, source]] += weight * share[:, source]
    return matrix


def _colour_matrices(parameters: TileAugmentation) -> np.ndarray:
    """(n, 3, 3) float32: brightness, contrast, saturation, hue, grayscale, in this order."""
    identity, gray = np.eye(3), np.tile(LUMA, (3, 1))
    saturation = parameters.saturation[:, None, None]
    matrix = saturation * identity + (1 - saturation) * gray
    angle = 2 * np.pi * parameters.hue
    turn = np.tile(identity, (len(parameters), 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    matrix = np.linalg.inv(RGB_TO_YIQ) @ turn @ RGB_TO_YIQ @ matrix
    matrix = np.where(parameters.gray[:, None, None], gray @ matrix, matrix)
    return (matrix * (parameters.brightness * parameters.contrast)[:, None, None]).astype(np.float32)
