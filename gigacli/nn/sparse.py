"""Sparse maps and sparse convolutions in plain torch (paper, section 3.1, steps 3 and 5).

A sparse map holds feature vectors at the few active cells ("sites") of an otherwise empty grid, for many views at
once. Every site has one int64 key, ordered like the triple (owner, y, x); neighbours are found by `searchsorted` over
the keys, and a convolution is one matrix product per kernel offset. Nothing loops over views, and no view sees a site
of another.

Parity: the strided convolution pairs cells 2p, 2p+1 and 2p+2, so its result depends on whether a cell is even or odd.
Cells must therefore come relative to their view's smallest cell on each axis (as `gigacli.nn.views.cells_of` gives
them); then a view depends neither on where its slide was placed nor on the other views of the batch.

On a CPU everything is deterministic. On CUDA the two sums over groups of rows (in `sparse_map` and `mean_pool`) use
atomics unless `torch.use_deterministic_algorithms` is on; a convolution adds to no row twice within one offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gigacli.errors import InvalidInput

_OFFSETS = tuple((dy, dx) for dy in range(3) for dx in range(3))
_KEY_LIMIT = 2**63


@dataclass(frozen=True)
class SparseMap:
    """Features at the active sites of `size` views: one row per site, sorted by (owner, y, x), no site twice.

    Made by :func:`sparse_map`, which establishes that order.
    """

    features: Tensor  # (m, c), floating point
    cells: Tensor  # (m, 2) int64, (y, x) of each site, relative to its view
    owner: Tensor  # (m,) int64, the view each site belongs to, in [0, size)
    size: int  # the number of views b. Stored, because a view may have no site


@dataclass(frozen=True)
class KernelMap:
    """Which input row feeds which output row, for every offset of a kernel."""

    cells: Tensor  # (n, 2) int64, (y, x) of the output sites, sorted like a `SparseMap`
    owner: Tensor  # (n,) int64, the view of each output site
    size: int  # the number of views b
    sources: int  # the number of input sites m
    # one entry per weight row: (source, target), both (p,) int64, neither with a number twice; None where every row
    # is its own source and target
    pairs: tuple[tuple[Tensor, Tensor] | None, ...]

    @cached_property
    def flat(self) -> tuple[Tensor, Tensor]:
        """Source and target of every pair, one offset after the other, both (p,)."""
        every = torch.arange(len(self.cells), device=self.cells.device)
        pairs = [pair or (every, every) for pair in self.pairs]
        return torch.cat([source for source, _ in pairs]), torch.cat([target for _, target in pairs])

    @cached_property
    def by_target(self) -> _Bags:
        """The pairs of each output row."""
        return _Bags.of(self.flat[1], n_out=len(self.cells))

    @cached_property
    def by_source(self) -> _Bags:
        """The pairs of each input row."""
        return _Bags.of(self.flat[0], n_out=self.sources)


@dataclass(frozen=True)
class _Bags:
    """Groups of rows: group j holds the rows `index[start[j]:start[j + 1]]`, in ascending order."""

    index: Tensor
    start: Tensor

    @classmethod
    def of(cls, group: Tensor, *, n_out: int) -> _Bags:
        """Groups of rows from the group number of each row (p,), in [0, n_out)."""
        count = torch.bincount(group, minlength=n_out)  # (n_out,)
        return cls(torch.sort(group, stable=True).indices, count.cumsum(0) - count)

    def sum(self, rows: Tensor) -> Tensor:
        """The sum of each group, (n_out, c), in a fixed order; half precision is summed in float32, rounded once."""
        return F.embedding_bag(self.index, rows, self.start, mode="sum")


@dataclass(frozen=True)
class _KeyBox:
    """A box of cells that holds all sites and their neighbours, so that one integer can stand for (owner, y, x)."""

    lowest: tuple[int, int]
    shape: tuple[int, int]
    margin: int

    @classmethod
    def around(cls, cells: Tensor, *, size: int, margin: int) -> _KeyBox:
        """The box around `cells`, `margin` empty cells wide on each side.

        Raises:
            InvalidInput: The box times `size` has more cells than an int64 can number.
        """
        (y0, x0), (y1, x1) = torch.stack([cells.amin(0), cells.amax(0)]).tolist()
        height, width = y1 - y0 + 1 + 2 * margin, x1 - x0 + 1 + 2 * margin
        if height * width * size >= _KEY_LIMIT:
            raise InvalidInput(
                f"cells span {height} x {width} in {size} views; their product must stay below 2**63",
                "Check the positions of the tiles: they should be in tile units, relative to their slide.",
            )
        return cls((y0, x0), (height, width), margin)

    def keys(self, cells: Tensor, owner: Tensor) -> Tensor:
        """int64 keys (n,), ordered like (owner, y, x)."""
        y = cells[:, 0] - self.lowest[0] + self.margin  # (n,), in [0, height)
        x = cells[:, 1] - self.lowest[1] + self.margin  # (n,), in [0, width)
        return (owner * self.shape[0] + y) * self.shape[1] + x  # row-major in a (size, height, width) array

    def sites(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The cells (n, 2) and owners (n,) that the keys stand for."""
        rows = keys.div(self.shape[1], rounding_mode="floor")
        owner = rows.div(self.shape[0], rounding_mode="floor")
        y = rows - owner * self.shape[0] - self.margin + self.lowest[0]
        x = keys - rows * self.shape[1] - self.margin + self.lowest[1]
        return torch.stack([y, x], dim=1), owner


