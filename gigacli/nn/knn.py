"""kNN accuracy of tile features against labels: a score without training anything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gigacli.nn.tile_encoder import ResNet18

NEIGHBOURS = 20
TEMPERATURE = 0.07  # neighbours vote with exp(similarity / 0.07), as in Wu et al. 2018
CHUNK = 1024

TILES = 64  # tiles encoded at once


def knn_accuracy(features: Tensor, labels: Tensor, groups: Tensor) -> float:
    """Share of the tiles whose nearest neighbours in other groups vote for their label, averaged over the classes.

    Neighbours of the same group (a patient, or a slide where patients are not known) have no vote: they look alike
    for reasons that have nothing to do with the label.

    Args:
        features: (n, c).
        labels: (n,) int64 classes from 0 on; at least two of them, each in at least two groups, or there is nothing
            to be found.
        groups: (n,) int64.

    Returns:
        Balanced accuracy, 0 to 1; one over the number of classes where features tell nothing.
    """
    units = F.normalize(features.float(), dim=1)
    classes = int(labels.max()) + 1
    votes = F.one_hot(labels, classes).float()  # (n, classes)
    predicted = []
    for rows in torch.split(torch.arange(len(units), device=units.device), CHUNK):
        similar = units[rows] @ units.T  # (m, n)
        similar = similar.masked_fill(groups[rows, None] == groups[None], -torch.inf)
        nearest, index = similar.topk(min(NEIGHBOURS, len(units)), dim=1)  # (m, k)
        weight = torch.exp((nearest - nearest[:, :1]) / TEMPERATURE).nan_to_num(0)  # none where a group is alone
        predicted.append((weight[..., None] * votes[index]).sum(1).argmax(1))
    right = (torch.cat(predicted) == labels).float()
    return float(torch.stack([right[labels == k].mean() for k in torch.unique(labels)]).mean())


class KNNScore:
    """:func:`knn_accuracy` of the features that a network in training gives some tiles.

    Args:
        network: The tile encoder; it is put in eval mode for the score and back into training mode.
        read: Returns the pixels (tile_px, tile_px, 3) uint8 of a tile, by its number.
        tiles: (n,) numbers of the tiles.
        labels: (n,) their classes.
        groups: (n,) their patients.
        device: Where to compute.
        precision: ``bf16`` or ``fp32``.
    """

    def __init__(
        self,
        network: ResNet18,
        read: Callable[[int], NDArray[np.uint8]],
        tiles: NDArray[np.int64],
        labels: NDArray[np.int64],
        groups: NDArray[np.int64],
        *,
        device: torch.device,
        precision: str,
    ) -> None:
        self._network, self._read, self._tiles, self._device = network, read, tiles.tolist(), device
        self._labels, self._groups = (torch.from_numpy(v).to(device) for v in (labels, groups))
        self._bf16 = precision == "bf16"

    @torch.no_grad()
    def __call__(self) -> float:
        """The score of the network as it is now, 0 to 1."""
        self._network.eval()
        features = []
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16):
            for start in range(0, len(self._tiles), TILES):
                pixels = np.stack([self._read(tile) for tile in self._tiles[start : start + TILES]])
                images = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2) / 255
                features.append(self._network.tile_features(images).float())
        self._network.train()
        return knn_accuracy(torch.cat(features), self._labels, self._groups)
