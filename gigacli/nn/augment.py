"""Augmentation of tiles with parameters that a whole view shares (paper, step 1).

Every step of the chain is linear for given parameters, so the chain folds into three small operators:
crop, resize, flips, quarter turns and blur into one matrix on the left and one on the right of a tile;
brightness, contrast, saturation, hue and grayscale into one 3x3 colour matrix and one offset per tile. Values are
clamped to [0, 1] once, at the end. Hue is a rotation in YIQ, not in HSV. A jitter of the stains, where it is asked for,
comes between the two; it is linear in the logarithm of the light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CROP_RATIO = (3 / 4, 4 / 3)  # range of a crop's width over its height: the usual one
BLUR_TAPS = 5


@dataclass(frozen=True)
class Strengths:
    """Ranges of the augmentation's parameters; flips and quarter turns have none: a tile has no upright position."""

    crop_scale: tuple[float, float]  # least and greatest share of the tile's area that is kept
    jitter: float  # brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter
    hue: float  # greatest turn of the hue, either way; 1 is once round
    jitter_p: float  # probability that the colours are jittered
    gray_p: float  # probability that they are dropped
    blur_p: float  # probability that the tile is blurred
    blur_px: tuple[float, float]  # least and greatest sigma, in pixels of the augmented tile
    stain: float = 0.0  # each stain's concentration is multiplied by 1 - stain to 1 + stain, and -stain to stain added


SHARED = Strengths(crop_scale=(0.5, 1.0), jitter=0.4, hue=0.2, jitter_p=0.8, gray_p=0.2, blur_p=0.5, blur_px=(0.1, 1.0))
"""Strengths of the bank: those of the authors' released code (Democratizing/gigassl), with flips and right-angle
rotations as the paper lists them (section 3.1): RandomResizedCrop(scale .5-1), ColorJitter(.4, .4, .4, .2, p .8),
grayscale p .2, 5x5 blur of sigma .1-1 with p .5."""

MOCO = Strengths(crop_scale=(0.2, 1.0), jitter=0.4, hue=0.1, jitter_p=0.8, gray_p=0.2, blur_p=0.5, blur_px=(0.1, 1.0))
"""Strengths of ``giga pretrain-tiles``: those of MoCo v2 (Chen et al. 2020: crop .2-1, ColorJitter(.4, .4, .4, .1,
p .8), grayscale p .2, blur p .5), but the blur no stronger than the bank's, for a sigma of 2 px wipes out the chromatin
of nuclei at 10x."""

CHUNK = 16  # tiles augmented at once on a CPU, so that they stay in its cache
BLOCK_ROWS = 32  # rows of a matrix multiplied at once on a CPU: they look at some 45 pixels of the tile's 256
LUMA = (0.299, 0.587, 0.114)
RGB_OF_STAINS = np.array([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)])
"""Optical density for red, green and blue of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001), (stain, 3)."""
LEAST_LIGHT = 1 / 255  # a pixel that lets through less counts as one that lets through as much: it has a logarithm
RGB_TO_YIQ = np.array([LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])


def output_px(tile_px: int) -> int:
    """Edge of an augmented tile: 224 of 256, in proportion for other sizes (paper's crop)."""
    return tile_px * 7 // 8


@dataclass(frozen=True)
class TileAugmentation:
    """n parameter sets, one per view (shared) or per tile (independent). All arrays begin with axis n."""

    crop: np.ndarray  # (n, 4) top, left, height, width of the crop, in pixels of the tile
    flip: np.ndarray  # (n, 2) bool, upside down and left to right
    quarter_turns: np.ndarray  # (n,) rotation by that many times 90 degrees
    brightness: np.ndarray  # (n,) factor
    contrast: np.ndarray  # (n,) factor about the tile's mean luma
    saturation: np.ndarray  # (n,) factor about luma
    hue: np.ndarray  # (n,) rotation, in turns
    gray: np.ndarray  # (n,) bool
    blur_px: np.ndarray  # (n,) sigma of the Gaussian in output pixels, 0 for none
    stain: np.ndarray  # (n, 2, 3) factors of the concentrations of haematoxylin, eosin and DAB, and what is added

    def __len__(self) -> int:
        return len(self.gray)

    def __getitem__(self, index: slice | np.ndarray) -> TileAugmentation:
        return TileAugmentation(**{name: values[index] for name, values in vars(self).items()})


