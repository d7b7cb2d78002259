"""Augmentation of tiles, with parameters that a whole view shares (paper, step 1).

Every step of the chain is linear for given parameters, so the chain folds into three small operators:
crop, resize, flips and blur into one matrix on the left and one on the right of a tile; brightness,
contrast, saturation, hue and grayscale into one 3x3 colour matrix and one offset per tile. Values are
clamped to [0, 1] once, at the end. Hue is a rotation in YIQ, not in HSV.
"""

from __future__ import annotations

from dataclasses import dataclass

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

LUMA = (0.299, 0.587, 0.114)
RGB_TO_YIQ = np.array([LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])


def output_px(tile_px: int) -> int:
    """Edge of an augmented tile: 224 of 256, in proportion for other sizes (paper's crop)."""
    return max(1, tile_px * 7 // 8)


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
        tiles: (n, 3, h, w) uint8.
        parameters: One set, shared by all n tiles, or n sets.
        out_px: Edge of the result.

    Returns:
        (n, 3, out_px, out_px) float32 in [0, 1], on the tiles' device.
    """
    n, _, height, width = tiles.shape
    if len(parameters) not in (1, n):
        raise ValueError(f"{len(parameters)} parameter sets for {n} tiles; expected 1 or {n}")
    device = tiles.device
    left = torch.from_numpy(_axis_matrices(parameters, 0, height, out_px)).to(device)  # (1 or n, out, h)
    right = torch.from_numpy(_axis_matrices(parameters, 1, width, out_px)).to(device)  # (1 or n, out, w)
    colour = torch.from_numpy(_colour_matrices(parameters)).to(device)  # (1 or n, 3, 3)
    x = tiles.float().div_(255)
    x = torch.matmul(x, right.transpose(1, 2).unsqueeze(1))  # (n, 3, h, out)
    x = torch.matmul(left.unsqueeze(1), x)  # (n, 3, out, out)
    x = _quarter_turns(x, parameters.quarter_turns)
    luma = torch.einsum("nchw,c->n", x, x.new_tensor(LUMA)) / out_px**2
    pull = torch.from_numpy((1 - parameters.contrast) * parameters.brightness).float().to(device)
    x = torch.matmul(colour, x.flatten(2)).view_as(x)  # contrast pulls towards the tile's own mean luma:
    return x.add_((pull * luma).view(-1, 1, 1, 1)).clamp_(0, 1)


def _quarter_turns(x: Tensor, turns: np.ndarray) -> Tensor:
    if len(turns) == 1:
        return torch.rot90(x, int(turns[0]), (2, 3))
    out = torch.empty_like(x)
    for k in range(4):
        rows = torch.from_numpy(np.flatnonzero(turns == k)).to(x.device)
        out[rows] = torch.rot90(x[rows], k, (2, 3))
    return out


def _axis_matrices(parameters: TileAugmentation, axis: int, size: int, out: int) -> np.ndarray:
    """(n, out, size) float32: crop and resize (bilinear, pixel centres), then flip, then blur, along one axis."""
    start, length = parameters.crop[:, axis, None], parameters.crop[:, axis + 2, None]
    position = (np.arange(out) + 0.5) * length / out - 0.5  # (n, out), in pixels of the crop
    position = np.clip(position, 0, length - 1)
    position = np.where(parameters.flip[:, axis, None], position[:, ::-1], position)
    lower = np.floor(position).astype(np.int64)
    upper = np.minimum(lower + 1, length - 1)
    share = position - lower
    matrix = np.zeros((len(parameters), out, size))
    n, i = np.arange(len(parameters))[:, None], np.arange(out)
    matrix[n, i, start + lower] += 1 - share
    matrix[n, i, start + upper] += share
    return np.matmul(_blur_matrices(parameters.blur_px, out), matrix).astype(np.float32)


def _blur_matrices(sigma_px: np.ndarray, out: int) -> np.ndarray:
    """(n, out, out): a Gaussian of five taps with mirrored borders; the identity where sigma is 0."""
    half = BLUR_TAPS // 2
    taps = np.arange(-half, half + 1)
    weights = np.exp(-0.5 * (taps / np.maximum(sigma_px, 1e-3)[:, None]) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)  # (n, taps)
    matrix = np.zeros((len(sigma_px), out, out))
    for k, tap in enumerate(taps):
        source = np.abs(np.arange(out) + tap)  # mirrored about the first and the last pixel
        source = np.minimum(source, 2 * (out - 1) - source) if out > half else np.clip(source, 0, out - 1)
        matrix[:, np.arange(out), source] += weights[:, k, None]
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
