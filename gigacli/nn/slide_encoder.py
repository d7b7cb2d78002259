"""The slide encoder: ResNet18's `layer4` as a sparse CNN over the tiles of a view (paper, section 3.1, step 5).

Weights are a function of the `generator` alone, which is drawn from in a fixed order; the global one is not touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Generator, Tensor, nn

from gigacli.errors import InvalidInput, Mismatch
from gigacli.nn.sparse import (
    KernelMap,
    SparseMap,
    convolve,
    mean_pool,
    pointwise_map,
    sparse_map,
    strided_map,
    submanifold_map,
    window_sum,
)
from gigacli.nn.sparse_spconv import check_spconv, convolve_spconv
from gigacli.nn.views import ViewBatch

Convolve = Callable[[Tensor, Tensor, KernelMap], Tensor]

_WINDOW = 9
_NORM_FIELDS = ("weight", "bias", "running_mean", "running_var")


class SparseBlock(nn.Module):
    """A BasicBlock of ResNet on a sparse map: relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)).

    The first block of an encoder has a shortcut with weights, a 1x1 convolution and a batch norm. Where it is strided,
    it moves to new sites and the shortcut sees the mean over the nine cells of the stride window (inactive ones count
    as zero). Any other block keeps sites and width, and its shortcut is x. Batch norm is over all active sites of the
    batch.

    Args:
        width_in: Channels of the input.
        width: Channels of the output.
        stride: Stride of the first convolution, 1 or 2.
        opening: Whether the shortcut has weights.
        generator: Source of the initial weights (Kaiming normal, fan out, as in ResNet).
        convolve: Function that computes the 3x3 convolutions. The shortcut's 1x1 is always torch's.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        *,
        stride: int,
        opening: bool,
        generator: Generator,
        convolve: Convolve = convolve,
    ) -> None:
        super().__init__()
        self.stride, self._convolve = stride, convolve
        if not opening and (width_in != width or stride != 1):
            raise InvalidInput(
                f"a block with an identity shortcut cannot turn {width_in} channels into {width}, stride {stride}"
            )
        self.conv1 = _kernel(9, width_in, width, generator)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = _kernel(9, width, width, generator)
        self.bn2 = nn.BatchNorm1d(width)
        self.shortcut = _kernel(1, width_in, width, generator) if opening else None
        self.bn_shortcut = nn.BatchNorm1d(width) if opening else None

    def forward(self, features: Tensor, first: KernelMap, second: KernelMap) -> Tensor:
        """(m, width_in) at the sources of `first` -> (n, width) at its targets, which `second` keeps."""
        inner = torch.relu(self.bn1(self._convolve(features, self.conv1, first)))
        outer: Tensor = self.bn2(self._convolve(inner, self.conv2, second))
        return torch.relu(outer + self._shortcut(features, first))

    def _shortcut(self, features: Tensor, first: KernelMap) -> Tensor:
        if self.shortcut is None or self.bn_shortcut is None:
            return features
        seen = window_sum(features, first) / _WINDOW if self.stride == 2 else features
        skipped: Tensor = self.bn_shortcut(convolve(seen, self.shortcut, pointwise_map(first)))
        return skipped


