"""How much of the device's matrix throughput slide encoders reach, and what others need: for `train.py`.

The peak is the best of a set of square matrix products in the same precision, measured between the encoders, so that a
busy machine slows both. Of a whole encoder, products are counted as torch does. A convolution counts the products it
has to do (pairs x channels in x channels out, and twice that again for its backward) and nothing else; gathering rows
and summing them is its loss. The dense network is the same one on grids that hold every cell of a view, inactive ones
kept at zero by masks.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from gigacli.errors import InvalidInput
from gigacli.nn.slide_encoder import SlideEncoder
from gigacli.nn.sparse import SparseMap, convolve, sparse_map, strided_map, submanifold_map
from gigacli.nn.views import ViewBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gigacli.nn.giga import GigaSSL
    from gigacli.nn.sparse import KernelMap

PEAK_SIZES = (512, 1024, 2048, 4096)
CUDA_SIZES = (8192, 16384)
DENSE_VIEWS = 8
"""Views that the dense network computes at once; its time is scaled to the others."""


def seconds(run: Callable[[], object], *, repeats: int) -> float:
    """The median of some runs after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def peak(device: torch.device, dtype: torch.dtype, *, repeats: int, largest: int) -> float:
    """Most multiplications and additions a second that a square matrix product reaches here."""
    best = 0.0
    for n in (*PEAK_SIZES, *(CUDA_SIZES if device.type == "cuda" else ())):
        if n > largest:
            break
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * n**3 / seconds(lambda a=a, b=b: a @ b, repeats=repeats))
    return best


def layers(encoder: SlideEncoder, views: ViewBatch) -> list[tuple[str, Tensor, KernelMap, Tensor]]:
    """The four 3x3 convolutions of the first two blocks: name, kernel, map, rows of random features."""
    b, t, _ = views.features.shape
    owner = torch.arange(b, device=views.cells.device).repeat_interleave(t)
    sites = sparse_map(views.features.flatten(0, 1), views.cells.flatten(0, 1), owner, size=b)
    opening = strided_map(sites) if encoder.stride == 2 else submanifold_map(sites)
    kept = submanifold_map(opening)
    found = []
    for i, block in enumerate(encoder.blocks):
        for name, kernel, at in (("conv1", block.conv1, kept if i else opening), ("conv2", block.conv2, kept)):
            rows = torch.randn(at.sources, kernel.shape[1], device=views.features.device)
            found.append((f"{i}.{name}", kernel.detach(), at, rows))
    return found


def report_achieved(encoder: SlideEncoder, views: ViewBatch, *, repeats: int, largest: int) -> None:
    """Achieved over peak, per convolution, forward alone and with its backward, in fp32 and bf16."""
    device = views.features.device
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        most = peak(device, dtype, repeats=repeats, largest=largest)
        spent, work, texts = 0.0, 0.0, []
        for layer, kernel, at, features in layers(encoder, views):
            rows = features.to(dtype).requires_grad_()
            weight = kernel.to(dtype).requires_grad_()
            grad = torch.randn(len(at.cells), weight.shape[2], device=device).to(dtype)
            flop = 2 * len(at.flat[0]) * weight.shape[1] * weight.shape[2]

            def both(
                rows: Tensor = rows, weight: Tensor = weight, at: KernelMap = at, grad: Tensor = grad
            ) -> tuple[Tensor, ...]:
                return torch.autograd.grad(convolve(rows, weight, at), (rows, weight), grad)

            with torch.no_grad():
                forward = seconds(lambda r=rows, w=weight, at=at: convolve(r, w, at), repeats=repeats)
            whole = seconds(both, repeats=repeats)
            spent, work = spent + whole, work + 3 * flop
            texts.append(f"{layer} {flop / forward / most:.2f} / {3 * flop / whole / most:.2f}")
        most = max(most, peak(device, dtype, repeats=repeats, largest=largest))
        print(
            f"  {name} convolutions: {work / spent / most:.2f} of peak ({work / spent / 1e9:,.0f} of "
            f"{most / 1e9:,.0f} GFLOP/s); forward / with backward: {', '.join(texts)}"
        )