def draw_augmentation(
    rng: np.random.Generator, n: int, *, tile_px: int, strengths: Strengths = SHARED
) -> TileAugmentation:
    """Draw n parameter sets; the first m of them are those that drawing m would have given."""
    s, u = strengths, rng.random((n, 15)).T  # a row of random numbers per set
    jitter = u[0] < s.jitter_p
    return TileAugmentation(
        crop=_crop(u[1], u[2], u[3:5], tile_px, s.crop_scale),
        flip=u[5:7].T < 0.5,
        quarter_turns=(4 * u[7]).astype(np.int64),
        brightness=1 + s.jitter * (2 * u[8] - 1) * jitter,
        contrast=1 + s.jitter * (2 * u[9] - 1) * jitter,
        saturation=1 + s.jitter * (2 * u[10] - 1) * jitter,
        hue=s.hue * (2 * u[11] - 1) * jitter,
        gray=u[12] < s.gray_p,
        blur_px=(u[13] < s.blur_p) * (s.blur_px[0] + (s.blur_px[1] - s.blur_px[0]) * u[14]),
        stain=_stain(rng, n, s.stain),
    )


def _stain(rng: np.random.Generator, n: int, strength: float) -> NDArray[np.float64]:
    """(n, 2, 3) factors and amounts, from a generator of their own: all else is drawn as it is without them."""
    nothing = np.tile([[[1.0], [0.0]]], (n, 1, 3))
    return nothing + strength * (2 * rng.spawn(1)[0].random((n, 2, 3)) - 1) if strength else nothing


def _crop(
    area: np.ndarray, ratio: np.ndarray, corner: np.ndarray, tile_px: int, scale: tuple[float, float]
) -> np.ndarray:
    """(n, 4) crops of uniform area share and log-uniform ratio, clipped to the tile, from numbers between 0 and 1."""
    area = (scale[0] + (scale[1] - scale[0]) * area) * tile_px**2
    low, high = np.log(CROP_RATIO)
    ratio = np.exp(low + (high - low) * ratio)
    size = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)])  # height, width
    size = np.clip(np.rint(size), 1, tile_px)
    return np.concatenate([np.floor(corner * (tile_px - size + 1)), size]).T.astype(np.int64)


def unchanged(tile_px: int) -> TileAugmentation:
    """A parameter set that only resizes."""
    none, one = np.zeros(1), np.ones(1)
    return TileAugmentation(
        crop=np.array([[0, 0, tile_px, tile_px]]),
        flip=np.zeros((1, 2), dtype=bool),
        quarter_turns=np.zeros(1, dtype=np.int64),
        brightness=one,
        contrast=one,
        saturation=one,
        hue=none,
        gray=np.zeros(1, dtype=bool),
        blur_px=none,
        stain=np.array([[[1.0] * 3, [0.0] * 3]]),
    )


class Folded(NamedTuple):
    """The chain of n sets as float32 operators: colour @ y + pull * mean luma of y, y = left @ tile @ right.T.

    Where stains are jittered, y is exp(stain @ (log y, 1)) instead.
    """

    left: Tensor  # (n, out, tile)
    right: Tensor  # (n, out, tile)
    left_used: np.ndarray  # (n, blocks, 2): first and last + 1 column that a block of rows looks at
    right_used: np.ndarray  # (n, blocks, 2)
    transposed: Tensor  # (n,) bool: of the tile's transpose
    colour: Tensor  # (n, 3, 3)
    pull: Tensor  # (n,)
    stain: Tensor | None  # (n, 3, 4)

    def of(self, rows: slice) -> Folded:
        """The operators of the sets in these rows."""
        return Folded._make(None if values is None else values[rows] for values in self)


def fold(parameters: TileAugmentation, *, tile_px: int, out_px: int, device: torch.device) -> Folded:
    """The operators of n sets, on a device: half a megabyte a set for tiles of 256 px.

    A quarter turn is a flip and a transpose; transposing the result swaps left and right.
    """
    turns = parameters.quarter_turns
    # A turn by 90 degrees is a transpose and one flip, by 180 both flips, by 270 a transpose and the other flip. Flips
    # undo each other, hence the exclusive or with those that were drawn.
    flip = parameters.flip ^ np.stack([(turns == 2) | (turns == 3), (turns == 1) | (turns == 2)], axis=1)  # (n, 2)
    transposed = turns % 2 == 1  # (n,)
    # The tile is transposed before it is multiplied: left @ tile.T @ right.T. The left matrix then works along the
    # tile's columns, with the crop and the flip of axis 1, and the right one along its rows.
    rows_from = transposed.astype(np.int64)  # (n,), the axis of the tile that becomes the result's rows
    axes = [_Axis.of(parameters, flip, axis, out_px) for axis in (rows_from, 1 - rows_from)]
    # Contrast c about the mean luma m, then brightness b: b (c x + (1 - c) m). The factor of x is in the colour matrix.
    pull = ((1 - parameters.contrast) * parameters.brightness).astype(np.float32)  # (n,)
    # Copied into torch's own memory: products may differ in the last bit with the alignment of numpy's.
    colour, pull_ = (torch.tensor(v, device=device) for v in (_colour(parameters), pull))
    if device.type == "cpu":
        # (n, out, tile) each; one of them turns 0 ... 255 into 0 ... 1 on the way.
        left, right = axes[0].matrices(tile_px) / np.float32(255), axes[1].matrices(tile_px)
        matrices, used = (torch.tensor(left), torch.tensor(right)), (_used(left), _used(right))
    else:
        matrices = axes[0].matrices_on(device, tile_px) / 255, axes[1].matrices_on(device, tile_px)
        used = (np.zeros((len(turns), 0, 2), dtype=np.int64),) * 2  # products there are not cut into blocks
    stain = torch.tensor(_absorption(parameters), device=device) if (parameters.stain != [[1], [0]]).any() else None
    return Folded(*matrices, *used, torch.from_numpy(transposed), colour, pull_, stain)


