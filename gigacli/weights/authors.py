"""Slide encoders from the authors' released checkpoints: their names and layout of weights, turned into ours."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gigacli.errors import Mismatch, NotFound
from gigacli.nn.gigassl import GigasslEncoder
from gigacli.weights.torch_file import is_whole, load_torch

WIDTH_IN = 256  # features of a tile: ``layer3`` of the authors' ResNet18

_MARK = "sparse_pooling.0."
"""Prefix of the names of the encoder's weights; checkpoints hold each tensor twice, under two wrappers."""

_NORM_FIELDS = ("weight", "bias", "running_mean", "running_var")
_NORMS = {"norm1": "bn1", "norm2": "bn2", "normd": "bn_shortcut"}
_KERNELS = {"conv1": "conv1", "conv2": "conv2", "convd": "shortcut"}


def read_gigassl(path: Path) -> GigasslEncoder:
    """Read the slide encoder of one of the authors' checkpoints, in eval mode; runs no pickled code.

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
            saved = load_torch(path)
    except Exception as error:
        reason: object = error
        if isinstance(error, pickle.UnpicklingError):
            reason = "it is damaged, or holds more than weights and settings (pickled code is not run)"
        raise Mismatch(
            f"{path} cannot be read as a checkpoint of the authors' code: {reason}",
            "models of giga are safetensors files: giga export STORE models/NAME --to model.safetensors",
        ) from error
    state = saved.get("state_dict", saved) if isinstance(saved, dict) else {}
    return gigassl_from_state(state, origin=str(path))


def gigassl_from_state(state: dict[str, Any], *, origin: str) -> GigasslEncoder:
    """Make the slide encoder of a state dict with the authors' names, whose other tensors are left out.

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
    if views := sorted(name for name, value in found.items() if value.ndim and not is_whole(value)):
        raise Mismatch(f"{origin}: {views[0]} states more values than it holds", "save copies of the tensors")
    first = found.get("0.conv1.weight")
    width_in, width = first.shape[-2:] if isinstance(first, torch.Tensor) and first.ndim == 4 else (WIDTH_IN, 512)
    encoder = GigasslEncoder(width_in, width=width, generator=torch.Generator().manual_seed(0))
    wanted, names = encoder.state_dict(), authors_names()
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


def authors_names() -> dict[str, str]:
    """Return our names of tensors by the authors'."""
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
    """Turn a kernel (taps, 1, c_in, c_out) with rows along x into one (taps, c_in, c_out) with rows along y."""
    if value.ndim != 4:
        return value
    side = 3 if len(value) == 9 else 1
    return value.reshape(side, -1, *value.shape[2:]).transpose(0, 1).flatten(0, 1).contiguous()
