"""The tile encoder for inference: as fast as its convolutions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gigacli.nn.tile_encoder import FEATURES, BasicBlock, ResNet18


class FrozenTileEncoder:
    """ResNet18 up to ``layer3``: batch norm folded into convolutions, channels last, bf16 or fp32, compiled or not.

    It is a :class:`~gigacli.nn.tile_features.TileEncoder`; images of its dtype, channels last, are used as they are.

    Args:
        network: The weights; left as it is.
        device: Where to compute.
        precision: "bf16" or "fp32", of weights and activations; sums inside a convolution are float32 either way.
        compiled: Compile for the first batch's shape, and again for every other one: give it batches of one size.
    """

    def __init__(self, network: ResNet18, *, device: torch.device, precision: str, compiled: bool = False) -> None:
        self.device = device
        self.features = FEATURES
        self.input_px: int | None = None
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.fixed_batch = compiled
        folded = deepcopy(network).eval().requires_grad_(False)  # noqa: FBT003
        _fold_batch_norm(folded)
        self.network = folded.to(device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        forward = self.network.tile_features
        self._forward = compile_forward(forward, device) if compiled else forward

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, 256) float32."""
        images = images.to(self.device, self.dtype, memory_format=torch.channels_last)
        return self._forward(images).float()


def compile_forward(forward: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function compiled for frozen weights and one shape at a time.

    Freezing packs the weights for the device's convolutions once, instead of in every call.
    """
    if device.type == "cpu":
        return torch.compile(forward, dynamic=False, options={"freezing": True})
    return torch.compile(forward, dynamic=False)


def can_compile(device: torch.device) -> bool:
    """Whether what compiling needs is here: a C++ compiler, or Triton on a GPU."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    return find_spec("triton") is not None


def _fold_batch_norm(network: ResNet18) -> None:
    """Fold every batch norm into the convolution before it: one pass over memory less per layer."""
    network.conv1 = fuse_conv_bn_eval(network.conv1, network.bn1)
    network.bn1 = nn.Identity()
    for block in (m for m in network.modules() if isinstance(m, BasicBlock)):
        block.conv1 = fuse_conv_bn_eval(block.conv1, block.bn1)
        block.conv2 = fuse_conv_bn_eval(block.conv2, block.bn2)
        block.bn1 = block.bn2 = nn.Identity()
        if block.downsample is not None:
            block.downsample = nn.Sequential(fuse_conv_bn_eval(block.downsample[0], block.downsample[1]))
