"""The sparse convolution by spconv (extra `spconv`), on the kernel maps of `gigacli.nn.sparse`.

On a CPU spconv only infers, in float32 or better: its backward raises there, and it has no bfloat16. With more than one
thread some of its results are wrong there (rows that several threads add to), in float64 most often; so it gets one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from gigacli.errors import InvalidInput, from_clone
from gigacli.nn.sparse import KernelMap, convolution_dtype


def check_spconv() -> None:
    """Import spconv, without its warnings; refuse where it is not installed."""
    try:
        with warnings.catch_warnings():  # spconv's build tools call what Python has deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            import spconv.pytorch  # noqa: F401
    except ImportError:
        raise InvalidInput(
            "spconv is not installed",
            f"{from_clone('spconv')} (on a GPU: pip install spconv-cu126), or use `sparse_backend='torch'`",
        ) from None


def check_spconv_trains(device: torch.device) -> None:
    """Refuse a training that spconv cannot do, before anything is computed."""
    check_spconv()
    if device.type == "cpu":
        raise InvalidInput("spconv trains on CUDA only, and `device` is cpu", "Use `sparse_backend='torch'`.")


def convolve_spconv(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """The same as :func:`gigacli.nn.sparse.convolve`, by spconv: (m, c_in), (9, c_in, c_out) -> (n, c_out).

    Raises:
        InvalidInput: Gradients or half precision are asked for on a CPU.
    """
    check_spconv()
    from spconv.core import ConvAlgo
    from spconv.pytorch.functional import indice_conv

    dtype = convolution_dtype(features)
    features, weight = features.to(dtype), weight.to(dtype)
    if features.device.type == "cpu":
        trains = torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad)
        if trains or features.dtype not in (torch.float32, torch.float64):
            raise InvalidInput(
                f"spconv on a CPU neither trains nor computes in half precision (gradients {trains}, {features.dtype})",
                "Use `sparse_backend='torch'`.",
            )
    pairs, counts = _padded_pairs(kernel_map)
    kernel = weight.permute(2, 0, 1).reshape(weight.shape[2], 3, 3, weight.shape[1])  # (c_out, 3, 3, c_in)
    n = len(kernel_map.cells)
    with _one_thread(features.device):
        return cast("Tensor", indice_conv(features, kernel.contiguous(), pairs, counts, n, ConvAlgo.Native))


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Restrict torch to one thread meanwhile, if `device` is a CPU."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _padded_pairs(kernel_map: KernelMap) -> tuple[Tensor, Tensor]:
    """Sources and targets (2, 9, longest) int32, -1 beyond the end, and the number of pairs (9,) int32."""
    every = torch.arange(len(kernel_map.cells), device=kernel_map.cells.device)
    found = [torch.stack(pair or (every, every)) for pair in kernel_map.pairs]  # 9 of (2, p)
    counts = [pair.shape[1] for pair in found]
    padded = every.new_full((2, len(found), max(counts)), -1, dtype=torch.int32)
    for k, pair in enumerate(found):
        padded[:, k, : counts[k]] = pair
    return padded, padded.new_tensor(counts)