def sparse_map(features: Tensor, cells: Tensor, owner: Tensor, *, size: int) -> SparseMap:
    """Put points on the grids of their views; points on one cell become their mean (paper, step 3).

    The order of the points does not matter (beyond the rounding of a mean).

    Args:
        features: (p, c), floating point. Means of half-precision features are taken in float32.
        cells: (p, 2) int64, (y, x); any sign.
        owner: (p,) int64, the view of each point, in [0, size).
        size: The number of views.

    Raises:
        InvalidInput: No points, shapes that do not agree, an owner outside [0, size), or cells too far apart for
            int64 keys.
    """
    _check_points(features, cells, owner, size)
    box = _KeyBox.around(cells, size=size, margin=0)
    # Keys (m,), the site of each point (p,), points per site (m,). `unique` sorts: every later search relies on it.
    keys, site_of, count = torch.unique(box.keys(cells, owner), return_inverse=True, return_counts=True)
    site_cells, site_owner = box.sites(keys)  # (m, 2), (m,)
    merged = _sum_by(features, site_of, n_out=len(keys)) / count[:, None]  # (m, c)
    return SparseMap(merged.to(features.dtype), site_cells, site_owner, size)


def submanifold_map(sites: SparseMap | KernelMap) -> KernelMap:
    """Neighbours for a 3x3 convolution that keeps the sites.

    Output o takes input o + (dy-1, dx-1) with weight row dy*3 + dx.
    """
    box = _KeyBox.around(sites.cells, size=sites.size, margin=1)
    keys = box.keys(sites.cells, sites.owner)  # (m,), ascending: both kinds of sites are sorted by (owner, y, x)
    step = keys.new_tensor([(dy - 1) * box.shape[1] + dx - 1 for dy, dx in _OFFSETS])  # (9,)
    # The margin of one cell makes the neighbour's key plain addition: it never reaches another row or view.
    wanted = keys[None, :] + step[:, None]  # (9, m)
    source = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)  # (9, m), where it is or would be
    found = keys[source] == wanted  # (9, m), whether it is there
    pairs = _split_by_offset(found, source[found], found.nonzero()[:, 1])
    # Offset 4 is the centre, where every site is its own neighbour: None saves the gather.
    return KernelMap(sites.cells, sites.owner, sites.size, len(keys), (*pairs[:4], None, *pairs[5:]))


def strided_map(sites: SparseMap, *, limits: Tensor | None = None) -> KernelMap:
    """Output sites and neighbours of a 3x3 convolution with stride 2.

    Output p takes input 2p + (dy, dx) with weight row dy*3 + dx, and exists wherever any of its nine inputs is active.
    Nothing is clipped at any border, and cell 0 feeds outputs -1 and 0, unless there are `limits`.

    Args:
        sites: The input sites.
        limits: (b, 2) int64, outputs of each view along y and x: only those from 0 to the limit, exclusive, exist.
    """
    offsets = sites.cells.new_tensor(_OFFSETS)  # (9, 2)
    doubled = sites.cells[None] - offsets[:, None]  # (9, m, 2), = 2p where even
    feeds = (doubled % 2 == 0).all(-1)  # (9, m)
    if limits is not None:
        feeds &= ((doubled >= 0) & (doubled < 2 * limits[sites.owner])).all(-1)
    source = feeds.nonzero()[:, 1]  # (pairs,), offset after offset, as the masked selections below
    targets = doubled[feeds].div(2, rounding_mode="floor")  # (pairs, 2)
    owner = sites.owner[source]  # (pairs,)
    box = _KeyBox.around(targets, size=sites.size, margin=0)
    wanted = box.keys(targets, owner)  # (pairs,), an output once for each of its inputs
    keys = torch.unique(wanted)  # (n,), ascending
    cells, out_owner = box.sites(keys)
    pairs = _split_by_offset(feeds, source, torch.searchsorted(keys, wanted))
    return KernelMap(cells, out_owner, sites.size, len(sites.cells), pairs)


def pointwise_map(sites: SparseMap | KernelMap) -> KernelMap:
    """The map of a 1x1 convolution: one weight row, every site its own source."""
    return KernelMap(sites.cells, sites.owner, sites.size, len(sites.cells), (None,))