def report_whole(name: str, method: GigaSSL, views: ViewBatch, *, repeats: int, largest: int) -> None:
    """Achieved over peak of an encoder with its projector, forward and backward, in fp32 and bf16."""
    device = views.features.device

    def both(*, half: bool) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            made = method.projector(method.vectors(views))
        made.float().square().sum().backward()

    with FlopCounterMode(display=False) as counted:
        both(half=False)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        most = peak(device, dtype, repeats=repeats, largest=largest)
        spent = seconds(lambda half=precision == "bf16": both(half=half), repeats=repeats)
        most = max(most, peak(device, dtype, repeats=repeats, largest=largest))
        rate = counted.get_total_flops() / spent
        print(
            f"  {name} {precision}, forward and backward: {rate / most:.2f} of peak "
            f"({rate / 1e9:,.0f} of {most / 1e9:,.0f} GFLOP/s), {1000 * spent:.0f} ms"
        )


def report_others(width: int, views: ViewBatch, *, repeats: int) -> None:
    """The encoder's forward in fp32: plain torch, spconv, dense; and forward with backward, torch and dense."""
    encoder = _encoder(width, "torch", views)
    with torch.inference_mode():
        expected = encoder(views)
        ours = seconds(lambda: encoder(views), repeats=repeats)
        print(f"  forward, fp32: torch {1000 * ours:.0f} ms", end="")
        try:
            other = _encoder(width, "spconv", views)
        except InvalidInput as error:
            print(f"; {error.message}", end="")
        else:
            theirs, difference = seconds(lambda: other(views), repeats=repeats), (other(views) - expected).abs().max()
            print(f", spconv {1000 * theirs:.0f} ms (differs by {difference:.0e})", end="")
        few = ViewBatch(views.features[:DENSE_VIEWS], views.cells[:DENSE_VIEWS])
        share, difference = len(views.cells) / DENSE_VIEWS, (dense(encoder, few) - encoder(few)).abs().max()
        whole = seconds(lambda: dense(encoder, few), repeats=repeats) * share
    print(f", dense {1000 * whole:,.0f} ms (scaled from {DENSE_VIEWS} views; differs by {difference:.0e})")
    times = [
        seconds(lambda run=run: run().square().sum().backward(), repeats=repeats)
        for run in (lambda: encoder(views), lambda: dense(encoder, few))
    ]
    print(f"  with backward, fp32: torch {1000 * times[0]:.0f} ms, dense {1000 * times[1] * share:,.0f} ms")


def _encoder(width: int, backend: str, views: ViewBatch) -> SlideEncoder:
    generator = torch.Generator().manual_seed(0)
    return SlideEncoder(width, backend=backend, generator=generator).to(views.features.device).eval()


def dense(encoder: SlideEncoder, views: ViewBatch) -> Tensor:
    """What the encoder, in eval mode and with stride 2, computes, by dense convolutions on masked grids: (b, width)."""
    b, t, c = views.features.shape
    edge = int(views.cells.max()) + 5  # two empty cells before the first and after the last: outputs -1 and beyond
    edge += 1 - edge % 2
    owner = torch.arange(b, device=views.cells.device).repeat_interleave(t)
    sites: SparseMap = sparse_map(views.features.flatten(0, 1), views.cells.flatten(0, 1), owner, size=b)
    at = (sites.owner, sites.cells[:, 0] + 2, sites.cells[:, 1] + 2)
    x = sites.features.new_zeros(b, edge, edge, c).index_put(at, sites.features).permute(0, 3, 1, 2)
    active = x.new_zeros(b, edge, edge).index_put(at, x.new_ones(len(sites.cells)))[:, None]
    mask = F.max_pool2d(active, 3, stride=2)
    for i, block in enumerate(encoder.blocks):
        stride, padding = (2, 0) if i == 0 else (1, 1)
        inner = F.relu(_norm(block.bn1, F.conv2d(x, _kernel(block.conv1), stride=stride, padding=padding))) * mask
        outer = _norm(block.bn2, F.conv2d(inner, _kernel(block.conv2), padding=1))
        if i == 0:
            seen = F.avg_pool2d(x, 3, stride=2)
            skipped = _norm(block.bn_shortcut, F.conv2d(seen, block.shortcut[0].T[:, :, None, None]))
        else:
            skipped = x
        x = F.relu(outer + skipped) * mask
    return x.sum((2, 3)) / mask.sum((2, 3))


def _kernel(weight: Tensor) -> Tensor:
    """(9, c_in, c_out) -> (c_out, c_in, 3, 3)."""
    return weight.reshape(3, 3, *weight.shape[1:]).permute(3, 2, 0, 1)


def _norm(norm: torch.nn.BatchNorm1d, x: Tensor) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
