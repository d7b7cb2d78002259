"""The one training loop: learning rate, checkpoint, exact resume, history.

Both methods (MoCo, Giga-SSL) run through it. All randomness of an epoch is keyed by (seed, epoch) by the
caller, so a run continued from a checkpoint takes the same steps as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from gigacli.errors import Diverged, Mismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gigacli.progress import Progress

CHECKPOINT_SECONDS = 20.0
"""A checkpoint is written at the end of the first epoch that ends this long after the last one."""


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine to 0 (Loshchilov and Hutter 2017), per step.

    Attributes:
        peak: Learning rate at the end of the warm-up.
        warmup: Steps of warm-up.
        total: Steps in all.
    """

    peak: float
    warmup: int
    total: int

    def __call__(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.total - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class Training:
    """What to train, and with which data.

    Attributes:
        module: Everything with parameters or buffers; its state is what a checkpoint keeps.
        optimizer: Steps over ``module``'s parameters.
        schedule: Learning rate of every step.
        epochs: Passes.
        steps: ``steps(epoch)`` yields one scalar loss per step, built from data keyed by the epoch.
        save: Receives a checkpoint (a safetensors file of constant size) to keep.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    epochs: int
    steps: Callable[[int], Iterable[Tensor]]
    save: Callable[[bytes], None]


def run(training: Training, progress: Progress, *, checkpoint: bytes | None) -> dict[str, list[float]]:
    """Train to the end, from a checkpoint if there is one.

    Returns:
        History: one value per epoch under "loss" (mean over its steps) and "lr" (of its last step).

    Raises:
        Diverged: The loss is no longer a number.
    """
    history: dict[str, list[float]] = {"loss": [], "lr": []}
    start = _restore(training, history, checkpoint) if checkpoint else 0
    step = start * (training.schedule.total // training.epochs)
    progress.start("training", training.epochs, done=start)
    training.module.train()
    saved = time.monotonic()
    for epoch in range(start, training.epochs):
        losses = []
        rate = training.schedule(step)
        for loss in training.steps(epoch):
            rate = training.schedule(step)
            for group in training.optimizer.param_groups:
                group["lr"] = rate
            training.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            training.optimizer.step()
            losses.append(loss.detach())
            step += 1
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise Diverged(
                f"the loss is {mean} in epoch {epoch + 1}",
                "train again with --redo and a smaller --lr, for example a third of it",
            )
        history["loss"].append(mean)
        history["lr"].append(rate)
        progress.advance(note=f"loss {mean:.4f}")
        if epoch + 1 == training.epochs or time.monotonic() - saved > CHECKPOINT_SECONDS:
            training.save(_checkpoint(training, history))
            saved = time.monotonic()
    return history


def _checkpoint(training: Training, history: dict[str, list[float]]) -> bytes:
    """The whole state as a safetensors file, of one size for all epochs so that it replaces its predecessor."""
    tensors = {f"module.{k}": v for k, v in training.module.state_dict().items()}
    for i, state in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    for name, values in history.items():
        padded = torch.full((training.epochs,), math.nan, dtype=torch.float64)
        padded[: len(values)] = torch.tensor(values, dtype=torch.float64)
        tensors[f"history.{name}"] = padded
    tensors["epoch"] = torch.tensor(len(history["loss"]))
    return save_safetensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()})


def _restore(training: Training, history: dict[str, list[float]], checkpoint: bytes) -> int:
    """Put a checkpoint's state in place; the number of epochs it had finished."""
    tensors, epoch = _load(checkpoint)
    module = {k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")}
    try:
        training.module.load_state_dict(module)
    except RuntimeError as error:
        raise Mismatch(f"the checkpoint does not fit: {error}", "start again with --redo") from error
    states: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = value
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": states})
    for name, values in history.items():
        values.extend(tensors[f"history.{name}"][:epoch].tolist())
    return epoch


def epoch_of(checkpoint: bytes | None) -> int:
    """Epochs a checkpoint had finished; 0 without one."""
    return _load(checkpoint)[1] if checkpoint else 0


def _load(checkpoint: bytes) -> tuple[dict[str, Tensor], int]:
    try:
        tensors = load_safetensors(checkpoint)
        return tensors, int(tensors["epoch"])
    except (SafetensorError, KeyError) as error:
        raise Mismatch(f"the checkpoint cannot be read: {error!r}", "start again with --redo") from error