def convolve(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Sparse convolution: for each weight row k, add features[source_k] @ weight[k] to the target rows.

    Runs in the dtype of autocast where that is on, else in that of `features`. Half-precision products are summed in
    float32 and rounded once at the end.

    Args:
        features: (m, c_in).
        weight: (k, c_in, c_out), one matrix per entry of `kernel_map.pairs`.
        kernel_map: From :func:`submanifold_map`, :func:`strided_map` or :func:`pointwise_map`.

    Returns:
        (n, c_out), one row per output site. Differentiable once in `features` and `weight`.
    """
    dtype = convolution_dtype(features)
    result = _Convolution.apply(features.to(dtype), weight.to(dtype), kernel_map)  # type: ignore[no-untyped-call]
    return cast("Tensor", result)


def convolution_dtype(features: Tensor) -> torch.dtype:
    """The dtype of autocast where that is on for the device of `features`, else their own."""
    device = features.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype


def window_sum(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """The sum of the active inputs in the window of each output site: (m, c) -> (n, c), in the dtype of `features`."""
    return cast("Tensor", _WindowSum.apply(features, kernel_map))  # type: ignore[no-untyped-call]


def mean_pool(sites: SparseMap) -> Tensor:
    """The mean over the active sites of each view: (b, c), in float32 or better. A view without sites gives zeros."""
    count = torch.bincount(sites.owner, minlength=sites.size).clamp(min=1)  # (b,)
    return _sum_by(sites.features, sites.owner, n_out=sites.size) / count[:, None]


class _Convolution(torch.autograd.Function):
    """Gather -> matrix product for each offset, then one sum over the products of each row; backward in the same way.

    The products of all offsets stand in one buffer, so that a row is summed once, in registers: adding them to the
    result offset by offset moves three times the memory and costs a third of the step.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        if kernel_map.pairs == (None,):
            return features @ weight[0]
        products = features.new_empty(len(kernel_map.flat[0]), weight.shape[2])
        for matrix, pair, out in zip(weight, kernel_map.pairs, _per_offset(products, kernel_map), strict=True):
            torch.mm(_take_rows(features, pair and pair[0]), matrix, out=out)
        return kernel_map.by_target.sum(products)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        kernel_map: KernelMap = ctx.kernel_map
        needs_features, needs_weight, _ = ctx.needs_input_grad
        grad_weight = torch.empty_like(weight) if needs_weight else None
        products = features.new_empty(len(kernel_map.flat[0]) if needs_features else 0, weight.shape[1])
        outs = _per_offset(products, kernel_map) if needs_features else [products] * len(weight)
        for row, (pair, out) in enumerate(zip(kernel_map.pairs, outs, strict=True)):
            source, target = pair or (None, None)
            grad = _take_rows(grad_out, target)
            if needs_features:
                torch.mm(grad, weight[row].T, out=out)
            if grad_weight is not None:
                torch.mm(_take_rows(features, source).T, grad, out=grad_weight[row])
        return kernel_map.by_source.sum(products) if needs_features else None, grad_weight, None


class _WindowSum(torch.autograd.Function):
    """The sum of the sources of each target; backward, of the targets of each source."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.kernel_map = kernel_map
        bags = kernel_map.by_target
        return _Bags(kernel_map.flat[0][bags.index], bags.start).sum(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None]:
        bags = ctx.kernel_map.by_source
        return _Bags(ctx.kernel_map.flat[1][bags.index], bags.start).sum(grad_out.contiguous()), None


def _per_offset(rows: Tensor, kernel_map: KernelMap) -> tuple[Tensor, ...]:
    """The part of `rows` (p, c), one row per pair, that belongs to each offset."""
    n = len(kernel_map.cells)
    return torch.split(rows, [n if pair is None else len(pair[0]) for pair in kernel_map.pairs])


def _take_rows(rows: Tensor, index: Tensor | None) -> Tensor:
    """The rows at `index`; all of them, without a copy, where it is None."""
    return rows if index is None else rows.index_select(0, index)


def _sum_by(rows: Tensor, group: Tensor, *, n_out: int) -> Tensor:
    """The sum of the rows of each group: (m, c) -> (n_out, c). Half precision would lose small ones: in float32."""
    total = rows.new_zeros(n_out, rows.shape[1], dtype=torch.promote_types(rows.dtype, torch.float32))
    return total.index_add(0, group, rows.to(total.dtype))


def _split_by_offset(feeds: Tensor, source: Tensor, target: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Cut flat (source, target) lists, ordered by offset, into one pair per row of `feeds` (9, m)."""
    counts = feeds.sum(1).tolist()
    return tuple(zip(torch.split(source, counts), torch.split(target, counts), strict=True))


def _check_points(features: Tensor, cells: Tensor, owner: Tensor, size: int) -> None:
    """Refuse points that would corrupt other views silently."""
    if features.ndim != 2 or len(features) == 0:
        raise InvalidInput(
            f"features have shape {tuple(features.shape)}, expected (points, channels) with at least one point"
        )
    if cells.shape != (len(features), 2) or owner.shape != (len(features),):
        raise InvalidInput(
            f"{len(features)} points have cells {tuple(cells.shape)} and owner {tuple(owner.shape)}",
            "Give one (y, x) cell and one owner for each point.",
        )
    if cells.dtype != torch.int64 or owner.dtype != torch.int64:
        raise InvalidInput(f"cells are {cells.dtype} and owner is {owner.dtype}, expected int64")
    first, last = torch.stack([owner.min(), owner.max()]).tolist()
    if first < 0 or last >= size:
        raise InvalidInput(f"owners run from {first} to {last}, expected numbers of {size} views, 0 to {size - 1}")
