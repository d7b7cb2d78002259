"""The one training loop: learning rate, checkpoints, exact resume, history.

Both methods (MoCo, Giga-SSL) run through it. All randomness of a step is keyed by (seed, epoch, step) by the
caller, so a run continued from a checkpoint takes the same steps as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from gigacli.errors import Diverged
from gigacli.nn.checkpoint import History, State, Sums, epoch_of, restore, to_bytes
from gigacli.nn.distributed import ALONE, Processes
from gigacli.nn.health import SETTLED, Health, health_of, training_warning
from gigacli.progress import Progress

B = TypeVar("B")
__all__ = ["History", "Schedule", "Step", "Training", "epoch_of", "run"]

CHECKPOINT_SECONDS = 20.0  # a checkpoint is written, after a step or an epoch, when the last one is this old

CHECKPOINT_SHARE = 0.05
"""Largest share of the time that checkpoints may take: where writing is slow they are farther apart."""

WARM_STEPS, PRICED_STEPS = 3, 10  # steps that a training takes to warm up, and those after them that say its price
LEAST_PRICE = 10.0  # seconds; a training that takes less is over before its price is read


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine to 0 (Loshchilov and Hutter 2017), per step."""

    peak: float  # learning rate at the end of the warm-up
    warmup: int  # steps of warm-up
    total: int  # steps in all

    def __call__(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.total - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Step:
    """The result of one batch: its loss and the figures that describe it."""

    loss: Tensor  # scalar, of the batch of all processes
    chance: float  # loss where nothing has been learnt
    examples: int  # slides or tiles in the batch of all processes
    # (2n, c) vectors of this process's first views, then of their second views; the health is read from them
    vectors: Tensor | None = None
    # further scalars of the batch of all processes by name, the same names in every step; an epoch keeps their means.
    # One named loss is what is said in place of the loss that is minimised
    figures: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Training(Generic[B]):
    """A training: the network, its data, and what receives the results."""

    module: nn.Module  # everything with parameters or buffers; its state is what a checkpoint keeps
    optimizer: torch.optim.Optimizer  # optimizer of ``module``'s parameters
    schedule: Schedule  # learning rate of every step
    epochs: int  # passes over the data
    # ``batches(epoch, step)`` yields the batches of an epoch from a step on. It runs in a thread of its own, one
    # batch ahead
    batches: Callable[[int, int], Iterable[B]]
    step: Callable[[B], Step]  # computes the loss of a batch
    # receives a checkpoint (a safetensors file of constant size) and the history so far
    save: Callable[[bytes, History], None]
    precision: str = "fp32"  # ``bf16`` (autocast around ``step``) or ``fp32``
    # measurements after every epoch, by name; every process measures
    scores: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    # receives every epoch's number and figures by name
    record: Callable[[int, Mapping[str, float]], None] | None = None
    processes: Processes = ALONE  # the processes that train together; only the first one saves and records


def run(training: Training[Any], progress: Progress, *, checkpoint: bytes | None) -> History:
    """Train to the end, from a checkpoint if there is one.

    Returns:
        History: one value per epoch under "loss" and "chance" (means over the steps), "lr" and "gradient_norm" (of the
        last step), "per_second" (examples) and "waiting" (share of the time spent waiting for data); where the steps
        give vectors also "alignment", "uniformity" and "rank" (of the last batch, :class:`~gigacli.nn.health.Health`);
        the figures of the steps and the scores under their names.

    Raises:
        Diverged: The loss is no longer a number.
    """
    state = restore(training.module, training.optimizer, checkpoint) if checkpoint else State({}, Sums())
    progress.start("training", training.epochs, done=state.epoch)
    training.module.train()
    with ThreadPoolExecutor(1) as thread:
        _epochs(training, _Prefetch(_batches(training, state), thread), state, progress)
    return state.history


def _batches(training: Training[B], state: State) -> Iterator[B]:
    """The remaining batches: the rest of the epoch that the state is in, then every later epoch."""
    first, start = state.epoch, state.sums.steps  # read now: training moves the state on meanwhile
    for epoch in range(first, training.epochs):
        yield from training.batches(epoch, start if epoch == first else 0)


class _Saver:
    """Writes checkpoints, and says when the next one is due."""

    def __init__(self, training: Training[Any]) -> None:
        self._training, self._saved, self._took = training, time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved > CHECKPOINT_SECONDS + self._took / CHECKPOINT_SHARE

    def __call__(self, state: State) -> None:
        """Write a checkpoint, if this is the process that writes."""
        began = time.monotonic()
        if self._training.processes.first:
            self._training.save(
                to_bytes(self._training.module, self._training.optimizer, state, epochs=self._training.epochs),
                state.history,
            )
        self._saved = time.monotonic()
        self._took = self._saved - began


class _Price:
    """Says once, after the first steps of a run, what the rest of it will take."""

    def __init__(self, training: Training[Any], progress: Progress) -> None:
        self._total, self._progress = training.schedule.total, progress
        self._taken, self._began = 0, 0.0

    def step(self, number: int, loss: Tensor) -> None:
        """Hear that step `number` was taken."""
        self._taken += 1
        if self._taken not in (WARM_STEPS, WARM_STEPS + PRICED_STEPS):
            return
        loss.item()  # a GPU has then finished what it was given
        each, self._began = (time.monotonic() - self._began) / PRICED_STEPS, time.monotonic()
        left = self._total - number - 1
        if self._taken > WARM_STEPS and left * each > LEAST_PRICE:
            self._progress.say(f"{left:,} steps to go at {1000 * each:,.0f} ms each: about {_duration(left * each)}")


def _duration(seconds: float) -> str:
    """In words, to one or two digits."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _epochs(training: Training[Any], data: _Prefetch[Any], state: State, progress: Progress) -> None:
    """Train from where the state is to the end."""
    warnings = _Warnings(progress, training.epochs)
    save, price = _Saver(training), _Price(training, progress)
    history, rising = state.history, training.schedule.warmup / training.schedule.total
    for epoch in range(state.epoch, training.epochs):
        figures = _epoch(training, data, state, save, progress, price)
        for name in dict.fromkeys([*history, *figures]):  # a score may have been asked for by another run only
            history.setdefault(name, [math.nan] * epoch).append(figures.get(name, math.nan))
        if training.record and training.processes.first:
            training.record(epoch, figures)
        failing = training_warning(history, epochs=training.epochs, warmup=rising)
        warnings.hear(failing, epoch + 1, _note(figures))
        progress.advance(note=_note(figures))
        if epoch + 1 == training.epochs or save.due:
            save(state)


def _epoch(
    training: Training[Any],
    data: _Prefetch[Any],
    state: State,
    save: _Saver,
    progress: Progress,
    price: _Price,
) -> dict[str, float]:
    """Train one epoch, or what is left of it after a checkpoint inside it; its figures."""
    steps, epoch, sums = training.schedule.total // training.epochs, state.epoch, state.sums
    rate, vectors = math.nan, None
    # The last epoch's figures: to know this epoch's loss before its end, the processor would have to wait for a GPU.
    before = f"{_note({k: v[-1] for k, v in state.history.items()})}; " if epoch else ""
    # Clocks go on where the checkpoint stopped them: an interrupted epoch has the speed of all its steps.
    began, data.waited = time.monotonic() - sums.seconds, sums.waited
    # `data` is one stream over all epochs. `range` stands first, so that `zip` ends an epoch before it takes a batch.
    for number, batch in zip(range(epoch * steps + sums.steps, (epoch + 1) * steps), data, strict=False):
        rate = training.schedule(number)
        step = _step(training, batch, rate)
        sums.add(step.examples, step.chance, {"loss": step.loss, **step.figures})
        vectors = step.vectors
        price.step(number, step.loss)
        sums.seconds, sums.waited = time.monotonic() - began, data.waited
        progress.advance(0, note=f"{before}step {sums.steps} of {steps}")
        if sums.steps < steps and save.due:
            _check_finite(float(sums.figures["loss"]), epoch)
            # A checkpoint has one size, so the first one already holds every name an epoch will add to the history.
            for name in _names(training, step):
                state.history.setdefault(name, [math.nan] * epoch)
            save(state)
    figures = {name: float(value) / sums.steps for name, value in sums.figures.items()}
    _check_finite(figures["loss"], epoch)
    sums.seconds = time.monotonic() - began  # again: reading the sums has made a GPU finish
    figures |= {"chance": sums.chance / sums.steps, "lr": rate, "gradient_norm": _gradient_norm(training)}
    if vectors is not None:
        figures |= asdict(health_of(training.processes.gather_views(vectors.detach())))
    seconds = max(sums.seconds, 1e-9)
    figures |= {"per_second": sums.examples / seconds, "waiting": sums.waited / seconds}
    # Zeros instead of nothing, for the same reason: a checkpoint has one size.
    state.sums = Sums(figures={name: torch.zeros_like(value) for name, value in sums.figures.items()})
    return figures | {name: score() for name, score in training.scores.items()}


def _step(training: Training[B], batch: B, rate: float) -> Step:
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    device = next(training.module.parameters()).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=training.precision == "bf16"):
        step = training.step(batch)
    training.optimizer.zero_grad(set_to_none=True)
    step.loss.backward()  # type: ignore[no-untyped-call]
    training.processes.average_gradients(training.module.parameters())
    training.optimizer.step()
    return step


def _names(training: Training[Any], step: Step) -> list[str]:
    """Names of the figures that an epoch of such steps has."""
    health = [f.name for f in fields(Health)] if step.vectors is not None else []
    always = ("loss", "chance", "lr", "gradient_norm", "per_second", "waiting")
    return [*always, *health, *step.figures, *training.scores]


def _check_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} in epoch {epoch + 1}",
            "train again with `redo=True` and a smaller `lr`, for example a third of it",
        )


class _Prefetch(Generic[B]):
    """An iterator over batches, each made in another thread while the one before is in use."""

    def __init__(self, batches: Iterable[B], thread: ThreadPoolExecutor) -> None:
        self.waited, self._thread = 0.0, thread  # seconds that were spent waiting for batches
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
    note += f", rank {figures['rank']:.0f}" if "rank" in figures else ""
    return note + (f", kNN {figures['knn']:.2f}" if "knn" in figures else "")


class _Warnings:
    """Says that a training fails, and that it does not any more, without saying either in every epoch."""

    def __init__(self, progress: Progress, epochs: int) -> None:
        self._progress, self._epochs = progress, epochs
        self._said: dict[str, None] = {}  # the words before the colon of a warning
        self._well = 0

    def hear(self, warning: str, epoch: int, note: str) -> None:
        """Take the warning of an epoch, "" where there is none.

        What was said is taken back when nothing was wrong for a tenth of the training, or at its end.
        """
        kind = warning.partition(":")[0]
        self._well = 0 if kind else self._well + 1
        if kind and kind not in self._said:
            self._said[kind] = None
            self._progress.say(f"warning: {warning}")
        elif self._said and self._well and (self._well >= SETTLED * self._epochs or epoch == self._epochs):
            self._progress.say(f"no longer so in epoch {epoch}: {', '.join(self._said)}; now {note}")
            self._said.clear()
