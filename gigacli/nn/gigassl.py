"""The slide encoder of the authors' released checkpoints: variant ``gigassl``, for their weights only.

The layers are those of :class:`~gigacli.nn.slide_encoder.SlideEncoder`. Two things differ from variant ``giga``, and
both make a view depend on more than where its tiles lie to each other, which is why ours does neither:

* cells come from a division in float32 before the smallest is subtracted (:func:`gigassl_cells`), so one tile in nine
  of a regular grid may land one cell off;
* the strided convolution has a far border, whose place depends on the extent of the view (:func:`output_limits`): a
  cell on it feeds one output less.

The rules were established by running the authors' code; none of it is used here.
"""

from __future__ import annotations

import argparse
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gigacli.errors import Mismatch, NotFound
from gigacli.nn.slide_encoder import SlideEncoder
from gigacli.nn.sparse import strided_map

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from gigacli.nn.sparse import KernelMap, SparseMap

WIDTH_IN = 256
"""Features of a tile: ``layer3`` of the authors' ResNet18."""

DOWNMAP = 224
"""What coordinates are divided by."""

LEVEL0_PER_PX = 4
"""The authors' tiles are of level 1 of slides scanned at 40x, with coordinates of level 0: four of their units to a
pixel of the tile's resolution."""

_MARK = "sparse_pooling.0."
"""What stands before the names of the encoder's weights; checkpoints hold each tensor twice, under two wrappers."""

_SMALLEST = 7
"""A map has at least so many cells a side."""

_NORM_FIELDS = ("weight", "bias", "running_mean", "running_var")
_NORMS = {"norm1": "bn1", "norm2": "bn2", "normd": "bn_shortcut"}
_KERNELS = {"conv1": "conv1", "conv2": "conv2", "convd": "shortcut"}


class GigasslEncoder(SlideEncoder):
    """The slide encoder with the far border of the authors' maps, placed view by view, as in their inference."""

    def _strided(self, sites: SparseMap) -> KernelMap:
        return strided_map(sites, limits=output_limits(sites))


def output_limits(sites: SparseMap) -> Tensor:
    """Outputs of the strided convolution along y and x of each view, (b, 2) int64.

    A map whose largest cell is m has the smallest size S >= max(m + 1, 7) with S % 4 == 3 (7, 11, 15, ...), and
    (S - 1) / 2 outputs.
    """
    largest = sites.cells.new_zeros(sites.size, 2)
    largest.scatter_reduce_(0, sites.owner[:, None].expand(-1, 2), sites.cells, reduce="amax")
    size = (largest + 1).clamp(min=_SMALLEST)
    return (size + (3 - size) % 4 - 1) // 2


def gigassl_cells(positions: NDArray[Any]) -> NDArray[np.int64]:
    """The cells of views: divide by 224, subtract the view's smallest, cut off, all in float32 and in this order.

    Args:
        positions: (b, t, 2), (x, y) in the authors' units, four to a pixel of the tile's resolution.

    Returns:
        (b, t, 2) int64, **(y, x)**, as :func:`gigacli.nn.views.cells_of` gives them.
    """
    cells = positions.astype(np.float32) / np.float32(DOWNMAP)
    cells -= cells.min(axis=1, keepdims=True)
    return np.ascontiguousarray(cells.astype(np.int64)[..., ::-1])


def read_gigassl(path: Path) -> GigasslEncoder:
    """The slide encoder of one of the authors' checkpoints, in eval mode. No pickled code is run.

    Raises:
        NotFound: There is no such file.
        Mismatch: It is no such checkpoint.
    """
    if not path.is_file():
        raise NotFound(f"there is no model file {path}")
    # Their checkpoints hold the settings of the training beside the weights, in two classes named Namespace. Both are
    # plain holders of attributes; an empty one stands in for the second, which belongs to a module of theirs.
    holder = type("Namespace", (), {})
    try:
        with torch.serialization.safe_globals([argparse.Namespace, (holder, "arguments.Namespace")]):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        pickled = isinstance(error, pickle.UnpicklingError)
        reason = (
            "it is damaged, or holds more than weights and settings (pickled code is not run)" if pickled else error
        )
        raise Mismatch(
            f"{path} cannot be read as a checkpoint of the authors' code: {reason}",
            "models of giga are safetensors files: giga export STORE models/NAME --to model.safetensors",
        ) from error
    state = saved.get("state_dict", saved) if isinstance(saved, dict) else {}
    return gigassl_from_state(state, origin=str(path))


def gigassl_from_state(state: dict[str, Any], *, origin: str) -> GigasslEncoder:
    """The slide encoder in a state dict with the authors' names.

    Args:
        state: Tensors by name; what is no part of the slide encoder is left out.
        origin: Where they come from, for messages.

    Raises:
        Mismatch: Names or shapes are not those of such an encoder, or values are not finite.
    """
    named = [(str(name).partition(_MARK)[2], value) for name, value in state.items() if _MARK in str(name)]
    found = {name: value for name, value in named if isinstance(value, torch.Tensor)}
    if not found:
        some = ", ".join(sorted(map(str, state))[:3]) or "nothing"
        raise Mismatch(
            f"{origin} holds no weights named ...{_MARK}..., but {some}",
            "give a checkpoint of the authors' code, or a safetensors file of giga export",
        )
    first = found.get("0.conv1.weight")
    width_in, width = first.shape[-2:] if isinstance(first, torch.Tensor) and first.ndim == 4 else (WIDTH_IN, 512)
    encoder = GigasslEncoder(width_in, width=width, generator=torch.Generator().manual_seed(0))
    wanted, names = encoder.state_dict(), _names()
    weights = {theirs: _ours(found[theirs]) for theirs in names if theirs in found}
    problems = [f"{name} is missing" for name in names if name not in weights]
    problems += [f"{name} is not expected" for name in found if name not in names and not name.endswith("_tracked")]
    shapes = {name: (tuple(value.shape), tuple(wanted[names[name]].shape)) for name, value in weights.items()}
    problems += [f"{name} is {has}, expected {needs}" for name, (has, needs) in shapes.items() if has != needs]
    problems += [f"{name} is not finite" for name, value in weights.items() if not torch.isfinite(value).all()]
    differing = {name for name, value in named if name in found and not _same(value, found[name])}
    problems += [f"{name} is there twice, with other values" for name in sorted(differing)]
    if problems:
        raise Mismatch(
            f"{origin} is no slide encoder of the authors' code: {'; '.join(problems[:3])} ({len(problems)} in all)",
            "expected the two blocks of a ResNet18's layer4 as sparse convolutions",
        )
    encoder.load_state_dict({**wanted, **{names[name]: value for name, value in weights.items()}})
    return encoder.eval()


def _names() -> dict[str, str]:
    """The authors' name of a tensor -> ours."""
    names = {}
    for block in (0, 1):
        for theirs, ours in _KERNELS.items():
            names[f"{block}.{theirs}.weight"] = f"blocks.{block}.{ours}"
        for theirs, ours in _NORMS.items():
            names |= {f"{block}.{theirs}.{field}": f"blocks.{block}.{ours}.{field}" for field in _NORM_FIELDS}
    return {theirs: ours for theirs, ours in names.items() if not theirs.startswith(("1.convd", "1.normd"))}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _ours(value: Tensor) -> Tensor:
    """A kernel (taps, 1, c_in, c_out) with its rows along x -> (taps, c_in, c_out) with its rows along y."""
    if value.ndim != 4:
        return value
    side = 3 if len(value) == 9 else 1
    return value.reshape(side, -1, *value.shape[2:]).transpose(0, 1).flatten(0, 1).contiguous()
