"""A network that was trained elsewhere as a tile encoder: normalises images and asks it for one vector each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gigacli.errors import InvalidInput, Mismatch


class VisionEncoder:
    """A frozen network for inference: its weights, its size and its normalisation; channels last, bf16 or fp32.

    It is a :class:`~gigacli.nn.tile_features.TileEncoder`; images are normalised in float32.

    Args:
        name: What it is called in messages.
        network: In its state for inference.
        device: Where it computes.
        precision: ``bf16`` (weights and activations) or ``fp32``.
        input_px: Edge of the images that are given.
        crop_px: Edge of the middle of them that the network sees.
        mean: Mean that its images are normalised with, per colour.
        std: Standard deviation, per colour.
        pool: Makes of what the network returns one vector per image.

    Attributes:
        weights_sha256: :func:`state_hash` of its weights, whatever the precision.
        features: Values per tile, found by asking: what a library says of a network's width is not always its output's.

    Raises:
        Mismatch: It does not turn an image into one vector.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        *,
        device: torch.device,
        precision: str,
        input_px: int,
        crop_px: int,
        mean: Sequence[float],
        std: Sequence[float],
        pool: Callable[[Any], Any],
    ) -> None:
        self.name, self.device = name, device
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.fixed_batch = False
        self.weights_sha256 = state_hash(network.state_dict())
        self.input_px: int | None = input_px
        edge = (input_px - crop_px) // 2
        self._middle = slice(edge, edge + crop_px)
        self.mean, self.std = tuple(mean), tuple(std)
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        self._pool = pool
        self.network = network.to(device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.features: int = self._width(input_px)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, input_px, input_px) in [0, 1] -> (n, features) float32."""
        if images.shape[2:] != (self.input_px, self.input_px):
            raise InvalidInput(f"images of {tuple(images.shape[2:])} px; {self.name} takes {self.input_px} px")
        return self._encoded(images).float()

    def _encoded(self, images: Tensor) -> Any:
        seen = images[:, :, self._middle, self._middle].to(self.device, torch.float32)
        normal = (seen - self._mean) / self._std
        return self._pool(self.network(normal.to(self.dtype, memory_format=torch.channels_last)))

    @torch.inference_mode()
    def _width(self, px: int) -> int:
        given = self._encoded(torch.zeros(2, 3, px, px, device=self.device))
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        if not isinstance(given, Tensor) or given.ndim != 2:
            raise Mismatch(
                f"{self.name} turns 2 images into {shape}; expected one vector for each, (2, features)",
                "choose a model that pools its output",
            )
        return given.shape[1]


def state_hash(state: Mapping[str, Tensor]) -> str:
    """The identity of weights that are no file: SHA-256 over names, dtypes, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