def augment(tiles: Tensor, sets: Folded, *, out: Tensor | None = None) -> Tensor:
    """Augment tiles: all with the one parameter set there is, or tile i with set i.

    Args:
        tiles: (n, 3, tile_px, tile_px) uint8.
        sets: What :func:`fold` made of one set, shared by all n tiles, or of n sets; on the tiles' device.
        out: Where to write, (n, 3, out_px, out_px) of any floating type and memory format; `out_px` is at least 3
            (the reach of the blur).

    Returns:
        `out`, or a new float32 tensor: values in [0, 1], on the tiles' device.
    """
    n, many = len(tiles), len(sets.pull)
    if many not in (1, n):
        raise ValueError(f"{many} parameter sets for {n} tiles; expected 1 or {n}")
    if out is None:
        out = torch.empty((n, 3, sets.left.shape[1], sets.right.shape[1]), device=tiles.device)
    chunk = CHUNK if tiles.device.type == "cpu" else n
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        out[rows] = _augment_chunk(tiles[rows], sets if many == 1 else sets.of(rows))
    return out


def _augment_chunk(tiles: Tensor, sets: Folded) -> Tensor:
    # products of matrices are slow over pixels whose three values lie side by side, as a reader gives them
    x = tiles.to(torch.float32, memory_format=torch.contiguous_format)  # (n, 3, tile, tile)
    transposed = sets.transposed
    if bool(transposed.all()):
        x = x.mT
    elif bool(transposed.any()):
        x = torch.where(transposed.to(x.device).view(-1, 1, 1, 1), x.mT, x)
    x = _multiply(sets.right, sets.right_used, x.mT).mT
    x = _multiply(sets.left, sets.left_used, x)  # (n, 3, out, out)
    if sets.stain is not None:
        log = x.clamp_(min=LEAST_LIGHT).log_().flatten(2)  # (n, 3, out * out) of the light that comes through
        log = torch.matmul(sets.stain[:, :, :3], log).add_(sets.stain[:, :, 3:])
        x = log.clamp_(max=0).exp_().view_as(x)  # no stain lets through more light than there is
    luma = torch.einsum("nchw,c->n", x, x.new_tensor(LUMA)) / x[0, 0].numel()
    x = torch.matmul(sets.colour, x.flatten(2)).view_as(x)
    return x.add_((sets.pull * luma).view(-1, 1, 1, 1)).clamp_(0, 1)  # contrast pulls towards the tile's own mean luma


def _multiply(matrix: Tensor, used: np.ndarray, x: Tensor) -> Tensor:
    """Multiply (1 or n, out, size) with (n, 3, size, width), block of rows by block: most of a matrix is zeros."""
    factor, out = matrix[:, None], matrix.shape[1]  # (1 or n, 1, out, size)
    if x.device.type != "cpu":
        return torch.matmul(factor, x)
    y = x.new_empty((*x.shape[:2], out, x.shape[3]))
    for block, start in enumerate(range(0, out, BLOCK_ROWS)):
        rows, columns = slice(start, start + BLOCK_ROWS), slice(used[:, block, 0].min(), used[:, block, 1].max())
        y[:, :, rows] = torch.matmul(factor[:, :, rows, columns], x[:, :, columns])
    return y


