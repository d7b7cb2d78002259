"""The tile encoder e1: ResNet18 up to and including ``layer3``, averaged over pixels (paper, section 3.1).

ResNet18 is written out here, with torchvision's parameter names, because torchvision cannot be a
dependency (its builds are tied to one torch build each). :mod:`gigacli.weights.resnet18` reads published checkpoints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

FEATURES = 256  # values per tile: channels of ``layer3``
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, width_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1: Any = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2: Any = nn.BatchNorm2d(width)
        self.downsample: Any = None
        if stride != 1 or width_in != width:
            convolution = nn.Conv2d(width_in, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, width_in, h, w) -> (n, width, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet18(nn.Module):
    """ResNet18 without its classifier, on images with values in [0, 1].

    The images are normalised with ImageNet's mean and standard deviation inside, so that every caller
    does the same. ``layer4`` is None where the weights stop at ``layer3``: all that :meth:`tile_features` needs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1: Any = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, stride=1), BasicBlock(64, 64, stride=1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, stride=2), BasicBlock(128, 128, stride=1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, stride=2), BasicBlock(256, 256, stride=1))
        self.layer4: Any = nn.Sequential(BasicBlock(256, 512, stride=2), BasicBlock(512, 512, stride=1))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def tile_features(self, images: Tensor) -> Tensor:
        """The tile encoder: (n, 3, h, w) in [0, 1] -> (n, 256), the mean of ``layer3`` over pixels."""
        x = (images - self.mean) / self.std
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))  # (n, 64, h / 4, w / 4)
        x = self.layer3(self.layer2(self.layer1(x)))  # (n, 256, h / 16, w / 16)
        return x.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """The whole network: (n, 3, h, w) in [0, 1] -> (n, 512), the mean of ``layer4`` over pixels."""
        x = (images - self.mean) / self.std
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (n, 512, h / 32, w / 32)
        return x.mean(dim=(2, 3))


def random_resnet18(seed: int) -> ResNet18:
    """A ResNet18 whose weights are a function of the seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet18()


def weights_to_bytes(network: nn.Module, *, beside: Mapping[str, NDArray[Any]] | None = None) -> bytes:
    """The parameters and buffers as a safetensors file, arrays beside them under names of their own."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    return save_safetensors(state | {k: torch.from_numpy(v).contiguous() for k, v in (beside or {}).items()})


def weights_hash(data: bytes) -> str:
    """The identity of weights in a recipe: SHA-256 of the safetensors file."""
    return hashlib.sha256(data).hexdigest()
