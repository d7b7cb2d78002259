"""The one training loop: learning rate, checkpoints, exact resume, history.

Both methods (MoCo, Giga-SSL) run through it. All randomness of an epoch is keyed by (seed, epoch) by the
caller, so a run continued from a checkpoint takes the same steps as one that was never interrupted.
"""

from __future__ import annotations

import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from gigacli.errors import Diverged, Mismatch
from gigacli.nn.distributed import ALONE, Processes
from gigacli.nn.health import complaint, health_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from gigacli.progress import Progress

B = TypeVar("B")
History = dict[str, list[float]]

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


@dataclass(frozen=True)
class Step:
    """What one batch gives.

    Attributes:
        loss: Scalar, of the whole batch.
        chance: Loss where nothing has been learnt.
        examples: Slides or tiles in the whole batch.
        vectors: This process's first views (n, c) followed by their second views: what the health is read from.
    """

    loss: Tensor
    chance: float
    examples: int
    vectors: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Training(Generic[B]):
    """What to train, and with which data.

    Attributes:
        module: Everything with parameters or buffers; its state is what a checkpoint keeps.
        optimizer: Steps over ``module``'s parameters.
        schedule: Learning rate of every step.
        epochs: Passes.
        batches: ``batches(epoch)`` yields the batches of an epoch. It runs in a thread of its own, one batch ahead.
        step: The loss of a batch, and what is said of it.
        save: Receives a checkpoint (a safetensors file of constant size) and the history so far.
        save_best: Receives the state of ``module`` after the epoch with the lowest loss; before the checkpoint.
        record: Receives every epoch's figures by name, for whoever watches.
        processes: Those that train together; only the first one saves and records.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    epochs: int
    batches: Callable[[int], Iterable[B]]
    step: Callable[[B], Step]
    save: Callable[[bytes, History], None]
    save_best: Callable[[Mapping[str, Tensor]], None] | None = None
    record: Callable[[int, Mapping[str, float]], None] | None = None
    processes: Processes = ALONE


def run(training: Training[Any], progress: Progress, *, checkpoint: bytes | None) -> History:
    """Train to the end, from a checkpoint if there is one.

    Returns:
        History: one value per epoch under "loss" and "chance" (means over the steps), "lr" and "gradient_norm" (of the
        last step), "per_second" (examples) and "waiting" (share of the time spent waiting for data); where the steps
        give vectors also "alignment", "uniformity" and "rank" (of the last batch, :class:`~gigacli.nn.health.Health`).

    Raises:
        Diverged: The loss is no longer a number.
    """
    history: History = {}
    start = _restore(training, history, checkpoint) if checkpoint else 0
    progress.start("training", training.epochs, done=start)
    training.module.train()
    batches = itertools.chain.from_iterable(training.batches(epoch) for epoch in range(start, training.epochs))
    with ThreadPoolExecutor(1) as thread:
        _epochs(training, _Ahead(batches, thread), history, progress)
    return history


def _epochs(training: Training[Any], data: _Ahead[Any], history: History, progress: Progress) -> None:
    """Train from the epoch after those in the history to the end."""
    best: dict[str, Tensor] | None = None
    complained, saved = "", time.monotonic()
    for epoch in range(len(history.get("loss", [])), training.epochs):
        figures = _epoch(training, data, epoch)
        lowest = figures["loss"] < min(history.get("loss", []), default=math.inf)
        if lowest and training.save_best and training.processes.first:
            best = {k: v.detach().clone() for k, v in training.module.state_dict().items()}
        for name, value in figures.items():
            history.setdefault(name, []).append(value)
        if training.record and training.processes.first:
            training.record(epoch, figures)
        complained = _say(progress, complaint(history, epochs=training.epochs), complained)
        progress.advance(note=_note(figures))
        if epoch + 1 == training.epochs or time.monotonic() - saved > CHECKPOINT_SECONDS:
            if training.processes.first:
                if training.save_best and best is not None:
                    training.save_best(best)
                training.save(_checkpoint(training, history), history)
            best, saved = None, time.monotonic()


def _epoch(training: Training[Any], data: _Ahead[Any], epoch: int) -> dict[str, float]:
    """One pass; its figures."""
    steps = training.schedule.total // training.epochs
    losses, chance, examples, rate, vectors = [], 0.0, 0, math.nan, None
    began, data.waited = time.monotonic(), 0.0
    for number, batch in zip(range(epoch * steps, (epoch + 1) * steps), data, strict=False):
        rate = training.schedule(number)
        for group in training.optimizer.param_groups:
            group["lr"] = rate
        step = training.step(batch)
        training.optimizer.zero_grad(set_to_none=True)
        step.loss.backward()  # type: ignore[no-untyped-call]
        training.processes.average_gradients(training.module.parameters())
        training.optimizer.step()
        losses.append(step.loss.detach())
        chance, examples, vectors = chance + step.chance / steps, examples + step.examples, step.vectors
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise Diverged(
            f"the loss is {mean} in epoch {epoch + 1}",
            "train again with --redo and a smaller --lr, for example a third of it",
        )
    seconds = max(time.monotonic() - began, 1e-9)
    figures = {"loss": mean, "chance": chance, "lr": rate, "gradient_norm": _gradient_norm(training)}
    if vectors is not None:
        figures |= asdict(health_of(training.processes.gather_views(vectors.detach())))
    return figures | {"per_second": examples / seconds, "waiting": data.waited / seconds}


class _Ahead(Generic[B]):
    """The same batches, each made in another thread while the one before is in use.

    Attributes:
        waited: Seconds that were spent waiting for batches.
    """

    def __init__(self, batches: Iterable[B], thread: ThreadPoolExecutor) -> None:
        self.waited, self._thread = 0.0, thread
        self._made, self._end = iter(batches), object()
        self._coming = self._thread.submit(next, self._made, self._end)

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        asked = time.monotonic()
        batch = self._coming.result()
        self.waited += time.monotonic() - asked
        if batch is self._end:
            raise StopIteration
        self._coming = self._thread.submit(next, self._made, self._end)
        return batch  # type: ignore[return-value]


def _gradient_norm(training: Training[Any]) -> float:
    """Euclidean norm of the gradient of the last step."""
    norms = [p.grad.norm() for p in training.module.parameters() if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def _note(figures: Mapping[str, float]) -> str:
    note = f"loss {figures['loss']:.4f} (chance {figures['chance']:.2f})"
    return note + (f", rank {figures['rank']:.0f}" if "rank" in figures else "")


def _say(progress: Progress, words: str, before: str) -> str:
    """Complain once, not every epoch; what kind of complaint stands."""
    kind = words.partition(":")[0]
    if kind and kind != before:
        progress.say(f"warning: {words}")
    return kind


def _checkpoint(training: Training[Any], history: History) -> bytes:
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


def _restore(training: Training[Any], history: History, checkpoint: bytes) -> int:
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
        if name.startswith("history."):
            history[name.removeprefix("history.")] = value[:epoch].tolist()
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": states})
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