def _used(matrix: np.ndarray) -> NDArray[np.int64]:
    """First and last + 1 column that is not zero, (n, blocks, 2), per block of rows of a matrix (n, out, size)."""
    n, out, size = matrix.shape
    padded: NDArray[np.bool_] = np.zeros((n, -(-out // BLOCK_ROWS) * BLOCK_ROWS, size), dtype=bool)
    padded[:, :out] = matrix != 0
    columns: NDArray[np.bool_] = np.logical_or.reduce(padded.reshape(n, -1, BLOCK_ROWS, size), axis=2)
    return np.stack([columns.argmax(axis=2), size - columns[:, :, ::-1].argmax(axis=2)], axis=2)


@dataclass(frozen=True)
class _Axis:
    """The operators along one axis of n tiles: crop and resize (bilinear, pixel centres), then flip, then blur.

    The blur is a Gaussian of five taps, mirrored about the first and the last pixel; a sigma of 0 leaves one tap.
    """

    start: NDArray[np.int64]  # (n, 1) first pixel of the crop
    length: NDArray[np.int64]  # (n, 1) pixels of the crop
    # (n, out) position in the crop that a pixel of the result is read from, before the blur
    position: NDArray[np.float64]
    source: NDArray[np.int64]  # (taps, out) numbers of the pixels that the taps of the blur take
    weights: NDArray[np.float64]  # (n, taps) weights of the taps

    @classmethod
    def of(cls, parameters: TileAugmentation, flip: np.ndarray, axis: np.ndarray, out: int) -> _Axis:
        """The operators along axis ``axis[i]`` of tile i."""
        n, i = np.arange(len(parameters)), np.arange(out)
        start, length = parameters.crop[n, axis, None], parameters.crop[n, axis + 2, None]  # (n, 1)
        position = np.clip((i + 0.5) * length / out - 0.5, 0, length - 1)
        position = np.where(flip[n, axis, None], position[:, ::-1], position)
        taps = np.arange(-(BLUR_TAPS // 2), BLUR_TAPS // 2 + 1)
        weights = np.exp(-0.5 * (taps / np.maximum(parameters.blur_px, 1e-3)[:, None]) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        source = np.abs(i + taps[:, None])
        return cls(start, length, position, np.minimum(source, 2 * (out - 1) - source), weights)

    def matrices(self, size: int) -> NDArray[np.float32]:
        """The operators as matrices (n, out, size) float32, filled in where they are not zero."""
        (n, out), i = self.position.shape, np.arange(self.position.shape[1])
        rows = np.arange(n)[:, None]
        lower = np.floor(self.position).astype(np.int64)
        upper = np.minimum(lower + 1, self.length - 1)
        share = self.position - lower
        matrix = np.zeros((n, out, size), dtype=np.float32)
        for source, weight in zip(self.source, self.weights.T[:, :, None], strict=True):
            matrix[rows, i, self.start + lower[:, source]] += weight * (1 - share[:, source])
            matrix[rows, i, self.start + upper[:, source]] += weight * share[:, source]
        return matrix

    def matrices_on(self, device: torch.device, size: int) -> Tensor:
        """The same matrices, computed on a GPU: zeros and all, which is faster there than to wait for the processor."""
        position = torch.tensor(self.start + self.position, dtype=torch.float32, device=device)  # (n, out)
        weights = torch.tensor(self.weights, dtype=torch.float32, device=device)
        columns = torch.arange(size, dtype=torch.float32, device=device)
        near = (1 - (position[:, :, None] - columns).abs_()).clamp_(min=0)  # (n, out, size): bilinear, no blur
        matrix = torch.zeros_like(near)
        for source, weight in zip(self.source, weights.T, strict=True):
            matrix += weight[:, None, None] * near[:, torch.from_numpy(source).to(device)]
        return matrix


def _colour(parameters: TileAugmentation) -> np.ndarray:
    """Colour matrices (n, 3, 3) float32: brightness, contrast, saturation, hue, grayscale, in this order."""
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


def _absorption(parameters: TileAugmentation) -> np.ndarray:
    """What the jitter of stains is in the logarithm of light, (n, 3, 4) float32, the last column what is added.

    Optical density D = -log10(light) is a sum of stains, D = c M with concentrations c (3,) and M of
    :data:`RGB_OF_STAINS`. Tellez et al. (2018) make of each concentration c (1 + u) + v, u and v uniform within a
    strength: so D becomes D M^-1 diag(1 + u) M + v M. Theirs is 0.05; 0.2 is what they call strong (2019). What v means
    depends on the unit of density, in which programs differ: here it is Ruifrok and Johnston's, to base 10.
    """
    factor, amount = parameters.stain[:, 0], parameters.stain[:, 1]  # (n, 3)
    length = np.linalg.norm(RGB_OF_STAINS, axis=1, keepdims=True)
    stains = RGB_OF_STAINS / length  # rows of length 1, as Ruifrok and Johnston have them
    matrix = np.linalg.inv(stains) @ (factor[:, :, None] * stains)  # (n, 3, 3), of rows
    added = -np.log(10) * amount @ stains  # (n, 3), of the natural logarithm
    return np.concatenate([matrix.transpose(0, 2, 1), added[:, :, None]], axis=2).astype(np.float32)