class SlideEncoder(nn.Module):
    """Tiles of a view -> sparse map -> `blocks` BasicBlocks -> mean over the active sites.

    With stride 2 (the paper) an isolated tile becomes 1, 2 or 4 sites, depending on the parity of its cell. With stride
    1 every tile's cell stays one site and parity plays no part.

    A view depends neither on its batch (in eval mode) nor on where its slide was placed: cells are relative to the view
    and nothing is clipped at any border.

    Args:
        width_in: Features of a tile.
        width: Values of the slide vector.
        blocks: BasicBlocks; ResNet18's `layer4` has two, ResNet34's three.
        stride: Stride of the first block, 1 or 2.
        backend: "torch", "spconv" or "auto" for the convolutions; auto is torch, which was measured faster on a CPU.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        width_in: int,
        *,
        width: int = 512,
        blocks: int = 2,
        stride: int = 2,
        backend: str = "auto",
        generator: Generator,
    ) -> None:
        super().__init__()
        if backend not in ("auto", "torch", "spconv"):
            raise InvalidInput(f"sparse backend {backend!r}: it must be auto, torch or spconv")
        if backend == "spconv":
            check_spconv()
        if stride not in (1, 2):
            raise InvalidInput(f"stride={stride}: it must be 1 or 2")
        if min(width_in, width, blocks) < 1:
            raise InvalidInput(f"width_in={width_in}, width={width}, blocks={blocks}: each must be at least 1")
        self.width_in = width_in
        self.width = width
        self.stride = stride
        self.blocks = nn.ModuleList(
            SparseBlock(
                width if i else width_in,
                width,
                stride=1 if i else stride,
                opening=i == 0,
                generator=generator,
                convolve=convolve_spconv if backend == "spconv" else convolve,
            )
            for i in range(blocks)
        )

    def forward(self, batch: ViewBatch) -> Tensor:
        """Slide vectors (b, width) of b views of t tiles, in float32 or better.

        Raises:
            InvalidInput: The shapes of `batch` do not agree with each other or with `width_in`.
        """
        check_width(batch, self.width_in)
        b, t, _ = batch.features.shape
        owner = torch.arange(b, device=batch.cells.device).repeat_interleave(t)  # (b * t,)
        sites = sparse_map(batch.features.flatten(0, 1), batch.cells.flatten(0, 1), owner, size=b)
        opening = self._strided(sites) if self.stride == 2 else submanifold_map(sites)
        kept = submanifold_map(opening) if self.stride == 2 else opening
        features = sites.features  # (m, c)
        for i, block in enumerate(self.blocks):
            features = block(features, kept if i else opening, kept)  # (n, width)
        return mean_pool(SparseMap(features, kept.cells, kept.owner, b))

    def _strided(self, sites: SparseMap) -> KernelMap:
        return strided_map(sites)

    @torch.no_grad()
    def load_layer4(self, state_dict: Mapping[str, Tensor]) -> None:
        """Start from the `layer4` of a ResNet18 with torchvision's parameter names; other entries are ignored.

        A dense kernel (c_out, c_in, 3, 3) becomes (9, c_in, c_out), rows of the image on y. The strided block sees
        cells 2p to 2p+2 where ResNet sees 2p-1 to 2p+1: the same up to a shift of the map.

        Raises:
            Mismatch: An entry is missing, superfluous (a deeper or a bottleneck `layer4`) or of another shape; nothing
                has been loaded then.
        """
        expected = {
            name: target
            for i, block in enumerate(self.blocks)
            for name, target in _named(cast("SparseBlock", block), i).items()
        }
        found = {
            # dense kernels (c_out, c_in, kh, kw) -> (kh * kw, c_in, c_out)
            name: value.permute(2, 3, 1, 0).flatten(0, 1) if value.ndim == 4 else value
            for name, value in state_dict.items()
            if name.startswith("layer4.") and not name.endswith("num_batches_tracked")
        }
        wrong = [f"{name}: missing" for name in expected.keys() - found.keys()]
        wrong += [f"{name}: not in this encoder" for name in found.keys() - expected.keys()]
        wrong += [
            f"{name}: {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
            for name in expected.keys() & found.keys()
            if found[name].shape != expected[name].shape
        ]
        if wrong:
            raise Mismatch(
                f"layer4 does not fit a slide encoder {self.width_in} -> {self.width} with {len(self.blocks)} blocks "
                f"({len(wrong)} differences, kernels as (taps, in, out)): {'; '.join(sorted(wrong)[:3])}",
                "Use the layer4 of a ResNet18 whose layer3 gave the tile features, or start from random weights.",
            )
        for name, target in expected.items():
            target.copy_(found[name])


class Projector(nn.Sequential):
    """Linear -> ReLU -> BatchNorm1d, twice, then Linear: (b, width_in) -> (b, width). The loss sees only its output.

    Weights are uniform in +-1/sqrt(fan in), torch's default for Linear.
    """

    def __init__(self, width_in: int, *, hidden: int = 512, width: int = 256, generator: Generator) -> None:
        super().__init__(
            make_linear(width_in, hidden, generator),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            make_linear(hidden, hidden, generator),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            make_linear(hidden, width, generator),
        )


def _kernel(taps: int, width_in: int, width: int, generator: Generator) -> nn.Parameter:
    """A kernel (taps, width_in, width), Kaiming normal with the fan out of the dense kernel, taps * width."""
    std = math.sqrt(2 / (taps * width))
    return nn.Parameter(torch.empty(taps, width_in, width).normal_(0, std, generator=generator))


def check_width(batch: ViewBatch, width_in: int) -> None:
    """Refuse views whose features are not of the width that an aggregator was built for."""
    if batch.features.ndim != 3 or batch.features.shape[2] != width_in:
        raise InvalidInput(
            f"features have shape {tuple(batch.features.shape)}, expected (views, tiles, {width_in})",
            "Use tile features of the encoder that this aggregator was built for.",
        )


def make_linear(width_in: int, width: int, generator: Generator) -> nn.Linear:
    """A linear layer with weights from `generator`, uniform in +-1/sqrt(fan in)."""
    # Born on meta: the constructor would draw from the global generator.
    layer = nn.Linear(width_in, width, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(width_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def _named(block: SparseBlock, i: int) -> dict[str, Tensor]:
    """The tensors of block `i` under torchvision's names."""
    kernels = {"conv1": block.conv1, "conv2": block.conv2, "downsample.0": block.shortcut}
    norms = {"bn1": block.bn1, "bn2": block.bn2, "downsample.1": block.bn_shortcut}
    named: dict[str, Tensor] = {
        f"layer4.{i}.{name}.weight": kernel for name, kernel in kernels.items() if kernel is not None
    }
    for name, norm in norms.items():
        if norm is not None:
            named |= {f"layer4.{i}.{name}.{field}": getattr(norm, field) for field in _NORM_FIELDS}
    return named
