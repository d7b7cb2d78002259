"""The tile encoder for inference: as fast as its convolutions."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gigacli.nn.tile_encoder import BasicBlock, ResNet18


class FrozenTileEncoder:
    """The tile encoder for inference: batch norm folded into convolutions, channels last, bf16 or fp32."""

    def __init__(self, network: ResNet18, *, device: torch.device, precision: str) -> None:
        self.device = device
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        folded = deepcopy(network).eval()
        _fold_batch_norm(folded)
        self.network = folded.to(device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, 256) float32."""
        images = images.to(self.device, self.dtype, memory_format=torch.channels_last)
        return self.network.tile_features(images).float()


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
