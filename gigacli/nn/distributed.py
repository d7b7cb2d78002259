"""One training over several processes (``torchrun``) that takes the steps of one process with the whole batch.

Every process computes the loss of the whole batch from gathered projections, so the sum of the processes' losses is K
times the loss. The collectives here are differentiated as functions of what all processes put in, and the gradients of
the weights are averaged: that is the gradient of the loss, to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from gigacli.errors import InvalidInput

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0  # number of this process, from 0. Process 0 writes
    count: int = 1  # number of processes

    @property
    def part(self) -> tuple[int, int]:
        """(rank, count)."""
        return self.rank, self.count

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (n_r, ...) of all processes, in their order; differentiable."""
        if self.count == 1:
            return rows
        counts = rows.new_zeros(self.count, dtype=torch.int64)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts)
        return cast("Tensor", _Gather.apply(rows, counts.tolist(), self.rank))  # type: ignore[no-untyped-call]

    def gather_views(self, rows: Tensor) -> Tensor:
        """The rows (2n_r, ...) of all processes, n_r first and n_r second views each: all first views, then all second.

        Differentiable.
        """
        if self.count == 1:
            return rows
        return torch.cat([self.gather(half) for half in rows.chunk(2)])

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every parameter the mean of its gradients over the processes."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def share(self, value: T) -> T:
        """The value that process 0 gives, in every process."""
        if self.count == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return cast("T", box[0])

    def once(self, make: Callable[[], T]) -> T:
        """Call a function in process 0 alone, which is the one that writes; all processes get what it returns."""
        return self.share(make() if self.first else cast("T", None))

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes()


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that ``torchrun`` started, which end together, and this one's device; alone where it did not.

    ``cuda`` becomes the device of this process.

    Raises:
        InvalidInput: There are fewer CUDA devices than processes on this machine, or one device is named for all.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = _own_device(device)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        processes = Processes(dist.get_rank(), dist.get_world_size())
        yield processes, device
        processes.wait()
    finally:
        dist.destroy_process_group()


def _own_device(device: torch.device) -> torch.device:
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device != torch.device("cuda"):
        raise InvalidInput(f"`device` is {device}, but torchrun started several processes", "use `device='cuda'`")
    if local >= there:
        raise InvalidInput(
            f"torchrun started more processes than there are CUDA devices ({there})",
            f"use torchrun --nproc-per-node {there}",
        )
    return torch.device("cuda", local)


def synchronise(module: nn.Module, processes: Processes) -> nn.Module:
    """Let every batch norm of a module see the rows of all processes; its parameters and names stay. In place."""
    if processes.count > 1:
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.BatchNorm1d:
                    setattr(parent, name, SyncBatchNorm1d(child))
                elif type(child) is nn.BatchNorm2d:
                    on_gpu, of_torch = child.weight.device.type == "cuda", cast("Any", nn.SyncBatchNorm)
                    setattr(parent, name, of_torch.convert_sync_batchnorm(child) if on_gpu else SyncBatchNorm2d(child))
    return module


class SyncBatchNorm1d(nn.BatchNorm1d):
    """Batch norm of (rows, c) over the rows of all processes, on any device; torch's own wants CUDA.

    It shares parameters and buffers with the one that it replaces. Variance is the mean square about the mean, in a
    second sum: E[x^2] - E[x]^2 loses digits.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, c) -> (n, c), in the dtype of `rows`; statistics in float32 or better."""
        if not self.training:
            return super().forward(rows)
        x = rows.to(torch.promote_types(rows.dtype, torch.float32))
        sums = _sum_over_processes(torch.cat([x.sum(0), x.new_full((1,), len(x))]))  # (c + 1,)
        n = sums[-1].detach()
        mean = sums[:-1] / n
        variance = _sum_over_processes((x - mean).square().sum(0)) / n
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)  # type: ignore[union-attr,arg-type]
            unbiased = (variance * n / (n - 1)).to(self.running_var.dtype)  # type: ignore[union-attr]
            self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr,arg-type]
        scaled = (x - mean) * torch.rsqrt(variance + self.eps)
        return (scaled * self.weight + self.bias).to(rows.dtype)


class SyncBatchNorm2d(SyncBatchNorm1d):
    """Batch norm of images (n, c, h, w) over the pixels of all processes: on a CPU, where torch has none."""

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        pixels = images.movedim(1, -1)  # (n, h, w, c), a view of the memory where channels are last
        return super().forward(pixels.flatten(0, 2)).view(pixels.shape).movedim(-1, 1)


def _sum_over_processes(x: Tensor) -> Tensor:
    return cast("Tensor", _Sum.apply(x))  # type: ignore[no-untyped-call]


class _Sum(torch.autograd.Function):
    """Sum over processes. Every process's input moves the result of all, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    """Rows of all processes, gathered as a sum of padded rows: that takes counts that differ, on every backend."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], rank: int) -> Tensor:
        start = sum(counts[:rank])
        ctx.mine = slice(start, start + counts[rank])
        gathered = rows.new_zeros(sum(counts), *rows.shape[1:])
        gathered[ctx.mine] = rows
        dist.all_reduce(gathered)
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.clone()
        dist.all_reduce(total)
        return total[ctx.mine], None, None
